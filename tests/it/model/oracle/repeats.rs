//! The oracle's repeats: who may have the first answer of a request id again.
//!
//! In words: whoever could ask it now, as far as rights go. What the command would come to does
//! not matter; what it named and is gone cannot be judged at its home, so the action is looked
//! for on any resource. A token that ended itself is told so again; a member that left, too.

use latchkey::domain::entry::Request;
use latchkey::domain::principal::PrincipalName;
use latchkey::domain::scopes::ScopeEntry;
use latchkey::state::decide::{
    Caller, Command, CutOffRequest, Envelope, RevokeTarget, ScopesAsked,
};

use super::super::algebra::{Perm, extent};
use super::verbs::{DAY_MS, Me, No, actions_on};
use super::{Answered, Oracle};

impl Oracle {
    /// What is remembered of a request id.
    pub(super) fn kept(&self, request: &Request, now: u64) -> Option<&Answered> {
        let kept = |one: &&Answered| one.key == request.key && one.instant + DAY_MS > now;
        self.requests.iter().find(kept)
    }

    /// The revision by which the caller ended itself, if this is the same request again.
    pub(super) fn ended_itself(&self, envelope: &Envelope, now: u64) -> Option<u64> {
        let (token, grace) = match &envelope.caller {
            Caller::Bearer { key, .. } => self.by_key(*key)?,
            Caller::Sealed { claims, .. } => (self.of_claims(claims)?, None),
            Caller::Local | Caller::System => return None,
        };
        let Command::RevokeToken { target, .. } = &envelope.command else {
            return None;
        };
        let request = envelope.request.as_ref()?;
        let first = self.kept(request, now)?;
        let ended = match &token.seal {
            None => token.revoked.is_some_and(|(at, _)| at == first.revision),
            // It was its own request, and its session is over.
            Some(_) => {
                let mut over = self.ended_sessions.iter();
                let known = token.parent.is_some_and(|id| self.token(id).is_some());
                known && over.any(|(session, _)| *session == token.id.session())
            }
        };
        let same = first.fingerprint == request.fingerprint && ended;
        (self.is_meant(token, target) && grace.is_none() && same).then_some(first.revision)
    }
}

impl Me<'_> {
    pub(super) fn may_repeat(&self, envelope: &Envelope) -> Result<(), No> {
        let command = &envelope.command;
        if self.token.is_none() || self.has_left(command) {
            return Ok(());
        }
        match self.unreasoned(command, envelope.reason.is_empty()) {
            Err(no @ (No::NotPermitted(_) | No::Boundary(_) | No::NotAMember)) => Err(no),
            Err(No::Invalid) if self.is_role_hidden(command) => Err(No::Invalid),
            Err(No::NotFound) if self.is_there(command) => Err(No::NotFound),
            Err(No::NotFound) => self.judge_gone(command),
            _ => Ok(()),
        }
    }

    fn has_left(&self, command: &Command) -> bool {
        let Command::RemoveMember { member, .. } = command else {
            return false;
        };
        let one = self.oracle.named(&member.to_string());
        one.is_some_and(|one| self.takes_out(one))
    }

    /// Whether the scopes name a role that is there, though not for the caller.
    fn is_role_hidden(&self, command: &Command) -> bool {
        let entries = match command {
            Command::IssueToken(issue) => Some(&issue.scopes),
            Command::UpdateToken(update) => update.scopes.as_ref(),
            Command::CreateCredential(create) => Some(&create.scopes),
            _ => None,
        };
        let Some(ScopesAsked::Only(entries)) = entries else {
            return false;
        };
        let mut roles = entries.iter().filter_map(|entry| match entry {
            ScopeEntry::Role(name, on) => Some((name.as_str(), on.as_str())),
            ScopeEntry::Permissions(_) => None,
        });
        roles.any(|(name, on)| {
            self.oracle.role(name).is_some() && self.seen_role(name, on).is_none()
        })
    }

    /// Whether all that a command names exists.
    fn is_there(&self, command: &Command) -> bool {
        let named = |name: &PrincipalName| self.oracle.named(&name.to_string()).is_some();
        match command {
            Command::IssueToken(issue) => issue.subject.as_ref().is_none_or(named),
            Command::UpdateToken(update) => self.oracle.token(update.id).is_some(),
            Command::RenewToken { id, .. } | Command::RotateToken { id, .. } => {
                id.is_none_or(|id| self.oracle.token(id).is_some())
            }
            Command::RevokeToken { target, .. } => match target {
                RevokeTarget::Id(id) => self.oracle.token(*id).is_some(),
                RevokeTarget::Itself
                | RevokeTarget::Secret(_)
                | RevokeTarget::Sealed(_)
                | RevokeTarget::Session(_) => false,
            },
            Command::RevokeAll(
                CutOffRequest::Subject(name)
                | CutOffRequest::IssuedByPrincipal(name)
                | CutOffRequest::Sessions(name),
            )
            | Command::RemoveMethod { account: name, .. }
            | Command::UnlockLogins { account: name, .. }
            | Command::DeletePrincipal(name)
            | Command::SetDisabled { name, .. } => named(name),
            Command::RevokeAll(CutOffRequest::IssuedByCredential(id)) => {
                self.oracle.token(*id).is_some()
            }
            Command::CreateCredential(create) => named(&create.account),
            Command::SetMethod(set) => named(&set.account),
            Command::AddMember { team, member } | Command::RemoveMember { team, member, .. } => {
                named(team) && named(member)
            }
            Command::UpdateRole { name, .. } | Command::DeleteRole(name) => {
                self.oracle.role(name.as_str()).is_some()
            }
            Command::CreateGrant {
                principal, role, ..
            } => named(principal) && self.oracle.role(role.as_str()).is_some(),
            Command::DeleteGrant(id) => self.oracle.grants.iter().any(|grant| grant.id == id.0),
            _ => true,
        }
    }

    fn judge_gone(&self, command: &Command) -> Result<(), No> {
        let write = |name: &PrincipalName| actions_on(&name.to_string()).0;
        let held = |action: &str| self.has_anywhere(action, true);
        let in_cuts = |action: &str| self.has_anywhere(action, false);
        match command {
            Command::IssueToken(_) | Command::CreateCredential(_) => held("tokens:issue"),
            Command::SetMethod(set) => held(&write(&set.account)),
            Command::RemoveMethod { account, .. } | Command::UnlockLogins { account, .. } => {
                held(&write(account))
            }
            // What the credential was is gone; the right everywhere was judged.
            Command::RevokeAll(CutOffRequest::IssuedByCredential(_)) => Ok(()),
            // It may have been the caller's own, which needs no right of its principal.
            Command::UpdateToken(_) | Command::RenewToken { .. } | Command::RotateToken { .. } => {
                in_cuts("tokens:issue")
            }
            Command::RevokeToken {
                target: RevokeTarget::Id(_),
                ..
            } => in_cuts("tokens:revoke"),
            Command::RevokeAll(_) => held("tokens:revoke"),
            Command::DeletePrincipal(name) | Command::SetDisabled { name, .. } => {
                held(&write(name))
            }
            // Of a team that is there its writer has been judged already.
            Command::AddMember { team, .. } | Command::RemoveMember { team, .. } => {
                match self.oracle.named(&team.to_string()) {
                    Some(_) => Ok(()),
                    None => held("teams:write"),
                }
            }
            Command::UpdateRole { .. } | Command::DeleteRole(_) => held("roles:write"),
            // Or who might have changed the principal that it was of.
            Command::DeleteGrant(_) => held("grants:write").or_else(|no| {
                let writes = ["users:write", "teams:write", "services:write"];
                let one = writes.iter().any(|action| held(action).is_ok());
                one.then_some(()).ok_or(no)
            }),
            _ => Ok(()),
        }
    }

    /// Whether the power, or its cuts only, permits the action on any resource there is.
    fn has_anywhere(&self, action: &str, live: bool) -> Result<(), No> {
        let mut layers = match self.token {
            None => return Ok(()),
            Some(token) if live => self.oracle.power(token),
            Some(token) => self.oracle.cuts_of(token),
        };
        let wanted = Perm::new(action, "**");
        layers.push(vec![wanted.clone()]);
        if extent(&layers).contains(&true) {
            Ok(())
        } else {
            Err(No::NotPermitted(vec![wanted.text()]))
        }
    }
}
