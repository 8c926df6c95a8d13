//! `latchkey seal-key`: the keys that access tokens are sealed with.
//!
//! A key is made into a file here and brought to every server by whoever runs them; the servers
//! read their files again by themselves. Keys are never sent.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::domain::entropy::OsEntropy;
use crate::domain::seal::key::{KeyId, SealKey};
use crate::seal::{KEYS_MAX, KeySource, Live, SourceError, add};

use super::failure::CliError;
use super::output::{Output, json, write};
use super::server::absolute;

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum SealKeyCommand {
    /// Make a seal key and add it to a file.
    Generate(GenerateArgs),
}

/// Where to put it.
#[derive(Args, Debug)]
pub(crate) struct GenerateArgs {
    /// The file that it is added to, which is made if it is not there; `-` prints it.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Serialize)]
struct AddedView {
    id: String,
    keys_file: PathBuf,
    /// Keys that are in the file now.
    keys: usize,
}

#[derive(Serialize)]
struct PrintedView<'a> {
    id: String,
    key: &'a str,
}

/// Runs one verb.
///
/// # Errors
/// Usage for a file that cannot be used, refused for one that is full.
pub(crate) fn run(command: SealKeyCommand, output: Output) -> Result<(), CliError> {
    let SealKeyCommand::Generate(args) = command;
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
        id: id.to_string(),
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
        let id = key.id().to_string();
        return json(&PrintedView { id, key: &text });
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
        Ok((live, _)) => Ok(live.current().iter().map(SealKey::id).collect()),
        Err(SourceError::NoKey(_)) => Ok(Vec::new()),
        Err(error) => Err(CliError::usage(error)),
    }
}
