//! The connections of an open port: how many, from whom, and for how long without a word.
//!
//! Used by `server` as the stream of connections that tonic serves. hyper closes no connection
//! that is silent before its preface, nor one that takes nothing of what it is sent, and accepts
//! as many as come; these limits are here. A place is given back when the connection is dropped.
//! Accepting never ends by an error. Absent on purpose: waiting for a place; a caller behind a
//! balancer is better off elsewhere.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::stream::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tonic::transport::server::Connected;

use crate::tls::{Door, Shown, Stream as Io};

use super::auth::Peer;
use super::metrics::{Cut, Metrics, Refused};
use super::seats::{Seat, SeatLimits, Seats};

/// The preface and the head of the first frame (RFC 9113, section 3.4): whoever has sent so much
/// is under the watch of HTTP/2's own pings.
const HELLO_BYTES: usize = 24 + 9;

/// How long accepting rests when the process is out of descriptors or memory.
const REST: Duration = Duration::from_millis(50);

/// Limits of the listener.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnectionLimits {
    /// How many there may be.
    pub(super) seats: SeatLimits,
    /// Until the first bytes are there, the handshake of TLS included.
    pub(super) hello_time_max: Duration,
    /// For how long the peer may take nothing of what there is for it. hyper's pings find nobody
    /// gone who reads nothing: to end a connection it sends a last frame, and waits for that.
    pub(super) stall_time_max: Duration,
    /// Until a connection is cut whatever it does.
    pub(super) life_time_max: Duration,
}

/// The connections of a listener, as they come.
pub(super) struct Incoming {
    listener: TcpListener,
    door: Door,
    limits: ConnectionLimits,
    seats: Arc<Seats>,
    metrics: Metrics,
    rest: Option<Pin<Box<Sleep>>>,
}

impl Incoming {
    pub(super) fn new(
        listener: TcpListener,
        door: Door,
        limits: ConnectionLimits,
        metrics: Metrics,
    ) -> Self {
        Self {
            listener,
            door,
            limits,
            seats: Arc::default(),
            metrics,
            rest: None,
        }
    }

    fn admit(&self, io: TcpStream, address: IpAddr) -> Option<Connection> {
        let seat = match self.seats.take(address, self.limits.seats) {
            Ok(seat) => seat,
            Err(why) => {
                self.metrics.refused(why);
                return None;
            }
        };
        // Answers are small and whole: waiting to fill a packet only delays them.
        if let Err(error) = io.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        let (io, shown) = self.door.accept(io);
        Some(Connection {
            io,
            shown,
            received: 0,
            deadline: Box::pin(sleep(self.limits.hello_time_max)),
            cut_at: Instant::now() + self.limits.life_time_max,
            stall_time_max: self.limits.stall_time_max,
            stalled: None,
            seat,
            open: Open::new(self.metrics.clone()),
            given_up: false,
        })
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(rest) = &mut self.rest {
                ready!(rest.as_mut().poll(cx));
                self.rest = None;
            }
            match ready!(self.listener.poll_accept(cx)) {
                Ok((io, peer)) => {
                    if let Some(connection) = self.admit(io, peer.ip().to_canonical()) {
                        return Poll::Ready(Some(Ok(connection)));
                    }
                }
                Err(error) if is_of_the_peer(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections");
                    self.rest = Some(Box::pin(sleep(REST)));
                }
            }
        }
    }
}

/// The peer was gone before it was accepted: nothing of ours is short.
fn is_of_the_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

/// A connection that is counted as open.
struct Open(Metrics);

impl Open {
    fn new(metrics: Metrics) -> Self {
        metrics.opened();
        Self(metrics)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.closed();
    }
}

/// An accepted connection under its deadlines.
pub(super) struct Connection {
    io: Io,
    // Who the peer is, once TLS has shown it.
    shown: Option<Shown>,
    // Counted only until the hello is whole.
    received: usize,
    deadline: Pin<Box<Sleep>>,
    cut_at: Instant,
    stall_time_max: Duration,
    // The deadline of one that takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
    seat: Seat,
    open: Open,
    // Counted as refused or cut.
    given_up: bool,
}

impl Connection {
    fn heard(&mut self, bytes: usize) {
        if self.received < HELLO_BYTES {
            self.received += bytes;
            if self.received >= HELLO_BYTES {
                self.deadline.set(sleep_until(self.cut_at));
            }
        }
    }

    /// For whoever has to wait: until the deadline.
    fn waits<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        ready!(self.deadline.as_mut().poll(cx));
        if self.received < HELLO_BYTES {
            self.turn_away(Refused::Silent);
        } else {
            self.cut(Cut::Age);
        }
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// What became of a write, or of its wait.
    #[inline]
    fn wrote<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_pending() {
            return self.stalls(cx);
        }
        if self.stalled.is_some() {
            self.stalled = None;
        }
        written
    }

    /// For whoever waits until the peer takes something: nobody reads meanwhile.
    #[cold]
    fn stalls<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let end = (Instant::now() + self.stall_time_max).min(self.cut_at);
        let deadline = self
            .stalled
            .get_or_insert_with(|| Box::pin(sleep_until(end)));
        ready!(deadline.as_mut().poll(cx));
        let is_over = deadline.deadline() >= self.cut_at;
        self.cut(if is_over { Cut::Age } else { Cut::Stalled });
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Counts a handshake that has failed.
    #[cold]
    fn shakes(&mut self) {
        if let Some(error) = self.io.failure() {
            let peer = self.seat.address();
            tracing::debug!(%peer, %error, "a TLS handshake failed");
            self.turn_away(Refused::Handshake);
        }
    }

    fn turn_away(&mut self, why: Refused) {
        if !std::mem::replace(&mut self.given_up, true) {
            self.open.0.refused(why);
        }
    }

    #[cold]
    fn cut(&mut self, why: Cut) {
        if !std::mem::replace(&mut self.given_up, true) {
            tracing::debug!(peer = %self.seat.address(), ?why, "a connection is cut");
            self.open.0.cut(why);
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        Peer::new(self.seat.address(), self.shown.clone())
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if !self.io.is_open() {
            self.shakes();
        }
        if let Poll::Ready(read) = read {
            self.heard(buf.filled().len() - before);
            return Poll::Ready(read);
        }
        // Only who waits looks at the clock.
        self.waits(cx)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.io).poll_write(cx, buf) {
            written if self.io.is_open() => self.wrote(cx, written),
            // The server speaks first: until the handshake is over nobody reads.
            written => {
                self.shakes();
                match written {
                    Poll::Pending => self.waits(cx),
                    written => written,
                }
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.wrote(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.io).poll_shutdown(cx);
        self.wrote(cx, shut)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.io.is_open() {
            let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
            return self.wrote(cx, written);
        }
        // The first that is not empty: what an unshaken stream is asked for is small.
        let first = bufs.iter().find(|buf| !buf.is_empty());
        self.poll_write(cx, first.map_or(&[], |buf| &**buf))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const LIMITS: ConnectionLimits = ConnectionLimits {
        seats: SeatLimits {
            total_max: 3,
            per_peer_max: 2,
        },
        hello_time_max: Duration::from_secs(5),
        stall_time_max: Duration::from_secs(5),
        life_time_max: Duration::from_secs(3_600),
    };

    async fn connected(limits: ConnectionLimits) -> (TcpStream, Connection) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut incoming = Incoming::new(listener, Door::plain(), limits, Metrics::default());
        let (client, connection) = tokio::join!(TcpStream::connect(address), incoming.next());
        (client.unwrap(), connection.unwrap().unwrap())
    }

    #[tokio::test]
    async fn a_silent_connection_is_timed_out() {
        let limits = ConnectionLimits {
            hello_time_max: Duration::from_millis(20),
            ..LIMITS
        };
        let (mut client, mut connection) = connected(limits).await;
        let mut buf = [0; 64];
        let error = connection.read(&mut buf).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(connection);
        assert_eq!(client.read(&mut buf).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn half_a_hello_is_as_good_as_none() {
        let limits = ConnectionLimits {
            hello_time_max: Duration::from_millis(50),
            ..LIMITS
        };
        let (mut client, mut connection) = connected(limits).await;
        client.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
        let mut buf = [0; 64];
        assert_eq!(connection.read(&mut buf).await.unwrap(), 16);
        let error = connection.read(&mut buf).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn who_has_said_hello_may_be_silent_until_its_life_ends() {
        let limits = ConnectionLimits {
            hello_time_max: Duration::ZERO,
            life_time_max: Duration::from_millis(200),
            ..LIMITS
        };
        let (mut client, mut connection) = connected(limits).await;
        client.write_all(&[0; HELLO_BYTES]).await.unwrap();
        let mut buf = [0; 64];
        // Readable, so that the read finds the bytes and not the deadline that has passed.
        let socket = connection.io.socket().unwrap();
        socket.readable().await.unwrap();
        assert_eq!(connection.read(&mut buf).await.unwrap(), HELLO_BYTES);
        let begun = Instant::now();
        let error = connection.read(&mut buf).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() > Duration::from_millis(50));
        assert_eq!(connection.open.0.cuts(), [0, 1]);
        // It is one, however often it is tried.
        assert!(connection.read(&mut buf).await.is_err());
        assert_eq!(connection.open.0.cuts(), [0, 1]);
    }

    /// More than the kernel keeps for a peer that reads nothing.
    const MUCH: &[u8] = &[0; 64 << 20];

    #[tokio::test]
    async fn who_takes_nothing_is_timed_out() {
        let limits = ConnectionLimits {
            stall_time_max: Duration::from_millis(20),
            ..LIMITS
        };
        let (_client, mut connection) = connected(limits).await;
        let error = connection.write_all(MUCH).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(connection.open.0.cuts(), [1, 0]);
    }

    #[tokio::test]
    async fn who_takes_nothing_until_its_life_ends_is_cut_for_its_age() {
        let limits = ConnectionLimits {
            life_time_max: Duration::from_millis(20),
            ..LIMITS
        };
        let (_client, mut connection) = connected(limits).await;
        assert!(connection.write_all(MUCH).await.is_err());
        assert_eq!(connection.open.0.cuts(), [0, 1]);
    }

    #[tokio::test]
    async fn who_takes_something_has_its_time_anew() {
        let (mut client, mut connection) = connected(LIMITS).await;
        while futures_util::poll!(Box::pin(connection.write(MUCH))).is_ready() {}
        assert!(connection.stalled.is_some());
        let mut taken = vec![0; 1 << 20];
        let reads = async { while client.read(&mut taken).await.unwrap() > 0 {} };
        tokio::select! {
            written = connection.write(MUCH) => assert!(written.is_ok()),
            () = reads => panic!("it was closed"),
        }
        assert!(connection.stalled.is_none());
    }

    #[tokio::test]
    async fn more_connections_than_places_are_closed_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut incoming = Incoming::new(listener, Door::plain(), LIMITS, Metrics::default());
        let mut held = Vec::new();
        for _ in 0..LIMITS.seats.per_peer_max {
            let (client, connection) = tokio::join!(TcpStream::connect(address), incoming.next());
            held.push((client.unwrap(), connection.unwrap().unwrap()));
        }
        let refused = async {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.read(&mut [0; 1]).await.unwrap_or(0)
        };
        tokio::select! {
            read = refused => assert_eq!(read, 0),
            _ = incoming.next() => panic!("a connection too many was accepted"),
        }
        held.pop();
        let (client, connection) = tokio::join!(TcpStream::connect(address), incoming.next());
        assert!(client.is_ok() && connection.is_some());
    }
}
