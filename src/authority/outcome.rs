//! What became of a login, in more words than whoever tried it is told.
//!
//! For the operator's numbers: a stranger who guesses and one who has lost the secret look the
//! same from outside and differ here. The words are few and fixed, so that nobody makes more of
//! them by trying. Used by `login`, and by the port, which counts.

use crate::domain::reason::Reason;
use crate::domain::refusal::Refusal;
use crate::state::login::LoginRefused;

/// What became of a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginOutcome {
    /// It gave a token.
    Given,
    /// There is no such account.
    UnknownClient,
    /// No secret or key of this account.
    WrongCredential,
    /// Its network is locked out of the account.
    Locked,
    /// The credential's method is not set on the account, or was set later than it was made.
    NoMethod,
    /// The credential is right, and good for nothing: why.
    Ended(Reason),
    /// It was not tried to the end: the server cannot know now, or cannot give what was asked for.
    Unable,
}

impl LoginOutcome {
    /// The stable word for metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Given => "ok",
            Self::UnknownClient => "unknown_client",
            Self::WrongCredential => "wrong_credential",
            Self::Locked => "locked",
            Self::NoMethod => "no_method",
            Self::Ended(reason) => reason.name(),
            Self::Unable => "unable",
        }
    }

    /// Of a login that was refused by State, of an account that is there or not.
    pub(super) fn refused(refused: LoginRefused, is_known: bool) -> Self {
        match refused {
            LoginRefused::Wrong if is_known => Self::WrongCredential,
            LoginRefused::Wrong => Self::UnknownClient,
            LoginRefused::Locked => Self::Locked,
            LoginRefused::NoMethod => Self::NoMethod,
            LoginRefused::Ended(reason) => Self::Ended(reason),
        }
    }

    /// Of one that was found good first, and refused or given up later.
    pub(super) fn unable(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::LoginRefused(Some(reason)) => Self::Ended(*reason),
            _ => Self::Unable,
        }
    }
}
