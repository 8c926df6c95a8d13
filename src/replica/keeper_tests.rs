//! Which members the keeper holds for dead, by readings of their heartbeats in turn, and when wall
//! and boot time have parted.
//!
//! The rest of the keeper is the affair of the simulation.

use std::sync::atomic::AtomicI64;

use super::keeper::Trouble;
use super::tests::shared;
use super::*;
use crate::domain::chain::Head;
use crate::domain::clock::{ManualClock, Now};
use crate::domain::entropy::SeededEntropy;
use crate::store::cluster::{Member, Roster};

/// 5,000 ms of lease with the slack.
const OVER_MS: u64 = 5_251;

fn keeper() -> Keeper {
    keeper_by(Arc::new(ManualClock::at(0)))
}

fn keeper_by(clock: Arc<dyn Clock>) -> Keeper {
    let (follows, _) = mpsc::channel(1);
    Keeper::new(
        shared(clock),
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
