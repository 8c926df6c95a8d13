//! `latchkey migrate`: brings the database's tables to this program's version, or shows theirs.
//!
//! Run by the role that owns the schema, before servers of this version start; running it twice,
//! also at the same time, does no harm. A step is never taken back: an older program works with a
//! newer schema, or refuses it, as each step says.

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::store::postgres::{Version, grant, known, status as versions, up as migrate};

use super::failure::CliError;
use super::output::Output;
use super::server::{ConfigArgs, start_logs};
use super::store::{Place, database, database_failed};

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum MigrateCommand {
    /// Apply every migration that the database lacks.
    Up(UpArgs),
    /// Show which migrations the database has; exits 1 when any is missing, or not for this
    /// program.
    Status(MigrateArgs),
}

/// Which database, and who will serve it.
#[derive(Args, Debug)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    database: MigrateArgs,
    /// Then grant a role what servers need of these tables.
    #[arg(long, value_name = "ROLE")]
    grant_to: Option<String>,
}

/// Which database.
#[derive(Args, Debug)]
pub(crate) struct MigrateArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Serialize)]
struct VersionView {
    version: i32,
    name: String,
    reads_from: i32,
    applied_at: Option<String>,
}

#[derive(Serialize)]
struct StatusView {
    database: String,
    known: i32,
    versions: Vec<VersionView>,
}

#[derive(Serialize)]
struct UpView {
    database: String,
    version: i32,
    applied: Vec<i32>,
    granted_to: Option<String>,
}

/// Migrates, or shows.
///
/// # Errors
/// Usage for a database that is not named, unavailable when it cannot be reached, is too new, or
/// a migration fails; `status` is refused when a migration is missing or not for this program.
pub(crate) async fn run(command: MigrateCommand, output: Output) -> Result<(), CliError> {
    match command {
        MigrateCommand::Up(args) => up(&args, output).await,
        MigrateCommand::Status(args) => status(&args, output).await,
    }
}

async fn up(args: &UpArgs, output: Output) -> Result<(), CliError> {
    let config = args.database.config.load(false)?;
    start_logs(&config, output)?;
    let settings = database(&config)?;
    let applied = migrate(&settings).await.map_err(database_failed)?;
    if let Some(role) = &args.grant_to {
        grant(&settings, role).await.map_err(database_failed)?;
    }
    let view = UpView {
        database: Place::of(&config).to_string(),
        version: known(),
        applied,
        granted_to: args.grant_to.clone(),
    };
    output.show(&view, |page| {
        page.line(match view.applied.len() {
            0 => format!(
                "Nothing to do: the schema has every version up to {}.",
                view.version
            ),
            1 => format!(
                "Applied 1 migration: the schema has version {}.",
                view.version
            ),
            some => format!(
                "Applied {some} migrations: the schema has version {}.",
                view.version
            ),
        });
        if let Some(role) = &view.granted_to {
            page.line(format!("Granted {role} what servers need."));
        }
    })
}

async fn status(args: &MigrateArgs, output: Output) -> Result<(), CliError> {
    let config = args.config.load(false)?;
    start_logs(&config, output)?;
    let found = versions(&database(&config)?)
        .await
        .map_err(database_failed)?;
    let missing = found.iter().filter(|one| one.applied_at.is_none()).count();
    let newer = found.iter().any(|one| one.reads_from > known());
    let view = StatusView {
        database: Place::of(&config).to_string(),
        known: known(),
        versions: found.into_iter().map(VersionView::from).collect(),
    };
    output.show(&view, |page| {
        let row = |one: &VersionView| {
            let applied = one.applied_at.clone();
            vec![
                one.version.to_string(),
                one.name.clone(),
                format!("{}+", one.reads_from),
                applied.unwrap_or_else(|| "missing".to_owned()),
            ]
        };
        page.table(
            &["VERSION", "NAME", "FOR", "APPLIED"],
            view.versions.iter().map(row),
        );
    })?;
    if newer {
        let known = known();
        let text = format!("the database is too new for this program, which knows version {known}");
        return Err(CliError::refused(text).because("SCHEMA_VERSION"));
    }
    if missing > 0 {
        let text = "migrations are missing: run `latchkey migrate up`";
        return Err(CliError::refused(text).because("NOT_MIGRATED"));
    }
    Ok(())
}

impl From<Version> for VersionView {
    fn from(version: Version) -> Self {
        Self {
            version: version.version,
            name: version.name,
            reads_from: version.reads_from,
            applied_at: version.applied_at,
        }
    }
}
