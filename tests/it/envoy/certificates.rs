//! Certificates of a test's own authority, for Envoy and for those who connect to it.
//!
//! Made by `openssl`, in a folder that goes with the test: `ca.pem`, `server.pem`, and one of each
//! client, with its key beside it.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::program::{fresh, run};

/// The folder with all of them.
pub(crate) struct Certificates(TempDir);

impl Certificates {
    /// A certificate for each of the clients, with these alternative names.
    pub(crate) fn make(clients: &[(&str, &str)]) -> Self {
        let dir = fresh();
        sign(dir.path(), "ca", "", false);
        sign(dir.path(), "server", "DNS:localhost", true);
        for (name, names) in clients {
            sign(dir.path(), name, names, true);
        }
        Self(dir)
    }

    pub(crate) fn folder(&self) -> String {
        self.0.path().display().to_string()
    }

    fn certificate(&self, name: &str) -> CertificateDer<'static> {
        let file = self.0.path().join(format!("{name}.pem"));
        CertificateDer::from_pem_file(file).expect("a certificate")
    }

    /// What a token names a client's certificate by (RFC 8705, section 3.1).
    pub(crate) fn thumbprint(&self, client: &str) -> String {
        let hash = Sha256::digest(self.certificate(client));
        format!("x5t#S256:{}", BASE64_URL_SAFE_NO_PAD.encode(hash))
    }

    /// TLS over a connection to Envoy, as a client that has a certificate.
    pub(crate) async fn secured(&self, client: &str, stream: TcpStream) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate("ca")).expect("an authority");
        let key = PrivateKeyDer::from_pem_file(self.0.path().join(format!("{client}.key")));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![self.certificate(client)], key.expect("a key"))
            .expect("a pair");
        let name = ServerName::try_from("localhost").expect("a name");
        let connected = TlsConnector::from(Arc::new(config)).connect(name, stream);
        connected.await.expect("secured")
    }
}

/// Makes a key and a certificate, by the authority or by itself.
fn sign(folder: &Path, name: &str, names: &str, by_authority: bool) {
    let mut command = Command::new("openssl");
    let arguments = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
    command.current_dir(folder).args(arguments.split(' '));
    command.args(["-subj", &format!("/CN={name}")]);
    command.args([
        "-keyout",
        &format!("{name}.key"),
        "-out",
        &format!("{name}.pem"),
    ]);
    if by_authority {
        command.args(["-CA", "ca.pem", "-CAkey", "ca.key"]);
        command.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    }
    if !names.is_empty() {
        command.args(["-addext", &format!("subjectAltName={names}")]);
    }
    run(command, "").ok();
}
