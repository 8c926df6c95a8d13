//! The Postgres store: the whole suite, straight and through a pooler, and what only several
//! processes on one database can meet.
//!
//! Every test has a database of its own; the store connects as the role of the README.

mod cluster;
mod faults;
mod given_up;
mod gone;
mod last_uses;
mod lines;
mod login_rows;
mod network;
mod operator;
mod schema;
mod tls;
mod trim;

use latchkey::domain::chain::Head;
use latchkey::domain::entropy::OsEntropy;
use latchkey::store::postgres::{PostgresStore, Settings, trim};
use latchkey::store::{Store, Trim};

use crate::postgres::{Database, database, server};
use crate::store::conformance::trim::Trims;

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

/// Partitions of four revisions, then one of many, in place of the first.
pub(crate) const SMALL_PARTS: &str = "DO $$
    DECLARE
      name text;
      past bigint;
    BEGIN
      DROP TABLE latchkey.log_0000000000000000001;
      DELETE FROM latchkey.log_parts;
      FOR low IN 1 .. 37 BY 4 LOOP
        name := 'log_' || lpad(low::text, 19, '0');
        past := low + CASE low WHEN 37 THEN 10000 ELSE 4 END;
        EXECUTE format('CREATE TABLE latchkey.%I PARTITION OF latchkey.log
          FOR VALUES FROM (%s) TO (%s)', name, low, past);
        INSERT INTO latchkey.log_parts VALUES (low, past, 0);
      END LOOP;
    END $$";

impl Trims for Fresh {
    fn store(&self) -> &dyn Store {
        &self.store
    }

    async fn prepare(&self) {
        server().admin(&self.database.name, SMALL_PARTS).await;
    }

    async fn trim(&self, trimmed: Trim) -> Head {
        let trimmed = trim(&self.owner(), &trimmed).await;
        trimmed.expect("trimmed")
    }
}

impl Fresh {
    /// How the owner of the tables connects.
    fn owner(&self) -> Settings {
        Settings {
            url: server().url("postgres", &self.database.name),
            ..Settings::default()
        }
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
