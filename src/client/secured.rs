//! TLS of the client: whom it believes, and what certificate it shows.
//!
//! Used by [`super::Client::connect_secured`]. Nobody is believed but those whom the given
//! authorities have signed for the name in the address. Absent on purpose: following files; a
//! program whose certificate changes connects anew, or hands over a channel of its own.

use std::fmt;

use tonic::transport::{Certificate, ClientTlsConfig, Identity};

/// Whom to believe and what to show, in PEM.
#[derive(Clone)]
pub struct Tls(pub(super) ClientTlsConfig);

impl Tls {
    /// Believes servers whose certificates one of these authorities has signed.
    #[must_use]
    pub fn by_authorities(pem: impl AsRef<[u8]>) -> Self {
        Self(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)))
    }

    /// Shows this certificate, with its key, to a server that asks for one.
    #[must_use]
    pub fn with_certificate(self, pem: impl AsRef<[u8]>, key_pem: impl AsRef<[u8]>) -> Self {
        Self(self.0.identity(Identity::from_pem(pem, key_pem)))
    }

    /// Expects this name in the server's certificate instead of the one in the address.
    #[must_use]
    pub fn with_server_name(self, name: impl Into<String>) -> Self {
        Self(self.0.domain_name(name))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}
