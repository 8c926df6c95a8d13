//! What a server tells while it runs: log lines, access lines and what goes to a collector.
//!
//! Settings are judged before anything else is done, so that a collector that cannot be meant is
//! said at once; one that is away is nobody's concern here. What is queued at the end is written,
//! and sent if the collector takes it in a moment.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use zeroize::Zeroizing;

use crate::authority::Authority;
use crate::config::{Config, Otlp};
use crate::domain::entropy::{Entropy as _, OsEntropy};
use crate::rpc::{self, Files, Metrics, Observer};
use crate::telemetry::access::{Access, AccessTask};
use crate::telemetry::lines::{LinesEnd, LostLines, queued};
use crate::telemetry::metrics::{MetricTask, Sendings};
use crate::telemetry::otlp::{Collector, Line, Service};
use crate::telemetry::spans::{Queue, SpanTask, Spans};

use super::failure::CliError;
use super::output::Output;
use super::output::meter::AboveMeter;
use super::run::identity;
use super::server::start_logs_to;

/// The longest file of headers or authorities.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Log lines are written; the rest waits for the server.
pub(crate) struct Telemetry {
    line: Option<Line>,
    spans: Option<(Spans, Queue)>,
    lost: LostLines,
}

/// Whoever writes and sends while the server runs.
pub(crate) struct Telling {
    lines: AccessTask,
    spans: Option<SpanTask>,
    metrics: Option<MetricTask>,
}

impl Telemetry {
    /// Begins to write log lines, until the end that is returned is dropped.
    ///
    /// # Errors
    /// Usage for settings that cannot be used.
    pub(crate) fn start(config: &Config, output: Output) -> Result<(Self, LinesEnd), CliError> {
        let line = line(config)?;
        let spans = config.telemetry.traces().then(Spans::queue);
        let told = spans.as_ref().map(|(spans, _)| spans.clone());
        let (lines, lost, end) = queued(AboveMeter);
        start_logs_to(lines, config, output, told)?;
        Ok((Self { line, spans, lost }, end))
    }

    /// Begins to count, to tell of questions and to send.
    pub(crate) fn begin(
        self,
        config: &Config,
        authority: &Authority,
        files: &Files,
    ) -> (Metrics, Telling) {
        let told = &config.telemetry;
        let (access, lines) = Access::start(told.access.denials_per_second);
        let mut seed = [0; 8];
        OsEntropy.fill(&mut seed);
        let seed = u64::from_ne_bytes(seed);
        let mut observer =
            Observer::new(access, told.access.ratio, seed).with_lost_lines(self.lost);
        let mut span_task = None;
        if let Some((line, (spans, queue))) = self.line.clone().zip(self.spans) {
            let asked = told.traces.asked_per_second;
            observer = observer.with_spans(spans.clone(), asked, told.traces.ratio);
            span_task = Some(spans.send(queue, line));
        }
        let sends = self.line.zip(told.otlp.metrics_every);
        let sendings = Sendings::default();
        if sends.is_some() {
            observer = observer.with_sendings(sendings.clone());
        }
        let metrics = Metrics::with(observer);
        let metric_task = sends.map(|(line, every)| {
            let read = rpc::metrics_reader(authority.clone(), &metrics, files.clone());
            MetricTask::start(line, every, sendings, read)
        });
        let telling = Telling {
            lines,
            spans: span_task,
            metrics: metric_task,
        };
        (metrics, telling)
    }
}

impl Telling {
    /// Writes and sends what is queued, and ends.
    pub(crate) async fn stop(self) {
        self.lines.stop().await;
        let spans = async {
            if let Some(spans) = self.spans {
                spans.stop().await;
            }
        };
        let metrics = async {
            if let Some(metrics) = self.metrics {
                metrics.stop().await;
            }
        };
        tokio::join!(spans, metrics);
    }
}

/// The way to the collector, if one is named.
fn line(config: &Config) -> Result<Option<Line>, CliError> {
    let otlp = &config.telemetry.otlp;
    if otlp.endpoint.is_empty() {
        return Ok(None);
    }
    let given = |path: &Path| !path.as_os_str().is_empty();
    let authorities = given(&otlp.ca_file).then(|| read(&otlp.ca_file));
    let collector = Collector {
        endpoint: otlp.endpoint.clone(),
        headers: headers(otlp)?,
        authorities: authorities
            .transpose()?
            .map(|text| text.as_bytes().to_vec()),
        timeout: otlp.timeout,
    };
    let service = Service {
        instance: identity(config).name,
        namespace: config.telemetry.namespace.clone(),
    };
    let line = Line::open(&collector, service);
    line.map(Some).map_err(CliError::usage)
}

/// Names and values of both places.
fn headers(otlp: &Otlp) -> Result<Vec<(String, String)>, CliError> {
    let mut text = Zeroizing::new(otlp.headers.reveal().to_owned());
    if !otlp.headers_file.as_os_str().is_empty() {
        text.push('\n');
        text.push_str(&read(&otlp.headers_file)?);
    }
    let parts = text.split([',', '\n']).map(str::trim);
    let parts = parts.filter(|part| !part.is_empty());
    let header = |part: &str| {
        let (name, value) = part.split_once('=').unwrap_or_default();
        (name.trim().to_lowercase(), value.trim().to_owned())
    };
    Ok(parts.map(header).collect())
}

fn read(path: &Path) -> Result<Zeroizing<String>, CliError> {
    let mut text = Zeroizing::new(String::new());
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text))
        .map_err(|error| CliError::usage(format!("cannot read {}: {error}", path.display())))?;
    Ok(text)
}
