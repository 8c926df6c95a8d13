//! What a server tells about its work: metrics, access lines, traces.
//!
//! By the door of whoever reads them: the admin port and standard error.

mod access;
mod metrics;

/// The value of a metric whose labels are these.
#[track_caller]
fn shown(text: &str, metric: &str) -> f64 {
    let found = crate::leaks::value(text, &format!("{metric} "));
    found.unwrap_or_else(|| panic!("{metric}: {text}"))
}
