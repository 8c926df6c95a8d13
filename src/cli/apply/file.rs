//! The YAML file of `apply`: its shape, and the checks that need no server.
//!
//! Unknown and repeated keys are refused with their line. Names follow the grammar of the domain,
//! so that a mistake is found before anything is written. What is not given (texts, labels,
//! `disabled`) is not compared and stays as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _};
use std::path::Path;

use serde::Deserialize;

use crate::cli::failure::CliError;
use crate::domain::permission::{ActionPattern, Resource, ResourcePattern};
use crate::domain::principal::{PrincipalKind, PrincipalName, RoleName};

use super::logins::Methods;

const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The whole file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Where everything is managed that names no home of its own.
    pub(super) home: Option<String>,
    /// Why; kept in the audit trail with each change.
    pub(super) reason: Option<String>,
    #[serde(default)]
    pub(super) users: Vec<Principal>,
    #[serde(default)]
    pub(super) service_accounts: Vec<ServiceAccount>,
    #[serde(default)]
    pub(super) roles: Vec<Role>,
    #[serde(default)]
    pub(super) teams: Vec<Team>,
    #[serde(default)]
    pub(super) grants: Vec<Grant>,
}

/// A user.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Principal {
    pub(super) name: String,
    pub(super) home: Option<String>,
    pub(super) display_name: Option<String>,
    pub(super) description: Option<String>,
    pub(super) labels: Option<BTreeMap<String, String>>,
    pub(super) disabled: Option<bool>,
}

/// A service account: a principal with login methods.
// Written out: `flatten` and the refusal of unknown keys exclude each other.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServiceAccount {
    pub(super) name: String,
    pub(super) home: Option<String>,
    pub(super) display_name: Option<String>,
    pub(super) description: Option<String>,
    pub(super) labels: Option<BTreeMap<String, String>>,
    pub(super) disabled: Option<bool>,
    /// All of them; where it is not given they stay as they are.
    pub(super) login_methods: Option<Methods>,
}

/// A team: a principal with members.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Team {
    pub(super) name: String,
    pub(super) home: Option<String>,
    pub(super) display_name: Option<String>,
    pub(super) description: Option<String>,
    pub(super) labels: Option<BTreeMap<String, String>>,
    pub(super) disabled: Option<bool>,
    #[serde(default)]
    pub(super) members: Vec<String>,
}

/// A role, also called a preset.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Role {
    pub(super) name: String,
    pub(super) home: Option<String>,
    pub(super) actions: Vec<String>,
    pub(super) description: Option<String>,
    pub(super) labels: Option<BTreeMap<String, String>>,
}

/// A role given to a principal on a resource pattern.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(deny_unknown_fields)]
pub(super) struct Grant {
    pub(super) principal: String,
    pub(super) role: String,
    pub(super) resource: String,
}

impl ServiceAccount {
    /// The account without its login methods.
    pub(super) fn principal(&self) -> Principal {
        Principal {
            name: self.name.clone(),
            home: self.home.clone(),
            display_name: self.display_name.clone(),
            description: self.description.clone(),
            labels: self.labels.clone(),
            disabled: self.disabled,
        }
    }

    pub(super) fn full_name(&self) -> String {
        full_name(PrincipalKind::Service, &self.name)
    }
}

impl Team {
    /// The team without its members.
    pub(super) fn principal(&self) -> Principal {
        Principal {
            name: self.name.clone(),
            home: self.home.clone(),
            display_name: self.display_name.clone(),
            description: self.description.clone(),
            labels: self.labels.clone(),
            disabled: self.disabled,
        }
    }

    pub(super) fn full_name(&self) -> String {
        full_name(PrincipalKind::Team, &self.name)
    }
}

impl Wanted {
    /// The service accounts without their login methods.
    pub(super) fn accounts(&self) -> Vec<Principal> {
        let accounts = self.service_accounts.iter();
        accounts.map(ServiceAccount::principal).collect()
    }
}

/// A principal's name with its kind.
pub(super) fn full_name(kind: PrincipalKind, name: &str) -> String {
    format!("{}:{name}", kind.name())
}

/// Reads the file's text.
pub(super) fn read(file: &Path) -> Result<String, CliError> {
    let mut text = String::new();
    let read = if file == Path::new("-") {
        io::stdin()
            .lock()
            .take(FILE_BYTES_MAX + 1)
            .read_to_string(&mut text)
    } else {
        std::fs::File::open(file)
            .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text))
    };
    let shown = file.display();
    read.map_err(|error| CliError::usage(format!("cannot read {shown}: {error}")))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        let most = format!("{shown} has more than {FILE_BYTES_MAX} bytes");
        return Err(CliError::usage(most));
    }
    Ok(text)
}

/// Parses and checks the text; the error names the line, or the thing that is wrong.
pub(super) fn parse(text: &str) -> Result<Wanted, String> {
    // A snippet of the file would spread one mistake over many lines of output.
    let options = serde_saphyr::options! { with_snippet: false };
    let wanted: Wanted =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| error.to_string())?;
    check(&wanted)?;
    Ok(wanted)
}

fn check(wanted: &Wanted) -> Result<(), String> {
    if let Some(home) = &wanted.home {
        Resource::parse(home).map_err(|error| format!("home: {error}"))?;
    }
    check_principals(wanted, PrincipalKind::User, &wanted.users)?;
    check_principals(wanted, PrincipalKind::Service, &wanted.accounts())?;
    for account in &wanted.service_accounts {
        let methods = account.login_methods.iter();
        for methods in methods.map(Methods::settings) {
            methods.map_err(|error| format!("{}, {error}", account.full_name()))?;
        }
    }
    let teams: Vec<Principal> = wanted.teams.iter().map(Team::principal).collect();
    check_principals(wanted, PrincipalKind::Team, &teams)?;
    once("role", wanted.roles.iter().map(|role| role.name.clone()))?;
    for role in &wanted.roles {
        let name = &role.name;
        RoleName::parse(name).ok_or_else(|| format!("not a role name: {name:?}"))?;
        check_home(wanted, role.home.as_deref(), &format!("role {name}"))?;
        for action in &role.actions {
            ActionPattern::parse(action)
                .map_err(|error| format!("role {name}, action {action:?}: {error}"))?;
        }
    }
    for team in &wanted.teams {
        let name = &team.name;
        once(
            &format!("member of team {name}"),
            team.members.iter().cloned(),
        )?;
        for member in &team.members {
            match PrincipalName::parse(member) {
                Some(member) if member.kind() != PrincipalKind::Team => {}
                _ => {
                    let wanted = "wants user:NAME or service:NAME";
                    return Err(format!("team {name}, member {member:?}: {wanted}"));
                }
            }
        }
    }
    for grant in &wanted.grants {
        let (principal, role, resource) = (&grant.principal, &grant.role, &grant.resource);
        PrincipalName::parse(principal)
            .ok_or_else(|| format!("grant to {principal:?}: wants user:, team: or service:NAME"))?;
        RoleName::parse(role).ok_or_else(|| format!("grant of {role:?}: not a role name"))?;
        ResourcePattern::parse(resource)
            .map_err(|error| format!("grant on {resource:?}: {error}"))?;
    }
    let grants = wanted.grants.iter();
    once(
        "grant",
        grants.map(|grant| format!("{} {} {}", grant.principal, grant.role, grant.resource)),
    )
}

fn check_principals(
    wanted: &Wanted,
    kind: PrincipalKind,
    principals: &[Principal],
) -> Result<(), String> {
    once(kind.name(), principals.iter().map(|one| one.name.clone()))?;
    for one in principals {
        let name = &one.name;
        PrincipalName::new(kind, name)
            .ok_or_else(|| format!("not a name of a {}: {name:?}", kind.name()))?;
        check_home(wanted, one.home.as_deref(), &full_name(kind, name))?;
    }
    Ok(())
}

fn check_home(wanted: &Wanted, home: Option<&str>, what: &str) -> Result<(), String> {
    match home.or(wanted.home.as_deref()) {
        None => Err(format!("{what} has no home, and the file has none either")),
        Some(home) => match Resource::parse(home) {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("{what}, home {home:?}: {error}")),
        },
    }
}

fn once(what: &str, names: impl Iterator<Item = String>) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for name in names {
        if seen.contains(&name) {
            return Err(format!("{what} {name:?} is named twice"));
        }
        seen.insert(name);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_file_is_applicable() {
        let wanted = parse(include_str!("../../../examples/acme.yaml")).expect("valid");
        assert!(!wanted.users.is_empty() && !wanted.grants.is_empty());
    }

    #[test]
    fn mistakes_are_named() {
        let check = |text: &str, part: &str| {
            let error = parse(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        };
        check("home: acme\nuser:\n- name: alice\n", "line 2");
        check("home: acme\nusers:\n- name: alice\n  nmae: x\n", "line 4");
        check("home: acme\nhome: acme\n", "home");
        check("users:\n- name: alice\n", "no home");
        check("home: a//b\n", "home");
        check("home: acme\nusers:\n- name: a b\n", "a b");
        check("home: acme\nusers: [{name: a}, {name: a}]\n", "twice");
        check("home: acme\nroles: [{name: r, actions: ['X']}]\n", "X");
        check("home: acme\nroles: [{name: r}]\n", "actions");
        check(
            "home: acme\nservice_accounts: [{name: ci, login_methods: {key_pair: {ttl: x}}}]\n",
            "service:ci, key_pair, ttl",
        );
        check(
            "home: acme\nusers: [{name: a, login_methods: {}}]\n",
            "login_methods",
        );
        check(
            "home: acme\nteams: [{name: t, members: ['team:x']}]\n",
            "team:x",
        );
        check("grants: [{principal: bob, role: r, resource: a}]\n", "bob");
        check(
            "grants: [{principal: 'user:b', role: r, resource: 'a/**/b'}]\n",
            "a/**/b",
        );
    }
}
