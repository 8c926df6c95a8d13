//! What a bad network does to a store in the middle of an append, and that it goes on after it.
//!
//! Every store here is behind a proxy; a second one, that is not, sees what became of it.

use std::time::{Duration, Instant};

use latchkey::store::cluster::{Cluster as _, Incarnation};
use latchkey::store::postgres::Settings;
use latchkey::store::{Appended, Batch, Store as _, StoreError};

use super::faults::{by, proxied, settle, settled_append, through};
use super::{fresh, open_with};
use crate::postgres::server;
use crate::proxy::{Flow, Proxy};
use crate::store::scribe::{Scribe, put_principal, rows, whole_log};

/// Long enough to be reached, short enough to wait for.
const BRIEF: Duration = Duration::from_millis(600);
/// Until it must have come about on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn brief(url: String) -> Settings {
    Settings {
        url,
        connect_timeout: BRIEF,
        statement_timeout: BRIEF,
        cluster_timeout: BRIEF,
        ..Settings::default()
    }
}

/// Asks until there is an answer, a few times.
async fn again<T>(ask: impl AsyncFn() -> Result<T, StoreError>) -> T {
    const TRIES: usize = 10;
    let mut said = Vec::new();
    for _ in 0..TRIES {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => said.push(error),
        }
    }
    panic!("no answer: {said:?}")
}

#[tokio::test]
async fn bytes_that_drip_or_come_late_change_nothing() {
    let check = async |flow| {
        let fresh = fresh().await;
        let proxy = proxied().await;
        proxy.both_ways(flow);
        let store = through(&proxy, &fresh.database.url).await;
        let mut scribe = Scribe::new();
        for number in 1..=2 {
            let put = put_principal(number, &format!("user:u{number}"));
            scribe.append(&store, [put]).await;
        }
        assert!(whole_log(&store).await == whole_log(&fresh.store).await);
        assert_eq!(rows(&store).await.0, scribe.head);
        assert_eq!(store.roster().await.expect("a roster").head, scribe.head);
    };
    check(Flow::Drip(Duration::ZERO)).await;
    check(Flow::Late(Duration::from_millis(5))).await;
}

#[tokio::test]
async fn a_half_closed_connection_is_an_unknown_outcome_that_is_settled() {
    // Nothing comes back any more, or nothing gets there: either way the log decides.
    let check = async |close: fn(&Proxy)| {
        let fresh = fresh().await;
        let proxy = proxied().await;
        let store = through(&proxy, &fresh.database.url).await;
        let mut scribe = Scribe::new();
        settled_append(&mut scribe, &store, 1).await;
        let batch = scribe.batch([put_principal(2, "user:bob")]);
        proxy.to_server(Flow::HoldLast);
        let (appended, ()) = tokio::join!(store.append(batch.clone()), async {
            // The request is under way once this one has gone round.
            settled_append(&mut scribe.clone(), &fresh.store, 3).await;
            close(&proxy);
        });
        assert!(
            matches!(appended, Err(StoreError::OutcomeUnknown(_))),
            "{appended:?}"
        );
        proxy.both_ways(Flow::Pass);
        match settle(&store, &batch).await {
            Appended::Conflict(missed) => assert_eq!(missed.len(), 1),
            other => panic!("{other:?}"),
        }
    };
    check(|proxy| proxy.to_client(Flow::Close)).await;
    check(|proxy| proxy.to_server(Flow::Close)).await;
}

#[tokio::test]
async fn a_partition_one_way_or_both_is_bounded_and_passes() {
    let check = async |cut_off: fn(&Proxy), written: usize| {
        let fresh = fresh().await;
        let proxy = proxied().await;
        let store = open_with(brief(by(&fresh.database.url, proxy.port))).await;
        let mut scribe = Scribe::new();
        settled_append(&mut scribe, &store, 1).await;
        let batch = scribe.batch([put_principal(2, "user:bob")]);
        cut_off(&proxy);
        let appended = store.append(batch.clone()).await;
        assert!(
            matches!(appended, Err(StoreError::OutcomeUnknown(_))),
            "{appended:?}"
        );
        // Nor can anything else hang.
        let unavailable = |error| matches!(error, StoreError::Unavailable(_));
        assert!(unavailable(store.roster().await.expect_err("cut off")));
        let read = store.changes_after(0, 1).await;
        assert!(unavailable(read.expect_err("cut off")));
        let fed = store.feed(0, 1).await;
        assert!(unavailable(fed.expect_err("cut off")));
        assert!(unavailable(store.snapshot().await.expect_err("cut off")));
        // What was in the network when the connections were given up is lost with them.
        proxy.cut();
        proxy.both_ways(Flow::Pass);
        let empty = Batch {
            entries: Vec::new(),
            ..batch.clone()
        };
        let settled = again(async || store.append(empty.clone()).await).await;
        match (settled, written) {
            (Appended::Committed, 0) => {}
            (Appended::Conflict(missed), 1) => assert!(missed == batch.entries),
            (other, _) => panic!("{other:?}"),
        }
        assert_eq!(whole_log(&fresh.store).await.len(), 1 + written);
    };
    check(|proxy| proxy.to_server(Flow::Hold), 0).await;
    check(|proxy| proxy.to_client(Flow::Hold), 1).await;
    check(|proxy| proxy.both_ways(Flow::Hold), 0).await;
}

#[tokio::test]
async fn when_the_host_in_use_freezes_the_next_one_is_used() {
    let fresh = fresh().await;
    let (first, second) = (proxied().await, proxied().await);
    let here = format!(":{}/", server().port);
    let both = format!(":{},127.0.0.1:{}/", first.port, second.port);
    let store = open_with(brief(fresh.database.url.replacen(&here, &both, 1))).await;
    let mut scribe = Scribe::new();
    for (number, frozen, thawed) in [(1, &second, &first), (2, &first, &second)] {
        frozen.both_ways(Flow::Hold);
        thawed.both_ways(Flow::Pass);
        settled_append(&mut scribe, &store, number).await;
        // Each connection costs one call; what is behind it goes on at the next host.
        let head = again(async || store.roster().await.map(|roster| roster.head)).await;
        let log = again(async || store.changes_after(0, 9).await).await;
        let snapshot = again(async || store.snapshot().await).await;
        let last = log.last().map(|last| last.head);
        assert_eq!(
            [Some(head), last, Some(snapshot.head)],
            [Some(scribe.head); 3]
        );
    }
}

#[tokio::test]
async fn where_the_heartbeat_lands_everything_goes() {
    let fresh = fresh().await;
    let (first, second) = (proxied().await, proxied().await);
    let here = format!(":{}/", server().port);
    let both = format!(":{},127.0.0.1:{}/", first.port, second.port);
    let store = open_with(brief(fresh.database.url.replacen(&here, &both, 1))).await;
    let mut scribe = Scribe::new();
    settled_append(&mut scribe, &store, 1).await;
    first.both_ways(Flow::Hold);
    again(async || store.leave(Incarnation([1; 16])).await).await;
    // On its old connection this would have been lost.
    let put = put_principal(2, "user:bob");
    scribe.append(&store, [put]).await;
}

#[tokio::test]
async fn who_connects_longer_than_anybody_waits_is_connected_in_the_end() {
    const ONE_WAY: Duration = Duration::from_millis(100);
    let fresh = fresh().await;
    let proxy = proxied().await;
    let settings = Settings {
        url: by(&fresh.database.url, proxy.port),
        // An answer comes in time, three of them do not.
        cluster_timeout: ONE_WAY * 2,
        ..Settings::default()
    };
    let store = open_with(settings).await;
    proxy.to_client(Flow::Late(ONE_WAY));
    let began = Instant::now();
    while let Err(error) = store.roster().await {
        assert!(began.elapsed() < PATIENCE, "{error}");
    }
}
