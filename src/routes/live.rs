//! The route table that is in force.
//!
//! Used by `rpc`, which reads it for every request, and `cli`, which sets it. Written rarely and
//! whole: a reader sees one table from beginning to end.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use super::Table;

/// The table in force. Read without a lock; set by one task.
#[derive(Debug, Default)]
pub struct Live(ArcSwap<Table>);

impl Live {
    /// A table without routes: what Envoy's own routes do not answer is denied.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// The table of this moment.
    #[inline]
    #[must_use]
    pub fn current(&self) -> Guard<Arc<Table>> {
        self.0.load()
    }
}
