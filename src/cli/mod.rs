//! The command line: what the program can be told, and how it answers.
//!
//! ```text
//! main ─► cli ─► server, bootstrap ─► run    the store, the replica and the listener of this process
//!           └──► connect ─► token, check, directory, credential, login, audit, …   calls to a server
//!                              └──► output
//! ```
//!
//! Every command ends with one of four exit codes: 0 allowed or done, 1 denied or refused, 2 usage,
//! 3 unavailable or stale. Secrets are read from files, standard input or the environment.

mod apply;
mod audit;
mod bootstrap;
mod check;
mod cluster;
mod connect;
mod copy;
mod credential;
mod descriptors;
mod directory;
mod drill;
mod failure;
mod followed;
mod key_pair;
mod log;
mod login;
mod migrate;
mod output;
mod parse;
mod ready;
mod routes;
mod run;
mod seal_key;
mod secure;
mod server;
mod status;
mod store;
mod telemetry;
mod token;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use crate::domain::principal::PrincipalKind;

use failure::{CliError, Exit};
use output::{Format, Output, notice};

/// The program.
#[derive(Debug, Parser)]
#[command(name = "latchkey", version, about, max_term_width = 100)]
struct Cli {
    /// How results are printed.
    #[arg(long, value_enum, global = true, default_value = "text")]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a server for trying out: makes its store and its first administrator.
    Dev(Box<server::DevArgs>),
    /// Run a server.
    Serve(Box<server::ServeArgs>),
    /// Make the first administrator of a store, or recover from having lost it.
    Bootstrap(bootstrap::BootstrapArgs),
    /// Copy the store to a file, also while a server runs.
    Backup(bootstrap::BackupArgs),
    /// Put a backup into an empty data directory.
    Restore(bootstrap::RestoreArgs),
    /// Bring the tables of a database to this program's version.
    #[command(subcommand)]
    Migrate(migrate::MigrateCommand),
    /// Move an embedded store to an empty Postgres database.
    Copy(copy::CopyArgs),
    /// Issue, look up, change and revoke tokens.
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Ask whether a token may do something; exits 0 when it may and 1 when not.
    Check(Box<check::CheckArgs>),
    /// Explain step by step why a token may or may not do something.
    Explain(Box<check::ExplainArgs>),
    /// Test and check the route table for requests through Envoy.
    #[command(subcommand)]
    Routes(routes::RoutesCommand),
    /// Read, watch and verify the change log.
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Export and trim old changes.
    #[command(subcommand)]
    Log(log::LogCommand),
    /// Manage users.
    #[command(subcommand)]
    User(directory::principal::PrincipalCommand),
    /// Manage teams and their members.
    #[command(subcommand)]
    Team(directory::principal::TeamCommand),
    /// Manage service accounts.
    #[command(subcommand)]
    Service(directory::principal::ServiceCommand),
    /// Make, list and revoke what service accounts log in with.
    #[command(subcommand)]
    Credential(credential::CredentialCommand),
    /// Log in as a service account and print an access token.
    Login(Box<login::LoginArgs>),
    /// Make key pairs that service accounts log in with.
    #[command(subcommand)]
    KeyPair(key_pair::KeyPairCommand),
    /// Make and manage the keys that access tokens are sealed with.
    #[command(subcommand)]
    SealKey(seal_key::SealKeyCommand),
    /// Manage roles.
    #[command(subcommand)]
    Role(directory::role::RoleCommand),
    /// Manage grants.
    #[command(subcommand)]
    Grant(directory::grant::GrantCommand),
    /// Bring users, teams, roles and grants to what a file says.
    Apply(apply::ApplyArgs),
    /// Revoke a token of its own and show how soon every server denies it.
    Drill(drill::DrillArgs),
    /// Show the health of a server, its newest revision, its replicas and who the calling token is.
    Status(status::StatusArgs),
    /// Wait until every replica answers by a revision; exits 0 when it does and 3 when not in time.
    Wait(cluster::WaitArgs),
    /// Ask whether a server is healthy; exits 0 when it is and 3 when not.
    Health(status::HealthArgs),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// Parses the command line, runs one command and tells how it ended.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if usage(&error) == Exit::Usage && wants_json(std::env::args_os()) => {
            let text = error.render().to_string();
            let text = text.trim().trim_start_matches("error: ");
            return failed(&CliError::usage(text), Output::new(Format::Json));
        }
        Err(error) => {
            // A closed output is neither an answer nor a mistake.
            let _ = error.print();
            return usage(&error).into();
        }
    };
    let output = Output::new(cli.output);
    match execute(cli.command, output) {
        Ok(()) => Exit::Done.into(),
        Err(error) => failed(&error, output),
    }
}

/// Prints an error in the form that was asked for.
fn failed(error: &CliError, output: Output) -> ExitCode {
    if output.is_json() {
        error.json().iter().for_each(|line| notice(line));
    } else {
        for (index, line) in error.lines().iter().enumerate() {
            let start = if index == 0 { "error: " } else { "  " };
            notice(&format!("{start}{line}"));
        }
    }
    error.exit().into()
}

/// Whether a command line that cannot be parsed asks for JSON all the same.
fn wants_json(words: impl Iterator<Item = OsString>) -> bool {
    let words: Vec<OsString> = words.collect();
    words.iter().any(|word| word == "--output=json")
        || words
            .windows(2)
            .any(|pair| pair[0] == "--output" && pair[1] == "json")
}

/// Help and version are answers, all else is a mistake.
fn usage(error: &clap::Error) -> Exit {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Done,
        _ => Exit::Usage,
    }
}

fn execute(command: Command, output: Output) -> Result<(), CliError> {
    let serves = matches!(command, Command::Dev(_) | Command::Serve(_));
    let mut builder = if serves {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    let runtime = builder
        .enable_all()
        .build()
        .map_err(|error| CliError::unavailable(format!("cannot start: {error}")))?;
    let done = runtime.block_on(dispatch(command, output));
    // All that must end has ended; a load that was given up has not.
    runtime.shutdown_background();
    done
}

async fn dispatch(command: Command, output: Output) -> Result<(), CliError> {
    match command {
        Command::Dev(args) => server::dev(*args, output).await,
        Command::Serve(args) => server::serve(*args, output).await,
        Command::Bootstrap(args) => bootstrap::bootstrap(args, output).await,
        Command::Backup(args) => bootstrap::backup(args, output).await,
        Command::Restore(args) => bootstrap::restore(args, output).await,
        Command::Migrate(command) => migrate::run(command, output).await,
        Command::Copy(args) => copy::copy(args, output).await,
        Command::Token(command) => token::run(command, output).await,
        Command::Check(args) => check::check(*args, output).await,
        Command::Explain(args) => check::explain(*args, output).await,
        Command::Routes(command) => routes::run(command, output),
        Command::Audit(command) => audit::run(command, output).await,
        Command::Log(command) => log::run(command, output).await,
        Command::User(command) => {
            directory::principal::run(PrincipalKind::User, command, output).await
        }
        Command::Team(command) => directory::principal::run_team(command, output).await,
        Command::Service(command) => directory::principal::run_service(command, output).await,
        Command::Credential(command) => credential::run(command, output).await,
        Command::Login(args) => login::login(*args, output).await,
        Command::KeyPair(command) => key_pair::run(command, output),
        Command::SealKey(command) => seal_key::run(command, output).await,
        Command::Role(command) => directory::role::run(command, output).await,
        Command::Grant(command) => directory::grant::run(command, output).await,
        Command::Apply(args) => apply::run(args, output).await,
        Command::Drill(args) => drill::drill(args, output).await,
        Command::Status(args) => status::status(args, output).await,
        Command::Wait(args) => cluster::wait(args, output).await,
        Command::Health(args) => status::health(args, output).await,
        Command::Completions { shell } => completions(shell),
    }
}

fn completions(shell: Shell) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "latchkey", &mut script);
    output::write(&String::from_utf8_lossy(&script))
}

#[cfg(test)]
mod tests;
