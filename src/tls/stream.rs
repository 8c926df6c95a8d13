//! A connection of a listener: plain, or TLS whose handshake goes on as it is read or written.
//!
//! Nothing is done until somebody polls, so that a slow handshake holds up its own connection and
//! not those who come after it; its deadline is whoever's that polls. One that fails is told to
//! the peer, and what it goes on sending is read away for a while: a connection that is closed on
//! unread bytes is reset, and a reset takes the alert with it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::{FallibleAccept, TlsStream};

use crate::domain::peer::Access;

use super::identity::proven;
use super::{Seen, Shown};

/// What is read away after a handshake that failed.
const LEFT_BYTES_MAX: usize = 64 << 10;

/// A connection; see the module.
pub struct Stream(Io);

enum Io {
    Plain(TcpStream),
    // Boxed, so that a plain connection carries no room for it.
    Secured(Box<Secured>),
}

struct Secured {
    state: State,
    access: Arc<Access>,
    shown: Shown,
    /// Why the handshake failed, until somebody asks.
    failure: Option<io::Error>,
}

enum State {
    Shaking(FallibleAccept<TcpStream>),
    Open(TlsStream<TcpStream>),
    /// It failed: what comes is read away.
    Leaving(TcpStream, usize),
    Ended,
}

impl Stream {
    pub(super) fn plain(io: TcpStream) -> Self {
        Self(Io::Plain(io))
    }

    pub(super) fn secured(
        io: TcpStream,
        config: Arc<ServerConfig>,
        access: Arc<Access>,
        shown: Shown,
    ) -> Self {
        let accept = TlsAcceptor::from(config).accept(io).into_fallible();
        Self(Io::Secured(Box::new(Secured {
            state: State::Shaking(accept),
            access,
            shown,
            failure: None,
        })))
    }

    /// Whether the peer may be spoken with.
    #[inline]
    #[must_use]
    pub fn is_open(&self) -> bool {
        match &self.0 {
            Io::Plain(_) => true,
            Io::Secured(secured) => matches!(secured.state, State::Open(_)),
        }
    }

    /// Why the handshake failed, told once.
    pub fn failure(&mut self) -> Option<io::Error> {
        match &mut self.0 {
            Io::Plain(_) => None,
            Io::Secured(secured) => secured.failure.take(),
        }
    }

    /// The connection below.
    #[cfg(test)]
    pub(crate) fn socket(&self) -> Option<&TcpStream> {
        match &self.0 {
            Io::Plain(io) => Some(io),
            Io::Secured(_) => None,
        }
    }
}

impl Secured {
    /// The open stream, once the handshake is over.
    fn open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Pin<&mut TlsStream<TcpStream>>>> {
        if let State::Shaking(accept) = &mut self.state {
            match ready!(Pin::new(accept).poll(cx)) {
                Ok(stream) => self.opened(stream),
                Err((error, io)) => {
                    self.failure = Some(error);
                    self.state = State::Leaving(io, 0);
                }
            }
        }
        if let State::Leaving(io, left) = &mut self.state {
            ready!(leave(io, left, cx));
            self.state = State::Ended;
        }
        match &mut self.state {
            State::Open(stream) => Poll::Ready(Ok(Pin::new(stream))),
            _ => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
        }
    }

    fn opened(&mut self, stream: TlsStream<TcpStream>) {
        let (_, session) = stream.get_ref();
        let leaf = session.peer_certificates().and_then(<[_]>::first);
        // What the verifier could read, this reads too; if not, it has proven nothing.
        let peer = leaf.and_then(|leaf| proven(leaf)).map(Arc::new);
        let allowed = self.access.of(peer.as_deref());
        // Nobody else fills it.
        let _ = self.shown.set(Seen { peer, allowed });
        self.state = State::Open(stream);
    }
}

/// Says that nothing follows, and reads away what comes, up to the peer's own end.
fn leave(io: &mut TcpStream, left: &mut usize, cx: &mut Context<'_>) -> Poll<()> {
    if ready!(Pin::new(&mut *io).poll_shutdown(cx)).is_err() {
        return Poll::Ready(());
    }
    let mut room = [0; 1024];
    while *left < LEFT_BYTES_MAX {
        let mut buf = ReadBuf::new(&mut room);
        match ready!(Pin::new(&mut *io).poll_read(cx, &mut buf)) {
            Ok(()) if !buf.filled().is_empty() => *left += buf.filled().len(),
            _ => break,
        }
    }
    Poll::Ready(())
}

impl AsyncRead for Stream {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Io::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Io::Secured(secured) => ready!(secured.open(cx))?.poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    #[inline]
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Io::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Io::Secured(secured) => ready!(secured.open(cx))?.poll_write(cx, buf),
        }
    }

    #[inline]
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Io::Plain(io) => Pin::new(io).poll_flush(cx),
            Io::Secured(secured) => match &mut secured.state {
                State::Open(stream) => Pin::new(stream).poll_flush(cx),
                // Nothing was taken that could be flushed.
                _ => Poll::Ready(Ok(())),
            },
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Io::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Io::Secured(secured) => match &mut secured.state {
                State::Open(stream) => Pin::new(stream).poll_shutdown(cx),
                State::Leaving(io, _) => Pin::new(io).poll_shutdown(cx),
                State::Shaking(_) | State::Ended => Poll::Ready(Ok(())),
            },
        }
    }

    #[inline]
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Io::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Io::Secured(secured) => ready!(secured.open(cx))?.poll_write_vectored(cx, bufs),
        }
    }

    #[inline]
    fn is_write_vectored(&self) -> bool {
        match &self.0 {
            Io::Plain(io) => io.is_write_vectored(),
            // TLS gathers what it is given into its records.
            Io::Secured(_) => true,
        }
    }
}
