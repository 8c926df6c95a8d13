//! Principals, roles, grants and cut-offs as rows, and back.
//!
//! Each reader wants its columns selected first, in the order of the constant beside it. Texts
//! go through the parsers of the domain again. Used by the snapshot and the lists.

use rusqlite::Row;

use super::fault::Fault;
use crate::domain::change::{CutOffTarget, GrantRecord, PrincipalRecord, RoleRecord};
use crate::domain::permission::{ActionPattern, Resource, ResourcePattern};
use crate::domain::principal::{GrantId, PrincipalId, PrincipalName, RoleName};
use crate::store::columns::parse_cut_off;

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

/// The target in a row that selects kind and target first.
pub(super) fn cut_off_target(row: &Row<'_>) -> Result<CutOffTarget, Fault> {
    let kind: String = row.get(0)?;
    let text: String = row.get(1)?;
    parse_cut_off(&kind, &text).ok_or(Fault::Row("cut-off"))
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
