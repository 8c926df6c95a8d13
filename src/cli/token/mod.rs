//! `latchkey token`: the life of tokens from the command line.
//!
//! `issue` and `exchange` make tokens, `change` changes and ends them, `show` only reads.
//! Every verb is one call of the token service. Absent: any secret as an argument; where one is
//! needed it comes from a file or from standard input.

mod change;
mod exchange;
mod issue;
mod show;

use clap::{Args, Subcommand};

use super::failure::CliError;
use super::output::Output;

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Issue a token and show its secret, once.
    Issue(Box<issue::IssueArgs>),
    /// List tokens, the oldest first.
    List(show::ListArgs),
    /// Show what is known of a token.
    Show(show::ShowArgs),
    /// Change a token's scopes, limits, name, description or labels.
    Update(Box<change::UpdateArgs>),
    /// Move the expiry of a token; of a sealed access token, print the one that goes on.
    Renew(change::RenewArgs),
    /// Print a narrower, shorter access token for the calling one, to be handed on.
    Exchange(exchange::ExchangeArgs),
    /// Give a token a new secret, shown once, under the same id.
    Rotate(change::RotateArgs),
    /// Revoke a token and all that is derived from it, for good.
    Revoke(change::RevokeArgs),
    /// Revoke all tokens of a subject, of an issuer or under a resource.
    RevokeAll(change::RevokeAllArgs),
    /// Show who the calling token is and what it may do.
    Whoami(show::WhoamiArgs),
}

/// What every write takes.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct RequestId {
    /// Makes the command safe to send again: 1 to 64 characters of A-Z a-z 0-9 . _ -
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    pub request_id: String,
}

/// Runs one verb.
///
/// # Errors
/// What the server refuses, and what cannot be reached or printed.
pub(crate) async fn run(command: TokenCommand, output: Output) -> Result<(), CliError> {
    match command {
        TokenCommand::Issue(args) => issue::issue(*args, output).await,
        TokenCommand::List(args) => show::list(args, output).await,
        TokenCommand::Show(args) => show::show(args, output).await,
        TokenCommand::Update(args) => change::update(*args, output).await,
        TokenCommand::Renew(args) => change::renew(args, output).await,
        TokenCommand::Exchange(args) => exchange::exchange(args, output).await,
        TokenCommand::Rotate(args) => change::rotate(args, output).await,
        TokenCommand::Revoke(args) => change::revoke(args, output).await,
        TokenCommand::RevokeAll(args) => change::revoke_all(args, output).await,
        TokenCommand::Whoami(args) => show::whoami(args, output).await,
    }
}
