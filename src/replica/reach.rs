//! Reaching a revision: reading the log now where one is demanded that is not published here.
//!
//! Used by Checks that demand one (`at_least`) and by whoever waits for one everywhere. The
//! keeper reads the log; whoever waits tells it to read at once, and so pays one round trip and
//! not the time until the next poll. Many who wait at a time share a reading.

use crate::domain::chain::{Revision, RevisionNumber};
use crate::domain::refusal::Refusal;

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
        let head = self.state().head().revision();
        let chain = if head.number == wanted.number {
            Some(head.chain)
        } else if let Some(chain) = self.shared.recent.chain(wanted.number) {
            Some(chain)
        } else {
            self.chain_at(wanted.number).await?
        };
        if chain == Some(wanted.chain) {
            Ok(())
        } else {
            Err(Refusal::OtherHistory(wanted))
        }
    }

    async fn chain_at(&self, number: RevisionNumber) -> Result<Option<[u8; 8]>, Refusal> {
        if number == 0 {
            return Ok(Some([0; 8]));
        }
        let entries = self.shared.store.changes_after(number - 1, 1).await;
        let entries = entries.map_err(|error| unavailable(&error))?;
        Ok(entries.first().map(|entry| entry.head.revision().chain))
    }
}
