//! The schema: migrations, what is refused, and what the program's role may not do.
//!
//! Migrations are run as the owner of the database, everything else as the role of the README.

use latchkey::domain::entropy::OsEntropy;
use latchkey::store::postgres::{OpenError, PostgresStore, Settings, known, status, up};

use super::fresh;
use crate::postgres::{empty_database, server};
use crate::store::scribe::{Scribe, put_principal};

fn settings(url: &str) -> Settings {
    Settings {
        url: url.to_owned(),
        ..Settings::default()
    }
}

async fn open(url: &str) -> Result<PostgresStore, OpenError> {
    PostgresStore::open(&settings(url), &OsEntropy).await
}

#[tokio::test]
async fn an_empty_database_is_refused_until_it_is_migrated() {
    let name = empty_database().await;
    let url = server().url("postgres", &name);
    let error = open(&url).await.err().expect("refused");
    assert!(
        matches!(error, OpenError::NotMigrated { found: 0, .. }),
        "{error}"
    );
    let applied = async || {
        let versions = status(&settings(&url)).await.expect("a status");
        versions
            .iter()
            .filter(|one| one.applied_at.is_some())
            .count()
    };
    assert_eq!(applied().await, 0);
    let all: Vec<i32> = (1..=known()).collect();
    assert_eq!(up(&settings(&url)).await.expect("migrated"), all);
    assert_eq!(applied().await, all.len());
    assert!(up(&settings(&url)).await.expect("migrated").is_empty());
    open(&url).await.expect("opened");
}

#[tokio::test]
async fn two_that_migrate_at_once_do_it_once() {
    let name = empty_database().await;
    let settings = settings(&server().url("postgres", &name));
    let (one, other) = tokio::join!(up(&settings), up(&settings));
    let mut applied = one.expect("migrated");
    applied.extend(other.expect("migrated"));
    applied.sort_unstable();
    assert_eq!(applied, (1..=known()).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let fresh = fresh().await;
    let newer = "INSERT INTO latchkey.schema_versions VALUES (999, 'from the future')";
    server().admin(&fresh.database.name, newer).await;
    for error in [
        open(&fresh.database.url).await.err().expect("refused"),
        up(&settings(&fresh.database.url))
            .await
            .expect_err("refused"),
    ] {
        let text = error.to_string();
        assert!(
            matches!(error, OpenError::SchemaVersion { found: 999, .. }),
            "{text}"
        );
        assert!(text.contains("999"), "{text}");
    }
}

#[tokio::test]
async fn the_programs_role_may_not_change_the_log() {
    let fresh = fresh().await;
    Scribe::new()
        .append(&fresh.store, [put_principal(1, "user:alice")])
        .await;
    let client = server()
        .client("latchkey_server", &fresh.database.name)
        .await;
    for sql in [
        "UPDATE latchkey.log SET reason = 'another'",
        "DELETE FROM latchkey.log",
        "TRUNCATE latchkey.log",
        "UPDATE latchkey.log_0000000000000000001 SET reason = 'another'",
        "DELETE FROM latchkey.log_parts",
        "UPDATE latchkey.log_cut SET revision = 1",
        "SELECT latchkey.trim_log(1, 1, 1)",
        "SELECT latchkey.drop_trimmed()",
        "ALTER TABLE latchkey.log DETACH PARTITION latchkey.log_0000000000000000001",
        "DROP TABLE latchkey.tokens",
        "CREATE TABLE latchkey.mine ()",
    ] {
        let error = client.batch_execute(sql).await.expect_err(sql);
        assert_eq!(error.code().map(|code| code.code()), Some("42501"), "{sql}");
    }
}
