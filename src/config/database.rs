//! The database: how to reach Postgres, and how a replica lives beside others on it.
//!
//! A URL may hold a password, so it is never printed: [`DatabaseUrl`] writes it with the password
//! taken out, in `serve --print-config` as in any error. Without a URL there is no database, and
//! the embedded store is used. What the parts of a URL mean is the store's business.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};

use crate::domain::peer::is_dns;

use super::{ReplicaAddress, text_duration};

const MASK: &str = "***";

/// The URL of a database; printed without its password.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// The URL with its password, for whoever connects.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether none is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&str> for DatabaseUrl {
    fn from(url: &str) -> Self {
        Self(url.to_owned())
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&masked(&self.0))
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", masked(&self.0))
    }
}

impl Serialize for DatabaseUrl {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// A text that is not understood is masked whole: its password may stand anywhere.
fn masked(url: &str) -> String {
    if url.is_empty() {
        return String::new();
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        return MASK.to_owned();
    };
    let (base, query) = match rest.split_once('?') {
        Some((base, query)) => (base, Some(query)),
        None => (rest, None),
    };
    // A password may hold an `@` that should have been escaped.
    let base = match base.rsplit_once('@') {
        Some((user, hosts)) => match user.split_once(':') {
            Some((user, _)) => format!("{user}:{MASK}@{hosts}"),
            None => format!("{user}@{hosts}"),
        },
        None => base.to_owned(),
    };
    let query = query.map(|query| {
        let pairs = query.split('&').map(|pair| match pair.split_once('=') {
            Some((name, _)) if name.contains("password") => format!("{name}={MASK}"),
            _ => pair.to_owned(),
        });
        format!("?{}", pairs.collect::<Vec<_>>().join("&"))
    });
    format!("{scheme}://{base}{}", query.unwrap_or_default())
}

/// How to reach Postgres; without a URL the embedded store is used.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Database {
    /// Where it is.
    pub url: DatabaseUrl,
    /// The same database past a pooler, for the feed, the heartbeat, the barrier and LISTEN.
    pub listen_url: DatabaseUrl,
    /// What the server's certificate must be signed by.
    pub ca_file: PathBuf,
    /// A file with the password; empty if it is in the URL or there is none.
    pub password_file: PathBuf,
    /// Connections for lists and snapshots.
    pub pool_size: usize,
    /// Until one host must have let us in.
    #[serde(with = "text_duration")]
    pub connect_timeout: Duration,
    /// Until a statement must have ended.
    #[serde(with = "text_duration")]
    pub statement_timeout: Duration,
    /// Until an append must have its turn at the log.
    #[serde(with = "text_duration")]
    pub lock_timeout: Duration,
}

/// How leases are held, where replicas share a database.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lease {
    /// How long a replica answers checks without hearing of the database.
    #[serde(with = "text_duration")]
    pub length: Duration,
    /// How much faster or slower than another a machine's clock may run, in thousandths.
    pub slack: u64,
    /// How often the log is read without a wake-up.
    #[serde(with = "text_duration")]
    pub poll: Duration,
    /// Whether checks are answered after the lease has run out.
    pub serve_stale: bool,
}

/// Who this server is to the other replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Replica {
    /// What it is called; empty is the host's name.
    pub name: String,
    /// Where the others reach it; empty is the address it listens on.
    pub address: ReplicaAddress,
    /// The authorities of the others' certificates; empty is those of clients.
    pub ca_file: PathBuf,
    /// The name that every replica's certificate has; empty is the host of its address.
    pub tls_name: String,
}

impl Replica {
    /// What cannot be used, with the name of its key; none if all can.
    pub(super) fn wrong(&self) -> Option<(&'static str, String)> {
        let is_name = self.tls_name.is_empty() || is_dns(&self.tls_name);
        (!is_name).then(|| ("replica.tls_name", "not a DNS name".to_owned()))
    }
}

/// How writes are answered.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Write {
    /// How long a write waits until it holds on every replica.
    #[serde(with = "text_duration")]
    pub confirm_time_max: Duration,
}

impl Default for Database {
    fn default() -> Self {
        Self {
            url: DatabaseUrl::default(),
            listen_url: DatabaseUrl::default(),
            ca_file: PathBuf::new(),
            password_file: PathBuf::new(),
            pool_size: 8,
            connect_timeout: Duration::from_secs(2),
            statement_timeout: Duration::from_secs(10),
            lock_timeout: Duration::from_secs(5),
        }
    }
}

impl Default for Lease {
    fn default() -> Self {
        Self {
            length: Duration::from_secs(5),
            slack: 50,
            poll: Duration::from_millis(250),
            serve_stale: false,
        }
    }
}

impl Default for Write {
    fn default() -> Self {
        Self {
            confirm_time_max: Duration::from_secs(5),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_printed() {
        let check = |url: &str, expected: &str| {
            let url = DatabaseUrl::from(url);
            assert_eq!(url.to_string(), expected);
            assert_eq!(format!("{url:?}"), format!("{expected:?}"));
            let value = toml::Value::try_from(&url).expect("a text");
            assert_eq!(value.as_str(), Some(expected));
        };
        check("", "");
        check("postgres://u@h/d", "postgres://u@h/d");
        check(
            "postgres://u:hunter2@a:1,b:2/d?sslmode=require",
            "postgres://u:***@a:1,b:2/d?sslmode=require",
        );
        check("postgres://u:hun@ter2@h/d", "postgres://u:***@h/d");
        check("postgres://u:hun:ter2@h/d", "postgres://u:***@h/d");
        check(
            "postgres://h/d?user=u&password=hunter2&sslpassword=x",
            "postgres://h/d?user=u&password=***&sslpassword=***",
        );
        check("host=h password=hunter2", "***");
    }
}
