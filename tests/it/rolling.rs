//! Replicas that come and go: a clean stop, restarts one after the other, many at once, and an
//! upgrade.
//!
//! By real processes, and as a client meets them that knows all replicas: where a call to one
//! fails, or is denied as stale, it asks the next, each once. A Check has *failed* when none of
//! them decides it, or one decides it wrong: a live token denied, a revoked one allowed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use latchkey::domain::entropy::OsEntropy;
use latchkey::proto::v1;
use latchkey::store::Store as _;
use latchkey::store::postgres::{PostgresStore, Settings};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use v1::check_service_client::CheckServiceClient;
use v1::enforcement::State;
use v1::token_service_client::TokenServiceClient;

use crate::callers::{Asks, Callers, locked};
use crate::crash::issue;
use crate::formats::unknown;
use crate::postgres::{Database, database, server};
use crate::program::Server;
use crate::replicas::bootstrap;
use crate::wire::{bearer, channel, check};

const PATIENCE: Duration = Duration::from_secs(60);
const CALL_TIME_MAX: Duration = Duration::from_secs(5);
const CALLERS: usize = 4;
/// Checks that every step of a rolling restart must have seen.
const CHECKS_EACH: u64 = 50;
const MANY: usize = 20;
/// What a replica with next to no tokens may take, as built for tests.
const PEAK_KIB_MAX: u64 = 200 * 1024;

/// The cluster's lease, and the names of its members.
async fn members(database: &Database) -> (i64, Vec<String>) {
    let client = server().client("postgres", &database.name).await;
    let sql = "SELECT lease_ms FROM latchkey.cluster";
    let lease = client.query_one(sql, &[]).await.expect("asked").get(0);
    let sql = "SELECT name FROM latchkey.replicas ORDER BY name";
    let rows = client.query(sql, &[]).await.expect("asked");
    (lease, rows.iter().map(|row| row.get(0)).collect())
}

/// A client that knows where all replicas are.
struct Caller {
    addresses: Arc<Mutex<Vec<String>>>,
    channels: HashMap<String, Channel>,
}

impl Asks for Caller {
    type Expected = v1::Reason;

    async fn ask(&mut self, round: usize, secret: &str, expected: &v1::Reason) -> Option<String> {
        let addresses = locked(&self.addresses).clone();
        let mut said = Vec::new();
        for step in 0..addresses.len() {
            match self
                .ask_one(&addresses[(round + step) % addresses.len()], secret)
                .await
            {
                Err(status) => said.push(format!("{:?} {}", status.code(), status.message())),
                Ok(v1::Reason::Stale) => said.push("Stale".to_owned()),
                Ok(reason) if reason == *expected => return None,
                Ok(reason) => {
                    said.push(format!("{reason:?}"));
                    break;
                }
            }
        }
        Some(format!("{expected:?}: {said:?}"))
    }
}

impl Caller {
    async fn ask_one(&mut self, address: &str, secret: &str) -> Result<v1::Reason, Status> {
        let channel = self.channels.entry(address.to_owned()).or_insert_with(|| {
            let endpoint = Endpoint::from_shared(format!("http://{address}"));
            endpoint.expect("an address").connect_lazy()
        });
        let mut request = Request::new(check(secret, &[]));
        request.set_timeout(CALL_TIME_MAX);
        let answer = CheckServiceClient::new(channel.clone())
            .check(request)
            .await?;
        Ok(answer.into_inner().reason())
    }
}

/// Three replicas, and callers that never stop.
struct Fleet {
    database: Database,
    admin: String,
    replicas: Vec<Server>,
    addresses: Arc<Mutex<Vec<String>>>,
    callers: Callers<v1::Reason>,
}

const NAMES: [&str; 3] = ["a", "b", "c"];
const SETTINGS: [&str; 4] = ["--set", "lease.length=2s", "--set", "forget.interval=50ms"];

impl Fleet {
    async fn start() -> Self {
        let database = database().await;
        let admin = bootstrap(&database);
        let start = |name| started(Server::replica(&database.url, name, &SETTINGS));
        let replicas: Vec<_> = NAMES.into_iter().map(start).collect();
        let addresses = replicas.iter().map(|replica| replica.address.clone());
        let mut fleet = Self {
            addresses: Arc::new(Mutex::new(addresses.collect())),
            callers: Callers::new(),
            database,
            admin,
            replicas,
        };
        fleet.revoke_one().await;
        let caller = |_| Caller {
            addresses: Arc::clone(&fleet.addresses),
            channels: HashMap::new(),
        };
        fleet.callers.start((0..CALLERS).map(caller));
        fleet
    }

    /// Issues two tokens and revokes one of them, both confirmed.
    async fn revoke_one(&self) {
        let channel = channel(&self.replicas[0].address).await;
        let mut tokens = TokenServiceClient::new(channel);
        let mut secrets = Vec::new();
        for number in [0, 1] {
            let request = v1::IssueTokenRequest {
                wait_for_replicas: true,
                ..issue(number)
            };
            let issued = tokens.issue_token(bearer(&self.admin, request)).await;
            let issued = issued.expect("issued").into_inner();
            assert_confirmed(issued.enforcement.as_ref());
            secrets.push(issued.secret);
        }
        let target = v1::revoke_token_request::Target::Secret(secrets[1].clone());
        let request = v1::RevokeTokenRequest {
            target: Some(target),
            reason: "leaked".to_owned(),
            ..v1::RevokeTokenRequest::default()
        };
        let revoked = tokens.revoke_token(bearer(&self.admin, request)).await;
        assert_confirmed(revoked.expect("revoked").into_inner().enforcement.as_ref());
        let reasons = [v1::Reason::Allowed, v1::Reason::Revoked];
        self.callers.add(secrets.into_iter().zip(reasons));
    }

    /// Ends a replica as an operator would and starts another in its place, while all call.
    async fn replace(&mut self, index: usize, start: impl Fn(&str) -> Server) {
        let wanted = self.callers.answered() + CHECKS_EACH;
        let old = self.replicas.remove(index);
        tokio::task::block_in_place(|| old.terminate());
        let new = tokio::task::block_in_place(|| start(NAMES[index]));
        locked(&self.addresses)[index].clone_from(&new.address);
        self.replicas.insert(index, new);
        self.callers.until(wanted).await;
        self.revoke_one().await;
    }

    async fn end(self) {
        let (_, failed) = self.callers.end().await;
        assert!(failed.is_empty(), "{}", failed.join("\n"));
    }
}

fn started(replica: Result<Server, String>) -> Server {
    replica.unwrap_or_else(|said| panic!("{said}"))
}

#[track_caller]
fn assert_confirmed(enforcement: Option<&v1::Enforcement>) {
    let state = enforcement.map(v1::Enforcement::state);
    assert_eq!(state, Some(State::Confirmed), "{enforcement:?}");
}

async fn until(holds: impl AsyncFn() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < PATIENCE, "it does not come about");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stops_cleanly_leaves_nobody_waiting_postgres() {
    let database = database().await;
    bootstrap(&database);
    assert_eq!(members(&database).await.1, [""; 0]);
    let start = |name, lease: &str| {
        let started = Server::replica(&database.url, name, &["--set", lease]);
        started.unwrap_or_else(|said| panic!("{name}: {said}"))
    };
    let a = start("a", "lease.length=7s");
    let b = start("b", "lease.length=9s");
    let both = (9_000, vec!["a".to_owned(), "b".to_owned()]);
    assert_eq!(members(&database).await, both);
    b.terminate();
    assert_eq!(members(&database).await.1, ["a"]);
    a.terminate();
    assert_eq!(members(&database).await.1, [""; 0]);
    start("c", "lease.length=6s").terminate();
    assert_eq!(members(&database).await.0, 6_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_fails_no_check_postgres() {
    let mut fleet = Fleet::start().await;
    let url = fleet.database.url.clone();
    for index in 0..NAMES.len() {
        let start = |name: &str| started(Server::replica(&url, name, &SETTINGS));
        fleet.replace(index, start).await;
    }
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_upgrade_fails_no_check_and_writes_the_new_kind_at_its_end_postgres() {
    let mut fleet = Fleet::start().await;
    let url = fleet.database.url.clone();
    let kinds = |fleet: &Fleet| {
        let admin = fleet.replicas[0].as_bearer(&fleet.admin);
        // There are more every moment: all of them, or the first would be gone from the list.
        let listed = admin.run("audit list --limit 100000 --output json").json();
        let changes = listed["changes"].as_array().expect("changes").clone();
        let kind = |change: &serde_json::Value| change["kind"].as_str().expect("a kind").to_owned();
        changes.iter().map(kind).collect::<Vec<_>>()
    };
    let has = |fleet: &Fleet, wanted: &str| kinds(fleet).iter().any(|kind| kind == wanted);
    for index in 0..NAMES.len() {
        assert!(!has(&fleet, "format.raise"), "an older one is still there");
        let start = |name: &str| started(Server::next_replica(&url, name, &SETTINGS));
        fleet.replace(index, start).await;
    }
    until(async || has(&fleet, "note")).await;
    assert!(has(&fleet, "format.raise"));
    fleet.revoke_one().await;
    let said = Server::replica(&url, "old", &SETTINGS)
        .err()
        .expect("refused");
    assert!(said.contains("format"), "{said}");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_replicas_join_at_once_postgres() {
    let database = database().await;
    let admin = bootstrap(&database);
    let starts = (0..MANY).map(|number| {
        let url = database.url.clone();
        let name = format!("r{number:02}");
        tokio::task::spawn_blocking(move || started(Server::replica(&url, &name, &[])))
    });
    let mut replicas = Vec::new();
    for start in starts.collect::<Vec<_>>() {
        replicas.push(start.await.expect("started"));
    }
    let names: Vec<_> = (0..MANY).map(|number| format!("r{number:02}")).collect();
    assert_eq!(members(&database).await.1, names);
    let mut tokens = TokenServiceClient::new(channel(&replicas[0].address).await);
    let issued = tokens.issue_token(bearer(&admin, issue(1))).await;
    let secret = issued.expect("issued").into_inner().secret;
    let request = v1::RevokeTokenRequest {
        target: Some(v1::revoke_token_request::Target::Secret(secret.clone())),
        reason: "leaked".to_owned(),
        ..v1::RevokeTokenRequest::default()
    };
    let revoked = tokens.revoke_token(bearer(&admin, request)).await;
    let revoked = revoked.expect("revoked").into_inner();
    assert_confirmed(revoked.enforcement.as_ref());
    for replica in &replicas {
        let mut checks = CheckServiceClient::new(channel(&replica.address).await);
        let answer = checks.check(check(&secret, &[])).await.expect("answered");
        let reason = answer.into_inner().reason();
        // On a busy machine a lease may end; then nothing is allowed either.
        assert!(
            matches!(reason, v1::Reason::Revoked | v1::Reason::Stale),
            "{reason:?}"
        );
        let peak = replica.peak_kib();
        assert!(peak < PEAK_KIB_MAX, "{peak} KiB");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_of_an_unknown_version_stops_the_process_from_answering_postgres() {
    let database = database().await;
    let admin = bootstrap(&database);
    let replica = started(Server::replica(&database.url, "a", &SETTINGS));
    let mut checks = CheckServiceClient::new(channel(&replica.address).await);
    let mut reason = async || {
        let answer = checks.check(check(&admin, &[])).await;
        answer.expect("answered").into_inner().reason()
    };
    assert_eq!(reason().await, v1::Reason::Allowed);
    let settings = Settings {
        url: database.url.clone(),
        ..Settings::default()
    };
    let store = PostgresStore::open(&settings, &OsEntropy)
        .await
        .expect("open");
    let batch = unknown(&store).await;
    store.append(batch).await.expect("appended");
    let began = Instant::now();
    while reason().await != v1::Reason::Stale {
        assert!(began.elapsed() < PATIENCE, "it goes on");
    }
    // It has tried to load it anew, and does not come back by that.
    until(async || replica.logged().contains("the state cannot be loaded")).await;
    assert_eq!(reason().await, v1::Reason::Stale);
    let said = Server::replica(&database.url, "b", &SETTINGS)
        .err()
        .expect("refused");
    assert!(said.contains("format 99"), "{said}");
}
