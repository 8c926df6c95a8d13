//! Methods, seal keys, refused sessions and locks as rows of the tables.
//!
//! Each reader wants its columns selected in the order of the constant beside it. What is read
//! goes through the parsers of the domain again. Used by the snapshot; writing is in `operations`.

use tokio_postgres::Row as Found;

use super::fault::Fault;
use super::row::{bytes, number, optional_number, token_id, value};
use crate::domain::change::{KeyPhase, Row, SealKeyRecord};
use crate::domain::login::{ClientNetwork, LoginMethod, MethodRecord};
use crate::domain::principal::PrincipalId;
use crate::domain::seal::key::KeyId;
use crate::store::columns::{MethodColumns, parse_method};

/// What [`method`] reads.
pub(super) const METHOD_COLUMNS: &str = "principal, method, made_at, ttl_s, max_ttl_s, period_s, \
    uses, networks, login_networks, lockout_threshold, lockout_duration_s, lockout_reset_s";

/// A login method.
pub(super) fn method(row: &Found) -> Result<Row, Fault> {
    let method = u8::try_from(value::<i16>(row, 1)?).ok();
    let settings = parse_method(&MethodColumns {
        ttl_s: number(row, 3)?,
        max_ttl_s: optional_number(row, 4)?,
        period_s: optional_number(row, 5)?,
        uses: optional_number(row, 6)?,
        networks: value(row, 7)?,
        login_networks: value(row, 8)?,
        lockout: [
            optional_number(row, 9)?,
            optional_number(row, 10)?,
            optional_number(row, 11)?,
        ],
    });
    Ok(Row::Method(Box::new(MethodRecord {
        principal: PrincipalId(number(row, 0)?),
        method: method
            .and_then(LoginMethod::from_number)
            .ok_or(Fault::Row("login method"))?,
        made_at: number(row, 2)?,
        settings: settings.ok_or(Fault::Row("login method"))?,
    })))
}

/// What [`seal_key`] reads.
pub(super) const SEAL_KEY_COLUMNS: &str = "id, salt, phase, since_ms";

/// A seal key.
pub(super) fn seal_key(row: &Found) -> Result<Row, Fault> {
    let phase = u8::try_from(value::<i16>(row, 2)?).ok();
    Ok(Row::SealKey(SealKeyRecord {
        id: KeyId(number(row, 0)?),
        salt: bytes(row, 1)?,
        phase: phase
            .and_then(KeyPhase::from_number)
            .ok_or(Fault::Row("phase of a seal key"))?,
        since_ms: number(row, 3)?,
    }))
}

/// What [`revoked_session`] reads.
pub(super) const SESSION_COLUMNS: &str = "session, until_ms";

/// A session that is refused.
pub(super) fn revoked_session(row: &Found) -> Result<Row, Fault> {
    Ok(Row::RevokedSession {
        session: token_id(row, 0)?,
        until_ms: number(row, 1)?,
    })
}

/// What [`lock`] reads.
pub(super) const LOCK_COLUMNS: &str = "principal, network, until_ms";

/// A lock.
pub(super) fn lock(row: &Found) -> Result<Row, Fault> {
    Ok(Row::Lock {
        principal: PrincipalId(number(row, 0)?),
        network: ClientNetwork::parse(value(row, 1)?).ok_or(Fault::Row("network"))?,
        until_ms: number(row, 2)?,
    })
}
