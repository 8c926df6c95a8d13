//! What a server reads again while it runs: its route table, its seal keys and its certificates.
//!
//! All are read before the store is opened, for what is wrong with a file is soon mended and a
//! store may take long to load. SIGHUP has all read at once where a setting names a file; where
//! none does it ends the server, as it does where a terminal is closed. Seal keys that the log knows
//! and nobody has brought here are told, at the start and whenever they are others.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use zeroize::Zeroizing;

use crate::authority::Authority;
use crate::config::{ClientAuth, Config, Seal, TlsVersion};
use crate::domain::change::SealKeyRecord;
use crate::domain::entropy::Entropy;
use crate::domain::seal::key::SealKey;
use crate::followed::{Follower, Live, Source};
use crate::routes;
use crate::rpc::{Files, Listening};
use crate::seal::{self, KeySource};
use crate::tls::{self, Door, Port};

use super::failure::CliError;
use super::run::cannot_wait;
use super::store::Place;

/// Its name in the data directory of an embedded store.
pub(super) const KEYS_FILE: &str = "seal.keys";

/// The route table and the seal keys, and who follows their files.
pub(crate) struct Followed {
    pub(crate) files: Files,
    tasks: Vec<JoinHandle<()>>,
}

impl Followed {
    /// Reads what the settings name. An embedded store has one process, so that nobody else needs
    /// to know its keys: without a setting they are in a file of its own. Replicas must all have
    /// the same ones, and none of them makes any.
    ///
    /// # Errors
    /// Usage for what cannot be read or is wrong.
    pub(crate) fn open(config: &Config, entropy: &dyn Entropy) -> Result<Self, CliError> {
        let mut tasks = Vec::new();
        let file = &config.envoy.routes_file;
        let routes = if file.as_os_str().is_empty() {
            Arc::new(routes::Live::empty())
        } else {
            let opened = routes::Live::open(file, config.envoy.withheld());
            let (live, follower) = opened.map_err(CliError::usage)?;
            tasks.push(followed(&live, follower, config.envoy.routes_poll, true)?);
            live
        };
        let mut source = source(&config.seal);
        let told = source.file.is_some() || source.dir.is_some();
        if let (true, Place::Directory(folder)) = (source.is_empty(), Place::of(config)) {
            source.file = Some(own_file(&folder, entropy)?);
        }
        let seals = if source.is_empty() {
            tracing::info!("no seal keys are set: nobody can log in or exchange tokens here");
            Arc::new(seal::Live::empty())
        } else {
            let (live, follower) = seal::Live::open(source).map_err(CliError::usage)?;
            tasks.push(followed(&live, follower, config.seal.poll, told)?);
            live
        };
        let tls = match tls_files(config) {
            None => None,
            Some(files) => {
                let (live, follower) = tls::Live::open(files).map_err(CliError::usage)?;
                tasks.push(followed(&live, follower, config.tls.poll, true)?);
                Some(live)
            }
        };
        let files = Files { routes, seals, tls };
        Ok(Self { files, tasks })
    }

    /// Writes to the log which seal keys are missing here: now, and again when they are others.
    pub(crate) fn tell_missing(&mut self, authority: Authority, poll: Duration) {
        let mut told = Vec::new();
        tell_missing(&authority, &mut told);
        self.tasks.push(tokio::spawn(async move {
            loop {
                sleep(poll).await;
                tell_missing(&authority, &mut told);
            }
        }));
    }

    /// A port, and what is spoken there.
    pub(crate) fn listening(
        &self,
        config: &Config,
        port: Port,
        listener: TcpListener,
    ) -> Listening {
        let door = self.door(config, port);
        Listening { listener, door }
    }

    fn door(&self, config: &Config, port: Port) -> Door {
        let is_secured = port == Port::Api || config.admin_is_secured();
        let Some(live) = self.files.tls.as_ref().filter(|_| is_secured) else {
            return Door::plain();
        };
        // The configuration refuses lists that cannot be read.
        let access = config.access.access().unwrap_or_default();
        Door::secured(Arc::clone(live), port, access)
    }

    /// Ends who follows.
    pub(crate) async fn close(self) {
        for task in self.tasks {
            task.abort();
            let _ = task.await;
        }
    }
}

/// The files of TLS, where it is spoken.
fn tls_files(config: &Config) -> Option<tls::Files> {
    let settings = &config.tls;
    let named = |path: &Path| (!path.as_os_str().is_empty()).then(|| path.to_owned());
    settings.is_set().then(|| tls::Files {
        cert: settings.cert_file.clone(),
        key: settings.key_file.clone(),
        client_ca: named(&settings.client_ca_file),
        replica_ca: named(&config.replica.ca_file),
        replica_name: Some(config.replica.tls_name.clone()).filter(|name| !name.is_empty()),
        api_auth: client_auth(settings.client_auth()),
        admin_auth: client_auth(config.admin.client_auth),
        version: match settings.min_version {
            TlsVersion::Tls12 => tls::Version::Tls12,
            TlsVersion::Tls13 => tls::Version::Tls13,
        },
    })
}

fn client_auth(set: ClientAuth) -> tls::ClientAuth {
    match set {
        ClientAuth::Auto | ClientAuth::None => tls::ClientAuth::None,
        ClientAuth::Request => tls::ClientAuth::Request,
        ClientAuth::Require => tls::ClientAuth::Require,
    }
}

fn source(settings: &Seal) -> KeySource {
    let path = |path: &Path| (!path.as_os_str().is_empty()).then(|| path.to_owned());
    KeySource {
        text: Zeroizing::new(settings.keys.reveal().to_owned()),
        file: path(&settings.keys_file),
        dir: path(&settings.keys_dir),
    }
}

/// The file in the data directory, made with one key if it is not there.
fn own_file(folder: &Path, entropy: &dyn Entropy) -> Result<PathBuf, CliError> {
    let file = folder.join(KEYS_FILE);
    let made = seal::ensure(&file, || SealKey::generate(entropy)).map_err(CliError::unavailable)?;
    if made {
        tracing::info!(file = %file.display(), "made a seal key");
    }
    Ok(file)
}

fn tell_missing(authority: &Authority, told: &mut Vec<SealKeyRecord>) {
    let missing = authority.missing_keys();
    if missing == *told {
        return;
    }
    let keys = missing
        .iter()
        .map(|key| format!("{} ({})", key.id, key.phase.name()));
    let keys: Vec<String> = keys.collect();
    if keys.is_empty() {
        tracing::info!("all seal keys that the log knows are loaded");
    } else {
        tracing::warn!(
            keys = keys.join(", "),
            "seal keys that the log knows are not loaded here: what they have sealed is answered \
             as stale, and nobody can log in while one of them is minting. Bring them \
             (`seal.keys`, `seal.keys_file` or `seal.keys_dir`; `seal.keys` of the data directory \
             where nothing is set), or, if they are lost, have another one seal by `latchkey \
             seal-key rotate` and end them by `latchkey seal-key revoke ID` (30 days later \
             `retire ID` will do)"
        );
    }
    *told = missing;
}

fn followed<S: Source>(
    live: &Arc<Live<S::Value>>,
    follower: Follower<S>,
    poll: Duration,
    at_hangup: bool,
) -> Result<JoinHandle<()>, CliError> {
    if !at_hangup {
        return Ok(tokio::spawn(follower.run(poll)));
    }
    let mut hangup = signal(SignalKind::hangup()).map_err(cannot_wait)?;
    let told = Arc::clone(live);
    Ok(tokio::spawn(async move {
        let told = async {
            while hangup.recv().await.is_some() {
                told.look_now();
            }
        };
        tokio::join!(follower.run(poll), told);
    }))
}
