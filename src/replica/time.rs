//! The database's time, carried on by this server's boot clock.
//!
//! Servers on one database judge expiry by one clock: the database's at the last renewal plus
//! the boot time elapsed since, never backwards. It stands beside the machine's own readings: a
//! token is expired if any says so, and begins when all do. Without a database it adds nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::domain::clock::{Clock, Now, UnixMs};

/// The machine's clock and the database's.
pub(super) struct SharedTime {
    clock: Arc<dyn Clock>,
    // The database's time less boot time; 0 before it was heard.
    ahead_ms: AtomicU64,
}

impl SharedTime {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            ahead_ms: AtomicU64::new(0),
        }
    }

    /// Takes a reading of the database's clock that has just arrived.
    pub(super) fn heard(&self, database_ms: UnixMs) {
        let ahead_ms = database_ms.saturating_sub(self.clock.boot_ms());
        self.ahead_ms.fetch_max(ahead_ms, Ordering::Relaxed);
    }

    /// How far the machine's wall clock and its boot clock have parted since the start.
    pub(super) fn apart_ms(&self) -> u64 {
        let now = self.clock.now();
        now.latest - now.earliest
    }
}

impl Clock for SharedTime {
    fn now(&self) -> Now {
        let now = self.clock.now();
        match self.ahead_ms.load(Ordering::Relaxed) {
            0 => now,
            ahead_ms => {
                let database = ahead_ms + self.clock.boot_ms();
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::clock::ManualClock;

    fn check(shared: &SharedTime, earliest: UnixMs, latest: UnixMs) {
        assert_eq!(shared.now(), Now { earliest, latest });
    }

    #[test]
    fn the_databases_time_stands_beside_the_machines_and_goes_on_with_boot_time() {
        let clock = Arc::new(ManualClock::at(1_000));
        let shared = SharedTime::new(Arc::clone(&clock) as Arc<dyn Clock>);
        check(&shared, 1_000, 1_000);
        shared.heard(5_000);
        check(&shared, 1_000, 5_000);
        clock.advance(500);
        check(&shared, 1_500, 5_500);
    }

    #[test]
    fn the_databases_time_never_runs_backwards() {
        let clock = Arc::new(ManualClock::at(1_000));
        let shared = SharedTime::new(Arc::clone(&clock) as Arc<dyn Clock>);
        shared.heard(5_000);
        clock.advance(100);
        // A reply that was long under way, and then a database whose clock was set back.
        shared.heard(5_050);
        check(&shared, 1_100, 5_100);
        shared.heard(10);
        check(&shared, 1_100, 5_100);
        shared.heard(6_000);
        check(&shared, 1_100, 6_000);
    }

    #[test]
    fn a_database_behind_the_machine_expires_nothing_later() {
        let clock = Arc::new(ManualClock::at(9_000));
        let shared = SharedTime::new(Arc::clone(&clock) as Arc<dyn Clock>);
        shared.heard(2_000);
        let now = shared.now();
        assert_eq!(now.latest, 9_000);
    }
}
