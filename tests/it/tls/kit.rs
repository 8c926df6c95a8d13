//! Certificates that are made while a test runs, and a server that speaks TLS with them.
//!
//! One authority signs the server and its clients unless a test makes another. Names of clients
//! are SPIFFE IDs; the server is `localhost` and 127.0.0.1.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use latchkey::client::{CallingToken, Client, Tls};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

use crate::program::{Ran, Server, fresh, latchkey, run, words};

/// Who signs.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

/// A certificate and its key.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) cert: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        Self::named("an authority")
    }

    pub(crate) fn named(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("signed").pem();
        let issuer = Issuer::new(params, key);
        Self { issuer, pem }
    }

    /// A server's, for these names beside the usual ones.
    pub(crate) fn server(&self, names: &[&str]) -> Pair {
        let mut params = CertificateParams::default();
        let named = names.iter().map(|&name| dns(name));
        params.subject_alt_names = named.chain([dns("localhost"), address()]).collect();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        self.sign(params)
    }

    /// A server's for these names alone.
    pub(crate) fn elsewhere(&self, names: &[&str]) -> Pair {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.iter().map(|&name| dns(name)).collect();
        self.sign(params)
    }

    /// The same of a server whose time is over.
    pub(crate) fn expired_server(&self) -> Pair {
        let day = Duration::from_secs(86_400);
        self.server_between(18_262 * day, 18_263 * day)
    }

    /// A server's that is good between these times since the Unix epoch.
    pub(crate) fn server_between(&self, begins: Duration, ends: Duration) -> Pair {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![dns("localhost"), address()];
        params.not_before = date_time_ymd(1970, 1, 1) + begins;
        params.not_after = date_time_ymd(1970, 1, 1) + ends;
        self.sign(params)
    }

    /// A client's, with this SPIFFE ID.
    pub(crate) fn client(&self, id: &str) -> Pair {
        self.sign(of_client(id))
    }

    /// The same of a client whose time is over.
    pub(crate) fn expired_client(&self, id: &str) -> Pair {
        let mut params = of_client(id);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 2);
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("signed");
        Pair {
            cert: cert.pem(),
            key: key.serialize_pem(),
        }
    }
}

fn of_client(id: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(id.try_into().expect("a name"))];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().expect("a name"))
}

fn address() -> SanType {
    SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// A certificate as it is shown.
pub(crate) fn der(pair: &Pair) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pair.cert.as_bytes()).expect("a certificate")
}

/// A folder with certificates as files.
pub(crate) struct Files {
    dir: TempDir,
}

impl Files {
    pub(crate) fn new() -> Self {
        Self { dir: fresh() }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file as a whole, as a mounted Secret is swapped.
    pub(crate) fn put(&self, name: &str, text: &str) -> PathBuf {
        let (file, fresh) = (self.dir.path().join(name), self.dir.path().join("fresh"));
        std::fs::write(&fresh, text).expect("written");
        std::fs::rename(&fresh, &file).expect("renamed");
        file
    }

    /// A certificate and its key as NAME.pem and NAME.key.
    pub(crate) fn pair(&self, name: &str, pair: &Pair) -> [String; 2] {
        let cert = self.put(&format!("{name}.pem"), &pair.cert);
        let key = self.put(&format!("{name}.key"), &pair.key);
        [cert, key].map(|file| file.display().to_string())
    }
}

/// A server that speaks TLS on a store of its own.
pub(crate) struct House {
    pub(crate) ca: Authority,
    pub(crate) files: Files,
    pub(crate) server: Server,
    _store: TempDir,
}

impl House {
    /// Without client certificates.
    pub(crate) fn open(settings: &[&str]) -> Self {
        Self::start(settings, false)
    }

    /// Where clients show theirs.
    pub(crate) fn mutual(settings: &[&str]) -> Self {
        Self::start(settings, true)
    }

    fn start(settings: &[&str], mutual: bool) -> Self {
        let (ca, files, store) = (Authority::new(), Files::new(), fresh());
        let mut set = own(&files, &ca, &ca.server(&[]));
        if mutual {
            let file = files.folder().join("ca.pem");
            set.push(format!("tls.client_ca_file={}", file.display()));
        }
        set.extend(settings.iter().map(|&one| one.to_owned()));
        let arguments: Vec<&str> = set.iter().flat_map(|one| ["--set", one]).collect();
        let server = Server::start_with(store.path(), &arguments);
        Self {
            server: server.unwrap_or_else(|said| panic!("it did not start: {said}")),
            ca,
            files,
            _store: store,
        }
    }

    /// A client with these SPIFFE IDs.
    pub(crate) fn client(&self, id: &str) -> Pair {
        self.ca.client(id)
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.server.address)
    }

    pub(crate) fn admin_token(&self) -> &str {
        self.server.admin.as_deref().expect("a fresh directory")
    }

    /// Runs a command line as the administrator, with this certificate.
    pub(crate) fn run(&self, shown: Option<&Pair>, line: &str) -> Ran {
        self.run_as(self.admin_token(), shown, line)
    }

    /// The same as the bearer of another token.
    pub(crate) fn run_as(&self, token: &str, shown: Option<&Pair>, line: &str) -> Ran {
        run(self.command(token, shown, line), "")
    }

    /// A command line that is still to be run.
    pub(crate) fn command(&self, token: &str, shown: Option<&Pair>, line: &str) -> Command {
        let mut command = latchkey();
        command
            .args(words(line))
            .env("LATCHKEY_ADDR", self.url())
            .env("LATCHKEY_TOKEN", token)
            .env("LATCHKEY_CA_FILE", self.files.folder().join("ca.pem"));
        if let Some(shown) = shown {
            let [cert, key] = self.files.pair("shown", shown);
            command
                .env("LATCHKEY_CERT_FILE", cert)
                .env("LATCHKEY_CERT_KEY_FILE", key);
        }
        command
    }

    /// Whom the library's client believes, and what it shows.
    pub(crate) fn tls(&self, shown: Option<&Pair>) -> Tls {
        let tls = Tls::by_authorities(&self.ca.pem);
        match shown {
            None => tls,
            Some(pair) => tls.with_certificate(&pair.cert, &pair.key),
        }
    }

    /// The library's client, as the administrator.
    pub(crate) async fn connected(&self, shown: Option<&Pair>) -> Client {
        let connected = Client::connect_secured(self.url(), self.tls(shown)).await;
        let token = CallingToken::parse(self.admin_token()).expect("a token");
        connected.expect("connected").with_token(token)
    }

    /// A channel of its own, for generated clients.
    pub(crate) async fn channel(&self, shown: Option<&Pair>) -> Channel {
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&self.ca.pem));
        let tls = match shown {
            None => tls,
            Some(pair) => tls.identity(Identity::from_pem(&pair.cert, &pair.key)),
        };
        let endpoint = Channel::from_shared(self.url()).expect("an address");
        let endpoint = endpoint.tls_config(tls).expect("certificates");
        endpoint.connect().await.expect("connected")
    }

    /// A connection over TLS and nothing above it, with these versions alone.
    pub(crate) async fn shaken(
        &self,
        shown: Option<&Pair>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        shaken(&self.ca.pem, &self.server.address, shown, versions).await
    }

    /// A number of `/metrics`, which is over TLS, too.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let text = self.admin_page("/metrics").await;
        let value = text.lines().find_map(|line| line.strip_prefix(name));
        let value = value.and_then(|rest| rest.trim().parse().ok());
        value.unwrap_or_else(|| panic!("{name} is not in {text}"))
    }

    /// A page of the admin port.
    pub(crate) async fn admin_page(&self, path: &str) -> String {
        let page = admin_page(&self.ca.pem, &self.server.admin_address, None, path).await;
        page.expect("answered")
    }
}

/// A page of an admin port.
pub(crate) async fn admin_page(
    authorities: &str,
    server: &str,
    shown: Option<&Pair>,
    path: &str,
) -> std::io::Result<String> {
    let both = [&rustls::version::TLS13, &rustls::version::TLS12];
    let mut stream = shaken(authorities, server, shown, &both).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

/// The settings of a server's own certificate, whose files are written.
pub(crate) fn own(files: &Files, ca: &Authority, pair: &Pair) -> Vec<String> {
    files.put("ca.pem", &ca.pem);
    let [cert, key] = files.pair("server", pair);
    vec![
        format!("tls.cert_file={cert}"),
        format!("tls.key_file={key}"),
        "tls.poll=100ms".to_owned(),
    ]
}

/// A handshake as a client that believes these authorities.
pub(crate) async fn shaken(
    authorities: &str,
    server: &str,
    shown: Option<&Pair>,
    versions: &[&'static SupportedProtocolVersion],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(authorities.as_bytes());
    roots.add(authority.expect("PEM")).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(roots);
    let mut config = match shown {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
            let config = builder.with_client_auth_cert(vec![der(pair)], key);
            config.expect("a pair")
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let name = ServerName::try_from("localhost").expect("a name");
    let stream = TcpStream::connect(server).await?;
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}
