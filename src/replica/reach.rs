//! Reaching a revision: reading the log now where one is demanded that is not published here.
//!
//! Used by Checks that demand one (`at_least`) and by whoever waits for one everywhere. The
//! keeper reads the log; whoever waits tells it to read at once, and so pays one round trip and
//! not the time until the next poll. Many who wait at a time share a reading.

use crate::domain::chain::{Head, Revision, RevisionNumber};
use crate::domain::refusal::Refusal;
use crate::store::StoreError;

use super::{Replica, unavailable};

impl Replica {
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
