//! What a network, a server and its operator do to a store, and what the store makes of it.
//!
//! Connections run through a proxy; servers that are restarted are a test's own.

use std::time::Duration;

use latchkey::store::cluster::Cluster as _;
use latchkey::store::postgres::{PostgresStore, Settings};
use latchkey::store::{Appended, Batch, Store, StoreError};

use super::{fresh, open_with};
use crate::postgres::server;
use crate::proxy::{Flow, Proxy};
use crate::store::scribe::{Scribe, put_principal, whole_log};

pub(super) async fn proxied() -> Proxy {
    Proxy::of(server().port).await
}

/// The same database by another port.
pub(super) fn by(url: &str, port: u16) -> String {
    url.replacen(&format!(":{}/", server().port), &format!(":{port}/"), 1)
}

pub(super) async fn through(proxy: &Proxy, url: &str) -> PostgresStore {
    let settings = Settings {
        url: by(url, proxy.port),
        ..Settings::default()
    };
    open_with(settings).await
}

/// What a lost append on the same base came to.
pub(super) async fn settle(store: &dyn Store, lost: &Batch) -> Appended {
    store.void(lost).await.expect("settled")
}

#[tokio::test]
async fn a_frozen_host_does_not_hang_the_connect() {
    let fresh = fresh().await;
    let frozen = proxied().await;
    frozen.to_server(Flow::Hold);
    let here = format!("127.0.0.1:{}", server().port);
    let both = format!("127.0.0.1:{},{here}", frozen.port);
    let settings = Settings {
        url: fresh.database.url.replacen(&here, &both, 1),
        connect_timeout: Duration::from_millis(500),
        ..Settings::default()
    };
    let store = open_with(settings).await;
    Scribe::new()
        .append(&store, [put_principal(1, "user:alice")])
        .await;
}

#[tokio::test]
async fn a_lost_reply_is_an_unknown_outcome_that_is_settled() {
    let fresh = fresh().await;
    let proxy = proxied().await;
    let store = through(&proxy, &fresh.database.url).await;
    let mut scribe = Scribe::new();
    scribe
        .append(&store, [put_principal(1, "user:alice")])
        .await;
    let mut wakes = fresh.store.wakes();
    wakes.changed().await.expect("listening");
    wakes.mark_unchanged();
    let batch = scribe.batch([put_principal(2, "user:bob")]);
    proxy.to_client(Flow::Hold);
    let (appended, ()) = tokio::join!(store.append(batch.clone()), async {
        wakes.changed().await.expect("committed");
        proxy.cut();
    });
    assert!(
        matches!(appended, Err(StoreError::OutcomeUnknown(_))),
        "{appended:?}"
    );
    proxy.to_client(Flow::Pass);
    match settle(&store, &batch).await {
        Appended::Conflict(missed) => assert!(missed == batch.entries),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_lost_request_is_an_unknown_outcome_that_is_settled() {
    let fresh = fresh().await;
    let proxy = proxied().await;
    let store = through(&proxy, &fresh.database.url).await;
    let mut scribe = Scribe::new();
    scribe
        .append(&store, [put_principal(1, "user:alice")])
        .await;
    let batch = scribe.batch([put_principal(2, "user:bob")]);
    proxy.to_server(Flow::HoldLast);
    let (appended, ()) = tokio::join!(store.append(batch.clone()), async {
        // What waits for its last byte holds no lock.
        scribe
            .append(&fresh.store, [put_principal(3, "user:carol")])
            .await;
        proxy.cut();
    });
    assert!(
        matches!(appended, Err(StoreError::OutcomeUnknown(_))),
        "{appended:?}"
    );
    proxy.to_server(Flow::Pass);
    match settle(&store, &batch).await {
        Appended::Conflict(missed) => assert_eq!(missed.len(), 1),
        other => panic!("{other:?}"),
    }
    assert_eq!(whole_log(&store).await.len(), 2);
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_unavailable() {
    let fresh = fresh().await;
    let proxy = proxied().await;
    let store = through(&proxy, &fresh.database.url).await;
    drop(proxy);
    let batch = Scribe::new().batch([put_principal(1, "user:alice")]);
    let appended = store.append(batch).await;
    assert!(
        matches!(appended, Err(StoreError::Unavailable(_))),
        "{appended:?}"
    );
}

#[tokio::test]
async fn killed_backends_are_replaced() {
    let fresh = fresh().await;
    let mut scribe = Scribe::new();
    scribe
        .append(&fresh.store, [put_principal(1, "user:alice")])
        .await;
    for round in 2..5 {
        whole_log(&fresh.store).await;
        fresh.store.roster().await.expect("a roster");
        let name = &fresh.database.name;
        let sql = format!(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
             WHERE datname = '{name}' AND pid <> pg_backend_pid()"
        );
        server().admin("postgres", &sql).await;
        settled_append(&mut scribe, &fresh.store, round).await;
        fresh
            .store
            .token(latchkey::domain::token::TokenId::from_u128(1))
            .await
            .expect("read");
    }
    assert_eq!(whole_log(&fresh.store).await.len(), 4);
}

/// Appends as a replica does: what is unknown is settled, what is unavailable sent again.
pub(super) async fn settled_append(scribe: &mut Scribe, store: &dyn Store, number: u32) {
    // As long as a busy machine takes to start a server.
    const PATIENCE: Duration = Duration::from_secs(60);
    let mut said = String::new();
    let began = std::time::Instant::now();
    let batch = scribe.batch([put_principal(number, &format!("user:u{number}"))]);
    let head = batch.entries[0].head;
    while began.elapsed() < PATIENCE {
        match store.append(batch.clone()).await {
            Ok(Appended::Committed) => {
                scribe.head = head;
                return;
            }
            Ok(Appended::Conflict(missed)) if missed == batch.entries => {
                scribe.head = head;
                return;
            }
            Err(error @ (StoreError::Unavailable(_) | StoreError::OutcomeUnknown(_))) => {
                said = error.to_string();
                tokio::task::yield_now().await;
            }
            other => panic!("{other:?}"),
        }
    }
    panic!("the store does not come back: {said}");
}

/// Makes the first thing that every durable write does something else.
pub(super) async fn at_every_write(name: &str, body: &str) {
    let sql = format!(
        "CREATE SEQUENCE IF NOT EXISTS latchkey.tries;
         GRANT USAGE ON latchkey.tries TO latchkey_server;
         CREATE OR REPLACE FUNCTION latchkey.durably() RETURNS void LANGUAGE plpgsql AS $$
         BEGIN {body} END $$"
    );
    server().admin(name, &sql).await;
}

#[tokio::test]
async fn a_warning_makes_the_outcome_unknown() {
    let fresh = fresh().await;
    at_every_write(
        &fresh.database.name,
        "RAISE WARNING 'the wait was cancelled';",
    )
    .await;
    let batch = Scribe::new().batch([put_principal(1, "user:alice")]);
    let appended = fresh.store.append(batch).await;
    assert!(
        matches!(appended, Err(StoreError::OutcomeUnknown(_))),
        "{appended:?}"
    );
    assert_eq!(whole_log(&fresh.store).await.len(), 1);
}

#[tokio::test]
async fn only_what_may_succeed_again_is_tried_again_and_not_for_ever() {
    let check = async |code: &str, failures: u32, succeeds: bool, tries: i64| {
        let fresh = fresh().await;
        let name = &fresh.database.name;
        let body = format!(
            "IF nextval('latchkey.tries') <= {failures} THEN
               RAISE EXCEPTION USING ERRCODE = '{code}'; END IF;"
        );
        at_every_write(name, &body).await;
        let batch = Scribe::new().batch([put_principal(1, "user:alice")]);
        let appended = fresh.store.append(batch).await;
        assert_eq!(appended.is_ok(), succeeds, "{code}: {appended:?}");
        if !succeeds {
            assert!(
                matches!(appended, Err(StoreError::Unavailable(_))),
                "{appended:?}"
            );
        }
        let client = server().client("postgres", name).await;
        let sql = "SELECT last_value FROM latchkey.tries";
        let made: i64 = client.query_one(sql, &[]).await.expect("counted").get(0);
        assert_eq!(made, tries, "{code}");
    };
    check("40001", 3, true, 4).await;
    check("40P01", 1, true, 2).await;
    check("40001", 9, false, 4).await;
    check("55P03", 1, false, 1).await;
    check("57014", 1, false, 1).await;
}
