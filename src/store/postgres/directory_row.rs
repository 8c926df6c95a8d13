//! Principals, roles, grants and cut-offs as rows of the tables.
//!
//! Each reader wants its columns selected first, in the order of the constant beside it. Texts
//! go through the parsers of the domain again. Used by the snapshot and the lists.

use tokio_postgres::Row;

use super::fault::Fault;
use super::row::{number, value};
use crate::domain::change::{CutOffTarget, GrantRecord, PrincipalRecord, RoleRecord};
use crate::domain::permission::{ActionPattern, Resource, ResourcePattern};
use crate::domain::principal::{GrantId, PrincipalId, PrincipalName, RoleName};
use crate::store::columns::parse_cut_off;

/// What [`principal`] reads.
pub(super) const PRINCIPAL_COLUMNS: &str = "p.id, p.name, p.home, p.disabled, p.made_at";

/// The record of a principal.
pub(super) fn principal(row: &Row) -> Result<PrincipalRecord, Fault> {
    Ok(PrincipalRecord {
        id: PrincipalId(number(row, 0)?),
        name: principal_name(row, 1)?,
        home: resource(row, 2)?,
        disabled: value(row, 3)?,
        made_at: number(row, 4)?,
    })
}

/// What [`role`] reads.
pub(super) const ROLE_COLUMNS: &str = "r.name, r.home, r.actions, r.made_at";

/// The record of a role; its actions are joined by blanks.
pub(super) fn role(row: &Row) -> Result<RoleRecord, Fault> {
    let actions: &str = value(row, 2)?;
    let actions = actions.split(' ').filter(|action| !action.is_empty());
    Ok(RoleRecord {
        name: role_name(row, 0)?,
        home: resource(row, 1)?,
        actions: actions
            .map(|action| ActionPattern::parse(action).map_err(|_| Fault::Row("action")))
            .collect::<Result<_, _>>()?,
        made_at: number(row, 3)?,
    })
}

/// What [`grant`] reads.
pub(super) const GRANT_COLUMNS: &str = "g.id, g.principal, g.role, g.resource, g.made_at";

/// The record of a grant.
pub(super) fn grant(row: &Row) -> Result<GrantRecord, Fault> {
    let pattern: &str = value(row, 3)?;
    Ok(GrantRecord {
        id: GrantId(number(row, 0)?),
        principal: PrincipalId(number(row, 1)?),
        role: role_name(row, 2)?,
        resource: ResourcePattern::parse(pattern).map_err(|_| Fault::Row("resource pattern"))?,
        made_at: number(row, 4)?,
    })
}

/// The target in a row that selects kind and target first.
pub(super) fn cut_off_target(row: &Row) -> Result<CutOffTarget, Fault> {
    parse_cut_off(value(row, 0)?, value(row, 1)?).ok_or(Fault::Row("cut-off"))
}

/// A principal's name in its text form.
pub(super) fn principal_name(row: &Row, index: usize) -> Result<PrincipalName, Fault> {
    PrincipalName::parse(value(row, index)?).ok_or(Fault::Row("principal's name"))
}

fn role_name(row: &Row, index: usize) -> Result<RoleName, Fault> {
    RoleName::parse(value(row, index)?).ok_or(Fault::Row("role's name"))
}

fn resource(row: &Row, index: usize) -> Result<Resource, Fault> {
    Resource::parse(value(row, index)?).map_err(|_| Fault::Row("resource"))
}
