//! The replicas, their networks and their database.
//!
//! A replica has a place: the process in it is killed and another started, on a port of its own
//! and behind the same proxy. All of it ends with the world.

use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::Signal;

use super::LEASE;
use super::history::History;
use crate::postgres;
use crate::program;
use crate::proxy::{Flow, Proxy};
use crate::replicas::bootstrap;

pub(super) const NAMES: [&str; 3] = ["a", "b", "c"];
/// How often a replica is started while its database is away.
const STARTS_MAX: usize = 200;

/// Everything that runs.
pub(super) struct World {
    pub(super) postgres: postgres::Server,
    pub(super) replicas: Vec<Slot>,
    pub(super) admin: String,
    /// Held while a replica is started anew, which a frozen database keeps from ending.
    pub(super) starting: Arc<tokio::sync::Mutex<()>>,
}

/// A replica's place: one process after the other behind the same proxy.
pub(super) struct Slot {
    name: &'static str,
    pub(super) proxy: Proxy,
    url: String,
    settings: Vec<String>,
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    server: Option<program::Server>,
    address: String,
    /// What those before it have logged.
    logged: String,
}

impl World {
    pub(super) async fn start(settings: &[&str]) -> Self {
        let postgres = tokio::task::block_in_place(|| postgres::Server::private(""));
        let database = postgres.database().await;
        let admin = bootstrap(&database);
        // The oracle finds what that breaks, where nobody is told of it.
        postgres.hide_who_serves_stale(&database.name).await;
        let mut replicas = Vec::new();
        for name in NAMES {
            let proxy = Proxy::of(postgres.port).await;
            let (from, to) = (format!(":{}/", postgres.port), format!(":{}/", proxy.port));
            let slot = Slot {
                name,
                url: database.url.replacen(&from, &to, 1),
                proxy,
                settings: settings.iter().map(|one| (*one).to_owned()).collect(),
                running: Mutex::default(),
            };
            tokio::task::block_in_place(|| slot.start());
            replicas.push(slot);
        }
        Self {
            postgres,
            replicas,
            admin,
            starting: Arc::default(),
        }
    }

    /// Ends what a fault may have left.
    pub(super) fn heal(&self) {
        for slot in &self.replicas {
            slot.proxy.both_ways(Flow::Pass);
            slot.signal(Signal::CONT);
        }
    }

    pub(super) fn keep_logs(&self, history: &History) {
        for name in ["log", "commands.log"] {
            let text = std::fs::read_to_string(self.postgres.file(name));
            history.keep_log("the database", text.unwrap_or_default());
        }
        for slot in &self.replicas {
            let running = slot.running();
            let server = running.server.as_ref();
            let now = server.map(program::Server::logged).unwrap_or_default();
            history.keep_log(slot.name, format!("{}{now}", running.logged));
        }
    }
}

impl Slot {
    fn running(&self) -> std::sync::MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a process; blocks until it serves.
    fn start(&self) {
        let lease = format!("lease.length={}ms", LEASE.as_millis());
        let mut arguments = Vec::new();
        let usual = [
            lease.as_str(),
            "lease.poll=100ms",
            "database.connect_timeout=500ms",
            "database.statement_timeout=2s",
            "database.lock_timeout=1s",
            "write.confirm_time_max=3s",
        ];
        for setting in usual
            .into_iter()
            .chain(self.settings.iter().map(String::as_str))
        {
            arguments.extend(["--set", setting]);
        }
        for _ in 0..STARTS_MAX {
            match program::Server::replica(&self.url, self.name, &arguments) {
                Ok(server) => {
                    let mut running = self.running();
                    running.address.clone_from(&server.address);
                    running.server = Some(server);
                    return;
                }
                Err(said) => self.running().logged.push_str(&said),
            }
        }
        panic!("{} does not start: {}", self.name, self.running().logged);
    }

    /// Where the process that runs, or the last one, listens.
    pub(super) fn address(&self) -> String {
        self.running().address.clone()
    }

    /// Ends the process at once and starts another; blocks until that one serves.
    pub(super) fn kill_and_start(&self) {
        let server = self.running().server.take();
        if let Some(server) = server {
            let logged = server.kill();
            self.running().logged.push_str(&logged);
        }
        self.start();
    }

    pub(super) fn signal(&self, signal: Signal) {
        if let Some(server) = &self.running().server {
            server.signal(signal);
        }
    }

    /// Runs a command line against the process that runs.
    pub(super) fn command(&self, admin: &str, line: &str) -> program::Ran {
        let running = self.running();
        let server = running.server.as_ref().expect("it runs");
        server.as_bearer(admin).run(line)
    }
}
