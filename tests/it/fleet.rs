//! Replicas on one database in this process: whole servers, each on its port and with a way of
//! its own to the database that a test can hold up or cut.
//!
//! Leases are short where a test waits for one to end, and longer than any test where none may.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use latchkey::authority::{self, Authority};
use latchkey::config::{Config, Limits, Open};
use latchkey::domain::clock::SystemClock;
use latchkey::domain::entropy::OsEntropy;
use latchkey::domain::seal::ring::Ring;
use latchkey::proto::v1;
use latchkey::replica::{Identity, LeaseSettings, Replica, Settings, WriterTask};
use latchkey::rpc::{self, Listening, Metrics};
use latchkey::store::postgres::{self, PostgresStore};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_types::StatusExt as _;
use v1::check_service_client::CheckServiceClient;
use v1::cluster_service_client::ClusterServiceClient;
use v1::enforcement::State;
use v1::token_service_client::TokenServiceClient;

use crate::crash::issue;
use crate::postgres::{Database, database, server};
use crate::proxy::{Flow, Proxy};
use crate::wire::{bearer, channel, check};

/// What [`issued`] tokens may do.
pub(crate) const NEED: [(&str, &str); 1] = [("a:b", "crash/1")];
/// Longer than any test.
pub(crate) const LONG: Duration = Duration::from_secs(300);

/// How a replica is run.
#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) lease: LeaseSettings,
    pub(crate) confirm_time_max: Duration,
    pub(crate) check_open: bool,
    pub(crate) limits: Limits,
    /// Whether only what it follows the log and the members by goes the way that can be cut.
    pub(crate) writes_past: bool,
    /// The seal keys that it has loaded.
    pub(crate) seals: Arc<ArcSwap<Ring>>,
}

impl Options {
    fn config(&self) -> Config {
        let mut config = Config {
            limits: self.limits.clone(),
            ..Config::default()
        };
        if !self.check_open {
            config.check.open = Open::False;
        }
        config
    }

    pub(crate) fn lease(length: Duration) -> Self {
        Self {
            lease: LeaseSettings {
                length_ms: length.as_millis() as u64,
                ..LeaseSettings::default()
            },
            confirm_time_max: Duration::from_secs(60),
            check_open: true,
            limits: Limits {
                request_time_max: Duration::from_secs(60),
                ..Limits::default()
            },
            writes_past: false,
            seals: Arc::default(),
        }
    }
}

/// A running replica; it ends with its handle.
pub(crate) struct Node {
    pub(crate) address: String,
    pub(crate) admin: String,
    pub(crate) authority: Authority,
    /// The name of its database.
    pub(crate) database: String,
    /// Its way to the database, and the one that it listens by.
    pub(crate) way: Proxy,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    writer: Option<WriterTask>,
}

impl Node {
    pub(crate) async fn start(database: &Database, name: &str, options: Options) -> Self {
        let config = options.config();
        let listen = || async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address").to_string();
            (listener, address)
        };
        let ((listener, address), (admin_listener, admin)) = (listen().await, listen().await);
        let way = Proxy::start(SocketAddr::from(([127, 0, 0, 1], server().port))).await;
        let port = format!(":{}/", server().port);
        let length = Duration::from_millis(options.lease.length_ms);
        let by_way = database.url.replacen(&port, &format!(":{}/", way.port), 1);
        let past = options.writes_past.then(|| database.url.clone());
        let settings = postgres::Settings {
            url: past.unwrap_or_else(|| by_way.clone()),
            listen_url: options.writes_past.then_some(by_way),
            // To the one host that there is, also on a busy machine.
            connect_timeout: Duration::from_secs(10),
            statement_timeout: Duration::from_secs(2),
            cluster_timeout: (length / 5).min(Duration::from_secs(1)),
            ..postgres::Settings::default()
        };
        let (clock, entropy) = (Arc::new(SystemClock::start()), Arc::new(OsEntropy));
        let store = PostgresStore::open(&settings, &*entropy).await;
        let store = Arc::new(store.expect("a migrated database opens"));
        let settings = Settings {
            lease: options.lease,
            identity: Identity {
                name: name.to_owned(),
                address: address.clone(),
                ..Identity::default()
            },
            seals: options.seals,
            ..Settings::default()
        };
        let started = Replica::start(store, clock, entropy.clone(), settings).await;
        let (replica, writer) = started.expect("started");
        let settings = authority::Settings {
            valid_for_ms: 1_000,
            confirm_time_max: options.confirm_time_max,
        };
        let authority = Authority::new(replica, entropy, settings);
        let (stop, metrics) = (CancellationToken::new(), Metrics::default());
        let serving = {
            let (authority, metrics, stop) = (authority.clone(), metrics.clone(), stop.clone());
            tokio::spawn(async move {
                let listener = Listening::plainly(listener);
                let (none, stop) = (Arc::default(), stop.cancelled_owned());
                let served = rpc::serve(authority, metrics, listener, &config, none, stop);
                served.await.expect("served");
            })
        };
        let (asked, stopped) = (authority.clone(), stop.clone().cancelled_owned());
        let admin_listener = Listening::plainly(admin_listener);
        let (files, leaving) = (Default::default(), stop.clone());
        let told = rpc::serve_admin(asked, metrics, files, admin_listener, leaving, stopped);
        let telling = tokio::spawn(async move { told.await.expect("served") });
        let node = Self {
            address,
            admin,
            authority,
            database: database.name.clone(),
            way,
            stop,
            tasks: vec![serving, telling],
            writer: Some(writer),
        };
        node.answers(true).await;
        node
    }

    /// Waits until it answers Checks, or does not any more.
    pub(crate) async fn answers(&self, expected: bool) {
        while self.authority.may_answer() != expected {
            tokio::task::yield_now().await;
        }
    }

    /// Cuts it off from the database, as a network does that loses every packet.
    pub(crate) fn partition(&self) {
        self.way.to_server(Flow::Hold);
        self.way.to_client(Flow::Hold);
    }

    /// Ends that.
    pub(crate) fn heal(&self) {
        self.way.to_server(Flow::Pass);
        self.way.to_client(Flow::Pass);
        self.way.cut();
    }

    pub(crate) async fn tokens(&self) -> TokenServiceClient<Channel> {
        TokenServiceClient::new(channel(&self.address).await)
    }

    pub(crate) async fn checks(&self) -> CheckServiceClient<Channel> {
        CheckServiceClient::new(channel(&self.address).await)
    }

    pub(crate) async fn cluster(&self) -> ClusterServiceClient<Channel> {
        ClusterServiceClient::new(channel(&self.address).await)
    }

    /// Stops it cleanly.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        for task in self.tasks.drain(..) {
            task.await.expect("ended");
        }
        if let Some(writer) = self.writer.take() {
            writer.stop().await;
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Replicas `a`, `b`, … on a database of their own, and the first administrator's token.
pub(crate) async fn fleet<const N: usize>(options: [Options; N]) -> ([Node; N], String) {
    let database = database().await;
    let mut nodes = Vec::new();
    for (options, name) in options.into_iter().zip(["a", "b", "c", "d"]) {
        nodes.push(Node::start(&database, name, options).await);
    }
    let nodes: [Node; N] = nodes.try_into().ok().expect("as many as options");
    let made = nodes[0].authority.bootstrap(false).await.expect("written");
    let admin = made.expect("the first").reveal().to_owned();
    (nodes, admin)
}

/// How far a change is enforced: by whom, and who is missing.
pub(crate) fn far(told: &v1::Enforcement) -> (State, Vec<&str>, Vec<&str>) {
    let names = |names| Vec::from_iter(Iterator::map(<[String]>::iter(names), String::as_str));
    (told.state(), names(&told.replicas), names(&told.missing))
}

pub(crate) fn revoke(secret: &str) -> v1::RevokeTokenRequest {
    v1::RevokeTokenRequest {
        target: Some(v1::revoke_token_request::Target::Secret(secret.to_owned())),
        reason: "test".to_owned(),
        ..v1::RevokeTokenRequest::default()
    }
}

pub(crate) fn within<T>(time: Duration, mut request: Request<T>) -> Request<T> {
    request.set_timeout(time);
    request
}

pub(crate) fn why(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.map(|info| info.reason).unwrap_or_default()
}

/// A token that works on every node.
pub(crate) async fn issued(node: &Node, admin: &str) -> String {
    let request = v1::IssueTokenRequest {
        wait_for_replicas: true,
        ..issue(1)
    };
    let answer = node
        .tokens()
        .await
        .issue_token(bearer(admin, request))
        .await;
    let answer = answer.expect("issued").into_inner();
    let enforcement = answer.enforcement.expect("asked for");
    assert_eq!(enforcement.state(), State::Confirmed, "{enforcement:?}");
    answer.secret
}

pub(crate) async fn revoked(
    node: &Node,
    admin: &str,
    secret: &str,
    time: Duration,
) -> v1::RevokeTokenResponse {
    let request = within(time, bearer(admin, revoke(secret)));
    let answer = node.tokens().await.revoke_token(request).await;
    answer.expect("revoked").into_inner()
}

pub(crate) async fn reason(node: &Node, secret: &str) -> v1::Reason {
    let answer = node.checks().await.check(check(secret, &NEED)).await;
    answer.expect("answered").into_inner().reason()
}
