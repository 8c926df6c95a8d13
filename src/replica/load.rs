//! Start: State from a snapshot of the store, compared with the digest that its head carries.

use thiserror::Error;

use crate::state::{Diverged, State};
use crate::store::{Store, StoreError};

/// Why a replica does not start.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The store cannot be read, or is damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The tables are not what the log's head says.
    #[error("the tables do not agree with the log: {0}")]
    Diverged(#[from] Diverged),
}

/// State at the store's head.
pub(super) async fn load(store: &dyn Store) -> Result<State, LoadError> {
    let mut snapshot = store.snapshot().await?;
    let mut state = State::default();
    while let Some(rows) = snapshot.rows.recv().await {
        for row in rows? {
            state.load(row);
        }
    }
    state.finish(snapshot.head, snapshot.instant_ms, snapshot.state_digest)?;
    tracing::info!(
        revision = %state.head().revision(),
        tokens = state.token_count(),
        principals = state.principal_count(),
        "loaded state"
    );
    Ok(state)
}
