//! Hosts: what a route says of them, and the one that a request asks for.
//!
//! A route names a host, or `*.` and a domain for whatever is below it; case does not count. Of a
//! request's host its port and a final dot are told apart, since Envoy compares them unless it is
//! told otherwise; what they mean is the table's to say. A host that is no host is for no route,
//! also for none that names no host: a service may undo what makes it another one than a route
//! guards, such as a port that is no number.

/// Most bytes of a host (RFC 1035, 3.1).
const HOST_BYTES_MAX: usize = 253;

/// The hosts that a route is for, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HostPattern {
    /// This one.
    Exact(Box<str>),
    /// Those with one label or more before this, which begins with a dot.
    Below(Box<str>),
}

impl HostPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it, and what to write instead.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        let (name, below) = match lower.strip_prefix("*.") {
            Some(domain) => (domain, true),
            None => (lower.as_str(), false),
        };
        if name.starts_with('[') && !below && is_address(name) {
            return Ok(Self::Exact(name.into()));
        }
        if !is_name(name) {
            return Err(format!(
                "'{text}' is no host: write 'api.example.com', or '*.example.com' for what is \
                 below it; no port, no scheme, no final dot"
            ));
        }
        Ok(match below {
            true => Self::Below(format!(".{name}").into()),
            false => Self::Exact(name.into()),
        })
    }

    /// Whether a host is one of them; it has come through [`asked`].
    pub(super) fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => name.eq_ignore_ascii_case(host),
            Self::Below(domain) => {
                let at = host.len().checked_sub(domain.len());
                let parts = at.and_then(|at| host.split_at_checked(at));
                parts.is_some_and(|(labels, end)| {
                    end.eq_ignore_ascii_case(domain) && labels.split('.').all(is_label)
                })
            }
        }
    }

    /// Whether it matches every host that `other` matches.
    pub(super) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(mine), Self::Exact(theirs)) => mine == theirs,
            (Self::Exact(_), Self::Below(_)) => false,
            (Self::Below(_), Self::Exact(name)) => self.matches(name),
            (Self::Below(mine), Self::Below(theirs)) => theirs.ends_with(&**mine),
        }
    }
}

/// The host that a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked<'a> {
    /// Without its port and a final dot; empty if the request names none.
    pub(super) name: &'a str,
    /// Whether it had a port.
    pub(super) port: bool,
    /// Whether it had a final dot.
    pub(super) dot: bool,
}

/// The host that a request asks for; none for what is no host.
pub(super) fn asked(authority: &str) -> Option<Asked<'_>> {
    let (host, port) = match authority.rsplit_once(':') {
        // The colons of an address in brackets are no port's.
        Some((host, port)) if is_port(port) && (!host.contains(':') || host.ends_with(']')) => {
            (host, true)
        }
        _ => (authority, false),
    };
    let (name, dot) = match host.strip_suffix('.') {
        Some(name) => (name, true),
        None => (host, false),
    };
    let valid = is_name(name) || is_address(name) || authority.is_empty();
    valid.then_some(Asked { name, port, dot })
}

fn is_port(text: &str) -> bool {
    text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_name(host: &str) -> bool {
    host.len() <= HOST_BYTES_MAX && host.split('.').all(is_label)
}

fn is_label(label: &str) -> bool {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    !label.is_empty() && label.len() <= 63 && label.bytes().all(valid)
}

/// Whether it is an IPv6 address in brackets.
fn is_address(text: &str) -> bool {
    let inside = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    inside.is_some_and(|inside| inside.parse::<std::net::Ipv6Addr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, authority: &str, expected: bool) {
        let pattern = HostPattern::parse(pattern).expect("a pattern");
        let found = asked(authority).is_some_and(|asked| pattern.matches(asked.name));
        assert_eq!(found, expected, "{pattern:?} {authority}");
    }

    #[test]
    fn what_is_no_host_asks_for_none() {
        for host in [
            ".",
            ":443",
            "a..",
            "a:443:443",
            "a:+443",
            "a:http",
            "a:000443",
            "user@a",
            "a,b",
            "a%2e",
            "a/",
            " a",
            "é",
            "::1",
            "[a]",
            "[::1]x",
            "[::1]:x",
        ] {
            assert_eq!(asked(host), None, "{host}");
        }
        let found = |authority, name, port, dot| {
            assert_eq!(
                asked(authority),
                Some(Asked { name, port, dot }),
                "{authority}"
            );
        };
        found("", "", false, false);
        found("a.b", "a.b", false, false);
        found("a.b:1", "a.b", true, false);
        found("a.b:", "a.b", true, false);
        found("a.b.", "a.b", false, true);
        found("a.b.:1", "a.b", true, true);
        found("[::1]", "[::1]", false, false);
        found("[::1]:1", "[::1]", true, false);
        assert_eq!(asked(&"a".repeat(64)), None);
    }

    #[test]
    fn a_host_matches_whatever_its_case_port_and_final_dot() {
        check("api.example.com", "api.example.com", true);
        check("API.Example.com", "api.EXAMPLE.com", true);
        check("api.example.com", "api.example.com:8443", true);
        check("api.example.com", "api.example.com:", true);
        check("api.example.com", "api.example.com.", true);
        check("api.example.com", "api.example.com.:443", true);
        check("localhost", "localhost:8080", true);
        check("10.0.0.1", "10.0.0.1:80", true);
        check("[::1]", "[::1]:8080", true);
        check("[2001:DB8::1]", "[2001:db8::1]", true);
    }

    #[test]
    fn another_host_does_not() {
        for host in [
            "",
            ".",
            ":443",
            "example.com",
            "xapi.example.com",
            "api.example.com.evil.org",
            "api.example.comx",
            "api.example.com..",
            "api.example.com:443:443",
            "api.example.com:x",
            "user@api.example.com",
            "api.example.com@evil.org",
            "api.example.com/",
            " api.example.com",
            "api.example.com,evil.org",
            "api.example.com:123456",
            "é",
            "api.example.com#",
            "http://api.example.com",
        ] {
            check("api.example.com", host, false);
        }
        check("[::1]", "[::2]", false);
        check("[::1]", "::1", false);
    }

    #[test]
    fn a_star_is_one_label_or_more() {
        check("*.example.com", "api.example.com", true);
        check("*.example.com", "a.b.EXAMPLE.com:443", true);
        check("*.example.com", "api.example.com.", true);
        for host in [
            "example.com",
            ".example.com",
            "xexample.com",
            "..example.com",
            "a..example.com",
            ".a.example.com",
            "evil.org/x.example.com",
            "evil.org:80.example.com",
            "a@b.example.com",
            "a b.example.com",
            "éé.example.com",
            "api.example.com.evil.org",
        ] {
            check("*.example.com", host, false);
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for text in [
            "",
            "*",
            "*.",
            "*.*.com",
            "a.*.com",
            "api.example.com:443",
            "api.example.com.",
            "https://api.example.com",
            "api.example.com/x",
            "a b",
            "é.com",
            "*api.example.com",
            ".example.com",
            "a..b",
            "[::1",
            "[::1]:80",
            "[x]",
            "*.[::1]",
            "::1",
        ] {
            assert!(HostPattern::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_pattern_covers_what_matches_no_more_than_it() {
        let covers = |mine: &str, theirs: &str, expected: bool| {
            let read = |text: &str| HostPattern::parse(text).expect("a pattern");
            assert_eq!(
                read(mine).covers(&read(theirs)),
                expected,
                "{mine} {theirs}"
            );
        };
        covers("a.com", "A.com", true);
        covers("a.com", "b.com", false);
        covers("a.com", "*.a.com", false);
        covers("*.a.com", "a.com", false);
        covers("*.a.com", "b.a.com", true);
        covers("*.a.com", "*.a.com", true);
        covers("*.a.com", "*.b.a.com", true);
        covers("*.b.a.com", "*.a.com", false);
        covers("*.a.com", "*.ba.com", false);
    }
}
