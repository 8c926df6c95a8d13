//! The replica: one running server's copy of State, and the only writer of it.
//!
//! ```text
//!  submit ─► queue ─► writer: gather, decide on a private clone, append, publish ─► reply
//!  check  ─► state() ─► the published clone
//! ```
//!
//! Readers load a pointer and hold a State that never moves; they take no lock that the writer
//! holds, and the writer never waits for them. One task writes; it holds nothing across an
//! `.await` that a reader could want. The replica knows no gRPC and no rule: what a command means
//! is in `state::decide`.

mod load;
mod recent;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::domain::chain::{Revision, RevisionNumber};
use crate::domain::clock::Clock;
use crate::domain::entropy::Entropy;
use crate::domain::entry::LogEntry;
use crate::domain::refusal::Refusal;
use crate::state::State;
use crate::state::decide::{Decided, Envelope, Lifetimes};
use crate::store::{Store, StoreError};

use recent::{RECENT_MAX, Recent};

pub use load::LoadError;

/// Commands that may wait for the writer; more are refused at once.
pub const QUEUE_MAX: usize = 4_096;
/// Commands that are appended together at the most.
pub const BATCH_COMMANDS_MAX: usize = 200;
/// Bytes of bodies that are appended together, give or take one entry.
pub const BATCH_BYTES_MAX: usize = 1 << 20;

/// What of the replica can be set.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The longest life of each kind of token.
    pub lifetimes: Lifetimes,
    /// How many commands are appended together; 1 switches group commit off.
    pub batch_commands_max: usize,
    /// How long an ended token is kept before it is forgotten.
    pub forget_after_ms: u64,
    /// How often one of the 256 slices of the index is swept.
    pub forget_every_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lifetimes: Lifetimes::default(),
            batch_commands_max: BATCH_COMMANDS_MAX,
            forget_after_ms: 24 * 60 * 60 * 1_000,
            forget_every_ms: 10_000,
        }
    }
}

/// A command that was carried out, or that found things as they should be.
#[derive(Clone, Debug)]
pub struct Done {
    /// What it came to.
    pub decided: Decided,
    /// The entry that it made, or the head that it was compared with.
    pub revision: Revision,
    /// The entry's instant in Unix milliseconds.
    pub instant_ms: u64,
}

struct Queued {
    envelope: Envelope,
    reply: oneshot::Sender<Result<Done, Refusal>>,
}

/// What the replica counts; read by metrics.
#[derive(Debug, Default)]
pub struct Counters {
    /// Batches appended.
    pub batches: AtomicU64,
    /// Entries appended.
    pub entries: AtomicU64,
    /// Commands refused.
    pub refused: AtomicU64,
    /// Appends that found another head.
    pub conflicts: AtomicU64,
    /// Appends whose outcome had to be settled.
    pub unknown_outcomes: AtomicU64,
    /// Appends that the store could not take.
    pub store_errors: AtomicU64,
}

struct Shared {
    published: ArcSwap<State>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    // Set once the store turned out to be damaged: nothing may be answered from then on.
    fenced: AtomicBool,
    counters: Counters,
    recent: Recent,
    revision: watch::Sender<RevisionNumber>,
}

/// A running replica. Clones are handles to the same one.
#[derive(Clone)]
pub struct Replica {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Queued>,
}

/// The writer task and its stop signal; whoever starts a replica ends it.
#[derive(Debug)]
pub struct WriterTask {
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl WriterTask {
    /// Answers what is queued, refuses what comes later, and closes the store.
    pub async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the writer died");
        }
    }
}

impl Replica {
    /// Loads State from the store and starts the writer.
    ///
    /// # Errors
    /// [`LoadError`] when the store cannot be read or holds something that must not be served.
    pub async fn start(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        settings: Settings,
    ) -> Result<(Self, WriterTask), LoadError> {
        let state = load::load(&*store).await?;
        let head = state.head().revision;
        let recent = Recent::default();
        let known = head.saturating_sub(RECENT_MAX as u64);
        recent.record(&store.changes_after(known, RECENT_MAX).await?);
        let (revision, _) = watch::channel(head);
        let shared = Arc::new(Shared {
            published: ArcSwap::from_pointee(state),
            store,
            clock,
            fenced: AtomicBool::new(false),
            counters: Counters::default(),
            recent,
            revision,
        });
        let (commands, queue) = mpsc::channel(QUEUE_MAX);
        let stop = CancellationToken::new();
        let writer_shared = Arc::clone(&shared);
        let writer = writer::Writer::new(writer_shared, queue, entropy, settings, stop.clone());
        let task = tokio::spawn(writer.run());
        Ok((Self { shared, commands }, WriterTask { task, stop }))
    }

    /// The published State: one revision, for as long as the guard is held.
    #[inline]
    pub fn state(&self) -> Guard<Arc<State>> {
        self.shared.published.load()
    }

    /// The published State to keep across an `.await`.
    #[must_use]
    pub fn state_full(&self) -> Arc<State> {
        self.shared.published.load_full()
    }

    /// Whether this replica may answer.
    #[inline]
    #[must_use]
    pub fn may_answer(&self) -> bool {
        !self.shared.fenced.load(Ordering::Acquire)
    }

    /// Queues a command and waits for its durable outcome.
    ///
    /// # Errors
    /// The command's [`Refusal`]; [`Refusal::Unavailable`] when the queue is full or the writer
    /// has stopped, and then nothing was written.
    pub async fn submit(&self, envelope: Envelope) -> Result<Done, Refusal> {
        let (reply, outcome) = oneshot::channel();
        let queued = Queued { envelope, reply };
        self.commands.try_send(queued).map_err(|error| {
            let what = match error {
                mpsc::error::TrySendError::Full(_) => "too many changes are waiting; try again",
                mpsc::error::TrySendError::Closed(_) => "the server is stopping",
            };
            Refusal::Unavailable(what.to_owned())
        })?;
        // The writer drops a reply only when it dies between an append and the answer.
        outcome.await.unwrap_or(Err(Refusal::OutcomeUnknown))
    }

    /// Waits until the published State is at `wanted` or beyond; the caller sets the deadline.
    ///
    /// # Errors
    /// [`Refusal::OtherHistory`] when the chain at that revision is another.
    pub async fn reach(&self, wanted: Revision) -> Result<(), Refusal> {
        let mut revision = self.shared.revision.subscribe();
        // The sender lives as long as this handle, so the wait ends only at the revision.
        let _ = revision.wait_for(|number| *number >= wanted.number).await;
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

    /// Entries after a revision, at most `limit`.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`] when the store cannot be read.
    pub async fn changes_after(
        &self,
        revision: RevisionNumber,
        limit: usize,
    ) -> Result<Vec<LogEntry>, Refusal> {
        let entries = self.shared.store.changes_after(revision, limit).await;
        entries.map_err(|error| unavailable(&error))
    }

    /// Told whenever the published revision moves.
    #[must_use]
    pub fn revisions(&self) -> watch::Receiver<RevisionNumber> {
        self.shared.revision.subscribe()
    }

    /// The store, for lists.
    #[must_use]
    pub fn store(&self) -> &dyn Store {
        &*self.shared.store
    }

    /// The clock that decisions are made by.
    #[must_use]
    #[inline]
    pub fn clock(&self) -> &dyn Clock {
        &*self.shared.clock
    }

    /// What was counted since the start.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Replica({:?})", self.state())
    }
}

/// What callers are told when the store fails: never a driver's words.
pub(crate) fn unavailable(error: &StoreError) -> Refusal {
    tracing::error!(%error, "the store failed");
    Refusal::Unavailable("the store is unavailable; nothing was written".to_owned())
}

#[cfg(test)]
mod tests;
