//! What requests need where Envoy's routes do not say it: Latchkey's own table.
//!
//! As for meshes that cannot send `context_extensions`, and for gRPC servers that ask without a
//! proxy, whose question is smaller.

use latchkey::proto::envoy::config::core::v3 as core;
use latchkey::proto::envoy::service::auth::v3 as auth;
use rustix::process::Signal;
use tempfile::TempDir;
use tonic::Code;

use super::client::{Ask, get, until};
use super::config::Listener;
use super::grpc::call;
use super::mesh::{Mesh, with_scope};
use crate::program::fresh;
use crate::wire::channel;
use auth::attribute_context::{HttpRequest, Peer, Request};
use auth::authorization_client::AuthorizationClient;
use auth::check_response::HttpResponse;

/// The tests' Envoy has one virtual host for all, so that ports are nothing to it.
const TABLE: &str = r#"
ignore_ports = true

[[route]]
host = "api.example.com"
methods = ["GET", "HEAD"]
path = "/v1/projects/{project}/secrets/{folder=**}"
action = "secrets:read"
resource = "acme/{project}/{header:x-environment}/{folder}"

[[route]]
host = "*.open.example.com"
path = "/**"
optional = true

[[route]]
grpc = "acme.v1.Secrets/GetSecret"
action = "secrets:read"
resource = "acme/web"

[[route]]
grpc = "acme.v1.Status/*"
optional = true

[[route]]
path = "/signed-in"
"#;

/// A table of its own, and an Envoy whose routes say nothing but for `/own`.
struct Stage {
    mesh: Mesh,
    file: TempDir,
}

impl Stage {
    async fn start() -> Self {
        let file = fresh();
        std::fs::write(file.path().join("routes.toml"), TABLE).expect("written");
        let setting = format!(
            "envoy.routes_file={}",
            file.path().join("routes.toml").display()
        );
        // Read again when it is told to, and not by itself.
        let settings = [&*setting, "envoy.routes_poll=1h"];
        let mesh = Mesh::start(&settings, |port| {
            let own = [("latchkey.action", "a:b"), ("latchkey.resource", "acme")];
            let raw = Listener::asking("raw", port)
                .route("/own", &own)
                .route("/other", &[("something.else", "1")]);
            let mut joined = raw.clone();
            (joined.name, joined.raw_headers) = ("joined", false);
            vec![raw, joined]
        });
        Self {
            mesh: mesh.await,
            file,
        }
    }

    async fn check(&self, ask: &Ask, status: u16, reason: Option<&str>) {
        for listener in ["raw", "joined"] {
            let answer = ask.send(self.mesh.envoy.port(listener)).await;
            assert_eq!(answer.status, status, "{answer:?}");
            if let Some(reason) = reason {
                assert_eq!(answer.json()["reason"], reason, "{ask:?}");
            }
        }
    }

    /// Puts another table in its place, as an editor does.
    fn replace(&self, table: &str) {
        let (new, file) = (
            self.file.path().join("new"),
            self.file.path().join("routes.toml"),
        );
        std::fs::write(&new, table).expect("written");
        std::fs::rename(new, file).expect("replaced");
        self.mesh.latchkey.signal(Signal::HUP);
    }
}

fn secret(folder: &str) -> Ask {
    get(format!("/v1/projects/web/secrets/{folder}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_route_of_the_table_that_matches_says_what_a_request_needs() {
    let stage = Stage::start().await;
    let token = stage
        .mesh
        .issue(with_scope("secrets:read@acme/web/prod/**"))
        .await
        .secret;
    let prod = |folder| {
        secret(folder)
            .bearer(&token)
            .header("x-environment", "prod")
    };
    stage.check(&prod("db/password?v=2"), 200, None).await;
    stage
        .check(
            &prod("a").header("x-environment", "prod"),
            403,
            Some("no_resource"),
        )
        .await;
    let test = secret("a").bearer(&token).header("x-environment", "test");
    stage.check(&test, 403, Some("not_permitted")).await;
    stage
        .check(&secret("a").bearer(&token), 403, Some("no_resource"))
        .await;
    stage
        .check(
            &secret("a").header("x-environment", "prod"),
            401,
            Some("no_token"),
        )
        .await;
    for host in [
        "API.example.com",
        "api.example.com:8443",
        "Api.Example.Com:80",
    ] {
        stage
            .check(&prod("a").header("host", host), 200, None)
            .await;
    }
    for host in [
        "example.com",
        "api.example.com.",
        "api.example.com.evil",
        "evil-api.example.com",
    ] {
        stage
            .check(&prod("a").header("host", host), 403, Some("no_route"))
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_may_be_for_everybody_or_for_everybody_with_a_token() {
    let stage = Stage::start().await;
    let token = stage.mesh.secret().await;
    let open = |host| get("/v1/projects/web/secrets/a").header("host", host);
    stage.check(&open("a.open.example.com"), 200, None).await;
    stage
        .check(&open("a.b.open.example.com:80"), 200, None)
        .await;
    stage
        .check(&open("open.example.com"), 403, Some("no_route"))
        .await;
    stage.check(&get("/signed-in"), 401, Some("no_token")).await;
    stage
        .check(&get("/signed-in").bearer(&token), 200, None)
        .await;
    // Compared decoded, so another spelling is the same to it.
    stage
        .check(&get("/%73igned-in"), 401, Some("no_token"))
        .await;
    stage
        .check(&get("/signed-in/").bearer(&token), 403, Some("no_route"))
        .await;
    // Where Envoy's own route says anything of ours, that alone counts.
    stage
        .check(&get("/own").bearer(&token), 403, Some("not_permitted"))
        .await;
    stage
        .check(&get("/other").bearer(&token), 403, Some("no_route"))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn methods_of_grpc_are_routes_too() {
    let stage = Stage::start().await;
    let token = stage.mesh.secret().await;
    let port = stage.mesh.envoy.port("raw");
    let get = "/acme.v1.Secrets/GetSecret";
    call(port, get, Some(("x-api-key", &token)))
        .await
        .expect("passes");
    call(port, "/acme.v1.Status/Any", None)
        .await
        .expect("passes");
    for (method, header, code) in [
        (get, None, Code::Unauthenticated),
        (
            "/acme.v1.Secrets/PutSecret",
            Some(("x-api-key", &*token)),
            Code::PermissionDenied,
        ),
        ("/acme.v1.Status/Any/Other", None, Code::PermissionDenied),
        ("/acme.v2.Status/Any", None, Code::PermissionDenied),
    ] {
        let refused = call(port, method, header).await.expect_err(method);
        assert_eq!(refused.code(), code, "{method}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_is_replaced_whole_and_a_broken_one_not_at_all() {
    let stage = Stage::start().await;
    let before = get("/signed-in");
    stage.check(&before, 401, Some("no_token")).await;
    let broken = format!("{TABLE}\n[[route]]\npath = \"/new\"\nacton = \"a:b\"\n");
    stage.replace(&broken);
    let told = async || stage.mesh.latchkey.logged().contains("acton");
    until("told", told).await;
    stage.check(&before, 401, Some("no_token")).await;
    stage.check(&get("/new"), 403, Some("no_route")).await;
    stage.replace("[[route]]\npath = \"/new\"\noptional = true\n");
    let port = stage.mesh.envoy.port("raw");
    let replaced = async || {
        // No request is lost meanwhile: it is judged by the one or by the other.
        assert!([401, 403].contains(&before.send(port).await.status));
        get("/new").send(port).await.status == 200
    };
    until("replaced", replaced).await;
    stage.check(&before, 403, Some("no_route")).await;
}

/// What a gRPC server asks that speaks to us without a proxy: its metadata as raw headers, who is
/// connected, and the method.
fn proxyless(method: &str, headers: &[(&str, &str)], peer: Peer) -> auth::CheckRequest {
    let headers = headers.iter().map(|(key, value)| core::HeaderValue {
        key: (*key).to_owned(),
        value: String::new(),
        raw_value: value.as_bytes().to_owned(),
    });
    let http = HttpRequest {
        method: "POST".to_owned(),
        path: method.to_owned(),
        protocol: "HTTP/2".to_owned(),
        header_map: Some(core::HeaderMap {
            headers: headers.collect(),
        }),
        ..HttpRequest::default()
    };
    auth::CheckRequest {
        attributes: Some(auth::AttributeContext {
            source: Some(peer),
            request: Some(Request { http: Some(http) }),
            ..auth::AttributeContext::default()
        }),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_asks_without_a_proxy_is_answered_as_envoy_is() {
    let stage = Stage::start().await;
    let token = stage.mesh.secret().await;
    let mut client = AuthorizationClient::new(channel(&stage.mesh.latchkey.address).await);
    let bearer = format!("Bearer {token}");
    let kind = ("content-type", "application/grpc");
    let (get, put) = ("/acme.v1.Secrets/GetSecret", "/acme.v1.Secrets/PutSecret");
    for (method, headers, code, http) in [
        (get, &[kind, ("authorization", &bearer)][..], Code::Ok, None),
        (get, &[kind], Code::Unauthenticated, Some(401)),
        (
            get,
            &[kind, ("authorization", "Bearer lkr_x")],
            Code::Unauthenticated,
            Some(401),
        ),
        (
            put,
            &[kind, ("authorization", &bearer)],
            Code::PermissionDenied,
            Some(403),
        ),
        ("", &[kind], Code::PermissionDenied, Some(403)),
    ] {
        let asked = proxyless(method, headers, Peer::default());
        let answer = client
            .check(asked)
            .await
            .expect("never an error")
            .into_inner();
        let status = answer.status.expect("always said");
        assert_eq!(Code::from(status.code), code, "{method} {headers:?}");
        let denied = match answer.http_response {
            Some(HttpResponse::DeniedResponse(denied)) => denied.status.map(|status| status.code),
            Some(HttpResponse::OkResponse(_)) | None => None,
        };
        assert_eq!(denied, http, "{method} {headers:?}");
    }
    // What is no question is a denial too.
    let answer = client.check(auth::CheckRequest::default()).await;
    let status = answer.expect("never an error").into_inner().status;
    assert!(status.is_some_and(|status| status.code != 0));
}
