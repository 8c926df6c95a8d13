//! Lists of principals, members, roles and grants.
//!
//! Each reads one row more than the page has, to know whether there is a next. Names are in the
//! order of their bytes. Reads tables only; nothing here takes part in a decision.

use std::collections::BTreeMap;

use tokio_postgres::{Client, Row};

use super::directory_row::{self, GRANT_COLUMNS, PRINCIPAL_COLUMNS, ROLE_COLUMNS, principal_name};
use super::fault::Fault;
use super::query::{Query, Value, rows};
use super::row::{number, value};
use crate::domain::principal::{PrincipalId, PrincipalKind};
use crate::store::columns::page_rows;
use crate::store::list::{
    GrantQuery, MemberQuery, Page, PrincipalQuery, RoleQuery, StoredGrant, StoredMember,
    StoredPrincipal, StoredRole,
};

/// Principals of one kind, by name without the kind.
pub(super) async fn principals(
    client: &Client,
    query: &PrincipalQuery,
) -> Result<Page<StoredPrincipal, String>, Fault> {
    let text = |name: &String| Value::Text(format!("{}:{name}", query.kind.name()));
    let mut select = Query::select(format!(
        "-- principals
        SELECT {PRINCIPAL_COLUMNS}, p.display_name, p.description, p.labels::text, p.created_ms,
          p.changed_at
        FROM latchkey.principals p"
    ));
    select
        .filter("p.deleted_at IS NULL", [])
        .filter("p.name >= ? AND p.name < ?", names_of(query.kind))
        .filter_some("p.name = ?", query.name.as_ref().map(text))
        .filter_under("p.home", query.home_under.as_ref())
        .filter_some("p.name > ?", query.after.as_ref().map(text));
    let read = |row: &Row| {
        Ok(StoredPrincipal {
            record: directory_row::principal(row)?,
            display_name: value(row, 5)?,
            description: value(row, 6)?,
            labels: labels(row, 7)?,
            created_ms: number(row, 8)?,
            changed_at: number(row, 9)?,
        })
    };
    let key = |one: &StoredPrincipal| one.record.name.name().to_owned();
    page(client, select, "p.name", query.limit, read, key).await
}

/// The bounds of all names of a kind, so that a page walks the index of names: `:` is followed
/// by `;`.
fn names_of(kind: PrincipalKind) -> [Value; 2] {
    [":", ";"].map(|end| Value::Text(format!("{}{end}", kind.name())))
}

/// Members of a team or teams of a member, by the text form of the name that varies.
pub(super) async fn members(
    client: &Client,
    query: &MemberQuery,
) -> Result<Page<StoredMember, String>, Fault> {
    let of_team = query.team.is_some();
    let listed = if of_team { "m.name" } else { "t.name" };
    let mut select = Query::select(
        "-- members
        SELECT t.name, m.name, made.made_at, made.created_ms, made.added_by
        FROM latchkey.members made
        JOIN latchkey.principals t ON t.id = made.team
        JOIN latchkey.principals m ON m.id = made.member",
    );
    let id = |id: PrincipalId| Value::Number(id.0.into());
    let after = query.after.clone().map(Value::Text);
    select
        .filter_some("made.team = ?", query.team.map(id))
        .filter_some("made.member = ?", query.member.map(id))
        .filter_some(&format!("{listed} > ?"), after);
    let read = |row: &Row| {
        Ok(StoredMember {
            team: principal_name(row, 0)?,
            member: principal_name(row, 1)?,
            made_at: number(row, 2)?,
            created_ms: number(row, 3)?,
            added_by: value(row, 4)?,
        })
    };
    let key = |one: &StoredMember| match of_team {
        true => one.member.to_string(),
        false => one.team.to_string(),
    };
    page(client, select, listed, query.limit, read, key).await
}

/// Roles, by name.
pub(super) async fn roles(
    client: &Client,
    query: &RoleQuery,
) -> Result<Page<StoredRole, String>, Fault> {
    let mut select = Query::select(format!(
        "-- roles
        SELECT {ROLE_COLUMNS}, r.description, r.labels::text, r.created_ms, r.changed_at
        FROM latchkey.roles r"
    ));
    let name = query.name.as_ref().map(|name| name.as_str().to_owned());
    select
        .filter_some("r.name = ?", name.map(Value::Text))
        .filter_under("r.home", query.home_under.as_ref())
        .filter_some("r.name > ?", query.after.clone().map(Value::Text));
    let read = |row: &Row| {
        Ok(StoredRole {
            record: directory_row::role(row)?,
            description: value(row, 4)?,
            labels: labels(row, 5)?,
            created_ms: number(row, 6)?,
            changed_at: number(row, 7)?,
        })
    };
    let key = |one: &StoredRole| one.record.name.as_str().to_owned();
    page(client, select, "r.name", query.limit, read, key).await
}

/// Grants, oldest first.
pub(super) async fn grants(
    client: &Client,
    query: &GrantQuery,
) -> Result<Page<StoredGrant, u32>, Fault> {
    let mut select = Query::select(format!(
        "-- grants
        SELECT {GRANT_COLUMNS}, p.name, g.created_ms
        FROM latchkey.grants g JOIN latchkey.principals p ON p.id = g.principal"
    ));
    let number_of = |id: u32| Value::Number(id.into());
    let role = query.role.as_ref().map(|role| role.as_str().to_owned());
    select
        .filter_some("g.id = ?", query.id.map(number_of))
        .filter_some("g.principal = ?", query.principal.map(|id| number_of(id.0)))
        .filter_some("g.role = ?", role.map(Value::Text))
        .filter_under("g.resource", query.resource_under.as_ref())
        .filter_some("g.id > ?", query.after.map(number_of));
    let read = |row: &Row| {
        Ok(StoredGrant {
            record: directory_row::grant(row)?,
            principal_name: principal_name(row, 5)?,
            created_ms: number(row, 6)?,
        })
    };
    let key = |one: &StoredGrant| one.record.id.0;
    page(client, select, "g.id", query.limit, read, key).await
}

fn labels(row: &Row, index: usize) -> Result<BTreeMap<String, String>, Fault> {
    serde_json::from_str(value(row, index)?).map_err(|_| Fault::Row("label"))
}

async fn page<T, Key>(
    client: &Client,
    select: Query,
    order: &str,
    limit: usize,
    read: impl Fn(&Row) -> Result<T, Fault>,
    key: impl Fn(&T) -> Key,
) -> Result<Page<T, Key>, Fault> {
    let limit = page_rows(limit);
    let found = rows(select, client, order, limit + 1).await?;
    let rows: Vec<T> = found
        .iter()
        .take(limit)
        .map(read)
        .collect::<Result<_, _>>()?;
    let next = (found.len() > limit)
        .then(|| rows.last().map(key))
        .flatten();
    Ok(Page { rows, next })
}
