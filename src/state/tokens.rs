//! The token index: every live token in one cache line, and beside it what few tokens have.
//!
//! A plain token is a [`Hot`] entry of 64 bytes, found by the first 128 bits of its secret's
//! digest, and 16 bytes more to find it by its public id. Scopes, ceilings, issuers, resources
//! and limits are interned; lineage, uses, rotation and revocation live in [`Ext`], which few
//! tokens have. Records go in and come out whole, so that decide, the State digest and the tables
//! all speak of the same [`TokenRecord`]. Written by `apply`, read by `check` and `decide`.

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use imbl::GenericHashMap;
use imbl::shared_ptr::DefaultSharedPtr;

use crate::domain::change::{EXPIRES_MS_MAX, Grace, Issuer, Revoked, Subject, TokenRecord};
use crate::domain::clock::UnixMs;
use crate::domain::key::PublicKey;
use crate::domain::limits::{Audience, Networks, Uses, Workload};
use crate::domain::permission::Resource;
use crate::domain::principal::PrincipalId;
use crate::domain::scopes::{PermissionSet, Scopes};
use crate::domain::token::{TokenId, TokenKind};

use super::intern::Interner;
use super::radix::{Radix, Slot};
use super::scopeset::ScopeSet;

const NONE: u32 = 0;
const HAS_EXT: u64 = 1;
const IS_GRACE: u64 = 1 << 1;
const KIND_SHIFT: u32 = 2;
const KIND_BITS: u32 = 3;
const LIMITS_HIGH_SHIFT: u32 = 5;
const LIMITS_HIGH_BITS: u32 = 13;
const EXPIRY_SHIFT: u32 = LIMITS_HIGH_SHIFT + LIMITS_HIGH_BITS;
const LIMITS_LOW_BITS: u32 = 16;
const _: () = assert!(EXPIRES_MS_MAX >> (u64::BITS - EXPIRY_SHIFT) == 0, "fits");

/// A token as a Check reads it: one cache line.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(super) struct Hot {
    key: u128,
    id: u128,
    // A principal's id, or the number of an interned resource.
    subject: u32,
    // Interned numbers plus one; NONE for `All`, for no ceiling.
    scopes: u32,
    ceiling: u32,
    issuers: u32,
    // Expiry in ms (46 bits, 0 for never), the high half of the number of the limits (13), kind
    // (3), flags (2).
    packed: u64,
    // The revision it was made at (48 bits: a hundred thousand changes a second for 89 years),
    // the low half of the number of the limits (16).
    made: u64,
}

const _: () = assert!(size_of::<Hot>() == 64, "a token is one cache line");

impl Slot for Hot {
    const FREE: Self = Self {
        key: 0,
        id: 0,
        subject: 0,
        scopes: 0,
        ceiling: 0,
        issuers: 0,
        packed: 0,
        made: 0,
    };

    #[inline]
    fn is_free(&self) -> bool {
        self.packed == 0
    }

    #[inline]
    fn hash(&self) -> u64 {
        (self.key >> 64) as u64
    }
}

impl Hot {
    // The secret before the last rotation, which leads to the token by its id.
    fn of_grace(record: &TokenRecord, grace: &Grace) -> Self {
        Self {
            key: grace.key,
            id: record.id.as_u128(),
            packed: grace.until_ms << EXPIRY_SHIFT | (record.kind as u64) << KIND_SHIFT | IS_GRACE,
            ..Self::FREE
        }
    }

    #[inline]
    pub(super) fn id(&self) -> TokenId {
        TokenId::from_u128(self.id)
    }

    #[inline]
    pub(super) fn kind(&self) -> TokenKind {
        match self.packed >> KIND_SHIFT & ((1 << KIND_BITS) - 1) {
            2 => TokenKind::Team,
            3 => TokenKind::Resource,
            4 => TokenKind::Service,
            5 => TokenKind::Access,
            6 => TokenKind::ClientSecret,
            7 => TokenKind::PublicKey,
            _ => TokenKind::User,
        }
    }

    /// The principal that it speaks for; none for a resource token.
    #[inline]
    pub(super) fn principal(&self) -> Option<PrincipalId> {
        (self.kind() != TokenKind::Resource).then_some(PrincipalId(self.subject))
    }

    #[inline]
    pub(super) fn expires_ms(&self) -> Option<UnixMs> {
        let expiry = self.packed >> EXPIRY_SHIFT;
        (expiry != 0).then_some(expiry)
    }

    #[inline]
    pub(super) fn made_at(&self) -> u64 {
        self.made >> LIMITS_LOW_BITS
    }

    // Interned number plus one; NONE for no limits.
    #[inline]
    fn limits(&self) -> u32 {
        let high = self.packed >> LIMITS_HIGH_SHIFT & ((1 << LIMITS_HIGH_BITS) - 1);
        let low = self.made & ((1 << LIMITS_LOW_BITS) - 1);
        (high << LIMITS_LOW_BITS | low) as u32
    }

    #[inline]
    pub(super) fn has_ext(&self) -> bool {
        self.packed & HAS_EXT != 0
    }

    fn is_grace(&self) -> bool {
        self.packed & IS_GRACE != 0
    }
}

// Where a token is found by its id: the id's hash and the hash of its key.
#[derive(Clone, Copy, Debug)]
struct IdSlot {
    id_hash: u64,
    key_hash: u64,
}

impl IdSlot {
    fn of(hot: &Hot) -> Self {
        Self {
            id_hash: hash_id(hot.id),
            key_hash: hot.hash(),
        }
    }
}

impl Slot for IdSlot {
    const FREE: Self = Self {
        id_hash: 0,
        key_hash: 0,
    };

    fn is_free(&self) -> bool {
        self.id_hash == 0
    }

    fn hash(&self) -> u64 {
        self.id_hash
    }
}

// A UUIDv7 begins with the time; the trie wants bits that are uniform from the first.
fn hash_id(id: u128) -> u64 {
    let folded = (id as u64) ^ ((id >> 64) as u64).rotate_left(32);
    (folded.wrapping_mul(0x9E37_79B9_7F4A_7C15))
        .rotate_left(31)
        .wrapping_mul(0xD6E8_FEB8_6659_FD93)
        | 1
}

/// A persistent map by token id. Ids are made here and half random: mixing is enough.
type ById<V> = GenericHashMap<TokenId, V, BuildHasherDefault<IdHasher>, DefaultSharedPtr>;

#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        }
    }

    fn write_u128(&mut self, id: u128) {
        self.0 = hash_id(id);
    }
}

/// What a token is limited to beside its scopes; many tokens are limited alike.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Limits {
    pub(super) not_before_ms: Option<UnixMs>,
    pub(super) ttl_s: Option<u32>,
    pub(super) period_s: Option<u32>,
    pub(super) networks: Networks,
    pub(super) audience: Option<Audience>,
    pub(super) workload: Option<Workload>,
}

impl Limits {
    fn heap_bytes(&self) -> usize {
        // Content, value and the map from one to the other.
        2 * size_of::<Self>() + 4 * size_of::<usize>()
    }
}

/// What few tokens have, each its own: lineage, longest life, uses, rotation, revocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ext {
    pub(super) parent: Option<TokenId>,
    pub(super) expires_max_ms: Option<UnixMs>,
    pub(super) uses: Option<Uses>,
    pub(super) rotation: u32,
    pub(super) grace: Option<Grace>,
    pub(super) revoked: Option<Revoked>,
    pub(super) public_key: Option<PublicKey>,
}

/// A token found by its secret.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found<'s> {
    pub(super) hot: &'s Hot,
    /// Set when the secret is the one before the last rotation: when it ends.
    pub(super) grace_until_ms: Option<UnixMs>,
}

/// Tokens that were taken in and are not in the index yet.
#[derive(Default)]
pub(super) struct Gathered {
    tokens: Vec<Hot>,
    graces: Vec<Hot>,
}

impl Gathered {
    /// Tokens, not counting secrets in their grace.
    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }
}

/// Where tokens are found: by their keys, and by their ids.
#[derive(Clone, Default)]
pub(super) struct Index {
    by_key: Radix<Hot>,
    by_id: Radix<IdSlot>,
    graces: usize,
}

impl Index {
    /// Adds tokens, none of which is there already.
    pub(super) fn extend(&mut self, mut gathered: Gathered) {
        let mut ids: Vec<IdSlot> = gathered.tokens.iter().map(IdSlot::of).collect();
        self.by_id.extend(&mut ids);
        self.by_key.extend(&mut gathered.tokens);
        self.by_key.extend(&mut gathered.graces);
        self.graces += gathered.graces.len();
    }
}

/// All tokens. A clone is a snapshot.
#[derive(Clone, Default)]
pub(super) struct Tokens {
    index: Index,
    ext: ById<Arc<Ext>>,
    scopes: Interner<PermissionSet, ScopeSet>,
    issuers: Interner<Vec<Issuer>, ()>,
    limits: Interner<Limits, Arc<Limits>>,
    // The resource is its own value, so that a Check comes to its text in one step.
    resources: Interner<Resource, Resource>,
}

impl Tokens {
    /// Tokens, not counting secrets in their grace.
    pub(super) fn len(&self) -> usize {
        self.index.by_key.len() - self.index.graces
    }

    #[inline]
    pub(super) fn find(&self, key: u128) -> Option<Found<'_>> {
        let hot = self
            .index
            .by_key
            .find((key >> 64) as u64, |hot| hot.key == key)?;
        if !hot.is_grace() {
            return Some(Found {
                hot,
                grace_until_ms: None,
            });
        }
        Some(Found {
            hot: self.by_id(hot.id())?,
            grace_until_ms: Some(hot.expires_ms().unwrap_or(0)),
        })
    }

    pub(super) fn by_id(&self, id: TokenId) -> Option<&Hot> {
        let wanted = id.as_u128();
        let id_hash = hash_id(wanted);
        let mut found = None;
        // Two ids may share a hash, so every candidate is verified in the main index.
        self.index.by_id.find(id_hash, |slot| {
            found = (slot.id_hash == id_hash)
                .then(|| {
                    self.index
                        .by_key
                        .find(slot.key_hash, |hot| hot.id == wanted && !hot.is_grace())
                })
                .flatten();
            found.is_some()
        });
        found
    }

    #[inline]
    pub(super) fn ext(&self, hot: &Hot) -> Option<&Ext> {
        if hot.has_ext() {
            self.ext.get(&hot.id()).map(|ext| &**ext)
        } else {
            None
        }
    }

    #[inline]
    pub(super) fn limits(&self, hot: &Hot) -> Option<&Limits> {
        let limits = self.limits.value(hot.limits().checked_sub(1)?);
        limits.map(|limits| &**limits)
    }

    /// The compiled scopes; none for `All`.
    #[inline]
    pub(super) fn scopes(&self, hot: &Hot) -> Option<&ScopeSet> {
        self.scope_set(hot.scopes)
    }

    /// The compiled ceiling; none where there is none.
    #[inline]
    pub(super) fn ceiling(&self, hot: &Hot) -> Option<&ScopeSet> {
        self.scope_set(hot.ceiling)
    }

    #[inline]
    fn scope_set(&self, number: u32) -> Option<&ScopeSet> {
        let index = number.checked_sub(1)?;
        self.scopes.value(index)
    }

    pub(super) fn issuers(&self, hot: &Hot) -> &[Issuer] {
        self.issuers.content(hot.issuers).map_or(&[], Vec::as_slice)
    }

    /// The resource that a resource token speaks for.
    #[inline]
    pub(super) fn resource(&self, hot: &Hot) -> Option<&Resource> {
        if hot.kind() != TokenKind::Resource {
            return None;
        }
        self.resources.value(hot.subject)
    }

    /// The whole record of a token.
    pub(super) fn record(&self, hot: &Hot) -> TokenRecord {
        let ext = self.ext(hot).cloned().unwrap_or_default();
        let limits = self.limits(hot).cloned().unwrap_or_default();
        let subject = match self.resource(hot) {
            Some(resource) => Subject::Resource(resource.clone()),
            None => Subject::Principal(PrincipalId(hot.subject)),
        };
        TokenRecord {
            id: hot.id(),
            key: hot.key,
            kind: hot.kind(),
            subject,
            scopes: self
                .set_content(hot.scopes)
                .map_or(Scopes::All, Scopes::Only),
            ceiling: self.set_content(hot.ceiling),
            issuers: self.issuers(hot).to_vec(),
            parent: ext.parent,
            made_at: hot.made_at(),
            not_before_ms: limits.not_before_ms,
            expires_ms: hot.expires_ms(),
            expires_max_ms: ext.expires_max_ms,
            ttl_s: limits.ttl_s,
            period_s: limits.period_s,
            uses: ext.uses,
            networks: limits.networks,
            audience: limits.audience,
            workload: limits.workload,
            rotation: ext.rotation,
            grace: ext.grace,
            revoked: ext.revoked,
            public_key: ext.public_key,
        }
    }

    fn set_content(&self, number: u32) -> Option<PermissionSet> {
        let index = number.checked_sub(1)?;
        self.scopes.content(index).cloned()
    }

    /// Puts a token in place of one with the same id, if there is one. Returns the former record.
    pub(super) fn put(&mut self, record: &TokenRecord) -> Option<TokenRecord> {
        let former = self.remove(record.id);
        let hot = self.take_in(record);
        self.index.by_key.insert(hot);
        self.index.by_id.insert(IdSlot::of(&hot));
        if let Some(grace) = &record.grace {
            self.index.graces += 1;
            self.index.by_key.insert(Hot::of_grace(record, grace));
        }
        former
    }

    /// Takes in a token whose id is new here; it is found once an index that has it is given to
    /// [`Tokens::found_by`].
    pub(super) fn gather(&mut self, record: &TokenRecord, gathered: &mut Gathered) {
        gathered.tokens.push(self.take_in(record));
        if let Some(grace) = &record.grace {
            gathered.graces.push(Hot::of_grace(record, grace));
        }
    }

    /// Takes the index of all tokens that were taken in.
    pub(super) fn found_by(&mut self, index: Index) {
        self.index = index;
    }

    // All of a token but its place in the index.
    fn take_in(&mut self, record: &TokenRecord) -> Hot {
        let subject = match &record.subject {
            Subject::Principal(id) => id.0,
            Subject::Resource(resource) => self.resources.acquire(resource, Resource::clone),
        };
        let ext = ext_of(record);
        let limits = match limits_of(record) {
            Some(limits) => {
                u64::from(self.limits.acquire(&limits, |all| Arc::new(all.clone())) + 1)
            }
            None => u64::from(NONE),
        };
        debug_assert!(
            record.expires_ms.unwrap_or(0) <= EXPIRES_MS_MAX,
            "refused before"
        );
        debug_assert!(
            record.made_at >> (u64::BITS - LIMITS_LOW_BITS) == 0,
            "48 bits"
        );
        let hot = Hot {
            key: record.key,
            id: record.id.as_u128(),
            subject,
            scopes: match &record.scopes {
                Scopes::All => NONE,
                Scopes::Only(set) => self.acquire_set(set),
            },
            ceiling: record
                .ceiling
                .as_ref()
                .map_or(NONE, |set| self.acquire_set(set)),
            issuers: self.issuers.acquire(&record.issuers, |_| ()),
            packed: record.expires_ms.unwrap_or(0) << EXPIRY_SHIFT
                | limits >> LIMITS_LOW_BITS << LIMITS_HIGH_SHIFT
                | (record.kind as u64) << KIND_SHIFT
                | if ext.is_some() { HAS_EXT } else { 0 },
            made: record.made_at << LIMITS_LOW_BITS | limits & ((1 << LIMITS_LOW_BITS) - 1),
        };
        if let Some(ext) = ext {
            self.ext.insert(record.id, Arc::new(ext));
        }
        hot
    }

    fn acquire_set(&mut self, set: &PermissionSet) -> u32 {
        let compile = |set: &PermissionSet| ScopeSet::compile(set.iter().cloned());
        self.scopes.acquire(set, compile) + 1
    }

    /// Removes a token with everything that belongs to it, and returns its record.
    pub(super) fn remove(&mut self, id: TokenId) -> Option<TokenRecord> {
        let hot = *self.by_id(id)?;
        let record = self.record(&hot);
        if let Some(grace) = &record.grace {
            self.index
                .by_key
                .remove((grace.key >> 64) as u64, |slot| slot.key == grace.key);
            self.index.graces -= 1;
        }
        self.index
            .by_key
            .remove(hot.hash(), |slot| slot.key == hot.key);
        let id_hash = hash_id(hot.id);
        self.index.by_id.remove(id_hash, |slot| {
            slot.id_hash == id_hash && slot.key_hash == hot.hash()
        });
        if hot.has_ext() {
            self.ext.remove(&id);
        }
        for number in [hot.scopes, hot.ceiling] {
            if let Some(index) = number.checked_sub(1) {
                self.scopes.release(index);
            }
        }
        self.issuers.release(hot.issuers);
        if let Some(index) = hot.limits().checked_sub(1) {
            self.limits.release(index);
        }
        if hot.kind() == TokenKind::Resource {
            self.resources.release(hot.subject);
        }
        Some(record)
    }

    /// Visits the tokens of one slice of the index.
    pub(super) fn for_slice(&self, slice: u8, mut visit: impl FnMut(&Hot)) {
        self.index.by_key.for_slice(slice, |hot| {
            if !hot.is_grace() {
                visit(hot);
            }
        });
    }

    /// Whether a secret with this key is known, also one in its grace.
    pub(super) fn knows_key(&self, key: u128) -> bool {
        self.index
            .by_key
            .find((key >> 64) as u64, |hot| hot.key == key)
            .is_some()
    }

    /// Bytes on the heap, by part: the index, the extensions and the scope sets.
    pub(super) fn heap_bytes(&self) -> [usize; 3] {
        let sets = self.scopes.values().map(ScopeSet::heap_bytes).sum();
        let limits: usize = self.limits.values().map(|one| one.heap_bytes()).sum();
        [
            self.index.by_key.heap_bytes() + self.index.by_id.heap_bytes(),
            self.ext.len() * (size_of::<Ext>() + size_of::<TokenId>() + 2 * size_of::<usize>())
                + limits,
            sets,
        ]
    }
}

fn limits_of(record: &TokenRecord) -> Option<Limits> {
    let limits = Limits {
        not_before_ms: record.not_before_ms,
        ttl_s: record.ttl_s,
        period_s: record.period_s,
        networks: record.networks.clone(),
        audience: record.audience.clone(),
        workload: record.workload.clone(),
    };
    (limits != Limits::default()).then_some(limits)
}

fn ext_of(record: &TokenRecord) -> Option<Ext> {
    let ext = Ext {
        parent: record.parent,
        expires_max_ms: record.expires_max_ms,
        uses: record.uses,
        rotation: record.rotation,
        grace: record.grace,
        revoked: record.revoked,
        public_key: record.public_key.clone(),
    };
    (ext != Ext::default()).then_some(ext)
}
