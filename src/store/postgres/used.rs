//! When tokens were last used: a narrow table beside what the log makes.
//!
//! One message a batch, from the pool, and a transaction whose commit waits for no disk: nothing
//! that an append or a lease needs is held by it. Rows are locked in the order of their tokens, so
//! that several servers do not lock each other out. Read with the tokens that a page shows.

use tokio_postgres::Row;

use super::fault::Fault;
use super::pool::Pool;
use super::row::{number, token_id, value};
use super::{literal, records};
use crate::domain::token::TokenId;
use crate::store::StoreError;
use crate::store::list::LastUsed;

/// What [`last_used`] reads of the tokens in `$1`.
pub(super) const LAST_USED: &str = "-- last_used
    SELECT token, instant_ms, host(address) FROM latchkey.token_used WHERE token = ANY ($1)";

/// Writes some last uses.
pub(super) async fn note(pool: &Pool, used: &[(TokenId, LastUsed)]) -> Result<(), StoreError> {
    if used.is_empty() {
        return Ok(());
    }
    let rows: Result<Vec<String>, StoreError> = used.iter().map(row).collect();
    // A token that was forgotten meanwhile leaves no row behind.
    let note = format!(
        "INSERT INTO latchkey.token_used AS u (token, instant_ms, address)
        SELECT DISTINCT ON (n.token) n.token, n.instant_ms, n.address
        FROM (VALUES {rows}) n (token, instant_ms, address)
        WHERE EXISTS (SELECT FROM latchkey.tokens t WHERE t.id = n.token)
        ORDER BY n.token, n.instant_ms DESC
        ON CONFLICT (token) DO UPDATE SET instant_ms = excluded.instant_ms,
          address = excluded.address
        WHERE excluded.instant_ms > u.instant_ms",
        rows = rows?.join(","),
    );
    pool.write("note_used", &note).await.map(drop)
}

fn row((token, used): &(TokenId, LastUsed)) -> Result<String, StoreError> {
    let address = match used.from {
        Some(address) => literal::text(&address.to_string()),
        None => "NULL".to_owned(),
    };
    Ok(format!(
        "('{}'::uuid, {}::bigint, {address}::inet)",
        records::uuid(*token),
        records::stored(used.at_ms)?,
    ))
}

/// A row of [`LAST_USED`].
pub(super) fn last_used(row: &Row) -> Result<(TokenId, LastUsed), Fault> {
    let address: Option<&str> = value(row, 2)?;
    let from = address.map(str::parse).transpose();
    let used = LastUsed {
        at_ms: number(row, 1)?,
        from: from.map_err(|_| Fault::Row("address"))?,
    };
    Ok((token_id(row, 0)?, used))
}
