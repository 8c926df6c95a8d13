//! Time as a parameter. The only file that reads a clock.
//!
//! Expiry must survive a wall clock that is set back and a process that is suspended, so two
//! readings travel together: the wall clock, and the wall clock at start plus the boot time
//! elapsed since (`CLOCK_BOOTTIME`, which runs on in suspend, where Rust's `Instant` stops).
//! A token is expired if either says so; not-before needs both.

use std::sync::atomic::{AtomicU64, Ordering};

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds since the Unix epoch.
pub type UnixMs = u64;

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The earlier of the two readings: not-before is judged by it.
    pub earliest: UnixMs,
    /// The later of the two readings: expiry is judged by it, entries are stamped with it.
    pub latest: UnixMs,
}

impl Now {
    /// Both readings the same, for tests and replays.
    #[must_use]
    pub fn at(unix_ms: UnixMs) -> Self {
        Self {
            earliest: unix_ms,
            latest: unix_ms,
        }
    }

    /// This reading, but never before `floor`: State never sees time run backwards.
    #[must_use]
    pub fn not_before(self, floor: UnixMs) -> Self {
        Self {
            earliest: self.earliest.max(floor),
            latest: self.latest.max(floor),
        }
    }
}

/// Where the time comes from.
pub trait Clock: Send + Sync {
    /// Reads the clocks; never cached.
    fn now(&self) -> Now;

    /// Milliseconds of boot time, for deadlines and durations within this process.
    fn boot_ms(&self) -> u64;

    /// How many milliseconds the wall clock has gained on boot time since the start; below 0 if it
    /// has lost. A wall clock that was set shows here, and a machine that was stopped whole.
    fn wall_ahead_ms(&self) -> i64;
}

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    // Wall time minus boot time when the process started.
    wall_offset_ms: u64,
}

impl SystemClock {
    /// Reads the offset between wall and boot time that the second reading relies on.
    #[must_use]
    pub fn start() -> Self {
        let boot = read_ms(ClockId::Boottime);
        Self {
            wall_offset_ms: read_ms(ClockId::Realtime).saturating_sub(boot),
        }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Now {
        let wall = read_ms(ClockId::Realtime);
        let steady = self.wall_offset_ms + read_ms(ClockId::Boottime);
        Now {
            earliest: wall.min(steady),
            latest: wall.max(steady),
        }
    }

    fn boot_ms(&self) -> u64 {
        read_ms(ClockId::Boottime)
    }

    fn wall_ahead_ms(&self) -> i64 {
        let steady = self.wall_offset_ms + read_ms(ClockId::Boottime);
        signed(read_ms(ClockId::Realtime)) - signed(steady)
    }
}

/// Nanoseconds since the Unix epoch, for telemetry: nothing is decided by it.
#[must_use]
pub fn unix_nanos() -> u64 {
    let time = clock_gettime(ClockId::Realtime);
    // Some 584 years since then.
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

// Far below the end of either type for any time that is a date.
fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

fn read_ms(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    // Both fields are non-negative for these clocks on any machine set after 1970.
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000
        + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000
}

/// A clock that tests set by hand.
#[derive(Debug)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// A clock that stands at `unix_ms`.
    #[must_use]
    pub fn at(unix_ms: UnixMs) -> Self {
        Self(AtomicU64::new(unix_ms))
    }

    /// Moves the clock forward.
    pub fn advance(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }

    /// Sets the clock, also backwards.
    pub fn set(&self, unix_ms: UnixMs) {
        self.0.store(unix_ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Now {
        Now::at(self.0.load(Ordering::SeqCst))
    }

    fn boot_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn wall_ahead_ms(&self) -> i64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_readings_are_ordered_and_after_2020() {
        let clock = SystemClock::start();
        let now = clock.now();
        assert!(now.earliest <= now.latest);
        assert!(now.earliest > 1_577_836_800_000);
        assert!(clock.boot_ms() > 0);
        assert!(clock.wall_ahead_ms().abs() < 60_000);
    }

    #[test]
    fn a_floor_lifts_both_readings() {
        let now = Now {
            earliest: 5,
            latest: 9,
        };
        assert_eq!(now.not_before(7).earliest, 7);
        assert_eq!(now.not_before(7).latest, 9);
        assert_eq!(now.not_before(20), Now::at(20));
    }
}
