//! Recent revisions with the chain at each: what `at_least` is compared with, without the store.
//!
//! Written by the writer alone, before it publishes; read by every Check that demands a revision,
//! which takes no lock and never waits. A slot is overwritten by the revision that comes
//! [`RECENT_MAX`] later; whoever asks for an older one must read the log.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::domain::chain::{Revision, RevisionNumber};
use crate::domain::entry::LogEntry;

/// Revisions that are remembered.
pub(super) const RECENT_MAX: usize = 4_096;

/// The ring of recent revisions.
pub(super) struct Recent {
    slots: Box<[Slot]>,
}

// A seqlock of two words: number 0 while the chain is written.
#[derive(Default)]
struct Slot {
    number: AtomicU64,
    chain: AtomicU64,
}

impl Default for Recent {
    fn default() -> Self {
        let slots = (0..RECENT_MAX).map(|_| Slot::default());
        Self {
            slots: slots.collect(),
        }
    }
}

impl Recent {
    /// Remembers the revisions that entries made. For the one writer only.
    pub(super) fn record(&self, entries: &[LogEntry]) {
        for entry in entries {
            self.put(entry.head.revision());
        }
    }

    /// Forgets all of them: the history is another. For the one writer only.
    pub(super) fn clear(&self) {
        for slot in &self.slots {
            slot.number.store(0, Ordering::Release);
        }
    }

    pub(super) fn put(&self, revision: Revision) {
        if let Some(slot) = self.slot(revision.number) {
            slot.number.store(0, Ordering::Relaxed);
            // Released after the 0: who sees this chain sees the 0, or a later number, behind it.
            let chain = u64::from_be_bytes(revision.chain);
            slot.chain.store(chain, Ordering::Release);
            slot.number.store(revision.number, Ordering::Release);
        }
    }

    /// The chain at a revision, if it is remembered.
    pub(super) fn chain(&self, number: RevisionNumber) -> Option<[u8; 8]> {
        let slot = self.slot(number)?;
        if slot.number.load(Ordering::Acquire) != number {
            return None;
        }
        let chain = slot.chain.load(Ordering::Acquire);
        let still = slot.number.load(Ordering::Relaxed) == number;
        still.then(|| chain.to_be_bytes())
    }

    // 0 is before the first revision, and marks an empty slot.
    fn slot(&self, number: RevisionNumber) -> Option<&Slot> {
        if number == 0 {
            return None;
        }
        self.slots.get((number % RECENT_MAX as u64) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision(number: u64) -> Revision {
        let chain = number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes();
        Revision { number, chain }
    }

    #[test]
    fn the_newest_are_remembered_and_older_ones_are_not() {
        let recent = Recent::default();
        assert_eq!(recent.chain(0), None);
        assert_eq!(recent.chain(7), None);
        let last = 3 * RECENT_MAX as u64;
        for number in 1..=last {
            recent.put(revision(number));
        }
        let first = last - RECENT_MAX as u64 + 1;
        for number in [first, last - 1, last] {
            assert_eq!(recent.chain(number), Some(revision(number).chain));
        }
        for number in [0, 1, first - 1, last + 1] {
            assert_eq!(recent.chain(number), None, "{number}");
        }
    }

    #[test]
    fn after_a_clear_nothing_of_the_former_history_is_remembered() {
        let recent = Recent::default();
        for number in 1..=10 {
            recent.put(revision(number));
        }
        recent.clear();
        for number in 0..=10 {
            assert_eq!(recent.chain(number), None, "{number}");
        }
        let other = Revision {
            chain: [1; 8],
            ..revision(5)
        };
        recent.put(other);
        assert_eq!(recent.chain(5), Some(other.chain));
        assert_eq!(recent.chain(6), None);
    }

    #[test]
    fn a_reader_never_sees_the_chain_of_another_revision() {
        const ROUNDS: u64 = 20_000;
        let recent = Recent::default();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // All in one slot, over and over.
                for round in 1..=ROUNDS {
                    recent.put(revision(round * RECENT_MAX as u64));
                }
            });
            for round in 1..=ROUNDS {
                let number = round * RECENT_MAX as u64;
                if let Some(chain) = recent.chain(number) {
                    assert_eq!(chain, revision(number).chain);
                }
            }
        });
    }
}
