//! The Postgres store: the whole suite, and what only several processes on one database can meet.
//!
//! Every test has a database of its own; the store connects as the role of the README.

use latchkey::domain::entropy::OsEntropy;
use latchkey::store::postgres::{PostgresStore, Settings};

use crate::postgres::{Database, database};

/// A store on a database of its own.
struct Fresh {
    store: PostgresStore,
    _database: Database,
}

async fn fresh() -> Fresh {
    let database = database().await;
    Fresh {
        store: open(&database.url).await,
        _database: database,
    }
}

async fn open(url: &str) -> PostgresStore {
    let settings = Settings {
        url: url.to_owned(),
        ..Settings::default()
    };
    let opened = PostgresStore::open(&settings, &OsEntropy).await;
    opened.expect("a migrated database opens")
}

crate::store::conformance::conformance!(crate::store::postgres::fresh().await);
