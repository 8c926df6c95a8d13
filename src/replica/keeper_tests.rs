//! Which members the keeper holds for dead, by readings of their heartbeats in turn, when wall
//! and boot time have parted, and what a renewal is compared with.
//!
//! The rest of the keeper is the affair of the simulation.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU32};

use async_trait::async_trait;

use super::keeper::Trouble;
use super::tests::{ScriptedStore, publish, shared};
use super::*;
use crate::domain::chain::Head;
use crate::domain::change::Change;
use crate::domain::clock::{ManualClock, Now};
use crate::domain::entropy::SeededEntropy;
use crate::domain::entry::{Actor, Entry, EntryKind};
use crate::store::cluster::{Cluster, History, Joining, Member, Renewal, Renewed, Roster};

/// 5,000 ms of lease with the slack.
const OVER_MS: u64 = 5_251;

fn keeper() -> Keeper {
    keeper_by(Arc::new(ManualClock::at(0)))
}

fn keeper_by(clock: Arc<dyn Clock>) -> Keeper {
    keeper_of(shared(clock))
}

fn keeper_of(shared: Arc<Shared>) -> Keeper {
    let (follows, _) = mpsc::channel(1);
    Keeper::new(
        shared,
        follows,
        Arc::new(SeededEntropy::new(1)),
        &Settings::default(),
        CancellationToken::new(),
    )
}

fn roster(heartbeats: &[(u8, u64)]) -> Roster {
    let member = |&(number, heartbeat): &(u8, u64)| Member {
        incarnation: Incarnation([number; 16]),
        name: "same".to_owned(),
        address: String::new(),
        lease_ms: 5_000,
        heartbeat,
        applied: 0,
        format_max: 1,
        joined_ms: 0,
        reported_ms: 0,
        serves_stale: false,
        keys: Vec::new(),
    };
    Roster {
        members: heartbeats.iter().map(member).collect(),
        lease_ms: 5_000,
        head: Head::EMPTY,
        database_ms: 0,
    }
}

/// When, the heartbeats, and who is dead by then.
type Reading<'a> = (u64, &'a [(u8, u64)], &'a [u8]);

/// Readings of the members in turn.
fn check(readings: &[Reading<'_>]) {
    let mut keeper = keeper();
    for (now_ms, heartbeats, expected) in readings {
        let dead = keeper.dead(&roster(heartbeats), *now_ms);
        let dead: Vec<(u8, u64)> = dead.iter().map(|(id, beat)| (id.0[0], *beat)).collect();
        let beats = heartbeats.iter().filter(|(id, _)| expected.contains(id));
        assert_eq!(dead, beats.copied().collect::<Vec<_>>(), "at {now_ms}");
    }
}

/// A machine whose wall clock is set.
struct Set(AtomicI64);

impl Clock for Set {
    fn now(&self) -> Now {
        Now::at(self.boot_ms())
    }

    fn boot_ms(&self) -> u64 {
        1_000
    }

    fn wall_ahead_ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[test]
fn clocks_have_parted_when_either_ran_away_since_the_last_look_whichever_way() {
    let clock = Arc::new(Set(AtomicI64::new(0)));
    let mut keeper = keeper_by(Arc::clone(&clock) as Arc<dyn Clock>);
    // 5,000 ms of lease have 251 of slack.
    let looks = [
        (-700, false),
        (-700, false),
        (-449, false),
        (-198, false),
        (54, true),
        (54, false),
        (400, true),
        // As far from where it began, on the other side.
        (-400, true),
        (-400, false),
    ];
    for (ahead_ms, parted) in looks {
        clock.0.store(ahead_ms, Ordering::Relaxed);
        assert_eq!(keeper.clocks_parted(), parted, "{ahead_ms}");
    }
}

#[test]
fn a_member_is_dead_once_its_heartbeat_stood_still_for_a_lease() {
    check(&[
        (100, &[(1, 7)], &[]),
        (100 + OVER_MS - 1, &[(1, 7)], &[]),
        (100 + OVER_MS, &[(1, 7)], &[1]),
    ]);
}

#[test]
fn a_heartbeat_that_moved_begins_it_anew_also_backwards() {
    check(&[
        (100, &[(1, 7), (2, 7)], &[]),
        (5_000, &[(1, 8), (2, 6)], &[]),
        (100 + OVER_MS, &[(1, 8), (2, 6)], &[]),
        (5_000 + OVER_MS, &[(1, 8), (2, 6)], &[1, 2]),
    ]);
}

#[test]
fn who_was_gone_is_observed_anew() {
    check(&[
        (100, &[(1, 7)], &[]),
        (200, &[], &[]),
        (100 + OVER_MS, &[(1, 7)], &[]),
        (100 + 2 * OVER_MS, &[(1, 7)], &[1]),
    ]);
}

#[test]
fn a_keeper_does_not_remove_itself_nor_goes_by_the_shorter_lease() {
    let mut keeper = keeper();
    let mut longer = roster(&[(0, 1), (1, 1)]);
    longer.lease_ms = 10_000;
    assert!(keeper.dead(&longer, 0).is_empty());
    assert!(keeper.dead(&longer, OVER_MS).is_empty());
    // It has not joined: its own incarnation is all zero.
    let other = Incarnation([1; 16]);
    assert_eq!(keeper.dead(&longer, 10_501), [(other, 1)]);
}

#[test]
fn who_loads_is_not_dead_before_the_load_is_given_up() {
    const LOAD_MS_MAX: u64 = 30 * 60 * 1_000;
    let mut keeper = keeper();
    let mut loading = roster(&[(1, 0)]);
    loading.members[0].lease_ms = 0;
    assert!(keeper.dead(&loading, 100).is_empty());
    assert!(keeper.dead(&loading, 100 + LOAD_MS_MAX).is_empty());
    let over_ms = 100 + LOAD_MS_MAX + LOAD_MS_MAX / 20 + 1;
    assert!(keeper.dead(&loading, over_ms - 1).is_empty());
    let loaded = Incarnation([1; 16]);
    assert_eq!(keeper.dead(&loading, over_ms), [(loaded, 0)]);
    // Then it has a lease.
    loading.members[0] = roster(&[(1, 1)]).members[0].clone();
    assert!(keeper.dead(&loading, over_ms).is_empty());
    assert_eq!(keeper.dead(&loading, over_ms + OVER_MS), [(loaded, 1)]);
}

#[test]
fn who_serves_stale_is_not_dead_however_long_it_is_silent() {
    let mut keeper = keeper();
    let mut silent = roster(&[(1, 7), (2, 7)]);
    silent.members[0].serves_stale = true;
    assert!(keeper.dead(&silent, 0).is_empty());
    let day_ms = 86_400_000;
    assert_eq!(keeper.dead(&silent, day_ms), [(Incarnation([2; 16]), 7)]);
}

#[tokio::test]
async fn one_member_is_removed_at_a_time() {
    let (mut keeper, renewing, clock) = keeper_on(head(8, 8), &[]);
    let gone = roster(&[(1, 7), (2, 7), (3, 7)]);
    keeper.remove_dead(&gone).await;
    clock.set(100 + OVER_MS);
    for expected in 1..=3 {
        keeper.remove_dead(&gone).await;
        assert_eq!(renewing.removals.load(Ordering::Relaxed), expected);
    }
}

#[test]
fn whoever_is_behind_the_cut_loads_anew() {
    let cut = Head {
        revision: 9,
        chain: [1; 32],
    };
    let behind = Trouble::from(StoreError::Trimmed { asked: 7, cut });
    assert!(matches!(behind, Trouble::Diverged(_)), "{behind:?}");
    let away = Trouble::from(StoreError::Unavailable("away".to_owned()));
    assert!(matches!(away, Trouble::Store(_)), "{away:?}");
}

fn head(revision: u64, chain: u8) -> Head {
    Head {
        revision,
        chain: [chain; 32],
    }
}

/// A database that answers renewals with this head, and what the writer publishes before it does.
struct Renewing {
    head: Head,
    meanwhile: Vec<Head>,
    // What its log has.
    log: Mutex<Vec<Head>>,
    timeline: AtomicU32,
    removals: AtomicU32,
    shared: OnceLock<Arc<Shared>>,
}

fn unused<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable("not asked here".to_owned()))
}

#[async_trait]
impl Cluster for Renewing {
    async fn join(&self, _: &Joining) -> Result<u64, StoreError> {
        unused()
    }

    async fn renew(&self, renewal: &Renewal) -> Result<Renewed, StoreError> {
        let shared = self.shared.get().expect("set");
        for head in &self.meanwhile {
            publish(shared, head.revision, head.chain);
        }
        Ok(Renewed::Held {
            head: self.head,
            chain_at_applied: Some(renewal.applied.chain),
            database_ms: 0,
            history: History {
                system: 1,
                timeline: self.timeline.load(Ordering::Relaxed),
            },
        })
    }

    async fn report(&self, _: Incarnation, _: Head) -> Result<(), StoreError> {
        unused()
    }

    async fn roster(&self) -> Result<Roster, StoreError> {
        unused()
    }

    async fn leave(&self, _: Incarnation) -> Result<(), StoreError> {
        unused()
    }

    async fn remove(&self, _: Incarnation, _: u64) -> Result<bool, StoreError> {
        self.removals.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    async fn feed(&self, behind: RevisionNumber, most: usize) -> Result<Vec<LogEntry>, StoreError> {
        let log = self.log.lock().expect("no panic");
        let next = log.iter().filter(|head| head.revision > behind);
        Ok(next.take(most).map(|head| entry_at(*head)).collect())
    }

    fn wakes(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }
}

fn entry_at(head: Head) -> LogEntry {
    let entry = Entry {
        revision: head.revision,
        instant_ms: 1,
        actor: Actor {
            principal: None,
            token: None,
            name: "system".to_owned(),
        },
        kind: EntryKind::Forget,
        target: String::new(),
        reason: String::new(),
        batch_id: [0; 16],
        request: None,
        state_digest: None,
        change: Change::RaiseFormat(1),
    };
    LogEntry {
        entry,
        body: Vec::new(),
        head,
    }
}

/// A keeper at revision 8 whose renewals are answered so, while these heads are published.
fn keeper_on(log_head: Head, meanwhile: &[Head]) -> (Keeper, Arc<Renewing>, Arc<ManualClock>) {
    let renewing = Arc::new(Renewing {
        head: log_head,
        meanwhile: meanwhile.to_vec(),
        log: Mutex::default(),
        timeline: AtomicU32::new(1),
        removals: AtomicU32::new(0),
        shared: OnceLock::new(),
    });
    let members = Arc::clone(&renewing) as Arc<dyn Cluster>;
    let store = Arc::new(ScriptedStore::of(members));
    let clock = Arc::new(ManualClock::at(100));
    let timed = Arc::clone(&clock) as Arc<dyn Clock>;
    let shared = Arc::new(Shared::new(store, timed, &Settings::default(), None));
    publish(&shared, 8, [8; 32]);
    let _ = renewing.shared.set(Arc::clone(&shared));
    (keeper_of(shared), renewing, clock)
}

/// The second renewal of such a keeper, with this log behind it: whether State is the log's by
/// that, and whether the lease is held then.
async fn renewed(log_head: Head, meanwhile: &[Head], log: &[Head]) -> (bool, bool) {
    let (mut keeper, renewing, _) = keeper_on(log_head, meanwhile);
    *renewing.log.lock().expect("no panic") = log.to_vec();
    keeper.is_awaited = true;
    renewed_by(&mut keeper, &renewing).await
}

async fn renewed_by(keeper: &mut Keeper, renewing: &Renewing) -> (bool, bool) {
    let agrees = match keeper.renew().await {
        Ok(()) => true,
        Err(Trouble::Diverged(_)) => false,
        Err(other) => panic!("{other:?}"),
    };
    (agrees, renewing.shared.get().expect("set").may_answer())
}

#[tokio::test]
async fn what_was_followed_must_lead_to_the_head_of_the_renewal() {
    let (same, other) = (head(9, 9), head(9, 7));
    // The writer has heard of revision 9 from the former primary, the renewal of another from
    // the next one: a failover between the two.
    assert_eq!(renewed(same, &[same], &[]).await, (true, true));
    assert_eq!(renewed(other, &[same], &[]).await, (false, false));
    let beyond = [same, head(10, 10)];
    assert_eq!(renewed(same, &beyond, &[]).await, (true, true));
    assert_eq!(renewed(other, &beyond, &[]).await, (false, false));
    // So much has come meanwhile that nobody remembers: the log tells.
    let last = head(9 + 4_096, 10);
    let far = [same, last];
    assert_eq!(renewed(same, &far, &far).await, (true, true));
    assert_eq!(renewed(other, &far, &far).await, (false, false));
    assert_eq!(renewed(other, &far, &[other, last]).await, (true, true));
    let lost = [same, head(9 + 4_096, 11)];
    assert_eq!(renewed(same, &far, &lost).await, (false, false));
    assert_eq!(renewed(same, &far, &[same]).await, (false, false));
}

#[tokio::test]
async fn the_first_renewal_of_a_member_gives_no_lease() {
    let (mut keeper, renewing, _) = keeper_on(head(8, 8), &[]);
    assert_eq!(renewed_by(&mut keeper, &renewing).await, (true, false));
    assert_eq!(renewed_by(&mut keeper, &renewing).await, (true, true));
    // A failover may have lost what the row said of a lease.
    renewing.timeline.store(2, Ordering::Relaxed);
    assert_eq!(renewed_by(&mut keeper, &renewing).await, (true, false));
    assert_eq!(renewed_by(&mut keeper, &renewing).await, (true, true));
}
