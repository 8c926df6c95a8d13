//! What goes wrong inside the embedded store, and what a caller of the trait may make of it.
//!
//! A [`Fault`] knows nothing of revisions; whoever returns it to a caller says at which one it
//! happened. The driver's own texts stay here: they may quote SQL or values, and every text of a
//! [`StoreError`] may end in a log line or a status.

use rusqlite::ErrorCode;

use crate::domain::chain::RevisionNumber;
use crate::store::StoreError;

/// Why a step inside the store failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// The driver or the file failed.
    Sql(rusqlite::Error),
    /// A stored value is outside its grammar; the value is not repeated.
    Row(&'static str),
    /// The batch contradicts the tables.
    Refused(&'static str),
    /// Already in the terms of the trait.
    Store(StoreError),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Fault {
    /// Damage that is known to begin at `revision`.
    pub(super) fn damaged(revision: RevisionNumber, what: impl Into<String>) -> Self {
        Self::Store(StoreError::Damaged {
            revision,
            what: what.into(),
        })
    }

    /// In the terms of the trait; `revision` is where the caller was.
    pub(super) fn at(self, revision: RevisionNumber) -> StoreError {
        match self {
            Self::Sql(error) => classify(&error, revision),
            Self::Row(what) => StoreError::Damaged {
                revision,
                what: format!("a table holds an unreadable {what}"),
            },
            Self::Refused(what) => StoreError::Refused(what.to_owned()),
            Self::Store(error) => error,
        }
    }

    /// Whether the connection that it came from can be used again.
    pub(super) fn spares_connection(&self) -> bool {
        match self {
            Self::Sql(error) => error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation),
            _ => true,
        }
    }
}

fn classify(error: &rusqlite::Error, revision: RevisionNumber) -> StoreError {
    use rusqlite::Error;
    match error {
        Error::SqliteFailure(failure, _) | Error::SqlInputError { error: failure, .. } => {
            classify_code(failure.code, failure.extended_code, revision)
        }
        Error::ToSqlConversionFailure(_) => {
            StoreError::Refused("a number is larger than the store holds".to_owned())
        }
        _ => StoreError::Damaged {
            revision,
            what: "a table holds a value of another form".to_owned(),
        },
    }
}

fn classify_code(code: ErrorCode, extended: i32, revision: RevisionNumber) -> StoreError {
    let unavailable = |what: &str| StoreError::Unavailable(format!("{what} (SQLite {extended})"));
    match code {
        ErrorCode::DiskFull => unavailable("the disk is full"),
        ErrorCode::SystemIoFailure => unavailable("input or output failed"),
        ErrorCode::DatabaseBusy
        | ErrorCode::DatabaseLocked
        | ErrorCode::FileLockingProtocolFailed => unavailable("the database is locked"),
        ErrorCode::OutOfMemory => unavailable("out of memory"),
        ErrorCode::CannotOpen => unavailable("a file cannot be opened"),
        ErrorCode::ReadOnly | ErrorCode::PermissionDenied => {
            unavailable("the files may not be written")
        }
        ErrorCode::OperationInterrupted | ErrorCode::OperationAborted => unavailable("interrupted"),
        ErrorCode::ConstraintViolation => {
            StoreError::Refused(format!("it contradicts the tables (SQLite {extended})"))
        }
        ErrorCode::TooBig | ErrorCode::TypeMismatch | ErrorCode::ParameterOutOfRange => {
            StoreError::Refused(format!("a value does not fit (SQLite {extended})"))
        }
        _ => StoreError::Damaged {
            revision,
            what: format!("the database file is damaged (SQLite {extended})"),
        },
    }
}
