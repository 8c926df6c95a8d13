//! A store in memory that fails as stores do: another's entries first, not now, nobody knows.
//!
//! Used by the model test under two replicas at once. Its log is what a store promises:
//! compare-and-append, dense, in order. Failures are queued by the test and taken by the next
//! appends. Deliberately absent: tables (lists answer empty pages) and durability.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use latchkey::domain::chain::{Head, RevisionNumber};
use latchkey::domain::entry::LogEntry;
use latchkey::domain::token::TokenId;
use latchkey::store::list::{
    GrantQuery, LastUsed, MemberQuery, Page, PrincipalQuery, RoleQuery, StoredGrant, StoredMember,
    StoredPrincipal, StoredRole, StoredToken, TokenQuery,
};
use latchkey::store::logins::{
    Failure, FailureKey, LoginNoted, LoginQuery, Logins, OneTime, StoredLogin,
};
use latchkey::store::{Appended, Batch, Snapshot, Store, StoreError};
use tokio::sync::mpsc;

/// What happens to an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing is written, and the caller is told so.
    Unavailable,
    /// Nothing is written and never will be.
    Refused,
    /// The batch is written, and the caller does not learn it.
    LostAnswer,
    /// The batch is lost, and the caller does not learn it.
    LostBatch,
}

#[derive(Default)]
struct Inside {
    log: Vec<LogEntry>,
    faults: VecDeque<Fault>,
    appends: usize,
    /// By their key: how many, and when the last one was.
    failures: BTreeMap<[u8; 16], (u32, u64)>,
    /// Until when each is used up.
    used: BTreeMap<[u8; 32], u64>,
}

/// The log. Written by appends, which hold the lock for no `.await`.
#[derive(Default)]
pub(crate) struct MemoryStore(Mutex<Inside>);

impl MemoryStore {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn log(&self) -> Vec<LogEntry> {
        self.inside().log.clone()
    }

    /// The next appends that carry entries meet these.
    pub(crate) fn fail_next(&self, faults: impl IntoIterator<Item = Fault>) {
        self.inside().faults = faults.into_iter().collect();
    }

    /// How many batches were asked for.
    pub(crate) fn appends(&self) -> usize {
        self.inside().appends
    }
}

impl Inside {
    fn head(&self) -> Head {
        self.log.last().map_or(Head::EMPTY, |entry| entry.head)
    }

    fn append(&mut self, batch: Batch) -> Appended {
        if self.head() != batch.base {
            let missed = self.log[batch.base.revision as usize..].to_vec();
            return Appended::Conflict(missed);
        }
        for entry in batch.entries {
            assert_eq!(
                entry.head,
                self.head().after(&entry.body),
                "dense and chained"
            );
            self.log.push(entry);
        }
        Appended::Committed
    }
}

fn empty<T, Key>() -> Result<Page<T, Key>, StoreError> {
    Ok(Page {
        rows: Vec::new(),
        next: None,
    })
}

#[async_trait]
impl Store for MemoryStore {
    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        assert!(
            self.inside().log.is_empty(),
            "replicas of this test start before the first entry"
        );
        let (_, rows) = mpsc::channel(1);
        Ok(Snapshot {
            head: Head::EMPTY,
            instant_ms: 0,
            state_digest: None,
            rows,
        })
    }

    async fn append(&self, batch: Batch) -> Result<Appended, StoreError> {
        let mut inside = self.inside();
        inside.appends += 1;
        let fault = if batch.entries.is_empty() {
            None
        } else {
            inside.faults.pop_front()
        };
        let unknown = || StoreError::OutcomeUnknown("the connection was lost".to_owned());
        match fault {
            None => Ok(inside.append(batch)),
            Some(Fault::Unavailable) => Err(StoreError::Unavailable("not now".to_owned())),
            Some(Fault::Refused) => Err(StoreError::Refused("too large".to_owned())),
            Some(Fault::LostBatch) => Err(unknown()),
            Some(Fault::LostAnswer) => match inside.append(batch) {
                Appended::Committed => Err(unknown()),
                conflict @ Appended::Conflict(_) => Ok(conflict),
            },
        }
    }

    async fn changes_after(
        &self,
        revision: RevisionNumber,
        limit: usize,
    ) -> Result<Vec<LogEntry>, StoreError> {
        let inside = self.inside();
        Ok(inside
            .log
            .iter()
            .skip(revision as usize)
            .take(limit)
            .cloned()
            .collect())
    }

    async fn token(&self, _: TokenId) -> Result<Option<StoredToken>, StoreError> {
        Ok(None)
    }

    async fn tokens(&self, _: TokenQuery) -> Result<Page<StoredToken, TokenId>, StoreError> {
        empty()
    }

    async fn principals(
        &self,
        _: PrincipalQuery,
    ) -> Result<Page<StoredPrincipal, String>, StoreError> {
        empty()
    }

    async fn members(&self, _: MemberQuery) -> Result<Page<StoredMember, String>, StoreError> {
        empty()
    }

    async fn roles(&self, _: RoleQuery) -> Result<Page<StoredRole, String>, StoreError> {
        empty()
    }

    async fn grants(&self, _: GrantQuery) -> Result<Page<StoredGrant, u32>, StoreError> {
        empty()
    }

    async fn note_used(&self, _: &[(TokenId, LastUsed)]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

#[async_trait]
impl Logins for MemoryStore {
    async fn note_failure(&self, failure: &Failure) -> Result<u32, StoreError> {
        let mut inside = self.inside();
        let former = inside.failures.get(&failure.key).copied();
        let former = former.filter(|(_, last_ms)| last_ms + failure.reset_ms >= failure.now_ms);
        let count = former.map_or(1, |(count, _)| count + 1);
        let noted = (count, failure.now_ms);
        inside.failures.insert(failure.key, noted);
        Ok(count)
    }

    async fn clear_failures(&self, keys: RangeInclusive<FailureKey>) -> Result<(), StoreError> {
        self.inside().failures.retain(|key, _| !keys.contains(key));
        Ok(())
    }

    async fn consume(&self, once: &OneTime) -> Result<bool, StoreError> {
        let mut inside = self.inside();
        let former = inside.used.get(&once.id).copied();
        let free = former.is_none_or(|until_ms| until_ms <= once.now_ms);
        if free {
            inside.used.insert(once.id, once.until_ms);
        }
        Ok(free)
    }

    async fn note_logins(&self, _: &[LoginNoted]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn logins(&self, _: LoginQuery) -> Result<Page<StoredLogin, u64>, StoreError> {
        empty()
    }
}
