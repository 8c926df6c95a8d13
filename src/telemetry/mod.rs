//! Telemetry: log lines on standard error, and what is sent to a collector.
//!
//! ```text
//! tracing events ─► lines, as text or as JSON ─► standard error
//! tracing spans  ─► tracer ─► spans ───┬─► otlp ─► collector
//! registry       ─► openmetrics ─► metrics ─┘
//! ```
//!
//! Started once by `cli` before a server does anything; client commands log nothing. A line never
//! holds a secret or a digest, since no type that holds one can be written into it.

pub mod access;
pub mod context;
pub mod lines;
pub mod metrics;
mod openmetrics;
pub mod otlp;
pub mod per_second;
pub mod spans;
pub mod tracer;

use std::io::{self, IsTerminal as _};

use thiserror::Error;
use tracing_subscriber::EnvFilter;
pub use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, registry};

use spans::Spans;

/// Why logging cannot start.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// The filter is not understood.
    #[error("log.level: {0:?} is no level and no filter")]
    Filter(String),
    /// Something else in this process writes logs already.
    #[error("logging was started before")]
    Started,
}

/// Starts logging for the rest of the process, to what `writer` makes: standard error, or what
/// stands before it; with `spans`, calls that are sampled have some.
///
/// # Errors
/// [`TelemetryError`] when the filter is not understood, or logging was started before.
pub fn start<W>(
    json: bool,
    filter: &str,
    writer: W,
    spans: Option<Spans>,
) -> Result<(), TelemetryError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter =
        EnvFilter::try_new(filter).map_err(|_| TelemetryError::Filter(filter.to_owned()))?;
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(io::stderr().is_terminal())
        .with_writer(writer);
    let lines = match json {
        true => lines.json().flatten_event(true).boxed(),
        false => lines.with_target(false).boxed(),
    };
    let lines = lines.with_filter(tracer::only_lines(filter));
    let subscriber = registry().with(lines).with(spans.map(tracer::layer));
    subscriber.try_init().map_err(|_| TelemetryError::Started)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_is_not_understood_is_refused() {
        assert!(matches!(
            start(true, "latchkey=loud", io::stderr, None),
            Err(TelemetryError::Filter(_))
        ));
    }
}
