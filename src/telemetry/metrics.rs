//! Metrics on their way to a collector: what `/metrics` shows, read and sent now and then.
//!
//! Used by `cli`, which says how the text is read. A sending that fails is counted and given up:
//! counts are of all since the start, so the next one has everything. The last one goes out when
//! the server ends, if the collector takes it in a moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::metrics::v1::{ResourceMetrics, ScopeMetrics};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::domain::clock::unix_nanos;

use super::openmetrics::{self, Times};
use super::otlp::{self, Line};

/// How long the last sending may take.
const LAST: Duration = Duration::from_secs(2);

/// What became of sendings. Clones are handles to the same counts.
#[derive(Clone, Debug, Default)]
pub struct Sendings(Arc<[AtomicU64; 2]>);

impl Sendings {
    /// Those that the collector took.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.0[0].load(Ordering::Relaxed)
    }

    /// Those that it did not.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.0[1].load(Ordering::Relaxed)
    }

    fn count(&self, sent: bool) {
        self.0[usize::from(!sent)].fetch_add(1, Ordering::Relaxed);
    }
}

/// Sends metrics.
#[derive(Debug)]
pub struct MetricTask {
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl MetricTask {
    /// Begins to send what `read` gives, so often.
    #[must_use]
    pub fn start<F>(line: Line, every: Duration, sendings: Sendings, read: F) -> Self
    where
        F: Fn() -> Option<String> + Send + Sync + 'static,
    {
        let stop = CancellationToken::new();
        let task = tokio::spawn(send(line, every, sendings, read, stop.clone()));
        Self { task, stop }
    }

    /// Sends once more if that can be done in a moment, and ends.
    pub async fn stop(self) {
        self.stop.cancel();
        // It ends by itself; a panic in it was told of.
        let _ = self.task.await;
    }
}

async fn send<F>(line: Line, every: Duration, sendings: Sendings, read: F, stop: CancellationToken)
where
    F: Fn() -> Option<String> + Send + Sync + 'static,
{
    let mut client = MetricsServiceClient::new(line.channel());
    let began_ns = unix_nanos();
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut reachable, mut last) = (true, false);
    while !last {
        tokio::select! {
            biased;
            () = stop.cancelled() => last = true,
            _ = ticks.tick() => {}
        }
        let Some(text) = read() else {
            continue;
        };
        let time = if last { LAST } else { line.timeout() };
        let sending = timeout(time, export(&mut client, &line, &text, began_ns));
        let sent = tokio::select! {
            sent = sending => sent.unwrap_or_else(|_| Err(otlp::LATE.to_owned())),
            // What is under way is given up for the last one.
            () = stop.cancelled(), if !last => continue,
        };
        sendings.count(sent.is_ok());
        if reachable != sent.is_ok() && !last {
            reachable = sent.is_ok();
            tell(&sent);
        }
    }
}

fn tell(sent: &Result<(), String>) {
    match sent {
        Ok(()) => tracing::info!("the collector takes metrics again"),
        Err(why) => {
            tracing::warn!(
                why,
                "the collector takes no metrics; the next sending has them, too"
            );
        }
    }
}

/// Sends metrics; if the collector has not taken all of them, why.
async fn export(
    client: &mut MetricsServiceClient<Channel>,
    line: &Line,
    text: &str,
    began_ns: u64,
) -> Result<(), String> {
    let times = Times {
        began_ns,
        read_ns: unix_nanos(),
    };
    let message = ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(line.resource()),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(otlp::scope()),
                metrics: openmetrics::read(text, times),
                ..ScopeMetrics::default()
            }],
            ..ResourceMetrics::default()
        }],
    };
    let answer = client.export(line.request(message)).await;
    let answer = answer.map_err(|status| otlp::why(&status))?.into_inner();
    match answer.partial_success {
        Some(part) if part.rejected_data_points > 0 => Err("it refuses some of them".to_owned()),
        _ => Ok(()),
    }
}
