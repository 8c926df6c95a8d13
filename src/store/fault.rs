//! What goes wrong inside a store, and what a caller of the trait may make of it.
//!
//! A [`Fault`] knows nothing of revisions; whoever returns it to a caller says at which one it
//! happened. The driver's own texts stay inside: they may quote SQL or values, and every text of a
//! [`StoreError`] may end in a log line or a status. Each store says what its driver's errors
//! mean.

use super::StoreError;
use crate::domain::chain::RevisionNumber;

/// An error of a store's driver.
pub(super) trait DriverError {
    /// In the terms of the trait, for what wrote nothing.
    fn classify(&self, revision: RevisionNumber) -> StoreError;
}

/// Why a step inside a store failed.
#[derive(Debug)]
pub(super) enum Fault<E> {
    /// The driver, or what it leads to, failed.
    Sql(E),
    /// A stored value is outside its grammar; the value is not repeated.
    Row(&'static str),
    /// Already in the terms of the trait.
    Store(StoreError),
}

impl<E> From<StoreError> for Fault<E> {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl<E: DriverError> Fault<E> {
    /// Damage that is known to begin at `revision`.
    pub(super) fn damaged(revision: RevisionNumber, what: impl Into<String>) -> Self {
        Self::Store(StoreError::Damaged {
            revision,
            what: what.into(),
        })
    }

    /// The batch contradicts the tables.
    pub(super) fn refused(what: &str) -> Self {
        Self::Store(StoreError::Refused(what.to_owned()))
    }

    /// In the terms of the trait, for what wrote nothing; `revision` is where the caller was.
    pub(super) fn at(self, revision: RevisionNumber) -> StoreError {
        match self {
            Self::Sql(error) => error.classify(revision),
            Self::Row(what) => StoreError::Damaged {
                revision,
                what: format!("a table holds an unreadable {what}"),
            },
            Self::Store(error) => error,
        }
    }
}
