//! Envoy: where the credential, the address and the identity of a request are, and stand.
//!
//! Names of headers are checked here, so that no setting can make an answer that Envoy refuses or
//! takes for something else. What requests need is not a setting: routes say so, whose file is
//! read again while the server runs.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{optional_duration, text_duration};
use crate::routes::{Withheld, is_header_name};

/// Headers that a credential may be read from.
pub const CREDENTIALS_MAX: usize = 4;
/// Proxies of the operator's own in front of a request.
pub const HOPS_MAX: usize = 32;
const REALM_BYTES_MAX: usize = 64;
const POLL_MIN: Duration = Duration::from_millis(100);
const POLL_MAX: Duration = Duration::from_secs(60 * 60);

/// Headers that are not a credential's or an identity's to take: Envoy ignores changes of some,
/// and others say how the message is framed.
const TAKEN: &[&str] = &[
    "host",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-for",
    "x-request-id",
];
/// The same of whole families.
const TAKEN_PREFIXES: &[&str] = &["grpc-", "x-envoy-"];

/// How it answers Envoy.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Envoy {
    /// The route table; empty if there is none.
    pub routes_file: PathBuf,
    /// How often it is read again.
    #[serde(with = "text_duration")]
    pub routes_poll: Duration,
    /// The headers that a credential is read from, in their order, with commas between them.
    pub credentials: String,
    /// Whether they are taken away before a request goes on.
    pub strip_credential: bool,
    /// The realm of challenges.
    pub realm: String,
    /// How many of the entries of `x-forwarded-for`, from the right, proxies of ours have added.
    pub trusted_hops: usize,
    /// A client is told of the end of its token when so little is left of it; none is never.
    #[serde(with = "optional_duration")]
    pub expires_soon: Option<Duration>,
    /// What a service is told of the token.
    pub headers: IdentityHeaders,
}

/// The names of the headers that a service is told of the token in; an empty one is not set.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct IdentityHeaders {
    /// The principal, or `resource:` and the path of a resource token.
    pub subject: String,
    /// The token's public name.
    pub token_id: String,
    /// Its kind.
    pub kind: String,
    /// What it is narrowed to.
    pub scopes: String,
    /// The consistency token of the decision.
    pub revision: String,
}

impl Default for Envoy {
    fn default() -> Self {
        Self {
            routes_file: PathBuf::new(),
            routes_poll: Duration::from_secs(2),
            credentials: "authorization,x-api-key".to_owned(),
            strip_credential: false,
            realm: "latchkey".to_owned(),
            trusted_hops: 0,
            expires_soon: Some(Duration::from_secs(24 * 60 * 60)),
            headers: IdentityHeaders::default(),
        }
    }
}

impl Default for IdentityHeaders {
    fn default() -> Self {
        Self {
            subject: "x-latchkey-subject".to_owned(),
            token_id: "x-latchkey-token-id".to_owned(),
            kind: "x-latchkey-kind".to_owned(),
            scopes: "x-latchkey-scopes".to_owned(),
            revision: "x-latchkey-revision".to_owned(),
        }
    }
}

impl Envoy {
    /// The headers that a credential is read from, in their order.
    pub fn credential_names(&self) -> impl Iterator<Item = &str> {
        self.credentials.split(',').map(str::trim)
    }

    /// The headers that no resource is made of.
    #[must_use]
    pub fn withheld(&self) -> Withheld {
        let headers = &self.headers;
        let identity = [
            &headers.subject,
            &headers.token_id,
            &headers.kind,
            &headers.scopes,
            &headers.revision,
        ];
        let identity = identity.into_iter().map(String::as_str);
        Withheld::with(self.credential_names().chain(identity))
    }

    /// What cannot be used, with the name of its key; none if all can.
    pub(super) fn wrong(&self) -> Option<(&'static str, String)> {
        let credentials: Vec<&str> = self.credential_names().collect();
        if credentials.len() > CREDENTIALS_MAX {
            let what = format!("more than {CREDENTIALS_MAX} headers");
            return Some(("envoy.credentials", what));
        }
        let headers = &self.headers;
        let identity = [
            ("envoy.headers.subject", headers.subject.as_str()),
            ("envoy.headers.token_id", &headers.token_id),
            ("envoy.headers.kind", &headers.kind),
            ("envoy.headers.scopes", &headers.scopes),
            ("envoy.headers.revision", &headers.revision),
        ];
        let credentials = credentials
            .into_iter()
            .map(|name| ("envoy.credentials", name));
        let identity = identity.into_iter().filter(|(_, name)| !name.is_empty());
        let mut seen = Vec::new();
        for (key, name) in credentials.chain(identity) {
            if !is_header_name(name) {
                return Some((
                    key,
                    format!("`{name}` is no name of a header in lower case"),
                ));
            }
            if TAKEN.contains(&name) || TAKEN_PREFIXES.iter().any(|taken| name.starts_with(taken)) {
                return Some((key, format!("`{name}` is not to be used for this")));
            }
            // Services behind CGI and its kin see one header in both.
            let spelt = name.replace('_', "-");
            if seen.contains(&spelt) {
                return Some((key, format!("`{name}` is used twice")));
            }
            seen.push(spelt);
        }
        if !(POLL_MIN..=POLL_MAX).contains(&self.routes_poll) {
            return Some(("envoy.routes_poll", "not within 100ms to 1h".to_owned()));
        }
        let is_quotable = |byte: u8| byte.is_ascii_graphic() && !b"\"\\".contains(&byte);
        if self.realm.len() > REALM_BYTES_MAX
            || !self
                .realm
                .bytes()
                .all(|byte| byte == b' ' || is_quotable(byte))
        {
            let what = format!("is at most {REALM_BYTES_MAX} printable characters without quotes");
            return Some(("envoy.realm", what));
        }
        (self.trusted_hops > HOPS_MAX)
            .then(|| ("envoy.trusted_hops", format!("more than {HOPS_MAX}")))
    }
}
