//! The embedded store: issues a second with and without group commit, and a start with many
//! tokens.
//!
//! On the disk that holds the temporary directory: name it beside the figures.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use latchkey::authority::{Authority, IssueToken, LimitsAsked, ScopesAsked, Settings};
use latchkey::domain::chain::Head;
use latchkey::domain::change::{Change, Display, Row};
use latchkey::domain::clock::SystemClock;
use latchkey::domain::entropy::OsEntropy;
use latchkey::domain::entry::{Actor, Entry, EntryKind, LogEntry};
use latchkey::domain::token::{Digest, Secret, TokenId, TokenKind};
use latchkey::replica::{BATCH_COMMANDS_MAX, Replica, Settings as ReplicaSettings};
use latchkey::state::State;
use latchkey::state::decide::{Caller, Command, Envelope};
use latchkey::store::embedded::{EmbeddedStore, OpenOptions};
use latchkey::store::{Appended, Batch, Store};

use super::population::{Population, directory, secret};
use super::report::Spread;

const CALLERS: usize = 256;
const ISSUES: usize = 4_000;
const ROUNDS: usize = 5;
const START_TOKENS: u64 = 1_000_000;
const START_BATCH: usize = 2_000;

pub(crate) fn issues() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let rounds = |batch: usize, issues: usize| {
        let rounds = (0..ROUNDS).map(|_| runtime.block_on(issue_round(batch, issues)));
        let (rates, sizes): (Vec<f64>, Vec<f64>) = rounds.unzip();
        (Spread::of(rates), Spread::of(sizes))
    };
    let (single, _) = rounds(1, ISSUES / 10);
    let (grouped, entries) = rounds(BATCH_COMMANDS_MAX, ISSUES);
    println!(
        "issues a second, {CALLERS} callers: {single} one by one; {grouped} with group commit \
         ({:.1} times as many, {:.0} entries a batch)",
        grouped.median / single.median,
        entries.median,
    );
}

async fn issue_round(batch_commands_max: usize, issues: usize) -> (f64, f64) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = EmbeddedStore::open(dir.path(), OpenOptions::default()).expect("opens");
    let settings = ReplicaSettings {
        batch_commands_max,
        ..ReplicaSettings::default()
    };
    let (replica, task) = Replica::start(
        Arc::new(store),
        Arc::new(SystemClock::start()),
        Arc::new(OsEntropy),
        settings,
    )
    .await
    .expect("starts");
    let authority = Authority::new(
        replica.clone(),
        Arc::new(OsEntropy),
        Settings {
            valid_for_ms: 5_000,
            confirm_time_max: Duration::from_secs(5),
        },
    );
    let admin = authority
        .bootstrap(false)
        .await
        .expect("made")
        .expect("fresh");
    let before = replica.counters().batches.load(Ordering::Relaxed);
    let begun = Instant::now();
    let callers = (0..CALLERS).map(|caller| {
        let (replica, key) = (replica.clone(), admin.digest().key());
        tokio::spawn(async move {
            for _ in (caller..issues).step_by(CALLERS) {
                let envelope = Envelope {
                    caller: Caller::Bearer {
                        key,
                        client_ip: None,
                        peer: None,
                    },
                    reason: "benchmark".to_owned(),
                    request: None,
                    command: Command::IssueToken(Box::new(issue())),
                };
                replica.submit(envelope).await.expect("issued");
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.expect("a caller");
    }
    let rate = issues as f64 / begun.elapsed().as_secs_f64();
    let batches = replica.counters().batches.load(Ordering::Relaxed) - before;
    task.stop().await;
    (rate, issues as f64 / batches as f64)
}

pub(crate) fn issue() -> IssueToken {
    let secret = Secret::generate(TokenKind::User, &OsEntropy);
    IssueToken {
        id: TokenId::generate(1_700_000_000_000, &OsEntropy),
        digest: secret.digest(),
        kind: TokenKind::User,
        subject: None,
        resource: None,
        scopes: ScopesAsked::All,
        ttl_s: Some(3_600),
        not_before_ms: None,
        max_lifetime_s: None,
        period_s: None,
        uses: None,
        limits: LimitsAsked::default(),
        derive: false,
        display: Display {
            name: Some("benchmark".to_owned()),
            last4: Some(secret.last4().to_owned()),
            ..Display::default()
        },
    }
}

pub(crate) fn start() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let dir = tempfile::tempdir().expect("a directory");
    let filled = Instant::now();
    runtime.block_on(async {
        let store = EmbeddedStore::open(dir.path(), OpenOptions::default()).expect("opens");
        fill(&store, START_TOKENS).await;
        store.close().await.expect("closes");
    });
    let filled = filled.elapsed().as_secs_f64();
    let rounds = (0..ROUNDS).map(|_| {
        let begun = Instant::now();
        runtime.block_on(async {
            let store = EmbeddedStore::open(dir.path(), OpenOptions::default()).expect("opens");
            let (replica, task) = Replica::start(
                Arc::new(store),
                Arc::new(SystemClock::start()),
                Arc::new(OsEntropy),
                ReplicaSettings::default(),
            )
            .await
            .expect("starts");
            assert_eq!(replica.state().token_count() as u64, START_TOKENS);
            let ready = begun.elapsed().as_secs_f64();
            task.stop().await;
            ready
        })
    });
    let spread = Spread::of(rounds.collect());
    println!(
        "start with {START_TOKENS} tokens: {:.2} [{:.2}-{:.2}] s to ready (filled in {filled:.0} s)",
        spread.median, spread.lowest, spread.highest,
    );
}

/// Writes the directory and the first tokens of the population, as entries of a log that verifies.
pub(crate) async fn fill(store: &dyn Store, count: u64) {
    let population = Population::new();
    let mut state = State::default();
    let mut head = Head::EMPTY;
    let tokens = (0..count).map(|n| Change::PutToken {
        record: Box::new(population.record(n)),
        digest: Some(Digest::of(&secret(n))),
        display: Display::default(),
    });
    let directory = directory().into_iter().map(change_of);
    let mut changes = directory.chain(tokens).peekable();
    while changes.peek().is_some() {
        let changes: Vec<Change> = changes.by_ref().take(START_BATCH).collect();
        let (base, last) = (head, changes.len() - 1);
        let mut entries = Vec::new();
        for (index, change) in changes.into_iter().enumerate() {
            let mut entry = entry(head.revision + 1, change);
            state.advance(&entry);
            entry.state_digest = (index == last).then(|| state.digest());
            let logged = LogEntry::new(entry, &head);
            head = logged.head;
            entries.push(logged);
        }
        let batch = Batch {
            id: [1; 16],
            base,
            entries,
        };
        let appended = store.append(batch).await.expect("appended");
        assert!(matches!(appended, Appended::Committed));
    }
}

fn change_of(row: Row) -> Change {
    match row {
        Row::Principal(record) => Change::PutPrincipal {
            record,
            display: Display::default(),
        },
        Row::Role(record) => Change::PutRole {
            record,
            display: Display::default(),
        },
        Row::Grant(record) => Change::PutGrant(record),
        other => panic!("not in the directory of the population: {other:?}"),
    }
}

fn entry(revision: u64, change: Change) -> Entry {
    Entry {
        revision,
        instant_ms: 1_700_000_000_000,
        actor: Actor {
            principal: None,
            token: None,
            name: "local".to_owned(),
        },
        kind: EntryKind::TokenIssue,
        target: "benchmark".to_owned(),
        reason: "benchmark".to_owned(),
        batch_id: [1; 16],
        request: None,
        state_digest: None,
        change,
    }
}
