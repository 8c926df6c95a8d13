//! Checks that are given up before they are answered: turned away, or too late. Each is told as one
//! that is refused: in its line, its span, its time and its count.
//!
//! A question that is not sent whole, one that waits for a revision that does not come, and one whose
//! use cannot be written while the test holds the lock of the log.

use latchkey::proto::v1;
use tonic::{Code, Request};
use v1::check_service_client::CheckServiceClient;

use super::access::{ROUTES, ask, lines, of_envoy};
use super::collector::Collector;
use super::shown;
use super::traces::{CALLER, UNARY, ended, telling, trace, traced};
use crate::leaks::metrics;
use crate::postgres::{self, database};
use crate::program::{Server, fresh};
use crate::replicas::bootstrap;
use crate::streams::half_sent;
use crate::wire::{channel, check};

const SHORT: &str = "limits.request_time_max=200ms";
const SHORT_NANOS: u64 = 200_000_000;
const BATCH: &str = "latchkey.v1.CheckService/BatchCheck";
const ENVOY: &str = "envoy.service.auth.v3.Authorization/Check";
/// What an append takes first.
const LOCK: &str = "BEGIN; SELECT pg_advisory_xact_lock(1818979961, 1)";

/// Sends the beginning of a question of this trace; the status of its answer.
async fn begun(server: &Server, method: &str, number: u8) -> String {
    let parent = format!("00-{}-{CALLER}-01", trace(number));
    let id = format!("request-{number}");
    let headers = [("traceparent", &*parent), ("x-request-id", &*id)];
    let path = format!("/{method}");
    half_sent(&server.address, &path, &headers, vec![0, 0, 0, 0, 9, 10]).await
}

/// A Check that waits for a revision that does not come.
fn ahead() -> v1::CheckRequest {
    let at_least = v1::Revision {
        number: 1_000_000,
        ..v1::Revision::default()
    };
    v1::CheckRequest {
        at_least: Some(at_least),
        ..check("", &[])
    }
}

/// The span of a question that was given up, with its reason and the status of its call.
#[track_caller]
fn check_span(collector: &Collector, number: u8, name: &str, reason: &str, status: &str) {
    let span = collector.span(&trace(number), name);
    assert_eq!(span.parent, CALLER);
    assert_eq!(span.attributes["latchkey.reason"], reason, "{span:?}");
    let told = &span.attributes["rpc.response.status_code"];
    assert_eq!(told, status, "{span:?}");
    let failed = span.attributes.get("error.type").map(String::as_str);
    assert_eq!(failed, Some(status).filter(|it| *it != "OK"), "{span:?}");
}

/// What the lines of these requests say.
#[track_caller]
fn check_lines(log: &str, expected: &[(&str, u8, &str)]) {
    let lines = lines(log);
    for (method, number, reason) in expected {
        let of = |line: &&serde_json::Value| line["trace_id"] == trace(*number);
        let mut found = lines.iter().filter(of);
        let line = found.next().unwrap_or_else(|| panic!("{number}: {log}"));
        assert_eq!(found.next(), None, "{log}");
        assert_eq!(line["method"], *method, "{line}");
        assert_eq!(line["reason"], *reason, "{line}");
        assert_eq!(line["allowed"], false, "{line}");
        assert_eq!(line["peer"], "127.0.0.1", "{line}");
    }
    assert_eq!(lines.len(), expected.len(), "{log}");
}

/// How many questions of a way have a time.
fn timed(text: &str, way: &str) -> f64 {
    shown(
        text,
        &format!("latchkey_check_seconds_count{{method=\"{way}\"}}"),
    )
}

fn refused(text: &str, reason: &str) -> f64 {
    let metric = format!("latchkey_checks_refused_total{{reason=\"{reason}\"}}");
    shown(text, &metric)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_is_too_late_is_told_counted_and_timed_embedded() {
    let (folder, collector) = (fresh(), Collector::start().await);
    let server = telling(&folder, &collector, &[SHORT]);
    assert_eq!(begun(&server, UNARY, 1).await, "14");
    assert_eq!(begun(&server, BATCH, 2).await, "14");
    // For Envoy an error could be an allow.
    assert_eq!(begun(&server, ENVOY, 3).await, "0");
    let mut client = CheckServiceClient::new(channel(&server.address).await);
    let waits = client.check(traced(4, true, Request::new(ahead()))).await;
    assert_eq!(waits.expect_err("too late").code(), Code::Unknown);
    let batch = v1::BatchCheckRequest {
        at_least: ahead().at_least,
        checks: vec![check("", &[]); 3],
    };
    let waits = client.batch_check(traced(5, true, Request::new(batch)));
    let waits = waits.await.expect_err("too late");
    assert_eq!(waits.code(), Code::Unavailable);
    collector.received(5).await;
    let text = tokio::task::block_in_place(|| metrics(&server.admin_address));
    let log = ended(server);

    let (late, unknown) = ("UNAVAILABLE", "OUTCOME_UNKNOWN");
    check_span(&collector, 1, UNARY, late, late);
    check_span(&collector, 2, BATCH, late, late);
    check_span(&collector, 3, ENVOY, "unanswered", "OK");
    check_span(&collector, 4, UNARY, unknown, "UNKNOWN");
    check_span(&collector, 5, BATCH, late, late);
    let spans = collector.spans();
    assert_eq!(spans.len(), 5, "{spans:#?}");
    // All of it counts, from when the call came.
    assert!(
        spans.iter().all(|span| span.nanos >= SHORT_NANOS),
        "{spans:#?}"
    );
    let (unary, batch) = ("CheckService/Check", "CheckService/BatchCheck");
    let envoy = "Authorization/Check";
    check_lines(
        &log,
        &[
            (unary, 1, late),
            (batch, 2, late),
            (envoy, 3, "unanswered"),
            (unary, 4, unknown),
            (batch, 5, late),
        ],
    );
    assert_eq!(lines(&log)[0]["request_id"], "request-1");
    assert_eq!(
        [unary, batch, envoy].map(|way| timed(&text, way)),
        [2.0, 2.0, 1.0]
    );
    let counts = [late, unknown, "UNANSWERED"].map(|reason| refused(&text, reason));
    assert_eq!(counts, [3.0, 1.0, 1.0]);
    let passed = r#"latchkey_envoy_requests_total{outcome="unavailable"}"#;
    assert_eq!(shown(&text, passed), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_finds_no_place_to_wait_is_told_counted_and_timed_embedded() {
    let (folder, collector) = (fresh(), Collector::start().await);
    let crowded = "limits.requests_waiting_max=1";
    let server = telling(&folder, &collector, &[crowded]);
    let both = [begun(&server, UNARY, 1), begun(&server, UNARY, 1)];
    // One of them has the place, and much time.
    let (status, _, waits) = futures_util::future::select_all(both.map(Box::pin)).await;
    assert_eq!(status, "14");
    collector.received(1).await;
    let text = tokio::task::block_in_place(|| metrics(&server.admin_address));
    drop(waits);
    let log = ended(server);
    check_span(&collector, 1, UNARY, "UNAVAILABLE", "UNAVAILABLE");
    check_lines(&log, &[("CheckService/Check", 1, "UNAVAILABLE")]);
    assert_eq!(timed(&text, "CheckService/Check"), 1.0);
    assert_eq!(refused(&text, "UNAVAILABLE"), 1.0);
    assert_eq!(shown(&text, "latchkey_requests_shed_total"), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_use_that_is_not_written_in_time_is_told_with_its_token_postgres() {
    let (database, collector) = (database().await, Collector::start().await);
    let (token, folder) = (bootstrap(&database), fresh());
    let routes = folder.path().join("routes.toml");
    std::fs::write(&routes, ROUTES).expect("written");
    let routes = format!("envoy.routes_file={}", routes.display());
    let endpoint = collector.setting();
    let start = |name: &str, settings: &[&str]| {
        // No lease ends on a busy machine.
        let all = settings.iter().chain(&["lease.length=60s"]);
        let arguments: Vec<&str> = all.flat_map(|one| ["--set", one]).collect();
        let started = Server::replica(&database.url, name, &arguments);
        started.unwrap_or_else(|said| panic!("{said}"))
    };
    let (a, b) = (start("a", &[SHORT, &routes, &endpoint]), start("b", &[]));
    let issue = "--kind user --ttl 1h --uses 9 --name a --reason a --wait";
    let (id, secret) = b.as_bearer(&token).issue(issue);
    let holder = postgres::server().client("postgres", &database.name).await;
    holder.batch_execute(LOCK).await.expect("held");
    let channel = channel(&a.address).await;
    let bearer = format!("Bearer {secret}");
    let headers = [("authorization", &*bearer), ("x-request-id", "envoys")];
    let question = Request::new(of_envoy("/v1/secrets/db", &headers));
    assert_eq!(ask(&channel, traced(1, true, question)).await, 14);
    let question = traced(2, true, Request::new(check(&secret, &[])));
    let answer = CheckServiceClient::new(channel).check(question).await;
    assert_eq!(answer.expect_err("too late").code(), Code::Unknown);
    collector.received(2).await;
    holder.batch_execute("ROLLBACK").await.expect("free");
    let text = tokio::task::block_in_place(|| metrics(&a.admin_address));
    let log = ended(a);

    check_span(&collector, 1, ENVOY, "unanswered", "OK");
    check_span(&collector, 2, UNARY, "OUTCOME_UNKNOWN", "UNKNOWN");
    let span = collector.span(&trace(1), ENVOY);
    assert_eq!(span.attributes["latchkey.token.id"], id);
    assert_eq!(span.attributes["url.path"], "/v1/secrets/db");
    let (envoy, unary) = ("Authorization/Check", "CheckService/Check");
    check_lines(
        &log,
        &[(envoy, 1, "unanswered"), (unary, 2, "OUTCOME_UNKNOWN")],
    );
    let line = &lines(&log)[0];
    assert_eq!(
        (&line["token_id"], &line["request_id"]),
        (&id.into(), &"envoys".into())
    );
    assert_eq!([envoy, unary].map(|way| timed(&text, way)), [1.0; 2]);
    assert_eq!(refused(&text, "UNANSWERED"), 1.0);
    assert!(!log.contains(&secret[4..30]) && !collector.holds(&secret[4..30]));
}
