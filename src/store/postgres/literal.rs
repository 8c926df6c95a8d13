//! Values written into the text of a statement.
//!
//! Appends and members' calls go as one message of the simple protocol, which has no parameters:
//! the database begins only when it has all of it, so no lock is ever held for bytes that are
//! still on their way. Texts are quoted by the driver's own function, in a form that no setting of
//! the server changes; bytes go as hexadecimal digits.

use postgres_protocol::escape::escape_literal;

pub(super) use crate::store::hex::{hex, parse_hex};

/// A text.
pub(super) fn text(value: &str) -> String {
    escape_literal(value)
}

/// Bytes.
pub(super) fn bytes(value: &[u8]) -> String {
    format!("decode('{}', 'hex')", hex(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_cannot_leave_their_quotes() {
        assert_eq!(text("a'b"), "'a''b'");
        assert_eq!(text(r"a\'b"), r" E'a\\''b'");
    }
}
