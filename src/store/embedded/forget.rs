//! Taking out of the tables what State forgets: ended tokens of one slice, refused sessions and
//! locks that have ended, and old request ids.
//!
//! The rule is that of `state::apply`: expired or revoked before the instant, or the subject is
//! gone; a public key that was revoked stays. Slices keep one change small however many tokens there are.

use rusqlite::{Connection, params};

use super::fault::Fault;
use super::used::delete_last_used;
use crate::domain::change::Issuer;
use crate::domain::clock::UnixMs;
use crate::domain::entry::REQUEST_KEPT_MS;
use crate::domain::token::{TokenId, TokenKind};
use crate::store::columns::unpack_issuers;

const ENDED: &str = "-- forget_tokens: ended
    SELECT id, issuers FROM tokens
    WHERE id IN (SELECT id FROM tokens WHERE slice = ?1 AND ended_ms < ?2
      AND NOT (kind = ?3 AND revoked_ms IS NOT NULL))";

const SUBJECT_GONE: &str = "-- forget_tokens: the subject is gone
    SELECT id, issuers FROM tokens
    WHERE subject IN (SELECT id FROM principals WHERE deleted_at IS NOT NULL) AND slice = ?1
      AND (ended_ms IS NULL OR ended_ms >= ?2) AND NOT (kind = ?3 AND revoked_ms IS NOT NULL)";

/// Deletes the tokens of a slice that ended before an instant, and those whose subject is gone.
pub(super) fn forget_tokens(
    connection: &Connection,
    before_ms: UnixMs,
    slice: u8,
) -> Result<(), Fault> {
    let mut ended: Vec<(TokenId, Vec<Issuer>)> = Vec::new();
    for sql in [ENDED, SUBJECT_GONE] {
        let mut select = connection.prepare_cached(sql)?;
        let mut rows = select.query(params![slice, before_ms, TokenKind::PublicKey as u8])?;
        while let Some(row) = rows.next()? {
            let packed = row
                .get_ref(1)?
                .as_blob()
                .map_err(|_| Fault::Row("issuer"))?;
            let issuers = unpack_issuers(packed).ok_or(Fault::Row("issuer"))?;
            ended.push((TokenId::from_bytes(row.get(0)?), issuers));
        }
    }
    let mut delete =
        connection.prepare_cached("-- forget_tokens\nDELETE FROM tokens WHERE id = ?1")?;
    for (id, issuers) in ended {
        let deleted = delete.execute([id.to_bytes()])?;
        if deleted != 1 {
            return Err(Fault::Row("token"));
        }
        delete_issuers(connection, id, &issuers)?;
        delete_labels(connection, id)?;
        delete_last_used(connection, id)?;
    }
    Ok(())
}

/// Deletes the request ids that have been kept long enough; says how many they were.
pub(super) fn forget_requests(connection: &Connection, instant_ms: UnixMs) -> Result<usize, Fault> {
    let sql = "-- forget_requests\nDELETE FROM requests WHERE instant_ms < ?1";
    let kept_from_ms = instant_ms.saturating_sub(REQUEST_KEPT_MS);
    Ok(connection.prepare_cached(sql)?.execute([kept_from_ms])?)
}

/// Deletes the sessions and locks that ended before an instant.
pub(super) fn forget_logins(connection: &Connection, before_ms: UnixMs) -> Result<(), Fault> {
    for sql in [
        "-- forget_logins: sessions\nDELETE FROM revoked_sessions WHERE until_ms < ?1",
        "-- forget_logins: locks\nDELETE FROM login_locks WHERE until_ms < ?1",
    ] {
        connection.prepare_cached(sql)?.execute([before_ms])?;
    }
    Ok(())
}

/// Deletes the rows by which a token is found under its issuers.
pub(super) fn delete_issuers(
    connection: &Connection,
    id: TokenId,
    issuers: &[Issuer],
) -> Result<(), Fault> {
    let sql = "-- delete_issuers\nDELETE FROM token_issuers WHERE principal = ?1 AND token = ?2";
    let mut delete = connection.prepare_cached(sql)?;
    for principal in issuers.iter().filter_map(|issuer| issuer.principal) {
        delete.execute(params![principal.0, id.to_bytes()])?;
    }
    Ok(())
}

/// Deletes a token's labels.
pub(super) fn delete_labels(connection: &Connection, id: TokenId) -> Result<(), Fault> {
    let sql = "-- delete_labels\nDELETE FROM token_labels WHERE token = ?1";
    connection.prepare_cached(sql)?.execute([id.to_bytes()])?;
    Ok(())
}
