//! Membership, leases and wake-ups: what several servers on one database know of each other.
//!
//! A second trait beside [`super::Store`], for the stores that more than one process can use. It
//! keeps rows and answers; when a lease is renewed, how long it holds, whom a barrier waits for
//! and what divergence means is decided in `replica`, not here. Every call is bounded by the
//! store's own deadline, and none takes a connection that lists or appends wait for.

use async_trait::async_trait;
use tokio::sync::watch;

use super::StoreError;
use crate::domain::chain::{Head, RevisionNumber};
use crate::domain::clock::UnixMs;
use crate::domain::entry::LogEntry;

/// One run of a server: random, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Incarnation(pub [u8; 16]);

/// A server that becomes a member.
#[derive(Clone, Debug)]
pub struct Joining {
    /// This run.
    pub incarnation: Incarnation,
    /// What people call it.
    pub name: String,
    /// Where it is reached.
    pub address: String,
    /// How long a lease of its own holds; 0 until it renews for the first time.
    pub lease_ms: u64,
    /// The newest format of entries that it reads.
    pub format_max: u32,
    /// Whether it answers after its lease has ended, too.
    pub serves_stale: bool,
    /// The ids of the seal keys that it has loaded.
    pub keys: Vec<u32>,
}

/// What a member says when it renews its lease.
#[derive(Clone, Debug)]
pub struct Renewal {
    /// This run.
    pub incarnation: Incarnation,
    /// How long the lease will hold.
    pub lease_ms: u64,
    /// The newest revision that its checks answer from, and the chain there.
    pub applied: Head,
    /// The ids of the seal keys that it has loaded.
    pub keys: Vec<u32>,
}

/// What came of a renewal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewed {
    /// The member's row was written durably, and then this was read.
    Held {
        /// The head of the log.
        head: Head,
        /// The chain hash at the revision that was applied; none where the log has none.
        chain_at_applied: Option<[u8; 32]>,
        /// The database's clock.
        database_ms: UnixMs,
        /// Which history of the database answered.
        history: History,
    },
    /// There is no such member (removed as dead, or another database): join anew.
    Unknown,
}

/// What tells one history of a database from another: a failover begins a new timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct History {
    /// The identity that the database cluster was made with.
    pub system: u64,
    /// The timeline that it writes.
    pub timeline: u32,
}

/// A member as its row says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The run.
    pub incarnation: Incarnation,
    /// What people call it.
    pub name: String,
    /// Where it is reached.
    pub address: String,
    /// How long a lease of its own holds; 0 while it has none.
    pub lease_ms: u64,
    /// How often it has renewed its lease.
    pub heartbeat: u64,
    /// The newest revision that it has reported.
    pub applied: RevisionNumber,
    /// The newest format of entries that it reads.
    pub format_max: u32,
    /// When it joined, by the database's clock.
    pub joined_ms: UnixMs,
    /// When it last reported or renewed, by the database's clock.
    pub reported_ms: UnixMs,
    /// Whether it answers after its lease has ended, too.
    pub serves_stale: bool,
    /// The ids of the seal keys that it has loaded, as it last said: none of a version that knows
    /// no such keys.
    pub keys: Vec<u32>,
}

/// All members at one moment.
#[derive(Clone, Debug)]
pub struct Roster {
    /// The members, by incarnation.
    pub members: Vec<Member>,
    /// The cluster's own lease: no shorter than that of any member that is there. It gets shorter
    /// when one joins or leaves, or is removed.
    pub lease_ms: u64,
    /// The head of the log at that moment.
    pub head: Head,
    /// The database's clock.
    pub database_ms: UnixMs,
}

/// What servers on one database know of each other.
///
/// Errors: [`StoreError::Unavailable`] when surely nothing was written,
/// [`StoreError::OutcomeUnknown`] when it is not known.
#[async_trait]
pub trait Cluster: Send + Sync {
    /// Becomes a member, durably; returns the cluster's lease in milliseconds, which is at least
    /// the member's own. A member that does not read the log's format is refused with
    /// [`StoreError::Format`]; while it is one, the level is not raised beyond what it reads.
    async fn join(&self, joining: &Joining) -> Result<u64, StoreError>;

    /// Renews a lease by one durable write, and says what the log's head is after it. Reports
    /// what was applied, too, as [`Cluster::report`] does.
    async fn renew(&self, renewal: &Renewal) -> Result<Renewed, StoreError>;

    /// Reports what was applied; needs no durability and never takes a report back. What is not in
    /// this log is not taken: after a failover its number may stand for something else.
    async fn report(&self, incarnation: Incarnation, applied: Head) -> Result<(), StoreError>;

    /// All members, read after this call began.
    async fn roster(&self) -> Result<Roster, StoreError>;

    /// Ends a membership whose lease has ended; no error if there was none.
    async fn leave(&self, incarnation: Incarnation) -> Result<(), StoreError>;

    /// Removes a member if its heartbeat is still the one that was observed; says whether it did.
    async fn remove(&self, incarnation: Incarnation, heartbeat: u64) -> Result<bool, StoreError>;

    /// Reads the log for the keeper as [`super::Store::changes_after`] does, on a connection that
    /// nobody else reads by.
    async fn feed(
        &self,
        revision: RevisionNumber,
        limit: usize,
    ) -> Result<Vec<LogEntry>, StoreError>;

    /// Moves at every wake-up and at every new connection that listens for them. A hint: wake-ups
    /// get lost, and some poolers swallow them all.
    fn wakes(&self) -> watch::Receiver<u64>;
}
