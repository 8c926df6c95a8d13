//! The writer against a scripted store: group commit, conflicts, unknown outcomes, fencing.
//!
//! After every case the published State must be what a replay of the store's log makes.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;

use super::*;
use crate::domain::chain::Head;
use crate::domain::change::Display;
use crate::domain::clock::{ManualClock, Now};
use crate::domain::entropy::SeededEntropy;
use crate::domain::entry::Entry;
use crate::domain::permission::Resource;
use crate::domain::principal::{PrincipalKind, PrincipalName};
use crate::domain::token::TokenId;
use crate::state::decide::{Caller, Command, Lifetimes, Moment, Outcome, decide};
use crate::store::cluster::Cluster;
use crate::store::list::{
    GrantQuery, LastUsed, MemberQuery, Page, PrincipalQuery, RoleQuery, StoredGrant, StoredMember,
    StoredPrincipal, StoredRole, StoredToken, TokenQuery,
};
use crate::store::logins::LoginNoted;
use crate::store::{Appended, Batch, Snapshot};

/// What the store does with the next append.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// Another writer gets in first.
    OtherFirst,
    /// It fails, and nothing is written.
    Unavailable,
    /// The connection is lost after the commit.
    LostAfter,
    /// The connection is lost before the commit.
    LostBefore,
    /// It refuses any batch of more than one entry, and any user called `bad`.
    Picky,
    /// It has found damage.
    Damaged,
    /// Nobody answers until the deadline, and then nothing is known.
    Silent,
}

/// Within what time the store answers or fails.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);
/// What a refusal brings along of what was missed.
const MISSED_MAX: usize = 100;

/// What the store does with the next last uses.
pub(super) enum NoteFault {
    Fails(StoreError),
    /// It never answers.
    Hangs,
}

#[derive(Default)]
pub(super) struct ScriptedStore {
    log: Mutex<Vec<LogEntry>>,
    pub(super) faults: Mutex<VecDeque<Fault>>,
    batches: Mutex<Vec<usize>>,
    reads: AtomicU64,
    /// Every batch of last uses and of logins that it took, and how often it took none.
    pub(super) noted: watch::Sender<Vec<Vec<(TokenId, LastUsed)>>>,
    pub(super) logged_in: watch::Sender<Vec<Vec<LoginNoted>>>,
    pub(super) note_failures: watch::Sender<usize>,
    pub(super) note_faults: Mutex<VecDeque<NoteFault>>,
    closed: AtomicBool,
    /// Who there is, for the parts that ask only for that.
    members: Option<Arc<dyn Cluster>>,
}

impl ScriptedStore {
    pub(super) fn of(members: Arc<dyn Cluster>) -> Self {
        Self {
            members: Some(members),
            ..Self::default()
        }
    }

    fn head(log: &[LogEntry]) -> Head {
        log.last().map_or(Head::EMPTY, |entry| entry.head)
    }

    fn write(&self, batch: &Batch) -> Appended {
        let mut log = self.log.lock().expect("test");
        if Self::head(&log) != batch.base {
            let missed = log.iter().skip(batch.base.revision as usize);
            return Appended::Conflict(missed.take(MISSED_MAX).cloned().collect());
        }
        self.batches.lock().expect("test").push(batch.entries.len());
        log.extend(batch.entries.iter().cloned());
        Appended::Committed
    }

    /// What becomes of the next batch that is written beside the log.
    pub(super) async fn take_note(&self) -> Result<(), StoreError> {
        let fault = self.note_faults.lock().expect("test").pop_front();
        let closed = || StoreError::Unavailable("closed".to_owned());
        match fault {
            _ if self.closed.load(Ordering::Relaxed) => Err(closed()),
            None => Ok(()),
            Some(NoteFault::Hangs) => std::future::pending().await,
            Some(NoteFault::Fails(error)) => {
                self.note_failures.send_modify(|count| *count += 1);
                Err(error)
            }
        }
    }

    fn write_as_another(&self) {
        self.write_many_as_another(1);
    }

    fn write_many_as_another(&self, entries: usize) {
        let mut log = self.log.lock().expect("test");
        let mut state = State::replay(log.iter()).expect("follows");
        for _ in 0..entries {
            log.push(Self::another(&mut state));
        }
    }

    fn another(state: &mut State) -> LogEntry {
        let moment = Moment {
            revision: state.head().revision + 1,
            now: Now::at(5),
            lifetimes: Lifetimes::default(),
        };
        let envelope = create(&format!("other-{}", moment.revision));
        let decided = decide(state, &envelope, moment).expect("free name");
        let Outcome::Change {
            kind,
            target,
            change,
        } = decided.outcome
        else {
            panic!("a change");
        };
        let entry = Entry {
            revision: moment.revision,
            instant_ms: 5,
            actor: decided.actor,
            kind,
            target,
            reason: "another".to_owned(),
            batch_id: [9; 16],
            request: None,
            state_digest: None,
            change,
        };
        let logged = LogEntry::new(entry, &state.head());
        state.apply(&logged).expect("follows");
        logged
    }
}

#[async_trait]
impl Store for ScriptedStore {
    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        // Without the rows: enough for those who ask for revisions only.
        let (_, rows) = mpsc::channel(1);
        Ok(Snapshot {
            head: Self::head(&self.log.lock().expect("test")),
            instant_ms: 0,
            state_digest: None,
            rows,
        })
    }

    async fn append(&self, batch: Batch) -> Result<Appended, StoreError> {
        // Gives other tasks time to queue, as a real disk would.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        let fault = self.faults.lock().expect("test").pop_front();
        let lost = || StoreError::OutcomeUnknown("connection lost".to_owned());
        match fault {
            None => Ok(self.write(&batch)),
            Some(Fault::OtherFirst) => {
                self.write_as_another();
                Ok(self.write(&batch))
            }
            Some(Fault::Unavailable) => Err(StoreError::Unavailable("disk full".to_owned())),
            Some(Fault::LostAfter) => {
                self.write(&batch);
                Err(lost())
            }
            Some(Fault::LostBefore) => Err(lost()),
            Some(Fault::Silent) => {
                let never = std::future::pending::<()>();
                let _ = tokio::time::timeout(DEADLINE, never).await;
                Err(lost())
            }
            Some(Fault::Damaged) => Err(StoreError::Damaged {
                revision: 1,
                what: "a hole".to_owned(),
            }),
            Some(Fault::Picky) => {
                let bad = |entry: &LogEntry| entry.entry.target == "user:bad";
                if batch.entries.len() > 1 || batch.entries.iter().any(bad) {
                    self.faults.lock().expect("test").push_front(Fault::Picky);
                    return Err(StoreError::Refused("constraint".to_owned()));
                }
                self.faults.lock().expect("test").push_front(Fault::Picky);
                Ok(self.write(&batch))
            }
        }
    }

    async fn changes_after(
        &self,
        revision: u64,
        limit: usize,
    ) -> Result<Vec<LogEntry>, StoreError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let log = self.log.lock().expect("test");
        Ok(log
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
        Ok(empty())
    }

    async fn principals(
        &self,
        _: PrincipalQuery,
    ) -> Result<Page<StoredPrincipal, String>, StoreError> {
        Ok(empty())
    }

    async fn members(&self, _: MemberQuery) -> Result<Page<StoredMember, String>, StoreError> {
        Ok(empty())
    }

    async fn roles(&self, _: RoleQuery) -> Result<Page<StoredRole, String>, StoreError> {
        Ok(empty())
    }

    async fn grants(&self, _: GrantQuery) -> Result<Page<StoredGrant, u32>, StoreError> {
        Ok(empty())
    }

    async fn note_used(&self, used: &[(TokenId, LastUsed)]) -> Result<(), StoreError> {
        self.take_note().await?;
        self.noted.send_modify(|noted| noted.push(used.to_vec()));
        Ok(())
    }

    fn cluster(&self) -> Option<&dyn Cluster> {
        self.members.as_deref()
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.closed.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// Boot time that passes as a test's runtime makes it pass.
pub(super) struct VirtualClock(tokio::time::Instant);

impl VirtualClock {
    pub(super) fn begun() -> Self {
        Self(tokio::time::Instant::now())
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Now {
        Now::at(self.boot_ms())
    }

    fn boot_ms(&self) -> u64 {
        1_000 + self.0.elapsed().as_millis() as u64
    }

    fn wall_ahead_ms(&self) -> i64 {
        0
    }
}

/// What a replica's parts share, with nothing published yet.
pub(super) fn shared(clock: Arc<dyn Clock>) -> Arc<Shared> {
    let store = Arc::new(ScriptedStore::default());
    Arc::new(Shared::new(store, clock, &Settings::default(), None))
}

/// The same of a server among others, which holds no lease yet.
pub(super) fn unlinked(clock: Arc<dyn Clock>, settings: &Settings) -> Shared {
    let store = Arc::new(ScriptedStore::default());
    let mut shared = Shared::new(store, clock, settings, None);
    shared.lease = Lease::none();
    shared
}

fn empty<T, K>() -> Page<T, K> {
    Page {
        rows: Vec::new(),
        next: None,
    }
}

/// Makes a State published that has nothing but its head.
pub(super) fn publish(shared: &Shared, revision: u64, chain: [u8; 32]) {
    let (mut state, head) = (State::default(), Head { revision, chain });
    state.seal(head);
    shared.published.store(Arc::new(state));
    shared.recent.put(head.revision());
}

pub(super) fn create(user: &str) -> Envelope {
    Envelope {
        caller: Caller::Local,
        reason: "test".to_owned(),
        request: None,
        command: Command::CreatePrincipal {
            name: PrincipalName::new(PrincipalKind::User, user).expect("a name"),
            home: Resource::parse("acme").expect("a path"),
            display: Display::default(),
        },
    }
}

pub(super) async fn start(faults: &[Fault]) -> (Replica, WriterTask, Arc<ScriptedStore>) {
    start_with(faults, Settings::default()).await
}

pub(super) async fn start_with(
    faults: &[Fault],
    settings: Settings,
) -> (Replica, WriterTask, Arc<ScriptedStore>) {
    let store = Arc::new(ScriptedStore::default());
    store.faults.lock().expect("test").extend(faults);
    let (replica, task) = Replica::start(
        Arc::clone(&store) as Arc<dyn Store>,
        Arc::new(ManualClock::at(1_000)),
        Arc::new(SeededEntropy::new(1)),
        settings,
    )
    .await
    .expect("starts");
    (replica, task, store)
}

async fn create_all(replica: &Replica, names: &[&str]) -> Vec<Result<Done, Refusal>> {
    futures_util::future::join_all(names.iter().map(|name| replica.submit(create(name)))).await
}

fn replayed(store: &ScriptedStore) -> State {
    State::replay(store.log.lock().expect("test").iter()).expect("follows")
}

pub(super) fn assert_same(replica: &Replica, store: &ScriptedStore) {
    let (published, log) = (replica.state_full(), replayed(store));
    assert_eq!(
        (published.head(), published.digest()),
        (log.head(), log.digest())
    );
}

#[tokio::test]
async fn commands_that_wait_are_appended_together_and_see_each_other() {
    let (replica, task, store) = start(&[]).await;
    let names: Vec<String> = (0..50).map(|n| format!("u{}", n % 40)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let results = create_all(&replica, &names).await;
    let taken = results
        .iter()
        .filter(|result| matches!(result, Err(Refusal::AlreadyExists("user"))))
        .count();
    assert_eq!((results.len(), taken), (50, 10));
    assert!(
        store.batches.lock().expect("test").len() <= 2,
        "group commit"
    );
    assert_same(&replica, &store);
    let revisions: Vec<u64> = results
        .iter()
        .flatten()
        .map(|done| done.revision.number)
        .collect();
    assert_eq!(revisions, (1..=40).collect::<Vec<_>>());
    task.stop().await;
}

// Time stands still: a sweep that falls in between, as on a busy machine, parts the callers.
#[tokio::test(start_paused = true)]
async fn callers_who_ask_again_at_once_share_the_next_batch() {
    const CALLERS: usize = 12;
    const ROUNDS: usize = 20;
    let (replica, task, store) = start(&[]).await;
    let callers = (0..CALLERS).map(|caller| {
        let replica = replica.clone();
        tokio::spawn(async move {
            for round in 0..ROUNDS {
                // Each hears its answer a little later than the one before.
                for _ in 0..caller {
                    tokio::task::yield_now().await;
                }
                let user = create(&format!("u{caller}-{round}"));
                replica.submit(user).await.expect("created");
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.expect("ends");
    }
    let batches = store.batches.lock().expect("test").len();
    assert!(batches < ROUNDS * 3 / 2, "{batches}");
    assert_same(&replica, &store);
    task.stop().await;
}

#[tokio::test]
async fn a_moved_head_is_caught_up_with_and_decided_on_again() {
    let (replica, task, store) = start(&[Fault::OtherFirst]).await;
    // The other writer takes the name `other-1` at revision 1.
    let results = create_all(&replica, &["other-1", "mine"]).await;
    assert!(
        matches!(results[0], Err(Refusal::AlreadyExists("user"))),
        "{results:?}"
    );
    assert_eq!(results[1].as_ref().expect("free").revision.number, 2);
    assert_same(&replica, &store);
    task.stop().await;
}

#[tokio::test]
async fn who_is_far_behind_reads_the_log_before_it_decides_again() {
    let (replica, task, store) = start(&[]).await;
    store.write_many_as_another(4_000);
    let done = replica.submit(create("mine")).await.expect("made");
    assert_eq!(done.revision.number, 4_001);
    assert_eq!(replica.counters().conflicts.load(Ordering::Relaxed), 1);
    assert_same(&replica, &store);
    task.stop().await;
}

#[tokio::test]
async fn an_unknown_outcome_is_settled_whether_it_was_written_or_not() {
    for faults in [
        vec![Fault::LostAfter],
        vec![Fault::LostBefore],
        vec![Fault::LostAfter, Fault::Unavailable, Fault::LostBefore],
        vec![Fault::LostBefore, Fault::OtherFirst],
        vec![Fault::LostAfter, Fault::OtherFirst],
    ] {
        let (replica, task, store) = start(&faults).await;
        let results = create_all(&replica, &["a", "b"]).await;
        assert!(results.iter().all(Result::is_ok), "{faults:?} {results:?}");
        for (name, result) in ["user:a", "user:b"].iter().zip(&results) {
            let log = store.log.lock().expect("test");
            let made: Vec<_> = log
                .iter()
                .filter(|entry| entry.entry.target == *name)
                .collect();
            assert_eq!(made.len(), 1, "once: {faults:?}");
            let revision = result.as_ref().expect("ok").revision;
            assert_eq!(revision, made[0].head.revision(), "{faults:?}");
        }
        assert_same(&replica, &store);
        task.stop().await;
    }
}

#[tokio::test]
async fn a_failed_append_publishes_nothing_and_says_so() {
    let (replica, task, store) = start(&[Fault::Unavailable]).await;
    let refused = replica.submit(create("a")).await.expect_err("disk full");
    assert!(
        matches!(&refused, Refusal::Unavailable(text) if !text.contains("disk")),
        "{refused:?}"
    );
    assert_eq!(replica.state().head(), Head::EMPTY);
    replica.submit(create("a")).await.expect("again");
    assert_same(&replica, &store);
    task.stop().await;
}

#[tokio::test]
async fn one_command_at_fault_does_not_take_its_batch_with_it() {
    let (replica, task, store) = start(&[Fault::Picky]).await;
    let results = create_all(&replica, &["a", "bad", "b"]).await;
    assert!(
        results[0].is_ok() && results[1].is_err() && results[2].is_ok(),
        "{results:?}"
    );
    assert_same(&replica, &store);
    task.stop().await;
}

#[tokio::test]
async fn a_damaged_store_ends_all_answers() {
    let (replica, task, _store) = start(&[Fault::Damaged]).await;
    assert!(replica.may_answer());
    replica.submit(create("a")).await.expect_err("damaged");
    assert!(!replica.may_answer());
    replica.submit(create("b")).await.expect_err("fenced");
    task.stop().await;
}

#[tokio::test]
async fn a_refusal_is_compared_with_the_head_before_it_leaves() {
    let (replica, task, store) = start(&[]).await;
    create_all(&replica, &["a"]).await;
    store.write_as_another();
    // Refused on the State at hand, but the other writer may have changed that: decided again.
    let refused = replica.submit(create("a")).await.expect_err("taken");
    assert_eq!(refused, Refusal::AlreadyExists("user"));
    assert_eq!(replica.state().head().revision, 2, "caught up first");
    assert_same(&replica, &store);
    task.stop().await;
}

#[tokio::test]
async fn what_is_queued_at_a_stop_is_answered_and_what_comes_later_is_refused() {
    let (replica, task, store) = start(&[]).await;
    let handle = replica.clone();
    let queued = tokio::spawn(async move { handle.submit(create("a")).await });
    tokio::task::yield_now().await;
    task.stop().await;
    queued.await.expect("joined").expect("answered");
    let late = replica.submit(create("b")).await.expect_err("stopped");
    assert!(matches!(late, Refusal::Unavailable(_)));
    assert_same(&replica, &store);
}

async fn reach(replica: &Replica, wanted: Revision) -> Result<(), Refusal> {
    replica.reach(wanted.number, Some(wanted.chain)).await
}

#[tokio::test]
async fn a_revision_is_waited_for_and_one_of_another_history_is_refused() {
    let (replica, task, _store) = start(&[]).await;
    let done = replica.submit(create("a")).await.expect("made");
    reach(&replica, done.revision).await.expect("reached");
    reach(&replica, Head::EMPTY.revision())
        .await
        .expect("always");
    let other = Revision {
        chain: [1; 8],
        ..done.revision
    };
    assert_eq!(
        reach(&replica, other).await,
        Err(Refusal::OtherHistory(other))
    );
    let future = Revision {
        number: 99,
        ..done.revision
    };
    assert!(futures_util::FutureExt::now_or_never(reach(&replica, future)).is_none());
    task.stop().await;
}

#[tokio::test]
async fn a_recent_revision_is_demanded_without_reading_the_store() {
    let (replica, task, store) = start(&[Fault::OtherFirst]).await;
    let mut made = Vec::new();
    for number in 0..20 {
        let done = replica.submit(create(&format!("u{number}"))).await;
        made.push(done.expect("written").revision);
    }
    let by_another = store.log.lock().expect("test")[0].head.revision();
    let reads = store.reads.load(Ordering::Relaxed);
    for revision in made.iter().chain([&by_another]) {
        reach(&replica, *revision).await.expect("reached");
        let other = Revision {
            chain: [1; 8],
            ..*revision
        };
        let refused = reach(&replica, other).await;
        assert_eq!(refused, Err(Refusal::OtherHistory(other)));
    }
    assert_eq!(store.reads.load(Ordering::Relaxed), reads);
    task.stop().await;
    // The next start knows the end of the log before anybody asks.
    let settings = Settings::default();
    let (clock, entropy) = (Arc::new(ManualClock::at(1_000)), SeededEntropy::new(2));
    let again = Replica::start(store.clone(), clock, Arc::new(entropy), settings).await;
    let (replica, task) = again.expect("starts");
    let reads = store.reads.load(Ordering::Relaxed);
    for revision in &made {
        reach(&replica, *revision).await.expect("reached");
    }
    assert_eq!(store.reads.load(Ordering::Relaxed), reads);
    task.stop().await;
}
