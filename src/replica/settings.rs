//! What of a replica can be set, and the bounds of what cannot.
//!
//! Made by `cli` from the configuration, and by tests. A setting is read once, at the start: a
//! server with another one is another run of it.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use crate::domain::format::format_max;
use crate::domain::seal::ring::Ring;
use crate::state::decide::Lifetimes;

#[cfg(test)]
use super::mutation::Mutation;
use super::used::LastUsedSettings;

/// Commands that may wait for the writer; more are refused at once.
pub const QUEUE_MAX: usize = 4_096;
/// Commands that are appended together at the most.
pub const BATCH_COMMANDS_MAX: usize = 200;
/// Bytes of bodies that are appended together, give or take one entry.
pub const BATCH_BYTES_MAX: usize = 1 << 20;

/// The longest lease that a server may hold: what a barrier promises when it could not read
/// the members.
pub const LEASE_MS_MAX: u64 = 300_000;

/// How leases are held, where several servers share a store.
#[derive(Clone, Copy, Debug)]
pub struct LeaseSettings {
    /// How long a lease holds after the clock was read that it begins with; at most
    /// [`LEASE_MS_MAX`].
    pub length_ms: u64,
    /// How much faster or slower than another a server's boot clock may run, in thousandths.
    pub slack_thousandths: u64,
    /// How often the log is read without a wake-up.
    pub poll: Duration,
    /// Whether Checks are answered without a lease: what was revoked may then be allowed.
    pub serve_stale: bool,
}

impl Default for LeaseSettings {
    fn default() -> Self {
        Self {
            length_ms: 5_000,
            slack_thousandths: 50,
            poll: Duration::from_millis(250),
            serve_stale: false,
        }
    }
}

impl LeaseSettings {
    // After so long on our clock, a lease of this length has ended on any other. One more, for
    // our clock is read in whole milliseconds.
    pub(super) fn with_slack(&self, length_ms: u64) -> u64 {
        length_ms + (length_ms * self.slack_thousandths).div_ceil(1_000) + 1
    }

    pub(super) fn renew_every(&self) -> Duration {
        Duration::from_millis((self.length_ms / 4).max(1))
    }
}

/// Who this server is to the others on its store.
#[derive(Clone, Debug)]
pub struct Identity {
    /// What people call it.
    pub name: String,
    /// Where it is reached.
    pub address: String,
    /// The newest format of entries that it reads, or that a log may be raised to while it is
    /// there: what it reads, or less.
    pub format_max: u32,
}

impl Default for Identity {
    fn default() -> Self {
        Self {
            name: String::new(),
            address: String::new(),
            format_max: format_max(),
        }
    }
}

/// What of the replica can be set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The longest life of each kind of token.
    pub lifetimes: Lifetimes,
    /// How many commands are appended together; 1 switches group commit off.
    pub batch_commands_max: usize,
    /// How long an ended token is kept before it is forgotten.
    pub forget_after_ms: u64,
    /// How often one of the 256 slices of the index is swept.
    pub forget_every_ms: u64,
    /// How leases are held.
    pub lease: LeaseSettings,
    /// How it is noted when tokens were last used; none where it is not.
    pub last_used: Option<LastUsedSettings>,
    /// Who this server is.
    pub identity: Identity,
    /// The keys that it has loaded to seal access tokens; whoever loads them puts others in place.
    pub seals: Arc<ArcSwap<Ring>>,
    /// Has the start given up, and what was joined left.
    pub given_up: CancellationToken,
    /// A rule to break.
    #[cfg(test)]
    pub(crate) mutation: Option<Mutation>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lifetimes: Lifetimes::default(),
            batch_commands_max: BATCH_COMMANDS_MAX,
            forget_after_ms: 24 * 60 * 60 * 1_000,
            forget_every_ms: 10_000,
            lease: LeaseSettings::default(),
            last_used: None,
            identity: Identity::default(),
            seals: Arc::default(),
            given_up: CancellationToken::new(),
            #[cfg(test)]
            mutation: None,
        }
    }
}
