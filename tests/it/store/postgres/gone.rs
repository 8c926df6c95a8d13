//! What forgetting costs where principals have been deleted for years, and what it relies on.
//!
//! Rows are put beside the log by the owner of the tables: what is counted is what a forget reads,
//! not what State would make of it.

use latchkey::domain::change::{Change, Display, TokenRecord};
use latchkey::domain::principal::PrincipalId;
use tokio_postgres::{Client, Transaction};

use super::fresh;
use crate::postgres::server;
use crate::store::scribe::{START_MS, Scribe, digest, put_principal, user_token};

const SLICE: u8 = 0xab;

/// A token with a new secret in a slice.
fn put(number: u128, user: u32, slice: u8) -> Change {
    let record = TokenRecord {
        key: digest(slice, number).key(),
        ..user_token(number, user, 2)
    };
    Change::PutToken {
        record: Box::new(record),
        digest: Some(digest(slice, number)),
        display: Display::default(),
    }
}

/// How many rows this session has read or looked for, as far as that is not told on.
async fn read(client: &Transaction<'_>) -> i64 {
    let sql = "SELECT coalesce(sum(seq_tup_read + idx_scan + idx_tup_fetch), 0)::bigint
        FROM pg_stat_xact_user_tables WHERE schemaname = 'latchkey'";
    client.query_one(sql, &[]).await.expect("counted").get(0)
}

/// Forgets as an append does; how many rows that was.
async fn cost(client: &mut Client, slice: u8) -> i64 {
    let forgetting = client.transaction().await.expect("begun");
    let before = read(&forgetting).await;
    let sql = "SELECT latchkey.forget($1::smallint, 0, 0)";
    let forgotten = forgetting.execute(sql, &[&i16::from(slice)]).await;
    forgotten.expect("forgotten");
    let after = read(&forgetting).await;
    forgetting.commit().await.expect("committed");
    after - before
}

#[tokio::test]
async fn tokens_of_who_is_gone_are_looked_for_once() {
    // So many that a plan which reads them all shows, also one that is kept.
    const SQL: &str = "
        INSERT INTO latchkey.principals
        SELECT n, 1, 'user:u' || n, 'acme', false, n, 0, n, '', '', '{}',
          CASE WHEN n > 1000 THEN n END
        FROM generate_series(1, 5000) n;
        INSERT INTO latchkey.tokens (id, digest, kind, subject, issuers, made_at, rotation,
          changed_at, last4, name, description, slice)
        SELECT gen_random_uuid(), decode(lpad(to_hex(n), 64, '0'), 'hex'), 1, n, '', n, 0, n, '',
          '', '', n % 256
        FROM generate_series(1, 1000) n;
        ANALYZE";
    const MANY: i64 = 4_000;
    let fresh = fresh().await;
    let name = &fresh.database.name;
    server().admin(name, SQL).await;
    let mut client = server().client("postgres", name).await;
    for slice in 0..8 {
        assert!(cost(&mut client, slice).await >= MANY);
    }
    let left = async |client: &Client| -> i64 {
        let sql = "SELECT count(*) FROM latchkey.tokens WHERE slice < 8";
        client.query_one(sql, &[]).await.expect("counted").get(0)
    };
    let before = left(&client).await;
    for slice in 0..8 {
        let again = cost(&mut client, slice).await;
        assert!(again < MANY / 100, "{again}");
    }
    // Who goes later is looked for alone.
    let sql = "UPDATE latchkey.principals SET deleted_at = 6000 WHERE id = 5";
    server().admin(name, sql).await;
    for slice in 0..8 {
        let later = cost(&mut client, slice).await;
        assert!(later < MANY / 100, "{later}");
    }
    assert_eq!(left(&client).await, before - 1);
}

#[tokio::test]
async fn a_new_secret_for_who_is_gone_is_refused() {
    let fresh = fresh().await;
    let mut scribe = Scribe::new();
    let changes = [
        put_principal(1, "user:alice"),
        put_principal(2, "user:bob"),
        put(1, 1, SLICE),
        put(2, 2, SLICE),
        Change::DeletePrincipal(PrincipalId(1)),
    ];
    scribe.append(&fresh.store, changes).await;
    // Issued, or rotated to another slice that has been forgotten in since.
    scribe.refused(&fresh.store, [put(3, 1, SLICE)]).await;
    scribe.refused(&fresh.store, [put(1, 1, SLICE + 1)]).await;
    scribe.append(&fresh.store, [put(2, 2, SLICE + 1)]).await;
    // It may still be narrowed.
    let narrowed = TokenRecord {
        key: digest(SLICE, 1).key(),
        expires_ms: Some(START_MS),
        ..user_token(1, 1, 2)
    };
    let narrowed = Change::PutToken {
        record: Box::new(narrowed),
        digest: None,
        display: Display::default(),
    };
    scribe.append(&fresh.store, [narrowed]).await;
}
