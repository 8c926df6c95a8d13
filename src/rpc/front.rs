//! From a request to its service: Check goes straight, everything else through the router.
//!
//! ```text
//! request ─► Front ─┬─► direct service       the path begins with its name; nothing is looked up
//!                   └─► router, measured     counted, logged, with the caller's deadline
//! ```
//!
//! Used by `server`; the benchmark's empty RPC goes the same way as Check. A request that must
//! wait, for its body or for the writer, holds one of a bounded number of places and has a
//! deadline; one that is answered at once pays for neither.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use prost::Message as _;
use prost_types::FileDescriptorSet;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{BoxFuture, Service};
use tonic::server::NamedService;
use tonic::service::Routes;

use crate::domain::refusal::Refusal;
use crate::proto::DESCRIPTOR;

use super::auth::{Calling, Peer, budget};
use super::errors::{ended, response};
use super::metrics::Metrics;
use super::stream::Drain;

type Answer = BoxFuture<Response<Body>, Infallible>;

/// One peer may have this part of the places of all who wait.
const PEER_SHARE: usize = 8;

/// First words of the methods that change nothing.
const READS: [&str; 6] = ["Get", "List", "Watch", "Verify", "Explain", "WhoAmI"];

/// What every connection's front shares.
pub(super) struct Shared {
    metrics: Metrics,
    drain: Drain,
    // One permit for each request that waits.
    waiting: Arc<Semaphore>,
    // How many of them each peer has: one alone must not keep the others from revoking.
    waiting_by_peer: Mutex<HashMap<IpAddr, usize>>,
    waiting_of_peer_max: usize,
    request_time_max: Duration,
    methods: Methods,
}

impl Shared {
    pub(super) fn new(
        metrics: Metrics,
        drain: Drain,
        waiting_max: usize,
        request_time_max: Duration,
    ) -> Self {
        Self {
            metrics,
            drain,
            waiting: Arc::new(Semaphore::new(waiting_max)),
            waiting_by_peer: Mutex::new(HashMap::new()),
            waiting_of_peer_max: waiting_max.div_ceil(PEER_SHARE),
            request_time_max,
            methods: Methods::described(),
        }
    }
}

/// The methods of the public API by path: no other text becomes a label or a log field.
struct Methods(HashMap<String, Method>);

#[derive(Clone)]
struct Method {
    // `TokenService/IssueToken`.
    name: String,
    writes: bool,
}

impl Methods {
    fn described() -> Self {
        // The build encoded it; a broken one would only leave calls uncounted.
        let files = FileDescriptorSet::decode(DESCRIPTOR)
            .unwrap_or_default()
            .file;
        let mut methods = HashMap::new();
        for file in &files {
            for service in &file.service {
                for method in &service.method {
                    let name = format!("{}/{}", service.name(), method.name());
                    let writes = !READS.iter().any(|read| method.name().starts_with(read));
                    methods.insert(
                        format!("/{}.{name}", file.package()),
                        Method { name, writes },
                    );
                }
            }
        }
        Self(methods)
    }
}

/// The service of the port: one that is reached straight, and the router for all others.
#[derive(Clone)]
pub(super) struct Front<D> {
    direct: D,
    routes: Routes,
    shared: Arc<Shared>,
}

impl<D> Front<D> {
    pub(super) fn new(direct: D, routes: Routes, shared: Shared) -> Self {
        Self {
            direct,
            routes: routes.prepare(),
            shared: Arc::new(shared),
        }
    }
}

impl<D> Service<Request<Body>> for Front<D>
where
    D: NamedService,
    D: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future = Answer>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Waiting;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.direct.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, mut request: Request<Body>) -> Waiting {
        let path = request.uri().path();
        let peer = request.extensions().get::<Peer>().map(|peer| peer.address);
        let answer = if is_of(path, D::NAME) {
            // Streams of the direct service end with the server too.
            if path.ends_with("/StreamCheck") {
                request.extensions_mut().insert(self.shared.drain.clone());
            }
            self.direct.call(request)
        } else {
            let (routes, shared) = (self.routes.clone(), Arc::clone(&self.shared));
            Box::pin(managed(routes, shared, request))
        };
        Waiting {
            answer,
            shared: Arc::clone(&self.shared),
            peer,
            place: None,
        }
    }
}

/// Whether a path is `/NAME/…`.
#[inline]
fn is_of(path: &str, name: &str) -> bool {
    path.strip_prefix('/')
        .and_then(|path| path.strip_prefix(name))
        .is_some_and(|method| method.starts_with('/'))
}

/// A request that is being answered. Once it has to wait it takes a place and gets a deadline.
pub(super) struct Waiting {
    answer: Answer,
    shared: Arc<Shared>,
    peer: Option<IpAddr>,
    place: Option<Place>,
}

/// A place among those who wait, and when it has to be given up.
struct Place {
    _permit: OwnedSemaphorePermit,
    _share: Option<Share>,
    deadline: Pin<Box<Sleep>>,
}

/// A peer's part of the places; given back when dropped.
struct Share {
    shared: Arc<Shared>,
    peer: IpAddr,
}

impl Share {
    fn take(shared: &Arc<Shared>, peer: IpAddr) -> Option<Self> {
        let mut by_peer = shared
            .waiting_by_peer
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let taken = by_peer.entry(peer).or_default();
        if *taken >= shared.waiting_of_peer_max {
            return None;
        }
        *taken += 1;
        drop(by_peer);
        Some(Self {
            shared: Arc::clone(shared),
            peer,
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let by_peer = self.shared.waiting_by_peer.lock();
        let mut by_peer = by_peer.unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = by_peer.get_mut(&self.peer) {
            *taken -= 1;
            if *taken == 0 {
                by_peer.remove(&self.peer);
            }
        }
    }
}

impl Future for Waiting {
    type Output = Result<Response<Body>, Infallible>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(answer) = self.answer.as_mut().poll(cx) {
            return Poll::Ready(answer);
        }
        self.wait(cx)
    }
}

impl Waiting {
    #[cold]
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<Body>, Infallible>> {
        let place = match &mut self.place {
            Some(place) => place,
            None => {
                let Some(place) = self.take_place() else {
                    self.shared.metrics.shed();
                    return Poll::Ready(Ok(busy("too many requests are waiting; try again")));
                };
                self.place.insert(place)
            }
        };
        ready!(place.deadline.as_mut().poll(cx));
        Poll::Ready(Ok(busy("the request took too long")))
    }

    fn take_place(&self) -> Option<Place> {
        let share = match self.peer {
            Some(peer) => Some(Share::take(&self.shared, peer)?),
            None => None,
        };
        let permit = Arc::clone(&self.shared.waiting).try_acquire_owned().ok()?;
        Some(Place {
            _permit: permit,
            _share: share,
            deadline: Box::pin(sleep(self.shared.request_time_max)),
        })
    }
}

fn busy(what: &str) -> Response<Body> {
    response(Refusal::Unavailable(what.to_owned()))
}

/// A call of anything but the direct service: measured, logged if it writes, within its deadline.
async fn managed(
    mut routes: Routes,
    shared: Arc<Shared>,
    mut request: Request<Body>,
) -> Result<Response<Body>, Infallible> {
    let started = Instant::now();
    let method = shared.methods.0.get(request.uri().path());
    let writes = method.is_some_and(|method| method.writes);
    let granted = budget(request.headers(), shared.request_time_max);
    request.extensions_mut().insert(shared.drain.clone());
    let calling = Calling::default();
    request.extensions_mut().insert(calling.clone());
    let answer = match timeout(granted, routes.call(request)).await {
        Ok(answer) => answer?,
        // What was queued may be written yet.
        Err(_) if writes => response(Refusal::OutcomeUnknown),
        Err(_) => busy("the request took too long"),
    };
    if let Some(method) = method {
        let took = started.elapsed();
        let (code, reason) = ended(answer.headers());
        shared.metrics.called(&method.name, code, took);
        if method.writes {
            let reason = reason.as_deref().unwrap_or_default();
            let took_ms = took.as_millis() as u64;
            let (method, token_id) = (&method.name, calling.text());
            tracing::info!(method, token_id, code, reason, took_ms, "write");
        }
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_services_own_paths_go_straight() {
        let name = "latchkey.v1.CheckService";
        assert!(is_of("/latchkey.v1.CheckService/Check", name));
        for other in [
            "/latchkey.v1.CheckService",
            "/latchkey.v1.CheckServiceX/Check",
            "/latchkey.v1.TokenService/IssueToken",
            "latchkey.v1.CheckService/Check",
            "/",
            "",
        ] {
            assert!(!is_of(other, name), "{other}");
        }
    }

    #[test]
    fn reads_and_writes_are_told_apart() {
        let methods = Methods::described().0;
        for (path, writes) in [
            ("/latchkey.v1.TokenService/IssueToken", true),
            ("/latchkey.v1.TokenService/RevokeAll", true),
            ("/latchkey.v1.TokenService/GetToken", false),
            ("/latchkey.v1.TokenService/WhoAmI", false),
            ("/latchkey.v1.AuditService/WatchChanges", false),
            ("/latchkey.v1.AuditService/Explain", false),
        ] {
            assert_eq!(methods[path].writes, writes, "{path}");
        }
    }

    fn shared(time_max: Duration) -> Arc<Shared> {
        let (metrics, drain) = (Metrics::default(), Drain::default());
        Arc::new(Shared::new(metrics, drain, 1, time_max))
    }

    fn never(shared: &Arc<Shared>) -> Waiting {
        Waiting {
            answer: Box::pin(std::future::pending()),
            shared: Arc::clone(shared),
            peer: None,
            place: None,
        }
    }

    async fn code(waiting: Waiting) -> &'static str {
        let Ok(answer) = waiting.await;
        ended(answer.headers()).0
    }

    #[tokio::test]
    async fn a_request_that_never_ends_is_ended() {
        let shared = shared(Duration::from_millis(5));
        assert_eq!(code(never(&shared)).await, "UNAVAILABLE");
    }

    #[tokio::test]
    async fn no_more_wait_than_there_are_places() {
        let shared = shared(Duration::from_secs(600));
        let mut first = never(&shared);
        assert!(futures_util::poll!(&mut first).is_pending());
        // At once: the deadline is far.
        assert_eq!(code(never(&shared)).await, "UNAVAILABLE");
        drop(first);
        let mut next = never(&shared);
        assert!(futures_util::poll!(&mut next).is_pending());
    }
}
