//! Start: State from a snapshot of the store, compared with the digest that its head carries.
//!
//! The end of the log is read with it: for those who demand a recent revision, and because an
//! entry of a kind that is unknown here must stop this server, also where its rows look harmless.

use thiserror::Error;

use crate::domain::entry::LogEntry;
use crate::state::{Diverged, Loader, State};
use crate::store::{Store, StoreError};

use super::recent::RECENT_MAX;

/// Why a replica does not start.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The store cannot be read, or is damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The tables are not what the log's head says.
    #[error("the tables do not agree with the log: {0}")]
    Diverged(#[from] Diverged),
    /// It was told to end meanwhile.
    #[error("the start was given up")]
    GivenUp,
}

/// What is loaded.
pub(super) struct Loaded {
    /// State at the store's head.
    pub(super) state: State,
    /// The end of the log, perhaps with entries behind that head.
    pub(super) recent: Vec<LogEntry>,
}

/// State at the store's head, and the end of the log; refused if it may hold what a reader of
/// formats up to `reads` does not know.
pub(super) async fn load(store: &dyn Store, reads: u32) -> Result<Loaded, LoadError> {
    let mut snapshot = store.snapshot().await?;
    let mut loader = Loader::default();
    while let Some(rows) = snapshot.rows.recv().await {
        loader.put(rows?);
        // It comes first, so a log that is too new costs no more than its first rows.
        readable(loader.format(), reads)?;
    }
    let state = loader.finish(snapshot.head, snapshot.instant_ms, snapshot.state_digest)?;
    tracing::info!(
        revision = %state.head().revision(),
        tokens = state.token_count(),
        principals = state.principal_count(),
        "loaded state"
    );
    let known = state.head().revision.saturating_sub(RECENT_MAX as u64);
    let recent = match store.changes_after(known, RECENT_MAX).await {
        Err(StoreError::Trimmed { cut, .. }) => {
            store.changes_after(cut.revision, RECENT_MAX).await?
        }
        recent => recent?,
    };
    Ok(Loaded { state, recent })
}

/// Refuses a log of a format level beyond what this server reads.
pub(super) fn readable(level: u32, reads: u32) -> Result<(), StoreError> {
    if level > reads {
        return Err(StoreError::Format { level, reads });
    }
    Ok(())
}
