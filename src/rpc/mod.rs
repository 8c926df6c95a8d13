//! The gRPC port: the only layer that knows tonic and protobuf.
//!
//! ```text
//! listen ─► front ─┬─► check, stream, envoy       straight: the hot path
//!                  └─► router ─► token, directory, roles, audit, cluster, health, reflection
//! ```
//!
//! Used by `cli`, which gives it a listener and says when to stop, and by the benchmark, which
//! serves an empty RPC the same way. It turns messages into the authority's verbs and back, holds
//! the limits of the open port, and sees neither store nor replica. `errors` alone makes codes.

mod admin;
mod audit;
mod auth;
mod canary;
mod canary_metrics;
mod changes;
mod check;
mod check_metrics;
mod cluster;
mod convert;
mod credentials;
mod directory;
pub mod drill;
mod enforce;
mod envoy;
mod errors;
mod explain;
mod fields;
mod front;
mod half;
mod health;
mod incoming;
mod keys;
mod listen;
mod login;
mod members;
mod metrics;
mod observe;
mod page;
mod places;
mod principals;
mod process_metrics;
mod question;
mod rates;
mod replica_metrics;
mod roles;
mod route_metrics;
mod scopes;
mod seal_metrics;
mod seats;
mod server;
mod straight;
mod stream;
mod tls_metrics;
mod token;
mod token_answer;
mod token_request;
mod unary;
mod unsent;
mod verify;
mod watch;
mod wire;

pub use admin::{Files, metrics_reader, serve_admin};
pub use canary::canary;
pub use front::{Direct, DirectAnswer};
pub use metrics::Metrics;
pub use observe::Observer;
pub use server::{Listening, ServeError, direct, routes, serve, serve_routes};
