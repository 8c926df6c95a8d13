//! Repeats: a request id that was answered before gets its first answer, if the caller may.
//!
//! The command is judged again for the caller's rights and nothing else: what it would come to
//! now does not matter, for the first answer may be the very cause (what was created exists,
//! what was deleted is gone). A caller that lost the right, or never had it (a narrower token of
//! the same principal), is refused like anybody who asks for the first time. Used by `decide`.

use crate::domain::entry::Request;
use crate::domain::permission::{Permission, ResourcePattern};
use crate::domain::principal::{PrincipalKind, PrincipalName};
use crate::domain::refusal::Refusal;
use crate::domain::scopes::ScopeEntry;

use super::super::{Answered, State};
use super::{
    About, CallAbout, Command, CutOffRequest, Decided, Envelope, Judged, Moment, Outcome,
    RevokeTarget, ScopesAsked, ends_itself, write_action,
};

/// What is left to judge when the thing that a repeat names is gone, and its home with it.
enum Left {
    /// Nothing: all that could be judged was.
    Nothing,
    /// The caller must still hold one of the actions somewhere.
    Held(Vec<&'static str>),
    /// It may have come with being someone: the scopes must still have the action somewhere.
    InScopes(&'static str),
}

impl Judged<'_> {
    /// The first answer, if this request has one that the caller may have again.
    pub(super) fn repeated(&self, envelope: &Envelope) -> Result<Option<Outcome>, Refusal> {
        let Some(answered) = answered(self.state, envelope, self.moment)? else {
            return Ok(None);
        };
        // The server itself has every right.
        if self.bearer().is_some() {
            self.still_permitted(envelope)?;
        }
        Ok(Some(Outcome::Repeated(answered.revision)))
    }

    fn still_permitted(&self, envelope: &Envelope) -> Result<(), Refusal> {
        // Of a team that it may not see, too, a caller may know that this member is not in it.
        if let Command::RemoveMember { member, .. } = &envelope.command
            && self.frees(member)
        {
            return Ok(());
        }
        match self.verb(envelope) {
            Err(
                refusal @ (Refusal::NotPermitted(_) | Refusal::Boundary(_) | Refusal::NotAMember),
            ) => Err(refusal),
            Err(refusal @ Refusal::Invalid { .. }) if self.hides_role(&envelope.command) => {
                Err(refusal)
            }
            // If it is there, it is hidden from the caller.
            Err(refusal @ Refusal::NotFound(_)) => match self.left(&envelope.command) {
                None => Err(refusal),
                Some(Left::Nothing) => Ok(()),
                Some(Left::Held(actions)) => self.require_somewhere(&actions, true),
                Some(Left::InScopes(action)) => self.require_somewhere(&[action], false),
            },
            _ => Ok(()),
        }
    }

    /// Whether the scopes that are asked for name a role that does not exist for the caller only.
    fn hides_role(&self, command: &Command) -> bool {
        let asked = match command {
            Command::IssueToken(issue) => Some(&issue.scopes),
            Command::UpdateToken(update) => update.scopes.as_ref(),
            Command::CreateCredential(create) => Some(&create.scopes),
            _ => None,
        };
        let Some(ScopesAsked::Only(entries)) = asked else {
            return false;
        };
        entries.iter().any(|entry| match entry {
            ScopeEntry::Role(name, on) => {
                self.state.role(name).is_some() && self.role_seen(name, on).is_none()
            }
            ScopeEntry::Permissions(_) => false,
        })
    }

    fn require_somewhere(&self, actions: &[&str], live: bool) -> Result<(), Refusal> {
        let has = |action: &&str| self.power.has_somewhere(action, live);
        if actions.iter().any(has) {
            return Ok(());
        }
        let everywhere = |action: &&str| Permission::known(action, ResourcePattern::everything());
        let missing = actions.iter().take(1).map(everywhere);
        Err(Refusal::NotPermitted(missing.collect()))
    }

    /// What is left to judge of a command that found nothing; none if what it names is there.
    fn left(&self, command: &Command) -> Option<Left> {
        let directory = &self.state.directory;
        let no_token = |id| self.state.token(id).is_none();
        let (gone, left) = match command {
            Command::IssueToken(issue) => {
                let name = issue.subject.as_ref()?;
                (
                    directory.named(name).is_none(),
                    Left::Held(vec!["tokens:issue"]),
                )
            }
            Command::UpdateToken(update) => (no_token(update.id), Left::InScopes("tokens:issue")),
            Command::RenewToken { id, .. } | Command::RotateToken { id, .. } => {
                (no_token((*id)?), Left::InScopes("tokens:issue"))
            }
            Command::RevokeToken { target, .. } => match target {
                RevokeTarget::Id(id) => (no_token(*id), Left::InScopes("tokens:revoke")),
                // Presenting the token is permission enough; of a session nothing can be gone.
                RevokeTarget::Itself
                | RevokeTarget::Secret(_)
                | RevokeTarget::Sealed(_)
                | RevokeTarget::Session(_) => (true, Left::Nothing),
            },
            Command::RevokeAll(request) => return self.left_to_cut_off(request),
            Command::CreateCredential(create) => (
                directory.named(&create.account).is_none(),
                Left::Held(vec!["tokens:issue"]),
            ),
            Command::SetMethod(set) => return self.left_of_account(&set.account),
            Command::RemoveMethod { account, .. } | Command::UnlockLogins { account, .. } => {
                return self.left_of_account(account);
            }
            Command::UpdatePrincipal { name, .. }
            | Command::DeletePrincipal(name)
            | Command::SetDisabled { name, .. } => (
                directory.named(name).is_none(),
                Left::Held(vec![write_action(name.kind())]),
            ),
            Command::AddMember { team, member } | Command::RemoveMember { team, member, .. } => {
                let write = write_action(PrincipalKind::Team);
                match (directory.named(team), directory.named(member)) {
                    (None, _) => (true, Left::Held(vec![write])),
                    (Some(_), None) => (true, Left::Nothing),
                    (Some(_), Some(_)) => (false, Left::Nothing),
                }
            }
            Command::UpdateRole { name, .. } | Command::DeleteRole(name) => (
                directory.role(name).is_none(),
                Left::Held(vec!["roles:write"]),
            ),
            Command::CreateGrant {
                principal, role, ..
            } => {
                let gone = directory.role(role).is_none() || directory.named(principal).is_none();
                (gone, Left::Nothing)
            }
            Command::DeleteGrant(id) => {
                let of_holder = PrincipalKind::ALL.into_iter().map(write_action);
                let actions = std::iter::once("grants:write").chain(of_holder);
                let gone = directory.grant(*id).is_none();
                (gone, Left::Held(actions.collect()))
            }
            _ => return None,
        };
        gone.then_some(left)
    }

    fn left_of_account(&self, account: &PrincipalName) -> Option<Left> {
        let gone = self.state.directory.named(account).is_none();
        gone.then(|| Left::Held(vec![write_action(account.kind())]))
    }

    fn left_to_cut_off(&self, request: &CutOffRequest) -> Option<Left> {
        let (gone, left) = match request {
            CutOffRequest::Subject(name)
            | CutOffRequest::IssuedByPrincipal(name)
            | CutOffRequest::Sessions(name) => (
                self.state.directory.named(name).is_none(),
                Left::Held(vec!["tokens:revoke"]),
            ),
            // Of what is gone it takes the right everywhere, which was judged.
            CutOffRequest::IssuedByCredential(id) => {
                (self.state.token(*id).is_none(), Left::Nothing)
            }
            _ => return None,
        };
        gone.then_some(left)
    }
}

/// What this request was answered with; refused if it is another under the same id.
fn answered(
    state: &State,
    envelope: &Envelope,
    moment: Moment,
) -> Result<Option<Answered>, Refusal> {
    let Some(request @ Request { fingerprint, .. }) = &envelope.request else {
        return Ok(None);
    };
    match state.answered(request, moment.now.latest) {
        Some(answered) if answered.fingerprint != *fingerprint => Err(Refusal::RequestIdReused),
        answered => Ok(answered),
    }
}

/// The first answer to a token that repeats the request by which it ended itself: nobody else
/// can tell it that it worked, since it is good for nothing any more.
pub(super) fn ended_before(state: &State, envelope: &Envelope, moment: Moment) -> Option<Decided> {
    if ends_itself(state, envelope) != CallAbout::ItsEnd {
        return None;
    }
    let answered = answered(state, envelope, moment).ok().flatten()?;
    let lineage = envelope.caller.lineage(state)?;
    let same = match lineage.stored() {
        Some(link) => {
            let revoked = link.ext?.revoked?;
            lineage.grace_until_ms.is_none() && revoked.revision == answered.revision
        }
        // It was this caller's own request, and its session is over.
        None => state.is_revoked(lineage.id()?.session()),
    };
    same.then(|| Decided {
        actor: Judged::actor(state, &lineage),
        outcome: Outcome::Repeated(answered.revision),
        subject: About::Nothing,
    })
}
