//! TLS of the commands: whom they believe, and what certificate they show.
//!
//! Used by every way to a server. A server is believed by the authorities that are given and by
//! no others; an address without `://` is TLS once they are given, so that a certificate that is
//! set is never forgotten silently. Absent on purpose: a way to believe everybody.

use std::path::{Path, PathBuf};

use clap::Args;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};
use zeroize::Zeroizing;

use crate::domain::peer::is_dns;

use super::failure::CliError;

/// The environment's names of the same.
pub(super) const VARIABLES: [&str; 4] = [
    "LATCHKEY_CA_FILE",
    "LATCHKEY_CERT_FILE",
    "LATCHKEY_CERT_KEY_FILE",
    "LATCHKEY_SERVER_NAME",
];
/// The longest file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Whom to believe, and what to show.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct TlsArgs {
    /// PEM file with the authorities that the server's certificate may be signed by; for TLS.
    #[arg(long, env = VARIABLES[0], value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// PEM file with the client certificate to show, where the server asks for one.
    #[arg(long, env = VARIABLES[1], value_name = "FILE", requires = "cert_key_file")]
    cert_file: Option<PathBuf>,
    /// PEM file with the key of the client certificate.
    #[arg(long, env = VARIABLES[2], value_name = "FILE", requires = "cert_file")]
    cert_key_file: Option<PathBuf>,
    /// DNS name that the server's certificate must have, in place of the host of its address.
    #[arg(long, env = VARIABLES[3], value_name = "NAME", value_parser = name)]
    server_name: Option<String>,
}

impl TlsArgs {
    /// The URL of an address: a bare `HOST:PORT` is TLS if anything of it is set.
    ///
    /// # Errors
    /// Usage for an address that is none, or whose scheme says another thing.
    pub(crate) fn url_of(&self, addr: &str) -> Result<String, CliError> {
        match addr.split_once("://") {
            None if addr.is_empty() => Err(CliError::usage("the address is empty")),
            None if self.is_set() => Ok(format!("https://{addr}")),
            None => Ok(format!("http://{addr}")),
            Some(("http", _)) if self.is_set() => Err(CliError::usage(
                "http:// is plain text, and certificates are given; give https://HOST:PORT",
            )),
            Some(("http" | "https", _)) => Ok(addr.to_owned()),
            Some((scheme, _)) => Err(CliError::usage(format!(
                "cannot speak {scheme}; give http://HOST:PORT or https://HOST:PORT"
            ))),
        }
    }

    /// What to speak with; none is plain text.
    ///
    /// # Errors
    /// Usage for files that cannot be read, and for TLS without authorities.
    pub(crate) fn config_for(&self, url: &str) -> Result<Option<ClientTlsConfig>, CliError> {
        if !url.starts_with("https://") {
            return Ok(None);
        }
        let config = self.config()?;
        let what = "https:// needs --ca-file FILE or LATCHKEY_CA_FILE: the authorities to \
                    believe, for a public one those of the system";
        config.map(Some).ok_or_else(|| CliError::usage(what))
    }

    /// What to speak with where TLS is spoken; none without authorities.
    ///
    /// # Errors
    /// Usage for files that cannot be read.
    pub(crate) fn config(&self) -> Result<Option<ClientTlsConfig>, CliError> {
        let Some(ca_file) = &self.ca_file else {
            return Ok(None);
        };
        let authorities = Certificate::from_pem(&*read(ca_file)?);
        let mut config = ClientTlsConfig::new().ca_certificate(authorities);
        if let (Some(cert), Some(key)) = (&self.cert_file, &self.cert_key_file) {
            config = config.identity(Identity::from_pem(&*read(cert)?, &*read(key)?));
        }
        if let Some(name) = &self.server_name {
            config = config.domain_name(name);
        }
        Ok(Some(config))
    }

    fn is_set(&self) -> bool {
        self.ca_file.is_some() || self.cert_file.is_some() || self.server_name.is_some()
    }
}

fn name(text: &str) -> Result<String, String> {
    match is_dns(text) {
        true => Ok(text.to_owned()),
        false => Err("not a DNS name".to_owned()),
    }
}

fn read(file: &Path) -> Result<Zeroizing<Vec<u8>>, CliError> {
    use std::io::Read as _;
    let shown = file.display();
    let mut text = Zeroizing::new(Vec::new());
    std::fs::File::open(file)
        .and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut text))
        .map_err(|error| CliError::usage(format!("cannot read {shown}: {error}")))?;
    if !text.windows(11).any(|part| part == b"-----BEGIN ") {
        return Err(CliError::usage(format!("{shown} is no PEM file")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_address_is_plain_unless_certificates_are_given() {
        let plain = TlsArgs::default();
        let secure = TlsArgs {
            ca_file: Some("ca.pem".into()),
            ..TlsArgs::default()
        };
        let check = |args: &TlsArgs, addr: &str, expected: &str| {
            assert_eq!(args.url_of(addr), Ok(expected.to_owned()));
        };
        check(&plain, "127.0.0.1:7421", "http://127.0.0.1:7421");
        check(&plain, "localhost:1", "http://localhost:1");
        check(&plain, "http://[::1]:7421", "http://[::1]:7421");
        check(&plain, "https://a:1", "https://a:1");
        check(&secure, "a:1", "https://a:1");
        check(&secure, "https://a:1", "https://a:1");
        for addr in ["", "unix:///run/x"] {
            assert!(plain.url_of(addr).is_err(), "{addr:?}");
        }
        assert!(secure.url_of("http://a:1").is_err());
        assert!(plain.config_for("https://a:1").is_err());
    }
}
