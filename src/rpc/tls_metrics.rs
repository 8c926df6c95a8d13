//! What `/metrics` tells of the certificate that the listeners show.
//!
//! `latchkey_tls_certificate_expires_seconds` is what to alert on, well before the time comes, with
//! `latchkey_tls_certificate_begins_seconds`, since what is well before it is a part of a life; and
//! `latchkey_tls_refused`: the files hold another certificate than the one in use. Read when
//! somebody asks.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use crate::tls::Live;

use super::metrics::{counter, gauge};

/// The numbers of the certificate in use.
#[derive(Debug)]
pub(super) struct TlsMetrics(pub(super) Arc<Live>);

impl Collector for TlsMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let out = &mut encoder;
        let counts = self.0.counts();
        let current = self.0.current();
        let [begins, ends] =
            [current.begins, current.ends].map(|at| u64::try_from(at).unwrap_or(0));
        gauge(
            out,
            "tls_certificate_begins_seconds",
            "When the certificate of the listeners begins, in Unix time",
            begins,
        )?;
        gauge(
            out,
            "tls_certificate_expires_seconds",
            "When the certificate of the listeners ends, in Unix time",
            ends,
        )?;
        counter(
            out,
            "tls_reloads",
            "Times that another certificate was loaded",
            counts.reloads,
        )?;
        counter(
            out,
            "tls_refusals",
            "TLS files that were refused",
            counts.refusals,
        )?;
        gauge(
            out,
            "tls_refused",
            "1 while TLS files are refused and what was before is in use",
            counts.refused.into(),
        )
    }
}
