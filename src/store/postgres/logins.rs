//! What logins leave: failures, used assertions and the login record, as rows beside the log.
//!
//! Each call is one message of the simple protocol that is a whole transaction. What anybody who
//! is not known can bring about (a failure), and what a login waits for (an assertion), has a few
//! connections of its own: it takes none from lists, nor from an append or a lease. Of these only
//! a used assertion waits for the disk, and for a standby that is waited for. Rows that are no
//! longer needed go with those that come, a few more at a time.

use std::ops::RangeInclusive;

use tokio_postgres::{Client, Row};

use super::directory_row::principal_name;
use super::fault::Fault;
use super::pool::Pool;
use super::query::{Query, Value, rows};
use super::row::{number, token_id, value};
use super::{literal, records};
use crate::domain::principal::PrincipalId;
use crate::domain::token::TokenId;
use crate::store::StoreError;
use crate::store::columns::page_rows;
use crate::store::list::Page;
use crate::store::logins::{
    FAILURES_MAX, Failure, FailureKey, LOGINS_KEPT_MS, LOGINS_MAX, LoginKind, LoginNoted,
    LoginQuery, OneTime, StoredLogin, USED_KEPT_MS,
};

/// Failures after which those of long ago are looked for.
const FAILURES_SWEPT: u64 = 64;
/// Used assertions that go with one that comes.
const USED_SWEPT: usize = 16;

/// Counts a failure.
pub(super) async fn note_failure(pool: &Pool, failure: &Failure) -> Result<u32, StoreError> {
    let count = format!(
        "WITH noted AS (
          INSERT INTO latchkey.login_failures AS f (key, count, last_ms) VALUES ({key}, 1, {now})
          ON CONFLICT (key) DO UPDATE SET number = excluded.number,
            count = CASE WHEN f.last_ms + {reset} < {now} THEN 1 ELSE f.count + 1 END,
            last_ms = greatest(f.last_ms, excluded.last_ms)
          RETURNING count, number),
        former AS (
          SELECT f.key FROM latchkey.login_failures f JOIN noted n
          ON n.number % {FAILURES_SWEPT} = 0 AND f.number <= n.number - {FAILURES_MAX}
          ORDER BY f.number LIMIT {swept} FOR UPDATE OF f SKIP LOCKED),
        swept AS (
          DELETE FROM latchkey.login_failures f USING former WHERE f.key = former.key)
        SELECT count FROM noted",
        key = literal::bytes(&failure.key),
        now = records::stored(failure.now_ms)?,
        reset = records::stored(failure.reset_ms)?,
        swept = 2 * FAILURES_SWEPT,
    );
    let found = pool.write("note_failure", &count).await?;
    let count = found.last().and_then(|row| row.get(0)?.parse::<u64>().ok());
    let count = count.ok_or_else(|| Fault::Row("count").at(0))?;
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Begins counts anew.
pub(super) async fn clear_failures(
    pool: &Pool,
    keys: &RangeInclusive<FailureKey>,
) -> Result<(), StoreError> {
    let delete = format!(
        "DELETE FROM latchkey.login_failures WHERE key BETWEEN {} AND {}",
        literal::bytes(keys.start()),
        literal::bytes(keys.end())
    );
    pool.write("clear_failures", &delete).await.map(drop)
}

/// Uses an assertion up.
pub(super) async fn consume(pool: &Pool, once: &OneTime) -> Result<bool, StoreError> {
    let consume = format!(
        "WITH former AS (
          SELECT u.id FROM latchkey.used_assertions u WHERE u.until_ms < {former}
          ORDER BY u.until_ms LIMIT {USED_SWEPT} FOR UPDATE SKIP LOCKED)
        DELETE FROM latchkey.used_assertions u USING former WHERE u.id = former.id;
        WITH used AS (
          INSERT INTO latchkey.used_assertions AS u VALUES ({id}, {until})
          ON CONFLICT (id) DO UPDATE SET until_ms = excluded.until_ms WHERE u.until_ms <= {now}
          RETURNING u.id)
        SELECT EXISTS (SELECT FROM used)",
        former = records::stored(once.now_ms.saturating_sub(USED_KEPT_MS))?,
        id = literal::bytes(&once.id),
        until = records::stored(once.until_ms)?,
        now = records::stored(once.now_ms)?,
    );
    let found = pool.write_durably("consume", &consume).await?;
    match found.last().and_then(|row| row.get(0)) {
        Some("t") => Ok(true),
        Some("f") => Ok(false),
        _ => Err(Fault::Row("answer").at(0)),
    }
}

/// Writes some logins.
pub(super) async fn note_logins(pool: &Pool, logins: &[LoginNoted]) -> Result<(), StoreError> {
    let Some(newest_ms) = logins.iter().map(|login| login.at_ms).max() else {
        return Ok(());
    };
    let rows: Result<Vec<String>, StoreError> = logins.iter().map(row).collect();
    let note = format!(
        "INSERT INTO latchkey.logins (instant_ms, account, credential, token, address, expires_ms,
          kind, parent)
        VALUES {rows} ON CONFLICT (token) DO NOTHING;
        WITH newest AS (SELECT max(number) AS number FROM latchkey.logins),
        former AS (
          SELECT l.number FROM latchkey.logins l WHERE l.number IN (
            SELECT o.number FROM (
              SELECT number, instant_ms FROM latchkey.logins ORDER BY number LIMIT {swept}) o, newest
            WHERE o.number <= newest.number - {LOGINS_MAX} OR o.instant_ms < {former})
          FOR UPDATE SKIP LOCKED)
        DELETE FROM latchkey.logins l USING former WHERE l.number = former.number",
        rows = rows?.join(","),
        swept = 2 * logins.len(),
        former = records::stored(newest_ms.saturating_sub(LOGINS_KEPT_MS))?,
    );
    pool.write("note_logins", &note).await.map(drop)
}

fn row(login: &LoginNoted) -> Result<String, StoreError> {
    let address = match login.from {
        Some(address) => literal::text(&address.to_string()),
        None => "NULL".to_owned(),
    };
    let parent = match login.parent {
        Some(parent) => format!("'{}'", records::uuid(parent)),
        None => "NULL".to_owned(),
    };
    Ok(format!(
        "({}, {}, '{}'::uuid, '{}'::uuid, {address}::inet, {}, {}, {parent}::uuid)",
        records::stored(login.at_ms)?,
        login.account.map_or(0, |account| account.0),
        records::uuid(login.credential),
        records::uuid(login.token),
        records::stored(login.expires_ms)?,
        login.kind as u8,
    ))
}

/// Logins, newest first.
pub(super) async fn logins(
    client: &Client,
    query: &LoginQuery,
) -> Result<Page<StoredLogin, u64>, Fault> {
    let mut select = Query::select(
        "-- logins
        SELECT l.number, l.instant_ms, l.account, l.credential, l.token, host(l.address),
          l.expires_ms, p.name, l.kind, l.parent
        FROM latchkey.logins l LEFT JOIN latchkey.principals p ON p.id = l.account",
    );
    let after = query
        .after
        .map(|number| i64::try_from(number).unwrap_or(i64::MAX));
    select
        .filter_some(
            "l.account = ?",
            query.account.map(|id| Value::Number(id.0.into())),
        )
        .filter_some("l.credential = ?", query.credential.map(Value::id))
        .filter_some("l.number < ?", after.map(Value::Number));
    let limit = page_rows(query.limit);
    let found = rows(select, client, "l.number DESC", limit + 1).await?;
    let shown = &found[..found.len().min(limit)];
    let last = shown.last().filter(|_| found.len() > limit);
    Ok(Page {
        rows: shown.iter().map(stored).collect::<Result<_, _>>()?,
        next: last.map(|row| number(row, 0)).transpose()?,
    })
}

fn stored(row: &Row) -> Result<StoredLogin, Fault> {
    let address: Option<&str> = value(row, 5)?;
    let from = address.map(str::parse).transpose();
    let account = Some(number::<u32>(row, 2)?).filter(|account| *account != 0);
    let name: Option<&str> = value(row, 7)?;
    let kind = LoginKind::from_number(number(row, 8)?);
    let parent: Option<uuid::Uuid> = value(row, 9)?;
    Ok(StoredLogin {
        noted: LoginNoted {
            at_ms: number(row, 1)?,
            kind: kind.ok_or(Fault::Row("kind of login"))?,
            account: account.map(PrincipalId),
            credential: token_id(row, 3)?,
            parent: parent.map(|id| TokenId::from_bytes(id.into_bytes())),
            token: token_id(row, 4)?,
            from: from.map_err(|_| Fault::Row("address"))?,
            expires_ms: number(row, 6)?,
        },
        account_name: name.map(|_| principal_name(row, 7)).transpose()?,
    })
}
