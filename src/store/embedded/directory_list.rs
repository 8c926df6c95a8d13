//! Lists of principals, members, roles and grants.
//!
//! Each reads one row more than the page has, to know whether there is a next. Names are in the
//! order of their bytes. Reads tables only; nothing here takes part in a decision.

use std::collections::BTreeMap;

use rusqlite::types::Value;
use rusqlite::{Connection, Row, params_from_iter};

use super::directory_row::{self, GRANT_COLUMNS, PRINCIPAL_COLUMNS, ROLE_COLUMNS, principal_name};
use super::fault::Fault;
use crate::domain::principal::{PrincipalId, PrincipalKind};
use crate::store::columns::page_rows;
use crate::store::list::{
    GrantQuery, MemberQuery, Page, PrincipalQuery, RoleQuery, StoredGrant, StoredMember,
    StoredPrincipal, StoredRole,
};
use crate::store::query::Query;

/// Principals of one kind, by name without the kind.
pub(super) fn principals(
    connection: &Connection,
    query: &PrincipalQuery,
) -> Result<Page<StoredPrincipal, String>, Fault> {
    let text = |name: &String| Value::Text(name_text(query.kind, name));
    let mut select = Query::select(format!(
        "-- principals
        SELECT {PRINCIPAL_COLUMNS}, p.display_name, p.description, p.labels, p.created_ms,
          p.changed_at
        FROM principals p"
    ));
    select
        .filter("p.deleted_at IS NULL", [])
        .filter("p.name >= ? AND p.name < ?", names_of(query.kind))
        .filter_some("p.name = ?", query.name.as_ref().map(text))
        .filter_under("p.home", query.home_under.as_ref())
        .filter_some("p.name > ?", query.after.as_ref().map(text));
    let read = |row: &Row<'_>| {
        Ok(StoredPrincipal {
            record: directory_row::principal(row)?,
            display_name: row.get(5)?,
            description: row.get(6)?,
            labels: labels(row, 7)?,
            created_ms: row.get(8)?,
            changed_at: row.get(9)?,
        })
    };
    let key = |one: &StoredPrincipal| one.record.name.name().to_owned();
    page(
        connection,
        select,
        " ORDER BY p.name",
        query.limit,
        read,
        key,
    )
}

/// The bounds of all names of a kind, so that a page walks the index of names: `:` is followed
/// by `;`.
fn names_of(kind: PrincipalKind) -> [Value; 2] {
    [":", ";"].map(|end| Value::Text(format!("{}{end}", kind.name())))
}

/// The text under which the table has a name; one outside the grammar matches nothing.
fn name_text(kind: PrincipalKind, name: &str) -> String {
    format!("{}:{name}", kind.name())
}

/// Members of a team or teams of a member, by the text form of the name that varies.
pub(super) fn members(
    connection: &Connection,
    query: &MemberQuery,
) -> Result<Page<StoredMember, String>, Fault> {
    let of_team = query.team.is_some();
    let listed = if of_team { "m.name" } else { "t.name" };
    let mut select = Query::select(
        "-- members
        SELECT t.name, m.name, made.made_at, l.instant_ms, l.actor FROM members made
        JOIN principals t ON t.id = made.team JOIN principals m ON m.id = made.member
        JOIN log l ON l.revision = made.made_at",
    );
    let id = |id: PrincipalId| Value::from(id.0);
    select
        .filter_some("made.team = ?", query.team.map(id))
        .filter_some("made.member = ?", query.member.map(id))
        .filter_some(
            &format!("{listed} > ?"),
            query.after.clone().map(Value::Text),
        );
    let read = |row: &Row<'_>| {
        Ok(StoredMember {
            team: principal_name(&row.get::<_, String>(0)?)?,
            member: principal_name(&row.get::<_, String>(1)?)?,
            made_at: row.get(2)?,
            created_ms: row.get(3)?,
            added_by: row.get(4)?,
        })
    };
    let key = |one: &StoredMember| match of_team {
        true => one.member.to_string(),
        false => one.team.to_string(),
    };
    page(
        connection,
        select,
        &format!(" ORDER BY {listed}"),
        query.limit,
        read,
        key,
    )
}

/// Roles, by name.
pub(super) fn roles(
    connection: &Connection,
    query: &RoleQuery,
) -> Result<Page<StoredRole, String>, Fault> {
    let mut select = Query::select(format!(
        "-- roles\nSELECT {ROLE_COLUMNS}, description, labels, created_ms, changed_at FROM roles"
    ));
    let name = query
        .name
        .as_ref()
        .map(|name| name.as_str().to_owned().into());
    select
        .filter_some("name = ?", name)
        .filter_under("home", query.home_under.as_ref())
        .filter_some("name > ?", query.after.clone().map(Value::Text));
    let read = |row: &Row<'_>| {
        Ok(StoredRole {
            record: directory_row::role(row)?,
            description: row.get(4)?,
            labels: labels(row, 5)?,
            created_ms: row.get(6)?,
            changed_at: row.get(7)?,
        })
    };
    let key = |one: &StoredRole| one.record.name.as_str().to_owned();
    page(connection, select, " ORDER BY name", query.limit, read, key)
}

/// Grants, oldest first.
pub(super) fn grants(
    connection: &Connection,
    query: &GrantQuery,
) -> Result<Page<StoredGrant, u32>, Fault> {
    let mut select = Query::select(format!(
        "-- grants
        SELECT {GRANT_COLUMNS}, p.name, g.created_ms
        FROM grants g JOIN principals p ON p.id = g.principal"
    ));
    let role = query
        .role
        .as_ref()
        .map(|role| role.as_str().to_owned().into());
    select
        .filter_some("g.id = ?", query.id.map(Value::from))
        .filter_some("g.principal = ?", query.principal.map(|id| id.0.into()))
        .filter_some("g.role = ?", role)
        .filter_under("g.resource", query.resource_under.as_ref())
        .filter_some("g.id > ?", query.after.map(Value::from));
    let read = |row: &Row<'_>| {
        Ok(StoredGrant {
            record: directory_row::grant(row)?,
            principal_name: principal_name(&row.get::<_, String>(5)?)?,
            created_ms: row.get(6)?,
        })
    };
    let key = |one: &StoredGrant| one.record.id.0;
    page(connection, select, " ORDER BY g.id", query.limit, read, key)
}

fn labels(row: &Row<'_>, index: usize) -> Result<BTreeMap<String, String>, Fault> {
    let text = row
        .get_ref(index)?
        .as_str()
        .map_err(|_| Fault::Row("label"))?;
    serde_json::from_str(text).map_err(|_| Fault::Row("label"))
}

fn page<T, Key>(
    connection: &Connection,
    select: Query<Value>,
    order: &str,
    limit: usize,
    read: impl Fn(&Row<'_>) -> Result<T, Fault>,
    key: impl Fn(&T) -> Key,
) -> Result<Page<T, Key>, Fault> {
    let limit = page_rows(limit);
    let (sql, values) = select.end(order);
    let mut select = connection.prepare_cached(&sql)?;
    let mut rows = select.query(params_from_iter(values))?;
    let mut page = Page {
        rows: Vec::new(),
        next: None,
    };
    while let Some(row) = rows.next()? {
        if page.rows.len() == limit {
            page.next = page.rows.last().map(key);
            break;
        }
        page.rows.push(read(row)?);
    }
    Ok(page)
}
