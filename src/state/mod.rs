//! State: what the first *r* changes of the log make, and the pure functions over it.
//!
//! ```text
//!  command ─► decide(&State) ─► Change ─► apply(&mut State)      one writer, on a private clone
//!  request ─► check(&State)  ─► Decision                         any reader, on a published one
//! ```
//!
//! State is a value: a clone shares everything and costs a few dozen counts, so the copy that a
//! batch is decided on is a plain clone, thrown away when the append fails, and the published
//! one never moves under a reader: a Check sees exactly one revision. Time passing changes no
//! State. Deliberately absent: I/O, clocks, randomness, and names, descriptions and labels,
//! which live in tables only.

mod apply;
pub mod check;
pub mod decide;
mod digest;
mod directory;
pub mod explain;
pub mod home;
mod intern;
mod judge;
mod lineage;
mod load;
pub mod login;
mod logins;
mod power;
mod radix;
mod scopeset;
mod table;
mod tokens;

use crate::domain::chain::{Head, RevisionNumber};
use crate::domain::change::{
    CutOffTarget, GrantRecord, PrincipalRecord, RoleRecord, Subject, TokenRecord,
};
use crate::domain::clock::UnixMs;
use crate::domain::entry::{REQUEST_KEPT_MS, Request};
use crate::domain::format::FORMAT_FIRST;
use crate::domain::principal::{GrantId, PrincipalId, PrincipalName, RoleName};
use crate::domain::token::TokenId;

pub use apply::Diverged;
pub use digest::RowsDigest;
pub use load::Loader;
pub use power::Power;

use digest::StateDigest;
use directory::Directory;
use logins::Logins;
use tokens::Tokens;

/// Everything that check and decide read.
#[derive(Clone, Default)]
pub struct State {
    head: Head,
    instant_ms: UnixMs,
    tokens: Tokens,
    directory: Directory,
    cut_offs: imbl::OrdMap<CutOffTarget, RevisionNumber>,
    // Those by a token once more, by its session: a sealed token that has issued others is known by
    // that alone, and of an id whose token is forgotten nobody can say whether it was sealed. The
    // digest has them as the log does, or no row would agree with it.
    issued_cut_offs: imbl::OrdMap<TokenId, RevisionNumber>,
    // How many of them are about more than one subject, which its principal remembers.
    wide_cut_offs: usize,
    requests: Requests,
    logins: Logins,
    // 0 until it was raised.
    format: u32,
    digest: StateDigest,
}

/// Remembered request ids, by key and by age.
#[derive(Clone, Default)]
struct Requests {
    by_key: imbl::HashMap<[u8; 16], Answered>,
    by_age: imbl::OrdMap<RevisionNumber, [u8; 16]>,
}

/// What somebody is to a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// The caller itself.
    Itself,
    /// A team that the caller is in.
    Member,
    /// Neither.
    None,
}

/// What became of a remembered request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The hash of its content.
    pub fingerprint: [u8; 16],
    /// The entry that it made.
    pub revision: RevisionNumber,
    /// That entry's instant.
    pub instant_ms: UnixMs,
}

impl State {
    /// The newest revision and the chain hash at it.
    #[must_use]
    pub fn head(&self) -> Head {
        self.head
    }

    /// The instant of the head entry; 0 before the first.
    #[must_use]
    pub fn instant_ms(&self) -> UnixMs {
        self.instant_ms
    }

    /// The digest over all records, whatever the order they came in.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        self.digest.to_bytes()
    }

    /// The log's format level: entries of kinds up to it may follow.
    #[must_use]
    pub fn format(&self) -> u32 {
        self.format.max(FORMAT_FIRST)
    }

    /// How many tokens there are, ended ones that are not yet forgotten included.
    #[must_use]
    pub fn token_count(&self) -> usize {
        self.tokens.len()
    }

    /// How many principals there are.
    #[must_use]
    pub fn principal_count(&self) -> usize {
        self.directory.principals().count()
    }

    /// The record of a token.
    #[must_use]
    pub fn token(&self, id: TokenId) -> Option<TokenRecord> {
        self.tokens.by_id(id).map(|hot| self.tokens.record(hot))
    }

    /// The token that this key of a digest belongs to, also in its grace.
    #[must_use]
    pub fn token_by_key(&self, key: u128) -> Option<TokenId> {
        self.tokens.find(key).map(|found| found.hot.id())
    }

    /// The record of a principal that lives.
    #[must_use]
    pub fn principal(&self, id: PrincipalId) -> Option<&PrincipalRecord> {
        self.directory.principal(id).map(|one| &one.record)
    }

    /// The record of the principal that has this name now.
    #[must_use]
    pub fn principal_named(&self, name: &PrincipalName) -> Option<&PrincipalRecord> {
        self.directory.named(name).map(|one| &one.record)
    }

    /// Whether `member` is a member of `team`, now.
    #[must_use]
    pub fn is_member(&self, team: PrincipalId, member: PrincipalId) -> bool {
        self.directory
            .principal(team)
            .is_some_and(|team| team.members.contains(&member))
    }

    /// What a subject is to a caller, now.
    #[must_use]
    pub fn relation(&self, subject: &Subject, caller: Option<PrincipalId>) -> Relation {
        match (subject, caller) {
            (Subject::Principal(id), Some(caller)) if *id == caller => Relation::Itself,
            (Subject::Principal(id), Some(caller)) if self.is_member(*id, caller) => {
                Relation::Member
            }
            _ => Relation::None,
        }
    }

    /// The record of a role.
    #[must_use]
    pub fn role(&self, name: &RoleName) -> Option<&RoleRecord> {
        self.directory.role(name)
    }

    /// The record of a grant.
    #[must_use]
    pub fn grant(&self, id: GrantId) -> Option<&GrantRecord> {
        self.directory.grant(id)
    }

    /// What became of a request with this key, if it is still remembered at `now_ms`.
    #[must_use]
    pub fn answered(&self, request: &Request, now_ms: UnixMs) -> Option<Answered> {
        let answered = self.requests.by_key.get(&request.key)?;
        (answered.instant_ms + REQUEST_KEPT_MS > now_ms).then_some(*answered)
    }

    /// Bytes on the heap for tokens: the index, the extensions and the scope sets.
    #[must_use]
    pub fn token_bytes(&self) -> [usize; 3] {
        self.tokens.heap_bytes()
    }

    // The revision below which a target is refused; 0 refuses nothing.
    pub(crate) fn cut_off(&self, target: &CutOffTarget) -> RevisionNumber {
        let found = match target {
            CutOffTarget::IssuedByToken(id) => self.issued_cut_offs.get(&id.session()),
            _ => self.cut_offs.get(target),
        };
        found.copied().unwrap_or(0)
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "State({:?}, {} tokens)", self.head, self.token_count())
    }
}
