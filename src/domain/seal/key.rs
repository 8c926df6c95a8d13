//! Seal keys: what access tokens are sealed with, and the public name of each.
//!
//! A key is 32 random bytes, as 44 characters of base64 on a line of a file. It comes from files
//! or the environment, never from the log or the tables; there only its [`KeyId`] stands. Wiped
//! when dropped. Deliberately absent: the phases of a key, which State holds, and the MAC itself.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use zeroize::{Zeroize as _, Zeroizing};

use super::super::entropy::Entropy;

/// Bytes of a key.
pub const SEAL_KEY_BYTES: usize = 32;
const KEY_CHARS: usize = 44;
const ID_CHARS: usize = 8;

/// Why a text is no key; says nothing of what it holds.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SealKeyError {
    /// It is another word, or cut short.
    #[error(
        "is not the base64 of 32 bytes (44 characters, as `latchkey seal-key generate` writes them)"
    )]
    Form,
    /// It was never drawn: all its bytes are the same.
    #[error("is not random: all its bytes are the same")]
    Weak,
}

/// The public name of a seal key, in State and in every token sealed with it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub u32);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is no eight digits `0-9a-f`.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("wants a key's id, eight digits such as `9f2c01aa`")]
pub struct KeyIdError;

impl FromStr for KeyId {
    type Err = KeyIdError;

    fn from_str(text: &str) -> Result<Self, KeyIdError> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() != ID_CHARS || !text.bytes().all(is_digit) {
            return Err(KeyIdError);
        }
        let number = u32::from_str_radix(text, 16);
        number.map(Self).map_err(|_| KeyIdError)
    }
}

/// 32 random bytes that tokens are sealed with.
#[derive(Clone, PartialEq, Eq)]
// Boxed, so that a key that is moved leaves no copy behind.
pub struct SealKey(Box<[u8; SEAL_KEY_BYTES]>);

impl SealKey {
    /// A new key.
    #[must_use]
    pub fn generate(entropy: &dyn Entropy) -> Self {
        let mut key = Self(Box::default());
        entropy.fill(&mut *key.0);
        key
    }

    /// Reads a key's text.
    ///
    /// # Errors
    /// [`SealKeyError`].
    pub fn parse(text: &str) -> Result<Self, SealKeyError> {
        // The room that 44 characters may need; fewer bytes are a key.
        let mut content = Zeroizing::new([0; KEY_CHARS / 4 * 3]);
        if text.len() != KEY_CHARS
            || STANDARD.decode_slice(text, &mut *content) != Ok(SEAL_KEY_BYTES)
        {
            return Err(SealKeyError::Form);
        }
        let mut key = Self(Box::default());
        key.0.copy_from_slice(&content[..SEAL_KEY_BYTES]);
        if key.0.iter().all(|byte| *byte == key.0[0]) {
            return Err(SealKeyError::Weak);
        }
        Ok(key)
    }

    /// The text that [`SealKey::parse`] reads.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(*self.0))
    }

    /// The bytes, for the MAC.
    #[must_use]
    pub fn bytes(&self) -> &[u8; SEAL_KEY_BYTES] {
        &self.0
    }

    /// Its public name.
    #[must_use]
    pub fn id(&self) -> KeyId {
        let hash = Sha256::new()
            .chain_update(b"latchkey seal key\n")
            .chain_update(*self.0)
            .finalize();
        let mut first = [0; 4];
        first.copy_from_slice(&hash[..4]);
        KeyId(u32::from_be_bytes(first))
    }
}

impl Drop for SealKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey")
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::entropy::SeededEntropy;
    use super::*;

    #[test]
    fn a_key_reads_back_and_has_a_name_that_tells_nothing_of_it() {
        let key = SealKey::generate(&SeededEntropy::new(1));
        let text = key.reveal();
        assert_eq!(text.len(), KEY_CHARS);
        assert_eq!(SealKey::parse(&text).as_ref(), Ok(&key));
        let hash = Sha256::digest([b"latchkey seal key\n", &key.bytes()[..]].concat());
        assert_eq!(key.id().0.to_be_bytes(), hash[..4]);
        assert_ne!(key.id(), SealKey::generate(&SeededEntropy::new(2)).id());
        assert_eq!(format!("{key:?}"), "SealKey");
    }

    #[test]
    fn anything_but_32_random_bytes_is_refused() {
        let good = SealKey::generate(&SeededEntropy::new(3)).reveal();
        let check = |text: &str, expected| {
            assert_eq!(SealKey::parse(text), Err(expected), "{text}");
        };
        for text in [
            "",
            &good[1..],
            &good[..43],
            &format!("{}\n", *good),
            &format!(" {}", &good[..43]),
            &good.replace('=', "A"),
            &STANDARD.encode([1; 31]),
            &STANDARD.encode([1; 33]),
            &"é".repeat(22),
            &"A".repeat(1 << 20),
        ] {
            check(text, SealKeyError::Form);
        }
        check(&STANDARD.encode([0; 32]), SealKeyError::Weak);
        check(&STANDARD.encode([7; 32]), SealKeyError::Weak);
        // Two bits beyond the 256 that are not zero would be a second text of one key.
        let loose = format!("{}B=", "A".repeat(42));
        check(&loose, SealKeyError::Form);
    }

    #[test]
    fn ids_are_eight_small_digits() {
        let check = |text: &str, expected: Option<u32>| {
            assert_eq!(text.parse().ok(), expected.map(KeyId), "{text}");
        };
        check("9f2c01aa", Some(0x9f2c_01aa));
        check("00000000", Some(0));
        for text in [
            "",
            "9f2c01a",
            "9f2c01aaa",
            "9F2C01AA",
            "+f2c01aa",
            "0x9f2c01",
            "9f2c01ag",
        ] {
            check(text, None);
        }
        assert_eq!(
            format!("{} {:?}", KeyId(10), KeyId(10)),
            "0000000a 0000000a"
        );
    }
}
