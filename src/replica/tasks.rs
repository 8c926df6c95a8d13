//! The tasks of a running replica, and the order in which they end.
//!
//! Whoever starts a replica gets them and ends them. What the keeper and the flushers do last
//! they do with the store, which the writer closes: so the writer ends last.

use futures_util::future::join_all;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Queued;
use super::flush::FlusherTask;

/// The writer task and its stop signal; whoever starts a replica ends it.
#[derive(Debug)]
pub struct WriterTask {
    pub(super) writer: JoinHandle<()>,
    pub(super) keeper: Option<JoinHandle<()>>,
    pub(super) stop_keeper: CancellationToken,
    pub(super) flushers: Vec<FlusherTask>,
    // The writer also ends, and closes the store, when nobody can ask it any more.
    pub(super) commands: mpsc::Sender<Queued>,
    pub(super) stop: CancellationToken,
}

impl WriterTask {
    /// Ends the lease and hands it back, writes last uses and logins that wait, answers what is queued,
    /// refuses what comes later, and closes the store.
    pub async fn stop(self) {
        self.stop_keeper.cancel();
        if let Some(keeper) = self.keeper {
            ended(keeper).await;
        }
        join_all(self.flushers.into_iter().map(FlusherTask::stop)).await;
        self.stop.cancel();
        drop(self.commands);
        ended(self.writer).await;
    }
}

/// Waits for the end of a task.
pub(super) async fn ended(task: JoinHandle<()>) {
    if let Err(error) = task.await {
        tracing::error!(%error, "a task of the replica died");
    }
}
