//! What a certificate says of who shows it.
//!
//! One reading for every door: the peers of our own listener, and those that Envoy vouches for
//! with the certificate that it was shown. Verifying is whoever's that was shown it. The URI
//! counts only where there is exactly one, as a SPIFFE ID must be (X.509-SVID, section 2).

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

use crate::domain::limits::THUMBPRINT_PREFIX;
use crate::domain::peer::Proven;

/// The thumbprint of a certificate, as tokens name it (RFC 8705, section 3.1).
#[must_use]
pub fn thumbprint(der: &[u8]) -> String {
    let hash = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(der));
    format!("{THUMBPRINT_PREFIX}{hash}")
}

/// The URI of a certificate that has exactly one, as those of workloads do.
#[must_use]
pub fn uri_of(der: &[u8]) -> Option<String> {
    Names::of(der)?.uri
}

/// Who shows a certificate; none if it cannot be read.
#[must_use]
pub fn proven(der: &[u8]) -> Option<Proven> {
    let names = Names::of(der)?;
    Proven::new(names.uri.as_deref(), names.dns, &thumbprint(der))
}

/// When a certificate begins and ends, in seconds of Unix time.
pub(super) fn validity(der: &[u8]) -> Option<(i64, i64)> {
    let (_, certificate) = parse_x509_certificate(der).ok()?;
    let validity = certificate.validity();
    Some((
        validity.not_before.timestamp(),
        validity.not_after.timestamp(),
    ))
}

#[derive(Default)]
struct Names {
    uri: Option<String>,
    dns: Vec<String>,
}

impl Names {
    /// Those of a certificate that can be read; a certificate may have none.
    fn of(der: &[u8]) -> Option<Self> {
        let (_, certificate) = parse_x509_certificate(der).ok()?;
        let mut names = Self::default();
        let Some(found) = certificate.subject_alternative_name().ok()? else {
            return Some(names);
        };
        let mut uris = 0;
        for name in found.value.general_names.iter() {
            match name {
                GeneralName::URI(uri) => {
                    uris += 1;
                    names.uri = (uris == 1).then(|| (*uri).to_owned());
                }
                GeneralName::DNSName(name) => names.dns.push((*name).to_owned()),
                _ => {}
            }
        }
        Some(names)
    }
}
