//! What `/metrics` tells of the seal keys that are loaded.
//!
//! `latchkey_seal_keys_refused` is what to alert on: where the keys are, others are than those in
//! use. Read when somebody asks.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use crate::seal::Live;

use super::metrics::{counter, gauge};

/// The numbers of the keys in use.
#[derive(Debug)]
pub(super) struct SealMetrics(pub(super) Arc<Live>);

impl Collector for SealMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let out = &mut encoder;
        let counts = self.0.counts();
        let keys = self.0.current().ids().len();
        gauge(out, "seal_keys", "Seal keys that are loaded", keys as u64)?;
        counter(
            out,
            "seal_key_reloads",
            "Times that other seal keys were loaded",
            counts.reloads,
        )?;
        counter(
            out,
            "seal_key_refusals",
            "Seal keys that were refused",
            counts.refusals,
        )?;
        gauge(
            out,
            "seal_keys_refused",
            "1 while seal keys are refused and those before are in use",
            counts.refused.into(),
        )
    }
}
