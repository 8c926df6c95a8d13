//! The login record: what is written and when, and what is dropped.
//!
//! Against the scripted store and by the clock of the test's runtime, which stands until everybody
//! waits for it.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::tests::{NoteFault, ScriptedStore, VirtualClock};
use super::*;
use crate::domain::entropy::SeededEntropy;
use crate::domain::principal::PrincipalId;
use crate::domain::token::TokenId;
use crate::store::list::Page;
use crate::store::logins::{
    Failure, FailureKey, LoginKind, LoginQuery, Logins, OneTime, StoredLogin,
};

fn unused<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable("not asked here".to_owned()))
}

#[async_trait]
impl Logins for ScriptedStore {
    async fn note_failure(&self, _: &Failure) -> Result<u32, StoreError> {
        unused()
    }

    async fn clear_failures(&self, _: RangeInclusive<FailureKey>) -> Result<(), StoreError> {
        unused()
    }

    async fn consume(&self, _: &OneTime) -> Result<bool, StoreError> {
        unused()
    }

    async fn note_logins(&self, logins: &[LoginNoted]) -> Result<(), StoreError> {
        self.take_note().await?;
        self.logged_in.send_modify(|all| all.push(logins.to_vec()));
        Ok(())
    }

    async fn logins(&self, _: LoginQuery) -> Result<Page<StoredLogin, u64>, StoreError> {
        unused()
    }
}

fn login(number: usize) -> LoginNoted {
    LoginNoted {
        at_ms: 1_000 + number as u64,
        kind: LoginKind::Login,
        account: Some(PrincipalId(7)),
        parent: None,
        credential: TokenId::from_u128(9),
        token: TokenId::from_u128(number as u128),
        from: Some(IpAddr::from([192, 0, 2, 1])),
        expires_ms: 9_000,
    }
}

struct Running {
    replica: Replica,
    tasks: WriterTask,
    store: Arc<ScriptedStore>,
    begun: Instant,
}

impl Running {
    async fn start(faults: Vec<NoteFault>) -> Self {
        let store = Arc::new(ScriptedStore::default());
        store.note_faults.lock().expect("test").extend(faults);
        let (replica, tasks) = Replica::start(
            Arc::clone(&store) as Arc<dyn Store>,
            Arc::new(VirtualClock::begun()),
            Arc::new(SeededEntropy::new(1)),
            Settings::default(),
        )
        .await
        .expect("starts");
        Self {
            replica,
            tasks,
            store,
            begun: Instant::now(),
        }
    }

    fn note(&self, numbers: std::ops::Range<usize>) {
        numbers.for_each(|number| self.replica.note_login(login(number)));
    }

    /// Waits until so many batches were written; when that was, after the start.
    async fn written(&self, batches: usize) -> Duration {
        let mut written = self.store.logged_in.subscribe();
        let enough = written.wait_for(|all| all.len() >= batches).await;
        drop(enough.expect("the store is there"));
        self.begun.elapsed()
    }

    fn batches(&self) -> Vec<Vec<LoginNoted>> {
        self.store.logged_in.borrow().clone()
    }

    fn dropped(&self) -> u64 {
        let counters = self.replica.counters();
        counters.logins_dropped.load(Ordering::Relaxed)
    }
}

fn logins(numbers: std::ops::Range<usize>) -> Vec<LoginNoted> {
    numbers.map(login).collect()
}

#[tokio::test(start_paused = true)]
async fn logins_are_written_together_within_a_second() {
    let running = Running::start(Vec::new()).await;
    running.note(0..3);
    let first = running.written(1).await;
    assert!(first >= Duration::from_millis(500) && first <= Duration::from_secs(1));
    assert_eq!(running.batches(), [logins(0..3)]);
    running.tasks.stop().await;
}

#[tokio::test(start_paused = true)]
async fn of_a_burst_so_many_are_written_in_a_second() {
    let running = Running::start(Vec::new()).await;
    running.note(0..2_500);
    let first = running.written(1).await;
    let last = running.written(3).await;
    assert!(last >= first + Duration::from_secs(2), "{first:?} {last:?}");
    assert_eq!(running.batches().concat(), logins(0..2_500));
    assert_eq!(running.dropped(), 0);
    running.tasks.stop().await;
}

#[tokio::test(start_paused = true)]
async fn logins_without_room_are_counted_and_hold_nobody_up() {
    let running = Running::start(Vec::new()).await;
    let most = logins::PACE.waiting_max;
    running.note(0..most + 5);
    assert_eq!(running.dropped(), 5);
    assert_eq!(running.begun.elapsed(), Duration::ZERO);
    let batches = most.div_ceil(logins::PACE.per_second);
    running.written(batches).await;
    assert_eq!(running.batches().concat(), logins(0..most));
    running.tasks.stop().await;
}

#[tokio::test(start_paused = true)]
async fn logins_outlive_an_outage_of_the_store() {
    let away = || NoteFault::Fails(StoreError::Unavailable("down".to_owned()));
    let lost = NoteFault::Fails(StoreError::OutcomeUnknown("lost".to_owned()));
    let running = Running::start(vec![away(), lost, away()]).await;
    running.note(0..2);
    let mut failures = running.store.note_failures.subscribe();
    let failed = failures.wait_for(|count| *count >= 1).await;
    drop(failed.expect("the store is there"));
    running.note(2..4);
    running.written(1).await;
    assert_eq!(running.batches(), [logins(0..4)]);
    assert_eq!(running.dropped(), 0);
    running.tasks.stop().await;
}

#[tokio::test(start_paused = true)]
async fn logins_that_are_refused_stand_in_nobodys_way() {
    let refused = NoteFault::Fails(StoreError::Refused("no".to_owned()));
    let running = Running::start(vec![refused]).await;
    running.note(0..1_001);
    running.written(1).await;
    assert_eq!(running.batches(), [logins(1_000..1_001)]);
    assert_eq!(running.dropped(), 1_000);
    running.tasks.stop().await;
}

#[tokio::test(start_paused = true)]
async fn logins_that_wait_are_written_when_the_server_stops() {
    let running = Running::start(Vec::new()).await;
    running.note(0..2_500);
    running.tasks.stop().await;
    assert_eq!(
        running.store.logged_in.borrow().concat(),
        logins(0..2_500),
        "all of them"
    );
    assert_eq!(running.begun.elapsed(), Duration::ZERO);
    // Too late: nobody writes it any more.
    running.replica.note_login(login(0));
    let dropped = &running.replica.counters().logins_dropped;
    assert_eq!(dropped.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_nobody_asks_any_more_writes_its_last_logins() {
    let running = Running::start(Vec::new()).await;
    running.note(0..1);
    drop(running.replica);
    let mut written = running.store.logged_in.subscribe();
    let enough = written.wait_for(|all| !all.is_empty()).await;
    drop(enough.expect("the store is there"));
    // The queue has ended; its task waits for the stop and for nothing else.
    tokio::time::advance(Duration::from_secs(60)).await;
    running.tasks.stop().await;
    assert_eq!(running.store.logged_in.borrow().concat(), logins(0..1));
}
