//! Protobuf by its bytes: fields that are read in place, and fields that are written once.
//!
//! Used by `wire` and `envoy`, where prost's owned messages would cost more than the decision. A
//! reader yields what it borrows and skips what it was not asked for; a writer makes the bytes
//! that prost would, but for the lengths of long messages, which have two bytes whatever they
//! are. Absent on purpose: numbers that are read; nothing that is read here has one.

/// What stands before a message: whether it is compressed, and its length.
pub(super) const HEAD_BYTES: usize = 5;

/// One more than fits in a length of two bytes.
pub(super) const LONG_BYTES_MAX: usize = 1 << 14;

/// The message in the body of a unary call; none when it is compressed, longer than `most`, or
/// not all that is there.
#[inline]
pub(super) fn message_in(body: &[u8], most: usize) -> Option<&[u8]> {
    let ([0, length @ ..], message) = body.split_first_chunk::<HEAD_BYTES>()? else {
        return None;
    };
    let length = u32::from_be_bytes(*length) as usize;
    (length == message.len() && length <= most).then_some(message)
}

/// The fields of a message that hold bytes: texts, messages and maps. Other fields are skipped.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(&'a [u8]);

/// Bytes that are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoMessage;

impl<'a> Fields<'a> {
    pub(super) fn of(message: &'a [u8]) -> Self {
        Self(message)
    }

    /// The next field that holds bytes, with its number; none at the end.
    ///
    /// # Errors
    /// [`NoMessage`] for what is cut off, and for what no version of the format has.
    #[inline]
    pub(super) fn next(&mut self) -> Result<Option<(u32, &'a [u8])>, NoMessage> {
        while !self.0.is_empty() {
            let key = self.varint()?;
            let number = u32::try_from(key >> 3).map_err(|_| NoMessage)?;
            match (key & 0b111, number) {
                (_, 0) => return Err(NoMessage),
                (0, _) => {
                    self.varint()?;
                }
                (1, _) => {
                    self.take(8)?;
                }
                (2, number) => {
                    let length = usize::try_from(self.varint()?).map_err(|_| NoMessage)?;
                    return Ok(Some((number, self.take(length)?)));
                }
                (5, _) => {
                    self.take(4)?;
                }
                // Groups, which no message of ours ever had, and what is none at all.
                _ => return Err(NoMessage),
            }
        }
        Ok(None)
    }

    #[inline]
    fn take(&mut self, length: usize) -> Result<&'a [u8], NoMessage> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(NoMessage)?;
        self.0 = rest;
        Ok(taken)
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, NoMessage> {
        if let [byte @ ..0x80, rest @ ..] = self.0 {
            self.0 = rest;
            return Ok(u64::from(*byte));
        }
        self.long_varint()
    }

    fn long_varint(&mut self) -> Result<u64, NoMessage> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(NoMessage)?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if *byte < 0x80 {
                return Ok(number);
            }
        }
        Err(NoMessage)
    }
}

#[inline]
fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

// A number that is 0 is not sent.
#[inline]
pub(super) fn put_number(out: &mut Vec<u8>, field: u8, number: u64) {
    if number != 0 {
        out.push(field << 3);
        put_varint(out, number);
    }
}

#[inline]
pub(super) fn put_text(out: &mut Vec<u8>, field: u8, text: &str) {
    if !text.is_empty() {
        out.push(field << 3 | 2);
        put_varint(out, text.len() as u64);
        out.extend_from_slice(text.as_bytes());
    }
}

/// A message of less than 128 bytes, as all of ours that hold no text are.
#[inline]
pub(super) fn put_message(out: &mut Vec<u8>, field: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(&[field << 3 | 2, 0]);
    let start = out.len();
    fill(out);
    out[start - 1] = (out.len() - start) as u8;
}

/// A Timestamp or a Duration: both are seconds and nanoseconds.
#[inline]
pub(super) fn put_time(out: &mut Vec<u8>, field: u8, ms: Option<u64>) {
    if let Some(ms) = ms {
        put_message(out, field, |out| {
            put_number(out, 1, ms / 1_000);
            put_number(out, 2, ms % 1_000 * 1_000_000);
        });
    }
}

/// A message or a text of less than 16 KiB: its length takes two bytes, whatever it is.
#[inline]
pub(super) fn put_long(out: &mut Vec<u8>, field: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(&[field << 3 | 2, 0, 0]);
    let at = out.len() - 2;
    fill(out);
    set_length(out, at);
}

/// A message that is known but for one text in it: made once, and filled for each answer.
#[derive(Debug)]
pub(super) struct Form {
    // Up to the text, with room for the lengths.
    bytes: Vec<u8>,
    // Where the lengths stand of what ends with the text, and behind them what ends later.
    lengths: Vec<usize>,
    tail: &'static [u8],
}

impl Form {
    /// A form of nothing yet; [`Form::within`] and [`Form::text`] add to it, from the outside in.
    pub(super) fn new(field: u8) -> Self {
        let empty = Self {
            bytes: Vec::new(),
            lengths: Vec::new(),
            tail: b"",
        };
        empty.within(field)
    }

    /// Goes on inside a message, or the text, in this field.
    pub(super) fn within(mut self, field: u8) -> Self {
        self.bytes.extend_from_slice(&[field << 3 | 2, 0, 0]);
        self.lengths.push(self.bytes.len() - 2);
        self
    }

    /// Puts a text that is known.
    pub(super) fn text(mut self, field: u8, text: &str) -> Self {
        put_text(&mut self.bytes, field, text);
        self
    }

    /// Ends the outermost message with these bytes.
    pub(super) fn ending(mut self, tail: &'static [u8]) -> Self {
        self.tail = tail;
        self
    }

    /// Writes it with the text that `fill` makes; whether that is any.
    #[inline]
    pub(super) fn put(&self, out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) -> bool {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        let text = out.len();
        fill(out);
        let has_text = out.len() > text;
        for at in &self.lengths {
            set_length(out, start + at);
        }
        if !self.tail.is_empty() {
            out.extend_from_slice(self.tail);
            set_length(out, start + 1);
        }
        has_text
    }
}

/// The length of what is behind its two bytes.
#[inline]
fn set_length(out: &mut [u8], at: usize) {
    let length = out.len() - at - 2;
    debug_assert!(length < LONG_BYTES_MAX, "a longer one would be cut");
    out[at] = length as u8 | 0x80;
    out[at + 1] = (length >> 7) as u8 & 0x7f;
}

/// Ends a body that began with [`HEAD_BYTES`] of room.
#[inline]
pub(super) fn end_body(out: &mut [u8]) {
    let length = (out.len() - HEAD_BYTES) as u32;
    out[0] = 0;
    out[1..HEAD_BYTES].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::proto::envoy::config::core::v3::HeaderValue;

    fn read(message: &[u8]) -> Result<Vec<(u32, Vec<u8>)>, NoMessage> {
        let (mut fields, mut all) = (Fields::of(message), Vec::new());
        while let Some((number, bytes)) = fields.next()? {
            all.push((number, bytes.to_vec()));
        }
        Ok(all)
    }

    #[test]
    fn what_holds_no_bytes_is_skipped() {
        let varint = [1 << 3, 0xff, 0x01];
        let fixed = [2 << 3 | 1, 1, 2, 3, 4, 5, 6, 7, 8, 3 << 3 | 5, 1, 2, 3, 4];
        let text = [4 << 3 | 2, 1, b'a', 0xa2, 0x06, 1, b'b'];
        let message = [&varint[..], &fixed, &text].concat();
        let expected = vec![(4, b"a".to_vec()), (100, b"b".to_vec())];
        assert_eq!(read(&message), Ok(expected));
        for cut in [1, 2, 5, 11, 13, 15, 18, 19, 20, message.len() - 1] {
            // Between two fields a message may end.
            let ended = read(&message[..cut]).is_ok();
            assert_eq!(ended, [3, 12, 17, 20].contains(&cut), "{cut}");
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for broken in [
            &[2][..],
            &[0, 0],
            &[1 << 3 | 3],
            &[1 << 3 | 6, 0],
            &[1 << 3 | 2, 0x80],
            &[
                1 << 3 | 2,
                0xff,
                0xff,
                0xff,
                0xff,
                0xff,
                0xff,
                0xff,
                0xff,
                0xff,
                0x01,
            ],
            &[
                1 << 3,
                0x80,
                0x80,
                0x80,
                0x80,
                0x80,
                0x80,
                0x80,
                0x80,
                0x80,
                0x80,
                0x01,
            ],
        ] {
            assert_eq!(read(broken), Err(NoMessage), "{broken:?}");
        }
    }

    #[test]
    fn long_lengths_are_read_by_prost() {
        for length in [0, 1, 127, 128, 5_000] {
            let text = "x".repeat(length);
            let mut out = Vec::new();
            put_long(&mut out, 2, |out| out.extend_from_slice(text.as_bytes()));
            let message = HeaderValue::decode(&*out).unwrap();
            assert!(message.value == text, "{length}");
        }
    }

    proptest! {
        #[test]
        fn what_prost_reads_is_read(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            // prost also refuses wrong types of fields it knows, and texts that are none.
            if prost_types::Any::decode(&*bytes).is_ok() && !has_group(&bytes) {
                prop_assert!(read(&bytes).is_ok());
            }
        }
    }

    fn has_group(bytes: &[u8]) -> bool {
        bytes.iter().any(|byte| byte & 0b111 == 3)
    }
}
