//! A line: one connection of its own for one purpose, made anew when it is lost.
//!
//! Appends, the feed, the heartbeat and the barrier each have one, so that none of them ever waits
//! for a pool. Calls on a line may overlap; the driver sends them one after the other. A call that
//! outlives its deadline costs the line its connection: whatever is still to come on it would
//! stand before the next answer. It costs no other call the connection that is being made: a task
//! makes it, however short the patience of those who wait. Deliberately absent: cancel requests,
//! which make a commit that waits for its standby look like one that need not.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::connect::{Connection, Connector};
use crate::store::StoreError;

/// What a connect came to; `None` as long as it is under way.
type Made = Option<Result<Arc<Connection>, String>>;

/// One connection, if there is one.
pub(super) struct Line {
    name: &'static str,
    connector: Arc<Connector>,
    /// Callers and the task that connects write it, and hold it for a moment.
    slot: Arc<Mutex<Slot>>,
}

#[derive(Default)]
struct Slot {
    connection: Option<Arc<Connection>>,
    connecting: Option<Connecting>,
    closed: bool,
}

/// A connect that is under way for all who wait; it ends with this.
struct Connecting {
    made: watch::Receiver<Made>,
    task: AbortHandle,
}

impl Drop for Connecting {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Line {
    pub(super) fn new(name: &'static str, connector: &Arc<Connector>) -> Self {
        Self {
            name,
            connector: Arc::clone(connector),
            slot: Arc::default(),
        }
    }

    /// The connection, if there is one within `limit`; if there is none, it goes on being made.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: nothing was sent.
    pub(super) async fn connection(&self, limit: Duration) -> Result<Arc<Connection>, StoreError> {
        let mut made = {
            let mut slot = lock(&self.slot);
            if slot.closed {
                return Err(super::closed());
            }
            if let Some(connection) = &slot.connection
                && self.connector.is_current(connection)
            {
                return Ok(Arc::clone(connection));
            }
            slot.connection = None;
            let connecting = slot.connecting.get_or_insert_with(|| self.connect(limit));
            connecting.made.clone()
        };
        match timeout(limit, made.wait_for(Option::is_some)).await {
            Ok(Ok(made)) => match &*made {
                Some(Ok(connection)) => Ok(Arc::clone(connection)),
                Some(Err(why)) => Err(StoreError::Unavailable(why.clone())),
                None => Err(super::closed()),
            },
            Ok(Err(_)) => Err(super::closed()),
            Err(_) => {
                let what = "the database could not be reached in time".to_owned();
                Err(StoreError::Unavailable(what))
            }
        }
    }

    /// Connects for all who wait: `patience` is that of the first of them.
    fn connect(&self, patience: Duration) -> Connecting {
        let (sender, made) = watch::channel(None);
        let (name, slot) = (self.name, Arc::clone(&self.slot));
        let connector = Arc::clone(&self.connector);
        let task = tokio::spawn(async move {
            let connected = connector.connect(patience, None).await;
            let connected = match connected {
                Ok(connection) => Ok(Arc::new(connection)),
                Err(StoreError::Unavailable(why)) => Err(why),
                Err(error) => Err(error.to_string()),
            };
            // Whoever comes from now on finds the connection, or connects anew.
            let ended = {
                let mut slot = lock(&slot);
                if let Ok(connection) = &connected
                    && !slot.closed
                {
                    tracing::debug!(line = name, "connected to the database");
                    slot.connection = Some(Arc::clone(connection));
                }
                slot.connecting.take()
            };
            sender.send_replace(Some(connected));
            drop(ended);
        });
        Connecting {
            made,
            task: task.abort_handle(),
        }
    }

    /// Gives a connection up, for everybody.
    pub(super) fn discard(&self, connection: &Arc<Connection>) {
        let mut slot = lock(&self.slot);
        let is_it = |one: &Arc<Connection>| Arc::ptr_eq(one, connection);
        if slot.connection.as_ref().is_some_and(is_it) {
            slot.connection = None;
        }
    }

    /// Gives every connection up that may lead to this server: it takes no writes.
    pub(super) fn takes_no_writes(&self) {
        self.connector.takes_no_writes();
    }

    /// Gives the connection up and makes no other.
    pub(super) fn close(&self) {
        let mut slot = lock(&self.slot);
        *slot = Slot {
            closed: true,
            ..Slot::default()
        };
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.close();
    }
}

// Whole after any panic: each write of it is one assignment.
fn lock(slot: &Mutex<Slot>) -> MutexGuard<'_, Slot> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}
