//! What a server tells about its work: metrics, access lines, traces.
//!
//! By the door of whoever reads them: the admin port and standard error.

mod metrics;
