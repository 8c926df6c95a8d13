//! What became of a batch: appending it, and settling an append that had no answer.
//!
//! One more durable write on the same base, which gives the lost batch up, tells: if it is
//! committed, the lost one is not in the log and never will be; if the head has moved, the log
//! says whether the batch is in it. That takes as long as the database is away: commands that come
//! meanwhile are refused, and a stop does not wait for it. Part of the writer, its only caller.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use crate::store::{Appended, Batch, StoreError};

use super::writer::{Writer, away, refuse};

const SETTLE_PAUSE: Duration = Duration::from_millis(50);
/// For so long those wait for it whose changes it settles.
const SETTLE_TIME: Duration = Duration::from_secs(30);
/// For so long those wait who come meanwhile, and a stop: most connections are back by then.
const SETTLE_PATIENCE: Duration = Duration::from_secs(1);

/// What became of a batch.
pub(super) enum Settled {
    Committed,
    Moved,
    Failed(StoreError),
}

impl Writer {
    pub(super) async fn append(&mut self, batch: &Batch) -> Settled {
        let store = Arc::clone(&self.shared.store);
        match self.following(store.append(batch.clone())).await {
            Ok(Appended::Committed) => Settled::Committed,
            Ok(Appended::Conflict(missed)) => {
                self.shared
                    .counters
                    .conflicts
                    .fetch_add(1, Ordering::Relaxed);
                self.catch_up_wholly(&missed).await
            }
            Err(StoreError::OutcomeUnknown(error)) => {
                tracing::warn!(%error, "the outcome of an append is unknown; settling it");
                self.shared
                    .counters
                    .unknown_outcomes
                    .fetch_add(1, Ordering::Relaxed);
                self.settle(batch).await
            }
            Err(error) => Settled::Failed(error),
        }
    }

    /// One more durable write on the same base tells whether the lost one was made, and keeps it
    /// out of the log if it was not. If it was, one more behind it: being in the log that the
    /// database shows proves nothing durable, a later commit that it acknowledges does.
    async fn settle(&mut self, batch: &Batch) -> Settled {
        let patience_ends = Instant::now() + SETTLE_PATIENCE;
        let given_up_at = Instant::now() + SETTLE_TIME;
        let mut behind = None;
        while Instant::now() < given_up_at {
            let store = Arc::clone(&self.shared.store);
            let write = match behind.clone() {
                None => store.void(batch),
                Some(nothing) => store.append(nothing),
            };
            match self.settling(write, patience_ends).await {
                None => break,
                Some(Ok(Appended::Committed)) if behind.is_some() => return Settled::Committed,
                // The base still stands: the lost append can no longer commit. Decide again.
                Some(Ok(Appended::Committed)) => return Settled::Moved,
                Some(Ok(Appended::Conflict(missed))) => {
                    let written = missed.iter().any(|one| one.entry.batch_id == batch.id);
                    match self.catch_up(&missed) {
                        Settled::Moved if written || behind.is_some() => {
                            behind = Some(Batch {
                                id: batch.id,
                                base: self.shared.published.load().head(),
                                entries: Vec::new(),
                            });
                        }
                        settled => return settled,
                    }
                }
                Some(Err(StoreError::Unavailable(_) | StoreError::OutcomeUnknown(_))) => {
                    let pause = sleep(SETTLE_PAUSE);
                    self.settling(pause, patience_ends).await;
                }
                Some(Err(error)) => return Settled::Failed(error),
            }
        }
        Settled::Failed(StoreError::OutcomeUnknown(
            "it could not be settled in time".to_owned(),
        ))
    }

    /// Waits for a part of settling, and meanwhile publishes what the keeper reads; once patience
    /// has ended, refuses what is queued. None: the server stops and has waited for long enough.
    async fn settling<T>(
        &mut self,
        part: impl Future<Output = T>,
        patience_ends: Instant,
    ) -> Option<T> {
        let mut part = pin!(part);
        let stop = self.stop.clone();
        let mut stopped = pin!(async {
            stop.cancelled().await;
            sleep_until(patience_ends).await;
        });
        loop {
            let is_patient = Instant::now() < patience_ends;
            tokio::select! {
                biased;
                done = &mut part => return Some(done),
                () = &mut stopped => return None,
                Some(follow) = self.follows.recv() => self.follow(follow),
                () = sleep_until(patience_ends), if is_patient => {}
                Some(queued) = self.queue.recv(), if !is_patient => {
                    refuse([queued], &away());
                }
            }
        }
    }

    /// Waits, and meanwhile publishes what the keeper reads: a store that keeps an append waiting
    /// does not keep this server from what others wrote.
    pub(super) async fn following<T>(&mut self, call: impl Future<Output = T>) -> T {
        let mut call = pin!(call);
        loop {
            tokio::select! {
                biased;
                done = &mut call => return done,
                Some(follow) = self.follows.recv() => self.follow(follow),
            }
        }
    }
}
