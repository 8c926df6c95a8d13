//! Access lines: which questions have one, what stands in it, and that no secret ever does.
//!
//! Read from the log of a server that has ended, so that every line that was queued is there. How
//! many are left out is read from the metrics, too: lines and count must add up.

use latchkey::proto::envoy::config::core::v3 as core;
use latchkey::proto::envoy::service::auth::v3 as auth;
use latchkey::proto::v1;
use serde_json::Value;
use tempfile::TempDir;
use tonic::transport::Channel;
use tonic::{Code, IntoRequest, Request};

use super::shown;
use crate::crash::issue;
use crate::leaks::{metrics, value};
use crate::logins::house::{House, by_secret};
use crate::postgres::database;
use crate::program::{Server, fresh};
use crate::replicas::bootstrap;
use crate::wire::{bearer, channel, check};
use auth::attribute_context as context;
use auth::authorization_client::AuthorizationClient;
use v1::audit_service_client::AuditServiceClient;
use v1::check_service_client::CheckServiceClient;

/// Questions until a line must have said how many were left out before it.
const QUESTIONS_MAX: usize = 100_000;

pub(super) const ROUTES: &str = r#"
[[route]]
path = "/v1/secrets/{name}"
action = "secrets:read"
resource = "acme/{name}"

[[route]]
path = "/open"
optional = true
"#;

/// A server with these settings, and a route table.
pub(super) fn server(folder: &TempDir, settings: &[&str]) -> Server {
    let file = folder.path().join("routes.toml");
    std::fs::write(&file, ROUTES).expect("written");
    let routes = format!("envoy.routes_file={}", file.display());
    let mut arguments = vec!["--admin", "127.0.0.1:0", "--set", &routes];
    arguments.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    let data = folder.path().join("data");
    Server::start_with(&data, &arguments).unwrap_or_else(|said| panic!("{said}"))
}

/// The access lines of a log.
pub(super) fn lines(log: &str) -> Vec<Value> {
    let lines = log
        .lines()
        .filter(|line| line.contains(r#""target":"access""#));
    lines
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

fn called<T>(id: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let id = id.parse().expect("ascii");
    request.metadata_mut().insert("x-request-id", id);
    request
}

/// What Envoy asks about a request.
pub(super) fn of_envoy(path: &str, headers: &[(&str, &str)]) -> auth::CheckRequest {
    let headers = headers.iter().map(|(name, value)| core::HeaderValue {
        key: (*name).to_owned(),
        raw_value: (*value).to_owned().into(),
        ..core::HeaderValue::default()
    });
    let http = context::HttpRequest {
        id: "7".to_owned(),
        method: "GET".to_owned(),
        path: path.to_owned(),
        host: "api.example.com".to_owned(),
        header_map: Some(core::HeaderMap {
            headers: headers.collect(),
        }),
        ..context::HttpRequest::default()
    };
    let address = core::address::Address::SocketAddress(core::SocketAddress {
        address: "192.0.2.7".to_owned(),
        ..core::SocketAddress::default()
    });
    let source = context::Peer {
        address: Some(core::Address {
            address: Some(address),
        }),
        ..context::Peer::default()
    };
    let attributes = auth::AttributeContext {
        source: Some(source),
        request: Some(context::Request { http: Some(http) }),
        ..auth::AttributeContext::default()
    };
    auth::CheckRequest {
        attributes: Some(attributes),
    }
}

/// What was asked and decided, by line.
fn summaries(lines: &[Value]) -> Vec<String> {
    let names = ["method", "reason", "kind", "request_id", "needs"];
    let told = |line: &Value, name: &str| line[name].as_str().unwrap_or("-").to_owned();
    let lines = lines.iter();
    lines
        .map(|line| names.map(|name| told(line, name)).join(" "))
        .collect()
}

pub(super) async fn ask(channel: &Channel, question: impl IntoRequest<auth::CheckRequest>) -> i32 {
    let mut client = AuthorizationClient::new(channel.clone());
    let answer = client.check(question).await.expect("answered");
    answer.into_inner().status.expect("a status").code
}

/// Two requests that are denied, with another token in their paths, and one that passes.
async fn ask_as_envoy(channel: &Channel, token: &str, other: &str) {
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", &*bearer), ("x-request-id", "envoys")];
    let secrets = of_envoy(&format!("/v1/secrets/db?key={other}"), &headers);
    assert_eq!(ask(channel, secrets).await, 7);
    let nowhere = of_envoy(&format!("/nowhere/{other}"), &headers[..1]);
    assert_eq!(ask(channel, nowhere).await, 7);
    assert_eq!(ask(channel, of_envoy("/open", &[])).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_has_a_line_with_its_facts_and_an_allow_has_none_embedded() {
    let folder = fresh();
    let server = server(&folder, &["telemetry.access.denials_per_second=1000"]);
    let admin = server.admin();
    let (id, secret) = admin.issue("--kind user --ttl 1h --name a --reason a");
    let (narrow_id, narrow) =
        admin.issue("--kind user --ttl 1h --name b --reason a --scope secrets:read@acme/web");
    let channel = channel(&server.address).await;
    let mut client = CheckServiceClient::new(channel.clone());
    let mut denied = check(&narrow, &[("secrets:read", "acme/web"), ("a:b", "c")]);
    denied.context = Some(v1::Context {
        client_ip: Some("198.51.100.4".to_owned()),
        ..v1::Context::default()
    });
    client
        .check(called("first", denied))
        .await
        .expect("answered");
    let allowed = check(&secret, &[("a:b", "c")]);
    client
        .check(called("none", allowed))
        .await
        .expect("answered");
    admin.run(&format!("token revoke {id} --reason a")).ok();
    let batch = v1::BatchCheckRequest {
        checks: vec![check(&secret, &[]), check(&format!("{secret}?"), &[])],
        ..Default::default()
    };
    client
        .batch_check(called("batch", batch))
        .await
        .expect("answered");
    let strange = check(&secret, &[("a:b", "c/../d")]);
    client.check(called("refused", strange)).await.unwrap_err();

    ask_as_envoy(&channel, &narrow, &secret).await;

    let text = metrics(&server.admin_address);
    let lost = ["left_out", "dropped"].map(|how| format!("latchkey_access_lines_{how}_total"));
    assert_eq!(lost.map(|metric| shown(&text, &metric)), [0.0; 2]);
    let log = server.terminate();
    assert!(
        !log.contains(&secret[4..30]) && !log.contains(&narrow[4..30]),
        "{log}"
    );
    let lines = lines(&log);
    assert_eq!(
        summaries(&lines),
        [
            "CheckService/Check not_permitted user first secrets:read@acme/web a:b@c",
            "CheckService/BatchCheck revoked user batch -",
            "CheckService/BatchCheck malformed - batch -",
            "CheckService/Check INVALID_ARGUMENT - refused -",
            "Authorization/Check not_permitted user envoys secrets:read@acme/db",
            "Authorization/Check no_route - 7 -",
        ]
    );
    let (first, envoys, nowhere) = (&lines[0], &lines[4], &lines[5]);
    assert_eq!(first["allowed"], false);
    assert_eq!(first["token_id"], *narrow_id);
    assert_eq!(first["subject"], "user:admin");
    assert_eq!(first["client"], "198.51.100.4");
    assert_eq!(first["peer"], "127.0.0.1");
    assert!(first["took_us"].is_u64(), "{first}");
    assert_eq!(envoys["http_method"], "GET");
    assert_eq!(envoys["path"], "/v1/secrets/db");
    assert_eq!(envoys["client"], "192.0.2.7");
    assert_eq!(nowhere["path"], format!("/nowhere/{}***", &secret[..4]));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sampled_question_has_a_line_and_a_name_embedded() {
    let folder = fresh();
    let settings = [
        "telemetry.access.ratio=1",
        "telemetry.access.denials_per_second=0",
    ];
    let server = server(&folder, &settings);
    let (_, secret) = server
        .admin()
        .issue("--kind user --ttl 1h --uses 2 --name a --reason a");
    let channel = channel(&server.address).await;
    let mut client = CheckServiceClient::new(channel.clone());
    let question = check(&secret, &[("a:b", "c")]);
    for _ in 0..2 {
        client.check(question.clone()).await.expect("answered");
    }
    let bearer = format!("Bearer {secret}");
    let spent = of_envoy("/v1/secrets/db", &[("authorization", &*bearer)]);
    assert_eq!(ask(&channel, spent).await, 16);
    assert_eq!(ask(&channel, of_envoy("/open", &[])).await, 0);
    let stream = v1::StreamCheckRequest {
        id: 1,
        check: Some(check("", &[])),
    };
    let mut answers = client
        .stream_check(called("stream", tokio_stream::iter([stream])))
        .await
        .expect("a stream")
        .into_inner();
    answers.message().await.expect("answered").expect("one");
    let lines = lines(&server.terminate());
    let found: Vec<_> = lines
        .iter()
        .map(|line| {
            (
                line["allowed"].clone(),
                line["reason"].as_str().expect("one"),
            )
        })
        .collect();
    let expected = [
        (true, "allowed"),
        (true, "allowed"),
        (false, "uses_exhausted"),
        (true, "anonymous"),
        (false, "no_token"),
    ];
    assert_eq!(
        found,
        expected.map(|(allowed, reason)| (Value::Bool(allowed), reason))
    );
    let names = lines
        .iter()
        .map(|line| line["request_id"].as_str().expect("a name"));
    let names: Vec<_> = names.collect();
    // Ours where the caller gives none, and each another.
    assert_eq!(names[0].len(), 16, "{names:?}");
    assert_ne!(names[0], names[1]);
    assert_eq!(names[2..], ["7", "7", "stream"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_denials_some_have_lines_and_all_are_accounted_for_embedded() {
    let folder = fresh();
    let server = server(&folder, &["telemetry.access.denials_per_second=2"]);
    let mut client = CheckServiceClient::new(channel(&server.address).await);
    let question = check("", &[]);
    let mut asked = 0;
    // Until a later second has begun: the next line then tells of those before.
    while !server.logged().contains(r#""left_out":"#) {
        client.check(question.clone()).await.expect("answered");
        asked += 1;
        assert!(asked < QUESTIONS_MAX, "{}", server.logged());
    }
    let text = metrics(&server.admin_address);
    let left_out = shown(&text, "latchkey_access_lines_left_out_total");
    let reason = r#"latchkey_checks_total{reason="no_token",kind="none"}"#;
    assert_eq!(shown(&text, reason), f64::from(asked as u32));
    let lines = lines(&server.terminate());
    assert_eq!(lines.len() as f64 + left_out, f64::from(asked as u32));
    let told: u64 = lines
        .iter()
        .filter_map(|line| line["left_out"].as_u64())
        .sum();
    assert!(told > 0 && told as f64 <= left_out, "{told} {left_out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_or_a_call_that_is_denied_has_a_line_with_where_it_came_from_embedded() {
    let folder = fresh();
    let settings = [
        "telemetry.access.denials_per_second=1000",
        "limits.failed_logins_per_second=1",
    ];
    let server = server(&folder, &settings);
    let mut house = House::furnished(&server).await;
    let (weak_id, weak) = server
        .admin()
        .issue("--kind user --ttl 1h --name a --reason a --scope a:b@c");
    let mut tries = 0;
    // Ten seconds' worth at once, and then none.
    let too_fast = loop {
        let id = format!("nobody {weak}");
        let login = called("guess", by_secret(&id, "lkc_guess"));
        let status = house.logins.login(login).await.expect_err("refused");
        if status.code() != Code::Unauthenticated {
            break status;
        }
        tries += 1;
        assert!(tries < QUESTIONS_MAX, "{}", server.logged());
    };
    assert_eq!(too_fast.code(), Code::ResourceExhausted);
    let nobody = Request::new(v1::WhoAmIRequest::default());
    house.tokens.who_am_i(nobody).await.expect_err("refused");
    let mut list = bearer(&weak, v1::ListChangesRequest::default());
    list.metadata_mut()
        .insert("x-request-id", "weak".parse().expect("ascii"));
    let mut audit = AuditServiceClient::new(channel(&server.address).await);
    audit.list_changes(list).await.expect_err("refused");
    let write = bearer(&weak, issue(1));
    house.tokens.issue_token(write).await.expect_err("refused");
    let log = server.terminate();
    assert!(!log.contains(&weak[4..30]), "{log}");
    let lines = lines(&log);
    let told = |line: &Value, name: &str| line[name].as_str().unwrap_or("-").to_owned();
    let names = [
        "method",
        "reason",
        "outcome",
        "request_id",
        "peer",
        "token_id",
    ];
    let all = |line: &Value| names.map(|name| told(line, name)).join(" ");
    let (guesses, rest) = lines.split_at(tries);
    let guess = "LoginService/Login LOGIN_REFUSED unknown_client guess 127.0.0.1 -";
    assert!(guesses.iter().all(|line| all(line) == guess), "{guesses:?}");
    let client = told(&guesses[0], "client_id");
    assert_eq!(client, format!("nobody {}***", &weak[..4]));
    let [fast, nobody, list, write] = rest else {
        panic!("{rest:?}")
    };
    let limited = "LoginService/Login RATE_LIMITED rate_limited guess 127.0.0.1 -";
    assert_eq!(all(fast), limited);
    assert_eq!(told(fast, "client_id"), client);
    assert_eq!(told(nobody, "method"), "TokenService/WhoAmI");
    assert_eq!(told(nobody, "reason"), "UNAUTHENTICATED");
    let denied = "AuditService/ListChanges PERMISSION_DENIED - weak 127.0.0.1";
    assert_eq!(all(list), format!("{denied} -"));
    assert_eq!(told(write, "method"), "TokenService/IssueToken");
    assert_eq!(told(write, "token_id"), weak_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_canary_takes_no_lines_of_others_postgres() {
    let database = database().await;
    let token = bootstrap(&database);
    let settings = ["canary.interval=1s", "check.open=true", "lease.length=60s"];
    let settings = settings.map(|setting| ["--set", setting]);
    let started = Server::replica(&database.url, "a", settings.as_flattened());
    let server = started.unwrap_or_else(|said| panic!("{said}"));
    let drilled = |_: &usize| {
        let good = r#"latchkey_canary_runs_total{outcome="good"}"#;
        // It is not there before the canary is.
        value(&metrics(&server.admin_address), good) >= Some(2.0)
    };
    let found = tokio::task::block_in_place(|| (0..QUESTIONS_MAX).find(drilled));
    assert!(found.is_some(), "{}", server.logged());
    let revoked = r#"latchkey_checks_total{reason="revoked",kind="resource"}"#;
    let text = metrics(&server.admin_address);
    assert!(shown(&text, revoked) >= 2.0, "{text}");
    let mut client = CheckServiceClient::new(channel(&server.address).await);
    let denied = check(&token[..40], &[]);
    client
        .check(called("others", denied))
        .await
        .expect("answered");
    let lines = lines(&server.terminate());
    let names = lines.iter().map(|line| line["request_id"].as_str());
    assert_eq!(names.collect::<Vec<_>>(), [Some("others")], "{lines:?}");
}

#[test]
fn a_ratio_that_is_none_is_refused_by_name() {
    let folder = fresh();
    let arguments = ["--set", "telemetry.access.ratio=1.5"];
    let said = Server::start_with(folder.path(), &arguments)
        .err()
        .expect("refused");
    assert!(
        said.contains("telemetry.access.ratio") && said.contains("1.5"),
        "{said}"
    );
}
