//! So many of something in a second, counted without a lock.
//!
//! Used for access lines of denials and for traces that callers ask for. Seconds are those since it
//! was made. Absent on purpose: a burst beyond the second, and who it is that asks: whoever comes
//! first has it.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;

/// How many there may be in a second, and how many there were in this one.
#[derive(Debug)]
pub struct PerSecond {
    begun: Instant,
    most: u32,
    // The second since the beginning, and how many there were in it, in one word.
    window: AtomicU64,
}

impl PerSecond {
    /// At most so many.
    #[must_use]
    pub fn new(most: u32) -> Self {
        Self {
            begun: Instant::now(),
            most,
            window: AtomicU64::new(0),
        }
    }

    /// At most how many.
    #[must_use]
    pub fn most(&self) -> u32 {
        self.most
    }

    /// Whether there may be another at this instant; it is not counted yet.
    #[must_use]
    pub fn has_room(&self, at: Instant) -> bool {
        self.used(self.window.load(Ordering::Relaxed), at) < self.most
    }

    /// Counts one: whether there may be one.
    #[must_use]
    pub fn admit(&self, at: Instant) -> bool {
        let next = |window: u64| {
            let used = self.used(window, at);
            let second = self.second(at).max(window >> 32);
            (used < self.most).then(|| second << 32 | u64::from(used + 1))
        };
        let relaxed = Ordering::Relaxed;
        self.window.fetch_update(relaxed, relaxed, next).is_ok()
    }

    // Some 136 years.
    fn second(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.begun).as_secs()
    }

    /// How many there were in the second of this instant. One that was looked at later than another,
    /// and came earlier, is of the other's second.
    fn used(&self, window: u64, at: Instant) -> u32 {
        match self.second(at) > window >> 32 {
            true => 0,
            false => window as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_second_has_so_many_and_one_that_comes_late_is_of_the_newest() {
        let two = PerSecond::new(2);
        let first = two.begun;
        assert!(two.has_room(first) && two.admit(first) && two.admit(first));
        assert!(!two.has_room(first) && !two.admit(first));
        let later = first + Duration::from_secs(3);
        assert!(two.has_room(later) && two.admit(later));
        assert!(two.admit(first));
        assert!(!two.admit(later));
        assert!(!PerSecond::new(0).admit(later));
    }
}
