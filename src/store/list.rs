//! What lists ask for and answer: queries, pages and the rows that people see.
//!
//! These rows are read from tables, at the store's head, and carry what State leaves out: names,
//! descriptions, labels, reasons. Nothing here takes part in a decision.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::domain::chain::RevisionNumber;
use crate::domain::change::{GrantRecord, PrincipalRecord, RoleRecord, TokenRecord};
use crate::domain::clock::UnixMs;
use crate::domain::permission::Resource;
use crate::domain::principal::{PrincipalId, PrincipalKind, PrincipalName, RoleName};
use crate::domain::token::{TokenId, TokenKind};

/// One page, and where the next begins.
#[derive(Clone, Debug)]
pub struct Page<T, Key> {
    /// The rows.
    pub rows: Vec<T>,
    /// The key to go on after when there may be more; a page may be short and still have one.
    pub next: Option<Key>,
}

/// Whether a token can be used, by its own record (its subject may still be disabled).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenState {
    /// It can be used now.
    Active,
    /// Its not-before is yet to come.
    NotYetValid,
    /// Its expiry has passed.
    Expired,
    /// It was revoked or cut off.
    Revoked,
}

/// Which tokens to list; every filter given must hold.
#[derive(Clone, Debug, Default)]
pub struct TokenQuery {
    /// Those that speak for this principal.
    pub subject: Option<PrincipalId>,
    /// Those that this principal issued.
    pub issuer: Option<PrincipalId>,
    /// Those that were issued with this token or with one derived from it.
    pub issuer_token: Option<TokenId>,
    /// Those that are derived from this token, directly.
    pub parent: Option<TokenId>,
    /// Resource tokens at or under this resource.
    pub resource_under: Option<Resource>,
    /// Those of this kind.
    pub kind: Option<TokenKind>,
    /// Those in this state at `now_ms`.
    pub state: Option<TokenState>,
    /// Those with this label, and this value if one is given.
    pub label: Option<(String, Option<String>)>,
    /// The instant that states are judged at.
    pub now_ms: UnixMs,
    /// Those after this id.
    pub after: Option<TokenId>,
    /// At most so many.
    pub limit: usize,
}

/// When, and from where, a token was last used: to the hour, and only if it was not lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastUsed {
    /// The first use of some hour.
    pub at_ms: UnixMs,
    /// The client's address at that use, if it was known.
    pub from: Option<IpAddr>,
}

/// A token as people see it.
#[derive(Clone, Debug)]
pub struct StoredToken {
    /// What State knows of it.
    pub record: TokenRecord,
    /// `user:alice` or the resource, also of a principal that is gone.
    pub subject_name: String,
    /// The first issuer's name; none for local access.
    pub issuer_name: Option<String>,
    /// The name given at issue.
    pub name: String,
    /// The description.
    pub description: String,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The last four characters of the newest secret.
    pub last4: String,
    /// The revision of its last change.
    pub changed_at: RevisionNumber,
    /// Whether a cut-off, or the end of its subject or of its login method, refuses it.
    pub cut_off: bool,
    /// Why it was revoked, in the revoker's words.
    pub revoke_reason: Option<String>,
    /// When it was last used; none if no use of it is known.
    pub last_used: Option<LastUsed>,
}

/// Which principals to list.
#[derive(Clone, Debug)]
pub struct PrincipalQuery {
    /// Of this kind.
    pub kind: PrincipalKind,
    /// Only this one.
    pub name: Option<String>,
    /// Managed at or under this resource.
    pub home_under: Option<Resource>,
    /// Those after this name.
    pub after: Option<String>,
    /// At most so many.
    pub limit: usize,
}

/// A principal as people see it.
#[derive(Clone, Debug)]
pub struct StoredPrincipal {
    /// What State knows of it.
    pub record: PrincipalRecord,
    /// The name shown to people.
    pub display_name: String,
    /// The description.
    pub description: String,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    pub created_ms: UnixMs,
    /// The revision of its last change.
    pub changed_at: RevisionNumber,
}

/// Whose memberships to list: exactly one of the two is given.
#[derive(Clone, Debug, Default)]
pub struct MemberQuery {
    /// The members of this team.
    pub team: Option<PrincipalId>,
    /// The teams of this member.
    pub member: Option<PrincipalId>,
    /// Those after this name, in its text form: `user:alice`.
    pub after: Option<String>,
    /// At most so many.
    pub limit: usize,
}

/// A membership as people see it.
#[derive(Clone, Debug)]
pub struct StoredMember {
    /// The team.
    pub team: PrincipalName,
    /// The member.
    pub member: PrincipalName,
    /// The revision it was made at.
    pub made_at: RevisionNumber,
    /// When it was made.
    pub created_ms: UnixMs,
    /// Who made it, by the name at that moment.
    pub added_by: String,
}

/// Which roles to list.
#[derive(Clone, Debug, Default)]
pub struct RoleQuery {
    /// Only this one.
    pub name: Option<RoleName>,
    /// Managed at or under this resource.
    pub home_under: Option<Resource>,
    /// Those after this name.
    pub after: Option<String>,
    /// At most so many.
    pub limit: usize,
}

/// A role as people see it.
#[derive(Clone, Debug)]
pub struct StoredRole {
    /// What State knows of it.
    pub record: RoleRecord,
    /// The description.
    pub description: String,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    pub created_ms: UnixMs,
    /// The revision of its last change.
    pub changed_at: RevisionNumber,
}

/// Which grants to list; every filter given must hold.
#[derive(Clone, Debug, Default)]
pub struct GrantQuery {
    /// Only this one.
    pub id: Option<u32>,
    /// Those that this principal holds.
    pub principal: Option<PrincipalId>,
    /// Those of this role.
    pub role: Option<RoleName>,
    /// Those whose pattern begins at or under this resource.
    pub resource_under: Option<Resource>,
    /// Those after this id.
    pub after: Option<u32>,
    /// At most so many.
    pub limit: usize,
}

/// A grant as people see it.
#[derive(Clone, Debug)]
pub struct StoredGrant {
    /// What State knows of it.
    pub record: GrantRecord,
    /// Who holds it.
    pub principal_name: PrincipalName,
    /// When it was given.
    pub created_ms: UnixMs,
}
