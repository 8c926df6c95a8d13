//! What became of a batch: appending it, and settling an append that had no answer.
//!
//! One more durable write on the same base, which gives the lost batch up, tells: if it is
//! committed, the lost one is not in the log and never will be; if the head has moved, the log
//! says whether the batch is in it. Part of the writer, which alone calls it.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::sleep;

use crate::store::{Appended, Batch, StoreError};

use super::writer::Writer;

const SETTLE_PAUSE: Duration = Duration::from_millis(50);
const SETTLE_TRIES_MAX: usize = 100;

/// What the store is asked to do with a batch.
enum Write<'a> {
    Append(&'a Batch),
    Void(&'a Batch),
}

/// What became of a batch.
pub(super) enum Settled {
    Committed,
    Moved,
    Failed(StoreError),
}

impl Writer {
    pub(super) async fn append(&mut self, batch: &Batch) -> Settled {
        match self.stored(Write::Append(batch)).await {
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
        let mut behind = None;
        for _ in 0..SETTLE_TRIES_MAX {
            let settled = match &behind {
                None => self.stored(Write::Void(batch)).await,
                Some(nothing) => self.stored(Write::Append(nothing)).await,
            };
            match settled {
                Ok(Appended::Committed) if behind.is_some() => return Settled::Committed,
                // The base still stands: the lost append can no longer commit. Decide again.
                Ok(Appended::Committed) => return Settled::Moved,
                Ok(Appended::Conflict(missed)) => {
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
                Err(StoreError::Unavailable(_) | StoreError::OutcomeUnknown(_)) => {
                    sleep(SETTLE_PAUSE).await;
                }
                Err(error) => return Settled::Failed(error),
            }
        }
        Settled::Failed(StoreError::OutcomeUnknown(
            "it could not be settled in time".to_owned(),
        ))
    }

    /// Writes, and meanwhile publishes what the keeper reads: a store that keeps an append
    /// waiting does not keep this server from what others wrote.
    async fn stored(&mut self, write: Write<'_>) -> Result<Appended, StoreError> {
        let store = Arc::clone(&self.shared.store);
        let write = match write {
            Write::Append(batch) => store.append(batch.clone()),
            Write::Void(batch) => store.void(batch),
        };
        self.following(write).await
    }

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
