//! What logins leave behind: failures that are counted, assertions that were used, and which access
//! tokens were given to whom.
//!
//! A trait beside the log's: nothing of it is a change, is part of State or stands in a snapshot.
//! What it means (when an account is locked, what an assertion is) is decided elsewhere. Used by
//! the authority, and by the replica for the record that is written in batches. Deliberately
//! absent: any promise about failures and the record, which may be lost; used assertions may not.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use async_trait::async_trait;

use super::StoreError;
use super::list::Page;
use crate::domain::clock::UnixMs;
use crate::domain::principal::{PrincipalId, PrincipalName};
use crate::domain::token::TokenId;

/// Keys whose failures are remembered; of more, those that failed longest ago are forgotten.
pub const FAILURES_MAX: u64 = 100_000;
/// Logins that are remembered; of more, the oldest are forgotten.
pub const LOGINS_MAX: u64 = 1_000_000;
/// How long logins are remembered.
pub const LOGINS_KEPT_MS: u64 = 30 * 24 * 60 * 60 * 1_000;
/// How much longer than it must be a used assertion is remembered: for the clocks of others.
pub(super) const USED_KEPT_MS: u64 = 5 * 60 * 1_000;

/// What failures are counted under. Keys of one client lie beside each other, so that they can be
/// cleared together.
pub type FailureKey = [u8; 16];

/// A login that failed.
#[derive(Clone, Copy, Debug)]
pub struct Failure {
    /// Under what it is counted.
    pub key: FailureKey,
    /// Now.
    pub now_ms: UnixMs,
    /// After so long without a failure the count begins anew.
    pub reset_ms: u64,
}

/// An assertion that must not be used again.
#[derive(Clone, Copy, Debug)]
pub struct OneTime {
    /// A hash of the credential and of the id that the client gave the assertion.
    pub id: [u8; 32],
    /// Now.
    pub now_ms: UnixMs,
    /// Until when it would be accepted if it came again.
    pub until_ms: UnixMs,
}

/// What an access token was given for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum LoginKind {
    /// A credential.
    Login = 1,
    /// The former token of the session.
    Renewal = 2,
    /// A token that is handed on, narrowed.
    Exchange = 3,
}

impl LoginKind {
    /// The kind with this number, as the record stores it.
    pub(super) fn from_number(number: u8) -> Option<Self> {
        let all = [Self::Login, Self::Renewal, Self::Exchange];
        all.into_iter().find(|one| *one as u8 == number)
    }
}

/// A login, a renewal or an exchange that was granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginNoted {
    /// When.
    pub at_ms: UnixMs,
    /// What it was.
    pub kind: LoginKind,
    /// Whom the token speaks for; none where that is a resource.
    pub account: Option<PrincipalId>,
    /// What it was born from: the credential, or the stored token.
    pub credential: TokenId,
    /// The token that was renewed or exchanged; none of a login.
    pub parent: Option<TokenId>,
    /// The access token that was given; no other row has it.
    pub token: TokenId,
    /// The client's address, if it was known.
    pub from: Option<IpAddr>,
    /// When that token expires.
    pub expires_ms: UnixMs,
}

/// Which logins to list; every filter given must hold.
#[derive(Clone, Debug, Default)]
pub struct LoginQuery {
    /// Those of this account.
    pub account: Option<PrincipalId>,
    /// Those that were born from this credential, or stored token.
    pub credential: Option<TokenId>,
    /// Those after this row of the list.
    pub after: Option<u64>,
    /// At most so many.
    pub limit: usize,
}

/// A login as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredLogin {
    /// What was noted.
    pub noted: LoginNoted,
    /// Whom the token speaks for, also one that is gone.
    pub account_name: Option<PrincipalName>,
}

/// What logins leave behind.
#[async_trait]
pub trait Logins: Send + Sync {
    /// Counts a failure and returns the count: of this one and those before it, none of them more
    /// than the time to reset after another. Servers on one store count together. What is counted
    /// may be lost, and is bounded by [`FAILURES_MAX`].
    async fn note_failure(&self, failure: &Failure) -> Result<u32, StoreError>;

    /// Begins the counts of these keys anew; no error if there were none.
    async fn clear_failures(&self, keys: RangeInclusive<FailureKey>) -> Result<(), StoreError>;

    /// Whether this is the first to use an assertion, which is durable before it is told; false as
    /// long as it would still be accepted. On any error it may have been used up, and nothing may
    /// be given for it.
    async fn consume(&self, once: &OneTime) -> Result<bool, StoreError>;

    /// Notes logins; one whose token was noted before is passed over. They need not last.
    async fn note_logins(&self, logins: &[LoginNoted]) -> Result<(), StoreError>;

    /// Logins, newest first.
    async fn logins(&self, query: LoginQuery) -> Result<Page<StoredLogin, u64>, StoreError>;
}
