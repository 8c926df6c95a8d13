//! Reaching a revision: reading the log now where one is demanded that is not published here.
//!
//! Used by Checks that demand one (`at_least`), by whoever waits for one everywhere, and before a
//! caller is refused that nobody knows here. The keeper reads the log; whoever waits tells it to
//! read at once, and so pays one round trip and not the time until the next poll. Many who wait
//! at a time share a reading, so that they cost the database no more than one of them does.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use crate::domain::chain::{Head, Revision, RevisionNumber};
use crate::domain::refusal::Refusal;
use crate::store::StoreError;

use super::{Replica, unavailable, writer};

/// The keeper's readings of the log, numbered as they begin.
pub(super) struct Looks {
    begun: AtomicU64,
    // The newest that has ended, and whether it came to the end of the log.
    ended: watch::Sender<(u64, bool)>,
}

impl Looks {
    pub(super) fn new() -> Self {
        Self {
            begun: AtomicU64::new(0),
            ended: watch::Sender::new((0, false)),
        }
    }

    /// One more begins; returns its number.
    pub(super) fn begin(&self) -> u64 {
        self.begun.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// One has ended: what it has read is published. Who came before it began is served by it.
    pub(super) fn end(&self, number: u64, came_to_end: bool) {
        self.ended.send_replace((number, came_to_end));
    }

    /// There will be no more.
    pub(super) fn close(&self) {
        self.end(u64::MAX, false);
    }
}

impl Replica {
    /// Publishes all that was in the log when this was called, with one reading for all who call
    /// while another is under way; the caller sets the deadline.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`] when the log cannot be read.
    pub async fn look(&self) -> Result<(), Refusal> {
        let looks = &self.shared.looks;
        let (mut ended, next) = (
            looks.ended.subscribe(),
            looks.begun.load(Ordering::SeqCst) + 1,
        );
        self.shared.behind.notify_one();
        // The sender lives as long as this handle.
        match ended.wait_for(|(number, _)| *number >= next).await {
            Ok(ended) if ended.1 => Ok(()),
            _ => Err(writer::away()),
        }
    }

    /// As [`Replica::reach`] of what is in the log already: whoever was told of a revision finds it
    /// there. While the log cannot be read it is waited for.
    ///
    /// # Errors
    /// As [`Replica::reach`], and [`Refusal::NotReached`] when the log ends before it.
    pub async fn reach_known(
        &self,
        number: RevisionNumber,
        chain: Option<[u8; 8]>,
    ) -> Result<(), Refusal> {
        let is_here = || *self.shared.revision.borrow() >= number;
        if is_here() || self.is_alone() {
            return self.reach(number, chain).await;
        }
        let not_in_the_log = async {
            match self.look().await {
                Ok(()) if !is_here() => {}
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            reached = self.reach(number, chain) => reached,
            () = not_in_the_log => {
                let chain = chain.unwrap_or_default();
                Err(Refusal::NotReached(Revision { number, chain }))
            }
        }
    }

    /// Waits until the published State is at `number` or beyond, and, where a chain is given,
    /// compares it; the caller sets the deadline.
    ///
    /// # Errors
    /// [`Refusal::OtherHistory`] when the chain at that revision is another;
    /// [`Refusal::Unavailable`] when the store cannot tell.
    pub async fn reach(
        &self,
        number: RevisionNumber,
        chain: Option<[u8; 8]>,
    ) -> Result<(), Refusal> {
        let mut revision = self.shared.revision.subscribe();
        if *revision.borrow_and_update() < number {
            self.shared.behind.notify_one();
            // The sender lives as long as this handle, so the wait ends only at the revision.
            let _ = revision.wait_for(|published| *published >= number).await;
        }
        match chain {
            Some(chain) => self.compare(Revision { number, chain }).await,
            None => Ok(()),
        }
    }

    async fn compare(&self, wanted: Revision) -> Result<(), Refusal> {
        let chain = match self.shared.chain(wanted.number) {
            Some(chain) => Some(chain),
            None => {
                let head = self.head_at(wanted.number).await?;
                head.map(|head| head.revision().chain)
            }
        };
        if chain == Some(wanted.chain) {
            Ok(())
        } else {
            Err(Refusal::OtherHistory(wanted))
        }
    }

    /// The head as it was at a revision; none where the log has no such revision yet.
    ///
    /// # Errors
    /// [`Refusal::Trimmed`] before the cut, [`Refusal::Unavailable`] when the store cannot tell.
    pub async fn head_at(&self, number: RevisionNumber) -> Result<Option<Head>, Refusal> {
        let Some(before) = number.checked_sub(1) else {
            return Ok(Some(Head::EMPTY));
        };
        match self.shared.store.changes_after(before, 1).await {
            Ok(entries) => Ok(entries.first().map(|entry| entry.head)),
            Err(StoreError::Trimmed { cut, .. }) if cut.revision == number => Ok(Some(cut)),
            Err(StoreError::Trimmed { cut, .. }) => Err(Refusal::Trimmed {
                asked: number,
                cut: cut.revision,
            }),
            Err(error) => Err(unavailable(&error)),
        }
    }
}
