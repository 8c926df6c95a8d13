//! Roles and grants: named sets of actions, and who holds them where.
//!
//! A grant hands on the role's actions on its pattern; a role edit hands on each added action on
//! every pattern where the role is granted. A grant is immutable: it is given and taken away.

use std::collections::BTreeMap;

use crate::domain::change::{Change, Display, GrantRecord, RoleRecord};
use crate::domain::entry::EntryKind;
use crate::domain::permission::{ActionPattern, Permission, Resource, ResourcePattern};
use crate::domain::principal::{GrantId, PrincipalId, PrincipalName, RoleName};
use crate::domain::refusal::Refusal;

use super::super::directory::{GRANTS_MAX, PERMISSIONS_MAX};
use super::{About, Judged, Outcome};

/// Most actions of one role.
const ROLE_ACTIONS_MAX: usize = 128;

impl<'s> Judged<'s> {
    /// A role as the caller may name it: one that it may read or write at the role's home, or
    /// whose actions it holds on `resource` anyway. Any other does not exist for it, so that no
    /// refusal and no token tells what a role permits.
    pub(super) fn role_seen(
        &self,
        name: &RoleName,
        resource: &ResourcePattern,
    ) -> Option<&'s RoleRecord> {
        let role = self.state.role(name)?;
        let seen = self.may("roles:read", &role.home) || self.may("roles:write", &role.home);
        let held = || self.power.missing(written_out(role, resource)).is_empty();
        (seen || held()).then_some(role)
    }

    fn writable_role(&self, name: &RoleName) -> Result<RoleRecord, Refusal> {
        let role = self.state.role(name).ok_or(Refusal::NotFound("role"))?;
        match self.require("roles:write", &role.home) {
            Err(_) if !self.may("roles:read", &role.home) => Err(Refusal::NotFound("role")),
            judged => judged.map(|()| role.clone()),
        }
    }

    pub(super) fn create_role(
        &self,
        name: &RoleName,
        home: &Resource,
        actions: &[ActionPattern],
        display: &Display,
    ) -> Result<(Outcome, About), Refusal> {
        self.require("roles:write", home)?;
        if self.state.role(name).is_some() {
            return Err(Refusal::AlreadyExists("role"));
        }
        let record = RoleRecord {
            name: name.clone(),
            home: home.clone(),
            actions: canonical(actions)?,
            made_at: self.moment.revision,
        };
        Ok(put(EntryKind::RoleCreate, record, display.clone()))
    }

    pub(super) fn update_role(
        &self,
        name: &RoleName,
        actions: Option<&[ActionPattern]>,
        display: &Display,
    ) -> Result<(Outcome, About), Refusal> {
        let old = self.writable_role(name)?;
        let mut new = old.clone();
        if let Some(actions) = actions {
            new.actions = canonical(actions)?;
        }
        let added = new
            .actions
            .iter()
            .filter(|action| !old.actions.iter().any(|known| known.covers(action)));
        let handed_on: Vec<Permission> = added
            .flat_map(|action| {
                self.state
                    .directory
                    .grants_of(name)
                    .map(|grant| Permission {
                        action: action.clone(),
                        resource: grant.resource.clone(),
                    })
            })
            .collect();
        self.hands_on(handed_on)?;
        self.require_room_for(&old, &new)?;
        if new == old && *display == Display::default() {
            return Ok((Outcome::Already, About::Role(name.clone())));
        }
        Ok(put(EntryKind::RoleUpdate, new, display.clone()))
    }

    // Nobody's permissions may become too many by a role that grows.
    fn require_room_for(&self, old: &RoleRecord, new: &RoleRecord) -> Result<(), Refusal> {
        let directory = &self.state.directory;
        let grown = new.actions.len().saturating_sub(old.actions.len());
        let holders = directory
            .grants_of(&old.name)
            .filter_map(|grant| directory.principal(grant.principal));
        let mut counts: BTreeMap<PrincipalId, usize> = BTreeMap::new();
        for holder in holders {
            let count = counts
                .entry(holder.record.id)
                .or_insert_with(|| directory.permission_count(holder));
            *count += grown;
            if grown > 0 && *count > PERMISSIONS_MAX {
                let name = &holder.record.name;
                let what = format!("{name} would have more than {PERMISSIONS_MAX} permissions");
                return Err(Refusal::Limit(what));
            }
        }
        Ok(())
    }

    pub(super) fn delete_role(&self, name: &RoleName) -> Result<(Outcome, About), Refusal> {
        self.writable_role(name)?;
        let granted = self.state.directory.grants_of(name).count();
        if granted > 0 {
            let what = format!("the role is granted {granted} times; delete those grants first");
            return Err(Refusal::Conflict(what));
        }
        let change = Change::DeleteRole(name.clone());
        Ok(Self::change(
            EntryKind::RoleDelete,
            name,
            change,
            About::Nothing,
        ))
    }

    pub(super) fn create_grant(
        &self,
        principal: &PrincipalName,
        role: &RoleName,
        resource: &ResourcePattern,
    ) -> Result<(Outcome, About), Refusal> {
        self.require_on("grants:write", resource.clone())?;
        let directory = &self.state.directory;
        // Who may not give the role learns nothing of the principal.
        let record = self.role_seen(role, resource);
        self.hands_on(written_out(
            record.ok_or(Refusal::NotFound("role"))?,
            resource,
        ))?;
        let holder = directory
            .named(principal)
            .ok_or(Refusal::NotFound(principal.kind().name()))?;
        let same = |id: &GrantId| {
            directory
                .grant(*id)
                .is_some_and(|grant| grant.role == *role && grant.resource == *resource)
        };
        if holder.grants.iter().any(same) {
            return Err(Refusal::AlreadyExists("grant"));
        }
        self.require_room("grants", holder, holder.grants.len(), GRANTS_MAX)?;
        let added = record.map_or(0, |role| role.actions.len());
        let permissions = (directory.permission_count(holder) + added).saturating_sub(1);
        self.require_room("permissions", holder, permissions, PERMISSIONS_MAX)?;
        let next = directory.grant_last().checked_add(1);
        let id = GrantId(next.ok_or_else(|| Refusal::Limit("no grant ids are left".to_owned()))?);
        let record = GrantRecord {
            id,
            principal: holder.record.id,
            role: role.clone(),
            resource: resource.clone(),
            made_at: self.moment.revision,
        };
        let target = format!("{role} to {principal} on {resource}");
        let change = Change::PutGrant(record);
        Ok(Self::change(
            EntryKind::GrantCreate,
            target,
            change,
            About::Grant(id),
        ))
    }

    pub(super) fn delete_grant(&self, id: GrantId) -> Result<(Outcome, About), Refusal> {
        let directory = &self.state.directory;
        let grant = directory.grant(id).ok_or(Refusal::NotFound("grant"))?;
        let holder = directory.principal(grant.principal);
        // Whoever could delete the holder may take away what others gave it.
        if !holder.is_some_and(|one| self.writes(one)) {
            let readable = Permission::known("grants:read", grant.resource.clone());
            match self.require_on("grants:write", grant.resource.clone()) {
                Err(_) if !self.power.holds(&readable) => return Err(Refusal::NotFound("grant")),
                judged => judged?,
            }
        }
        let name = holder.map_or_else(String::new, |one| one.record.name.to_string());
        let target = format!("{} to {name} on {}", grant.role, grant.resource);
        let change = Change::DeleteGrant(id);
        Ok(Self::change(
            EntryKind::GrantDelete,
            target,
            change,
            About::Nothing,
        ))
    }
}

/// What a role permits on a resource.
pub(super) fn written_out<'r>(
    role: &'r RoleRecord,
    resource: &'r ResourcePattern,
) -> impl Iterator<Item = Permission> + 'r {
    role.actions.iter().map(|action| Permission {
        action: action.clone(),
        resource: resource.clone(),
    })
}

fn put(kind: EntryKind, record: RoleRecord, display: Display) -> (Outcome, About) {
    let about = About::Role(record.name.clone());
    let target = record.name.to_string();
    Judged::change(kind, target, Change::PutRole { record, display }, about)
}

fn canonical(actions: &[ActionPattern]) -> Result<Vec<ActionPattern>, Refusal> {
    let mut actions = actions.to_vec();
    actions.sort_unstable();
    actions.dedup();
    if actions.is_empty() || actions.len() > ROLE_ACTIONS_MAX {
        let what = format!("are 1 to {ROLE_ACTIONS_MAX}");
        return Err(Refusal::invalid("actions", what));
    }
    Ok(actions)
}
