//! Watching the log: what is in it, then what comes, without a hole and in order.
//!
//! ```text
//! log ─► read a few entries ─► filter ─► send one by one ─► at the head: wait for more,
//!                                                           a checkpoint every second
//! ```
//!
//! Used by the audit service. The stream is pulled by the connection: nothing is read ahead of a
//! client that reads slowly, and there is no task to end. The calling token is judged again
//! before every read and every checkpoint. A log that does not follow what was sent ends it.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::stream::{self, Stream};
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::authority::Authority;
use crate::domain::chain::{Head, RevisionNumber};
use crate::domain::refusal::Refusal;
use crate::proto::v1;
use crate::proto::v1::watch_changes_response::Event;

use super::auth::Kept;
use super::changes::{Filter, change};
use super::convert::{revision, timestamp};

/// How often a watcher without news hears how far it is.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);
/// Entries that are read, and held for one watcher, at a time.
const WATCH_ENTRIES: usize = 64;

struct Watch {
    authority: Authority,
    caller: Kept,
    filter: Filter,
    // Everything up to here was sent, or did not fit, or waits in the queue.
    seen: Head,
    queue: VecDeque<v1::Change>,
    revisions: watch::Receiver<RevisionNumber>,
    checkpoints: Interval,
}

/// The changes behind a head that fit, for as long as the caller may read them.
pub(super) fn watch(
    authority: Authority,
    caller: Kept,
    filter: Filter,
    after: Head,
) -> impl Stream<Item = Result<v1::WatchChangesResponse, Refusal>> {
    let mut checkpoints = interval(CHECKPOINT_EVERY);
    checkpoints.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick would come at once.
    checkpoints.reset();
    let watch = Watch {
        revisions: authority.revisions(),
        authority,
        caller,
        filter,
        seen: after,
        queue: VecDeque::new(),
        checkpoints,
    };
    stream::try_unfold(watch, |mut watch| async move {
        let event = watch.next().await?;
        Ok(event.map(|event| (v1::WatchChangesResponse { event: Some(event) }, watch)))
    })
}

impl Watch {
    /// The next event; none when the server stops.
    async fn next(&mut self) -> Result<Option<Event>, Refusal> {
        loop {
            if let Some(change) = self.queue.pop_front() {
                self.checkpoints.reset();
                return Ok(Some(Event::Change(change)));
            }
            self.caller.may_audit(&self.authority)?;
            // Marked before reading: what comes meanwhile wakes the wait below.
            self.revisions.mark_unchanged();
            if self.read().await? {
                // A long stretch that does not fit is news, too.
                if self.queue.is_empty() && self.checkpoints.tick().now_or_never().is_some() {
                    return Ok(Some(self.checkpoint()));
                }
                continue;
            }
            tokio::select! {
                biased;
                _ = self.checkpoints.tick() => {
                    self.caller.may_audit(&self.authority)?;
                    return Ok(Some(self.checkpoint()));
                }
                moved = self.revisions.changed() => if moved.is_err() {
                    return Ok(None);
                }
            }
        }
    }

    /// Reads on; whether there was anything.
    async fn read(&mut self) -> Result<bool, Refusal> {
        let after = self.seen.revision;
        let entries = self.authority.changes_after(after, WATCH_ENTRIES).await?;
        // A database that lost its newest changes uses their numbers again.
        if let Some(next) = entries.first()
            && self.seen.after(&next.body) != next.head
        {
            return Err(Refusal::OtherHistory(self.seen.revision()));
        }
        let fitting = entries.iter().filter(|entry| self.filter.fits(entry));
        self.queue
            .extend(fitting.map(|entry| change(&self.authority, entry)));
        match entries.last() {
            None => Ok(false),
            Some(last) => {
                self.seen = last.head;
                Ok(true)
            }
        }
    }

    fn checkpoint(&self) -> Event {
        Event::Checkpoint(v1::Checkpoint {
            revision: Some(revision(self.seen.revision())),
            instant: Some(timestamp(self.authority.now_ms())),
        })
    }
}
