//! The Postgres store: the whole suite, straight and through a pooler, and what only several
//! processes on one database can meet.
//!
//! Every test has a database of its own; the store connects as the role of the README.

mod cluster;
mod faults;
mod last_uses;
mod lines;
mod network;
mod operator;
mod schema;
mod tls;

use latchkey::domain::entropy::OsEntropy;
use latchkey::store::postgres::{PostgresStore, Settings};

use crate::postgres::{Database, database};

/// A store on a database of its own.
struct Fresh {
    store: PostgresStore,
    database: Database,
}

async fn fresh() -> Fresh {
    let database = database().await;
    Fresh {
        store: open(&database.url).await,
        database,
    }
}

async fn open(url: &str) -> PostgresStore {
    let settings = Settings {
        url: url.to_owned(),
        ..Settings::default()
    };
    open_with(settings).await
}

async fn open_with(settings: Settings) -> PostgresStore {
    let opened = PostgresStore::open(&settings, &OsEntropy).await;
    opened.expect("a migrated database opens")
}

crate::store::conformance::conformance!(crate::store::postgres::fresh().await);

/// The same suite through PgBouncer in transaction mode.
mod through_pgbouncer {
    use super::{Fresh, database, open};
    use crate::postgres::bouncer;

    async fn fresh() -> Fresh {
        let database = database().await;
        Fresh {
            store: open(&bouncer::url(&database.name)).await,
            database,
        }
    }

    crate::store::conformance::conformance!(
        crate::store::postgres::through_pgbouncer::fresh().await
    );
}
