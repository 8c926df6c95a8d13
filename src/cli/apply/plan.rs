//! The difference between a file and the directory, as steps in the order they must be taken.
//!
//! Pure: what is wanted and what was found go in, a [`Plan`] comes out. Creations and changes go
//! from what is named to what names it (users, service accounts, roles, teams, members, grants,
//! login methods), deletions the other way round.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::cli::directory::calls::Texts;
use crate::cli::output::labels;
use crate::cli::output::record::{GrantView, PrincipalView, RoleView};
use crate::domain::login::{LoginMethod, LoginSettings};
use crate::domain::principal::PrincipalKind;

use super::file::{Principal, Role, ServiceAccount, Team, Wanted, full_name};
use super::logins;

/// The directory, as far as the file and its home reach.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    pub(super) users: Vec<PrincipalView>,
    pub(super) service_accounts: Vec<PrincipalView>,
    pub(super) roles: Vec<RoleView>,
    pub(super) teams: Vec<PrincipalView>,
    /// Team and member, of the teams that the file names.
    pub(super) members: Vec<(String, String)>,
    pub(super) grants: Vec<GrantView>,
    /// Account and login method, of the accounts whose methods the file names.
    pub(super) methods: Vec<(String, LoginMethod, LoginSettings)>,
}

/// What to do.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    /// How many things are not in the file and would only be deleted with `--prune`.
    pub(super) left_alone: usize,
}

/// What a step does to the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Operation {
    Create,
    Change,
    Delete,
}

/// One call.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Step {
    operation: Operation,
    /// What it is done to, as `user:alice` or `role agent`.
    target: String,
    /// Field by field, for people.
    pub(super) details: Vec<String>,
    #[serde(skip)]
    pub(super) action: Action,
}

impl Step {
    /// The step in one line.
    pub(super) fn line(&self) -> String {
        let sign = match self.operation {
            Operation::Create => '+',
            Operation::Change => '~',
            Operation::Delete => '-',
        };
        format!("{sign} {}", self.target)
    }
}

/// The call that a step makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    CreatePrincipal(PrincipalKind, PrincipalView),
    UpdatePrincipal(PrincipalKind, String, Texts),
    PausePrincipal(PrincipalKind, String, bool),
    DeletePrincipal(PrincipalKind, String),
    CreateRole(RoleView),
    UpdateRole(String, Option<Vec<String>>, Texts),
    DeleteRole(String),
    AddMember(String, String),
    RemoveMember(String, String),
    CreateGrant(String, String, String),
    DeleteGrant(String),
    SetMethod(String, LoginMethod, Box<LoginSettings>),
    RemoveMethod(String, LoginMethod),
}

/// Compares; the error says what cannot be brought about.
pub(super) fn plan(wanted: &Wanted, found: &Found, prune: bool) -> Result<Plan, String> {
    let mut steps = Vec::new();
    let mut surplus = Vec::new();
    let mut side = Side {
        steps: &mut steps,
        surplus: &mut surplus,
        home: wanted.home.as_deref(),
    };
    side.principals(PrincipalKind::User, &wanted.users, &found.users)?;
    side.principals(
        PrincipalKind::Service,
        &wanted.accounts(),
        &found.service_accounts,
    )?;
    side.roles(&wanted.roles, &found.roles)?;
    let teams: Vec<Principal> = wanted.teams.iter().map(Team::principal).collect();
    side.principals(PrincipalKind::Team, &teams, &found.teams)?;
    side.members(&wanted.teams, &found.members);
    side.grants(wanted, &found.grants);
    for account in &wanted.service_accounts {
        side.methods(account, &found.methods)?;
    }

    let left_alone = if prune { 0 } else { surplus.len() };
    if prune {
        steps.extend(surplus.into_iter().rev());
    }
    Ok(Plan { steps, left_alone })
}

struct Side<'a> {
    steps: &'a mut Vec<Step>,
    /// Deletions, in the order of creation.
    surplus: &'a mut Vec<Step>,
    home: Option<&'a str>,
}

impl Side<'_> {
    fn principals(
        &mut self,
        kind: PrincipalKind,
        wanted: &[Principal],
        found: &[PrincipalView],
    ) -> Result<(), String> {
        for one in wanted {
            let name = full_name(kind, &one.name);
            let home = one.home.as_deref().or(self.home).unwrap_or_default();
            match found.iter().find(|known| known.name == name) {
                Some(known) => self.change_principal(kind, one, home, known)?,
                None => self.create_principal(kind, one, home, name),
            }
        }
        let names: BTreeSet<String> = wanted
            .iter()
            .map(|one| full_name(kind, &one.name))
            .collect();
        for known in found {
            if !names.contains(&known.name) && self.is_mine(&known.home) {
                let action = Action::DeletePrincipal(kind, known.name.clone());
                self.surplus.push(deletion(known.name.clone(), action));
            }
        }
        Ok(())
    }

    fn create_principal(&mut self, kind: PrincipalKind, one: &Principal, home: &str, name: String) {
        let record = PrincipalView {
            name: name.clone(),
            home: home.to_owned(),
            display_name: one.display_name.clone().unwrap_or_default(),
            description: one.description.clone().unwrap_or_default(),
            labels: one.labels.clone().unwrap_or_default(),
            ..PrincipalView::default()
        };
        self.steps.push(Step {
            operation: Operation::Create,
            target: name.clone(),
            details: vec![format!("home: {home}")],
            action: Action::CreatePrincipal(kind, record),
        });
        if one.disabled == Some(true) {
            self.pause(kind, name, true);
        }
    }

    fn change_principal(
        &mut self,
        kind: PrincipalKind,
        one: &Principal,
        home: &str,
        known: &PrincipalView,
    ) -> Result<(), String> {
        same_home(&known.name, home, &known.home)?;
        let given = Texts {
            display_name: one.display_name.clone(),
            description: one.description.clone(),
            labels: one.labels.clone(),
        };
        let current = Texts {
            display_name: Some(known.display_name.clone()),
            description: Some(known.description.clone()),
            labels: Some(known.labels.clone()),
        };
        let (texts, details) = differing(given, &current);
        if !details.is_empty() {
            self.steps.push(Step {
                operation: Operation::Change,
                target: known.name.clone(),
                details,
                action: Action::UpdatePrincipal(kind, known.name.clone(), texts),
            });
        }
        match one.disabled {
            Some(paused) if paused != known.disabled => {
                self.pause(kind, known.name.clone(), paused);
            }
            _ => {}
        }
        Ok(())
    }

    fn pause(&mut self, kind: PrincipalKind, name: String, paused: bool) {
        let word = if paused { "disable" } else { "enable" };
        self.steps.push(Step {
            operation: Operation::Change,
            target: name.clone(),
            details: vec![word.to_owned()],
            action: Action::PausePrincipal(kind, name, paused),
        });
    }

    fn roles(&mut self, wanted: &[Role], found: &[RoleView]) -> Result<(), String> {
        for role in wanted {
            let home = role.home.as_deref().or(self.home).unwrap_or_default();
            match found.iter().find(|known| known.name == role.name) {
                Some(known) => self.change_role(role, home, known)?,
                None => self.create_role(role, home),
            }
        }
        for known in found {
            let named = wanted.iter().any(|role| role.name == known.name);
            if !named && self.is_mine(&known.home) {
                let action = Action::DeleteRole(known.name.clone());
                self.surplus
                    .push(deletion(format!("role {}", known.name), action));
            }
        }
        Ok(())
    }

    fn create_role(&mut self, role: &Role, home: &str) {
        let record = RoleView {
            name: role.name.clone(),
            home: home.to_owned(),
            actions: role.actions.clone(),
            description: role.description.clone().unwrap_or_default(),
            labels: role.labels.clone().unwrap_or_default(),
            ..RoleView::default()
        };
        self.steps.push(Step {
            operation: Operation::Create,
            target: format!("role {}", role.name),
            details: vec![
                format!("home: {home}"),
                format!("actions: {}", role.actions.join(", ")),
            ],
            action: Action::CreateRole(record),
        });
    }

    fn change_role(&mut self, role: &Role, home: &str, known: &RoleView) -> Result<(), String> {
        let target = format!("role {}", role.name);
        same_home(&target, home, &known.home)?;
        let given = Texts {
            display_name: None,
            description: role.description.clone(),
            labels: role.labels.clone(),
        };
        let current = Texts {
            display_name: None,
            description: Some(known.description.clone()),
            labels: Some(known.labels.clone()),
        };
        let (texts, mut details) = differing(given, &current);
        // The server keeps actions as a set, in an order of its own.
        let wanted: BTreeSet<&String> = role.actions.iter().collect();
        let known: BTreeSet<&String> = known.actions.iter().collect();
        details.extend(
            wanted
                .difference(&known)
                .map(|one| format!("+ action {one}")),
        );
        details.extend(
            known
                .difference(&wanted)
                .map(|one| format!("- action {one}")),
        );
        if !details.is_empty() {
            let actions = (wanted != known).then(|| role.actions.clone());
            self.steps.push(Step {
                operation: Operation::Change,
                target,
                details,
                action: Action::UpdateRole(role.name.clone(), actions, texts),
            });
        }
        Ok(())
    }

    fn members(&mut self, wanted: &[Team], found: &[(String, String)]) {
        for team in wanted {
            let name = team.full_name();
            let known = || found.iter().filter(|(known, _)| *known == name);
            for member in &team.members {
                if !known().any(|(_, known)| known == member) {
                    self.steps.push(Step {
                        operation: Operation::Create,
                        target: format!("{member} in {name}"),
                        details: Vec::new(),
                        action: Action::AddMember(name.clone(), member.clone()),
                    });
                }
            }
            for (_, member) in known() {
                if !team.members.contains(member) {
                    let action = Action::RemoveMember(name.clone(), member.clone());
                    self.surplus
                        .push(deletion(format!("{member} in {name}"), action));
                }
            }
        }
    }

    fn grants(&mut self, wanted: &Wanted, found: &[GrantView]) {
        for grant in &wanted.grants {
            let same = |known: &&GrantView| {
                known.principal == grant.principal
                    && known.role == grant.role
                    && known.resource == grant.resource
            };
            if found.iter().find(same).is_none() {
                let (principal, role, resource) = (&grant.principal, &grant.role, &grant.resource);
                self.steps.push(Step {
                    operation: Operation::Create,
                    target: format!("grant of {role} to {principal} on {resource}"),
                    details: Vec::new(),
                    action: Action::CreateGrant(principal.clone(), role.clone(), resource.clone()),
                });
            }
        }
        for known in found {
            let named = wanted.grants.iter().any(|grant| {
                known.principal == grant.principal
                    && known.role == grant.role
                    && known.resource == grant.resource
            });
            if !named && self.is_mine(&known.resource) {
                let (principal, role, resource) = (&known.principal, &known.role, &known.resource);
                self.surplus.push(deletion(
                    format!("grant of {role} to {principal} on {resource}"),
                    Action::DeleteGrant(known.grant_id.clone()),
                ));
            }
        }
    }

    /// Last, when the account holds what the file gives it.
    fn methods(
        &mut self,
        account: &ServiceAccount,
        found: &[(String, LoginMethod, LoginSettings)],
    ) -> Result<(), String> {
        let Some(methods) = &account.login_methods else {
            return Ok(());
        };
        let (name, wanted) = (account.full_name(), methods.settings()?);
        let target = |method| format!("login by {method} of {name}");
        for (method, settings) in &wanted {
            let same =
                |one: &&(String, LoginMethod, LoginSettings)| one.0 == name && one.1 == *method;
            let known = found.iter().find(same).map(|(.., settings)| settings);
            if known == Some(settings) {
                continue;
            }
            let usual = LoginSettings::default();
            self.steps.push(Step {
                operation: match known {
                    Some(_) => Operation::Change,
                    None => Operation::Create,
                },
                target: target(*method),
                details: logins::differing(settings, known.unwrap_or(&usual)),
                action: Action::SetMethod(name.clone(), *method, Box::new(settings.clone())),
            });
        }
        for (known, method, _) in found {
            let named = wanted.iter().any(|(wanted, _)| wanted == method);
            if *known == name && !named {
                let action = Action::RemoveMethod(name.clone(), *method);
                self.surplus.push(deletion(target(*method), action));
            }
        }
        Ok(())
    }

    /// Whether a home, or a grant's resource, is at or below the file's home.
    fn is_mine(&self, path: &str) -> bool {
        self.home.is_some_and(|home| {
            path.strip_prefix(home)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }
}

fn deletion(target: String, action: Action) -> Step {
    Step {
        operation: Operation::Delete,
        target,
        details: Vec::new(),
        action,
    }
}

fn same_home(what: &str, wanted: &str, known: &str) -> Result<(), String> {
    if wanted == known {
        return Ok(());
    }
    let fixed = "a home is fixed; delete it first or correct the file";
    Err(format!(
        "{what} has the home {known}, not {wanted}: {fixed}"
    ))
}

/// What is given and differs, with a line for each.
fn differing(given: Texts, current: &Texts) -> (Texts, Vec<String>) {
    let mut details = Vec::new();
    let mut text = |name: &str, given: Option<String>, current: &Option<String>| {
        let given = given.filter(|given| Some(given) != current.as_ref())?;
        details.push(format!("{name}: {given:?}"));
        Some(given)
    };
    let display_name = text("display_name", given.display_name, &current.display_name);
    let description = text("description", given.description, &current.description);
    let changed = given
        .labels
        .filter(|given| Some(given) != current.labels.as_ref());
    if let Some(given) = &changed {
        details.push(format!("labels: {}", labels(given)));
    }
    let texts = Texts {
        display_name,
        description,
        labels: changed,
    };
    (texts, details)
}
