//! The claims of a sealed access token, as bytes: what it is, without a row anywhere.
//!
//! ```text
//! version 1 │ key id 4 │ token id 16 │ origin 16 │ made at │ issued │ expires │ session start
//! │ session end │ sealed ancestors │ scopes │ networks │ audience │ workload
//! ```
//!
//! Read in place, without an allocation, by every Check. Whom the token speaks for is not told:
//! that is its origin's, the credential or the stored token that State must know. A sealed
//! parent's limits are folded into the child's, which can be done for good since neither ever
//! changes; of the ancestors only the sessions are left, to be found revoked. Numbers are varints
//! (LEB128), texts have their length before them. Another version is refused.

use std::net::IpAddr;

use ipnet::IpNet;

use super::super::chain::RevisionNumber;
use super::super::clock::UnixMs;
use super::super::limits::{Audience, Networks, Workload};
use super::super::permission::{Need, Permission, action_matches, resource_matches};
use super::super::scopes::{PermissionSet, Scopes};
use super::super::token::TokenId;
use super::key::KeyId;

/// The version that is written, and the only one that is read.
const VERSION: u8 = 1;
/// Most sealed ancestors.
const ANCESTORS_MAX: usize = 8;

/// What a sealed token shall say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The token's public name.
    pub id: TokenId,
    /// The credential or the stored token that it was born from.
    pub origin: TokenId,
    /// The sessions of the sealed tokens that it was exchanged from, nearest first.
    pub ancestors: Vec<TokenId>,
    /// The revision that it was decided on; cut-offs compare with it.
    pub made_at: RevisionNumber,
    /// When the access token that came from the login was issued or renewed.
    pub issued_ms: UnixMs,
    /// Not valid from then on.
    pub expires_ms: UnixMs,
    /// When the session began.
    pub session_ms: UnixMs,
    /// No renewal goes beyond; none if it is renewable for ever.
    pub session_end_ms: Option<UnixMs>,
    /// What it is narrowed to.
    pub scopes: Scopes,
    /// Client networks.
    pub networks: Networks,
    /// The audience.
    pub audience: Option<Audience>,
    /// The workload.
    pub workload: Option<Workload>,
}

impl Claims {
    /// The bytes that are sealed, for a key.
    #[must_use]
    pub fn encode(&self, key: KeyId) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend(key.0.to_be_bytes());
        bytes.extend(self.id.to_bytes());
        bytes.extend(self.origin.to_bytes());
        for number in [
            self.made_at,
            self.issued_ms,
            self.expires_ms,
            self.session_ms,
            self.session_end_ms.unwrap_or(0),
        ] {
            put_number(&mut bytes, number);
        }
        put_number(&mut bytes, self.ancestors.len() as u64);
        for ancestor in &self.ancestors {
            bytes.extend(ancestor.to_bytes());
        }
        match &self.scopes {
            Scopes::All => put_number(&mut bytes, 0),
            Scopes::Only(set) => {
                put_number(&mut bytes, set.len() as u64 + 1);
                for permission in set.iter() {
                    put_text(&mut bytes, permission.action.as_str());
                    put_text(&mut bytes, permission.resource.as_str());
                }
            }
        }
        let networks: Vec<String> = self.networks.iter().collect();
        put_number(&mut bytes, networks.len() as u64);
        for network in &networks {
            put_text(&mut bytes, network);
        }
        put_text(
            &mut bytes,
            self.audience.as_ref().map_or("", Audience::as_str),
        );
        put_text(
            &mut bytes,
            self.workload.as_ref().map_or("", Workload::as_str),
        );
        bytes
    }
}

/// The claims of a token whose seal was found whole, read in place.
#[derive(Clone, Copy, Debug)]
pub struct Sealed<'a> {
    /// The token's public name.
    pub id: TokenId,
    /// The credential or the stored token that it was born from.
    pub origin: TokenId,
    /// The revision that it was decided on.
    pub made_at: RevisionNumber,
    /// When the access token that came from the login was issued or renewed.
    pub issued_ms: UnixMs,
    /// Not valid from then on.
    pub expires_ms: UnixMs,
    /// When the session began.
    pub session_ms: UnixMs,
    /// No renewal goes beyond; none if it is renewable for ever.
    pub session_end_ms: Option<UnixMs>,
    key: KeyId,
    ancestors: &'a [[u8; 16]],
    scopes: Option<SealedScopes<'a>>,
    networks: Texts<'a>,
    audience: &'a str,
    workload: &'a str,
}

impl<'a> Sealed<'a> {
    /// The key that claims name; `None` for another version or too few bytes. Nothing else of
    /// them is to be believed before their seal was found whole.
    #[must_use]
    #[inline]
    pub fn key_of(bytes: &[u8]) -> Option<KeyId> {
        let (version, rest) = bytes.split_first()?;
        let (key, _) = rest.split_first_chunk::<4>()?;
        (*version == VERSION).then(|| KeyId(u32::from_be_bytes(*key)))
    }

    /// Reads claims; `None` for anything that [`Claims::encode`] does not write.
    #[must_use]
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let key = Self::key_of(bytes)?;
        let mut reader = Reader(bytes.get(1 + size_of::<u32>()..)?);
        let id = reader.id()?;
        let origin = reader.id()?;
        let [made_at, issued_ms, expires_ms, session_ms, session_end] = [
            reader.number()?,
            reader.number()?,
            reader.number()?,
            reader.number()?,
            reader.number()?,
        ];
        let count = usize::try_from(reader.number()?).ok()?;
        if count > ANCESTORS_MAX {
            return None;
        }
        let (ancestors, _) = reader.take(count * 16)?.as_chunks::<16>();
        let scopes = match reader.number()? {
            0 => None,
            more => Some(SealedScopes(
                reader.texts(more.checked_sub(1)?.checked_mul(2)?)?,
            )),
        };
        let count = reader.number()?;
        let networks = reader.texts(count)?;
        let sealed = Self {
            id,
            origin,
            made_at,
            issued_ms,
            expires_ms,
            session_ms,
            session_end_ms: (session_end != 0).then_some(session_end),
            key,
            ancestors,
            scopes,
            networks,
            audience: reader.text()?,
            workload: reader.text()?,
        };
        let valid = networks.iter().all(|text| text.parse::<IpNet>().is_ok());
        (reader.0.is_empty() && valid).then_some(sealed)
    }

    /// The key that they are sealed by.
    #[must_use]
    pub fn key(&self) -> KeyId {
        self.key
    }

    /// The same as a record of its own, for another token to be made of.
    #[must_use]
    pub fn to_claims(&self) -> Claims {
        Claims {
            id: self.id,
            origin: self.origin,
            ancestors: self.ancestors().collect(),
            made_at: self.made_at,
            issued_ms: self.issued_ms,
            expires_ms: self.expires_ms,
            session_ms: self.session_ms,
            session_end_ms: self.session_end_ms,
            scopes: match self.scopes {
                None => Scopes::All,
                Some(scopes) => Scopes::Only(scopes.to_set()),
            },
            networks: self.networks(),
            audience: Audience::parse(self.audience),
            workload: Workload::parse(self.workload),
        }
    }

    /// The token's own session and those of its sealed ancestors.
    #[inline]
    pub fn sessions(&self) -> impl Iterator<Item = TokenId> + '_ {
        std::iter::once(self.id.session()).chain(self.ancestors())
    }

    /// The sessions of the sealed tokens that it was exchanged from, nearest first.
    #[inline]
    pub fn ancestors(&self) -> impl Iterator<Item = TokenId> + 'a {
        self.ancestors.iter().copied().map(TokenId::from_bytes)
    }

    /// What it is narrowed to; none for `All`.
    #[must_use]
    #[inline]
    pub fn scopes(&self) -> Option<SealedScopes<'a>> {
        self.scopes
    }

    /// Client networks.
    #[must_use]
    pub fn networks(&self) -> Networks {
        let texts: Vec<&str> = self.networks.iter().collect();
        Networks::parse(&texts).expect("what was sealed was made from networks")
    }

    /// Whether `address` may use the token.
    #[must_use]
    #[inline]
    pub fn allows(&self, address: Option<IpAddr>) -> bool {
        if self.networks.count == 0 {
            return true;
        }
        let Some(address) = address.map(|address| address.to_canonical()) else {
            return false;
        };
        let networks = self.networks.iter().map(str::parse::<IpNet>);
        networks.flatten().any(|network| network.contains(&address))
    }

    /// The audience; empty for none.
    #[must_use]
    #[inline]
    pub fn audience(&self) -> &'a str {
        self.audience
    }

    /// The workload; empty for none.
    #[must_use]
    #[inline]
    pub fn workload(&self) -> &'a str {
        self.workload
    }
}

/// The scopes of a sealed token, read in place: action and resource by turns.
#[derive(Clone, Copy, Debug)]
pub struct SealedScopes<'a>(Texts<'a>);

impl<'a> SealedScopes<'a> {
    /// How many permissions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        (self.0.count / 2) as usize
    }

    /// Whether they permit nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.count == 0
    }

    /// The texts: action pattern and resource pattern.
    #[inline]
    pub fn texts(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let mut texts = self.0.iter();
        std::iter::from_fn(move || Some((texts.next()?, texts.next()?)))
    }

    /// Whether one permission covers the need.
    #[must_use]
    #[inline]
    pub fn permits(self, need: &Need<'_>) -> bool {
        self.texts().any(|(action, resource)| {
            action_matches(action.as_bytes(), need.action().as_bytes())
                && resource_matches(resource, need.resource())
        })
    }

    /// The permissions; what cannot be read back is left out, and so permits nothing.
    pub fn permissions(self) -> impl Iterator<Item = Permission> + 'a {
        self.texts()
            .filter_map(|(action, resource)| Permission::parse(action, resource).ok())
    }

    /// The permissions as a set.
    #[must_use]
    pub fn to_set(self) -> PermissionSet {
        PermissionSet::new(self.permissions()).unwrap_or_default()
    }
}

/// Texts one behind the other, each with its length before it; found whole when they were read.
#[derive(Clone, Copy, Debug)]
struct Texts<'a> {
    count: u64,
    bytes: &'a [u8],
}

impl<'a> Texts<'a> {
    #[inline]
    fn iter(self) -> impl Iterator<Item = &'a str> {
        let mut reader = Reader(self.bytes);
        std::iter::from_fn(move || reader.text())
    }
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    #[inline]
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn id(&mut self) -> Option<TokenId> {
        let (bytes, rest) = self.0.split_first_chunk::<16>()?;
        self.0 = rest;
        Some(TokenId::from_bytes(*bytes))
    }

    #[inline]
    fn number(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..u64::BITS).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            let bits = u64::from(byte & 0x7F);
            // One number has one form: no bits beyond the last, no empty last byte.
            if bits << shift >> shift != bits || (*byte == 0 && shift > 0) {
                return None;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    #[inline]
    fn text(&mut self) -> Option<&'a str> {
        let length = usize::try_from(self.number()?).ok()?;
        std::str::from_utf8(self.take(length)?).ok()
    }

    fn texts(&mut self, count: u64) -> Option<Texts<'a>> {
        let begun = self.0;
        for _ in 0..count {
            self.text()?;
        }
        let bytes = &begun[..begun.len() - self.0.len()];
        Some(Texts { count, bytes })
    }
}

fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    put_number(bytes, text.len() as u64);
    bytes.extend(text.as_bytes());
}
