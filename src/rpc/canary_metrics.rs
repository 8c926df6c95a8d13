//! What the canary exports: how long revocations took, by replica, and how its drills ended.
//!
//! Part of the port's metrics. Replicas are told apart by name, as many as there can be labels;
//! the others count as one. Whether drills still go well is seen by when one did last, beside how
//! often they should. Absent where no canary is, and the times where no drill ever ran: zeros would
//! look like answers.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::domain::clock::unix_nanos;

use super::metrics::gauge;

/// Names of replicas that are told apart.
const REPLICAS_MAX: usize = 64;
const OTHERS: &str = "others";

type Labels = [(&'static str, String); 1];
type Seconds = Family<Labels, Histogram, fn() -> Histogram>;
type Longest = Family<Labels, Gauge<f64, AtomicU64>>;

/// How a drill ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CanaryRun {
    /// Confirmed, and denied by every replica.
    Good,
    /// Not confirmed, or a replica could not be asked.
    Failed,
    /// A check was allowed after the confirmation.
    Violated,
}

impl CanaryRun {
    const ALL: [Self; 3] = [Self::Good, Self::Failed, Self::Violated];

    /// The word used in metrics.
    fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Failed => "failed",
            Self::Violated => "violated",
        }
    }
}

/// The canary's part of the metrics.
pub(super) struct CanaryMetrics {
    // In seconds; 0 where there is no canary.
    every: AtomicU64,
    // In Unix time; 0 before the first drill.
    last_good: AtomicU64,
    runs: Family<Labels, Counter>,
    violations: Counter,
    confirmed: Histogram,
    denied: Seconds,
    longest: Longest,
    // The longest of each replica; locked for a comparison, never across an await.
    longest_s: Mutex<BTreeMap<String, f64>>,
}

/// From half a millisecond to half a minute.
fn buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.000_5, 2.0, 17))
}

impl Default for CanaryMetrics {
    fn default() -> Self {
        Self {
            every: AtomicU64::new(0),
            last_good: AtomicU64::new(0),
            runs: Family::default(),
            violations: Counter::default(),
            confirmed: buckets(),
            denied: Family::new_with_constructor(buckets),
            longest: Family::default(),
            longest_s: Mutex::default(),
        }
    }
}

impl CanaryMetrics {
    /// A canary drills so often; each outcome is there, so that its first one is an increase.
    pub(super) fn begins(&self, every: Duration) {
        self.every.store(every.as_secs().max(1), Ordering::Relaxed);
        for run in CanaryRun::ALL {
            drop(self.runs(run));
        }
    }

    pub(super) fn ran(&self, run: CanaryRun) {
        self.runs(run).inc();
        // Where none was good yet it counts from the first that was not.
        if run == CanaryRun::Good || self.last_good.load(Ordering::Relaxed) == 0 {
            let now_s = unix_nanos() / 1_000_000_000;
            self.last_good.store(now_s, Ordering::Relaxed);
        }
    }

    fn runs(&self, run: CanaryRun) -> impl Deref<Target = Counter> {
        let labels = [("outcome", run.name().to_owned())];
        self.runs.get_or_create(&labels)
    }

    /// How often it drills, and when it did so well.
    pub(super) fn encode(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let read = |number: &AtomicU64| Some(number.load(Ordering::Relaxed)).filter(|it| *it > 0);
        if let Some(every) = read(&self.every) {
            let help = "How often the canary is to drill, on one replica of all";
            gauge(out, "canary_interval_seconds", help, every)?;
        }
        if let Some(last) = read(&self.last_good) {
            let help = "When a drill of this replica's was good last, in Unix time";
            gauge(out, "canary_last_good_seconds", help, last)?;
        }
        Ok(())
    }

    pub(super) fn violated(&self, checks: u64) {
        self.violations.inc_by(checks);
    }

    pub(super) fn confirmed(&self, took: Duration) {
        self.confirmed.observe(took.as_secs_f64());
    }

    pub(super) fn denied(&self, replica: &str, took: Duration) {
        let took_s = took.as_secs_f64();
        let mut longest = self
            .longest_s
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let is_told = longest.contains_key(replica) || longest.len() < REPLICAS_MAX;
        let name = if is_told { replica } else { OTHERS };
        let most = longest.entry(name.to_owned()).or_insert(0.0);
        *most = most.max(took_s);
        let most = *most;
        drop(longest);
        let labels = [("replica", name.to_owned())];
        self.denied.get_or_create(&labels).observe(took_s);
        self.longest.get_or_create(&labels).set(most);
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "canary_runs",
            "Drills of the canary, by how they ended",
            self.runs.clone(),
        );
        registry.register(
            "canary_violations",
            "Checks that were allowed after the revocation was confirmed",
            self.violations.clone(),
        );
        registry.register(
            "canary_confirmed_seconds",
            "From sending a revocation to its confirmation",
            self.confirmed.clone(),
        );
        registry.register(
            "canary_denied_seconds",
            "From sending a revocation to the first denial by a replica",
            self.denied.clone(),
        );
        registry.register(
            "canary_denied_seconds_max",
            "The longest of them since the start",
            self.longest.clone(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(metrics: &CanaryMetrics) -> String {
        let mut registry = Registry::with_prefix("latchkey");
        metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("a text");
        text
    }

    #[test]
    fn every_end_of_a_drill_is_told_from_before_the_first_on() {
        let metrics = CanaryMetrics::default();
        assert!(!text_of(&metrics).contains("outcome"));
        metrics.begins(Duration::from_secs(1));
        // Before there is any: one that begins with a failure would never have increased.
        for good in [0, 1] {
            let text = text_of(&metrics);
            for (outcome, count) in [("good", good), ("failed", 0), ("violated", 0)] {
                let line = format!("latchkey_canary_runs_total{{outcome=\"{outcome}\"}} {count}\n");
                assert!(text.contains(&line), "{line}: {text}");
            }
            metrics.ran(CanaryRun::Good);
        }
    }

    #[test]
    fn replicas_beyond_the_limit_count_as_one() {
        let metrics = CanaryMetrics::default();
        for number in 0..REPLICAS_MAX + 10 {
            metrics.denied(&format!("replica-{number}"), Duration::from_millis(3));
        }
        metrics.denied("replica-0", Duration::from_millis(5));
        metrics.denied("replica-0", Duration::from_millis(4));
        let longest = metrics.longest_s.lock().expect("unpoisoned");
        assert_eq!(longest.len(), REPLICAS_MAX + 1);
        assert_eq!(longest.get("replica-0"), Some(&0.005));
        assert_eq!(longest.get(OTHERS), Some(&0.003));
        drop(longest);
        let text = text_of(&metrics);
        let line = "latchkey_canary_denied_seconds_max{replica=\"replica-0\"} 0.005";
        assert!(text.contains(line), "{text}");
    }
}
