//! `latchkey dev` and `serve`: settings in, a running server out.
//!
//! Settings come from flags, the environment and a file, in this order of precedence. `dev` makes
//! the first administrator too, shows its token once and says how to go on. The server itself is
//! put together in `run`, what it prints when it serves is in `ready`.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::config::{Config, KEYS, LogFormat, Sources};
use crate::store::postgres::up as migrate;
use crate::telemetry::{self, MakeWriter, spans::Spans};

use super::failure::CliError;
use super::login::SECRET_VARIABLE;
use super::output::meter::AboveMeter;
use super::output::{Output, json, write};
use super::parse::label;
use super::ready;
use super::run::{First, OpenArgs, run};
use super::secure::VARIABLES as TLS_VARIABLES;
use super::store::{Place, database, database_failed};
use super::telemetry::Telemetry;

/// The longest configuration file.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Variables that are no settings: the clients', and what Kubernetes sets for a service.
const OTHER_VARIABLES: [&str; 4] = [
    "LATCHKEY_ADDR",
    "LATCHKEY_TOKEN",
    "LATCHKEY_CONFIG",
    SECRET_VARIABLE,
];

/// Names a collector to whatever sends telemetry.
const COLLECTOR: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// Makes a debug build's server one format newer than it is: it then writes an entry `note` at
/// every `forget.interval` once the log's level lets it, for tests of upgrades.
#[cfg(debug_assertions)]
const NEXT_FORMAT: &str = "LATCHKEY_DEBUG_NEXT_FORMAT";

/// Settings as flags.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ConfigArgs {
    /// TOML file with settings.
    #[arg(long, env = "LATCHKEY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address of the API; port 0 takes a free one.
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Address of /metrics and /healthz.
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
    /// Data directory of the embedded store.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// URL of a Postgres database, which replicas share, in place of the embedded store. The
    /// environment variable LATCHKEY_DATABASE_URL keeps its password out of the list of processes.
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// Form of log lines: text or json.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Least level of log lines, or a filter.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Any other setting, by its key in the file; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = label)]
    set: Vec<(String, String)>,
}

/// A server for trying out.
#[derive(Args, Debug)]
pub(crate) struct DevArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    open: OpenArgs,
}

/// A server for work.
#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    open: OpenArgs,
    /// Print the settings as TOML and end.
    #[arg(long)]
    print_config: bool,
}

impl ConfigArgs {
    /// Whether the command line itself names a data directory.
    pub(crate) fn names_directory(&self) -> bool {
        self.data_dir.is_some()
    }

    /// Whether the command line itself names a database.
    pub(crate) fn names_database(&self) -> bool {
        self.database_url.is_some()
    }

    /// The settings; `dev` takes a free admin port when the API's address is not the default.
    ///
    /// # Errors
    /// Usage for anything that is not understood.
    pub(crate) fn load(&self, dev: bool) -> Result<Config, CliError> {
        #[cfg(debug_assertions)]
        if std::env::var_os(NEXT_FORMAT).is_some() {
            crate::domain::format::know_next();
        }
        let mut sources = Sources::default();
        if let Some(file) = &self.config {
            let named = file.display().to_string();
            sources
                .file(&named, &read(file)?)
                .map_err(CliError::usage)?;
        }
        sources
            .environment(|name| std::env::var(name).ok())
            .map_err(CliError::usage)?;
        if let Some(endpoint) = named_collector(&sources) {
            sources
                .flag("telemetry.otlp.endpoint", &endpoint, COLLECTOR)
                .map_err(CliError::usage)?;
        }
        let flags = [
            ("listen.addr", &self.listen, "--listen"),
            ("admin.addr", &self.admin, "--admin"),
            ("store.data_dir", &self.data_dir, "--data-dir"),
            ("database.url", &self.database_url, "--database-url"),
            ("log.format", &self.log_format, "--log-format"),
            ("log.level", &self.log_level, "--log-level"),
        ];
        for (name, value) in &self.set {
            let named = format!("--set {name}");
            sources.flag(name, value, &named).map_err(CliError::usage)?;
        }
        for (name, value, named) in flags {
            if let Some(value) = value {
                sources.flag(name, value, named).map_err(CliError::usage)?;
            }
        }
        // Several servers for trying out must not quarrel over one admin port.
        let free = dev && sources.has("listen.addr") && !sources.has("admin.addr");
        if free {
            sources
                .flag("admin.addr", "127.0.0.1:0", "dev")
                .map_err(CliError::usage)?;
        }
        sources.build().map_err(CliError::usage)
    }
}

/// Runs a server for trying out until it is told to stop.
///
/// # Errors
/// Usage for settings, unavailable for a port or a store that cannot be used.
pub(crate) async fn dev(args: DevArgs, output: Output) -> Result<(), CliError> {
    let config = args.config.load(true)?;
    let (telemetry, _log) = Telemetry::start(&config, output)?;
    let place = Place::of(&config);
    if let Place::Database(_) = place {
        // What is tried out brings its own tables, as a data directory does.
        let settings = database(&config)?;
        migrate(&settings).await.map_err(database_failed)?;
    }
    let first = First::Administrator;
    run(&config, args.open, first, telemetry, move |ready| {
        ready::with_next_steps(&ready, &place, output)
    })
    .await
}

/// Runs a server until it is told to stop.
///
/// # Errors
/// Usage for settings, unavailable for a port or a store that cannot be used.
pub(crate) async fn serve(args: ServeArgs, output: Output) -> Result<(), CliError> {
    let config = args.config.load(false)?;
    if args.print_config {
        return print_config(&config, output);
    }
    let (telemetry, _log) = Telemetry::start(&config, output)?;
    warn_of_unknown_variables();
    let place = Place::of(&config);
    run(
        &config,
        args.open,
        First::Nothing,
        telemetry,
        move |ready| ready::plainly(&ready, &place, output),
    )
    .await
}

fn print_config(config: &Config, output: Output) -> Result<(), CliError> {
    if output.is_json() {
        return json(config);
    }
    let text = toml::to_string(config)
        .map_err(|error| CliError::refused(format!("cannot write the settings: {error}")))?;
    write(&text)
}

/// Begins to write log lines, above a meter that may be there.
///
/// # Errors
/// Usage for a filter that is not understood.
pub(super) fn start_logs(config: &Config, output: Output) -> Result<(), CliError> {
    start_logs_to(|| AboveMeter, config, output, None)
}

/// The same to what `writer` makes; with `spans`, calls that are sampled have some.
///
/// # Errors
/// The same.
pub(super) fn start_logs_to(
    writer: impl for<'w> MakeWriter<'w> + Send + Sync + 'static,
    config: &Config,
    output: Output,
    spans: Option<Spans>,
) -> Result<(), CliError> {
    // Who reads one JSON document reads JSON lines too.
    let as_json = config.log.format == LogFormat::Json || output.is_json();
    telemetry::start(as_json, &config.log.level, writer, spans).map_err(CliError::usage)
}

/// The collector that the environment names for everybody, where the settings name none and it is
/// to be spoken to as we do.
fn named_collector(sources: &Sources) -> Option<String> {
    let named = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let spoken = named("OTEL_EXPORTER_OTLP_PROTOCOL").is_none_or(|it| it == "grpc");
    let wanted = spoken && !sources.has("telemetry.otlp.endpoint");
    named(COLLECTOR).filter(|_| wanted)
}

/// A mistyped variable is said, not refused: Kubernetes sets some for a service of this name.
fn warn_of_unknown_variables() {
    let known = |name: &str| {
        OTHER_VARIABLES.contains(&name)
            || TLS_VARIABLES.contains(&name)
            || KEYS.iter().any(|key| key.variable() == name)
            || name.starts_with("LATCHKEY_PORT")
            || name.starts_with("LATCHKEY_SERVICE_")
            || (cfg!(debug_assertions) && name.starts_with("LATCHKEY_DEBUG_"))
    };
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("LATCHKEY_") && !known(&name) {
            tracing::warn!(variable = %name, "no setting has this environment variable");
        }
    }
}

fn read(file: &Path) -> Result<String, CliError> {
    let shown = file.display();
    let mut text = String::new();
    File::open(file)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(|error| CliError::usage(format!("cannot read {shown}: {error}")))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        let most = format!("{shown} has more than {FILE_BYTES_MAX} bytes");
        return Err(CliError::usage(most));
    }
    Ok(text)
}

/// The path from the root, as far as it can be told.
pub(super) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
