//! What `/metrics` tells of the replica: its State, its writer, its lease and its store.
//!
//! Read when somebody asks; nothing of it costs anything before. A server that has its store to
//! itself has no lease, and shows none.

use std::fmt;
use std::sync::atomic::Ordering;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::authority::{Authority, Operation};

use super::metrics::{counter, family, gauge, histogram};

/// What `State::token_bytes` counts apart.
const TOKEN_PARTS: [&str; 3] = ["index", "extensions", "scopes"];

/// The numbers of the replica behind an authority.
pub(super) struct ReplicaMetrics(pub(super) Authority);

impl fmt::Debug for ReplicaMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReplicaMetrics")
    }
}

impl Collector for ReplicaMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let out = &mut encoder;
        self.writer(out)?;
        self.store(out)?;
        self.lease(out)?;
        let (tokens, bytes, principals) = self.0.sizes();
        let revision = self.0.head().revision;
        gauge(out, "revision", "Newest published revision", revision)?;
        gauge(out, "tokens", "Tokens in memory", tokens as u64)?;
        gauge(out, "principals", "Principals", principals as u64)?;
        let help = "Memory that tokens take";
        let mut parts = out.encode_descriptor("token_bytes", help, None, MetricType::Gauge)?;
        for (part, bytes) in TOKEN_PARTS.iter().zip(bytes) {
            let value = ConstGauge::new(bytes as u64);
            value.encode(parts.encode_family(&[("part", *part)])?)?;
        }
        Ok(())
    }
}

impl ReplicaMetrics {
    fn writer(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let writer = self.0.counters();
        for (name, help, value) in [
            ("batches", "Batches appended", &writer.batches),
            ("entries", "Log entries appended", &writer.entries),
            ("commands_refused", "Commands refused", &writer.refused),
            (
                "store_conflicts",
                "Appends on a head that had moved",
                &writer.conflicts,
            ),
            (
                "unknown_outcomes",
                "Appends that had to be settled",
                &writer.unknown_outcomes,
            ),
            (
                "store_errors",
                "Appends the store could not take",
                &writer.store_errors,
            ),
            (
                "divergences",
                "Times State was not what the log says",
                &writer.divergences,
            ),
            (
                "last_used_dropped",
                "Last uses of tokens without room or time to be noted",
                &writer.last_used_dropped,
            ),
            (
                "logins_dropped",
                "Logins without room or time to be recorded",
                &writer.logins_dropped,
            ),
        ] {
            counter(out, name, help, value.load(Ordering::Relaxed))?;
        }
        Ok(())
    }

    fn store(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let counters = self.0.counters();
        let help = "Log entries of a batch that was appended";
        let sizes = out.encode_descriptor("batch_entries", help, None, MetricType::Histogram)?;
        histogram(&counters.batch_entries.read(), sizes)?;
        let help = "Time that calls of the store took, by what they were for";
        let mut members =
            out.encode_descriptor("store_seconds", help, None, MetricType::Histogram)?;
        for operation in Operation::ALL {
            let times = counters.store.of(operation).times.read();
            histogram(
                &times,
                members.encode_family(&[("operation", operation.name())])?,
            )?;
        }
        let help = "Calls that the store could not do, by what they were for";
        let mut members =
            out.encode_descriptor("store_failures", help, None, MetricType::Counter)?;
        for operation in Operation::ALL {
            let failures = counters
                .store
                .of(operation)
                .failures
                .load(Ordering::Relaxed);
            let labels = [("operation", operation.name())];
            ConstCounter::new(failures).encode(members.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn lease(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let counters = self.0.counters();
        family(
            out,
            "stale_checks",
            "Checks without a lease, by what was done",
            "outcome",
            [
                ("denied", &counters.stale_denied),
                ("served", &counters.stale_served),
            ]
            .into_iter(),
        )?;
        let answers = u64::from(self.0.may_answer());
        gauge(out, "serving", "1 while Checks are answered", answers)?;
        // A server that has its store to itself needs no lease.
        let Some(left_ms) = self.0.lease_left_ms() else {
            return Ok(());
        };
        let left = ConstGauge::new(left_ms as f64 / 1_000.0);
        let help = "What is left of the lease";
        left.encode(out.encode_descriptor(
            "lease_remaining_seconds",
            help,
            None,
            MetricType::Gauge,
        )?)?;
        let lag = self.0.counters().lag.load(Ordering::Relaxed);
        gauge(
            out,
            "replica_lag_revisions",
            "Revisions behind the log at the last renewal",
            lag,
        )?;
        let members = self.0.counters().members.load(Ordering::Relaxed);
        gauge(out, "replicas", "Replicas on the database", members)
    }
}
