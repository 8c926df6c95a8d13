//! What logins leave in tables: used assertions and the login record.
//!
//! Written by the writer's thread between two appends. A used assertion is as durable as an append
//! before anybody is told, and costs a sync of its own; the record goes by the connection whose
//! commits wait for no disk. Rows that are no longer needed go with those that come, a few more at
//! a time.

use rusqlite::types::Value;
use rusqlite::{Connection, Row, TransactionBehavior, params, params_from_iter};

use super::directory_row::principal_name;
use super::fault::Fault;
use super::writer::Failed;
use crate::domain::principal::PrincipalId;
use crate::domain::token::TokenId;
use crate::store::columns::page_rows;
use crate::store::list::Page;
use crate::store::logins::{
    LOGINS_KEPT_MS, LOGINS_MAX, LoginKind, LoginNoted, LoginQuery, OneTime, StoredLogin,
    USED_KEPT_MS,
};
use crate::store::query::Query;

/// Used assertions that go with one that comes.
const USED_SWEPT: usize = 16;

/// Uses an assertion up, durably; whether this was the first to do so.
pub(super) fn consume(connection: &mut Connection, once: &OneTime) -> Result<bool, Failed> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let sweep = "-- sweep_used_assertions
        DELETE FROM used_assertions WHERE id IN (
          SELECT id FROM used_assertions WHERE until_ms < ?1 ORDER BY until_ms LIMIT ?2)";
    let former = once.now_ms.saturating_sub(USED_KEPT_MS);
    transaction
        .prepare_cached(sweep)?
        .execute(params![former, USED_SWEPT])?;
    let consume = "-- consume
        INSERT INTO used_assertions (id, until_ms) VALUES (?1, ?2)
        ON CONFLICT (id) DO UPDATE SET until_ms = excluded.until_ms WHERE until_ms <= ?3";
    let written = transaction.prepare_cached(consume)?.execute(params![
        once.id,
        once.until_ms,
        once.now_ms
    ])?;
    transaction.commit().map_err(Failed::Commit)?;
    Ok(written == 1)
}

/// Writes some logins.
pub(super) fn note_logins(connection: &mut Connection, logins: &[LoginNoted]) -> Result<(), Fault> {
    let Some(newest_ms) = logins.iter().map(|login| login.at_ms).max() else {
        return Ok(());
    };
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let note = "-- note_logins
        INSERT INTO logins (instant_ms, account, credential, token, address, expires_ms, kind, parent)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (token) DO NOTHING";
    let mut insert = transaction.prepare_cached(note)?;
    for login in logins {
        insert.execute(params![
            login.at_ms,
            login.account.map_or(0, |account| account.0),
            login.credential.to_bytes(),
            login.token.to_bytes(),
            login.from.map(|address| address.to_string()),
            login.expires_ms,
            login.kind as u8,
            login.parent.map(TokenId::to_bytes)
        ])?;
    }
    drop(insert);
    let sweep = "-- sweep_logins
        DELETE FROM logins WHERE number IN (
          SELECT number FROM (SELECT number, instant_ms FROM logins ORDER BY number LIMIT ?1)
          WHERE instant_ms < ?2 OR number <= (SELECT max(number) FROM logins) - ?3)";
    let former = newest_ms.saturating_sub(LOGINS_KEPT_MS);
    transaction
        .prepare_cached(sweep)?
        .execute(params![2 * logins.len(), former, LOGINS_MAX])?;
    transaction.commit()?;
    Ok(())
}

/// Logins, newest first.
pub(super) fn logins(
    connection: &Connection,
    query: &LoginQuery,
) -> Result<Page<StoredLogin, u64>, Fault> {
    let mut select = Query::select(
        "-- logins
        SELECT l.number, l.instant_ms, l.account, l.credential, l.token, l.address, l.expires_ms,
          p.name, l.kind, l.parent
        FROM logins l LEFT JOIN principals p ON p.id = l.account",
    );
    let id = |id: TokenId| Value::Blob(id.to_bytes().to_vec());
    let after = query
        .after
        .map(|number| i64::try_from(number).unwrap_or(i64::MAX));
    select
        .filter_some("l.account = ?", query.account.map(|id| id.0.into()))
        .filter_some("l.credential = ?", query.credential.map(id))
        .filter_some("l.number < ?", after.map(Value::from));
    let limit = page_rows(query.limit);
    let (sql, values) = select.end(" ORDER BY l.number DESC");
    let mut select = connection.prepare_cached(&sql)?;
    let mut rows = select.query(params_from_iter(values))?;
    let mut page = Page {
        rows: Vec::new(),
        next: None,
    };
    let mut last = None;
    while let Some(row) = rows.next()? {
        if page.rows.len() == limit {
            page.next = last;
            break;
        }
        last = Some(row.get(0)?);
        page.rows.push(stored(row)?);
    }
    Ok(page)
}

fn stored(row: &Row<'_>) -> Result<StoredLogin, Fault> {
    let id = |index| Ok::<_, Fault>(TokenId::from_bytes(row.get(index)?));
    let address: Option<String> = row.get(5)?;
    let from = address.map(|text| text.parse()).transpose();
    let account = Some(row.get::<_, u32>(2)?).filter(|account| *account != 0);
    let name: Option<String> = row.get(7)?;
    let kind = LoginKind::from_number(row.get(8)?);
    let parent: Option<[u8; 16]> = row.get(9)?;
    Ok(StoredLogin {
        noted: LoginNoted {
            at_ms: row.get(1)?,
            kind: kind.ok_or(Fault::Row("kind of login"))?,
            account: account.map(PrincipalId),
            credential: id(3)?,
            parent: parent.map(TokenId::from_bytes),
            token: id(4)?,
            from: from.map_err(|_| Fault::Row("address"))?,
            expires_ms: row.get(6)?,
        },
        account_name: name.as_deref().map(principal_name).transpose()?,
    })
}
