//! One database in memory, and the lines of its replicas to it, each of which can be cut.
//!
//! The log is the model test's store; members are rows as in any store. A call on a cut line hangs
//! for the deadline that the real store has, and then nothing was written.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use latchkey::domain::chain::{Head, RevisionNumber};
use latchkey::domain::clock::{Clock, Now};
use latchkey::domain::entry::LogEntry;
use latchkey::domain::token::TokenId;
use latchkey::store::cluster::{
    Cluster, History, Incarnation, Joining, Member, Renewal, Renewed, Roster,
};
use latchkey::store::list::{
    GrantQuery, LastUsed, MemberQuery, Page, PrincipalQuery, RoleQuery, StoredGrant, StoredMember,
    StoredPrincipal, StoredRole, StoredToken, TokenQuery,
};
use latchkey::store::logins::{
    Failure, FailureKey, LoginNoted, LoginQuery, Logins, OneTime, StoredLogin,
};
use latchkey::store::{Appended, Batch, Snapshot, Store, StoreError};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::model::memory_store::MemoryStore;

/// When every run begins.
const T0: u64 = 1_700_000_000_000;

/// A clock that goes with virtual time.
pub(crate) struct VirtualClock(Instant);

impl VirtualClock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Now {
        Now::at(self.boot_ms())
    }

    fn boot_ms(&self) -> u64 {
        T0 + u64::try_from(self.0.elapsed().as_millis()).expect("short")
    }

    fn wall_ahead_ms(&self) -> i64 {
        0
    }
}

#[derive(Default)]
struct Rows {
    members: BTreeMap<Incarnation, Member>,
    lease_ms: u64,
}

/// What all replicas share.
pub(crate) struct Database {
    log: MemoryStore,
    rows: Mutex<Rows>,
    wakes: watch::Sender<u64>,
    clock: VirtualClock,
}

impl Database {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            log: MemoryStore::default(),
            rows: Mutex::default(),
            wakes: watch::Sender::new(0),
            clock: VirtualClock::start(),
        })
    }

    /// How often anything was appended, also nothing.
    pub(crate) fn appends(&self) -> usize {
        self.log.appends()
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn head(&self) -> Head {
        self.log
            .log()
            .last()
            .map_or(Head::EMPTY, |entry| entry.head)
    }

    fn chain_at(&self, revision: RevisionNumber) -> Option<[u8; 32]> {
        let index = usize::try_from(revision).ok()?.checked_sub(1)?;
        self.log.log().get(index).map(|entry| entry.head.chain)
    }
}

/// One replica's way to the database.
pub(crate) struct Line {
    database: Arc<Database>,
    is_cut: AtomicBool,
    // Whether the log cannot be read; all else goes through.
    is_feed_cut: AtomicBool,
    // How often the keeper has read it.
    readings: AtomicUsize,
    // How long it takes to count a failed login.
    counting_ms: AtomicU64,
    // Wake-ups that never come, if it hears none.
    silence: Option<watch::Sender<u64>>,
    // As the settings make it of a lease.
    deadline: Duration,
}

impl Line {
    pub(crate) fn new(database: Arc<Database>, lease_ms: u64) -> Self {
        Self {
            database,
            is_cut: AtomicBool::new(false),
            is_feed_cut: AtomicBool::new(false),
            readings: AtomicUsize::new(0),
            counting_ms: AtomicU64::new(0),
            silence: None,
            deadline: Duration::from_millis((lease_ms / 5).min(1_000)),
        }
    }

    /// One that no wake-up passes.
    pub(crate) fn deaf(self) -> Self {
        Self {
            silence: Some(watch::Sender::new(0)),
            ..self
        }
    }

    /// How often the keeper has read the log.
    pub(crate) fn readings(&self) -> usize {
        self.readings.load(Ordering::SeqCst)
    }

    pub(crate) fn count_in(&self, each: Duration) {
        let ms = u64::try_from(each.as_millis()).expect("short");
        self.counting_ms.store(ms, Ordering::SeqCst);
    }

    pub(crate) fn cut(&self, is_cut: bool) {
        self.is_cut.store(is_cut, Ordering::SeqCst);
    }

    pub(crate) fn cut_feed(&self, is_cut: bool) {
        self.is_feed_cut.store(is_cut, Ordering::SeqCst);
    }

    async fn way(&self) -> Result<&Database, StoreError> {
        if self.is_cut.load(Ordering::SeqCst) {
            sleep(self.deadline).await;
            return Err(StoreError::Unavailable("cut off".to_owned()));
        }
        Ok(&self.database)
    }
}

#[async_trait]
impl Store for Line {
    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        self.way().await?.log.snapshot().await
    }

    async fn append(&self, batch: Batch) -> Result<Appended, StoreError> {
        let database = self.way().await?;
        let appended = database.log.append(batch).await;
        database.wakes.send_modify(|count| *count += 1);
        appended
    }

    async fn changes_after(
        &self,
        revision: RevisionNumber,
        limit: usize,
    ) -> Result<Vec<LogEntry>, StoreError> {
        let log = &self.way().await?.log;
        if self.is_feed_cut.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("the feed is cut off".to_owned()));
        }
        log.changes_after(revision, limit).await
    }

    async fn token(&self, id: TokenId) -> Result<Option<StoredToken>, StoreError> {
        self.database.log.token(id).await
    }

    async fn tokens(&self, query: TokenQuery) -> Result<Page<StoredToken, TokenId>, StoreError> {
        self.database.log.tokens(query).await
    }

    async fn principals(
        &self,
        query: PrincipalQuery,
    ) -> Result<Page<StoredPrincipal, String>, StoreError> {
        self.database.log.principals(query).await
    }

    async fn members(&self, query: MemberQuery) -> Result<Page<StoredMember, String>, StoreError> {
        self.database.log.members(query).await
    }

    async fn roles(&self, query: RoleQuery) -> Result<Page<StoredRole, String>, StoreError> {
        self.database.log.roles(query).await
    }

    async fn grants(&self, query: GrantQuery) -> Result<Page<StoredGrant, u32>, StoreError> {
        self.database.log.grants(query).await
    }

    async fn note_used(&self, used: &[(TokenId, LastUsed)]) -> Result<(), StoreError> {
        self.way().await?.log.note_used(used).await
    }

    fn cluster(&self) -> Option<&dyn Cluster> {
        Some(self)
    }

    async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

#[async_trait]
impl Logins for Line {
    async fn note_failure(&self, failure: &Failure) -> Result<u32, StoreError> {
        sleep(Duration::from_millis(
            self.counting_ms.load(Ordering::SeqCst),
        ))
        .await;
        self.way().await?.log.note_failure(failure).await
    }

    async fn clear_failures(&self, keys: RangeInclusive<FailureKey>) -> Result<(), StoreError> {
        self.way().await?.log.clear_failures(keys).await
    }

    async fn consume(&self, once: &OneTime) -> Result<bool, StoreError> {
        self.way().await?.log.consume(once).await
    }

    async fn note_logins(&self, logins: &[LoginNoted]) -> Result<(), StoreError> {
        self.way().await?.log.note_logins(logins).await
    }

    async fn logins(&self, query: LoginQuery) -> Result<Page<StoredLogin, u64>, StoreError> {
        self.database.log.logins(query).await
    }
}

#[async_trait]
impl Cluster for Line {
    async fn join(&self, joining: &Joining) -> Result<u64, StoreError> {
        let database = self.way().await?;
        let now_ms = database.clock.boot_ms();
        let mut rows = database.rows();
        rows.lease_ms = rows.lease_ms.max(joining.lease_ms);
        let member = Member {
            incarnation: joining.incarnation,
            name: joining.name.clone(),
            address: joining.address.clone(),
            lease_ms: joining.lease_ms,
            heartbeat: 0,
            applied: 0,
            format_max: joining.format_max,
            joined_ms: now_ms,
            reported_ms: now_ms,
            serves_stale: joining.serves_stale,
            keys: joining.keys.clone(),
        };
        rows.members.insert(joining.incarnation, member);
        Ok(rows.lease_ms)
    }

    async fn renew(&self, renewal: &Renewal) -> Result<Renewed, StoreError> {
        let database = self.way().await?;
        let mut rows = database.rows();
        let Some(member) = rows.members.get_mut(&renewal.incarnation) else {
            return Ok(Renewed::Unknown);
        };
        member.heartbeat += 1;
        member.lease_ms = renewal.lease_ms;
        member.keys.clone_from(&renewal.keys);
        member.applied = member.applied.max(renewal.applied.revision);
        rows.lease_ms = rows.lease_ms.max(renewal.lease_ms);
        Ok(Renewed::Held {
            head: database.head(),
            chain_at_applied: database.chain_at(renewal.applied.revision),
            database_ms: database.clock.boot_ms(),
            history: History {
                system: 1,
                timeline: 1,
            },
        })
    }

    async fn report(&self, incarnation: Incarnation, applied: Head) -> Result<(), StoreError> {
        let mut rows = self.way().await?.rows();
        if let Some(member) = rows.members.get_mut(&incarnation) {
            member.applied = member.applied.max(applied.revision);
        }
        Ok(())
    }

    async fn roster(&self) -> Result<Roster, StoreError> {
        let database = self.way().await?;
        let rows = database.rows();
        Ok(Roster {
            members: rows.members.values().cloned().collect(),
            lease_ms: rows.lease_ms,
            head: database.head(),
            database_ms: database.clock.boot_ms(),
        })
    }

    async fn leave(&self, incarnation: Incarnation) -> Result<(), StoreError> {
        self.way().await?.rows().members.remove(&incarnation);
        Ok(())
    }

    async fn remove(&self, incarnation: Incarnation, heartbeat: u64) -> Result<bool, StoreError> {
        let mut rows = self.way().await?.rows();
        let found = rows.members.get(&incarnation);
        let is_same = found.is_some_and(|member| member.heartbeat == heartbeat);
        if is_same {
            rows.members.remove(&incarnation);
        }
        Ok(is_same)
    }

    async fn feed(
        &self,
        revision: RevisionNumber,
        limit: usize,
    ) -> Result<Vec<LogEntry>, StoreError> {
        self.readings.fetch_add(1, Ordering::SeqCst);
        self.changes_after(revision, limit).await
    }

    fn wakes(&self) -> watch::Receiver<u64> {
        let wakes = self.silence.as_ref().unwrap_or(&self.database.wakes);
        wakes.subscribe()
    }
}
