//! What stands and what does not, whatever comes late: a batch that was given up, and a commit
//! behind which something failed; and who waits for whom at the partitions of the log.
//!
//! By the store; what the replica makes of it is tested there.

use latchkey::store::{Appended, Store as _, StoreError};

use super::fresh;
use crate::postgres::server;
use crate::store::scribe::{Scribe, put_principal, rows, whole_log};

#[tokio::test]
async fn a_batch_that_was_given_up_is_refused_however_late_it_comes() {
    let fresh = fresh().await;
    let store = &fresh.store;
    let mut scribe = Scribe::new();
    scribe.append(store, [put_principal(1, "user:alice")]).await;
    let lost = scribe.batch([put_principal(2, "user:bob")]);
    let given_up = store.void(&lost).await.expect("given up");
    assert!(matches!(given_up, Appended::Committed), "{given_up:?}");
    // Somebody else's write that changes nothing does not bring it back.
    let other = scribe.batch([]);
    let nothing = store.append(other).await.expect("compared");
    assert!(matches!(nothing, Appended::Committed), "{nothing:?}");
    // Twice, as when the first answer was lost.
    store.void(&lost).await.expect("given up");
    for _ in 0..2 {
        let late = store.append(lost.clone()).await;
        assert!(matches!(late, Err(StoreError::Unavailable(_))), "{late:?}");
        assert_eq!(rows(store).await.0, scribe.head);
    }
    scribe.append(store, [put_principal(2, "user:bob")]).await;
    assert_eq!(whole_log(store).await.len(), 2);
    // Behind its base it is a batch that has missed something, as ever.
    let late = store.append(lost).await.expect("compared");
    assert!(matches!(late, Appended::Conflict(missed) if missed.len() == 1));
}

#[tokio::test]
async fn what_fails_behind_a_commit_takes_nothing_of_it_back() {
    let fresh = fresh().await;
    let revoke = "REVOKE EXECUTE ON FUNCTION latchkey.missed FROM PUBLIC";
    server().admin(&fresh.database.name, revoke).await;
    let mut scribe = Scribe::new();
    for (number, name) in [(1, "user:alice"), (2, "user:bob")] {
        let batch = scribe.batch([put_principal(number, name)]);
        let appended = fresh.store.append(batch.clone()).await;
        assert!(matches!(appended, Ok(Appended::Committed)), "{appended:?}");
        scribe.head = batch.entries[0].head;
    }
    assert_eq!(whole_log(&fresh.store).await.len(), 2);
}

#[tokio::test]
async fn the_servers_role_makes_no_partitions_without_need() {
    let fresh = fresh().await;
    let client = server()
        .client("latchkey_server", &fresh.database.name)
        .await;
    let made = client
        .simple_query("SELECT latchkey.extend_log(9000000000000000000)")
        .await;
    let error = made.expect_err("refused");
    assert_eq!(error.code().map(|code| code.code()), Some("LK001"));
}

#[tokio::test]
async fn trimming_waits_for_whoever_makes_partitions() {
    let fresh = fresh().await;
    let holder = server().client("postgres", &fresh.database.name).await;
    let hold = "BEGIN; SELECT pg_advisory_xact_lock(1818979961, 2)";
    holder.batch_execute(hold).await.expect("held");
    let owner = server().client("postgres", &fresh.database.name).await;
    for call in ["extend_log(100000)", "trim_log(0, 0, 0)", "drop_trimmed()"] {
        let sql = format!("BEGIN; SET LOCAL lock_timeout = 50; SELECT latchkey.{call}");
        let error = owner.batch_execute(&sql).await.expect_err(call);
        assert_eq!(
            error.code().map(|code| code.code()),
            Some("55P03"),
            "{call}"
        );
        owner.batch_execute("ROLLBACK").await.expect("rolled back");
    }
}
