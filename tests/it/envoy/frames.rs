//! Frames of HTTP/2 (RFC 9113) as bytes, for clients that do what no library lets them do.
//!
//! Used by the tests that open requests and take them back at once.

/// What a client begins with, before its settings.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
/// The ends of the headers and of the stream.
pub(crate) const ALL_OF_IT: u8 = 0x5;
/// The client wants no answer any more.
pub(crate) const CANCEL: [u8; 4] = [0, 0, 0, 8];

/// A frame of less than 16 MiB.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}
