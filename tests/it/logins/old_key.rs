//! Logins of a replica that has sealed nothing since its start and has no database: by a key that
//! has sealed for long, of which all who answer have heard, and by one that is new.
//!
//! The log begins with a key of long ago, by hand: no server takes another time than the
//! database's.

use std::sync::Arc;

use arc_swap::ArcSwap;
use latchkey::domain::clock::{Clock as _, Now, SystemClock};
use latchkey::domain::entropy::OsEntropy;
use latchkey::domain::entry::{Entry, LogEntry};
use latchkey::domain::seal::key::{KeyId, SealKey};
use latchkey::domain::seal::ring::Ring;
use latchkey::proto::v1;
use latchkey::state::State;
use latchkey::state::decide::{Caller, Command, Envelope, Lifetimes, Moment, Outcome, decide};
use latchkey::store::postgres::{self, PostgresStore};
use latchkey::store::{Appended, Batch, Store as _};
use tonic::Code;

use super::fleet::{confirmed, with_settings};
use super::house::{House, REASON};
use crate::fleet::{LONG, Node, Options};
use crate::postgres::{Database, database};
use crate::proxy::Flow;
use crate::wire::bearer;

/// Longer than two of the longest leases.
const LONG_AGO_MS: u64 = 11 * 60 * 1_000;

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

/// Begins the log of a database: access tokens have been sealed by a key for long.
async fn sealed_long_ago(database: &Database, key: KeyId) {
    let now = SystemClock::start().now();
    let then = Now::at(now.earliest - LONG_AGO_MS);
    let mut state = State::default();
    let base = state.head();
    let mint = Command::MintBy { key, salt: [7; 16] };
    let entries = vec![
        next(&mut state, Command::RaiseFormat(2), then),
        next(&mut state, mint, then),
    ];
    let settings = postgres::Settings {
        url: database.url.clone(),
        ..postgres::Settings::default()
    };
    let store = PostgresStore::open(&settings, &OsEntropy).await;
    let store = store.expect("a migrated database opens");
    let batch = Batch {
        id: [1; 16],
        base,
        entries,
    };
    let appended = store.append(batch).await.expect("appended");
    assert!(matches!(appended, Appended::Committed));
    store.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_sealed_nothing_yet_needs_no_database_to_seal_by_an_old_key_postgres() {
    let database = database().await;
    let [old, new] = [(); 2].map(|()| SealKey::generate(&OsEntropy));
    let new_id = new.id();
    sealed_long_ago(&database, old.id()).await;
    let mut options = Options::lease(LONG);
    options.seals = Arc::new(ArcSwap::from_pointee(Ring::new([old, new])));
    let a = Node::start(&database, "a", options.clone()).await;
    let admin = a.authority.bootstrap(false).await.expect("written");
    let admin = admin.expect("the first").reveal().to_owned();
    let mut house = House::of(&a.address, &admin).await;
    house.furnish().await;
    let secret = with_settings(&mut house, v1::LoginSettings::default()).await;

    // It has loaded all that there is, and then there is no database any more.
    let b = Node::start(&database, "b", options.clone()).await;
    let cut = |node: &Node| {
        node.way.both_ways(Flow::Close);
        node.way.cut();
    };
    cut(&b);
    let mut restarted = House::of(&b.address, &admin).await;
    let token = restarted.login(&secret).await;
    for house in [&mut house, &mut restarted] {
        let reason = house.may_deploy(&token.access_token).await;
        assert_eq!(reason, v1::Reason::Allowed);
    }
    b.heal();

    // Of a new one only those have heard who say so.
    let rotate = v1::RotateKeyRequest {
        key_id: new_id.to_string(),
        wait_for_replicas: true,
        reason: REASON.to_owned(),
        ..v1::RotateKeyRequest::default()
    };
    let rotated = house.keys.rotate_key(bearer(&admin, rotate)).await;
    confirmed(rotated.expect("rotated").into_inner().enforcement);
    let c = Node::start(&database, "c", options).await;
    cut(&c);
    let mut restarted = House::of(&c.address, &admin).await;
    let refused = restarted.try_login(&secret).await;
    let refused = refused.expect_err("it may be unheard of");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
}
