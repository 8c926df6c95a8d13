//! TLS on the listeners: where the certificates are, who must show one, and what for.
//!
//! Plain text is for loopback: on another address it has to be asked for, so that nobody sends
//! tokens through a network in the clear by leaving something out. What contradicts itself is
//! refused here; what the files say is told where they are read.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::peer::{Access, Group, PEERS_MAX, Peers};

use super::{Config, Open, text_duration};

const POLL_MIN: Duration = Duration::from_millis(100);
const POLL_MAX: Duration = Duration::from_secs(60 * 60);

/// Whether peers are asked for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    /// It is required where authorities of clients are set, and not asked for elsewhere.
    Auto,
    /// Not asked for.
    None,
    /// Asked for; who has none is let in all the same.
    Request,
    /// Without one nobody is let in.
    Require,
}

/// The oldest version that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    Tls13,
}

/// TLS on the listeners.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// The certificate; empty is plain text.
    pub cert_file: PathBuf,
    /// Its key.
    pub key_file: PathBuf,
    /// The authorities of clients' certificates; empty if there are none.
    pub client_ca_file: PathBuf,
    /// Whether clients of the API must show one.
    pub client_auth: ClientAuth,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
    /// How often the files are read again.
    #[serde(with = "text_duration")]
    pub poll: Duration,
}

/// Who may call what, by the identity that a client's certificate proves; an empty list is
/// everybody whom the rest of the rules lets in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AccessLists {
    /// Checks, Envoy's included.
    pub check: String,
    /// Logins, renewals and exchanges.
    pub login: String,
    /// Everything else but health and reflection.
    pub manage: String,
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            cert_file: PathBuf::new(),
            key_file: PathBuf::new(),
            client_ca_file: PathBuf::new(),
            client_auth: ClientAuth::Auto,
            min_version: TlsVersion::Tls12,
            poll: Duration::from_secs(10),
        }
    }
}

impl Tls {
    /// Whether it is spoken.
    #[must_use]
    pub fn is_set(&self) -> bool {
        !self.cert_file.as_os_str().is_empty()
    }

    /// Whether authorities of clients are set.
    #[must_use]
    pub fn knows_clients(&self) -> bool {
        !self.client_ca_file.as_os_str().is_empty()
    }

    /// Whether clients of the API are asked for a certificate, where that is left to us.
    #[must_use]
    pub fn client_auth(&self) -> ClientAuth {
        match self.client_auth {
            ClientAuth::Auto if self.knows_clients() => ClientAuth::Require,
            ClientAuth::Auto => ClientAuth::None,
            set => set,
        }
    }

    /// What cannot be used, with the name of its key; none if all can.
    pub(super) fn wrong(&self, config: &Config) -> Option<(&'static str, String)> {
        let wrong = |key, what: &str| Some((key, what.to_owned()));
        let has_key = !self.key_file.as_os_str().is_empty();
        let asks = |auth| matches!(auth, ClientAuth::Request | ClientAuth::Require);
        let proves = asks(self.client_auth());
        if has_key != self.is_set() {
            return wrong("tls.key_file", "set with tls.cert_file or not at all");
        }
        if self.knows_clients() && !self.is_set() {
            return wrong("tls.client_ca_file", "set, but there is no tls.cert_file");
        }
        if proves && !self.knows_clients() {
            return wrong(
                "tls.client_auth",
                "asks for what no tls.client_ca_file vouches for",
            );
        }
        if asks(config.admin.client_auth) && !self.knows_clients() {
            return wrong(
                "admin.client_auth",
                "asks for what no tls.client_ca_file vouches for",
            );
        }
        if config.listen.plain_text && self.is_set() {
            return wrong(
                "listen.plain_text",
                "set, and tls.cert_file too: which is meant?",
            );
        }
        if config.check.open == Open::Mtls && !proves {
            return wrong(
                "check.open",
                "mtls needs a tls.client_ca_file, and clients to be asked",
            );
        }
        if !(POLL_MIN..=POLL_MAX).contains(&self.poll) {
            return wrong("tls.poll", "not within 100ms to 1h");
        }
        let lists = Group::ALL.into_iter().zip(config.access.lists());
        for (group, (key, list)) in lists {
            let Some(list) = list else {
                let what = format!(
                    "not at most {PEERS_MAX} SPIFFE IDs (also with /* at their end), DNS names or thumbprints"
                );
                return Some((key, what));
            };
            if !list.is_empty() && !proves {
                let what = format!(
                    "nobody proves who it is, so nobody may {}: set tls.client_ca_file",
                    group.name()
                );
                return Some((key, what));
            }
        }
        None
    }
}

impl AccessLists {
    fn lists(&self) -> [(&'static str, Option<Peers>); Group::ALL.len()] {
        [
            ("access.check", Peers::parse(&self.check)),
            ("access.login", Peers::parse(&self.login)),
            ("access.manage", Peers::parse(&self.manage)),
        ]
    }

    /// As one; none if a list cannot be read.
    #[must_use]
    pub fn access(&self) -> Option<Access> {
        let [check, login, manage] = self.lists().map(|(_, list)| list);
        Some(Access::new([check?, login?, manage?]))
    }
}

impl Config {
    /// The first listener that would speak plain text to a network without being asked to: what
    /// to set, and its address.
    #[must_use]
    pub fn exposed(&self) -> Option<(&'static str, SocketAddr)> {
        let plain = |asked: bool, addr: SocketAddr| {
            !(asked || self.tls.is_set() || addr.ip().to_canonical().is_loopback())
        };
        if plain(self.listen.plain_text, self.listen.addr) {
            return Some(("listen.plain_text", self.listen.addr));
        }
        let admin = self.admin.enabled && plain(self.admin.plain_text, self.admin.addr);
        admin.then_some(("admin.plain_text", self.admin.addr))
    }

    /// Whether the admin port speaks TLS.
    #[must_use]
    pub fn admin_is_secured(&self) -> bool {
        self.tls.is_set() && !self.admin.plain_text
    }
}
