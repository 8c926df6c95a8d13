//! With `failure_mode_allow` whoever makes the filter fail is let in: no client can.
//!
//! Requests that are large, strange or many, none of which has a good token, before an Envoy that
//! would let everything pass that is not judged.

use latchkey::proto::v1;
use rustix::process::Signal;
use serde_json::Value;
use tokio::task::JoinSet;

use super::client::{Ask, ask, get, until};
use super::config::Listener;
use super::mesh::{Mesh, NEEDS, SECRET, asking, web};
use crate::credentials::prepare;
use crate::program::fresh;
use crate::seal_keys::generate;

/// Two listeners that fail open and leave requests as they are.
async fn mesh(settings: &[&str]) -> Mesh {
    Mesh::start(settings, |port| {
        let mut raw = asking("raw", port);
        (raw.failure_mode_allow, raw.normalises) = (true, false);
        let mut joined = raw.clone();
        (joined.name, joined.raw_headers) = ("joined", false);
        vec![raw, joined]
    })
    .await
}

/// Headers that mean something to us or to Envoy.
const NAMES: [&str; 12] = [
    "authorization",
    "x-api-key",
    "content-type",
    "x-request-id",
    "x-forwarded-for",
    "x-latchkey-subject",
    "x_latchkey_subject",
    "x-forwarded-client-cert",
    "grpc-timeout",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-expected-rq-timeout-ms",
    "traceparent",
];

fn strange() -> Vec<Ask> {
    let mut asks = Vec::new();
    let long = "a".repeat(50 << 10);
    let values = [
        &b""[..],
        b"\x80\xff\xfe",
        b"Bearer \xff",
        b"\"<%00>\\r\\n{}",
        b"1",
        b"1n",
        b"application/grpc",
        b"application/grpc+proto",
        long.as_bytes(),
    ];
    for name in NAMES {
        for value in values {
            asks.push(get(SECRET).header(name, value));
        }
    }
    let many = |ask: Ask, count: usize, name: &str, value: &str| {
        (0..count).fold(ask, |ask, _| ask.header(name, value))
    };
    asks.extend([
        many(get(SECRET), 90, "x-many", &long[..500]),
        many(get(SECRET), 90, "x_latchkey_subject", "a"),
        many(get(SECRET), 90, "x-latchkey_subject", "a"),
        many(get(SECRET), 90, "authorization", "Bearer a"),
        many(get(SECRET), 90, "x-forwarded-for", "127.0.0.1,"),
        get(format!("/v1/secrets/{long}")),
        get(format!("{SECRET}?{long}")),
        get("/v1/secrets/%"),
        get(SECRET).header("host", "[::1]:99999"),
        get(SECRET).header("host", "a_b"),
        get(SECRET).header("host", "*"),
        ask("OPTIONS", SECRET),
        ask("TRACE", SECRET),
        ask("PROPFIND", SECRET),
        ask("POST", SECRET)
            .header("content-type", "application/grpc")
            .body(b"not a message"),
        get(SECRET)
            .header("connection", "upgrade")
            .header("upgrade", "websocket"),
    ]);
    asks
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_so_strange_that_it_passes_unjudged() {
    // Of which each part is within what Envoy takes.
    let mesh = mesh(&["limits.message_bytes_max=16384", "envoy.trusted_hops=1"]).await;
    for ask in strange() {
        for listener in ["raw", "joined"] {
            let (answer, _) = ask.open(mesh.envoy.port(listener)).await;
            assert!(
                answer.status >= 400 || answer.header("grpc-status").is_some(),
                "{answer:?}"
            );
            assert_eq!(mesh.reached().len(), 0, "{ask:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_passes_unjudged_because_there_are_many() {
    let mesh = mesh(&["limits.requests_waiting_max=1"]).await;
    let uses = 4;
    let few = mesh.issue(v1::IssueTokenRequest {
        uses: Some(uses),
        ..web()
    });
    let few = get(SECRET).bearer(&few.await.secret);
    let mut answers = JoinSet::new();
    for at in 0..96 {
        let ask = if at % 2 == 0 {
            few.clone()
        } else {
            get(SECRET)
        };
        let port = mesh.envoy.port(if at % 3 == 0 { "raw" } else { "joined" });
        answers.spawn(async move { ask.send(port).await.status });
    }
    let statuses = answers.join_all().await;
    let passed = statuses.iter().filter(|status| **status == 200).count();
    assert!(passed <= uses as usize, "{statuses:?}");
    assert_eq!(mesh.reached().len(), passed);
    let known = |status: &&u16| [200, 401, 503].contains(*status);
    assert_eq!(
        statuses.iter().filter(known).count(),
        statuses.len(),
        "{statuses:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_on_a_new_connection_is_judged_where_envoy_is_told_how_much_fits() {
    // Until it has heard of the limit Envoy asks as much as it likes, and what is refused fails.
    let mesh = Mesh::start(&["limits.streams_per_connection_max=4"], |port| {
        let mut told = asking("told", port);
        (told.failure_mode_allow, told.streams) = (true, Some(4));
        vec![told]
    })
    .await;
    let port = mesh.envoy.port("told");
    let mut answers = JoinSet::new();
    for _ in 0..64 {
        answers.spawn(async move { get(SECRET).send(port).await.status });
    }
    assert_eq!(answers.join_all().await, [401; 64]);
    assert_eq!(mesh.reached().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_question_is_lost_when_connections_are_renewed() {
    let mesh = mesh(&["limits.connection_age_max=200ms"]).await;
    let path = "/stats?format=json&filter=cluster.asked-by-raw.upstream_cx_total";
    let renewed = async || {
        let mut answers = JoinSet::new();
        for _ in 0..16 {
            let port = mesh.envoy.port("raw");
            answers.spawn(async move { get(SECRET).send(port).await.status });
        }
        assert_eq!(answers.join_all().await, [401; 16]);
        let told: Value = serde_json::from_str(&mesh.envoy.ask(path).await).expect("JSON");
        told["stats"][0]["value"].as_u64() > Some(8)
    };
    until("renewed", renewed).await;
    assert_eq!(mesh.reached().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_a_key_that_is_not_loaded_is_denied_where_stale_is_an_error() {
    let files = fresh();
    let (file, other) = (files.path().join("keys"), files.path().join("other"));
    generate(&file);
    generate(&other);
    let setting = format!("seal.keys_file={}", file.display());
    let mesh = Mesh::start(&[&setting, "seal.poll=1h"], |port| {
        let needs = [&NEEDS[..], &[("latchkey.stale", "error")]].concat();
        let mut open = Listener::asking("open", port).route("/v1/secrets/", &needs);
        open.failure_mode_allow = true;
        vec![open]
    })
    .await;
    prepare(&mesh.latchkey.admin());
    let secret = mesh.run("credential create ci --name n --reason r --secret-only");
    let admin = mesh.latchkey.admin();
    let login = admin.run_with_input("login ci --secret-file -", &secret);
    let ask = get(SECRET).bearer(login.ok().stdout.trim());
    let port = mesh.envoy.port("open");
    assert_eq!(ask.send(port).await.status, 200);
    assert_eq!(mesh.reached().len(), 1);

    // Its sender may be a stranger who knows no more than the key's id.
    std::fs::copy(&other, &file).expect("replaced");
    mesh.latchkey.signal(Signal::HUP);
    let denied = async || ask.send(port).await.status == 503;
    until("the key is gone", denied).await;
    let reached = mesh.reached().len();
    for _ in 0..3 {
        assert_eq!(ask.send(port).await.status, 503);
    }
    assert_eq!(mesh.reached().len(), reached);
}
