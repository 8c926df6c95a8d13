//! Trimming beside servers that run: who may, what holds it up, and what it keeps waiting.
//!
//! And that what is asked of the log every moment touches one partition, however many there are.

use std::time::Duration;

use latchkey::domain::chain::Head;
use latchkey::store::cluster::{Cluster as _, Incarnation, Joining, Renewal, Renewed};
use latchkey::store::{Store as _, Trim};

use super::{Fresh, fresh};
use crate::postgres::server;
use crate::store::conformance::trim::Trims as _;
use crate::store::scribe::{Scribe, put_principal};

const ALL: Trim = Trim {
    before_ms: u64::MAX >> 1,
    upto: u64::MAX,
    now_ms: u64::MAX >> 1,
};

async fn ten() -> (Fresh, Scribe) {
    let fresh = fresh().await;
    fresh.prepare().await;
    let mut scribe = Scribe::new();
    for number in 1..=10 {
        let put = put_principal(number, &format!("user:u{number}"));
        scribe.append(&fresh.store, [put]).await;
    }
    (fresh, scribe)
}

async fn parts(fresh: &Fresh) -> i64 {
    let client = server().client("postgres", &fresh.database.name).await;
    let sql = "SELECT count(*) FROM pg_class WHERE relname ~ '^log_\\d+$'";
    client.query_one(sql, &[]).await.expect("counted").get(0)
}

#[tokio::test]
async fn what_a_member_has_not_applied_stays() {
    let (fresh, _) = ten().await;
    let member = Incarnation([1; 16]);
    let joining = Joining {
        incarnation: member,
        name: "one".to_owned(),
        address: String::new(),
        lease_ms: 900,
        format_max: 1,
        serves_stale: false,
        keys: Vec::new(),
    };
    fresh.store.join(&joining).await.expect("joined");
    assert_eq!(fresh.trim(ALL).await, Head::EMPTY);
    let renewed = async |at: u64| {
        let read = fresh.store.changes_after(at - 1, 1).await;
        let renewal = Renewal {
            incarnation: member,
            lease_ms: 900,
            applied: read.expect("the log")[0].head,
            keys: Vec::new(),
        };
        fresh.store.renew(&renewal).await.expect("renewed");
        renewal.applied
    };
    renewed(7).await;
    assert_eq!(fresh.trim(ALL).await.revision, 4);
    let applied = renewed(8).await;
    assert_eq!(fresh.trim(ALL).await, applied);
    // Its own revision is the cut: it is still of this history.
    let renewal = Renewal {
        incarnation: member,
        lease_ms: 900,
        applied,
        keys: Vec::new(),
    };
    let Ok(Renewed::Held {
        chain_at_applied, ..
    }) = fresh.store.renew(&renewal).await
    else {
        panic!("not held");
    };
    assert_eq!(chain_at_applied, Some(applied.chain));
}

#[tokio::test]
async fn trimmed_partitions_are_dropped_also_by_the_next_trim() {
    let (fresh, _) = ten().await;
    let before = parts(&fresh).await;
    let detach = "SELECT latchkey.trim_log(9000000000000000, 4, 9000000000000000)";
    server().admin(&fresh.database.name, detach).await;
    assert_eq!(
        parts(&fresh).await,
        before,
        "cut off before they were dropped"
    );
    assert_eq!(fresh.store.cut().await.expect("a cut").revision, 4);
    assert_eq!(fresh.trim(ALL).await.revision, 8);
    assert_eq!(parts(&fresh).await, before - 2);
}

#[tokio::test]
async fn what_is_attached_to_the_log_is_not_dropped() {
    let (fresh, scribe) = ten().await;
    let before = parts(&fresh).await;
    // As a copy of a trimmed log leaves it: no entry up to the cut, which is inside of a partition.
    let cut = "DELETE FROM latchkey.log WHERE revision <= 6;
        UPDATE latchkey.log_cut SET revision = 6";
    server().admin(&fresh.database.name, cut).await;
    let client = server().client("postgres", &fresh.database.name).await;
    let reading = "BEGIN; SELECT count(*) FROM latchkey.log";
    client.batch_execute(reading).await.expect("reading");
    let drop = "SET lock_timeout = 5000; SELECT latchkey.drop_trimmed()";
    server().admin(&fresh.database.name, drop).await;
    client.batch_execute("COMMIT").await.expect("read");
    assert_eq!(parts(&fresh).await, before);
    // Nothing may go but what holds nothing.
    let nothing = Trim {
        before_ms: 1,
        ..ALL
    };
    assert_eq!(fresh.trim(nothing).await.revision, 6);
    assert_eq!(parts(&fresh).await, before - 1);
    assert_eq!(fresh.trim(ALL).await.revision, 8);
    assert_eq!(parts(&fresh).await, before - 2);
    let left = fresh.store.changes_after(8, 100).await.expect("the log");
    assert_eq!(left.last().map(|last| last.head), Some(scribe.head));
}

#[tokio::test]
async fn a_partition_is_of_a_month_but_grows_fourfold_at_most() {
    let check = async |entries: u32, expected: i64| {
        let fresh = fresh().await;
        let mut scribe = Scribe::new();
        for number in 1..=entries {
            let put = put_principal(number, &format!("user:u{number}"));
            scribe.append(&fresh.store, [put]).await;
        }
        let client = server().client("postgres", &fresh.database.name).await;
        let extend = "SELECT latchkey.extend_log(40000)";
        client.batch_execute(extend).await.expect("extended");
        let sql = "SELECT past - first FROM latchkey.log_parts ORDER BY first DESC LIMIT 1";
        let size: i64 = client.query_one(sql, &[]).await.expect("a size").get(0);
        assert_eq!(size, expected, "after {entries}");
    };
    // So many in the moment since the database was made.
    check(0, 4 * 65_536).await;
    // So many since the first of them, which is years old.
    check(1, 65_536).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_reader_holds_up_the_trim_and_nobody_else() {
    let (fresh, mut scribe) = ten().await;
    let reader = server().client("postgres", &fresh.database.name).await;
    let read = "BEGIN; SELECT count(*) FROM latchkey.log";
    reader.batch_execute(read).await.expect("reading");
    let owner = fresh.owner();
    let trimming = tokio::spawn(async move {
        let trimmed = latchkey::store::postgres::trim(&owner, &ALL).await;
        trimmed.expect("trimmed")
    });
    // The trim waits for the reader, appends wait for the trim, and it gives way in time.
    for number in 11..=200 {
        let put = put_principal(number, &format!("user:u{number}"));
        scribe.append(&fresh.store, [put]).await;
    }
    assert_eq!(fresh.store.cut().await.expect("a cut"), Head::EMPTY);
    assert!(!trimming.is_finished());
    reader.batch_execute("COMMIT").await.expect("read");
    let cut = tokio::time::timeout(Duration::from_secs(60), trimming).await;
    assert_eq!(cut.expect("in time").expect("trimmed").revision, 36);
}

/// The plan of a statement with its parameter, as a function that keeps plans would run it.
async fn plan(fresh: &Fresh, sql: &str, parameter: u64) -> String {
    let client = server().client("postgres", &fresh.database.name).await;
    let prepared = format!(
        "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET jit = off;
        PREPARE p(bigint) AS {sql}"
    );
    client.batch_execute(&prepared).await.expect(sql);
    let explain =
        format!("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) EXECUTE p({parameter})");
    let lines = client.simple_query(&explain).await.expect(&explain);
    let lines = lines.iter().filter_map(|line| match line {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn what_is_asked_of_the_log_touches_one_partition() {
    let (fresh, _) = ten().await;
    for sql in [
        // As changes_after, missed, chain_at and a report ask.
        "SELECT revision, chain, body FROM latchkey.log WHERE revision >= $1 ORDER BY revision
         LIMIT 2",
        "SELECT * FROM latchkey.log WHERE log.revision > $1 ORDER BY log.revision LIMIT 1",
        "SELECT l.chain FROM latchkey.log l WHERE l.revision = $1",
    ] {
        // Of ten partitions the first two hold nothing that is asked for.
        let plan = plan(&fresh, sql, 9).await;
        let scanned = plan.matches("Index Scan").count() - plan.matches("never executed").count();
        assert_eq!(scanned, 1, "{sql}\n{plan}");
        assert!(!plan.contains("Seq Scan"), "{plan}");
        assert!(plan.contains("Subplans Removed"), "{plan}");
    }
}
