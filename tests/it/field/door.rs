//! A whole server in this process, on either store, whose clock a scene can put forward.
//!
//! Every scene has one of its own, with a store of its own; it ends with its handle.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use latchkey::authority::{self, Authority};
use latchkey::config::Config;
use latchkey::domain::clock::{Clock, Now, SystemClock};
use latchkey::domain::entropy::OsEntropy;
use latchkey::domain::seal::key::SealKey;
use latchkey::domain::seal::ring::Ring;
use latchkey::replica::{LeaseSettings, Replica, Settings, WriterTask};
use latchkey::rpc::{self, Metrics};
use latchkey::store::Store;
use latchkey::store::embedded::{EmbeddedStore, OpenOptions};
use latchkey::store::postgres::{self, PostgresStore};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::fleet::LONG;
use crate::postgres::{Database, database};
use crate::program::fresh;
use crate::wire::channel;

/// Defines each scene once more for each store.
macro_rules! on_each_store {
    ($($scene:ident)*) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $scene() {
                super::$scene(crate::field::door::Door::embedded().await).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $scene() {
                super::$scene(crate::field::door::Door::postgres().await).await;
            })*
        }
    };
}
pub(super) use on_each_store;

/// The machine's clock, put forward.
struct Ahead {
    clock: SystemClock,
    by_ms: AtomicU64,
}

impl Ahead {
    fn by_ms(&self) -> u64 {
        self.by_ms.load(Ordering::SeqCst)
    }
}

impl Clock for Ahead {
    fn now(&self) -> Now {
        let Now { earliest, latest } = self.clock.now();
        Now {
            earliest: earliest + self.by_ms(),
            latest: latest + self.by_ms(),
        }
    }

    fn boot_ms(&self) -> u64 {
        self.clock.boot_ms() + self.by_ms()
    }

    fn wall_ahead_ms(&self) -> i64 {
        self.clock.wall_ahead_ms()
    }
}

/// Where the store's files or tables are.
enum Place {
    Directory(TempDir),
    Database(Database),
}

/// A running server, and the first administrator's token.
pub(super) struct Door {
    pub(super) admin: String,
    pub(super) channel: Channel,
    pub(super) address: String,
    clock: Arc<Ahead>,
    place: Place,
    seals: Arc<ArcSwap<Ring>>,
    stop: CancellationToken,
    serving: JoinHandle<()>,
    writer: Option<WriterTask>,
}

impl Door {
    pub(super) async fn embedded() -> Self {
        Self::first(Place::Directory(fresh())).await
    }

    pub(super) async fn postgres() -> Self {
        Self::first(Place::Database(database().await)).await
    }

    async fn first(place: Place) -> Self {
        let store = open(&place).await;
        let ring = Ring::new([SealKey::generate(&OsEntropy)]);
        let seals = Arc::new(ArcSwap::from_pointee(ring));
        let (mut door, authority) = Self::start(place, store, seals, 0).await;
        let made = authority.bootstrap(false).await.expect("written");
        made.expect("the first")
            .reveal()
            .clone_into(&mut door.admin);
        door
    }

    async fn start(
        place: Place,
        store: Arc<dyn Store>,
        seals: Arc<ArcSwap<Ring>>,
        by_ms: u64,
    ) -> (Self, Authority) {
        let entropy = Arc::new(OsEntropy);
        let clock = Arc::new(Ahead {
            clock: SystemClock::start(),
            by_ms: AtomicU64::new(by_ms),
        });
        let settings = Settings {
            // However far the clock is put forward, it still holds.
            lease: LeaseSettings {
                length_ms: LONG.as_millis() as u64,
                ..LeaseSettings::default()
            },
            seals: Arc::clone(&seals),
            ..Settings::default()
        };
        let time = Arc::clone(&clock) as Arc<dyn Clock>;
        let started = Replica::start(store, time, entropy.clone(), settings).await;
        let (replica, writer) = started.expect("started");
        let settings = authority::Settings {
            valid_for_ms: 1_000,
            confirm_time_max: Duration::from_secs(60),
        };
        let authority = Authority::new(replica, entropy, settings);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let listener = rpc::Listening::plainly(listener);
        let stop = CancellationToken::new();
        let serving = {
            let (authority, stop) = (authority.clone(), stop.clone());
            tokio::spawn(async move {
                let (config, metrics) = (Config::default(), Metrics::default());
                let stop = stop.cancelled_owned();
                let routes = Arc::default();
                let served = rpc::serve(authority, metrics, listener, &config, routes, stop);
                served.await.expect("served");
            })
        };
        while !authority.may_answer() {
            tokio::task::yield_now().await;
        }
        let door = Self {
            admin: String::new(),
            channel: channel(&address).await,
            address,
            clock,
            place,
            seals,
            stop,
            serving,
            writer: Some(writer),
        };
        (door, authority)
    }

    /// Puts the clock forward; by less than a lease in all.
    pub(super) fn pass(&self, seconds: u64) {
        self.clock
            .by_ms
            .fetch_add(seconds * 1_000, Ordering::SeqCst);
    }

    /// Stops what writes, as when the store is gone; the port stays open.
    pub(super) async fn lose_the_store(&mut self) {
        self.writer.take().expect("it writes").stop().await;
    }

    /// Stops the server, and starts another one on the same store.
    pub(super) async fn again(mut self) -> Self {
        self.stop.cancel();
        self.serving.await.expect("ended");
        self.writer.take().expect("it writes").stop().await;
        let store = open(&self.place).await;
        let (mut door, _) = Self::start(self.place, store, self.seals, self.clock.by_ms()).await;
        door.admin = self.admin;
        door
    }
}

async fn open(place: &Place) -> Arc<dyn Store> {
    match place {
        Place::Directory(folder) => Arc::new(embedded(folder.path())),
        Place::Database(database) => {
            let settings = postgres::Settings {
                url: database.url.clone(),
                connect_timeout: Duration::from_secs(10),
                ..postgres::Settings::default()
            };
            let opened = PostgresStore::open(&settings, &OsEntropy).await;
            Arc::new(opened.expect("a migrated database opens"))
        }
    }
}

fn embedded(folder: &Path) -> EmbeddedStore {
    EmbeddedStore::open(folder, OpenOptions::default()).expect("the folder opens")
}
