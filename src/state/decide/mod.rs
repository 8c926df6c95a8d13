//! Decide: a command against a State gives one change, an answer without a change, or a refusal.
//!
//! Pure. The caller's token is judged again on the State decided on, so one that was revoked
//! earlier in the same batch is refused. The boundary is here and nowhere else: nobody hands on
//! what they do not hold, and a refusal lists exactly what is missing.

mod directory;
mod issue;
mod roles;
mod tokens;

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::domain::chain::RevisionNumber;
use crate::domain::change::{Change, Display};
use crate::domain::clock::{Now, UnixMs};
use crate::domain::entry::{Actor, EntryKind, Request};
use crate::domain::limits::{Audience, Networks, Workload};
use crate::domain::permission::{ActionPattern, Need, Permission, Resource, ResourcePattern};
use crate::domain::principal::{GrantId, PrincipalId, PrincipalKind, PrincipalName, RoleName};
use crate::domain::reason::Reason;
use crate::domain::refusal::Refusal;
use crate::domain::scopes::ScopeEntry;
use crate::domain::token::{Digest, KindSet, TokenId, TokenKind};

use super::State;
use super::check::{CheckRequest, Context, Lineage, judge};
use super::power::Power;
use super::tokens::{Found, Hot};

pub use issue::IssueToken;
pub use tokens::{RevokeTarget, UpdateToken};

/// The longest life of each kind of token; a setting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifetimes {
    /// In seconds, by the kind's number less one; none for no bound.
    pub max_s: [Option<u32>; TokenKind::ALL.len()],
}

impl Lifetimes {
    fn of(&self, kind: TokenKind) -> Option<u32> {
        self.max_s[kind as usize - 1]
    }
}

/// Who commands.
#[derive(Clone, Debug)]
pub enum Caller {
    /// Whoever has the store itself in hand: bootstrap and recovery.
    Local,
    /// The server itself: forgetting.
    System,
    /// The bearer of a secret with this digest, from this address.
    Bearer {
        /// The first 128 bits of the presented secret's digest.
        key: u128,
        /// Where the call came from.
        client_ip: Option<IpAddr>,
    },
}

/// A command with who, why and under which id.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// Who commands.
    pub caller: Caller,
    /// Why; empty where none was given.
    pub reason: String,
    /// The request id, reduced to hashes; none where none was given.
    pub request: Option<Request>,
    /// What is commanded.
    pub command: Command,
}

/// What can be commanded.
#[derive(Clone, Debug)]
pub enum Command {
    /// Issue a token, or derive one from the calling token.
    IssueToken(Box<IssueToken>),
    /// Change scopes, limits or texts of a token.
    UpdateToken(Box<UpdateToken>),
    /// Give a token more time.
    RenewToken {
        /// The token; none is the calling one.
        id: Option<TokenId>,
        /// How long from now; none is as long as at issue.
        ttl_s: Option<u32>,
    },
    /// Give a token a new secret.
    RotateToken {
        /// The token; none is the calling one.
        id: Option<TokenId>,
        /// The digest of the new secret.
        digest: Digest,
        /// The last four characters of the new secret.
        last4: String,
        /// How long the present secret stays good, in seconds; 0 is not at all.
        grace_s: u32,
        /// How often the caller believes it was rotated.
        expected: Option<u32>,
    },
    /// Revoke one token.
    RevokeToken {
        /// Which.
        target: RevokeTarget,
        /// Whether what it issued is cut off as well.
        compromised: bool,
    },
    /// Refuse everything that was made until now.
    RevokeAll(CutOffRequest),
    /// Count a use of a token with a budget, if a Check of it is allowed.
    UseToken(Box<UseToken>),
    /// Make a principal.
    CreatePrincipal {
        /// Its name.
        name: PrincipalName,
        /// Where it is managed.
        home: Resource,
        /// What the tables keep beside it.
        display: Display,
    },
    /// Change the texts of a principal.
    UpdatePrincipal {
        /// Its name.
        name: PrincipalName,
        /// What changes.
        display: Display,
    },
    /// Remove a principal with its grants, memberships and tokens.
    DeletePrincipal(PrincipalName),
    /// Pause a principal, or end the pause.
    SetDisabled {
        /// Its name.
        name: PrincipalName,
        /// Whether it is paused.
        disabled: bool,
    },
    /// Put a user or a service account into a team.
    AddMember {
        /// The team.
        team: PrincipalName,
        /// The member.
        member: PrincipalName,
    },
    /// Take a member out of a team.
    RemoveMember {
        /// The team.
        team: PrincipalName,
        /// The member.
        member: PrincipalName,
        /// Whether the team tokens that it issued are cut off.
        cut_off_tokens: bool,
    },
    /// Make a role.
    CreateRole {
        /// Its name.
        name: RoleName,
        /// Where it is managed.
        home: Resource,
        /// Its actions.
        actions: Vec<ActionPattern>,
        /// What the tables keep beside it.
        display: Display,
    },
    /// Change a role.
    UpdateRole {
        /// Its name.
        name: RoleName,
        /// Its new actions; none leaves them.
        actions: Option<Vec<ActionPattern>>,
        /// What changes in the tables.
        display: Display,
    },
    /// Remove a role that is granted nowhere.
    DeleteRole(RoleName),
    /// Give a role to a principal on a resource pattern.
    CreateGrant {
        /// Who gets it.
        principal: PrincipalName,
        /// The role.
        role: RoleName,
        /// Where.
        resource: ResourcePattern,
    },
    /// Take a grant away.
    DeleteGrant(GrantId),
    /// Forget what ended before an instant, in one slice of the index.
    Forget {
        /// What ended before it.
        before_ms: UnixMs,
        /// The slice.
        slice: u8,
    },
}

/// Whose tokens a cut-off refuses, by name.
#[derive(Clone, Debug)]
pub enum CutOffRequest {
    /// Those that speak for a principal.
    Subject(PrincipalName),
    /// Those that a principal issued.
    IssuedByPrincipal(PrincipalName),
    /// Those that a token issued.
    IssuedByToken(TokenId),
    /// Resource tokens at or under a resource.
    ResourceUnder(Resource),
}

/// A Check whose allow must be counted first.
#[derive(Clone, Debug)]
pub struct UseToken {
    /// The first 128 bits of the presented secret's digest.
    pub key: u128,
    /// The needs: action and resource.
    pub needs: Vec<(String, String)>,
    /// What is known of the request.
    pub client_ip: Option<IpAddr>,
    /// For whom the token was presented.
    pub audience: Option<String>,
    /// The mTLS peer that presented it.
    pub workload: Option<String>,
    /// The kinds that the caller accepts.
    pub kinds: KindSet,
}

/// What a token is to be narrowed to, as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScopesAsked {
    /// Not narrowed.
    All,
    /// These entries; roles are written out on the State decided on.
    Only(Vec<ScopeEntry>),
}

/// The limits that issue and update have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitsAsked {
    /// Client networks.
    pub networks: Networks,
    /// The audience.
    pub audience: Option<Audience>,
    /// The workload.
    pub workload: Option<Workload>,
}

/// What State a command is decided on beside the records: time, number and settings.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The revision that a change would get.
    pub revision: RevisionNumber,
    /// Both readings of the clock.
    pub now: Now,
    /// The longest life of each kind.
    pub lifetimes: Lifetimes,
}

/// What a command came to.
#[derive(Clone, Debug)]
pub struct Decided {
    /// Who commanded, as the log names it.
    pub actor: Actor,
    /// What happened.
    pub outcome: Outcome,
    /// What the answer is about.
    pub subject: About,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// State changes.
    Change {
        /// What sort of change.
        kind: EntryKind,
        /// What is changed, as text.
        target: String,
        /// The change.
        change: Change,
    },
    /// It is already so.
    Already,
    /// The same request was answered before, by the entry at this revision.
    Repeated(RevisionNumber),
    /// A Check that was to be counted is denied.
    Denied(Reason),
}

/// What an answer is about: what the caller reads next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// A token.
    Token(TokenId),
    /// A principal.
    Principal(PrincipalId),
    /// A membership.
    Member(PrincipalId, PrincipalId),
    /// A role.
    Role(RoleName),
    /// A grant.
    Grant(GrantId),
    /// Nothing that could be read.
    Nothing,
}

/// A caller that was judged on this State.
struct Judged<'s> {
    state: &'s State,
    moment: Moment,
    power: Power<'s>,
    hot: Option<&'s Hot>,
    actor: Actor,
}

/// Decides a command.
///
/// # Errors
/// A [`Refusal`]; nothing changes.
pub fn decide(state: &State, envelope: &Envelope, moment: Moment) -> Result<Decided, Refusal> {
    let moment = Moment {
        now: moment.now.not_before(state.instant_ms()),
        ..moment
    };
    let caller = Judged::new(state, &envelope.caller, moment)?;
    let (outcome, subject) = match caller.repeated(envelope)? {
        Some(repeated) => (repeated, About::Nothing),
        None => caller.command(envelope)?,
    };
    Ok(Decided {
        actor: caller.actor,
        outcome,
        subject,
    })
}

/// Judges a presented secret for a management call: its power, or a refusal.
///
/// # Errors
/// [`Refusal::Unauthenticated`] for anything that is not a good token in its newest secret.
pub fn authenticate<'s>(
    state: &'s State,
    caller: &Caller,
    now: Now,
) -> Result<(Power<'s>, Option<TokenId>), Refusal> {
    let moment = Moment {
        revision: 0,
        now: now.not_before(state.instant_ms()),
        lifetimes: Lifetimes::default(),
    };
    let judged = Judged::new(state, caller, moment)?;
    Ok((judged.power, judged.hot.map(Hot::id)))
}

impl<'s> Judged<'s> {
    fn new(state: &'s State, caller: &Caller, moment: Moment) -> Result<Self, Refusal> {
        let (key, client_ip) = match caller {
            Caller::Local => return Ok(Self::inside(state, moment, "local")),
            Caller::System => return Ok(Self::inside(state, moment, "system")),
            Caller::Bearer { key, client_ip } => (*key, *client_ip),
        };
        let found = state.tokens.find(key).ok_or(Refusal::Unauthenticated)?;
        // In its grace an old secret can be checked and revoked, nothing else.
        if found.grace_until_ms.is_some() {
            return Err(Refusal::Unauthenticated);
        }
        let lineage = Lineage::of(state, found.hot);
        let request = CheckRequest {
            token: "",
            needs: &[],
            context: Context {
                client_ip,
                audience: None,
                workload: None,
            },
            kinds: KindSet::ALL,
        };
        let reason = judge_quietly(state, &found, &lineage, &request, moment.now);
        // A token with a budget of uses is for checks: managing would spend nothing.
        let counted = state
            .tokens
            .ext(found.hot)
            .is_some_and(|ext| ext.uses.is_some());
        if reason != Reason::Allowed || counted {
            return Err(Refusal::Unauthenticated);
        }
        Ok(Self {
            state,
            moment,
            power: Power::of_token(state, found.hot),
            actor: Actor {
                principal: found.hot.principal(),
                token: Some(found.hot.id()),
                name: state.subject_text(&state.tokens.record(found.hot)),
            },
            hot: Some(found.hot),
        })
    }

    fn inside(state: &'s State, moment: Moment, name: &str) -> Self {
        Self {
            state,
            moment,
            power: Power::local(state),
            hot: None,
            actor: Actor {
                principal: None,
                token: None,
                name: name.to_owned(),
            },
        }
    }

    fn repeated(&self, envelope: &Envelope) -> Result<Option<Outcome>, Refusal> {
        let Some(request) = &envelope.request else {
            return Ok(None);
        };
        match self.state.answered(request, self.moment.now.latest) {
            None => Ok(None),
            Some(answered) if answered.fingerprint == request.fingerprint => {
                Ok(Some(Outcome::Repeated(answered.revision)))
            }
            Some(_) => Err(Refusal::RequestIdReused),
        }
    }

    fn command(&self, envelope: &Envelope) -> Result<(Outcome, About), Refusal> {
        let command = &envelope.command;
        if needs_reason(command) && envelope.reason.is_empty() {
            return Err(Refusal::invalid(
                "reason",
                "is required here, 1 to 256 characters",
            ));
        }
        match command {
            Command::IssueToken(issue) => self.issue_token(issue),
            Command::UpdateToken(update) => self.update_token(update, &envelope.reason),
            Command::RenewToken { id, ttl_s } => self.renew_token(*id, *ttl_s),
            Command::RotateToken {
                id,
                digest,
                last4,
                grace_s,
                expected,
            } => self.rotate_token(*id, digest, last4, *grace_s, *expected),
            Command::RevokeToken {
                target,
                compromised,
            } => self.revoke_token(target, *compromised, &envelope.reason),
            Command::RevokeAll(request) => self.revoke_all(request),
            Command::UseToken(using) => self.use_token(using),
            Command::CreatePrincipal {
                name,
                home,
                display,
            } => self.create_principal(name, home, display),
            Command::UpdatePrincipal { name, display } => self.update_principal(name, display),
            Command::DeletePrincipal(name) => self.delete_principal(name),
            Command::SetDisabled { name, disabled } => self.set_disabled(name, *disabled),
            Command::AddMember { team, member } => self.add_member(team, member),
            Command::RemoveMember {
                team,
                member,
                cut_off_tokens,
            } => self.remove_member(team, member, *cut_off_tokens),
            Command::CreateRole {
                name,
                home,
                actions,
                display,
            } => self.create_role(name, home, actions, display),
            Command::UpdateRole {
                name,
                actions,
                display,
            } => self.update_role(name, actions.as_deref(), display),
            Command::DeleteRole(name) => self.delete_role(name),
            Command::CreateGrant {
                principal,
                role,
                resource,
            } => self.create_grant(principal, role, resource),
            Command::DeleteGrant(id) => self.delete_grant(*id),
            Command::Forget { before_ms, slice } => Ok(self.forget(*before_ms, *slice)),
        }
    }

    fn forget(&self, before_ms: UnixMs, slice: u8) -> (Outcome, About) {
        let now_ms = self.moment.now.latest;
        if !self.state.has_ended(before_ms, slice, now_ms) {
            return (Outcome::Already, About::Nothing);
        }
        let outcome = Outcome::Change {
            kind: EntryKind::Forget,
            target: format!("slice {slice}"),
            change: Change::Forget { before_ms, slice },
        };
        (outcome, About::Nothing)
    }

    /// The calling principal, if a token speaks for one.
    fn principal_id(&self) -> Option<PrincipalId> {
        self.hot.and_then(Hot::principal)
    }

    /// Refuses unless the caller is permitted `action` at `resource`.
    fn require(&self, action: &str, resource: &Resource) -> Result<(), Refusal> {
        let need = Need::known(action, resource);
        if self.power.permits(need) {
            Ok(())
        } else {
            Err(Refusal::NotPermitted(vec![need.to_permission()]))
        }
    }

    /// Refuses unless the caller holds `action` on everything that `resource` matches.
    fn require_on(&self, action: &str, resource: ResourcePattern) -> Result<(), Refusal> {
        let permission = Permission::known(action, resource);
        if self.power.holds(&permission) {
            Ok(())
        } else {
            Err(Refusal::NotPermitted(vec![permission]))
        }
    }

    /// Refuses, listing what is missing, unless the caller holds all of `handed_on`.
    fn hands_on(&self, handed_on: impl IntoIterator<Item = Permission>) -> Result<(), Refusal> {
        let missing = self.power.missing(handed_on);
        if missing.is_empty() {
            Ok(())
        } else {
            Err(Refusal::Boundary(missing))
        }
    }

    /// Whether the caller may read `resource`'s things; if not, they do not exist for it.
    fn may(&self, action: &str, resource: &Resource) -> bool {
        self.power.permits(Need::known(action, resource))
    }

    fn change(
        kind: EntryKind,
        target: impl ToString,
        change: Change,
        about: About,
    ) -> (Outcome, About) {
        let outcome = Outcome::Change {
            kind,
            target: target.to_string(),
            change,
        };
        (outcome, about)
    }
}

struct Quiet;

impl super::check::Observer for Quiet {
    fn step(
        &mut self,
        _: super::check::Step,
        failed: Option<Reason>,
        _: impl FnOnce() -> String,
    ) -> bool {
        failed.is_none()
    }
}

fn judge_quietly(
    state: &State,
    found: &Found<'_>,
    lineage: &Lineage<'_>,
    request: &CheckRequest<'_>,
    now: Now,
) -> Reason {
    judge(state, found, lineage, request, now, &mut Quiet)
}

// Renewing and rotating need none; narrowing and revoking oneself is seen where it is decided.
fn needs_reason(command: &Command) -> bool {
    !matches!(
        command,
        Command::RenewToken { .. }
            | Command::RotateToken { .. }
            | Command::UpdateToken(_)
            | Command::RevokeToken { .. }
            | Command::UseToken(_)
            | Command::Forget { .. }
    )
}

/// Labels as they are kept.
pub type Labels = BTreeMap<String, String>;

/// The action that changes principals of a kind.
fn write_action(kind: PrincipalKind) -> &'static str {
    match kind {
        PrincipalKind::User => "users:write",
        PrincipalKind::Team => "teams:write",
        PrincipalKind::Service => "services:write",
    }
}

/// The action that reads principals of a kind.
#[must_use]
pub fn read_action(kind: PrincipalKind) -> &'static str {
    match kind {
        PrincipalKind::User => "users:read",
        PrincipalKind::Team => "teams:read",
        PrincipalKind::Service => "services:read",
    }
}

/// Whether a caller's power permits an action of the server's on the resource of a need.
#[must_use]
pub fn caller_permits(power: &Power<'_>, action: &str, need: &Need<'_>) -> bool {
    Need::parse(action, need.resource()).is_ok_and(|need| power.permits(need))
}

#[cfg(test)]
mod tests;
