//! What becomes of a store whose server is restarted, frozen or led elsewhere.
//!
//! Every server here is a test's own. A pooler that leads to a standby looks to its clients as if
//! nothing had happened; a server that was set to read only is as good as one.

use std::time::Duration;

use latchkey::domain::token::TokenId;
use latchkey::store::cluster::Cluster as _;
use latchkey::store::postgres::Settings;
use latchkey::store::{Store as _, StoreError};
use tokio::sync::mpsc;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::faults::settled_append;
use super::open_with;
use crate::postgres::Server;
use crate::postgres::bouncer::Bouncer;
use crate::proxy::{Flow, Proxy};
use crate::store::scribe::{Scribe, put_principal, rows, whole_log};

/// Restarts while somebody appends.
const RESTARTS: u32 = 3;
/// Appends between restarts.
const APPENDS: u32 = 20;

fn settings(url: String) -> Settings {
    Settings {
        url,
        ..Settings::default()
    }
}

async fn is_standby(client: &Client) -> bool {
    let answers = client.simple_query("SELECT pg_is_in_recovery()").await;
    let answers = answers.expect("answered");
    let row = answers.iter().find_map(|answer| match answer {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    row == Some("t")
}

fn private() -> Server {
    tokio::task::block_in_place(|| Server::private(""))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_crashes_under_appends_loses_none_that_was_acknowledged() {
    let server = private();
    let database = server.database().await;
    let store = open_with(settings(database.url)).await;
    let (enough, mut many) = mpsc::unbounded_channel();
    let appends = tokio::spawn(async move {
        let mut scribe = Scribe::new();
        for number in 1..=RESTARTS * APPENDS {
            settled_append(&mut scribe, &store, number).await;
            if number % APPENDS == APPENDS / 2 {
                enough.send(()).expect("somebody crashes it");
            }
        }
        (scribe, store)
    });
    for _ in 0..RESTARTS {
        many.recv().await.expect("so many appends");
        server.crash_and_restart();
    }
    let (scribe, store) = appends.await.expect("appended");
    let log = whole_log(&store).await;
    assert_eq!(log.len() as u32, RESTARTS * APPENDS);
    assert_eq!(log.last().map(|last| last.head), Some(scribe.head));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_hangs_nobody_and_goes_on_when_it_thaws() {
    let server = private();
    let database = server.database().await;
    let brief = Duration::from_millis(300);
    let store = open_with(Settings {
        connect_timeout: brief,
        statement_timeout: brief,
        cluster_timeout: brief,
        ..settings(database.url)
    })
    .await;
    let mut scribe = Scribe::new();
    settled_append(&mut scribe, &store, 1).await;
    let frozen = server.freeze();
    let batch = scribe.batch([]);
    let appended = store.append(batch).await;
    assert!(
        matches!(appended, Err(StoreError::OutcomeUnknown(_))),
        "{appended:?}"
    );
    store.roster().await.expect_err("frozen");
    store.changes_after(0, 1).await.expect_err("frozen");
    store.feed(0, 1).await.expect_err("frozen");
    store
        .token(TokenId::from_u128(1))
        .await
        .expect_err("frozen");
    drop(frozen);
    settled_append(&mut scribe, &store, 2).await;
    assert_eq!(whole_log(&store).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_leads_to_a_standby_is_left_for_the_host_that_takes_writes() {
    let primary = private();
    let database = primary.database().await;
    let link = Proxy::of(primary.port).await;
    let standby = Server::standby(link.port);
    let bouncer = tokio::task::block_in_place(|| Bouncer::start(primary.port));
    let first = format!(":{}/", bouncer.port);
    let both = format!(":{},127.0.0.1:{}/", bouncer.port, primary.port);
    let url = bouncer.url(&database.name).replacen(&first, &both, 1);
    let store = open_with(settings(url)).await;
    let mut scribe = Scribe::new();
    settled_append(&mut scribe, &store, 1).await;
    assert_eq!(rows(&store).await.0, scribe.head);
    assert_eq!(whole_log(&store).await.len(), 1);

    // A standby that lags, so that reading it shows.
    link.to_client(Flow::Hold);
    bouncer.lead_to(standby.port);
    let pooled = tokio_postgres::connect(&bouncer.url(&database.name), NoTls).await;
    let (pooled, connection) = pooled.expect("connected");
    tokio::spawn(connection);
    while !is_standby(&pooled).await {
        tokio::task::yield_now().await;
    }
    settled_append(&mut scribe, &store, 2).await;
    assert_eq!(rows(&store).await.0, scribe.head);
    assert_eq!(whole_log(&store).await.len(), 2);
    assert_eq!(store.roster().await.expect("a roster").head, scribe.head);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_set_to_read_only_is_not_written_to() {
    let server = private();
    let database = server.database().await;
    let store = open_with(settings(database.url)).await;
    let mut scribe = Scribe::new();
    settled_append(&mut scribe, &store, 1).await;
    let set = |on| {
        format!(
            "ALTER DATABASE {} SET default_transaction_read_only = {on}",
            database.name
        )
    };
    server.admin("postgres", &set("on")).await;
    server
        .admin(
            "postgres",
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
        WHERE application_name = 'latchkey'",
        )
        .await;
    let batch = scribe.batch([put_principal(2, "user:bob")]);
    for _ in 0..2 {
        let refused = store.append(batch.clone()).await;
        assert!(refused.is_err(), "{refused:?}");
    }
    server.admin("postgres", &set("off")).await;
    settled_append(&mut scribe, &store, 2).await;
    assert_eq!(whole_log(&store).await.len(), 2);
}
