//! What Envoy does with the answers of an authorisation server: the facts that ours rest on.
//!
//! Shown with a server that answers whatever a test wants, also what ours never says.

use latchkey::proto::envoy::config::core::v3::{HeaderValue, HeaderValueOption, address};
use latchkey::proto::envoy::service::auth::v3::check_response::HttpResponse;
use latchkey::proto::envoy::service::auth::v3::{
    CheckResponse, DeniedHttpResponse, OkHttpResponse,
};
use latchkey::proto::envoy::r#type::v3::HttpStatus;
use tonic::Code;
use tonic_types::pb;

use super::client::{get, text};
use super::config::{Listener, config};
use super::fixed::Fixed;
use super::grpc::call;
use super::process::Envoy;
use super::upstream::Upstream;

const METHOD: &str = "/acme.v1.Secrets/GetSecret";

/// Two listeners, `closed` and `open` where the server fails.
struct Stage {
    fixed: Fixed,
    upstream: Upstream,
    envoy: Envoy,
}

impl Stage {
    async fn start() -> Self {
        let (fixed, upstream) = (Fixed::start().await, Upstream::start().await);
        let closed = Listener::asking("closed", fixed.port);
        let mut open = Listener::asking("open", fixed.port);
        open.failure_mode_allow = true;
        open.raw_headers = false;
        let envoy = Envoy::start(&config(&[closed, open], upstream.port)).await;
        Self {
            fixed,
            upstream,
            envoy,
        }
    }

    /// The statuses that clients of `closed` and `open` get.
    async fn statuses(&self, answer: Result<CheckResponse, Code>) -> (u16, u16) {
        self.fixed.answer(answer);
        let status = |name| async move { get("/").send(self.envoy.port(name)).await.status };
        (status("closed").await, status("open").await)
    }
}

fn status(code: Code) -> Option<pb::Status> {
    let code = code as i32;
    Some(pb::Status {
        code,
        ..pb::Status::default()
    })
}

fn denied(code: i32) -> DeniedHttpResponse {
    DeniedHttpResponse {
        status: Some(HttpStatus { code }),
        headers: Vec::new(),
        body: "no".to_owned(),
    }
}

fn denial(denied: DeniedHttpResponse) -> CheckResponse {
    CheckResponse {
        status: status(Code::PermissionDenied),
        http_response: Some(HttpResponse::DeniedResponse(denied)),
        dynamic_metadata: None,
    }
}

fn option(key: &str, value: &str, append: Option<bool>) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: key.to_owned(),
            value: value.to_owned(),
            raw_value: Vec::new(),
        }),
        append,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_grpc_obeys_the_failure_mode_and_a_denial_does_not() {
    let stage = Stage::start().await;
    for code in [
        Code::Unavailable,
        Code::PermissionDenied,
        Code::Unauthenticated,
    ] {
        assert_eq!(stage.statuses(Err(code)).await, (403, 200), "{code:?}");
    }
    for code in [400, 401, 403, 429, 500, 503] {
        let status = u16::try_from(code).expect("a status");
        let seen = stage.statuses(Ok(denial(denied(code)))).await;
        assert_eq!(seen, (status, status));
    }
    assert_eq!(stage.upstream.seen().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_without_a_status_lets_pass_whatever_else_it_says() {
    let stage = Stage::start().await;
    for status in [None, status(Code::Ok)] {
        let answer = CheckResponse {
            status,
            ..denial(denied(401))
        };
        assert_eq!(stage.statuses(Ok(answer)).await, (200, 200));
    }
    // And one with a status and nothing else does not.
    let bare = CheckResponse {
        status: status(Code::PermissionDenied),
        ..CheckResponse::default()
    };
    assert_eq!(stage.statuses(Ok(bare)).await, (403, 403));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_replaces_the_clients_own_where_it_is_said_to() {
    let stage = Stage::start().await;
    let seen = |append| {
        let ok = OkHttpResponse {
            headers: vec![option("x-who", "ours", append)],
            headers_to_remove: vec!["x-gone".to_owned()],
            ..OkHttpResponse::default()
        };
        stage.fixed.answer(Ok(CheckResponse {
            http_response: Some(HttpResponse::OkResponse(ok)),
            ..CheckResponse::default()
        }));
        let ask = get("/")
            .header("x-who", "theirs")
            .header("X-Who", "too")
            .header("X-Gone", "1");
        let port = stage.envoy.port("closed");
        async move { ask.send(port).await.seen() }
    };
    assert_eq!(seen(Some(true)).await.all("x-who"), ["theirs,ours", "too"]);
    // What this version makes of an answer that leaves it open; others have added.
    assert_eq!(seen(None).await.all("x-who"), ["ours"]);
    let replaced = seen(Some(false)).await;
    assert_eq!(replaced.all("x-who"), ["ours"]);
    assert!(replaced.all("x-gone").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_of_grpc_get_the_code_that_belongs_to_the_http_status() {
    let stage = Stage::start().await;
    let port = stage.envoy.port("closed");
    for (http, code) in [
        (400, Code::Internal),
        (401, Code::Unauthenticated),
        (403, Code::PermissionDenied),
        (404, Code::Unimplemented),
        (429, Code::Unavailable),
        (503, Code::Unavailable),
        (500, Code::Unknown),
    ] {
        stage.fixed.answer(Ok(denial(denied(http))));
        let refused = call(port, METHOD, None).await.expect_err("denied");
        assert_eq!((refused.code(), refused.message()), (code, "no"), "{http}");
    }
    // Unless the server writes the header itself.
    let mut other = denied(401);
    other.headers = ["grpc-status", "grpc-message"]
        .map(|name| option(name, "9", Some(false)))
        .into();
    stage.fixed.answer(Ok(denial(other)));
    let refused = call(port, METHOD, None).await.expect_err("denied");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_headers_alone_tell_two_values_from_one_and_bytes_from_text() {
    let stage = Stage::start().await;
    stage.fixed.answer(Ok(CheckResponse::default()));
    let ask = get("/a;b?c=/../d")
        .bearer("a")
        .header("AUTHORIZATION", b"Bearer \xe9")
        .header("X-API-Key", "a")
        .header("x-api-key", b"\xe9");
    let asked = |listener| {
        let (port, ask) = (stage.envoy.port(listener), &ask);
        let fixed = &stage.fixed;
        async move {
            let _ = ask.send(port).await.seen();
            let asked = fixed.asked().attributes.expect("attributes");
            asked.request.expect("a request").http.expect("of HTTP")
        }
    };
    let (raw, joined) = (asked("closed").await, asked("open").await);
    let map = raw.header_map.expect("raw").headers;
    let values = |name| {
        let headers = map.iter().filter(|header| header.key == name);
        Vec::from_iter(headers.map(|header| text(&header.raw_value)))
    };
    assert_eq!(values("x-api-key"), ["a", "\u{e9}"]);
    assert_eq!(joined.headers["x-api-key"], "a,!");
    // Envoy itself knows this one, and joins it wherever it is.
    assert_eq!(values("authorization"), ["Bearer a,Bearer \u{e9}"]);
    assert!(raw.headers.is_empty() && joined.header_map.is_none());
    assert_eq!(joined.headers["authorization"], "Bearer a,Bearer !");
    assert_eq!(
        (&*raw.path, &*joined.path),
        ("/a;b?c=/../d", "/a;b?c=/../d")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_needed_is_said_by_the_route_and_the_peer_by_the_connection() {
    let (fixed, upstream) = (Fixed::start().await, Upstream::start().await);
    let mut asking = Listener::asking("one", fixed.port)
        .route("/a/", &[("latchkey.action", "a:b"), ("other", "1")])
        .route("/", &[]);
    asking.appends_address = true;
    let envoy = Envoy::start(&config(&[asking], upstream.port)).await;
    fixed.answer(Ok(CheckResponse::default()));
    for (path, expected) in [("/a/b", 2), ("/b?/a/", 0)] {
        let ask = get(path)
            .from([127, 0, 0, 2])
            .header("x-forwarded-for", "192.0.2.1");
        let seen = ask.send(envoy.port("one")).await.seen();
        assert_eq!(seen.all("x-forwarded-for"), ["192.0.2.1,127.0.0.2"]);
        let asked = fixed.asked().attributes.expect("attributes");
        assert_eq!(asked.context_extensions.len(), expected, "{path}");
        let source = asked.source.and_then(|peer| peer.address?.address);
        let Some(address::Address::SocketAddress(source)) = source else {
            panic!("no address of {path}");
        };
        assert_eq!(source.address, "127.0.0.2");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_virtual_host_and_route_say_is_merged_key_by_key() {
    let (fixed, upstream) = (Fixed::start().await, Upstream::start().await);
    let mut asking =
        Listener::asking("one", fixed.port).route("/a/", &[("latchkey.action", "c:d")]);
    asking.of_host = &[("latchkey.action", "a:b"), ("latchkey.optional", "true")];
    let envoy = Envoy::start(&config(&[asking], upstream.port)).await;
    fixed.answer(Ok(CheckResponse::default()));
    for (path, action) in [("/a/", "c:d"), ("/b", "a:b")] {
        get(path).send(envoy.port("one")).await.seen();
        let asked = fixed
            .asked()
            .attributes
            .expect("attributes")
            .context_extensions;
        assert_eq!(asked["latchkey.action"], action);
        assert_eq!((&*asked["latchkey.optional"], asked.len()), ("true", 2));
    }
}
