//! Why a data directory could not be opened, copied or restored.
//!
//! One variant for each thing that an operator can do about it. Used by the command line, which
//! prints it and exits.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::fault::Fault;
use crate::store::StoreError;

/// Why a data directory or a backup cannot be used.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process has it: stop that one, or use another directory.
    #[error("data directory {} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// On a network file system: use a local disk.
    #[error(
        "data directory {} is on a network file system ({kind}), whose locks and syncs SQLite \
         cannot rely on: use a local disk",
        folder.display()
    )]
    NetworkFileSystem {
        /// The directory.
        folder: PathBuf,
        /// The file system.
        kind: String,
    },
    /// No database there: check the path.
    #[error("there is no Latchkey database at {}", .0.display())]
    NoDatabase(PathBuf),
    /// Not ours: check the path.
    #[error("{} is not a Latchkey database", .0.display())]
    Foreign(PathBuf),
    /// Written by another version: use that one.
    #[error("the database has schema version {found}, this program reads version {known}")]
    SchemaVersion {
        /// The version in the file.
        found: i32,
        /// The version that this program knows.
        known: i32,
    },
    /// The file system cannot share memory between processes: use a local disk.
    #[error("SQLite cannot keep a write-ahead log at {}", .0.display())]
    NoWal(PathBuf),
    /// Something is in the way: move it aside, nothing is overwritten.
    #[error("{} exists already and is not overwritten", .0.display())]
    Exists(PathBuf),
    /// Parts of a database without the database: restore a backup, or move them aside.
    #[error(
        "{} is left of a database that is gone or of a restore that did not finish: restore a \
         backup into {}, or move the file aside to begin with an empty store",
        .0.display(),
        .0.parent().unwrap_or(Path::new("")).display()
    )]
    Remains(PathBuf),
    /// Its history goes on in another store: serve that one, or take this one back.
    #[error(
        "data directory {} was moved to {to} at revision {revision}: serve that store, or this \
         one again if that one is never served any more",
        folder.display()
    )]
    Moved {
        /// The directory.
        folder: PathBuf,
        /// Where it was moved.
        to: String,
        /// Its head then.
        revision: u64,
    },
    /// Whether its history goes on elsewhere is not known: repeat the copy.
    #[error(
        "data directory {} was being moved to {to} when that was cut short at the very end: \
         repeat the copy, which then finds out, or serve this store again if that one has no \
         tokens",
        folder.display()
    )]
    Moving {
        /// The directory.
        folder: PathBuf,
        /// Where it was being moved.
        to: String,
    },
    /// A file or directory cannot be used.
    #[error("{}: {source}", path.display())]
    Files {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The database itself: damaged, older than what was seen, or not available.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(Fault::from(error).at(0))
    }
}

impl OpenError {
    pub(super) fn files(path: &Path, source: io::Error) -> Self {
        Self::Files {
            path: path.to_owned(),
            source,
        }
    }

    /// Damage that no revision is known of, named by the one that was to be found.
    pub(super) fn named(self, revision: u64) -> Self {
        match self {
            Self::Store(StoreError::Damaged { revision: 0, what }) => {
                Self::Store(StoreError::Damaged { revision, what })
            }
            other => other,
        }
    }

    /// In the terms of the trait, for a database that was open before.
    pub(super) fn into_store(self) -> StoreError {
        match self {
            Self::Store(error) => error,
            other => StoreError::Unavailable(other.to_string()),
        }
    }
}
