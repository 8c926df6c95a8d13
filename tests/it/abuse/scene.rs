//! A server with small limits, a good client that asks it without a pause, and the figures.
//!
//! What the server may hold follows from its limits: it is asserted after each attack, of the most
//! that the process had at any time.

use std::time::Duration;

use latchkey::proto::v1;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::transport::Channel;
use v1::check_service_client::CheckServiceClient;

use super::attacker::{Attacker, PATIENCE};
use crate::leaks::{metrics, value};
use crate::program::{Server, fresh};
use crate::tls::kit::House;
use crate::wire::{channel, check};

/// So small that an attack soon meets them; a good client on a busy machine does not.
const SMALL: [&str; 11] = [
    "limits.connections_max=12",
    "limits.connections_per_peer_max=8",
    "limits.hello_time_max=2s",
    "limits.streams_per_connection_max=32",
    "limits.requests_waiting_max=64",
    "limits.request_time_max=2s",
    "limits.header_bytes_max=8192",
    "limits.message_bytes_max=65536",
    "limits.pending_resets_max=16",
    "limits.error_resets_max=16",
    "limits.ping_every=1s",
];
pub(super) const PING_TIME_MAX: Duration = Duration::from_secs(4);
pub(super) const CONNECTIONS: usize = 12;
pub(super) const OF_PEER: usize = 8;
pub(super) const STREAMS: u32 = 32;
pub(super) const RESETS: u32 = 16;
pub(super) const HEADER_BYTES: usize = 8_192;
/// Bytes that a connection may send before they are read: `CONNECTION_WINDOW_BYTES` of the server.
pub(super) const WINDOW_KIB: u64 = 512;
/// What a header list may have before its connection is ended, in times of its limit.
const HEADERS_ABUSED: u64 = 4;
/// What the allocator, threads and the good client take beside.
const BESIDE_KIB: u64 = 16 << 10;

/// Checks of the good client that each attack must last for.
const SERVED_MIN: u64 = 20;

const ATTACKER: [u8; 4] = [127, 0, 0, 2];

/// What so many connections may make the server hold.
fn held_kib_max(connections: usize) -> u64 {
    let lists = u64::from(STREAMS + 2 * RESETS);
    let headers = lists * HEADERS_ABUSED * (HEADER_BYTES as u64 >> 10);
    connections as u64 * (WINDOW_KIB + headers)
}

enum Place {
    Plain { server: Server, _dir: TempDir },
    Secured(Box<House>),
}

/// The server, and its good client.
pub(super) struct Scene {
    place: Place,
    before_kib: u64,
    served: watch::Receiver<u64>,
    good: JoinHandle<()>,
}

impl Scene {
    pub(super) async fn set() -> Self {
        Self::set_with(&[]).await
    }

    /// The same with more settings.
    pub(super) async fn set_with(more: &[&str]) -> Self {
        let dir = fresh();
        let pings = pings();
        let set = SMALL.iter().chain(more).copied().chain([&*pings]);
        let arguments: Vec<&str> = set.flat_map(|one| ["--set", one]).collect();
        let started = tokio::task::block_in_place(|| Server::start_with(dir.path(), &arguments));
        let server = started.unwrap_or_else(|said| panic!("it did not start: {said}"));
        let channel = channel(&server.address).await;
        Self::of(Place::Plain { server, _dir: dir }, channel).await
    }

    /// The same over TLS.
    pub(super) async fn secured() -> Self {
        let pings = pings();
        let set = Vec::from_iter(SMALL.into_iter().chain([&*pings]));
        let house = tokio::task::block_in_place(|| House::open(&set));
        let channel = house.channel(None).await;
        Self::of(Place::Secured(Box::new(house)), channel).await
    }

    async fn of(place: Place, channel: Channel) -> Self {
        let (serve, served) = watch::channel(0);
        let mut scene = Self {
            before_kib: 0,
            served,
            good: tokio::spawn(ask(channel, place.server(), serve)),
            place,
        };
        scene.served(SERVED_MIN).await;
        scene.before_kib = scene.memory_kib();
        scene
    }

    /// Waits until so many more Checks of the good client were answered.
    pub(super) async fn served(&self, more: u64) {
        let mut served = self.served.clone();
        let wanted = *served.borrow() + more;
        let waited = timeout(PATIENCE, served.wait_for(|served| *served >= wanted)).await;
        waited.expect("in time").expect("the good client is served");
    }

    /// Runs an attack of so many connections at a time, and says what it came to.
    pub(super) async fn attack(&self, name: &str, connections: usize, attack: impl AsyncFn(&Self)) {
        let held_kib = held_kib_max(connections);
        self.attack_with(name, held_kib, attack).await;
    }

    /// The same, for which the server may hold so much.
    #[expect(clippy::print_stdout, reason = "--nocapture shows the figures")]
    pub(super) async fn attack_with(&self, name: &str, held_kib: u64, attack: impl AsyncFn(&Self)) {
        let (before_kib, first) = (self.memory_kib(), *self.served.borrow());
        loop {
            attack(self).await;
            self.alone().await;
            if *self.served.borrow() >= first + SERVED_MIN {
                break;
            }
        }
        assert!(!self.good.is_finished(), "the good client was turned away");
        let (after_kib, peak_kib) = (self.memory_kib(), self.place.server().peak_kib());
        let served = *self.served.borrow() - first;
        let most_kib = self.before_kib + BESIDE_KIB + held_kib;
        println!(
            "{name:<44} memory {before_kib:>6} KiB before, {after_kib:>6} after, \
             {peak_kib:>6} at most, {most_kib:>6} allowed; good Checks {served:>5}, failed 0"
        );
        assert!(peak_kib <= most_kib, "{name}: {peak_kib} KiB of {most_kib}");
    }

    /// An attacker that has said hello.
    pub(super) async fn attacker(&self) -> Attacker {
        let mut attacker = self.stranger().await;
        attacker.begin(&[]).await;
        attacker
    }

    /// One that reads nothing.
    pub(super) async fn deaf(&self) -> Attacker {
        let mut attacker = Attacker::connect(self.address(), ATTACKER, true).await;
        attacker.begin(&[]).await;
        attacker
    }

    /// One that has said nothing yet.
    pub(super) async fn stranger(&self) -> Attacker {
        self.stranger_from(ATTACKER).await
    }

    pub(super) async fn stranger_from(&self, address: [u8; 4]) -> Attacker {
        Attacker::connect(self.address(), address, false).await
    }

    /// How many connections were closed unasked, for a reason.
    pub(super) async fn refused(&self, why: &str) -> f64 {
        let name = format!("latchkey_connections_refused_total{{why=\"{why}\"}}");
        self.metric(&name).await
    }

    /// Waits until the good client's connection is the only one.
    async fn alone(&self) {
        let alone = async {
            while self.metric("latchkey_connections ").await > 1.0 {
                self.served(1).await;
            }
        };
        timeout(PATIENCE, alone).await.expect("the places are free");
    }

    pub(super) async fn metric(&self, name: &str) -> f64 {
        match &self.place {
            Place::Secured(house) => house.metric(name).await,
            Place::Plain { server, .. } => {
                let text = tokio::task::block_in_place(|| metrics(&server.admin_address));
                value(&text, name).expect("a number")
            }
        }
    }

    /// A new good client is let in and answered.
    pub(super) async fn welcomes(&self) {
        let Place::Plain { server, .. } = &self.place else {
            panic!("it speaks TLS");
        };
        let mut client = CheckServiceClient::new(channel(&server.address).await);
        let asked = check(admin(server), &[("a:b", "c")]);
        let answer = client.check(asked).await.expect("answered").into_inner();
        assert!(answer.allowed, "{answer:?}");
    }

    fn address(&self) -> &str {
        &self.place.server().address
    }

    fn memory_kib(&self) -> u64 {
        let status = self.place.server().process("status");
        let now = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = now.and_then(|now| now.trim().strip_suffix(" kB"));
        kib.and_then(|kib| kib.parse().ok()).expect("a size")
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.good.abort();
    }
}

impl Place {
    fn server(&self) -> &Server {
        match self {
            Self::Plain { server, .. } => server,
            Self::Secured(house) => &house.server,
        }
    }
}

fn pings() -> String {
    format!("limits.ping_time_max={}s", PING_TIME_MAX.as_secs())
}

fn admin(server: &Server) -> &str {
    server.admin.as_deref().expect("a fresh directory")
}

/// Asks about a good token and about a bad one, in turn; it ends at the first wrong answer.
fn ask(
    channel: Channel,
    server: &Server,
    served: watch::Sender<u64>,
) -> impl Future<Output = ()> + use<> {
    let questions = [
        (admin(server).to_owned(), v1::Reason::Allowed),
        ("lku_garbage".to_owned(), v1::Reason::Unknown),
    ];
    async move {
        let mut client = CheckServiceClient::new(channel);
        loop {
            for (token, expected) in &questions {
                let answer = client.check(check(token, &[("a:b", "c")]));
                let answer = timeout(PATIENCE, answer).await.expect("in time");
                let answer = answer.expect("answered").into_inner();
                assert_eq!(answer.reason(), *expected);
                served.send_modify(|served| *served += 1);
            }
        }
    }
}
