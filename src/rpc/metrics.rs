//! What the port counts, and all that `/metrics` shows.
//!
//! Used by the services, the listener and the admin port. What a Check pays is in `check_metrics`;
//! the numbers of the replica and of the process are read when somebody asks.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeMetric as _, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::authority::Authority;
use crate::domain::histogram::Reading;
use crate::domain::login::LoginMethod;
use crate::domain::peer::Group;
use crate::domain::reason::Reason;
use crate::domain::token::TokenKind;

use super::admin::Files;
use super::canary_metrics::CanaryMetrics;
pub(super) use super::canary_metrics::CanaryRun;
use super::check_metrics::CheckMetrics;
pub(super) use super::check_metrics::Way;
use super::observe::Observer;
use super::process_metrics::ProcessMetrics;
use super::rates::Limit;
use super::replica_metrics::ReplicaMetrics;
use super::route_metrics::RouteMetrics;
use super::seal_metrics::SealMetrics;
use super::tls_metrics::TlsMetrics;

/// In front of the names that are ours.
const PREFIX: &str = "latchkey";

type Labels<const N: usize> = [(&'static str, String); N];

/// Why a connection was closed by us before it could ask anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// There are as many as may be.
    Total,
    /// There are as many as may be from its address.
    Peer,
    /// Its first bytes did not come in time.
    Silent,
    /// The handshake of TLS failed.
    Handshake,
}

impl Refused {
    const ALL: [Self; 4] = [Self::Total, Self::Peer, Self::Silent, Self::Handshake];

    fn name(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Peer => "peer",
            Self::Silent => "silent",
            Self::Handshake => "handshake",
        }
    }
}

/// Why a connection that could ask was ended by us in the midst of what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// Its peer takes nothing of what it is sent.
    Stalled,
    /// It was asked to end, and has not.
    Age,
}

impl Cut {
    const ALL: [Self; 2] = [Self::Stalled, Self::Age];

    fn name(self) -> &'static str {
        match self {
            Self::Stalled => "stalled",
            Self::Age => "age",
        }
    }
}

/// What became of a request that Envoy asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passed {
    /// It passes with its token.
    Allowed,
    /// It passes without one.
    Anonymous,
    /// It does not pass.
    Denied,
    /// It does not pass because nobody could tell.
    Unavailable,
    /// Envoy is told of an error and does as it is set.
    Error,
}

impl Passed {
    const ALL: [Self; 5] = [
        Self::Allowed,
        Self::Anonymous,
        Self::Denied,
        Self::Unavailable,
        Self::Error,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Anonymous => "anonymous",
            Self::Denied => "denied",
            Self::Unavailable => "unavailable",
            Self::Error => "error",
        }
    }
}

/// The counters of one server. Clones are handles to the same ones.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Counted>);

struct Counted {
    checks: CheckMetrics,
    connections: AtomicU64,
    refused: [AtomicU64; Refused::ALL.len()],
    cut: [AtomicU64; Cut::ALL.len()],
    shed: AtomicU64,
    rate_limited: [AtomicU64; Limit::ALL.len()],
    kept_out: [AtomicU64; Group::ALL.len()],
    envoy: [AtomicU64; Passed::ALL.len()],
    checks_refused: Family<Labels<1>, Counter>,
    calls: Family<Labels<2>, Counter>,
    logins: Family<Labels<2>, Counter>,
    seconds: Family<Labels<1>, Histogram, fn() -> Histogram>,
    waited: Family<Labels<1>, Histogram, fn() -> Histogram>,
    canary: CanaryMetrics,
    observer: Observer,
}

impl Default for Counted {
    fn default() -> Self {
        Self {
            checks: CheckMetrics::default(),
            connections: AtomicU64::new(0),
            refused: Default::default(),
            cut: Default::default(),
            shed: AtomicU64::new(0),
            rate_limited: Default::default(),
            kept_out: Default::default(),
            envoy: Default::default(),
            checks_refused: Family::default(),
            calls: Family::default(),
            logins: Family::default(),
            // 0.5 ms to 16 s: from a read to beyond the longest request.
            seconds: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.000_5, 2.0, 16))
            }),
            waited: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.000_5, 2.0, 16))
            }),
            canary: CanaryMetrics::default(),
            observer: Observer::default(),
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// Nothing was counted yet, and this is told of single questions.
    #[must_use]
    pub fn with(observer: Observer) -> Self {
        Self(Arc::new(Counted {
            observer,
            ..Counted::default()
        }))
    }

    /// What is told of single questions.
    pub(super) fn observer(&self) -> &Observer {
        &self.0.observer
    }

    /// Counts a decided question, about a token of this kind if one is known.
    #[inline]
    pub(super) fn checked(&self, reason: Reason, kind: Option<TokenKind>) {
        self.0.checks.decided(reason, kind);
    }

    /// Notes how long a question, or a batch of them, took from its arrival to its answer.
    #[inline]
    pub(super) fn answered(&self, way: Way, time: Duration) {
        self.0.checks.took(way, time);
    }

    /// Counts a request that Envoy asked about.
    #[inline]
    pub(super) fn passed(&self, passed: Passed) {
        self.0.envoy[passed as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a Check, a batch or a stream's question that was refused, by its stable reason.
    pub(super) fn check_refused(&self, reason: &'static str) {
        let labels = [("reason", reason.to_owned())];
        self.0.checks_refused.get_or_create(&labels).inc();
    }

    /// Counts a management call that was answered.
    pub(super) fn called(&self, method: &str, code: &'static str, took: Duration) {
        let labels = [("method", method.to_owned()), ("code", code.to_owned())];
        self.0.calls.get_or_create(&labels).inc();
        let labels = [("method", method.to_owned())];
        let seconds = self.0.seconds.get_or_create(&labels);
        seconds.observe(took.as_secs_f64());
    }

    /// Counts a login by what became of it.
    pub(super) fn logged_in(&self, method: LoginMethod, outcome: &'static str) {
        let method = ("method", method.name().to_owned());
        let labels = [method, ("outcome", outcome.to_owned())];
        self.0.logins.get_or_create(&labels).inc();
    }

    /// Counts a write that waited until it was enforced: `confirmed`, `committed` or `lost`.
    pub(super) fn waited(&self, outcome: &'static str, took: Duration) {
        let labels = [("outcome", outcome.to_owned())];
        let seconds = self.0.waited.get_or_create(&labels);
        seconds.observe(took.as_secs_f64());
    }

    /// Notes that a canary drills so often.
    pub(super) fn canary_begins(&self, every: Duration) {
        self.0.canary.begins(every);
    }

    /// Counts a drill of the canary's.
    pub(super) fn canary_ran(&self, run: CanaryRun) {
        self.0.canary.ran(run);
    }

    /// Notes how long a drill's revocation took to be confirmed.
    pub(super) fn canary_confirmed(&self, took: Duration) {
        self.0.canary.confirmed(took);
    }

    /// Notes how long a replica took to deny.
    pub(super) fn canary_denied(&self, replica: &str, took: Duration) {
        self.0.canary.denied(replica, took);
    }

    /// Counts checks that were allowed and must not have been.
    pub(super) fn canary_violated(&self, checks: u64) {
        self.0.canary.violated(checks);
    }

    /// Counts a connection that was opened.
    pub(super) fn opened(&self) {
        self.0.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection that was closed.
    pub(super) fn closed(&self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a connection that was refused.
    pub(super) fn refused(&self, why: Refused) {
        self.0.refused[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection that was cut.
    #[cold]
    pub(super) fn cut(&self, why: Cut) {
        self.0.cut[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Those that were counted, for tests.
    #[cfg(test)]
    pub(super) fn cuts(&self) -> [u64; Cut::ALL.len()] {
        self.0.cut.each_ref().map(|cut| cut.load(Ordering::Relaxed))
    }

    /// Counts a request that was turned away because too many were waiting.
    pub(super) fn shed(&self) {
        self.0.shed.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a call that came too fast.
    #[cold]
    pub(super) fn rate_limited(&self, limit: Limit) {
        self.0.rate_limited[limit as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a call that the access lists keep its peer from.
    #[cold]
    pub(super) fn kept_out(&self, group: Group) {
        self.0.kept_out[group as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Everything that `/metrics` shows.
    pub(super) fn registry(&self, authority: Authority, files: Files) -> Registry {
        let mut all = Registry::default();
        // Their names are everybody's.
        all.register_collector(Box::new(ProcessMetrics));
        let registry = all.sub_registry_with_prefix(PREFIX);
        registry.register(
            "checks_refused",
            "Checks that were refused, not decided, by reason",
            self.0.checks_refused.clone(),
        );
        registry.register("calls", "Management calls by outcome", self.0.calls.clone());
        registry.register(
            "logins",
            "Logins by method and outcome",
            self.0.logins.clone(),
        );
        registry.register(
            "call_seconds",
            "Time to the answer of management calls",
            self.0.seconds.clone(),
        );
        registry.register(
            "barrier_seconds",
            "Time that writes waited until every server enforced them, by outcome",
            self.0.waited.clone(),
        );
        self.0.canary.register(registry);
        registry.register_collector(Box::new(RouteMetrics(files.routes)));
        registry.register_collector(Box::new(SealMetrics {
            live: files.seals,
            authority: authority.clone(),
        }));
        if let Some(tls) = files.tls {
            registry.register_collector(Box::new(TlsMetrics(tls)));
        }
        registry.register_collector(Box::new(Scrape(self.clone())));
        registry.register_collector(Box::new(ReplicaMetrics(authority)));
        all
    }
}

struct Scrape(Metrics);

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let out = &mut encoder;
        let counted = &*(self.0).0;
        counted.checks.encode(out)?;
        counted.canary.encode(out)?;
        let by_outcome = Passed::ALL.iter().map(|passed| passed.name());
        family(
            out,
            "envoy_requests",
            "Requests that Envoy asked about, by what became of them",
            "outcome",
            by_outcome.zip(&counted.envoy),
        )?;
        let by_why = Refused::ALL.iter().map(|why| why.name());
        let refused = by_why.zip(&counted.refused);
        family(
            out,
            "connections_refused",
            "Connections closed unasked",
            "why",
            refused,
        )?;
        let by_why = Cut::ALL.iter().map(|why| why.name());
        family(
            out,
            "connections_cut",
            "Connections cut that took nothing of what they were sent, or that did not end by then",
            "why",
            by_why.zip(&counted.cut),
        )?;
        let by_group = Group::ALL.iter().map(|group| group.name());
        family(
            out,
            "access_refused",
            "Calls that the access lists keep their peer from",
            "group",
            by_group.zip(&counted.kept_out),
        )?;
        counter(
            out,
            "requests_shed",
            "Requests turned away under load",
            counted.shed.load(Ordering::Relaxed),
        )?;
        let by_limit = Limit::ALL.iter().map(|limit| limit.name());
        family(
            out,
            "calls_rate_limited",
            "Calls turned away because their address asks too fast",
            "limit",
            by_limit.zip(&counted.rate_limited),
        )?;
        told(&counted.observer, out)?;
        let connections = counted.connections.load(Ordering::Relaxed);
        gauge(out, "connections", "Open connections", connections)
    }
}

/// What became of what is told of single calls, and of these metrics themselves.
fn told(observer: &Observer, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    if let Some([left_out, dropped]) = observer.lost_access_lines() {
        let help = "Denials without an access line because there were too many a second";
        counter(out, "access_lines_left_out", help, left_out)?;
        let help = "Access lines that were dropped because there were more than could be made up";
        counter(out, "access_lines_dropped", help, dropped)?;
    }
    if let Some(lost) = observer.lost_lines() {
        let help = "Log lines that were dropped because whoever reads the log is too slow";
        counter(out, "log_lines_dropped", help, lost)?;
    }
    if let Some(spans) = observer.span_counts() {
        counter(
            out,
            "spans_sent",
            "Spans that the collector took",
            spans.sent,
        )?;
        let help = "Calls without a span because too many callers sample";
        counter(out, "traces_left_out", help, observer.traces_left_out())?;
        let help = "Spans that there was no room for";
        counter(out, "spans_dropped", help, spans.dropped)?;
        let help = "Spans that the collector did not take";
        counter(out, "spans_failed", help, spans.failed)?;
    }
    if let Some(sendings) = observer.sendings() {
        let help = "Times that the collector took these metrics";
        counter(out, "metrics_sent", help, sendings.sent())?;
        let help = "Times that it did not take them";
        counter(out, "metrics_failed", help, sendings.failed())?;
    }
    Ok(())
}

pub(super) fn counter(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: u64,
) -> fmt::Result {
    let metric = ConstCounter::new(value);
    metric.encode(out.encode_descriptor(name, help, None, MetricType::Counter)?)
}

pub(super) fn gauge(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: u64,
) -> fmt::Result {
    ConstGauge::new(value).encode(out.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

pub(super) fn family<'a>(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &'static str,
    values: impl Iterator<Item = (&'static str, &'a AtomicU64)>,
) -> fmt::Result {
    let mut members = out.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (member, value) in values {
        let metric = ConstCounter::new(value.load(Ordering::Relaxed));
        metric.encode(members.encode_family(&[(label, member)])?)?;
    }
    Ok(())
}

/// Writes what was read of a histogram.
pub(super) fn histogram(read: &Reading, mut out: MetricEncoder<'_>) -> fmt::Result {
    out.encode_histogram::<NoLabelSet>(read.sum, read.count(), &read.buckets, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_counts_in_its_own_place() {
        for (number, why) in Refused::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, number);
        }
        for (number, why) in Cut::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, number);
        }
    }
}
