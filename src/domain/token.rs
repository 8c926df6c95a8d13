//! Token strings: how a secret is made, recognised and reduced to a digest.
//!
//! A stored secret is `lk?_` + 43 characters uniform in `0-9A-Za-z` (256 random bits) + the
//! CRC-32 (ISO-HDLC) of those 47 bytes as 6 such characters, most significant first: 53 bytes,
//! one SHA-256 block, one word for a double click. [`Secret`] proves that the checksum held;
//! [`Digest`] is all that is ever kept. Deliberately absent: any look-up, and the sealed form,
//! which is in [`super::seal`].

use std::fmt;

use sha2::{Digest as _, Sha256};
use uuid::Uuid;
use uuid::fmt::Hyphenated;
use zeroize::Zeroize;

use super::entropy::Entropy;

/// Bytes in a stored secret, prefix and checksum included.
pub const SECRET_BYTES: usize = 53;
const PREFIX_BYTES: usize = 4;
pub(super) const CRC_CHARS: usize = 6;
/// Where the time of a UUIDv7 begins: above 80 bits of version, variant and randomness.
const TIME_SHIFT: u32 = 80;
const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";
const BODY_BYTES: usize = SECRET_BYTES - CRC_CHARS;
pub(super) const ALPHABET: &[u8; 62] =
    b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// What a token speaks for, told by its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum TokenKind {
    /// `lku_`: a user, with the user's live permissions.
    User = 1,
    /// `lkt_`: a team, with the team's live permissions.
    Team = 2,
    /// `lkr_`: a resource; its scopes are its whole power.
    Resource = 3,
    /// `lks_`: a service account, with its live permissions.
    Service = 4,
    /// `lka_`: what a login or an exchange spoke for, for a short time.
    Access = 5,
    /// `lkc_`: nothing; it logs a service account in.
    ClientSecret = 6,
    /// No secret at all: its private key logs a service account in.
    PublicKey = 7,
}

impl TokenKind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::User,
        Self::Team,
        Self::Resource,
        Self::Service,
        Self::Access,
        Self::ClientSecret,
        Self::PublicKey,
    ];

    /// The four characters that a secret of this kind begins with; empty where there is none.
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Self::User => "lku_",
            Self::Team => "lkt_",
            Self::Resource => "lkr_",
            Self::Service => "lks_",
            Self::Access => "lka_",
            Self::ClientSecret => "lkc_",
            Self::PublicKey => "",
        }
    }

    /// Whether tokens of this kind have a secret of their own.
    #[must_use]
    pub fn has_secret(self) -> bool {
        self != Self::PublicKey
    }

    /// Whether it is a credential: it can be exchanged for an access token, and nothing else.
    #[must_use]
    #[inline]
    pub fn is_credential(self) -> bool {
        matches!(self, Self::ClientSecret | Self::PublicKey)
    }

    /// The word used in the API, the CLI and the log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Team => "team",
            Self::Resource => "resource",
            Self::Service => "service",
            Self::Access => "access",
            Self::ClientSecret => "client_secret",
            Self::PublicKey => "public_key",
        }
    }

    /// The kind with this number, as the log stores it.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }

    /// The kind with this word.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    #[inline]
    fn from_prefix(prefix: [u8; PREFIX_BYTES]) -> Option<Self> {
        let of_kind = |kind: &Self| *kind.prefix().as_bytes() == prefix;
        Self::ALL.into_iter().find(of_kind)
    }
}

impl fmt::Display for TokenKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The set of kinds that a caller of Check accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KindSet(u8);

impl KindSet {
    /// Accepts every kind.
    pub const ALL: Self = Self(u8::MAX);

    /// The set of exactly these kinds; none given means every kind.
    pub fn from_kinds(kinds: impl IntoIterator<Item = TokenKind>) -> Self {
        let bits = kinds
            .into_iter()
            .fold(0, |bits, kind| bits | 1 << kind as u8);
        if bits == 0 { Self::ALL } else { Self(bits) }
    }

    /// Whether `kind` is accepted.
    #[must_use]
    pub fn contains(self, kind: TokenKind) -> bool {
        self.0 & (1 << kind as u8) != 0
    }
}

/// The public, time-ordered name of a token (a UUIDv7, RFC 9562); never secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenId(u128);

impl TokenId {
    /// A new id made at `unix_ms`.
    pub fn generate(unix_ms: u64, entropy: &dyn Entropy) -> Self {
        let mut random = [0_u8; 10];
        entropy.fill(&mut random);
        let id = uuid::Builder::from_unix_timestamp_millis(unix_ms, &random).into_uuid();
        Self(id.as_u128())
    }

    /// Reads the hyphenated text form; `None` if it is anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != Hyphenated::LENGTH {
            return None;
        }
        let id = Uuid::try_parse(text).ok()?;
        Some(Self(id.as_u128()))
    }

    /// The id of a token that renews one of this id: another time, and the same 74 random bits,
    /// which are the session.
    #[must_use]
    pub fn renewed(self, unix_ms: u64) -> Self {
        Self(self.session().0 | u128::from(unix_ms) << TIME_SHIFT)
    }

    /// Whether it has the version and the variant of the ids that are made here.
    #[must_use]
    pub fn is_made_here(self) -> bool {
        let (version, variant) = (self.0 >> 76 & 0xF, self.0 >> 62 & 0x3);
        (version, variant) == (7, 2)
    }

    /// What all tokens of a session have in common: the id without its time.
    #[must_use]
    #[inline]
    pub fn session(self) -> Self {
        Self(self.0 & ((1 << TIME_SHIFT) - 1))
    }

    /// The hyphenated text form, as bytes of ASCII.
    #[must_use]
    #[inline]
    pub fn text(self) -> [u8; Hyphenated::LENGTH] {
        // Where the two digits of each byte stand.
        const PLACES: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
        let mut text = [b'-'; Hyphenated::LENGTH];
        for (byte, place) in self.to_bytes().into_iter().zip(PLACES) {
            text[place] = HEX_DIGITS[usize::from(byte >> 4)];
            text[place + 1] = HEX_DIGITS[usize::from(byte & 0xf)];
        }
        text
    }

    /// The id as stored: 16 bytes, big-endian, so that order in bytes is order in time.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The id from its stored bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    /// When it was made, in Unix milliseconds: the first 48 bits (RFC 9562, section 5.7).
    #[must_use]
    pub fn created_ms(self) -> u64 {
        (self.0 >> TIME_SHIFT) as u64
    }

    /// The id as a number, for indexes.
    #[must_use]
    pub fn as_u128(self) -> u128 {
        self.0
    }

    /// The id from [`TokenId::as_u128`].
    #[must_use]
    pub fn from_u128(number: u128) -> Self {
        Self(number)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text();
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The SHA-256 of a secret's text: whole in the store, its first half the key of the index.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of a presented or fresh secret.
    #[must_use]
    pub fn of(secret: &str) -> Self {
        Self(Sha256::digest(secret.as_bytes()).into())
    }

    /// The digest from its stored bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 stored bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 128 bits: the key in memory.
    #[must_use]
    pub fn key(&self) -> u128 {
        let mut half = [0; 16];
        half.copy_from_slice(&self.0[..16]);
        u128::from_be_bytes(half)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest")
    }
}

/// A well-formed stored secret: known prefix, alphabet and checksum. Wiped when dropped.
pub struct Secret {
    text: String,
    kind: TokenKind,
}

impl Secret {
    /// A fresh secret of `kind` with 256 random bits.
    pub fn generate(kind: TokenKind, entropy: &dyn Entropy) -> Self {
        let mut text = String::with_capacity(SECRET_BYTES);
        text.push_str(kind.prefix());
        while text.len() < BODY_BYTES {
            let mut bytes = [0_u8; 64];
            entropy.fill(&mut bytes);
            // 248 is the largest multiple of 62 in a byte: above it, a character would be likelier.
            let uniform = bytes.iter().filter(|byte| **byte < 248);
            text.extend(
                uniform
                    .take(BODY_BYTES - text.len())
                    .map(|byte| char::from(ALPHABET[usize::from(byte % 62)])),
            );
            bytes.zeroize();
        }
        for character in checksum(text.as_bytes()) {
            text.push(char::from(character));
        }
        Self { text, kind }
    }

    /// A secret that was made before, such as a first administrator brings; `None` for anything that
    /// we cannot have made.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let kind = recognise(text)?;
        let text = text.to_owned();
        Some(Self { text, kind })
    }

    /// The kind that the prefix names.
    #[must_use]
    pub fn kind(&self) -> TokenKind {
        self.kind
    }

    /// The digest to keep.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.text)
    }

    /// The last four characters, kept for display.
    #[must_use]
    pub fn last4(&self) -> &str {
        &self.text[SECRET_BYTES - 4..]
    }

    /// The plain text, to be shown once in the reply that created it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.text
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.text.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Recognises a presented secret: its kind, or `None` for anything that we cannot have made.
///
/// Costs no look-up and no allocation, so that garbage is refused before memory is touched.
#[must_use]
pub fn recognise(presented: &str) -> Option<TokenKind> {
    let bytes = presented.as_bytes();
    if bytes.len() != SECRET_BYTES {
        return None;
    }
    let (body, crc) = bytes.split_at(BODY_BYTES);
    let (prefix, random) = body.split_first_chunk()?;
    let kind = TokenKind::from_prefix(*prefix)?;
    // Not `all`: without a way out, many bytes are compared at once.
    let in_alphabet = random
        .iter()
        .fold(true, |so_far, byte| so_far & byte.is_ascii_alphanumeric());
    (in_alphabet && checksum(body) == crc).then_some(kind)
}

/// The checksum that a secret with this prefix and these random characters ends in.
///
/// For tools that make many tokens, such as the benchmark; a secret is made by
/// [`Secret::generate`].
#[must_use]
pub fn checksum_of(body: &str) -> String {
    checksum(body.as_bytes()).map(char::from).iter().collect()
}

pub(super) fn checksum(body: &[u8]) -> [u8; CRC_CHARS] {
    let mut crc = crc32fast::hash(body);
    let mut characters = [0; CRC_CHARS];
    for character in characters.iter_mut().rev() {
        *character = ALPHABET[(crc % 62) as usize];
        crc /= 62;
    }
    characters
}

#[cfg(test)]
mod tests {
    use super::super::entropy::SeededEntropy;
    use super::*;

    #[test]
    fn a_fresh_secret_has_the_documented_form() {
        let entropy = SeededEntropy::new(1);
        for kind in TokenKind::ALL.into_iter().filter(|kind| kind.has_secret()) {
            let secret = Secret::generate(kind, &entropy);
            let text = secret.reveal();
            assert_eq!(text.len(), SECRET_BYTES);
            assert!(text.starts_with(kind.prefix()));
            assert!(text[4..].bytes().all(|byte| byte.is_ascii_alphanumeric()));
            assert_eq!(recognise(text), Some(kind));
            let read = Secret::parse(text).expect("a secret");
            assert_eq!((read.reveal(), read.kind()), (text, kind));
            assert!(Secret::parse(&text[1..]).is_none());
        }
    }

    #[test]
    fn the_checksum_is_crc32_in_base62_most_significant_first() {
        // CRC-32/ISO-HDLC of "123456789" is the catalogue's check value 0xCBF43926.
        assert_eq!(crc32fast::hash(b"123456789"), 0xCBF4_3926);
        let mut value = 0_u64;
        for character in checksum(b"123456789") {
            let digit = ALPHABET.iter().position(|c| *c == character);
            value = value * 62 + digit.expect("in alphabet") as u64;
        }
        assert_eq!(value, 0xCBF4_3926);
    }

    #[test]
    fn any_single_changed_character_is_refused() {
        let secret = Secret::generate(TokenKind::User, &SeededEntropy::new(2));
        for position in 0..SECRET_BYTES {
            for replacement in [b'0', b'z', b'_', b' ', b'-'] {
                let mut bytes = secret.reveal().as_bytes().to_vec();
                if bytes[position] == replacement {
                    continue;
                }
                bytes[position] = replacement;
                let text = String::from_utf8(bytes).expect("ascii");
                assert_eq!(recognise(&text), None, "{position} {replacement}");
            }
        }
    }

    #[test]
    fn strings_that_we_cannot_have_made_are_refused() {
        let secret = Secret::generate(TokenKind::Team, &SeededEntropy::new(3));
        let text = secret.reveal();
        for input in [
            "",
            "lku_",
            &text[..52],
            &format!("{text}0"),
            &format!(" {text}"),
            &text.to_uppercase(),
            &text.replacen("lkt_", "lkx_", 1),
            &text.replacen("lkt_", "lku_", 1),
            &"é".repeat(27),
        ] {
            assert_eq!(recognise(input), None, "{input:?}");
        }
    }

    #[test]
    fn characters_are_uniform() {
        let entropy = SeededEntropy::new(4);
        let mut counts = [0_u32; 62];
        for _ in 0..2_000 {
            let secret = Secret::generate(TokenKind::User, &entropy);
            for byte in &secret.reveal().as_bytes()[4..47] {
                let digit = ALPHABET
                    .iter()
                    .position(|c| c == byte)
                    .expect("in alphabet");
                counts[digit] += 1;
            }
        }
        let expected = f64::from(2_000 * 43) / 62.0;
        let chi2: f64 = counts
            .iter()
            .map(|count| (f64::from(*count) - expected).powi(2) / expected)
            .sum();
        // 61 degrees of freedom: 120 is beyond the 99.999th percentile.
        assert!(chi2 < 120.0, "chi2 {chi2}");
    }

    #[test]
    fn ids_are_version_7_ordered_by_time_and_read_back() {
        let entropy = SeededEntropy::new(5);
        let early = TokenId::generate(1_000, &entropy);
        let late = TokenId::generate(1_001, &entropy);
        assert!(early < late && early.to_bytes() < late.to_bytes());
        assert_eq!(Uuid::from_u128(early.as_u128()).get_version_num(), 7);
        assert_eq!((early.created_ms(), late.created_ms()), (1_000, 1_001));
        assert_eq!(TokenId::parse(&early.to_string()), Some(early));
        assert_eq!(TokenId::parse(&early.to_string().replace('-', "")), None);
        assert_eq!(TokenId::parse("x"), None);
    }

    #[test]
    fn debug_shows_neither_secret_nor_digest() {
        let secret = Secret::generate(TokenKind::User, &SeededEntropy::new(6));
        assert_eq!(format!("{secret:?} {:?}", secret.digest()), "Secret Digest");
    }
}
