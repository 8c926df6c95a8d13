//! Latchkey as the authorisation server of a real Envoy: what clients, upstreams and operators see.
//!
//! Each test has an Envoy of its own, with a service behind it that tells what reached it. What
//! Envoy's bytes mean is `golden`'s.

mod bare;
mod client;
mod config;
mod facts;
mod fixed;
mod golden;
mod grpc;
mod process;
mod upstream;
