//! Finds the one bearer token of a request, or says that there is none or more than one.
//!
//! Used by the layer and, for the characters of a token, by `CallingToken`. Promise: what is
//! ambiguous is refused, never resolved. Two services that resolve it differently would judge
//! two different tokens. Absent on purpose: tokens in a query or a form (RFC 6750, sections
//! 2.2 and 2.3), which end up in logs.

use http::HeaderMap;
use http::header::AUTHORIZATION;

/// The most that a server looks at; more is unknown to it.
const TOKEN_BYTES_MAX: usize = 4_096;

/// What a request presents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::client) enum Presented<'a> {
    /// No bearer token: no header, another scheme, or a scheme with nothing behind it.
    Nothing,
    /// More than one value, or one that is no single token.
    Ambiguous,
    /// Exactly one token.
    Token(&'a str),
}

/// Reads `Authorization: Bearer TOKEN` (RFC 6750, section 2.1).
pub(in crate::client) fn presented(headers: &HeaderMap) -> Presented<'_> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Presented::Nothing;
    };
    // The same token twice is refused too: whoever sends two is not in control of what it sends.
    if values.next().is_some() {
        return Presented::Ambiguous;
    }
    let Ok(text) = value.to_str() else {
        return Presented::Ambiguous;
    };
    // A proxy may have joined two headers into one (RFC 9110, section 5.3).
    if text.contains(',') {
        return Presented::Ambiguous;
    }
    let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
    let token = rest.trim_matches(' ');
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        Presented::Nothing
    } else if is_token(token) {
        Presented::Token(token)
    } else {
        Presented::Ambiguous
    }
}

/// Whether a text can be a token at all: visible ASCII, no comma, not too long.
pub(in crate::client) fn is_token(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_graphic() && byte != b',';
    (1..=TOKEN_BYTES_MAX).contains(&text.len()) && text.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn check(values: &[&[u8]], expected: Presented<'_>) {
        let mut headers = HeaderMap::new();
        for value in values {
            let value = HeaderValue::from_bytes(value).expect("a header value");
            headers.append(AUTHORIZATION, value);
        }
        assert_eq!(presented(&headers), expected, "{values:?}");
    }

    #[test]
    fn exactly_one_bearer_token_is_found() {
        check(&[], Presented::Nothing);
        check(&[b""], Presented::Nothing);
        check(&[b"Bearer"], Presented::Nothing);
        check(&[b"Bearer  "], Presented::Nothing);
        check(&[b"Basic YTpi"], Presented::Nothing);
        check(&[b"Bearerlku_1"], Presented::Nothing);
        check(&[b"Bearer lku_1"], Presented::Token("lku_1"));
        check(&[b"bEARER  lku_1"], Presented::Token("lku_1"));
        check(&[b"Bearer lku_1 lku_2"], Presented::Ambiguous);
        check(&[b"Bearer lku_1\tlku_2"], Presented::Ambiguous);
        check(&[b"Bearer lku_1,lku_2"], Presented::Ambiguous);
        check(&[b"Bearer lku_1, Bearer lku_2"], Presented::Ambiguous);
        check(&[b"Bearer lku_1", b"Bearer lku_2"], Presented::Ambiguous);
        check(&[b"Bearer lku_1", b"Bearer lku_1"], Presented::Ambiguous);
        check(&[b"Basic YTpi", b"Bearer lku_1"], Presented::Ambiguous);
        check(&[b"Bearer lku_\xff"], Presented::Ambiguous);
    }

    #[test]
    fn a_token_of_over_4096_bytes_is_not_sent_on() {
        let text = "a".repeat(4_096);
        let fits = format!("Bearer {text}");
        check(&[fits.as_bytes()], Presented::Token(&text));
        check(
            &[format!("Bearer {text}a").as_bytes()],
            Presented::Ambiguous,
        );
    }
}
