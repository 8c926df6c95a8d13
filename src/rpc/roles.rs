//! Roles and grants: named sets of actions, and who holds them where.
//!
//! Used by the directory service. A grant is never changed, only given and taken away.

use tonic::Request;

use crate::authority::list::{GrantQuery, RoleQuery, StoredGrant, StoredRole};
use crate::authority::{About, Authority, Command};
use crate::domain::change::Display;
use crate::domain::permission::ActionPattern;
use crate::domain::principal::{GrantId, RoleName};
use crate::domain::refusal::Refusal;
use crate::proto::v1;

use super::auth;
use super::convert::{self, DESCRIPTION_CHARS_MAX, optional, revision, timestamp};
use super::incoming::{Write, WriteCall};
use super::page::Asked;

const UPDATE_PATHS: &str = "actions, description, labels";

/// Makes a role.
pub(super) async fn create_role(
    authority: &Authority,
    request: &Request<v1::CreateRoleRequest>,
) -> Result<v1::CreateRoleResponse, Refusal> {
    let asked = request.get_ref();
    let name = convert::role("name", &asked.name)?;
    let description = convert::text("description", &asked.description, DESCRIPTION_CHARS_MAX)?;
    let command = Command::CreateRole {
        name: name.clone(),
        home: convert::resource("home", &asked.home)?,
        actions: convert::actions(&asked.actions)?,
        display: Display {
            description: Some(description),
            labels: Some(convert::labels(&asked.labels)?),
            ..Display::default()
        },
    };
    let changed = change_role(authority, request, &name, command).await?;
    Ok(v1::CreateRoleResponse {
        revision: changed.revision,
        role: changed.role,
        enforcement: changed.enforcement,
    })
}

/// One role.
pub(super) async fn role(
    authority: &Authority,
    request: &Request<v1::GetRoleRequest>,
) -> Result<v1::GetRoleResponse, Refusal> {
    let name = convert::role("name", &request.get_ref().name)?;
    let head = authority.head();
    let stored = authority.role(auth::credentials(request)?, &name).await?;
    Ok(v1::GetRoleResponse {
        role: Some(shown_role(stored)),
        revision: Some(revision(head.revision())),
    })
}

/// A page of roles.
pub(super) async fn roles(
    authority: &Authority,
    request: &Request<v1::ListRolesRequest>,
) -> Result<v1::ListRolesResponse, Refusal> {
    let page = Asked::<String>::of(request.get_ref())?;
    let query = RoleQuery {
        name: None,
        home_under: optional(
            "home_under",
            &request.get_ref().home_under,
            convert::resource,
        )?,
        after: page.after.clone(),
        limit: page.limit,
    };
    let head = authority.head();
    let found = authority.roles(auth::credentials(request)?, query).await?;
    Ok(v1::ListRolesResponse {
        next_page_token: page.token(found.next.as_ref()),
        roles: found.rows.into_iter().map(shown_role).collect(),
        revision: Some(revision(head.revision())),
    })
}

/// Changes a role.
pub(super) async fn update_role(
    authority: &Authority,
    request: &Request<v1::UpdateRoleRequest>,
) -> Result<v1::UpdateRoleResponse, Refusal> {
    let asked = request.get_ref();
    let unset = v1::Role::default();
    let new = asked.role.as_ref().unwrap_or(&unset);
    let name = convert::role("name", &new.name)?;
    let (actions, display) = masked(convert::mask(asked.update_mask.as_ref())?, new)?;
    let command = Command::UpdateRole {
        name: name.clone(),
        actions,
        display,
    };
    change_role(authority, request, &name, command).await
}

fn masked(
    paths: &[String],
    new: &v1::Role,
) -> Result<(Option<Vec<ActionPattern>>, Display), Refusal> {
    let (mut actions, mut display) = (None, Display::default());
    for path in paths {
        match path.as_str() {
            "actions" => actions = Some(convert::actions(&new.actions)?),
            "description" => {
                let text = convert::text("description", &new.description, DESCRIPTION_CHARS_MAX)?;
                display.description = Some(text);
            }
            "labels" => display.labels = Some(convert::labels(&new.labels)?),
            _ => return Err(convert::unknown_path(UPDATE_PATHS)),
        }
    }
    Ok((actions, display))
}

/// Removes a role.
pub(super) async fn delete_role(
    authority: &Authority,
    request: &Request<v1::DeleteRoleRequest>,
) -> Result<v1::DeleteRoleResponse, Refusal> {
    let incoming = WriteCall::of(request)?;
    let name = convert::role("name", &request.get_ref().name)?;
    let written = authority
        .write(incoming.call(), Command::DeleteRole(name))
        .await?;
    Ok(v1::DeleteRoleResponse {
        enforcement: incoming.enforced(authority, &written).await?,
        revision: Some(revision(written.revision)),
    })
}

/// Carries out a command about a role that stays, and answers how it is then.
async fn change_role<T: Write>(
    authority: &Authority,
    request: &Request<T>,
    name: &RoleName,
    command: Command,
) -> Result<v1::UpdateRoleResponse, Refusal> {
    let incoming = WriteCall::of(request)?;
    let written = authority.write(incoming.call(), command).await?;
    // It may be gone again; the change was made all the same.
    let stored = async { authority.stored_role(name).await.ok() };
    let (enforcement, stored) = incoming.settle(authority, &written, stored).await?;
    Ok(v1::UpdateRoleResponse {
        revision: Some(revision(written.revision)),
        role: stored.map(shown_role),
        enforcement,
    })
}

fn shown_role(stored: StoredRole) -> v1::Role {
    v1::Role {
        name: stored.record.name.to_string(),
        home: stored.record.home.to_string(),
        actions: stored
            .record
            .actions
            .iter()
            .map(ToString::to_string)
            .collect(),
        description: stored.description,
        labels: stored.labels,
        created_at: Some(timestamp(stored.created_ms)),
        changed_at_revision: stored.changed_at,
    }
}

/// Gives a role.
pub(super) async fn create_grant(
    authority: &Authority,
    request: &Request<v1::CreateGrantRequest>,
) -> Result<v1::CreateGrantResponse, Refusal> {
    let incoming = WriteCall::of(request)?;
    let asked = request.get_ref();
    let command = Command::CreateGrant {
        principal: convert::principal("principal", &asked.principal)?,
        role: convert::role("role", &asked.role)?,
        resource: convert::pattern("resource", &asked.resource)?,
    };
    let written = authority.write(incoming.call(), command).await?;
    // It may be gone again; the change was made all the same.
    let stored = async {
        match written.about {
            About::Grant(id) => authority.stored_grant(id).await.ok(),
            _ => None,
        }
    };
    let (enforcement, stored) = incoming.settle(authority, &written, stored).await?;
    Ok(v1::CreateGrantResponse {
        enforcement,
        revision: Some(revision(written.revision)),
        grant: stored.map(shown_grant),
    })
}

/// One grant.
pub(super) async fn grant(
    authority: &Authority,
    request: &Request<v1::GetGrantRequest>,
) -> Result<v1::GetGrantResponse, Refusal> {
    let id = grant_id(&request.get_ref().grant_id)?;
    let head = authority.head();
    let stored = authority.grant(auth::credentials(request)?, id).await?;
    Ok(v1::GetGrantResponse {
        grant: Some(shown_grant(stored)),
        revision: Some(revision(head.revision())),
    })
}

/// A page of grants.
pub(super) async fn grants(
    authority: &Authority,
    request: &Request<v1::ListGrantsRequest>,
) -> Result<v1::ListGrantsResponse, Refusal> {
    let page = Asked::<u32>::of(request.get_ref())?;
    let asked = request.get_ref();
    let principal = optional("principal", &asked.principal, convert::principal)?;
    let query = GrantQuery {
        role: optional("role", &asked.role, convert::role)?,
        resource_under: optional("resource_under", &asked.resource_under, convert::resource)?,
        after: page.after,
        limit: page.limit,
        ..GrantQuery::default()
    };
    let credentials = auth::credentials(request)?;
    let head = authority.head();
    let found = authority
        .grants(credentials, principal.as_ref(), query)
        .await?;
    Ok(v1::ListGrantsResponse {
        next_page_token: page.token(found.next.as_ref()),
        grants: found.rows.into_iter().map(shown_grant).collect(),
        revision: Some(revision(head.revision())),
    })
}

/// Takes a grant away.
pub(super) async fn delete_grant(
    authority: &Authority,
    request: &Request<v1::DeleteGrantRequest>,
) -> Result<v1::DeleteGrantResponse, Refusal> {
    let incoming = WriteCall::of(request)?;
    let id = grant_id(&request.get_ref().grant_id)?;
    let written = authority
        .write(incoming.call(), Command::DeleteGrant(id))
        .await?;
    Ok(v1::DeleteGrantResponse {
        enforcement: incoming.enforced(authority, &written).await?,
        revision: Some(revision(written.revision)),
    })
}

fn shown_grant(stored: StoredGrant) -> v1::Grant {
    v1::Grant {
        grant_id: grant_text(stored.record.id),
        principal: stored.principal_name.to_string(),
        role: stored.record.role.to_string(),
        resource: stored.record.resource.to_string(),
        created_at: Some(timestamp(stored.created_ms)),
        created_revision: stored.record.made_at,
    }
}

/// The id of a grant as clients see it.
pub(super) fn grant_text(id: GrantId) -> String {
    format!("grant-{}", id.0)
}

fn grant_id(text: &str) -> Result<GrantId, Refusal> {
    let number = text
        .strip_prefix("grant-")
        .and_then(|number| number.parse().ok());
    let id = number.map(GrantId).filter(|id| grant_text(*id) == text);
    id.ok_or_else(|| Refusal::invalid("grant_id", "is the id of a grant, as lists show it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_grants_have_one_text_form() {
        for number in [1, 42, u32::MAX] {
            assert_eq!(grant_id(&grant_text(GrantId(number))), Ok(GrantId(number)));
        }
        for text in [
            "",
            "1",
            "grant-",
            "grant-01",
            "grant-+1",
            "grant--1",
            "grant-4294967296",
        ] {
            assert!(grant_id(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_mask_names_whole_known_fields() {
        let new = v1::Role {
            actions: vec!["secrets:*".to_owned()],
            ..v1::Role::default()
        };
        let check = |paths: &[&str], expected: Option<(bool, bool, bool)>| {
            let paths: Vec<String> = paths.iter().map(ToString::to_string).collect();
            let found = masked(&paths, &new).ok().map(|(actions, display)| {
                let Display {
                    description,
                    labels,
                    ..
                } = display;
                (actions.is_some(), description.is_some(), labels.is_some())
            });
            assert_eq!(found, expected, "{paths:?}");
        };
        check(&["actions"], Some((true, false, false)));
        check(&["description", "labels"], Some((false, true, true)));
        check(&["name"], None);
        check(&["display_name"], None);
        check(&["role.actions"], None);
    }
}
