//! `latchkey bootstrap`, `backup` and `restore`: what needs the store and no caller.
//!
//! Local access to the store is the permission here, and the log says so. A backup of a data
//! directory is taken beside a running server; `bootstrap` and `restore` there need it stopped,
//! which the store's lock enforces. On a database `bootstrap` is one more replica for a moment,
//! and copies are the database's business.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use indicatif::HumanBytes;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::domain::entropy::OsEntropy;
use crate::domain::token::{Secret, TokenKind};
use crate::state::{Diverged, RowsDigest};
use crate::store::embedded::{Copied, EmbeddedStore, restore as restore_file};
use crate::store::{Snapshot, StoreError};

use super::connect::read_token;
use super::failure::CliError;
use super::followed::KEYS_FILE;
use super::output::meter::Meter;
use super::output::{Output, write};
use super::run::{OpenArgs, assemble, blocking, open_failed};
use super::server::{ConfigArgs, absolute, start_logs};
use super::store::Place;

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
    /// Take the token from a file, as --new-secret writes one, and show none; `-` reads standard
    /// input. A store that had its first administrator before is left as it is, which is no error,
    /// and the file may then be gone.
    #[arg(long, value_name = "FILE", conflicts_with = "recover")]
    secret_file: Option<PathBuf>,
    /// Print a new secret for --secret-file and end; no store is opened.
    #[arg(long, conflicts_with_all = ["recover", "secret_file"])]
    new_secret: bool,
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
    data_dir: Option<String>,
    database: Option<String>,
    admin_token: String,
}

#[derive(Serialize)]
struct BroughtView {
    data_dir: Option<String>,
    database: Option<String>,
    /// Whether the token was taken; if not, there was an administrator before.
    made: bool,
}

/// Makes the first administrator, or with `--recover` another.
///
/// # Errors
/// Refused when there is one already and no token was brought, usage for a token that cannot be
/// used, unavailable when the store cannot be used.
pub(crate) async fn bootstrap(args: BootstrapArgs, output: Output) -> Result<(), CliError> {
    if args.new_secret {
        let secret = Secret::generate(TokenKind::User, &OsEntropy);
        return write(&format!("{}\n", secret.reveal()));
    }
    let file = args.secret_file.as_deref();
    let brought = file.map(brought).transpose()?;
    let config = args.config.load(false)?;
    start_logs(&config, output)?;
    if let Some(secret) = brought {
        return bootstrap_with(&config, args.open, secret, output).await;
    }
    let never = CancellationToken::new();
    let (authority, writer) = assemble(&config, args.open, Arc::default(), &never).await?;
    let made = authority.bootstrap(args.recover).await;
    drop(authority);
    writer.stop().await;
    let secret = made
        .map_err(|refusal| CliError::unavailable(format!("no administrator was made: {refusal}")))?
        .ok_or_else(|| {
            CliError::refused(
                "this store had its first administrator before; --recover makes another token",
            )
            .because("ALREADY_EXISTS")
        })?;
    let place = Place::of(&config);
    let view = Administrator {
        data_dir: place.data_dir(),
        database: place.database(),
        admin_token: secret.reveal().to_owned(),
    };
    output.show(&view, |page| {
        page.fields(&[
            (place.kind(), place.to_string()),
            ("admin token", view.admin_token.clone()),
        ]);
        page.line("The token is shown this once; only its digest is kept.");
    })
}

/// The token of a file, which must be a user's; or which file is not there.
fn brought(file: &Path) -> Result<Result<Secret, &Path>, CliError> {
    if file != Path::new("-") && matches!(file.try_exists(), Ok(false)) {
        return Ok(Err(file));
    }
    let secret = Secret::parse(&read_token(file)?).filter(|it| it.kind() == TokenKind::User);
    secret.map(Ok).ok_or_else(|| {
        CliError::usage(format!(
            "{}: holds no user's token; `latchkey bootstrap --new-secret` makes one",
            file.display()
        ))
    })
}

async fn bootstrap_with(
    config: &Config,
    open: OpenArgs,
    brought: Result<Secret, &Path>,
    output: Output,
) -> Result<(), CliError> {
    let never = CancellationToken::new();
    let (authority, writer) = assemble(config, open, Arc::default(), &never).await?;
    let refused = |refusal| CliError::unavailable(format!("no administrator was made: {refusal}"));
    let made = match brought {
        Ok(secret) => authority.bootstrap_with(&secret).await.map_err(refused),
        // Whoever has the token need not leave it lying about.
        Err(_) if authority.has_had_administrator() => Ok(false),
        Err(file) => Err(CliError::usage(format!(
            "{} is not there, and this store has had no administrator yet",
            file.display()
        ))),
    };
    drop(authority);
    writer.stop().await;
    let made = made?;
    let place = Place::of(config);
    let view = BroughtView {
        data_dir: place.data_dir(),
        database: place.database(),
        made,
    };
    output.show(&view, |page| {
        page.line(match made {
            true => "The first administrator has the token that was brought.",
            false => "This store had its first administrator before, and stays as it is.",
        });
    })
}

/// The data directory of the settings; copies of a database are made with its own tools.
fn directory(config: &ConfigArgs) -> Result<PathBuf, CliError> {
    match Place::of(&config.load(false)?) {
        Place::Directory(data_dir) => Ok(data_dir),
        Place::Database(_) => Err(CliError::usage(
            "the settings name a database: copy it with its own tools, such as pg_dump",
        )),
    }
}

/// What was copied, from where to where.
#[derive(Serialize)]
struct CopiedView {
    file: PathBuf,
    data_dir: PathBuf,
    revision: String,
    tokens: u64,
    bytes: u64,
}

/// Writes a consistent copy of the store to a file, also while a server runs.
///
/// # Errors
/// Refused when the file exists, unavailable when the store cannot be read.
pub(crate) async fn backup(args: BackupArgs, output: Output) -> Result<(), CliError> {
    let data_dir = directory(&args.config)?;
    let (folder, file) = (data_dir.clone(), args.file.clone());
    let work = move || {
        let store = EmbeddedStore::open_read_only(&folder).map_err(open_failed)?;
        let meter = Meter::start("copying the store");
        let copied = store.backup_to(&file, Some(&|done, of| meter.told(done, of)));
        meter.end();
        copied.map_err(open_failed)
    };
    let copied = blocking(work).await?;
    let view = CopiedView::new(&args.file, data_dir, &copied);
    output.show(&view, |page| {
        page.line(format!("Copied {} to {}.", view.content(), view.file()));
        page.line(format!("The store is {}.", view.data_dir.display()));
        page.line("To use the copy, `latchkey restore` it into an empty data directory.");
    })
}

/// Puts a backup into a data directory that has no database.
///
/// # Errors
/// Refused when there is one, the backup is older than what the directory has seen, or damaged;
/// the directory is then as it was.
pub(crate) async fn restore(args: RestoreArgs, output: Output) -> Result<(), CliError> {
    let data_dir = directory(&args.config)?;
    let (folder, file) = (data_dir.clone(), args.file.clone());
    let accept = args.accept_older_copy;
    let work = move || {
        let meter = Meter::start("verifying the backup");
        let told = |done, of| meter.told(done, of);
        let agrees = |tables| {
            meter.goes_on("comparing the tables");
            tables_agree(tables)
        };
        let restored = restore_file(&file, &folder, accept, Some(&told), agrees);
        meter.end();
        restored.map_err(open_failed)
    };
    let copied = blocking(work).await?;
    let view = CopiedView::new(&args.file, data_dir, &copied);
    output.show(&view, |page| {
        let data_dir = view.data_dir.display();
        page.line(format!("Restored {} from {}.", view.content(), view.file()));
        page.line(format!(
            "The store is {data_dir}; its log and its tables are whole."
        ));
        page.line(format!("To serve it: latchkey serve --data-dir {data_dir}"));
        if !view.data_dir.join(KEYS_FILE).exists() {
            page.line(format!(
                "Access tokens that are there are refused without the file {KEYS_FILE} of the \
                 directory that was backed up."
            ));
        }
    })
}

/// Holds the tables against the digest that the log's head carries, as a start does.
fn tables_agree(mut snapshot: Snapshot) -> Result<(), StoreError> {
    let mut digest = RowsDigest::default();
    while let Some(rows) = snapshot.rows.blocking_recv() {
        rows?.iter().for_each(|row| digest.add(row));
    }
    let revision = snapshot.head.revision;
    match snapshot.state_digest {
        Some(vouched) if vouched != digest.finish() => Err(StoreError::Damaged {
            revision,
            what: format!(
                "the tables do not agree with the log: {}",
                Diverged::Digest(revision)
            ),
        }),
        _ => Ok(()),
    }
}

impl CopiedView {
    fn new(file: &Path, data_dir: PathBuf, copied: &Copied) -> Self {
        Self {
            file: absolute(file),
            data_dir,
            revision: copied.head.revision().to_string(),
            tokens: copied.tokens,
            bytes: copied.bytes,
        }
    }

    fn content(&self) -> String {
        let tokens = match self.tokens {
            1 => "1 token".to_owned(),
            tokens => format!("{tokens} tokens"),
        };
        format!("revision {} with {tokens}", self.revision)
    }

    fn file(&self) -> String {
        format!("{} ({})", self.file.display(), HumanBytes(self.bytes))
    }
}
