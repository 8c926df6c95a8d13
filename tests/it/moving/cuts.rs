//! A copy that is killed: half way, and at the very end, where both stores might go on.
//!
//! What holds a copy at a place is a lock of the test's own in the database; what it waits for is
//! read there, too.

use std::process::Child;

use tokio_postgres::Client;

use super::{begin_copy, content, copy_to, open, open_copy, recorded, rows_in};
use crate::postgres::{Database, database, server};
use crate::program::Server;
use crate::store::scribe::whole_log;

/// Waits until the copy's connection waits for a lock.
async fn held(client: &Client, copy: &mut Child) {
    let sql = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND usename = 'latchkey_server'
          AND wait_event_type = 'Lock'";
    loop {
        let waiting: i64 = client.query_one(sql, &[]).await.expect("activity").get(0);
        if waiting > 0 {
            return;
        }
        let ended = copy.try_wait().expect("a process");
        assert!(ended.is_none(), "the copy ended early: {ended:?}");
    }
}

/// Waits until the database has no connection of the copy's left.
async fn gone(client: &Client) {
    let sql = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND usename = 'latchkey_server'";
    while client
        .query_one(sql, &[])
        .await
        .expect("activity")
        .get::<_, i64>(0)
        > 0
    {}
}

fn kill(mut copy: Child) {
    copy.kill().expect("running");
    copy.wait().expect("ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_killed_half_way_leaves_both_as_they_were_postgres() {
    let (folder, _) = recorded(11).await;
    let database = database().await;
    let before = content(folder.path());
    let mut admin = server().client("postgres", &database.name).await;
    let watch = server().client("postgres", &database.name).await;
    let lock = admin.transaction().await.expect("begun");
    // The last table: everything else has arrived by then.
    let sql = "LOCK TABLE latchkey.requests IN SHARE MODE";
    lock.batch_execute(sql).await.expect("locked");
    let mut copy = begin_copy(folder.path(), &database.url);
    held(&watch, &mut copy).await;
    kill(copy);
    lock.rollback().await.expect("unlocked");
    gone(&watch).await;

    assert_eq!(rows_in(&database).await, 0);
    let empty = open_copy(&database).await;
    assert!(whole_log(&empty).await.is_empty());
    drop(empty);
    assert!(content(folder.path()) == before, "the source has changed");
    // It serves, and it can be copied again.
    Server::start(folder.path()).terminate();
    copy_to(folder.path(), &database.url).ok();
}

/// A copy that stands in the middle of its commit, and what it waits for.
async fn committing(database: &Database, folder: &std::path::Path) -> (Child, Client, Client) {
    let sql = "CREATE FUNCTION latchkey.hold() RETURNS trigger LANGUAGE plpgsql AS
          'BEGIN PERFORM pg_advisory_xact_lock(4711); RETURN NULL; END';
        CREATE CONSTRAINT TRIGGER hold AFTER UPDATE ON latchkey.head
          DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION latchkey.hold()";
    server().admin(&database.name, sql).await;
    let holder = server().client("postgres", &database.name).await;
    let watch = server().client("postgres", &database.name).await;
    let sql = "SELECT pg_advisory_lock(4711)";
    holder.batch_execute(sql).await.expect("held");
    let mut copy = begin_copy(folder, &database.url);
    held(&watch, &mut copy).await;
    (copy, holder, watch)
}

fn refused(folder: &std::path::Path, what: &str) {
    let said = Server::start_with(folder, &[]).err().expect("refused");
    assert!(said.contains(what), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_killed_while_it_commits_is_settled_by_the_next_postgres() {
    for commits in [true, false] {
        let (folder, _) = recorded(12).await;
        let database = database().await;
        let (copy, holder, watch) = committing(&database, folder.path()).await;
        kill(copy);
        // Whether it went through nobody knows: neither is served by mistake.
        refused(folder.path(), "cut short at the very end");
        let elsewhere = crate::postgres::database().await;
        let other = copy_to(folder.path(), &elsewhere.url);
        assert!(
            other.code == 1 && other.stderr.contains("MOVING"),
            "{}",
            other.stderr
        );
        let sql = match commits {
            true => "SELECT pg_advisory_unlock(4711)",
            false => {
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE datname = current_database() AND usename = 'latchkey_server'"
            }
        };
        holder.batch_execute(sql).await.expect("let go");
        gone(&watch).await;
        holder
            .batch_execute("SELECT pg_advisory_unlock_all()")
            .await
            .expect("let go");
        assert_eq!(rows_in(&database).await > 0, commits);

        let settled = copy_to(folder.path(), &database.url).json();
        assert_eq!(settled["already"], commits);
        refused(folder.path(), "was moved to");
        let (before, after) = (open(folder.path()), open_copy(&database).await);
        let heads = |log: Vec<latchkey::domain::entry::LogEntry>| -> Vec<_> {
            log.into_iter().map(|one| one.head).collect()
        };
        assert_eq!(
            heads(whole_log(&before).await),
            heads(whole_log(&after).await)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_moved_once_postgres() {
    let (folder, _) = recorded(13).await;
    let (one, other) = (database().await, database().await);
    copy_to(folder.path(), &one.url).ok();
    let again = copy_to(folder.path(), &one.url).json();
    assert_eq!(again["already"], true);
    let elsewhere = copy_to(folder.path(), &other.url);
    assert!(
        elsewhere.code == 1 && elsewhere.stderr.contains("MOVED"),
        "{}",
        elsewhere.stderr
    );
    assert_eq!(rows_in(&other).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_fails_leaves_the_store_unmarked_postgres() {
    let (folder, _) = recorded(14).await;
    let database = database().await;
    let sql = "CREATE FUNCTION latchkey.fail() RETURNS trigger LANGUAGE plpgsql AS
          'BEGIN RAISE EXCEPTION USING ERRCODE = ''53100''; END';
        CREATE CONSTRAINT TRIGGER fail AFTER UPDATE ON latchkey.head
          DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION latchkey.fail()";
    server().admin(&database.name, sql).await;
    let failed = copy_to(folder.path(), &database.url);
    assert!(
        failed.code == 3 && failed.stderr.contains("nothing was copied"),
        "{}",
        failed.stderr
    );
    assert_eq!(rows_in(&database).await, 0);
    Server::start(folder.path()).terminate();
}
