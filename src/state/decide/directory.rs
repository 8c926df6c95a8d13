//! Principals and memberships: making, pausing, joining, leaving, ending.
//!
//! Judged at the home of what is changed; whoever may write a member may also take it out of
//! its teams, as by deleting it. A membership hands on all that the team holds, and
//! enabling hands on all that the principal holds, so both are bounded by what the caller holds.
//! Teams do not nest.

use crate::domain::change::{Change, Display, PrincipalRecord};
use crate::domain::entry::EntryKind;
use crate::domain::permission::Resource;
use crate::domain::principal::{PrincipalId, PrincipalKind, PrincipalName};
use crate::domain::refusal::Refusal;

use super::super::directory::{Principal, TEAMS_MAX};
use super::{About, Judged, Outcome, write_action};

impl<'s> Judged<'s> {
    /// The principal with this name, if the caller may change it.
    fn writable(&self, name: &PrincipalName) -> Result<&'s Principal, Refusal> {
        let principal = self
            .state
            .directory
            .named(name)
            .ok_or(Refusal::NotFound(name.kind().name()))?;
        self.require_seen(write_action(name.kind()), principal)?;
        Ok(principal)
    }

    pub(super) fn create_principal(
        &self,
        name: &PrincipalName,
        home: &Resource,
        display: &Display,
    ) -> Result<(Outcome, About), Refusal> {
        self.require(write_action(name.kind()), home)?;
        if self.state.directory.named(name).is_some() {
            return Err(Refusal::AlreadyExists(name.kind().name()));
        }
        let next = self.state.directory.principal_last().checked_add(1);
        let id = next.ok_or_else(|| Refusal::Limit("no principal ids are left".to_owned()))?;
        let record = PrincipalRecord {
            id: PrincipalId(id),
            name: name.clone(),
            home: home.clone(),
            disabled: false,
            made_at: self.moment.revision,
        };
        Ok(put(EntryKind::PrincipalCreate, record, display.clone()))
    }

    pub(super) fn update_principal(
        &self,
        name: &PrincipalName,
        display: &Display,
    ) -> Result<(Outcome, About), Refusal> {
        let record = self.writable(name)?.record.clone();
        if *display == Display::default() {
            return Ok((Outcome::Already, About::Principal(record.id)));
        }
        Ok(put(EntryKind::PrincipalUpdate, record, display.clone()))
    }

    pub(super) fn set_disabled(
        &self,
        name: &PrincipalName,
        disabled: bool,
    ) -> Result<(Outcome, About), Refusal> {
        let principal = self.writable(name)?;
        let mut record = principal.record.clone();
        if record.disabled == disabled {
            return Ok((Outcome::Already, About::Principal(record.id)));
        }
        let kind = if disabled {
            EntryKind::PrincipalDisable
        } else {
            self.hands_on(self.state.live_permissions(principal))?;
            EntryKind::PrincipalEnable
        };
        record.disabled = disabled;
        Ok(put(kind, record, Display::default()))
    }

    pub(super) fn delete_principal(
        &self,
        name: &PrincipalName,
    ) -> Result<(Outcome, About), Refusal> {
        let id = self.writable(name)?.record.id;
        let change = Change::DeletePrincipal(id);
        let kind = EntryKind::PrincipalDelete;
        Ok(Self::change(kind, name, change, About::Nothing))
    }

    pub(super) fn add_member(
        &self,
        team: &PrincipalName,
        member: &PrincipalName,
    ) -> Result<(Outcome, About), Refusal> {
        if member.kind() == PrincipalKind::Team {
            return Err(Refusal::invalid(
                "member",
                "is a user or a service account: teams do not nest",
            ));
        }
        let team_one = self.writable(team)?;
        let member_one = self.state.directory.named(member);
        let team_id = team_one.record.id;
        if let Some(one) = member_one
            && team_one.members.contains(&one.record.id)
        {
            return Ok((Outcome::Already, About::Member(team_id, one.record.id)));
        }
        // Whatever the team is paused from today, the member holds it when the pause ends. Who
        // may not give that learns nothing of the member.
        self.hands_on(team_one.power.permissions().iter().cloned())?;
        let member_one = member_one.ok_or(Refusal::NotFound("member"))?;
        let member_id = member_one.record.id;
        self.require_room("teams", member_one, member_one.teams.len(), TEAMS_MAX)?;
        let change = Change::AddMember {
            team: team_id,
            member: member_id,
        };
        let target = format!("{member} in {team}");
        let about = About::Member(team_id, member_id);
        Ok(Self::change(EntryKind::MemberAdd, target, change, about))
    }

    pub(super) fn remove_member(
        &self,
        team: &PrincipalName,
        member: &PrincipalName,
        cut_off_tokens: bool,
    ) -> Result<(Outcome, About), Refusal> {
        let directory = &self.state.directory;
        let team_one = if self.may_take_out(team, member) {
            directory.named(team).ok_or(Refusal::NotFound("team"))?
        } else {
            self.writable(team)?
        };
        let member_one = directory.named(member).ok_or(Refusal::NotFound("member"))?;
        let (team_id, member_id) = (team_one.record.id, member_one.record.id);
        let about = About::Member(team_id, member_id);
        if !team_one.members.contains(&member_id) {
            return Ok((Outcome::Already, about));
        }
        if cut_off_tokens && self.principal_id() != Some(member_id) {
            self.require("tokens:revoke", &team_one.record.home)?;
        }
        let change = Change::RemoveMember {
            team: team_id,
            member: member_id,
            cut_off_tokens,
        };
        let target = format!("{member} from {team}");
        Ok(Self::change(EntryKind::MemberRemove, target, change, about))
    }

    /// Whether the caller may take this member out of this team, whatever it may do at the
    /// team's home; what is not in the team cannot be taken out of it.
    fn may_take_out(&self, team: &PrincipalName, member: &PrincipalName) -> bool {
        let directory = &self.state.directory;
        let pair = directory.named(team).zip(directory.named(member));
        pair.is_some_and(|(team, one)| team.members.contains(&one.record.id)) && self.frees(member)
    }

    /// Whether the caller may take this principal out of its teams: itself, or whoever could
    /// delete it.
    pub(super) fn frees(&self, name: &PrincipalName) -> bool {
        let write = write_action(PrincipalKind::Team);
        self.state.directory.named(name).is_some_and(|one| {
            let itself = self.principal_id() == Some(one.record.id)
                && self.require_in_scopes(write, &one.record.home).is_ok();
            itself || self.writes(one)
        })
    }

    /// Whether the caller may change and delete a principal.
    pub(super) fn writes(&self, one: &Principal) -> bool {
        self.may(write_action(one.record.name.kind()), &one.record.home)
    }

    /// Refuses when a principal has so many of something. The second half is kept for callers
    /// that may change it: no stranger can use up what its own administrators need.
    pub(super) fn require_room(
        &self,
        what: &str,
        one: &Principal,
        count: usize,
        most: usize,
    ) -> Result<(), Refusal> {
        let name = &one.record.name;
        if count >= most {
            return Err(Refusal::Limit(format!("{name} has {most} {what} already")));
        }
        let half = most / 2;
        if count >= half && !self.writes(one) {
            return Err(Refusal::Limit(format!(
                "{name} has {half} {what} already; the rest is kept for who may change it"
            )));
        }
        Ok(())
    }
}

fn put(kind: EntryKind, record: PrincipalRecord, display: Display) -> (Outcome, About) {
    let about = About::Principal(record.id);
    let target = record.name.to_string();
    Judged::change(
        kind,
        target,
        Change::PutPrincipal { record, display },
        about,
    )
}
