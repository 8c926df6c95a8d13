//! TLS on the listeners: who is let in, what is said of it, and what follows from who it is.
//!
//! By the doors that clients take: the commands, the library's client, bare handshakes, Envoy and
//! Python's grpcio. Certificates are made while the tests run.

mod access;
mod handshake;
pub(crate) mod kit;
mod reload;
pub(crate) mod replicas;
mod start;
mod workload;
