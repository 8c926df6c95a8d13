//! The schema: migrations, what is refused, and what the program's role may not do.
//!
//! Migrations are run as the owner of the database, everything else as the role of the README.

use std::path::{Path, PathBuf};

use latchkey::domain::entropy::OsEntropy;
use latchkey::store::postgres::{OpenError, PostgresStore, Settings, known, status, up};

use super::{Fresh, fresh};
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

/// The program's SQL files, in their order; the first makes the table of versions.
fn files() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/postgres/migrations");
    let entries = std::fs::read_dir(folder).expect("the folder");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a file").path()).collect();
    paths.sort();
    let read = |path: &PathBuf| std::fs::read_to_string(path).expect("text");
    paths.iter().map(read).collect()
}

#[tokio::test]
async fn every_older_schema_is_refused_until_it_is_migrated() {
    for older in 1..known() {
        let name = empty_database().await;
        let url = server().url("postgres", &name);
        let mut sql = "CREATE SCHEMA latchkey;".to_owned();
        let steps = usize::try_from(older).expect("a few");
        files()[..=steps].iter().for_each(|file| sql.push_str(file));
        for version in 1..=older {
            let row = format!("({version}, 'before', {version})");
            sql.push_str(&format!(
                "INSERT INTO latchkey.schema_versions VALUES {row};"
            ));
        }
        server().admin(&name, &sql).await;
        let error = open(&url).await.err().expect("refused");
        assert!(
            matches!(error, OpenError::NotMigrated { found, .. } if found == older),
            "{error}"
        );
        let lacking: Vec<i32> = (older + 1..=known()).collect();
        assert_eq!(up(&settings(&url)).await.expect("migrated"), lacking);
        let store = open(&url).await.expect("opened");
        let put = put_principal(1, "user:alice");
        Scribe::new().append(&store, [put]).await;
    }
}

/// A database that a newer program has migrated by two steps; from which versions on programs can
/// work with these.
async fn newer([first, second]: [i32; 2]) -> Fresh {
    let fresh = fresh().await;
    let sql = format!(
        "INSERT INTO latchkey.schema_versions
         VALUES (998, 'the next', {first}), (999, 'the one after', {second})"
    );
    server().admin(&fresh.database.name, &sql).await;
    fresh
}

#[tokio::test]
async fn a_newer_schema_that_is_for_this_program_is_used() {
    for reads_from in [[1, 1], [known(), known()], [known(), 1]] {
        let fresh = newer(reads_from).await;
        let store = open(&fresh.database.url).await.expect("opened");
        let put = put_principal(1, "user:alice");
        Scribe::new().append(&store, [put]).await;
        let migrated = up(&fresh.owner()).await;
        assert!(migrated.expect("nothing to do").is_empty());
    }
}

#[tokio::test]
async fn a_newer_schema_that_is_not_for_this_program_is_refused() {
    for reads_from in [[1, 999], [998, 1], [known() + 1; 2]] {
        let fresh = newer(reads_from).await;
        for error in [
            open(&fresh.database.url).await.err().expect("refused"),
            up(&fresh.owner()).await.expect_err("refused"),
        ] {
            let text = error.to_string();
            assert!(
                matches!(error, OpenError::SchemaVersion { found: 999, .. }),
                "{text}"
            );
            assert!(text.contains("999"), "{text}");
        }
    }
}

#[tokio::test]
async fn the_database_says_for_whom_each_version_is() {
    let fresh = fresh().await;
    for version in status(&fresh.owner()).await.expect("a status") {
        assert!((1..=version.version).contains(&version.reads_from));
        assert!(version.applied_at.is_some());
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

#[tokio::test]
async fn what_runs_with_its_owners_rights_is_nobodys_but_the_programs() {
    let fresh = fresh().await;
    let client = server().client("postgres", &fresh.database.name).await;
    let sql = "SELECT p.proname::text,
          has_function_privilege('latchkey_server', p.oid, 'EXECUTE'),
          EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner)))
            WHERE grantee = 0)
        FROM pg_proc p WHERE p.pronamespace = 'latchkey'::regnamespace AND p.prosecdef ORDER BY 1";
    let found = client.query(sql, &[]).await.expect("functions");
    let found: Vec<(String, bool, bool)> = found
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect();
    let expected = ["begin_log", "extend_log"].map(|name| (name.to_owned(), true, false));
    assert_eq!(found, expected);
}
