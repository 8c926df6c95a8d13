//! Who sent a request, and from where, as Envoy vouches for it.
//!
//! ```text
//! address   no trusted hop: the peer of Envoy      N hops: the Nth of x-forwarded-for, from the right
//! workload  source.principal, else the URI in source.certificate; or that certificate's thumbprint
//! ```
//!
//! Used by `service`. A client writes what it likes into `x-forwarded-for`; only what proxies of
//! the operator's own have added, on the right, counts. What is not known is none, and a token
//! that asks for it is denied. Absent on purpose: `source.service`, which is a header of the
//! client's, and verifying the certificate: Envoy has done it, or must be set to.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use x509_parser::pem::parse_x509_pem;

use crate::tls;

use super::attributes::Peer;
use super::headers::Headers;

/// The address of the client; none if it is not known.
pub(super) fn client_ip(
    peer: &Peer<'_>,
    headers: &Headers<'_, '_>,
    trusted_hops: usize,
) -> Option<IpAddr> {
    let text = match trusted_hops.checked_sub(1) {
        None => std::str::from_utf8(peer.address).ok()?,
        Some(before) => headers.forwarded().nth(before)?,
    };
    let address = text.parse().ok().or_else(|| without_port(text));
    // An IPv4 client of a dual-stack proxy is in the IPv4 networks of a token.
    address.map(|address| address.to_canonical())
}

/// Some load balancers add the port.
fn without_port(text: &str) -> Option<IpAddr> {
    let address: SocketAddr = text.parse().ok()?;
    Some(address.ip())
}

/// The SPIFFE ID of the mTLS peer that sent the request; none if it is not known.
pub(super) fn workload<'a>(peer: &Peer<'a>) -> Option<Cow<'a, str>> {
    if peer.principal.is_empty() {
        return tls::uri_of(&der(peer.certificate)?).map(Cow::Owned);
    }
    std::str::from_utf8(peer.principal).ok().map(Cow::Borrowed)
}

/// The thumbprint of its certificate, as tokens name it (RFC 8705, section 3.1).
pub(super) fn thumbprint(peer: &Peer<'_>) -> Option<String> {
    der(peer.certificate).map(|der| tls::thumbprint(&der))
}

/// A certificate of Envoy's form without its wrappings.
fn der(certificate: &[u8]) -> Option<Vec<u8>> {
    if certificate.is_empty() {
        return None;
    }
    let (_, pem) = parse_x509_pem(&unescaped(certificate)?).ok()?;
    (pem.label == "CERTIFICATE").then_some(pem.contents)
}

/// Without the escapes of a URL.
fn unescaped(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        if *byte != b'%' {
            out.push(*byte);
            continue;
        }
        let (digits, tail) = rest.split_first_chunk::<2>()?;
        let digits = std::str::from_utf8(digits).ok()?;
        out.push(u8::from_str_radix(digits, 16).ok()?);
        rest = tail;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::super::attributes::Header;
    use super::super::headers::Wanted;
    use super::*;

    fn ip(address: &str, forwarded: &[&str], trusted_hops: usize) -> Option<String> {
        let wanted = Wanted::new(&[], &[], true);
        let mut headers = Headers::of(&wanted);
        for value in forwarded {
            headers.note(Header {
                name: b"x-forwarded-for",
                value: value.as_bytes(),
            });
        }
        let peer = Peer {
            address: address.as_bytes(),
            ..Peer::default()
        };
        client_ip(&peer, &headers, trusted_hops).map(|address| address.to_string())
    }

    fn check(address: &str, forwarded: &[&str], trusted_hops: usize, expected: Option<&str>) {
        let found = ip(address, forwarded, trusted_hops);
        assert_eq!(found.as_deref(), expected, "{forwarded:?}, {trusted_hops}");
    }

    #[test]
    fn the_address_is_what_trusted_proxies_say() {
        let peer = "10.0.0.1";
        check(peer, &[], 0, Some(peer));
        check(peer, &["192.0.2.9"], 0, Some(peer));
        check("::ffff:192.0.2.1", &[], 0, Some("192.0.2.1"));
        check("/run/pipe", &[], 0, None);
        check("", &[], 0, None);
        check(peer, &[], 1, None);
        check(peer, &["198.51.100.7, 192.0.2.9"], 1, Some("192.0.2.9"));
        check(peer, &["198.51.100.7, 192.0.2.9"], 2, Some("198.51.100.7"));
        check(
            peer,
            &["198.51.100.7", "192.0.2.9"],
            2,
            Some("198.51.100.7"),
        );
        // Fewer entries than trusted proxies: somebody came another way.
        check(peer, &["198.51.100.7, 192.0.2.9"], 3, None);
        check(peer, &["192.0.2.9:4711"], 1, Some("192.0.2.9"));
        check(peer, &["[2001:db8::1]:4711"], 1, Some("2001:db8::1"));
        check(peer, &["2001:db8::1"], 1, Some("2001:db8::1"));
        for nonsense in ["", "unknown", "192.0.2.9/32", "1.2.3", "é", "192.0.2.9,"] {
            check(peer, &[nonsense], 1, None);
        }
    }

    #[test]
    fn a_certificate_that_cannot_be_read_names_nobody() {
        for certificate in ["", "%", "%2", "%zz", "-----BEGIN%20CERTIFICATE-----", "abc"] {
            let peer = Peer {
                certificate: certificate.as_bytes(),
                ..Peer::default()
            };
            assert_eq!(workload(&peer), None, "{certificate}");
            assert_eq!(thumbprint(&peer), None, "{certificate}");
        }
    }

    #[test]
    fn the_principal_goes_before_the_certificate() {
        let peer = Peer {
            principal: b"spiffe://acme/web",
            certificate: b"nonsense",
            ..Peer::default()
        };
        assert_eq!(workload(&peer).as_deref(), Some("spiffe://acme/web"));
    }
}
