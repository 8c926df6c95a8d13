//! The store as the replica calls it: every call is timed, and counted if it fails.
//!
//! ```text
//! writer, keeper, barrier, lists ─► Measured ─► the store
//! ```
//!
//! Put before the store when a replica starts, so that there is one place that measures; within a call
//! that is sampled each is a span. Calls of
//! one purpose are one operation: what an operator has to do about a slow one is the same. A call
//! that its caller gives up is not counted; stores have deadlines of their own.

use std::future::Future;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::Instrument as _;
use tracing::field::Empty;

use crate::domain::chain::{Head, RevisionNumber};
use crate::domain::entry::LogEntry;
use crate::domain::histogram::Times;
use crate::domain::token::TokenId;
use crate::domain::traced::{TARGET, below};
use crate::store::cluster::{Cluster, Incarnation, Joining, Renewal, Renewed, Roster};
use crate::store::list::{
    GrantQuery, LastUsed, MemberQuery, Page, PrincipalQuery, RoleQuery, StoredGrant, StoredMember,
    StoredPrincipal, StoredRole, StoredToken, TokenQuery,
};
use crate::store::logins::{
    Failure, FailureKey, LoginNoted, LoginQuery, Logins, OneTime, StoredLogin,
};
use crate::store::{Appended, Batch, Snapshot, Store, StoreError};

/// What a call of the store is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Appending a batch, or giving one up.
    Append,
    /// Reading the log.
    Log,
    /// Opening a snapshot of State; its rows come later.
    Snapshot,
    /// Reading a token, or a page of anything.
    List,
    /// Becoming and staying a member.
    Lease,
    /// Reading who the members are.
    Roster,
    /// Telling the members what was applied.
    Report,
    /// What need not last: last uses and logins, failures among them.
    Note,
    /// Using up an assertion.
    Consume,
}

impl Operation {
    /// Every operation, in the order of its number.
    pub const ALL: [Self; 9] = [
        Self::Append,
        Self::Log,
        Self::Snapshot,
        Self::List,
        Self::Lease,
        Self::Roster,
        Self::Report,
        Self::Note,
        Self::Consume,
    ];

    /// Its stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Log => "log",
            Self::Snapshot => "snapshot",
            Self::List => "list",
            Self::Lease => "lease",
            Self::Roster => "roster",
            Self::Report => "report",
            Self::Note => "note",
            Self::Consume => "consume",
        }
    }

    fn span(self) -> &'static str {
        match self {
            Self::Append => "store append",
            Self::Log => "store log",
            Self::Snapshot => "store snapshot",
            Self::List => "store list",
            Self::Lease => "store lease",
            Self::Roster => "store roster",
            Self::Report => "store report",
            Self::Note => "store note",
            Self::Consume => "store consume",
        }
    }
}

/// How long the calls of one operation took, and how many of them failed.
#[derive(Debug, Default)]
pub struct Calls {
    /// Of all of them.
    pub times: Times,
    /// Those that the store could not do.
    pub failures: AtomicU64,
}

/// The same of every operation.
#[derive(Debug, Default)]
pub struct StoreCalls([Calls; Operation::ALL.len()]);

impl StoreCalls {
    /// Those of one operation.
    #[must_use]
    pub fn of(&self, operation: Operation) -> &Calls {
        &self.0[operation as usize]
    }
}

/// A store whose calls are measured.
pub(super) struct Measured {
    store: Arc<dyn Store>,
    calls: Arc<StoreCalls>,
}

impl Measured {
    pub(super) fn new(store: Arc<dyn Store>, calls: Arc<StoreCalls>) -> Self {
        Self { store, calls }
    }

    async fn measured<T>(
        &self,
        operation: Operation,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let span = below(|| {
            let name = operation.span();
            tracing::info_span!(target: TARGET, "store", otel.name = name, otel.status_code = Empty)
        });
        let begun = Instant::now();
        let result = call.instrument(span.clone()).await;
        let calls = self.calls.of(operation);
        calls.times.took(begun.elapsed());
        // That a log was trimmed is an answer.
        if matches!(&result, Err(error) if !matches!(error, StoreError::Trimmed { .. })) {
            calls.failures.fetch_add(1, Ordering::Relaxed);
            span.record("otel.status_code", "ERROR");
        }
        result
    }

    fn cluster_of(&self) -> Result<&dyn Cluster, StoreError> {
        let none = || StoreError::Unavailable("the store has no members".to_owned());
        self.store.cluster().ok_or_else(none)
    }
}

#[async_trait]
impl Store for Measured {
    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        self.measured(Operation::Snapshot, self.store.snapshot())
            .await
    }

    async fn append(&self, batch: Batch) -> Result<Appended, StoreError> {
        self.measured(Operation::Append, self.store.append(batch))
            .await
    }

    async fn void(&self, batch: &Batch) -> Result<Appended, StoreError> {
        self.measured(Operation::Append, self.store.void(batch))
            .await
    }

    async fn changes_after(
        &self,
        revision: RevisionNumber,
        limit: usize,
    ) -> Result<Vec<LogEntry>, StoreError> {
        let call = self.store.changes_after(revision, limit);
        self.measured(Operation::Log, call).await
    }

    async fn cut(&self) -> Result<Head, StoreError> {
        self.measured(Operation::Log, self.store.cut()).await
    }

    async fn token(&self, id: TokenId) -> Result<Option<StoredToken>, StoreError> {
        self.measured(Operation::List, self.store.token(id)).await
    }

    async fn tokens(&self, query: TokenQuery) -> Result<Page<StoredToken, TokenId>, StoreError> {
        self.measured(Operation::List, self.store.tokens(query))
            .await
    }

    async fn principals(
        &self,
        query: PrincipalQuery,
    ) -> Result<Page<StoredPrincipal, String>, StoreError> {
        self.measured(Operation::List, self.store.principals(query))
            .await
    }

    async fn members(&self, query: MemberQuery) -> Result<Page<StoredMember, String>, StoreError> {
        self.measured(Operation::List, self.store.members(query))
            .await
    }

    async fn roles(&self, query: RoleQuery) -> Result<Page<StoredRole, String>, StoreError> {
        self.measured(Operation::List, self.store.roles(query))
            .await
    }

    async fn grants(&self, query: GrantQuery) -> Result<Page<StoredGrant, u32>, StoreError> {
        self.measured(Operation::List, self.store.grants(query))
            .await
    }

    async fn note_used(&self, used: &[(TokenId, LastUsed)]) -> Result<(), StoreError> {
        self.measured(Operation::Note, self.store.note_used(used))
            .await
    }

    fn cluster(&self) -> Option<&dyn Cluster> {
        self.store.cluster().map(|_| self as &dyn Cluster)
    }

    // Once, at the end, when nobody asks for metrics any more.
    async fn close(&self) -> Result<(), StoreError> {
        self.store.close().await
    }
}

#[async_trait]
impl Logins for Measured {
    async fn note_failure(&self, failure: &Failure) -> Result<u32, StoreError> {
        self.measured(Operation::Note, self.store.note_failure(failure))
            .await
    }

    async fn clear_failures(&self, keys: RangeInclusive<FailureKey>) -> Result<(), StoreError> {
        self.measured(Operation::Note, self.store.clear_failures(keys))
            .await
    }

    async fn consume(&self, once: &OneTime) -> Result<bool, StoreError> {
        self.measured(Operation::Consume, self.store.consume(once))
            .await
    }

    async fn note_logins(&self, logins: &[LoginNoted]) -> Result<(), StoreError> {
        self.measured(Operation::Note, self.store.note_logins(logins))
            .await
    }

    async fn logins(&self, query: LoginQuery) -> Result<Page<StoredLogin, u64>, StoreError> {
        self.measured(Operation::List, self.store.logins(query))
            .await
    }
}

#[async_trait]
impl Cluster for Measured {
    async fn join(&self, joining: &Joining) -> Result<u64, StoreError> {
        let call = self.cluster_of()?.join(joining);
        self.measured(Operation::Lease, call).await
    }

    async fn renew(&self, renewal: &Renewal) -> Result<Renewed, StoreError> {
        let call = self.cluster_of()?.renew(renewal);
        self.measured(Operation::Lease, call).await
    }

    async fn report(&self, incarnation: Incarnation, applied: Head) -> Result<(), StoreError> {
        let call = self.cluster_of()?.report(incarnation, applied);
        self.measured(Operation::Report, call).await
    }

    async fn roster(&self) -> Result<Roster, StoreError> {
        let call = self.cluster_of()?.roster();
        self.measured(Operation::Roster, call).await
    }

    async fn leave(&self, incarnation: Incarnation) -> Result<(), StoreError> {
        let call = self.cluster_of()?.leave(incarnation);
        self.measured(Operation::Lease, call).await
    }

    async fn remove(&self, incarnation: Incarnation, heartbeat: u64) -> Result<bool, StoreError> {
        let call = self.cluster_of()?.remove(incarnation, heartbeat);
        self.measured(Operation::Lease, call).await
    }

    async fn feed(
        &self,
        revision: RevisionNumber,
        limit: usize,
    ) -> Result<Vec<LogEntry>, StoreError> {
        let call = self.cluster_of()?.feed(revision, limit);
        self.measured(Operation::Log, call).await
    }

    fn wakes(&self) -> watch::Receiver<u64> {
        match self.store.cluster() {
            Some(members) => members.wakes(),
            // Nobody asks a store without members.
            None => watch::channel(0).1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_counts_in_its_own_place() {
        for (number, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(operation as usize, number);
        }
    }
}
