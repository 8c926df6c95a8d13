//! What a server can be set to: one small struct per concern, and a table of all keys.
//!
//! ```text
//! flag > environment (LATCHKEY_…) > file (TOML) > default
//! ```
//!
//! A key of the file has an environment variable named after it: `check.valid_for` is
//! `LATCHKEY_CHECK_VALID_FOR`. Unknown keys of a file or a flag are refused. [`KEYS`] is the table
//! of the README. No setting is shown with a secret. Deliberately absent: what a client command
//! takes.

mod address;
mod database;
mod envoy;
mod keys;
mod login;
mod optional_duration;
mod seal;
mod sources;
mod telemetry;
mod text_duration;
mod tls;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::format::format_max;
use crate::domain::token::TokenKind;

pub use address::ReplicaAddress;
pub use database::{Database, DatabaseUrl, Lease, Replica, Write};
pub use envoy::{
    CREDENTIALS_MAX as ENVOY_CREDENTIALS_MAX, Envoy, HOPS_MAX as ENVOY_HOPS_MAX, IdentityHeaders,
};
pub use keys::{KEYS, Key};
pub use login::{AUDIENCES_MAX, Login};
pub use seal::{Seal, SealKeys};
pub use sources::{ConfigError, Sources};
pub use telemetry::{AccessLines, Otlp, OtlpHeaders, Ratio, Telemetry, Traces};
pub use tls::{AccessLists, ClientAuth, Tls, TlsVersion};

/// All settings of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where it listens.
    pub listen: Listen,
    /// Where it tells about itself.
    pub admin: Admin,
    /// What both of these speak.
    pub tls: Tls,
    /// Who may call what.
    pub access: AccessLists,
    /// Where it keeps what must last.
    pub store: Store,
    /// The database that replicas share.
    pub database: Database,
    /// How leases are held there.
    pub lease: Lease,
    /// Who it is to the others there.
    pub replica: Replica,
    /// How writes are answered.
    pub write: Write,
    /// How it answers checks.
    pub check: Check,
    /// How it answers Envoy.
    pub envoy: Envoy,
    /// How long tokens may live.
    pub tokens: Tokens,
    /// How service accounts log in.
    pub login: Login,
    /// Where the keys are that access tokens are sealed with.
    pub seal: Seal,
    /// What becomes of the change log.
    pub changes: Changes,
    /// How it measures by itself how soon a revocation holds.
    pub canary: Canary,
    /// When it forgets.
    pub forget: Forget,
    /// How it notes when tokens were last used.
    pub last_used: LastUsed,
    /// What the open port survives.
    pub limits: Limits,
    /// What it writes about its work.
    pub log: Log,
    /// What it tells of single questions, and to whom.
    pub telemetry: Telemetry,
}

/// Where it listens.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// The address of the API.
    pub addr: SocketAddr,
    /// Whether it speaks plain text where that is not loopback.
    pub plain_text: bool,
}

/// Where it tells about itself: `/metrics`, `/healthz` and `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// The address; without authentication, so loopback unless a network policy protects it.
    pub addr: SocketAddr,
    /// Whether it is served at all.
    pub enabled: bool,
    /// Whether it speaks plain text, also where that is not loopback or the API speaks TLS.
    pub plain_text: bool,
    /// Whether who asks must show a certificate.
    pub client_auth: ClientAuth,
}

/// Where it keeps what must last.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// The data directory of the embedded store.
    pub data_dir: PathBuf,
}

/// Who may ask for checks without a token of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Open {
    /// Everybody when listening on loopback, nobody otherwise.
    Auto,
    /// Everybody who reaches the port.
    True,
    /// Nobody.
    False,
    /// Whoever shows a certificate that `access.check` names, or any if that is empty.
    Mtls,
}

/// How it answers checks.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Check {
    /// Who may ask without a token of its own.
    pub open: Open,
    /// How long an allow may be acted on, from the moment it was asked for.
    #[serde(with = "text_duration")]
    pub valid_for: Duration,
}

/// How long tokens may live.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tokens {
    /// The longest life of each kind.
    pub max_lifetime: MaxLifetime,
}

/// The longest life of each kind of token; none is without bound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct MaxLifetime {
    /// Of user tokens.
    #[serde(with = "optional_duration")]
    pub user: Option<Duration>,
    /// Of team tokens.
    #[serde(with = "optional_duration")]
    pub team: Option<Duration>,
    /// Of resource tokens.
    #[serde(with = "optional_duration")]
    pub resource: Option<Duration>,
    /// Of service tokens.
    #[serde(with = "optional_duration")]
    pub service: Option<Duration>,
    /// Of sessions of access tokens.
    #[serde(with = "optional_duration")]
    pub access: Option<Duration>,
    /// Of client secrets.
    #[serde(with = "optional_duration")]
    pub client_secret: Option<Duration>,
    /// Of registered public keys.
    #[serde(with = "optional_duration")]
    pub public_key: Option<Duration>,
}

impl MaxLifetime {
    /// The longest life of one kind.
    #[must_use]
    pub fn of(&self, kind: TokenKind) -> Option<Duration> {
        match kind {
            TokenKind::User => self.user,
            TokenKind::Team => self.team,
            TokenKind::Resource => self.resource,
            TokenKind::Service => self.service,
            TokenKind::Access => self.access,
            TokenKind::ClientSecret => self.client_secret,
            TokenKind::PublicKey => self.public_key,
        }
    }
}

/// What becomes of the change log.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Changes {
    /// The newest format of entries that it may be raised to while this server is there; 0 is the
    /// newest that the server knows.
    pub format_max: u32,
    /// How long changes are kept, where `log trim` is not told otherwise; none is for ever.
    #[serde(with = "optional_duration")]
    pub retention: Option<Duration>,
}

impl Changes {
    /// The newest format that it may be raised to.
    #[must_use]
    pub fn format_limit(&self) -> u32 {
        match self.format_max {
            0 => format_max(),
            limit => limit,
        }
    }
}

/// How it measures by itself how soon a revocation holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Canary {
    /// How often; none is never.
    #[serde(with = "optional_duration")]
    pub interval: Option<Duration>,
}

/// When it forgets tokens that have ended.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Forget {
    /// How long an ended token is kept.
    #[serde(with = "text_duration")]
    pub retention: Duration,
    /// How often one of 256 parts of the tokens is looked through.
    #[serde(with = "text_duration")]
    pub interval: Duration,
}

/// How it notes when tokens were last used.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LastUsed {
    /// Whether it does.
    pub enabled: bool,
    /// A use is written so long after it at the latest.
    #[serde(with = "text_duration")]
    pub interval: Duration,
    /// Uses that it writes in a second at the most.
    pub per_second: usize,
}

/// What the open port survives.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections in all.
    pub connections_max: usize,
    /// Connections from one address (of one /64 for IPv6).
    pub connections_per_peer_max: usize,
    /// Until a new connection must have said hello.
    #[serde(with = "text_duration")]
    pub hello_time_max: Duration,
    /// After this a connection is asked to end, so that clients spread anew.
    #[serde(with = "text_duration")]
    pub connection_age_max: Duration,
    /// And so much later it is cut.
    #[serde(with = "text_duration")]
    pub connection_age_grace: Duration,
    /// Requests under way on one connection.
    pub streams_per_connection_max: u32,
    /// Requests that wait, for their body or for a write, in all; more are turned away.
    pub requests_waiting_max: usize,
    /// Streams that last, of health and reflection in all, and as many others; more are turned away.
    pub lasting_streams_max: usize,
    /// Until a request must have its answer; streams are exempt.
    #[serde(with = "text_duration")]
    pub request_time_max: Duration,
    /// Management calls of one address in a second; those that take rights away by themselves.
    pub calls_per_second: u32,
    /// Failing logins of one client id from one address in a second.
    pub failed_logins_per_second: u32,
    /// Bytes of a request's headers.
    pub header_bytes_max: u32,
    /// Bytes of a request's message.
    pub message_bytes_max: usize,
    /// Streams that a client opened and took back before they were looked at (CVE-2023-44487): it ends
    /// who means harm, and may not end a proxy for what one of its clients does.
    pub pending_resets_max: usize,
    /// Streams that had to be reset for a client's errors, before its connection is ended.
    pub error_resets_max: usize,
    /// How often a client is pinged.
    #[serde(with = "text_duration")]
    pub ping_every: Duration,
    /// How long it may take to answer.
    #[serde(with = "text_duration")]
    pub ping_time_max: Duration,
    /// How long all is still served after the signal to stop, while health says that it is not:
    /// longer than a balancer takes to find out.
    #[serde(with = "optional_duration")]
    pub drain_notice: Option<Duration>,
    /// How long requests under way may take after that.
    #[serde(with = "text_duration")]
    pub drain_time_max: Duration,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What it writes about its work, to standard error.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// The form of lines.
    pub format: LogFormat,
    /// The least level, or a filter such as `info,latchkey::rpc=debug`.
    pub level: String,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            addr: SocketAddr::from(([127, 0, 0, 1], 7421)),
            plain_text: false,
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            addr: SocketAddr::from(([127, 0, 0, 1], 7422)),
            enabled: true,
            plain_text: false,
            client_auth: ClientAuth::None,
        }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("./latchkey-data"),
        }
    }
}

impl Default for Check {
    fn default() -> Self {
        Self {
            open: Open::Auto,
            valid_for: Duration::from_secs(5),
        }
    }
}

impl Default for Changes {
    fn default() -> Self {
        Self {
            format_max: 0,
            retention: Some(Duration::from_secs(400 * 24 * 60 * 60)),
        }
    }
}

impl Default for Forget {
    fn default() -> Self {
        Self {
            retention: Duration::from_secs(24 * 60 * 60),
            interval: Duration::from_secs(10),
        }
    }
}

impl Default for LastUsed {
    fn default() -> Self {
        Self {
            enabled: true,
            interval: Duration::from_secs(60),
            per_second: 200,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 1_024,
            connections_per_peer_max: 256,
            hello_time_max: Duration::from_secs(5),
            connection_age_max: Duration::from_secs(60 * 60),
            connection_age_grace: Duration::from_secs(5 * 60),
            streams_per_connection_max: 200,
            requests_waiting_max: 2_048,
            // A watch of its health and a StreamCheck for each of as many connections, and room.
            lasting_streams_max: 2_048,
            request_time_max: Duration::from_secs(10),
            calls_per_second: 1_000,
            failed_logins_per_second: 10,
            // More than Envoy takes of a client by default: tracing puts its client's headers on
            // the questions that it asks, and an error where the operator fails open is an allow.
            header_bytes_max: 64 * 1_024,
            message_bytes_max: 1024 * 1024,
            // More than a proxy takes back at once for a client of its own: what ends its connection
            // ends the questions of all its other clients.
            pending_resets_max: 256,
            error_resets_max: 100,
            ping_every: Duration::from_secs(30),
            ping_time_max: Duration::from_secs(10),
            drain_notice: None,
            drain_time_max: Duration::from_secs(10),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            level: "info".to_owned(),
        }
    }
}

impl Config {
    /// Whether checks are answered to callers without a token of their own.
    #[must_use]
    pub fn check_is_open(&self) -> bool {
        match self.check.open {
            Open::Auto => self.listen.addr.ip().is_loopback(),
            Open::True => true,
            Open::False | Open::Mtls => false,
        }
    }
}

#[cfg(test)]
mod tests;
