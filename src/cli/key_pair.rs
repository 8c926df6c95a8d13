//! `latchkey key-pair`: key pairs that service accounts log in with.
//!
//! The private half is written to a file that nobody else may read, and never sent; the public half
//! is printed, to be registered. Any other software's pair of the same kind does as well.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::domain::entropy::OsEntropy;
use crate::domain::key::Algorithm;
use crate::domain::key_pair::KeyPair;

use super::failure::CliError;
use super::output::{Output, json, notice, write};
use super::server::absolute;

const FILE_MODE: u32 = 0o600;

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyPairCommand {
    /// Make a key pair: the private key goes to a new file, the public key is printed.
    Generate(GenerateArgs),
}

/// What to make.
#[derive(Args, Debug)]
pub(crate) struct GenerateArgs {
    /// The file for the private key; it must not exist.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// A pair of ECDSA over P-256 in place of Ed25519.
    #[arg(long)]
    p256: bool,
}

#[derive(Serialize)]
struct PairView {
    algorithm: &'static str,
    private_key_file: PathBuf,
    public_key: String,
}

/// Runs one verb.
///
/// # Errors
/// Refused when the file exists, usage when it cannot be written.
pub(crate) fn run(command: KeyPairCommand, output: Output) -> Result<(), CliError> {
    let KeyPairCommand::Generate(args) = command;
    let algorithm = match args.p256 {
        true => Algorithm::P256,
        false => Algorithm::Ed25519,
    };
    let pair = KeyPair::generate(algorithm, &OsEntropy).map_err(CliError::unavailable)?;
    write_private(&args.out, &pair)?;
    let view = PairView {
        algorithm: algorithm.name(),
        private_key_file: absolute(&args.out),
        public_key: pair.public().to_pem(),
    };
    if output.is_json() {
        return json(&view);
    }
    let shown = args.out.display();
    notice(&format!(
        "The private key is in {shown}; keep it where it is used. The public key:"
    ));
    // Alone, so that it can be sent to a file.
    write(&view.public_key)
}

fn write_private(path: &Path, pair: &KeyPair) -> Result<(), CliError> {
    let shown = path.display();
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(FILE_MODE);
    let mut file = options.open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            CliError::refused(format!("{shown} is there: a key is never overwritten"))
                .because("ALREADY_EXISTS")
        }
        _ => CliError::usage(format!("cannot make {shown}: {error}")),
    })?;
    let written = file
        .write_all(pair.to_pem().as_bytes())
        .and_then(|()| file.sync_all());
    written.map_err(|error| {
        let _ = std::fs::remove_file(path);
        CliError::unavailable(format!("cannot write {shown}: {error}"))
    })
}
