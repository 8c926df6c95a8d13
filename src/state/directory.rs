//! The directory: principals, memberships, roles, grants, and the live power they add up to.
//!
//! A principal's own grants are compiled into one [`ScopeSet`]; a member's power is its own and
//! that of its teams, read at the moment of the question, so that a removed member loses it at
//! once. Written by `apply`, which has the rules already behind it; the only rule here is that
//! ids are never used again.

use std::sync::Arc;

use crate::domain::chain::RevisionNumber;
use crate::domain::change::{GrantRecord, PrincipalRecord, RoleRecord};
use crate::domain::login::{LoginMethod, MethodRecord};
use crate::domain::permission::{Need, Permission};
use crate::domain::principal::{GrantId, PrincipalId, PrincipalName, RoleName};

use super::intern::Interner;
use super::scopeset::ScopeSet;
use super::table::Table;

/// Most grants of one principal.
pub(super) const GRANTS_MAX: usize = 1_024;
/// Most permissions of one principal's own grants: each is a rule that a Check may look at.
pub(super) const PERMISSIONS_MAX: usize = 8_192;
/// Most teams of one user or service account.
pub(super) const TEAMS_MAX: usize = 64;

/// A principal. What a Check reads lies in the first cache line, in this order.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(super) struct Principal {
    /// Tokens made below this revision are refused.
    pub(super) cut_off: RevisionNumber,
    /// As the record says.
    pub(super) disabled: bool,
    pub(super) teams: Vec<PrincipalId>,
    /// What its own grants permit, without its teams'; shared with all that hold the same.
    pub(super) power: ScopeSet,
    /// `user:alice`, ready to be copied into an answer.
    pub(super) text: Arc<str>,
    pub(super) record: PrincipalRecord,
    pub(super) members: imbl::OrdSet<PrincipalId>,
    pub(super) grants: Vec<GrantId>,
    // One of each method at the most.
    methods: Vec<Arc<MethodRecord>>,
    power_number: Option<u32>,
}

impl Principal {
    /// A login method that is set.
    pub(super) fn method(&self, method: LoginMethod) -> Option<&MethodRecord> {
        let mut methods = self.methods.iter();
        methods.find(|one| one.method == method).map(|one| &**one)
    }
}

const _: () = assert!(
    std::mem::offset_of!(Principal, text) <= 64,
    "one line for a Check"
);

/// The directory. A clone is a snapshot.
#[derive(Clone, Default)]
pub(super) struct Directory {
    // By id, which is dense: a hole is a principal that is gone.
    principals: Table<Option<Arc<Principal>>>,
    names: imbl::HashMap<PrincipalName, PrincipalId>,
    roles: imbl::OrdMap<RoleName, Arc<RoleRecord>>,
    grants: imbl::OrdMap<GrantId, Arc<GrantRecord>>,
    granted: imbl::OrdMap<RoleName, imbl::OrdSet<GrantId>>,
    powers: Interner<Vec<Permission>, ScopeSet>,
    principal_last: u32,
    grant_last: u32,
}

impl Directory {
    #[inline]
    pub(super) fn principal(&self, id: PrincipalId) -> Option<&Principal> {
        self.principals.get(id.0 as usize)?.as_deref()
    }

    pub(super) fn named(&self, name: &PrincipalName) -> Option<&Principal> {
        self.principal(*self.names.get(name)?)
    }

    pub(super) fn principals(&self) -> impl Iterator<Item = &Principal> {
        self.principals.iter().filter_map(Option::as_deref)
    }

    pub(super) fn role(&self, name: &RoleName) -> Option<&RoleRecord> {
        self.roles.get(name).map(|role| &**role)
    }

    pub(super) fn grant(&self, id: GrantId) -> Option<&GrantRecord> {
        self.grants.get(&id).map(|grant| &**grant)
    }

    /// The grants of a role.
    pub(super) fn grants_of(&self, role: &RoleName) -> impl Iterator<Item = &GrantRecord> {
        let ids = self.granted.get(role);
        ids.into_iter().flatten().filter_map(|id| self.grant(*id))
    }

    pub(super) fn principal_last(&self) -> u32 {
        self.principal_last
    }

    pub(super) fn grant_last(&self) -> u32 {
        self.grant_last
    }

    /// Raises the highest ids ever given, as a snapshot tells them.
    pub(super) fn raise_counters(&mut self, principal: u32, grant: u32) {
        self.principal_last = self.principal_last.max(principal);
        self.grant_last = self.grant_last.max(grant);
    }

    /// Whether the principal's own grants or those of its enabled teams permit the need.
    #[inline]
    pub(super) fn permits(&self, principal: &Principal, need: &Need<'_>) -> bool {
        self.live_powers(principal).any(|power| power.permits(need))
    }

    /// Whether one live permission covers `permission`.
    pub(super) fn covers(&self, principal: &Principal, permission: &Permission) -> bool {
        self.live_powers(principal)
            .any(|power| power.covers(permission))
    }

    /// The compiled powers that a principal holds now: its own and its enabled teams'.
    pub(super) fn live_powers<'d>(
        &'d self,
        principal: &'d Principal,
    ) -> impl Iterator<Item = &'d ScopeSet> {
        let teams = principal.teams.iter().filter_map(|team| {
            let team = self.principal(*team)?;
            (!team.disabled).then_some(&team.power)
        });
        std::iter::once(&principal.power).chain(teams)
    }

    pub(super) fn put_principal(&mut self, record: &PrincipalRecord) {
        let index = record.id.0 as usize;
        while self.principals.len() <= index {
            self.principals.push(None);
        }
        self.raise_counters(record.id.0, 0);
        let text: Arc<str> = record.name.to_string().into();
        let principal = match self.principals.get(index).cloned().flatten() {
            Some(former) => {
                self.names.remove(&former.record.name);
                Principal {
                    disabled: record.disabled,
                    record: record.clone(),
                    text,
                    ..(*former).clone()
                }
            }
            None => Principal {
                record: record.clone(),
                text,
                cut_off: 0,
                teams: Vec::new(),
                members: imbl::OrdSet::new(),
                grants: Vec::new(),
                methods: Vec::new(),
                power: ScopeSet::compile([]),
                disabled: record.disabled,
                power_number: None,
            },
        };
        self.names.insert(record.name.clone(), record.id);
        if let Some(slot) = self.principals.entry(index) {
            *slot = Some(Arc::new(principal));
        }
    }

    /// Removes a principal; its grants and memberships were removed before.
    pub(super) fn remove_principal(&mut self, id: PrincipalId) {
        let index = id.0 as usize;
        if let Some(slot) = self.principals.entry(index)
            && let Some(former) = slot.take()
        {
            self.names.remove(&former.record.name);
            if let Some(number) = former.power_number {
                self.powers.release(number);
            }
        }
    }

    pub(super) fn change_principal(
        &mut self,
        id: PrincipalId,
        change: impl FnOnce(&mut Principal),
    ) {
        if let Some(Some(principal)) = self.principals.entry(id.0 as usize) {
            change(Arc::make_mut(principal));
        }
    }

    pub(super) fn add_member(&mut self, team: PrincipalId, member: PrincipalId) {
        self.change_principal(team, |team| {
            team.members.insert(member);
        });
        self.change_principal(member, |member| {
            if let Err(place) = member.teams.binary_search(&team) {
                member.teams.insert(place, team);
            }
        });
    }

    pub(super) fn remove_member(&mut self, team: PrincipalId, member: PrincipalId) {
        self.change_principal(team, |team| {
            team.members.remove(&member);
        });
        self.change_principal(member, |member| member.teams.retain(|one| *one != team));
    }

    pub(super) fn put_method(&mut self, record: &MethodRecord) {
        self.change_principal(record.principal, |principal| {
            principal.methods.retain(|one| one.method != record.method);
            principal.methods.push(Arc::new(record.clone()));
        });
    }

    pub(super) fn remove_method(&mut self, id: PrincipalId, method: LoginMethod) {
        self.change_principal(id, |principal| {
            principal.methods.retain(|one| one.method != method);
        });
    }

    pub(super) fn put_role(&mut self, record: &RoleRecord) {
        self.roles
            .insert(record.name.clone(), Arc::new(record.clone()));
        let holders: Vec<PrincipalId> = self
            .grants_of(&record.name)
            .map(|grant| grant.principal)
            .collect();
        for holder in holders {
            self.compile_power(holder);
        }
    }

    pub(super) fn remove_role(&mut self, name: &RoleName) {
        self.roles.remove(name);
        self.granted.remove(name);
    }

    pub(super) fn put_grant(&mut self, record: &GrantRecord) {
        self.raise_counters(0, record.id.0);
        self.grants.insert(record.id, Arc::new(record.clone()));
        self.granted
            .entry(record.role.clone())
            .or_default()
            .insert(record.id);
        self.change_principal(record.principal, |principal| {
            principal.grants.push(record.id)
        });
        self.compile_power(record.principal);
    }

    pub(super) fn remove_grant(&mut self, id: GrantId) -> Option<Arc<GrantRecord>> {
        let record = self.grants.remove(&id)?;
        if let Some(ids) = self.granted.get_mut(&record.role) {
            ids.remove(&id);
        }
        self.change_principal(record.principal, |principal| {
            principal.grants.retain(|one| *one != id);
        });
        self.compile_power(record.principal);
        Some(record)
    }

    fn compile_power(&mut self, id: PrincipalId) {
        let Some(principal) = self.principal(id) else {
            return;
        };
        let former = principal.power_number;
        let permissions: Vec<Permission> = principal
            .grants
            .iter()
            .filter_map(|grant| self.grant(*grant))
            .flat_map(|grant| self.permissions_of(grant))
            .collect();
        let compile = |all: &Vec<Permission>| ScopeSet::compile(all.iter().cloned());
        let number = self.powers.acquire(&permissions, compile);
        let power = self.powers.value(number).cloned();
        if let Some(former) = former {
            self.powers.release(former);
        }
        self.change_principal(id, |principal| {
            principal.power = power.unwrap_or_else(|| principal.power.clone());
            principal.power_number = Some(number);
        });
    }

    /// How many permissions a principal's own grants come to.
    pub(super) fn permission_count(&self, principal: &Principal) -> usize {
        let grants = principal.grants.iter().filter_map(|id| self.grant(*id));
        let roles = grants.filter_map(|grant| self.role(&grant.role));
        roles.map(|role| role.actions.len()).sum()
    }

    /// What a grant permits, now.
    pub(super) fn permissions_of(&self, grant: &GrantRecord) -> impl Iterator<Item = Permission> {
        let actions = self.role(&grant.role).map(|role| role.actions.clone());
        let resource = grant.resource.clone();
        actions.into_iter().flatten().map(move |action| Permission {
            action,
            resource: resource.clone(),
        })
    }
}
