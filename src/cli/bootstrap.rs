//! `latchkey bootstrap`, `backup` and `restore`: what needs the data directory and no caller.
//!
//! Local access to the store is the permission here, and the log says so. A backup is taken beside
//! a running server; `bootstrap` and `restore` need it stopped, which the store's lock enforces.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::domain::chain::Head;
use crate::store::embedded::{EmbeddedStore, OpenError, restore as restore_file};

use super::failure::CliError;
use super::output::{Output, progress};
use super::run::{OpenArgs, assemble, blocking, open_failed};
use super::server::{ConfigArgs, absolute, start_logs};

/// How to make an administrator.
#[derive(Args, Debug)]
pub(crate) struct BootstrapArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    open: OpenArgs,
    /// Make another token, and another administrator if the first is gone; logged as such.
    #[arg(long)]
    recover: bool,
}

/// Where to copy to.
#[derive(Args, Debug)]
pub(crate) struct BackupArgs {
    /// The file to write; it must not exist.
    file: PathBuf,
    #[command(flatten)]
    config: ConfigArgs,
}

/// What to put back.
#[derive(Args, Debug)]
pub(crate) struct RestoreArgs {
    /// The backup.
    file: PathBuf,
    #[command(flatten)]
    config: ConfigArgs,
    /// Accept a backup that is older than what the directory has seen; what was revoked since is
    /// not revoked in it.
    #[arg(long)]
    accept_older_copy: bool,
}

#[derive(Serialize)]
struct Administrator {
    data_dir: PathBuf,
    admin_token: String,
}

/// Makes the first administrator, or with `--recover` another.
///
/// # Errors
/// Refused when there is one already, unavailable when the store cannot be used.
pub(crate) async fn bootstrap(args: BootstrapArgs, output: Output) -> Result<(), CliError> {
    let config = args.config.load(false)?;
    start_logs(&config, output)?;
    let (authority, writer) = assemble(&config, args.open).await?;
    let made = authority.bootstrap(args.recover).await;
    drop(authority);
    writer.stop().await;
    let secret = made
        .map_err(|refusal| CliError::unavailable(format!("no administrator was made: {refusal}")))?
        .ok_or_else(|| {
            CliError::refused("there is an administrator already; --recover makes another token")
                .because("ALREADY_EXISTS")
        })?;
    let view = Administrator {
        data_dir: absolute(&config.store.data_dir),
        admin_token: secret.reveal().to_owned(),
    };
    output.show(&view, |page| {
        page.fields(&[
            ("data directory", view.data_dir.display().to_string()),
            ("admin token", view.admin_token.clone()),
        ]);
        page.line("The token is shown this once; only its digest is kept.");
    })
}

#[derive(Serialize)]
struct Copied {
    file: PathBuf,
    data_dir: PathBuf,
    revision: String,
}

/// Writes a consistent copy of the store to a file, also while a server runs.
///
/// # Errors
/// Refused when the file exists, unavailable when the store cannot be read.
pub(crate) async fn backup(args: BackupArgs, output: Output) -> Result<(), CliError> {
    let data_dir = absolute(&args.config.load(false)?.store.data_dir);
    let (folder, file) = (data_dir.clone(), args.file.clone());
    let work = move || {
        let store = EmbeddedStore::open_read_only(&folder).map_err(open_failed)?;
        with_progress("copying", |told| store.backup_to(&file, Some(told)))
    };
    let head = blocking(work).await?;
    show("copied", args.file, data_dir, &head, output)
}

/// Puts a backup into a data directory that has no database.
///
/// # Errors
/// Refused when there is one, or the backup is older than what the directory has seen.
pub(crate) async fn restore(args: RestoreArgs, output: Output) -> Result<(), CliError> {
    let data_dir = absolute(&args.config.load(false)?.store.data_dir);
    let (folder, file) = (data_dir.clone(), args.file.clone());
    let accept = args.accept_older_copy;
    let work = move || {
        with_progress("verifying", |told| {
            restore_file(&file, &folder, accept, Some(told))
        })
    };
    let head = blocking(work).await?;
    show("restored", args.file, data_dir, &head, output)
}

fn with_progress(
    what: &'static str,
    work: impl FnOnce(&(dyn Fn(u64, u64) + Send + Sync)) -> Result<Head, OpenError>,
) -> Result<Head, CliError> {
    let bar = progress(what);
    let shown = bar.clone();
    let told = move |done: u64, of: u64| {
        shown.set_length(of);
        shown.set_position(done);
    };
    let done = work(&told);
    bar.finish_and_clear();
    done.map_err(open_failed)
}

fn show(
    what: &str,
    file: PathBuf,
    data_dir: PathBuf,
    head: &Head,
    output: Output,
) -> Result<(), CliError> {
    let view = Copied {
        file,
        data_dir,
        revision: head.revision().to_string(),
    };
    let shown = |path: &Path| path.display().to_string();
    output.show(&view, |page| {
        let (file, data_dir) = (shown(&view.file), shown(&view.data_dir));
        let revision = &view.revision;
        page.line(format!(
            "{what}: {file}, {data_dir}, at revision {revision}"
        ));
    })
}
