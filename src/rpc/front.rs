//! From a request to its service: Check goes straight, everything else through the router.
//!
//! ```text
//! request ─► Front ─┬─► direct service       the path begins with its name; nothing is looked up
//!                   └─► router, measured     counted, logged, with the caller's deadline
//! ```
//!
//! Used by `server`; the benchmark's empty RPC goes the same way as Check. Whoever goes to the
//! router holds one of a bounded number of `places` and has a deadline, from before anything is
//! submitted for it; a Check only if it must wait, for its body or for the writer. Half a message
//! of a stream waits too (`half`).

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::future::{Future, ready};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Context, Poll};

use prost::Message as _;
use prost_types::FileDescriptorSet;
use tokio::time::{Instant, timeout};
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{BoxFuture, Service};
use tonic::service::Routes;
use tracing::{Instrument as _, Span};

use crate::domain::peer::Group;
use crate::domain::refusal::Refusal;
use crate::proto::DESCRIPTOR;
use crate::proto::v1::login_service_server::SERVICE_NAME as LOGIN;

use super::auth::{Calling, Peer, admit, budget};
use super::enforce::Patience;
use super::errors::{PERMISSION_DENIED, RATE_LIMITED, UNAUTHENTICATED, ended, reason, response};
use super::half::Watched;
use super::metrics::Metrics;
use super::observe::{Called, DeniedCall, Who};
use super::places::{Held, Place, Places};
use super::rates::{Attempts, Limit, Rates};
use super::stream::Drain;

type Answer = BoxFuture<Response<Body>, Infallible>;

/// What is free to every peer that is let in.
const FREE: [&str; 2] = ["/grpc.health.", "/grpc.reflection."];

/// The methods whose client streams, of every version of their services.
const STREAM_CHECK: &str = "/StreamCheck";
const REFLECTION: &str = "/ServerReflectionInfo";

/// A method that is none of ours, in a line.
const UNKNOWN: &str = "unknown";

const CROWDED: &str = "too many requests are waiting; try again";

/// The field of every request that writes; a Check has it too, and does not come to the router.
const OF_WRITES: &str = "request_id";

/// The verbs that take power away: a flood of other calls keeps none of them out.
const REVOKING: [&str; 4] = ["Revoke", "Disable", "Delete", "Remove"];

/// The answer of a direct service, as it comes.
///
/// Once it returns `Pending` it has a place among those who wait, or is dropped: whatever it
/// submits to the writer it submits after that.
pub trait DirectAnswer: Future<Output = Result<Response<Body>, Infallible>> + Unpin {
    /// Whether something may have been written by now.
    fn may_write(&self) -> bool;

    /// What its caller is told when it is given up; it is counted and told of, too.
    fn given_up(&self, why: Refusal) -> Response<Body> {
        response(why)
    }
}

/// A service that is reached without the router.
pub trait Direct: Service<Request<Body>> {
    /// Whether a path is this service's.
    fn takes(path: &str) -> bool;
}

/// Those of a service that never writes.
impl DirectAnswer for Answer {
    fn may_write(&self) -> bool {
        false
    }
}

/// What every connection's front shares.
pub(super) struct Shared {
    metrics: Metrics,
    drain: Drain,
    places: Arc<Places>,
    // For those that wait for other servers: no Check is kept from its place by them.
    aside: Arc<Places>,
    rates: Arc<Rates>,
    methods: Methods,
}

impl Shared {
    pub(super) fn new(
        metrics: Metrics,
        drain: Drain,
        places: Places,
        aside: Places,
        rates: Rates,
    ) -> Self {
        Self {
            metrics,
            drain,
            places: Arc::new(places),
            aside: Arc::new(aside),
            rates: Arc::new(rates),
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
    // The same with its package.
    full: String,
    writes: bool,
    revokes: bool,
}

impl Methods {
    fn described() -> Self {
        // The build encoded it; a broken one would only leave calls uncounted.
        let files = FileDescriptorSet::decode(DESCRIPTOR)
            .unwrap_or_default()
            .file;
        let mut requests = HashSet::new();
        for file in &files {
            for message in &file.message_type {
                if message.field.iter().any(|field| field.name() == OF_WRITES) {
                    requests.insert(format!(".{}.{}", file.package(), message.name()));
                }
            }
        }
        let mut methods = HashMap::new();
        for file in &files {
            for service in &file.service {
                for method in &service.method {
                    let name = format!("{}/{}", service.name(), method.name());
                    let writes = requests.contains(method.input_type());
                    let revokes = REVOKING.iter().any(|verb| method.name().starts_with(verb));
                    let full = format!("{}.{name}", file.package());
                    methods.insert(
                        format!("/{full}"),
                        Method {
                            name,
                            full,
                            writes,
                            revokes,
                        },
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
    D: Direct<Response = Response<Body>, Error = Infallible, Future: DirectAnswer>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answered<D::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.direct.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, mut request: Request<Body>) -> Answered<D::Future> {
        let path = request.uri().path();
        let peer = request.extensions().get::<Peer>().map(|peer| peer.address);
        if !D::takes(path) {
            return Answered::Managed(self.managed(request, peer));
        }
        // Streams of the direct service end with the server too.
        if path.ends_with(STREAM_CHECK) {
            request.extensions_mut().insert(self.shared.drain.clone());
            request = self.watched(request, peer);
        }
        Answered::Direct(Waiting {
            answer: self.direct.call(request),
            shared: Arc::clone(&self.shared),
            peer,
            held: None,
        })
    }
}

impl<D> Front<D> {
    fn managed(&self, mut request: Request<Body>, peer: Option<IpAddr>) -> Answer {
        let group = group_of(request.uri().path());
        if let Some(group) = group
            && let Err(refusal) = admit(request.extensions(), group)
        {
            self.shared.metrics.kept_out(group);
            return Box::pin(ready(Ok(self.turned_away(refusal, &request))));
        }
        if group.is_some()
            && let Err(refusal) = self.paced(request.uri().path(), peer)
        {
            return Box::pin(ready(Ok(self.turned_away(refusal, &request))));
        }
        // Taken before the service is reached: who is turned away has written nothing.
        let Some(place) = self.shared.places.take(peer) else {
            return Box::pin(ready(Ok(response(busy(CROWDED)))));
        };
        if request.uri().path().ends_with(REFLECTION) {
            request = self.watched(request, peer);
        }
        let (routes, shared) = (self.routes.clone(), Arc::clone(&self.shared));
        Box::pin(managed(routes, shared, request, peer, place))
    }

    /// The answer to a call that is not looked at, told.
    #[cold]
    fn turned_away(&self, refusal: Refusal, request: &Request<Body>) -> Response<Body> {
        let Shared {
            methods, metrics, ..
        } = &*self.shared;
        let method = methods.0.get(request.uri().path());
        metrics.observer().tell_denied(DeniedCall {
            method: method.map_or(UNKNOWN, |method| &*method.name),
            reason: reason(&refusal),
            who: Who::of(request.headers(), request.extensions()),
            calling: &Calling::default(),
            came: Instant::now(),
        });
        response(refusal)
    }

    /// Refuses what comes too fast, before anything of it is looked at.
    fn paced(&self, path: &str, peer: Option<IpAddr>) -> Result<(), Refusal> {
        let Shared { rates, methods, .. } = &*self.shared;
        let revokes = methods.0.get(path).is_some_and(|method| method.revokes);
        let limit = if revokes {
            Limit::Revocations
        } else {
            Limit::Calls
        };
        rates.spend(limit, peer)
    }

    fn watched(&self, request: Request<Body>, peer: Option<IpAddr>) -> Request<Body> {
        let places = Arc::clone(&self.shared.places);
        request.map(|body| Body::new(Watched::new(body, places, peer)))
    }
}

/// What a path of the router is for, as far as a peer may be kept from it.
fn group_of(path: &str) -> Option<Group> {
    if is_of(path, LOGIN) {
        return Some(Group::Login);
    }
    (!is_free(path)).then_some(Group::Manage)
}

/// Whether a path is free to every peer: of no use to anybody but whoever looks after the server,
/// and they tell nothing else.
pub(super) fn is_free(path: &str) -> bool {
    FREE.iter().any(|head| path.starts_with(head))
}

/// Whether a path is `/NAME/…`.
#[inline]
pub(super) fn is_of(path: &str, name: &str) -> bool {
    path.strip_prefix('/')
        .and_then(|path| path.strip_prefix(name))
        .is_some_and(|method| method.starts_with('/'))
}

/// A request that is being answered, and how.
pub(super) enum Answered<F> {
    Direct(Waiting<F>),
    Managed(Answer),
}

impl<F: DirectAnswer> Future for Answered<F> {
    type Output = Result<Response<Body>, Infallible>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Direct(waiting) => waiting.poll(cx),
            Self::Managed(answer) => answer.as_mut().poll(cx),
        }
    }
}

/// A direct request. Once it has to wait it takes a place and gets a deadline.
pub(super) struct Waiting<F> {
    answer: F,
    shared: Arc<Shared>,
    peer: Option<IpAddr>,
    held: Option<Held>,
}

impl<F: DirectAnswer> Waiting<F> {
    #[inline]
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<Body>, Infallible>> {
        if let Poll::Ready(answer) = Pin::new(&mut self.answer).poll(cx) {
            return Poll::Ready(answer);
        }
        self.wait(cx)
    }

    #[cold]
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<Body>, Infallible>> {
        let held = match &mut self.held {
            Some(held) => held,
            None => {
                let Some(held) = self.shared.places.hold(self.peer) else {
                    return Poll::Ready(Ok(self.answer.given_up(busy(CROWDED))));
                };
                self.held.insert(held)
            }
        };
        task::ready!(held.poll_end(cx));
        let why = late(self.answer.may_write());
        Poll::Ready(Ok(self.answer.given_up(why)))
    }
}

/// Whether a call was denied because of who calls, or how fast.
fn is_denial(code: &str, reason: &str) -> bool {
    [UNAUTHENTICATED, PERMISSION_DENIED].contains(&code) || reason == RATE_LIMITED
}

/// What is answered when the time is up.
fn late(may_write: bool) -> Refusal {
    if may_write {
        // What was queued may be written yet.
        Refusal::OutcomeUnknown
    } else {
        busy("the request took too long")
    }
}

/// What is told to who is turned away: another server may do it.
pub(super) fn busy(what: &str) -> Refusal {
    Refusal::Unavailable(what.to_owned())
}

/// A call of anything but the direct service: measured, logged if it writes, within its deadline.
async fn managed(
    mut routes: Routes,
    shared: Arc<Shared>,
    mut request: Request<Body>,
    peer: Option<IpAddr>,
    // Held until the answer, for a stream until its headers, or exchanged meanwhile.
    place: Place,
) -> Result<Response<Body>, Infallible> {
    let started = Instant::now();
    let method = shared.methods.0.get(request.uri().path());
    let writes = method.is_some_and(|method| method.writes);
    let granted = budget(request.headers(), shared.places.time_max());
    request.extensions_mut().insert(shared.drain.clone());
    let attempts = Attempts::new(&shared.rates, peer);
    request.extensions_mut().insert(attempts);
    let (aside, metrics) = (Arc::clone(&shared.aside), shared.metrics.clone());
    let patience = Patience::new(place, aside, peer, granted, metrics);
    request.extensions_mut().insert(patience.clone());
    let calling = Calling::default();
    request.extensions_mut().insert(calling.clone());
    let who = Who::of(request.headers(), request.extensions());
    let called = method.map(|method| {
        let observer = shared.metrics.observer();
        observer.called(&method.full, request.headers(), peer)
    });
    let span = called.as_ref().map_or_else(Span::none, Called::span);
    let answer = match timeout(granted, routes.call(request).instrument(span)).await {
        Ok(answer) => answer?,
        Err(_) => response(late(writes)),
    };
    if let Some((method, called)) = method.zip(called) {
        let took = started.elapsed();
        let (code, reason) = ended(answer.headers());
        shared.metrics.called(&method.name, code, took);
        let reason = reason.as_deref().unwrap_or_default();
        let token_id = calling.text();
        called.ended(code, reason, &token_id);
        if is_denial(code, reason) {
            shared.metrics.observer().tell_denied(DeniedCall {
                method: &method.name,
                reason,
                who: who.clone(),
                calling: &calling,
                came: started,
            });
        }
        if method.writes {
            let took_ms = took.as_millis() as u64;
            let (method, enforced) = (&method.name, patience.outcome());
            let request_id = Some(who.request_id).filter(|id| !id.is_empty());
            let trace_id = who.trace.map(|trace| trace.trace_id());
            tracing::info!(
                method, token_id, code, reason, enforced, took_ms, request_id, trace_id, "write"
            );
        }
    }
    Ok(answer)
}

#[cfg(test)]
#[path = "front_tests.rs"]
mod tests;
