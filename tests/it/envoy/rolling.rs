//! A rolling restart of three replicas behind Envoy: no client of Envoy notices.
//!
//! ```text
//! callers ─► Envoy ─► the service
//!              └─► a, b, c   asked in turn, on one Postgres; each in its turn gets SIGTERM, drains
//!                            and comes back where it was
//! ```
//!
//! How Envoy finds out who serves, and what it asks again, is the example's: `examples/envoy`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::client::{get, until};
use super::config::{Listener, config};
use super::mesh::{NEEDS, SECRET, web};
use super::process::Envoy;
use super::upstream::Upstream;
use crate::fleet::revoke;
use crate::postgres::{Database, database};
use crate::program::Server;
use crate::replicas::bootstrap;
use crate::wire::{bearer, channel};
use latchkey::proto::v1::token_service_client::TokenServiceClient;

const EXAMPLE: &str = include_str!("../../../examples/envoy/envoy.yaml");
/// A lease that ends is not what this is about. The notice is what `examples/compose` sets.
const SETTINGS: [&str; 6] = [
    "--set",
    "lease.length=30s",
    "--set",
    "check.open=true",
    "--set",
    "limits.drain_notice=5s",
];
/// An address that nobody takes a free port of: who comes back finds its port free.
const HERE: &str = "127.0.0.11:0";
const NAMES: [&str; 3] = ["a", "b", "c"];
const CALLERS: usize = 4;
/// Requests before the first restart, between two of them, and after the last.
const REQUESTS_EACH: u64 = 200;

fn example(path: &str) -> Value {
    let whole: Value = serde_saphyr::from_str(EXAMPLE).expect("YAML");
    let found = whole.pointer(path);
    found.unwrap_or_else(|| panic!("{path}")).clone()
}

/// The test's Envoy, which asks three replicas as the example's does.
fn asking_all(ports: &[u16; 3], upstream: u16) -> Value {
    let front = Listener::asking("front", 0).route("/v1/secrets/", &NEEDS);
    let mut config = config(&[front], upstream);
    let clusters = config["static_resources"]["clusters"].as_array_mut();
    let cluster = clusters
        .expect("clusters")
        .iter_mut()
        .find(|cluster| cluster["name"] == "asked-by-front");
    let cluster = cluster.expect("the cluster that is asked");
    let endpoints = ports.iter().map(|port| {
        let address = json!({"address": "127.0.0.11", "port_value": port});
        json!({"endpoint": {"address": {"socket_address": address}}})
    });
    cluster["load_assignment"]["endpoints"] = json!([{"lb_endpoints": Vec::from_iter(endpoints)}]);
    for key in ["lb_policy", "health_checks", "circuit_breakers"] {
        cluster[key] = example(&format!("/static_resources/clusters/0/{key}"));
    }
    let manager = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
    let asks = "/http_filters/0/typed_config/grpc_service/retry_policy";
    let filters = &mut config.pointer_mut(manager).expect("a manager")["http_filters"];
    filters[0]["typed_config"]["grpc_service"]["retry_policy"] =
        example(&format!("{manager}{asks}"));
    config
}

/// What callers share: tokens with the status that each must get, and what came of it.
#[derive(Default)]
struct Callers {
    tokens: Mutex<Vec<(String, u16)>>,
    requests: AtomicU64,
    wrong: Mutex<Vec<String>>,
    stop: CancellationToken,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Callers {
    async fn call(self: Arc<Self>, caller: usize, port: u16) {
        for round in caller.. {
            if self.stop.is_cancelled() {
                return;
            }
            let (secret, expected) = {
                let tokens = locked(&self.tokens);
                tokens[round % tokens.len()].clone()
            };
            let answer = get(SECRET).bearer(&secret).send(port).await;
            if answer.status != expected {
                locked(&self.wrong).push(format!("{expected}: {answer:?}"));
            }
            self.requests.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Until so many more requests were answered, however.
    async fn more(&self) {
        let wanted = self.requests.load(Ordering::Relaxed) + REQUESTS_EACH;
        let enough = async || self.requests.load(Ordering::Relaxed) >= wanted;
        until("enough requests", enough).await;
    }
}

/// Three replicas, the Envoy that asks them, and those who call through it.
struct Stage {
    database: Database,
    admin: String,
    replicas: Vec<Server>,
    envoy: Envoy,
    upstream: Upstream,
    callers: Arc<Callers>,
    calling: Vec<JoinHandle<()>>,
}

impl Stage {
    async fn start() -> Self {
        let (database, upstream) = (database().await, Upstream::start().await);
        let admin = tokio::task::block_in_place(|| bootstrap(&database));
        let replicas = NAMES.map(|name| started(HERE, &database, name));
        let ports = [0, 1, 2].map(|index| super::mesh::port(&replicas[index]));
        let envoy = Envoy::start(&asking_all(&ports, upstream.port)).await;
        let mut stage = Self {
            database,
            admin,
            replicas: replicas.into(),
            callers: Arc::default(),
            calling: Vec::new(),
            envoy,
            upstream,
        };
        stage.revoke_one().await;
        stage.all_serve().await;
        let port = stage.envoy.port("front");
        let call = |caller| tokio::spawn(Arc::clone(&stage.callers).call(caller, port));
        stage.calling = (0..CALLERS).map(call).collect();
        stage
    }

    /// One more good token, and one that was revoked everywhere.
    async fn revoke_one(&self) {
        let mut tokens = TokenServiceClient::new(channel(&self.replicas[0].address).await);
        let mut secrets = Vec::new();
        for _ in 0..2 {
            let mut request = web();
            request.wait_for_replicas = true;
            let issued = tokens.issue_token(bearer(&self.admin, request)).await;
            secrets.push(issued.expect("issued").into_inner().secret);
        }
        let revoked = tokens.revoke_token(bearer(&self.admin, revoke(&secrets[1])));
        revoked.await.expect("revoked");
        locked(&self.callers.tokens).extend(secrets.into_iter().zip([200, 401]));
    }

    /// Until Envoy has found out that all of them serve.
    async fn all_serve(&self) {
        let all = async || {
            let told = self.envoy.ask("/clusters?format=json").await;
            let told: Value = serde_json::from_str(&told).expect("JSON");
            let clusters = told["cluster_statuses"].as_array().expect("a list");
            let asked = clusters
                .iter()
                .find(|cluster| cluster["name"] == "asked-by-front");
            let hosts = asked.expect("it is there")["host_statuses"].as_array();
            let serve = |host: &&Value| {
                let status = &host["health_status"];
                status["eds_health_status"] == "HEALTHY"
                    && status["failed_active_health_check"] != true
            };
            hosts.expect("hosts").iter().filter(serve).count() == NAMES.len()
        };
        until("known to serve", all).await;
    }

    /// Ends a replica as an operator would, and starts it again where it was.
    async fn restart(&mut self, index: usize) {
        let old = self.replicas.remove(index);
        let listen = old.address.clone();
        tokio::task::block_in_place(|| old.terminate());
        self.callers.more().await;
        let new = started(&listen, &self.database, NAMES[index]);
        assert_eq!(new.address, listen);
        self.replicas.insert(index, new);
        self.all_serve().await;
        self.revoke_one().await;
    }
}

fn started(listen: &str, database: &Database, name: &str) -> Server {
    let start = || Server::replica_at(listen, &database.url, name, &SETTINGS);
    tokio::task::block_in_place(start).unwrap_or_else(|said| panic!("{name}: {said}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_behind_envoy_loses_no_request_postgres() {
    let mut stage = Stage::start().await;
    stage.callers.more().await;
    for index in 0..NAMES.len() {
        stage.restart(index).await;
        stage.callers.more().await;
    }
    stage.callers.stop.cancel();
    for calling in stage.calling {
        calling.await.expect("called");
    }
    let requests = stage.callers.requests.load(Ordering::Relaxed);
    let wrong = locked(&stage.callers.wrong);
    assert!(
        wrong.is_empty(),
        "{} of {requests}: {wrong:#?}",
        wrong.len()
    );
    // What was not let through did not reach the service either.
    assert!((stage.upstream.seen().len() as u64) < requests);
}
