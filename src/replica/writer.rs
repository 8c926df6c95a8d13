//! The writer: gathers the commands that wait, decides them in order on a private clone of
//! State, appends them together, publishes, and only then replies.
//!
//! A reply, also a refusal or an *already so*, leaves after its batch was compared with the
//! head. When the head has moved, the missed entries are applied and the batch is decided again.
//! An append whose outcome was not learnt is settled (`settle`). The clone is never published
//! before the append has committed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::yield_now;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

use crate::domain::chain::Head;
use crate::domain::clock::Clock as _;
use crate::domain::entropy::Entropy;
use crate::domain::entry::{Entry, EntryKind, LogEntry};
use crate::domain::refusal::Refusal;
use crate::domain::traced::TARGET;
use crate::state::decide::{Caller, Command, Decided, Envelope, Moment, Outcome, decide};
use crate::state::{Diverged, State};
use crate::store::{Batch, StoreError};

use super::keeper::Follow;
use super::load::readable;
use super::settle::Settled;
use super::{BATCH_BYTES_MAX, Done, Queued, Settings, Shared};

/// How long commands are decided again while others write, before they are given up.
const DECIDED_AGAIN_TIME: Duration = Duration::from_secs(10);
/// How often others are let run without a command having come.
const IDLE_MAX: usize = 32;
const SLICES: u16 = 256;
/// So many entries missed may be the first of many more.
const MISSED_MANY: usize = 100;
/// Entries that are then read at a time, and how often at the most.
const READ_MAX: usize = 1_000;
const READS_MAX: usize = 256;

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) queue: mpsc::Receiver<Queued>,
    // What the keeper read.
    pub(super) follows: mpsc::Receiver<Follow>,
    entropy: Arc<dyn Entropy>,
    pub(super) settings: Settings,
    // Published States that a reader may still hold: dropped here, so that no reader ever frees.
    retired: Vec<Arc<State>>,
    // Commands of the last batch.
    gathered: usize,
    next_slice: u16,
    // Whether the store could not be reached by the last append.
    away: bool,
    pub(super) stop: CancellationToken,
}

/// A batch that was decided, before it is appended.
struct Plan {
    batch: Batch,
    state: State,
    results: Vec<Result<Done, Refusal>>,
    // Commands that did not fit: they are decided next, in their order.
    rest: VecDeque<Queued>,
}

impl Plan {
    fn committed(&mut self, committed_ms: u64) {
        for done in self.results.iter_mut().flatten() {
            done.committed_ms = committed_ms;
        }
    }
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        queue: mpsc::Receiver<Queued>,
        follows: mpsc::Receiver<Follow>,
        entropy: Arc<dyn Entropy>,
        settings: Settings,
        stop: CancellationToken,
    ) -> Self {
        Self {
            shared,
            queue,
            follows,
            entropy,
            settings,
            retired: Vec::new(),
            gathered: 1,
            next_slice: 0,
            away: false,
            stop,
        }
    }

    pub(super) async fn run(mut self) {
        let mut sweep = self.sweeps();
        loop {
            let first = tokio::select! {
                biased;
                () = self.stop.cancelled(), if !self.queue.is_closed() => {
                    // What is queued is still answered; what comes later is refused.
                    self.queue.close();
                    continue;
                }
                // Rare, so it starves nobody; behind the queue it would be starved itself.
                _ = sweep.tick() => {
                    self.sweep().await;
                    #[cfg(debug_assertions)]
                    self.note().await;
                    continue;
                }
                Some(follow) = self.follows.recv() => {
                    self.follow(follow);
                    continue;
                }
                queued = self.queue.recv() => queued,
            };
            // Closed and empty: every handle is gone, everything queued was answered.
            let Some(first) = first else { break };
            let mut waiting = self.gather(first).await;
            while !waiting.is_empty() {
                self.make_writable(&waiting).await;
                // A stop answers what is queued, but does not wait for a database that is away.
                waiting = if self.away && self.stop.is_cancelled() {
                    refuse(waiting, &away())
                } else {
                    let span = span_of(&waiting);
                    self.commit(waiting).instrument(span).await
                };
            }
        }
        if let Err(error) = self.shared.store.close().await {
            tracing::error!(%error, "the store did not close cleanly");
        }
    }

    /// The commands that wait. Callers who were just answered often ask again at once: taken one by
    /// one as they come, every second batch would be a small one and cost as much. So others are
    /// let run until as many are here as last time, or nobody comes any more.
    async fn gather(&mut self, first: Queued) -> VecDeque<Queued> {
        let mut waiting = VecDeque::from([first]);
        let mut idle = 0;
        loop {
            while waiting.len() < self.settings.batch_commands_max
                && let Ok(queued) = self.queue.try_recv()
            {
                waiting.push_back(queued);
                idle = 0;
            }
            if waiting.len() >= self.gathered || idle == IDLE_MAX {
                break;
            }
            idle += 1;
            yield_now().await;
        }
        self.gathered = waiting.len();
        waiting
    }

    fn sweeps(&self) -> Interval {
        let mut sweep = interval(Duration::from_millis(self.settings.forget_every_ms.max(1)));
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        sweep
    }

    /// Forgets what ended long ago in the next slice of the index.
    async fn sweep(&mut self) {
        let now_ms = self.shared.clock.now().earliest;
        let command = Command::Forget {
            before_ms: now_ms.saturating_sub(self.settings.forget_after_ms),
            slice: (self.next_slice % SLICES) as u8,
        };
        self.next_slice = (self.next_slice + 1) % SLICES;
        self.command("", command).await;
    }

    /// Writes the entry of the next format over and over: a log begins with what somebody did.
    #[cfg(debug_assertions)]
    async fn note(&mut self) {
        let begun = self.shared.published.load().head().revision > 0;
        if begun && self.readable() > crate::domain::format::FORMAT_MAX {
            self.raise(EntryKind::Note.format()).await;
            self.command("the next format is written", Command::Note)
                .await;
        }
    }

    /// Carries out a command of the server's own, if it changes anything.
    pub(super) async fn command(&mut self, reason: &str, command: Command) {
        let (reply, _) = tokio::sync::oneshot::channel();
        let envelope = Envelope {
            caller: Caller::System,
            reason: reason.to_owned(),
            request: None,
            command,
        };
        let state = self.shared.published.load_full();
        // Only what changes something is worth an append.
        if is_change(&decide(&state, &envelope, self.moment(&state, 0))) {
            let span = Span::none();
            let queued = Queued {
                envelope,
                reply,
                span,
            };
            self.commit(VecDeque::from([queued])).await;
        }
    }

    /// Decides, appends and answers; returns the commands that did not fit, or must be decided at
    /// another level of the log.
    async fn commit(&mut self, waiting: VecDeque<Queued>) -> VecDeque<Queued> {
        let mut waiting = waiting;
        let mut alone = false;
        let given_up_at = Instant::now() + DECIDED_AGAIN_TIME;
        while Instant::now() < given_up_at {
            if self.shared.fenced.load(Ordering::Acquire) {
                return refuse(waiting, &stopped());
            }
            let mut plan = self.plan(&mut waiting, alone);
            let loaded = self.loaded();
            let settled = self.append(&plan.batch).await;
            // Read after the store has acknowledged it: every lease without it began before.
            let committed_ms = self.shared.clock.boot_ms();
            match settled {
                Settled::Committed if loaded != self.loaded() => {
                    // What it was decided on is no longer what the log says.
                    refuse(waiting, &Refusal::OutcomeUnknown);
                    return plan.rest;
                }
                Settled::Committed => {
                    self.away = false;
                    plan.committed(committed_ms);
                    let acknowledged = plan.state.head().revision;
                    self.shared
                        .acknowledged
                        .store(acknowledged, Ordering::Release);
                    self.count(&plan);
                    self.shared.recent.record(&plan.batch.entries);
                    self.publish(std::mem::take(&mut plan.state));
                    answer(waiting, plan.results);
                    return plan.rest;
                }
                Settled::Moved => {
                    waiting.append(&mut plan.rest);
                    // On what others wrote it may be a change of a newer format.
                    if self.is_raise_wanted(&waiting) {
                        return waiting;
                    }
                }
                // One of them is at fault: find out which by trying them one by one.
                Settled::Failed(StoreError::Refused(_)) if waiting.len() > 1 => {
                    alone = true;
                    waiting.append(&mut plan.rest);
                }
                Settled::Failed(error) => {
                    self.shared
                        .counters
                        .store_errors
                        .fetch_add(1, Ordering::Relaxed);
                    self.away = matches!(
                        error,
                        StoreError::Unavailable(_) | StoreError::OutcomeUnknown(_)
                    );
                    let refusal = self.refusal_of(&error);
                    refuse(waiting, &refusal);
                    return plan.rest;
                }
            }
        }
        let refusal = Refusal::Unavailable("others wrote all the time; try again".to_owned());
        refuse(waiting, &refusal)
    }

    // A batch that was decided before State was loaded anew is of another history.
    fn loaded(&self) -> u64 {
        self.shared.loaded.load(Ordering::Relaxed)
    }

    pub(super) fn moment(&self, state: &State, ahead: usize) -> Moment {
        Moment {
            revision: state.head().revision + ahead as u64 + 1,
            now: self.shared.clock.now(),
            lifetimes: self.settings.lifetimes,
        }
    }

    /// Decides the waiting commands in order on a private clone; what does not fit is set aside.
    fn plan(&mut self, waiting: &mut VecDeque<Queued>, alone: bool) -> Plan {
        // Nobody waits for the answer any more, so nothing needs to be done.
        waiting.retain(|queued| !queued.reply.is_closed() || is_internal(queued));
        let base = self.shared.published.load_full();
        let mut state = (*base).clone();
        let mut id = [0; 16];
        self.entropy.fill(&mut id);
        let mut entries: Vec<LogEntry> = Vec::new();
        let mut head = base.head();
        let mut results = Vec::new();
        let mut bytes = 0;
        for queued in waiting.iter() {
            if bytes >= BATCH_BYTES_MAX || (alone && !results.is_empty()) {
                break;
            }
            let moment = self.moment(&base, entries.len());
            let decided = decide(&state, &queued.envelope, moment);
            let instant_ms = moment.now.latest.max(state.instant_ms());
            if let Ok(decided) = &decided
                && let Some(entry) = entry_of(decided, queued, moment.revision, instant_ms, id)
            {
                state.advance(&entry);
                let logged = LogEntry::new(entry, &head);
                bytes += logged.body.len();
                head = logged.head;
                entries.push(logged);
            }
            results.push(decided.map(|decided| (decided, entries.len(), instant_ms)));
        }
        let rest = waiting.split_off(results.len());
        // The last entry carries the digest of what all of them make.
        if let Some(LogEntry { mut entry, .. }) = entries.pop() {
            let before = entries.last().map_or(base.head(), |one| one.head);
            entry.state_digest = Some(state.digest());
            let logged = LogEntry::new(entry, &before);
            head = logged.head;
            entries.push(logged);
        }
        let heads: Vec<Head> = [base.head()]
            .into_iter()
            .chain(entries.iter().map(|one| one.head))
            .collect();
        state.seal(head);
        let loaded = self.loaded();
        let done = |(decided, after, instant_ms): (Decided, usize, u64)| Done {
            decided,
            revision: heads[after].revision(),
            instant_ms,
            committed_ms: 0,
            loaded,
        };
        Plan {
            batch: Batch {
                id,
                base: base.head(),
                entries,
            },
            state,
            results: results.into_iter().map(|result| result.map(done)).collect(),
            rest,
        }
    }

    pub(super) fn follow(&mut self, follow: Follow) {
        match follow {
            Follow::Entries(entries, reply) => {
                let applied = self.apply(&entries).map_err(|error| error.to_string());
                // A keeper that is gone needs no answer.
                let _ = reply.send(applied);
            }
            Follow::Anew(loaded, reply) => {
                self.shared.acknowledged.store(0, Ordering::Release);
                self.shared.loaded.fetch_add(1, Ordering::AcqRel);
                self.shared.recent.clear();
                self.shared.recent.record(&loaded.recent);
                self.swap(loaded.state);
                self.shared.lease.lift();
                let _ = reply.send(());
            }
        }
    }

    /// Applies what others appended, and the rest of the log where that may be the first of many:
    /// what is decided far behind the head is decided for nothing, and takes the others' turns.
    pub(super) async fn catch_up_wholly(&mut self, missed: &[LogEntry]) -> Settled {
        let mut settled = self.catch_up(missed);
        let mut many = missed.len() >= MISSED_MANY;
        for _ in 0..READS_MAX {
            if !many || !matches!(settled, Settled::Moved) {
                break;
            }
            let store = Arc::clone(&self.shared.store);
            let at = self.shared.published.load().head().revision;
            let read = self.following(store.changes_after(at, READ_MAX)).await;
            settled = match read {
                Ok(entries) => {
                    many = entries.len() == READ_MAX;
                    self.catch_up(&entries)
                }
                Err(error @ StoreError::Damaged { .. }) => Settled::Failed(error),
                // The next append tells.
                Err(_) => break,
            };
        }
        settled
    }

    /// Applies entries that others appended, and publishes what they make.
    pub(super) fn catch_up(&mut self, missed: &[LogEntry]) -> Settled {
        match self.apply(missed) {
            Ok(()) => Settled::Moved,
            Err(error) => Settled::Failed(error),
        }
    }

    // The published State may have some of the entries already.
    fn apply(&mut self, entries: &[LogEntry]) -> Result<(), StoreError> {
        let mut state = (*self.shared.published.load_full()).clone();
        let known = state.head().revision;
        for entry in entries.iter().filter(|one| one.entry.revision > known) {
            state.apply(entry).map_err(|diverged| damaged(&diverged))?;
        }
        readable(state.format(), self.settings.identity.format_max)?;
        self.shared.recent.record(entries);
        self.shared.note_awaited(entries);
        self.publish(state);
        Ok(())
    }

    fn publish(&mut self, state: State) {
        let head = state.head();
        // What settled an unknown outcome may be ahead of what was decided.
        if head.revision <= self.shared.published.load().head().revision {
            return;
        }
        self.swap(state);
    }

    fn swap(&mut self, state: State) {
        let head = state.head();
        let former = self.shared.published.swap(Arc::new(state));
        self.retired.push(former);
        self.retired.retain(|state| Arc::strong_count(state) > 1);
        self.shared.revision.send_replace(head.revision);
    }

    fn count(&self, plan: &Plan) {
        let counters = &self.shared.counters;
        let refused = plan.results.iter().filter(|result| result.is_err()).count();
        counters.batches.fetch_add(1, Ordering::Relaxed);
        let entries = plan.batch.entries.len() as u64;
        counters.entries.fetch_add(entries, Ordering::Relaxed);
        counters.batch_entries.was(entries);
        counters
            .refused
            .fetch_add(refused as u64, Ordering::Relaxed);
    }

    fn refusal_of(&self, error: &StoreError) -> Refusal {
        match error {
            StoreError::Damaged { .. }
            | StoreError::OlderCopy { .. }
            | StoreError::Format { .. }
                if self.shared.store.cluster().is_some() =>
            {
                tracing::error!(%error, "the log is another than this server's");
                self.shared.diverged();
                Refusal::OutcomeUnknown
            }
            StoreError::Damaged { .. }
            | StoreError::OlderCopy { .. }
            | StoreError::Format { .. } => {
                // Nothing that is in memory can be trusted to be what the log says.
                self.shared.fenced.store(true, Ordering::Release);
                tracing::error!(%error, "the store is damaged; this server answers nothing more");
                stopped()
            }
            StoreError::OutcomeUnknown(_) => {
                // The next append settles it: its base either stands or has moved.
                tracing::error!(%error, "the outcome of an append stays unknown");
                Refusal::OutcomeUnknown
            }
            StoreError::Unavailable(_) | StoreError::Refused(_) | StoreError::Trimmed { .. } => {
                super::unavailable(error)
            }
        }
    }
}

pub(super) fn is_change(decided: &Result<Decided, Refusal>) -> bool {
    let outcome = decided.as_ref().map(|decided| &decided.outcome);
    matches!(outcome, Ok(Outcome::Change { .. }))
}

/// The span of carrying commands out together: in the first call that is sampled, and tied to the
/// others.
fn span_of(waiting: &VecDeque<Queued>) -> Span {
    let mut calls = waiting.iter().map(|queued| &queued.span);
    let Some(first) = calls.find(|span| !span.is_none()) else {
        return Span::none();
    };
    let commands = waiting.len();
    let span =
        tracing::info_span!(target: TARGET, parent: first, "commit", latchkey.commands = commands);
    for other in calls.filter(|span| !span.is_none()) {
        span.follows_from(other);
    }
    span
}

fn is_internal(queued: &Queued) -> bool {
    matches!(queued.envelope.caller, Caller::System | Caller::Local)
}

fn entry_of(
    decided: &Decided,
    queued: &Queued,
    revision: u64,
    instant_ms: u64,
    batch_id: [u8; 16],
) -> Option<Entry> {
    let Outcome::Change {
        kind,
        target,
        change,
    } = &decided.outcome
    else {
        return None;
    };
    debug_assert!(
        *kind == EntryKind::Forget || !target.is_empty(),
        "an entry names its target"
    );
    Some(Entry {
        revision,
        instant_ms,
        actor: decided.actor.clone(),
        kind: *kind,
        target: target.clone(),
        reason: queued.envelope.reason.clone(),
        batch_id,
        request: queued.envelope.request,
        state_digest: None,
        change: change.clone(),
    })
}

fn answer(waiting: VecDeque<Queued>, results: Vec<Result<Done, Refusal>>) {
    for (queued, result) in waiting.into_iter().zip(results) {
        // A caller that has gone away learns the outcome by its request id.
        let _ = queued.reply.send(result);
    }
}

pub(super) fn refuse(
    waiting: impl IntoIterator<Item = Queued>,
    refusal: &Refusal,
) -> VecDeque<Queued> {
    for queued in waiting {
        let _ = queued.reply.send(Err(refusal.clone()));
    }
    VecDeque::new()
}

pub(super) fn away() -> Refusal {
    Refusal::Unavailable("the store is unavailable; nothing was written".to_owned())
}

fn stopped() -> Refusal {
    Refusal::Unavailable("this server has found its store damaged and answers nothing".to_owned())
}

fn damaged(diverged: &Diverged) -> StoreError {
    let revision = match diverged {
        Diverged::NotNext { found, .. } => *found,
        Diverged::Chain(revision) | Diverged::Digest(revision) => *revision,
    };
    StoreError::Damaged {
        revision,
        what: diverged.to_string(),
    }
}
