//! The login record: who was given an access token, for what and from where. Gathered in memory,
//! written in batches.
//!
//! ```text
//! login, renewal, exchange ─► queue ─► flusher, every second ─► store.note_logins
//! ```
//!
//! None of them waits for it; one for which there is no room is not recorded, and counted. No part
//! of State, no entry of the log, and nothing is decided by it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::domain::entropy::Entropy;
use crate::store::logins::LoginNoted;
use crate::store::{Store, StoreError};

use super::flush::{FlusherTask, Pace, Waiting};
use super::{Counters, Replica, Shared};

/// A login is listed within a second; of more than so many in one, the rest waits for the next.
pub(super) const PACE: Pace = Pace {
    interval: Duration::from_secs(1),
    per_second: 1_000,
    waiting_max: 1 << 14,
};

/// The queue, and the task that writes what is in it.
pub(super) fn record(
    shared: &Arc<Shared>,
    entropy: &Arc<dyn Entropy>,
) -> (mpsc::Sender<LoginNoted>, FlusherTask) {
    let (queue, gathered) = mpsc::channel(PACE.waiting_max);
    let flusher = FlusherTask::start::<Noted>(shared, gathered, PACE, entropy);
    (queue, flusher)
}

impl Replica {
    /// Notes an access token that was given, and waits for nothing.
    pub fn note_login(&self, login: LoginNoted) {
        if self.logins.try_send(login).is_err() {
            let dropped = &self.shared.counters.logins_dropped;
            dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Logins that are to be written, the oldest first.
#[derive(Default)]
struct Noted(VecDeque<LoginNoted>);

impl Waiting for Noted {
    type Item = LoginNoted;
    const NAME: &'static str = "logins";

    fn put(&mut self, login: LoginNoted) {
        self.0.push_back(login);
    }

    fn count(&self) -> usize {
        self.0.len()
    }

    fn first(&self, most: usize) -> Vec<LoginNoted> {
        self.0.iter().take(most).cloned().collect()
    }

    fn remove_first(&mut self, count: usize) {
        self.0.drain(..count);
    }

    async fn write(store: &dyn Store, batch: &[LoginNoted]) -> Result<(), StoreError> {
        store.note_logins(batch).await
    }

    fn dropped(counters: &Counters) -> &AtomicU64 {
        &counters.logins_dropped
    }
}
