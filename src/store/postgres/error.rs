//! Why a Postgres store could not be opened or migrated.
//!
//! One variant for each thing that an operator can do about it. Used by the command line, which
//! prints it and exits.

use thiserror::Error;

use crate::store::StoreError;

/// Why a database cannot be used.
#[derive(Debug, Error)]
pub enum OpenError {
    /// A setting: mend it. Never repeats a URL.
    #[error("the database's settings cannot be used: {0}")]
    Settings(String),
    /// No tables there, or older ones: migrate.
    #[error(
        "the database has schema version {found}, this program needs version {known}: run \
         `latchkey migrate up`"
    )]
    NotMigrated {
        /// The version in the database; 0 where there is none.
        found: i32,
        /// The version that this program knows.
        known: i32,
    },
    /// Migrated by a newer program, with what this one cannot work with: use that one.
    #[error(
        "the database has schema version {found}, which is for programs that know version \
         {reads_from}, and this program knows up to version {known}"
    )]
    SchemaVersion {
        /// The version in the database.
        found: i32,
        /// The version that a program must know.
        reads_from: i32,
        /// The newest version that this program knows.
        known: i32,
    },
    /// A migration did not go through; nothing of it is left.
    #[error("migration {version} failed: {why}")]
    Migration {
        /// Its number.
        version: i32,
        /// What the database said.
        why: String,
    },
    /// A role was not granted what servers need; nothing of it was.
    #[error("the role was granted nothing: {0}")]
    Grants(String),
    /// The database itself: not reached, or damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
}
