//! The files of our certificate, its key and the authorities of others, and what they make.
//!
//! All is taken or nothing: a certificate whose key is another's, or a list of authorities that
//! cannot be read, is refused, told, and what was before goes on; so is a certificate that is not
//! good at this time, while the one before is. Where there is no better, as at the start, it is taken,
//! for who asks learns from it; that is told. Errors name the file and never what stands there.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{InconsistentKeys, RootCertStore, ServerConfig};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::domain::clock::{Clock as _, SystemClock};
use crate::followed;

use super::Port;
use super::identity::{thumbprint, validity};

/// The longest file.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Certificates of a chain.
const CHAIN_MAX: usize = 16;

/// Whether peers are asked for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// Not asked.
    None,
    /// Asked; who has none is let in all the same.
    Request,
    /// Asked, and without one nobody is let in.
    Require,
}

/// The oldest version that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// Which files there are, and what they are used for.
#[derive(Clone, Debug)]
pub struct Files {
    /// The certificate and what is between it and its authority.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authorities of peers' certificates, if any are taken.
    pub client_ca: Option<PathBuf>,
    /// The authorities of other servers, if they are others.
    pub replica_ca: Option<PathBuf>,
    /// The name that other servers' certificates have, if it is not the one in their address.
    pub replica_name: Option<String>,
    /// Whether the API asks peers for theirs.
    pub api_auth: ClientAuth,
    /// Whether the admin port does.
    pub admin_auth: ClientAuth,
    /// The oldest version that is spoken.
    pub version: Version,
}

/// Why the files cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{}: {what}", file.display())]
pub struct SourceError {
    file: PathBuf,
    what: String,
}

/// The text of a file, or why it cannot be read.
type Text = Result<Zeroizing<Vec<u8>>, String>;

/// What the files say.
#[derive(PartialEq)]
pub struct Content {
    cert: Text,
    key: Text,
    client_ca: Option<Text>,
    replica_ca: Option<Text>,
}

/// What we speak to other servers with, in PEM.
#[derive(Clone)]
pub struct Dialing {
    /// The authorities of their certificates; none where none are set.
    pub authorities: Option<Zeroizing<Vec<u8>>>,
    /// The name that they have, if it is not the one in the address.
    pub name: Option<String>,
    /// Our certificate.
    pub cert: Zeroizing<Vec<u8>>,
    /// Its key.
    pub key: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Dialing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dialing")
    }
}

/// Whether our certificate is good at a time.
enum Validity {
    Good,
    Ended,
    NotYet,
}

/// Certificates in use.
pub struct Loaded {
    api: Arc<ServerConfig>,
    admin: Arc<ServerConfig>,
    dialing: Arc<Dialing>,
    /// When our certificate begins, in seconds of Unix time.
    pub begins: i64,
    /// When it ends, in the same.
    pub ends: i64,
    thumbprint: String,
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Loaded({})", self.thumbprint)
    }
}

impl Loaded {
    /// What a listener speaks with.
    #[must_use]
    pub fn server(&self, port: Port) -> Arc<ServerConfig> {
        Arc::clone(match port {
            Port::Api => &self.api,
            Port::Admin => &self.admin,
        })
    }

    fn at(&self, now_s: i64) -> Validity {
        if self.ends <= now_s {
            Validity::Ended
        } else if self.begins > now_s {
            Validity::NotYet
        } else {
            Validity::Good
        }
    }

    /// What we speak to other servers with.
    #[must_use]
    pub fn dialing(&self) -> Arc<Dialing> {
        Arc::clone(&self.dialing)
    }
}

impl followed::Source for Files {
    type Content = Content;
    type Value = Loaded;
    type Error = SourceError;

    fn read(&self) -> Content {
        let others = |file: &Option<PathBuf>| file.as_deref().map(read);
        Content {
            cert: read(&self.cert),
            key: read(&self.key),
            client_ca: others(&self.client_ca),
            replica_ca: others(&self.replica_ca),
        }
    }

    fn judge(&self, content: &Content) -> Result<Loaded, SourceError> {
        let provider = Arc::new(ring::default_provider());
        let cert = text(&self.cert, &content.cert)?;
        let key = text(&self.key, &content.key)?;
        let pair = Arc::new(self.pair(cert, key, &provider)?);
        let client_ca = self.authorities(&self.client_ca, &content.client_ca)?;
        // Read here only so that what is wrong is told now, not when another server is asked.
        self.authorities(&self.replica_ca, &content.replica_ca)?;
        let serving = Serving {
            files: self,
            provider,
            pair: Arc::clone(&pair),
            client_ca: client_ca.map(Arc::new),
        };
        // The key fits: there is one.
        let leaf = pair.cert.first().map(AsRef::as_ref).unwrap_or_default();
        let (begins, ends) =
            validity(leaf).ok_or_else(|| wrong(&self.cert, "a certificate that cannot be read"))?;
        let given = [&content.replica_ca, &content.client_ca];
        let authorities = given.into_iter().flatten().next();
        Ok(Loaded {
            api: serving.config(self.api_auth, b"h2")?,
            admin: serving.config(self.admin_auth, b"http/1.1")?,
            dialing: Arc::new(Dialing {
                authorities: authorities.and_then(|text| text.clone().ok()),
                name: self.replica_name.clone(),
                cert: Zeroizing::new(cert.to_vec()),
                key: Zeroizing::new(key.to_vec()),
            }),
            ends,
            begins,
            thumbprint: thumbprint(leaf),
        })
    }

    fn succeeds(&self, next: &Loaded, current: &Loaded) -> Result<(), SourceError> {
        let now_s = now_s();
        match (current.at(now_s), next.at(now_s)) {
            (Validity::Good, Validity::Ended) => {
                let what = format!("the certificate has expired ({})", at(next.ends));
                Err(wrong(&self.cert, what))
            }
            (Validity::Good, Validity::NotYet) => {
                let begins = at(next.begins);
                let what = format!("the certificate is not valid yet; it is taken at {begins}");
                Err(wrong(&self.cert, what))
            }
            _ => Ok(()),
        }
    }

    fn tell(&self, judged: Result<&Loaded, &SourceError>) {
        match judged {
            Ok(loaded) => {
                let thumbprint = &*loaded.thumbprint;
                let ends = at(loaded.ends);
                tracing::info!(thumbprint, ends, "the TLS certificate is in use");
                match loaded.at(now_s()) {
                    Validity::Good => {}
                    Validity::Ended => {
                        tracing::warn!(thumbprint, ends, "the TLS certificate has expired");
                    }
                    Validity::NotYet => {
                        tracing::warn!(thumbprint, "the TLS certificate is not valid yet");
                    }
                }
            }
            Err(error) => {
                tracing::error!(%error, "TLS files are refused; those before stay in use")
            }
        }
    }
}

fn now_s() -> i64 {
    let now_s = i64::try_from(SystemClock::start().now().latest / 1_000);
    now_s.unwrap_or(i64::MAX)
}

fn at(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| String::new(), |at| at.to_string())
}

impl Files {
    fn pair(
        &self,
        cert: &[u8],
        key: &[u8],
        provider: &CryptoProvider,
    ) -> Result<CertifiedKey, SourceError> {
        let chain = certificates(&self.cert, cert)?;
        if chain.len() > CHAIN_MAX {
            return Err(wrong(
                &self.cert,
                format!("more than {CHAIN_MAX} certificates"),
            ));
        }
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| wrong(&self.key, format!("no private key: {}", of_pem(&error))))?;
        CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                let what = format!("not the key of the certificate in {}", self.cert.display());
                wrong(&self.key, what)
            }
            error => wrong(&self.key, error),
        })
    }

    fn authorities(
        &self,
        file: &Option<PathBuf>,
        content: &Option<Text>,
    ) -> Result<Option<RootCertStore>, SourceError> {
        let (Some(file), Some(content)) = (file, content) else {
            return Ok(None);
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(file, text(file, content)?)? {
            roots.add(certificate).map_err(|error| wrong(file, error))?;
        }
        Ok(Some(roots))
    }
}

/// What both listeners are made of.
struct Serving<'a> {
    files: &'a Files,
    provider: Arc<CryptoProvider>,
    pair: Arc<CertifiedKey>,
    client_ca: Option<Arc<RootCertStore>>,
}

impl Serving<'_> {
    fn config(&self, auth: ClientAuth, protocol: &[u8]) -> Result<Arc<ServerConfig>, SourceError> {
        let versions: &[_] = match self.files.version {
            Version::Tls12 => &[&TLS13, &TLS12],
            Version::Tls13 => &[&TLS13],
        };
        let failed = |error: rustls::Error| wrong(&self.files.cert, error);
        let builder = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(versions)
            .map_err(failed)?
            .with_client_cert_verifier(self.verifier(auth)?);
        let pair = SingleCertAndKey::from(Arc::clone(&self.pair));
        let mut config = builder.with_cert_resolver(Arc::new(pair));
        config.alpn_protocols = vec![protocol.to_vec()];
        // Who resumes is not asked again who it is.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    fn verifier(&self, auth: ClientAuth) -> Result<Arc<dyn ClientCertVerifier>, SourceError> {
        let (Some(roots), true) = (&self.client_ca, auth != ClientAuth::None) else {
            return Ok(WebPkiClientVerifier::no_client_auth());
        };
        let (roots, provider) = (Arc::clone(roots), Arc::clone(&self.provider));
        let builder = WebPkiClientVerifier::builder_with_provider(roots, provider);
        let builder = match auth {
            ClientAuth::Require => builder,
            _ => builder.allow_unauthenticated(),
        };
        let file = self.files.client_ca.as_deref().unwrap_or(Path::new(""));
        builder.build().map_err(|error| wrong(file, error))
    }
}

fn wrong(file: &Path, what: impl fmt::Display) -> SourceError {
    SourceError {
        file: file.to_owned(),
        what: what.to_string(),
    }
}

fn text<'t>(file: &Path, text: &'t Text) -> Result<&'t [u8], SourceError> {
    match text {
        Ok(text) => Ok(text),
        Err(what) => Err(wrong(file, what)),
    }
}

fn read(file: &Path) -> Text {
    let mut text = Zeroizing::new(Vec::new());
    let opened = File::open(file);
    let read = opened.and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text));
    match read {
        Err(error) => Err(error.to_string()),
        Ok(_) if text.len() as u64 > FILE_BYTES_MAX => {
            Err(format!("more than {FILE_BYTES_MAX} bytes"))
        }
        Ok(_) => Ok(text),
    }
}

fn certificates(file: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, SourceError> {
    let read = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
    let read = read.map_err(|error| wrong(file, of_pem(&error)))?;
    if read.is_empty() {
        return Err(wrong(file, "no certificate in it"));
    }
    Ok(read)
}

/// What is wrong with a PEM file, without what stands there.
fn of_pem(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::NoItemsFound => "nothing of the kind in it",
        _ => "not PEM",
    }
}
