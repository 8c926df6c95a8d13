//! What is forgotten: ended tokens of one slice, and request ids after their time.
//!
//! Time passing changes nothing by itself: each test says what an entry takes with it.

use latchkey::domain::change::{Change, CutOffTarget, Display, Row, TokenRecord};
use latchkey::domain::entry::{REQUEST_KEPT_MS, REQUESTS_MAX, Request};
use latchkey::domain::principal::PrincipalId;
use latchkey::store::{Batch, Store};

use crate::store::scribe::{
    START_MS, Scribe, digest, issue, labels, put_principal, rows, token_id, user_token,
};

const BEFORE_MS: u64 = START_MS + 1_000;

/// A labelled token of a user, in a slice.
fn put(number: u128, user: u32, expires_ms: Option<u64>, slice: u8) -> Change {
    let record = TokenRecord {
        expires_ms,
        key: digest(slice, number).key(),
        ..user_token(number, user, 2)
    };
    let display = Display {
        labels: Some(labels(&[("k", "v")])),
        ..Display::default()
    };
    Change::PutToken {
        record: Box::new(record),
        digest: Some(digest(slice, number)),
        display,
    }
}

fn revoke(number: u128) -> Change {
    Change::RevokeToken {
        id: token_id(number),
        compromised: false,
    }
}

/// Forgets in a slice, and says which tokens are left.
async fn forget(scribe: &mut Scribe, store: &dyn Store, slice: u8) -> Vec<u128> {
    let before_ms = BEFORE_MS;
    let change = Change::Forget { before_ms, slice };
    scribe.append(store, [change]).await;
    let (_, rows) = rows(store).await;
    let tokens = rows.iter().filter_map(|row| match row {
        Row::Token(record) => Some(record.id.as_u128()),
        _ => None,
    });
    tokens.collect()
}

pub(crate) async fn forgetting_takes_what_ended_in_one_slice(store: &dyn Store) {
    let mut scribe = Scribe::new();
    let changes = [
        put_principal(1, "user:alice"),
        put(10, 1, Some(BEFORE_MS - 1), 0xab),
        put(11, 1, Some(BEFORE_MS), 0xab),
        put(12, 1, None, 0xab),
        put(13, 1, Some(BEFORE_MS - 1), 0xac),
        put(14, 1, None, 0xab),
        put(15, 1, Some(BEFORE_MS + 9), 0xab),
        revoke(14),
        revoke(15),
    ];
    scribe.append(store, changes).await;
    assert_eq!(forget(&mut scribe, store, 0xab).await, [11, 12, 13]);
    assert_eq!(forget(&mut scribe, store, 0xac).await, [11, 12]);
    assert_eq!(forget(&mut scribe, store, 0xab).await, [11, 12]);
    // What was forgotten cannot be revoked; what comes again under its id has nothing of it.
    scribe.refused(store, [revoke(10)]).await;
    scribe.append(store, [issue(user_token(10, 1, 15))]).await;
    let stored = store.token(token_id(10)).await.expect("read");
    assert!(stored.expect("there").labels.is_empty());
}

pub(crate) async fn forgetting_takes_what_lost_its_subject(store: &dyn Store) {
    let mut scribe = Scribe::new();
    let changes = [
        put_principal(1, "user:alice"),
        put_principal(2, "user:gone"),
        put(10, 1, None, 0xab),
        put(11, 2, None, 0xab),
        put(12, 2, Some(BEFORE_MS + 9), 0xab),
        put(13, 2, None, 0xac),
    ];
    scribe.append(store, changes).await;
    assert_eq!(forget(&mut scribe, store, 0xab).await, [10, 11, 12, 13]);
    let gone = Change::DeletePrincipal(PrincipalId(2));
    scribe.append(store, [gone]).await;
    assert_eq!(forget(&mut scribe, store, 0xab).await, [10, 13]);
    assert_eq!(forget(&mut scribe, store, 0xac).await, [10]);
}

async fn requests(store: &dyn Store) -> Vec<(u8, u64)> {
    let (_, rows) = rows(store).await;
    let requests = rows.into_iter().filter_map(|row| match row {
        Row::Request {
            request, revision, ..
        } => Some((request.key[0], revision)),
        _ => None,
    });
    requests.collect()
}

fn request(number: u32) -> Request {
    let mut key = [0; 16];
    key[..4].copy_from_slice(&number.to_le_bytes());
    Request {
        key,
        fingerprint: [1; 16],
    }
}

/// A change that is allowed any number of times.
fn harmless() -> Change {
    Change::CutOff(CutOffTarget::Subject(PrincipalId(1)))
}

async fn ask(scribe: &mut Scribe, store: &dyn Store, number: u32) {
    let batch: Batch = scribe.batch_with([(harmless(), Some(request(number)))]);
    scribe.commit(store, batch).await;
}

pub(crate) async fn requests_are_forgotten_after_their_time(store: &dyn Store) {
    let mut scribe = Scribe::new();
    ask(&mut scribe, store, 1).await;
    ask(&mut scribe, store, 2).await;
    // The next entry's instant is exactly the keeping time after the first request's.
    scribe.instant_ms = START_MS + REQUEST_KEPT_MS;
    let forget = || Change::Forget {
        before_ms: 0,
        slice: 0,
    };
    scribe.append(store, [forget()]).await;
    assert_eq!(requests(store).await, [(1, 1), (2, 2)]);
    scribe.append(store, [forget()]).await;
    assert_eq!(requests(store).await, [(2, 2)]);
    scribe.append(store, [forget()]).await;
    assert_eq!(requests(store).await, []);
    ask(&mut scribe, store, 1).await;
    assert_eq!(requests(store).await, [(1, 6)]);
}

pub(crate) async fn a_repeated_request_key_replaces_the_former(store: &dyn Store) {
    let mut scribe = Scribe::new();
    for number in [1, 2, 1] {
        ask(&mut scribe, store, number).await;
    }
    assert_eq!(requests(store).await, [(2, 2), (1, 3)]);
}

pub(crate) async fn requests_are_bounded(store: &dyn Store) {
    let mut scribe = Scribe::new();
    let max = u32::try_from(REQUESTS_MAX).expect("a small number");
    // No statement is so long that a busy machine would run into the time-out of one.
    for first in (0..max).step_by(5_000) {
        let some =
            (first..max.min(first + 5_000)).map(|number| (harmless(), Some(request(number))));
        let batch = scribe.batch_with(some);
        scribe.commit(store, batch).await;
    }
    assert_eq!(requests(store).await.len(), REQUESTS_MAX);
    // One that is there already takes no other's place; a new one takes the oldest's.
    ask(&mut scribe, store, 7).await;
    let kept = requests(store).await;
    assert_eq!((kept.len(), kept[0].1), (REQUESTS_MAX, 1));
    ask(&mut scribe, store, max + 1).await;
    let kept = requests(store).await;
    assert_eq!((kept.len(), kept[0].1), (REQUESTS_MAX, 2));
}
