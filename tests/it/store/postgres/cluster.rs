//! What servers on one database know of each other: members, leases, turns and wake-ups.
//!
//! Two stores on one database are two servers; what a third party does, the database's owner does.

use std::time::Duration;

use latchkey::domain::chain::Head;
use latchkey::domain::change::Change;
use latchkey::store::cluster::{Cluster, Incarnation, Joining, Renewal, Renewed};
use latchkey::store::postgres::{PostgresStore, Settings};
use latchkey::store::{Appended, Store as _, StoreError};

use super::faults::at_every_write;
use super::{fresh, open, open_with};
use crate::postgres::server;
use crate::store::scribe::{Scribe, put_principal};

fn joining(number: u8, lease_ms: u64) -> Joining {
    Joining {
        incarnation: Incarnation([number; 16]),
        name: format!("replica's {number}"),
        address: "127.0.0.1:7421".to_owned(),
        lease_ms,
        format_max: 1,
        serves_stale: false,
        keys: Vec::new(),
    }
}

fn renewal(number: u8, lease_ms: u64, applied: Head) -> Renewal {
    Renewal {
        incarnation: Incarnation([number; 16]),
        lease_ms,
        applied,
        keys: Vec::new(),
    }
}

fn reading(number: u8, format_max: u32) -> Joining {
    Joining {
        format_max,
        ..joining(number, 900)
    }
}

#[tokio::test]
async fn the_format_is_raised_only_to_what_every_member_reads() {
    let fresh = fresh().await;
    let store = &fresh.store;
    let mut scribe = Scribe::new();
    for (number, format_max) in [(1, 2), (2, 1), (3, 3)] {
        let joined = store.join(&reading(number, format_max)).await;
        joined.expect("joined");
    }
    // One that reads less has joined since the members were read.
    scribe.refused(store, [Change::RaiseFormat(2)]).await;
    store.leave(Incarnation([2; 16])).await.expect("left");
    scribe.append(store, [Change::RaiseFormat(2)]).await;
    scribe.refused(store, [Change::RaiseFormat(3)]).await;
}

#[tokio::test]
async fn who_does_not_read_the_logs_format_does_not_become_a_member() {
    let fresh = fresh().await;
    let store = &fresh.store;
    let mut scribe = Scribe::new();
    scribe.append(store, [Change::RaiseFormat(3)]).await;
    let refused = store.join(&reading(1, 2)).await.expect_err("refused");
    let expected = StoreError::Format { level: 3, reads: 2 };
    assert_eq!(refused.to_string(), expected.to_string());
    assert!(store.roster().await.expect("a roster").members.is_empty());
    store.join(&reading(1, 3)).await.expect("joined");
}

#[tokio::test]
async fn a_join_and_a_raise_at_once_see_each_other() {
    let fresh = fresh().await;
    let other = open(&fresh.database.url).await;
    let mut scribe = Scribe::new();
    for round in 0..20_u8 {
        let level = u32::from(round) + 2;
        let raise = scribe.batch([Change::RaiseFormat(level)]);
        let head = raise.entries[0].head;
        let member = reading(round, level - 1);
        let (raised, joined) = tokio::join!(fresh.store.append(raise), other.join(&member));
        let raised = matches!(raised, Ok(Appended::Committed));
        assert_ne!(raised, joined.is_ok(), "round {round}");
        if raised {
            scribe.head = head;
        } else {
            other.leave(member.incarnation).await.expect("left");
            scribe
                .append(&fresh.store, [Change::RaiseFormat(level)])
                .await;
        }
    }
}

#[tokio::test]
async fn a_member_joins_renews_reports_and_leaves() {
    let fresh = fresh().await;
    let store = &fresh.store;
    let unknown = store.renew(&renewal(1, 900, Head::EMPTY)).await;
    assert_eq!(unknown.expect("answered"), Renewed::Unknown);
    assert_eq!(store.join(&joining(1, 900)).await.expect("joined"), 900);
    let mut scribe = Scribe::new();
    scribe.append(store, [put_principal(1, "user:alice")]).await;

    let Ok(Renewed::Held {
        head,
        chain_at_applied,
        database_ms,
        history,
    }) = store.renew(&renewal(1, 900, Head::EMPTY)).await
    else {
        panic!("not held");
    };
    assert_eq!(
        (head, chain_at_applied),
        (scribe.head, Some(Head::EMPTY.chain))
    );
    assert!(database_ms > 1_700_000_000_000 && history.system > 0 && history.timeline == 1);
    store
        .report(Incarnation([1; 16]), scribe.head)
        .await
        .expect("reported");
    // Never taken back.
    store
        .report(Incarnation([1; 16]), Head::EMPTY)
        .await
        .expect("reported");
    let roster = store.roster().await.expect("a roster");
    let member = &roster.members[0];
    assert_eq!(
        (roster.members.len(), roster.head, roster.lease_ms),
        (1, scribe.head, 900)
    );
    assert_eq!(
        (member.heartbeat, member.applied, member.lease_ms),
        (1, 1, 900)
    );
    assert_eq!((&*member.name, member.format_max), ("replica's 1", 1));
    assert!(member.joined_ms <= member.reported_ms && member.reported_ms <= roster.database_ms);

    store.leave(Incarnation([1; 16])).await.expect("left");
    assert!(store.roster().await.expect("a roster").members.is_empty());
}

#[tokio::test]
async fn a_revision_that_the_log_lacks_has_no_chain() {
    let fresh = fresh().await;
    let store = &fresh.store;
    store.join(&joining(1, 900)).await.expect("joined");
    let mut scribe = Scribe::new();
    scribe.append(store, [put_principal(1, "user:alice")]).await;
    let chain = [7; 32];
    let chain_at = async |revision| match store
        .renew(&renewal(1, 900, Head { revision, chain }))
        .await
    {
        Ok(Renewed::Held {
            chain_at_applied, ..
        }) => chain_at_applied,
        other => panic!("{other:?}"),
    };
    assert_eq!(chain_at(1).await, Some(scribe.head.chain));
    assert_eq!(chain_at(2).await, None);
}

#[tokio::test]
async fn what_was_applied_of_another_history_is_not_taken() {
    let fresh = fresh().await;
    let store = &fresh.store;
    let member = Incarnation([1; 16]);
    store.join(&joining(1, 900)).await.expect("joined");
    let mut scribe = Scribe::new();
    for number in 1..=3 {
        let put = put_principal(number, &format!("user:u{number}"));
        scribe.append(store, [put]).await;
    }
    let lost = Head {
        chain: [7; 32],
        ..scribe.head
    };
    let future = Head {
        revision: 4,
        ..lost
    };
    for other in [lost, future] {
        store.report(member, other).await.expect("answered");
        store.renew(&renewal(1, 900, other)).await.expect("renewed");
        let roster = store.roster().await.expect("a roster");
        assert_eq!(roster.members[0].applied, 0, "{other:?}");
    }
    let renewed = store.renew(&renewal(1, 900, scribe.head)).await;
    renewed.expect("renewed");
    let roster = store.roster().await.expect("a roster");
    assert_eq!(roster.members[0].applied, 3);
}

async fn cluster_lease(store: &PostgresStore) -> u64 {
    store.roster().await.expect("a roster").lease_ms
}

#[tokio::test]
async fn the_clusters_lease_is_the_longest_of_those_who_are_there() {
    let fresh = fresh().await;
    let store = &fresh.store;
    assert_eq!(store.join(&joining(1, 900)).await.expect("joined"), 900);
    assert_eq!(store.join(&joining(2, 500)).await.expect("joined"), 900);
    let longer = renewal(2, 1_500, Head::EMPTY);
    store.renew(&longer).await.expect("renewed");
    assert_eq!(cluster_lease(store).await, 1_500);
    // Whoever has joined has none yet, and makes that of the others no shorter.
    assert_eq!(store.join(&joining(3, 0)).await.expect("joined"), 1_500);
    store.leave(Incarnation([2; 16])).await.expect("left");
    assert_eq!(cluster_lease(store).await, 900);
    let shorter = renewal(3, 400, Head::EMPTY);
    store.renew(&shorter).await.expect("renewed");
    assert_eq!(cluster_lease(store).await, 900);
    // One that is dead, too.
    let removed = store.remove(Incarnation([1; 16]), 0).await;
    assert!(removed.expect("answered"));
    assert_eq!(cluster_lease(store).await, 400);
    // What the last one had is over, but costs nobody anything.
    store.leave(Incarnation([3; 16])).await.expect("left");
    assert_eq!(cluster_lease(store).await, 400);
    assert_eq!(store.join(&joining(4, 300)).await.expect("joined"), 300);
}

#[tokio::test]
async fn only_a_heartbeat_that_stood_still_is_removed() {
    let fresh = fresh().await;
    let store = &fresh.store;
    let member = Incarnation([1; 16]);
    store.join(&joining(1, 900)).await.expect("joined");
    let seen = store.roster().await.expect("a roster").members[0].heartbeat;
    let again = renewal(1, 900, Head::EMPTY);
    store.renew(&again).await.expect("renewed");
    assert!(!store.remove(member, seen).await.expect("answered"));
    assert!(store.remove(member, seen + 1).await.expect("answered"));
    assert!(!store.remove(member, seen + 1).await.expect("answered"));
    let renewed = store.renew(&again).await.expect("answered");
    assert_eq!(renewed, Renewed::Unknown);
}

#[tokio::test]
async fn an_append_wakes_the_others() {
    let fresh = fresh().await;
    let other = open(&fresh.database.url).await;
    let mut wakes = other.wakes();
    // The first tells that it listens.
    wakes.changed().await.expect("listening");
    let mut scribe = Scribe::new();
    for number in 1..=3 {
        wakes.mark_unchanged();
        let put = put_principal(number, &format!("user:u{number}"));
        scribe.append(&fresh.store, [put]).await;
        wakes.changed().await.expect("woken");
    }
    // An empty append changes nothing that anybody would read.
    let before = *wakes.borrow_and_update();
    let empty = scribe.batch([]);
    scribe.commit(&fresh.store, empty).await;
    assert_eq!(*wakes.borrow(), before);
}

async fn turns(database: &crate::postgres::Database) -> i64 {
    let client = server().client("postgres", &database.name).await;
    let sql = "SELECT count(*) FROM latchkey.turn";
    client.query_one(sql, &[]).await.expect("counted").get(0)
}

#[tokio::test]
async fn a_refused_replica_has_a_turn_until_it_appends() {
    let fresh = fresh().await;
    let other = open(&fresh.database.url).await;
    let mut scribe = Scribe::new();
    let mut late = scribe.clone();
    scribe
        .append(&fresh.store, [put_principal(1, "user:alice")])
        .await;
    assert_eq!(turns(&fresh.database).await, 0);
    let batch = late.batch([put_principal(9, "user:late")]);
    let refused = other.append(batch).await;
    assert!(matches!(refused, Ok(Appended::Conflict(_))), "{refused:?}");
    assert_eq!(turns(&fresh.database).await, 1);
    late.head = scribe.head;
    late.append(&other, [put_principal(9, "user:late")]).await;
    assert_eq!(turns(&fresh.database).await, 0);
}

#[tokio::test]
async fn a_turn_is_as_long_as_was_asked_for_up_to_a_limit() {
    let fresh = fresh().await;
    let mut scribe = Scribe::new();
    scribe
        .append(&fresh.store, [put_principal(1, "user:alice")])
        .await;
    let client = server().client("postgres", &fresh.database.name).await;
    for (asked_ms, given_ms) in [(20, 20), (160, 160), (3_600_000, 200)] {
        // The time of the transaction is before that of the turn, and this one is after it.
        let sql = format!(
            "BEGIN;
            DELETE FROM latchkey.turn;
            SELECT outcome FROM latchkey.append('late', 'batch', 0, decode(repeat('00', 32), 'hex'),
              NULL, ARRAY[]::text[], ARRAY[]::json[], NULL, {asked_ms})"
        );
        client.batch_execute(&sql).await.expect("refused");
        let sql = format!(
            "SELECT ends_at >= now() + interval '{given_ms} milliseconds'
              AND ends_at <= clock_timestamp() + interval '{given_ms} milliseconds'
            FROM latchkey.turn"
        );
        let given = client.query_one(&sql, &[]).await.expect("a turn");
        assert!(given.get::<_, bool>(0), "{asked_ms}");
        client.batch_execute("ROLLBACK").await.expect("rolled back");
    }
}

#[tokio::test]
async fn while_it_is_anothers_turn_nobody_else_appends() {
    let fresh = fresh().await;
    let settings = Settings {
        url: fresh.database.url.clone(),
        statement_timeout: Duration::from_millis(100),
        ..Settings::default()
    };
    let hasty = open_with(settings).await;
    let mut scribe = Scribe::new();
    let turn = |ends: &str| {
        format!(
            "INSERT INTO latchkey.turn VALUES (1, 'another', {ends})
        ON CONFLICT (id) DO UPDATE SET ends_at = excluded.ends_at"
        )
    };
    let name = &fresh.database.name;
    server()
        .admin(name, &turn("now() + interval '1 hour'"))
        .await;
    let refused = hasty
        .append(scribe.batch([put_principal(1, "user:alice")]))
        .await;
    assert!(
        matches!(refused, Err(StoreError::Unavailable(_))),
        "{refused:?}"
    );
    server().admin(name, &turn("now()")).await;
    scribe
        .append(&fresh.store, [put_principal(1, "user:alice")])
        .await;
}

#[tokio::test]
async fn who_joins_or_renews_reads_what_others_have_committed() {
    let fresh = fresh().await;
    let name = &fresh.database.name;
    let sql = format!("ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'");
    server().admin(name, &sql).await;
    let body = "IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'by an older snapshot'; END IF;";
    at_every_write(name, body).await;
    let store = open(&fresh.database.url).await;
    store.join(&joining(1, 900)).await.expect("joined");
    let renewed = store.renew(&renewal(1, 900, Head::EMPTY)).await;
    assert!(matches!(renewed, Ok(Renewed::Held { .. })), "{renewed:?}");
    store.leave(Incarnation([1; 16])).await.expect("left");
}

#[tokio::test]
async fn a_commit_waits_for_the_standby_whatever_the_role_was_set_to() {
    let fresh = fresh().await;
    let client = server()
        .client("latchkey_server", &fresh.database.name)
        .await;
    for (set, expected) in [
        ("off", "on"),
        ("local", "on"),
        ("remote_write", "on"),
        ("on", "on"),
        ("remote_apply", "remote_apply"),
    ] {
        let sql = format!("BEGIN; SET LOCAL synchronous_commit = {set}; SELECT latchkey.durably()");
        client.batch_execute(&sql).await.expect("set");
        let shown = client.query_one("SHOW synchronous_commit", &[]).await;
        assert_eq!(shown.expect("one").get::<_, &str>(0), expected, "{set}");
        client.batch_execute("ROLLBACK").await.expect("rolled back");
    }
}

#[tokio::test]
async fn members_say_which_seal_keys_they_have_loaded() {
    let fresh = fresh().await;
    let store = &fresh.store;
    let keys = async || {
        let roster = store.roster().await.expect("a roster");
        let keys = roster.members.into_iter().map(|member| member.keys);
        keys.collect::<Vec<_>>()
    };
    let with = |keys: &[u32]| Joining {
        keys: keys.to_vec(),
        ..joining(1, 900)
    };
    store.join(&with(&[7, u32::MAX])).await.expect("joined");
    store.join(&joining(2, 900)).await.expect("joined");
    assert_eq!(keys().await, [vec![7, u32::MAX], vec![]]);
    for (number, loaded) in [(2, vec![1]), (1, vec![]), (1, vec![7, 8]), (1, vec![8, 7])] {
        let renewal = Renewal {
            keys: loaded.clone(),
            ..renewal(number, 900, Head::EMPTY)
        };
        let renewed = store.renew(&renewal).await.expect("renewed");
        assert!(matches!(renewed, Renewed::Held { .. }));
        assert_eq!(keys().await[usize::from(number) - 1], loaded);
    }
    let renewal = Renewal {
        keys: vec![9],
        ..renewal(3, 900, Head::EMPTY)
    };
    assert_eq!(store.renew(&renewal).await.ok(), Some(Renewed::Unknown));
    assert_eq!(keys().await, [vec![8, 7], vec![1]]);
}

/// What a server of the version before sends, which knows no keys.
#[tokio::test]
async fn members_of_the_version_before_go_on() {
    let fresh = fresh().await;
    let store = &fresh.store;
    let client = server()
        .client("latchkey_server", &fresh.database.name)
        .await;
    let join =
        "SELECT latchkey.join_cluster(decode(repeat('05', 16), 'hex'), 'old', 'here', 900, 1,
        false)";
    let renew = "SELECT revision, chain, chain_at_applied, database_ms, system, timeline
        FROM latchkey.renew(decode(repeat('05', 16), 'hex'), 900, 0,
          decode(repeat('00', 32), 'hex'))";
    client.batch_execute(join).await.expect("joined");
    store.join(&joining(1, 900)).await.expect("joined");
    for _ in 0..2 {
        let renewed = client.query(renew, &[]).await.expect("renewed");
        assert_eq!(renewed.len(), 1);
    }
    let members = store.roster().await.expect("a roster").members;
    let said: Vec<_> = members
        .iter()
        .map(|one| (one.name.as_str(), one.heartbeat, one.keys.len()))
        .collect();
    assert_eq!(said, [("replica's 1", 0, 0), ("old", 2, 0)]);
}
