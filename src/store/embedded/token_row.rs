//! A token's record as a row, and back.
//!
//! The form of each column is in `store::columns`. Used by the projection, the snapshot and the
//! lists.

use rusqlite::{Connection, Row, params};

use super::fault::Fault;
use crate::domain::change::{Grace, Revoked, Subject, TokenRecord};
use crate::domain::key::PublicKey;
use crate::domain::limits::{Audience, Uses, Workload};
use crate::domain::scopes::{PermissionSet, Scopes};
use crate::domain::token::{Digest, TokenId, TokenKind};
use crate::store::columns::{
    Sets, ended_ms, expiry, networks_text, pack_issuers, parse_networks, parse_subject, set_text,
    unpack_issuers,
};

/// What [`TokenRows::read`] wants selected, in this order, as its first columns.
pub(super) const RECORD_COLUMNS: &str = "t.id, t.digest, t.kind, t.subject, t.resource, t.scopes, \
    t.ceiling, t.issuers, t.parent, t.made_at, t.not_before_ms, t.expires_ms, t.expires_max_ms, \
    t.ttl_s, t.period_s, t.uses_limit, t.uses_left, t.networks, t.audience, t.workload, \
    t.rotation, t.grace_key, t.grace_until_ms, t.revoked_at, t.revoked_ms, t.public_key";
/// How many columns that is.
pub(super) const RECORD_COLUMN_COUNT: usize = 26;

/// The first 16 bytes of the digest under which a token is found.
const KEY_BYTES: usize = 16;

const INSERT: &str = "-- insert_token
    INSERT INTO tokens (id, digest, kind, subject, resource, scopes, ceiling, issuers, parent,
      made_at, not_before_ms, expires_ms, expires_max_ms, ttl_s, period_s, uses_limit, uses_left,
      networks, audience, workload, rotation, grace_key, grace_until_ms, revoked_at, revoked_ms,
      issuer, changed_at, last4, name, description, slice, ended_ms, public_key)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19,
      ?20, ?21, ?22, ?23, ?24, ?25, ?26, ?27, coalesce(?28, ''), coalesce(?29, ''),
      coalesce(?30, ''), ?31, ?32, ?33)";

const UPDATE: &str = "-- update_token
    UPDATE tokens SET digest = coalesce(?2, digest), kind = ?3, subject = ?4, resource = ?5,
      scopes = ?6, ceiling = ?7, issuers = ?8, parent = ?9, made_at = ?10, not_before_ms = ?11,
      expires_ms = ?12, expires_max_ms = ?13, ttl_s = ?14, period_s = ?15, uses_limit = ?16,
      uses_left = ?17, networks = ?18, audience = ?19, workload = ?20, rotation = ?21,
      grace_key = ?22, grace_until_ms = ?23, revoked_at = ?24, revoked_ms = ?25, issuer = ?26,
      changed_at = ?27, last4 = coalesce(?28, last4), name = coalesce(?29, name),
      description = coalesce(?30, description), slice = ?31, ended_ms = ?32, public_key = ?33
    WHERE id = ?1";

/// What is written beside a record.
pub(super) struct Beside<'a> {
    pub(super) digest: Option<&'a Digest>,
    pub(super) changed_at: u64,
    pub(super) last4: Option<&'a str>,
    pub(super) name: Option<&'a str>,
    pub(super) description: Option<&'a str>,
}

/// Writes the whole record; what is `None` beside it stays as it is.
pub(super) fn write(
    connection: &Connection,
    record: &TokenRecord,
    beside: &Beside<'_>,
    exists: bool,
) -> Result<(), Fault> {
    let (subject, resource) = match &record.subject {
        Subject::Principal(id) => (Some(id.0), None),
        Subject::Resource(resource) => (None, Some(resource.as_str())),
    };
    let scopes = match &record.scopes {
        Scopes::All => None,
        Scopes::Only(set) => Some(set_text(set)),
    };
    let issuer = record.issuers.first().and_then(|first| first.principal);
    let sql = if exists { UPDATE } else { INSERT };
    let written = connection.prepare_cached(sql)?.execute(params![
        record.id.to_bytes(),
        beside.digest.map(|digest| *digest.as_bytes()),
        record.kind as u8,
        subject,
        resource,
        scopes,
        record.ceiling.as_ref().map(set_text),
        pack_issuers(&record.issuers).ok_or(Fault::refused("an issuer has too many ancestors"))?,
        record.parent.map(TokenId::to_bytes),
        record.made_at,
        record.not_before_ms,
        record.expires_ms,
        record.expires_max_ms,
        record.ttl_s,
        record.period_s,
        record.uses.map(|uses| uses.limit),
        record.uses.map(|uses| uses.left),
        networks_text(&record.networks),
        record.audience.as_ref().map(Audience::as_str),
        record.workload.as_ref().map(Workload::as_str),
        record.rotation,
        record.grace.map(|grace| grace.key.to_be_bytes()),
        record.grace.map(|grace| grace.until_ms),
        record.revoked.map(|revoked| revoked.revision),
        record.revoked.map(|revoked| revoked.at_ms),
        issuer.map(|id| id.0),
        beside.changed_at,
        beside.last4,
        beside.name,
        beside.description,
        record.key.to_be_bytes()[0],
        ended_ms(record),
        record.public_key.as_ref().map(PublicKey::as_bytes),
    ])?;
    (written == 1)
        .then_some(())
        .ok_or(Fault::refused("a token's row is not where it was"))
}

/// Reads records, parsing equal permission texts once: most tokens share a few.
#[derive(Default)]
pub(super) struct TokenRows {
    sets: Sets,
}

impl TokenRows {
    /// The record in the first columns of a row that selects [`RECORD_COLUMNS`].
    pub(super) fn read(&mut self, row: &Row<'_>) -> Result<TokenRecord, Fault> {
        let digest = row
            .get_ref(1)?
            .as_blob()
            .map_err(|_| Fault::Row("digest"))?;
        let key = digest
            .first_chunk::<KEY_BYTES>()
            .ok_or(Fault::Row("digest"))?;
        let issuers = row
            .get_ref(7)?
            .as_blob()
            .map_err(|_| Fault::Row("issuer"))?;
        Ok(TokenRecord {
            id: token_id(row.get(0)?),
            key: u128::from_be_bytes(*key),
            kind: TokenKind::from_number(row.get(2)?).ok_or(Fault::Row("kind of token"))?,
            subject: parse_subject(row.get(3)?, optional_text(row, 4)?)
                .ok_or(Fault::Row("subject"))?,
            scopes: match optional_text(row, 5)? {
                None => Scopes::All,
                Some(text) => Scopes::Only(self.set(text)?),
            },
            ceiling: match optional_text(row, 6)? {
                None => None,
                Some(text) => Some(self.set(text)?),
            },
            issuers: unpack_issuers(issuers).ok_or(Fault::Row("issuer"))?,
            parent: row.get::<_, Option<_>>(8)?.map(token_id),
            made_at: row.get(9)?,
            not_before_ms: row.get(10)?,
            expires_ms: expiry(row.get(11)?).ok_or(Fault::Row("expiry"))?,
            expires_max_ms: expiry(row.get(12)?).ok_or(Fault::Row("expiry"))?,
            ttl_s: row.get(13)?,
            period_s: row.get(14)?,
            uses: both(row.get(15)?, row.get(16)?).map(|(limit, left)| Uses { limit, left }),
            networks: parse_networks(optional_text(row, 17)?).ok_or(Fault::Row("network"))?,
            audience: match optional_text(row, 18)? {
                None => None,
                Some(text) => Some(Audience::parse(text).ok_or(Fault::Row("audience"))?),
            },
            workload: match optional_text(row, 19)? {
                None => None,
                Some(text) => Some(Workload::parse(text).ok_or(Fault::Row("workload"))?),
            },
            rotation: row.get(20)?,
            grace: both(
                row.get(21)?,
                expiry(row.get(22)?).ok_or(Fault::Row("expiry"))?,
            )
            .map(|(key, until_ms)| Grace {
                key: u128::from_be_bytes(key),
                until_ms,
            }),
            revoked: both(row.get(23)?, row.get(24)?)
                .map(|(revision, at_ms)| Revoked { revision, at_ms }),
            public_key: public_key(row, 25)?,
        })
    }

    fn set(&mut self, text: &str) -> Result<PermissionSet, Fault> {
        self.sets.read(text).ok_or(Fault::Row("permission"))
    }
}

fn token_id(bytes: [u8; 16]) -> TokenId {
    TokenId::from_bytes(bytes)
}

fn both<A, B>(first: Option<A>, second: Option<B>) -> Option<(A, B)> {
    first.zip(second)
}

fn public_key(row: &Row<'_>, index: usize) -> Result<Option<PublicKey>, Fault> {
    let wrong = || Fault::Row("public key");
    let bytes = row.get_ref(index)?.as_blob_or_null();
    let key = bytes.map_err(|_| wrong())?.map(PublicKey::parse);
    key.transpose().map_err(|_| wrong())
}

fn optional_text<'r>(row: &'r Row<'_>, index: usize) -> Result<Option<&'r str>, Fault> {
    let value = row.get_ref(index)?;
    value.as_str_or_null().map_err(|_| Fault::Row("text"))
}
