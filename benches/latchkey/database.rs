//! A Postgres of the benchmark's own, on the disk as it is or with a slower one.
//!
//! A slower disk is a library laid before Postgres that lets every flush take a millisecond more,
//! as a cloud's block device does; it is compiled from C where the server starts. All that is said
//! of a slow disk is measured with it.

use std::path::PathBuf;
use std::sync::Arc;

use latchkey::domain::clock::SystemClock;
use latchkey::domain::entropy::OsEntropy;
use latchkey::replica::{Identity, Replica, Settings as ReplicaSettings, WriterTask};
use latchkey::store::postgres::{PostgresStore, Settings, up};

use super::watched::{Watched, free_port, in_folder};

const SLOW: &str = r"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
static void late(void) { struct timespec t = {0, 1000000}; nanosleep(&t, 0); }
int fsync(int f) { late(); return ((int (*)(int))dlsym(RTLD_NEXT, __func__))(f); }
int fdatasync(int f) { late(); return ((int (*)(int))dlsym(RTLD_NEXT, __func__))(f); }
";

const START: &str = r#"
    export LC_ALL=C
    "$BIN/initdb" -D data -U postgres -A trust -E UTF8 --no-sync >initdb.log 2>&1 ||
        { cat initdb.log; exit 1; }
    if [ -n "$SLOW" ]; then
        printf '%s' "$SLOW" >slow.c
        cc -O2 -shared -fPIC -o slow.so slow.c -ldl || exit 1
        export LD_PRELOAD="$PWD/slow.so"
    fi
    "$BIN/pg_ctl" -D data -l log -w -t 60 -o "-p $PORT -k $PWD -c listen_addresses=127.0.0.1 \
        -c max_connections=500 -c shared_buffers=1GB -c max_wal_size=8GB" start >start.log 2>&1 ||
        { cat start.log log; exit 1; }
    stop() { "$BIN/pg_ctl" -D data -m immediate stop; }
"#;

/// A flush of the disk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disk {
    /// As it is here.
    AsIs,
    /// A millisecond slower.
    Slow,
}

/// A server; its databases go with it.
pub(crate) struct Server {
    pub(crate) port: u16,
    _watched: Watched,
}

impl Server {
    pub(crate) fn start(disk: Disk) -> Self {
        let (watched, port) = in_folder("bench", |folder| {
            let port = free_port();
            let mut script = folder.script(START);
            script
                .env("BIN", binaries())
                .env("PORT", port.to_string())
                .env("SLOW", if disk == Disk::Slow { SLOW } else { "" });
            (script, port)
        });
        Self {
            port,
            _watched: watched,
        }
    }

    /// A fresh, migrated database, reached by this port.
    pub(crate) async fn database(&self, name: &str) -> Database {
        let client = client(&url(self.port, "postgres")).await;
        let sql = format!("CREATE DATABASE {name}");
        client.batch_execute(&sql).await.expect("a database");
        let database = Database {
            name: name.to_owned(),
            port: self.port,
        };
        up(&database.settings()).await.expect("migrated");
        database
    }
}

fn binaries() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    let bins = versions.flatten().map(|entry| entry.path().join("bin"));
    let newest = bins.filter(|bin| bin.join("initdb").exists()).max();
    newest.expect("Postgres is installed: run `make tools` as root")
}

fn url(port: u16, database: &str) -> String {
    format!("postgres://postgres@127.0.0.1:{port}/{database}?sslmode=disable")
}

/// A client for what the store has no call for.
pub(crate) async fn client(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls)
        .await
        .expect("connected");
    tokio::spawn(connection);
    client
}

/// A database, and the port that it is reached by.
#[derive(Clone)]
pub(crate) struct Database {
    pub(crate) name: String,
    pub(crate) port: u16,
}

impl Database {
    pub(crate) fn url(&self) -> String {
        url(self.port, &self.name)
    }

    fn settings(&self) -> Settings {
        Settings {
            url: self.url(),
            ..Settings::default()
        }
    }

    pub(crate) async fn store(&self) -> PostgresStore {
        PostgresStore::open(&self.settings(), &OsEntropy)
            .await
            .expect("opens")
    }

    /// A replica on it.
    pub(crate) async fn replica(&self, name: &str, batch_commands_max: usize) -> Running {
        let settings = ReplicaSettings {
            batch_commands_max,
            identity: Identity {
                name: name.to_owned(),
                format_max: 1,
                ..Identity::default()
            },
            ..ReplicaSettings::default()
        };
        let (replica, task) = Replica::start(
            Arc::new(self.store().await),
            Arc::new(SystemClock::start()),
            Arc::new(OsEntropy),
            settings,
        )
        .await
        .expect("starts");
        Running { replica, task }
    }
}

/// A replica and the task that ends it.
pub(crate) struct Running {
    pub(crate) replica: Replica,
    pub(crate) task: WriterTask,
}
