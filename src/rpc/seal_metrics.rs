//! What `/metrics` tells of the seal keys that are loaded.
//!
//! `latchkey_seal_keys_refused` and `latchkey_seal_keys_missing` are what to alert on: where the keys
//! are, others are than those in use, or not all that the log knows. Read when somebody asks.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use crate::authority::Authority;
use crate::seal::Live;

use super::metrics::{counter, gauge};

/// The numbers of the keys in use.
pub(super) struct SealMetrics {
    pub(super) live: Arc<Live>,
    pub(super) authority: Authority,
}

impl fmt::Debug for SealMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealMetrics")
    }
}

impl Collector for SealMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let out = &mut encoder;
        let counts = self.live.counts();
        let keys = self.live.current().ids().len();
        gauge(out, "seal_keys", "Seal keys that are loaded", keys as u64)?;
        gauge(
            out,
            "seal_keys_missing",
            "Seal keys that the log knows as minting or verifying and that are not loaded",
            self.authority.missing_keys().len() as u64,
        )?;
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
