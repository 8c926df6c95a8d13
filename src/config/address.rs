//! Where a replica is reached: `HOST:PORT`, with `https://` in front where it speaks TLS.
//!
//! A pod knows its own address without the brackets that an IPv6 address needs before a port, and
//! not of which family it is: they are put there here. What nobody could dial is refused, since
//! the others would only find out when they try.

use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

/// An address that other replicas dial; empty is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReplicaAddress(String);

impl ReplicaAddress {
    /// The address, with brackets about an IPv6 one.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<ReplicaAddress> for String {
    fn from(address: ReplicaAddress) -> Self {
        address.0
    }
}

impl TryFrom<String> for ReplicaAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let dialled = dialled(&text);
        dialled.map(Self).ok_or_else(|| {
            format!("{text:?} is not HOST:PORT, with https:// in front where it speaks TLS")
        })
    }
}

fn dialled(text: &str) -> Option<String> {
    let schemes = ["https://", "http://"];
    let scheme = schemes.into_iter().find(|scheme| text.starts_with(scheme));
    let scheme = scheme.unwrap_or_default();
    let (host, port) = text[scheme.len()..].rsplit_once(':')?;
    let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
    let is_port = is_number && port.parse().is_ok_and(|port: u16| port > 0);
    let bracketed = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    let is_v6 = bracketed.unwrap_or(host).parse::<Ipv6Addr>().is_ok();
    let is_name = !host.is_empty() && host.bytes().all(is_of_a_name);
    match (is_port, bracketed) {
        (true, Some(_)) if is_v6 => Some(text.to_owned()),
        (true, None) if is_v6 => Some(format!("{scheme}[{host}]:{port}")),
        (true, None) if is_name => Some(text.to_owned()),
        _ => None,
    }
}

/// Underscores stand in the names of containers.
fn is_of_a_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b".-_".contains(&byte)
}
