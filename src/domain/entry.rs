//! Entries: one change with who, when, why, as it stands in the log.
//!
//! [`Entry::encode`] makes the bytes that are hashed and stored; [`Entry::decode`] reads them
//! back and refuses what it does not know. Nobody re-encodes a stored entry.

use thiserror::Error;

use super::chain::{Head, RevisionNumber};
use super::change::Change;
use super::clock::UnixMs;
use super::format::{FORMAT_FIRST, FORMAT_LOGINS, format_max};
use super::principal::PrincipalId;
use super::token::TokenId;
use super::wire;

/// How long a request id is remembered: a repeat within it gets the first answer.
pub const REQUEST_KEPT_MS: u64 = 24 * 60 * 60 * 1_000;

/// Most request ids that are remembered; beyond it the oldest goes first.
pub const REQUESTS_MAX: usize = 100_000;

/// What sort of change, for the audit trail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
#[allow(
    missing_docs,
    reason = "the names are the documentation; EntryKind::name has the words"
)]
pub enum EntryKind {
    TokenIssue = 1,
    TokenUpdate = 2,
    TokenRenew = 3,
    TokenRotate = 4,
    TokenRevoke = 5,
    TokenRevokeAll = 6,
    TokenUse = 7,
    PrincipalCreate = 8,
    PrincipalUpdate = 9,
    PrincipalDelete = 10,
    PrincipalDisable = 11,
    PrincipalEnable = 12,
    MemberAdd = 13,
    MemberRemove = 14,
    RoleCreate = 15,
    RoleUpdate = 16,
    RoleDelete = 17,
    GrantCreate = 18,
    GrantDelete = 19,
    Forget = 20,
    FormatRaise = 21,
    CredentialCreate = 22,
    Login = 23,
    SessionRevoke = 24,
    SessionRevokeAll = 25,
    MethodSet = 26,
    MethodRemove = 27,
    LoginLock = 28,
    KeyMint = 29,
    KeyRetire = 30,
    KeyRevoke = 31,
    LoginUnlock = 32,
    #[cfg(debug_assertions)]
    Note = u16::MAX,
}

impl EntryKind {
    /// Every kind with its word, but the one of the next format.
    pub const ALL: [(Self, &'static str); 32] = [
        (Self::TokenIssue, "token.issue"),
        (Self::TokenUpdate, "token.update"),
        (Self::TokenRenew, "token.renew"),
        (Self::TokenRotate, "token.rotate"),
        (Self::TokenRevoke, "token.revoke"),
        (Self::TokenRevokeAll, "token.revoke_all"),
        (Self::TokenUse, "token.use"),
        (Self::PrincipalCreate, "principal.create"),
        (Self::PrincipalUpdate, "principal.update"),
        (Self::PrincipalDelete, "principal.delete"),
        (Self::PrincipalDisable, "principal.disable"),
        (Self::PrincipalEnable, "principal.enable"),
        (Self::MemberAdd, "member.add"),
        (Self::MemberRemove, "member.remove"),
        (Self::RoleCreate, "role.create"),
        (Self::RoleUpdate, "role.update"),
        (Self::RoleDelete, "role.delete"),
        (Self::GrantCreate, "grant.create"),
        (Self::GrantDelete, "grant.delete"),
        (Self::Forget, "forget"),
        (Self::FormatRaise, "format.raise"),
        (Self::CredentialCreate, "credential.create"),
        (Self::Login, "login"),
        (Self::SessionRevoke, "session.revoke"),
        (Self::SessionRevokeAll, "session.revoke_all"),
        (Self::MethodSet, "method.set"),
        (Self::MethodRemove, "method.remove"),
        (Self::LoginLock, "login.lock"),
        (Self::KeyMint, "key.mint"),
        (Self::KeyRetire, "key.retire"),
        (Self::KeyRevoke, "key.revoke"),
        (Self::LoginUnlock, "login.unlock"),
    ];

    /// The format that brought it: entries of this kind are written to no log below that level.
    #[must_use]
    pub fn format(self) -> u32 {
        match self {
            #[cfg(debug_assertions)]
            Self::Note => super::format::FORMAT_MAX + 1,
            Self::CredentialCreate
            | Self::Login
            | Self::SessionRevoke
            | Self::SessionRevokeAll
            | Self::MethodSet
            | Self::MethodRemove
            | Self::LoginLock
            | Self::KeyMint
            | Self::KeyRetire
            | Self::KeyRevoke
            | Self::LoginUnlock => FORMAT_LOGINS,
            _ => FORMAT_FIRST,
        }
    }

    /// Whether a change of this kind can turn an allow into a denial: then it is enforced by
    /// every server before it is confirmed.
    #[must_use]
    pub fn may_deny(self) -> bool {
        match self {
            Self::TokenUpdate
            | Self::TokenRotate
            | Self::TokenRevoke
            | Self::TokenRevokeAll
            | Self::PrincipalDelete
            | Self::PrincipalDisable
            | Self::MemberRemove
            | Self::RoleUpdate
            | Self::RoleDelete
            | Self::GrantDelete
            | Self::SessionRevoke
            | Self::SessionRevokeAll
            | Self::MethodSet
            | Self::MethodRemove
            | Self::KeyRetire
            | Self::KeyRevoke => true,
            // A use is counted by its own append: no server has more of the budget to give. Of a
            // principal nothing but texts is updated.
            Self::TokenIssue
            | Self::TokenRenew
            | Self::TokenUse
            | Self::PrincipalCreate
            | Self::PrincipalUpdate
            | Self::PrincipalEnable
            | Self::MemberAdd
            | Self::RoleCreate
            | Self::GrantCreate
            | Self::Forget
            | Self::FormatRaise
            | Self::CredentialCreate
            | Self::Login
            | Self::LoginLock
            | Self::LoginUnlock
            | Self::KeyMint => false,
            #[cfg(debug_assertions)]
            Self::Note => false,
        }
    }

    /// The stable word.
    #[must_use]
    pub fn name(self) -> &'static str {
        #[cfg(debug_assertions)]
        if self == Self::Note {
            return "note";
        }
        Self::ALL[self as usize - 1].1
    }

    /// The kind with this number, if it is of a format that this process reads.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        #[cfg(debug_assertions)]
        if number == Self::Note as u32 {
            return Some(Self::Note).filter(|kind| kind.format() <= format_max());
        }
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        Self::ALL.get(index).map(|(kind, _)| *kind)
    }

    /// The kind with this word.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let found = Self::ALL.iter().find(|(_, word)| *word == name)?;
        Some(found.0)
    }
}

/// Who asked for a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// The calling principal; none for resource tokens, local access and the server itself.
    pub principal: Option<PrincipalId>,
    /// The calling token; none for local access and the server itself.
    pub token: Option<TokenId>,
    /// The name at that moment: `user:alice`, a resource, `local` or `system`.
    pub name: String,
}

/// A client's request id, reduced to hashes so that entries stay small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Caller, method and id.
    pub key: [u8; 16],
    /// The content of the request; another content under the same key is refused.
    pub fingerprint: [u8; 16],
}

/// One entry of the change log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The number of the entry.
    pub revision: RevisionNumber,
    /// When it was decided; never before the entry before it.
    pub instant_ms: UnixMs,
    /// Who asked.
    pub actor: Actor,
    /// What sort of change.
    pub kind: EntryKind,
    /// What was changed, as text.
    pub target: String,
    /// Why, in the caller's words.
    pub reason: String,
    /// The batch it was appended in.
    pub batch_id: [u8; 16],
    /// The request that a repeat is recognised by.
    pub request: Option<Request>,
    /// The digest of State after this entry; only on the last entry of a batch.
    pub state_digest: Option<[u8; 32]>,
    /// What changes.
    pub change: Change,
}

/// A stored body cannot be read by this version.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DecodeError {
    /// A newer format; a newer version of the program reads it.
    #[error("format {0} is newer than this program reads (up to {max})", max = format_max())]
    Format(u32),
    /// A kind that this version does not know.
    #[error("unknown kind of entry {0}")]
    Kind(u32),
    /// Not a valid body: damaged, or a change that this version does not know.
    #[error("damaged or unknown body: {0}")]
    Body(&'static str),
}

impl Entry {
    /// The bytes to hash and to store.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        wire::encode(self)
    }

    /// Reads stored bytes.
    ///
    /// # Errors
    /// [`DecodeError`] for what is damaged or not known; it is never skipped.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        wire::decode(body)
    }
}

/// An entry as it is appended and stored: the exact bytes, and the head that they make.
#[derive(Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// What the body says.
    pub entry: Entry,
    /// The bytes that were hashed.
    pub body: Vec<u8>,
    /// The head after this entry.
    pub head: Head,
}

impl LogEntry {
    /// Encodes `entry` behind `base`.
    #[must_use]
    pub fn new(entry: Entry, base: &Head) -> Self {
        let body = entry.encode();
        let head = base.after(&body);
        debug_assert_eq!(head.revision, entry.revision, "entries are dense");
        Self { entry, body, head }
    }
}

impl std::fmt::Debug for LogEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LogEntry({:?} {})", self.head, self.entry.kind.name())
    }
}
