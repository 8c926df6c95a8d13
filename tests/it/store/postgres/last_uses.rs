//! Last uses on Postgres: what they wait for, and that nobody waits for them.
//!
//! Locks are held by the database's owner, as long as a test wants.

use std::net::SocketAddr;
use std::time::Duration;

use latchkey::domain::change::Change;
use latchkey::domain::token::TokenId;
use latchkey::store::list::LastUsed;
use latchkey::store::postgres::{PostgresStore, Settings};
use latchkey::store::{Store as _, StoreError};

use super::{Fresh, fresh, open, open_with};
use crate::postgres::server;
use crate::proxy::{Flow, Proxy};
use crate::store::scribe::{START_MS, Scribe, issue, put_principal, token_id, user_token};

fn uses(numbers: impl IntoIterator<Item = u128>, at_ms: u64) -> Vec<(TokenId, LastUsed)> {
    let used = LastUsed { at_ms, from: None };
    numbers
        .into_iter()
        .map(|number| (token_id(number), used))
        .collect()
}

/// A store with the tokens 10 to 19 of one user.
async fn with_tokens() -> (Fresh, Scribe) {
    let (fresh, mut scribe) = (fresh().await, Scribe::new());
    let mut changes = vec![put_principal(1, "user:alice")];
    changes.extend((10..20).map(|number| issue(user_token(number, 1, 2))));
    scribe.append(&fresh.store, changes).await;
    (fresh, scribe)
}

async fn last_used_ms(store: &PostgresStore, number: u128) -> Option<u64> {
    let stored = store.token(token_id(number)).await.expect("read");
    stored.expect("there").last_used.map(|used| used.at_ms)
}

#[tokio::test]
async fn uses_are_written_while_the_log_is_locked() {
    let (fresh, _) = with_tokens().await;
    let owner = server().client("postgres", &fresh.database.name).await;
    let lock = "BEGIN; SELECT pg_advisory_xact_lock(1818979961, 1)";
    owner.batch_execute(lock).await.expect("locked");
    let noted = fresh.store.note_used(&uses([10], 5)).await;
    noted.expect("nothing that an append locks");
    assert_eq!(last_used_ms(&fresh.store, 10).await, Some(5));
}

#[tokio::test]
async fn changes_are_written_while_uses_wait() {
    let (fresh, mut scribe) = with_tokens().await;
    let owner = server().client("postgres", &fresh.database.name).await;
    let lock = "BEGIN; LOCK TABLE latchkey.token_used IN EXCLUSIVE MODE";
    owner.batch_execute(lock).await.expect("locked");
    let append = scribe.append(&fresh.store, [put_principal(2, "user:bob")]);
    let ten = uses([10], 5);
    let (noted, ()) = tokio::join!(fresh.store.note_used(&ten), append);
    // And given up on after a while.
    assert!(
        matches!(noted, Err(StoreError::Unavailable(_))),
        "{noted:?}"
    );
    owner.batch_execute("ROLLBACK").await.expect("free");
    fresh.store.note_used(&uses([10], 5)).await.expect("noted");
}

#[tokio::test]
async fn forgetting_waits_for_nobody_who_writes_uses() {
    let (fresh, mut scribe) = with_tokens().await;
    fresh
        .store
        .note_used(&uses([10, 11], 5))
        .await
        .expect("noted");
    let owner = server().client("postgres", &fresh.database.name).await;
    let lock = "BEGIN; SELECT FROM latchkey.token_used WHERE token = '00000000-0000-0000-0000-00000000000a'
        FOR UPDATE";
    owner.batch_execute(lock).await.expect("locked");
    let revoke = |number| Change::RevokeToken {
        id: token_id(number),
        compromised: false,
    };
    let before_ms = START_MS + 1_000_000;
    let forget = Change::Forget {
        before_ms,
        slice: 0,
    };
    // Fails by the lock's time-out if it waits.
    scribe
        .append(&fresh.store, [revoke(10), revoke(11), forget])
        .await;
    owner.batch_execute("ROLLBACK").await.expect("free");
    let left = owner
        .query("SELECT token::text FROM latchkey.token_used", &[])
        .await;
    let left: Vec<String> = left.expect("read").iter().map(|row| row.get(0)).collect();
    assert_eq!(left, ["00000000-0000-0000-0000-00000000000a"]);
}

#[tokio::test]
async fn uses_wait_for_no_disk() {
    let (fresh, _) = with_tokens().await;
    let name = &fresh.database.name;
    let record = "CREATE TABLE latchkey.seen (setting text);
        CREATE FUNCTION latchkey.see() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
        BEGIN INSERT INTO latchkey.seen VALUES (current_setting('synchronous_commit'));
          RETURN NULL; END $$;
        CREATE TRIGGER see AFTER INSERT ON latchkey.token_used
        FOR EACH STATEMENT EXECUTE FUNCTION latchkey.see()";
    server().admin(name, record).await;
    fresh.store.note_used(&uses([10], 5)).await.expect("noted");
    let owner = server().client("postgres", name).await;
    let seen = owner
        .query_one("SELECT setting FROM latchkey.seen", &[])
        .await;
    assert_eq!(seen.expect("one").get::<_, &str>(0), "off");
    // Of this transaction alone: the next one on the connection is as durable as ever.
    let setting = server().client("latchkey_server", name).await;
    let shown = setting.query_one("SHOW synchronous_commit", &[]).await;
    assert_eq!(shown.expect("one").get::<_, &str>(0), "on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_write_the_same_uses_do_not_lock_each_other_out() {
    let (fresh, _) = with_tokens().await;
    let other = open(&fresh.database.url).await;
    for round in 0..50 {
        let up = uses(10..20, 2 * round + 1);
        let down = uses((10..20).rev(), 2 * round + 2);
        let (one, two) = tokio::join!(fresh.store.note_used(&up), other.note_used(&down));
        one.expect("noted");
        two.expect("noted");
        for number in [10, 19] {
            assert_eq!(last_used_ms(&other, number).await, Some(2 * round + 2));
        }
    }
}

#[tokio::test]
async fn a_database_that_does_not_answer_is_waited_for_in_bounded_time() {
    let (fresh, _) = with_tokens().await;
    let proxy = Proxy::start(SocketAddr::from(([127, 0, 0, 1], server().port))).await;
    let url = &fresh.database.url;
    let url = url.replacen(
        &format!(":{}/", server().port),
        &format!(":{}/", proxy.port),
        1,
    );
    let store = open_with(Settings {
        url,
        statement_timeout: Duration::from_secs(1),
        ..Settings::default()
    })
    .await;
    store.note_used(&uses([10], 5)).await.expect("noted");
    proxy.to_server(Flow::Hold);
    let noted = store.note_used(&uses([10], 6)).await;
    assert!(
        matches!(noted, Err(StoreError::Unavailable(_))),
        "{noted:?}"
    );
    proxy.to_server(Flow::Pass);
    proxy.cut();
    store.note_used(&uses([10], 7)).await.expect("noted");
    assert_eq!(last_used_ms(&fresh.store, 10).await, Some(7));
}
