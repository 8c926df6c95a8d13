//! The embedded store: the whole suite, and what only a directory on a disk can suffer.
//!
//! Crashes are copies of the files while nobody writes; damage is done to closed databases.

mod copies;
mod damage;
mod login_rows;
mod restart;
mod trim;

use std::path::{Path, PathBuf};

use latchkey::domain::chain::Head;
use latchkey::store::embedded::{EmbeddedStore, OpenError, OpenOptions, Verify};
use latchkey::store::{Store, Trim};
use rusqlite::Connection;
use rusqlite::types::Value;
use tempfile::TempDir;

use crate::store::conformance::trim::Trims;

/// A store in a folder that goes when the test ends.
struct Fresh {
    store: EmbeddedStore,
    folder: TempDir,
}

impl Trims for Fresh {
    fn store(&self) -> &dyn Store {
        &self.store
    }

    async fn prepare(&self) {}

    async fn trim(&self, trim: Trim) -> Head {
        self.store.trim(trim).await.expect("trimmed")
    }
}

fn fresh() -> Fresh {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path()).expect("an empty folder opens");
    Fresh { store, folder }
}

fn open(folder: &Path) -> Result<EmbeddedStore, OpenError> {
    EmbeddedStore::open(folder, OpenOptions::default())
}

fn open_all(folder: &Path) -> Result<EmbeddedStore, OpenError> {
    let options = OpenOptions {
        verify: Verify::All,
        ..OpenOptions::default()
    };
    EmbeddedStore::open(folder, options)
}

fn accept_older(folder: &Path) -> Result<EmbeddedStore, OpenError> {
    let options = OpenOptions {
        accept_older: true,
        ..OpenOptions::default()
    };
    EmbeddedStore::open(folder, options)
}

fn database(folder: &Path) -> PathBuf {
    folder.join("latchkey.db")
}

/// Copies every file, as a crash would leave them if nobody writes just now.
fn copy_folder(from: &Path) -> TempDir {
    let to = tempfile::tempdir().expect("a folder");
    for entry in std::fs::read_dir(from).expect("read") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), to.path().join(entry.file_name())).expect("copied");
    }
    to
}

/// Runs SQL on the closed database of a folder.
fn tamper(folder: &Path, sql: &str) {
    let connection = Connection::open(database(folder)).expect("opened");
    connection.execute_batch(sql).expect(sql);
}

/// Every row of every table but housekeeping, as text.
fn dump(folder: &Path) -> Vec<String> {
    let connection = Connection::open(database(folder)).expect("opened");
    let tables = "SELECT name FROM sqlite_schema
        WHERE type = 'table' AND name <> 'housekeeping' ORDER BY name";
    let mut select = connection.prepare(tables).expect("a schema");
    let names = select.query_map([], |row| row.get(0)).expect("tables");
    let names: Vec<String> = names.collect::<Result<_, _>>().expect("names");
    let mut dump = Vec::new();
    for name in names {
        let mut select = connection
            .prepare(&format!("SELECT * FROM {name} ORDER BY 1, 2"))
            .expect("a table");
        let columns = select.column_count();
        let mut rows = select.query([]).expect("rows");
        while let Some(row) = rows.next().expect("a row") {
            let values: Vec<Value> = (0..columns)
                .map(|at| row.get(at).expect("a value"))
                .collect();
            dump.push(format!("{name} {values:?}"));
        }
    }
    dump
}

crate::store::conformance::conformance!(crate::store::embedded::fresh());
