//! Connecting: the last good host first, the next where one fails or is silent, each with its own
//! time-out.
//!
//! The driver's own time-out covers the TCP connect alone, so a frozen host would hold a connect
//! for ever; here it bounds everything up to the proof that the server takes writes. A
//! [`Connection`] counts the warnings that its server sends: a commit whose wait for a standby was
//! cancelled is reported as a success with a warning.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::lookup_host;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::Host;
use tokio_postgres::error::Severity;
use tokio_postgres::{AsyncMessage, Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::OpenError;
use super::settings::{Settings, Target, target};
use super::tls;
use crate::store::StoreError;

/// How long an operator waits for a connection that nobody else bounds.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(60);

/// No host yet.
const NOWHERE: usize = usize::MAX;

/// Counts how often a server turned out to take no writes any more, or another was used instead: a
/// pooler may lead connections that were made before to it as well, also those of another URL.
#[derive(Clone, Default)]
pub(super) struct Generation(Arc<AtomicU64>);

/// Where connections come from.
pub(super) struct Connector {
    hosts: Vec<Config>,
    tls: MakeRustlsConnect,
    timeout: Duration,
    /// The host that let us in last, and is tried first; [`NOWHERE`] before that. Any task writes
    /// it; a stale value costs one attempt.
    last_good: AtomicUsize,
    generation: Generation,
}

/// One connection and the task that drives it, which ends with this.
pub(super) struct Connection {
    pub(super) client: Client,
    warnings: Arc<AtomicU64>,
    /// When it was made.
    generation: u64,
    task: JoinHandle<()>,
}

/// Makes one connection and no other.
///
/// # Errors
/// [`OpenError`].
pub(super) async fn once(url: &str, settings: &Settings) -> Result<Connection, OpenError> {
    let connector = Connector::new(url, settings, &Generation::default())?;
    Ok(connector.connect(CONNECT_LIMIT, None).await?)
}

impl Connector {
    /// Takes a URL apart; connects to nothing yet.
    ///
    /// # Errors
    /// [`OpenError::Settings`].
    pub(super) fn new(
        url: &str,
        settings: &Settings,
        generation: &Generation,
    ) -> Result<Self, OpenError> {
        let Target {
            hosts,
            tls,
            ca_file,
        } = target(url, settings)?;
        Ok(Self {
            hosts,
            tls: tls::connector(tls, ca_file.as_deref())?,
            timeout: settings.connect_timeout,
            last_good: AtomicUsize::new(NOWHERE),
            generation: generation.clone(),
        })
    }

    /// Whether a connection leads to a server that is good as far as anybody knows.
    pub(super) fn is_current(&self, connection: &Connection) -> bool {
        !connection.client.is_closed() && connection.generation == self.generation.now()
    }

    /// Takes note that a server takes no writes: every connection is made anew.
    pub(super) fn takes_no_writes(&self) {
        self.generation.next();
    }

    /// Connects to the first host that takes writes, going on from the last good one. Whose
    /// patience ends after `limit` hears of every host by then: one that is silent for its share of
    /// it keeps its own time, and the next is tried beside it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when none did.
    pub(super) async fn connect(
        &self,
        limit: Duration,
        wakes: Option<watch::Sender<u64>>,
    ) -> Result<Connection, StoreError> {
        let generation = self.generation.now();
        let count = self.hosts.len();
        let share = limit / u32::try_from(count.max(1)).unwrap_or(u32::MAX);
        let first = self.last_good.load(Ordering::Relaxed);
        let first = if first == NOWHERE { 0 } else { first };
        let mut hosts = (first..first + count).map(|step| step % count);
        let mut tried = FuturesUnordered::new();
        let mut why = Vec::new();
        loop {
            if let Some(index) = hosts.next() {
                tried.push(self.reach(index, generation, wakes.clone()));
            }
            let one = if hosts.len() > 0 {
                timeout(share, tried.next()).await
            } else {
                Ok(tried.next().await)
            };
            match one {
                Ok(Some(Ok(connection))) => return Ok(connection),
                Ok(Some(Err(said))) => why.push(said),
                Ok(None) => break,
                Err(_) => {}
            }
        }
        let why = why.join("; ");
        tracing::debug!(why, "no database host can be used");
        Err(StoreError::Unavailable(format!(
            "no database host can be used: {why}"
        )))
    }

    /// Connects to one host, within its time, or says why not.
    async fn reach(
        &self,
        index: usize,
        generation: u64,
        wakes: Option<watch::Sender<u64>>,
    ) -> Result<Connection, String> {
        let host = &self.hosts[index];
        let addresses = timeout(self.timeout, addresses(host)).await;
        let addresses = addresses.unwrap_or_default();
        let each = self.timeout / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
        let mut said = "its name is not resolved in time".to_owned();
        for address in addresses {
            let connected = self.enter(&address, generation, wakes.clone());
            match timeout(each, connected).await {
                Ok(Ok(connection)) => return Ok(self.arrived(index, connection)),
                Ok(Err(error)) => said = words(&error),
                Err(_) => said = "it did not answer in time".to_owned(),
            }
        }
        Err(format!("{}: {said}", shown(host)))
    }

    /// Takes note of where a connection leads: if that is another host than before, the former one
    /// is silent or takes no writes, and every connection is made anew.
    fn arrived(&self, index: usize, mut connection: Connection) -> Connection {
        let former = self.last_good.swap(index, Ordering::Relaxed);
        if former != index && former != NOWHERE {
            connection.generation = self.generation.next();
            let host = shown(&self.hosts[index]);
            tracing::info!(host, "the database is used by another host");
        }
        connection
    }

    /// Connects to one address; what the server warns of when anybody connects is no warning about
    /// a commit.
    async fn enter(
        &self,
        address: &Config,
        generation: u64,
        wakes: Option<watch::Sender<u64>>,
    ) -> Result<Connection, tokio_postgres::Error> {
        let (client, connection) = address.connect(self.tls.clone()).await?;
        let warnings = Arc::new(AtomicU64::new(0));
        let driven = drive(connection, Arc::clone(&warnings), wakes);
        let connection = Connection {
            client,
            warnings,
            generation,
            task: tokio::spawn(driven),
        };
        // Its answer comes behind them.
        connection.client.simple_query("-- connected").await?;
        connection.warnings.store(0, Ordering::Release);
        Ok(connection)
    }
}

/// The addresses of a host, each as a configuration: the driver would try them one after the
/// other within the time of one.
async fn addresses(host: &Config) -> Vec<Config> {
    let Some(Host::Tcp(name)) = host.get_hosts().first() else {
        return vec![host.clone()];
    };
    if !host.get_hostaddrs().is_empty() {
        return vec![host.clone()];
    }
    match lookup_host((name.as_str(), port(host))).await {
        Ok(found) => found
            .map(|address| {
                let mut one = host.clone();
                one.hostaddr(address.ip());
                one
            })
            .collect(),
        // The driver says what is wrong with it.
        Err(_) => vec![host.clone()],
    }
}

fn port(host: &Config) -> u16 {
    host.get_ports().first().copied().unwrap_or(5432)
}

impl Generation {
    fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// `HOST:PORT`, or the path of a socket.
fn shown(one: &Config) -> String {
    let port = port(one);
    match one.get_hosts().first() {
        Some(Host::Tcp(name)) => format!("{name}:{port}"),
        Some(Host::Unix(path)) => path.display().to_string(),
        None => String::new(),
    }
}

/// What a failed connect says: the server's message names roles and databases, no secrets.
fn words(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(error) => format!("{} (SQLSTATE {})", error.message(), error.code().code()),
        None => match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    }
}

impl Connection {
    /// How many warnings the server has sent. Read after a reply, it counts all that came before.
    pub(super) fn warnings(&self) -> u64 {
        self.warnings.load(Ordering::Acquire)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Moves bytes until the connection ends. A warning is counted before the reply that follows it is
/// handed on, because one task does both in the order of the wire.
async fn drive<S, T>(
    mut connection: tokio_postgres::Connection<S, T>,
    warnings: Arc<AtomicU64>,
    wakes: Option<watch::Sender<u64>>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
        match message {
            Ok(AsyncMessage::Notice(notice)) => {
                if notice.parsed_severity() == Some(Severity::Warning) {
                    let code = notice.code().code();
                    tracing::warn!(code, "the database warns: {}", notice.message());
                    warnings.fetch_add(1, Ordering::Release);
                }
            }
            Ok(AsyncMessage::Notification(_)) => {
                if let Some(wakes) = &wakes {
                    wakes.send_modify(|count| *count += 1);
                }
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(error = %words(&error), "a database connection ended");
                return;
            }
        }
    }
}
