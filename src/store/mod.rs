//! The store: what must last, in the log's terms. One trait, one conformance suite.
//!
//! A store appends batches by compare-and-append, keeps ordinary tables in the same transaction,
//! hands out a snapshot and the log after a revision, and lists pages for people. It holds no
//! rule of its own: what a change means is decided before it comes here. Used by the replica
//! (append, snapshot, log) and, through it, by the authority (lists). Deliberately absent:
//! anything that a Check would wait for.

pub mod cluster;
mod columns;
pub mod embedded;
pub mod export;
mod fault;
mod follow;
mod hex;
pub mod list;
pub mod logins;
pub mod postgres;
mod query;
pub mod transfer;

use async_trait::async_trait;
use thiserror::Error;
use tokio::sync::mpsc;

use crate::domain::chain::{Head, RevisionNumber};
pub use crate::domain::change::Row;
use crate::domain::clock::UnixMs;
use crate::domain::entry::{LogEntry, REQUEST_KEPT_MS};
use crate::domain::token::TokenId;

use cluster::Cluster;
use list::{
    GrantQuery, LastUsed, MemberQuery, Page, PrincipalQuery, RoleQuery, StoredGrant, StoredMember,
    StoredPrincipal, StoredRole, StoredToken, TokenQuery,
};
use logins::Logins;

/// Entries to append together, or none: then the append is a durable comparison with the head.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Random; settles an append whose outcome was not learnt.
    pub id: [u8; 16],
    /// The head that the entries were decided on.
    pub base: Head,
    /// The entries, dense from the base; none makes a durable write that changes nothing.
    pub entries: Vec<LogEntry>,
}

/// How much of the log may go: whole stretches of it, the oldest first.
#[derive(Clone, Copy, Debug)]
pub struct Trim {
    /// Entries before this instant.
    pub before_ms: UnixMs,
    /// Up to this revision: what an export has.
    pub upto: RevisionNumber,
    /// Now: what was answered to a request since [`REQUEST_KEPT_MS`] stays.
    pub now_ms: UnixMs,
}

impl Trim {
    // The answer to a repeat is read from the log.
    fn requests_from_ms(&self) -> UnixMs {
        self.now_ms.saturating_sub(REQUEST_KEPT_MS)
    }
}

/// What came of an append that the store understood.
#[derive(Clone, Debug)]
pub enum Appended {
    /// The head was the base; everything is durable.
    Committed,
    /// The head had moved; nothing was written, and these are the entries after the base, the
    /// first of them if they are many.
    Conflict(Vec<LogEntry>),
}

/// Why a store could not do what it was asked.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Not now, and nothing was written: ask again later.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The store refused this batch for a reason that will not pass; nothing was written.
    #[error("the store refuses the batch: {0}")]
    Refused(String),
    /// It is not known whether the batch was written.
    #[error("the outcome of the append is unknown: {0}")]
    OutcomeUnknown(String),
    /// The stored log or tables are damaged: a hole, a wrong hash, an unknown kind or version.
    #[error("the store is damaged at revision {revision}: {what}")]
    Damaged {
        /// The first revision that is wrong.
        revision: RevisionNumber,
        /// What is wrong with it.
        what: String,
    },
    /// The log may hold entries that this server does not read: a newer version reads it.
    #[error(
        "the log is of format {level} and this server reads formats up to {reads}: use a version \
         that reads it, or raise changes.format_max"
    )]
    Format {
        /// The log's format level.
        level: u32,
        /// The newest format that this server reads.
        reads: u32,
    },
    /// The log was trimmed and begins later: what was before is in an export.
    #[error(
        "the log was trimmed and begins after revision {}: revision {asked} is not in it",
        cut.revision
    )]
    Trimmed {
        /// What was asked for.
        asked: RevisionNumber,
        /// The last revision that was trimmed, with the chain at it.
        cut: Head,
    },
    /// The head is behind what this place has seen: an older copy that forgets revocations.
    #[error(
        "the store's head is revision {found}, but revision {seen} was seen here: an older copy \
         forgets revocations; accept it explicitly if that is intended"
    )]
    OlderCopy {
        /// The head of the store.
        found: RevisionNumber,
        /// The newest revision that the witness file names.
        seen: RevisionNumber,
    },
}

/// State at a head, as rows in the order of [`Row`]'s variants.
#[derive(Debug)]
pub struct Snapshot {
    /// The head that the rows belong to.
    pub head: Head,
    /// The instant of the head entry; 0 for an empty log.
    pub instant_ms: UnixMs,
    /// The digest of State that the head entry carries; none for an empty log.
    pub state_digest: Option<[u8; 32]>,
    /// The rows, in chunks; the channel closes after the last.
    pub rows: mpsc::Receiver<Result<Vec<Row>, StoreError>>,
}

/// What must last.
///
/// Every method may be called from any task. Errors never carry secrets or digests.
#[async_trait]
pub trait Store: Logins {
    /// State at the head.
    async fn snapshot(&self) -> Result<Snapshot, StoreError>;

    /// Writes the batch and its rows in one durable transaction if the head is its base.
    async fn append(&self, batch: Batch) -> Result<Appended, StoreError>;

    /// A durable write that changes nothing and gives a batch up whose append had no answer: if
    /// it is committed, the batch is not in the log and never will be, however late its message
    /// arrives; a conflict brings what is behind its base.
    async fn void(&self, batch: &Batch) -> Result<Appended, StoreError> {
        // Where calls arrive in their order, nothing is under way behind this one.
        let nothing = Batch {
            entries: Vec::new(),
            ..batch.clone()
        };
        self.append(nothing).await
    }

    /// Up to `limit` entries after `revision`, in order; empty at the head, and
    /// [`StoreError::Trimmed`] before the cut.
    async fn changes_after(
        &self,
        revision: RevisionNumber,
        limit: usize,
    ) -> Result<Vec<LogEntry>, StoreError>;

    /// The last revision that was trimmed from the log, with the chain at it; empty if none was.
    async fn cut(&self) -> Result<Head, StoreError> {
        Ok(Head::EMPTY)
    }

    /// One token by id, also ended ones while they are kept.
    async fn token(&self, id: TokenId) -> Result<Option<StoredToken>, StoreError>;

    /// Tokens, oldest first.
    async fn tokens(&self, query: TokenQuery) -> Result<Page<StoredToken, TokenId>, StoreError>;

    /// Principals of one kind, by name.
    async fn principals(
        &self,
        query: PrincipalQuery,
    ) -> Result<Page<StoredPrincipal, String>, StoreError>;

    /// Members of a team, or teams of a member, by name.
    async fn members(&self, query: MemberQuery) -> Result<Page<StoredMember, String>, StoreError>;

    /// Roles, by name.
    async fn roles(&self, query: RoleQuery) -> Result<Page<StoredRole, String>, StoreError>;

    /// Grants, oldest first.
    async fn grants(&self, query: GrantQuery) -> Result<Page<StoredGrant, u32>, StoreError>;

    /// Notes when tokens were last used; of several uses of one the latest stands. Tokens that are
    /// not there are passed over. Beside the log and its tables: an append waits for it for a
    /// moment at the most, and it need not last.
    async fn note_used(&self, used: &[(TokenId, LastUsed)]) -> Result<(), StoreError>;

    /// What several servers on this store know of each other; none where there is only one.
    fn cluster(&self) -> Option<&dyn Cluster> {
        None
    }

    /// Stops cleanly: what is open is finished, and the next start need not verify everything.
    async fn close(&self) -> Result<(), StoreError>;
}
