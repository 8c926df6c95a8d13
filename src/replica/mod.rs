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

mod barrier;
mod counters;
mod flush;
mod keeper;
mod lease;
mod load;
mod logins;
mod measured;
mod mutation;
mod raise;
mod reach;
mod recent;
mod settings;
mod settle;
mod tasks;
mod time;
mod used;
mod writer;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::Span;

use crate::domain::chain::{Head, Revision, RevisionNumber};
use crate::domain::clock::Clock;
use crate::domain::entropy::Entropy;
use crate::domain::entry::LogEntry;
use crate::domain::refusal::Refusal;
use crate::domain::seal::ring::Ring;
use crate::domain::traced;
use crate::state::State;
use crate::state::decide::{Decided, Envelope, Lifetimes};
use crate::store::cluster::{Incarnation, Roster};
use crate::store::logins::LoginNoted;
use crate::store::{Store, StoreError};

use barrier::Readings;
use keeper::Keeper;
use lease::Lease;
use measured::Measured;
use mutation::mutated;
use reach::Looks;
use recent::Recent;
use time::SharedTime;
use used::Gatherer;
use writer::Writer;

pub use barrier::Enforced;
pub use counters::Counters;
pub use load::LoadError;
pub use measured::{Calls, Operation, StoreCalls};
pub use settings::{
    BATCH_BYTES_MAX, BATCH_COMMANDS_MAX, Identity, LEASE_MS_MAX, LeaseSettings, QUEUE_MAX, Settings,
};
pub use tasks::WriterTask;
pub use used::LastUsedSettings;

/// A command that was carried out, or that found things as they should be.
#[derive(Clone, Debug)]
pub struct Done {
    /// What it came to.
    pub decided: Decided,
    /// The entry that it made, or the head that it was compared with.
    pub revision: Revision,
    /// The entry's instant in Unix milliseconds.
    pub instant_ms: u64,
    /// Boot time, read after the store had acknowledged it.
    pub committed_ms: u64,
    /// How often State had been loaded anew: which history of the log it was written to.
    pub loaded: u64,
}

impl Done {
    /// What a barrier has to know of it.
    #[must_use]
    pub fn durable(&self) -> Durable {
        Durable {
            revision: self.revision.number,
            committed_ms: self.committed_ms,
            loaded: self.loaded,
        }
    }
}

/// A revision that the store has acknowledged, or that it has acknowledged something behind.
#[derive(Clone, Copy, Debug)]
pub struct Durable {
    /// The revision.
    pub revision: RevisionNumber,
    /// Boot time, read after the acknowledgement.
    pub committed_ms: u64,
    /// How often State had been loaded anew by then.
    pub loaded: u64,
}

struct Queued {
    envelope: Envelope,
    reply: oneshot::Sender<Result<Done, Refusal>>,
    // Of the call that waits for it; none if that is not sampled, or there is none.
    span: Span,
}

struct Shared {
    published: ArcSwap<State>,
    store: Arc<dyn Store>,
    clock: Arc<SharedTime>,
    lease: Lease,
    serve_stale: bool,
    // Whether the lease was last seen not to be held, and whether the store answers: told to the
    // log when they change.
    lapsed: AtomicBool,
    reachable: AtomicBool,
    // This run as a member, once it has joined.
    membership: Mutex<Option<Incarnation>>,
    readings: Readings,
    // Whether a member may have answered without its lease when they were last read.
    may_serve_stale: AtomicBool,
    // The newest revision that a barrier may wait for.
    awaited: AtomicU64,
    // State must be loaded anew.
    reload: Notify,
    // The newest format that every server reads, by the last reading of the members.
    readable: AtomicU32,
    // The keys that this server has loaded to seal access tokens.
    seals: Arc<ArcSwap<Ring>>,
    // Somebody waits for a revision that is not published here.
    behind: Notify,
    looks: Looks,
    // How often it was; written by the writer alone.
    loaded: AtomicU64,
    // The newest revision of this history that the store has acknowledged to this server itself, or
    // that it has acknowledged something behind; written by the writer alone.
    acknowledged: AtomicU64,
    #[cfg(test)]
    mutation: Option<mutation::Mutation>,
    #[cfg(test)]
    cached_boot_ms: AtomicU64,
    // Set once the store turned out to be damaged: nothing may be answered from then on.
    fenced: AtomicBool,
    counters: Counters,
    recent: Recent,
    revision: watch::Sender<RevisionNumber>,
    used: Option<Gatherer>,
}

impl Shared {
    fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        settings: &Settings,
        used: Option<Gatherer>,
    ) -> Self {
        let lease = match store.cluster() {
            Some(_) => Lease::none(),
            None => Lease::forever(),
        };
        let (revision, _) = watch::channel(0);
        let counters = Counters::default();
        let store = Measured::new(store, Arc::clone(&counters.store));
        Self {
            published: ArcSwap::from_pointee(State::default()),
            store: Arc::new(store),
            clock: Arc::new(SharedTime::new(clock)),
            lease,
            serve_stale: settings.lease.serve_stale,
            lapsed: AtomicBool::new(true),
            reachable: AtomicBool::new(true),
            membership: Mutex::new(None),
            readings: Readings::default(),
            may_serve_stale: AtomicBool::new(true),
            awaited: AtomicU64::new(0),
            reload: Notify::new(),
            readable: AtomicU32::new(0),
            seals: Arc::clone(&settings.seals),
            behind: Notify::new(),
            looks: Looks::new(),
            loaded: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            #[cfg(test)]
            mutation: settings.mutation,
            #[cfg(test)]
            cached_boot_ms: AtomicU64::new(0),
            fenced: AtomicBool::new(false),
            counters,
            recent: Recent::default(),
            revision,
            used,
        }
    }

    /// Takes note of this run as a member.
    fn joined(&self, incarnation: Incarnation) {
        let mut membership = self
            .membership
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *membership = Some(incarnation);
    }

    /// Takes note of what the members are. The writer raises the log's format level to what all of
    /// them read: whoever joins meanwhile and does not is found by the store, which then refuses
    /// one of the two.
    fn seen(&self, roster: &Roster) {
        let may = roster.members.iter().any(|member| member.serves_stale);
        self.may_serve_stale.store(may, Ordering::Relaxed);
        let read_by_all = roster.members.iter().map(|member| member.format_max).min();
        self.readable
            .store(read_by_all.unwrap_or(0), Ordering::Relaxed);
    }

    fn membership(&self) -> Option<Incarnation> {
        *self
            .membership
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The chain at a revision of the published State's history; none if it is not published or
    /// too old to be remembered.
    fn chain(&self, number: RevisionNumber) -> Option<[u8; 8]> {
        let head = self.published.load().head().revision();
        match number {
            0 => Some(Head::EMPTY.revision().chain),
            _ if head.number == number => Some(head.chain),
            _ => self.recent.chain(number),
        }
    }

    /// Takes note of entries that a barrier may wait for.
    fn note_awaited(&self, entries: &[LogEntry]) {
        let awaited = entries.iter().rev().find(|one| one.entry.kind.may_deny());
        if let Some(last) = awaited {
            self.awaited
                .fetch_max(last.head.revision, Ordering::Relaxed);
        }
    }

    /// This State must not be answered from; the keeper loads it anew.
    fn diverged(&self) {
        self.lease.bar();
        self.reload.notify_one();
    }

    #[inline]
    fn may_answer(&self) -> bool {
        if self.fenced.load(Ordering::Acquire) {
            return false;
        }
        if mutated!(self, NoLease) {
            return true;
        }
        #[cfg(test)]
        if mutated!(self, CachedClock) {
            let cached = self.cached_boot_ms.load(Ordering::Relaxed);
            return self
                .lease
                .is_held(&crate::domain::clock::ManualClock::at(cached));
        }
        self.lease.is_held(&*self.clock) || self.without_lease()
    }

    #[cold]
    fn without_lease(&self) -> bool {
        let news = !self.lapsed.load(Ordering::Relaxed)
            // It may have been extended since it was asked for.
            && !self.lease.is_held(&*self.clock)
            && !self.lapsed.swap(true, Ordering::Relaxed);
        if news {
            tracing::warn!(
                serve_stale = self.serve_stale,
                "the lease has ended; what others revoke is not known here"
            );
        }
        // An outage may be bridged so: by what was vouched for, and not once others hear that
        // nothing is answered here, for then they do not wait for us.
        self.serve_stale && self.lease.has_run_out(&*self.clock)
    }

    /// The lease was extended.
    fn extended(&self) {
        let held = self.lease.is_held(&*self.clock);
        if held && self.lapsed.swap(false, Ordering::Relaxed) {
            tracing::info!("the lease is held");
        }
    }
}

/// A running replica. Clones are handles to the same one.
#[derive(Clone)]
pub struct Replica {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Queued>,
    logins: mpsc::Sender<LoginNoted>,
    lease: LeaseSettings,
    identity: Arc<Identity>,
    lifetimes: Lifetimes,
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
        mut settings: Settings,
    ) -> Result<(Self, WriterTask), LoadError> {
        settings.lease.length_ms = settings.lease.length_ms.min(LEASE_MS_MAX);
        let (used, gathered) = settings.last_used.as_ref().map(Gatherer::new).unzip();
        let shared = Arc::new(Shared::new(store, clock, &settings, used));
        let (commands, queue) = mpsc::channel(QUEUE_MAX);
        let (follows, followed) = mpsc::channel(1);
        let (stop, stop_keeper) = (CancellationToken::new(), CancellationToken::new());
        let mut keeper = None;
        if shared.store.cluster().is_some() {
            let mut joining = Keeper::new(
                Arc::clone(&shared),
                follows,
                Arc::clone(&entropy),
                &settings,
                stop_keeper.clone(),
            );
            // Before the snapshot is read: whoever waits for all members then waits for us, too.
            joining.join().await?;
            keeper = Some(joining);
        }
        let loaded = tokio::select! {
            biased;
            () = settings.given_up.cancelled() => Err(LoadError::GivenUp),
            loaded = load::load(&*shared.store, settings.identity.format_max) => loaded,
        };
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                if let Some(joined) = &keeper {
                    joined.leave().await;
                }
                return Err(error);
            }
        };
        shared.recent.record(&loaded.recent);
        shared.revision.send_replace(loaded.state.head().revision);
        shared.published.store(Arc::new(loaded.state));
        let (lease, identity) = (settings.lease, Arc::new(settings.identity.clone()));
        let lifetimes = settings.lifetimes;
        let (logins, record) = logins::record(&shared, &entropy);
        let mut flushers = vec![record];
        if let Some((settings, gathered)) = settings.last_used.zip(gathered) {
            flushers.push(used::flusher(&shared, settings, gathered, &entropy));
        }
        let writer = Writer::new(
            Arc::clone(&shared),
            queue,
            followed,
            entropy,
            settings,
            stop.clone(),
        );
        let tasks = WriterTask {
            writer: tokio::spawn(writer.run()),
            keeper: keeper.map(|keeper| tokio::spawn(keeper.run())),
            stop_keeper,
            flushers,
            commands: commands.clone(),
            stop,
        };
        let replica = Self {
            shared,
            commands,
            logins,
            lease,
            identity,
            lifetimes,
        };
        Ok((replica, tasks))
    }

    /// Whether this replica may answer, and the published State to answer from: asked for after
    /// the question arrived, and once for each.
    ///
    /// In this order. Between a State that lacks a revocation and a lease read after it, a whole
    /// renewal may pass while this thread stands still, and the lease then vouches for a State
    /// that is not the one in hand. A lease read first vouches for every State published later.
    #[inline]
    pub fn answering(&self) -> (bool, Guard<Arc<State>>) {
        let held = self.shared.may_answer();
        (held, self.shared.published.load())
    }

    /// The published State: one revision, for as long as the guard is held. What is answered
    /// from it is not vouched for: see [`Replica::answering`].
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
        self.shared.may_answer()
    }

    /// Whether the lease is held, whatever is answered without it: then what is read of the
    /// published State from now on is vouched for. Asked for before, as in
    /// [`Replica::answering`].
    #[must_use]
    pub fn is_vouched_for(&self) -> bool {
        self.shared.may_answer() && !self.serves_stale()
    }

    /// Whether it answers although the lease is not held.
    #[inline]
    #[must_use]
    pub fn serves_stale(&self) -> bool {
        self.shared.serve_stale && !self.shared.lease.is_held(&*self.shared.clock)
    }

    /// Whether the store answered when it was last asked; one of our own always does.
    #[must_use]
    pub fn store_answers(&self) -> bool {
        self.shared.reachable.load(Ordering::Relaxed)
    }

    /// How long this replica may still answer without the store; none where it shares it with
    /// nobody.
    #[must_use]
    pub fn lease_left_ms(&self) -> Option<u64> {
        self.shared.lease.left_ms(&*self.shared.clock)
    }

    /// Queues a command and waits for its durable outcome.
    ///
    /// # Errors
    /// The command's [`Refusal`]; [`Refusal::Unavailable`] when the queue is full or the writer
    /// has stopped, and then nothing was written.
    pub async fn submit(&self, envelope: Envelope) -> Result<Done, Refusal> {
        let (reply, outcome) = oneshot::channel();
        let queued = Queued {
            envelope,
            reply,
            span: traced::current(),
        };
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

    /// What a barrier has to know of a revision, if the store has acknowledged to this server
    /// itself that it, or something behind it, is durable; which history it is of is for the
    /// caller to compare, after this.
    #[must_use]
    pub fn acknowledged(&self, revision: RevisionNumber) -> Option<Durable> {
        // In this order: whoever sees that State was loaded anew sees nothing from before.
        let loaded = self.shared.loaded.load(Ordering::Acquire);
        let acknowledged = self.shared.acknowledged.load(Ordering::Acquire);
        (revision <= acknowledged).then(|| Durable {
            revision,
            committed_ms: self.shared.clock.boot_ms(),
            loaded,
        })
    }

    /// Whether this server has the store to itself: then what is not published is nowhere.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.shared.store.cluster().is_none()
    }

    /// Entries after a revision, at most `limit`.
    ///
    /// # Errors
    /// [`Refusal::Trimmed`] before the cut, [`Refusal::Unavailable`] when the store cannot be read.
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

    /// The keys that this server has loaded to seal access tokens.
    #[must_use]
    #[inline]
    pub fn seals(&self) -> &ArcSwap<Ring> {
        &self.shared.seals
    }

    /// What people call this server.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.identity.name
    }

    /// The longest life of each kind of token.
    #[must_use]
    pub fn lifetimes(&self) -> Lifetimes {
        self.lifetimes
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
    if let StoreError::Trimmed { asked, cut } = error {
        return Refusal::Trimmed {
            asked: *asked,
            cut: cut.revision,
        };
    }
    tracing::error!(%error, "the store failed");
    writer::away()
}

#[cfg(test)]
mod answering_tests;
#[cfg(test)]
mod barrier_tests;
#[cfg(test)]
mod keeper_tests;
#[cfg(test)]
mod logins_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod raised_tests;
#[cfg(test)]
mod settle_tests;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod used_tests;
