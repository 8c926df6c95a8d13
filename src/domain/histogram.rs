//! Histograms that any task may add to: one relaxed increment, and one relaxed addition for the sum.
//!
//! Written by the hot path and by whoever calls the store, read when somebody asks for metrics.
//! Bounds double, so that the bucket is found by counting zeros; each includes its own bound, as
//! Prometheus has it. Absent on purpose: anything that is exact to the last observation while
//! others go on, and a clock; whoever observes has measured.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bounds: 1, 2, 4, … up to 2^24; a last bucket has what is beyond.
const BOUNDS: usize = 25;
const NANOS_PER_MICRO: u64 = 1_000;
const NANOS_PER_SECOND: f64 = 1e9;
const MICROS_PER_SECOND: f64 = 1e6;

/// A histogram as it was read: what lies in each bucket alone, with the bucket's upper bound.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Upper bounds, the last infinite, and how many lie in each bucket.
    pub buckets: Vec<(f64, u64)>,
    /// Of all that was observed.
    pub sum: f64,
}

impl Reading {
    /// How many were observed.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }
}

#[derive(Debug, Default)]
struct Buckets {
    counts: [AtomicU64; BOUNDS + 1],
    sum: AtomicU64,
}

impl Buckets {
    #[inline]
    fn add(&self, value: u64, to_sum: u64) {
        // The first power of two that is not below the value.
        let at = (u64::BITS - value.saturating_sub(1).leading_zeros()) as usize;
        self.counts[at.min(BOUNDS)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(to_sum, Ordering::Relaxed);
    }

    fn read(&self, value_unit: f64, sum_unit: f64) -> Reading {
        let bound = |at: usize| match at {
            BOUNDS => f64::INFINITY,
            at => (1_u64 << at) as f64 / value_unit,
        };
        let counts = self.counts.iter().enumerate();
        Reading {
            buckets: counts
                .map(|(at, count)| (bound(at), count.load(Ordering::Relaxed)))
                .collect(),
            sum: self.sum.load(Ordering::Relaxed) as f64 / sum_unit,
        }
    }
}

/// How long something took: from a microsecond to 16.8 s, read in seconds.
#[derive(Debug, Default)]
pub struct Times(Buckets);

impl Times {
    /// Adds one time.
    #[inline]
    pub fn took(&self, time: Duration) {
        // Some 584 years.
        let nanos = time.as_secs() * NANOS_PER_SECOND as u64 + u64::from(time.subsec_nanos());
        self.0.add(nanos.div_ceil(NANOS_PER_MICRO), nanos);
    }

    /// What was added, in seconds.
    #[must_use]
    pub fn read(&self) -> Reading {
        self.0.read(MICROS_PER_SECOND, NANOS_PER_SECOND)
    }
}

/// How many there were of something at a time.
#[derive(Debug, Default)]
pub struct Sizes(Buckets);

impl Sizes {
    /// Adds one number.
    #[inline]
    pub fn was(&self, size: u64) {
        self.0.add(size, size);
    }

    /// What was added.
    #[must_use]
    pub fn read(&self) -> Reading {
        self.0.read(1.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which bound one time is below, in microseconds.
    #[track_caller]
    fn check(nanos: u64, bound_us: f64) {
        let times = Times::default();
        times.took(Duration::from_nanos(nanos));
        let read = times.read();
        let mut found = read.buckets.iter().filter(|(_, count)| *count == 1);
        let bound = found.next().unwrap().0 * MICROS_PER_SECOND;
        assert!(
            bound == bound_us || (bound - bound_us).abs() < 1e-6,
            "{nanos}: {bound}"
        );
        assert_eq!(read.count(), 1);
        assert!((read.sum - nanos as f64 / 1e9).abs() < 1e-9);
    }

    #[test]
    fn a_time_lies_at_or_below_its_bound() {
        check(0, 1.0);
        check(1, 1.0);
        check(1_000, 1.0);
        check(1_001, 2.0);
        check(2_000, 2.0);
        check(2_001, 4.0);
        check(4_000, 4.0);
        check(100_000, 128.0);
        check(16_777_216_000, 16_777_216.0);
        check(16_777_216_001, f64::INFINITY);
        check(u64::MAX / 2, f64::INFINITY);
    }

    #[test]
    fn sizes_are_summed_as_they_are() {
        let sizes = Sizes::default();
        for size in [0, 1, 2, 3, 256] {
            sizes.was(size);
        }
        let read = sizes.read();
        assert_eq!(read.sum, 262.0);
        assert_eq!(read.count(), 5);
        let counted = |bound: f64| read.buckets.iter().find(|one| one.0 == bound).unwrap().1;
        assert_eq!([1.0, 2.0, 4.0, 8.0, 256.0].map(counted), [2, 1, 1, 0, 1]);
    }
}
