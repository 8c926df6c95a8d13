//! One barrier against scripted members: by reports, by time, in vain.
//!
//! Time is virtual, so that what is waited out is waited out to the millisecond.

use std::collections::VecDeque;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, advance};

use super::barrier::Barrier;
use super::recent::RECENT_MAX;
use super::tests::{VirtualClock, publish, shared};
use super::*;
use crate::domain::chain::Head;
use crate::store::cluster::{Cluster, Joining, Member, Renewal, Renewed, Roster};

const CHAIN: [u8; 32] = [3; 32];
const OWN: Incarnation = Incarnation([1; 16]);
/// 1,000 ms of lease, 5 in a hundred and one for the reading of the clock.
const WITH_SLACK_MS: u64 = 1_051;

/// Members that are read in this order, the last of them for ever; none cannot be read.
struct Members {
    rosters: Mutex<VecDeque<Option<Roster>>>,
    readings: AtomicU64,
}

fn member(number: u8, applied: u64, lease_ms: u64) -> Member {
    Member {
        incarnation: Incarnation([number; 16]),
        name: format!("m{number}"),
        address: String::new(),
        lease_ms,
        heartbeat: 1,
        applied,
        format_max: 1,
        joined_ms: 0,
        reported_ms: 0,
        serves_stale: false,
        keys: Vec::new(),
    }
}

fn roster(members: &[Member]) -> Option<Roster> {
    Some(Roster {
        members: members.to_vec(),
        lease_ms: 1_000,
        head: Head {
            revision: 9,
            chain: CHAIN,
        },
        database_ms: 0,
    })
}

fn unused<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable("not asked here".to_owned()))
}

#[async_trait]
impl Cluster for Members {
    async fn join(&self, _: &Joining) -> Result<u64, StoreError> {
        unused()
    }

    async fn renew(&self, _: &Renewal) -> Result<Renewed, StoreError> {
        unused()
    }

    async fn report(&self, _: Incarnation, _: Head) -> Result<(), StoreError> {
        unused()
    }

    async fn roster(&self) -> Result<Roster, StoreError> {
        self.readings.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
        let mut rosters = self.rosters.lock().unwrap();
        let next = match rosters.len() {
            1 => rosters[0].clone(),
            _ => rosters.pop_front().flatten(),
        };
        next.map_or_else(unused, Ok)
    }

    async fn leave(&self, _: Incarnation) -> Result<(), StoreError> {
        unused()
    }

    async fn remove(&self, _: Incarnation, _: u64) -> Result<bool, StoreError> {
        unused()
    }

    async fn feed(&self, _: RevisionNumber, _: usize) -> Result<Vec<LogEntry>, StoreError> {
        unused()
    }

    fn wakes(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }
}

/// Waits for revision 9, committed just now; returns how long that took, and the readings.
async fn wait(
    rosters: &[Option<Roster>],
    most_ms: u64,
    barriers: usize,
) -> (Vec<Enforced>, u64, u64) {
    wait_at(9, rosters, most_ms, barriers).await
}

/// The same, with our own State at another revision.
async fn wait_at(
    own_revision: u64,
    rosters: &[Option<Roster>],
    most_ms: u64,
    barriers: usize,
) -> (Vec<Enforced>, u64, u64) {
    let shared = shared(Arc::new(VirtualClock::begun()));
    wait_on(shared, own_revision, rosters, most_ms, barriers).await
}

async fn wait_on(
    shared: Arc<Shared>,
    own_revision: u64,
    rosters: &[Option<Roster>],
    most_ms: u64,
    barriers: usize,
) -> (Vec<Enforced>, u64, u64) {
    let members = Members {
        rosters: Mutex::new(rosters.iter().cloned().collect()),
        readings: AtomicU64::new(0),
    };
    // By way of what the members have reported.
    publish(&shared, 9, CHAIN);
    publish(&shared, own_revision, CHAIN);
    let begun = Instant::now();
    advance(Duration::from_millis(1)).await;
    let barrier = || Barrier {
        shared: &shared,
        cluster: &members,
        lease: LeaseSettings {
            length_ms: 1_000,
            ..LeaseSettings::default()
        },
        incarnation: OWN,
        durable: Durable {
            revision: 9,
            committed_ms: shared.clock.boot_ms() - 1,
            loaded: 0,
        },
    };
    let barriers: Vec<_> = (0..barriers).map(|_| barrier()).collect();
    let most = Duration::from_millis(most_ms);
    let waits = barriers.iter().map(|one| one.wait(most));
    let enforced = futures_util::future::join_all(waits).await;
    // Since the commit.
    let taken_ms = begun.elapsed().as_millis() as u64;
    (enforced, taken_ms, members.readings.load(Ordering::Relaxed))
}

fn confirmed(names: &[&str]) -> Enforced {
    Enforced::Confirmed {
        replicas: names.iter().map(|name| (*name).to_owned()).collect(),
    }
}

#[tokio::test(start_paused = true)]
async fn it_is_confirmed_once_every_member_has_reported() {
    let late = roster(&[member(2, 9, 1_000), member(3, 8, 1_000)]);
    let all = roster(&[member(2, 9, 1_000), member(3, 10, 1_000)]);
    let (enforced, taken_ms, readings) = wait(&[late, all], 5_000, 1).await;
    assert_eq!(enforced, [confirmed(&["m2", "m3"])]);
    assert!(taken_ms <= 3, "{taken_ms}");
    assert_eq!(readings, 2);
}

#[tokio::test(start_paused = true)]
async fn a_silent_member_is_waited_out_and_not_a_millisecond_less() {
    let silent = roster(&[member(2, 9, 1_000), member(3, 8, 1_000)]);
    let (enforced, taken_ms, _) = wait(&[silent], 5_000, 1).await;
    assert_eq!(enforced, [confirmed(&["m2"])]);
    assert_eq!(taken_ms, WITH_SLACK_MS);
}

#[tokio::test(start_paused = true)]
async fn the_longest_lease_counts_and_never_less_than_the_clusters() {
    for (lease_ms, expected_ms) in [(2_000, 2_101), (10, WITH_SLACK_MS)] {
        let silent = roster(&[member(3, 8, lease_ms)]);
        let (enforced, taken_ms, _) = wait(&[silent], 5_000, 1).await;
        assert_eq!(enforced, [confirmed(&[])]);
        assert_eq!(taken_ms, expected_ms);
    }
}

#[tokio::test(start_paused = true)]
async fn at_the_deadline_it_tells_how_long_and_who_is_missing() {
    let silent = roster(&[member(2, 9, 1_000), member(3, 8, 1_000)]);
    let (enforced, _, _) = wait(&[silent], 300, 1).await;
    let committed = Enforced::Committed {
        // The deadline began a millisecond after the commit.
        everywhere_after_ms: Some(WITH_SLACK_MS - 301),
        replicas: vec!["m2".to_owned()],
        missing: vec!["m3".to_owned()],
    };
    assert_eq!(enforced, [committed]);
}

#[tokio::test(start_paused = true)]
async fn one_reading_of_the_members_serves_all_that_wait() {
    let silent = roster(&[member(3, 8, 1_000)]);
    let (_, _, alone) = wait(std::slice::from_ref(&silent), 300, 1).await;
    let (enforced, _, together) = wait(&[silent], 300, 20).await;
    assert_eq!(enforced.len(), 20);
    assert_eq!(alone, together);
}

#[tokio::test(start_paused = true)]
async fn members_that_cannot_be_read_may_hold_the_longest_lease_there_is() {
    let most_ms = LEASE_MS_MAX + LEASE_MS_MAX / 20 + 1;
    let mut stale = member(2, 9, 1_000);
    stale.serves_stale = true;
    // Unless they may answer without one, by what was seen before.
    for (before, after_ms) in [
        (None, None),
        (roster(&[stale]), None),
        (roster(&[member(2, 9, 1_000)]), Some(most_ms - 301)),
    ] {
        let shared = shared(Arc::new(VirtualClock::begun()));
        if let Some(before) = before {
            shared.seen(&before);
        }
        let (enforced, _, _) = wait_on(shared, 9, &[None], 300, 1).await;
        let committed = Enforced::Committed {
            everywhere_after_ms: after_ms,
            replicas: Vec::new(),
            missing: Vec::new(),
        };
        assert_eq!(enforced, [committed]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_that_serves_stale_is_never_waited_out() {
    let mut stale = member(3, 8, 1_000);
    stale.serves_stale = true;
    let silent = roster(&[member(2, 9, 1_000), stale.clone()]);
    let (enforced, taken_ms, _) = wait(std::slice::from_ref(&silent), 60_000, 1).await;
    let committed = Enforced::Committed {
        everywhere_after_ms: None,
        replicas: vec!["m2".to_owned()],
        missing: vec!["m3".to_owned()],
    };
    assert_eq!(enforced, [committed]);
    assert_eq!(taken_ms, 60_001);
    // Another that is silent is not missing it any less.
    let both = roster(&[member(2, 8, 1_000), stale.clone()]);
    stale.applied = 9;
    let reported = roster(&[member(2, 8, 1_000), stale]);
    let (enforced, taken_ms, _) = wait(&[both, reported], 60_000, 1).await;
    assert_eq!(enforced, [confirmed(&["m3"])]);
    assert_eq!(taken_ms, WITH_SLACK_MS);
    // And it may not be there any more.
    let left = roster(&[member(2, 9, 1_000)]);
    let (enforced, _, _) = wait(&[silent, left], 60_000, 1).await;
    assert_eq!(enforced, [confirmed(&["m2"])]);
}

#[tokio::test(start_paused = true)]
async fn one_reading_since_the_commit_is_enough_to_wait_it_out() {
    let silent = roster(&[member(3, 8, 1_000)]);
    let (enforced, taken_ms, _) = wait(&[None, silent, None], 5_000, 1).await;
    assert_eq!(enforced, [confirmed(&[])]);
    assert_eq!(taken_ms, WITH_SLACK_MS);
}

#[tokio::test(start_paused = true)]
async fn a_log_that_ends_before_the_change_confirms_nothing() {
    let mut behind = roster(&[member(2, 9, 1_000)]);
    if let Some(roster) = &mut behind {
        roster.head.revision = 8;
    }
    let (enforced, _, _) = wait(&[behind], 5_000, 1).await;
    assert_eq!(enforced, [Enforced::Lost]);
}

#[tokio::test(start_paused = true)]
async fn a_log_with_another_head_than_ours_confirms_nothing() {
    let mut other = roster(&[member(2, 9, 1_000)]);
    if let Some(roster) = &mut other {
        roster.head.chain = [4; 32];
    }
    let (enforced, _, _) = wait(&[other], 5_000, 1).await;
    assert_eq!(enforced, [Enforced::Lost]);
}

#[tokio::test(start_paused = true)]
async fn reports_are_believed_once_our_state_is_where_they_were_read() {
    // The log has gone on; what it goes on with may be another history.
    let mut ahead = roster(&[member(2, 9, 1_000)]);
    if let Some(roster) = &mut ahead {
        roster.head.revision = 12;
    }
    let (enforced, taken_ms, _) = wait(std::slice::from_ref(&ahead), 5_000, 1).await;
    assert_eq!(enforced, [confirmed(&["m2"])]);
    assert_eq!(taken_ms, WITH_SLACK_MS);
    let (enforced, taken_ms, _) = wait_at(12, &[ahead], 5_000, 1).await;
    assert_eq!(enforced, [confirmed(&["m2"])]);
    assert!(taken_ms <= 3, "{taken_ms}");
}

#[tokio::test(start_paused = true)]
async fn reports_of_a_head_that_nobody_remembers_are_not_believed() {
    // Our own State has gone on so far that it cannot be told which history they are of.
    let mut other = roster(&[member(2, 9, 1_000)]);
    if let Some(roster) = &mut other {
        roster.head.chain = [4; 32];
    }
    let far = 9 + RECENT_MAX as u64;
    let (enforced, taken_ms, _) = wait_at(far, std::slice::from_ref(&other), 5_000, 1).await;
    assert_eq!(enforced, [confirmed(&["m2"])]);
    assert_eq!(taken_ms, WITH_SLACK_MS);
    // They are read again, and then it can.
    let mut later = roster(&[member(2, far, 1_000)]);
    if let Some(roster) = &mut later {
        roster.head.revision = far;
    }
    let (enforced, taken_ms, readings) = wait_at(far, &[other, later], 5_000, 1).await;
    assert_eq!(enforced, [confirmed(&["m2"])]);
    assert!(taken_ms <= 3 && readings == 2, "{taken_ms} {readings}");
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_who_has_only_joined() {
    let joined = roster(&[member(2, 9, 1_000), member(3, 0, 0)]);
    let (enforced, taken_ms, _) = wait(std::slice::from_ref(&joined), 5_000, 1).await;
    assert_eq!(enforced, [confirmed(&["m2"])]);
    assert!(taken_ms <= 3, "{taken_ms}");
    // Its name is not among those that are missing.
    let silent = roster(&[member(2, 8, 1_000), member(3, 0, 0)]);
    let (enforced, _, _) = wait(&[silent], 300, 1).await;
    let committed = Enforced::Committed {
        everywhere_after_ms: Some(WITH_SLACK_MS - 301),
        replicas: Vec::new(),
        missing: vec!["m2".to_owned()],
    };
    assert_eq!(enforced, [committed]);
}
