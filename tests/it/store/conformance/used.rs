//! When tokens were last used: what is shown, which use stands, and what goes with the token.
//!
//! Beside the log: nothing here moves the head or stands in a snapshot.

use std::net::IpAddr;

use latchkey::domain::change::{Change, Display, TokenRecord};
use latchkey::store::list::{LastUsed, TokenQuery};
use latchkey::store::{Store, StoreError};

use crate::store::scribe::{
    START_MS, Scribe, digest, issue, put_principal, rows, token_id, user_token,
};

const HERE: &str = "192.0.2.1";
const THERE: &str = "2001:db8::7";

fn used(at: u64, from: Option<&str>) -> LastUsed {
    let from = from.map(|text| text.parse::<IpAddr>().expect("an address"));
    LastUsed {
        at_ms: START_MS + at,
        from,
    }
}

async fn note(store: &dyn Store, uses: &[(u128, LastUsed)]) {
    let uses = uses.iter().map(|(number, used)| (token_id(*number), *used));
    store
        .note_used(&uses.collect::<Vec<_>>())
        .await
        .expect("noted");
}

async fn last_used(store: &dyn Store, number: u128) -> Option<LastUsed> {
    let stored = store.token(token_id(number)).await.expect("read");
    stored.expect("there").last_used
}

/// Alice, and her tokens from 10 on.
async fn put_tokens(scribe: &mut Scribe, store: &dyn Store, count: u128) {
    let tokens = (10..10 + count).map(|number| issue(user_token(number, 1, 2)));
    let changes = [put_principal(1, "user:alice")].into_iter().chain(tokens);
    scribe.append(store, changes.collect::<Vec<_>>()).await;
}

pub(crate) async fn a_use_is_shown_with_its_token(store: &dyn Store) {
    put_tokens(&mut Scribe::new(), store, 3).await;
    let (here, there) = (used(1, Some(HERE)), used(2, Some(THERE)));
    note(store, &[(12, there), (10, here)]).await;
    let expected = [Some(here), None, Some(there)];
    for (number, expected) in (10..).zip(expected) {
        assert_eq!(last_used(store, number).await, expected, "{number}");
    }
    let query = TokenQuery {
        limit: 9,
        ..TokenQuery::default()
    };
    let page = store.tokens(query).await.expect("a page");
    let listed: Vec<_> = page.rows.iter().map(|one| one.last_used).collect();
    assert_eq!(listed, expected);
}

pub(crate) async fn the_latest_use_stands_with_its_address(store: &dyn Store) {
    put_tokens(&mut Scribe::new(), store, 1).await;
    let check = async |noted: &[LastUsed], expected: LastUsed| {
        let noted: Vec<_> = noted.iter().map(|used| (10, *used)).collect();
        note(store, &noted).await;
        assert_eq!(last_used(store, 10).await, Some(expected), "{noted:?}");
    };
    let (early, late) = (used(5, Some(HERE)), used(9, Some(THERE)));
    check(&[early], early).await;
    check(&[late], late).await;
    // As another server may write it, later.
    check(&[early], late).await;
    check(&[], late).await;
    // From where is not known: what was known is of another use.
    check(&[used(20, None)], used(20, None)).await;
    let latest = used(40, Some(HERE));
    check(&[used(30, None), latest, early], latest).await;
}

pub(crate) async fn a_use_of_no_token_leaves_nothing(store: &dyn Store) {
    let mut scribe = Scribe::new();
    note(store, &[(11, used(1, Some(HERE)))]).await;
    put_tokens(&mut scribe, store, 2).await;
    note(store, &[(99, used(2, None)), (10, used(2, None))]).await;
    assert_eq!(last_used(store, 11).await, None);
    assert_eq!(last_used(store, 10).await, Some(used(2, None)));
}

pub(crate) async fn many_uses_are_noted_at_once(store: &dyn Store) {
    const COUNT: u128 = 500;
    put_tokens(&mut Scribe::new(), store, COUNT).await;
    let all: Vec<_> = (10..10 + COUNT)
        .map(|number| (number, used(1, None)))
        .collect();
    note(store, &all).await;
    for number in [10, 10 + COUNT / 2, 9 + COUNT] {
        assert_eq!(last_used(store, number).await, Some(used(1, None)));
    }
}

pub(crate) async fn a_use_is_no_change(store: &dyn Store) {
    let mut scribe = Scribe::new();
    put_tokens(&mut scribe, store, 1).await;
    let before = rows(store).await;
    note(store, &[(10, used(1, Some(HERE)))]).await;
    let after = rows(store).await;
    assert_eq!(before.0, after.0);
    assert_eq!(format!("{:?}", before.1), format!("{:?}", after.1));
    // And a change of the token is none of its use.
    let record = TokenRecord {
        rotation: 1,
        key: digest(0, 70).key(),
        ..user_token(10, 1, 2)
    };
    let rotate = Change::PutToken {
        record: Box::new(record),
        digest: Some(digest(0, 70)),
        display: Display::default(),
    };
    scribe.append(store, [rotate]).await;
    assert_eq!(last_used(store, 10).await, Some(used(1, Some(HERE))));
}

pub(crate) async fn a_use_is_forgotten_with_its_token(store: &dyn Store) {
    let mut scribe = Scribe::new();
    put_tokens(&mut scribe, store, 2).await;
    note(store, &[(10, used(1, None)), (11, used(2, None))]).await;
    let revoke = Change::RevokeToken {
        id: token_id(10),
        compromised: false,
    };
    let forget = Change::Forget {
        before_ms: START_MS + 1_000_000,
        slice: 0,
    };
    scribe.append(store, [revoke, forget]).await;
    // A use that was still on its way when the token went.
    note(store, &[(10, used(3, None))]).await;
    // What comes again under its id has nothing of it.
    scribe.append(store, [issue(user_token(10, 1, 9))]).await;
    assert_eq!(last_used(store, 10).await, None);
    assert_eq!(last_used(store, 11).await, Some(used(2, None)));
}

pub(crate) async fn a_closed_store_notes_nothing(store: &dyn Store) {
    put_tokens(&mut Scribe::new(), store, 1).await;
    store.close().await.expect("closed");
    let noted = store.note_used(&[(token_id(10), used(1, None))]).await;
    assert!(
        matches!(noted, Err(StoreError::Unavailable(_))),
        "{noted:?}"
    );
}
