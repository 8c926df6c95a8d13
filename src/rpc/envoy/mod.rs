//! ext_authz: Envoy asks before it lets a request pass (envoy.service.auth.v3.Authorization).
//!
//! ```text
//! question ─► attributes, headers ─► routes: what is needed ─► Check ─► answer
//!                └─► credential, address, workload ──────────────┘
//! ```
//!
//! Used by `server` as a direct service, beside CheckService. The decision is that of `check`;
//! here a request becomes its question, and its verdict what Envoy does. Whatever a client sends,
//! the answer is an allow or a denial: an error of gRPC lets a request pass where the operator
//! fails open, so only what an operator wrote at a route, `stale = "error"`, ends in one.

mod answer;
mod attributes;
mod counted;
mod denial;
mod headers;
mod sender;
mod service;

pub(super) use service::{EnvoyAnswering, EnvoyFront};

/// As Envoy's API has it.
pub(super) const SERVICE_NAME: &str = "envoy.service.auth.v3.Authorization";
