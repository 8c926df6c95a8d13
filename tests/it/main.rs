//! The one integration binary: everything that is tested from outside the crate.
//!
//! A module here is a subject; its file says which door it tests by. Tests that run on a store
//! have its name (`embedded`, `postgres`) in theirs. A file that is not declared here fails `tidy`.

mod abuse;
mod barrier;
mod behind;
mod bootstrap;
mod callers;
mod chart;
mod cli;
mod clients;
mod crash;
mod credentials;
mod disk;
mod drill;
mod enforce;
mod envoy;
mod failover;
mod faults;
mod field;
mod fleet;
mod formats;
mod frozen;
mod image;
mod last_used;
mod leaks;
mod lifecycle;
mod logins;
mod manifests;
mod model;
mod moving;
mod outage;
mod postgres;
mod program;
mod proxy;
mod rates;
mod repeats;
mod replicas;
mod rolling;
mod routes;
mod scenes;
mod seal_keys;
mod stale;
mod store;
mod streams;
mod tampered;
mod telemetry;
mod tidy;
mod tls;
mod told;
mod trimmed;
mod watched;
mod wire;
