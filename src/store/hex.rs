//! Bytes as hexadecimal digits, in SQL and in exports.
//!
//! Lower case, two digits a byte, nothing else. What is read must be exactly that; used wherever
//! bytes stand in a text of a store's own.

/// The hexadecimal digits of bytes.
pub(super) fn hex(value: &[u8]) -> String {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f',
    ];
    let mut digits = String::with_capacity(value.len() * 2);
    for byte in value {
        digits.push(DIGITS[usize::from(byte >> 4)]);
        digits.push(DIGITS[usize::from(byte & 15)]);
    }
    digits
}

/// The bytes of hexadecimal digits; `None` for anything else.
pub(super) fn parse_hex(digits: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pair = |pair: &[u8; 2]| u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok();
    pairs.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_read_back() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(parse_hex(&hex(&all)), Some(all));
        for digits in ["0", "0g", "é", "+1"] {
            assert_eq!(parse_hex(digits), None, "{digits:?}");
        }
    }
}
