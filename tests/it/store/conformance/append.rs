//! Compare-and-append, and the log that it makes.
//!
//! What a batch does as a whole; what its changes make is in `tables` and `forget`.

use latchkey::domain::chain::Head;
use latchkey::domain::change::Change;
use latchkey::domain::principal::PrincipalId;
use latchkey::store::{Appended, Batch, Store, StoreError};

use crate::store::scribe::{Scribe, issue, put_principal, put_role, user_token, whole_log};

async fn missed(store: &dyn Store, batch: Batch) -> Vec<u64> {
    match store.append(batch).await {
        Ok(Appended::Conflict(entries)) => entries.iter().map(|one| one.entry.revision).collect(),
        other => panic!("no conflict: {other:?}"),
    }
}

pub(crate) async fn a_batch_is_there_once_it_is_committed(store: &dyn Store) {
    let mut scribe = Scribe::new();
    scribe.append(store, [put_principal(1, "user:alice")]).await;
    scribe
        .append(
            store,
            [put_principal(2, "user:bob"), put_principal(3, "team:web")],
        )
        .await;
    let log = whole_log(store).await;
    assert_eq!(log.len(), 3);
    assert_eq!(log[2].head, scribe.head);
    assert_eq!(
        store.snapshot().await.expect("a snapshot").head,
        scribe.head
    );
}

pub(crate) async fn an_entry_reads_back_as_its_exact_bytes(store: &dyn Store) {
    let mut scribe = Scribe::new();
    let batch = scribe.batch([put_principal(1, "user:alice"), issue(user_token(5, 1, 2))]);
    scribe.commit(store, batch.clone()).await;
    assert!(whole_log(store).await == batch.entries);
}

pub(crate) async fn a_moved_head_is_a_conflict_with_what_was_missed(store: &dyn Store) {
    let mut scribe = Scribe::new();
    scribe.append(store, [put_principal(1, "user:alice")]).await;
    let mut late = scribe.clone();
    scribe.append(store, [put_principal(2, "user:bob")]).await;
    scribe.append(store, [put_principal(3, "user:carol")]).await;

    let batch = late.batch([put_principal(9, "user:late")]);
    assert_eq!(missed(store, batch).await, [2, 3]);
    let empty = Scribe::new().batch([]);
    assert_eq!(missed(store, empty).await, [1, 2, 3]);
    assert_eq!(whole_log(store).await.len(), 3);
}

pub(crate) async fn a_base_of_another_history_is_refused(store: &dyn Store) {
    let mut scribe = Scribe::new();
    scribe.append(store, [put_principal(1, "user:alice")]).await;
    let other = Head::EMPTY.after(b"another history");
    for base in [other, other.after(b"and more"), scribe.head.after(b"ahead")] {
        let batch = Batch {
            id: [1; 16],
            base,
            entries: Vec::new(),
        };
        match store.append(batch).await {
            Err(StoreError::Damaged { .. }) => {}
            found => panic!("{base:?} gave {found:?}"),
        }
    }
}

pub(crate) async fn an_empty_batch_compares_with_the_head(store: &dyn Store) {
    let mut scribe = Scribe::new();
    let empty = scribe.batch([]);
    scribe.commit(store, empty).await;
    scribe.append(store, [put_principal(1, "user:alice")]).await;
    let empty = scribe.batch([]);
    scribe.commit(store, empty).await;
    assert_eq!(whole_log(store).await.len(), 1);
}

pub(crate) async fn a_lost_reply_is_settled_by_the_batch_id(store: &dyn Store) {
    let mut scribe = Scribe::new();
    let batch = scribe.batch([put_principal(1, "user:alice"), put_principal(2, "user:bob")]);
    let id = batch.id;
    store.append(batch).await.expect("appended");
    // The reply is lost: an empty append on the same base finds the batch in the log.
    let settle = Batch {
        id: [0xff; 16],
        base: Head::EMPTY,
        entries: Vec::new(),
    };
    let Ok(Appended::Conflict(entries)) = store.append(settle).await else {
        panic!("the batch is not there");
    };
    assert!(entries.iter().all(|one| one.entry.batch_id == id));
    assert_eq!(entries.len(), 2);
}

pub(crate) async fn entries_that_do_not_continue_the_base_are_refused(store: &dyn Store) {
    let mut scribe = Scribe::new();
    let changes = [put_principal(1, "user:alice"), put_principal(2, "user:bob")];
    let mut batch = scribe.batch(changes);
    batch.entries.remove(0);
    let found = store.append(batch).await;
    assert!(matches!(found, Err(StoreError::Refused(_))), "{found:?}");

    let mut batch = scribe.batch([put_principal(1, "user:alice")]);
    batch.entries[0].body.push(0);
    let found = store.append(batch).await;
    assert!(matches!(found, Err(StoreError::Refused(_))), "{found:?}");
    assert!(whole_log(store).await.is_empty());
}

pub(crate) async fn a_refused_batch_leaves_nothing(store: &dyn Store) {
    let mut scribe = Scribe::new();
    scribe.append(store, [put_principal(1, "user:alice")]).await;
    // The second change takes a name that lives.
    scribe
        .refused(
            store,
            [
                put_role("agent", "acme", &["a:*"]),
                put_principal(2, "user:alice"),
            ],
        )
        .await;
    assert_eq!(whole_log(store).await.len(), 1);
    // The store goes on as if it had never been sent.
    scribe
        .append(store, [put_role("agent", "acme", &["a:*"])])
        .await;
    scribe
        .append(
            store,
            [
                Change::DeletePrincipal(PrincipalId(1)),
                put_principal(2, "user:alice"),
            ],
        )
        .await;
    assert_eq!(whole_log(store).await.len(), 4);
}

pub(crate) async fn an_entry_of_an_unknown_version_is_never_skipped(store: &dyn Store) {
    let mut scribe = Scribe::new();
    scribe.append(store, [put_principal(1, "user:alice")]).await;
    let mut late = scribe.clone();
    let mut batch = scribe.batch([put_principal(2, "user:bob")]);
    let unknown = &mut batch.entries[0];
    // A body begins with its format.
    assert_eq!(unknown.body[..2], [8, 1]);
    unknown.body[1] = 99;
    unknown.head = batch.base.after(&unknown.body);
    scribe.commit(store, batch).await;
    scribe.append(store, [put_principal(3, "user:carol")]).await;

    let missed = store.append(late.batch([put_principal(9, "user:late")]));
    for found in [
        missed.await.err(),
        store.changes_after(0, 10).await.err(),
        store.changes_after(1, 1).await.err(),
    ] {
        let Some(StoreError::Damaged { revision: 2, what }) = found else {
            panic!("{found:?}");
        };
        assert!(what.contains("format 99 is newer"), "{what}");
    }
}

pub(crate) async fn changes_are_dense_and_bounded(store: &dyn Store) {
    let mut scribe = Scribe::new();
    for number in 1..=20 {
        scribe
            .append(store, [put_principal(number, &format!("user:u{number}"))])
            .await;
    }
    let check = |after: u64, limit: usize, expected: Vec<u64>| async move {
        let found = store.changes_after(after, limit).await.expect("the log");
        let found: Vec<u64> = found.iter().map(|one| one.entry.revision).collect();
        assert_eq!(found, expected, "after {after}, at most {limit}");
    };
    check(0, 3, vec![1, 2, 3]).await;
    check(7, 2, vec![8, 9]).await;
    check(17, 100, vec![18, 19, 20]).await;
    check(5, 0, vec![]).await;
}

pub(crate) async fn nothing_is_after_the_head(store: &dyn Store) {
    assert!(
        store
            .changes_after(0, 10)
            .await
            .expect("the log")
            .is_empty()
    );
    let mut scribe = Scribe::new();
    scribe.append(store, [put_principal(1, "user:alice")]).await;
    for after in [1, 2, u64::from(u32::MAX)] {
        assert!(
            store
                .changes_after(after, 10)
                .await
                .expect("the log")
                .is_empty()
        );
    }
}

pub(crate) async fn a_closed_store_is_unavailable(store: &dyn Store) {
    let mut scribe = Scribe::new();
    scribe.append(store, [put_principal(1, "user:alice")]).await;
    store.close().await.expect("closed");
    let batch = scribe.batch([put_principal(2, "user:bob")]);
    let found = store.append(batch).await;
    assert!(
        matches!(found, Err(StoreError::Unavailable(_))),
        "{found:?}"
    );
    let found = store.changes_after(0, 1).await;
    assert!(
        matches!(found, Err(StoreError::Unavailable(_))),
        "{found:?}"
    );
    store.close().await.expect("closing again is no error");
}
