//! Open files: as many as the process may have, and no more connections than leave some over.
//!
//! A container or a service manager often gives 1,024 and allows many more, since programs that use
//! `select(2)` cannot do with more; this one does not. Where even the most is too few, connections
//! are bounded, so that the admin port, the store and files that are followed always find one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

use super::failure::CliError;

/// What is open besides connections of the API and to the database: the admin port's connections,
/// the embedded store's files, what is followed, the runtime's own, and some to spare.
const RESERVED: u64 = 128;
/// Connections to the database beside its pool.
const DATABASE_BESIDE_POOL: u64 = 9;
/// Connections without which there is no serving.
const CONNECTIONS_MIN: usize = 16;

/// Raises the limit of open files, and bounds connections by what it leaves.
///
/// # Errors
/// Unavailable where it leaves next to nothing.
pub(super) fn fit(config: &mut Config) -> Result<(), CliError> {
    let Some(most) = raised() else {
        return Ok(());
    };
    let pool = u64::try_from(config.database.pool_size).unwrap_or(u64::MAX);
    let left = most.saturating_sub(RESERVED + DATABASE_BESIDE_POOL + pool);
    let left = usize::try_from(left).unwrap_or(usize::MAX);
    if left < CONNECTIONS_MIN {
        return Err(CliError::unavailable(format!(
            "the process may have only {most} files open (ulimit -n), which leaves no room for \
             connections"
        )));
    }
    let limits = &mut config.limits;
    if left < limits.connections_max {
        tracing::warn!(
            connections_max = left,
            files_max = most,
            "fewer connections than limits.connections_max are let in: the limit of open files \
             (ulimit -n) leaves no room for more"
        );
        limits.connections_max = left;
        limits.connections_per_peer_max = limits.connections_per_peer_max.min(left);
    }
    Ok(())
}

/// How many files may be open, once it is as many as are allowed; none for any number.
fn raised() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::debug!(%error, "the limit of open files stays as it is");
            limit.current
        }
    }
}
