//! What is counted of every question: why it was decided so, about which kind, and how long it took.
//!
//! Part of the port's metrics. A question costs an increment of its counter, two readings of the
//! clock, and an increment and an addition of its histogram; no lock, no look-up. Absent on
//! purpose: anything by token, subject or resource, of which there are too many.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use crate::domain::histogram::Times;
use crate::domain::reason::Reason;
use crate::domain::token::TokenKind;

use super::metrics::histogram;

/// Every kind by its number, and 0 where no token is known.
const KINDS: usize = TokenKind::ALL.len() + 1;
/// What stands for no kind.
const NO_KIND: &str = "none";

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Alone.
    Check,
    /// With others.
    Batch,
    /// On a stream.
    Stream,
    /// From Envoy.
    Envoy,
}

impl Way {
    const ALL: [Self; 4] = [Self::Check, Self::Batch, Self::Stream, Self::Envoy];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Check => "CheckService/Check",
            Self::Batch => "CheckService/BatchCheck",
            Self::Stream => "CheckService/StreamCheck",
            Self::Envoy => "Authorization/Check",
        }
    }
}

/// The questions' part of the metrics.
#[derive(Default)]
pub(super) struct CheckMetrics {
    decided: [[AtomicU64; KINDS]; Reason::ALL.len()],
    times: [Times; Way::ALL.len()],
}

impl CheckMetrics {
    #[inline]
    pub(super) fn decided(&self, reason: Reason, kind: Option<TokenKind>) {
        let kind = kind.map_or(0, |kind| kind as usize);
        self.decided[reason as usize][kind].fetch_add(1, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn took(&self, way: Way, time: Duration) {
        self.times[way as usize].took(time);
    }

    pub(super) fn encode(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Checks by reason, and by kind of token where one is known";
        let mut members = out.encode_descriptor("checks", help, None, MetricType::Counter)?;
        for (reason, by_kind) in Reason::ALL.iter().zip(&self.decided) {
            let names = [NO_KIND]
                .into_iter()
                .chain(TokenKind::ALL.map(TokenKind::name));
            for (kind, count) in names.zip(by_kind) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 || can_be(*reason, kind) {
                    let labels = [("reason", reason.name()), ("kind", kind)];
                    ConstCounter::new(count).encode(members.encode_family(&labels)?)?;
                }
            }
        }
        let help = "Time from the arrival of a question to its answer, by the way it came";
        let mut members =
            out.encode_descriptor("check_seconds", help, None, MetricType::Histogram)?;
        for (way, times) in Way::ALL.iter().zip(&self.times) {
            histogram(
                &times.read(),
                members.encode_family(&[("method", way.name())])?,
            )?;
        }
        Ok(())
    }
}

/// Whether the pair is shown before it has been counted, so that its first one is an increase.
fn can_be(reason: Reason, kind: &str) -> bool {
    let knows_none = matches!(
        reason,
        Reason::Stale | Reason::NoToken | Reason::Malformed | Reason::Unknown
    );
    knows_none == (kind == NO_KIND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_kind_and_way_counts_in_its_own_place() {
        for (number, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number);
        }
        for (number, kind) in TokenKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, number + 1);
        }
        for (number, way) in Way::ALL.into_iter().enumerate() {
            assert_eq!(way as usize, number);
        }
    }
}
