//! What logins leave: failures, used assertions, and the record.
//!
//! Beside the log: nothing here moves the head or stands in a snapshot.

use std::net::IpAddr;

use futures_util::future::join_all;
use latchkey::domain::principal::PrincipalId;
use latchkey::store::logins::{
    Failure, LOGINS_KEPT_MS, LoginKind, LoginNoted, LoginQuery, OneTime, StoredLogin,
};
use latchkey::store::{Store, StoreError};

use crate::store::scribe::{START_MS, Scribe, put_principal, rows, token_id};

const MINUTE_MS: u64 = 60_000;

async fn fails(store: &dyn Store, key: u8, at: u64) -> u32 {
    let failure = Failure {
        key: [key; 16],
        now_ms: START_MS + at,
        reset_ms: 30_000,
    };
    store.note_failure(&failure).await.expect("counted")
}

pub(crate) async fn failures_are_counted_by_key(store: &dyn Store) {
    for (key, expected) in [(1, 1), (2, 1), (1, 2), (1, 3), (2, 2)] {
        assert_eq!(fails(store, key, 0).await, expected, "{key}");
    }
}

pub(crate) async fn a_count_begins_anew_after_its_time(store: &dyn Store) {
    let failures = [
        (0, 1),
        (30_000, 2),
        // From the last one on, also if another server's clock is behind.
        (60_000, 3),
        (59_000, 4),
        (90_000, 5),
        (120_001, 1),
        (120_002, 2),
    ];
    for (at, expected) in failures {
        assert_eq!(fails(store, 1, at).await, expected, "{at}");
    }
}

pub(crate) async fn failures_at_once_are_all_counted(store: &dyn Store) {
    let mut counts = join_all((0..40).map(|_| fails(store, 1, 0))).await;
    counts.sort_unstable();
    assert_eq!(counts, (1..=40).collect::<Vec<_>>());
}

pub(crate) async fn a_cleared_count_begins_anew(store: &dyn Store) {
    for key in [1, 1, 2] {
        fails(store, key, 0).await;
    }
    for _ in 0..2 {
        let cleared = store.clear_failures([1; 16]..=[1; 16]).await;
        cleared.expect("cleared");
    }
    assert_eq!(fails(store, 1, 0).await, 1);
    assert_eq!(fails(store, 2, 0).await, 2);
}

pub(crate) async fn counts_beside_each_other_are_cleared_together(store: &dyn Store) {
    for key in [1, 2, 3, 4, 2, 0xff] {
        fails(store, key, 0).await;
    }
    let cleared = store.clear_failures([2; 16]..=[3; 16]).await;
    cleared.expect("cleared");
    for (key, expected) in [(1, 2), (2, 1), (3, 1), (4, 2), (0xff, 2)] {
        assert_eq!(fails(store, key, 0).await, expected, "{key}");
    }
}

/// Uses an assertion that is good for a minute from the start.
async fn uses(store: &dyn Store, id: u8, at: u64) -> bool {
    let once = OneTime {
        id: [id; 32],
        now_ms: START_MS + at,
        until_ms: START_MS + MINUTE_MS,
    };
    store.consume(&once).await.expect("an answer")
}

pub(crate) async fn an_assertion_is_used_once(store: &dyn Store) {
    for (id, expected) in [(1, true), (2, true), (1, false), (2, false), (1, false)] {
        assert_eq!(uses(store, id, 5).await, expected, "{id}");
    }
    assert!(!uses(store, 1, MINUTE_MS - 1).await, "to the end");
}

pub(crate) async fn an_assertion_may_come_again_after_its_time(store: &dyn Store) {
    let once = OneTime {
        id: [1; 32],
        now_ms: START_MS,
        until_ms: START_MS + MINUTE_MS,
    };
    assert!(store.consume(&once).await.expect("an answer"));
    // Another with the same id, and then for as long as that one says.
    let later = OneTime {
        now_ms: once.until_ms,
        until_ms: once.until_ms + MINUTE_MS,
        ..once
    };
    assert!(store.consume(&later).await.expect("an answer"));
    assert!(!store.consume(&later).await.expect("an answer"));
    let last = OneTime {
        now_ms: later.until_ms - 1,
        ..later
    };
    assert!(!store.consume(&last).await.expect("an answer"));
}

pub(crate) async fn of_many_at_once_one_uses_an_assertion(store: &dyn Store) {
    for id in 0..5 {
        let used = join_all((0..20).map(|_| uses(store, id, 0))).await;
        assert_eq!(used.iter().filter(|used| **used).count(), 1, "{id}");
    }
}

/// Whatever comes later takes a few of the former with it, so that they do not gather.
pub(crate) async fn used_assertions_go_after_their_time(store: &dyn Store) {
    let consume = async |number: u32, now_ms: u64, until_ms: u64| {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&number.to_be_bytes());
        let once = OneTime {
            id,
            now_ms,
            until_ms,
        };
        store.consume(&once).await.expect("an answer")
    };
    for number in 0..40 {
        assert!(consume(number, START_MS, START_MS + MINUTE_MS).await);
    }
    let much_later = START_MS + 60 * MINUTE_MS;
    for number in 100..104 {
        assert!(consume(number, much_later, much_later + MINUTE_MS).await);
    }
    // By a clock that is far behind, what is still known would be refused.
    for number in 0..40 {
        assert!(
            consume(number, START_MS, START_MS + MINUTE_MS).await,
            "{number}"
        );
    }
}

fn login(number: u128, account: u32, credential: u128) -> LoginNoted {
    let from = match number % 3 {
        0 => None,
        1 => Some("192.0.2.1"),
        _ => Some("2001:db8::7"),
    };
    let at_ms = START_MS + number as u64;
    LoginNoted {
        at_ms,
        kind: LoginKind::Login,
        account: Some(PrincipalId(account)),
        parent: None,
        credential: token_id(credential),
        token: token_id(number),
        from: from.map(|text| text.parse::<IpAddr>().expect("an address")),
        expires_ms: at_ms + MINUTE_MS,
    }
}

async fn note(store: &dyn Store, logins: &[LoginNoted]) {
    store.note_logins(logins).await.expect("noted");
}

/// Two accounts.
async fn put_accounts(scribe: &mut Scribe, store: &dyn Store) {
    let changes = [
        put_principal(1, "service:ci"),
        put_principal(2, "service:web"),
    ];
    scribe.append(store, changes).await;
}

async fn listed(store: &dyn Store, query: LoginQuery) -> Vec<StoredLogin> {
    let query = LoginQuery {
        limit: 100,
        ..query
    };
    let page = store.logins(query).await.expect("a page");
    assert_eq!(page.next, None);
    page.rows
}

/// The numbers of the logins that a query lists.
async fn numbers(store: &dyn Store, query: LoginQuery) -> Vec<u128> {
    let listed = listed(store, query).await;
    listed.iter().map(|one| one.noted.token.as_u128()).collect()
}

pub(crate) async fn logins_are_listed_newest_first(store: &dyn Store) {
    put_accounts(&mut Scribe::new(), store).await;
    assert!(listed(store, LoginQuery::default()).await.is_empty());
    note(store, &[]).await;
    let logins = [login(10, 1, 90), login(11, 2, 91), login(12, 1, 92)];
    note(store, &logins[..2]).await;
    note(store, &logins[2..]).await;
    let names = ["service:ci", "service:web", "service:ci"];
    let listed = listed(store, LoginQuery::default()).await;
    assert_eq!(listed.len(), 3);
    for (stored, (noted, name)) in listed.iter().rev().zip(logins.iter().zip(names)) {
        assert_eq!(stored.noted, *noted);
        let account = stored.account_name.as_ref().map(ToString::to_string);
        assert_eq!(account.as_deref(), Some(name));
    }
}

pub(crate) async fn logins_are_filtered(store: &dyn Store) {
    put_accounts(&mut Scribe::new(), store).await;
    let logins = [(10, 1, 90), (11, 2, 91), (12, 1, 92), (13, 1, 90)];
    let logins = logins.map(|(number, account, credential)| login(number, account, credential));
    note(store, &logins).await;
    let check = async |account: Option<u32>, credential: Option<u128>, expected: &[u128]| {
        let query = LoginQuery {
            account: account.map(PrincipalId),
            credential: credential.map(token_id),
            ..LoginQuery::default()
        };
        assert_eq!(numbers(store, query).await, expected);
    };
    check(None, None, &[13, 12, 11, 10]).await;
    check(Some(1), None, &[13, 12, 10]).await;
    check(Some(2), None, &[11]).await;
    check(Some(3), None, &[]).await;
    check(None, Some(90), &[13, 10]).await;
    check(None, Some(99), &[]).await;
    check(Some(1), Some(92), &[12]).await;
    check(Some(2), Some(92), &[]).await;
}

pub(crate) async fn renewals_and_exchanges_are_listed_with_their_parents(store: &dyn Store) {
    put_accounts(&mut Scribe::new(), store).await;
    let of_resource = LoginNoted {
        kind: LoginKind::Exchange,
        account: None,
        parent: Some(token_id(91)),
        ..login(12, 0, 91)
    };
    let renewal = LoginNoted {
        kind: LoginKind::Renewal,
        parent: Some(token_id(10)),
        ..login(11, 2, 90)
    };
    let exchange = LoginNoted {
        kind: LoginKind::Exchange,
        parent: Some(token_id(11)),
        ..login(13, 2, 90)
    };
    let noted = [login(10, 2, 90), renewal, of_resource, exchange];
    note(store, &noted).await;
    let stored = listed(store, LoginQuery::default()).await;
    let found: Vec<LoginNoted> = stored.iter().map(|one| one.noted.clone()).rev().collect();
    assert_eq!(found, noted);
    let names = stored.iter().map(|one| one.account_name.as_ref());
    let names: Vec<_> = names.map(|name| name.map(ToString::to_string)).collect();
    let web = || Some("service:web".to_owned());
    assert_eq!(names, [web(), None, web(), web()]);
    let born_from = |credential| LoginQuery {
        credential: Some(token_id(credential)),
        ..LoginQuery::default()
    };
    assert_eq!(numbers(store, born_from(90)).await, [13, 11, 10]);
    assert_eq!(numbers(store, born_from(91)).await, [12]);
    let account = LoginQuery {
        account: Some(PrincipalId(2)),
        ..LoginQuery::default()
    };
    assert_eq!(numbers(store, account).await, [13, 11, 10]);
}

pub(crate) async fn logins_are_paged(store: &dyn Store) {
    put_accounts(&mut Scribe::new(), store).await;
    let logins: Vec<_> = (0..7).map(|number| login(number, 1, 90)).collect();
    note(store, &logins).await;
    let mut query = LoginQuery {
        account: Some(PrincipalId(1)),
        limit: 3,
        ..LoginQuery::default()
    };
    let mut pages = Vec::new();
    loop {
        let page = store.logins(query.clone()).await.expect("a page");
        let numbers = page.rows.iter().map(|one| one.noted.token.as_u128());
        pages.push(numbers.collect::<Vec<_>>());
        // Those that come meanwhile are before the first page.
        note(store, &[login(100 + pages.len() as u128, 1, 90)]).await;
        query.after = page.next;
        if page.next.is_none() {
            break;
        }
    }
    assert_eq!(pages, [vec![6, 5, 4], vec![3, 2, 1], vec![0]]);
}

pub(crate) async fn a_login_noted_twice_stands_once(store: &dyn Store) {
    put_accounts(&mut Scribe::new(), store).await;
    let logins: Vec<_> = (0..200).map(|number| login(number, 1, 90)).collect();
    note(store, &logins[..150]).await;
    // As after an outcome that was not learnt.
    note(store, &logins).await;
    note(store, &logins[100..]).await;
    let page = LoginQuery {
        limit: 1_000,
        ..LoginQuery::default()
    };
    let page = store.logins(page).await.expect("a page");
    assert_eq!(page.rows.len(), 200);
}

pub(crate) async fn old_logins_go_with_those_that_come(store: &dyn Store) {
    put_accounts(&mut Scribe::new(), store).await;
    let logins: Vec<_> = (0..3).map(|number| login(number, 1, 90)).collect();
    note(store, &logins).await;
    let after_ms = |number: u128, after_ms: u64| LoginNoted {
        at_ms: START_MS + after_ms,
        ..login(number, 2, 91)
    };
    // The first is of just 30 days ago, and stays.
    note(store, &[after_ms(10, LOGINS_KEPT_MS)]).await;
    let all = LoginQuery::default;
    assert_eq!(numbers(store, all()).await, [10, 2, 1, 0]);
    note(store, &[after_ms(11, LOGINS_KEPT_MS + 2)]).await;
    assert_eq!(numbers(store, all()).await, [11, 10, 2]);
}

pub(crate) async fn logins_are_no_changes(store: &dyn Store) {
    let mut scribe = Scribe::new();
    put_accounts(&mut scribe, store).await;
    let before = rows(store).await;
    fails(store, 1, 0).await;
    uses(store, 1, 0).await;
    note(store, &[login(10, 1, 90)]).await;
    let after = rows(store).await;
    assert_eq!(before.0, after.0);
    assert_eq!(format!("{:?}", before.1), format!("{:?}", after.1));
}

pub(crate) async fn a_closed_store_knows_no_logins(store: &dyn Store) {
    put_accounts(&mut Scribe::new(), store).await;
    store.close().await.expect("closed");
    let failure = Failure {
        key: [1; 16],
        now_ms: START_MS,
        reset_ms: 1,
    };
    let once = OneTime {
        id: [1; 32],
        now_ms: START_MS,
        until_ms: START_MS + 1,
    };
    let refused = [
        store.note_failure(&failure).await.map(drop),
        store.clear_failures([1; 16]..=[1; 16]).await,
        store.consume(&once).await.map(drop),
        store.note_logins(&[login(10, 1, 90)]).await,
        store.logins(LoginQuery::default()).await.map(drop),
    ];
    for refused in refused {
        assert!(
            matches!(refused, Err(StoreError::Unavailable(_))),
            "{refused:?}"
        );
    }
}
