//! Path safety: a request's path is read in one way only, or the request is refused.
//!
//! An authorisation server and the service behind the proxy must not disagree about what a path
//! names. Whatever two programs are known to read differently is refused, never repaired: dot
//! segments, doubled slashes, path parameters, delimiters that are escaped, and their mixtures.
//! What is left has one reading: segments between slashes, with escapes decoded once. Used by
//! `template` and `tree`. Absent: the query, which no route looks at.

use std::borrow::Cow;

use thiserror::Error;

/// Most bytes of a path, its query not counted.
pub const PATH_BYTES_MAX: usize = 8 << 10;

/// Why a path is not looked at any further.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq, Hash)]
pub enum PathRefusal {
    /// Longer than [`PATH_BYTES_MAX`].
    #[error("the path is longer than 8 KiB")]
    TooLong,
    /// Absolute form, authority form, `*` or nothing.
    #[error("the path does not begin with a slash")]
    NotAbsolute,
    /// A `#`, also behind the `?`.
    #[error("the path has a fragment")]
    Fragment,
    /// A `\`.
    #[error("the path has a backslash")]
    Backslash,
    /// A `;`, which begins path parameters for some and is an ordinary byte for others.
    #[error("the path has a semicolon")]
    Semicolon,
    /// A control character, plain or escaped.
    #[error("the path has a control character")]
    Control,
    /// A blank or a byte outside ASCII that is not escaped.
    #[error("the path has a character that must be escaped")]
    Unescaped,
    /// A `%` without two hexadecimal digits.
    #[error("the path has a broken escape")]
    BrokenEscape,
    /// An escape of what divides a path, or of `%`, which somebody may decode once more.
    #[error("the path has an escaped delimiter")]
    EscapedDelimiter,
    /// Escapes that do not decode to UTF-8.
    #[error("the path does not decode to UTF-8")]
    NotUtf8,
    /// A segment `.` or `..`, in whatever spelling.
    #[error("the path has a dot segment")]
    DotSegment,
    /// A doubled slash.
    #[error("the path has an empty segment")]
    EmptySegment,
    /// An escape of what needs none, where somebody has compared the path as it came.
    #[error("the path has an escape of a character that needs none")]
    Respelled,
}

/// A path that has one reading; without its first slash, and decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Path<'a> {
    text: Cow<'a, str>,
    respelled: bool,
}

impl<'a> Path<'a> {
    /// Reads the path of a request as it came, with its query if it has one.
    ///
    /// # Errors
    /// [`PathRefusal`] for whatever could be read in two ways.
    pub(super) fn parse(raw: &'a str) -> Result<Self, PathRefusal> {
        let rest = raw.strip_prefix('/').ok_or(PathRefusal::NotAbsolute)?;
        let mut escaped = false;
        let mut end = rest.len();
        let mut segment = 0;
        for (at, byte) in rest.bytes().enumerate() {
            match CLASSES[usize::from(byte)] {
                Class::Plain => {}
                Class::Slash => {
                    inner_segment(&rest.as_bytes()[segment..at])?;
                    segment = at + 1;
                }
                Class::Percent => escaped = true,
                Class::Query => {
                    end = at;
                    break;
                }
                Class::Refused(refusal) => return Err(refusal),
            }
        }
        if end >= PATH_BYTES_MAX {
            return Err(PathRefusal::TooLong);
        }
        query(&rest.as_bytes()[end..])?;
        let path = &rest[..end];
        last_segment(&path.as_bytes()[segment..])?;
        if escaped {
            decoded(path)
        } else {
            Ok(Self {
                text: Cow::Borrowed(path),
                respelled: false,
            })
        }
    }

    /// The same, of which nothing is escaped that may stand for itself: whoever compared the path
    /// as it came took `%3A` for another path than `:`, also where it is no other by RFC 3986.
    ///
    /// # Errors
    /// [`PathRefusal`] as [`Path::parse`], and of such escapes.
    pub(super) fn as_compared(raw: &'a str) -> Result<Self, PathRefusal> {
        let path = Self::parse(raw)?;
        if path.respelled {
            return Err(PathRefusal::Respelled);
        }
        Ok(path)
    }

    /// The segments joined by slashes, decoded; a last slash stands for an empty last segment.
    pub(super) fn text(&self) -> &str {
        &self.text
    }
}

/// Whether a path that is accepted may have this segment, which is decoded.
pub(super) fn may_be_segment(segment: &str) -> bool {
    let clean = |character: char| {
        !character.is_control() && !matches!(character, '/' | '\\' | '%' | ';' | '?' | '#')
    };
    inner_segment(segment.as_bytes()).is_ok() && segment.chars().all(clean)
}

/// What a byte of a path means.
#[derive(Clone, Copy)]
enum Class {
    Plain,
    Slash,
    Percent,
    Query,
    Refused(PathRefusal),
}

/// A table, since every byte of every request's path is looked up.
static CLASSES: [Class; 256] = {
    let mut classes = [Class::Plain; 256];
    let mut byte = 0;
    while byte < classes.len() {
        classes[byte] = class(byte as u8);
        byte += 1;
    }
    classes
};

const fn class(byte: u8) -> Class {
    match byte {
        b'/' => Class::Slash,
        b'%' => Class::Percent,
        b'?' => Class::Query,
        b'#' => Class::Refused(PathRefusal::Fragment),
        b'\\' => Class::Refused(PathRefusal::Backslash),
        b';' => Class::Refused(PathRefusal::Semicolon),
        0..0x20 | 0x7f => Class::Refused(PathRefusal::Control),
        b' ' | 0x80.. => Class::Refused(PathRefusal::Unescaped),
        _ => Class::Plain,
    }
}

fn inner_segment(segment: &[u8]) -> Result<(), PathRefusal> {
    if segment.is_empty() {
        return Err(PathRefusal::EmptySegment);
    }
    last_segment(segment)
}

/// The last segment may be empty: that is a slash at the end, or the root.
fn last_segment(segment: &[u8]) -> Result<(), PathRefusal> {
    match segment {
        b"." | b".." => Err(PathRefusal::DotSegment),
        _ => Ok(()),
    }
}

/// No route looks at the query, but a fragment would end it for one program and not for another.
fn query(query: &[u8]) -> Result<(), PathRefusal> {
    for byte in query {
        match byte {
            b'#' => return Err(PathRefusal::Fragment),
            0..0x20 | 0x7f => return Err(PathRefusal::Control),
            _ => {}
        }
    }
    Ok(())
}

fn decoded(path: &str) -> Result<Path<'static>, PathRefusal> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut respelled = false;
    let mut rest = path.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let ([high, low], after) = rest.split_first_chunk().ok_or(PathRefusal::BrokenEscape)?;
        rest = after;
        let byte = digit(*high)? << 4 | digit(*low)?;
        match byte {
            b'/' | b'\\' | b'%' | b';' | b'?' | b'#' => return Err(PathRefusal::EscapedDelimiter),
            0..0x20 | 0x7f => return Err(PathRefusal::Control),
            _ => bytes.push(byte),
        }
        respelled |= is_pchar(byte);
    }
    let text = String::from_utf8(bytes).map_err(|_| PathRefusal::NotUtf8)?;
    if text.chars().any(char::is_control) {
        return Err(PathRefusal::Control);
    }
    // No escape decodes to a slash: the segments are those of the raw path.
    for segment in text.split('/') {
        last_segment(segment.as_bytes())?;
    }
    Ok(Path {
        text: Cow::Owned(text),
        respelled,
    })
}

/// Whether a byte may stand in a segment as it is (RFC 3986, section 3.3).
fn is_pchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte)
}

fn digit(byte: u8) -> Result<u8, PathRefusal> {
    let digit = char::from(byte).to_digit(16);
    let digit = digit.and_then(|digit| u8::try_from(digit).ok());
    digit.ok_or(PathRefusal::BrokenEscape)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(raw: &str, expected: Result<&str, PathRefusal>) {
        let read = Path::parse(raw);
        let read = read.as_ref().map(Path::text).map_err(|refusal| *refusal);
        assert_eq!(read, expected, "{raw:?}");
    }

    #[test]
    fn a_usual_path_is_borrowed_and_its_query_left_out() {
        check("/", Ok(""));
        check("/v1/projects/web", Ok("v1/projects/web"));
        check("/v1/projects/web/", Ok("v1/projects/web/"));
        check(
            "/acme.v1.Secrets/GetSecret",
            Ok("acme.v1.Secrets/GetSecret"),
        );
        check("/a?b=c", Ok("a"));
        check("/?", Ok(""));
        check("/a?/../..//;x=%2f%zz\\", Ok("a"));
        check("/a?b?c", Ok("a"));
        check("/a.b/...", Ok("a.b/..."));
        check("/.well-known/x", Ok(".well-known/x"));
        check(
            "/~user/a,b/c:d/e@f/(g)/h!/$i/&j/'k/*/+l/=m",
            Ok("~user/a,b/c:d/e@f/(g)/h!/$i/&j/'k/*/+l/=m"),
        );
        for raw in ["/", "/v1/projects/web", "/a?b=c"] {
            let path = Path::parse(raw).expect("a usual path");
            assert!(matches!(path.text, Cow::Borrowed(_)), "{raw}");
        }
    }

    #[test]
    fn a_path_that_was_compared_as_it_came_has_one_spelling() {
        for raw in [
            "/%61", "/a/%7a?b", "/%5A%30", "/a%2db", "/a%2Eb", "/%5F", "/%7e", "/a%3Ab", "/a%3ab",
            "/%40a", "/a%2Bb", "/%24a", "/a%21", "/%26", "/%27", "/%28%29", "/%2a", "/%2c", "/%3D",
        ] {
            assert_eq!(Path::as_compared(raw), Err(PathRefusal::Respelled), "{raw}");
            assert!(Path::parse(raw).is_ok(), "{raw}");
        }
        for raw in [
            "/a",
            "/a:b@+$",
            "/a%20b",
            "/a%7Cb%22",
            "/caf%c3%a9",
            "/a?%61",
        ] {
            assert_eq!(Path::as_compared(raw), Path::parse(raw), "{raw}");
        }
        assert_eq!(Path::as_compared("/a//b"), Err(PathRefusal::EmptySegment));
    }

    #[test]
    fn other_escapes_are_decoded_once() {
        check("/a%20b", Ok("a b"));
        check("/%61%62", Ok("ab"));
        check("/a%2eb", Ok("a.b"));
        check("/%2e%2e%2e", Ok("..."));
        check("/%2Ewell-known", Ok(".well-known"));
        check("/caf%c3%a9/%C3%A9", Ok("café/é"));
        check("/a%2Bb%2b", Ok("a+b+"));
        check("/a%3Ab%40", Ok("a:b@"));
        check("/a%2a/%7bx%7d", Ok("a*/{x}"));
    }

    #[test]
    fn what_does_not_begin_with_a_slash_is_refused() {
        for raw in [
            "",
            "*",
            "a",
            "?",
            "?/a",
            "%2fa",
            "http://api.example.com/a",
            "HTTP://x/",
            "https:/a",
            "api.example.com:443",
            "../a",
            ".",
            "\\a",
            " /a",
            "\t/a",
        ] {
            check(raw, Err(PathRefusal::NotAbsolute));
        }
    }

    #[test]
    fn dot_segments_are_refused_in_every_spelling() {
        for raw in [
            "/.",
            "/..",
            "/./",
            "/../",
            "/a/.",
            "/a/..",
            "/a/./b",
            "/a/../b",
            "/a/..?x",
            "/.?x",
            "/%2e",
            "/%2E",
            "/%2e%2e",
            "/%2E%2e",
            "/.%2e",
            "/%2e.",
            "/a/%2e%2E/b",
            "/a/.%2E/b",
            "/a/%2e./b",
            "/a/%2e",
            "/a/%2e/",
            "/a/%2e?x",
        ] {
            check(raw, Err(PathRefusal::DotSegment));
        }
    }

    #[test]
    fn doubled_slashes_are_refused() {
        for raw in [
            "//",
            "///",
            "//a",
            "/a//",
            "/a//b",
            "/a///b",
            "//api.example.com/a",
            "/a//?x",
            "//?x",
            "/a//..",
        ] {
            check(raw, Err(PathRefusal::EmptySegment));
        }
    }

    #[test]
    fn escaped_delimiters_are_refused() {
        for raw in [
            "/%2f",
            "/%2F",
            "/a%2fb",
            "/a%2Fb",
            "/..%2fb",
            "/a/..%2f..%2fb",
            "/a%5cb",
            "/a%5Cb",
            "/..%5c",
            "/a%25b",
            "/a%252fb",
            "/%252e%252e",
            "/a%252e",
            "/a%25",
            "/a%3bb",
            "/a%3Bb",
            "/..%3b/a",
            "/a%3fb",
            "/a%3Fb",
            "/a%23b",
            "/%25%32%66",
        ] {
            check(raw, Err(PathRefusal::EscapedDelimiter));
        }
    }

    #[test]
    fn what_programs_disagree_about_is_refused() {
        check("/a;b", Err(PathRefusal::Semicolon));
        check("/a;", Err(PathRefusal::Semicolon));
        check("/..;/a", Err(PathRefusal::Semicolon));
        check("/;/a", Err(PathRefusal::Semicolon));
        check("/a;x=y/b", Err(PathRefusal::Semicolon));
        check("/a\\b", Err(PathRefusal::Backslash));
        check("/\\", Err(PathRefusal::Backslash));
        check("/..\\b", Err(PathRefusal::Backslash));
        check("/a#b", Err(PathRefusal::Fragment));
        check("/#", Err(PathRefusal::Fragment));
        check("/a?b#c", Err(PathRefusal::Fragment));
        check("/a?#/../b", Err(PathRefusal::Fragment));
    }

    #[test]
    fn control_characters_are_refused_plain_and_escaped() {
        for raw in [
            "/a\0",
            "/a\0b",
            "/\t",
            "/a\r\nb",
            "/a\x7f",
            "/a\x1b",
            "/a%00",
            "/%00/b",
            "/a%0a",
            "/a%0d%0ab",
            "/a%09",
            "/a%1f",
            "/a%7F",
            "/%7f",
            "/a%c2%80",
            "/a%C2%9f",
            "/a?b\0",
            "/a?b\r\n",
            "/a?\x7f",
        ] {
            check(raw, Err(PathRefusal::Control));
        }
    }

    #[test]
    fn what_must_be_escaped_is_refused_plain() {
        for raw in [
            "/a b",
            "/ ",
            "/é",
            "/a\u{2f}\u{2044}b",
            "/\u{ff0e}\u{ff0e}/a",
            "/\u{2215}",
        ] {
            check(raw, Err(PathRefusal::Unescaped));
        }
    }

    #[test]
    fn broken_escapes_are_refused() {
        for raw in [
            "/%", "/a%", "/a%2", "/%zz", "/%2g", "/%g2", "/% 2", "/%u002e", "/%u002f", "/%/a",
            "/a%/b", "/%+2", "/%-1", "/%2?x",
        ] {
            let refused = Path::parse(raw).expect_err(raw);
            // A blank is found first.
            assert!(
                matches!(refused, PathRefusal::BrokenEscape | PathRefusal::Unescaped),
                "{raw}"
            );
        }
    }

    #[test]
    fn what_is_no_utf8_is_refused() {
        for raw in [
            "/%ff",
            "/%c0%af",
            "/%c0%ae%c0%ae",
            "/%e0%80%af",
            "/%f0%80%80%af",
            "/%c0",
            "/a%80",
            "/%ed%a0%80",
            "/%c3/%a9",
            "/%fe%fe%ff%ff",
            "/%f8%80%80%80%af",
        ] {
            check(raw, Err(PathRefusal::NotUtf8));
        }
    }

    #[test]
    fn a_path_ends_at_eight_kibibytes_and_its_query_is_not_counted() {
        let longest = format!("/{}", "a".repeat(PATH_BYTES_MAX - 1));
        check(&longest, Ok(&longest[1..]));
        check(&format!("{longest}?{longest}"), Ok(&longest[1..]));
        check(&format!("{longest}a"), Err(PathRefusal::TooLong));
        check(&format!("{longest}a?b"), Err(PathRefusal::TooLong));
        check(
            &format!("/{}", "%61".repeat(PATH_BYTES_MAX / 2)),
            Err(PathRefusal::TooLong),
        );
    }

    /// Decodes as often as it can, as a careless program would.
    fn decoded_to_the_end(text: &str) -> String {
        let mut text = text.as_bytes().to_vec();
        while let Some(at) = text.windows(3).position(|window| {
            window[0] == b'%' && window[1].is_ascii_hexdigit() && window[2].is_ascii_hexdigit()
        }) {
            let digits = String::from_utf8_lossy(&text[at + 1..at + 3]).into_owned();
            let byte = u8::from_str_radix(&digits, 16).expect("two digits");
            text.splice(at..at + 3, [byte]);
        }
        String::from_utf8(text).expect("an accepted path decodes to UTF-8")
    }

    proptest! {
        #[test]
        fn an_accepted_path_has_clean_segments_however_often_it_is_decoded(
            raw in "/([a-c./%;\\\\?# ]|%2[efEF35]|%5c|%3[bf]|%25|%c3%a9|%61|%00|%c0%af){0,12}",
        ) {
            if let Ok(path) = Path::parse(&raw) {
                let bare = raw.split('?').next().expect("a first part");
                let again = decoded_to_the_end(bare);
                prop_assert_eq!(&again[1..], path.text());
                prop_assert_eq!(bare.matches('/').count(), again.matches('/').count());
                let segments: Vec<&str> = path.text().split('/').collect();
                let (last, inner) = segments.split_last().expect("at least one");
                prop_assert!(inner.iter().all(|segment| may_be_segment(segment)));
                prop_assert!(last.is_empty() || may_be_segment(last));
            }
        }

        #[test]
        fn whatever_comes_is_read_or_refused(raw in "\\PC{0,40}") {
            let _ = Path::parse(&raw);
        }

        #[test]
        fn every_clean_segment_is_accepted_when_escaped(segment in "[^\\pC/\\\\%;?#]{1,12}") {
            prop_assume!(may_be_segment(&segment));
            let escaped: String = segment.bytes().map(|byte| format!("%{byte:02x}")).collect();
            let raw = format!("/{escaped}");
            let path = Path::parse(&raw);
            prop_assert_eq!(path.as_ref().map(Path::text), Ok(segment.as_str()));
        }
    }
}
