//! A few connections that only read, each used by one blocking task at a time.
//!
//! Lists, log reads and snapshots run here, off the threads that answer calls and beside the
//! writer, which never waits for them (WAL). Bounded: a caller beyond the last connection waits.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::fault::Fault;
use super::{OpenError, schema};
use crate::store::StoreError;

/// Most readers at a time.
const READERS_MAX: usize = 4;

/// The pool. The mutex is held to take or to put back a connection, never while one is used.
pub(super) struct Readers {
    path: PathBuf,
    newest: Arc<AtomicU64>,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
}

/// The right to one connection, and where to take it.
pub(super) struct Turn {
    readers: Arc<Readers>,
    _permit: OwnedSemaphorePermit,
}

impl Readers {
    pub(super) fn new(path: PathBuf, newest: Arc<AtomicU64>) -> Self {
        Self {
            path,
            newest,
            permits: Arc::new(Semaphore::new(READERS_MAX)),
            idle: Mutex::default(),
        }
    }

    /// Waits for a connection to be free.
    pub(super) async fn turn(self: &Arc<Self>) -> Result<Turn, StoreError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(|_| closed())?;
        Ok(Turn {
            readers: Arc::clone(self),
            _permit: permit,
        })
    }

    /// Runs `read` on a blocking thread with a connection of its own.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&mut Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let turn = self.turn().await?;
        let task = tokio::task::spawn_blocking(move || turn.run(read));
        let stopped = |_| StoreError::Unavailable("a reader stopped".to_owned());
        task.await.map_err(stopped)?
    }

    /// Lets nobody in any more and closes what is idle; what is being read is read to its end.
    pub(super) fn close(&self) {
        self.permits.close();
        self.idle().clear();
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Runs `read` on this thread, which may block.
    pub(super) fn run<T>(
        self,
        read: impl FnOnce(&mut Connection) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let readers = &self.readers;
        let idle = readers.idle().pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => schema::open_reader(&readers.path).map_err(OpenError::into_store)?,
        };
        let result = read(&mut connection);
        let spared = result.as_ref().err().is_none_or(Fault::spares_connection);
        if spared && connection.is_autocommit() && !readers.permits.is_closed() {
            readers.idle().push(connection);
        }
        result.map_err(|fault| fault.at(readers.newest.load(Ordering::Relaxed)))
    }
}

pub(super) fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".to_owned())
}
