//! Changes: the facts that the log holds, and the records that they put into State.
//!
//! A change says what *is* from now on, not what was asked, so that `apply` and the tables need
//! no second copy of any rule. One command makes at most one change, one entry, one revision.
//! Written by `state::decide`, read by `state::apply` and by every store; encoded in
//! [`super::wire`].

use std::collections::BTreeMap;

use super::chain::RevisionNumber;
use super::clock::UnixMs;
use super::entry::Request;
use super::key::PublicKey;
use super::limits::{Audience, Networks, Uses, Workload};
use super::login::{ClientNetwork, LoginMethod, MethodRecord};
use super::permission::{ActionPattern, Resource, ResourcePattern};
use super::principal::{GrantId, PrincipalId, PrincipalName, RoleName};
use super::scopes::{PermissionSet, Scopes};
use super::seal::key::KeyId;
use super::seal::ring::Salt;
use super::token::{Digest, TokenId, TokenKind};

/// Whom or what a token speaks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A principal, with its live permissions.
    Principal(PrincipalId),
    /// A resource, with nothing but the token's scopes.
    Resource(Resource),
}

/// Who answers for a token that it issued.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Issuer {
    /// The issuing principal; none for a resource token or local access.
    pub principal: Option<PrincipalId>,
    /// The issuing token and its ancestors, nearest first; empty for local access.
    pub tokens: Vec<TokenId>,
    /// The revision from which it answers; 0 means the token's own.
    pub since: RevisionNumber,
}

/// The former secret of a rotated token, while it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grace {
    /// The first 128 bits of its digest.
    pub key: u128,
    /// When it ends.
    pub until_ms: UnixMs,
}

/// When a token was revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// The revision of the revocation.
    pub revision: RevisionNumber,
    /// Its instant.
    pub at_ms: UnixMs,
}

/// The last expiry that a token can have, in Unix milliseconds: in the year 4199.
pub const EXPIRES_MS_MAX: UnixMs = (1 << 46) - 1;

/// Everything that State knows of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRecord {
    /// The public name.
    pub id: TokenId,
    /// The first 128 bits of the secret's digest.
    pub key: u128,
    /// The kind; agrees with the subject.
    pub kind: TokenKind,
    /// Whom it speaks for.
    pub subject: Subject,
    /// What it is narrowed to.
    pub scopes: Scopes,
    /// What its issuer held, when that bounds it.
    pub ceiling: Option<PermissionSet>,
    /// Who issued it; more than one when another widened it.
    pub issuers: Vec<Issuer>,
    /// The token that it was derived from.
    pub parent: Option<TokenId>,
    /// The revision it was made at; cut-offs compare with it.
    pub made_at: RevisionNumber,
    /// Not valid before.
    pub not_before_ms: Option<UnixMs>,
    /// Not valid from then on.
    pub expires_ms: Option<UnixMs>,
    /// No renewal goes beyond.
    pub expires_max_ms: Option<UnixMs>,
    /// The lifetime at issue, in seconds; a renewal asks for as much again.
    pub ttl_s: Option<u32>,
    /// Renewable for ever, by this many seconds.
    pub period_s: Option<u32>,
    /// The budget of uses.
    pub uses: Option<Uses>,
    /// Client networks.
    pub networks: Networks,
    /// The audience.
    pub audience: Option<Audience>,
    /// The workload.
    pub workload: Option<Workload>,
    /// How often it was rotated.
    pub rotation: u32,
    /// The secret before the last rotation.
    pub grace: Option<Grace>,
    /// Set once it was revoked.
    pub revoked: Option<Revoked>,
    /// The key that assertions are signed with, of a token of that kind.
    pub public_key: Option<PublicKey>,
}

/// How far a seal key is in its life; it never goes back, but from minting to verifying.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum KeyPhase {
    /// New tokens are sealed by it; one key at the most.
    Minting = 1,
    /// What it has sealed is good, and it seals nothing new.
    Verifying = 2,
    /// All that it has sealed has ended.
    Retired = 3,
    /// All that it has sealed is refused.
    Revoked = 4,
}

impl KeyPhase {
    /// Every phase, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Minting, Self::Verifying, Self::Retired, Self::Revoked];

    /// The word used in the API, the CLI and the log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Minting => "minting",
            Self::Verifying => "verifying",
            Self::Retired => "retired",
            Self::Revoked => "revoked",
        }
    }

    /// The phase with this number, as the log stores it.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|one| *one as u8 == number)
    }
}

/// Everything that State knows of a seal key; its material comes from elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealKeyRecord {
    /// The id, which its material makes.
    pub id: KeyId,
    /// What makes its MACs this installation's own.
    pub salt: Salt,
    /// How far it is.
    pub phase: KeyPhase,
    /// When it came into this phase.
    pub since_ms: UnixMs,
}

impl SealKeyRecord {
    /// Whether what it has sealed may be good.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        matches!(self.phase, KeyPhase::Minting | KeyPhase::Verifying)
    }
}

/// What the tables keep beside a record and State does not hold; `None` leaves it as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Display {
    /// The new name.
    pub name: Option<String>,
    /// The new description.
    pub description: Option<String>,
    /// The new labels.
    pub labels: Option<BTreeMap<String, String>>,
    /// The last four characters of a new secret.
    pub last4: Option<String>,
}

/// Everything that State knows of a principal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrincipalRecord {
    /// The internal id.
    pub id: PrincipalId,
    /// The name while it lives.
    pub name: PrincipalName,
    /// Where it is managed.
    pub home: Resource,
    /// Whether it is disabled.
    pub disabled: bool,
    /// The revision it was made at.
    pub made_at: RevisionNumber,
}

/// Everything that State knows of a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleRecord {
    /// The name.
    pub name: RoleName,
    /// Where it is managed.
    pub home: Resource,
    /// Its action patterns, sorted.
    pub actions: Vec<ActionPattern>,
    /// The revision it was made at.
    pub made_at: RevisionNumber,
}

/// A role given to a principal on a resource pattern. Immutable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantRecord {
    /// The internal id.
    pub id: GrantId,
    /// Who holds it.
    pub principal: PrincipalId,
    /// The role.
    pub role: RoleName,
    /// Where.
    pub resource: ResourcePattern,
    /// The revision it was made at.
    pub made_at: RevisionNumber,
}

/// What a cut-off refuses: everything made below its revision …
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CutOffTarget {
    /// … that speaks for this principal.
    Subject(PrincipalId),
    /// … that this principal issued.
    IssuedByPrincipal(PrincipalId),
    /// … that this token or one derived from it issued.
    IssuedByToken(TokenId),
    /// … that this member (second) issued for this team (first).
    IssuedForTeam(PrincipalId, PrincipalId),
    /// … that speaks for this resource or one below it.
    ResourceUnder(Resource),
    /// … that is an access token and speaks for this principal.
    Sessions(PrincipalId),
}

/// One state change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A token as it is from now on.
    PutToken {
        /// Everything that State knows of it.
        record: Box<TokenRecord>,
        /// The whole digest, when the secret is new.
        digest: Option<Digest>,
        /// What the tables keep beside it.
        display: Display,
    },
    /// One token is revoked; if compromised, what it issued is cut off as well.
    RevokeToken {
        /// The token.
        id: TokenId,
        /// Whether what it issued is cut off.
        compromised: bool,
    },
    /// Everything made below this change's revision is refused.
    CutOff(CutOffTarget),
    /// A use is spent.
    UseToken {
        /// The token.
        id: TokenId,
        /// What is left after it.
        left: u32,
    },
    /// A principal as it is from now on.
    PutPrincipal {
        /// Everything that State knows of it.
        record: PrincipalRecord,
        /// What the tables keep beside it.
        display: Display,
    },
    /// A principal is gone, with its grants and memberships; its tokens are refused.
    DeletePrincipal(PrincipalId),
    /// A principal joins a team.
    AddMember {
        /// The team.
        team: PrincipalId,
        /// The user or service account.
        member: PrincipalId,
    },
    /// A principal leaves a team.
    RemoveMember {
        /// The team.
        team: PrincipalId,
        /// The user or service account.
        member: PrincipalId,
        /// Whether the team tokens that it issued are cut off.
        cut_off_tokens: bool,
    },
    /// A role as it is from now on.
    PutRole {
        /// Everything that State knows of it.
        record: RoleRecord,
        /// What the tables keep beside it.
        display: Display,
    },
    /// A role is gone; it was granted nowhere.
    DeleteRole(RoleName),
    /// A grant is given.
    PutGrant(GrantRecord),
    /// A grant is taken away.
    DeleteGrant(GrantId),
    /// Tokens in one slice of the index that ended before an instant are forgotten, and request
    /// ids older than their keeping time.
    Forget {
        /// What ended before it.
        before_ms: UnixMs,
        /// The slice: the first byte of the key.
        slice: u8,
    },
    /// Entries of kinds up to this format may be written from now on.
    RaiseFormat(u32),
    /// A login or an exchange that is more than a sealed token.
    Login {
        /// The credential that was spent by one use, and what is left of it.
        spent: Option<(TokenId, u32)>,
        /// The access token, where it is stored.
        token: Option<Box<NewToken>>,
    },
    /// A session of sealed access tokens is refused, with all that was exchanged from it.
    RevokeSession {
        /// The session.
        session: TokenId,
        /// Whom it speaks for, if that was known; for the audit.
        account: Option<PrincipalId>,
        /// When its last token has ended.
        until_ms: UnixMs,
        /// Whether what it issued is cut off, too.
        compromised: bool,
    },
    /// A login method of an account as it is from now on.
    PutMethod(Box<MethodRecord>),
    /// A login method is taken from an account.
    DeleteMethod {
        /// The account.
        principal: PrincipalId,
        /// The method.
        method: LoginMethod,
    },
    /// Logins of an account from one network are refused for a while. Locks of the account that
    /// have ended go with it.
    Lock {
        /// The account.
        principal: PrincipalId,
        /// From where they come.
        network: ClientNetwork,
        /// Until when.
        until_ms: UnixMs,
    },
    /// Logins of an account from these networks are judged again, before their locks end.
    Unlock {
        /// The account.
        principal: PrincipalId,
        /// From where they come.
        networks: Vec<ClientNetwork>,
    },
    /// Seal keys as they are from now on.
    PutSealKeys(Vec<SealKeyRecord>),
}

/// A token that is made, with what only its tables keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewToken {
    /// Everything that State knows of it.
    pub record: TokenRecord,
    /// The whole digest of its secret.
    pub digest: Digest,
    /// What the tables keep beside it.
    pub display: Display,
}

/// One row of a snapshot; together they are State at the snapshot's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    /// The format level; stands where it was ever raised.
    Format(u32),
    /// The highest internal ids ever given.
    Counters {
        /// Of principals.
        principal: u32,
        /// Of grants.
        grant: u32,
    },
    /// A principal that lives.
    Principal(PrincipalRecord),
    /// A member of a team.
    Member {
        /// The team.
        team: PrincipalId,
        /// The user or service account.
        member: PrincipalId,
    },
    /// A role.
    Role(RoleRecord),
    /// A grant.
    Grant(GrantRecord),
    /// A cut-off and the revision below which it refuses.
    CutOff(CutOffTarget, RevisionNumber),
    /// A remembered request id.
    Request {
        /// Its hashes.
        request: Request,
        /// The entry that answered it.
        revision: RevisionNumber,
        /// That entry's instant.
        instant_ms: UnixMs,
    },
    /// A login method of an account.
    Method(Box<MethodRecord>),
    /// A seal key.
    SealKey(SealKeyRecord),
    /// A session that is refused.
    RevokedSession {
        /// The session.
        session: TokenId,
        /// When its last token has ended.
        until_ms: UnixMs,
    },
    /// Whose logins are refused for a while.
    Lock {
        /// The account.
        principal: PrincipalId,
        /// From where they come.
        network: ClientNetwork,
        /// Until when.
        until_ms: UnixMs,
    },
    /// A token.
    Token(Box<TokenRecord>),
}
