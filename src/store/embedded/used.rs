//! When tokens were last used: a narrow table beside what the log makes.
//!
//! Written by the writer's thread between two appends, on a connection of its own whose commits
//! wait for no disk: an append waits for a few rows at the most, never for another sync. Read with
//! the tokens that a page shows.

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};

use super::fault::Fault;
use super::place::Place;
use super::{OpenError, schema};
use crate::domain::token::TokenId;
use crate::store::StoreError;
use crate::store::list::LastUsed;

/// Rows that are written in one go; an append waits for no more.
pub(super) const NOTED_TOGETHER: usize = 64;

/// The connection, once there was something to write; `None` again after a failure.
#[derive(Default)]
pub(super) struct Noter {
    connection: Option<Connection>,
}

impl Noter {
    /// Writes what need not last.
    pub(super) fn note(
        &mut self,
        place: &Place,
        pages_max: Option<u32>,
        write: impl FnOnce(&mut Connection) -> Result<(), Fault>,
    ) -> Result<(), StoreError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => schema::open_lax_writer(&place.database(), pages_max)
                .map_err(OpenError::into_store)?,
        };
        write(&mut connection).map_err(|fault| fault.at(0))?;
        self.connection = Some(connection);
        Ok(())
    }

    /// Gives the connection up.
    pub(super) fn close(&mut self) {
        self.connection = None;
    }
}

/// Writes some last uses.
pub(super) fn note_used(
    connection: &mut Connection,
    used: &[(TokenId, LastUsed)],
) -> Result<(), Fault> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // A token that was forgotten meanwhile leaves no row behind.
    let sql = "-- note_used
        INSERT INTO token_used (token, instant_ms, address)
        SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 FROM tokens WHERE id = ?1)
        ON CONFLICT (token) DO UPDATE SET instant_ms = excluded.instant_ms,
          address = excluded.address
        WHERE excluded.instant_ms > token_used.instant_ms";
    let mut upsert = transaction.prepare_cached(sql)?;
    for (token, used) in used {
        let address = used.from.map(|address| address.to_string());
        upsert.execute(params![token.to_bytes(), used.at_ms, address])?;
    }
    drop(upsert);
    transaction.commit()?;
    Ok(())
}

/// When a token was last used, if that is known.
pub(super) fn last_used(connection: &Connection, id: TokenId) -> Result<Option<LastUsed>, Fault> {
    let sql = "-- last_used\nSELECT instant_ms, address FROM token_used WHERE token = ?1";
    let mut select = connection.prepare_cached(sql)?;
    let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get::<_, Option<String>>(1)?));
    let Some((at_ms, address)) = select.query_row([id.to_bytes()], row).optional()? else {
        return Ok(None);
    };
    let from = address.map(|text| text.parse()).transpose();
    let from = from.map_err(|_| Fault::Row("address"))?;
    Ok(Some(LastUsed { at_ms, from }))
}

/// Forgets that a token was used.
pub(super) fn delete_last_used(connection: &Connection, id: TokenId) -> Result<(), Fault> {
    let sql = "-- delete_last_used\nDELETE FROM token_used WHERE token = ?1";
    connection.prepare_cached(sql)?.execute([id.to_bytes()])?;
    Ok(())
}
