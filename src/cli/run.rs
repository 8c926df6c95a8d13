//! The server as a whole: store, replica, authority and listener are put together and taken apart.
//!
//! ```text
//! Store ─► Replica ─► Authority ─► listener ─► ready ─► SIGTERM ─► drain ─► writer ─► store
//! ```
//!
//! The only place that knows them all. [`assemble`] alone is what `bootstrap` needs; [`run`] serves.
//! Who is told to end before it serves ends at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use clap::Args;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::authority::{self, Authority};
use crate::config::{Config, LastUsed};
use crate::domain::clock::SystemClock;
use crate::domain::entropy::{Entropy, OsEntropy};
use crate::domain::seal::ring::Ring;
use crate::domain::token::TokenKind;
use crate::replica::{self, Replica, WriterTask};
use crate::rpc::{self, Metrics};
use crate::state::decide::Lifetimes;
use crate::store::StoreError;
use crate::store::embedded::OpenError;
use crate::tls::Port;

use super::descriptors;
use super::failure::CliError;
use super::followed::Followed;
use super::output::meter::Meter;
use super::ready::Ready;
use super::store;
use super::telemetry::Telemetry;

/// How long the first lease is waited for, at the most, before it is told that the server serves.
const FIRST_LEASE_TIME_MAX: Duration = Duration::from_secs(5);
const LEASE_POLL: Duration = Duration::from_millis(5);
/// How long answers of the admin port may take after the API has ended.
const ADMIN_END_TIME_MAX: Duration = Duration::from_secs(1);

/// How to open the store.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct OpenArgs {
    /// Serve a store that is older than what its directory has seen; what was revoked since is
    /// not revoked there.
    #[arg(long)]
    pub(super) accept_older_copy: bool,
    /// Serve a store that `latchkey copy` has moved to a database; from here on it counts as never
    /// moved. Two authorities over one history part at once: stop the servers of that database.
    #[arg(long)]
    pub(super) accept_moved: bool,
    /// Verify the whole log before serving.
    #[arg(long)]
    pub(super) verify_all: bool,
}

/// What is done before serving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum First {
    /// Nothing: an empty store stays empty.
    Nothing,
    /// Make the first administrator of an empty store.
    Administrator,
}

/// Opens the store, loads State and starts the writer, which the caller stops. Without seals it
/// seals and opens no access tokens. Given up, it leaves what it has joined.
///
/// # Errors
/// Unavailable when the store cannot be opened, holds what must not be served, or is given up.
pub(crate) async fn assemble(
    config: &Config,
    open: OpenArgs,
    seals: Arc<ArcSwap<Ring>>,
    given_up: &CancellationToken,
) -> Result<(Authority, WriterTask), CliError> {
    let meter = Meter::start("verifying the store");
    let entropy: Arc<dyn Entropy> = Arc::new(OsEntropy);
    let store = tokio::select! {
        biased;
        () = given_up.cancelled() => return Err(CliError::unavailable("the start was given up")),
        store = store::open(config, open, &*entropy, &meter) => store?,
    };
    meter.goes_on("loading the store");
    let clock = Arc::new(SystemClock::start());
    let settings = replica::Settings {
        seals,
        given_up: given_up.clone(),
        ..replica_settings(config)
    };
    let started = Replica::start(store, clock, Arc::clone(&entropy), settings).await;
    meter.end();
    let (replica, writer) = started.map_err(CliError::unavailable)?;
    let settings = authority::Settings {
        valid_for_ms: millis(config.check.valid_for),
        confirm_time_max: config.write.confirm_time_max,
    };
    let audiences = config.login.audiences().map(str::to_owned).collect();
    let authority = Authority::new(replica, entropy, settings)
        .with_audiences(audiences)
        // The configuration refuses others.
        .with_proxies(config.login.proxies().unwrap_or_default());
    Ok((authority, writer))
}

fn replica_settings(config: &Config) -> replica::Settings {
    let longest = |kind| {
        let longest = config.tokens.max_lifetime.of(kind)?;
        // The configuration refuses more.
        Some(u32::try_from(longest.as_secs()).unwrap_or(u32::MAX))
    };
    replica::Settings {
        lifetimes: Lifetimes {
            max_s: TokenKind::ALL.map(longest),
        },
        forget_after_ms: millis(config.forget.retention),
        forget_every_ms: millis(config.forget.interval),
        lease: replica::LeaseSettings {
            length_ms: millis(config.lease.length),
            slack_thousandths: config.lease.slack,
            poll: config.lease.poll,
            serve_stale: config.lease.serve_stale,
        },
        last_used: last_used(&config.last_used),
        identity: identity(config),
        ..replica::Settings::default()
    }
}

fn last_used(settings: &LastUsed) -> Option<replica::LastUsedSettings> {
    settings.enabled.then_some(replica::LastUsedSettings {
        interval: settings.interval,
        per_second: settings.per_second,
    })
}

/// What the settings leave out, the host tells.
pub(super) fn identity(config: &Config) -> replica::Identity {
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy();
    let listen = config.listen.addr;
    let or = |set: &str, told: String| if set.is_empty() { told } else { set.to_owned() };
    let address = if listen.ip().is_unspecified() {
        format!("{host}:{}", listen.port())
    } else {
        listen.to_string()
    };
    let address = match config.tls.is_set() {
        true => format!("https://{address}"),
        false => address,
    };
    replica::Identity {
        name: or(&config.replica.name, host.into_owned()),
        address: or(config.replica.address.as_str(), address),
        format_max: config.changes.format_limit(),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Brings a server up, tells that it is ready, and ends it on SIGTERM or Ctrl-C: health says so
/// first, requests under way end, the writer answers what is queued and the store is closed.
///
/// # Errors
/// Unavailable when the store or a port cannot be used, or had to be given up.
pub(crate) async fn run(
    config: &Config,
    open: OpenArgs,
    first: First,
    telemetry: Telemetry,
    ready: impl FnOnce(Ready) -> Result<(), CliError>,
) -> Result<(), CliError> {
    if let Some((key, addr)) = config.exposed() {
        return Err(CliError::usage(format!(
            "{addr} is not loopback, and without TLS tokens would go there in plain text: set \
             tls.cert_file and tls.key_file, or {key} = true if something in front of it encrypts"
        )));
    }
    // First of all: who is the first process of a container is told nothing that it does not ask for.
    let stop = stop_signal()?;
    // A free port is known once it is taken, and the other replicas are told of it. A port that is
    // named is taken last: until then nobody should wait behind it.
    let mut config = config.clone();
    descriptors::fit(&mut config)?;
    let mut taken = None;
    if config.listen.addr.port() == 0 {
        let (listener, addr) = bind(config.listen.addr).await?;
        config.listen.addr = addr;
        taken = Some(listener);
    }
    let mut followed = Followed::open(&config, &OsEntropy)?;
    let seals = followed.files.seals.handle();
    let (authority, writer) = match assemble(&config, open, seals, &stop).await {
        Err(_) if stop.is_cancelled() => {
            tracing::info!("stopped before it served");
            followed.close().await;
            return Ok(());
        }
        assembled => assembled?,
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = until_its_first_lease(&authority) => {}
    }
    followed.tell_missing(authority.clone(), config.seal.poll);
    let served = if stop.is_cancelled() {
        tracing::info!("stopped before it served");
        Ok(())
    } else {
        let begin = Begin {
            first,
            telemetry,
            stop,
        };
        serve(&config, taken, authority, &followed, begin, ready).await
    };
    followed.close().await;
    writer.stop().await;
    served
}

/// Whoever is told that it serves may ask it at once. A server that waits in vain serves all the
/// same, and says for itself that it is stale.
async fn until_its_first_lease(authority: &Authority) {
    let held = async {
        while !authority.is_vouched_for() {
            sleep(LEASE_POLL).await;
        }
    };
    let _ = timeout(FIRST_LEASE_TIME_MAX, held).await;
}

/// What a server begins with.
struct Begin {
    first: First,
    telemetry: Telemetry,
    stop: CancellationToken,
}

async fn serve(
    config: &Config,
    taken: Option<TcpListener>,
    authority: Authority,
    followed: &Followed,
    begin: Begin,
    ready: impl FnOnce(Ready) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let Begin {
        first,
        telemetry,
        stop,
    } = begin;
    // Before the administrator is made: a port that is taken must not cost its only token.
    let (listener, listen) = match taken {
        Some(listener) => (listener, config.listen.addr),
        None => bind(config.listen.addr).await?,
    };
    let admin = match config.admin.enabled {
        true => Some(bind(config.admin.addr).await?),
        false => None,
    };
    let made = match first {
        First::Administrator => authority.bootstrap(false).await,
        First::Nothing => Ok(None),
    };
    let admin_token = made
        .map_err(|refusal| CliError::unavailable(format!("no administrator was made: {refusal}")))?
        .map(|secret| Zeroizing::new(secret.reveal().to_owned()));
    warn_of(config, &authority, first);

    let (metrics, telling) = telemetry.begin(config, &authority, &followed.files);
    let over = CancellationToken::new();
    let admin_addr = admin.as_ref().map(|(_, addr)| *addr);
    let admin_task = admin.map(|(listener, _)| {
        let listener = followed.listening(config, Port::Admin, listener);
        let shutdown = over.clone().cancelled_owned();
        tokio::spawn(rpc::serve_admin(
            authority.clone(),
            metrics.clone(),
            followed.files.clone(),
            listener,
            stop.clone(),
            shutdown,
        ))
    });
    ready(Ready {
        listen,
        admin: admin_addr,
        admin_token,
    })?;
    let (canary, canary_stop) = start_canary(config, &authority, &metrics, followed, &stop);
    tracing::info!(%listen, "serving");
    let listener = followed.listening(config, Port::Api, listener);
    let (routes, until) = (Arc::clone(&followed.files.routes), stop.clone());
    let until = until.cancelled_owned();
    let served = rpc::serve(authority, metrics, listener, config, routes, until).await;
    tracing::info!("stopped");
    over.cancel();
    canary_stop.cancel();
    if let Some(task) = canary {
        // It takes its tokens back before the writer stops.
        let _ = task.await;
    }
    if let Some(task) = admin_task {
        // The lease is not handed back, and the store not closed, before nobody asks any more; who
        // takes nothing of an answer holds that up for a moment only.
        let _ = timeout(ADMIN_END_TIME_MAX, task).await;
    }
    telling.stop().await;
    served.map_err(|error| CliError::unavailable(format!("{error}")))?;
    if stop.is_cancelled() {
        Ok(())
    } else {
        Err(CliError::unavailable(
            "the server had to stop serving; the log says why",
        ))
    }
}

/// What an operator may not have meant.
fn warn_of(config: &Config, authority: &Authority, first: First) {
    if authority.head().revision == 0 {
        tracing::warn!("the store is empty: `latchkey bootstrap` makes the first administrator");
    }
    if first == First::Nothing && config.check_is_open() {
        tracing::warn!(
            "Check asks its callers for no token: whoever reaches this port, also through a proxy, \
             may ask; check.open = false asks for one"
        );
    }
}

/// The canary, if one is wanted, and what ends it.
fn start_canary(
    config: &Config,
    authority: &Authority,
    metrics: &Metrics,
    followed: &Followed,
    stop: &CancellationToken,
) -> (Option<JoinHandle<()>>, CancellationToken) {
    let stop = stop.child_token();
    let canary = config.canary.interval.map(|every| {
        let (authority, metrics, stop) = (authority.clone(), metrics.clone(), stop.clone());
        let certificates = followed.files.tls.clone();
        tokio::spawn(rpc::canary(authority, metrics, certificates, every, stop))
    });
    (canary, stop)
}

async fn bind(addr: SocketAddr) -> Result<(TcpListener, SocketAddr), CliError> {
    let failed = |error| CliError::unavailable(format!("cannot listen on {addr}: {error}"));
    let listener = TcpListener::bind(addr).await.map_err(failed)?;
    let taken = listener.local_addr().map_err(failed)?;
    Ok((listener, taken))
}

/// Is cancelled by the first SIGTERM or Ctrl-C.
fn stop_signal() -> Result<CancellationToken, CliError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot_wait)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot_wait)?;
    let stop = CancellationToken::new();
    let told = stop.clone();
    // Ends with the process: it waits for nothing else.
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        told.cancel();
    });
    Ok(stop)
}

pub(super) fn cannot_wait(error: std::io::Error) -> CliError {
    CliError::unavailable(format!("cannot wait for signals: {error}"))
}

/// Runs what blocks on a thread for it.
///
/// # Errors
/// Those of the work.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CliError> + Send + 'static,
) -> Result<T, CliError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(CliError::unavailable("the work was cut short")),
    }
}

/// What a store that cannot be opened asks for: another path, a decision, or patience.
pub(crate) fn open_failed(error: OpenError) -> CliError {
    match error {
        OpenError::NoDatabase(_) | OpenError::Foreign(_) => CliError::usage(error),
        OpenError::Store(StoreError::OlderCopy { .. }) => {
            CliError::refused(format!("{error} (--accept-older-copy)")).because("OLDER_COPY")
        }
        OpenError::Store(StoreError::Damaged { .. }) => {
            CliError::unavailable(error).because("DAMAGED")
        }
        OpenError::Exists(_) => CliError::refused(error).because("ALREADY_EXISTS"),
        OpenError::Moved { .. } => {
            CliError::refused(format!("{error} (--accept-moved)")).because("MOVED")
        }
        OpenError::Moving { .. } => {
            CliError::refused(format!("{error} (--accept-moved)")).because("MOVING")
        }
        OpenError::Remains(_) => CliError::refused(error).because("REMAINS"),
        OpenError::InUse(_) => CliError::unavailable(error).because("IN_USE"),
        _ => CliError::unavailable(error),
    }
}
