//! Verifying the chain: progress while it runs, and the result as the last message.
//!
//! Used by the audit service. A broken chain is a result and not an error, so that a script can
//! tell it from a server that could not be asked. Reads a bounded stretch at a time, only as fast
//! as the client takes the progress.

use futures_util::stream::{self, Stream};

use crate::authority::Authority;
use crate::authority::audit::Verified;
use crate::domain::chain::{Head, RevisionNumber};
use crate::domain::refusal::Refusal;
use crate::proto::v1;
use crate::proto::v1::verify_chain_response::Event;

use super::auth::Kept;
use super::convert::revision;

/// Entries between two messages of progress.
const PROGRESS_EVERY: u64 = 1_000;

struct Verification {
    authority: Authority,
    caller: Kept,
    after: Head,
    head: Head,
    until: RevisionNumber,
    changes: u64,
    done: bool,
}

/// Verifies what follows a head, up to a revision.
pub(super) fn verify(
    authority: Authority,
    caller: Kept,
    after: Head,
    until: RevisionNumber,
) -> impl Stream<Item = Result<v1::VerifyChainResponse, Refusal>> {
    let verification = Verification {
        authority,
        caller,
        after,
        head: after,
        until,
        changes: 0,
        done: false,
    };
    stream::try_unfold(verification, |mut verification| async move {
        if verification.done {
            return Ok(None);
        }
        let event = verification.next().await?;
        let response = v1::VerifyChainResponse { event: Some(event) };
        Ok(Some((response, verification)))
    })
}

impl Verification {
    async fn next(&mut self) -> Result<Event, Refusal> {
        let pause = self.changes + PROGRESS_EVERY;
        while self.head.revision < self.until && self.changes < pause {
            self.caller.may_audit(&self.authority)?;
            let left = self.until - self.head.revision;
            let limit = left.min(pause - self.changes) as usize;
            let (verified, outcome) = self.authority.verify_after(self.head, limit).await?;
            self.changes += verified.revision - self.head.revision;
            self.head = verified;
            match outcome {
                Verified::Broken(at, what) => return Ok(self.result(Some((at, what)))),
                Verified::Intact(_) => {}
            }
        }
        if self.head.revision < self.until {
            return Ok(Event::Progress(v1::VerifyProgress {
                verified: self.head.revision,
                until: self.until,
            }));
        }
        Ok(self.result(None))
    }

    fn result(&mut self, broken: Option<(RevisionNumber, String)>) -> Event {
        self.done = true;
        let intact = broken.is_none();
        let (broken_at, message) = broken.unwrap_or_default();
        Event::Result(v1::VerifyResult {
            intact,
            after: (self.after.revision > 0).then(|| revision(self.after.revision())),
            verified: Some(revision(self.head.revision())),
            changes: self.changes,
            broken_at,
            message,
        })
    }
}
