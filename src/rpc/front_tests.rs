//! Which way a request goes, how long it may take, and what is turned away before it is looked at.
//!
//! By services of the tests' own: one that is never called, one that never answers, one that counts.

use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tonic::server::NamedService;

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
fn revocations_are_told_from_other_writes() {
    let methods = Methods::described().0;
    let revoking = methods.iter().filter(|(_, method)| method.revokes);
    let mut names: Vec<_> = revoking.map(|(_, method)| method.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "CredentialService/RemoveLoginMethod",
            "DirectoryService/DeleteGrant",
            "DirectoryService/DeleteRole",
            "DirectoryService/DeleteServiceAccount",
            "DirectoryService/DeleteTeam",
            "DirectoryService/DeleteUser",
            "DirectoryService/DisableServiceAccount",
            "DirectoryService/DisableTeam",
            "DirectoryService/DisableUser",
            "DirectoryService/RemoveTeamMember",
            "KeyService/RevokeKey",
            "TokenService/RevokeAll",
            "TokenService/RevokeToken",
        ]
    );
    assert!(
        methods
            .values()
            .all(|method| method.writes || !method.revokes)
    );
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
        ("/latchkey.v1.ClusterService/WaitForRevision", false),
        ("/latchkey.v1.DirectoryService/EnableTeam", true),
    ] {
        assert_eq!(methods[path].writes, writes, "{path}");
    }
}

fn rates(metrics: &Metrics) -> Rates {
    let limits = crate::config::Limits::default();
    Rates::new(metrics.clone(), &limits, Default::default())
}

fn shared(time_max: Duration) -> Arc<Shared> {
    let (metrics, drain) = (Metrics::default(), Drain::default());
    let places = || Places::new(metrics.clone(), 1, time_max);
    Arc::new(Shared::new(
        metrics.clone(),
        drain,
        places(),
        places(),
        rates(&metrics),
    ))
}

/// A direct answer that never comes.
struct Never {
    may_write: bool,
}

impl Future for Never {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Pending
    }
}

impl DirectAnswer for Never {
    fn may_write(&self) -> bool {
        self.may_write
    }
}

fn never(shared: &Arc<Shared>, may_write: bool) -> Answered<Never> {
    Answered::Direct(Waiting {
        answer: Never { may_write },
        shared: Arc::clone(shared),
        peer: None,
        held: None,
    })
}

async fn code(answer: impl Future<Output = Result<Response<Body>, Infallible>>) -> &'static str {
    let Ok(answer) = answer.await;
    ended(answer.headers()).0
}

#[tokio::test]
async fn a_request_that_never_ends_is_ended() {
    let shared = shared(Duration::from_millis(5));
    assert_eq!(code(never(&shared, false)).await, "UNAVAILABLE");
    assert_eq!(code(never(&shared, true)).await, "UNKNOWN");
}

#[tokio::test]
async fn no_more_wait_than_there_are_places() {
    let shared = shared(Duration::from_secs(600));
    let mut first = never(&shared, false);
    assert!(futures_util::poll!(&mut first).is_pending());
    // At once: the deadline is far.
    assert_eq!(code(never(&shared, false)).await, "UNAVAILABLE");
    drop(first);
    let mut next = never(&shared, false);
    assert!(futures_util::poll!(&mut next).is_pending());
}

/// A managed service that notes each call it gets, and never answers.
#[derive(Clone, Default)]
struct Submits(Arc<AtomicUsize>);

impl NamedService for Submits {
    const NAME: &'static str = "latchkey.v1.TokenService";
}

impl Service<Request<Body>> for Submits {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Answer {
        self.0.fetch_add(1, Ordering::Relaxed);
        Box::pin(pending())
    }
}

/// A direct service that is never called.
#[derive(Clone)]
struct Uncalled;

impl Direct for Uncalled {
    fn takes(_: &str) -> bool {
        false
    }
}

impl Service<Request<Body>> for Uncalled {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Answer {
        unreachable!("no path is its own")
    }
}

fn front(service: &Submits, time_max: Duration) -> Front<Uncalled> {
    let (metrics, drain) = (Metrics::default(), Drain::default());
    let places = || Places::new(metrics.clone(), 1, time_max);
    let routes = Routes::new(service.clone());
    let rates = rates(&metrics);
    let shared = Shared::new(metrics.clone(), drain, places(), places(), rates);
    Front::new(Uncalled, routes, shared)
}

fn revoke() -> Request<Body> {
    let path = "/latchkey.v1.TokenService/RevokeToken";
    Request::builder().uri(path).body(Body::empty()).unwrap()
}

#[tokio::test]
async fn who_is_turned_away_has_not_reached_the_service() {
    let service = Submits::default();
    let mut front = front(&service, Duration::from_secs(600));
    let mut first = front.call(revoke());
    assert!(futures_util::poll!(&mut first).is_pending());
    assert_eq!(code(front.call(revoke())).await, "UNAVAILABLE");
    assert_eq!(service.0.load(Ordering::Relaxed), 1);
    drop(first);
    let mut next = front.call(revoke());
    assert!(futures_util::poll!(&mut next).is_pending());
}

#[tokio::test]
async fn a_write_whose_time_is_up_may_have_been_made() {
    let mut front = front(&Submits::default(), Duration::from_millis(5));
    assert_eq!(code(front.call(revoke())).await, "UNKNOWN");
}
