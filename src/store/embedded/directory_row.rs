//! Principals, roles, grants and cut-offs as rows, and back.
//!
//! Each reader wants its columns selected first, in the order of the constant beside it. Texts
//! go through the parsers of the domain again. Used by the snapshot and the lists.

use rusqlite::Row;

use super::fault::Fault;
use crate::domain::change::{CutOffTarget, GrantRecord, PrincipalRecord, RoleRecord};
use crate::domain::permission::{ActionPattern, Resource, ResourcePattern};
use crate::domain::principal::{GrantId, PrincipalId, PrincipalName, RoleName};
use crate::domain::token::TokenId;

/// What [`principal`] reads.
pub(super) const PRINCIPAL_COLUMNS: &str = "p.id, p.name, p.home, p.disabled, p.made_at";

/// The record of a principal.
pub(super) fn principal(row: &Row<'_>) -> Result<PrincipalRecord, Fault> {
    Ok(PrincipalRecord {
        id: PrincipalId(row.get(0)?),
        name: principal_name(&row.get::<_, String>(1)?)?,
        home: resource(&row.get::<_, String>(2)?)?,
        disabled: row.get(3)?,
        made_at: row.get(4)?,
    })
}

/// What [`role`] reads.
pub(super) const ROLE_COLUMNS: &str = "name, home, actions, made_at";

/// The record of a role; its actions are joined by blanks.
pub(super) fn role(row: &Row<'_>) -> Result<RoleRecord, Fault> {
    let actions: String = row.get(2)?;
    let actions = actions.split(' ').filter(|action| !action.is_empty());
    Ok(RoleRecord {
        name: role_name(&row.get::<_, String>(0)?)?,
        home: resource(&row.get::<_, String>(1)?)?,
        actions: actions
            .map(|action| ActionPattern::parse(action).map_err(|_| Fault::Row("action")))
            .collect::<Result<_, _>>()?,
        made_at: row.get(3)?,
    })
}

/// What [`grant`] reads.
pub(super) const GRANT_COLUMNS: &str = "g.id, g.principal, g.role, g.resource, g.made_at";

/// The record of a grant.
pub(super) fn grant(row: &Row<'_>) -> Result<GrantRecord, Fault> {
    let pattern: String = row.get(3)?;
    Ok(GrantRecord {
        id: GrantId(row.get(0)?),
        principal: PrincipalId(row.get(1)?),
        role: role_name(&row.get::<_, String>(2)?)?,
        resource: ResourcePattern::parse(&pattern).map_err(|_| Fault::Row("resource pattern"))?,
        made_at: row.get(4)?,
    })
}

/// How the table of cut-offs names a target: its kind, and the target's text.
pub(super) fn cut_off_columns(target: &CutOffTarget) -> (&'static str, String) {
    match target {
        CutOffTarget::Subject(id) => ("subject", id.0.to_string()),
        CutOffTarget::IssuedByPrincipal(id) => ("issued_by_principal", id.0.to_string()),
        CutOffTarget::IssuedByToken(id) => ("issued_by_token", id.to_string()),
        CutOffTarget::IssuedForTeam(team, member) => {
            ("issued_for_team", format!("{}/{}", team.0, member.0))
        }
        CutOffTarget::ResourceUnder(resource) => ("resource_under", resource.to_string()),
    }
}

/// The target in a row that selects kind and target first.
pub(super) fn cut_off_target(row: &Row<'_>) -> Result<CutOffTarget, Fault> {
    let kind: String = row.get(0)?;
    let text: String = row.get(1)?;
    parse_cut_off(&kind, &text).ok_or(Fault::Row("cut-off"))
}

fn parse_cut_off(kind: &str, text: &str) -> Option<CutOffTarget> {
    let principal = |text: &str| text.parse().ok().map(PrincipalId);
    Some(match kind {
        "subject" => CutOffTarget::Subject(principal(text)?),
        "issued_by_principal" => CutOffTarget::IssuedByPrincipal(principal(text)?),
        "issued_by_token" => CutOffTarget::IssuedByToken(TokenId::parse(text)?),
        "issued_for_team" => {
            let (team, member) = text.split_once('/')?;
            CutOffTarget::IssuedForTeam(principal(team)?, principal(member)?)
        }
        "resource_under" => CutOffTarget::ResourceUnder(Resource::parse(text).ok()?),
        _ => return None,
    })
}

/// A principal's name from its text form.
pub(super) fn principal_name(text: &str) -> Result<PrincipalName, Fault> {
    PrincipalName::parse(text).ok_or(Fault::Row("principal's name"))
}

fn role_name(text: &str) -> Result<RoleName, Fault> {
    RoleName::parse(text).ok_or(Fault::Row("role's name"))
}

fn resource(text: &str) -> Result<Resource, Fault> {
    Resource::parse(text).map_err(|_| Fault::Row("resource"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_offs_read_back() {
        let resource = Resource::parse("acme/web").expect("a path");
        for target in [
            CutOffTarget::Subject(PrincipalId(1)),
            CutOffTarget::IssuedByPrincipal(PrincipalId(u32::MAX)),
            CutOffTarget::IssuedByToken(TokenId::from_u128(3)),
            CutOffTarget::IssuedForTeam(PrincipalId(4), PrincipalId(5)),
            CutOffTarget::ResourceUnder(resource),
        ] {
            let (kind, text) = cut_off_columns(&target);
            assert_eq!(parse_cut_off(kind, &text), Some(target));
        }
        assert_eq!(parse_cut_off("issued_for_team", "4"), None);
        assert_eq!(parse_cut_off("another", "4"), None);
    }
}
