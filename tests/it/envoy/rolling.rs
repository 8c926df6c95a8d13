//! A rolling restart of three replicas behind Envoy, and one that is not there: no client of Envoy
//! notices.
//!
//! ```text
//! callers ─► Envoy ─► the service
//!              └─► a, b, c   asked in turn, on one Postgres; each in its turn gets SIGTERM, drains
//!                            and comes back where it was
//! ```
//!
//! How Envoy finds out who serves, and what it asks again, is the example's: `examples/envoy`.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::net::TcpSocket;

use super::client::{get, until};
use super::config::{Listener, config};
use super::mesh::{NEEDS, SECRET, web};
use super::process::Envoy;
use super::upstream::Upstream;
use crate::callers::{Asks, Callers};
use crate::fleet::revoke;
use crate::postgres::{Database, database};
use crate::program::{Server, fresh};
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

/// The test's Envoy, which asks replicas as the example's does.
fn asking_all(replicas: &[SocketAddr], upstream: u16) -> Value {
    let front = Listener::asking("front", 0).route("/v1/secrets/", &NEEDS);
    let mut config = config(&[front], upstream);
    let clusters = config["static_resources"]["clusters"].as_array_mut();
    let cluster = clusters
        .expect("clusters")
        .iter_mut()
        .find(|cluster| cluster["name"] == "asked-by-front");
    let cluster = cluster.expect("the cluster that is asked");
    let endpoints = replicas.iter().map(|replica| {
        let address = json!({"address": replica.ip(), "port_value": replica.port()});
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

/// A client of Envoy's on this port.
struct Caller(u16);

impl Asks for Caller {
    type Expected = u16;

    async fn ask(&mut self, _: usize, secret: &str, expected: &u16) -> Option<String> {
        let answer = get(SECRET).bearer(secret).send(self.0).await;
        (answer.status != *expected).then(|| format!("{expected}: {answer:?}"))
    }
}

/// Three replicas, the Envoy that asks them, and those who call through it.
struct Stage {
    database: Database,
    admin: String,
    replicas: Vec<Server>,
    envoy: Envoy,
    upstream: Upstream,
    callers: Callers<u16>,
}

impl Stage {
    async fn start() -> Self {
        let (database, upstream) = (database().await, Upstream::start().await);
        let admin = tokio::task::block_in_place(|| bootstrap(&database));
        let replicas = NAMES.map(|name| started(HERE, &database, name));
        let addresses = replicas.each_ref().map(address);
        let envoy = Envoy::start(&asking_all(&addresses, upstream.port)).await;
        let mut stage = Self {
            database,
            admin,
            replicas: replicas.into(),
            callers: Callers::new(),
            envoy,
            upstream,
        };
        stage.revoke_one().await;
        stage.all_serve().await;
        let port = stage.envoy.port("front");
        stage.callers.start((0..CALLERS).map(|_| Caller(port)));
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
        self.callers.add(secrets.into_iter().zip([200, 401]));
    }

    /// Until so many more requests were answered, however.
    async fn more(&self) {
        let wanted = self.callers.answered() + REQUESTS_EACH;
        self.callers.until(wanted).await;
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
        self.more().await;
        let new = started(&listen, &self.database, NAMES[index]);
        assert_eq!(new.address, listen);
        self.replicas.insert(index, new);
        self.all_serve().await;
        self.revoke_one().await;
    }
}

fn address(replica: &Server) -> SocketAddr {
    replica.address.parse().expect("an address")
}

fn started(listen: &str, database: &Database, name: &str) -> Server {
    let start = || Server::replica_at(listen, &database.url, name, &SETTINGS);
    tokio::task::block_in_place(start).unwrap_or_else(|said| panic!("{name}: {said}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_behind_envoy_loses_no_request_postgres() {
    let mut stage = Stage::start().await;
    stage.more().await;
    for index in 0..NAMES.len() {
        stage.restart(index).await;
        stage.more().await;
    }
    let (requests, wrong) = stage.callers.end().await;
    let failed = wrong.len();
    assert!(wrong.is_empty(), "{failed} of {requests}: {wrong:#?}");
    // What was not let through did not reach the service either.
    assert!((stage.upstream.seen().len() as u64) < requests);
}

/// Requests, of which every other one meets the replica that is not there first.
const ASKED: usize = 200;
/// Of so many, those that may meet it once more for all that: one in some 4,000.
const UNLUCKY_MAX: usize = 2;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_replica_does_not_take_is_asked_of_another_embedded() {
    let (dir, upstream) = (fresh(), Upstream::start().await);
    let replica = tokio::task::block_in_place(|| Server::start(dir.path()));
    let admin = replica.admin.as_deref().expect("a fresh directory");
    // A port that nobody else gets, and where nobody listens.
    let gone = TcpSocket::new_v4().expect("a socket");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    gone.bind(any).expect("a port");
    let replicas = [address(&replica), gone.local_addr().expect("an address")];
    let mut config = asking_all(&replicas, upstream.port);
    // It has not found out yet.
    let clusters = config["static_resources"]["clusters"].as_array_mut();
    for cluster in clusters.expect("clusters") {
        cluster["health_checks"] = json!([]);
    }
    let envoy = Envoy::start(&config).await;
    let mut tokens = TokenServiceClient::new(channel(&replica.address).await);
    let issued = tokens.issue_token(bearer(admin, web())).await;
    let secret = issued.expect("issued").into_inner().secret;
    let mut unlucky = Vec::new();
    for _ in 0..ASKED {
        let answer = get(SECRET).bearer(&secret).send(envoy.port("front")).await;
        if answer.status != 200 {
            unlucky.push(answer);
        }
    }
    assert!(
        unlucky.len() <= UNLUCKY_MAX,
        "{}: {unlucky:#?}",
        unlucky.len()
    );
    let retried = "cluster.asked-by-front.upstream_rq_retry:";
    let told = envoy.ask("/stats").await;
    let retried = told.lines().find_map(|line| line.strip_prefix(retried));
    let retried: usize = retried.expect("counted").trim().parse().expect("a number");
    assert!(retried > ASKED / 4, "{retried}");
}
