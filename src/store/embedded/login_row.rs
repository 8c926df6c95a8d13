//! Methods, seal keys, refused sessions and locks as rows, and back.
//!
//! Writing is what the projection does with the changes of logins, inside of its transaction; what
//! does not fit the tables is refused there. Each reader wants its columns selected in the order
//! of the constant beside it. Used by the projection and the snapshot.

use rusqlite::{Connection, Row as Found, params};

use super::fault::Fault;
use crate::domain::change::{KeyPhase, Row, SealKeyRecord};
use crate::domain::clock::UnixMs;
use crate::domain::entry::Entry;
use crate::domain::login::{ClientNetwork, LoginMethod, MethodRecord};
use crate::domain::principal::PrincipalId;
use crate::domain::seal::key::KeyId;
use crate::domain::token::TokenId;
use crate::store::columns::{MethodColumns, method_columns, parse_method};

/// What [`method`] reads.
pub(super) const METHOD_COLUMNS: &str = "principal, method, made_at, ttl_s, max_ttl_s, period_s, \
    uses, networks, login_networks, lockout_threshold, lockout_duration_s, lockout_reset_s";

/// A login method.
pub(super) fn method(row: &Found<'_>) -> Result<Row, Fault> {
    let text = |index| {
        let value = row.get_ref(index)?;
        value.as_str_or_null().map_err(|_| Fault::Row("network"))
    };
    let settings = parse_method(&MethodColumns {
        ttl_s: row.get(3)?,
        max_ttl_s: row.get(4)?,
        period_s: row.get(5)?,
        uses: row.get(6)?,
        networks: text(7)?,
        login_networks: text(8)?,
        lockout: [row.get(9)?, row.get(10)?, row.get(11)?],
    });
    Ok(Row::Method(Box::new(MethodRecord {
        principal: PrincipalId(row.get(0)?),
        method: LoginMethod::from_number(row.get(1)?).ok_or(Fault::Row("login method"))?,
        made_at: row.get(2)?,
        settings: settings.ok_or(Fault::Row("login method"))?,
    })))
}

/// Writes a method of a principal that is there.
pub(super) fn put_method(
    connection: &Connection,
    entry: &Entry,
    record: &MethodRecord,
) -> Result<usize, Fault> {
    let sql = "-- put_method
        INSERT INTO login_methods (principal, method, made_at, changed_at, ttl_s, max_ttl_s,
          period_s, uses, networks, login_networks, lockout_threshold, lockout_duration_s,
          lockout_reset_s)
        SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13
        WHERE EXISTS (SELECT 1 FROM principals WHERE id = ?1 AND deleted_at IS NULL)
        ON CONFLICT (principal, method) DO UPDATE SET made_at = ?3, changed_at = ?4, ttl_s = ?5,
          max_ttl_s = ?6, period_s = ?7, uses = ?8, networks = ?9, login_networks = ?10,
          lockout_threshold = ?11, lockout_duration_s = ?12, lockout_reset_s = ?13";
    let columns = method_columns(&record.settings);
    let [threshold, duration_s, reset_s] = columns.lockout;
    Ok(connection.prepare_cached(sql)?.execute(params![
        record.principal.0,
        record.method as u8,
        record.made_at,
        entry.revision,
        columns.ttl_s,
        columns.max_ttl_s,
        columns.period_s,
        columns.uses,
        columns.networks,
        columns.login_networks,
        threshold,
        duration_s,
        reset_s,
    ])?)
}

/// Deletes a method.
pub(super) fn delete_method(
    connection: &Connection,
    principal: PrincipalId,
    method: LoginMethod,
) -> Result<usize, Fault> {
    let sql = "-- delete_method\nDELETE FROM login_methods WHERE principal = ?1 AND method = ?2";
    let mut delete = connection.prepare_cached(sql)?;
    Ok(delete.execute(params![principal.0, method as u8])?)
}

/// What [`seal_key`] reads.
pub(super) const SEAL_KEY_COLUMNS: &str = "id, salt, phase, since_ms";

/// A seal key.
pub(super) fn seal_key(row: &Found<'_>) -> Result<Row, Fault> {
    Ok(Row::SealKey(SealKeyRecord {
        id: KeyId(row.get(0)?),
        salt: row.get(1)?,
        phase: KeyPhase::from_number(row.get(2)?).ok_or(Fault::Row("phase of a seal key"))?,
        since_ms: row.get(3)?,
    }))
}

/// Writes a seal key.
pub(super) fn put_seal_key(
    connection: &Connection,
    entry: &Entry,
    record: &SealKeyRecord,
) -> Result<(), Fault> {
    let sql = "-- put_seal_key
        INSERT INTO seal_keys (id, salt, phase, since_ms, changed_at) VALUES (?1, ?2, ?3, ?4, ?5)
        ON CONFLICT (id) DO UPDATE SET salt = ?2, phase = ?3, since_ms = ?4, changed_at = ?5";
    connection.prepare_cached(sql)?.execute(params![
        record.id.0,
        record.salt,
        record.phase as u8,
        record.since_ms,
        entry.revision,
    ])?;
    Ok(())
}

/// What [`revoked_session`] reads.
pub(super) const SESSION_COLUMNS: &str = "session, until_ms";

/// A session that is refused.
pub(super) fn revoked_session(row: &Found<'_>) -> Result<Row, Fault> {
    Ok(Row::RevokedSession {
        session: TokenId::from_bytes(row.get(0)?),
        until_ms: row.get(1)?,
    })
}

/// Writes a session that is refused.
pub(super) fn revoke_session(
    connection: &Connection,
    entry: &Entry,
    session: TokenId,
    until_ms: UnixMs,
) -> Result<(), Fault> {
    let sql = "-- revoke_session
        INSERT INTO revoked_sessions (session, until_ms, changed_at) VALUES (?1, ?2, ?3)
        ON CONFLICT (session) DO UPDATE SET until_ms = ?2, changed_at = ?3";
    let mut insert = connection.prepare_cached(sql)?;
    insert.execute(params![session.to_bytes(), until_ms, entry.revision])?;
    Ok(())
}

/// What [`lock`] reads.
pub(super) const LOCK_COLUMNS: &str = "principal, network, until_ms";

/// A lock.
pub(super) fn lock(row: &Found<'_>) -> Result<Row, Fault> {
    let network = row.get::<_, String>(1)?;
    Ok(Row::Lock {
        principal: PrincipalId(row.get(0)?),
        network: ClientNetwork::parse(&network).ok_or(Fault::Row("network"))?,
        until_ms: row.get(2)?,
    })
}

/// Writes a lock of a principal that is there.
pub(super) fn put_lock(
    connection: &Connection,
    entry: &Entry,
    principal: PrincipalId,
    network: ClientNetwork,
    until_ms: UnixMs,
) -> Result<usize, Fault> {
    let sql = "-- put_lock
        INSERT INTO login_locks (principal, network, until_ms, changed_at) SELECT ?1, ?2, ?3, ?4
        WHERE EXISTS (SELECT 1 FROM principals WHERE id = ?1 AND deleted_at IS NULL)
        ON CONFLICT (principal, network) DO UPDATE SET until_ms = ?3, changed_at = ?4";
    Ok(connection.prepare_cached(sql)?.execute(params![
        principal.0,
        network.to_string(),
        until_ms,
        entry.revision,
    ])?)
}

/// Deletes the locks of a principal that ended by an instant.
pub(super) fn delete_ended_locks(
    connection: &Connection,
    principal: PrincipalId,
    instant_ms: UnixMs,
) -> Result<(), Fault> {
    let sql = "-- delete_ended_locks
        DELETE FROM login_locks WHERE principal = ?1 AND until_ms <= ?2";
    let mut delete = connection.prepare_cached(sql)?;
    delete.execute(params![principal.0, instant_ms])?;
    Ok(())
}

/// Deletes a lock.
pub(super) fn delete_lock(
    connection: &Connection,
    principal: PrincipalId,
    network: ClientNetwork,
) -> Result<usize, Fault> {
    let sql = "-- delete_lock
        DELETE FROM login_locks WHERE principal = ?1 AND network = ?2";
    let mut delete = connection.prepare_cached(sql)?;
    Ok(delete.execute(params![principal.0, network.to_string()])?)
}
