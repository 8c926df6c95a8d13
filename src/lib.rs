//! Latchkey is a token authority: internal services issue, check and revoke bearer tokens.
//!
//! ```text
//! main ─► cli ─► config, telemetry
//!          ├──► rpc ─► authority ─► replica ─► state, store (trait)
//!          │     └──► routes, tls
//!          └──► store::embedded                 all of them ─► domain
//! ```
//!
//! The README has the concepts and the code map; `state` is where decisions are made.

pub mod authority;
pub mod cli;
#[cfg(feature = "client")]
pub mod client;
pub mod config;
pub mod domain;
pub mod followed;
pub mod proto;
pub mod replica;
pub mod routes;
pub mod rpc;
pub mod seal;
pub mod state;
pub mod store;
pub mod telemetry;
pub mod tls;
