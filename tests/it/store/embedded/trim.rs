//! What trimming leaves on the disk: a log that verifies from its cut, also after a crash.
//!
//! And a copy of it, which is as good.

use latchkey::domain::chain::Head;
use latchkey::store::embedded::{EmbeddedStore, OpenError, restore};
use latchkey::store::{Store as _, StoreError, Trim};

use super::{copy_folder, fresh, open, open_all, tamper};
use crate::store::scribe::{Scribe, put_principal};

const ALL: Trim = Trim {
    before_ms: u64::MAX,
    upto: u64::MAX,
    now_ms: u64::MAX >> 1,
};

#[tokio::test]
async fn embedded_trim_of_many_is_made_in_batches_and_leaves_the_head() {
    let fresh = fresh();
    let mut scribe = Scribe::new();
    let many = (1..=5_000).map(|number| put_principal(number, &format!("user:u{number}")));
    scribe.append(&fresh.store, many).await;
    let cut = fresh.store.trim(ALL).await.expect("trimmed");
    assert_eq!(cut.revision, 4_999);
    let left = fresh.store.changes_after(cut.revision, 10).await;
    assert_eq!(left.expect("the log")[0].head, scribe.head);
}

#[tokio::test]
async fn embedded_trimmed_log_verifies_from_its_cut_after_a_stop_and_a_crash() {
    let fresh = fresh();
    let mut scribe = Scribe::new();
    for number in 1..=10 {
        let put = put_principal(number, &format!("user:u{number}"));
        scribe.append(&fresh.store, [put]).await;
    }
    let upto = Trim { upto: 6, ..ALL };
    let cut = fresh.store.trim(upto).await.expect("trimmed");
    let crashed = copy_folder(fresh.folder.path());
    let verified = fresh.store.verify_all(None).expect("whole");
    assert_eq!((cut.revision, verified), (6, scribe.head));
    fresh.store.close().await.expect("closed");
    for folder in [fresh.folder.path(), crashed.path()] {
        let store = open_all(folder).expect("opened");
        assert_eq!(store.cut().await.expect("a cut"), cut);
        assert_eq!(store.verify_all(None).expect("whole"), scribe.head);
        let read_only = EmbeddedStore::open_read_only(folder).expect("opened");
        assert_eq!(read_only.cut().expect("a cut"), cut);
        assert_eq!(read_only.changes_after(6, 9).expect("the log").len(), 4);
        store.close().await.expect("closed");
    }
}

#[tokio::test]
async fn embedded_cut_that_was_moved_or_forged_is_found() {
    let fresh = fresh();
    let mut scribe = Scribe::new();
    for number in 1..=10 {
        let put = put_principal(number, &format!("user:u{number}"));
        scribe.append(&fresh.store, [put]).await;
    }
    let upto = Trim { upto: 6, ..ALL };
    fresh.store.trim(upto).await.expect("trimmed");
    fresh.store.close().await.expect("closed");
    let check = |sql: &str, expected: u64| {
        let copy = copy_folder(fresh.folder.path());
        tamper(copy.path(), sql);
        let refused = open_all(copy.path()).err().expect(sql);
        let OpenError::Store(StoreError::Damaged { revision, .. }) = refused else {
            panic!("{sql}: {refused}");
        };
        assert_eq!(revision, expected, "{sql}");
    };
    check("UPDATE log_cut SET revision = 0, chain = zeroblob(32)", 1);
    check("UPDATE log_cut SET revision = 5", 6);
    check("UPDATE log_cut SET chain = zeroblob(32)", 7);
    check("DELETE FROM log WHERE revision = 7", 7);
}

#[tokio::test]
async fn embedded_copy_of_a_trimmed_log_is_restored() {
    let fresh = fresh();
    let mut scribe = Scribe::new();
    for number in 1..=10 {
        let put = put_principal(number, &format!("user:u{number}"));
        scribe.append(&fresh.store, [put]).await;
    }
    let cut = fresh.store.trim(ALL).await.expect("trimmed");
    let elsewhere = tempfile::tempdir().expect("a folder");
    let (file, folder) = (elsewhere.path().join("copy"), elsewhere.path().join("data"));
    fresh.store.backup_to(&file, None).expect("copied");
    let restored = restore(&file, &folder, false, None, |_| Ok(())).expect("restored");
    assert_eq!(restored.head, scribe.head);
    let store = open(&folder).expect("opened");
    assert_eq!(store.cut().await.expect("a cut"), cut);
    assert_ne!(cut, Head::EMPTY);
    let put = [put_principal(11, "user:u11")];
    scribe.append(&store, put).await;
    let read = store.changes_after(cut.revision, 100).await;
    assert_eq!(read.expect("the log").len(), 2);
}
