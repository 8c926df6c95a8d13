//! A server's store: every call goes through the world to the database and comes back, or not.
//!
//! Lists are deliberately absent: the protocol does not use them.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::{oneshot, watch};

use crate::domain::chain::{Head, RevisionNumber};
use crate::domain::entry::LogEntry;
use crate::domain::token::TokenId;
use crate::store::cluster::{Cluster, Incarnation, Joining, Renewal, Renewed, Roster};
use crate::store::list::{
    GrantQuery, LastUsed, MemberQuery, Page, PrincipalQuery, RoleQuery, StoredGrant, StoredMember,
    StoredPrincipal, StoredRole, StoredToken, TokenQuery,
};
use crate::store::logins::{
    Failure, FailureKey, LoginNoted, LoginQuery, Logins, OneTime, StoredLogin,
};
use crate::store::{Appended, Batch, Snapshot, Store, StoreError};

use super::database::Database;
use super::world::{Call, Line, World};

/// The store as one server has it.
pub(super) struct Linked {
    pub(super) world: Arc<World>,
    pub(super) server: usize,
    /// After so long a call fails, whatever becomes of it.
    pub(super) deadline_ms: u64,
    /// Numbers are given out early, and what commits late under them is not seen by who is past.
    pub(super) sequence: bool,
}

impl Linked {
    async fn call<T: Send + 'static>(
        &self,
        (line, what, writes): (Line, &'static str, bool),
        effect: impl FnOnce(&mut Database) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, replied) = oneshot::channel();
        // Who comes first answers: the reply or the deadline.
        let reply = Arc::new(Mutex::new(Some(reply)));
        let failing = Arc::clone(&reply);
        self.world.send(Call {
            server: self.server,
            line,
            what,
            writes,
            deadline_ms: self.deadline_ms,
            effect: Box::new(move |database| {
                let result = effect(database);
                Box::new(move |warned| {
                    let cancelled = "the wait for the standby was cancelled".to_owned();
                    let result = if warned {
                        Err(StoreError::OutcomeUnknown(cancelled))
                    } else {
                        Ok(result)
                    };
                    answer(&reply, result);
                })
            }),
            failing: Box::new(move |error| answer(&failing, Err(error))),
        });
        let gone = || StoreError::OutcomeUnknown("the world has ended".to_owned());
        replied.await.unwrap_or_else(|_| Err(gone()))
    }
}

type Replies<T> = Mutex<Option<oneshot::Sender<Result<T, StoreError>>>>;

fn answer<T>(reply: &Replies<T>, result: Result<T, StoreError>) {
    let reply = reply.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(reply) = reply {
        // A server that has crashed hears nothing.
        let _ = reply.send(result);
    }
}

#[async_trait]
impl Store for Linked {
    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        self.call((Line::Pool, "snapshot", false), |it| it.snapshot())
            .await
    }

    async fn append(&self, batch: Batch) -> Result<Appended, StoreError> {
        let mut numbered = false;
        if self.sequence {
            let base = batch.base;
            let draw = move |it: &mut Database| it.head() == base;
            numbered = self.call((Line::Pool, "number", true), draw).await?;
        }
        let append = move |it: &mut Database| match it.append(batch) {
            // Durable under its number, which every reader of the log has passed.
            Appended::Conflict(_) if numbered => Appended::Committed,
            appended => appended,
        };
        self.call((Line::Pool, "append", true), append).await
    }

    async fn changes_after(
        &self,
        revision: RevisionNumber,
        limit: usize,
    ) -> Result<Vec<LogEntry>, StoreError> {
        let read = move |it: &mut Database| it.changes_after(revision, limit);
        self.call((Line::Pool, "read", false), read).await
    }

    async fn token(&self, _: TokenId) -> Result<Option<StoredToken>, StoreError> {
        Ok(None)
    }

    async fn tokens(&self, _: TokenQuery) -> Result<Page<StoredToken, TokenId>, StoreError> {
        Ok(none())
    }

    async fn principals(
        &self,
        _: PrincipalQuery,
    ) -> Result<Page<StoredPrincipal, String>, StoreError> {
        Ok(none())
    }

    async fn members(&self, _: MemberQuery) -> Result<Page<StoredMember, String>, StoreError> {
        Ok(none())
    }

    async fn roles(&self, _: RoleQuery) -> Result<Page<StoredRole, String>, StoreError> {
        Ok(none())
    }

    async fn grants(&self, _: GrantQuery) -> Result<Page<StoredGrant, u32>, StoreError> {
        Ok(none())
    }

    fn cluster(&self) -> Option<&dyn Cluster> {
        Some(self)
    }

    async fn note_used(&self, _: &[(TokenId, LastUsed)]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

#[async_trait]
impl Logins for Linked {
    async fn note_failure(&self, _: &Failure) -> Result<u32, StoreError> {
        unused()
    }

    async fn clear_failures(&self, _: RangeInclusive<FailureKey>) -> Result<(), StoreError> {
        unused()
    }

    async fn consume(&self, _: &OneTime) -> Result<bool, StoreError> {
        unused()
    }

    async fn note_logins(&self, _: &[LoginNoted]) -> Result<(), StoreError> {
        unused()
    }

    async fn logins(&self, _: LoginQuery) -> Result<Page<StoredLogin, u64>, StoreError> {
        unused()
    }
}

fn unused<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable("not asked here".to_owned()))
}

#[async_trait]
impl Cluster for Linked {
    async fn join(&self, joining: &Joining) -> Result<u64, StoreError> {
        let joining = joining.clone();
        let join = move |it: &mut Database| it.join(joining);
        self.call((Line::Heartbeat, "join", true), join).await
    }

    async fn renew(&self, renewal: &Renewal) -> Result<Renewed, StoreError> {
        let renewal = renewal.clone();
        let renew = move |it: &mut Database| it.renew(renewal);
        self.call((Line::Heartbeat, "renew", true), renew).await
    }

    async fn report(&self, incarnation: Incarnation, applied: Head) -> Result<(), StoreError> {
        let report = move |it: &mut Database| it.report(incarnation, applied);
        self.call((Line::Heartbeat, "report", true), report).await
    }

    async fn roster(&self) -> Result<Roster, StoreError> {
        let roster = |it: &mut Database| it.roster();
        self.call((Line::Heartbeat, "roster", false), roster).await
    }

    async fn leave(&self, incarnation: Incarnation) -> Result<(), StoreError> {
        let leave = move |it: &mut Database| it.leave(incarnation);
        self.call((Line::Heartbeat, "leave", true), leave).await
    }

    async fn remove(&self, incarnation: Incarnation, heartbeat: u64) -> Result<bool, StoreError> {
        let remove = move |it: &mut Database| it.remove(incarnation, heartbeat);
        self.call((Line::Heartbeat, "remove", true), remove).await
    }

    async fn feed(
        &self,
        revision: RevisionNumber,
        limit: usize,
    ) -> Result<Vec<LogEntry>, StoreError> {
        let read = move |it: &mut Database| it.changes_after(revision, limit);
        self.call((Line::Feed, "read", false), read).await
    }

    fn wakes(&self) -> watch::Receiver<u64> {
        self.world.wakes(self.server)
    }
}

fn none<T, K>() -> Page<T, K> {
    Page {
        rows: Vec::new(),
        next: None,
    }
}
