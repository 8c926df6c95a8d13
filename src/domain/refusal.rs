//! Why a command is refused: what the caller can do differently.
//!
//! Made by `state::decide` and the authority, mapped to gRPC codes in one file of `rpc`. Texts
//! are lower case, for people, and never hold a secret, a digest or a driver's words.

use std::time::Duration;

use thiserror::Error;

use super::chain::{Revision, RevisionNumber};
use super::login::LoginCause;
use super::permission::Permission;

/// A command that was not carried out.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    /// A field of the request is not acceptable; send another.
    #[error("{field}: {what}")]
    Invalid {
        /// The field, as the API names it.
        field: &'static str,
        /// What is wrong with it.
        what: String,
    },
    /// No token, or one that cannot be used; present another.
    #[error("the call needs a valid token")]
    Unauthenticated,
    /// A login that is not good. Nobody who guesses learns why; who shows the right credential does.
    #[error("the login was refused: {}", login_refused(*.0))]
    LoginRefused(Option<LoginCause>),
    /// The calling token does not permit this.
    #[error("the calling token does not permit this; missing: {}", join(.0))]
    NotPermitted(Vec<Permission>),
    /// The certificate of the connection does not let it call this, whatever the token.
    #[error("the client certificate of this connection does not permit this call")]
    PeerNotAllowed,
    /// What is handed on is not held: exactly what is missing.
    #[error("the calling token does not hold what it hands on; missing: {}", join(.0))]
    Boundary(Vec<Permission>),
    /// Only a current member of the team may do this.
    #[error("only a current member of the team may issue its tokens")]
    NotAMember,
    /// There is no such thing, or the caller may not know of it.
    #[error("no such {0}")]
    NotFound(&'static str),
    /// The name is taken.
    #[error("this {0} exists already")]
    AlreadyExists(&'static str),
    /// What the caller expected to find has changed; read again and decide again.
    #[error("{0}")]
    Conflict(String),
    /// The thing is not in a state in which this can be done.
    #[error("{0}")]
    Precondition(String),
    /// A documented bound is reached.
    #[error("{0}")]
    Limit(String),
    /// The caller's address asks too fast; nothing was looked at.
    #[error("too many {what} from this address; try again in {}", tenths(*.again))]
    RateLimited {
        /// What there are too many of.
        what: &'static str,
        /// When there is room again.
        again: Duration,
    },
    /// The request id was used for another request.
    #[error("the request id was used for another request")]
    RequestIdReused,
    /// Not now, and nothing was written: ask again later.
    #[error("{0}")]
    Unavailable(String),
    /// It is not known whether the change was made; a request id makes a repeat safe.
    #[error("the outcome is unknown; repeat with the same request id to learn it")]
    OutcomeUnknown,
    /// The demanded revision was not reached before the deadline.
    #[error("revision {0} was not reached before the deadline")]
    NotReached(Revision),
    /// The log was trimmed and begins later.
    #[error("revision {asked} is not in the log any more: it was trimmed up to revision {cut}")]
    Trimmed {
        /// What was asked for.
        asked: RevisionNumber,
        /// The last revision that was trimmed.
        cut: RevisionNumber,
    },
    /// The demanded revision belongs to another history.
    #[error("revision {0} belongs to another history")]
    OtherHistory(Revision),
}

impl Refusal {
    /// A refusal of one field.
    pub fn invalid(field: &'static str, what: impl ToString) -> Self {
        Self::Invalid {
            field,
            what: what.to_string(),
        }
    }
}

fn login_refused(cause: Option<LoginCause>) -> String {
    match cause {
        None => "unknown client or wrong credential, or too many failures from this address lately"
            .to_owned(),
        Some(cause) => format!("{cause} ({})", cause.name()),
    }
}

/// Rounded up, so that who waits as told has waited long enough.
fn tenths(duration: Duration) -> String {
    let tenths = duration.as_millis().div_ceil(100);
    format!("{}.{} s", tenths / 10, tenths % 10)
}

fn join(permissions: &[Permission]) -> String {
    let texts: Vec<String> = permissions.iter().map(ToString::to_string).collect();
    texts.join(", ")
}
