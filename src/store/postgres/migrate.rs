//! Migrations: numbered SQL files in the program, each applied once, in order, in one transaction.
//!
//! Run by a role that owns the schema, not by the server's. Each says from which version on
//! programs can work with the tables that it leaves, so that servers of the version before go on,
//! and start, beside those of the next: an upgrade can be rolled, and gone back on. A database that
//! lacks a step, or has one that is not for this program, is refused. Migrating twice at the same
//! time is safe; the second finds nothing left to do.

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::OpenError;
use super::connect;
use super::fault::Fault;
use super::settings::Settings;

/// A step of the schema.
struct Migration {
    name: &'static str,
    /// Programs that know this version, or a newer one, can work with what it leaves. A step that
    /// adds what older programs need not know has the number of the step before; whatever they
    /// would read or write wrongly has its own.
    reads_from: i32,
    sql: &'static str,
}

const fn migration(name: &'static str, reads_from: i32, sql: &'static str) -> Migration {
    Migration {
        name,
        reads_from,
        sql,
    }
}

/// Every migration, in order; the first has version 1.
const MIGRATIONS: &[Migration] = &[
    migration("tables", 1, include_str!("migrations/0001_tables.sql")),
    migration("append", 2, include_str!("migrations/0002_append.sql")),
    migration("cluster", 3, include_str!("migrations/0003_cluster.sql")),
    migration("logins", 3, include_str!("migrations/0004_logins.sql")),
    migration(
        "credentials",
        3,
        include_str!("migrations/0005_credentials.sql"),
    ),
    migration("renewals", 3, include_str!("migrations/0006_renewals.sql")),
];

const VERSIONS: &str = include_str!("migrations/0000_versions.sql");

/// What servers need of the tables of this version, for the role [`GRANTED`]; as in the README.
const GRANTS: &str = include_str!("migrations/grants.sql");
const GRANTED: &str = "latchkey_server";

/// One version of the schema, as `migrate status` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Its number.
    pub version: i32,
    /// What it brings.
    pub name: String,
    /// Programs that know this version, or a newer one, can work with it.
    pub reads_from: i32,
    /// When it was applied, in the database's words; none if it was not.
    pub applied_at: Option<String>,
}

/// The newest version that this program knows.
#[must_use]
pub fn known() -> i32 {
    i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX)
}

/// Every version that the database has or this program knows, oldest first.
///
/// # Errors
/// [`OpenError`] when the database cannot be read.
pub async fn status(settings: &Settings) -> Result<Vec<Version>, OpenError> {
    let connection = connect::once(&settings.url, settings).await?;
    let mut versions = applied(&connection.client).await?;
    for (version, migration) in (1..).zip(MIGRATIONS) {
        if !versions.iter().any(|one| one.version == version) {
            versions.push(Version {
                version,
                name: migration.name.to_owned(),
                reads_from: migration.reads_from,
                applied_at: None,
            });
        }
    }
    versions.sort_by_key(|one| one.version);
    Ok(versions)
}

/// Applies what is missing; returns the versions that it applied.
///
/// # Errors
/// [`OpenError::SchemaVersion`] for a database that is too new, [`OpenError::Migration`] for a step
/// that failed; the steps before it stand.
pub async fn up(settings: &Settings) -> Result<Vec<i32>, OpenError> {
    let connection = connect::once(&settings.url, settings).await?;
    let client = &connection.client;
    let mut done = Vec::new();
    for (version, migration) in (1..).zip(MIGRATIONS) {
        let failed = |error: tokio_postgres::Error| OpenError::Migration {
            version,
            why: said(&error),
        };
        client
            .batch_execute("-- migrate\nBEGIN ISOLATION LEVEL READ COMMITTED")
            .await
            .map_err(failed)?;
        let lock = "-- migrate\nSELECT pg_advisory_xact_lock(1818979961, 0)";
        client.simple_query(lock).await.map_err(failed)?;
        let versions = applied(client).await?;
        workable(&versions)?;
        let found = newest(&versions);
        if found >= version {
            client
                .batch_execute("-- migrate\nROLLBACK")
                .await
                .map_err(failed)?;
            continue;
        }
        if found == 0 {
            make_versions(client).await.map_err(failed)?;
        }
        client.batch_execute(migration.sql).await.map_err(failed)?;
        let note = "-- migrate\nINSERT INTO latchkey.schema_versions (version, name, reads_from)
            VALUES ($1, $2, $3)";
        let bound: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 3] = [
            (&version, Type::INT4),
            (&migration.name, Type::TEXT),
            (&migration.reads_from, Type::INT4),
        ];
        client.query_typed(note, &bound).await.map_err(failed)?;
        client
            .batch_execute("-- migrate\nCOMMIT")
            .await
            .map_err(failed)?;
        done.push(version);
    }
    Ok(done)
}

/// Grants a role what servers need, all of it or nothing; twice does no harm. Run by the role that
/// owns the tables.
///
/// # Errors
/// [`OpenError::Grants`] for a role that is not there, or tables that are another's.
pub async fn grant(settings: &Settings, role: &str) -> Result<(), OpenError> {
    let connection = connect::once(&settings.url, settings).await?;
    check(&connection.client).await?;
    let granted = connection.client.batch_execute(&grants_to(role)).await;
    granted.map_err(|error| OpenError::Grants(said(&error)))
}

/// One text is one transaction.
fn grants_to(role: &str) -> String {
    let quoted = format!("\"{}\"", role.replace('"', "\"\""));
    format!("-- migrate\n{}", GRANTS.replace(GRANTED, &quoted))
}

fn said(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(error) => format!("{} (SQLSTATE {})", error.message(), error.code().code()),
        None => error.to_string(),
    }
}

/// Refuses a database that lacks a version that this program knows, or has one that is not for it.
pub(super) async fn check(client: &Client) -> Result<(), OpenError> {
    let versions = applied(client).await?;
    workable(&versions)?;
    match newest(&versions) {
        found if found < known() => Err(OpenError::NotMigrated {
            found,
            known: known(),
        }),
        found => {
            if found > known() {
                tracing::info!(
                    found,
                    known = known(),
                    "the schema is newer than this program, which can work with it"
                );
            }
            Ok(())
        }
    }
}

/// Refuses versions that this program neither knows nor can work with.
fn workable(versions: &[Version]) -> Result<(), OpenError> {
    let unknown = versions.iter().filter(|one| one.version > known());
    match unknown.map(|one| one.reads_from).max() {
        Some(reads_from) if reads_from > known() => Err(OpenError::SchemaVersion {
            found: newest(versions),
            reads_from,
            known: known(),
        }),
        _ => Ok(()),
    }
}

fn newest(versions: &[Version]) -> i32 {
    versions.last().map_or(0, |last| last.version)
}

async fn applied(client: &Client) -> Result<Vec<Version>, OpenError> {
    let read = async {
        let sql = "-- has_versions
            SELECT to_regclass('latchkey.schema_versions') IS NOT NULL";
        if !client
            .query_typed_one(sql, &[])
            .await?
            .try_get::<_, bool>(0)?
        {
            return Ok(Vec::new());
        }
        let sql = "-- versions
            SELECT version, name, reads_from, applied_at::text FROM latchkey.schema_versions
            ORDER BY version";
        let rows = client.query_typed(sql, &[]).await?;
        let read = |row: &tokio_postgres::Row| {
            Ok(Version {
                version: row.try_get(0)?,
                name: row.try_get(1)?,
                reads_from: row.try_get(2)?,
                applied_at: row.try_get(3)?,
            })
        };
        rows.iter()
            .map(read)
            .collect::<Result<_, tokio_postgres::Error>>()
    };
    let read: Result<Vec<Version>, tokio_postgres::Error> = read.await;
    read.map_err(|error| Fault::from(error).at(0).into())
}

/// A schema that is there already was made for us, by a role that may.
async fn make_versions(client: &Client) -> Result<(), tokio_postgres::Error> {
    let sql = "-- has_schema\nSELECT to_regnamespace('latchkey') IS NOT NULL";
    if !client
        .query_typed_one(sql, &[])
        .await?
        .try_get::<_, bool>(0)?
    {
        client
            .batch_execute("-- make_schema\nCREATE SCHEMA latchkey")
            .await?;
    }
    let sql = format!("-- make_versions\n{VERSIONS}");
    client.batch_execute(&sql).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_a_name_and_nothing_else() {
        let check = |role: &str, expected: &str| {
            let sql = grants_to(role);
            assert!(sql.contains(&format!("latchkey TO {expected};")), "{sql}");
            assert!(!sql.contains(&format!("TO {GRANTED}")), "{sql}");
        };
        check("server", "\"server\"");
        check("Two Words", "\"Two Words\"");
        check(
            "a\"; DROP SCHEMA latchkey",
            "\"a\"\"; DROP SCHEMA latchkey\"",
        );
    }
}
