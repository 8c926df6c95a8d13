//! Trimming: what goes, what stays, and that everything goes on from the cut.
//!
//! A store may trim less than it may: whole partitions, of four revisions here.

use latchkey::domain::chain::Head;
use latchkey::domain::entry::{REQUEST_KEPT_MS, Request};
use latchkey::store::{Appended, Store, StoreError, Trim};

use crate::store::scribe::{START_MS, Scribe, put_principal, rows};

/// A store whose log somebody may trim.
pub(crate) trait Trims {
    fn store(&self) -> &dyn Store;

    /// Before anything is written.
    async fn prepare(&self);

    async fn trim(&self, trim: Trim) -> Head;
}

/// So much later than anything here is remembered.
const LATER_MS: u64 = START_MS + 2 * REQUEST_KEPT_MS;
const ALL: Trim = Trim {
    before_ms: u64::MAX,
    upto: u64::MAX,
    now_ms: LATER_MS,
};

/// Ten entries, one millisecond apart; the scribe and the head at each, from 0 on.
async fn ten(on: &impl Trims) -> (Scribe, Vec<Head>) {
    on.prepare().await;
    let mut scribe = Scribe::new();
    let mut heads = vec![scribe.head];
    for number in 1..=10 {
        let put = put_principal(number, &format!("user:u{number}"));
        scribe.append(on.store(), [put]).await;
        heads.push(scribe.head);
    }
    (scribe, heads)
}

async fn texts(store: &dyn Store) -> Vec<String> {
    let (head, rows) = rows(store).await;
    let rows = rows.iter().map(|row| format!("{row:?}"));
    std::iter::once(format!("{head:?}")).chain(rows).collect()
}

pub(crate) async fn a_trimmed_log_goes_on_from_its_cut(on: &impl Trims) {
    let (mut scribe, heads) = ten(on).await;
    let store = on.store();
    assert_eq!(store.cut().await.expect("a cut"), Head::EMPTY);
    let before = texts(store).await;
    let cut = on.trim(ALL).await;
    assert!((8..10).contains(&cut.revision), "{cut:?}");
    assert_eq!(cut, heads[cut.revision as usize]);
    assert_eq!(store.cut().await.expect("a cut"), cut);
    // State is in the tables.
    assert_eq!(texts(store).await, before);

    let read = store
        .changes_after(cut.revision, 100)
        .await
        .expect("the log");
    let found: Vec<Head> = read.iter().map(|one| one.head).collect();
    assert_eq!(found, heads[cut.revision as usize + 1..]);
    let first = store.changes_after(cut.revision, 1).await.expect("the log");
    assert!(first[..] == read[..1], "bounded at the cut, too");

    let mut late = scribe.clone();
    late.head = cut;
    scribe.append(store, [put_principal(11, "user:u11")]).await;
    let Ok(Appended::Conflict(missed)) = store.append(late.batch([])).await else {
        panic!("the cut is in the history");
    };
    assert_eq!(missed[0].entry.revision, cut.revision + 1);
    assert_eq!(missed.last().map(|one| one.head), Some(scribe.head));
}

pub(crate) async fn what_was_before_the_cut_is_said_to_be_trimmed(on: &impl Trims) {
    let (_, heads) = ten(on).await;
    let store = on.store();
    let cut = on.trim(ALL).await;
    for asked in [0, 1, cut.revision - 1] {
        match store.changes_after(asked, 5).await {
            Err(StoreError::Trimmed {
                asked: said,
                cut: at,
            }) => {
                assert_eq!((said, at), (asked, cut));
            }
            other => panic!("{asked}: {other:?}"),
        }
    }
    // A base that nobody can compare any more is not taken.
    let mut late = Scribe::new();
    late.head = heads[3];
    let found = store.append(late.batch([])).await;
    assert!(
        matches!(found, Err(StoreError::Damaged { .. })),
        "{found:?}"
    );
}

pub(crate) async fn a_trim_keeps_what_it_is_told_to(on: &impl Trims) {
    let (_, heads) = ten(on).await;
    let trimmed = async |trim: Trim, least: u64, most: u64| {
        let cut = on.trim(trim).await;
        assert!((least..=most).contains(&cut.revision), "{trim:?}: {cut:?}");
        assert_eq!(cut, heads[cut.revision as usize]);
    };
    let before = |revision: u64| Trim {
        before_ms: START_MS + revision,
        ..ALL
    };
    // Each entry is a millisecond after the one before it, the first after the start.
    trimmed(before(1), 0, 0).await;
    let upto = |upto| Trim { upto, ..ALL };
    trimmed(upto(3), 0, 3).await;
    trimmed(upto(5), 4, 5).await;
    trimmed(before(7), 4, 6).await;
    // Nothing comes back.
    trimmed(before(1), 4, 6).await;
    trimmed(upto(9), 8, 9).await;
}

pub(crate) async fn a_trim_keeps_the_answers_of_remembered_requests(on: &impl Trims) {
    let (mut scribe, _) = ten(on).await;
    let request = Request {
        key: [5; 16],
        fingerprint: [6; 16],
    };
    let batch = scribe.batch_with([(put_principal(11, "user:u11"), Some(request))]);
    let answered_ms = batch.entries[0].entry.instant_ms;
    scribe.commit(on.store(), batch).await;
    for number in 12..=20 {
        let put = put_principal(number, &format!("user:u{number}"));
        scribe.append(on.store(), [put]).await;
    }
    let at = |now_ms| Trim { now_ms, ..ALL };
    let cut = on.trim(at(answered_ms + REQUEST_KEPT_MS)).await;
    assert!((8..=10).contains(&cut.revision), "{cut:?}");
    let answer = on.store().changes_after(10, 1).await.expect("the log");
    assert_eq!(answer[0].entry.request, Some(request));
    let cut = on.trim(at(answered_ms + REQUEST_KEPT_MS + 1)).await;
    assert!((16..20).contains(&cut.revision), "{cut:?}");
}
