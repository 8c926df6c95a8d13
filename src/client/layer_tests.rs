//! The layer before a service that counts what reaches it, over HTTP and over gRPC.
//!
//! A case says what is sent, what Latchkey answers and what must come back; that nothing but
//! an allowed request reaches the service is asserted in every one of them.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http::request::Parts;
use http::{Request, Response, StatusCode};
use tonic::transport::Server;
use tower::{Layer, Service, ServiceExt, service_fn};

use super::fake_tests::{Answer, Fake, allow, deny, late, nobody, serve};
use super::{CallError, CallingToken, CheckLayer, Client, Identity, Needs};
use crate::domain::clock::{Clock, Now};
use crate::proto::v1;

const ONE: &[&str] = &["Bearer lku_0123456789"];
const UNAVAILABLE: &str = "503 -";
const NOT_PERMITTED: &str =
    r#"403 Bearer realm="latchkey", error="insufficient_scope", scope="secrets:read@acme/web""#;
const INVALID: &str = r#"401 Bearer realm="latchkey", error="invalid_token""#;
const NO_TOKEN: &str = r#"401 Bearer realm="latchkey""#;

fn policy(request: &Parts) -> Needs {
    Needs::of("secrets:read", request.uri.path().trim_start_matches('/'))
}

fn request(path: &str, authorizations: &[&str], content_type: &str) -> Request<String> {
    let mut request = Request::builder()
        .uri(path)
        .header("content-type", content_type);
    for value in authorizations {
        request = request.header("authorization", *value);
    }
    request.body(String::new()).expect("a request")
}

type Reached = Arc<Mutex<Vec<Parts>>>;

/// Sends a request through the layer: the answer, and the request if it reached the service.
async fn send(
    layer: CheckLayer<fn(&Parts) -> Needs>,
    request: Request<String>,
) -> (Response<String>, Option<Parts>) {
    let reached = Reached::default();
    let inside = Arc::clone(&reached);
    let service = service_fn(move |request: Request<String>| {
        inside
            .lock()
            .expect("not poisoned")
            .push(request.into_parts().0);
        async { Ok::<_, Infallible>(Response::new("inside".to_owned())) }
    });
    let response = layer
        .layer(service)
        .oneshot(request)
        .await
        .expect("infallible");
    let parts = reached.lock().expect("not poisoned").pop();
    assert_eq!(response.body() == "inside", parts.is_some());
    (response, parts)
}

async fn layer(fake: &Fake) -> CheckLayer<fn(&Parts) -> Needs> {
    CheckLayer::new(fake.client().await, policy)
}

fn summary(response: &Response<String>) -> String {
    let header = |name| {
        let value = response.headers().get(name);
        value.map(|it| it.to_str().expect("ASCII").to_owned())
    };
    match header("grpc-status") {
        Some(status) => format!("{} grpc {status}", response.status().as_u16()),
        None => {
            let challenge = header("www-authenticate").unwrap_or("-".into());
            format!("{} {challenge}", response.status().as_u16())
        }
    }
}

async fn check(path: &str, sent: &[&str], answer: Answer, http: &str, grpc: &str) {
    for (content_type, expected) in [("text/plain", http), ("application/grpc+proto", grpc)] {
        let fake = Fake::start(answer.clone()).await;
        let request = request(path, sent, content_type);
        let (response, reached) = send(layer(&fake).await, request).await;
        assert_eq!(summary(&response), expected, "{path} {sent:?} {answer:?}");
        assert_eq!(reached.is_some(), expected == "200 -", "{answer:?}");
    }
}

#[tokio::test]
async fn a_request_passes_only_on_a_fresh_allow() {
    let web = "/acme/web";
    let answer = |answer| late(0, answer);
    check(web, ONE, answer(allow()), "200 -", "200 -").await;
    let denials = [
        (v1::Reason::NoToken, NO_TOKEN, "200 grpc 16"),
        (v1::Reason::Unknown, INVALID, "200 grpc 16"),
        (v1::Reason::Revoked, INVALID, "200 grpc 16"),
        (v1::Reason::UsesExhausted, INVALID, "200 grpc 16"),
        (v1::Reason::NotPermitted, NOT_PERMITTED, "200 grpc 7"),
        (v1::Reason::Stale, UNAVAILABLE, "200 grpc 14"),
    ];
    for (reason, http, grpc) in denials {
        check(web, ONE, answer(deny(reason)), http, grpc).await;
    }
    let late = late(100, allow());
    check(web, ONE, late, UNAVAILABLE, "200 grpc 14").await;
    let failures = [
        tonic::Status::unauthenticated("the service's own token"),
        tonic::Status::invalid_argument(""),
        tonic::Status::internal(""),
    ];
    for status in failures {
        let answer = Answer::Fail(status);
        check(web, ONE, answer, UNAVAILABLE, "200 grpc 14").await;
    }
}

#[tokio::test]
async fn without_exactly_one_token_nothing_is_asked() {
    let cases: [(&[&str], &str); 6] = [
        (&[], NO_TOKEN),
        (&["Basic YTpi"], NO_TOKEN),
        (&["Bearer "], NO_TOKEN),
        (&["Bearer lku_1", "Bearer lku_2"], INVALID),
        (&["Bearer lku_1, Bearer lku_2"], INVALID),
        (&["Bearer lku_1 lku_2"], INVALID),
    ];
    for (sent, http) in cases {
        let answer = late(0, allow());
        check("/acme/web", sent, answer, http, "200 grpc 16").await;
    }
    let fake = Fake::start(late(0, allow())).await;
    let two = request("/a", &["Bearer lku_1", "Bearer lku_2"], "text/plain");
    send(layer(&fake).await, two).await;
    assert!(fake.seen().is_empty());
}

#[tokio::test]
async fn a_path_that_is_no_resource_is_not_permitted() {
    let http = r#"403 Bearer realm="latchkey", error="insufficient_scope""#;
    for path in ["/acme/../web", "/acme//web", "/acme%2fweb", "/acme/*", "/"] {
        let answer = late(0, allow());
        check(path, ONE, answer, http, "200 grpc 7").await;
    }
}

#[tokio::test]
async fn an_unreachable_server_closes_the_service() {
    let client = Client::connect_lazy(nobody().await).expect("an address");
    let layer: CheckLayer<fn(&Parts) -> Needs> = CheckLayer::new(client, policy);
    let (response, _) = send(layer.clone(), request("/acme/web", ONE, "text/plain")).await;
    assert_eq!(summary(&response), UNAVAILABLE);
    let call = request("/acme/web", ONE, "application/grpc");
    let (response, _) = send(layer, call).await;
    assert_eq!(summary(&response), "200 grpc 14");
    assert_eq!(response.headers()["content-type"], "application/grpc");
    assert!(response.headers().contains_key("grpc-message"));
}

#[tokio::test]
async fn a_stale_answer_says_when_to_come_back() {
    let fake = Fake::start(late(0, deny(v1::Reason::Stale))).await;
    let request = request("/acme/web", ONE, "text/plain");
    let (response, _) = send(layer(&fake).await, request).await;
    assert_eq!(response.headers()["retry-after"], "2");
}

#[tokio::test]
async fn a_request_that_passes_has_an_identity_and_hides_its_credential() {
    let fake = Fake::start(late(0, allow())).await;
    let kept = layer(&fake).await.audience("billing");
    let sent = request("/acme/web", ONE, "text/plain");
    let parts = send(kept.clone(), sent).await.1.expect("it passes");
    let identity = parts.extensions.get::<Identity>().expect("an identity");
    assert_eq!(identity.subject, "user:alice");
    assert_eq!(parts.headers["authorization"], ONE[0]);
    assert!(!format!("{parts:?}").contains("0123456789"));

    let question = fake.seen().pop().expect("a question").0;
    assert_eq!(question.token, "lku_0123456789");
    assert_eq!(question.needs[0].resource, "acme/web");
    let audience = question.context.and_then(|it| it.audience);
    assert_eq!(audience.as_deref(), Some("billing"));

    let removed = kept.credential_removed().accept(v1::TokenKind::Service);
    let sent = request("/acme/web", ONE, "text/plain");
    let parts = send(removed, sent).await.1.expect("it passes");
    assert!(!parts.headers.contains_key("authorization"));
    let question = fake.seen().pop().expect("a question").0;
    assert_eq!(question.accepted_kinds.len(), 1);
}

#[tokio::test]
async fn a_grpc_client_understands_the_answers() {
    let outcome = async |answer, token: Option<&str>| {
        let fake = Fake::start(answer).await;
        let layer = CheckLayer::new(fake.client().await, |_: &Parts| Needs::valid_token());
        let router = Server::builder().add_service(layer.layer(fake.tokens()));
        let (address, _server) = serve(router).await;
        let connected = Client::connect(format!("http://{address}")).await;
        let mut client = connected.expect("it listens");
        if let Some(token) = token {
            client = client.with_token(CallingToken::parse(token).expect("a token"));
        }
        match client.whoami().await {
            Ok(_) => "passed".to_owned(),
            Err(CallError::Unauthenticated(status)) => status.message().to_owned(),
            Err(CallError::Refused { status, .. }) => status.message().to_owned(),
            Err(error) => format!("{error}"),
        }
    };
    let token = Some("lku_0123456789");
    assert_eq!(outcome(late(0, allow()), token).await, "passed");
    assert_eq!(
        outcome(late(0, allow()), None).await,
        "no token was presented"
    );
    assert_eq!(
        outcome(late(0, deny(v1::Reason::Revoked)), token).await,
        "the token is not accepted"
    );
    assert_eq!(
        outcome(late(0, deny(v1::Reason::NotPermitted)), token).await,
        "the token does not permit this"
    );
    let closed = outcome(late(100, allow()), token).await;
    assert!(closed.contains("cannot be checked now"), "{closed}");
}

#[tokio::test]
async fn more_checks_than_allowed_are_shed() {
    let fake = Fake::start(late(0, allow())).await;
    let shut = layer(&fake).await.checks_at_a_time(0);
    let sent = request("/acme/web", ONE, "text/plain");
    assert_eq!(summary(&send(shut, sent).await.0), UNAVAILABLE);
    assert!(fake.seen().is_empty());

    // One at a time, one after the other: a permit comes back with the answer.
    let one = layer(&fake).await.checks_at_a_time(1);
    for _ in 0..3 {
        let sent = request("/acme/web", ONE, "text/plain");
        assert_eq!(send(one.clone(), sent).await.0.status(), StatusCode::OK);
    }
}

/// Every reading is 50 ms after the one before.
struct Ticking(AtomicU64);

impl Clock for Ticking {
    fn now(&self) -> Now {
        Now::at(self.boot_ms())
    }

    fn boot_ms(&self) -> u64 {
        self.0.fetch_add(50, Ordering::SeqCst)
    }

    fn wall_ahead_ms(&self) -> i64 {
        0
    }
}

#[tokio::test]
async fn an_allow_that_ends_before_the_request_is_passed_on_is_no_allow() {
    let fake = Fake::start(late(0, allow())).await;
    // Sent at 0, answered at 50, to be passed on at 100: as long as the allow is valid.
    let client = fake.client().await;
    let client = client.with_clock(Arc::new(Ticking(AtomicU64::new(0))));
    let layer: CheckLayer<fn(&Parts) -> Needs> = CheckLayer::new(client, policy);
    let sent = request("/acme/web", ONE, "text/plain");
    assert_eq!(summary(&send(layer, sent).await.0), UNAVAILABLE);
    assert_eq!(fake.seen().len(), 1);
}

/// Knows whether it was asked: only the one that was found ready may be called, and a clone was not.
struct Counted(Arc<AtomicUsize>, bool);

impl Clone for Counted {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0), false)
    }
}

impl Service<Request<String>> for Counted {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<String>, Infallible>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Infallible>> {
        self.1 = true;
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<String>) -> Self::Future {
        assert!(self.1, "called without having been ready");
        self.0.fetch_add(1, Ordering::SeqCst);
        std::future::ready(Ok(Response::new(String::new())))
    }
}

#[tokio::test]
async fn the_service_that_was_ready_is_called() {
    let fake = Fake::start(late(0, allow())).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let layer = layer(&fake).await;
    let mut service = layer.layer(Counted(Arc::clone(&calls), false));
    for _ in 0..2 {
        let sent = request("/acme/web", ONE, "text/plain");
        let ready = service.ready().await.expect("infallible");
        ready.call(sent).await.expect("infallible");
    }
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}
