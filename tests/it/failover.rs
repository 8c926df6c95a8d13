//! What becomes of replicas when their database fails over: to a standby that has everything, and
//! to one that lacks what was acknowledged last.
//!
//! A primary and a standby that follows it, both of a test's own; the replicas know both hosts
//! and are told nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use latchkey::proto::v1;
use tonic::transport::Channel;
use tonic::{Code, Status};
use v1::check_service_client::CheckServiceClient;
use v1::enforcement::State;
use v1::token_service_client::TokenServiceClient;

use crate::crash::issue;
use crate::leaks::{metrics, value};
use crate::postgres;
use crate::program::Server;
use crate::proxy::{Flow, Proxy};
use crate::replicas::bootstrap;
use crate::wire::{bearer, channel, check};

/// Until service must have resumed on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Of two replicas: a few for each purpose, also while the database answers none of them.
const CONNECTIONS_MAX: usize = 26;
const CALL_TIME_MAX: Duration = Duration::from_secs(5);
const SETTINGS: [&str; 8] = [
    "--set",
    "lease.length=1s",
    "--set",
    "lease.poll=100ms",
    "--set",
    "database.connect_timeout=500ms",
    "--set",
    "database.statement_timeout=2s",
];

/// A primary, its standby, and two replicas that know both.
struct Pair {
    primary: postgres::Server,
    standby: postgres::Server,
    database: postgres::Database,
    /// Between the two.
    link: Proxy,
    replicas: [Server; 2],
    admin: String,
}

impl Pair {
    async fn start() -> Self {
        let primary = tokio::task::block_in_place(|| postgres::Server::private(""));
        let database = primary.database().await;
        let admin = bootstrap(&database);
        let link = Proxy::of(primary.port).await;
        let standby = postgres::Server::standby(link.port);
        let here = format!(":{}/", primary.port);
        let both = format!(":{},127.0.0.1:{}/", primary.port, standby.port);
        let url = database.url.replacen(&here, &both, 1);
        let start = |name| {
            let started = Server::replica(&url, name, &SETTINGS);
            started.unwrap_or_else(|said| panic!("{name}: {said}"))
        };
        let replicas = tokio::task::block_in_place(|| ["a", "b"].map(start));
        Self {
            primary,
            standby,
            database,
            link,
            replicas,
            admin,
        }
    }

    /// From now on the primary acknowledges what the standby has.
    async fn wait_for_the_standby(&self) {
        let sql = "ALTER SYSTEM SET synchronous_standby_names = '*'";
        self.primary.admin("postgres", sql).await;
        self.primary
            .admin("postgres", "SELECT pg_reload_conf()")
            .await;
        let client = self.primary.client("postgres", "postgres").await;
        let sql = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        until("the standby is synchronous", async || {
            client
                .query_one(sql, &[])
                .await
                .expect("asked")
                .get::<_, i64>(0)
                == 1
        })
        .await;
    }

    /// Waits until the standby has everything.
    async fn standby_has_all(&self) {
        let sql = "SELECT revision FROM latchkey.head";
        let name = &self.database.name;
        let primary = self.primary.client("postgres", name).await;
        let standby = self.standby.client("postgres", name).await;
        let head = async |client: &tokio_postgres::Client| {
            let row = client.query_one(sql, &[]).await.expect("a head");
            row.get::<_, i64>(0)
        };
        until("the standby has everything", async || {
            head(&primary).await == head(&standby).await
        })
        .await;
    }

    fn fail_over(&self) {
        self.primary.crash();
        self.standby.promote();
    }

    async fn clients(&self) -> Vec<Client> {
        let mut clients = Vec::new();
        for replica in &self.replicas {
            clients.push(Client {
                channel: channel(&replica.address).await,
                admin: self.admin.clone(),
            });
        }
        clients
    }
}

/// One replica's caller.
#[derive(Clone)]
struct Client {
    channel: Channel,
    admin: String,
}

impl Client {
    async fn issue(&self, number: usize) -> Result<v1::IssueTokenResponse, Status> {
        let request = v1::IssueTokenRequest {
            wait_for_replicas: true,
            ..issue(number)
        };
        let mut request = bearer(&self.admin, request);
        request.set_timeout(CALL_TIME_MAX);
        let mut tokens = TokenServiceClient::new(self.channel.clone());
        Ok(tokens.issue_token(request).await?.into_inner())
    }

    async fn revoke(&self, secret: &str) -> Result<v1::RevokeTokenResponse, Status> {
        let target = v1::revoke_token_request::Target::Secret(secret.to_owned());
        let request = v1::RevokeTokenRequest {
            target: Some(target),
            reason: "leaked".to_owned(),
            ..v1::RevokeTokenRequest::default()
        };
        let mut request = bearer(&self.admin, request);
        request.set_timeout(CALL_TIME_MAX);
        let mut tokens = TokenServiceClient::new(self.channel.clone());
        Ok(tokens.revoke_token(request).await?.into_inner())
    }

    async fn check(
        &self,
        secret: &str,
        at_least: Option<v1::Revision>,
    ) -> Result<v1::CheckResponse, Status> {
        let question = v1::CheckRequest {
            at_least,
            ..check(secret, &[])
        };
        let mut request = tonic::Request::new(question);
        request.set_timeout(CALL_TIME_MAX);
        let mut checks = CheckServiceClient::new(self.channel.clone());
        Ok(checks.check(request).await?.into_inner())
    }

    /// Issues until it is confirmed everywhere: by then nobody answers by another history.
    async fn issue_for_sure(&self, number: usize) -> v1::IssueTokenResponse {
        let began = Instant::now();
        loop {
            let issued = self.issue(number).await;
            let said = match issued {
                Ok(issued) if is_confirmed(issued.enforcement.as_ref()) => return issued,
                Ok(issued) => format!("{:?}", issued.enforcement),
                Err(status) => status.to_string(),
            };
            assert!(began.elapsed() < PATIENCE, "{said}");
            tokio::task::yield_now().await;
        }
    }

    /// How it decides; on a busy machine a lease may have ended a moment ago.
    async fn reason(&self, secret: &str) -> v1::Reason {
        let began = Instant::now();
        loop {
            let answer = self.check(secret, None).await;
            match answer.expect("an answer").reason() {
                v1::Reason::Stale => assert!(began.elapsed() < PATIENCE, "it stays stale"),
                decided => return decided,
            }
        }
    }
}

/// How often a replica has found its log to be another than the database's.
fn divergences(replica: &Server) -> f64 {
    let told = metrics(&replica.admin_address);
    value(&told, "latchkey_divergences_total").expect("a count")
}

fn is_confirmed(enforcement: Option<&v1::Enforcement>) -> bool {
    enforcement.is_some_and(|enforcement| enforcement.state() == State::Confirmed)
}

async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < PATIENCE, "it does not come about: {what}");
        tokio::task::yield_now().await;
    }
}

/// What was acknowledged: tokens that live and tokens that do not.
#[derive(Default)]
struct Acknowledged {
    live: Vec<String>,
    revoked: Vec<String>,
}

/// Issues tokens and revokes every third, until so many are acknowledged.
async fn write(client: &Client, from: usize, wanted: usize) -> Acknowledged {
    let mut acknowledged = Acknowledged::default();
    let began = Instant::now();
    for number in from.. {
        assert!(began.elapsed() < PATIENCE, "writes do not resume");
        let Ok(issued) = client.issue(number).await else {
            continue;
        };
        if number % 3 > 0 {
            acknowledged.live.push(issued.secret);
        } else if client.revoke(&issued.secret).await.is_ok() {
            acknowledged.revoked.push(issued.secret);
        }
        if acknowledged.live.len() + acknowledged.revoked.len() >= wanted {
            break;
        }
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_synchronous_failover_loses_nothing_and_service_resumes_postgres() {
    const BEFORE: usize = 30;
    const AFTER: usize = 30;
    let pair = Arc::new(Pair::start().await);
    pair.wait_for_the_standby().await;
    let clients = pair.clients().await;
    let mut writers = Vec::new();
    for (index, client) in clients.iter().cloned().enumerate() {
        // They know nothing of it: each goes on until it has what it wants.
        let write = async move { write(&client, index * 1_000_000, BEFORE + AFTER).await };
        writers.push(tokio::spawn(write));
    }
    let name = &pair.database.name;
    let primary = pair.primary.client("postgres", name).await;
    let sql = "SELECT revision FROM latchkey.head";
    let enough = BEFORE as i64;
    until("enough is written", async || {
        primary
            .query_one(sql, &[])
            .await
            .expect("a head")
            .get::<_, i64>(0)
            >= enough
    })
    .await;
    pair.fail_over();
    let mut all = Acknowledged::default();
    for writer in writers {
        let mut acknowledged = writer.await.expect("a writer");
        all.live.append(&mut acknowledged.live);
        all.revoked.append(&mut acknowledged.revoked);
    }
    let last = clients[0].issue_for_sure(1_000).await;
    for (client, replica) in clients.iter().zip(&pair.replicas) {
        client
            .check(&last.secret, last.revision.clone())
            .await
            .expect("reached");
        for secret in &all.live {
            assert_eq!(client.reason(secret).await, v1::Reason::Allowed);
        }
        for secret in &all.revoked {
            assert_eq!(client.reason(secret).await, v1::Reason::Revoked);
        }
        replica.as_bearer(&pair.admin).run("audit verify").ok();
        let logged = replica.logged();
        assert!(!logged.contains("is not the log's"), "{logged}");
        assert!(divergences(replica) == 0.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_that_loses_writes_is_noticed_and_nothing_lost_is_served_postgres() {
    let pair = Pair::start().await;
    let clients = pair.clients().await;
    let kept = clients[0].issue_for_sure(1).await;
    pair.standby_has_all().await;

    // What the standby never hears of: a revocation, and a token.
    pair.link.both_ways(Flow::Hold);
    let revoked = clients[1].revoke(&kept.secret).await.expect("revoked");
    assert!(is_confirmed(revoked.enforcement.as_ref()), "{revoked:?}");
    let lost = clients[1].issue_for_sure(2).await;
    for client in &clients {
        assert_eq!(client.reason(&kept.secret).await, v1::Reason::Revoked);
        assert_eq!(client.reason(&lost.secret).await, v1::Reason::Allowed);
    }
    assert!(pair.replicas.iter().all(|one| divergences(one) == 0.0));
    pair.fail_over();

    // Its numbers are used again for something else.
    let new = clients[0].issue_for_sure(3).await;
    for (client, replica) in clients.iter().zip(&pair.replicas) {
        assert_eq!(client.reason(&lost.secret).await, v1::Reason::Unknown);
        assert_eq!(client.reason(&new.secret).await, v1::Reason::Allowed);
        // The database has forgotten it, and so has everybody.
        assert_eq!(client.reason(&kept.secret).await, v1::Reason::Allowed);
        let logged = replica.logged();
        assert!(logged.contains("is not the log's"), "{logged}");
        assert!(divergences(replica) > 0.0, "{logged}");
        replica.as_bearer(&pair.admin).run("audit verify").ok();
    }
    let lost_at = lost.revision.expect("a revision");
    for number in 4.. {
        let more = clients[1].issue_for_sure(number).await;
        if more.revision.expect("a revision").number >= lost_at.number {
            break;
        }
    }
    for client in &clients {
        let answer = client.check(&new.secret, Some(lost_at.clone())).await;
        let status = answer.expect_err("another history");
        assert_eq!(status.code(), Code::Aborted, "{status:?}");
    }
    // What was lost is revoked again, and holds.
    let again = clients[1].revoke(&kept.secret).await.expect("revoked");
    assert!(is_confirmed(again.enforcement.as_ref()), "{again:?}");
    for client in &clients {
        assert_eq!(client.reason(&kept.secret).await, v1::Reason::Revoked);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_for_the_standby_that_is_cancelled_proves_nothing_postgres() {
    let pair = Pair::start().await;
    let clients = pair.clients().await;
    let token = clients[0].issue_for_sure(1).await;
    pair.wait_for_the_standby().await;
    pair.link.both_ways(Flow::Hold);
    let client = clients[1].clone();
    let secret = token.secret.clone();
    let revoke = tokio::spawn(async move { client.revoke(&secret).await });
    let admin = pair.primary.client("postgres", "postgres").await;
    let cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity
        WHERE wait_event = 'SyncRep' AND query LIKE '-- append%'";
    // The append, and what was to settle it: neither tells.
    for _ in 0..2 {
        until("an append to cancel", async || {
            !admin.query(cancel, &[]).await.expect("asked").is_empty()
        })
        .await;
    }
    let waits = "SELECT FROM pg_stat_activity
        WHERE wait_event = 'SyncRep' AND query LIKE '-- append%'";
    until("an append waits", async || {
        !admin.query(waits, &[]).await.expect("asked").is_empty()
    })
    .await;
    // Meanwhile renewals are tried again and again, and do not pile up.
    let long = "SELECT FROM pg_stat_activity
        WHERE wait_event = 'SyncRep' AND query LIKE '-- renew%'
          AND clock_timestamp() - query_start > interval '4 s'";
    until("a renewal has waited for long", async || {
        !admin.query(long, &[]).await.expect("asked").is_empty()
    })
    .await;
    let there = "SELECT FROM pg_stat_activity WHERE application_name = 'latchkey'";
    let there = admin.query(there, &[]).await.expect("asked").len();
    assert!(there <= CONNECTIONS_MAX, "{there} connections");
    // What nobody acknowledged may only have been given up on, and not as if it were not written.
    let given_up = |status: &Status| {
        let codes = [Code::Unknown, Code::Cancelled, Code::DeadlineExceeded];
        assert!(codes.contains(&status.code()), "{status:?}");
    };
    if revoke.is_finished() {
        given_up(
            &revoke
                .await
                .expect("ended")
                .expect_err("the standby is away"),
        );
        pair.link.both_ways(Flow::Pass);
    } else {
        pair.link.both_ways(Flow::Pass);
        if let Err(status) = revoke.await.expect("ended") {
            given_up(&status);
        }
    }

    holds_and_was_made_once(&pair, &clients, &token.secret).await;
}

/// Sent once more, the revocation holds everywhere; it was made once, and the log is one.
async fn holds_and_was_made_once(pair: &Pair, clients: &[Client], secret: &str) {
    let began = Instant::now();
    loop {
        match clients[1].revoke(secret).await {
            Ok(revoked) if is_confirmed(revoked.enforcement.as_ref()) => break,
            said => assert!(began.elapsed() < PATIENCE, "{said:?}"),
        }
    }
    let list = "audit list --kind token.revoke --output json";
    for (client, replica) in clients.iter().zip(&pair.replicas) {
        assert_eq!(client.reason(secret).await, v1::Reason::Revoked);
        let listed = replica.as_bearer(&pair.admin).run(list).json();
        assert_eq!(
            listed["changes"].as_array().map(Vec::len),
            Some(1),
            "{listed}"
        );
        replica.as_bearer(&pair.admin).run("audit verify").ok();
        assert!(divergences(replica) == 0.0, "{}", replica.logged());
    }
}
