//! The oracle's commands about callers, principals, roles and grants, and what to hold means.
//!
//! One function takes a command and the clock, answers what must be replied and changes the
//! records if it is a change. Tokens are in `oracle::tokens`.

use latchkey::domain::entry::Request;
use latchkey::domain::login::LoginCause;
use latchkey::domain::principal::PrincipalKind;
use latchkey::domain::reason::Reason;
use latchkey::state::decide::{Caller, Command, Envelope};

use super::super::algebra::{Perm, canonical, one_covers};
use super::{Answered, Cut, Grant, Oracle, Place, Principal, Role, Subject, Token};

/// Why a command must be refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum No {
    Invalid,
    Unauthenticated,
    NotPermitted(Vec<String>),
    Boundary(Vec<String>),
    NotAMember,
    NotFound,
    AlreadyExists,
    Conflict,
    Precondition,
    Limit,
    RequestIdReused,
    LoginRefused(Option<LoginCause>),
}

/// What must be replied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// A change of this kind.
    Change(&'static str),
    Already,
    Repeated(u64),
    Denied(Reason),
    Refused(No),
}

/// A caller that was judged: a token, or whoever has the server in hand.
pub(crate) struct Me<'o> {
    pub oracle: &'o Oracle,
    pub token: Option<&'o Token>,
    pub now: u64,
}

/// What a command does to the records.
pub(crate) type Effect = Box<dyn FnOnce(&mut Oracle, u64, u64)>;
pub(crate) type Outcome = Result<Option<(&'static str, Effect)>, No>;

pub(crate) fn change(
    kind: &'static str,
    effect: impl FnOnce(&mut Oracle, u64, u64) + 'static,
) -> Outcome {
    Ok(Some((kind, Box::new(effect))))
}

/// The kinds of changes that not every server could read once.
const OF_LOGINS: [&str; 11] = [
    "credential.create",
    "method.set",
    "method.remove",
    "login",
    "login.lock",
    "login.unlock",
    "session.revoke",
    "session.revoke_all",
    "key.mint",
    "key.retire",
    "key.revoke",
];

pub(super) const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

impl Oracle {
    /// Decides a command at `now` and carries it out.
    pub(crate) fn command(&mut self, envelope: &Envelope, now: u64) -> Reply {
        let now = now.max(self.instant);
        let outcome = match self.decide(envelope, now) {
            Ok(outcome) => outcome,
            Err(reply) => return reply,
        };
        let Some((kind, effect)) = outcome else {
            return Reply::Already;
        };
        if OF_LOGINS.contains(&kind) && self.format < 2 {
            return Reply::Refused(No::Precondition);
        }
        self.revision += 1;
        self.instant = now;
        effect(self, self.revision, now);
        if let Some(Request { key, fingerprint }) = envelope.request {
            self.requests.retain(|one| one.key != key);
            let (revision, instant) = (self.revision, now);
            self.requests.push(Answered {
                key,
                fingerprint,
                revision,
                instant,
            });
        }
        Reply::Change(kind)
    }

    fn decide(
        &self,
        envelope: &Envelope,
        now: u64,
    ) -> Result<Option<(&'static str, Effect)>, Reply> {
        let token = match self.caller(envelope, now) {
            Ok(token) => token,
            Err(no) => {
                let ended = self.ended_itself(envelope, now).map(Reply::Repeated);
                return Err(ended.unwrap_or(Reply::Refused(no)));
            }
        };
        let me = Me {
            oracle: self,
            token,
            now,
        };
        if let Some(request) = &envelope.request {
            match self.kept(request, now) {
                Some(one) if one.fingerprint == request.fingerprint => {
                    me.may_repeat(envelope).map_err(Reply::Refused)?;
                    return Err(Reply::Repeated(one.revision));
                }
                Some(_) => return Err(Reply::Refused(No::RequestIdReused)),
                None => {}
            }
        }
        if let Command::UseToken(using) = &envelope.command {
            return self.use_token(using, now);
        }
        me.verb(&envelope.command, envelope.reason.is_empty())
            .map_err(Reply::Refused)
    }

    /// The calling token, if it may call: good now, in its newest secret, without a use limit.
    fn caller(&self, envelope: &Envelope, now: u64) -> Result<Option<&Token>, No> {
        let caller = &envelope.caller;
        let (found, client_ip, peer) = match caller {
            Caller::Local | Caller::System => return Ok(None),
            Caller::Bearer {
                key,
                client_ip,
                peer,
            } => (self.by_key(*key), client_ip, peer),
            Caller::Sealed {
                claims,
                client_ip,
                peer,
            } => {
                // Without what it was born from nothing is known of it.
                let known =
                    |token: &&Token| token.parent.is_some_and(|id| self.token(id).is_some());
                let token = self.of_claims(claims).filter(known);
                (token.map(|token| (token, None)), client_ip, peer)
            }
        };
        let (token, grace) = found.ok_or(No::Unauthenticated)?;
        let place = Place {
            address: *client_ip,
            peer: peer.clone(),
        };
        let reason = self.judge(token, grace, &place.asked(), now);
        // "A bearer may always revoke itself", also from where it may do nothing else.
        let ends_itself = match &envelope.command {
            Command::RevokeToken { target, .. } => self.is_meant(token, target),
            _ => false,
        };
        let bound = matches!(
            reason,
            Reason::NotYetValid
                | Reason::Network
                | Reason::Audience
                | Reason::Workload
                | Reason::UsesExhausted
        );
        let good = match reason {
            Reason::Allowed => ends_itself || token.uses_left.is_none(),
            // A credential may end itself, though it is accepted nowhere.
            Reason::WrongKind => {
                ends_itself && !self.is_revoked(token) && !self.has_ended(token, now)
            }
            _ => ends_itself && bound,
        };
        if good && grace.is_none() {
            Ok(Some(token))
        } else {
            Err(No::Unauthenticated)
        }
    }
}

impl<'o> Me<'o> {
    /// The calling principal's id.
    pub(crate) fn principal(&self) -> Option<u32> {
        match self.token?.subject {
            Subject::Principal(id) => Some(id),
            Subject::Resource(_) => None,
        }
    }

    /// To hold: every layer of the calling token's power covers it.
    pub(crate) fn holds(&self, wanted: &Perm) -> bool {
        self.token.is_none_or(|token| {
            self.oracle
                .power(token)
                .iter()
                .all(|layer| one_covers(layer, wanted))
        })
    }

    /// Whether the scopes and ceilings of the calling token alone cover it.
    pub(crate) fn cuts_cover(&self, wanted: &Perm) -> bool {
        self.token.is_none_or(|token| {
            self.oracle
                .cuts_of(token)
                .iter()
                .all(|layer| one_covers(layer, wanted))
        })
    }

    pub(crate) fn may(&self, action: &str, on: &str) -> bool {
        self.holds(&Perm::new(action, on))
    }

    pub(crate) fn require(&self, action: &str, on: &str) -> Result<(), No> {
        let wanted = Perm::new(action, on);
        if self.holds(&wanted) {
            Ok(())
        } else {
            Err(No::NotPermitted(vec![wanted.text()]))
        }
    }

    /// Of something that comes with being someone: the calling token's scopes must have it.
    pub(crate) fn require_in_cuts(&self, action: &str, on: &str) -> Result<(), No> {
        let wanted = Perm::new(action, on);
        if self.cuts_cover(&wanted) {
            Ok(())
        } else {
            Err(No::NotPermitted(vec![wanted.text()]))
        }
    }

    /// Who may not even read it finds nothing.
    pub(crate) fn require_seen(&self, action: &str, read: &str, on: &str) -> Result<(), No> {
        self.require(action, on)
            .map_err(|no| if self.may(read, on) { no } else { No::NotFound })
    }

    /// "Nobody hands on what they do not hold, and a refusal lists exactly what is missing."
    pub(crate) fn hands_on(&self, list: &[Perm]) -> Result<(), No> {
        let missing: Vec<Perm> = list
            .iter()
            .filter(|one| !self.holds(one))
            .cloned()
            .collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(No::Boundary(canonical(&missing)))
        }
    }

    fn verb(&self, command: &Command, no_reason: bool) -> Outcome {
        let reasoned = matches!(
            command,
            Command::RenewToken { .. }
                | Command::RotateToken { .. }
                | Command::UpdateToken(_)
                | Command::RevokeToken { .. }
                | Command::Forget { .. }
                | Command::Login(_)
                | Command::LockLogins { .. }
        );
        if no_reason && !reasoned {
            return Err(No::Invalid);
        }
        self.unreasoned(command, no_reason)
    }

    pub(super) fn unreasoned(&self, command: &Command, no_reason: bool) -> Outcome {
        match command {
            Command::CreatePrincipal { name, home, .. } => {
                self.create_principal(&name.to_string(), home.as_str())
            }
            Command::DeletePrincipal(name) => self.delete_principal(&name.to_string()),
            Command::SetDisabled { name, disabled } => {
                self.set_disabled(&name.to_string(), *disabled)
            }
            Command::AddMember { team, member } => {
                if member.kind() == PrincipalKind::Team {
                    return Err(No::Invalid);
                }
                self.add_member(&team.to_string(), &member.to_string())
            }
            Command::RemoveMember {
                team,
                member,
                cut_off_tokens,
            } => self.remove_member(&team.to_string(), &member.to_string(), *cut_off_tokens),
            Command::CreateRole {
                name,
                home,
                actions,
                ..
            } => {
                let actions = actions.iter().map(ToString::to_string).collect();
                self.create_role(name.as_str(), home.as_str(), actions)
            }
            Command::UpdateRole { name, actions, .. } => {
                let actions = actions.as_ref();
                let actions = actions.map(|list| list.iter().map(ToString::to_string).collect());
                self.update_role(name.as_str(), actions)
            }
            Command::DeleteRole(name) => self.delete_role(name.as_str()),
            Command::CreateGrant {
                principal,
                role,
                resource,
            } => self.create_grant(&principal.to_string(), role.as_str(), resource.as_str()),
            Command::DeleteGrant(id) => self.delete_grant(id.0),
            other => self.token_verb(other, no_reason),
        }
    }

    fn writable(&self, name: &str) -> Result<&'o Principal, No> {
        let one = self.oracle.named(name).ok_or(No::NotFound)?;
        let (write, read) = actions_on(name);
        self.require_seen(&write, &read, &one.home)?;
        Ok(one)
    }

    fn create_principal(&self, name: &str, home: &str) -> Outcome {
        self.require(&actions_on(name).0, home)?;
        if self.oracle.named(name).is_some() {
            return Err(No::AlreadyExists);
        }
        let (name, home) = (name.to_owned(), home.to_owned());
        change("principal.create", |oracle, _, _| {
            oracle.principal_last += 1;
            let id = oracle.principal_last;
            oracle.principals.push(Principal {
                id,
                name,
                home,
                disabled: false,
            });
        })
    }

    fn delete_principal(&self, name: &str) -> Outcome {
        let id = self.writable(name)?.id;
        change("principal.delete", move |oracle, _, _| {
            oracle.principals.retain(|one| one.id != id);
            oracle
                .members
                .retain(|(team, member)| *team != id && *member != id);
            oracle.grants.retain(|grant| grant.principal != id);
            oracle.methods.retain(|method| method.account != id);
            oracle.locks.retain(|lock| lock.account != id);
        })
    }

    fn set_disabled(&self, name: &str, disabled: bool) -> Outcome {
        let one = self.writable(name)?;
        if one.disabled == disabled {
            return Ok(None);
        }
        if !disabled {
            self.hands_on(&self.oracle.live(one.id))?;
        }
        let id = one.id;
        let kind = if disabled {
            "principal.disable"
        } else {
            "principal.enable"
        };
        change(kind, move |oracle, _, _| {
            let found = oracle.principals.iter_mut().filter(|one| one.id == id);
            found.for_each(|one| one.disabled = disabled);
        })
    }

    fn add_member(&self, team: &str, member: &str) -> Outcome {
        let team = self.writable(team)?.id;
        let member = self.oracle.named(member).map(|one| one.id);
        if member.is_some_and(|id| self.oracle.is_member(team, id)) {
            return Ok(None);
        }
        self.hands_on(&self.oracle.own_permissions(team))?;
        let member = member.ok_or(No::NotFound)?;
        change("member.add", move |oracle, _, _| {
            oracle.members.push((team, member))
        })
    }

    /// A member may leave, and who could delete it may take it out; else the team's home decides.
    fn remove_member(&self, team: &str, member: &str, cut_off: bool) -> Outcome {
        let (team_one, member_one) = (self.oracle.named(team), self.oracle.named(member));
        let leaves = team_one.zip(member_one).is_some_and(|(team, member)| {
            self.oracle.is_member(team.id, member.id) && self.takes_out(member)
        });
        if !leaves {
            self.writable(team)?;
        }
        let (team, member) = (
            team_one.ok_or(No::NotFound)?,
            member_one.ok_or(No::NotFound)?,
        );
        let home = &team.home;
        let (team, member) = (team.id, member.id);
        if !self.oracle.is_member(team, member) {
            return Ok(None);
        }
        if cut_off && self.principal() != Some(member) {
            self.require("tokens:revoke", home)?;
        }
        change("member.remove", move |oracle, revision, _| {
            oracle.members.retain(|pair| *pair != (team, member));
            if cut_off {
                oracle
                    .cuts
                    .push((Cut::TeamTokensBy { team, member }, revision));
            }
        })
    }

    /// Itself, or who may change it.
    pub(super) fn takes_out(&self, member: &Principal) -> bool {
        let itself = self.principal() == Some(member.id);
        (itself && self.require_in_cuts("teams:write", &member.home).is_ok())
            || self.changes(member)
    }

    fn changes(&self, one: &Principal) -> bool {
        self.may(&actions_on(&one.name).0, &one.home)
    }

    fn create_role(&self, name: &str, home: &str, actions: Vec<String>) -> Outcome {
        self.require("roles:write", home)?;
        if self.oracle.role(name).is_some() {
            return Err(No::AlreadyExists);
        }
        if actions.is_empty() {
            return Err(No::Invalid);
        }
        let role = Role {
            name: name.to_owned(),
            home: home.to_owned(),
            actions,
        };
        change("role.create", |oracle, _, _| oracle.roles.push(role))
    }

    /// What the caller may neither read nor write, nor holds, does not exist for it.
    pub(super) fn seen_role(&self, name: &str, on: &str) -> Option<&'o Role> {
        let role = self.oracle.role(name)?;
        let seen = ["roles:read", "roles:write"].map(|action| self.may(action, &role.home));
        (seen.contains(&true) || role.on(on).iter().all(|one| self.holds(one))).then_some(role)
    }

    fn writable_role(&self, name: &str) -> Result<&'o Role, No> {
        let role = self.oracle.role(name).ok_or(No::NotFound)?;
        self.require_seen("roles:write", "roles:read", &role.home)?;
        Ok(role)
    }

    /// "Each added action on every pattern where the role is granted."
    fn update_role(&self, name: &str, actions: Option<Vec<String>>) -> Outcome {
        let old = self.writable_role(name)?;
        let mut new = actions.unwrap_or_else(|| old.actions.clone());
        if new.is_empty() {
            return Err(No::Invalid);
        }
        new.sort();
        new.dedup();
        let mut former = old.actions.clone();
        former.sort();
        former.dedup();
        let everywhere = |action: &String| Perm::new(action, "**");
        let before: Vec<Perm> = former.iter().map(everywhere).collect();
        let added = new
            .iter()
            .filter(|action| !one_covers(&before, &everywhere(action)));
        let granted = self.oracle.grants.iter().filter(|grant| grant.role == name);
        let patterns: Vec<&str> = granted.map(|grant| grant.resource.as_str()).collect();
        let handed_on: Vec<Perm> = added
            .flat_map(|action| patterns.iter().map(|on| Perm::new(action, on)))
            .collect();
        self.hands_on(&handed_on)?;
        if new == former {
            return Ok(None);
        }
        let name = name.to_owned();
        change("role.update", move |oracle, _, _| {
            let found = oracle.roles.iter_mut().filter(|role| role.name == name);
            found.for_each(|role| role.actions = new.clone());
        })
    }

    fn delete_role(&self, name: &str) -> Outcome {
        self.writable_role(name)?;
        if self.oracle.grants.iter().any(|grant| grant.role == name) {
            return Err(No::Conflict);
        }
        let name = name.to_owned();
        change("role.delete", move |oracle, _, _| {
            oracle.roles.retain(|role| role.name != name)
        })
    }

    fn create_grant(&self, principal: &str, role: &str, resource: &str) -> Outcome {
        self.require("grants:write", resource)?;
        let given = self.seen_role(role, resource).ok_or(No::NotFound)?;
        self.hands_on(&given.on(resource))?;
        let holder = self.oracle.named(principal).ok_or(No::NotFound)?.id;
        let same = |grant: &Grant| {
            (grant.principal, &*grant.role, &*grant.resource) == (holder, role, resource)
        };
        if self.oracle.grants.iter().any(same) {
            return Err(No::AlreadyExists);
        }
        let (role, resource) = (role.to_owned(), resource.to_owned());
        change("grant.create", move |oracle, _, _| {
            oracle.grant_last += 1;
            let id = oracle.grant_last;
            oracle.grants.push(Grant {
                id,
                principal: holder,
                role,
                resource,
            });
        })
    }

    fn delete_grant(&self, id: u32) -> Outcome {
        let grant = self
            .oracle
            .grants
            .iter()
            .find(|grant| grant.id == id)
            .ok_or(No::NotFound)?;
        let holder = self.oracle.principal(grant.principal);
        if !holder.is_some_and(|one| self.changes(one)) {
            self.require_seen("grants:write", "grants:read", &grant.resource)?;
        }
        change("grant.delete", move |oracle, _, _| {
            oracle.grants.retain(|grant| grant.id != id)
        })
    }
}

impl Role {
    /// What it permits on a resource.
    pub(super) fn on(&self, resource: &str) -> Vec<Perm> {
        let actions = self.actions.iter();
        actions.map(|action| Perm::new(action, resource)).collect()
    }
}

/// The actions that write and read a principal of this name: `users:write`, `users:read`.
pub(crate) fn actions_on(name: &str) -> (String, String) {
    let kind = name.split(':').next().unwrap_or_default();
    (format!("{kind}s:write"), format!("{kind}s:read"))
}
