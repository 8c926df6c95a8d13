//! Copies: backups, what is restored from them, and older databases put in place by hand.
//!
//! An older copy forgets revocations: only an operator who says so may serve it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use latchkey::domain::chain::Head;
use latchkey::store::embedded::{self, Copied, EmbeddedStore, OpenError, Progress};
use latchkey::store::{Store, StoreError};
use tempfile::TempDir;

use super::{Fresh, accept_older, copy_folder, database, dump, fresh, open, tamper};
use crate::store::scribe::{Scribe, put_principal, whole_log};

/// Puts a user of the scribe's next revision.
async fn put_one(scribe: &mut Scribe, store: &EmbeddedStore) {
    let number = u32::try_from(scribe.next()).expect("few");
    scribe
        .append(store, [put_principal(number, &format!("user:u{number}"))])
        .await;
}

fn replace_database(folder: &Path, by: &Path) {
    fs::copy(database(by), database(folder)).expect("replaced");
}

/// A closed folder at revision 3, and a copy of what it was at revision 2.
async fn two_and_three() -> (TempDir, TempDir) {
    let Fresh { store, folder } = fresh();
    let mut scribe = Scribe::new();
    put_one(&mut scribe, &store).await;
    put_one(&mut scribe, &store).await;
    store.close().await.expect("closed");
    drop(store);
    let old = copy_folder(folder.path());
    let store = open(folder.path()).expect("opened");
    put_one(&mut scribe, &store).await;
    store.close().await.expect("closed");
    (old, folder)
}

#[tokio::test]
async fn embedded_older_copy_is_refused_until_it_is_accepted() {
    let (old, folder) = two_and_three().await;
    replace_database(folder.path(), old.path());
    for _ in 0..2 {
        let refused = open(folder.path());
        let Err(OpenError::Store(error @ StoreError::OlderCopy { found: 2, seen: 3 })) = refused
        else {
            panic!("an older copy was opened");
        };
        assert!(error.to_string().contains("revision 2"), "{error}");
        assert!(error.to_string().contains("revision 3"), "{error}");
    }
    let store = accept_older(folder.path()).expect("accepted");
    assert_eq!(whole_log(&store).await.len(), 2);
    drop(store);
    open(folder.path()).expect("accepted once and for all");
}

#[tokio::test]
async fn embedded_other_history_is_refused_until_it_is_accepted() {
    let (_, folder) = two_and_three().await;
    let other = fresh();
    let mut scribe = Scribe::new();
    // Another history that has gone on further.
    scribe.instant_ms += 1_000;
    for _ in 0..5 {
        put_one(&mut scribe, &other.store).await;
    }
    other.store.close().await.expect("closed");
    replace_database(folder.path(), other.folder.path());
    let refused = open(folder.path());
    let Err(OpenError::Store(StoreError::Damaged { revision: 3, what })) = refused else {
        panic!("another history was opened");
    };
    assert!(what.contains("another history"), "{what}");
    accept_older(folder.path()).expect("accepted");
}

#[tokio::test]
async fn embedded_lost_database_is_refused_and_none_is_made() {
    let (_, folder) = two_and_three().await;
    fs::remove_file(database(folder.path())).expect("lost");
    let refused = open(folder.path());
    assert!(matches!(
        refused,
        Err(OpenError::Store(StoreError::OlderCopy {
            found: 0,
            seen: 3
        }))
    ));
    assert!(!database(folder.path()).exists());
    accept_older(folder.path()).expect("a new beginning");
}

#[tokio::test]
async fn embedded_newer_database_than_its_witness_is_fine() {
    let (old, folder) = two_and_three().await;
    replace_database(old.path(), folder.path());
    let store = open(old.path()).expect("opened");
    assert_eq!(whole_log(&store).await.len(), 3);
    drop(store);
    fs::remove_file(folder.path().join("head")).expect("lost");
    open(folder.path()).expect("without a witness nothing was seen");
}

#[tokio::test]
async fn embedded_backup_is_consistent_while_serving_and_restores() {
    let one = fresh();
    let mut scribe = Scribe::new();
    for _ in 0..20 {
        put_one(&mut scribe, &one.store).await;
    }
    let away = tempfile::tempdir().expect("a folder");
    let file = away.path().join("latchkey.backup");
    let told = Mutex::new(Vec::new());
    let tell = |done, of| told.lock().expect("whole").push((done, of));
    let copied = one.store.backup_to(&file, Some(&tell)).expect("copied");
    let head = copied.head;
    assert_eq!(head, scribe.head);
    assert_eq!(copied.tokens, 0);
    assert_eq!(copied.bytes, fs::metadata(&file).expect("there").len());
    let last = *told.lock().expect("whole").last().expect("told");
    assert_eq!(last.0, last.1);
    let mode = fs::metadata(&file).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let names: Vec<_> = fs::read_dir(away.path()).expect("read").collect();
    assert_eq!(names.len(), 1, "{names:?}");
    put_one(&mut scribe, &one.store).await;

    let to = tempfile::tempdir().expect("a folder");
    let folder = to.path().join("new/data");
    assert_eq!(
        restore(&file, &folder, false, None).expect("restored"),
        copied
    );
    let store = open(&folder).expect("opened");
    assert_eq!(
        whole_log(&store).await.last().map(|last| last.head),
        Some(head)
    );
    store.close().await.expect("closed");
    one.store.close().await.expect("closed");
    let (mut full, restored) = (dump(one.folder.path()), dump(&folder));
    full.retain(|row| restored.contains(row));
    // All but the head row, and what came after the copy.
    assert_eq!(full.len() + 1, restored.len());
    let files: Vec<_> = fs::read_dir(&folder).expect("read").collect();
    assert_eq!(files.len(), 3, "{files:?}");
}

#[tokio::test]
async fn embedded_backup_overwrites_nothing() {
    let one = fresh();
    let file = one.folder.path().join("there");
    fs::write(&file, "precious").expect("written");
    let refused = one.store.backup_to(&file, None);
    assert!(matches!(refused, Err(OpenError::Exists(_))), "{refused:?}");
    assert_eq!(fs::read_to_string(&file).expect("read"), "precious");
    let nowhere = one.folder.path().join("no/such/folder/file");
    let refused = one.store.backup_to(&nowhere, None);
    assert!(
        matches!(refused, Err(OpenError::Files { .. })),
        "{refused:?}"
    );
}

/// A backup of the folder's database.
fn backup(folder: &Path, to: &Path) -> Head {
    let reading = EmbeddedStore::open_read_only(folder).expect("a database");
    reading.backup_to(to, None).expect("copied").head
}

/// Restores, without a State to hold the tables against.
fn restore(
    file: &Path,
    folder: &Path,
    accept_older: bool,
    progress: Option<Progress<'_>>,
) -> Result<Copied, OpenError> {
    embedded::restore(file, folder, accept_older, progress, |_| Ok(()))
}

/// Names and contents of all files of a folder, and whether it is there.
fn listing(folder: &Path) -> Option<BTreeMap<PathBuf, Vec<u8>>> {
    let entries = fs::read_dir(folder).ok()?;
    let paths = entries.map(|entry| entry.expect("an entry").path());
    Some(
        paths
            .map(|path| (path.clone(), fs::read(path).expect("read")))
            .collect(),
    )
}

/// A refused restore, which must change nothing; why it was refused.
#[track_caller]
fn refused(file: &Path, folder: &Path) -> OpenError {
    let before = listing(folder);
    let error = restore(file, folder, false, None).expect_err("refused");
    assert_eq!(listing(folder), before, "{error}");
    error
}

#[tokio::test]
async fn embedded_restore_refuses_what_is_in_the_way() {
    let (_, folder) = two_and_three().await;
    let away = tempfile::tempdir().expect("a folder");
    let file = away.path().join("backup");
    backup(folder.path(), &file);
    let refused = restore(&file, folder.path(), true, None);
    assert!(matches!(refused, Err(OpenError::Exists(_))), "{refused:?}");
    let store = open(folder.path()).expect("opened");
    let refused = restore(&file, folder.path(), true, None);
    assert!(matches!(refused, Err(OpenError::InUse(_))), "{refused:?}");
    drop(store);
    let missing = restore(&away.path().join("none"), away.path(), false, None);
    assert!(
        matches!(missing, Err(OpenError::NoDatabase(_))),
        "{missing:?}"
    );
}

#[tokio::test]
async fn embedded_restore_of_an_older_backup_must_be_accepted() {
    let (old, folder) = two_and_three().await;
    let away = tempfile::tempdir().expect("a folder");
    let (two, three) = (away.path().join("two"), away.path().join("three"));
    backup(old.path(), &two);
    backup(folder.path(), &three);
    fs::remove_file(database(folder.path())).expect("lost");

    let error = refused(&two, folder.path());
    let OpenError::Store(StoreError::OlderCopy { found: 2, seen: 3 }) = error else {
        panic!("{error:?}");
    };
    assert!(!database(folder.path()).exists());
    let again = copy_folder(folder.path());
    restore(&three, again.path(), false, None).expect("as new as what was seen");
    open(again.path()).expect("opened");
    restore(&two, folder.path(), true, None).expect("accepted");
    open(folder.path()).expect("opened");
}

#[tokio::test]
async fn embedded_restore_refuses_damage_and_foreign_files() {
    let (_, folder) = two_and_three().await;
    let to = tempfile::tempdir().expect("a folder");
    let away = tempfile::tempdir().expect("a folder");
    tamper(
        folder.path(),
        "UPDATE log SET reason = 'another' WHERE revision = 2",
    );
    let file = away.path().join("damaged");
    backup(folder.path(), &file);
    let new = away.path().join("not/yet/there");
    for folder in [to.path(), &new] {
        let error = refused(&file, folder);
        let OpenError::Store(StoreError::Damaged { revision: 2, .. }) = error else {
            panic!("{error:?}");
        };
    }
    assert!(!away.path().join("not").exists());
    let file = away.path().join("foreign");
    fs::write(&file, "this is no database, whatever its name may be").expect("written");
    let error = refused(&file, to.path());
    assert!(matches!(error, OpenError::Foreign(_)), "{error:?}");
    fs::write(&file, "").expect("emptied");
    let error = refused(&file, to.path());
    assert!(matches!(error, OpenError::NoDatabase(_)), "{error:?}");
    assert_eq!(listing(to.path()).map(|files| files.len()), Some(0));
}

#[tokio::test]
async fn embedded_restore_refuses_tables_that_do_not_agree() {
    let (_, folder) = two_and_three().await;
    let away = tempfile::tempdir().expect("a folder");
    let file = away.path().join("backup");
    backup(folder.path(), &file);
    let to = away.path().join("to");
    let mut given = 0;
    let refused = embedded::restore(&file, &to, false, None, |snapshot| {
        given = snapshot.head.revision;
        Err(StoreError::Unavailable("as the test wants it".to_owned()))
    });
    assert!(matches!(refused, Err(OpenError::Store(_))), "{refused:?}");
    assert_eq!((given, to.exists()), (3, false));
}

#[tokio::test]
async fn embedded_leftovers_of_a_half_restore_start_no_empty_store() {
    let (_, folder) = two_and_three().await;
    let away = tempfile::tempdir().expect("a folder");
    let file = away.path().join("backup");
    backup(folder.path(), &file);
    // As a restore leaves it that was killed while it verified.
    let half = tempfile::tempdir().expect("a folder");
    let part = half.path().join("latchkey.db.4711.part");
    fs::copy(&file, &part).expect("copied");
    fs::write(half.path().join("lock"), "").expect("written");
    for opened in [open(half.path()), accept_older(half.path())] {
        let Err(error @ OpenError::Remains(_)) = opened else {
            panic!("an empty store was begun");
        };
        let text = error.to_string();
        assert!(
            text.contains("latchkey.db.4711.part") && text.contains("restore"),
            "{text}"
        );
    }
    assert!(!database(half.path()).exists());
    restore(&file, half.path(), false, None).expect("restored");
    assert!(!part.exists(), "swept");
    open(half.path()).expect("opened");

    // A log of writes whose database is gone, in a place that has seen nothing.
    let gone = tempfile::tempdir().expect("a folder");
    fs::write(gone.path().join("latchkey.db-wal"), "frames").expect("written");
    assert!(matches!(open(gone.path()), Err(OpenError::Remains(_))));
    let error = refused(&file, gone.path());
    assert!(matches!(error, OpenError::Exists(_)), "{error:?}");
}

#[tokio::test]
async fn embedded_reading_needs_no_lock_and_no_writer() {
    let one = fresh();
    let mut scribe = Scribe::new();
    put_one(&mut scribe, &one.store).await;
    let reading = EmbeddedStore::open_read_only(one.folder.path()).expect("beside a writer");
    assert_eq!(reading.head().expect("a head"), scribe.head);
    put_one(&mut scribe, &one.store).await;
    assert_eq!(reading.verify_all(None).expect("whole"), scribe.head);
    drop(reading);
    drop(one.store);
    let reading = EmbeddedStore::open_read_only(one.folder.path()).expect("without one");
    assert_eq!(reading.verify_all(None).expect("whole"), scribe.head);
    let empty = tempfile::tempdir().expect("a folder");
    let none = EmbeddedStore::open_read_only(empty.path());
    assert!(matches!(none, Err(OpenError::NoDatabase(_))));
}
