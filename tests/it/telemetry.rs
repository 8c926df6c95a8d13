//! What a server tells about its work: metrics, access lines, traces.
//!
//! By the door of whoever reads them: the admin port, standard error, and a collector.

mod access;
pub(crate) mod collector;
mod given_up;
mod log;
mod metrics;
mod reached;
mod sent;
mod traces;

/// The value of a metric whose labels are these.
#[track_caller]
pub(crate) fn shown(text: &str, metric: &str) -> f64 {
    let found = crate::leaks::value(text, &format!("{metric} "));
    found.unwrap_or_else(|| panic!("{metric}: {text}"))
}
