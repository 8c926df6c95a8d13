//! The record of a token as a message, to and from [`TokenRecord`].
//!
//! The largest of the messages and the only one with parts of its own. A set of permissions is
//! absent or present, never empty to mean everything: absent scopes are `All`, an absent ceiling
//! is none.

use super::{bytes_of, damaged, fixed, id, log, optional_id, required, resource};
use crate::domain::change::{EXPIRES_MS_MAX, Grace, Issuer, Revoked, Subject, TokenRecord};
use crate::domain::entry::DecodeError;
use crate::domain::key::PublicKey;
use crate::domain::limits::{Audience, Networks, Uses, Workload};
use crate::domain::permission::Permission;
use crate::domain::principal::PrincipalId;
use crate::domain::scopes::{PermissionSet, Scopes};
use crate::domain::token::TokenKind;

pub(super) fn encode(record: &TokenRecord) -> log::Token {
    let (principal, path) = match &record.subject {
        Subject::Principal(id) => (Some(id.0), String::new()),
        Subject::Resource(resource) => (None, resource.as_str().to_owned()),
    };
    let audience = record.audience.as_ref().map(Audience::as_str);
    let workload = record.workload.as_ref().map(Workload::as_str);
    log::Token {
        id: record.id.to_bytes().to_vec(),
        key: record.key.to_be_bytes().to_vec(),
        kind: record.kind as u32,
        principal,
        resource: path,
        scopes: match &record.scopes {
            Scopes::All => None,
            Scopes::Only(set) => Some(encode_set(set)),
        },
        ceiling: record.ceiling.as_ref().map(encode_set),
        issuers: record.issuers.iter().map(encode_issuer).collect(),
        parent: bytes_of(record.parent),
        made_at: record.made_at,
        not_before_ms: record.not_before_ms,
        expires_ms: record.expires_ms,
        expires_max_ms: record.expires_max_ms,
        ttl_s: record.ttl_s,
        period_s: record.period_s,
        uses: record.uses.map(|uses| log::Uses {
            limit: uses.limit,
            left: uses.left,
        }),
        networks: record.networks.iter().collect(),
        audience: audience.unwrap_or_default().to_owned(),
        workload: workload.unwrap_or_default().to_owned(),
        rotation: record.rotation,
        grace: record.grace.map(|grace| log::Grace {
            key: grace.key.to_be_bytes().to_vec(),
            until_ms: grace.until_ms,
        }),
        revoked: record.revoked.map(|revoked| log::Revoked {
            revision: revoked.revision,
            at_ms: revoked.at_ms,
        }),
        public_key: record
            .public_key
            .as_ref()
            .map_or_else(Vec::new, |key| key.as_bytes().to_vec()),
    }
}

pub(super) fn decode(token: log::Token) -> Result<TokenRecord, DecodeError> {
    let kind = u8::try_from(token.kind)
        .ok()
        .and_then(TokenKind::from_number)
        .ok_or(damaged("kind of token"))?;
    let issuers = token.issuers.iter().map(decode_issuer);
    let grace_ms = token.grace.as_ref().map(|grace| grace.until_ms);
    let ends = [token.expires_ms, token.expires_max_ms, grace_ms];
    if ends.into_iter().flatten().any(|end| end > EXPIRES_MS_MAX) {
        return Err(damaged("expiry"));
    }
    Ok(TokenRecord {
        id: id(&token.id, "token id")?,
        key: key(&token.key)?,
        kind,
        subject: decode_subject(kind, token.principal, &token.resource)?,
        scopes: match token.scopes {
            None => Scopes::All,
            Some(set) => Scopes::Only(decode_set(&set)?),
        },
        ceiling: token.ceiling.as_ref().map(decode_set).transpose()?,
        issuers: issuers.collect::<Result<_, _>>()?,
        parent: optional_id(&token.parent, "parent")?,
        made_at: token.made_at,
        not_before_ms: token.not_before_ms,
        expires_ms: token.expires_ms,
        expires_max_ms: token.expires_max_ms,
        ttl_s: token.ttl_s,
        period_s: token.period_s,
        uses: token.uses.map(|uses| Uses {
            limit: uses.limit,
            left: uses.left,
        }),
        networks: Networks::parse(&token.networks).ok_or(damaged("networks"))?,
        audience: optional_text(&token.audience, Audience::parse, "audience")?,
        workload: optional_text(&token.workload, Workload::parse, "workload")?,
        rotation: token.rotation,
        grace: match token.grace {
            None => None,
            Some(grace) => Some(Grace {
                key: key(&grace.key)?,
                until_ms: grace.until_ms,
            }),
        },
        revoked: token.revoked.map(|revoked| Revoked {
            revision: revoked.revision,
            at_ms: revoked.at_ms,
        }),
        public_key: decode_public_key(kind, &token.public_key)?,
    })
}

fn decode_public_key(kind: TokenKind, bytes: &[u8]) -> Result<Option<PublicKey>, DecodeError> {
    match (kind, bytes) {
        (TokenKind::PublicKey, bytes) => match PublicKey::parse(bytes) {
            Ok(key) => Ok(Some(key)),
            Err(_) => Err(damaged("public key")),
        },
        (_, []) => Ok(None),
        _ => Err(damaged("public key")),
    }
}

fn decode_subject(
    kind: TokenKind,
    principal: Option<u32>,
    path: &str,
) -> Result<Subject, DecodeError> {
    match (kind, principal) {
        (TokenKind::Resource, None) => Ok(Subject::Resource(resource(path)?)),
        (TokenKind::Resource, Some(_)) => Err(damaged("subject")),
        (_, Some(id)) if path.is_empty() => Ok(Subject::Principal(PrincipalId(id))),
        _ => Err(damaged("subject")),
    }
}

fn encode_set(set: &PermissionSet) -> log::PermissionSet {
    let permissions = set.iter().map(|permission| log::Permission {
        action: permission.action.as_str().to_owned(),
        resource: permission.resource.as_str().to_owned(),
    });
    log::PermissionSet {
        permissions: permissions.collect(),
    }
}

fn decode_set(set: &log::PermissionSet) -> Result<PermissionSet, DecodeError> {
    let permissions = set
        .permissions
        .iter()
        .map(|one| Permission::parse(&one.action, &one.resource))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| damaged("permission"))?;
    PermissionSet::new(permissions).map_err(|_| damaged("permissions"))
}

fn encode_issuer(issuer: &Issuer) -> log::Issuer {
    let tokens = issuer.tokens.iter();
    log::Issuer {
        principal: issuer.principal.map(|id| id.0),
        tokens: tokens.map(|token| token.to_bytes().to_vec()).collect(),
        since: issuer.since,
    }
}

fn decode_issuer(issuer: &log::Issuer) -> Result<Issuer, DecodeError> {
    let tokens = issuer.tokens.iter();
    Ok(Issuer {
        principal: issuer.principal.map(PrincipalId),
        tokens: tokens
            .map(|token| id(token, "issuer's token"))
            .collect::<Result<_, _>>()?,
        since: issuer.since,
    })
}

fn key(bytes: &[u8]) -> Result<u128, DecodeError> {
    fixed(bytes, "key").map(u128::from_be_bytes)
}

/// An empty text stands for nothing.
fn optional_text<T>(
    text: &str,
    parse: fn(&str) -> Option<T>,
    what: &'static str,
) -> Result<Option<T>, DecodeError> {
    if text.is_empty() {
        Ok(None)
    } else {
        required(parse(text), what).map(Some)
    }
}
