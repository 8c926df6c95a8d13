//! The grammar of actions and resources, read in one pass: is it valid, and what begins it.
//!
//! A Check parses its needs, so the pass over their bytes is on the hot path: it validates, and
//! it hashes every prefix that ends at a separator, which is what compiled rules are compared
//! with (`state::scopeset`). The hash is quick and weak: equal hashes only say that texts are
//! worth comparing. Used by `permission`; refuses, never repairs.

use thiserror::Error;

/// Most parts of an action, a final `*` included.
pub const ACTION_PARTS_MAX: usize = 4;
/// Most bytes of an action or action pattern.
pub const ACTION_BYTES_MAX: usize = 128;
/// Most segments of a resource (a final `**` not counted).
pub const RESOURCE_SEGMENTS_MAX: usize = 16;
/// Most bytes of a resource or of a resource pattern.
pub const RESOURCE_BYTES_MAX: usize = 1024;
/// Most bytes of one segment.
pub const SEGMENT_BYTES_MAX: usize = 128;

/// Why a text is not an action, a resource or a pattern of one.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum GrammarError {
    /// Not 1 to 4 parts of `[a-z0-9_-]+` joined by `:`.
    #[error("an action is 1 to 4 parts of [a-z0-9_-] joined by ':', at most 128 bytes")]
    Action,
    /// Not an action with at most a final `*`.
    #[error("an action pattern is an action, or one whose last part is '*', or '*'")]
    ActionPattern,
    /// Not 1 to 16 valid segments in at most 1,024 bytes.
    #[error(
        "a resource is 1 to 16 segments of [A-Za-z0-9._~@:+-] (1 to 128 bytes, not '.' or '..') \
         joined by '/', at most 1024 bytes"
    )]
    Resource,
    /// Not a resource with `*` segments and at most a final `**`.
    #[error("a resource pattern is a resource in which a segment may be '*' and the last '**'")]
    ResourcePattern,
}

/// The bytes that may stand in a text, as ranges of ASCII.
struct Alphabet<const RANGES: usize> {
    ranges: [Range; RANGES],
    separator: Range,
}

/// Bytes of ASCII from one to another, to be asked of one byte or of a word of them.
#[derive(Clone, Copy)]
struct Range {
    low: u8,
    high: u8,
    // Added to a byte of a word, they reach its high bit from `low` on, and above `high`.
    to_low: u64,
    to_above: u64,
}

const fn range(low: u8, high: u8) -> Range {
    Range {
        low,
        high,
        to_low: in_every_byte(0x80 - low),
        to_above: in_every_byte(0x7f - high),
    }
}

// `-`, `0` to `9` and the separator `:`, `_`, `a` to `z`.
const ACTION: Alphabet<4> = Alphabet {
    ranges: [
        range(b'-', b'-'),
        range(b'0', b':'),
        range(b'_', b'_'),
        range(b'a', b'z'),
    ],
    separator: range(b':', b':'),
};

// `+`, then `-.`, the separator `/`, `0` to `9` and `:`, then `@A` to `Z`, `_`, `a` to `z`, `~`.
const RESOURCE: Alphabet<6> = Alphabet {
    ranges: [
        range(b'+', b'+'),
        range(b'-', b':'),
        range(b'@', b'Z'),
        range(b'_', b'_'),
        range(b'a', b'z'),
        range(b'~', b'~'),
    ],
    separator: range(b'/', b'/'),
};

impl<const RANGES: usize> Alphabet<RANGES> {
    fn is_part(&self, byte: u8) -> bool {
        let within = |range: &Range| (range.low..=range.high).contains(&byte);
        !within(&self.separator) && self.ranges.iter().any(within)
    }

    /// Which bytes may stand in a part, to be looked up.
    const fn parts(&self) -> [bool; 256] {
        let mut parts = [false; 256];
        let mut at = 0;
        while at < RANGES {
            let mut byte = self.ranges[at].low;
            while byte <= self.ranges[at].high {
                parts[byte as usize] = byte < self.separator.low || byte > self.separator.high;
                byte += 1;
            }
            at += 1;
        }
        parts
    }
}

static SEGMENT_PARTS: [bool; 256] = RESOURCE.parts();

/// Whether `part` may stand in an action.
pub(super) fn is_action_part(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|byte| ACTION.is_part(byte))
}

/// Whether `segment` may stand in a resource.
#[must_use]
pub fn is_segment(segment: &str) -> bool {
    let is_part = |byte: u8| SEGMENT_PARTS[usize::from(byte)];
    may_be_segment(segment.as_bytes()) && segment.bytes().all(is_part)
}

// Of valid bytes: neither too short nor too long, and no `.` or `..`?
#[inline]
fn may_be_segment(segment: &[u8]) -> bool {
    match segment.len() {
        0 => false,
        1 | 2 => segment.iter().any(|byte| *byte != b'.'),
        bytes => bytes <= SEGMENT_BYTES_MAX,
    }
}

const WORD: usize = size_of::<u64>();
const HIGH_BITS: u64 = in_every_byte(0x80);

const fn in_every_byte(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; WORD])
}

// The high bit of every byte of `word` that lies in a range; its bytes are ASCII, so that no sum
// carries into the next byte.
#[inline]
fn within<const RANGES: usize>(word: u64, ranges: [Range; RANGES]) -> u64 {
    let mut within = 0;
    for range in ranges {
        within |= word.wrapping_add(range.to_low) & !word.wrapping_add(range.to_above);
    }
    within & HIGH_BITS
}

// The first bytes of a word.
#[inline]
fn first(bytes: usize, word: u64) -> u64 {
    word & !u64::MAX.checked_shl(8 * bytes as u32).unwrap_or(0)
}

/// The hash of a text, by words of eight bytes.
#[derive(Clone, Copy, Debug)]
struct TextHash(u64);

impl TextHash {
    const EMPTY: Self = Self(0x51_7C_C1_B7_27_22_0A_95);

    #[inline]
    fn push(&mut self, word: u64) {
        self.0 = (self.0 ^ word)
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            .rotate_left(29);
    }

    // With the bytes behind the last whole word; none of a valid text is 0, so that what is
    // missing up to a word is told apart.
    #[inline]
    fn end(self, tail: u64) -> u32 {
        ((self.0 ^ tail).wrapping_mul(0xD6E8_FEB8_6659_FD93) >> 32) as u32
    }
}

// Fewer bytes than a word holds, behind the whole words of `text`.
#[inline]
fn tail_word(text: &[u8], tail: &[u8]) -> u64 {
    match text.last_chunk() {
        _ if tail.is_empty() => 0,
        Some(last) => u64::from_le_bytes(*last) >> (8 * (WORD - tail.len())),
        None => tail
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u64::from(*byte)),
    }
}

/// The hash that a compiled rule holds for what its pattern begins with: whole parts, without
/// the separator behind them.
pub(crate) fn prefix_hash(prefix: &str) -> u32 {
    let text = prefix.as_bytes();
    let (words, tail) = text.as_chunks();
    let mut hash = TextHash::EMPTY;
    words
        .iter()
        .for_each(|word| hash.push(u64::from_le_bytes(*word)));
    hash.end(tail_word(text, tail))
}

/// The hashes of what begins an action: of none of its parts, of the first, and so on to all;
/// then 0.
pub(super) type ActionHashes = [u32; ACTION_PARTS_MAX + 1];
/// The same of a resource.
pub(super) type ResourceHashes = [u32; RESOURCE_SEGMENTS_MAX + 1];

/// Reads a concrete action.
#[inline]
pub(super) fn read_action(text: &str, hashes: &mut ActionHashes) -> Result<(), GrammarError> {
    let is_part = |part: &[u8]| !part.is_empty();
    let read = text.len() <= ACTION_BYTES_MAX && read(text, ACTION, is_part, hashes).is_some();
    read.then_some(()).ok_or(GrammarError::Action)
}

/// Reads a concrete resource.
#[inline]
pub(super) fn read_resource(text: &str, hashes: &mut ResourceHashes) -> Result<(), GrammarError> {
    let read =
        text.len() <= RESOURCE_BYTES_MAX && read(text, RESOURCE, may_be_segment, hashes).is_some();
    read.then_some(()).ok_or(GrammarError::Resource)
}

// None for a byte that is not in the alphabet, for what may not be a part, and for too many.
#[inline]
fn read<const RANGES: usize>(
    text: &str,
    alphabet: Alphabet<RANGES>,
    may_be_part: impl Fn(&[u8]) -> bool,
    hashes: &mut [u32],
) -> Option<()> {
    let text = text.as_bytes();
    let mut hash = TextHash::EMPTY;
    *hashes.first_mut()? = hash.end(0);
    let (mut parts, mut start) = (1, 0);
    let mut read = |place: usize, bytes: usize, word: u64, hash: TextHash| {
        if word & HIGH_BITS != 0 || within(word, alphabet.ranges) != first(bytes, HIGH_BITS) {
            return None;
        }
        let mut separators = within(word, [alphabet.separator]);
        while separators != 0 {
            let before = separators.trailing_zeros() as usize / 8;
            let end = place + before;
            if !may_be_part(&text[start..end]) {
                return None;
            }
            *hashes.get_mut(parts)? = hash.end(first(before, word));
            start = end + 1;
            parts += 1;
            separators &= separators - 1;
        }
        Some(())
    };
    let (words, tail) = text.as_chunks();
    let mut place = 0;
    for word in words {
        let word = u64::from_le_bytes(*word);
        read(place, WORD, word, hash)?;
        hash.push(word);
        place += WORD;
    }
    let word = tail_word(text, tail);
    read(place, tail.len(), word, hash)?;
    *hashes.get_mut(parts)? = hash.end(word);
    may_be_part(&text[start..]).then_some(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_prefix_has_the_hash_that_a_rule_would_have() {
        let long = "x".repeat(SEGMENT_BYTES_MAX);
        for path in [
            "a",
            "acme/web/prod",
            &format!("a/{long}/bc/d"),
            "12345678/1234567/1",
        ] {
            let mut hashes = [0; RESOURCE_SEGMENTS_MAX + 1];
            read_resource(path, &mut hashes).unwrap();
            let ends = path.match_indices('/').map(|(place, _)| place);
            let ends: Vec<usize> = [0].into_iter().chain(ends).chain([path.len()]).collect();
            for (parts, end) in ends.iter().enumerate() {
                assert_eq!(hashes[parts], prefix_hash(&path[..*end]), "{path} {end}");
            }
            assert!(hashes[ends.len()..].iter().all(|hash| *hash == 0), "{path}");
        }
    }

    #[test]
    fn texts_that_are_easily_confused_have_other_hashes() {
        let texts = [
            "ab:c", "a:bc", "abc", "a:b:c", "c:b:a", "ab", "ba", "a:b", "b:a", "",
        ];
        let hashes: BTreeSet<u32> = texts.into_iter().map(prefix_hash).collect();
        assert_eq!(hashes.len(), texts.len());
    }

    proptest! {
        #[test]
        fn words_and_bytes_see_the_same_grammar(
            text in "[a-zA-Z0-9._~@:+/ é*\\x7f\\x00-]{0,40}|([a-z0-9.]{0,3}[/:]){0,18}[a-z.]{0,9}",
        ) {
            let segments: Vec<&str> = text.split('/').collect();
            let valid = segments.len() <= RESOURCE_SEGMENTS_MAX
                && segments.into_iter().all(is_segment);
            prop_assert_eq!(read_resource(&text, &mut [0; RESOURCE_SEGMENTS_MAX + 1]).is_ok(), valid);
            let parts: Vec<&str> = text.split(':').collect();
            let valid = parts.len() <= ACTION_PARTS_MAX && parts.into_iter().all(is_action_part);
            prop_assert_eq!(read_action(&text, &mut [0; ACTION_PARTS_MAX + 1]).is_ok(), valid);
        }
    }
}
