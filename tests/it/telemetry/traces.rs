//! Spans of a running server, as a collector of the test's own receives them.
//!
//! Calls are of traces that the test names. What must come is waited for; a server that ends then
//! sends what is queued, so that what must not come would be there, too. Absent: what tracing does
//! inside; only what arrives counts.

use latchkey::proto::v1;
use tempfile::TempDir;
use tokio_stream::Iter;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::access::{of_envoy, server};
use super::collector::{Collector, Span};
use super::shown;
use crate::crash::issue;
use crate::fleet::revoke;
use crate::leaks::metrics;
use crate::postgres::database;
use crate::program::{Server, fresh};
use crate::replicas::bootstrap;
use crate::wire::{bearer, channel, check};
use latchkey::proto::envoy::service::auth::v3::CheckRequest as Question;
use latchkey::proto::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use v1::audit_service_client::AuditServiceClient;
use v1::check_service_client::CheckServiceClient;
use v1::token_service_client::TokenServiceClient;

type Questions = Iter<std::vec::IntoIter<v1::StreamCheckRequest>>;

/// OTLP's number of a server's span, and of one inside.
const SERVER: i32 = 2;
const INTERNAL: i32 = 1;
/// The name of a Check's span.
pub(super) const UNARY: &str = "latchkey.v1.CheckService/Check";
/// Of a question of a stream.
const STREAM: &str = "latchkey.v1.CheckService/StreamCheck";
/// Of a caller.
pub(super) const CALLER: &str = "00f067aa0ba902b7";
const UNBOUND: &str = "telemetry.traces.asked_per_second=100000";
/// More Checks than there are places for their spans.
const MANY: usize = 6_000;

/// The number of a trace as its id.
pub(super) fn trace(number: u8) -> String {
    format!("4bf92f3577b34da6a3ce929d0e0e47{number:02x}")
}

/// A call of a trace, recorded or not.
pub(super) fn traced<T>(number: u8, sampled: bool, mut request: Request<T>) -> Request<T> {
    let flags = if sampled { "01" } else { "00" };
    let parent = format!("00-{}-{CALLER}-{flags}", trace(number));
    let metadata = request.metadata_mut();
    metadata.insert("traceparent", parent.parse().expect("ascii"));
    metadata.insert("tracestate", "vendor=1".parse().expect("ascii"));
    request
}

/// Starts it with a collector.
pub(super) fn telling(folder: &TempDir, collector: &Collector, settings: &[&str]) -> Server {
    let endpoint = collector.setting();
    let settings: Vec<&str> = settings.iter().copied().chain([&*endpoint]).collect();
    tokio::task::block_in_place(|| server(folder, &settings))
}

pub(super) fn ended(server: Server) -> String {
    tokio::task::block_in_place(|| server.terminate())
}

async fn ask(channel: &Channel, question: Request<Question>) {
    let mut client = AuthorizationClient::new(channel.clone());
    client.check(question).await.expect("answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sampled_question_is_a_span_in_its_callers_trace_and_no_other_is_embedded() {
    let (folder, collector) = (fresh(), Collector::start().await);
    let server = telling(&folder, &collector, &["telemetry.namespace=prod"]);
    let (id, secret) = server
        .admin()
        .issue("--kind user --ttl 1h --name a --reason a");
    let mut client = CheckServiceClient::new(channel(&server.address).await);
    let question = || Request::new(check(&secret, &[("secrets:read", "acme/web")]));
    for question in [
        traced(1, true, question()),
        traced(2, false, question()),
        question(),
    ] {
        client.check(question).await.expect("answered");
    }
    collector.received(1).await;
    let log = ended(server);
    assert_eq!(collector.spans().len(), 1, "{:#?}", collector.spans());
    let span = collector.span(&trace(1), UNARY);
    assert_eq!((&*span.parent, span.kind), (CALLER, SERVER));
    assert_eq!(span.state, "vendor=1");
    assert!(span.nanos > 0 && span.nanos < 60_000_000_000, "{span:?}");
    let expected = [
        ("client.address", "127.0.0.1"),
        ("latchkey.needs", "secrets:read@acme/web"),
        ("latchkey.reason", "allowed"),
        ("latchkey.subject", "user:admin"),
        ("latchkey.token.id", &id),
        ("latchkey.token.kind", "user"),
        ("network.peer.address", "127.0.0.1"),
        ("rpc.method", UNARY),
        ("rpc.response.status_code", "OK"),
        ("rpc.system.name", "grpc"),
    ];
    let found = span.attributes.iter();
    let found: Vec<_> = found.map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(found, expected);
    let resource = &collector.resources()[0];
    assert_eq!(resource["service.name"], "latchkey");
    assert_eq!(resource["service.namespace"], "prod");
    assert!(!resource["service.instance.id"].is_empty());
    // A token's text, without the prefix that a line of a denial shows.
    assert!(!collector.holds(&secret[4..30]) && !log.contains(&secret[4..30]));
    assert!(collector.holds(&id), "it looks for what is not there");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_ask_makes_one_span_a_call_embedded() {
    let (folder, collector) = (fresh(), Collector::start().await);
    let server = telling(&folder, &collector, &[]);
    let (_, secret) = server
        .admin()
        .issue("--kind user --ttl 1h --uses 1 --name a --reason a");
    let mut client = CheckServiceClient::new(channel(&server.address).await);
    // Read by prost; counted by the writer; one call of several questions; refused.
    let mut unusual = check(&secret, &[]);
    unusual.accepted_kinds = vec![v1::TokenKind::Team.into()];
    let counted = check(&secret, &[]);
    for (number, question) in [(1, unusual), (2, counted.clone()), (3, counted)] {
        let question = traced(number, true, Request::new(question));
        client.check(question).await.expect("answered");
    }
    let batch = v1::BatchCheckRequest {
        checks: vec![check(&secret, &[]), check("", &[])],
        ..v1::BatchCheckRequest::default()
    };
    let batch = traced(4, true, Request::new(batch));
    client.batch_check(batch).await.expect("answered");
    let strange = Request::new(check(&secret, &[("a:b", "c/../d")]));
    client.check(traced(5, true, strange)).await.unwrap_err();
    collector.received(5).await;
    ended(server);
    let check = |number: u8, name: &str, expected: [&str; 3]| {
        let span = collector.span(&trace(number), name);
        let told = |name: &str| span.attributes.get(name).cloned().unwrap_or_default();
        let names = [
            "latchkey.reason",
            "rpc.response.status_code",
            "latchkey.checks",
        ];
        assert_eq!(names.map(told), expected, "{number}");
    };
    check(1, UNARY, ["wrong_kind", "OK", ""]);
    check(2, UNARY, ["allowed", "OK", ""]);
    check(3, UNARY, ["uses_exhausted", "OK", ""]);
    check(4, "latchkey.v1.CheckService/BatchCheck", ["", "OK", "2"]);
    check(5, UNARY, ["INVALID_ARGUMENT", "INVALID_ARGUMENT", ""]);
    assert_eq!(collector.spans().len(), 5, "{:#?}", collector.spans());
}

/// Asks on one stream, and reads the answers.
async fn ask_all(
    channel: &Channel,
    checks: &[v1::CheckRequest],
    call: impl FnOnce(Questions) -> Request<Questions>,
) -> Result<(), Status> {
    let checks = checks.iter().cloned().zip(1..);
    let questions = checks.map(|(check, id)| v1::StreamCheckRequest {
        id,
        check: Some(check),
    });
    let questions: Vec<_> = questions.collect();
    let asked = questions.len();
    let mut client = CheckServiceClient::new(channel.clone());
    let answers = client.stream_check(call(tokio_stream::iter(questions)));
    let mut answers = answers.await?.into_inner();
    for _ in 0..asked {
        answers.message().await?.expect("an answer");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_question_of_a_sampled_stream_is_a_span_and_no_other_is_embedded() {
    let (folder, collector) = (fresh(), Collector::start().await);
    let server = telling(&folder, &collector, &["check.open=false"]);
    let admin = server.admin.clone().expect("fresh");
    let (id, secret) = server
        .admin()
        .issue("--kind user --ttl 1h --name a --reason a");
    let channel = channel(&server.address).await;
    let checks = [
        check(&secret, &[("secrets:read", "acme/web")]),
        check("", &[]),
        check(&secret, &[("a:b", "c/../d")]),
    ];
    let told = |questions| traced(1, true, bearer(&admin, questions));
    ask_all(&channel, &checks, told).await.expect("answered");
    let untold = |questions| traced(2, false, bearer(&admin, questions));
    ask_all(&channel, &checks, untold).await.expect("answered");
    let silent = |questions| bearer(&admin, questions);
    ask_all(&channel, &checks, silent).await.expect("answered");
    // A stream that is not opened at all.
    let nobodys = |questions| traced(3, true, Request::new(questions));
    ask_all(&channel, &checks, nobodys)
        .await
        .expect_err("refused");
    collector.received(4).await;
    ended(server);
    let mut spans = collector.spans();
    let refused = collector.span(&trace(3), STREAM);
    spans.retain(|span| span.id != refused.id);
    let told = |span: &Span| {
        let told = |name: &str| span.attributes.get(name).cloned().unwrap_or_default();
        let names = ["latchkey.reason", "rpc.response.status_code"];
        names.map(told).join(" ")
    };
    assert_eq!(told(&refused), "UNAUTHENTICATED UNAUTHENTICATED");
    let found: Vec<String> = spans.iter().map(told).collect();
    let invalid = "INVALID_ARGUMENT INVALID_ARGUMENT";
    assert_eq!(found, ["allowed OK", "no_token OK", invalid]);
    for span in &spans {
        assert_eq!((&span.trace, &*span.parent), (&trace(1), CALLER));
        assert_eq!((&*span.name, span.kind), (STREAM, SERVER));
        assert_eq!(span.state, "vendor=1");
    }
    assert_ne!(spans[0].id, spans[1].id);
    assert_eq!(spans[0].attributes["latchkey.token.id"], id);
    assert!(!collector.holds(&secret[4..30]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_through_envoy_is_in_the_trace_of_envoy_or_of_its_client_embedded() {
    let (folder, collector) = (fresh(), Collector::start().await);
    let server = telling(&folder, &collector, &[]);
    let (_, secret) = server
        .admin()
        .issue("--kind user --ttl 1h --name a --reason a");
    let channel = channel(&server.address).await;
    let bearer = format!("Bearer {secret}");
    let client = |number: u8, flags: &str| format!("00-{}-{CALLER}-{flags}", trace(number));
    let question = |parent: &str| {
        let headers = [("authorization", &*bearer), ("traceparent", parent)];
        Request::new(of_envoy(&format!("/v1/secrets/db?key={secret}"), &headers))
    };
    // Envoy's own span counts, whatever its client says.
    ask(&channel, traced(1, true, question(&client(2, "01")))).await;
    ask(&channel, question(&client(3, "01"))).await;
    ask(&channel, traced(4, false, question(&client(5, "01")))).await;
    ask(&channel, question(&client(6, "00"))).await;
    collector.received(2).await;
    let log = ended(server);
    let mut traces: Vec<String> = collector.spans().into_iter().map(|one| one.trace).collect();
    traces.sort_unstable();
    assert_eq!(traces, [trace(1), trace(3)]);
    let span = collector.span(&trace(3), "envoy.service.auth.v3.Authorization/Check");
    assert_eq!(span.parent, CALLER);
    assert_eq!(span.attributes["url.path"], "/v1/secrets/db");
    assert_eq!(span.attributes["http.request.method"], "GET");
    assert_eq!(span.attributes["client.address"], "192.0.2.7");
    assert!(!collector.holds(&secret[4..30]) && !log.contains(&secret[4..30]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_for_a_management_call_lies_within_its_span_embedded() {
    let (folder, collector) = (fresh(), Collector::start().await);
    let headers = "telemetry.otlp.headers=authorization=Basic hidden, X-Scope=a";
    let server = telling(&folder, &collector, &[headers]);
    let token = server.admin.clone().expect("fresh");
    let mut tokens = TokenServiceClient::new(channel(&server.address).await);
    let issue = issue(1);
    let issued = bearer(&token, issue.clone());
    let issued = tokens.issue_token(traced(1, true, issued)).await;
    let issued = issued.expect("issued").into_inner();
    let unsampled = traced(2, false, bearer(&token, issue.clone()));
    tokens.issue_token(unsampled).await.expect("issued");
    let nobodys = traced(3, true, bearer(&issued.secret[..40], issue));
    tokens.issue_token(nobodys).await.unwrap_err();
    let mut audit = AuditServiceClient::new(channel(&server.address).await);
    let list = bearer(&token, v1::ListChangesRequest::default());
    audit
        .list_changes(traced(4, true, list))
        .await
        .expect("listed");
    collector.received(6).await;
    let log = ended(server);

    let method = "latchkey.v1.TokenService/IssueToken";
    let call = collector.span(&trace(1), method);
    assert_eq!((&*call.parent, call.kind), (CALLER, SERVER));
    assert_eq!(call.state, "vendor=1");
    assert_eq!(call.attributes["rpc.method"], method);
    assert_eq!(call.attributes["rpc.response.status_code"], "OK");
    assert_eq!(call.attributes["client.address"], "127.0.0.1");
    assert_eq!(call.attributes["latchkey.token.id"].len(), 36);
    let commit = collector.span(&trace(1), "commit");
    let append = collector.span(&trace(1), "store append");
    assert_eq!((&commit.parent, commit.kind), (&call.id, INTERNAL));
    assert_eq!((&append.parent, append.kind), (&commit.id, INTERNAL));
    assert!(append.nanos <= commit.nanos && commit.nanos <= call.nanos);
    let refused = collector.span(&trace(3), method);
    assert_eq!(
        refused.attributes["rpc.response.status_code"],
        "UNAUTHENTICATED"
    );
    assert_eq!(refused.attributes["latchkey.reason"], "UNAUTHENTICATED");
    let list = collector.span(&trace(4), "latchkey.v1.AuditService/ListChanges");
    let mut spans = collector.spans();
    let read = |span: &Span| span.name == "store log" && span.parent == list.id;
    assert!(spans.iter().any(read), "{spans:#?}");
    spans.retain(|span| ![1, 3, 4].map(trace).contains(&span.trace));
    assert!(spans.is_empty(), "{spans:#?}");

    let sent = collector.metadata("authorization");
    assert!(
        sent.iter().all(|it| it.as_deref() == Some("Basic hidden")),
        "{sent:?}"
    );
    assert_eq!(collector.metadata("x-scope")[0].as_deref(), Some("a"));
    assert!(!log.contains("hidden"));
    for secret in [&token, &issued.secret] {
        assert!(!collector.holds(&secret[4..30]) && !log.contains(&secret[4..30]));
    }
    // The line of a write is found by its trace.
    assert!(
        log.contains(&format!(r#""trace_id":"{}""#, trace(1))),
        "{log}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_barrier_lies_within_the_call_that_waits_for_it_postgres() {
    let (database, collector) = (database().await, Collector::start().await);
    let (token, endpoint) = (bootstrap(&database), collector.setting());
    let settings = ["--set", "lease.length=60s", "--set", &endpoint];
    let server = Server::replica(&database.url, "a", &settings);
    let server = server.unwrap_or_else(|said| panic!("{said}"));
    let mut tokens = TokenServiceClient::new(channel(&server.address).await);
    let issued = tokens.issue_token(bearer(&token, issue(1))).await;
    let secret = issued.expect("issued").into_inner().secret;
    let request = traced(1, true, bearer(&token, revoke(&secret)));
    tokens.revoke_token(request).await.expect("revoked");
    collector.received(5).await;
    ended(server);
    let call = collector.span(&trace(1), "latchkey.v1.TokenService/RevokeToken");
    let barrier = collector.span(&trace(1), "barrier");
    assert_eq!(barrier.parent, call.id);
    let spans = collector.spans();
    let read = |span: &Span| span.name == "store roster" && span.parent == barrier.id;
    assert!(spans.iter().any(read), "{spans:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_calls_that_say_nothing_so_many_have_spans_as_the_ratio_says_embedded() {
    let (folder, collector) = (fresh(), Collector::start().await);
    let server = telling(&folder, &collector, &["telemetry.traces.ratio=1"]);
    let mut client = CheckServiceClient::new(channel(&server.address).await);
    for _ in 0..2 {
        client.check(check("", &[])).await.expect("answered");
    }
    let unsampled = traced(1, false, Request::new(check("", &[])));
    client.check(unsampled).await.expect("answered");
    // Each question of a stream is one.
    let stream = channel(&server.address).await;
    let checks = [check("", &[]), check("", &[])];
    ask_all(&stream, &checks, Request::new)
        .await
        .expect("answered");
    let untold = |questions| traced(1, false, Request::new(questions));
    ask_all(&stream, &checks, untold).await.expect("answered");
    let mut tokens = TokenServiceClient::new(channel(&server.address).await);
    let who = bearer(
        server.admin.as_deref().expect("fresh"),
        v1::WhoAmIRequest::default(),
    );
    tokens.who_am_i(who).await.expect("answered");
    collector.received(6).await;
    ended(server);
    let mut spans = collector.spans();
    spans.retain(|span| span.parent.is_empty());
    let mut names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    names.sort_unstable();
    let who = "latchkey.v1.TokenService/WhoAmI";
    assert_eq!(names, [UNARY, UNARY, STREAM, STREAM, who]);
    let mut traces: Vec<&str> = spans.iter().map(|span| span.trace.as_str()).collect();
    traces.sort_unstable();
    traces.dedup();
    assert_eq!(traces.len(), spans.len(), "{spans:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_have_so_many_calls_traced_a_second_and_no_more_embedded() {
    let (folder, collector) = (fresh(), Collector::start().await);
    let bound = "telemetry.traces.asked_per_second=2";
    let server = telling(&folder, &collector, &[bound]);
    let channel = channel(&server.address).await;
    let mut client = CheckServiceClient::new(channel.clone());
    let checks = [check("", &[]), check("", &[])];
    let text = || tokio::task::block_in_place(|| metrics(&server.admin_address));
    let left_out = || shown(&text(), "latchkey_traces_left_out_total");
    let mut asked = 0_u32;
    // However slow the machine is, a second with more comes.
    while left_out() < 3.0 {
        for _ in 0..3 {
            let question = traced(1, true, Request::new(check("", &[])));
            client.check(question).await.expect("answered");
        }
        let told = |questions| traced(1, true, Request::new(questions));
        ask_all(&channel, &checks, told).await.expect("answered");
        asked += 5;
        assert!(asked < 1_000_000, "{}", left_out());
    }
    let left_out = left_out();
    let log = ended(server);
    // All that are not left out arrive.
    let spans = collector.spans().len();
    assert_eq!(spans as f64 + left_out, f64::from(asked), "{log}");
    assert!(spans >= 2, "{spans}");
}

/// Asks so many sampled Checks, and how many of their spans were lost, and how.
async fn lost(server: &Server) -> [f64; 3] {
    let channel = channel(&server.address).await;
    let mut asked = tokio::task::JoinSet::new();
    for worker in 0..20 {
        let mut client = CheckServiceClient::new(channel.clone());
        asked.spawn(async move {
            for _ in 0..MANY / 20 {
                let question = traced(worker, true, Request::new(check("", &[])));
                client.check(question).await.expect("answered");
            }
        });
    }
    while let Some(done) = asked.join_next().await {
        done.expect("all were answered");
    }
    let text = tokio::task::block_in_place(|| metrics(&server.admin_address));
    ["sent", "dropped", "failed"].map(|how| shown(&text, &format!("latchkey_spans_{how}_total")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_frozen_loses_spans_and_holds_nobody_up_embedded() {
    let (folder, collector) = (fresh(), Collector::start().await);
    collector.freeze();
    let settings = ["telemetry.otlp.timeout=60s", UNBOUND];
    let server = telling(&folder, &collector, &settings);
    let [sent, dropped, failed] = lost(&server).await;
    // What is not in the queue and not on its way is lost.
    assert!(dropped >= (MANY - 2_048 - 512) as f64, "{dropped}");
    assert_eq!((sent, failed), (0.0, 0.0));
    // It ends although what is on its way is not answered.
    ended(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_not_there_is_said_once_and_holds_nobody_up_embedded() {
    let (folder, collector) = (fresh(), Collector::start().await);
    let endpoint = collector.setting();
    drop(collector);
    let server = tokio::task::block_in_place(|| server(&folder, &[&endpoint, UNBOUND]));
    let [sent, _, _] = lost(&server).await;
    assert_eq!(sent, 0.0);
    let log = ended(server);
    assert_eq!(
        log.matches("the collector takes no spans").count(),
        1,
        "{log}"
    );
}

#[test]
fn a_collector_that_cannot_be_meant_is_refused_before_anything_is_served() {
    let check = |settings: &[&str], said: &str| {
        let folder = fresh();
        let arguments: Vec<&str> = settings.iter().flat_map(|one| ["--set", one]).collect();
        let refused = Server::start_with(folder.path(), &arguments)
            .err()
            .expect("refused");
        assert!(refused.contains(said), "{said}: {refused}");
        assert!(!refused.contains("hidden"), "{refused}");
    };
    check(
        &["telemetry.otlp.endpoint=collector:4317"],
        "telemetry.otlp.endpoint",
    );
    let secure = "telemetry.otlp.endpoint=https://collector:4317";
    check(&[secure], "telemetry.otlp.ca_file");
    let named = "telemetry.otlp.endpoint=http://me:hidden@collector:4317";
    check(&[named], "telemetry.otlp.headers");
    let plain = "telemetry.otlp.endpoint=http://collector:4317";
    check(
        &[plain, "telemetry.otlp.headers=hidden"],
        "telemetry.otlp.headers",
    );
    check(&[plain, "telemetry.otlp.headers_file=/nowhere"], "/nowhere");
    check(
        &[plain, "telemetry.otlp.timeout=1ms"],
        "telemetry.otlp.timeout",
    );
}
