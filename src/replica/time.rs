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
