//! Logins in a directory: what is there after a crash and after a stop, and what is bounded.
//!
//! Crashes are copies of the files while nobody writes.

use latchkey::domain::principal::PrincipalId;
use latchkey::store::Store as _;
use latchkey::store::logins::{
    LOGINS_MAX, LoginKind, LoginNoted, LoginQuery, Logins as _, OneTime,
};

use super::{EmbeddedStore, copy_folder, fresh, open, tamper};
use crate::store::scribe::{START_MS, Scribe, put_principal, token_id};

fn once(id: u8) -> OneTime {
    OneTime {
        id: [id; 32],
        now_ms: START_MS,
        until_ms: START_MS + 60_000,
    }
}

fn login(number: u128) -> LoginNoted {
    LoginNoted {
        at_ms: START_MS,
        kind: LoginKind::Login,
        account: Some(PrincipalId(1)),
        parent: None,
        credential: token_id(9),
        token: token_id(number),
        from: None,
        expires_ms: START_MS + 60_000,
    }
}

async fn numbers(store: &EmbeddedStore) -> Vec<u128> {
    let query = LoginQuery {
        limit: 100,
        ..LoginQuery::default()
    };
    let page = store.logins(query).await.expect("a page");
    let numbers = page.rows.iter().map(|one| one.noted.token.as_u128());
    numbers.collect()
}

#[tokio::test]
async fn embedded_used_assertions_are_used_after_a_crash() {
    let fresh = fresh();
    for id in 0..5 {
        assert!(fresh.store.consume(&once(id)).await.expect("an answer"));
        // The files as they are at the moment of the answer.
        let crashed = copy_folder(fresh.folder.path());
        let again = open(crashed.path()).expect("opened");
        for used in 0..=id {
            assert!(!again.consume(&once(used)).await.expect("an answer"));
        }
        assert!(again.consume(&once(id + 1)).await.expect("an answer"));
    }
}

#[tokio::test]
async fn embedded_logins_are_there_after_a_stop() {
    let fresh = fresh();
    let account = put_principal(1, "service:ci");
    Scribe::new().append(&fresh.store, [account]).await;
    let all: Vec<_> = (0..70).map(login).collect();
    fresh.store.note_logins(&all).await.expect("noted");
    fresh.store.close().await.expect("closed");
    let again = open(fresh.folder.path()).expect("opened");
    assert_eq!(numbers(&again).await, (0..70).rev().collect::<Vec<_>>());
    // They do not make the next start take the stop for a crash, and are no damage either.
    again.note_logins(&[login(70)]).await.expect("noted");
    drop(again);
    let crashed = open(fresh.folder.path()).expect("opened");
    assert_eq!(numbers(&crashed).await.len(), 71);
}

#[tokio::test]
async fn embedded_oldest_logins_are_forgotten_when_there_are_too_many() {
    let fresh = fresh();
    let account = put_principal(1, "service:ci");
    Scribe::new().append(&fresh.store, [account]).await;
    let three = [login(1), login(2), login(3)];
    fresh.store.note_logins(&three).await.expect("noted");
    fresh.store.close().await.expect("closed");
    // As many between them as are kept, but for one.
    let sql = format!("UPDATE logins SET number = {LOGINS_MAX} WHERE number = 3");
    tamper(fresh.folder.path(), &sql);
    let store = open(fresh.folder.path()).expect("opened");
    store.note_logins(&[login(4)]).await.expect("noted");
    assert_eq!(numbers(&store).await, [4, 3, 2]);
    store.note_logins(&[login(5)]).await.expect("noted");
    assert_eq!(numbers(&store).await, [5, 4, 3]);
}

#[tokio::test]
async fn embedded_logins_of_before_are_logins_in_tables_that_know_renewals() {
    let fresh = fresh();
    let account = put_principal(1, "service:ci");
    Scribe::new().append(&fresh.store, [account]).await;
    let noted = fresh.store.note_logins(&[login(1)]).await;
    noted.expect("noted");
    fresh.store.close().await.expect("closed");
    let before = "ALTER TABLE logins DROP COLUMN kind; ALTER TABLE logins DROP COLUMN parent;
        PRAGMA user_version = 6";
    tamper(fresh.folder.path(), before);
    let again = open(fresh.folder.path()).expect("opened");
    let renewal = LoginNoted {
        kind: LoginKind::Renewal,
        parent: Some(token_id(1)),
        ..login(2)
    };
    let noted = again.note_logins(std::slice::from_ref(&renewal)).await;
    noted.expect("noted");
    let query = LoginQuery {
        limit: 100,
        ..LoginQuery::default()
    };
    let page = again.logins(query).await.expect("a page");
    let noted: Vec<_> = page.rows.into_iter().map(|one| one.noted).collect();
    assert_eq!(noted, [renewal, login(1)]);
}
