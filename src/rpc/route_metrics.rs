//! What `/metrics` tells of the route table.
//!
//! `latchkey_route_table_refused` is what to alert on: the file says something else than what
//! requests are judged by. Read when somebody asks.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use crate::routes::Live;

use super::metrics::{counter, gauge};

/// The numbers of a table in use.
#[derive(Debug)]
pub(super) struct RouteMetrics(pub(super) Arc<Live>);

impl Collector for RouteMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let out = &mut encoder;
        let counts = self.0.counts();
        let routes = self.0.current().len();
        gauge(out, "routes", "Routes in use", routes as u64)?;
        counter(
            out,
            "route_table_reloads",
            "Times that another route table was taken",
            counts.reloads,
        )?;
        counter(
            out,
            "route_table_refusals",
            "Route tables that were refused",
            counts.refusals,
        )?;
        gauge(
            out,
            "route_table_refused",
            "1 while the file of routes is refused and an older table is in use",
            counts.refused.into(),
        )
    }
}
