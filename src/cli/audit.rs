//! `latchkey audit`: read the change log, watch it, and verify its chain.
//!
//! `verify` exits 0 when the chain is intact and 1 when it is not. With `--data-dir`,
//! `--database-url` or `--offline` it needs no server: the store is read as it lies there, and its
//! tables are held against the log, too.

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::proto::v1;
use crate::proto::v1::verify_chain_response::Event as Verification;
use crate::proto::v1::watch_changes_response::Event as Watched;
use crate::store::embedded::EmbeddedStore;
use crate::store::postgres::{OpenError, verify as verify_database};

use super::connect::CallerArgs;
use super::failure::{CliError, Exit};
use super::output::change::{ChangeView, Verified};
use super::output::meter::Meter;
use super::output::{Output, clean, instant, json, notice, revision, write};
use super::parse;
use super::run::{blocking, open_failed};
use super::server::ConfigArgs;
use super::store::{Place, database, database_failed};

const PAGE_SIZE_MAX: u32 = 1_000;

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// List changes.
    List(ListArgs),
    /// Print changes as they come, until interrupted.
    Watch(WatchArgs),
    /// Verify the hash chain of the log; exits 0 when it is intact and 1 when not.
    Verify(VerifyArgs),
}

/// Which changes; all that are given must fit.
#[derive(Args, Debug)]
pub(crate) struct FilterArgs {
    /// Only changes after this revision.
    #[arg(long, value_name = "REVISION", value_parser = parse::revision)]
    after: Option<v1::Revision>,
    /// Changes of this kind, for example token.revoke; may be repeated.
    #[arg(long = "kind", value_name = "KIND")]
    kinds: Vec<String>,
    /// Changes that this actor made.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    actor: String,
    /// Changes of this target.
    #[arg(
        long,
        value_name = "TARGET",
        default_value = "",
        hide_default_value = true
    )]
    target: String,
}

impl FilterArgs {
    fn split(self) -> (Option<v1::Revision>, Option<v1::ChangeFilter>) {
        let filter = v1::ChangeFilter {
            kinds: self.kinds,
            actor: self.actor,
            target: self.target,
        };
        (self.after, Some(filter))
    }
}

/// What to list.
#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// The oldest first instead of the newest first.
    #[arg(long)]
    oldest_first: bool,
    /// The most to list.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    #[command(flatten)]
    caller: CallerArgs,
}

/// What to watch.
#[derive(Args, Debug)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// Print also how far the log was read while nothing fits.
    #[arg(long)]
    checkpoints: bool,
    #[command(flatten)]
    caller: CallerArgs,
}

/// What to verify.
#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    /// Start after this revision, whose chain is taken as given.
    #[arg(long, value_name = "REVISION", value_parser = parse::revision)]
    after: Option<v1::Revision>,
    /// The last revision to verify; 0 is the newest.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    until: u64,
    /// Verify the store of the settings, without a server; so do --data-dir and --database-url.
    #[arg(long, conflicts_with_all = ["after", "until"])]
    offline: bool,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    caller: CallerArgs,
}

/// Runs one verb.
///
/// # Errors
/// What the server refuses, what cannot be reached, and exit 1 for a broken chain.
pub(crate) async fn run(command: AuditCommand, output: Output) -> Result<(), CliError> {
    match command {
        AuditCommand::List(args) => list(args, output).await,
        AuditCommand::Watch(args) => watch(args, output).await,
        AuditCommand::Verify(args) => verify(args, output).await,
    }
}

#[derive(Serialize)]
struct ChangeList {
    changes: Vec<ChangeView>,
    /// Whether there are more than `--limit`.
    more: bool,
    head: String,
}

async fn list(args: ListArgs, output: Output) -> Result<(), CliError> {
    let mut audit = args.caller.session().await?.audit();
    let limit = args.limit as usize;
    let (after, filter) = args.filter.split();
    let mut request = v1::ListChangesRequest {
        after,
        filter,
        newest_first: !args.oldest_first,
        page_size: args.limit.clamp(1, PAGE_SIZE_MAX),
        page_token: String::new(),
    };
    let mut changes = Vec::new();
    let list = loop {
        let answer = audit.list_changes(request.clone()).await?.into_inner();
        changes.extend(answer.changes.into_iter().map(ChangeView::from));
        let end = answer.next_page_token.is_empty();
        if end || changes.len() >= limit {
            let more = !end || changes.len() > limit;
            changes.truncate(limit);
            let head = revision(answer.head.as_ref());
            break ChangeList {
                changes,
                more,
                head,
            };
        }
        request.page_token = answer.next_page_token;
    };
    output.show(&list, |page| {
        page.table(
            &ChangeView::HEADER,
            list.changes.iter().map(ChangeView::row),
        );
    })?;
    if list.more {
        notice("there are more; raise --limit to see them");
    }
    Ok(())
}

#[derive(Serialize)]
struct CheckpointView {
    checkpoint: String,
    instant: Option<String>,
}

async fn watch(args: WatchArgs, output: Output) -> Result<(), CliError> {
    let mut audit = args.caller.session().await?.audit_streams();
    let (after, filter) = args.filter.split();
    let request = v1::WatchChangesRequest { after, filter };
    let mut stream = audit.watch_changes(request).await?.into_inner();
    loop {
        // Ctrl-C is how a watch ends, so it is no failure.
        let message = tokio::select! {
            message = stream.message() => message?,
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        let Some(message) = message else {
            return Err(CliError::unavailable("the server ended the stream"));
        };
        match message.event {
            Some(Watched::Change(change)) => {
                let change = ChangeView::from(change);
                if output.is_json() {
                    json(&change)?;
                } else {
                    line(&change.row())?;
                }
            }
            Some(Watched::Checkpoint(checkpoint)) if args.checkpoints => {
                let view = CheckpointView {
                    checkpoint: revision(checkpoint.revision.as_ref()),
                    instant: instant(checkpoint.instant.as_ref()),
                };
                if output.is_json() {
                    json(&view)?;
                } else {
                    let instant = view.instant.unwrap_or_default();
                    line(&[view.checkpoint, instant, "checkpoint".to_owned()])?;
                }
            }
            _ => {}
        }
    }
}

/// One line of a list without end: no column can be measured.
fn line(cells: &[String]) -> Result<(), CliError> {
    write(&format!("{}\n", clean(&cells.join("  "))))
}

async fn verify(args: VerifyArgs, output: Output) -> Result<(), CliError> {
    let named = args.config.names_directory() || args.config.names_database();
    let verified = if args.offline || named {
        if args.after.is_some() || args.until != 0 {
            return Err(CliError::usage(
                "a store is verified whole: no --after, no --until",
            ));
        }
        verify_offline(&args.config).await?
    } else {
        verify_by_server(args).await?
    };
    output.show(&verified, |page| verified.page(page))?;
    if verified.intact {
        Ok(())
    } else {
        Err(CliError::told(Exit::Refused))
    }
}

/// Verifies log and tables as they lie there, also beside servers; damage is an answer.
async fn verify_offline(args: &ConfigArgs) -> Result<Verified, CliError> {
    let config = args.load(false)?;
    let meter = Meter::start("verifying the log");
    let shown = meter.clone();
    let verified = match Place::of(&config) {
        // A directory that is named stands before a database that the environment names.
        Place::Database(_) if args.names_database() || !args.names_directory() => {
            let told = move |done, of| shown.told(done, of);
            match verify_database(&database(&config)?, Some(&told)).await {
                Ok(last) => Ok((last.cut, last.head)),
                Err(OpenError::Store(error)) => Err(error),
                Err(error) => return Err(database_failed(error)),
            }
        }
        _ => {
            let data_dir = config.store.data_dir.clone();
            let work = move || {
                let mut store = EmbeddedStore::open_read_only(&data_dir).map_err(open_failed)?;
                let told = move |done, of| shown.told(done, of);
                let cut = store.cut().map_err(CliError::unavailable)?;
                let head = store.verify_all(Some(&told));
                let proved = head.and_then(|head| store.verify_tables().map(|()| head));
                Ok(proved.map(|head| (cut, head)))
            };
            blocking(work).await?
        }
    };
    meter.end();
    Verified::of_store(verified).map_err(CliError::unavailable)
}

async fn verify_by_server(args: VerifyArgs) -> Result<Verified, CliError> {
    let mut audit = args.caller.session().await?.audit_streams();
    let request = v1::VerifyChainRequest {
        after: args.after,
        until: args.until,
    };
    let mut stream = audit.verify_chain(request).await?.into_inner();
    let meter = Meter::start("verifying the log");
    while let Some(message) = stream.message().await? {
        match message.event {
            Some(Verification::Progress(at)) => {
                meter.told(at.verified, at.until);
            }
            Some(Verification::Result(result)) => {
                meter.end();
                return Ok(Verified::from(result));
            }
            None => {}
        }
    }
    Err(CliError::unavailable("the server ended without a result"))
}
