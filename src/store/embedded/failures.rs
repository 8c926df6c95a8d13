//! Failed logins, counted in memory.
//!
//! There is one process, and what it counts may be lost: so a flood of failures, which anybody can
//! bring about, writes nothing and waits for nobody. Bounded: the key that failed longest ago goes
//! first.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::RangeInclusive;

use crate::domain::clock::UnixMs;
use crate::store::logins::{FAILURES_MAX, Failure, FailureKey};

/// The counts. Behind a mutex that is held for one of these calls.
#[derive(Default)]
pub(super) struct Failures {
    counts: BTreeMap<FailureKey, Count>,
    /// Every key, by the number of its last failure.
    order: BTreeMap<u64, FailureKey>,
    number: u64,
}

struct Count {
    number: u64,
    count: u32,
    last_ms: UnixMs,
}

impl Failures {
    /// Counts a failure.
    pub(super) fn note(&mut self, failure: &Failure) -> u32 {
        let Failure {
            key,
            now_ms,
            reset_ms,
        } = *failure;
        self.number += 1;
        let number = self.number;
        let count = match self.counts.entry(key) {
            Entry::Vacant(free) => {
                let first = Count {
                    number,
                    count: 1,
                    last_ms: now_ms,
                };
                free.insert(first).count
            }
            Entry::Occupied(mut former) => {
                let former = former.get_mut();
                self.order.remove(&former.number);
                former.number = number;
                former.count = match former.last_ms.saturating_add(reset_ms) < now_ms {
                    true => 1,
                    false => former.count.saturating_add(1),
                };
                former.last_ms = former.last_ms.max(now_ms);
                former.count
            }
        };
        self.order.insert(number, key);
        if self.counts.len() as u64 > FAILURES_MAX
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.counts.remove(&oldest);
        }
        count
    }

    /// Begins counts anew.
    pub(super) fn clear(&mut self, keys: &RangeInclusive<FailureKey>) {
        let counts = self.counts.extract_if(keys.clone(), |_, _| true);
        for (_, former) in counts {
            self.order.remove(&former.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(number: u64) -> Failure {
        Failure {
            key: u128::from(number).to_be_bytes(),
            now_ms: 1_000,
            reset_ms: 30_000,
        }
    }

    #[test]
    fn of_too_many_keys_the_one_that_failed_longest_ago_goes() {
        let mut failures = Failures::default();
        for number in 0..FAILURES_MAX {
            assert_eq!(failures.note(&failure(number)), 1);
        }
        // The first is no longer the oldest.
        assert_eq!(failures.note(&failure(0)), 2);
        assert_eq!(failures.note(&failure(FAILURES_MAX)), 1);
        assert_eq!(failures.counts.len() as u64, FAILURES_MAX);
        assert_eq!(failures.order.len() as u64, FAILURES_MAX);
        assert_eq!(failures.note(&failure(0)), 3);
        assert_eq!(failures.note(&failure(2)), 2);
        assert_eq!(failures.note(&failure(1)), 1, "it was the oldest");
    }

    #[test]
    fn what_is_cleared_takes_no_room() {
        let mut failures = Failures::default();
        for number in 0..10 {
            failures.note(&failure(number));
            failures.note(&failure(number));
            let key = failure(number).key;
            failures.clear(&(key..=key));
        }
        failures.clear(&(failure(20).key..=failure(99).key));
        assert!(failures.counts.is_empty() && failures.order.is_empty());
    }
}
