//! Records as the JSON objects that the database's functions take, one a row.
//!
//! Their fields are the columns of the tables; what is absent is NULL. The form of texts is in
//! `store::columns`; bytes are in the database's hexadecimal form.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use super::literal;
use crate::domain::change::{
    Display, GrantRecord, PrincipalRecord, RoleRecord, SealKeyRecord, Subject, TokenRecord,
};
use crate::domain::entry::{Entry, LogEntry};
use crate::domain::limits::{Audience, Workload};
use crate::domain::login::MethodRecord;
use crate::domain::scopes::Scopes;
use crate::domain::token::{Digest, TokenId};
use crate::store::StoreError;
use crate::store::columns::{ended_ms, method_columns, networks_text, pack_issuers, set_text};

/// A number as the tables hold it.
///
/// # Errors
/// [`StoreError::Refused`] for one that is larger.
pub(super) fn stored(number: u64) -> Result<i64, StoreError> {
    let what = "a number is larger than the store holds";
    i64::try_from(number).map_err(|_| StoreError::Refused(what.to_owned()))
}

fn optional(number: Option<u64>) -> Result<Option<i64>, StoreError> {
    number.map(stored).transpose()
}

/// Bytes as the database reads them from a text.
pub(super) fn hex(bytes: &[u8]) -> String {
    format!("\\x{}", literal::hex(bytes))
}

/// A token's id as the database writes it.
pub(super) fn uuid(id: TokenId) -> uuid::Uuid {
    uuid::Uuid::from_bytes(id.to_bytes())
}

/// A row of the log.
#[derive(Serialize)]
pub(super) struct LogRow<'a> {
    revision: i64,
    instant_ms: i64,
    kind: &'static str,
    actor: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    actor_principal: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    actor_token: Option<String>,
    target: &'a str,
    reason: &'a str,
    batch_id: String,
    body: String,
    body_hash: String,
    chain: String,
}

/// An entry; `body_hash` is the hash that its chain was made with.
pub(super) fn log<'a>(
    logged: &'a LogEntry,
    body_hash: &[u8; 32],
) -> Result<LogRow<'a>, StoreError> {
    let entry = &logged.entry;
    Ok(LogRow {
        revision: stored(entry.revision)?,
        instant_ms: stored(entry.instant_ms)?,
        kind: entry.kind.name(),
        actor: &entry.actor.name,
        actor_principal: entry.actor.principal.map(|id| id.0),
        actor_token: entry.actor.token.map(|id| uuid(id).to_string()),
        target: &entry.target,
        reason: &entry.reason,
        batch_id: hex(&entry.batch_id),
        body: hex(&logged.body),
        body_hash: hex(body_hash),
        chain: hex(&logged.head.chain),
    })
}

/// A row of principals.
#[derive(Serialize)]
pub(super) struct PrincipalRow<'a> {
    id: u32,
    kind: u8,
    name: String,
    home: &'a str,
    disabled: bool,
    made_at: i64,
    created_ms: i64,
    changed_at: i64,
    display_name: Option<&'a str>,
    description: Option<&'a str>,
    labels: Option<&'a BTreeMap<String, String>>,
}

/// A principal as it is from now on.
pub(super) fn principal<'a>(
    entry: &Entry,
    record: &'a PrincipalRecord,
    display: &'a Display,
) -> Result<PrincipalRow<'a>, StoreError> {
    Ok(PrincipalRow {
        id: record.id.0,
        kind: record.name.kind() as u8,
        name: record.name.to_string(),
        home: record.home.as_str(),
        disabled: record.disabled,
        made_at: stored(record.made_at)?,
        created_ms: stored(entry.instant_ms)?,
        changed_at: stored(entry.revision)?,
        display_name: display.name.as_deref(),
        description: display.description.as_deref(),
        labels: display.labels.as_ref(),
    })
}

/// A row of roles.
#[derive(Serialize)]
pub(super) struct RoleRow<'a> {
    name: &'a str,
    home: &'a str,
    actions: String,
    made_at: i64,
    created_ms: i64,
    changed_at: i64,
    description: Option<&'a str>,
    labels: Option<&'a BTreeMap<String, String>>,
}

/// A role as it is from now on.
pub(super) fn role<'a>(
    entry: &Entry,
    record: &'a RoleRecord,
    display: &'a Display,
) -> Result<RoleRow<'a>, StoreError> {
    let actions: Vec<&str> = record.actions.iter().map(|one| one.as_str()).collect();
    Ok(RoleRow {
        name: record.name.as_str(),
        home: record.home.as_str(),
        actions: actions.join(" "),
        made_at: stored(record.made_at)?,
        created_ms: stored(entry.instant_ms)?,
        changed_at: stored(entry.revision)?,
        description: display.description.as_deref(),
        labels: display.labels.as_ref(),
    })
}

/// A row of grants.
#[derive(Serialize)]
pub(super) struct GrantRow<'a> {
    id: u32,
    principal: u32,
    role: &'a str,
    resource: &'a str,
    made_at: i64,
    created_ms: i64,
}

/// A new grant.
pub(super) fn grant<'a>(
    entry: &Entry,
    record: &'a GrantRecord,
) -> Result<GrantRow<'a>, StoreError> {
    Ok(GrantRow {
        id: record.id.0,
        principal: record.principal.0,
        role: record.role.as_str(),
        resource: record.resource.as_str(),
        made_at: stored(record.made_at)?,
        created_ms: stored(entry.instant_ms)?,
    })
}

/// A row of tokens. `digest` is the whole digest of a new secret, or only the key that the stored
/// one must have.
#[derive(Serialize)]
pub(super) struct TokenRow<'a> {
    id: String,
    digest: String,
    kind: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scopes: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ceiling: Option<String>,
    issuers: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<String>,
    made_at: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_before_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_max_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_s: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    period_s: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uses_limit: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uses_left: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    networks: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audience: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workload: Option<&'a str>,
    rotation: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    grace_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grace_until_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    issuer: Option<u32>,
    changed_at: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last4: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    slice: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    public_key: Option<String>,
}

/// A token as it is from now on.
pub(super) fn token<'a>(
    entry: &Entry,
    record: &'a TokenRecord,
    digest: Option<&Digest>,
    display: &'a Display,
) -> Result<TokenRow<'a>, StoreError> {
    let key = record.key.to_be_bytes();
    let (subject, resource) = match &record.subject {
        Subject::Principal(id) => (Some(id.0), None),
        Subject::Resource(resource) => (None, Some(resource.as_str())),
    };
    let too_many = || StoreError::Refused("an issuer has too many ancestors".to_owned());
    let first = record.issuers.first();
    Ok(TokenRow {
        id: uuid(record.id).to_string(),
        digest: digest.map_or_else(|| hex(&key), |digest| hex(digest.as_bytes())),
        kind: record.kind as u8,
        subject,
        resource,
        scopes: match &record.scopes {
            Scopes::All => None,
            Scopes::Only(set) => Some(set_text(set)),
        },
        ceiling: record.ceiling.as_ref().map(set_text),
        issuers: hex(&pack_issuers(&record.issuers).ok_or_else(too_many)?),
        parent: record.parent.map(|id| uuid(id).to_string()),
        made_at: stored(record.made_at)?,
        not_before_ms: optional(record.not_before_ms)?,
        expires_ms: optional(record.expires_ms)?,
        expires_max_ms: optional(record.expires_max_ms)?,
        ttl_s: record.ttl_s,
        period_s: record.period_s,
        uses_limit: record.uses.map(|uses| uses.limit),
        uses_left: record.uses.map(|uses| uses.left),
        networks: networks_text(&record.networks),
        audience: record.audience.as_ref().map(Audience::as_str),
        workload: record.workload.as_ref().map(Workload::as_str),
        rotation: record.rotation,
        grace_key: record.grace.map(|grace| hex(&grace.key.to_be_bytes())),
        grace_until_ms: optional(record.grace.map(|grace| grace.until_ms))?,
        revoked_at: optional(record.revoked.map(|revoked| revoked.revision))?,
        revoked_ms: optional(record.revoked.map(|revoked| revoked.at_ms))?,
        issuer: first.and_then(|issuer| issuer.principal).map(|id| id.0),
        changed_at: stored(entry.revision)?,
        last4: display.last4.as_deref(),
        name: display.name.as_deref(),
        description: display.description.as_deref(),
        slice: key[0],
        ended_ms: optional(ended_ms(record))?,
        public_key: record.public_key.as_ref().map(|key| hex(key.as_bytes())),
    })
}

/// A login method as it is from now on.
pub(super) fn method(entry: &Entry, record: &MethodRecord) -> Result<Value, StoreError> {
    let columns = method_columns(&record.settings);
    let [threshold, duration_s, reset_s] = columns.lockout;
    Ok(json!({
        "principal": record.principal.0,
        "method": record.method as u8,
        "made_at": stored(record.made_at)?,
        "changed_at": stored(entry.revision)?,
        "ttl_s": columns.ttl_s,
        "max_ttl_s": columns.max_ttl_s,
        "period_s": columns.period_s,
        "uses": columns.uses,
        "networks": columns.networks,
        "login_networks": columns.login_networks,
        "lockout_threshold": threshold,
        "lockout_duration_s": duration_s,
        "lockout_reset_s": reset_s,
    }))
}

/// A seal key as it is from now on.
pub(super) fn seal_key(entry: &Entry, record: &SealKeyRecord) -> Result<Value, StoreError> {
    Ok(json!({
        "id": record.id.0,
        "salt": hex(&record.salt),
        "phase": record.phase as u8,
        "since_ms": stored(record.since_ms)?,
        "changed_at": stored(entry.revision)?,
    }))
}
