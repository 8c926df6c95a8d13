//! Logins as messages: methods, seal keys, sessions, and a login that changes something.
//!
//! Beside the rest of the changes, which are older. A method's settings are written whole, so that
//! what an entry says needs no entry before it.

use super::{
    bytes_of, damaged, decode_digest, decode_display, decode_use, encode_token, encode_use, fixed,
    log, required, token,
};
use crate::domain::change::{Change, KeyPhase, NewToken, SealKeyRecord};
use crate::domain::clock::UnixMs;
use crate::domain::entry::DecodeError;
use crate::domain::limits::Networks;
use crate::domain::login::{
    ClientNetwork, LockoutPolicy, LoginMethod, LoginSettings, MethodRecord,
};
use crate::domain::principal::PrincipalId;
use crate::domain::seal::key::KeyId;
use crate::domain::token::TokenId;

pub(super) fn decode_login(made: log::Login) -> Result<Change, DecodeError> {
    let token = match made.token {
        None => None,
        Some(put) => Some(Box::new(NewToken {
            digest: required(decode_digest(&put)?, "no digest")?,
            record: token::decode(required(put.token, "no token")?)?,
            display: decode_display(put.display),
        })),
    };
    let spent = made.spent.as_ref().map(decode_use).transpose()?;
    if token.is_none() && spent.is_none() {
        return Err(damaged("a login that changes nothing"));
    }
    Ok(Change::Login { spent, token })
}

pub(super) fn encode_login(spent: Option<(TokenId, u32)>, token: Option<&NewToken>) -> log::Login {
    log::Login {
        spent: spent.map(encode_use),
        token: token.map(|new| encode_token(&new.record, Some(&new.digest), &new.display)),
    }
}

pub(super) fn encode_session(
    session: TokenId,
    account: Option<PrincipalId>,
    until_ms: UnixMs,
    compromised: bool,
) -> log::RevokeSession {
    log::RevokeSession {
        session: bytes_of(Some(session)),
        until_ms,
        compromised,
        account: account.map(|id| id.0),
    }
}

pub(super) fn encode_gone(principal: PrincipalId, method: LoginMethod) -> log::DeleteMethod {
    log::DeleteMethod {
        principal: principal.0,
        method: method as u32,
    }
}

pub(super) fn encode_lock(
    principal: PrincipalId,
    network: ClientNetwork,
    until_ms: UnixMs,
) -> log::Lock {
    log::Lock {
        principal: principal.0,
        network: network.to_string(),
        until_ms,
    }
}

pub(super) fn network(text: &str) -> Result<ClientNetwork, DecodeError> {
    required(ClientNetwork::parse(text), "network")
}

pub(super) fn encode_unlock(principal: PrincipalId, networks: &[ClientNetwork]) -> log::Unlock {
    log::Unlock {
        principal: principal.0,
        networks: networks.iter().map(ClientNetwork::to_string).collect(),
    }
}

pub(super) fn decode_unlock(unlock: &log::Unlock) -> Result<Change, DecodeError> {
    let networks: Result<Vec<_>, _> = unlock.networks.iter().map(|text| network(text)).collect();
    Ok(Change::Unlock {
        principal: PrincipalId(unlock.principal),
        networks: networks?,
    })
}

/// A session is an id without its time.
pub(super) fn decode_session(bytes: &[u8]) -> Result<TokenId, DecodeError> {
    let session = TokenId::from_bytes(fixed(bytes, "session")?);
    required(Some(session).filter(|id| id.session() == *id), "session")
}

pub(super) fn method(number: u32) -> Result<LoginMethod, DecodeError> {
    let method = u8::try_from(number).ok().and_then(LoginMethod::from_number);
    required(method, "login method")
}

pub(super) fn encode_method(record: &MethodRecord) -> log::PutMethod {
    let settings = &record.settings;
    log::PutMethod {
        principal: record.principal.0,
        method: record.method as u32,
        made_at: record.made_at,
        ttl_s: settings.ttl_s,
        max_ttl_s: settings.max_ttl_s,
        period_s: settings.period_s,
        uses: settings.uses,
        networks: settings.networks.iter().collect(),
        login_networks: settings.login_networks.iter().collect(),
        lockout: settings.lockout.map(|lockout| log::LockoutPolicy {
            threshold: lockout.threshold,
            duration_s: lockout.duration_s,
            reset_s: lockout.reset_s,
        }),
    }
}

pub(super) fn decode_method(put: &log::PutMethod) -> Result<MethodRecord, DecodeError> {
    let networks = |texts: &[String]| required(Networks::parse(texts), "networks");
    Ok(MethodRecord {
        principal: PrincipalId(put.principal),
        method: method(put.method)?,
        made_at: put.made_at,
        settings: LoginSettings {
            ttl_s: put.ttl_s,
            max_ttl_s: put.max_ttl_s,
            period_s: put.period_s,
            uses: put.uses,
            networks: networks(&put.networks)?,
            login_networks: networks(&put.login_networks)?,
            lockout: put.lockout.map(|lockout| LockoutPolicy {
                threshold: lockout.threshold,
                duration_s: lockout.duration_s,
                reset_s: lockout.reset_s,
            }),
        },
    })
}

pub(super) fn encode_keys(keys: &[SealKeyRecord]) -> log::PutSealKeys {
    log::PutSealKeys {
        keys: keys.iter().map(encode_key).collect(),
    }
}

fn encode_key(key: &SealKeyRecord) -> log::SealKey {
    log::SealKey {
        id: key.id.0,
        salt: key.salt.to_vec(),
        phase: key.phase as u32,
        since_ms: key.since_ms,
    }
}

pub(super) fn decode_key(key: &log::SealKey) -> Result<SealKeyRecord, DecodeError> {
    let phase = u8::try_from(key.phase).ok().and_then(KeyPhase::from_number);
    Ok(SealKeyRecord {
        id: KeyId(key.id),
        salt: fixed(&key.salt, "salt")?,
        phase: required(phase, "phase of a key")?,
        since_ms: key.since_ms,
    })
}
