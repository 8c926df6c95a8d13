//! Last uses: what is noted, what is written and when, and what is dropped.
//!
//! Against a scripted store and by the clock of the test's runtime, which stands until everybody
//! waits for it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::tests::{NoteFault, ScriptedStore, VirtualClock};
use super::used::{Gathered, Gatherer};
use super::*;
use crate::domain::clock::UnixMs;
use crate::domain::entropy::SeededEntropy;
use crate::domain::token::TokenId;
use crate::store::list::LastUsed;

const START_MS: UnixMs = 1_800_000_000_000;
const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;

fn tokens(count: usize) -> Vec<TokenId> {
    let entropy = SeededEntropy::new(7);
    let make = |_| TokenId::generate(START_MS, &entropy);
    (0..count).map(make).collect()
}

fn settings(interval_s: u64, per_second: usize) -> LastUsedSettings {
    LastUsedSettings {
        interval: Duration::from_secs(interval_s),
        per_second,
    }
}

/// A gatherer with nobody who writes.
struct Alone {
    gatherer: Gatherer,
    gathered: Gathered,
    dropped: AtomicU64,
}

impl Alone {
    fn new(settings: &LastUsedSettings) -> Self {
        let (gatherer, gathered) = Gatherer::new(settings);
        Self {
            gatherer,
            gathered,
            dropped: AtomicU64::new(0),
        }
    }

    fn note(&self, token: TokenId, at_ms: UnixMs) {
        self.gatherer.note(token, at_ms, None, &self.dropped);
    }

    /// What was gathered since the last time.
    fn taken(&mut self) -> Vec<(TokenId, UnixMs)> {
        let mut taken = Vec::new();
        while let Ok((token, used)) = self.gathered.try_recv() {
            taken.push((token, used.at_ms));
        }
        taken
    }

    fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

#[test]
fn only_the_first_use_of_an_hour_is_noted() {
    let mut alone = Alone::new(&LastUsedSettings::default());
    for token in tokens(100) {
        for minute in 0..600 {
            alone.note(token, START_MS + minute * MINUTE_MS);
        }
        let instants: Vec<u64> = alone.taken().into_iter().map(|(_, at_ms)| at_ms).collect();
        assert_eq!(instants[0], START_MS);
        // Where its hours begin is the token's own.
        assert!(instants[1] <= START_MS + HOUR_MS, "{instants:?}");
        let hours: Vec<u64> = instants[1..]
            .windows(2)
            .map(|two| two[1] - two[0])
            .collect();
        assert!(hours.len() >= 8, "{hours:?}");
        assert!(hours.iter().all(|gap| *gap == HOUR_MS), "{hours:?}");
    }
}

#[test]
fn the_hours_of_tokens_begin_at_different_times() {
    let mut alone = Alone::new(&settings(3_600, 10_000));
    let tokens = tokens(10_000);
    for token in &tokens {
        alone.note(*token, START_MS);
    }
    alone.taken();
    // Within any minute a sixtieth of all, more or less; the ends of the phases overlap a little.
    for minute in 1..=60 {
        for token in &tokens {
            alone.note(*token, START_MS + minute * MINUTE_MS);
        }
        let anew = alone.taken().len();
        assert!((80..400).contains(&anew), "minute {minute}: {anew}");
    }
}

#[test]
fn a_collision_costs_a_token_one_hour_and_no_more() {
    let mut alone = Alone::new(&settings(3_600, 10_000));
    let all: BTreeSet<TokenId> = tokens(60_000).into_iter().collect();
    let mut unlucky = Vec::new();
    for hour in [0, 2] {
        for token in &all {
            alone.note(*token, START_MS + hour * HOUR_MS);
        }
        let noted: BTreeSet<TokenId> = alone.taken().into_iter().map(|one| one.0).collect();
        let missed: BTreeSet<TokenId> = all.difference(&noted).copied().collect();
        assert!(missed.len() < 60, "{} missed", missed.len());
        unlucky.push(missed);
    }
    assert!(unlucky[0].is_disjoint(&unlucky[1]));
    assert_eq!(alone.dropped(), 0);
}

#[test]
fn a_use_without_room_is_counted_and_may_be_noted_later() {
    let mut alone = Alone::new(&settings(1, 1));
    let tokens = tokens(2);
    alone.note(tokens[0], START_MS);
    alone.note(tokens[1], START_MS + 1);
    alone.note(tokens[1], START_MS + 2);
    assert_eq!(alone.dropped(), 2);
    assert_eq!(alone.taken(), [(tokens[0], START_MS)]);
    for at_ms in START_MS + 3..START_MS + 9 {
        tokens.iter().for_each(|token| alone.note(*token, at_ms));
    }
    assert_eq!(alone.taken(), [(tokens[1], START_MS + 3)]);
    assert_eq!(alone.dropped(), 2);
}

#[test]
fn a_clock_that_jumps_does_not_stop_the_noting() {
    let mut alone = Alone::new(&settings(60, 200));
    let token = tokens(1)[0];
    for at_ms in [START_MS, START_MS + 99 * HOUR_MS, START_MS, START_MS + 1] {
        alone.note(token, at_ms);
    }
    let instants: Vec<u64> = alone.taken().into_iter().map(|one| one.1).collect();
    assert_eq!(instants, [START_MS, START_MS + 99 * HOUR_MS, START_MS]);
}

/// A replica whose store is scripted.
struct Running {
    replica: Replica,
    writer: WriterTask,
    store: Arc<ScriptedStore>,
    begun: Instant,
}

impl Running {
    async fn start(last_used: LastUsedSettings, faults: Vec<NoteFault>) -> Self {
        let store = Arc::new(ScriptedStore::default());
        store.note_faults.lock().expect("test").extend(faults);
        let settings = Settings {
            last_used: Some(last_used),
            ..Settings::default()
        };
        let (replica, writer) = Replica::start(
            Arc::clone(&store) as Arc<dyn Store>,
            Arc::new(VirtualClock::begun()),
            Arc::new(SeededEntropy::new(1)),
            settings,
        )
        .await
        .expect("starts");
        Self {
            replica,
            writer,
            store,
            begun: Instant::now(),
        }
    }

    fn note(&self, tokens: &[TokenId]) {
        for token in tokens {
            self.replica.note_used(*token, START_MS, None);
        }
    }

    /// Waits until so many batches were written; when that was, after the start.
    async fn written(&self, batches: usize) -> Duration {
        let mut noted = self.store.noted.subscribe();
        let written = noted.wait_for(|noted| noted.len() >= batches).await;
        drop(written.expect("the store is there"));
        self.begun.elapsed()
    }

    async fn failed(&self, times: usize) {
        let mut failures = self.store.note_failures.subscribe();
        let failed = failures.wait_for(|count| *count >= times).await;
        failed.expect("the store is there");
    }

    fn batches(&self) -> Vec<Vec<TokenId>> {
        let noted = self.store.noted.borrow();
        let ids = |batch: &Vec<(TokenId, LastUsed)>| batch.iter().map(|one| one.0).collect();
        noted.iter().map(ids).collect()
    }

    fn dropped(&self) -> u64 {
        let counters = self.replica.counters();
        counters.last_used_dropped.load(Ordering::Relaxed)
    }
}

fn unavailable() -> NoteFault {
    NoteFault::Fails(StoreError::Unavailable("down".to_owned()))
}

#[tokio::test(start_paused = true)]
async fn uses_are_written_within_the_interval_and_so_many_a_second() {
    let running = Running::start(settings(60, 2), Vec::new()).await;
    let mut five = tokens(5);
    running.note(&five);
    let first = running.written(1).await;
    assert!(first >= Duration::from_secs(30) && first <= Duration::from_secs(60));
    let third = running.written(3).await;
    assert!(third >= first + Duration::from_secs(2), "{third:?}");
    five.sort_unstable();
    assert_eq!(running.batches(), [&five[..2], &five[2..4], &five[4..]]);
    running.writer.stop().await;
}

#[tokio::test(start_paused = true)]
async fn of_several_uses_of_a_token_the_latest_is_written() {
    let running = Running::start(settings(60, 200), Vec::new()).await;
    let token = tokens(1)[0];
    let from = Some(IpAddr::from([192, 0, 2, 1]));
    for (hour, from) in [(0, None), (2, from), (1, None)] {
        let at_ms = START_MS + hour * HOUR_MS;
        running.replica.note_used(token, at_ms, from);
    }
    running.written(1).await;
    let at_ms = START_MS + 2 * HOUR_MS;
    let expected = vec![vec![(token, LastUsed { at_ms, from })]];
    assert_eq!(*running.store.noted.borrow(), expected);
    running.writer.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_outlived_by_as_much_as_there_is_room_for() {
    let unknown = NoteFault::Fails(StoreError::OutcomeUnknown("lost".to_owned()));
    let running = Running::start(settings(1, 2), vec![unavailable(), unknown]).await;
    let five = tokens(5);
    running.note(&five[..2]);
    running.failed(1).await;
    // Two wait to be written, two more to be gathered.
    running.note(&five[2..]);
    assert_eq!(running.dropped(), 1);
    running.failed(2).await;
    running.written(2).await;
    let mut written = running.batches().concat();
    written.sort_unstable();
    let mut kept = five[..4].to_vec();
    kept.sort_unstable();
    assert_eq!(written, kept);
    assert_eq!(running.dropped(), 1);
    // The one that found no room is noted at its next use.
    running.note(&five[4..]);
    running.written(3).await;
    assert_eq!(running.batches()[2], five[4..]);
    running.writer.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_refused_stands_in_nobodys_way() {
    let refused = NoteFault::Fails(StoreError::Refused("no".to_owned()));
    let running = Running::start(settings(60, 1), vec![refused]).await;
    let mut two = tokens(2);
    two.sort_unstable();
    running.note(&two);
    running.written(1).await;
    assert_eq!(running.batches(), [&two[1..]]);
    assert_eq!(running.dropped(), 1);
    running.writer.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_left_is_written_when_the_server_stops() {
    let running = Running::start(settings(3_600, 1), Vec::new()).await;
    running.note(&tokens(3));
    let begun = Instant::now();
    running.writer.stop().await;
    assert_eq!(running.store.noted.borrow().concat().len(), 3);
    assert_eq!(begun.elapsed(), Duration::ZERO);
    // Too late: nobody writes it any more.
    running.replica.note_used(tokens(4)[3], START_MS, None);
    let dropped = &running.replica.counters().last_used_dropped;
    assert_eq!(dropped.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn the_store_is_there_until_the_stop_though_nobody_asks_any_more() {
    let running = Running::start(settings(3_600, 1), Vec::new()).await;
    running.note(&tokens(1));
    drop(running.replica);
    // The clock moves only when all the others have nothing left to do.
    tokio::time::advance(Duration::from_secs(1)).await;
    running.writer.stop().await;
    assert_eq!(running.store.noted.borrow().concat().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_does_not_hold_up_the_stop() {
    // It hangs twice: in the round that the stop ends, and in the last one.
    let faults = vec![NoteFault::Hangs, NoteFault::Hangs];
    let running = Running::start(settings(1, 1), faults).await;
    let two = tokens(2);
    running.note(&two[..1]);
    let faults = || running.store.note_faults.lock().expect("test").len();
    while faults() == 2 {
        tokio::time::advance(Duration::from_millis(100)).await;
    }
    running.note(&two[1..]);
    let begun = Instant::now();
    let counters = running.replica.clone();
    running.writer.stop().await;
    assert!(
        begun.elapsed() <= Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    let dropped = &counters.counters().last_used_dropped;
    assert_eq!(dropped.load(Ordering::Relaxed), 2);
    assert!(running.store.noted.borrow().is_empty());
}
