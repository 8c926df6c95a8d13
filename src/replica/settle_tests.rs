//! Settling while the database is away: what others are told meanwhile, and a stop.
//!
//! Time is virtual. Whether an outcome is settled rightly is the affair of the writer's tests.

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::tests::{DEADLINE, Fault, assert_same, create, start, start_with};
use super::*;

/// An append is lost, and then nobody answers for long.
fn lost_and_away() -> Vec<Fault> {
    let mut faults = vec![Fault::LostBefore];
    faults.resize(100, Fault::Silent);
    faults
}

type Submitted = JoinHandle<Result<Done, Refusal>>;

/// Submits in a task of its own, and comes back when it waits.
async fn submitted(replica: &Replica, user: &'static str) -> Submitted {
    let replica = replica.clone();
    let task = tokio::spawn(async move { replica.submit(create(user)).await });
    tokio::task::yield_now().await;
    task
}

/// The same, and its outcome is being settled then.
async fn unsettled(replica: &Replica) -> Submitted {
    let task = submitted(replica, "a").await;
    while replica.counters().unknown_outcomes.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    task
}

#[tokio::test(start_paused = true)]
async fn what_comes_while_an_outcome_is_settled_is_refused_and_not_written() {
    let (replica, task, store) = start(&lost_and_away()).await;
    let first = unsettled(&replica).await;
    let begun = Instant::now();
    for user in ["b", "c"] {
        let refused = replica.submit(create(user)).await;
        let refused = refused.expect_err("the database is away");
        assert!(matches!(refused, Refusal::Unavailable(_)), "{refused:?}");
    }
    assert!(begun.elapsed() < DEADLINE / 4, "{:?}", begun.elapsed());
    // Whoever caused it waits longer, but not for ever.
    let outcome = first.await.expect("no panic");
    assert_eq!(outcome.expect_err("nobody knows"), Refusal::OutcomeUnknown);
    assert!(begun.elapsed() < DEADLINE * 4, "{:?}", begun.elapsed());
    store.faults.lock().expect("test").clear();
    replica.submit(create("a")).await.expect("written");
    assert_eq!(replica.state().head().revision, 1);
    assert_same(&replica, &store);
    task.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_settled_soon_refuses_nobody() {
    let faults = [Fault::LostAfter, Fault::Unavailable, Fault::Unavailable];
    let (replica, task, store) = start(&faults).await;
    let first = unsettled(&replica).await;
    for user in ["b", "c"] {
        replica.submit(create(user)).await.expect("written");
    }
    first.await.expect("no panic").expect("written");
    assert_same(&replica, &store);
    task.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_until_an_outcome_is_settled() {
    let (replica, task, _store) = start(&lost_and_away()).await;
    let first = unsettled(&replica).await;
    let begun = Instant::now();
    task.stop().await;
    assert!(begun.elapsed() < DEADLINE / 4, "{:?}", begun.elapsed());
    let outcome = first.await.expect("no panic");
    assert_eq!(outcome.expect_err("nobody knows"), Refusal::OutcomeUnknown);
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_a_database_that_is_away_only_once() {
    let settings = Settings {
        batch_commands_max: 1,
        ..Settings::default()
    };
    let (replica, task, _store) = start_with(&[Fault::Silent; 100], settings).await;
    let mut queued = Vec::new();
    for user in ["a", "b", "c", "d"] {
        queued.push(submitted(&replica, user).await);
    }
    let begun = Instant::now();
    task.stop().await;
    assert!(begun.elapsed() < DEADLINE * 2, "{:?}", begun.elapsed());
    for task in queued.drain(1..) {
        let refused = task.await.expect("no panic").expect_err("stopping");
        assert!(matches!(refused, Refusal::Unavailable(_)), "{refused:?}");
    }
}
