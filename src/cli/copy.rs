//! `latchkey copy`: takes an embedded store to an empty database, log, tables and all.
//!
//! ```text
//!  Source ─► chunks ─► Target     verified there ─► mark "moving" ─► COMMIT ─► mark "moved"
//! ```
//!
//! One transaction there and one mark here, so that wherever it is cut, nobody serves two
//! authorities of one history: before the mark the source is as it was, between mark and commit
//! both refuse, and a second run finds out. The only place that knows both stores.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::config::DatabaseUrl;
use crate::store::StoreError;
use crate::store::embedded::Source;
use crate::store::postgres::{Found, Target};
use crate::store::transfer::Last;

use super::failure::CliError;
use super::followed::KEYS_FILE;
use super::output::Output;
use super::output::meter::Meter;
use super::run::{blocking, open_failed};
use super::server::{ConfigArgs, absolute, start_logs};
use super::store::{database, database_failed};

/// Chunks that may wait for the database.
const CHUNKS_QUEUED: usize = 8;

/// What to copy where.
#[derive(Args, Debug)]
pub(crate) struct CopyArgs {
    /// Data directory of the embedded store; no server may be using it.
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// The database, empty and migrated; without it, that of the settings: the environment
    /// variable LATCHKEY_DATABASE_URL keeps a password out of the list of processes.
    #[arg(long, value_name = "DATABASE_URL")]
    to: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
}

/// What was copied, from where to where.
#[derive(Serialize)]
struct CopyView {
    from: PathBuf,
    to: String,
    revision: String,
    /// Whether an earlier copy had brought it there already.
    already: bool,
}

/// Copies a store, and marks it as moved.
///
/// # Errors
/// Refused when the database is not empty or the store was moved elsewhere, unavailable when
/// either cannot be used; then the store is as it was, unless the error says otherwise.
pub(crate) async fn copy(args: CopyArgs, output: Output) -> Result<(), CliError> {
    let mut config = args.config.load(false)?;
    if let Some(to) = &args.to {
        config.database.url = DatabaseUrl::from(to.as_str());
    }
    let settings = database(&config)?;
    start_logs(&config, output)?;
    let meter = Meter::start("verifying the store");
    let from = absolute(&args.from);
    let folder = from.clone();
    let opening = move || Source::open(&folder).map_err(open_failed);
    let mut source = blocking(opening).await?;
    let last = source.last();
    if last.head.revision == 0 {
        return Err(CliError::refused(
            "the store is empty: there is nothing to copy",
        ));
    }
    let target = Target::open(&settings).await.map_err(database_failed)?;
    let to = target.name().to_owned();
    let found = target.find(&last.head).await;
    let already = match found.map_err(CliError::unavailable)? {
        Found::Nothing => false,
        Found::All => true,
        Found::Another(revision) => {
            let what = format!(
                "database {to} is not empty: it has a history of its own, up to revision {revision}"
            );
            return Err(CliError::refused(what).because("ALREADY_EXISTS"));
        }
    };
    if !already {
        source.marked(&to).map_err(open_failed)?;
        source = carry(source, &target, &last, &meter).await?;
    }
    let moved = finish(&source, target, &from, &to).await;
    meter.end();
    moved?;
    let view = CopyView {
        revision: last.head.revision().to_string(),
        from,
        to,
        already,
    };
    output.show(&view, |page| {
        let CopyView {
            from, to, revision, ..
        } = &view;
        let from = from.display();
        if view.already {
            page.line(format!(
                "{to} already holds {from}, up to revision {revision}."
            ));
        } else {
            page.line(format!("Copied {from} to {to}, up to revision {revision}."));
        }
        page.line(format!(
            "{from} is marked as moved, and is not served any more."
        ));
        page.line("To serve the database: LATCHKEY_DATABASE_URL=… latchkey serve");
        let keys = view.from.join(KEYS_FILE);
        if keys.exists() {
            page.line(format!(
                "Access tokens that are there go on with its keys: LATCHKEY_SEAL_KEYS_FILE={}",
                keys.display()
            ));
        }
    })
}

/// Brings everything into the open transaction, and verifies it there.
async fn carry(
    source: Source,
    target: &Target,
    last: &Last,
    meter: &Meter,
) -> Result<Source, CliError> {
    meter.goes_on("copying the store");
    let (chunks, received) = mpsc::channel(CHUNKS_QUEUED);
    let shown = meter.clone();
    let sending = tokio::task::spawn_blocking(move || {
        source.send(&chunks, Some(&|done, of| shown.told(done, of)));
        source
    });
    let taken = target.take(last, received).await;
    // Ends with its receiver; the store must be free before this command is over.
    let sent = sending.await;
    taken.map_err(copy_failed)?;
    let source = sent.map_err(|_| CliError::unavailable("the work was cut short"))?;
    meter.goes_on("verifying the copy");
    let told = |done, of| meter.told(done, of);
    let verified = target.verify(last, Some(&told)).await;
    verified.map_err(copy_failed)?;
    Ok(source)
}

/// Commits between the two marks.
async fn finish(source: &Source, target: Target, from: &Path, to: &str) -> Result<(), CliError> {
    source.moving(to).map_err(open_failed)?;
    match target.commit().await {
        Ok(()) => source.moved(to).map_err(open_failed),
        Err(StoreError::OutcomeUnknown(why)) => {
            let what = format!("whether the copy went through is not known: {why}");
            let then = format!(
                "{} is not served until the same command is run again, which finds out",
                from.display()
            );
            Err(CliError::unavailable(what)
                .because("OUTCOME_UNKNOWN")
                .with_line(then))
        }
        Err(error) => {
            source.stays().map_err(open_failed)?;
            Err(copy_failed(error))
        }
    }
}

fn copy_failed(error: StoreError) -> CliError {
    let damaged = matches!(error, StoreError::Damaged { .. });
    let failed = CliError::unavailable(format!("nothing was copied: {error}"));
    if damaged {
        failed.because("DAMAGED")
    } else {
        failed
    }
}
