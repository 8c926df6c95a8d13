//! The keeper: membership, the lease, and following the log.
//!
//! ```text
//! join ─► load a snapshot ─► ┌─► read the clock ─► renew ─► apply up to the head ─► extend
//!                            ├─► woken or polled: read the log behind us ─► apply ─► report
//!                            └─► divergence: end the lease ─► join as another ─► load anew
//! ```
//!
//! One task. Its calls are bounded by the store and never wait for an append. What it reads it
//! hands to the writer, the only one that publishes. The lease begins at the clock as it was read
//! before the renewal was sent, and only after everything up to the renewal's head is published:
//! so a lease that knows nothing of a revision began before that revision was committed. A member
//! joins without a lease; its first renewal only says in its row that there will be one.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::domain::chain::{Head, RevisionNumber};
use crate::domain::clock::Clock as _;
use crate::domain::entropy::Entropy;
use crate::domain::entry::LogEntry;
use crate::store::StoreError;
use crate::store::cluster::{Cluster, History, Incarnation, Joining, Renewal, Renewed, Roster};

use super::load::{self, LoadError, Loaded};
use super::mutation::mutated;
use super::{Identity, LeaseSettings, Settings, Shared};

/// Entries read at a time; tests come to the end of a batch sooner.
const FOLLOW_MAX: usize = if cfg!(test) { 64 } else { 1_000 };
/// After a failed step.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// After a State that could not be loaded anew.
const LOAD_PAUSE: Duration = Duration::from_millis(1_000);
/// A member that loads for longer is held for dead.
const LOAD_MS_MAX: u64 = 30 * 60 * 1_000;
/// A report of what nobody waits for may be so late.
const REPORT_EVERY: Duration = Duration::from_millis(100);

/// What the keeper asks the writer to publish.
pub(super) enum Follow {
    /// Entries behind the published State, or some that it has already.
    Entries(Vec<LogEntry>, oneshot::Sender<Result<(), String>>),
    /// A State loaded anew, whatever is published now.
    Anew(Box<Loaded>, oneshot::Sender<()>),
}

/// Why a step did not succeed.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Try again: the lease ends by itself.
    Store(StoreError),
    /// This State is not what the log says: nothing may be answered from it.
    Diverged(String),
    /// The writer has ended.
    Stopped,
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Damaged { .. }
            | StoreError::OlderCopy { .. }
            | StoreError::Trimmed { .. }
            | StoreError::Format { .. } => Self::Diverged(error.to_string()),
            other => Self::Store(other),
        }
    }
}

/// A member as it was seen, and since when it has not moved.
struct Observed {
    heartbeat: u64,
    since_ms: u64,
}

/// The task.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    follows: mpsc::Sender<Follow>,
    entropy: Arc<dyn Entropy>,
    lease: LeaseSettings,
    identity: Identity,
    stop: CancellationToken,
    incarnation: Incarnation,
    // Whether this run has reported nothing yet.
    fresh: bool,
    // Whether its row says how long its lease is, and barriers wait for it.
    pub(super) is_awaited: bool,
    history: Option<History>,
    // How far wall time was ahead of boot time at the last look.
    apart_ms: Option<i64>,
    reported: RevisionNumber,
    renew_at: Instant,
    poll_at: Instant,
    // When what nobody waits for is reported.
    report_at: Option<Instant>,
    observed: HashMap<Incarnation, Observed>,
}

impl Keeper {
    pub(super) fn new(
        shared: Arc<Shared>,
        follows: mpsc::Sender<Follow>,
        entropy: Arc<dyn Entropy>,
        settings: &Settings,
        stop: CancellationToken,
    ) -> Self {
        Self {
            shared,
            follows,
            entropy,
            lease: settings.lease,
            identity: settings.identity.clone(),
            stop,
            incarnation: Incarnation([0; 16]),
            fresh: false,
            is_awaited: false,
            history: None,
            apart_ms: None,
            reported: 0,
            renew_at: Instant::now(),
            poll_at: Instant::now(),
            report_at: None,
            observed: HashMap::new(),
        }
    }

    fn cluster(&self) -> &dyn Cluster {
        // A keeper is made only for a store that has one.
        self.shared.store.cluster().expect("a store with members")
    }

    /// Becomes a member, before anything is read that is answered from.
    pub(super) async fn join(&mut self) -> Result<(), StoreError> {
        let mut id = [0; 16];
        self.entropy.fill(&mut id);
        self.incarnation = Incarnation(id);
        let joining = Joining {
            incarnation: self.incarnation,
            name: self.identity.name.clone(),
            address: self.identity.address.clone(),
            // None yet: nobody waits while it loads.
            lease_ms: 0,
            format_max: self.identity.format_max,
            serves_stale: self.shared.serve_stale,
            keys: self.loaded_keys(),
        };
        // Also a join whose outcome is not learnt may be one.
        self.shared.joined(self.incarnation);
        self.reported = 0;
        self.is_awaited = false;
        self.cluster().join(&joining).await?;
        self.fresh = true;
        tracing::info!(name = %joining.name, "joined the cluster");
        Ok(())
    }

    /// Hands the membership back, after the lease has ended.
    pub(super) async fn leave(&self) {
        if let Err(error) = self.cluster().leave(self.incarnation).await {
            tracing::warn!(%error, "the lease could not be handed back; it ends by itself");
        }
    }

    /// Renews, follows and reports until it is stopped; then hands the lease back.
    pub(super) async fn run(mut self) {
        let mut wakes = self.cluster().wakes();
        let mut published = self.shared.revision.subscribe();
        loop {
            // What has its time comes before what others can send without end.
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                () = self.shared.reload.notified() => self.load_anew("another history").await,
                () = sleep_until(self.renew_at) => self.renew_or_retry().await,
                () = sleep_until(self.report_at.unwrap_or(self.poll_at)),
                    if self.report_at.is_some() => self.report().await,
                () = sleep_until(self.poll_at) => self.follow_and_report().await,
                () = self.shared.behind.notified() => self.follow_and_report().await,
                // Without wake-ups the log is polled.
                Ok(()) = wakes.changed() => self.follow_and_report().await,
                Ok(()) = published.changed() => self.report_if_awaited().await,
            }
        }
        self.shared.looks.close();
        // Nothing is answered any more before others hear that nothing is.
        self.shared.lease.end();
        self.leave().await;
    }

    async fn renew_or_retry(&mut self) {
        self.renew_at = Instant::now() + self.lease.renew_every();
        match self.renew().await {
            Ok(()) => self.answered(),
            Err(trouble) => {
                self.renew_at = self.renew_at.min(Instant::now() + RETRY_PAUSE);
                self.troubled(trouble).await;
            }
        }
    }

    // One batch: there may be no end of them, and a renewal must not wait for it.
    async fn follow_and_report(&mut self) {
        self.poll_at = Instant::now() + self.lease.poll;
        if self.clocks_parted() {
            self.begin_anew();
        }
        let look = self.shared.looks.begin();
        match self.follow_once().await {
            Ok(read) => {
                if read == FOLLOW_MAX {
                    // The next one comes to the end for those who wait, or the one after it.
                    self.poll_at = Instant::now();
                } else {
                    self.shared.looks.end(look, true);
                }
                self.report_if_awaited().await;
            }
            Err(trouble) => {
                self.shared.looks.end(look, false);
                self.troubled(trouble).await;
            }
        }
    }

    fn answered(&self) {
        if !self.shared.reachable.swap(true, Ordering::Relaxed) {
            tracing::info!("the store answers again");
        }
    }

    async fn troubled(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::Store(error) if self.shared.reachable.swap(false, Ordering::Relaxed) => {
                tracing::warn!(%error, left_ms = ?self.shared.lease.left_ms(&*self.shared.clock),
                    "the store does not answer; the lease goes on until it ends");
            }
            Trouble::Store(error) => tracing::debug!(%error, "the store does not answer"),
            Trouble::Diverged(what) => self.load_anew(&what).await,
            Trouble::Stopped => self.stop.cancel(),
        }
    }

    /// One renewal, in the order that the promise stands on.
    pub(super) async fn renew(&mut self) -> Result<(), Trouble> {
        let (clock, lease) = (Arc::clone(&self.shared.clock), &self.shared.lease);
        let term = lease.term();
        let mut begun_ms = clock.boot_ms();
        let head = self.shared.published.load().head();
        let renewal = Renewal {
            incarnation: self.incarnation,
            lease_ms: self.lease.length_ms,
            applied: head,
            keys: self.loaded_keys(),
        };
        self.fresh = false;
        let renewed = self.cluster().renew(&renewal).await?;
        let Renewed::Held {
            head: log_head,
            chain_at_applied,
            database_ms,
            history,
        } = renewed
        else {
            // Barriers do not wait for whom they do not see.
            self.shared.lease.end();
            tracing::warn!("this member was removed; it joins anew");
            self.join().await?;
            self.renew_at = Instant::now();
            return Ok(());
        };
        self.compare(&head, chain_at_applied, history)?;
        let lag = log_head.revision.saturating_sub(head.revision);
        self.shared.counters.lag.store(lag, Ordering::Relaxed);
        self.shared.clock.heard(begun_ms, database_ms);
        if mutated!(self.shared, LeaseFromReply) {
            begun_ms = clock.boot_ms();
        }
        if mutated!(self.shared, LeaseBeforeApply) {
            self.shared
                .lease
                .extend(term, begun_ms + self.lease.length_ms);
        }
        self.reported = self.reported.max(head.revision);
        let awaited = std::mem::replace(&mut self.is_awaited, true);
        if !awaited && !mutated!(self.shared, LeaseFromFirstRenewal) {
            // Barriers whose members were read before this write was committed do not wait for
            // us, and the head that it read may lack what they are about. The next one's has it.
            self.renew_at = Instant::now();
            return Ok(());
        }
        let until_ms = begun_ms + self.lease.length_ms;
        if !self.follow(log_head.revision, until_ms).await? {
            // Far behind: what was applied meanwhile brings the next renewal nearer to the head,
            // and others see that this member is alive.
            self.renew_at = Instant::now();
            return Ok(());
        }
        self.has_followed(&log_head).await?;
        if self.clocks_parted() {
            self.begin_anew();
            return Ok(());
        }
        self.shared.lease.extend(term, until_ms);
        self.shared.extended();
        self.look_around().await;
        Ok(())
    }

    async fn look_around(&mut self) {
        if let Ok(roster) = self.cluster().roster().await {
            let (members, counters) = (roster.members.len(), &self.shared.counters);
            counters.members.store(members as u64, Ordering::Relaxed);
            self.shared.seen(&roster);
            self.remove_dead(&roster).await;
        }
    }

    fn begin_anew(&mut self) {
        self.shared.lease.run_out();
        tracing::warn!("wall and boot time have parted; the lease begins anew");
        self.renew_at = Instant::now();
    }

    // Another chain at our revision, or a head below ours: a failover that lost data.
    fn compare(
        &mut self,
        head: &Head,
        chain: Option<[u8; 32]>,
        history: History,
    ) -> Result<(), Trouble> {
        if head.revision > 0 && chain != Some(head.chain) {
            let what = format!("the log has another revision {} than we", head.revision);
            return Err(Trouble::Diverged(what));
        }
        if let Some(former) = self.history.replace(history)
            && former != history
        {
            tracing::warn!(?former, ?history, "another server of the database answers");
            // It may have lost heartbeats that were seen before, and that we have a lease: who
            // does not see that in our row does not wait for us.
            self.observed.clear();
            self.is_awaited = false;
            self.shared.lease.end();
        }
        Ok(())
    }

    /// That what was followed leads to the head of the renewal: a failover between the two may
    /// have put something else under its number. If so much has come since that it is not
    /// remembered, the log has both, ours read first: what it still has is of its own history.
    async fn has_followed(&self, log_head: &Head) -> Result<(), Trouble> {
        let wanted = log_head.revision();
        let follows = match self.shared.chain(wanted.number) {
            Some(chain) => chain == wanted.chain,
            None => {
                let ours = self.shared.published.load().head();
                self.is_in_log(&ours).await? && self.is_in_log(log_head).await?
            }
        };
        if follows {
            return Ok(());
        }
        let what = format!("what was followed is another revision {}", wanted.number);
        Err(Trouble::Diverged(what))
    }

    async fn is_in_log(&self, head: &Head) -> Result<bool, Trouble> {
        let before = head.revision.saturating_sub(1);
        let read = self.cluster().feed(before, 1).await?;
        Ok(read.first().is_some_and(|entry| entry.head == *head))
    }

    /// Whether wall and boot time have parted since the last look by more than the slack: a
    /// machine that was stopped whole, or a clock that was set. Not since the start: wall time is
    /// steered, and a lease need only be sure of the time since it began.
    pub(super) fn clocks_parted(&mut self) -> bool {
        let apart_ms = self.shared.clock.wall_ahead_ms();
        let slack_ms = self.lease.with_slack(self.lease.length_ms) - self.lease.length_ms;
        let former = self.apart_ms.replace(apart_ms);
        former.is_some_and(|former| apart_ms.abs_diff(former) > slack_ms)
    }

    /// Reads the log behind the published State until it has reached `target`; not if a lease
    /// until then would be over before.
    async fn follow(&mut self, target: RevisionNumber, until_ms: u64) -> Result<bool, Trouble> {
        while self.shared.published.load().head().revision < target {
            if self.follow_once().await? == 0 {
                // The head of a renewal was read, and then what leads to it is gone.
                let what = "the log ends before its head".to_owned();
                return Err(Trouble::Diverged(what));
            }
            if self.shared.clock.boot_ms() >= until_ms {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads and publishes the next entries of the log; returns how many there were.
    async fn follow_once(&mut self) -> Result<usize, Trouble> {
        let at = self.shared.published.load().head().revision;
        let entries = self.cluster().feed(at, FOLLOW_MAX).await?;
        let read = entries.len();
        let Some(last) = entries.last() else {
            return Ok(0);
        };
        if mutated!(self.shared, ReportBeforePublish) {
            let _ = self.cluster().report(self.incarnation, last.head).await;
        }
        let (reply, published) = oneshot::channel();
        let follow = Follow::Entries(entries, reply);
        self.follows
            .send(follow)
            .await
            .map_err(|_| Trouble::Stopped)?;
        published
            .await
            .map_err(|_| Trouble::Stopped)?
            .map_err(Trouble::Diverged)?;
        Ok(read)
    }

    /// Tells what is published at once if a barrier may wait for it, or else after a while.
    async fn report_if_awaited(&mut self) {
        if self.shared.awaited.load(Ordering::Relaxed) > self.reported {
            self.report().await;
        } else if self.report_at.is_none() {
            self.report_at = Some(Instant::now() + REPORT_EVERY);
        }
    }

    async fn report(&mut self) {
        self.report_at = None;
        let published = self.shared.published.load().head();
        if published.revision <= self.reported {
            return;
        }
        self.fresh = false;
        match self.cluster().report(self.incarnation, published).await {
            Ok(()) => self.reported = published.revision,
            Err(error) => tracing::debug!(%error, "a report was lost"),
        }
    }

    /// Ends the lease and loads State as the store has it now.
    async fn load_anew(&mut self, what: &str) {
        self.shared.lease.bar();
        let divergences = &self.shared.counters.divergences;
        divergences.fetch_add(1, Ordering::Relaxed);
        tracing::error!(%what, "this server's state is not the log's; it is loaded anew");
        match self.loaded().await {
            Ok(loaded) => {
                self.renew_at = Instant::now();
                let (reply, published) = oneshot::channel();
                let anew = Follow::Anew(Box::new(loaded), reply);
                if self.follows.send(anew).await.is_err() || published.await.is_err() {
                    self.stop.cancel();
                }
            }
            Err(error) => {
                tracing::error!(%error, "the state cannot be loaded");
                sleep(LOAD_PAUSE).await;
                self.shared.reload.notify_one();
            }
        }
    }

    // As another member: what this one has reported may be of another history, which has used
    // the same numbers.
    async fn loaded(&mut self) -> Result<Loaded, LoadError> {
        if !self.fresh {
            self.leave().await;
            self.join().await?;
        }
        self.history = None;
        self.observed.clear();
        load::load(&*self.shared.store, self.identity.format_max).await
    }

    /// Removes a member whose lease has surely ended: its heartbeat has stood still for that long
    /// on our clock. One at a time: the next renewal must not wait for many of them.
    pub(super) async fn remove_dead(&mut self, roster: &Roster) {
        let now_ms = self.shared.clock.boot_ms();
        let Some((incarnation, heartbeat)) = self.dead(roster, now_ms).into_iter().next() else {
            return;
        };
        match self.cluster().remove(incarnation, heartbeat).await {
            Ok(true) => tracing::info!("a member that is gone was removed"),
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, "a member could not be removed"),
        }
    }

    /// The seal keys that this server has loaded at this moment.
    fn loaded_keys(&self) -> Vec<u32> {
        let seals = self.shared.seals.load();
        seals.ids().into_iter().map(|id| id.0).collect()
    }

    // Whose leases are over by now, with the heartbeats that say so.
    pub(super) fn dead(&mut self, roster: &Roster, now_ms: u64) -> Vec<(Incarnation, u64)> {
        let present = |incarnation: &Incarnation| {
            roster
                .members
                .iter()
                .any(|one| one.incarnation == *incarnation)
        };
        self.observed.retain(|incarnation, _| present(incarnation));
        let mut dead = Vec::new();
        for member in &roster.members {
            let observed = self.observed.entry(member.incarnation).or_insert(Observed {
                heartbeat: member.heartbeat,
                since_ms: now_ms,
            });
            if observed.heartbeat != member.heartbeat {
                *observed = Observed {
                    heartbeat: member.heartbeat,
                    since_ms: now_ms,
                };
            }
            let longest_ms = match member.lease_ms {
                // Without a lease yet: it loads, and nobody waits for it but the log's format.
                0 => LOAD_MS_MAX,
                lease_ms => lease_ms.max(roster.lease_ms),
            };
            let over_ms = observed.since_ms + self.lease.with_slack(longest_ms);
            // What answers without its lease may do so for as long as it is cut off: who is
            // responsible for it takes it away.
            let may_be_dead = member.incarnation != self.incarnation && !member.serves_stale;
            if may_be_dead && now_ms >= over_ms {
                dead.push((member.incarnation, member.heartbeat));
            }
        }
        dead
    }
}
