//! Reads what the directory has, and makes the calls of a plan.
//!
//! Found is all that is at or below the homes of the file, and what the file names elsewhere; the
//! rest of a large directory is not read. Whoever may not read it is told by the server.

use std::collections::BTreeSet;

use crate::cli::directory::calls::{Directory, Why};
use crate::cli::failure::CliError;
use crate::cli::output::made::Made;
use crate::cli::output::record::PrincipalView;
use crate::domain::principal::PrincipalKind;
use crate::proto::v1;

use super::file::{Principal, ServiceAccount, Team, Wanted, full_name};
use super::logins;
use super::plan::{Action, Found};

/// The most records of one kind that are read.
const RECORDS_MAX: usize = 100_000;

pub(super) async fn find(directory: &mut Directory, wanted: &Wanted) -> Result<Found, CliError> {
    let home = wanted.home.as_deref();
    let teams: Vec<Principal> = wanted.teams.iter().map(Team::principal).collect();
    let mut found = Found {
        users: principals(directory, PrincipalKind::User, home, &wanted.users).await?,
        service_accounts: principals(directory, PrincipalKind::Service, home, &wanted.accounts())
            .await?,
        teams: principals(directory, PrincipalKind::Team, home, &teams).await?,
        ..Found::default()
    };
    if let Some(home) = home {
        let (roles, more) = directory.roles(home, RECORDS_MAX).await?;
        whole(more, "roles")?;
        found.roles = roles;
    }
    for role in &wanted.roles {
        if !found.roles.iter().any(|known| known.name == role.name) {
            let known = directory.role_if_any(role.name.clone()).await?;
            found.roles.extend(known);
        }
    }
    for team in &wanted.teams {
        let name = team.full_name();
        if found.teams.iter().any(|known| known.name == name) {
            let (members, more) = directory.members(&name, RECORDS_MAX).await?;
            whole(more, "members")?;
            let members = members.into_iter().map(|one| (name.clone(), one.member));
            found.members.extend(members);
        }
    }
    grants(directory, wanted, &mut found).await?;
    for account in &wanted.service_accounts {
        let name = account.full_name();
        let exists = found
            .service_accounts
            .iter()
            .any(|known| known.name == name);
        if exists && account.login_methods.is_some() {
            let methods = directory.login_methods(name.clone()).await?;
            let methods = methods.iter().filter_map(logins::found);
            let methods = methods.map(|(method, settings)| (name.clone(), method, settings));
            found.methods.extend(methods);
        }
    }
    Ok(found)
}

async fn principals(
    directory: &mut Directory,
    kind: PrincipalKind,
    home: Option<&str>,
    wanted: &[Principal],
) -> Result<Vec<PrincipalView>, CliError> {
    let mut found = Vec::new();
    if let Some(home) = home {
        let (records, more) = directory.principals(kind, home, RECORDS_MAX).await?;
        whole(more, kind.name())?;
        found = records;
    }
    for one in wanted {
        let name = full_name(kind, &one.name);
        if !found.iter().any(|known| known.name == name) {
            found.extend(directory.principal_if_any(kind, name).await?);
        }
    }
    Ok(found)
}

/// Grants below the file's home, and those of the principals that the file gives something.
async fn grants(
    directory: &mut Directory,
    wanted: &Wanted,
    found: &mut Found,
) -> Result<(), CliError> {
    let under = |resource_under: &str| v1::ListGrantsRequest {
        resource_under: resource_under.to_owned(),
        ..v1::ListGrantsRequest::default()
    };
    let to = |principal: &str| v1::ListGrantsRequest {
        principal: principal.to_owned(),
        ..v1::ListGrantsRequest::default()
    };
    let created: BTreeSet<&str> = exists(found);
    let holders: BTreeSet<&str> = wanted
        .grants
        .iter()
        .map(|grant| grant.principal.as_str())
        .filter(|holder| created.contains(holder) || !is_named(wanted, holder))
        .collect();
    let filters = wanted.home.iter().map(|home| under(home));
    let filters: Vec<_> = filters.chain(holders.into_iter().map(to)).collect();
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    for filter in filters {
        let (grants, more) = directory.grants(filter, RECORDS_MAX).await?;
        whole(more, "grants")?;
        for grant in grants {
            if seen.insert(grant.grant_id.clone()) {
                all.push(grant);
            }
        }
    }
    found.grants = all;
    Ok(())
}

/// Names of the principals that exist; those that the file will create have no grants to ask for.
fn exists(found: &Found) -> BTreeSet<&str> {
    let all = found.users.iter().chain(&found.service_accounts);
    all.chain(&found.teams)
        .map(|one| one.name.as_str())
        .collect()
}

fn is_named(wanted: &Wanted, holder: &str) -> bool {
    let named = |kind: PrincipalKind, name: &str| full_name(kind, name) == holder;
    let user = |one: &Principal| named(PrincipalKind::User, &one.name);
    let service = |one: &ServiceAccount| named(PrincipalKind::Service, &one.name);
    let team = |one: &Team| named(PrincipalKind::Team, &one.name);
    wanted.users.iter().any(user)
        || wanted.service_accounts.iter().any(service)
        || wanted.teams.iter().any(team)
}

/// Half a directory would make a wrong plan.
fn whole(more: bool, what: &str) -> Result<(), CliError> {
    if more {
        let most = format!("more than {RECORDS_MAX} {what}; apply a file with a smaller home");
        return Err(CliError::refused(most));
    }
    Ok(())
}

/// Makes the call; answers its change.
pub(super) async fn carry_out(
    directory: &mut Directory,
    action: Action,
    why: Why,
) -> Result<Made, CliError> {
    Ok(match action {
        Action::CreatePrincipal(kind, record) => directory.create(kind, record, why).await?.1,
        Action::UpdatePrincipal(kind, name, texts) => {
            directory.update(kind, name, texts, why).await?.1
        }
        Action::PausePrincipal(kind, name, paused) => {
            directory.pause(kind, name, paused, why).await?.1
        }
        Action::DeletePrincipal(kind, name) => directory.delete(kind, name, why).await?,
        Action::CreateRole(role) => directory.create_role(role, why).await?.1,
        Action::UpdateRole(name, actions, texts) => {
            directory.update_role(name, actions, texts, why).await?.1
        }
        Action::DeleteRole(name) => directory.delete_role(name, why).await?,
        Action::AddMember(team, member) => directory.add_member(team, member, why).await?,
        Action::RemoveMember(team, member) => {
            directory.remove_member(team, member, false, why).await?.2
        }
        Action::CreateGrant(principal, role, resource) => {
            directory
                .create_grant(principal, role, resource, why)
                .await?
                .1
        }
        Action::DeleteGrant(grant_id) => directory.delete_grant(grant_id, why).await?,
        Action::SetMethod(account, method, settings) => {
            let settings = logins::wire(&settings);
            directory
                .set_login_method(account, method, settings, why)
                .await?
        }
        Action::RemoveMethod(account, method) => {
            directory.remove_login_method(account, method, why).await?
        }
    })
}
