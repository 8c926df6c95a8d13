//! A token's record as a row of the tables.
//!
//! The form of each column is in `store::columns`. Used by the snapshot and the lists; writing is
//! in `operations`.

use tokio_postgres::Row;

use super::fault::Fault;
use super::row::{bytes, number, optional_bytes, optional_number, token_id, value};
use crate::domain::change::{Grace, Revoked, TokenRecord};
use crate::domain::clock::UnixMs;
use crate::domain::key::PublicKey;
use crate::domain::limits::{Audience, Uses, Workload};
use crate::domain::scopes::{PermissionSet, Scopes};
use crate::domain::token::{TokenId, TokenKind};
use crate::store::columns::{Sets, expiry, parse_networks, parse_subject, unpack_issuers};

/// What [`TokenRows::read`] wants selected, in this order, as its first columns.
pub(super) const RECORD_COLUMNS: &str = "t.id, substr(t.digest, 1, 16), t.kind, t.subject, \
    t.resource, t.scopes, t.ceiling, t.issuers, t.parent, t.made_at, t.not_before_ms, \
    t.expires_ms, t.expires_max_ms, t.ttl_s, t.period_s, t.uses_limit, t.uses_left, t.networks, \
    t.audience, t.workload, t.rotation, t.grace_key, t.grace_until_ms, t.revoked_at, t.revoked_ms, \
    t.public_key";
/// How many columns that is.
pub(super) const RECORD_COLUMN_COUNT: usize = 26;

fn ended(row: &Row, index: usize) -> Result<Option<UnixMs>, Fault> {
    expiry(optional_number(row, index)?).ok_or(Fault::Row("expiry"))
}

fn parse_key(bytes: &[u8]) -> Result<PublicKey, Fault> {
    PublicKey::parse(bytes).map_err(|_| Fault::Row("public key"))
}

/// Reads records, parsing equal permission texts once.
#[derive(Default)]
pub(super) struct TokenRows {
    sets: Sets,
}

impl TokenRows {
    /// The record in the first columns of a row that selects [`RECORD_COLUMNS`].
    pub(super) fn read(&mut self, row: &Row) -> Result<TokenRecord, Fault> {
        let kind = u8::try_from(value::<i16>(row, 2)?).ok();
        let optional_text = |index| value::<Option<&str>>(row, index);
        let parent: Option<uuid::Uuid> = value(row, 8)?;
        let uses = optional_number(row, 15)?.zip(optional_number(row, 16)?);
        let grace = optional_bytes(row, 21)?.zip(ended(row, 22)?);
        let revoked = optional_number(row, 23)?.zip(optional_number(row, 24)?);
        Ok(TokenRecord {
            id: token_id(row, 0)?,
            key: u128::from_be_bytes(bytes(row, 1)?),
            kind: kind
                .and_then(TokenKind::from_number)
                .ok_or(Fault::Row("kind of token"))?,
            subject: parse_subject(optional_number(row, 3)?, optional_text(4)?)
                .ok_or(Fault::Row("subject"))?,
            scopes: match optional_text(5)? {
                None => Scopes::All,
                Some(text) => Scopes::Only(self.set(text)?),
            },
            ceiling: optional_text(6)?.map(|text| self.set(text)).transpose()?,
            issuers: unpack_issuers(value(row, 7)?).ok_or(Fault::Row("issuer"))?,
            parent: parent.map(|id| TokenId::from_bytes(id.into_bytes())),
            made_at: number(row, 9)?,
            not_before_ms: optional_number(row, 10)?,
            expires_ms: ended(row, 11)?,
            expires_max_ms: ended(row, 12)?,
            ttl_s: optional_number(row, 13)?,
            period_s: optional_number(row, 14)?,
            uses: uses.map(|(limit, left)| Uses { limit, left }),
            networks: parse_networks(optional_text(17)?).ok_or(Fault::Row("network"))?,
            audience: match optional_text(18)? {
                None => None,
                Some(text) => Some(Audience::parse(text).ok_or(Fault::Row("audience"))?),
            },
            workload: match optional_text(19)? {
                None => None,
                Some(text) => Some(Workload::parse(text).ok_or(Fault::Row("workload"))?),
            },
            rotation: number(row, 20)?,
            grace: grace.map(|(key, until_ms)| Grace {
                key: u128::from_be_bytes(key),
                until_ms,
            }),
            revoked: revoked.map(|(revision, at_ms)| Revoked { revision, at_ms }),
            public_key: value::<Option<&[u8]>>(row, 25)?
                .map(parse_key)
                .transpose()?,
        })
    }

    fn set(&mut self, text: &str) -> Result<PermissionSet, Fault> {
        self.sets.read(text).ok_or(Fault::Row("permission"))
    }
}
