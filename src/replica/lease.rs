//! The lease: this server's right to answer, until an instant of its own boot clock.
//!
//! A Check reads it together with the clock after its request arrived; nothing caches either.
//! Only the keeper extends it, and only from a reading of the clock that is older than the
//! renewal that it follows. Whoever learns of divergence bars it: an extension that was on its way,
//! or that begins before State was loaded anew, comes to nothing. Where there is one server only,
//! the lease never ends.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::domain::clock::Clock;

const FOREVER: u64 = u64::MAX;
const ENDED: u64 = 0;
// Before any server was up.
const RAN_OUT: u64 = 1;

/// The lease.
#[derive(Debug)]
pub(super) struct Lease {
    // In milliseconds of boot time.
    until_ms: AtomicU64,
    // What is published must not be answered from, with whatever lease.
    barred: AtomicBool,
    // How often it was ended: an extension names the count that it began with.
    ended: Mutex<u64>,
}

/// What an extension names: which lease it extends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Term(u64);

impl Lease {
    /// Of a server that shares its store with nobody.
    pub(super) fn forever() -> Self {
        Self::until(FOREVER)
    }

    /// Not held yet.
    pub(super) fn none() -> Self {
        Self::until(ENDED)
    }

    fn until(until_ms: u64) -> Self {
        Self {
            until_ms: AtomicU64::new(until_ms),
            barred: AtomicBool::new(false),
            ended: Mutex::new(0),
        }
    }

    /// Whether it is held at this moment.
    #[inline]
    pub(super) fn is_held(&self, clock: &dyn Clock) -> bool {
        let until_ms = self.until_ms.load(Ordering::Acquire);
        until_ms == FOREVER || clock.boot_ms() < until_ms
    }

    /// How long it still holds; none where it never ends.
    pub(super) fn left_ms(&self, clock: &dyn Clock) -> Option<u64> {
        let until_ms = self.until_ms.load(Ordering::Acquire);
        (until_ms != FOREVER).then(|| until_ms.saturating_sub(clock.boot_ms()))
    }

    /// The term that a renewal begins in.
    pub(super) fn term(&self) -> Term {
        Term(*self.ended.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Extends it, unless it was ended since `term` or is barred.
    pub(super) fn extend(&self, term: Term, until_ms: u64) {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if *ended == term.0 && !self.is_barred() {
            self.until_ms.store(until_ms, Ordering::Release);
        }
    }

    /// Ends it now.
    pub(super) fn end(&self) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        *ended += 1;
        self.until_ms.store(ENDED, Ordering::Release);
    }

    /// Ends it, and keeps it from being held until [`Lease::lift`].
    pub(super) fn bar(&self) {
        self.barred.store(true, Ordering::Release);
        self.end();
    }

    /// State was loaded anew.
    pub(super) fn lift(&self) {
        self.barred.store(false, Ordering::Release);
    }

    /// Lets it run out now: begun anew by the next renewal, and until then as if that were late.
    pub(super) fn run_out(&self) {
        self.end();
        self.until_ms.store(RAN_OUT, Ordering::Release);
    }

    /// Whether there was one, and it ran out by itself: what is published was vouched for then,
    /// and nobody was told that nothing is answered here any more.
    pub(super) fn has_run_out(&self, clock: &dyn Clock) -> bool {
        let until_ms = self.until_ms.load(Ordering::Acquire);
        until_ms != ENDED && until_ms <= clock.boot_ms()
    }

    fn is_barred(&self) -> bool {
        self.barred.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::clock::ManualClock;

    #[test]
    fn it_is_held_until_its_instant_and_not_at_it() {
        let (lease, clock) = (Lease::none(), ManualClock::at(100));
        assert!(!lease.is_held(&clock));
        lease.extend(lease.term(), 110);
        assert_eq!(lease.left_ms(&clock), Some(10));
        clock.set(109);
        assert!(lease.is_held(&clock));
        clock.set(110);
        assert!(!lease.is_held(&clock));
    }

    #[test]
    fn an_extension_of_an_ended_lease_comes_to_nothing() {
        let (lease, clock) = (Lease::none(), ManualClock::at(100));
        let term = lease.term();
        lease.end();
        lease.extend(term, 200);
        assert!(!lease.is_held(&clock));
        lease.extend(lease.term(), 200);
        assert!(lease.is_held(&clock));
    }

    #[test]
    fn a_barred_lease_is_not_extended_before_it_is_lifted() {
        let (lease, clock) = (Lease::none(), ManualClock::at(100));
        lease.extend(lease.term(), 200);
        lease.bar();
        // By a renewal that begins later.
        lease.extend(lease.term(), 200);
        assert!(!lease.is_held(&clock));
        lease.lift();
        assert!(!lease.is_held(&clock));
        lease.extend(lease.term(), 200);
        assert!(lease.is_held(&clock));
    }

    #[test]
    fn it_has_run_out_only_where_nobody_ended_it() {
        let (lease, clock) = (Lease::none(), ManualClock::at(100));
        assert!(!lease.has_run_out(&clock), "there was none");
        lease.extend(lease.term(), 110);
        assert!(!lease.has_run_out(&clock));
        clock.set(110);
        assert!(lease.has_run_out(&clock));
        lease.bar();
        lease.lift();
        assert!(
            !lease.has_run_out(&clock),
            "nothing of this State was vouched for"
        );
        lease.extend(lease.term(), 120);
        lease.run_out();
        assert!(lease.has_run_out(&clock) && !lease.is_held(&clock));
        lease.end();
        assert!(!lease.has_run_out(&clock));
    }

    #[test]
    fn alone_it_never_ends() {
        let lease = Lease::forever();
        assert!(lease.is_held(&ManualClock::at(u64::MAX)));
        assert_eq!(lease.left_ms(&ManualClock::at(0)), None);
    }
}
