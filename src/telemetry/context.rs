//! The trace that a caller says its call belongs to: W3C Trace Context, `traceparent` alone.
//!
//! ```text
//! 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01
//!    trace                            span             flags: sampled
//! ```
//!
//! Used by `rpc`. What cannot be read is as if it had not come. Whether the caller samples can be
//! looked at first: that is all that most calls are asked.

/// The bytes of a `traceparent` of this version; later ones may have more behind them.
const BYTES: usize = 55;
const SAMPLED: u8 = 1;

/// A span of the caller's, in which ours would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// The trace.
    pub trace: [u8; 16],
    /// The span.
    pub span: [u8; 8],
    /// Whether the trace is recorded.
    pub sampled: bool,
}

impl Parent {
    /// Whether this may be of a trace that is recorded, by a look at one character.
    #[inline]
    #[must_use]
    pub fn may_be_sampled(text: &[u8]) -> bool {
        let flags = text.get(BYTES - 1);
        flags.is_some_and(|digit| hex::<1>(&[b'0', *digit]).is_none_or(|it| it[0] & SAMPLED != 0))
    }

    /// Reads a `traceparent`; none if it is not one.
    #[must_use]
    pub fn read(text: &[u8]) -> Option<Self> {
        let (read, rest) = text.split_at_checked(BYTES)?;
        let (version, flags) = (hex::<1>(&read[..2])?, hex::<1>(&read[53..])?);
        let parted = [2, 35, 52].iter().all(|at| read[*at] == b'-');
        // Of version 0 nothing may follow, of 255 nothing is known.
        let whole = match version[0] {
            0 => rest.is_empty(),
            255 => false,
            _ => rest.first().is_none_or(|next| *next == b'-'),
        };
        if !parted || !whole {
            return None;
        }
        let (trace, span) = (hex(&read[3..35])?, hex(&read[36..52])?);
        (trace != [0; 16] && span != [0; 8]).then_some(Self {
            trace,
            span,
            sampled: flags[0] & SAMPLED != 0,
        })
    }

    /// The trace as text.
    #[must_use]
    pub fn trace_id(&self) -> String {
        text_of(&self.trace)
    }
}

/// Bytes as hexadecimal digits in lower case.
#[must_use]
pub fn text_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Digits in lower case, as the standard has them.
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<bool>) {
        let read = Parent::read(text.as_bytes());
        assert_eq!(read.map(|parent| parent.sampled), expected, "{text}");
        if expected == Some(true) {
            assert!(Parent::may_be_sampled(text.as_bytes()), "{text}");
        }
        if expected == Some(false) {
            assert!(!Parent::may_be_sampled(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn a_traceparent_is_read_as_the_standard_has_it() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parent = Parent::read(good.as_bytes()).unwrap();
        assert_eq!(parent.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(text_of(&parent.span), "00f067aa0ba902b7");
        check(good, Some(true));
        check(&good.replace("-01", "-00"), Some(false));
        check(&good.replace("-01", "-ff"), Some(true));
        check(&good.replace("00-4b", "01-4b"), Some(true));
        check(
            &format!("{}-more", good.replace("00-4b", "cc-4b")),
            Some(true),
        );
        check(&format!("{}more", good.replace("00-4b", "cc-4b")), None);
        check(&format!("{good}-more"), None);
        check(&good.replace("00-4b", "ff-4b"), None);
        check(&good.to_uppercase(), None);
        check(&good.replace("00f067aa0ba902b7", "0000000000000000"), None);
        check(
            &good.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            None,
        );
        check(&good.replace('-', "_"), None);
        check(&good[..54], None);
        check("", None);
    }
}
