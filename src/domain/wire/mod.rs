//! Bodies of entries as bytes: the protobuf of `latchkey.log.v1`, to and from domain types.
//!
//! Used by [`super::entry`] alone. Encoding is deterministic. Decoding parses every text again
//! and refuses what this version does not know: a format, a kind, a change, and, by comparing
//! lengths, a field; nothing is skipped. Deliberately absent: any rule about what a change means.

mod login;
mod token;

use prost::Message as _;

use super::change::{
    Change, CutOffTarget, Display, GrantRecord, PrincipalRecord, RoleRecord, TokenRecord,
};
use super::entry::{Actor, DecodeError, Entry, EntryKind, Request};
use super::format::format_max;
use super::permission::{ActionPattern, Resource, ResourcePattern};
use super::principal::{GrantId, PrincipalId, PrincipalKind, PrincipalName, RoleName};
use super::token::{Digest, TokenId};
use crate::proto::log;
use log::body::Change as Wire;

/// The bytes to hash and to store.
pub(super) fn encode(entry: &Entry) -> Vec<u8> {
    let body = log::Body {
        format: entry.kind.format(),
        revision: entry.revision,
        instant_ms: entry.instant_ms,
        actor: Some(log::Actor {
            principal: entry.actor.principal.map(|id| id.0),
            token_id: bytes_of(entry.actor.token),
            name: entry.actor.name.clone(),
        }),
        kind: u32::from(entry.kind as u16),
        target: entry.target.clone(),
        reason: entry.reason.clone(),
        batch_id: entry.batch_id.to_vec(),
        request: entry.request.map(|request| log::Request {
            key: request.key.to_vec(),
            fingerprint: request.fingerprint.to_vec(),
        }),
        state_digest: entry.state_digest.map_or_else(Vec::new, Vec::from),
        change: Some(encode_change(&entry.change)),
    };
    body.encode_to_vec()
}

/// Reads stored bytes.
pub(super) fn decode(bytes: &[u8]) -> Result<Entry, DecodeError> {
    let body = log::Body::decode(bytes).map_err(|_| damaged("not a message"))?;
    match body.format {
        0 => return Err(damaged("no format")),
        known if known <= format_max() => {}
        newer => return Err(DecodeError::Format(newer)),
    }
    let kind = EntryKind::from_number(body.kind).ok_or(DecodeError::Kind(body.kind))?;
    if kind.format() != body.format {
        return Err(damaged("another format than its kind's"));
    }
    // Protobuf drops fields that it does not know: the message is then shorter than its bytes.
    if body.encoded_len() != bytes.len() {
        return Err(damaged("unknown fields"));
    }
    let actor = required(body.actor, "no actor")?;
    let request = match body.request {
        None => None,
        Some(request) => Some(Request {
            key: fixed(&request.key, "request key")?,
            fingerprint: fixed(&request.fingerprint, "request fingerprint")?,
        }),
    };
    Ok(Entry {
        revision: body.revision,
        instant_ms: body.instant_ms,
        actor: Actor {
            principal: actor.principal.map(PrincipalId),
            token: optional_id(&actor.token_id, "actor's token")?,
            name: actor.name,
        },
        kind,
        target: body.target,
        reason: body.reason,
        batch_id: fixed(&body.batch_id, "batch id")?,
        request,
        state_digest: optional(&body.state_digest, "state digest")?,
        change: decode_change(required(body.change, "no change, or an unknown one")?)?,
    })
}

fn encode_change(change: &Change) -> Wire {
    match change {
        Change::PutToken {
            record,
            digest,
            display,
        } => Wire::PutToken(encode_token(record, digest.as_ref(), display)),
        Change::RevokeToken { id, compromised } => Wire::RevokeToken(log::RevokeToken {
            token_id: bytes_of(Some(*id)),
            compromised: *compromised,
        }),
        Change::CutOff(target) => Wire::CutOff(log::CutOff {
            target: Some(encode_cut_off(target)),
        }),
        Change::UseToken { id, left } => Wire::UseToken(encode_use((*id, *left))),
        Change::PutPrincipal { record, display } => {
            Wire::PutPrincipal(encode_principal(record, display))
        }
        Change::DeletePrincipal(id) => Wire::DeletePrincipal(log::DeletePrincipal { id: id.0 }),
        Change::AddMember { team, member } => Wire::AddMember(log::AddMember {
            team: team.0,
            member: member.0,
        }),
        Change::RemoveMember {
            team,
            member,
            cut_off_tokens,
        } => Wire::RemoveMember(log::RemoveMember {
            team: team.0,
            member: member.0,
            cut_off_tokens: *cut_off_tokens,
        }),
        Change::PutRole { record, display } => Wire::PutRole(encode_role(record, display)),
        Change::DeleteRole(name) => Wire::DeleteRole(log::DeleteRole {
            name: name.as_str().to_owned(),
        }),
        Change::PutGrant(record) => Wire::PutGrant(encode_grant(record)),
        Change::DeleteGrant(id) => Wire::DeleteGrant(log::DeleteGrant { id: id.0 }),
        Change::Forget { before_ms, slice } => Wire::Forget(log::Forget {
            before_ms: *before_ms,
            slice: u32::from(*slice),
        }),
        Change::RaiseFormat(level) => Wire::RaiseFormat(log::RaiseFormat { level: *level }),
        Change::Login { spent, token } => {
            Wire::Login(login::encode_login(*spent, token.as_deref()))
        }
        Change::RevokeSession {
            session,
            account,
            until_ms,
            compromised,
        } => {
            let revoke = login::encode_session(*session, *account, *until_ms, *compromised);
            Wire::RevokeSession(revoke)
        }
        Change::PutMethod(record) => Wire::PutMethod(login::encode_method(record)),
        Change::DeleteMethod { principal, method } => {
            Wire::DeleteMethod(login::encode_gone(*principal, *method))
        }
        Change::Lock {
            principal,
            network,
            until_ms,
        } => Wire::Lock(login::encode_lock(*principal, *network, *until_ms)),
        Change::Unlock {
            principal,
            networks,
        } => Wire::Unlock(login::encode_unlock(*principal, networks)),
        Change::PutSealKeys(keys) => Wire::PutSealKeys(login::encode_keys(keys)),
    }
}

fn decode_change(change: Wire) -> Result<Change, DecodeError> {
    Ok(match change {
        Wire::PutToken(put) => Change::PutToken {
            digest: decode_digest(&put)?,
            record: Box::new(token::decode(required(put.token, "no token")?)?),
            display: decode_display(put.display),
        },
        Wire::RevokeToken(revoke) => Change::RevokeToken {
            id: id(&revoke.token_id, "token id")?,
            compromised: revoke.compromised,
        },
        Wire::CutOff(cut) => Change::CutOff(decode_cut_off(required(cut.target, "no target")?)?),
        Wire::UseToken(spent) => {
            let (id, left) = decode_use(&spent)?;
            Change::UseToken { id, left }
        }
        Wire::PutPrincipal(put) => decode_principal(put)?,
        Wire::DeletePrincipal(gone) => Change::DeletePrincipal(PrincipalId(gone.id)),
        Wire::AddMember(add) => Change::AddMember {
            team: PrincipalId(add.team),
            member: PrincipalId(add.member),
        },
        Wire::RemoveMember(remove) => Change::RemoveMember {
            team: PrincipalId(remove.team),
            member: PrincipalId(remove.member),
            cut_off_tokens: remove.cut_off_tokens,
        },
        Wire::PutRole(put) => decode_role(put)?,
        Wire::DeleteRole(gone) => Change::DeleteRole(role_name(&gone.name)?),
        Wire::PutGrant(put) => Change::PutGrant(GrantRecord {
            id: GrantId(put.id),
            principal: PrincipalId(put.principal),
            role: role_name(&put.role)?,
            resource: ResourcePattern::parse(&put.resource)
                .map_err(|_| damaged("resource pattern"))?,
            made_at: put.made_at,
        }),
        Wire::DeleteGrant(gone) => Change::DeleteGrant(GrantId(gone.id)),
        Wire::Forget(forget) => Change::Forget {
            before_ms: forget.before_ms,
            slice: u8::try_from(forget.slice).map_err(|_| damaged("slice"))?,
        },
        Wire::RaiseFormat(raise) => Change::RaiseFormat(raise.level),
        Wire::Login(made) => login::decode_login(made)?,
        Wire::RevokeSession(revoke) => Change::RevokeSession {
            session: login::decode_session(&revoke.session)?,
            account: revoke.account.map(PrincipalId),
            until_ms: revoke.until_ms,
            compromised: revoke.compromised,
        },
        Wire::PutMethod(put) => Change::PutMethod(Box::new(login::decode_method(&put)?)),
        Wire::DeleteMethod(gone) => Change::DeleteMethod {
            principal: PrincipalId(gone.principal),
            method: login::method(gone.method)?,
        },
        Wire::Lock(lock) => Change::Lock {
            principal: PrincipalId(lock.principal),
            network: login::network(&lock.network)?,
            until_ms: lock.until_ms,
        },
        Wire::Unlock(unlock) => login::decode_unlock(&unlock)?,
        Wire::PutSealKeys(put) => {
            let keys = put.keys.iter().map(login::decode_key);
            Change::PutSealKeys(keys.collect::<Result<_, _>>()?)
        }
    })
}

fn encode_token(record: &TokenRecord, digest: Option<&Digest>, display: &Display) -> log::PutToken {
    log::PutToken {
        token: Some(token::encode(record)),
        digest: digest.map_or_else(Vec::new, |digest| digest.as_bytes().to_vec()),
        display: encode_display(display),
    }
}

fn decode_digest(put: &log::PutToken) -> Result<Option<Digest>, DecodeError> {
    Ok(optional(&put.digest, "digest")?.map(Digest::from_bytes))
}

fn encode_use((id, left): (TokenId, u32)) -> log::UseToken {
    log::UseToken {
        token_id: bytes_of(Some(id)),
        left,
    }
}

fn decode_use(spent: &log::UseToken) -> Result<(TokenId, u32), DecodeError> {
    Ok((id(&spent.token_id, "token id")?, spent.left))
}

fn encode_grant(record: &GrantRecord) -> log::PutGrant {
    log::PutGrant {
        id: record.id.0,
        principal: record.principal.0,
        role: record.role.as_str().to_owned(),
        resource: record.resource.as_str().to_owned(),
        made_at: record.made_at,
    }
}

fn encode_principal(record: &PrincipalRecord, display: &Display) -> log::PutPrincipal {
    log::PutPrincipal {
        id: record.id.0,
        kind: record.name.kind() as u32,
        name: record.name.name().to_owned(),
        home: record.home.as_str().to_owned(),
        disabled: record.disabled,
        made_at: record.made_at,
        display: encode_display(display),
    }
}

fn decode_principal(put: log::PutPrincipal) -> Result<Change, DecodeError> {
    let kind = u8::try_from(put.kind)
        .ok()
        .and_then(PrincipalKind::from_number)
        .ok_or(damaged("kind of principal"))?;
    let record = PrincipalRecord {
        id: PrincipalId(put.id),
        name: PrincipalName::new(kind, &put.name).ok_or(damaged("principal's name"))?,
        home: resource(&put.home)?,
        disabled: put.disabled,
        made_at: put.made_at,
    };
    Ok(Change::PutPrincipal {
        record,
        display: decode_display(put.display),
    })
}

fn encode_role(record: &RoleRecord, display: &Display) -> log::PutRole {
    let actions = record.actions.iter();
    log::PutRole {
        name: record.name.as_str().to_owned(),
        home: record.home.as_str().to_owned(),
        actions: actions.map(|action| action.as_str().to_owned()).collect(),
        made_at: record.made_at,
        display: encode_display(display),
    }
}

fn decode_role(put: log::PutRole) -> Result<Change, DecodeError> {
    let actions = put
        .actions
        .iter()
        .map(|action| ActionPattern::parse(action).map_err(|_| damaged("action pattern")))
        .collect::<Result<_, _>>()?;
    let record = RoleRecord {
        name: role_name(&put.name)?,
        home: resource(&put.home)?,
        actions,
        made_at: put.made_at,
    };
    Ok(Change::PutRole {
        record,
        display: decode_display(put.display),
    })
}

fn encode_cut_off(target: &CutOffTarget) -> log::cut_off::Target {
    use log::cut_off::Target;
    match target {
        CutOffTarget::Subject(id) => Target::Subject(id.0),
        CutOffTarget::IssuedByPrincipal(id) => Target::IssuedByPrincipal(id.0),
        CutOffTarget::IssuedByToken(id) => Target::IssuedByToken(bytes_of(Some(*id))),
        CutOffTarget::IssuedForTeam(team, member) => Target::IssuedForTeam(log::Membership {
            team: team.0,
            member: member.0,
        }),
        CutOffTarget::ResourceUnder(resource) => {
            Target::ResourceUnder(resource.as_str().to_owned())
        }
        CutOffTarget::Sessions(id) => Target::Sessions(id.0),
    }
}

fn decode_cut_off(target: log::cut_off::Target) -> Result<CutOffTarget, DecodeError> {
    use log::cut_off::Target;
    Ok(match target {
        Target::Subject(id) => CutOffTarget::Subject(PrincipalId(id)),
        Target::IssuedByPrincipal(id) => CutOffTarget::IssuedByPrincipal(PrincipalId(id)),
        Target::IssuedByToken(bytes) => CutOffTarget::IssuedByToken(id(&bytes, "token id")?),
        Target::IssuedForTeam(membership) => CutOffTarget::IssuedForTeam(
            PrincipalId(membership.team),
            PrincipalId(membership.member),
        ),
        Target::ResourceUnder(path) => CutOffTarget::ResourceUnder(resource(&path)?),
        Target::Sessions(id) => CutOffTarget::Sessions(PrincipalId(id)),
    })
}

fn encode_display(display: &Display) -> Option<log::Display> {
    (*display != Display::default()).then(|| log::Display {
        name: display.name.clone(),
        description: display.description.clone(),
        labels: display.labels.clone().map(|labels| log::Labels { labels }),
        last4: display.last4.clone(),
    })
}

fn decode_display(display: Option<log::Display>) -> Display {
    display.map_or_else(Display::default, |display| Display {
        name: display.name,
        description: display.description,
        labels: display.labels.map(|labels| labels.labels),
        last4: display.last4,
    })
}

fn damaged(what: &'static str) -> DecodeError {
    DecodeError::Body(what)
}

fn required<T>(part: Option<T>, what: &'static str) -> Result<T, DecodeError> {
    part.ok_or(damaged(what))
}

fn fixed<const N: usize>(bytes: &[u8], what: &'static str) -> Result<[u8; N], DecodeError> {
    bytes.try_into().map_err(|_| damaged(what))
}

/// Empty bytes stand for nothing.
fn optional<const N: usize>(
    bytes: &[u8],
    what: &'static str,
) -> Result<Option<[u8; N]>, DecodeError> {
    if bytes.is_empty() {
        Ok(None)
    } else {
        fixed(bytes, what).map(Some)
    }
}

fn bytes_of(token: Option<TokenId>) -> Vec<u8> {
    token.map_or_else(Vec::new, |id| id.to_bytes().to_vec())
}

fn id(bytes: &[u8], what: &'static str) -> Result<TokenId, DecodeError> {
    fixed(bytes, what).map(TokenId::from_bytes)
}

fn optional_id(bytes: &[u8], what: &'static str) -> Result<Option<TokenId>, DecodeError> {
    Ok(optional(bytes, what)?.map(TokenId::from_bytes))
}

fn resource(text: &str) -> Result<Resource, DecodeError> {
    Resource::parse(text).map_err(|_| damaged("resource"))
}

fn role_name(text: &str) -> Result<RoleName, DecodeError> {
    RoleName::parse(text).ok_or(damaged("role's name"))
}

#[cfg(test)]
mod tests;
