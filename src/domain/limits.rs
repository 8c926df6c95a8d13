//! The limits that a token may carry beside its scopes: networks, audience, workload, uses.
//!
//! Each is parsed once. A limit whose input is missing at a Check (no address, no audience, no
//! workload) denies: what cannot be known is not assumed.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

/// Most networks of one token.
pub const NETWORKS_MAX: usize = 32;
const AUDIENCE_BYTES_MAX: usize = 256;
const WORKLOAD_BYTES_MAX: usize = 2048;
/// What a thumbprint begins with.
pub const THUMBPRINT_PREFIX: &str = "x5t#S256:";
const THUMBPRINT_CHARS: usize = 43;

/// Client networks in CIDR form; a token without them may be used from anywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Networks(Box<[IpNet]>);

impl Networks {
    /// Reads networks such as `10.0.0.0/8` or single addresses; `None` if one is not valid or
    /// there are more than 32. Host bits are cleared; the order is canonical.
    #[must_use]
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Option<Self> {
        if texts.len() > NETWORKS_MAX {
            return None;
        }
        let mut networks = texts
            .iter()
            .map(|text| parse_network(text.as_ref()))
            .collect::<Option<Vec<_>>>()?;
        networks.sort_unstable();
        networks.dedup();
        Some(Self(networks.into()))
    }

    /// Whether there is no limit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `address` may use the token. An IPv4 address mapped into IPv6 counts as IPv4.
    #[must_use]
    pub fn allow(&self, address: Option<IpAddr>) -> bool {
        if self.0.is_empty() {
            return true;
        }
        address.is_some_and(|address| {
            let address = address.to_canonical();
            self.0.iter().any(|network| network.contains(&address))
        })
    }

    /// Whether every address that `other` allows is allowed, network by network.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        if self.0.is_empty() {
            return true;
        }
        !other.0.is_empty()
            && other
                .0
                .iter()
                .all(|theirs| self.0.iter().any(|mine| mine.contains(theirs)))
    }

    /// The text forms, in canonical order.
    pub fn iter(&self) -> impl Iterator<Item = String> + '_ {
        self.0.iter().map(ToString::to_string)
    }
}

fn parse_network(text: &str) -> Option<IpNet> {
    match text.parse::<IpNet>() {
        Ok(network) => Some(network.trunc()),
        Err(_) => Some(IpNet::from(text.parse::<IpAddr>().ok()?)),
    }
}

/// Whom a token is meant for: 1 to 256 printable ASCII characters without blanks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Audience(Box<str>);

impl Audience {
    /// Reads an audience; `None` outside the grammar.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::is_valid(text).then(|| Self(text.into()))
    }

    /// Whether a text is one.
    #[must_use]
    pub fn is_valid(text: &str) -> bool {
        !text.is_empty()
            && text.len() <= AUDIENCE_BYTES_MAX
            && text.bytes().all(|byte| byte.is_ascii_graphic())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The mTLS peer that must present a token: a SPIFFE ID, or a certificate's SHA-256 thumbprint
/// as `x5t#S256:` and 43 base64url characters (RFC 8705).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Workload(Box<str>);

impl Workload {
    /// Reads a workload; `None` outside the two forms.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let valid = text.len() <= WORKLOAD_BYTES_MAX && (is_spiffe(text) || is_thumbprint(text));
        valid.then(|| Self(text.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

// SPIFFE ID, section 2: a trust domain of [a-z0-9.-_] and path segments of [A-Za-z0-9.-_].
fn is_spiffe(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("spiffe://") else {
        return false;
    };
    let mut parts = rest.split('/');
    let domain = parts.next().unwrap_or_default();
    let domain_valid = !domain.is_empty()
        && domain.bytes().all(|b| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_')
        });
    domain_valid
        && parts.all(|part| {
            !part.is_empty()
                && part != "."
                && part != ".."
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        })
}

fn is_thumbprint(text: &str) -> bool {
    text.strip_prefix(THUMBPRINT_PREFIX).is_some_and(|hash| {
        hash.len() == THUMBPRINT_CHARS
            && hash
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    })
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A budget of uses: how many there were at issue, and how many are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uses {
    /// The budget at issue; at least 1.
    pub limit: u32,
    /// What is left of it.
    pub left: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Networks {
        Networks::parse(texts).expect("valid")
    }

    #[test]
    fn an_address_must_be_known_and_inside() {
        let check = |texts: &[&str], address: Option<&str>, expected: bool| {
            let address = address.map(|text| text.parse().expect("address"));
            assert_eq!(
                networks(texts).allow(address),
                expected,
                "{texts:?} {address:?}"
            );
        };
        check(&[], None, true);
        check(&["10.0.0.0/8"], None, false);
        check(&["10.0.0.0/8"], Some("10.1.2.3"), true);
        check(&["10.0.0.0/8"], Some("::ffff:10.1.2.3"), true);
        check(&["10.0.0.0/8"], Some("11.0.0.1"), false);
        check(&["192.0.2.7"], Some("192.0.2.7"), true);
        check(&["192.0.2.7"], Some("192.0.2.8"), false);
        check(&["2001:db8::/32"], Some("2001:db8::1"), true);
        check(&["0.0.0.0/0"], Some("2001:db8::1"), false);
    }

    #[test]
    fn networks_cover_narrower_ones() {
        let check = |wide: &[&str], narrow: &[&str], expected: bool| {
            assert_eq!(
                networks(wide).covers(&networks(narrow)),
                expected,
                "{wide:?} {narrow:?}"
            );
        };
        check(&[], &["10.0.0.0/8"], true);
        check(&["10.0.0.0/8"], &[], false);
        check(&["10.0.0.0/8"], &["10.1.0.0/16", "10.2.0.1"], true);
        check(&["10.1.0.0/16"], &["10.0.0.0/8"], false);
        check(&["10.0.0.0/8"], &["10.1.0.0/16", "192.0.2.1"], false);
    }

    #[test]
    fn host_bits_and_order_do_not_matter() {
        assert_eq!(
            networks(&["10.1.2.3/8", "::1"]),
            networks(&["::1/128", "10.0.0.0/8"])
        );
        for text in ["", "10.0.0.0/33", "10.0.0", "x", "10.0.0.0/8 "] {
            assert_eq!(Networks::parse(&[text]), None, "{text:?}");
        }
    }

    #[test]
    fn workloads_are_spiffe_ids_or_thumbprints() {
        let thumbprint = format!("x5t#S256:{}", "a".repeat(43));
        for text in [
            "spiffe://acme.example",
            "spiffe://acme.example/ns/a/sa/b",
            &thumbprint,
        ] {
            assert!(Workload::parse(text).is_some(), "{text}");
        }
        for text in [
            "",
            "spiffe://",
            "spiffe://A",
            "spiffe://a//b",
            "spiffe://a/../b",
            "spiffe://a/",
            "x5t#S256:abc",
            "CN=a",
        ] {
            assert!(Workload::parse(text).is_none(), "{text}");
        }
    }
}
