//! What a replica does that cannot reach the database: it answers while its lease holds, and from
//! then on nothing that anybody would have to vouch for.
//!
//! By the API of whole servers in this process, cut off by holding up their way to the database.

use std::net::SocketAddr;
use std::time::Duration;

use latchkey::proto::v1;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use v1::audit_service_client::AuditServiceClient;
use v1::check_service_client::CheckServiceClient;
use v1::directory_service_client::DirectoryServiceClient;
use v1::enforcement::State;

use crate::crash::issue;
use crate::fleet::{
    LONG, NEED, Node, Options, far, fleet, issued, reason, revoke, revoked, why, within,
};
use crate::leaks::metrics;
use crate::postgres::{database, server};
use crate::program::Server;
use crate::proxy::{Flow, Proxy};
use crate::wire::{bearer, channel, check};

const SHORT: Duration = Duration::from_secs(3);

async fn serving(node: &Node, service: &str) -> ServingStatus {
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let mut client = HealthClient::new(channel(&node.address).await);
    client
        .check(request)
        .await
        .expect("told")
        .into_inner()
        .status()
}

pub(crate) async fn until_serving(node: &Node, service: &str, expected: ServingStatus) {
    while serving(node, service).await != expected {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_without_its_lease_vouches_for_nothing_postgres() {
    let ([a, b], admin) = fleet([SHORT; 2].map(Options::lease)).await;
    let secret = issued(&a, &admin).await;
    let mut watching = AuditServiceClient::new(channel(&b.address).await);
    let request = bearer(&admin, v1::WatchChangesRequest::default());
    let watched = watching.watch_changes(request).await;
    let mut watched = watched.expect("a stream").into_inner();
    b.partition();
    let answer = revoked(&a, &admin, &secret, LONG).await;
    let enforcement = answer.enforcement.expect("always");
    assert_eq!(far(&enforcement), (State::Confirmed, vec!["a"], vec![]));
    // It was confirmed, so nothing that b is asked from now on is answered without it.
    let mut checks = b.checks().await;
    let answer = checks
        .check(check(&secret, &NEED))
        .await
        .expect("answered")
        .into_inner();
    assert_eq!(
        (answer.allowed, answer.reason()),
        (false, v1::Reason::Stale)
    );
    assert!(answer.retry_after.is_some() && answer.token_id.is_empty());
    let at_least = v1::CheckRequest {
        at_least: Some(v1::Revision {
            number: 1,
            chain: Vec::new(),
        }),
        ..check(&secret, &NEED)
    };
    let answer = checks.check(at_least).await.expect("answered").into_inner();
    assert_eq!(answer.reason(), v1::Reason::Stale);
    stale_management(&b, &admin).await;
    loop {
        match watched.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended in peace"),
            Err(status) => break assert_eq!(why(&status), "UNAVAILABLE"),
        }
    }
    until_serving(&b, "latchkey.v1.CheckService", ServingStatus::NotServing).await;
    assert_eq!(serving(&b, "").await, ServingStatus::NotServing);
    let told = metrics(&b.admin);
    assert!(
        told.contains("latchkey_lease_remaining_seconds 0.0"),
        "{told}"
    );
    assert!(
        told.contains("latchkey_stale_checks_total{outcome=\"denied\"} 2"),
        "{told}"
    );

    b.heal();
    b.answers(true).await;
    assert_eq!(reason(&b, &secret).await, v1::Reason::Revoked);
    until_serving(&b, "latchkey.v1.CheckService", ServingStatus::Serving).await;
    until_serving(&b, "latchkey.v1.TokenService", ServingStatus::Serving).await;
}

/// Nothing is told from a State that nobody vouches for, and without the database nothing is
/// written.
async fn stale_management(node: &Node, admin: &str) {
    stale_reads(node, admin).await;
    let write = within(Duration::from_secs(1), bearer(admin, issue(9)));
    let refused = node.tokens().await.issue_token(write).await;
    unacknowledged(&refused.expect_err("no database"));
}

/// The server knows of no success, or the caller's time was up before it said so.
fn unacknowledged(refused: &Status) {
    let late = [Code::Cancelled, Code::DeadlineExceeded].contains(&refused.code());
    let known = ["UNAVAILABLE", "OUTCOME_UNKNOWN"].contains(&&*why(refused));
    assert!(late || known, "{refused:?}");
}

async fn stale_reads(node: &Node, admin: &str) {
    let mut tokens = node.tokens().await;
    let mut directory = DirectoryServiceClient::new(channel(&node.address).await);
    let mut audit = AuditServiceClient::new(channel(&node.address).await);
    let mut cluster = node.cluster().await;
    macro_rules! refused {
        ($call:expr) => {{
            let refused = $call.await.expect_err("nobody vouches for it");
            assert_eq!(why(&refused), "UNAVAILABLE", "{refused:?}");
        }};
    }
    refused!(tokens.who_am_i(bearer(admin, v1::WhoAmIRequest::default())));
    refused!(tokens.get_token(bearer(admin, v1::GetTokenRequest::default())));
    refused!(tokens.list_tokens(bearer(admin, v1::ListTokensRequest::default())));
    refused!(directory.list_users(bearer(admin, v1::ListUsersRequest::default())));
    refused!(directory.list_grants(bearer(admin, v1::ListGrantsRequest::default())));
    refused!(audit.list_changes(bearer(admin, v1::ListChangesRequest::default())));
    refused!(audit.explain(bearer(
        admin,
        v1::ExplainRequest {
            target: Some(v1::explain_request::Target::Token(admin.to_owned())),
            ..v1::ExplainRequest::default()
        }
    )));
    refused!(cluster.list_replicas(bearer(admin, v1::ListReplicasRequest {})));
}

/// A token of the administrator's with all that the administrator may do, known to every node.
async fn another_administrators(node: &Node, admin: &str) -> String {
    let request = v1::IssueTokenRequest {
        kind: v1::TokenKind::User as i32,
        scopes: Some(v1::ScopesInput {
            extent: Some(v1::scopes_input::Extent::All(v1::AllScopes {})),
        }),
        name: "other".to_owned(),
        reason: "test".to_owned(),
        wait_for_replicas: true,
        ..v1::IssueTokenRequest::default()
    };
    let mut tokens = node.tokens().await;
    let issued = tokens.issue_token(bearer(admin, request)).await;
    issued.expect("issued").into_inner().secret
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_administrator_reads_nothing_from_a_replica_that_is_cut_off_postgres() {
    let ([a, b], admin) = fleet([Options::lease(SHORT), Options::lease(SHORT)]).await;
    let other = another_administrators(&a, &admin).await;
    let mut theirs = b.tokens().await;
    let list = || bearer(&other, v1::ListTokensRequest::default());
    theirs.list_tokens(list()).await.expect("good so far");
    b.partition();
    let answer = revoked(&a, &admin, &other, LONG).await;
    let enforcement = answer.enforcement.expect("always");
    assert_eq!(far(&enforcement), (State::Confirmed, vec!["a"], vec![]));
    // Its way to the database is open again, and what it knows is of before.
    let refused = theirs
        .list_tokens(list())
        .await
        .expect_err("nobody vouches for it");
    assert_eq!(why(&refused), "UNAVAILABLE");
    b.heal();
    b.answers(true).await;
    let refused = theirs.list_tokens(list()).await.expect_err("revoked");
    assert_eq!(refused.code(), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_without_a_lease_is_decided_by_the_newest_revision_postgres() {
    // Cut off from the feed and its renewals alone, it can still append.
    let past = Options {
        writes_past: true,
        confirm_time_max: Duration::from_millis(300),
        ..Options::lease(SHORT)
    };
    let ([a, b], admin) = fleet([Options::lease(SHORT), past]).await;
    let secret = issued(&a, &admin).await;
    let other = another_administrators(&a, &admin).await;
    b.partition();
    let answer = revoked(&a, &admin, &other, LONG).await;
    let enforcement = answer.enforcement.expect("always");
    assert_eq!(far(&enforcement), (State::Confirmed, vec!["a"], vec![]));
    assert_eq!(reason(&b, &secret).await, v1::Reason::Stale);

    // What it has not heard of counts, and so does what others have made meanwhile.
    let mut tokens = b.tokens().await;
    let refused = tokens.issue_token(bearer(&other, issue(2))).await;
    assert_eq!(why(&refused.expect_err("revoked")), "UNAUTHENTICATED");
    let newer = a.tokens().await.issue_token(bearer(&admin, issue(1))).await;
    let newer = newer.expect("issued").into_inner().secret;
    let made = tokens.issue_token(bearer(&admin, issue(1))).await;
    let made = made.expect("issued").into_inner();
    let answer = revoked(&b, &admin, &newer, LONG).await;
    // It can read of nobody how far they are, and promises no more than it knows.
    let enforcement = answer.enforcement.expect("always");
    assert_eq!(far(&enforcement), (State::Committed, vec![], vec![]));
    assert!(enforcement.everywhere_after.is_some());
    let at_least = |secret: &str| v1::CheckRequest {
        at_least: answer.revision.clone(),
        ..check(secret, &NEED)
    };
    let mut checks = a.checks().await;
    for (secret, expected) in [
        (&made.secret, v1::Reason::Allowed),
        (&newer, v1::Reason::Revoked),
    ] {
        let answered = checks.check(at_least(secret)).await.expect("answered");
        assert_eq!(answered.get_ref().reason(), expected);
        assert_eq!(reason(&b, secret).await, v1::Reason::Stale);
    }
    stale_reads(&b, &admin).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_checks_are_answered_and_writes_are_not_postgres() {
    let ([a], admin) = fleet([Options::lease(LONG)]).await;
    let secret = issued(&a, &admin).await;
    a.partition();
    let write = within(Duration::from_secs(1), bearer(&admin, issue(2)));
    let refused = a
        .tokens()
        .await
        .issue_token(write)
        .await
        .expect_err("no database");
    unacknowledged(&refused);
    assert_eq!(reason(&a, &secret).await, v1::Reason::Allowed);
    assert_eq!(
        serving(&a, "latchkey.v1.CheckService").await,
        ServingStatus::Serving
    );
    a.heal();
    let write = within(Duration::from_secs(30), bearer(&admin, issue(3)));
    a.tokens().await.issue_token(write).await.expect("issued");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_told_per_service_while_the_database_is_away_postgres() {
    // Renewed every second, so that it is noticed, and long enough to outlast the noticing.
    let ([a], admin) = fleet([Options::lease(Duration::from_secs(20))]).await;
    let secret = issued(&a, &admin).await;
    // It tells only now and then, at first that it holds no lease yet.
    until_serving(&a, "latchkey.v1.TokenService", ServingStatus::Serving).await;
    a.partition();
    for service in [
        "Token",
        "Directory",
        "Audit",
        "Cluster",
        "Credential",
        "Key",
    ] {
        let name = format!("latchkey.v1.{service}Service");
        until_serving(&a, &name, ServingStatus::NotServing).await;
    }
    assert_eq!(
        serving(&a, "latchkey.v1.CheckService").await,
        ServingStatus::Serving
    );
    for service in ["", "latchkey.v1.LoginService"] {
        assert_eq!(serving(&a, service).await, ServingStatus::Serving);
    }
    assert_eq!(reason(&a, &secret).await, v1::Reason::Allowed);
    a.heal();
    until_serving(&a, "latchkey.v1.TokenService", ServingStatus::Serving).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_may_serve_stale_does_and_counts_it_postgres() {
    let mut stale = Options::lease(SHORT);
    stale.lease.serve_stale = true;
    let soon = Options {
        confirm_time_max: Duration::from_millis(300),
        ..Options::lease(SHORT)
    };
    let ([a, b], admin) = fleet([soon, stale]).await;
    let secret = issued(&a, &admin).await;
    b.partition();
    // However long it is silent, nothing is confirmed without it, and nobody knows for how long.
    while b.authority.lease_left_ms() != Some(0) {
        tokio::task::yield_now().await;
    }
    let answer = revoked(&a, &admin, &secret, LONG).await;
    let enforcement = answer.enforcement.expect("always");
    assert_eq!(far(&enforcement), (State::Committed, vec!["a"], vec!["b"]));
    assert_eq!(enforcement.everywhere_after, None);
    for _ in 0..3 {
        assert_eq!(
            reason(&b, &secret).await,
            v1::Reason::Allowed,
            "as it was told to"
        );
    }
    // Checks alone: who may read what is never taken from a State that nobody vouches for.
    stale_management(&b, &admin).await;
    let told = metrics(&b.admin);
    assert!(
        told.contains("latchkey_stale_checks_total{outcome=\"served\"} 3"),
        "{told}"
    );
    assert!(
        told.contains("latchkey_stale_checks_total{outcome=\"denied\"} 0"),
        "{told}"
    );
    assert_eq!(
        serving(&b, "latchkey.v1.CheckService").await,
        ServingStatus::Serving
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_replica_is_stale_to_callers_that_it_does_not_know_postgres() {
    let closed = || Options {
        check_open: false,
        ..Options::lease(SHORT)
    };
    let ([a, b], admin) = fleet([closed(), closed()]).await;
    let secret = issued(&a, &admin).await;
    b.partition();
    // Of this one b hears nothing any more.
    let answer = a.tokens().await.issue_token(bearer(&admin, issue(2))).await;
    let newer = answer.expect("issued").into_inner().secret;
    b.answers(false).await;
    let mut checks = b.checks().await;
    let far = Some(v1::Revision {
        number: 1_000_000,
        chain: Vec::new(),
    });
    for caller in [&admin, &secret, &newer] {
        for at_least in [None, far.clone()] {
            let asked = v1::CheckRequest {
                at_least: at_least.clone(),
                ..check(&secret, &NEED)
            };
            let answer = checks.check(bearer(caller, asked.clone())).await;
            let answer = answer.expect("answered").into_inner();
            assert_eq!(answer.reason(), v1::Reason::Stale);
            assert!(answer.token_id.is_empty() && answer.retry_after.is_some());
            let batch = v1::BatchCheckRequest {
                checks: vec![check(&secret, &NEED)],
                at_least,
            };
            let answer = checks.batch_check(bearer(caller, batch)).await;
            let answer = answer.expect("answered").into_inner();
            assert_eq!(answer.results[0].reason(), v1::Reason::Stale);
        }
    }
    // While it holds its lease it knows whom it does not know.
    b.heal();
    b.answers(true).await;
    let refused = checks
        .check(bearer("lku_stranger", check(&secret, &NEED)))
        .await;
    assert_eq!(refused.expect_err("unknown").code(), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_the_database_has_lost_is_not_confirmed_postgres() {
    let ([a, b], admin) = fleet([LONG; 2].map(Options::lease)).await;
    let secret = issued(&a, &admin).await;
    let mut watching = AuditServiceClient::new(channel(&a.address).await);
    let request = bearer(&admin, v1::WatchChangesRequest::default());
    let watched = watching.watch_changes(request).await;
    let mut watched = watched.expect("a stream").into_inner();
    b.partition();
    let revoking = {
        let (mut tokens, admin, secret) = (a.tokens().await, admin.clone(), secret.clone());
        tokio::spawn(async move { tokens.revoke_token(bearer(&admin, revoke(&secret))).await })
    };
    while reason(&a, &secret).await != v1::Reason::Revoked {
        tokio::task::yield_now().await;
    }
    let head = a.authority.head().revision;
    loop {
        let event = watched
            .message()
            .await
            .expect("a message")
            .expect("goes on")
            .event;
        if let Some(v1::watch_changes_response::Event::Change(change)) = event
            && change.revision == head
        {
            break;
        }
    }
    // A failover to a server that never had it.
    let lose = format!(
        "DELETE FROM latchkey.log WHERE revision = {head}; \
         UPDATE latchkey.head SET (revision, chain) = \
         (SELECT revision, chain FROM latchkey.log WHERE revision = {head} - 1)"
    );
    server().admin(&a.database, &lose).await;
    let lost = revoking.await.expect("no panic").expect_err("lost");
    assert_eq!(why(&lost), "OUTCOME_UNKNOWN", "{lost:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_lease_is_logged_once_and_so_is_the_next_postgres() {
    let database = database().await;
    let way = Proxy::start(SocketAddr::from(([127, 0, 0, 1], server().port))).await;
    let port = format!(":{}/", server().port);
    let url = database.url.replacen(&port, &format!(":{}/", way.port), 1);
    let settings = ["--set", "lease.length=3s", "--set", "check.open=true"];
    let program = Server::replica(&url, "a", &settings).expect("starts");
    let said = |text: &str| program.logged().matches(text).count();
    let (ended, held) = ("the lease has ended", "the lease is held");
    let mut checks = CheckServiceClient::new(channel(&program.address).await);
    for round in 1..=2 {
        while said(held) < round || said(held) == said(ended) {
            tokio::task::yield_now().await;
        }
        way.to_server(Flow::Hold);
        // A machine under load may have ended and begun some of its own: each is told once.
        while said(ended) < said(held) {
            tokio::task::yield_now().await;
        }
        let before = said(ended);
        for _ in 0..20 {
            let answer = checks.check(check("lku_nobodys", &[])).await;
            let reason = answer.expect("answered").get_ref().reason();
            assert_eq!(reason, v1::Reason::Stale);
        }
        let told = (said(ended), said(held));
        assert_eq!(told, (before, before), "{}", program.logged());
        way.to_server(Flow::Pass);
        way.cut();
    }
}
