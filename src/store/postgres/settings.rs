//! What a Postgres store can be set to, and the parts of its URL.
//!
//! The URL is libpq's: `postgres://USER:PASSWORD@HOST:PORT,HOST:PORT/DATABASE?sslmode=…`. Hosts
//! are taken apart here, because each of them gets a time-out of its own around the whole
//! connect. `options` is refused: poolers do not pass it on. No error repeats the URL, which may
//! hold a password.

use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

use super::OpenError;

/// How long a silent connection is kept before it is asked.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
/// How often it is asked then.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(2);
/// How often it may stay silent.
const KEEPALIVE_TRIES: u32 = 3;
/// How long sent bytes may stay unacknowledged.
const USER_TIMEOUT: Duration = Duration::from_secs(10);
/// Where Postgres listens when a URL does not say.
const PORT: u16 = 5432;
const APPLICATION: &str = "latchkey";

/// How to reach a database, and how long to wait for it.
#[derive(Clone)]
pub struct Settings {
    /// The database; several hosts are tried in turn, and the one that takes writes is used.
    pub url: String,
    /// The database past a pooler, for what a pooler in transaction mode breaks: the feed, the
    /// heartbeat, the barrier and LISTEN. The same as `url` if there is none.
    pub listen_url: Option<String>,
    /// The certificates that the server's must be signed by; no public authority is trusted.
    pub ca_file: Option<PathBuf>,
    /// The password, if it is not in the URL.
    pub password: Option<zeroize::Zeroizing<String>>,
    /// Connections for lists and snapshots; appends, the feed and the heartbeat have their own.
    pub pool_size: usize,
    /// Until one host must have let us in.
    pub connect_timeout: Duration,
    /// Until a statement must have ended, a snapshot's apart.
    pub statement_timeout: Duration,
    /// Until an append must have its turn at the log.
    pub lock_timeout: Duration,
    /// Until a call of membership must have its answer.
    pub cluster_timeout: Duration,
    /// How often the connection that listens is probed.
    pub probe_every: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            url: String::new(),
            listen_url: None,
            ca_file: None,
            password: None,
            pool_size: 8,
            connect_timeout: Duration::from_secs(2),
            statement_timeout: Duration::from_secs(10),
            lock_timeout: Duration::from_secs(5),
            cluster_timeout: Duration::from_secs(1),
            probe_every: Duration::from_secs(1),
        }
    }
}

/// How far a server's certificate is believed; libpq's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TlsMode {
    /// No TLS.
    Disable,
    /// TLS if the server offers it, whoever it is.
    Prefer,
    /// TLS, whoever the server is.
    Require,
    /// TLS with a certificate that is signed as it should be.
    VerifyCa,
    /// The same, and it is of that host.
    VerifyFull,
}

/// One URL, taken apart.
pub(super) struct Target {
    /// One configuration a host.
    pub(super) hosts: Vec<Config>,
    pub(super) tls: TlsMode,
    pub(super) ca_file: Option<PathBuf>,
}

/// Takes a URL apart.
///
/// # Errors
/// [`OpenError::Settings`], without the URL.
pub(super) fn target(url: &str, settings: &Settings) -> Result<Target, OpenError> {
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(wrong("it does not begin with postgres://"));
    }
    let (plain, ours) = part(url)?;
    let mut parsed: Config = plain.parse().map_err(|error| wrong(&cause(&error)))?;
    if parsed.get_options().is_some() {
        return Err(wrong(
            "`options` does not pass a pooler: set it for the role",
        ));
    }
    if let Some(password) = &settings.password {
        parsed.password(password.as_bytes());
    }
    let ca_file = ours.ca_file.or_else(|| settings.ca_file.clone());
    let tls = match (ours.mode, &ca_file) {
        // As libpq does: who names an authority means it.
        (Some(TlsMode::Require), Some(_)) => TlsMode::VerifyCa,
        (Some(mode), _) => mode,
        (None, Some(_)) => TlsMode::VerifyFull,
        (None, None) => TlsMode::Prefer,
    };
    let hosts = hosts(&parsed, tls, settings)?;
    Ok(Target {
        hosts,
        tls,
        ca_file,
    })
}

/// Hosts and database of a URL, as people may read it: no user, no password.
///
/// # Errors
/// [`OpenError::Settings`], without the URL.
pub(super) fn name(url: &str, settings: &Settings) -> Result<String, OpenError> {
    let Target { hosts, .. } = target(url, settings)?;
    let host = |one: &Config| {
        let name = match one.get_hosts().first() {
            Some(Host::Tcp(name)) => name.clone(),
            Some(Host::Unix(path)) => path.display().to_string(),
            None => String::new(),
        };
        let port = one.get_ports().first().copied();
        format!("{name}:{}", port.unwrap_or(PORT))
    };
    let database = hosts
        .first()
        .and_then(|one| one.get_dbname().or(one.get_user()));
    let database = database.unwrap_or_default().to_owned();
    let hosts: Vec<String> = hosts.iter().map(host).collect();
    Ok(format!("{}/{database}", hosts.join(",")))
}

/// The parameters of a URL that the driver does not know, or knows less of.
#[derive(Default)]
struct Ours {
    mode: Option<TlsMode>,
    ca_file: Option<PathBuf>,
}

fn part(url: &str) -> Result<(String, Ours), OpenError> {
    let mut ours = Ours::default();
    let Some((base, query)) = url.split_once('?') else {
        return Ok((url.to_owned(), ours));
    };
    let mut rest = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("sslmode", word)) => {
                let mode = tls_mode(word).ok_or_else(|| wrong("its sslmode is not known"))?;
                ours.mode = Some(mode);
            }
            Some(("sslrootcert", path)) => {
                let path = decode(path).ok_or_else(|| wrong("its sslrootcert is no path"))?;
                ours.ca_file = Some(PathBuf::from(path));
            }
            // Always read-write here.
            Some(("target_session_attrs", "read-write" | "primary" | "any")) => {}
            _ => rest.push(pair),
        }
    }
    let rest = rest.join("&");
    let plain = match rest.as_str() {
        "" => base.to_owned(),
        rest => format!("{base}?{rest}"),
    };
    Ok((plain, ours))
}

fn tls_mode(word: &str) -> Option<TlsMode> {
    Some(match word {
        "disable" => TlsMode::Disable,
        "prefer" | "allow" => TlsMode::Prefer,
        "require" => TlsMode::Require,
        "verify-ca" => TlsMode::VerifyCa,
        "verify-full" => TlsMode::VerifyFull,
        _ => return None,
    })
}

/// Reads `%41` as `A`.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

fn hosts(parsed: &Config, tls: TlsMode, settings: &Settings) -> Result<Vec<Config>, OpenError> {
    let (names, addresses) = (parsed.get_hosts(), parsed.get_hostaddrs());
    let ports = parsed.get_ports();
    if names.is_empty() {
        return Err(wrong("it names no host"));
    }
    if ports.len() > 1 && ports.len() != names.len() {
        return Err(wrong("it has another number of ports than of hosts"));
    }
    let mut hosts = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let mut one = Config::new();
        match name {
            Host::Tcp(name) => one.host(name),
            Host::Unix(path) => one.host_path(path),
        };
        if let Some(address) = addresses.get(index) {
            one.hostaddr(*address);
        }
        if let Some(port) = ports.get(index).or(ports.first()) {
            one.port(*port);
        }
        let user = parsed.get_user().ok_or_else(|| wrong("it names no user"))?;
        one.user(user);
        if let Some(password) = parsed.get_password() {
            one.password(password);
        }
        if let Some(database) = parsed.get_dbname() {
            one.dbname(database);
        }
        one.application_name(parsed.get_application_name().unwrap_or(APPLICATION))
            .channel_binding(parsed.get_channel_binding())
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .ssl_mode(match tls {
                TlsMode::Disable => SslMode::Disable,
                TlsMode::Prefer => SslMode::Prefer,
                _ => SslMode::Require,
            })
            .connect_timeout(settings.connect_timeout)
            .keepalives(true)
            .keepalives_idle(KEEPALIVE_IDLE)
            .keepalives_interval(KEEPALIVE_EVERY)
            .keepalives_retries(KEEPALIVE_TRIES)
            .tcp_user_timeout(USER_TIMEOUT);
        hosts.push(one);
    }
    Ok(hosts)
}

fn wrong(what: &str) -> OpenError {
    OpenError::Settings(what.to_owned())
}

/// The driver's innermost words: its own say only that something is wrong.
fn cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => cause(source),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(url: &str) -> Result<Target, OpenError> {
        target(url, &Settings::default())
    }

    #[test]
    fn every_host_gets_its_own_configuration() {
        let url = "postgres://u:p@a:1,b:2/d?application_name=x&target_session_attrs=any";
        let target = taken(url).expect("a URL");
        let seen: Vec<_> = target
            .hosts
            .iter()
            .map(|one| (one.get_hosts().to_vec(), one.get_ports().to_vec()))
            .collect();
        let host = |name: &str| vec![Host::Tcp(name.to_owned())];
        assert_eq!(seen, [(host("a"), vec![1]), (host("b"), vec![2])]);
        assert!(target.hosts.iter().all(|one| one.get_user() == Some("u")
            && one.get_password() == Some(b"p")
            && one.get_dbname() == Some("d")
            && one.get_target_session_attrs() == TargetSessionAttrs::ReadWrite));
    }

    #[test]
    fn a_name_is_hosts_and_database_alone() {
        let check = |url: &str, expected: &str| {
            let found = name(url, &Settings::default()).expect("a URL");
            assert_eq!(found, expected);
        };
        check(
            "postgres://u:hunter2@a:1,b:2/d?sslmode=disable",
            "a:1,b:2/d",
        );
        check("postgres://u:hunter2@a", "a:5432/u");
    }

    #[test]
    fn tls_modes_are_those_of_libpq() {
        let check = |query: &str, expected| {
            let target = taken(&format!("postgres://u@h/d{query}")).expect("a URL");
            assert_eq!(target.tls, expected, "{query}");
        };
        check("", TlsMode::Prefer);
        check("?sslmode=disable", TlsMode::Disable);
        check("?sslmode=require", TlsMode::Require);
        check("?sslmode=verify-ca&connect_timeout=1", TlsMode::VerifyCa);
        check("?sslrootcert=/a%20b.pem", TlsMode::VerifyFull);
        check("?sslrootcert=/a.pem&sslmode=verify-ca", TlsMode::VerifyCa);
        check("?sslrootcert=/a.pem&sslmode=require", TlsMode::VerifyCa);
    }

    #[test]
    fn what_cannot_be_used_is_refused_without_its_password() {
        for url in [
            "",
            "host=h user=u password=hunter2",
            "postgres://u:hunter2@h/d?sslmode=maybe",
            "postgres://u:hunter2@h/d?options=-c%20x",
            "postgres://u:hunter2@h/d?sslrootcert=%zz",
            "postgres://u:hunter2@a:1,b:2,c/d?nothing=known",
            "postgres:///d",
        ] {
            let error = taken(url).err().unwrap_or_else(|| panic!("{url}: taken"));
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
