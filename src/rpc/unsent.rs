//! Streams that last: how many there are, and how much of their answers is ready and not yet sent,
//! in all and by peer.
//!
//! ```text
//! begun ─► a place ─► its next message ─► counted ─► hyper keeps it ready ─► sent: given back
//! ```
//!
//! Used by `server` around `front`. A stream may be idle for as long as it likes, and is some memory
//! all the while. hyper keeps 400 KiB of each ready, and tonic sets that no lower: where there is no
//! room a stream is not asked for its next message until there is. It has begun once its call was
//! let in; until then it waits as any call does (`front`). What is free to everybody, health and
//! reflection, has places of its own, from its arrival on; and of reflection, whose answers are large
//! and ready before they are asked for, few. Answers that are one message pass untouched.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body::{Frame, SizeHint};
use prost::bytes::Bytes;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response};

use super::auth::Peer;
use super::errors::{OK, ended, response};
use super::front::{busy, is_free};
use super::metrics::Metrics;
use super::places::{Place, Places};
use super::seats::network_of;

/// Beyond these no stream is asked for more; each may have been asked for one message then.
const TOTAL_BYTES_MAX: usize = 64 << 20;
const PEER_BYTES_MAX: usize = 8 << 20;

/// What hyper, HTTP/2 and we keep beside the bytes of each message.
const BESIDE_BYTES: usize = 512;

/// Streams of questions about the API at a time; a peer has its share of them (`places`).
const REFLECTIONS_MAX: usize = 32;
const REFLECTION: &str = "/ServerReflectionInfo";

const CROWDED: &str = "there are as many streams as may be; end others, or try again";

/// The ends of the paths of what streams its answers.
const STREAMED: [&str; 5] = [
    "/StreamCheck",
    "/WatchChanges",
    "/VerifyChain",
    REFLECTION,
    // Of health.
    "/Watch",
];

#[inline]
fn is_streamed(path: &str) -> bool {
    STREAMED.iter().any(|end| path.ends_with(end))
}

/// What all streams together have ready.
struct Unsent {
    taken: Mutex<Taken>,
    freed: Arc<Notify>,
    total_max: usize,
    peer_max: usize,
}

/// Bytes. The lock is held for a few instructions, never across an await, by streams that go on
/// and by what was sent.
#[derive(Default)]
struct Taken {
    total: usize,
    by_peer: HashMap<IpAddr, usize>,
}

impl Unsent {
    fn new(total_max: usize, peer_max: usize) -> Self {
        Self {
            taken: Mutex::default(),
            freed: Arc::default(),
            total_max,
            peer_max,
        }
    }

    // Counters hold after any panic between two of their steps; there is none.
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_room(&self, peer: IpAddr) -> bool {
        let taken = self.lock();
        let of_peer = taken.by_peer.get(&peer).copied().unwrap_or_default();
        taken.total < self.total_max && of_peer < self.peer_max
    }

    /// The same bytes, counted for as long as anybody has them.
    fn count(self: &Arc<Self>, peer: IpAddr, bytes: Bytes) -> Bytes {
        if bytes.is_empty() {
            return bytes;
        }
        let mut taken = self.lock();
        taken.total += kept(&bytes);
        *taken.by_peer.entry(peer).or_default() += kept(&bytes);
        drop(taken);
        let unsent = Arc::clone(self);
        Bytes::from_owner(Counted {
            unsent,
            peer,
            bytes,
        })
    }
}

/// What a message takes until it is sent.
fn kept(bytes: &Bytes) -> usize {
    bytes.len() + BESIDE_BYTES
}

struct Counted {
    unsent: Arc<Unsent>,
    peer: IpAddr,
    bytes: Bytes,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut taken = self.unsent.lock();
        taken.total -= kept(&self.bytes);
        if let Some(of_peer) = taken.by_peer.get_mut(&self.peer) {
            *of_peer -= kept(&self.bytes);
            if *of_peer == 0 {
                taken.by_peer.remove(&self.peer);
            }
        }
        drop(taken);
        self.unsent.freed.notify_waiters();
    }
}

/// A service whose streamed answers are counted.
#[derive(Clone)]
pub(super) struct Counting<S> {
    inner: S,
    unsent: Arc<Unsent>,
    streams: Arc<Places>,
    // Of what is free to everybody: it keeps those from no stream who have to be let in.
    free: Arc<Places>,
    reflections: Arc<Places>,
}

impl<S> Counting<S> {
    pub(super) fn new(inner: S, metrics: &Metrics, streams_max: usize) -> Self {
        // They last for as long as they like.
        let places = |most| Arc::new(Places::new(metrics.clone(), most, Duration::MAX));
        Self {
            inner,
            unsent: Arc::new(Unsent::new(TOTAL_BYTES_MAX, PEER_BYTES_MAX)),
            streams: places(streams_max),
            free: places(streams_max),
            reflections: places(REFLECTIONS_MAX),
        }
    }
}

impl<S> Service<Request<Body>> for Counting<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Unpin>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<Body>) -> Answering<S::Future> {
        let coming = if is_streamed(request.uri().path()) {
            match self.coming(&request) {
                Some(coming) => Some(coming),
                None => return Answering::TurnedAway,
            }
        } else {
            None
        };
        Answering::Asked(self.inner.call(request), coming)
    }
}

impl<S> Counting<S> {
    /// What is known of a stream that is asked for; none if it has to be turned away.
    #[cold]
    fn coming(&self, request: &Request<Body>) -> Option<Box<Coming>> {
        let path = request.uri().path();
        let peer = request.extensions().get::<Peer>();
        let peer = peer.map(|peer| peer.address);
        let of_reflection = match path.ends_with(REFLECTION) {
            true => Some(self.reflections.take(peer)?),
            false => None,
        };
        let free = match is_free(path) {
            true => Some(self.free.take(peer)?),
            false => None,
        };
        Some(Box::new(Coming {
            unsent: Arc::clone(&self.unsent),
            streams: Arc::clone(&self.streams),
            peer,
            free,
            of_reflection,
        }))
    }
}

/// A stream that is asked for, by anybody.
pub(super) struct Coming {
    unsent: Arc<Unsent>,
    streams: Arc<Places>,
    peer: Option<IpAddr>,
    free: Option<Place>,
    of_reflection: Option<Place>,
}

impl Coming {
    /// Whose bytes its answers are, once it has begun; none if it has to be turned away.
    fn begun(self) -> Option<Counter> {
        let place = match self.free {
            Some(place) => place,
            None => self.streams.take(self.peer)?,
        };
        Some(Counter {
            unsent: self.unsent,
            peer: network_of(self.peer.unwrap_or(Ipv4Addr::UNSPECIFIED.into())),
            _place: place,
            _of_reflection: self.of_reflection,
        })
    }

    /// The answer as it goes on.
    #[cold]
    fn answered(self, answer: Response<Body>) -> Response<Body> {
        // Who is refused has no stream.
        if ended(answer.headers()).0 != OK {
            return answer;
        }
        match self.begun() {
            Some(counter) => answer.map(|body| Body::new(Stream::new(body, counter))),
            None => response(busy(CROWDED)),
        }
    }
}

/// Whose bytes those of a stream are.
struct Counter {
    unsent: Arc<Unsent>,
    peer: IpAddr,
    _place: Place,
    _of_reflection: Option<Place>,
}

/// An answer that is awaited, and what is known of it if it is a stream.
pub(super) enum Answering<F> {
    Asked(F, Option<Box<Coming>>),
    TurnedAway,
}

impl<F> Future for Answering<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>> + Unpin,
{
    type Output = F::Output;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self::Asked(answer, coming) = &mut *self else {
            return Poll::Ready(Ok(response(busy(CROWDED))));
        };
        let answer = ready!(Pin::new(answer).poll(cx));
        let Some(coming) = coming.take() else {
            return Poll::Ready(answer);
        };
        Poll::Ready(answer.map(|answer| coming.answered(answer)))
    }
}

/// A stream's body; it goes on where there is room.
struct Stream {
    body: Body,
    counter: Counter,
    freed: Option<Pin<Box<OwnedNotified>>>,
}

impl Stream {
    fn new(body: Body, counter: Counter) -> Self {
        Self {
            body,
            counter,
            freed: None,
        }
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Counter { unsent, peer, .. } = &self.counter;
        while !unsent.has_room(*peer) {
            let Some(freed) = &mut self.freed else {
                // Listens before it looks again: nothing that is freed meanwhile is missed.
                let mut freed = Box::pin(Arc::clone(&unsent.freed).notified_owned());
                freed.as_mut().enable();
                self.freed = Some(freed);
                continue;
            };
            ready!(freed.as_mut().poll(cx));
            self.freed = None;
        }
        self.freed = None;
        Poll::Ready(())
    }
}

impl http_body::Body for Stream {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        ready!(self.poll_room(cx));
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let Counter { unsent, peer, .. } = &self.counter;
        let counted = |bytes| unsent.count(*peer, bytes);
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(counted))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures_util::{FutureExt as _, poll};
    use http_body::Body as _;
    use prost::Message as _;
    use prost_types::FileDescriptorSet;
    use tonic::codegen::BoxFuture;

    use super::super::errors::{OK, UNAUTHENTICATED, UNAVAILABLE, ended};
    use super::*;
    use crate::domain::refusal::Refusal;
    use crate::proto::DESCRIPTOR;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

    #[test]
    fn what_streams_its_answers_is_known() {
        let sets = [
            DESCRIPTOR,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        ];
        for file in sets
            .into_iter()
            .flat_map(|set| FileDescriptorSet::decode(set).unwrap().file)
        {
            for method in file.service.iter().flat_map(|service| &service.method) {
                let path = format!("/{}", method.name());
                assert_eq!(is_streamed(&path), method.server_streaming(), "{path}");
            }
        }
    }

    /// A service whose answer is told by the path: half asked it waits for the rest, of who is not
    /// known it says so, and all others' streams begin.
    #[derive(Clone)]
    struct Inner;

    const HALF: &str = "/half/";
    const UNKNOWN: &str = "/unknown/";

    impl Service<Request<Body>> for Inner {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = BoxFuture<Response<Body>, Infallible>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<Body>) -> Self::Future {
            let path = request.uri().path();
            if path.starts_with(HALF) {
                return Box::pin(pending());
            }
            let answer = match path.starts_with(UNKNOWN) {
                true => response(Refusal::Unauthenticated),
                false => Response::new(Body::new(Endless)),
            };
            Box::pin(ready(Ok(answer)))
        }
    }

    const WATCH: &str = "/grpc.health.v1.Health/Watch";
    const STREAMS_MAX: usize = 64;

    fn service(streams_max: usize) -> Counting<Inner> {
        Counting::new(Inner, &Metrics::default(), streams_max)
    }

    /// What is answered, and held as long as it is; nothing yet where nothing is answered.
    fn ask(service: &mut Counting<Inner>, path: &str, peer: IpAddr) -> Asked {
        let request = Request::builder().uri(path);
        let request = request.extension(Peer::new(peer, None));
        let mut answering = service.call(request.body(Body::empty()).unwrap());
        let answer = (&mut answering).now_or_never().map(Result::unwrap);
        Asked {
            code: answer.as_ref().map(|answer| ended(answer.headers()).0),
            _answer: answer,
            _answering: answering,
        }
    }

    struct Asked {
        code: Option<&'static str>,
        _answer: Option<Response<Body>>,
        _answering: Answering<<Inner as Service<Request<Body>>>::Future>,
    }

    fn is_let_in(asked: &Asked) -> bool {
        let code = asked.code.expect("an answer");
        assert!([OK, UNAVAILABLE].contains(&code), "{code}");
        code == OK
    }

    /// One peer asks for as many as there may be.
    fn check_places(path: &str, most: usize) {
        let mut service = service(STREAMS_MAX);
        let here: Vec<_> = (0..most).map(|_| ask(&mut service, path, HERE)).collect();
        let let_in = here.iter().filter(|asked| is_let_in(asked)).count();
        assert_eq!(let_in, most / 8);
        assert!(is_let_in(&ask(&mut service, path, THERE)));
        drop(here);
        assert!(is_let_in(&ask(&mut service, path, HERE)));
    }

    #[test]
    fn no_peer_has_all_of_reflection() {
        check_places(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            REFLECTIONS_MAX,
        );
    }

    #[test]
    fn no_peer_has_all_streams_that_last() {
        for path in [WATCH, "/any/StreamCheck"] {
            check_places(path, STREAMS_MAX);
        }
    }

    #[test]
    fn streams_that_are_free_keep_no_others_out() {
        let mut service = service(1);
        let watch = ask(&mut service, WATCH, HERE);
        assert!(is_let_in(&watch));
        let another = ask(&mut service, WATCH, THERE);
        assert!(!is_let_in(&another));
        assert!(is_let_in(&ask(&mut service, "/any/WatchChanges", HERE)));
        // What is answered at once is none.
        let mut check = || ask(&mut service, "/latchkey.v1.CheckService/Check", HERE);
        assert!([(); 3].map(|()| check()).iter().all(is_let_in));
    }

    #[test]
    fn who_is_not_known_yet_or_not_at_all_holds_no_place() {
        let mut service = service(1);
        let mut held = Vec::new();
        for (who, code) in [(HALF, None), (UNKNOWN, Some(UNAUTHENTICATED))] {
            for method in ["WatchChanges", "VerifyChain", "StreamCheck"] {
                let asked = ask(&mut service, &format!("{who}{method}"), HERE);
                assert_eq!(asked.code, code, "{who}{method}");
                held.push(asked);
            }
        }
        let check = ask(&mut service, "/any/StreamCheck", HERE);
        assert!(is_let_in(&check));
        // Nor is one told of places whom nobody lets in.
        let unknown = ask(&mut service, &format!("{UNKNOWN}StreamCheck"), HERE);
        assert_eq!(unknown.code, Some(UNAUTHENTICATED));
        assert!(!is_let_in(&ask(&mut service, "/any/WatchChanges", THERE)));
        drop(check);
        assert!(is_let_in(&ask(&mut service, "/any/WatchChanges", THERE)));
    }

    /// Four bytes again and again.
    struct Endless;

    impl http_body::Body for Endless {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"four")))))
        }
    }

    /// What such a message counts.
    const FOUR: usize = 4 + BESIDE_BYTES;

    fn endless(unsent: &Arc<Unsent>, peer: IpAddr) -> Stream {
        let places = Arc::new(Places::new(Metrics::default(), 1, Duration::MAX));
        let counter = Counter {
            unsent: Arc::clone(unsent),
            peer,
            _place: places.take(None).unwrap(),
            _of_reflection: None,
        };
        Stream::new(Body::new(Endless), counter)
    }

    async fn next(stream: &mut Stream) -> Bytes {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut *stream).poll_frame(cx)).await;
        frame.unwrap().unwrap().into_data().unwrap()
    }

    #[tokio::test]
    async fn a_stream_waits_until_what_it_has_ready_is_sent() {
        let unsent = Arc::new(Unsent::new(100 * FOUR, 2 * FOUR));
        let mut stream = endless(&unsent, HERE);
        let (first, second) = (next(&mut stream).await, next(&mut stream).await);
        assert_eq!((&first[..], &second[..]), (&b"four"[..], &b"four"[..]));
        let mut third = Box::pin(next(&mut stream));
        assert!(poll!(&mut third).is_pending());
        // A part of it is held by whoever sends the rest.
        let part = first.slice(2..);
        drop(first);
        assert!(poll!(&mut third).is_pending());
        drop(part);
        assert!(poll!(&mut third).is_ready());
    }

    #[tokio::test]
    async fn what_is_ready_is_bounded_by_peer_and_in_all() {
        let unsent = Arc::new(Unsent::new(3 * FOUR, 2 * FOUR));
        let (mut here, mut there) = (endless(&unsent, HERE), endless(&unsent, THERE));
        let held = [next(&mut here).await, next(&mut here).await];
        assert!(poll!(Box::pin(next(&mut endless(&unsent, HERE)))).is_pending());
        let other = next(&mut there).await;
        assert!(poll!(Box::pin(next(&mut there))).is_pending());
        drop(held);
        let more = next(&mut there).await;
        assert!(poll!(Box::pin(next(&mut here))).is_ready());
        drop((other, more));
        let taken = unsent.lock();
        assert_eq!((taken.total, taken.by_peer.len()), (0, 0));
    }
}
