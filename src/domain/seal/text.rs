//! The text of a sealed token: `lka_`, its bytes in base62, and the CRC-32 of all that before it.
//!
//! One word for a double click, and one text for the same bytes. Eight bytes are a big-endian
//! number of eleven digits `0-9A-Za-z`, and what is left over at the end one of fewer, so that
//! each block stands for itself: reading takes no memory and no long division. Garbage is refused
//! by the checksum before any key is touched. Longer than a stored secret, which tells the two
//! forms of an access token apart.

use super::super::token::{ALPHABET, CRC_CHARS, SECRET_BYTES, TokenKind, checksum};

/// Most characters of a sealed token.
pub const CHARS_MAX: usize = 2_048;
/// Most bytes in one.
pub const BYTES_MAX: usize = (CHARS_MAX - FRAME_CHARS) / BLOCK_CHARS * BLOCK_BYTES;

const FRAME_CHARS: usize = 4 + CRC_CHARS;
const BLOCK_BYTES: usize = 8;
const BLOCK_CHARS: usize = 11;
/// How many digits so many bytes take.
const DIGITS: [usize; BLOCK_BYTES + 1] = [0, 2, 3, 5, 6, 7, 9, 10, BLOCK_CHARS];
const NO_DIGIT: u8 = 0xFF;
const VALUES: [u8; 256] = values();

const fn values() -> [u8; 256] {
    let mut values = [NO_DIGIT; 256];
    let mut digit = 0;
    while digit < ALPHABET.len() {
        values[ALPHABET[digit] as usize] = digit as u8;
        digit += 1;
    }
    values
}

/// Whether a presented text has the form of a sealed token, not of a stored secret; it may still
/// be garbage.
#[must_use]
#[inline]
pub fn is_sealed(text: &str) -> bool {
    text.len() > SECRET_BYTES && text.starts_with(TokenKind::Access.prefix())
}

/// The text of these bytes; `None` if there are too many for one, or so few that it would look like
/// a stored secret.
pub(super) fn write(bytes: &[u8]) -> Option<String> {
    if bytes.len() > BYTES_MAX {
        return None;
    }
    let mut text = String::with_capacity(CHARS_MAX);
    text.push_str(TokenKind::Access.prefix());
    for block in bytes.chunks(BLOCK_BYTES) {
        let mut number = block
            .iter()
            .fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        let mut digits = [0; BLOCK_CHARS];
        let digits = &mut digits[..DIGITS[block.len()]];
        for digit in digits.iter_mut().rev() {
            *digit = ALPHABET[(number % 62) as usize];
            number /= 62;
        }
        text.extend(digits.iter().copied().map(char::from));
    }
    let crc = checksum(text.as_bytes());
    text.extend(crc.map(char::from));
    (text.len() <= CHARS_MAX && is_sealed(&text)).then_some(text)
}

/// The bytes of a text, read into `room`; `None` for anything that [`write`] does not write.
#[inline]
pub(super) fn read<'r>(text: &str, room: &'r mut [u8; BYTES_MAX]) -> Option<&'r [u8]> {
    let text = text.as_bytes();
    if text.len() > CHARS_MAX {
        return None;
    }
    let (body, crc) = text.split_at_checked(text.len().checked_sub(CRC_CHARS)?)?;
    let digits = body.strip_prefix(TokenKind::Access.prefix().as_bytes())?;
    if checksum(body) != crc {
        return None;
    }
    let (blocks, last) = digits.as_chunks::<BLOCK_CHARS>();
    for (block, bytes) in blocks.iter().zip(room.as_chunks_mut::<BLOCK_BYTES>().0) {
        *bytes = number(block)?.to_be_bytes();
    }
    let whole = blocks.len() * BLOCK_BYTES;
    let left = DIGITS.iter().position(|digits| *digits == last.len())?;
    let number = number(last)?;
    // Fewer than a block, so that the shift is one.
    if number >> (left * 8) != 0 {
        return None;
    }
    let bytes = room.get_mut(whole..whole + left)?;
    bytes.copy_from_slice(&number.to_be_bytes()[BLOCK_BYTES - left..]);
    Some(&room[..whole + left])
}

/// The number that digits say, if it is one of 64 bits.
#[inline]
fn number(digits: &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for digit in digits {
        let value = VALUES[usize::from(*digit)];
        if value == NO_DIGIT {
            return None;
        }
        number = number.checked_mul(62)?.checked_add(u64::from(value))?;
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_back(text: &str) -> Option<Vec<u8>> {
        read(text, &mut [0; BYTES_MAX]).map(<[u8]>::to_vec)
    }

    #[test]
    fn every_length_reads_back_from_one_word() {
        for length in 32..=BYTES_MAX {
            let bytes: Vec<u8> = (0..length).map(|at| (at * 193 + length) as u8).collect();
            let text = write(&bytes).expect("it fits");
            assert!(text.len() <= CHARS_MAX);
            assert!(text[4..].bytes().all(|byte| byte.is_ascii_alphanumeric()));
            assert_eq!(read_back(&text), Some(bytes));
        }
        for byte in [0, 0xFF] {
            let bytes = vec![byte; BYTES_MAX];
            assert_eq!(read_back(&write(&bytes).expect("it fits")), Some(bytes));
        }
        for more in 1..=BLOCK_BYTES {
            assert_eq!(write(&vec![0; BYTES_MAX + more]), None, "{more}");
        }
        assert_eq!(write(&[0; 24]), None, "as short as a stored secret");
    }

    #[test]
    fn a_block_beyond_its_bytes_is_refused() {
        let with_crc = |body: &str| {
            let crc = checksum(body.as_bytes()).map(char::from);
            body.chars().chain(crc).collect::<String>()
        };
        // The largest numbers of one byte and of eight, and the next ones.
        for (digits, bytes) in [
            ("47", Some(vec![0xFF])),
            ("48", None),
            ("LygHa16AHYF", Some(vec![0xFF; 8])),
            ("LygHa16AHYG", None),
            ("zzzzzzzzzzz", None),
            ("zzzzzzzzzz", None),
            ("0", None),
            ("0-", None),
        ] {
            assert_eq!(
                read_back(&with_crc(&format!("lka_{digits}"))),
                bytes,
                "{digits}"
            );
        }
        assert_eq!(read_back(&with_crc("lku_47")), None);
        assert_eq!(read_back("lka_47000000"), None, "a wrong checksum");
        for text in ["", "lka_", "lka_00000"] {
            assert_eq!(read_back(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_would_be_written(text in "lka_[0-9A-Za-z]{0,200}") {
            let crc: String = checksum(text.as_bytes()).map(char::from).iter().collect();
            let text = text + &crc;
            if let Some(bytes) = read_back(&text).filter(|_| is_sealed(&text)) {
                prop_assert_eq!(write(&bytes), Some(text));
            }
        }
    }
}
