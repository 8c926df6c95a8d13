//! `latchkey seal-key`: the keys that access tokens are sealed with.
//!
//! A key is made into a file here and brought to every server by whoever runs them; the servers
//! read their files again by themselves. Keys are never sent: the other verbs name them by id.
//!
//! ```text
//! generate ─► on every server ─► rotate: it seals ─► rotate to the next ─► 30 days later: retire
//! ```

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::domain::entropy::OsEntropy;
use crate::domain::seal::key::{KeyId, SealKey};
use crate::proto::v1;
use crate::seal::{KEYS_MAX, KeySource, Live, SourceError, add};

use super::connect::CallerArgs;
use super::failure::CliError;
use super::output::made::Made;
use super::output::{Output, instant, json, write};
use super::server::absolute;
use super::token::RequestId;

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum SealKeyCommand {
    /// Make a seal key and add it to a file.
    Generate(GenerateArgs),
    /// List the keys, how far each is and which servers have loaded it.
    List(ListArgs),
    /// Seal new tokens by another key, which every server must have loaded.
    Rotate(RotateArgs),
    /// Let go of a key that sealed its last token 30 days ago or longer.
    Retire(EndArgs),
    /// Refuse all that a key has sealed, at once and for good.
    Revoke(EndArgs),
}

/// Where to put it.
#[derive(Args, Debug)]
pub(crate) struct GenerateArgs {
    /// The file that it is added to, which is made if it is not there; `-` prints it.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Who asks.
#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    caller: CallerArgs,
}

/// Which key is next.
#[derive(Args, Debug)]
pub(crate) struct RotateArgs {
    /// Id of the key; left out, the only new one that every server has loaded.
    #[arg(value_name = "KEY_ID")]
    key_id: Option<KeyId>,
    /// Why; kept in the audit trail.
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    request: RequestId,
    #[command(flatten)]
    caller: CallerArgs,
}

/// Which key is over.
#[derive(Args, Debug)]
pub(crate) struct EndArgs {
    /// Id of the key.
    #[arg(value_name = "KEY_ID")]
    key_id: KeyId,
    /// Why; kept in the audit trail.
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    request: RequestId,
    #[command(flatten)]
    caller: CallerArgs,
}

#[derive(Serialize)]
struct AddedView {
    key_id: String,
    keys_file: PathBuf,
    /// Keys that are in the file now.
    keys: usize,
}

#[derive(Serialize)]
struct PrintedView<'a> {
    key_id: String,
    key: &'a str,
}

/// A key as the servers know it.
#[derive(Serialize)]
struct KeyView {
    key_id: String,
    phase: &'static str,
    since: Option<String>,
    loaded_by: Vec<String>,
    missing_on: Vec<String>,
}

impl From<v1::SealKey> for KeyView {
    fn from(key: v1::SealKey) -> Self {
        let phase = match key.phase() {
            v1::KeyPhase::Unspecified => "new",
            v1::KeyPhase::Minting => "minting",
            v1::KeyPhase::Verifying => "verifying",
            v1::KeyPhase::Retired => "retired",
            v1::KeyPhase::Revoked => "revoked",
        };
        Self {
            phase,
            since: instant(key.since.as_ref()),
            key_id: key.key_id,
            loaded_by: key.loaded_by,
            missing_on: key.missing_on,
        }
    }
}

impl KeyView {
    const HEADER: [&'static str; 5] = ["KEY ID", "PHASE", "SINCE", "LOADED BY", "MISSING ON"];

    fn row(&self) -> Vec<String> {
        vec![
            self.key_id.clone(),
            self.phase.to_owned(),
            self.since.clone().unwrap_or_default(),
            self.loaded_by.join(", "),
            self.missing_on.join(", "),
        ]
    }
}

#[derive(Serialize)]
struct KeyList {
    keys: Vec<KeyView>,
}

/// What was done to a key.
#[derive(Serialize)]
struct DoneView {
    key_id: String,
    #[serde(flatten)]
    made: Made,
}

/// Runs one verb.
///
/// # Errors
/// Usage for a file that cannot be used, refused for one that is full; what the server refuses.
pub(crate) async fn run(command: SealKeyCommand, output: Output) -> Result<(), CliError> {
    match command {
        SealKeyCommand::Generate(args) => generate(args, output),
        SealKeyCommand::List(args) => list(args, output).await,
        SealKeyCommand::Rotate(args) => rotate(args, output).await,
        SealKeyCommand::Retire(args) => retire(args, output).await,
        SealKeyCommand::Revoke(args) => revoke(args, output).await,
    }
}

async fn list(args: ListArgs, output: Output) -> Result<(), CliError> {
    let mut keys = args.caller.session().await?.keys();
    let answer = keys.list_keys(v1::ListKeysRequest {}).await?.into_inner();
    let list = KeyList {
        keys: answer.keys.into_iter().map(KeyView::from).collect(),
    };
    output.show(&list, |page| {
        page.table(&KeyView::HEADER, list.keys.iter().map(KeyView::row));
    })
}

async fn rotate(args: RotateArgs, output: Output) -> Result<(), CliError> {
    let mut keys = args.caller.session().await?.keys();
    let request = v1::RotateKeyRequest {
        key_id: args.key_id.map(|id| id.to_string()).unwrap_or_default(),
        reason: args.reason,
        request_id: args.request.request_id,
        wait_for_replicas: true,
    };
    let answer = keys.rotate_key(request).await?.into_inner();
    let view = DoneView {
        key_id: answer.key_id,
        made: Made::new(answer.revision.as_ref(), answer.enforcement),
    };
    output.show(&view, |page| {
        view.made
            .page(&format!("new tokens are sealed by {}", view.key_id), page);
    })
}

async fn retire(args: EndArgs, output: Output) -> Result<(), CliError> {
    let mut keys = args.caller.session().await?.keys();
    let key_id = args.key_id.to_string();
    let request = v1::RetireKeyRequest {
        key_id: key_id.clone(),
        reason: args.reason,
        request_id: args.request.request_id,
    };
    let answer = keys.retire_key(request).await?.into_inner();
    let made = Made::new(answer.revision.as_ref(), answer.enforcement);
    let view = DoneView { key_id, made };
    output.show(&view, |page| {
        view.made.page("retired", page);
        page.line("It can be taken out of the servers' files.");
    })
}

async fn revoke(args: EndArgs, output: Output) -> Result<(), CliError> {
    let mut keys = args.caller.session().await?.keys();
    let key_id = args.key_id.to_string();
    let request = v1::RevokeKeyRequest {
        key_id: key_id.clone(),
        reason: args.reason,
        request_id: args.request.request_id,
    };
    let answer = keys.revoke_key(request).await?.into_inner();
    let made = Made::new(answer.revision.as_ref(), answer.enforcement);
    let view = DoneView { key_id, made };
    output.show(&view, |page| {
        view.made.page("revoked, with all that it had sealed", page);
    })
}

fn generate(args: GenerateArgs, output: Output) -> Result<(), CliError> {
    let key = SealKey::generate(&OsEntropy);
    let id = key.id();
    if args.out == Path::new("-") {
        return print(&key, output);
    }
    let file = args.out;
    let found = found(&file)?;
    if found.len() >= KEYS_MAX {
        let full = format!("{}: has {KEYS_MAX} keys already", file.display());
        return Err(CliError::refused(full).with_line("remove those that are retired or revoked"));
    }
    add(&file, &key).map_err(CliError::usage)?;
    let view = AddedView {
        key_id: id.to_string(),
        keys_file: absolute(&file),
        keys: found.len() + 1,
    };
    output.show(&view, |page| {
        page.line(format!("Added seal key {id} to {}.", file.display()));
        page.line(
            "Whoever reads this file can make access tokens. Every server needs the same keys.",
        );
    })
}

/// The key alone, to be put where secrets are kept.
fn print(key: &SealKey, output: Output) -> Result<(), CliError> {
    let text = key.reveal();
    if output.is_json() {
        let key_id = key.id().to_string();
        return json(&PrintedView { key_id, key: &text });
    }
    write(&Zeroizing::new(format!("{}\n", *text)))
}

/// The keys that the file holds; none if it is not there.
fn found(file: &Path) -> Result<Vec<KeyId>, CliError> {
    if !file.exists() {
        return Ok(Vec::new());
    }
    let source = KeySource {
        file: Some(file.to_owned()),
        ..KeySource::default()
    };
    match Live::open(source) {
        Ok((live, _)) => Ok(live.current().ids()),
        Err(SourceError::NoKey(_)) => Ok(Vec::new()),
        Err(error) => Err(CliError::usage(error)),
    }
}
