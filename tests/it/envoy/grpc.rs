//! gRPC and gRPC-Web through Envoy, as real clients see it.
//!
//! Envoy makes the code of a denied call of the HTTP status that it is told, and the message of
//! the body.

use std::time::Duration;

use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;

use super::client::{Ask, ask};
use super::config::Listener;
use super::mesh::{Mesh, with_scope};
use crate::wire::channel;

/// Calls a method that takes and gives a text, with one header.
pub(crate) async fn call(
    port: u16,
    path: &'static str,
    header: Option<(&'static str, &str)>,
) -> Result<Response<String>, Status> {
    let mut client = Grpc::new(channel(&format!("127.0.0.1:{port}")).await);
    client.ready().await.expect("connected");
    let mut request = Request::new("hello".to_owned());
    request.set_timeout(Duration::from_secs(60));
    if let Some((name, value)) = header {
        let value = value.parse().expect("ascii");
        request.metadata_mut().insert(name, value);
    }
    let (path, codec) = (PathAndQuery::from_static(path), ProstCodec::default());
    client.unary(request, path, codec).await
}

const METHOD: &str = "/acme.v1.Secrets/GetSecret";
const NEEDS: [(&str, &str); 2] = [
    ("latchkey.action", "secrets:read"),
    ("latchkey.resource", "acme/web"),
];

fn listener(name: &'static str, port: u16) -> Listener {
    Listener::asking(name, port).route("/acme.v1.Secrets/", &NEEDS)
}

/// `raw`, `joined`, and `web` with Envoy's gRPC-Web filter.
async fn mesh() -> Mesh {
    Mesh::start(&[], |port| {
        let [raw, mut joined, mut web] = ["raw", "joined", "web"].map(|name| listener(name, port));
        joined.raw_headers = false;
        web.grpc_web = true;
        vec![raw, joined, web]
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_get_the_code_and_the_sentence_of_a_denial() {
    let mesh = mesh().await;
    let (token, narrow) = (mesh.secret().await, with_scope("secrets:write@acme/web"));
    let narrow = mesh.issue(narrow).await.secret;
    for listener in ["raw", "joined"] {
        let port = mesh.envoy.port(listener);
        let bearer = format!("Bearer {token}");
        let told = call(port, METHOD, Some(("authorization", &bearer)))
            .await
            .expect("passes");
        assert_eq!(told.get_ref(), "hello");
        let seen = mesh.upstream.seen().pop().expect("the call");
        assert_eq!((&*seen.method, &*seen.target), ("POST", METHOD));
        assert_eq!(seen.all("x-latchkey-kind"), ["resource"]);
        call(port, METHOD, Some(("x-api-key", &token)))
            .await
            .expect("passes");

        let before = mesh.reached().len();
        for (method, header, code, message) in [
            (
                METHOD,
                None,
                Code::Unauthenticated,
                "no token was presented",
            ),
            (
                METHOD,
                Some(("x-api-key", "lkr_nobodys")),
                Code::Unauthenticated,
                "the token is not known",
            ),
            (
                METHOD,
                Some(("x-api-key", &*narrow)),
                Code::PermissionDenied,
                "the token does not permit this",
            ),
            (
                METHOD,
                Some(("x-api-key", "a,b")),
                Code::Unauthenticated,
                "more than one credential was presented",
            ),
            (
                "/acme.v1.Others/Get",
                Some(("x-api-key", &*token)),
                Code::PermissionDenied,
                "no rule permits this request",
            ),
            (
                "/acme.v1.Secrets/Get;Secret",
                Some(("x-api-key", &*token)),
                Code::PermissionDenied,
                "the path can be read in more than one way",
            ),
        ] {
            let refused = call(port, method, header).await.expect_err("denied");
            assert_eq!(
                (refused.code(), refused.message()),
                (code, message),
                "{header:?}"
            );
        }
        assert_eq!(mesh.reached().len(), before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_of_an_envoy_that_may_not_ask_may_try_again() {
    let mesh = Mesh::start(&["check.open=false"], |port| vec![listener("one", port)]).await;
    let token = mesh.secret().await;
    let header = Some(("x-api-key", &*token));
    let refused = call(mesh.envoy.port("one"), METHOD, header)
        .await
        .expect_err("denied");
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
}

/// A message of gRPC: whether it is compressed, its length, itself.
const FRAMED: &[u8] = b"\0\0\0\0\x07\x0a\x05hello";

fn web(path: &str) -> Ask {
    let ask = ask("POST", path).header("content-type", "application/grpc-web+proto");
    ask.header("x-grpc-web", "1").body(FRAMED)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn browsers_are_answered_in_grpc_web_where_envoy_speaks_it_and_in_http_elsewhere() {
    let mesh = mesh().await;
    let token = mesh.secret().await;
    let port = mesh.envoy.port("web");
    let passed = web(METHOD).bearer(&token).send(port).await;
    assert_eq!(passed.status, 200, "{passed:?}");
    assert!(
        passed.body.starts_with("\0\0\0\0\x07\n\x05hello"),
        "{passed:?}"
    );
    let seen = mesh.upstream.seen().pop().expect("the call");
    assert_eq!(seen.all("content-type"), ["application/grpc"]);
    let refused = web(METHOD).send(port).await;
    assert_eq!(refused.status, 401, "{refused:?}");
    assert_eq!(
        refused.header("content-type"),
        Some("application/grpc-web+proto")
    );
    assert_eq!(refused.header("grpc-status"), Some("16"));
    assert_eq!(
        refused.header("grpc-message"),
        Some("no token was presented")
    );

    // To an Envoy that does not speak it this is HTTP, and so is the answer.
    let port = mesh.envoy.port("raw");
    let before = mesh.reached().len();
    let refused = web(METHOD).send(port).await;
    assert_eq!(refused.status, 401, "{refused:?}");
    assert_eq!(refused.json()["reason"], "no_token");
    assert_eq!(mesh.reached().len(), before);
    let seen = web(METHOD).bearer(&token).send(port).await.seen();
    assert_eq!(seen.all("content-type"), ["application/grpc-web+proto"]);
}
