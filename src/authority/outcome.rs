//! What became of a login, in more words than whoever tried it is told.
//!
//! For the operator's numbers: a stranger who guesses and one who has lost the secret look the
//! same from outside and differ here. The words are few and fixed, so that nobody makes more of
//! them by trying. Used by `login`, and by the port, which counts.

use crate::domain::login::LoginCause;
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
    /// What was shown is right, and good for nothing: why.
    Ended(LoginCause),
    /// What was shown is no assertion, whoever's it is.
    Malformed,
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
            Self::Ended(cause) => cause.name(),
            Self::Malformed => "malformed",
            Self::Unable => "unable",
        }
    }

    /// Of a login that was refused by State, of an account that is there or not.
    pub(super) fn refused(refused: LoginRefused, is_known: bool) -> Self {
        match refused {
            LoginRefused::Wrong if is_known => Self::WrongCredential,
            LoginRefused::Wrong => Self::UnknownClient,
            LoginRefused::Locked => Self::Locked,
            LoginRefused::Ended(cause) => Self::Ended(cause),
        }
    }

    /// Of one that could not be read, or that was found good first and refused or given up later.
    pub(super) fn unable(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::LoginRefused(Some(cause)) => Self::Ended(*cause),
            Refusal::Invalid { .. } => Self::Malformed,
            _ => Self::Unable,
        }
    }
}
