//! Ways to break the protocol on purpose, for the tests that must find each of them.
//!
//! In a release there is none: [`mutated!`] is `false` and no enum exists.

/// Rules of leases and barriers that can be broken.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// The lease begins when the reply of the renewal comes, not before it was sent.
    LeaseFromReply,
    /// The lease is extended before the log was applied up to the head of the renewal.
    LeaseBeforeApply,
    /// A Check takes a reading of the clock that a timer made.
    CachedClock,
    /// A revision is reported before it is published.
    ReportBeforePublish,
    /// The log is read by a sequence that skips what commits late.
    SequenceLog,
    /// A member that has been silent for a while is presumed dead.
    SilentPresumedDead,
    /// The barrier waits out its own lease, not the longest.
    OwnLeaseOnly,
    /// Checks are answered without a lease.
    NoLease,
    /// A Check takes State first and reads the lease after it.
    StateBeforeLease,
    /// What is promised of a committed change counts with half of the wait.
    CommittedTooSoon,
    /// The renewal that says that there will be a lease gives one.
    LeaseFromFirstRenewal,
    /// A report is taken although it is of another history of the log.
    ReportOfAnyHistory,
}

/// Tells what was found, also where the harness keeps what a test prints to itself.
#[cfg(test)]
pub(crate) fn tell(text: &str) {
    use std::io::Write as _;
    // Who reads no errors misses nothing else.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

#[cfg(test)]
impl Mutation {
    /// Tells by which seed, and when, a promise was found broken.
    pub(crate) fn is_caught(self, seed: u64, step: u64) {
        tell(&format!(
            "mutation {self:?}: caught at seed {seed}, step {step}"
        ));
    }
}

/// Whether a rule is broken in this test.
#[cfg(test)]
macro_rules! mutated {
    ($shared:expr, $mutation:ident) => {
        $shared.mutation == Some($crate::replica::mutation::Mutation::$mutation)
    };
}

/// No rule is broken in a release.
#[cfg(not(test))]
macro_rules! mutated {
    ($shared:expr, $mutation:ident) => {
        false
    };
}

pub(super) use mutated;
