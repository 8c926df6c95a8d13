//! Who may call what by its certificate: each list keeps others from its own calls, before
//! anything else of them is looked at.
//!
//! By the program as it is run, over connections of its own for each certificate.

use latchkey::proto::v1;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use v1::login_request::Proof;

use super::kit::{House, Pair};

const LISTS: [&str; 3] = [
    "access.check=spiffe://acme/envoy, spiffe://acme/services/*",
    "access.login=spiffe://acme/jobs/*",
    "access.manage=spiffe://acme/admin",
];

/// What became of a call: what it was refused for, or nothing.
fn reason<T>(answer: Result<T, Status>) -> String {
    let Err(status) = answer else {
        return String::new();
    };
    let info = status.get_details_error_info();
    let reason = info.map(|info| info.reason).unwrap_or_default();
    assert_eq!(
        status.code() == Code::PermissionDenied,
        reason == KEPT_OUT,
        "{status:?}"
    );
    reason
}

const KEPT_OUT: &str = "PEER_NOT_ALLOWED";
const WRONG: &str = "LOGIN_REFUSED";

/// What a check, a login with a wrong secret and a look at oneself come to.
async fn tried(house: &House, shown: &Pair) -> [String; 3] {
    let client = house.connected(Some(shown)).await;
    let question = v1::CheckRequest {
        token: house.admin_token().to_owned(),
        ..v1::CheckRequest::default()
    };
    let login = v1::LoginRequest {
        client_id: "service:nobody".to_owned(),
        proof: Some(Proof::ClientSecret("lkc_wrong".to_owned())),
        ..v1::LoginRequest::default()
    };
    [
        reason(client.raw_check().check(question).await),
        reason(client.raw_logins().login(login).await),
        reason(client.raw_tokens().who_am_i(v1::WhoAmIRequest {}).await),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_list_keeps_others_from_its_own_calls() {
    let house = House::mutual(&LISTS);
    for (id, expected) in [
        ("spiffe://acme/envoy", ["", KEPT_OUT, KEPT_OUT]),
        ("spiffe://acme/services/a/b", ["", KEPT_OUT, KEPT_OUT]),
        ("spiffe://acme/services", [KEPT_OUT; 3]),
        ("spiffe://acme/jobs/nightly", [KEPT_OUT, WRONG, KEPT_OUT]),
        ("spiffe://acme/admin", [KEPT_OUT, KEPT_OUT, ""]),
        ("spiffe://evil/envoy", [KEPT_OUT; 3]),
    ] {
        assert_eq!(tried(&house, &house.client(id)).await, expected, "{id}");
    }
    for (group, count) in [("check", 4.0), ("login", 5.0), ("manage", 5.0)] {
        let name = format!(r#"latchkey_access_refused_total{{group="{group}"}}"#);
        assert_eq!(house.metric(&name).await, count, "{group}");
    }
    // Batches and streams are Checks; health and reflection are nobody's secret.
    let stranger = house.client("spiffe://evil/envoy");
    let client = house.connected(Some(&stranger)).await;
    let batch = v1::BatchCheckRequest::default();
    assert_eq!(
        reason(client.raw_check().batch_check(batch).await),
        KEPT_OUT
    );
    let none = tokio_stream::empty::<v1::StreamCheckRequest>();
    assert_eq!(
        reason(client.raw_check().stream_check(none).await),
        KEPT_OUT
    );
    tokio::task::block_in_place(|| house.run(Some(&stranger), "health").ok());
    let told = tokio::task::block_in_place(|| house.run(Some(&stranger), "token whoami"));
    let told = told.refused("the client certificate of this connection does not permit this call");
    assert!(told.stderr.contains(KEPT_OUT), "{}", told.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_is_empty_keeps_nobody_out() {
    let house = House::mutual(&[LISTS[2]]);
    let other = house.client("spiffe://evil/envoy");
    assert_eq!(tried(&house, &other).await, ["", WRONG, KEPT_OUT]);
    // Who is kept out is told of with where it came from, as who cannot log in is.
    let log = tokio::task::block_in_place(|| house.server.terminate());
    for (method, reason) in [
        ("LoginService/Login", WRONG),
        ("TokenService/WhoAmI", KEPT_OUT),
    ] {
        let told = format!(r#""method":"{method}","allowed":false,"reason":"{reason}""#);
        let line = log.lines().find(|line| line.contains(&told));
        let line = line.unwrap_or_else(|| panic!("{told}: {log}"));
        assert!(line.contains(r#""peer":"127.0.0.1""#), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_shows_no_certificate_is_on_no_list() {
    let house = House::mutual(&[LISTS[0], "tls.client_auth=request"]);
    let client = house.connected(None).await;
    let question = v1::CheckRequest::default();
    assert_eq!(reason(client.raw_check().check(question).await), KEPT_OUT);
    client.whoami().await.expect("nobody is kept from this");
}

/// A Check without a calling token.
async fn asked_bare(house: &House, shown: Option<&Pair>) -> String {
    let tls = house.tls(shown);
    let client = latchkey::client::Client::connect_secured(house.url(), tls).await;
    let question = v1::CheckRequest {
        token: house.admin_token().to_owned(),
        ..v1::CheckRequest::default()
    };
    reason(client.expect("connected").raw_check().check(question).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_may_stand_for_the_callers_token() {
    let by_certificate = ["check.open=mtls", "tls.client_auth=request"];
    let house = House::mutual(&by_certificate);
    let web = house.client("spiffe://acme/web");
    assert_eq!(asked_bare(&house, Some(&web)).await, "");
    assert_eq!(asked_bare(&house, None).await, "UNAUTHENTICATED");
    // With a token it may ask without one.
    let client = house.connected(None).await;
    let asked = client.raw_check().check(v1::CheckRequest::default()).await;
    assert_eq!(reason(asked), "");
    // The list goes before.
    let house = House::mutual(&[by_certificate[0], by_certificate[1], LISTS[0]]);
    let (web, envoy) = (
        house.client("spiffe://acme/web"),
        house.client("spiffe://acme/envoy"),
    );
    assert_eq!(asked_bare(&house, Some(&envoy)).await, "");
    assert_eq!(asked_bare(&house, Some(&web)).await, KEPT_OUT);
    assert_eq!(asked_bare(&house, None).await, KEPT_OUT);
    // Where it may not stand for one, it does not.
    let house = House::mutual(&["check.open=false"]);
    let web = house.client("spiffe://acme/web");
    assert_eq!(asked_bare(&house, Some(&web)).await, "UNAUTHENTICATED");
}
