//! What the replica counts since its start.
//!
//! Written by the writer, the keeper and the Checks that are answered without a lease; read by
//! metrics. Absent on purpose: anything that a Check in good health would have to count.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::domain::histogram::Sizes;

use super::measured::StoreCalls;

/// What the replica counts; read by metrics.
#[derive(Debug, Default)]
pub struct Counters {
    /// Batches appended.
    pub batches: AtomicU64,
    /// Entries appended.
    pub entries: AtomicU64,
    /// How many entries each batch had.
    pub batch_entries: Sizes,
    /// How long the store took, and how often it could not do what it was asked.
    pub store: Arc<StoreCalls>,
    /// Commands refused.
    pub refused: AtomicU64,
    /// Appends that found another head.
    pub conflicts: AtomicU64,
    /// Appends whose outcome had to be settled.
    pub unknown_outcomes: AtomicU64,
    /// Appends that the store could not take.
    pub store_errors: AtomicU64,
    /// Times that State was found to be another than the log's and loaded anew.
    pub divergences: AtomicU64,
    /// Last uses of tokens that there was no room or no time for.
    pub last_used_dropped: AtomicU64,
    /// Logins that there was no room or no time for in the record.
    pub logins_dropped: AtomicU64,
    /// How many revisions the log had beyond the published one at the last renewal.
    pub lag: AtomicU64,
    /// How many members there were when they were last looked at.
    pub members: AtomicU64,
    /// Checks that were denied because the lease was not held.
    pub stale_denied: AtomicU64,
    /// Checks that were answered without the lease, as the server was told to.
    pub stale_served: AtomicU64,
}

impl Counters {
    /// Counts a Check without the lease.
    #[cold]
    pub fn count_stale(&self, served: bool) {
        let counter = if served {
            &self.stale_served
        } else {
            &self.stale_denied
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
