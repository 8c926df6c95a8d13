//! Stopping and starting: what was acknowledged is there, one process at a time.
//!
//! Also one whole life: the full disk, the second opener, the files and who may read them.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Mutex;

use latchkey::domain::change::Change;
use latchkey::domain::principal::PrincipalId;
use latchkey::store::embedded::{EmbeddedStore, OpenError, OpenOptions};
use latchkey::store::list::LastUsed;
use latchkey::store::{Row, Store, StoreError};

use super::{copy_folder, database, dump, fresh, open, open_all, tamper};
use crate::store::history::History;
use crate::store::scribe::{Scribe, issue, put_principal, rows, token_id, user_token, whole_log};

#[tokio::test]
async fn embedded_log_is_there_after_a_clean_stop() {
    let fresh = fresh();
    let mut scribe = Scribe::new();
    scribe
        .append(&fresh.store, [put_principal(1, "user:alice")])
        .await;
    scribe
        .append(&fresh.store, [issue(user_token(5, 1, 2))])
        .await;
    let before = whole_log(&fresh.store).await;
    fresh.store.close().await.expect("closed");

    // The lock is gone with the reply to close, before the value is dropped.
    let again = open(fresh.folder.path()).expect("opened");
    assert!(whole_log(&again).await == before);
    scribe.append(&again, [put_principal(2, "user:bob")]).await;
    assert_eq!(
        again.snapshot().await.expect("a snapshot").head,
        scribe.head
    );
}

#[tokio::test]
async fn embedded_log_is_there_without_a_clean_stop() {
    let fresh = fresh();
    let mut scribe = Scribe::new();
    for number in 1..=5 {
        scribe
            .append(
                &fresh.store,
                [put_principal(number, &format!("user:u{number}"))],
            )
            .await;
    }
    // The files as they are now, and the store dropped without a word.
    let crashed = copy_folder(fresh.folder.path());
    drop(fresh.store);
    for folder in [crashed.path(), fresh.folder.path()] {
        let again = open(folder).expect("opened");
        assert_eq!(
            whole_log(&again).await.last().map(|last| last.head),
            Some(scribe.head)
        );
    }
}

#[tokio::test]
async fn embedded_tables_equal_a_replay_of_the_log() {
    for seed in [2, 3] {
        let one = fresh();
        let mut scribe = Scribe::new();
        let mut history = History::new(seed);
        for _ in 0..150 {
            let changes = history.batch(&scribe);
            scribe.append(&one.store, changes).await;
        }
        let log = whole_log(&one.store).await;
        let other = fresh();
        for logged in &log {
            let batch = latchkey::store::Batch {
                id: logged.entry.batch_id,
                base: other.store.snapshot().await.expect("a snapshot").head,
                entries: vec![logged.clone()],
            };
            other.store.append(batch).await.expect("appended");
        }
        one.store.close().await.expect("closed");
        other.store.close().await.expect("closed");
        let (one, other) = (dump(one.folder.path()), dump(other.folder.path()));
        assert!(
            one.len() > 2 * log.len() / 3,
            "{} rows of {} entries",
            one.len(),
            log.len()
        );
        for (left, right) in one.iter().zip(&other) {
            assert_eq!(left, right);
        }
        assert_eq!(one.len(), other.len());
    }
}

#[tokio::test]
async fn embedded_second_opener_is_refused_by_name() {
    let fresh = fresh();
    let second = open(fresh.folder.path());
    let Err(error @ OpenError::InUse(_)) = second else {
        panic!("opened twice");
    };
    let path = fresh.folder.path().display().to_string();
    assert!(error.to_string().contains(&path), "{error}");
    drop(fresh.store);
    open(fresh.folder.path()).expect("free again");
}

#[tokio::test]
async fn embedded_files_are_for_the_owner_alone() {
    let above = tempfile::tempdir().expect("a folder");
    let folder = above.path().join("data");
    let store = open(&folder).expect("made");
    Scribe::new()
        .append(&store, [put_principal(1, "user:alice")])
        .await;
    rows(&store).await;
    let mode = |path: &std::path::Path| {
        std::fs::metadata(path).expect("there").permissions().mode() & 0o777
    };
    assert_eq!(mode(&folder), 0o700);
    let files = std::fs::read_dir(&folder).expect("read");
    let files: Vec<_> = files.map(|entry| entry.expect("an entry").path()).collect();
    assert_eq!(files.len(), 5, "{files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[tokio::test]
async fn embedded_full_disk_loses_nothing_and_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    let small = OpenOptions {
        pages_max: Some(60),
        ..OpenOptions::default()
    };
    let store = EmbeddedStore::open(folder.path(), small).expect("opened");
    let mut scribe = Scribe::new();
    scribe
        .append(&store, [put_principal(1, "user:alice")])
        .await;
    let error = loop {
        let mut ahead = scribe.clone();
        let number = u128::from(scribe.next());
        let batch = ahead.batch([issue(user_token(number, 1, scribe.next()))]);
        match store.append(batch.clone()).await {
            Ok(_) => {
                scribe = ahead;
                scribe.head = batch.entries[0].head;
            }
            Err(error) => break error,
        }
        assert!(scribe.head.revision < 10_000, "the disk is never full");
    };
    assert!(
        matches!(&error, StoreError::Unavailable(text) if text.contains("full")),
        "{error}"
    );
    let held = scribe.head.revision;
    assert!(held > 20, "{held}");
    assert_eq!(whole_log(&store).await.len() as u64, held);
    store.close().await.expect("closed");

    let store = open_all(folder.path()).expect("opened");
    assert_eq!(whole_log(&store).await.len() as u64, held);
    scribe
        .append(&store, [issue(user_token(1 << 100, 1, held + 1))])
        .await;
    assert_eq!(rows(&store).await.1.len() as u64, held + 2);
}

#[tokio::test]
async fn embedded_progress_is_told_by_revision() {
    let fresh = fresh();
    let mut scribe = Scribe::new();
    let many = (1..=5_000).map(|number| put_principal(number, &format!("user:u{number}")));
    scribe.append(&fresh.store, many).await;
    let told = Mutex::new(Vec::new());
    let tell = |done, of| told.lock().expect("whole").push((done, of));
    let head = fresh.store.verify_all(Some(&tell)).expect("whole");
    assert_eq!(head, scribe.head);
    assert_eq!(
        *told.lock().expect("whole"),
        [(4_096, 5_000), (5_000, 5_000)]
    );

    // An unclean stop verifies everything, a clean one nothing that was verified before.
    drop(fresh.store);
    told.lock().expect("whole").clear();
    let options = OpenOptions {
        progress: Some(&tell),
        ..OpenOptions::default()
    };
    let again = EmbeddedStore::open(fresh.folder.path(), options).expect("opened");
    assert_eq!(told.lock().expect("whole").len(), 2);
    again.close().await.expect("closed");
    told.lock().expect("whole").clear();
    drop(again);
    EmbeddedStore::open(fresh.folder.path(), options).expect("opened");
    assert_eq!(*told.lock().expect("whole"), [(5_000, 5_000)]);
}

#[tokio::test]
async fn embedded_foreign_and_newer_files_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(
        database(folder.path()),
        "not a database, but long enough to look at",
    )
    .expect("written");
    assert!(matches!(
        open(folder.path()),
        Err(OpenError::Store(StoreError::Damaged { .. }))
    ));

    let folder = tempfile::tempdir().expect("a folder");
    tamper(folder.path(), "CREATE TABLE theirs (id)");
    assert!(matches!(open(folder.path()), Err(OpenError::Foreign(_))));

    let fresh = fresh();
    fresh.store.close().await.expect("closed");
    tamper(fresh.folder.path(), "PRAGMA user_version = 99");
    let newer = open(fresh.folder.path());
    assert!(matches!(
        newer,
        Err(OpenError::SchemaVersion {
            found: 99,
            known: 7
        })
    ));
}

#[tokio::test]
async fn embedded_tables_of_the_first_version_are_brought_up_to_date() {
    let fresh = fresh();
    let mut scribe = Scribe::new();
    scribe
        .append(&fresh.store, [put_principal(1, "user:alice")])
        .await;
    fresh.store.close().await.expect("closed");
    let first = "ALTER TABLE head DROP COLUMN format; DROP TABLE token_used; DROP TABLE log_cut;
        DROP TABLE used_assertions; DROP TABLE logins; ALTER TABLE tokens DROP COLUMN public_key;
        DROP TABLE login_methods; DROP TABLE seal_keys; DROP TABLE revoked_sessions;
        DROP TABLE login_locks; PRAGMA user_version = 1";
    tamper(fresh.folder.path(), first);
    // A reader changes nothing, so it cannot read them.
    let read_only = EmbeddedStore::open_read_only(fresh.folder.path());
    assert!(matches!(
        read_only.err(),
        Some(OpenError::SchemaVersion { found: 1, .. })
    ));
    let again = open(fresh.folder.path()).expect("opened");
    let next = [issue(user_token(10, 1, 2)), Change::RaiseFormat(2)];
    scribe.append(&again, next).await;
    assert!(matches!(rows(&again).await.1[0], Row::Format(2)));
    let used = LastUsed {
        at_ms: 1,
        from: None,
    };
    let noted = again.note_used(&[(token_id(10), used)]).await;
    noted.expect("there is a table");
    let stored = again.token(token_id(10)).await.expect("read");
    assert_eq!(stored.expect("there").last_used, Some(used));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_reads_go_on_beside_writes() {
    let fresh = fresh();
    let store = &fresh.store;
    let mut scribe = Scribe::new();
    scribe.append(store, [put_principal(1, "user:alice")]).await;
    let write = async {
        for number in 2..200 {
            scribe
                .append(store, [put_principal(number, &format!("user:u{number}"))])
                .await;
        }
        scribe
            .append(store, [Change::DeletePrincipal(PrincipalId(1))])
            .await;
    };
    let read = async {
        let mut seen = 0;
        while seen < 200 {
            let (head, rows) = rows(store).await;
            // 199 creations, then a deletion: each snapshot is of exactly one revision.
            let expected = if head.revision == 200 {
                199
            } else {
                head.revision + 1
            };
            assert_eq!(rows.len() as u64, expected, "at {head:?}");
            seen = head.revision;
        }
    };
    tokio::join!(write, read);
}
