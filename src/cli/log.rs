//! `latchkey log`: export the oldest changes and trim them from the store.
//!
//! Both are for whoever has the store in hand: the data directory, with its server stopped to trim,
//! or the database by the role that owns its tables, beside servers that run. A trim wants an
//! export that verifies, continues what was trimmed before and is of the same history.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::config::Config;
use crate::domain::chain::{Head, RevisionNumber};
use crate::domain::clock::{Clock as _, SystemClock, UnixMs};
use crate::domain::entropy::OsEntropy;
use crate::domain::entry::LogEntry;
use crate::store::embedded::EmbeddedStore;
use crate::store::export::{Export, Exported, verify};
use crate::store::postgres::{self, PostgresStore};
use crate::store::{Store, StoreError, Trim};

use super::failure::CliError;
use super::output::Output;
use super::output::meter::Meter;
use super::parse;
use super::run::{OpenArgs, open_failed};
use super::server::{ConfigArgs, start_logs};
use super::store::{Place, database, database_failed, open_directory};

/// Entries that are read at a time.
const READ_ENTRIES: usize = 1_000;

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum LogCommand {
    /// Write the oldest changes to a new file, with their exact bytes and the chain.
    Export(ExportArgs),
    /// Take the oldest changes out of the store, once an export has them.
    Trim(TrimArgs),
}

/// Which changes.
#[derive(Args, Debug)]
pub(crate) struct OldArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Changes from before this instant, or older than this duration; the default is the setting
    /// changes.retention.
    #[arg(long, value_name = "INSTANT|DURATION", value_parser = parse::before)]
    before: Option<parse::Before>,
}

/// What to export.
#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// The file to write; it must not exist.
    file: PathBuf,
    #[command(flatten)]
    old: OldArgs,
}

/// What to trim.
#[derive(Args, Debug)]
pub(crate) struct TrimArgs {
    #[command(flatten)]
    old: OldArgs,
    /// The export that keeps what is trimmed.
    #[arg(long, value_name = "FILE", required_unless_present = "without_export")]
    export: Option<PathBuf>,
    /// Trim what nobody has kept; it is gone for good.
    #[arg(long, conflicts_with = "export")]
    without_export: bool,
}

#[derive(Serialize)]
struct ExportView {
    file: PathBuf,
    store: String,
    after: String,
    until: String,
    changes: u64,
}

#[derive(Serialize)]
struct TrimView {
    store: String,
    cut: String,
    changes: u64,
}

/// Exports or trims.
///
/// # Errors
/// Usage where nothing says how old, refused for a file that is there or an export that does not
/// fit, unavailable when the store cannot be used.
pub(crate) async fn run(command: LogCommand, output: Output) -> Result<(), CliError> {
    match command {
        LogCommand::Export(args) => export(&args, output).await,
        LogCommand::Trim(args) => trim(&args, output).await,
    }
}

/// The settings, now and the instant before which changes are meant.
fn asked(old: &OldArgs, output: Output) -> Result<(Config, UnixMs, UnixMs), CliError> {
    let config = old.config.load(false)?;
    start_logs(&config, output)?;
    let now_ms = SystemClock::start().now().earliest;
    let age = |age: Duration| now_ms.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(0));
    let before_ms = match (old.before, config.changes.retention) {
        (Some(parse::Before::Instant(instant)), _) => {
            u64::try_from(instant.as_millisecond()).unwrap_or(0)
        }
        (Some(parse::Before::Age(told)), _) => age(told),
        (None, Some(kept)) => age(kept),
        (None, None) => {
            let text = "changes.retention is none: say --before which instant";
            return Err(CliError::usage(text));
        }
    };
    Ok((config, before_ms, now_ms))
}

async fn export(args: &ExportArgs, output: Output) -> Result<(), CliError> {
    let (config, before_ms, _) = asked(&args.old, output)?;
    let meter = Meter::start("exporting the log");
    let written = match Place::of(&config) {
        Place::Directory(path) => {
            let store = EmbeddedStore::open_read_only(&path).map_err(open_failed)?;
            let cut = store.cut().map_err(CliError::unavailable)?;
            let read = async |after| store.changes_after(after, READ_ENTRIES);
            write_export(&args.file, cut, before_ms, read).await
        }
        Place::Database(_) => {
            let store = PostgresStore::open(&database(&config)?, &OsEntropy).await;
            let store = store.map_err(database_failed)?;
            let cut = store.cut().await.map_err(CliError::unavailable)?;
            let read = async |after| store.changes_after(after, READ_ENTRIES).await;
            write_export(&args.file, cut, before_ms, read).await
        }
    };
    meter.end();
    let exported = written?;
    let view = ExportView {
        file: args.file.clone(),
        store: Place::of(&config).to_string(),
        after: exported.after.revision().to_string(),
        until: exported.until.revision().to_string(),
        changes: exported.until.revision - exported.after.revision,
    };
    output.show(&view, |page| {
        page.line(format!(
            "Exported {} changes, after revision {} and up to {}, to {}.",
            view.changes,
            view.after,
            view.until,
            view.file.display()
        ));
    })
}

/// Writes what is old enough; nothing is left of a file that could not be finished.
async fn write_export(
    file: &Path,
    cut: Head,
    before_ms: UnixMs,
    read: impl AsyncFn(RevisionNumber) -> Result<Vec<LogEntry>, StoreError>,
) -> Result<Exported, CliError> {
    let shown = file.display();
    // Bodies hold digests of secrets.
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file);
    let made = made.map_err(|error| CliError::refused(format!("cannot make {shown}: {error}")))?;
    let written = write_entries(made, cut, before_ms, read).await;
    written.map_err(|error| {
        let _ = std::fs::remove_file(file);
        CliError::unavailable(format!("cannot export to {shown}: {error}"))
    })
}

async fn write_entries(
    file: File,
    cut: Head,
    before_ms: UnixMs,
    read: impl AsyncFn(RevisionNumber) -> Result<Vec<LogEntry>, StoreError>,
) -> Result<Exported, Box<dyn std::error::Error>> {
    let mut export = Export::begin(BufWriter::new(file), cut)?;
    loop {
        let mut entries = read(export.until().revision).await?;
        let found = entries.len();
        // Instants never run backwards.
        entries.retain(|logged| logged.entry.instant_ms < before_ms);
        export.add(&entries)?;
        if entries.len() < found || found == 0 {
            break;
        }
    }
    let (exported, out) = export.end()?;
    out.into_inner()?.sync_all()?;
    Ok(exported)
}

async fn trim(args: &TrimArgs, output: Output) -> Result<(), CliError> {
    let (config, before_ms, now_ms) = asked(&args.old, output)?;
    let exported = args.export.as_deref().map(read_export).transpose()?;
    let asked = Trim {
        before_ms,
        upto: exported.map_or(RevisionNumber::MAX, |exported| exported.until.revision),
        now_ms,
    };
    let meter = Meter::start("trimming the log");
    let (former, cut) = match Place::of(&config) {
        Place::Directory(_) => {
            let store = open_directory(&config, OpenArgs::default(), &meter).await?;
            let former = fits(&*store, exported.as_ref()).await?;
            let cut = store.trim(asked).await.map_err(CliError::unavailable)?;
            store.close().await.map_err(CliError::unavailable)?;
            (former, cut)
        }
        Place::Database(_) => {
            let settings = database(&config)?;
            let store = PostgresStore::open(&settings, &OsEntropy).await;
            let store = store.map_err(database_failed)?;
            let former = fits(&store, exported.as_ref()).await?;
            let cut = postgres::trim(&settings, &asked).await;
            (former, cut.map_err(database_failed)?)
        }
    };
    meter.end();
    let view = TrimView {
        store: Place::of(&config).to_string(),
        cut: cut.revision().to_string(),
        changes: cut.revision - former.revision,
    };
    output.show(&view, |page| {
        page.line(match view.changes {
            0 => "Nothing to trim.".to_owned(),
            changes => format!("Trimmed {changes} changes."),
        });
        page.line(format!("The log begins after revision {}.", view.cut));
    })
}

fn read_export(file: &Path) -> Result<Exported, CliError> {
    let shown = file.display();
    let opened = File::open(file);
    let opened =
        opened.map_err(|error| CliError::usage(format!("cannot read {shown}: {error}")))?;
    verify(BufReader::new(opened))
        .map_err(|error| CliError::refused(format!("{shown} is no whole export: {error}")))
}

/// Refuses an export that leaves a gap behind what was trimmed before, or is of another history;
/// returns where the log begins.
async fn fits(store: &dyn Store, exported: Option<&Exported>) -> Result<Head, CliError> {
    let cut = store.cut().await.map_err(CliError::unavailable)?;
    let Some(Exported { after, until }) = exported else {
        return Ok(cut);
    };
    if after.revision > cut.revision {
        let text = format!(
            "the export begins after revision {}, the log after {}: what is between would be lost",
            after.revision, cut.revision
        );
        return Err(CliError::refused(text));
    }
    let found = match until.revision.checked_sub(1) {
        None => Some(Head::EMPTY),
        Some(before) => match store.changes_after(before, 1).await {
            Ok(entries) => entries.first().map(|entry| entry.head),
            Err(StoreError::Trimmed { cut, .. }) => Some(cut),
            Err(error) => return Err(CliError::unavailable(error)),
        },
    };
    if found != Some(*until) {
        let text = format!(
            "the export ends with revision {}, which is not what the log has there",
            until.revision()
        );
        return Err(CliError::refused(text));
    }
    Ok(cut)
}
