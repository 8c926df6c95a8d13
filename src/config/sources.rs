//! Where settings come from: a file, the environment and flags, each laid over those before.
//!
//! A value is read by the kind of its setting, so that `true`, `10` and `10s` need no quotes in a
//! variable or a flag. An error names the file and line, the variable or the flag it comes from.

use std::time::Duration;

use thiserror::Error;
use toml::{Table, Value};

use super::{Config, KEYS};
use crate::domain::format::format_max;

/// Why settings cannot be used; the text names where they come from.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct ConfigError(String);

/// Where settings come from; what is given later wins.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    table: Table,
}

impl Sources {
    /// Adds the text of a file, which `named` stands for in errors.
    ///
    /// # Errors
    /// When it is no TOML, or has an unknown key or a value of the wrong kind; with the line.
    pub fn file(&mut self, named: &str, text: &str) -> Result<(), ConfigError> {
        let error = |error: toml::de::Error| ConfigError(format!("{named}: {error}"));
        // Read for its own sake: only here an error knows its line.
        toml::from_str::<Config>(text).map_err(error)?;
        let table = toml::from_str::<Table>(text).map_err(error)?;
        merge(&mut self.table, table);
        Ok(())
    }

    /// Adds the variables of an environment.
    ///
    /// # Errors
    /// When a value is of the wrong kind.
    pub fn environment(
        &mut self,
        variables: impl Fn(&str) -> Option<String>,
    ) -> Result<(), ConfigError> {
        for key in KEYS {
            let variable = key.variable();
            if let Some(text) = variables(&variable) {
                self.add(key.name, &text, &variable)?;
            }
        }
        Ok(())
    }

    /// Adds one setting as text, from the flag `named`.
    ///
    /// # Errors
    /// When the key is unknown or the value of the wrong kind.
    pub fn flag(&mut self, name: &str, text: &str, named: &str) -> Result<(), ConfigError> {
        if KEYS.iter().all(|key| key.name != name) {
            return Err(ConfigError(format!("{named}: unknown key {name}")));
        }
        self.add(name, text, named)
    }

    /// Whether a key was given a value.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        let mut parts = name.split('.');
        let first = parts.next().and_then(|part| self.table.get(part));
        parts.fold(first, |value, part| value?.get(part)).is_some()
    }

    /// The settings, with defaults where nothing was given.
    ///
    /// # Errors
    /// When a value is out of its bounds.
    pub fn build(self) -> Result<Config, ConfigError> {
        let config: Config = Value::Table(self.table)
            .try_into()
            .map_err(|error: toml::de::Error| ConfigError(error.message().to_owned()))?;
        check(&config)?;
        Ok(config)
    }

    fn add(&mut self, name: &str, text: &str, named: &str) -> Result<(), ConfigError> {
        let mut failure = String::new();
        // The default's kind says how to read the text; a bare word is a text in any case.
        for value in readings(text) {
            let table = nested(name, value);
            match Value::Table(table.clone()).try_into::<Config>() {
                Ok(_) => {
                    merge(&mut self.table, table);
                    return Ok(());
                }
                // The last reading is the text itself, and says best what is wanted.
                Err(error) if !error.message().starts_with("invalid type") => {
                    failure = error.message().to_owned();
                }
                Err(error) if failure.is_empty() => failure = error.message().to_owned(),
                Err(_) => {}
            }
        }
        Err(ConfigError(format!("{named}: {failure}")))
    }
}

/// What a text may mean: itself, or the number or the truth value that it spells.
fn readings(text: &str) -> Vec<Value> {
    let mut values = Vec::new();
    if let Ok(number) = text.parse() {
        values.push(Value::Integer(number));
    }
    if let Ok(truth) = text.parse() {
        values.push(Value::Boolean(truth));
    }
    values.push(Value::String(text.to_owned()));
    values
}

fn nested(name: &str, value: Value) -> Table {
    let (first, rest) = name.split_once('.').unwrap_or((name, ""));
    let mut table = Table::new();
    let value = if rest.is_empty() {
        value
    } else {
        Value::Table(nested(rest, value))
    };
    table.insert(first.to_owned(), value);
    table
}

fn merge(into: &mut Table, from: Table) {
    for (name, value) in from {
        match (into.get_mut(&name), value) {
            (Some(Value::Table(known)), Value::Table(new)) => merge(known, new),
            (_, value) => {
                into.insert(name, value);
            }
        }
    }
}

/// Settings and sums of them stay far from where numbers and clocks end.
const COUNT_MAX: u64 = 1 << 20;
const BYTES_MIN: u64 = 4 << 10;
const HEADER_BYTES_MAX: u64 = 1 << 20;
const MESSAGE_BYTES_MAX: u64 = 64 << 20;
const YEAR: Duration = Duration::from_secs(366 * 24 * 60 * 60);
const KEPT_MAX: Duration = Duration::from_secs(100 * YEAR.as_secs());
const POOL_MAX: u64 = 1_000;
/// A tenth of a clock's rate is far beyond what any machine's is off by.
const SLACK_MAX: u64 = 100;
const FLUSH_MIN: Duration = Duration::from_secs(1);
const FLUSH_MAX: Duration = Duration::from_secs(60 * 60);
const USES_MAX: u64 = 10_000;
const LEASE_MIN: Duration = Duration::from_millis(200);
const LEASE_MAX: Duration = Duration::from_secs(300);
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Bounds that a setting's type does not know.
fn check(config: &Config) -> Result<(), ConfigError> {
    let (asked, known) = (config.changes.format_max, format_max());
    if asked > known {
        return Err(ConfigError(format!(
            "changes.format_max: this version knows formats up to {known}"
        )));
    }
    for (name, value, least, most) in numbers(config) {
        if value < least || value > most {
            return Err(ConfigError(format!(
                "{name}: {value} is not within {least} to {most}"
            )));
        }
    }
    if config.last_used.interval < FLUSH_MIN {
        return Err(ConfigError("last_used.interval: less than 1s".to_owned()));
    }
    if config.lease.length < LEASE_MIN {
        return Err(ConfigError("lease.length: less than 200ms".to_owned()));
    }
    let wrong = [
        config.envoy.wrong(),
        config.login.wrong(),
        config.replica.wrong(),
        config.seal.wrong(),
        config.telemetry.wrong(),
        config.tls.wrong(config),
    ];
    if let Some((name, what)) = wrong.into_iter().flatten().next() {
        return Err(ConfigError(format!("{name}: {what}")));
    }
    if config.canary.interval.is_some_and(|every| every.is_zero()) {
        return Err(ConfigError("canary.interval: less than 1s".to_owned()));
    }
    for (name, value, most) in durations(config) {
        if value > most {
            let text = humantime::format_duration;
            return Err(ConfigError(format!(
                "{name}: {} is more than {}",
                text(value),
                text(most)
            )));
        }
    }
    Ok(())
}

fn numbers(config: &Config) -> [(&'static str, u64, u64, u64); 14] {
    let limits = &config.limits;
    let count = |name, value: usize| (name, value as u64, 1, COUNT_MAX);
    [
        (
            "database.pool_size",
            config.database.pool_size as u64,
            1,
            POOL_MAX,
        ),
        (
            "last_used.per_second",
            config.last_used.per_second as u64,
            1,
            USES_MAX,
        ),
        ("lease.slack", config.lease.slack, 1, SLACK_MAX),
        count("limits.connections_max", limits.connections_max),
        count(
            "limits.connections_per_peer_max",
            limits.connections_per_peer_max,
        ),
        count(
            "limits.streams_per_connection_max",
            limits.streams_per_connection_max as usize,
        ),
        count("limits.requests_waiting_max", limits.requests_waiting_max),
        count("limits.lasting_streams_max", limits.lasting_streams_max),
        count("limits.calls_per_second", limits.calls_per_second as usize),
        count(
            "limits.failed_logins_per_second",
            limits.failed_logins_per_second as usize,
        ),
        count("limits.error_resets_max", limits.error_resets_max),
        count("limits.pending_resets_max", limits.pending_resets_max),
        (
            "limits.header_bytes_max",
            limits.header_bytes_max.into(),
            BYTES_MIN,
            HEADER_BYTES_MAX,
        ),
        (
            "limits.message_bytes_max",
            limits.message_bytes_max as u64,
            BYTES_MIN,
            MESSAGE_BYTES_MAX,
        ),
    ]
}

fn durations(config: &Config) -> [(&'static str, Duration, Duration); 18] {
    let limits = &config.limits;
    let (database, lease) = (&config.database, &config.lease);
    [
        (
            "database.connect_timeout",
            database.connect_timeout,
            WAIT_MAX,
        ),
        (
            "database.statement_timeout",
            database.statement_timeout,
            WAIT_MAX,
        ),
        ("database.lock_timeout", database.lock_timeout, WAIT_MAX),
        ("last_used.interval", config.last_used.interval, FLUSH_MAX),
        ("lease.length", lease.length, LEASE_MAX),
        ("lease.poll", lease.poll, lease.length),
        (
            "write.confirm_time_max",
            config.write.confirm_time_max,
            WAIT_MAX,
        ),
        ("check.valid_for", config.check.valid_for, YEAR),
        ("forget.interval", config.forget.interval, YEAR),
        ("forget.retention", config.forget.retention, KEPT_MAX),
        ("limits.hello_time_max", limits.hello_time_max, YEAR),
        ("limits.connection_age_max", limits.connection_age_max, YEAR),
        (
            "limits.connection_age_grace",
            limits.connection_age_grace,
            YEAR,
        ),
        ("limits.request_time_max", limits.request_time_max, YEAR),
        ("limits.ping_every", limits.ping_every, YEAR),
        ("limits.ping_time_max", limits.ping_time_max, YEAR),
        (
            "limits.drain_notice",
            limits.drain_notice.unwrap_or_default(),
            YEAR,
        ),
        ("limits.drain_time_max", limits.drain_time_max, YEAR),
    ]
}
