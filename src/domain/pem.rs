//! PEM (RFC 7468): one block of base64 between two lines that say what it is.
//!
//! Used for keys that people give and get. Reads exactly one block with nothing before or after it
//! but white space; what is in it is the business of whoever asked. What was read is wiped when
//! dropped, for it may be a private key.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// The longest text; keys that are taken are far shorter, and others are told by their label.
const TEXT_BYTES_MAX: usize = 16 * 1024;
const LINE_CHARS: usize = 64;

/// One block: what it says it is, and its bytes.
pub(super) struct Pem<'a> {
    pub(super) label: &'a str,
    pub(super) content: Zeroizing<Vec<u8>>,
}

/// Reads the one block of `text`; `None` for anything else.
pub(super) fn read(text: &str) -> Option<Pem<'_>> {
    let text = text.trim();
    if text.len() > TEXT_BYTES_MAX {
        return None;
    }
    let (label, rest) = text.strip_prefix("-----BEGIN ")?.split_once("-----")?;
    let (body, end) = rest.split_once("-----END ")?;
    if end.strip_suffix("-----")? != label {
        return None;
    }
    let mut base64 = Zeroizing::new(String::with_capacity(body.len()));
    base64.extend(body.chars().filter(|c| !c.is_ascii_whitespace()));
    let content = Zeroizing::new(STANDARD.decode(base64.as_bytes()).ok()?);
    Some(Pem { label, content })
}

/// Writes one block, with a line feed at its end.
pub(super) fn write(label: &str, content: &[u8]) -> Zeroizing<String> {
    let base64 = Zeroizing::new(STANDARD.encode(content));
    // Never moved while it grows: what is left behind would not be wiped.
    let room = base64.len() + base64.len() / LINE_CHARS + 2 * label.len() + 64;
    let mut text = Zeroizing::new(String::with_capacity(room));
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(LINE_CHARS));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        for length in [0, 1, 47, 48, 49, 138] {
            let content = vec![7; length];
            let text = write("PUBLIC KEY", &content);
            assert!(text.lines().all(|line| line.len() <= LINE_CHARS));
            for text in [text.to_string(), text.replace('\n', "\r\n")] {
                let pem = read(&text).expect("a block");
                assert_eq!((pem.label, &*pem.content), ("PUBLIC KEY", &content));
            }
        }
    }

    #[test]
    fn anything_but_one_whole_block_is_refused() {
        let good = write("A KEY", b"content").to_string();
        assert!(read(&format!("\n {good}\t")).is_some());
        for text in [
            "",
            "-----BEGIN ",
            "-----BEGIN A KEY-----",
            &good.replacen("-----BEGIN", "----BEGIN", 1),
            &good.replacen("END A", "END B", 1),
            &good.replace("-----\n", "\n"),
            &good.replace("-----END", "=-----END"),
            &good.replace("-----END", "é-----END"),
            &good.replace('=', ""),
            &format!("{good}{good}"),
            &format!("a word {good}"),
            &format!("{good} a word"),
            &write("A KEY", &vec![0; TEXT_BYTES_MAX]),
        ] {
            assert!(read(text).is_none(), "{text}");
        }
    }
}
