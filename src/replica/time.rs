//! The database's time, carried on by this server's boot clock.
//!
//! Servers on one database judge expiry by one clock: the database's at the last renewal plus
//! the boot time elapsed since, never backwards. It stands beside the machine's own readings: a
//! token is expired if any says so, and begins when all do. Without a database it adds nothing.
//!
//! A reading is of an instant between the call and its answer, so it says only between what bounds
//! the database's clock is ahead of ours; what lies between them is kept as it is. A database that
//! was ahead and was set back, or another one after a failover, is followed by standing still
//! until its time has caught up: nothing that was expired begins to live again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::domain::clock::{Clock, Now, UnixMs};

/// So far ahead of the database we stay without following it: clocks that run a little unevenly
/// need not stop every few seconds. Also how long a reader may take between its two readings when
/// we do stop: its time is not beyond where we stand still.
const AHEAD_MAX_MS: u64 = 1_000;

/// The machine's clock and the database's.
pub(super) struct SharedTime {
    clock: Arc<dyn Clock>,
    // The database's time less boot time; 0 before it was heard. Written by the keeper alone.
    ahead_ms: AtomicU64,
    // Never before this.
    floor_ms: AtomicU64,
}

impl SharedTime {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            ahead_ms: AtomicU64::new(0),
            floor_ms: AtomicU64::new(0),
        }
    }

    /// Takes a reading of the database's clock that has just arrived, in answer to what was sent
    /// at `sent_ms` of boot time. For the keeper only.
    pub(super) fn heard(&self, sent_ms: u64, database_ms: UnixMs) {
        let now_ms = self.clock.boot_ms();
        let least_ms = database_ms.saturating_sub(now_ms);
        let most_ms = database_ms.saturating_sub(sent_ms);
        let ahead_ms = self.ahead_ms.load(Ordering::Relaxed);
        if ahead_ms < least_ms {
            self.ahead_ms.store(least_ms, Ordering::Release);
        } else if ahead_ms > most_ms + AHEAD_MAX_MS {
            let floor_ms = ahead_ms + now_ms + AHEAD_MAX_MS;
            self.floor_ms.fetch_max(floor_ms, Ordering::Relaxed);
            // Released after the floor: who sees this sees the floor.
            self.ahead_ms.store(most_ms.max(1), Ordering::Release);
            let by_ms = ahead_ms - most_ms;
            tracing::warn!(
                by_ms,
                "the database's clock was set back; time stands still"
            );
        }
    }
}

impl Clock for SharedTime {
    fn now(&self) -> Now {
        let now = self.clock.now();
        match self.ahead_ms.load(Ordering::Acquire) {
            0 => now,
            ahead_ms => {
                let database = ahead_ms + self.clock.boot_ms();
                let database = database.max(self.floor_ms.load(Ordering::Relaxed));
                Now {
                    earliest: now.earliest.min(database),
                    latest: now.latest.max(database),
                }
            }
        }
    }

    fn boot_ms(&self) -> u64 {
        self.clock.boot_ms()
    }

    fn wall_ahead_ms(&self) -> i64 {
        self.clock.wall_ahead_ms()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::clock::ManualClock;

    const HOUR_MS: u64 = 3_600_000;

    fn begun(at_ms: u64) -> (Arc<ManualClock>, SharedTime) {
        let clock = Arc::new(ManualClock::at(at_ms));
        let shared = SharedTime::new(Arc::clone(&clock) as Arc<dyn Clock>);
        (clock, shared)
    }

    fn check(shared: &SharedTime, earliest: UnixMs, latest: UnixMs) {
        assert_eq!(shared.now(), Now { earliest, latest });
    }

    #[test]
    fn the_databases_time_stands_beside_the_machines_and_goes_on_with_boot_time() {
        let (clock, shared) = begun(1_000);
        check(&shared, 1_000, 1_000);
        shared.heard(1_000, 5_000);
        check(&shared, 1_000, 5_000);
        clock.advance(500);
        check(&shared, 1_500, 5_500);
    }

    #[test]
    fn a_reading_that_was_long_under_way_moves_nothing() {
        let (clock, shared) = begun(1_000);
        shared.heard(1_000, 50_000);
        clock.advance(20_000);
        shared.heard(1_000, 50_000);
        shared.heard(1_000, 70_000);
        check(&shared, 21_000, 70_000);
        // Nor does a clock that is a little slower than ours.
        shared.heard(21_000, 69_500);
        check(&shared, 21_000, 70_000);
        shared.heard(21_000, 71_000);
        check(&shared, 21_000, 71_000);
    }

    #[test]
    fn a_database_that_is_set_back_is_waited_for_and_not_followed_backwards() {
        let (clock, shared) = begun(1_000);
        shared.heard(1_000, 10 * HOUR_MS);
        clock.advance(100);
        shared.heard(1_100, 9 * HOUR_MS + 100);
        let stands_ms = 10 * HOUR_MS + 100 + AHEAD_MAX_MS;
        check(&shared, 1_100, stands_ms);
        clock.advance(HOUR_MS);
        check(&shared, 1_100 + HOUR_MS, stands_ms);
        clock.advance(AHEAD_MAX_MS + 50);
        check(&shared, clock.boot_ms(), stands_ms + 50);
    }

    #[test]
    fn a_database_behind_the_machine_expires_nothing_later() {
        let (_, shared) = begun(9_000);
        shared.heard(9_000, 2_000);
        assert_eq!(shared.now().latest, 9_000);
    }

    proptest! {
        // Steps: boot time that passes, how much of it the answer was under way, where the
        // database's clock is set to.
        #[test]
        fn it_never_runs_backwards_and_comes_back_to_the_databases_time(
            steps in prop::collection::vec((0..5_000_u64, 0..1_000_u64, 0..4_u64), 1..40),
        ) {
            let (clock, shared) = begun(1_000);
            let (mut former, mut highest) = (0, 0);
            let database = |hours: u64| clock.boot_ms() + (10 + hours) * HOUR_MS;
            for (passes, under_way, hours) in steps {
                clock.advance(passes);
                prop_assert!(shared.now().latest >= former);
                let (sent, read) = (clock.boot_ms(), database(hours));
                clock.advance(under_way);
                former = shared.now().latest;
                shared.heard(sent, read);
                prop_assert!(shared.now().latest >= former);
                // Ahead of it perhaps, behind it never by more than the answer was under way.
                prop_assert!(shared.now().latest + under_way >= database(hours));
                former = shared.now().latest;
                highest = highest.max(hours);
            }
            shared.heard(clock.boot_ms(), database(0));
            clock.advance((highest + 1) * HOUR_MS);
            let ahead = shared.now().latest - database(0);
            prop_assert!(ahead <= AHEAD_MAX_MS, "{ahead}");
        }
    }
}
