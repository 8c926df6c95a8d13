//! Two versions on one log: when its format is raised, who may read it, and who stops.
//!
//! A newer version is a replica that says it reads more, or a debug build told to be one format
//! newer than it is. What no version reads is made by hand.

use std::sync::Arc;
use std::time::Duration;

use latchkey::domain::change::Display;
use latchkey::domain::clock::SystemClock;
use latchkey::domain::entropy::OsEntropy;
use latchkey::domain::entry::LogEntry;
use latchkey::domain::format::FORMAT_MAX;
use latchkey::domain::permission::Resource;
use latchkey::domain::principal::PrincipalName;
use latchkey::domain::refusal::Refusal;
use latchkey::domain::seal::key::KeyId;
use latchkey::replica::{Identity, LeaseSettings, LoadError, Replica, Settings, WriterTask};
use latchkey::state::decide::{Caller, Command, Envelope};
use latchkey::store::cluster::Cluster as _;
use latchkey::store::embedded::{EmbeddedStore, OpenOptions};
use latchkey::store::postgres::{self, PostgresStore};
use latchkey::store::{Batch, Store, StoreError};

use crate::postgres::{Database, database};
use crate::program::{Server, fresh};

/// What nothing here takes longer than unless it hangs.
const HANGS: Duration = Duration::from_secs(60);

type Started = Result<(Replica, WriterTask), LoadError>;

async fn start(store: Arc<dyn Store>, format_max: u32) -> Started {
    let settings = Settings {
        forget_every_ms: 10,
        lease: LeaseSettings {
            length_ms: 1_000,
            poll: Duration::from_millis(20),
            ..LeaseSettings::default()
        },
        identity: Identity {
            format_max,
            ..Identity::default()
        },
        ..Settings::default()
    };
    let clock = Arc::new(SystemClock::start());
    Replica::start(store, clock, Arc::new(OsEntropy), settings).await
}

async fn connect(database: &Database) -> Arc<PostgresStore> {
    let settings = postgres::Settings {
        url: database.url.clone(),
        cluster_timeout: HANGS,
        ..postgres::Settings::default()
    };
    let opened = PostgresStore::open(&settings, &OsEntropy).await;
    Arc::new(opened.expect("a migrated database opens"))
}

fn create(name: &str) -> Envelope {
    Envelope {
        caller: Caller::Local,
        reason: "test".to_owned(),
        request: None,
        command: Command::CreatePrincipal {
            name: PrincipalName::parse(name).expect("a name"),
            home: Resource::parse("acme").expect("a path"),
            display: Display::default(),
        },
    }
}

/// A change of a kind that the second format brought.
fn mint() -> Envelope {
    Envelope {
        command: Command::MintBy {
            key: KeyId(1),
            salt: [1; 16],
        },
        ..create("user:nobody")
    }
}

/// Wants a kind of the second format, which every server reads.
async fn raised(replica: &Replica) {
    replica.submit(mint()).await.expect("raised at once");
    assert_eq!(replica.state().format(), 2);
}

fn too_new(started: Started) -> (u32, u32) {
    match started {
        Err(LoadError::Store(StoreError::Format { level, reads })) => (level, reads),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it started"),
    }
}

/// An entry behind the head of a format that nobody reads.
pub(crate) async fn unknown(store: &dyn Store) -> Batch {
    let base = store.snapshot().await.expect("a snapshot").head;
    let last = store.changes_after(base.revision - 1, 1).await;
    let mut entry = last.expect("the log").remove(0).entry;
    entry.revision += 1;
    entry.request = None;
    let mut logged = LogEntry::new(entry, &base);
    // A body begins with its format.
    assert_eq!(logged.body[..2], [8, 1]);
    logged.body[1] = 99;
    logged.head = base.after(&logged.body);
    Batch {
        id: [99; 16],
        base,
        entries: vec![logged],
    }
}

#[tokio::test]
async fn alone_a_newer_version_raises_the_format_when_it_is_wanted_and_an_older_one_refuses_embedded()
 {
    let dir = fresh();
    let open = || EmbeddedStore::open(dir.path(), OpenOptions::default());
    let (replica, writer) = start(Arc::new(open().expect("opened")), 1)
        .await
        .expect("started");
    replica.submit(create("user:alice")).await.expect("done");
    assert_eq!(replica.state().format(), 1);
    drop(replica);
    writer.stop().await;

    let store = Arc::new(open().expect("opened"));
    let (replica, writer) = start(store, 2).await.expect("started");
    replica.submit(create("user:bob")).await.expect("done");
    assert_eq!(replica.state().format(), 1, "nobody wants more yet");
    replica.submit(mint()).await.expect("done");
    assert_eq!(replica.state().format(), 2);
    drop(replica);
    writer.stop().await;
    let refused = start(Arc::new(open().expect("opened")), 1).await;
    assert_eq!(too_new(refused), (2, 1));
}

#[tokio::test]
async fn the_format_is_raised_once_the_last_older_member_has_left_postgres() {
    let database = database().await;
    let (older, older_task) = start(connect(&database).await, 1).await.expect("started");
    let store = connect(&database).await;
    let (newer, newer_task) = start(Arc::clone(&store) as _, 2).await.expect("started");
    newer.submit(create("user:alice")).await.expect("done");
    // Several renewals, each of which reads the members.
    let beats = async || {
        let roster = store.roster().await.expect("a roster");
        let beats = roster.members.iter().map(|member| member.heartbeat);
        (roster.members.len(), beats.min().unwrap_or(0))
    };
    let pass = async { while beats().await.1 < 3 {} };
    tokio::time::timeout(HANGS, pass).await.expect("renewed");
    assert_eq!(beats().await.0, 2);
    let refused = newer.submit(mint()).await.expect_err("one reads less");
    assert!(matches!(refused, Refusal::Precondition(_)), "{refused}");
    assert_eq!((newer.state().format(), older.state().format()), (1, 1));

    older_task.stop().await;
    raised(&newer).await;
    let refused = start(connect(&database).await, 1).await;
    assert_eq!(too_new(refused), (2, 1));
    assert_eq!(beats().await.0, 1, "it is no member");
    newer.submit(create("user:bob")).await.expect("done");
    newer_task.stop().await;
}

/// Waits until a replica answers nothing any more.
async fn stopped(replica: &Replica, store: &PostgresStore) {
    let silent = async {
        while replica.may_answer() {
            store.roster().await.expect("a roster");
        }
    };
    let silent = tokio::time::timeout(HANGS, silent).await;
    silent.expect("it stops answering");
}

#[tokio::test]
async fn an_entry_of_an_unknown_version_stops_the_replica_that_follows_postgres() {
    let database = database().await;
    let (store, others) = (connect(&database).await, connect(&database).await);
    let (replica, task) = start(store, 1).await.expect("started");
    replica.submit(create("user:alice")).await.expect("done");
    let head = replica.state().head();
    let batch = unknown(&*others).await;
    others.append(batch).await.expect("appended");
    stopped(&replica, &others).await;
    assert_eq!(replica.state().head(), head, "nothing of it is applied");
    // And whoever starts now does not begin to answer.
    let Err(LoadError::Store(StoreError::Damaged { revision: 2, what })) =
        start(connect(&database).await, 1).await
    else {
        panic!("it started");
    };
    assert!(what.contains("format 99"), "{what}");
    // Nor does it come back by loading again.
    let divergences = &replica.counters().divergences;
    let again = async {
        while divergences.load(std::sync::atomic::Ordering::Relaxed) < 2 {
            others.roster().await.expect("a roster");
        }
    };
    tokio::time::timeout(HANGS, again).await.expect("tried");
    assert!(!replica.may_answer());
    task.stop().await;
}

#[test]
fn a_debug_build_of_the_next_format_raises_it_unless_it_is_told_not_to_embedded() {
    let dir = fresh();
    let pinned = [
        "--set",
        "changes.format_max=1",
        "--set",
        "forget.interval=10ms",
    ];
    let newer = |arguments: &[&str]| Server::start_next(dir.path(), arguments);
    let server = newer(&pinned).expect("started");
    let admin = server.admin.clone().expect("a fresh directory");
    let kinds = |server: &Server| {
        let listed = server
            .as_bearer(&admin)
            .run("audit list --output json")
            .json();
        let changes = listed["changes"].as_array().expect("changes").clone();
        let kind = |change: &serde_json::Value| change["kind"].as_str().expect("a kind").to_owned();
        changes.iter().map(kind).collect::<Vec<_>>()
    };
    let of_next = |kinds: &[String]| {
        let next = |kind: &&String| *kind == "format.raise" || *kind == "note";
        kinds.iter().filter(next).count()
    };
    assert_eq!(of_next(&kinds(&server)), 0);
    server.terminate();
    // A version that knows less goes on from it.
    Server::start(dir.path()).terminate();

    let server = newer(&pinned[2..]).expect("started");
    let both = |kinds: &[String]| {
        let has = |wanted: &str| kinds.iter().any(|kind| kind == wanted);
        has("format.raise") && has("note")
    };
    let begun = std::time::Instant::now();
    while !both(&kinds(&server)) {
        assert!(begun.elapsed() < HANGS, "{:?}", kinds(&server));
    }
    server.terminate();
    let said = Server::start_with(dir.path(), &[]).err().expect("refused");
    let next = FORMAT_MAX + 1;
    let expected =
        format!("the log is of format {next} and this server reads formats up to {FORMAT_MAX}");
    assert!(said.contains(&expected), "{said}");
    newer(&[]).expect("started").terminate();
}
