//! What SQLite's errors mean for a caller of the embedded store.
//!
//! By their codes alone: the texts may quote SQL or values.

use rusqlite::{Error, ErrorCode};

use crate::domain::chain::RevisionNumber;
use crate::store::StoreError;
use crate::store::fault::DriverError;

/// Why a step inside the store failed: the driver or the file, a row, or what the trait says.
pub(super) type Fault = crate::store::fault::Fault<Error>;

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Sql(error)
    }
}

impl Fault {
    /// Whether the connection that it came from can be used again.
    pub(super) fn spares_connection(&self) -> bool {
        match self {
            Self::Sql(error) => error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation),
            _ => true,
        }
    }
}

impl DriverError for Error {
    fn classify(&self, revision: RevisionNumber) -> StoreError {
        match self {
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
