//! Latchkey as the authorisation server of a real Envoy: what clients, upstreams and operators see.
//!
//! Each test has an Envoy of its own, with a service behind it that tells what reached it. What
//! Envoy's bytes mean is `golden`'s.

mod address;
mod answers;
mod bare;
mod burst;
mod certificates;
mod client;
mod config;
mod example;
mod facts;
mod failing_open;
mod fixed;
pub(crate) mod frames;
mod golden;
mod grpc;
mod hosts;
mod identity;
mod mesh;
mod outage;
mod paths;
mod process;
mod rolling;
mod routes;
mod secured;
mod sizes;
mod taken_back;
mod traced;
mod upstream;
