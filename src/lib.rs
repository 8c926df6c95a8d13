//! Latchkey is a token authority: internal services issue, check and revoke bearer tokens.
//!
//! ```text
//! main ─► cli ─► config, telemetry
//!          ├──► rpc ─► authority ─► replica ─► state, store (trait)
//!          └──► store::embedded                 all of them ─► domain
//! ```
//!
//! The README has the concepts and the code map; `state` is where decisions are made.

pub mod authority;
#[cfg(feature = "client")]
pub mod client;
pub mod domain;
pub mod proto;
pub mod replica;
pub mod state;
pub mod store;
pub mod cli;
pub mod config;
pub mod rpc;
pub mod telemetry;
