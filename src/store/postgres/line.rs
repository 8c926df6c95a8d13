//! A line: one connection of its own for one purpose, made anew when it is lost.
//!
//! Appends, the feed, the heartbeat and the barrier each have one, so that none of them ever waits
//! for a pool. Calls on a line may overlap; the driver sends them one after the other. A call that
//! outlives its deadline costs the line its connection: whatever is still to come on it would
//! stand before the next answer. Deliberately absent: cancel requests, which make a commit that
//! waits for its standby look like one that need not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::timeout;

use super::connect::{Connection, Connector};
use crate::store::StoreError;

/// One connection, if there is one.
pub(super) struct Line {
    name: &'static str,
    connector: Arc<Connector>,
    /// Held while connecting, so that all who wait get the same connection; never while one is
    /// used.
    slot: Mutex<Option<Arc<Connection>>>,
    closed: AtomicBool,
}

impl Line {
    pub(super) fn new(name: &'static str, connector: &Arc<Connector>) -> Self {
        Self {
            name,
            connector: Arc::clone(connector),
            slot: Mutex::new(None),
            closed: AtomicBool::new(false),
        }
    }

    /// The connection, made if there is none within `limit`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: nothing was sent.
    pub(super) async fn connection(&self, limit: Duration) -> Result<Arc<Connection>, StoreError> {
        match timeout(limit, self.connect(limit)).await {
            Ok(connection) => connection,
            Err(_) => {
                let what = "the database could not be reached in time".to_owned();
                Err(StoreError::Unavailable(what))
            }
        }
    }

    async fn connect(&self, limit: Duration) -> Result<Arc<Connection>, StoreError> {
        let mut slot = self.slot.lock().await;
        if self.closed.load(Ordering::Acquire) {
            return Err(super::closed());
        }
        if let Some(connection) = slot.as_ref().filter(|one| self.connector.is_current(one)) {
            return Ok(Arc::clone(connection));
        }
        let connection = Arc::new(self.connector.connect(limit, None).await?);
        tracing::debug!(line = self.name, "connected to the database");
        *slot = Some(Arc::clone(&connection));
        Ok(connection)
    }

    /// Gives a connection up, for everybody.
    pub(super) async fn discard(&self, connection: &Arc<Connection>) {
        let mut slot = self.slot.lock().await;
        if slot
            .as_ref()
            .is_some_and(|one| Arc::ptr_eq(one, connection))
        {
            *slot = None;
        }
    }

    /// Gives every connection up that may lead to this server: it takes no writes.
    pub(super) fn takes_no_writes(&self) {
        self.connector.takes_no_writes();
    }

    /// Gives the connection up and makes no other.
    pub(super) async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        *self.slot.lock().await = None;
    }
}
