//! Each connection of a store by itself: what goes through a pooler, and what a lost one costs.
//!
//! Which connection a server process serves is read off the name of its last statement.

use std::time::Duration;

use latchkey::domain::chain::Head;
use latchkey::domain::token::TokenId;
use latchkey::store::cluster::{Cluster as _, Incarnation, Joining, Renewal, Renewed};
use latchkey::store::postgres::{PostgresStore, Settings};
use latchkey::store::{Store as _, StoreError};

use super::faults::settled_append;
use super::{fresh, open_with};
use crate::postgres::bouncer::Bouncer;
use crate::postgres::{Database, server};
use crate::proxy::{Flow, Proxy};
use crate::store::scribe::{Scribe, put_principal};

const MEMBER: Incarnation = Incarnation([1; 16]);

async fn join(store: &PostgresStore) {
    let joining = Joining {
        incarnation: MEMBER,
        name: "one".to_owned(),
        address: String::new(),
        lease_ms: 900,
        format_max: 1,
        serves_stale: false,
        keys: Vec::new(),
    };
    store.join(&joining).await.expect("joined");
}

async fn renew(store: &PostgresStore) -> Result<Renewed, StoreError> {
    let renewal = Renewal {
        incarnation: MEMBER,
        lease_ms: 900,
        applied: Head::EMPTY,
        keys: Vec::new(),
    };
    store.renew(&renewal).await
}

/// Ends the server's processes whose last statement has this name; how many those were.
async fn kill(database: &Database, statement: &str) -> i64 {
    let client = server().client("postgres", "postgres").await;
    let sql = "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity
        WHERE datname = $1 AND query LIKE '-- ' || $2 || E'\n%' AND application_name = 'latchkey'";
    let ended = client.query_one(sql, &[&database.name, &statement]).await;
    ended.expect("ended").get(0)
}

#[tokio::test]
async fn every_lost_connection_is_replaced_and_costs_no_other() {
    let fresh = fresh().await;
    let (store, database) = (&fresh.store, &fresh.database);
    let mut wakes = store.wakes();
    let mut scribe = Scribe::new();
    join(store).await;
    for round in 1..=3_u32 {
        settled_append(&mut scribe, store, round).await;
        store.feed(0, 1).await.expect("read");
        renew(store).await.expect("renewed");
        store.roster().await.expect("a roster");
        store.token(TokenId::from_u128(1)).await.expect("read");
        wakes.changed().await.expect("listening");

        assert_eq!(kill(database, "append").await, 1);
        assert_eq!(kill(database, "feed").await, 1);
        assert_eq!(kill(database, "renew").await, 1);
        assert_eq!(kill(database, "roster").await, 1);
        assert_eq!(kill(database, "end_reading").await, 1);
        wakes.mark_unchanged();
        assert_eq!(
            kill(database, "listen").await + kill(database, "probe").await,
            1
        );
        // It listens again.
        wakes.changed().await.expect("listening");
    }
    settled_append(&mut scribe, store, 4).await;
}

#[tokio::test]
async fn past_the_pooler_wake_ups_come_and_leases_are_renewed() {
    let database = server().database().await;
    let bouncer = Bouncer::start(server().port);
    let pooled = Proxy::of(bouncer.port).await;
    let settings = Settings {
        url: bouncer.url(&database.name).replacen(
            &bouncer.port.to_string(),
            &pooled.port.to_string(),
            1,
        ),
        listen_url: Some(database.url.clone()),
        connect_timeout: Duration::from_millis(300),
        statement_timeout: Duration::from_millis(300),
        ..Settings::default()
    };
    let store = open_with(settings).await;
    let mut wakes = store.wakes();
    wakes.changed().await.expect("listening");
    let mut scribe = Scribe::new();
    join(&store).await;
    for round in 1..=2 {
        wakes.mark_unchanged();
        settled_append(&mut scribe, &store, round).await;
        wakes.changed().await.expect("woken");
    }
    // Without the pooler nothing is written or listed, and everything else goes on.
    pooled.both_ways(Flow::Hold);
    pooled.cut();
    let batch = scribe.batch([put_principal(9, "user:late")]);
    store.append(batch).await.expect_err("cut off");
    store
        .token(TokenId::from_u128(1))
        .await
        .expect_err("cut off");
    renew(&store).await.expect("renewed");
    store.roster().await.expect("a roster");
    assert_eq!(store.feed(0, 9).await.expect("read").len(), 2);
    pooled.both_ways(Flow::Pass);
    settled_append(&mut scribe, &store, 3).await;
}

#[tokio::test]
async fn a_pooler_swallows_wake_ups_and_the_log_is_read_all_the_same() {
    let fresh = fresh().await;
    let bouncer = Bouncer::start(server().port);
    let settings = Settings {
        url: bouncer.url(&fresh.database.name),
        ..Settings::default()
    };
    let deaf = open_with(settings).await;
    let (mut heard, mut swallowed) = (fresh.store.wakes(), deaf.wakes());
    heard.changed().await.expect("listening");
    // Not that it would.
    swallowed.changed().await.expect("listening");
    swallowed.mark_unchanged();
    let mut scribe = Scribe::new();
    for round in 1..=3 {
        heard.mark_unchanged();
        settled_append(&mut scribe, &deaf, round).await;
        heard.changed().await.expect("woken");
        let read = deaf.feed(u64::from(round) - 1, 9).await;
        assert_eq!(read.expect("read").len(), 1);
    }
    assert!(!swallowed.has_changed().expect("a store"));
}
