//! The admin port: `/metrics`, `/healthz` and `/readyz` over HTTP, with or without TLS.
//!
//! Used by `cli`, which binds it to loopback unless told otherwise: it asks nobody who they are.
//! Metrics are OpenMetrics text; `/readyz?service=NAME` says what `grpc.health.v1` says of a service.
//! Connections are few, by peer too, and have deadlines, so that whoever reaches the port can
//! neither take the process's descriptors nor keep a kubelet's probes out: where there is no seat,
//! the one that rests longest gives way. axum has none of this.
//! Absent on purpose: anything that changes something, and settings for limits that no scraper meets.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::Listener;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::authority::Authority;
use crate::tls::Stream;
use crate::{routes, seal, tls};

use super::health::serves;
use super::metrics::{Metrics, Refused};
use super::seats::{Seat, SeatLimits, Seats, network_of};
use super::server::Listening;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Some scrapers and probes, and a person.
const LIMITS: AdminLimits = AdminLimits {
    seats: SeatLimits {
        total_max: 64,
        per_peer_max: 16,
    },
    request_time_max: Duration::from_secs(5),
    rest_time_max: Duration::from_secs(30),
};

/// What the port bears.
#[derive(Clone, Copy, Debug)]
struct AdminLimits {
    /// Connections at a time; more are closed at once.
    seats: SeatLimits,
    /// From the first byte of a request, or from the connection itself, to the whole request.
    request_time_max: Duration,
    /// From the beginning of an answer to the next request.
    rest_time_max: Duration,
}

#[derive(Clone)]
struct Admin {
    authority: Authority,
    registry: Arc<Registry>,
    leaving: CancellationToken,
}

/// What is read again while the server runs, to be told of.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// The route table.
    pub routes: Arc<routes::Live>,
    /// The seal keys.
    pub seals: Arc<seal::Live>,
    /// The certificates, where TLS is spoken.
    pub tls: Option<Arc<tls::Live>>,
}

/// Serves the admin port until `shutdown`; from `leaving` on nothing is ready.
///
/// # Errors
/// What the listener fails with.
pub async fn serve_admin(
    authority: Authority,
    metrics: Metrics,
    files: Files,
    listener: Listening,
    leaving: CancellationToken,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let admin = Admin {
        registry: Arc::new(metrics.registry(authority.clone(), files)),
        authority,
        leaving,
    };
    let router = Router::new()
        .route("/metrics", get(metrics_text))
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(readiness))
        .with_state(admin);
    axum::serve(Places::new(listener, LIMITS), router)
        .with_graceful_shutdown(shutdown)
        .await
}

async fn metrics_text(State(admin): State<Admin>) -> Response {
    match shown(&admin.registry) {
        Some(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn shown(registry: &Registry) -> Option<String> {
    let mut text = String::new();
    encode(&mut text, registry).ok().map(|()| text)
}

/// Reads all metrics as `/metrics` shows them; none where they cannot be written.
pub fn metrics_reader(
    authority: Authority,
    metrics: &Metrics,
    files: Files,
) -> impl Fn() -> Option<String> + Send + Sync + 'static {
    let registry = metrics.registry(authority, files);
    move || shown(&registry)
}

async fn readiness(State(admin): State<Admin>, uri: Uri) -> (StatusCode, &'static str) {
    let asked = uri.query().unwrap_or_default().split('&');
    let service = asked
        .filter_map(|part| part.strip_prefix("service="))
        .next();
    match serves(&admin.authority, service.unwrap_or_default()) {
        None => (StatusCode::NOT_FOUND, "no such service\n"),
        Some(true) if !admin.leaving.is_cancelled() => (StatusCode::OK, "ready\n"),
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
    }
}

/// A listener that accepts only so many connections.
struct Places {
    listener: Listening,
    limits: AdminLimits,
    seats: Arc<Seats>,
    resting: Arc<Resting>,
}

/// A connection's seat, which it may have to give up.
struct Chair {
    peer: IpAddr,
    seat: Mutex<Option<Seat>>,
    gone: CancellationToken,
}

/// Connections between an answer and the next request, those that have been longest first. The
/// lock is held for a few instructions, never across an await.
#[derive(Default)]
struct Resting(Mutex<VecDeque<Arc<Chair>>>);

impl Resting {
    fn add(&self, chair: &Arc<Chair>) {
        self.lock().push_back(Arc::clone(chair));
    }

    fn remove(&self, chair: &Arc<Chair>) {
        self.lock().retain(|other| !Arc::ptr_eq(other, chair));
    }

    /// Frees the seat of the one that rests longest, of this peer or of any.
    fn give_way(&self, of: Option<IpAddr>) {
        let mut resting = self.lock();
        let found = resting
            .iter()
            .position(|chair| of.is_none_or(|peer| chair.peer == peer));
        if let Some(chair) = found.and_then(|at| resting.remove(at)) {
            let mut seat = chair.seat.lock().unwrap_or_else(PoisonError::into_inner);
            *seat = None;
            chair.gone.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Chair>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    fn new(listener: Listening, limits: AdminLimits) -> Self {
        Self {
            listener,
            limits,
            seats: Arc::default(),
            resting: Arc::default(),
        }
    }

    /// A seat for a connection from there. Who rests loses nothing by giving way: its client
    /// connects anew.
    fn seat(&self, address: IpAddr) -> Option<Chair> {
        let peer = network_of(address);
        let take = || self.seats.take(address, self.limits.seats);
        let seat = match take() {
            Ok(seat) => seat,
            Err(why) => {
                self.resting
                    .give_way((why == Refused::Peer).then_some(peer));
                take().ok()?
            }
        };
        Some(Chair {
            peer,
            seat: Mutex::new(Some(seat)),
            gone: CancellationToken::new(),
        })
    }
}

impl Listener for Places {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            let (io, peer) = Listener::accept(&mut self.listener.listener).await;
            // Without a seat the connection is dropped: to wait for one would be to hold it.
            let Some(chair) = self.seat(peer.ip().to_canonical()) else {
                tracing::debug!(%peer, "the admin port has no place left");
                continue;
            };
            let (io, _) = self.listener.door.accept(io);
            let connection = Connection {
                io,
                limits: self.limits,
                deadline: Box::pin(sleep(self.limits.request_time_max)),
                rests: false,
                gone: Box::pin(chair.gone.clone().cancelled_owned()),
                chair: Arc::new(chair),
                resting: Arc::clone(&self.resting),
            };
            return (connection, peer);
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.listener.local_addr()
    }
}

/// A connection under its deadline.
struct Connection {
    io: Stream,
    limits: AdminLimits,
    deadline: Pin<Box<Sleep>>,
    /// Between an answer's first byte and the next request's.
    rests: bool,
    /// Ready once it has to give way.
    gone: Pin<Box<WaitForCancellationFutureOwned>>,
    chair: Arc<Chair>,
    resting: Arc<Resting>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.resting.remove(&self.chair);
    }
}

impl Connection {
    /// A byte more does not move the deadline of a request, so it cannot be sent drop by drop.
    fn heard(&mut self) {
        if self.rests {
            self.rests = false;
            self.resting.remove(&self.chair);
            self.ends_in(self.limits.request_time_max);
        }
    }

    fn answers(&mut self) {
        if !self.rests {
            self.rests = true;
            self.resting.add(&self.chair);
            self.ends_in(self.limits.rest_time_max);
        }
    }

    fn ends_in(&mut self, time: Duration) {
        self.deadline.as_mut().reset(Instant::now() + time);
    }

    /// For whoever has to wait: until the deadline, or until it has to give way.
    fn waits<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if self.gone.as_mut().poll(cx).is_pending() {
            ready!(self.deadline.as_mut().poll(cx));
        }
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.io).poll_read(cx, buf) {
            Poll::Ready(read) => {
                self.heard();
                Poll::Ready(read)
            }
            Poll::Pending => self.waits(cx),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.answers();
        match Pin::new(&mut self.io).poll_write(cx, bytes) {
            Poll::Pending => self.waits(cx),
            written => written,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.io).poll_flush(cx) {
            Poll::Pending => self.waits(cx),
            flushed => flushed,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpSocket, TcpStream};
    use tokio::task::JoinHandle;
    use tokio::time::timeout;

    use super::*;

    const PATIENT: AdminLimits = AdminLimits {
        seats: SeatLimits {
            total_max: 3,
            per_peer_max: 2,
        },
        request_time_max: Duration::from_secs(600),
        rest_time_max: Duration::from_secs(600),
    };

    /// A port that answers `alive`; its task ends with the test's runtime.
    async fn port(limits: AdminLimits) -> (SocketAddr, JoinHandle<io::Result<()>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/healthz", get(|| async { "alive\n" }));
        let serving = axum::serve(Places::new(Listening::plainly(listener), limits), router);
        (address, tokio::spawn(serving.into_future()))
    }

    const REQUEST: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";

    async fn ask(client: &mut TcpStream) {
        client.write_all(REQUEST).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"alive\n") {
            let read = client.read_buf(&mut answer).await.unwrap();
            assert!(read > 0, "{}", String::from_utf8_lossy(&answer));
        }
    }

    async fn in_time<T>(work: impl Future<Output = T>) -> T {
        let done = timeout(Duration::from_secs(30), work).await;
        done.expect("the port cuts it")
    }

    /// Reads to the end, which a reset is, too.
    async fn is_closed(client: &mut TcpStream) {
        let mut rest = Vec::new();
        let _ = in_time(client.read_to_end(&mut rest)).await;
        assert!(!rest.starts_with(b"HTTP/1.1 200"), "it was answered");
    }

    #[tokio::test]
    async fn more_connections_of_a_peer_than_it_may_have_are_closed_and_others_have_theirs() {
        let (address, _port) = port(PATIENT).await;
        let mut held = Vec::new();
        for _ in 0..PATIENT.seats.per_peer_max {
            // They rest no more than one that has sent half of its request.
            held.push(TcpStream::connect(address).await.unwrap());
        }
        is_closed(&mut TcpStream::connect(address).await.unwrap()).await;
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        ask(&mut socket.connect(address).await.unwrap()).await;
        drop(held.pop());
        // The place is free once the server has seen the end of its connection.
        loop {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(REQUEST).await.unwrap();
            let mut first = [0; 12];
            if client.read_exact(&mut first).await.is_ok() {
                assert_eq!(&first, b"HTTP/1.1 200");
                break;
            }
        }
    }

    #[tokio::test]
    async fn who_rests_longest_gives_way_to_who_comes() {
        let (address, _port) = port(PATIENT).await;
        let connect = async || TcpStream::connect(address).await.unwrap();
        let (mut first, mut second) = (connect().await, connect().await);
        ask(&mut first).await;
        ask(&mut second).await;
        // It has rested less than the other now.
        ask(&mut first).await;
        ask(&mut connect().await).await;
        is_closed(&mut second).await;
        ask(&mut first).await;
    }

    #[tokio::test]
    async fn a_request_that_does_not_come_to_its_end_is_cut() {
        let limits = AdminLimits {
            request_time_max: Duration::from_millis(50),
            ..PATIENT
        };
        let (address, _port) = port(limits).await;
        is_closed(&mut TcpStream::connect(address).await.unwrap()).await;
        let mut half = TcpStream::connect(address).await.unwrap();
        half.write_all(&REQUEST[..10]).await.unwrap();
        is_closed(&mut half).await;
    }

    #[tokio::test]
    async fn bytes_do_not_move_the_deadline_of_their_request() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limits = AdminLimits {
            rest_time_max: 2 * PATIENT.request_time_max,
            ..PATIENT
        };
        let mut places = Places::new(Listening::plainly(listener), limits);
        let (client, accepted) =
            tokio::join!(TcpStream::connect(address), Listener::accept(&mut places));
        let (mut client, mut connection) = (client.unwrap(), accepted.0);
        let mut byte = [0; 1];
        let begun = connection.deadline.deadline();
        for _ in 0..3 {
            client.write_all(b"G").await.unwrap();
            connection.read_exact(&mut byte).await.unwrap();
            assert_eq!(connection.deadline.deadline(), begun);
        }
        connection.write_all(b"answer").await.unwrap();
        let rest = connection.deadline.deadline();
        assert!(rest > begun + PATIENT.request_time_max / 2);
        client.write_all(b"G").await.unwrap();
        connection.read_exact(&mut byte).await.unwrap();
        let next = connection.deadline.deadline();
        assert!(next < rest && next >= begun, "the next request has its own");
    }

    #[tokio::test]
    async fn who_rests_too_long_is_cut_and_who_asks_again_is_not() {
        let limits = AdminLimits {
            rest_time_max: Duration::from_millis(50),
            ..PATIENT
        };
        let (address, _port) = port(limits).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        ask(&mut client).await;
        is_closed(&mut client).await;
        let (address, _port) = port(PATIENT).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        for _ in 0..3 {
            ask(&mut client).await;
        }
    }
}
