//! Damage of every sort: acknowledged entries are all there, or start refuses and names where.
//!
//! Bits are flipped and files cut at many places; silence about a lost entry is the only failure.

use std::fs;
use std::path::Path;

use latchkey::domain::chain::Head;
use latchkey::domain::entry::LogEntry;
use latchkey::store::embedded::OpenError;
use latchkey::store::{Store, StoreError};
use rusqlite::{Connection, params};
use tempfile::TempDir;

use super::{copy_folder, database, fresh, open, open_all, tamper};
use crate::store::scribe::{Scribe, issue, put_principal, user_token, whole_log};

/// A closed folder with a log of ten entries.
async fn ten() -> (TempDir, Vec<LogEntry>) {
    let fresh = fresh();
    let mut scribe = Scribe::new();
    scribe
        .append(&fresh.store, [put_principal(1, "user:alice")])
        .await;
    for number in 2..=10 {
        scribe
            .append(&fresh.store, [issue(user_token(number, 1, scribe.next()))])
            .await;
    }
    let log = whole_log(&fresh.store).await;
    fresh.store.close().await.expect("closed");
    (fresh.folder, log)
}

/// The revision at which opening, with full verification, finds damage.
fn damaged_at(folder: &Path) -> (u64, String) {
    match open_all(folder) {
        Err(OpenError::Store(error @ StoreError::Damaged { revision, .. })) => {
            (revision, error.to_string())
        }
        Err(other) => panic!("refused, but not for damage: {other}"),
        Ok(_) => panic!("opened"),
    }
}

#[tokio::test]
async fn embedded_damage_in_the_log_is_named_by_its_revision() {
    let (folder, _) = ten().await;
    let check = |sql: &str, revision: u64, what: &str| {
        let copy = copy_folder(folder.path());
        tamper(copy.path(), sql);
        let (found, text) = damaged_at(copy.path());
        assert_eq!(found, revision, "{sql}: {text}");
        assert!(
            text.contains(&format!("revision {revision}: ")) && text.contains(what),
            "{sql}: {text}"
        );
    };
    check("DELETE FROM log WHERE revision = 3", 3, "missing");
    check("DELETE FROM log WHERE revision = 1", 1, "missing");
    check("DELETE FROM log WHERE revision = 10", 10, "missing");
    check("DELETE FROM log", 1, "missing");
    check(
        "UPDATE log SET chain = zeroblob(32) WHERE revision = 4",
        4,
        "hash",
    );
    check("UPDATE log SET chain = x'00' WHERE revision = 4", 4, "form");
    check(
        "UPDATE log SET body = CAST(body || x'00' AS BLOB) WHERE revision = 5",
        5,
        "changed",
    );
    check(
        "UPDATE log SET body_hash = zeroblob(32) WHERE revision = 6",
        6,
        "column",
    );
    check(
        "UPDATE log SET reason = 'another' WHERE revision = 7",
        7,
        "column",
    );
    check(
        "UPDATE log SET actor = 'user:eve' WHERE revision = 7",
        7,
        "column",
    );
    check(
        "UPDATE log SET kind = 'forget' WHERE revision = 7",
        7,
        "column",
    );
    check(
        "UPDATE log SET instant_ms = 1 WHERE revision = 8",
        8,
        "column",
    );
    check(
        "UPDATE log SET actor_token = NULL WHERE revision = 8",
        8,
        "column",
    );
    check("UPDATE head SET chain = zeroblob(32)", 10, "head row");
    check("UPDATE head SET instant_ms = 1", 10, "head row");
    check("UPDATE head SET state_digest = NULL", 10, "head row");
    check("UPDATE head SET revision = 12", 11, "missing");
    check("UPDATE head SET revision = 9", 10, "head row");
}

/// Replaces the body of the last entry and makes every hash agree with it.
fn forge_last(folder: &Path, log: &[LogEntry], edit: impl FnOnce(&mut Vec<u8>)) {
    let (last, before) = log.split_last().expect("entries");
    let base = before.last().map_or(Head::EMPTY, |entry| entry.head);
    let mut body = last.body.clone();
    edit(&mut body);
    let head = base.after(&body);
    let hash = <[u8; 32]>::from(<sha2::Sha256 as sha2::Digest>::digest(&body));
    let connection = Connection::open(database(folder)).expect("opened");
    connection
        .execute(
            "UPDATE log SET body = ?1, body_hash = ?2, chain = ?3 WHERE revision = ?4",
            params![body, hash, head.chain, head.revision],
        )
        .expect("forged");
    connection
        .execute("UPDATE head SET chain = ?1", [head.chain])
        .expect("forged");
}

#[tokio::test]
async fn embedded_unknown_format_or_kind_is_refused_with_its_revision() {
    let (folder, log) = ten().await;
    let check = |edit: fn(&mut Vec<u8>), what: &str| {
        let copy = copy_folder(folder.path());
        forge_last(copy.path(), &log, edit);
        let (revision, text) = damaged_at(copy.path());
        assert_eq!(revision, 10);
        assert!(text.contains(what), "{text}");
    };
    // A body begins with its format, 1.
    check(|body| body[1] = 99, "format 99 is newer");
    check(|body| body[1] = 2, "another format than its kind's");
    // Its kind, token.issue, is field 5.
    let kind: fn(&mut Vec<u8>) = |body| {
        let at = body
            .windows(2)
            .position(|two| two == [0x28, 1])
            .expect("a kind");
        body[at + 1] = 99;
    };
    check(kind, "unknown kind of entry 99");
    // Another revision than where it stands: field 2.
    check(|body| body[3] = 11, "another revision");
    check(|body| body.extend([0xd2, 0x05, 0x00]), "unknown fields");
    check(|body| body.truncate(20), "body");
}

#[tokio::test]
async fn embedded_damage_is_found_when_the_log_is_read() {
    let (folder, _) = ten().await;
    tamper(
        folder.path(),
        "UPDATE log SET body = CAST(body || x'00' AS BLOB) WHERE revision = 5",
    );
    // A clean stop: the next start trusts what it verified before.
    let store = open(folder.path()).expect("opened");
    assert_eq!(
        store.changes_after(0, 4).await.expect("whole so far").len(),
        4
    );
    let found = store.changes_after(3, 4).await;
    assert!(
        matches!(found, Err(StoreError::Damaged { revision: 5, .. })),
        "{found:?}"
    );
    let found = store.verify_all(None);
    assert!(
        matches!(found, Err(StoreError::Damaged { revision: 5, .. })),
        "{found:?}"
    );
}

/// Opens a folder that something happened to: every acknowledged entry is there, or it refuses
/// and names a revision. Says whether it opened.
async fn all_or_refused(folder: &Path, log: &[LogEntry], what: &str) -> bool {
    match open_all(folder) {
        Ok(store) => {
            assert!(
                whole_log(&store).await == log,
                "{what}: opened with another log"
            );
            true
        }
        Err(OpenError::Store(StoreError::Damaged {
            revision,
            what: text,
        })) => {
            assert!((1..=10).contains(&revision), "{what}: {revision} {text}");
            false
        }
        Err(OpenError::Store(StoreError::OlderCopy { found, seen })) => {
            assert!(found < seen && seen == 10, "{what}: {found} {seen}");
            false
        }
        Err(OpenError::Foreign(_) | OpenError::SchemaVersion { .. }) => false,
        Err(other) => panic!("{what}: {other}"),
    }
}

/// Ten entries that are still in the WAL, as a crash leaves them.
async fn crashed() -> (TempDir, Vec<LogEntry>) {
    let fresh = fresh();
    let mut scribe = Scribe::new();
    scribe
        .append(&fresh.store, [put_principal(1, "user:alice")])
        .await;
    for number in 2..=10 {
        scribe
            .append(&fresh.store, [issue(user_token(number, 1, scribe.next()))])
            .await;
    }
    let log = whole_log(&fresh.store).await;
    (copy_folder(fresh.folder.path()), log)
}

fn wal(folder: &Path) -> std::path::PathBuf {
    folder.join("latchkey.db-wal")
}

#[tokio::test]
async fn embedded_torn_wal_is_refused_or_harmless() {
    let (folder, log) = crashed().await;
    let bytes = fs::read(wal(folder.path())).expect("a WAL");
    assert!(all_or_refused(copy_folder(folder.path()).path(), &log, "untouched").await);
    let mut refused = 0;
    for step in 0..40 {
        let length = bytes.len() * step / 40;
        let copy = copy_folder(folder.path());
        fs::write(wal(copy.path()), &bytes[..length]).expect("cut");
        let opened = all_or_refused(copy.path(), &log, &format!("cut at {length}")).await;
        refused += u32::from(!opened);
    }
    assert!(refused >= 38, "{refused} of 40 cuts were refused");
    for step in 0..40 {
        let at = bytes.len() * step / 40;
        let copy = copy_folder(folder.path());
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        fs::write(wal(copy.path()), flipped).expect("flipped");
        all_or_refused(copy.path(), &log, &format!("flipped at {at}")).await;
    }
}

#[tokio::test]
async fn embedded_damaged_database_is_refused_or_harmless() {
    let (folder, log) = ten().await;
    let bytes = fs::read(database(folder.path())).expect("a database");
    let mut refused = 0;
    // An odd stride meets headers, pointers, cells and free space of every page.
    for at in (0..bytes.len()).step_by(1_543) {
        let copy = copy_folder(folder.path());
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x41;
        fs::write(database(copy.path()), flipped).expect("flipped");
        let opened = all_or_refused(copy.path(), &log, &format!("flipped at {at}")).await;
        refused += u32::from(!opened);
    }
    assert!(refused > 3, "{refused} were refused");
    for length in [0, 100, 4_096, bytes.len() / 2, bytes.len() - 4_096] {
        let copy = copy_folder(folder.path());
        fs::write(database(copy.path()), &bytes[..length]).expect("cut");
        let opened = all_or_refused(copy.path(), &log, &format!("cut at {length}")).await;
        assert!(!opened, "cut at {length}");
    }
}
