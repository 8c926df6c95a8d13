//! Spans on their way to a collector: a bounded queue, and a task that sends what is in it.
//!
//! ```text
//! hot path ────────────────► Spans ─► queue ─► SpanTask ─► collector
//! tracing spans ─► tracer ────┘
//! ```
//!
//! Whoever makes a span never waits: what finds no room is dropped and counted, and so is what the
//! collector does not take. Sent are at most so many at a time, and none waits longer than a moment
//! for others to go with.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, SpanFlags, Status};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanProcessor};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::otlp::{self, Line};

/// Spans that wait to be sent.
const QUEUE_MAX: usize = 2_048;
/// Spans that are sent together.
const SENT_MAX: usize = 512;
/// How long one waits for others to be sent with.
const GATHER: Duration = Duration::from_millis(500);
/// How long the last ones may take when the server ends.
const LAST: Duration = Duration::from_secs(2);
const SAMPLED: u32 = 1;

/// A span of a call, when it has ended.
#[derive(Clone, Debug, Default)]
pub struct CallSpan {
    /// The trace.
    pub trace: [u8; 16],
    /// This span.
    pub span: [u8; 8],
    /// The caller's; none if this is the first.
    pub parent: Option<[u8; 8]>,
    /// What the caller wrote beside it.
    pub state: String,
    /// The method, with its package and service.
    pub method: &'static str,
    /// Since the Unix epoch.
    pub began_ns: u64,
    /// The same.
    pub ended_ns: u64,
    /// Names with values.
    pub attributes: Vec<(&'static str, String)>,
    /// And numbers.
    pub numbers: Vec<(&'static str, i64)>,
    /// Whether the server has failed its caller.
    pub failed: bool,
}

/// Where spans go. Clones are handles to the same queue.
#[derive(Clone, Debug)]
pub struct Spans(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: mpsc::Sender<Span>,
    sent: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

/// The end of the queue, for the task that sends.
#[derive(Debug)]
pub struct Queue(mpsc::Receiver<Span>);

/// What became of spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanCounts {
    /// The collector took them.
    pub sent: u64,
    /// There was no room for them.
    pub dropped: u64,
    /// The collector did not take them.
    pub failed: u64,
}

impl Spans {
    /// An empty queue, and its end.
    #[must_use]
    pub fn queue() -> (Self, Queue) {
        let (queue, end) = mpsc::channel(QUEUE_MAX);
        let spans = Self(Arc::new(Shared {
            queue,
            sent: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }));
        (spans, Queue(end))
    }

    /// Queues the span of a call.
    pub fn ended(&self, call: CallSpan) {
        self.put(|| call.into());
    }

    /// What became of those that were made.
    #[must_use]
    pub fn counts(&self) -> SpanCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SpanCounts {
            sent: read(&self.0.sent),
            dropped: read(&self.0.dropped),
            failed: read(&self.0.failed),
        }
    }

    fn give_up(&self, count: u64) {
        self.0.failed.fetch_add(count, Ordering::Relaxed);
    }

    fn put(&self, make: impl FnOnce() -> Span) {
        match self.0.queue.try_reserve() {
            Ok(place) => place.send(make()),
            Err(_) => _ = self.0.dropped.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Sends what is queued from now on; ended by its task.
    #[must_use]
    pub fn send(&self, queue: Queue, line: Line) -> SpanTask {
        let stop = CancellationToken::new();
        let task = tokio::spawn(send(self.clone(), queue.0, line, stop.clone()));
        SpanTask { task, stop }
    }
}

/// The spans that tracing makes of its own.
impl SpanProcessor for Spans {
    fn on_start(&self, _: &mut opentelemetry_sdk::trace::Span, _: &opentelemetry::Context) {}

    fn on_end(&self, span: SpanData) {
        self.put(|| span.into());
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl From<CallSpan> for Span {
    fn from(call: CallSpan) -> Self {
        let texts = call.attributes.into_iter();
        let texts = texts.map(|(name, value)| otlp::text(name, value));
        let numbers = call.numbers.into_iter();
        let numbers = numbers.map(|(name, value)| otlp::attribute(name, Value::IntValue(value)));
        let remote = match call.parent {
            Some(_) => SpanFlags::ContextIsRemoteMask as u32,
            None => 0,
        };
        Self {
            trace_id: call.trace.to_vec(),
            span_id: call.span.to_vec(),
            trace_state: call.state,
            parent_span_id: call.parent.map(|span| span.to_vec()).unwrap_or_default(),
            flags: SAMPLED | SpanFlags::ContextHasIsRemoteMask as u32 | remote,
            name: call.method.to_owned(),
            kind: SpanKind::Server.into(),
            start_time_unix_nano: call.began_ns,
            end_time_unix_nano: call.ended_ns,
            attributes: texts.chain(numbers).collect(),
            status: call.failed.then(|| Status {
                code: StatusCode::Error.into(),
                ..Status::default()
            }),
            ..Self::default()
        }
    }
}

/// Sends spans.
#[derive(Debug)]
pub struct SpanTask {
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl SpanTask {
    /// Sends what is queued if that can be done in a moment, and ends.
    pub async fn stop(self) {
        self.stop.cancel();
        // It ends by itself; a panic in it was told of.
        let _ = self.task.await;
    }
}

async fn send(spans: Spans, mut queue: mpsc::Receiver<Span>, line: Line, stop: CancellationToken) {
    let mut client = TraceServiceClient::new(line.channel());
    let mut reachable = true;
    let mut over = pin!(ended(&stop));
    loop {
        let mut gathered = Vec::new();
        let begun = tokio::select! {
            biased;
            // What is queued is sent before the end.
            begun = queue.recv_many(&mut gathered, SENT_MAX) => begun,
            () = stop.cancelled() => break,
        };
        if begun == 0 {
            break;
        }
        // Others that come in a moment go with it.
        let others = async {
            while gathered.len() < SENT_MAX {
                let room = SENT_MAX - gathered.len();
                queue.recv_many(&mut gathered, room).await;
            }
        };
        tokio::select! {
            _ = timeout(GATHER, others) => {}
            () = stop.cancelled() => {}
        }
        let count = gathered.len() as u64;
        let sent = tokio::select! {
            sent = export(&mut client, &line, gathered, &spans) => sent,
            // Whoever has not answered by then answers no more.
            () = &mut over => {
                spans.give_up(count);
                break;
            }
        };
        if reachable != sent.is_ok() {
            reachable = sent.is_ok();
            tell(&sent);
        }
    }
    spans.give_up(queue.len() as u64);
    let lost = spans.counts();
    if lost.dropped + lost.failed > 0 {
        let (sent, dropped, failed) = (lost.sent, lost.dropped, lost.failed);
        tracing::warn!(sent, dropped, failed, "not all spans were sent");
    }
}

/// Comes when the server ends and the last sendings have had their time.
async fn ended(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(LAST).await;
}

fn tell(sent: &Result<(), String>) {
    match sent {
        Ok(()) => tracing::info!("the collector takes spans again"),
        Err(why) => {
            tracing::warn!(
                why,
                "the collector takes no spans; they are counted and given up"
            );
        }
    }
}

/// Sends spans together; if the collector has taken none of them, why.
async fn export(
    client: &mut TraceServiceClient<tonic::transport::Channel>,
    line: &Line,
    gathered: Vec<Span>,
    spans: &Spans,
) -> Result<(), String> {
    let count = gathered.len() as u64;
    let message = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(line.resource()),
            scope_spans: vec![ScopeSpans {
                scope: Some(otlp::scope()),
                spans: gathered,
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
    };
    let call = client.export(line.request(message));
    let answer = timeout(line.timeout(), call).await;
    let (refused, why) = match answer {
        Ok(Ok(answer)) => {
            let part = answer.into_inner().partial_success;
            let refused = part.map_or(0, |part| part.rejected_spans);
            let refused = u64::try_from(refused).unwrap_or(0).min(count);
            (refused, "it refuses all of them".to_owned())
        }
        Ok(Err(status)) => (count, otlp::why(&status)),
        Err(_) => (count, otlp::LATE.to_owned()),
    };
    spans.0.failed.fetch_add(refused, Ordering::Relaxed);
    spans.0.sent.fetch_add(count - refused, Ordering::Relaxed);
    if refused < count { Ok(()) } else { Err(why) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_finds_no_room_is_dropped_and_counted() {
        let (spans, mut queue) = Spans::queue();
        for _ in 0..QUEUE_MAX + 3 {
            spans.ended(CallSpan::default());
        }
        assert_eq!(spans.counts().dropped, 3);
        assert!(queue.0.try_recv().is_ok());
        spans.ended(CallSpan::default());
        assert_eq!(spans.counts().dropped, 3);
    }

    #[test]
    fn a_call_is_a_span_of_a_server_in_its_callers() {
        let call = CallSpan {
            trace: [1; 16],
            span: [2; 8],
            parent: Some([3; 8]),
            method: "a.B/C",
            began_ns: 5,
            ended_ns: 7,
            attributes: vec![("rpc.system.name", "grpc".to_owned())],
            numbers: vec![("latchkey.checks", 2)],
            failed: true,
            ..CallSpan::default()
        };
        let span = Span::from(call.clone());
        assert_eq!(span.trace_id, [1; 16]);
        assert_eq!(span.parent_span_id, [3; 8]);
        assert_eq!(span.kind(), SpanKind::Server);
        assert_eq!((span.flags, span.name.as_str()), (0x301, "a.B/C"));
        assert_eq!(span.attributes.len(), 2);
        assert_eq!(span.status.unwrap().code(), StatusCode::Error);
        let first = Span::from(CallSpan {
            parent: None,
            failed: false,
            ..call
        });
        assert_eq!((first.parent_span_id.len(), first.flags), (0, 0x101));
        assert_eq!(first.status, None);
    }
}
