//! The store that the settings name: a database where they have a URL, else a data directory.
//!
//! Whoever serves, bootstraps or moves opens it here; which of the two it is, only [`Place`] tells,
//! and only to say so. Deliberately absent: what is done with it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::config::{Config, DatabaseUrl};
use crate::domain::entropy::Entropy;
use crate::store::embedded::{EmbeddedStore, OpenOptions, Verify};
use crate::store::postgres::{self, PostgresStore};
use crate::store::{Store, StoreError};

use super::failure::CliError;
use super::output::meter::Meter;
use super::run::{OpenArgs, blocking, open_failed};
use super::server::absolute;

/// Where the store is.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// An embedded store's directory.
    Directory(PathBuf),
    /// A database; printed without its password.
    Database(DatabaseUrl),
}

impl Place {
    /// That of the settings.
    pub(crate) fn of(config: &Config) -> Self {
        if config.database.url.is_empty() {
            Self::Directory(absolute(&config.store.data_dir))
        } else {
            Self::Database(config.database.url.clone())
        }
    }

    /// What it is, for people.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Directory(_) => "data directory",
            Self::Database(_) => "database",
        }
    }

    pub(crate) fn data_dir(&self) -> Option<String> {
        match self {
            Self::Directory(path) => Some(path.display().to_string()),
            Self::Database(_) => None,
        }
    }

    pub(crate) fn database(&self) -> Option<String> {
        match self {
            Self::Directory(_) => None,
            Self::Database(url) => Some(url.to_string()),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "{}", path.display()),
            Self::Database(url) => write!(f, "{url}"),
        }
    }
}

/// Opens the store.
///
/// # Errors
/// Usage for settings that do not fit it, unavailable when it cannot be opened or must not be
/// served.
pub(crate) async fn open(
    config: &Config,
    open: OpenArgs,
    entropy: &dyn Entropy,
    meter: &Meter,
) -> Result<Arc<dyn Store>, CliError> {
    match Place::of(config) {
        Place::Directory(_) => Ok(open_directory(config, open, meter).await?),
        Place::Database(_) => {
            if open.accept_older_copy || open.accept_moved || open.verify_all {
                return Err(CliError::usage(
                    "--accept-older-copy, --accept-moved and --verify-all are about a data \
                     directory",
                ));
            }
            let settings = database(config)?;
            let store = PostgresStore::open(&settings, entropy).await;
            Ok(Arc::new(store.map_err(database_failed)?))
        }
    }
}

/// Opens the data directory of the settings.
///
/// # Errors
/// As [`open`].
pub(crate) async fn open_directory(
    config: &Config,
    open: OpenArgs,
    meter: &Meter,
) -> Result<Arc<EmbeddedStore>, CliError> {
    let data_dir = config.store.data_dir.clone();
    let shown = meter.clone();
    let opening = move || {
        let told = move |done: u64, of: u64| shown.told(done, of);
        let options = OpenOptions {
            accept_older: open.accept_older_copy,
            accept_moved: open.accept_moved,
            verify: if open.verify_all {
                Verify::All
            } else {
                Verify::SinceCheckpoint
            },
            progress: Some(&told),
            pages_max: None,
        };
        EmbeddedStore::open(&data_dir, options).map_err(open_failed)
    };
    Ok(Arc::new(blocking(opening).await?))
}

/// How to reach the database of the settings.
///
/// # Errors
/// Usage when there is none, or its password cannot be read.
pub(crate) fn database(config: &Config) -> Result<postgres::Settings, CliError> {
    let database = &config.database;
    if database.url.is_empty() {
        return Err(CliError::usage(
            "which database? give --database-url or set LATCHKEY_DATABASE_URL",
        ));
    }
    let password = if database.password_file.as_os_str().is_empty() {
        None
    } else {
        let path = database.password_file.display();
        let text = std::fs::read_to_string(&database.password_file)
            .map_err(|error| CliError::usage(format!("cannot read {path}: {error}")))?;
        let text = Zeroizing::new(text);
        Some(Zeroizing::new(
            text.trim_end_matches(['\r', '\n']).to_owned(),
        ))
    };
    let listen_url = &database.listen_url;
    let ca_file = &database.ca_file;
    let bounded = config.lease.length / 5;
    Ok(postgres::Settings {
        url: database.url.reveal().to_owned(),
        listen_url: (!listen_url.is_empty()).then(|| listen_url.reveal().to_owned()),
        ca_file: (!ca_file.as_os_str().is_empty()).then(|| ca_file.clone()),
        password,
        pool_size: database.pool_size,
        connect_timeout: database.connect_timeout,
        statement_timeout: database.statement_timeout,
        lock_timeout: database.lock_timeout,
        // Below a quarter of the lease, so that a renewal that hangs is tried again in time.
        cluster_timeout: bounded.min(postgres::Settings::default().cluster_timeout),
        probe_every: bounded.min(postgres::Settings::default().probe_every),
    })
}

/// What a database that cannot be used asks for.
pub(crate) fn database_failed(error: postgres::OpenError) -> CliError {
    use postgres::OpenError;
    match error {
        OpenError::Settings(_) => CliError::usage(error),
        OpenError::NotMigrated { .. } => CliError::unavailable(error).because("NOT_MIGRATED"),
        OpenError::SchemaVersion { .. } => CliError::unavailable(error).because("SCHEMA_VERSION"),
        OpenError::Store(StoreError::Damaged { .. }) => {
            CliError::unavailable(error).because("DAMAGED")
        }
        _ => CliError::unavailable(error),
    }
}
