//! What the driver's and the database's errors mean for a caller of the Postgres store.
//!
//! The database's own texts stay here: they may quote SQL or values. What is told is the SQLSTATE.

use tokio_postgres::Error;
use tokio_postgres::error::{DbError, Severity, SqlState};

use crate::domain::chain::RevisionNumber;
use crate::store::StoreError;
use crate::store::fault::DriverError;

/// Raised by `latchkey.refuse`; its messages hold no values.
const REFUSED: &str = "LK001";
/// Raised by `latchkey.join_cluster`; its detail is the log's format level.
const NEWER_FORMAT: &str = "LK002";

/// Why a step inside the store failed: the driver, the connection or the database, a row, or what
/// the trait says.
pub(super) type Fault = crate::store::fault::Fault<Error>;

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Sql(error)
    }
}

impl Fault {
    /// Whether the connection that it came from, and others like it, lead to a server that is
    /// gone, going, or no longer the one that takes writes.
    pub(super) fn loses_server(&self) -> bool {
        match self {
            Self::Sql(error) => loses_server(error),
            _ => false,
        }
    }
}

/// Whether an error says that the transaction it came from was rolled back: the server said so in
/// full, and goes on serving the connection.
pub(super) fn is_rolled_back(error: &Error) -> bool {
    let severity = error.as_db_error().and_then(DbError::parsed_severity);
    severity == Some(Severity::Error)
}

/// Whether the transaction may be sent again as it is: the only two states for which Postgres
/// promises that another try can succeed.
pub(super) fn is_retried(error: &Error) -> bool {
    let states = [
        &SqlState::T_R_SERIALIZATION_FAILURE,
        &SqlState::T_R_DEADLOCK_DETECTED,
    ];
    error.code().is_some_and(|code| states.contains(&code))
}

/// Whether a lock was not given in time.
pub(super) fn is_locked(error: &Error) -> bool {
    error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE)
}

/// Whether the log has no partition for what was to be appended.
pub(super) fn is_out_of_room(error: &Error) -> bool {
    error.as_db_error().is_some_and(|error| {
        *error.code() == SqlState::CHECK_VIOLATION && error.constraint().is_none()
    })
}

/// Whether the server behind a connection takes no writes: it was set so, or it is a standby, which
/// does not even read the unlogged table of turns.
pub(super) fn is_read_only(error: &Error) -> bool {
    let states = [
        &SqlState::READ_ONLY_SQL_TRANSACTION,
        &SqlState::FEATURE_NOT_SUPPORTED,
    ];
    error.code().is_some_and(|code| states.contains(&code))
}

/// Whether the server behind a connection is gone, going, or read-only.
pub(super) fn loses_server(error: &Error) -> bool {
    let Some(code) = error.code() else {
        return true;
    };
    let code = code.code();
    code.starts_with("08") || code.starts_with("57P0") || is_read_only(error)
}

impl DriverError for Error {
    fn classify(&self, revision: RevisionNumber) -> StoreError {
        match self.as_db_error() {
            Some(error) => classify(error, revision),
            // Of the connection: closed, refused, cut. Its texts name no values.
            None => StoreError::Unavailable(format!("the database: {self}")),
        }
    }
}

fn classify(error: &DbError, revision: RevisionNumber) -> StoreError {
    let code = error.code().code();
    if code == REFUSED {
        return StoreError::Refused(error.message().to_owned());
    }
    if code == NEWER_FORMAT {
        let level = error.detail().and_then(|level| level.parse().ok());
        return StoreError::Format {
            level: level.unwrap_or(u32::MAX),
            // Whoever asked knows.
            reads: 0,
        };
    }
    let unavailable = |what: &str| StoreError::Unavailable(format!("{what} (SQLSTATE {code})"));
    match code {
        "25006" | "0A000" => unavailable("the database takes no writes"),
        "42501" => unavailable("the database's role may not do this"),
        "42P01" | "42883" | "3F000" | "42703" => unavailable("the tables are of another version"),
        "53100" => unavailable("the database's disk is full"),
        "55P03" => unavailable("what it needs is locked"),
        "57014" => unavailable("the database took too long"),
        "54000" => refused("a value is too large", code),
        _ if code.starts_with("22") => refused("a value does not fit", code),
        _ if code.starts_with("23") => refused("it contradicts the tables", code),
        _ if code.starts_with("XX001") || code.starts_with("XX002") => StoreError::Damaged {
            revision,
            what: format!("the database's files are damaged (SQLSTATE {code})"),
        },
        _ if code.starts_with("57P") => unavailable("the database is stopping or starting"),
        _ => unavailable("the database refuses to answer"),
    }
}

fn refused(what: &str, code: &str) -> StoreError {
    StoreError::Refused(format!("{what} (SQLSTATE {code})"))
}
