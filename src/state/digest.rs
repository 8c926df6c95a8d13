//! The order-free digest of State: two states with the same records have the same digest.
//!
//! The sum, lane by lane, of the SHA-256 of every record. A record is added when it comes and
//! subtracted when it goes, so the digest costs the same however many records there are. It
//! finds a replica, a table or a snapshot that went astray; against a forger stands the chain.
//! Interned numbers never enter: they differ between two processes with the same State.

use sha2::{Digest as _, Sha256};

use crate::domain::chain::RevisionNumber;
use crate::domain::change::{
    CutOffTarget, GrantRecord, PrincipalRecord, RoleRecord, Row, SealKeyRecord, Subject,
    TokenRecord,
};
use crate::domain::clock::UnixMs;
use crate::domain::login::{ClientNetwork, MethodRecord};
use crate::domain::principal::PrincipalId;
use crate::domain::scopes::{PermissionSet, Scopes};
use crate::domain::token::TokenId;

use super::Answered;

const LANES: usize = 4;
/// What the record of a token has at the most, if it has no ancestors.
const BYTES_USUAL: usize = 512;

/// The digest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StateDigest([u64; LANES]);

/// The digest of State from its rows alone: a table of any size is held against the log by it,
/// without State in memory.
#[derive(Debug, Default)]
pub struct RowsDigest(pub(super) StateDigest);

impl RowsDigest {
    /// Takes one row of a snapshot.
    pub fn add(&mut self, row: &Row) {
        self.0.add(match row {
            Row::Counters { .. } => return,
            Row::Format(level) => RecordHash::format(*level),
            Row::Principal(record) => RecordHash::principal(record),
            Row::Member { team, member } => RecordHash::member(*team, *member),
            Row::Role(record) => RecordHash::role(record),
            Row::Grant(record) => RecordHash::grant(record),
            Row::CutOff(target, revision) => RecordHash::cut_off(target, *revision),
            Row::Request {
                request,
                revision,
                instant_ms,
            } => {
                let answered = Answered {
                    fingerprint: request.fingerprint,
                    revision: *revision,
                    instant_ms: *instant_ms,
                };
                RecordHash::request(&request.key, &answered)
            }
            Row::Method(record) => RecordHash::method(record),
            Row::SealKey(record) => RecordHash::seal_key(record),
            Row::RevokedSession { session, until_ms } => {
                RecordHash::revoked_session(*session, *until_ms)
            }
            Row::Lock {
                principal,
                network,
                until_ms,
            } => RecordHash::lock(*principal, *network, *until_ms),
            Row::Token(record) => RecordHash::token(record),
        });
    }

    /// The digest of all rows that were taken.
    #[must_use]
    pub fn finish(&self) -> [u8; 32] {
        self.0.to_bytes()
    }
}

/// One record as the bytes that are hashed, every field with its length or its width fixed. They
/// are gathered and hashed at once: for so many small fields that is half the work.
pub(super) struct RecordHash(Vec<u8>);

impl StateDigest {
    pub(super) fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (chunk, lane) in bytes.chunks_mut(8).zip(self.0) {
            chunk.copy_from_slice(&lane.to_be_bytes());
        }
        bytes
    }

    pub(super) fn add(&mut self, record: RecordHash) {
        self.combine(record, u64::wrapping_add);
    }

    pub(super) fn subtract(&mut self, record: RecordHash) {
        self.combine(record, u64::wrapping_sub);
    }

    fn combine(&mut self, record: RecordHash, operation: fn(u64, u64) -> u64) {
        let hash: [u8; 32] = Sha256::digest(&record.0).into();
        for (lane, chunk) in self.0.iter_mut().zip(hash.chunks(8)) {
            let mut word = [0; 8];
            word.copy_from_slice(chunk);
            *lane = operation(*lane, u64::from_be_bytes(word));
        }
    }
}

impl RecordHash {
    fn new(tag: &str) -> Self {
        Self(Vec::with_capacity(BYTES_USUAL)).text(tag)
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend((bytes.len() as u64).to_be_bytes());
        self.0.extend(bytes);
        self
    }

    fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    fn number(mut self, number: u64) -> Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    fn optional(self, number: Option<u64>) -> Self {
        match number {
            Some(number) => self.number(1).number(number),
            None => self.number(0),
        }
    }

    fn set(self, set: Option<&PermissionSet>) -> Self {
        match set {
            Some(set) => self.number(1).bytes(&set.content_hash()),
            None => self.number(0),
        }
    }

    pub(super) fn token(record: &TokenRecord) -> Self {
        let mut hash = Self::new("token")
            .bytes(&record.id.to_bytes())
            .bytes(&record.key.to_be_bytes())
            .number(record.kind as u64);
        hash = match &record.subject {
            Subject::Principal(id) => hash.number(u64::from(id.0)),
            Subject::Resource(resource) => hash.text(resource.as_str()),
        };
        hash = hash.set(match &record.scopes {
            Scopes::All => None,
            Scopes::Only(set) => Some(set),
        });
        hash = hash
            .set(record.ceiling.as_ref())
            .number(record.issuers.len() as u64);
        for issuer in &record.issuers {
            hash = hash
                .optional(issuer.principal.map(|id| u64::from(id.0)))
                .number(issuer.since)
                .number(issuer.tokens.len() as u64);
            for token in &issuer.tokens {
                hash = hash.bytes(&token.to_bytes());
            }
        }
        hash.token_limits(record)
    }

    fn token_limits(self, record: &TokenRecord) -> Self {
        let parent = record.parent.map(TokenId::to_bytes);
        let mut hash = self
            .bytes(parent.as_ref().map_or(&[], |id| id.as_slice()))
            .number(record.made_at)
            .optional(record.not_before_ms)
            .optional(record.expires_ms)
            .optional(record.expires_max_ms)
            .optional(record.ttl_s.map(u64::from))
            .optional(record.period_s.map(u64::from))
            .optional(record.uses.map(|uses| u64::from(uses.limit)))
            .optional(record.uses.map(|uses| u64::from(uses.left)))
            .number(u64::from(record.rotation))
            .text(record.audience.as_ref().map_or("", |one| one.as_str()))
            .text(record.workload.as_ref().map_or("", |one| one.as_str()));
        for network in record.networks.iter() {
            hash = hash.text(&network);
        }
        if let Some(grace) = &record.grace {
            hash = hash.bytes(&grace.key.to_be_bytes()).number(grace.until_ms);
        }
        if let Some(revoked) = &record.revoked {
            hash = hash.number(revoked.revision).number(revoked.at_ms);
        }
        match &record.public_key {
            Some(key) => hash.bytes(key.as_bytes()),
            None => hash,
        }
    }

    pub(super) fn method(record: &MethodRecord) -> Self {
        let settings = &record.settings;
        let lockout = settings.lockout.as_ref();
        let mut hash = Self::new("method")
            .number(u64::from(record.principal.0))
            .number(record.method as u64)
            .number(record.made_at)
            .number(u64::from(settings.ttl_s))
            .optional(settings.max_ttl_s.map(u64::from))
            .optional(settings.period_s.map(u64::from))
            .optional(settings.uses.map(u64::from))
            .optional(lockout.map(|one| u64::from(one.threshold)))
            .optional(lockout.map(|one| u64::from(one.duration_s)))
            .optional(lockout.map(|one| u64::from(one.reset_s)));
        for network in settings.networks.iter() {
            hash = hash.text("use").text(&network);
        }
        for network in settings.login_networks.iter() {
            hash = hash.text("login").text(&network);
        }
        hash
    }

    pub(super) fn seal_key(record: &SealKeyRecord) -> Self {
        Self::new("seal_key")
            .number(u64::from(record.id.0))
            .bytes(&record.salt)
            .number(record.phase as u64)
            .number(record.since_ms)
    }

    pub(super) fn revoked_session(session: TokenId, until_ms: UnixMs) -> Self {
        Self::new("revoked_session")
            .bytes(&session.to_bytes())
            .number(until_ms)
    }

    pub(super) fn lock(principal: PrincipalId, network: ClientNetwork, until_ms: UnixMs) -> Self {
        Self::new("lock")
            .number(u64::from(principal.0))
            .text(&network.to_string())
            .number(until_ms)
    }

    pub(super) fn principal(record: &PrincipalRecord) -> Self {
        Self::new("principal")
            .number(u64::from(record.id.0))
            .text(&record.name.to_string())
            .text(record.home.as_str())
            .number(u64::from(record.disabled))
            .number(record.made_at)
    }

    pub(super) fn member(team: PrincipalId, member: PrincipalId) -> Self {
        Self::new("member")
            .number(u64::from(team.0))
            .number(u64::from(member.0))
    }

    pub(super) fn role(record: &RoleRecord) -> Self {
        let hash = Self::new("role")
            .text(record.name.as_str())
            .text(record.home.as_str())
            .number(record.made_at);
        record
            .actions
            .iter()
            .fold(hash, |hash, action| hash.text(action.as_str()))
    }

    pub(super) fn grant(record: &GrantRecord) -> Self {
        Self::new("grant")
            .number(u64::from(record.id.0))
            .number(u64::from(record.principal.0))
            .text(record.role.as_str())
            .text(record.resource.as_str())
            .number(record.made_at)
    }

    pub(super) fn cut_off(target: &CutOffTarget, revision: RevisionNumber) -> Self {
        let hash = Self::new("cut_off").number(revision);
        match target {
            CutOffTarget::Subject(id) => hash.text("subject").number(u64::from(id.0)),
            CutOffTarget::IssuedByPrincipal(id) => hash.text("principal").number(u64::from(id.0)),
            CutOffTarget::IssuedByToken(id) => hash.text("token").bytes(&id.to_bytes()),
            CutOffTarget::IssuedForTeam(team, member) => hash
                .text("team")
                .number(u64::from(team.0))
                .number(u64::from(member.0)),
            CutOffTarget::ResourceUnder(resource) => hash.text("under").text(resource.as_str()),
            CutOffTarget::Sessions(id) => hash.text("sessions").number(u64::from(id.0)),
        }
    }

    pub(super) fn format(level: u32) -> Self {
        Self::new("format").number(u64::from(level))
    }

    pub(super) fn request(key: &[u8; 16], answered: &Answered) -> Self {
        Self::new("request")
            .bytes(key)
            .bytes(&answered.fingerprint)
            .number(answered.revision)
            .number(answered.instant_ms)
    }
}
