//! The flusher: writes beside the log, in batches, what was gathered in memory.
//!
//! ```text
//! noted ─► queue ─► flusher, now and then ─► the store
//! ```
//!
//! One task for each sort: last uses, logins. Nobody waits for it. What waits is bounded; what
//! finds no room, or no time at the end, is counted as dropped. A store that is away is asked
//! again; one that refuses a batch for good is not, so that it stands in nobody's way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::domain::entropy::Entropy;
use crate::store::{Store, StoreError};

use super::tasks::ended;
use super::{Counters, Shared};

/// A batch is what may be written within this time.
const BATCH_TIME: Duration = Duration::from_secs(1);
/// How long a server that stops goes on writing.
const LAST_FLUSH_MAX: Duration = Duration::from_secs(2);

/// How fast is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// What is noted is written so long after it at the latest, if the store takes it; half of it
    /// at least is between two rounds of writing.
    pub(super) interval: Duration,
    /// What is written in a second at the most, but for the last moment.
    pub(super) per_second: usize,
    /// What may wait in the queue, and as much again behind it.
    pub(super) waiting_max: usize,
}

/// What waits to be written.
pub(super) trait Waiting: Default + Send + 'static {
    /// One of it.
    type Item: Send + Sync + 'static;
    /// What people call it, in the plural.
    const NAME: &'static str;

    /// Adds one.
    fn put(&mut self, item: Self::Item);

    /// How many there are.
    fn count(&self) -> usize;

    /// The first of them, at most so many.
    fn first(&self, most: usize) -> Vec<Self::Item>;

    /// Takes the first of them away.
    fn remove_first(&mut self, count: usize);

    /// Writes some; twice is as good as once.
    fn write(
        store: &dyn Store,
        batch: &[Self::Item],
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Where losses are counted.
    fn dropped(counters: &Counters) -> &AtomicU64;
}

/// The flusher at work, and its stop signal, which dropping this gives, too.
#[derive(Debug)]
pub(super) struct FlusherTask {
    task: JoinHandle<()>,
    stop: DropGuard,
}

impl FlusherTask {
    pub(super) fn start<W: Waiting>(
        shared: &Arc<Shared>,
        gathered: mpsc::Receiver<W::Item>,
        pace: Pace,
        entropy: &Arc<dyn Entropy>,
    ) -> Self {
        let stop = CancellationToken::new();
        let flusher = Flusher::<W> {
            shared: Arc::clone(shared),
            gathered,
            pace,
            entropy: Arc::clone(entropy),
            waiting: W::default(),
            failing: false,
        };
        Self {
            task: tokio::spawn(flusher.run(stop.clone())),
            stop: stop.drop_guard(),
        }
    }

    /// Writes what is waiting, in bounded time.
    pub(super) async fn stop(self) {
        drop(self.stop);
        ended(self.task).await;
    }
}

struct Flusher<W: Waiting> {
    shared: Arc<Shared>,
    gathered: mpsc::Receiver<W::Item>,
    pace: Pace,
    entropy: Arc<dyn Entropy>,
    // What is to be written, at most as much as the queue holds.
    waiting: W,
    // Whether the last batch was not taken: said once.
    failing: bool,
}

impl<W: Waiting> Flusher<W> {
    async fn run(mut self, stop: CancellationToken) {
        loop {
            // A round may be given up anywhere: what it has not written is still waiting.
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.round() => {}
            }
        }
        // What comes from now on is dropped at once.
        self.gathered.close();
        let written = timeout(LAST_FLUSH_MAX, self.last_round()).await;
        let left = self.waiting.count() + self.gathered.len();
        if left > 0 {
            self.count_dropped(left);
            let in_time = written.is_ok();
            tracing::warn!(left, in_time, "{} were not written", W::NAME);
        }
    }

    async fn round(&mut self) {
        if self.waiting.count() == 0 {
            match self.gathered.recv().await {
                Some(first) => self.waiting.put(first),
                // Nobody notes any more: there is only the stop to come.
                None => std::future::pending().await,
            }
        }
        sleep(self.pause()).await;
        self.gather();
        while self.write().await {
            sleep(BATCH_TIME).await;
        }
    }

    // Servers that were started together do not write together.
    fn pause(&self) -> Duration {
        let mut random = [0; 2];
        self.entropy.fill(&mut random);
        let half = self.pace.interval / 2;
        half + half * u32::from(u16::from_be_bytes(random)) / (1 << 16)
    }

    async fn last_round(&mut self) {
        self.gather();
        while self.write().await {
            self.gather();
        }
    }

    fn gather(&mut self) {
        while self.waiting.count() < self.pace.waiting_max
            && let Ok(item) = self.gathered.try_recv()
        {
            self.waiting.put(item);
        }
    }

    /// Writes one batch; whether there may be another.
    async fn write(&mut self) -> bool {
        let batch = self.waiting.first(self.pace.per_second);
        if batch.is_empty() {
            return false;
        }
        match W::write(&*self.shared.store, &batch).await {
            Ok(()) => self.failing = false,
            // Writing it twice changes nothing.
            Err(error @ (StoreError::Unavailable(_) | StoreError::OutcomeUnknown(_))) => {
                if !self.failing {
                    tracing::warn!(%error, "{} cannot be written now", W::NAME);
                }
                self.failing = true;
                return false;
            }
            Err(error) => {
                self.count_dropped(batch.len());
                tracing::error!(%error, "the store refuses {}", W::NAME);
            }
        }
        self.waiting.remove_first(batch.len());
        true
    }

    fn count_dropped(&self, count: usize) {
        let dropped = W::dropped(&self.shared.counters);
        dropped.fetch_add(count as u64, Ordering::Relaxed);
    }
}
