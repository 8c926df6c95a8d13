//! Spans of what is below a management call, by `tracing`: the call, what the writer does for it,
//! the barrier, the store.
//!
//! Used by `rpc` for the call itself; whatever runs within it makes spans by `tracing` alone and
//! knows nothing of this. Only a call that is sampled has one, and below nothing there is nothing:
//! so every span that is made is sent. Absent on purpose: log lines as events of spans.

use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState, TracerProvider as _,
};
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing::field::Empty;
use tracing::{Metadata, Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterExt as _, LevelFilter, filter_fn};
use tracing_subscriber::layer::Filter;
use tracing_subscriber::registry::LookupSpan;

use crate::domain::traced::TARGET;

use super::context::Parent;
use super::spans::Spans;

/// What makes spans of those of `tracing`.
pub(super) fn layer<S>(spans: Spans) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let provider = SdkTracerProvider::builder()
        // Who is not sampled has no span of `tracing` either.
        .with_sampler(Sampler::AlwaysOn)
        .with_span_processor(spans)
        .build();
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("latchkey"))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_level(false)
        .with_tracked_inactivity(false)
        .with_filter(filter_fn(is_ours).with_max_level_hint(LevelFilter::INFO))
}

fn is_ours(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && metadata.target() == TARGET
}

/// Log lines alone: spans are not for them.
pub(super) fn only_lines<S>(filter: impl Filter<S>) -> impl Filter<S> {
    let lines = filter_fn(|metadata: &Metadata<'_>| metadata.is_event());
    filter.and(lines.with_max_level_hint(LevelFilter::TRACE))
}

/// The span of a call that is sampled: below the caller's, or the first of a trace.
#[must_use]
pub fn call(method: &str, parent: Option<(Parent, &str)>) -> Span {
    let span = tracing::info_span!(
        target: TARGET,
        parent: None,
        "call",
        otel.name = method,
        otel.kind = "server",
        otel.status_code = Empty,
        rpc.system.name = "grpc",
        rpc.method = method,
        rpc.response.status_code = Empty,
        error.type = Empty,
        client.address = Empty,
        latchkey.reason = Empty,
        latchkey.token.id = Empty,
    );
    if let Some((parent, state)) = parent {
        let state = state.parse::<TraceState>().unwrap_or_default();
        let context = SpanContext::new(
            TraceId::from_bytes(parent.trace),
            SpanId::from_bytes(parent.span),
            TraceFlags::SAMPLED,
            true,
            state,
        );
        // Without anybody to send spans to there is nothing to set.
        let _ = span.set_parent(opentelemetry::Context::new().with_remote_span_context(context));
    }
    span
}
