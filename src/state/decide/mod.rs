//! Decide: a command against a State gives one change, an answer without a change, or a refusal.
//!
//! Pure. The caller's token is judged again on the State decided on, so one that was revoked
//! earlier in the same batch is refused. The boundary is here and nowhere else: nobody hands on
//! what they do not hold, and a refusal lists exactly what is missing.

mod command;
mod directory;
mod issue;
mod logins;
mod repeat;
mod revoke;
mod roles;
mod tokens;

use crate::domain::chain::RevisionNumber;
use crate::domain::change::Change;
use crate::domain::clock::{Now, UnixMs};
use crate::domain::entry::{Actor, EntryKind};
use crate::domain::login::LoginMethod;
use crate::domain::permission::{Need, Permission, Resource, ResourcePattern};
use crate::domain::principal::{GrantId, PrincipalId, PrincipalKind, RoleName};
use crate::domain::reason::Reason;
use crate::domain::refusal::Refusal;
use crate::domain::token::{KindSet, TokenId, TokenKind};

use super::State;
use super::check::{CheckRequest, Context};
use super::judge::{Unobserved, is_revoked, judge};
use super::lineage::Lineage;
use super::power::Power;

use repeat::ended_before;

pub use command::{Caller, Command, CutOffRequest, Envelope, LimitsAsked, ScopesAsked, UseToken};
pub use issue::IssueToken;
pub use logins::{CreateCredential, CredentialForm, Login, SetMethod};
pub use revoke::RevokeTarget;
pub use tokens::UpdateToken;

/// The longest life of each kind of token; a setting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifetimes {
    /// In seconds, by the kind's number less one; none for no bound.
    pub max_s: [Option<u32>; TokenKind::ALL.len()],
}

impl Lifetimes {
    /// The longest life of one kind.
    pub(super) fn of(&self, kind: TokenKind) -> Option<u32> {
        self.max_s[kind as usize - 1]
    }
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
    /// A login method of an account.
    Method(PrincipalId, LoginMethod),
    /// Nothing that could be read.
    Nothing,
}

/// A caller that was judged on this State.
struct Judged<'s> {
    state: &'s State,
    moment: Moment,
    power: Power<'s>,
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
    let about = ends_itself(state, envelope);
    let caller = match Judged::new(state, &envelope.caller, moment, about) {
        Ok(caller) => caller,
        Err(refusal) => return ended_before(state, envelope, moment).ok_or(refusal),
    };
    let (outcome, subject) = match caller.repeated(envelope)? {
        Some(repeated) => (repeated, About::Nothing),
        None => caller.command(envelope)?,
    };
    if let Outcome::Change { kind, .. } = &outcome
        && kind.format() > state.format()
    {
        return Err(too_new(*kind, state.format()));
    }
    debug_assert!(
        match &outcome {
            // Which of the two it is shows only in State.
            Outcome::Change {
                kind: EntryKind::SessionRevoke,
                ..
            } => envelope.command.kind() == Some(EntryKind::TokenRevoke),
            Outcome::Change { kind, .. } => envelope.command.kind() == Some(*kind),
            _ => true,
        },
        "a command makes entries of its own kind"
    );
    Ok(Decided {
        actor: caller.acting(&envelope.command),
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
    caller: &'s Caller,
    now: Now,
    about: CallAbout,
) -> Result<(Power<'s>, Option<TokenId>), Refusal> {
    let moment = Moment {
        revision: 0,
        now: now.not_before(state.instant_ms()),
        lifetimes: Lifetimes::default(),
    };
    let judged = Judged::new(state, caller, moment, about)?;
    Ok((judged.power, judged.actor.token))
}

/// What a call is about: oneself may be asked after and ended from anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallAbout {
    /// Only the bearer itself: who it is.
    Itself,
    /// Only the bearer's own end.
    ItsEnd,
    /// Anything.
    Anything,
}

// A stolen token that is bound to a place must be revocable wherever it turns up.
fn ends_itself(state: &State, envelope: &Envelope) -> CallAbout {
    let caller = &envelope.caller;
    let itself = match &envelope.command {
        Command::RevokeToken { target, .. } => match (target, caller) {
            (_, Caller::Local | Caller::System) => false,
            (RevokeTarget::Itself, _) => true,
            (RevokeTarget::Secret(digest), Caller::Bearer { key, .. }) => digest.key() == *key,
            (RevokeTarget::Sealed(presented), Caller::Sealed { claims, .. }) => presented == claims,
            (RevokeTarget::Id(id), _) => {
                let caller = caller.lineage(state);
                caller.and_then(|caller| caller.id()) == Some(*id)
            }
            _ => false,
        },
        _ => false,
    };
    if itself {
        CallAbout::ItsEnd
    } else {
        CallAbout::Anything
    }
}

/// Whether a reason is about where a token is used, not about whether it is good.
fn is_of_the_place(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::NotYetValid
            | Reason::Network
            | Reason::Audience
            | Reason::Workload
            | Reason::UsesExhausted
    )
}

impl<'s> Judged<'s> {
    fn new(
        state: &'s State,
        caller: &'s Caller,
        moment: Moment,
        about: CallAbout,
    ) -> Result<Self, Refusal> {
        match caller {
            Caller::Local => return Ok(Self::inside(state, moment, "local")),
            Caller::System => return Ok(Self::inside(state, moment, "system")),
            Caller::Bearer { .. } | Caller::Sealed { .. } => {}
        }
        let lineage = caller.lineage(state).ok_or(Refusal::Unauthenticated)?;
        // In its grace an old secret can be checked and revoked, nothing else.
        if lineage.grace_until_ms.is_some() {
            return Err(Refusal::Unauthenticated);
        }
        let request = CheckRequest {
            token: "",
            needs: &[],
            context: Context {
                client_ip: caller.client_ip(),
                audience: None,
                workload: caller.workload(lineage.workload(state)),
            },
            kinds: KindSet::ALL,
        };
        let ends_ms = lineage.ends_ms(state);
        let observer = &mut Unobserved;
        let reason = judge(state, &lineage, ends_ms, &request, moment.now, observer);
        let itself = about != CallAbout::Anything;
        // A credential that is good may end itself, though it is accepted nowhere.
        let ended = ends_ms.is_some_and(|at| at <= moment.now.latest);
        let ends_itself = about == CallAbout::ItsEnd
            && lineage.kind().is_credential()
            && !(ended || is_revoked(state, &lineage));
        let good = reason == Reason::Allowed || ends_itself || (itself && is_of_the_place(reason));
        // A token with a budget of uses is for checks: managing would spend nothing.
        if !good || (lineage.counts_uses() && !itself) {
            return Err(Refusal::Unauthenticated);
        }
        Ok(Self {
            state,
            moment,
            actor: Self::actor(state, &lineage),
            power: Power::of_token(state, lineage),
        })
    }

    fn actor(state: &State, lineage: &Lineage<'_>) -> Actor {
        Actor {
            principal: lineage.principal(),
            token: lineage.id(),
            name: state.subject_text(lineage.subject(state).as_ref()),
        }
    }

    /// Who the log names: for a login, that is who logs in.
    fn acting(self, command: &Command) -> Actor {
        let Command::Login(login) = command else {
            return self.actor;
        };
        let account = self.state.directory.named(&login.asked.account);
        Actor {
            principal: account.map(|one| one.record.id),
            token: None,
            name: login.asked.account.to_string(),
        }
    }

    /// The calling token, if it is one that calls.
    fn bearer(&self) -> Option<&Lineage<'s>> {
        self.power.lineage()
    }

    fn inside(state: &'s State, moment: Moment, name: &str) -> Self {
        Self {
            state,
            moment,
            power: Power::local(state),
            actor: Actor {
                principal: None,
                token: None,
                name: name.to_owned(),
            },
        }
    }

    fn command(&self, envelope: &Envelope) -> Result<(Outcome, About), Refusal> {
        if needs_reason(&envelope.command) && envelope.reason.is_empty() {
            return Err(no_reason());
        }
        self.verb(envelope)
    }

    fn verb(&self, envelope: &Envelope) -> Result<(Outcome, About), Refusal> {
        match &envelope.command {
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
            Command::CreateCredential(create) => self.create_credential(create),
            Command::SetMethod(set) => self.set_method(set),
            Command::RemoveMethod { account, method } => self.remove_method(account, *method),
            Command::Login(login) => self.login(login),
            Command::LockLogins {
                account,
                method,
                network,
            } => self.lock_logins(*account, *method, *network),
            Command::UnlockLogins { account, network } => self.unlock_logins(account, *network),
            Command::MintBy { key, salt } => self.mint_by(*key, *salt),
            Command::RetireKey(key) => self.retire_key(*key),
            Command::RevokeKey(key) => self.revoke_key(*key),
            Command::Confirm => Ok((Outcome::Already, About::Nothing)),
            Command::Forget { before_ms, slice } => self.forget(*before_ms, *slice),
            Command::RaiseFormat(level) => self.raise_format(*level),
            #[cfg(debug_assertions)]
            Command::Note => self.note(),
        }
    }

    /// Only the server itself raises it, and never lowers it.
    fn raise_format(&self, level: u32) -> Result<(Outcome, About), Refusal> {
        self.require_server()?;
        if level <= self.state.format() {
            return Ok((Outcome::Already, About::Nothing));
        }
        let target = format!("format {level}");
        let change = Change::RaiseFormat(level);
        Ok(Self::change(
            EntryKind::FormatRaise,
            target,
            change,
            About::Nothing,
        ))
    }

    /// Says again what the level is: the one change that changes nothing.
    #[cfg(debug_assertions)]
    fn note(&self) -> Result<(Outcome, About), Refusal> {
        self.require_server()?;
        let change = Change::RaiseFormat(self.state.format());
        Ok(Self::change(
            EntryKind::Note,
            "note",
            change,
            About::Nothing,
        ))
    }

    fn require_server(&self) -> Result<(), Refusal> {
        match self.bearer() {
            None => Ok(()),
            Some(_) => Err(Refusal::NotPermitted(vec![Permission::everything()])),
        }
    }

    /// Only the server itself forgets, and nothing that has not ended.
    fn forget(&self, before_ms: UnixMs, slice: u8) -> Result<(Outcome, About), Refusal> {
        self.require_server()?;
        let now_ms = self.moment.now.earliest;
        let before_ms = before_ms.min(now_ms);
        if !self.state.has_ended(before_ms, slice, now_ms) {
            return Ok((Outcome::Already, About::Nothing));
        }
        let target = format!("slice {slice}");
        let change = Change::Forget { before_ms, slice };
        Ok(Self::change(
            EntryKind::Forget,
            target,
            change,
            About::Nothing,
        ))
    }

    /// The calling principal, if a token speaks for one.
    fn principal_id(&self) -> Option<PrincipalId> {
        self.bearer().and_then(Lineage::principal)
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

/// Some server may not read it.
fn too_new(kind: EntryKind, level: u32) -> Refusal {
    Refusal::Precondition(format!(
        "changes of the kind {} are of format {}, and the log is of format {level} until every \
         server reads it",
        kind.name(),
        kind.format()
    ))
}

fn no_reason() -> Refusal {
    Refusal::invalid("reason", "is required here, 1 to 256 characters")
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
            | Command::Login(_)
            | Command::LockLogins { .. }
            | Command::Confirm
            | Command::Forget { .. }
    )
}

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
mod attempts_tests;
#[cfg(test)]
mod boundary_tests;
#[cfg(test)]
mod company_tests;
#[cfg(test)]
mod credential_tests;
#[cfg(test)]
mod format_tests;
#[cfg(test)]
mod issue_tests;
#[cfg(test)]
mod life_tests;
#[cfg(test)]
mod limits_tests;
#[cfg(test)]
mod lock_tests;
#[cfg(test)]
mod login_attempts_tests;
#[cfg(test)]
mod login_tests;
#[cfg(test)]
mod repeat_tests;
#[cfg(test)]
mod secrecy_tests;
#[cfg(test)]
mod session_tests;
#[cfg(test)]
mod tests;
