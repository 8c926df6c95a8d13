//! The terms of the glossary as types: tokens, permissions, changes, reasons, clocks.
//!
//! Everything is parsed once and then held in a type that proves it. Knows no I/O, no clock but
//! its trait, no SQL and no gRPC; the only protobuf here is the log's own, in `wire`.

pub mod assertion;
pub mod chain;
pub mod change;
pub mod clock;
pub mod entropy;
pub mod entry;
pub mod format;
pub mod grammar;
pub mod histogram;
mod json;
pub mod key;
pub mod key_pair;
pub mod limits;
pub mod login;
pub mod peer;
mod pem;
pub mod permission;
pub mod principal;
pub mod reason;
pub mod refusal;
pub mod scopes;
pub mod seal;
pub mod token;
pub mod traced;
mod wire;
