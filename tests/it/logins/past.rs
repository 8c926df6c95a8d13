//! Logs that begin long ago, by hand: seal keys that have sealed, or have not, for longer than a test
//! can wait.
//!
//! Entry by entry as a server decides them, with another time: no server takes one that is not its
//! own or the database's.

use latchkey::domain::clock::{Clock as _, Now, SystemClock};
use latchkey::domain::entropy::OsEntropy;
use latchkey::domain::entry::{Entry, LogEntry};
use latchkey::domain::seal::key::KeyId;
use latchkey::domain::seal::ring::Salt;
use latchkey::state::State;
use latchkey::state::decide::{Caller, Command, Envelope, Lifetimes, Moment, Outcome, decide};
use latchkey::store::postgres::{self, PostgresStore};
use latchkey::store::{Appended, Batch, Store};

use super::house::REASON;
use crate::postgres::Database;

/// The salt of every key that began in the past.
pub(crate) const SALT: Salt = [7; 16];

pub(crate) async fn open(database: &Database) -> PostgresStore {
    let settings = postgres::Settings {
        url: database.url.clone(),
        ..postgres::Settings::default()
    };
    let store = PostgresStore::open(&settings, &OsEntropy).await;
    store.expect("a migrated database opens")
}

/// Begins a log, and closes its store: each of these keys began to seal so many milliseconds ago,
/// the oldest first, and has ended to when the next one began.
pub(crate) async fn begin(store: &dyn Store, keys: &[(KeyId, u64)]) {
    let now_ms = SystemClock::start().now().earliest;
    let mut state = State::default();
    let base = state.head();
    let first = Now::at(now_ms - keys[0].1);
    let mut entries = vec![next(&mut state, Command::RaiseFormat(2), first)];
    for &(key, ago_ms) in keys {
        let mint = Command::MintBy { key, salt: SALT };
        entries.push(next(&mut state, mint, Now::at(now_ms - ago_ms)));
    }
    let batch = Batch {
        id: [1; 16],
        base,
        entries,
    };
    let appended = store.append(batch).await.expect("appended");
    assert!(matches!(appended, Appended::Committed));
    store.close().await.expect("closed");
}

/// The next entry of a log, made at `now`.
fn next(state: &mut State, command: Command, now: Now) -> LogEntry {
    let moment = Moment {
        revision: state.head().revision + 1,
        now,
        lifetimes: Lifetimes::default(),
    };
    let envelope = Envelope {
        caller: Caller::System,
        reason: REASON.to_owned(),
        request: None,
        command,
    };
    let decided = decide(state, &envelope, moment).expect("decided");
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
        instant_ms: now.latest,
        actor: decided.actor,
        kind,
        target,
        reason: envelope.reason,
        batch_id: [1; 16],
        request: None,
        state_digest: None,
        change,
    };
    let logged = LogEntry::new(entry, &state.head());
    state.apply(&logged).expect("it follows");
    logged
}
