//! The seal: a keyed MAC over claims, by one of the keys that this process has loaded.
//!
//! HMAC-SHA-256 (RFC 2104) over the claims, which name their key; the key of the MAC is derived
//! from the loaded one and the salt that State holds for it, which is this installation's own:
//! another that was given the same key by mistake refuses our tokens. The derived key is kept with
//! its two blocks hashed, so that opening a token costs its claims and one block more.

use std::fmt;
use std::sync::OnceLock;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::claims::{Claims, Sealed};
use super::key::{KeyId, SealKey};
use super::text;

/// The random bytes that make a key one installation's.
pub type Salt = [u8; 16];

/// Bytes of the MAC.
const MAC_BYTES: usize = 32;
const CONTEXT: &[u8] = b"latchkey seal 1\n";

/// Where the bytes of a presented token are read into.
pub struct Room([u8; text::BYTES_MAX]);

impl Default for Room {
    fn default() -> Self {
        Self([0; text::BYTES_MAX])
    }
}

/// Why a presented text could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unopened {
    /// It is no text that we can have made.
    Malformed,
    /// Its key was never ours, or its seal is broken.
    Unknown,
    /// Its key is ours, but this process has not loaded it.
    NotLoaded(KeyId),
}

/// The keys that this process has loaded.
#[derive(Default)]
pub struct Ring {
    keys: Vec<Loaded>,
}

struct Loaded {
    id: KeyId,
    key: SealKey,
    // Of the salt beside it; an installation never gives a key another.
    derived: OnceLock<(Salt, Hmac<Sha256>)>,
}

impl Loaded {
    fn mac(&self, salt: &Salt) -> Hmac<Sha256> {
        let (known, mac) = self.derived.get_or_init(|| (*salt, self.derive(salt)));
        if known == salt {
            mac.clone()
        } else {
            self.derive(salt)
        }
    }

    fn derive(&self, salt: &Salt) -> Hmac<Sha256> {
        let mac = keyed(self.key.bytes()).chain_update(CONTEXT);
        keyed(&mac.chain_update(salt).finalize().into_bytes())
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

impl Ring {
    /// The ring of these keys; of several with the same id one counts.
    #[must_use]
    pub fn new(keys: impl IntoIterator<Item = SealKey>) -> Self {
        let mut keys: Vec<Loaded> = keys
            .into_iter()
            .map(|key| Loaded {
                id: key.id(),
                key,
                derived: OnceLock::new(),
            })
            .collect();
        keys.sort_unstable_by_key(|one| one.id);
        keys.dedup_by_key(|one| one.id);
        Self { keys }
    }

    /// The ids of the keys, in their order.
    #[must_use]
    pub fn ids(&self) -> Vec<KeyId> {
        self.keys.iter().map(|one| one.id).collect()
    }

    /// Whether a key is loaded.
    #[must_use]
    pub fn has(&self, id: KeyId) -> bool {
        self.loaded(id).is_some()
    }

    fn loaded(&self, id: KeyId) -> Option<&Loaded> {
        self.keys.iter().find(|one| one.id == id)
    }

    /// Seals claims by a key with its salt: the text of the token. `None` if the key is not loaded,
    /// or the text would be longer than a token may be.
    #[must_use]
    pub fn seal(&self, claims: &Claims, key: KeyId, salt: &Salt) -> Option<String> {
        let mac = self.loaded(key)?.mac(salt);
        let mut bytes = claims.encode(key);
        let tag = mac.chain_update(&bytes).finalize().into_bytes();
        bytes.extend(tag);
        text::write(&bytes)
    }

    /// Opens a presented token: its claims' bytes, whose seal was found whole. `salt_of` has the
    /// salts of the keys that are in use.
    ///
    /// # Errors
    /// [`Unopened`]; nothing that the text says is to be believed.
    #[inline]
    pub fn open<'r>(
        &self,
        text: &str,
        room: &'r mut Room,
        salt_of: impl FnOnce(KeyId) -> Option<Salt>,
    ) -> Result<&'r [u8], Unopened> {
        let bytes = text::read(text, &mut room.0).ok_or(Unopened::Malformed)?;
        let (claims, tag) = bytes
            .split_last_chunk::<MAC_BYTES>()
            .ok_or(Unopened::Malformed)?;
        let id = Sealed::key_of(claims).ok_or(Unopened::Malformed)?;
        let salt = salt_of(id).ok_or(Unopened::Unknown)?;
        let loaded = self.loaded(id).ok_or(Unopened::NotLoaded(id))?;
        // Compared in constant time.
        let whole = loaded.mac(&salt).chain_update(claims).verify_slice(tag);
        whole.map(|()| claims).map_err(|_| Unopened::Unknown)
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ring").field(&self.ids()).finish()
    }
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
