//! What an outage of the database does to Checks and writes: the table of the README, measured.
//!
//! Real replicas on a store in memory whose connection can be cut, in virtual time: every outage
//! begins at many moments between two renewals, and what was seen is written as the README writes
//! it. A cut connection hangs for as long as the store's own deadline and then fails.

pub(crate) mod line;

use std::sync::Arc;
use std::time::Duration;

use latchkey::domain::change::Display;
use latchkey::domain::entropy::SeededEntropy;
use latchkey::domain::permission::Resource;
use latchkey::domain::principal::PrincipalName;
use latchkey::domain::refusal::Refusal;
use latchkey::replica::{Done, Enforced, LeaseSettings, Replica, Settings, WriterTask};
use latchkey::state::decide::{Caller, Command, Envelope};
use tokio::time::{Instant, sleep};

use line::{Database, Line, VirtualClock};

/// How finely it is looked.
const STEP_MS: u64 = 10;
/// At how many moments between two renewals each outage begins.
const PHASES: u64 = 9;

/// A column of the table.
#[derive(Clone, Copy)]
struct Column {
    lease_ms: u64,
    serve_stale: bool,
}

const COLUMNS: [Column; 3] = [
    Column {
        lease_ms: 5_000,
        serve_stale: false,
    },
    Column {
        lease_ms: 60_000,
        serve_stale: false,
    },
    Column {
        lease_ms: 5_000,
        serve_stale: true,
    },
];

/// A replica and the way to its database.
struct Running {
    replica: Replica,
    line: Arc<Line>,
    task: WriterTask,
}

impl Column {
    async fn start(self, database: &Arc<Database>, name: u64) -> Running {
        let line = Arc::new(Line::new(Arc::clone(database), self.lease_ms));
        let mut settings = Settings {
            lease: LeaseSettings {
                length_ms: self.lease_ms,
                serve_stale: self.serve_stale,
                ..LeaseSettings::default()
            },
            ..Settings::default()
        };
        settings.identity.name = format!("replica {name}");
        let (clock, entropy) = (VirtualClock::start(), SeededEntropy::new(name));
        let store = Arc::clone(&line);
        let started = Replica::start(store, Arc::new(clock), Arc::new(entropy), settings).await;
        let (replica, task) = started.expect("started");
        until(|| replica.may_answer() && replica.lease_left_ms() > Some(0)).await;
        Running {
            replica,
            line,
            task,
        }
    }
}

/// Waits, in virtual time, and says for how long.
async fn until(is_so: impl Fn() -> bool) -> u64 {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(600), "never");
        sleep(Duration::from_millis(STEP_MS)).await;
    }
    u64::try_from(begun.elapsed().as_millis()).expect("short")
}

async fn pass(ms: u64) {
    sleep(Duration::from_millis(ms)).await;
}

fn alice() -> PrincipalName {
    PrincipalName::parse("user:alice").expect("a name")
}

async fn submit(replica: &Replica, command: Command) -> Result<Done, Refusal> {
    let envelope = Envelope {
        caller: Caller::Local,
        reason: "test".to_owned(),
        request: None,
        command,
    };
    replica.submit(envelope).await
}

async fn create(replica: &Replica) -> Result<Done, Refusal> {
    let command = Command::CreatePrincipal {
        name: alice(),
        home: Resource::parse("acme").expect("a path"),
        display: Display::default(),
    };
    submit(replica, command).await
}

async fn disable(replica: &Replica) -> Result<Done, Refusal> {
    let command = Command::SetDisabled {
        name: alice(),
        disabled: true,
    };
    submit(replica, command).await
}

/// Whether a Check of alice's would be allowed now.
fn allows(replica: &Replica) -> bool {
    let (held, state) = replica.answering();
    held && state
        .principal_named(&alice())
        .is_some_and(|one| !one.disabled)
}

/// What was seen of one outage, in milliseconds.
#[derive(Clone, Copy)]
struct Seen {
    /// From its beginning until the lease had ended; none if it never had.
    lease_over: Option<u64>,
    /// For how long Checks were denied as stale.
    stale: u64,
}

/// One outage that begins so long after a renewal.
async fn outage(column: Column, outage_ms: u64, after_ms: u64) -> Seen {
    let database = Database::new();
    let one = column.start(&database, 1).await;
    create(&one.replica).await.expect("written");
    let (left, length) = (|| one.replica.lease_left_ms().unwrap_or(0), column.lease_ms);
    // The next renewal, and then the moment that was asked for.
    until(|| left() < length * 4 / 5).await;
    until(|| left() > length * 9 / 10).await;
    pass(after_ms).await;
    one.line.cut(true);
    let begun = Instant::now();
    let refused = tokio::spawn({
        let replica = one.replica.clone();
        async move { disable(&replica).await }
    });
    let (mut lease_over, mut stale) = (None, 0);
    let at = |begun: Instant| u64::try_from(begun.elapsed().as_millis()).expect("short");
    while at(begun) < outage_ms || left() == 0 {
        if at(begun) >= outage_ms {
            one.line.cut(false);
        }
        if left() == 0 && lease_over.is_none() {
            lease_over = Some(at(begun));
        }
        if !allows(&one.replica) {
            stale += STEP_MS;
        }
        pass(STEP_MS).await;
    }
    let refused = refused.await.expect("ended");
    assert!(
        matches!(refused, Err(Refusal::Unavailable(_))),
        "a write in an outage: {refused:?}"
    );
    // And then everything is as before, by itself.
    one.line.cut(false);
    disable(&one.replica).await.expect("written");
    assert!(!allows(&one.replica) && one.replica.may_answer());
    one.task.stop().await;
    Seen { lease_over, stale }
}

/// What the README says of an outage.
async fn cell(column: Column, outage_ms: u64) -> String {
    let renew_ms = column.lease_ms / 4;
    let mut seen = Vec::new();
    for phase in 0..PHASES {
        // The last just before the next renewal.
        let after_ms = (renew_ms * phase / (PHASES - 1)).min(renew_ms - 5 * STEP_MS);
        seen.push(outage(column, outage_ms, after_ms).await);
    }
    let over: Vec<u64> = seen.iter().filter_map(|one| one.lease_over).collect();
    let stale = || seen.iter().map(|one| one.stale);
    let longest = stale().max().unwrap_or(0);
    if over.is_empty() {
        assert_eq!(longest, 0);
        return "all answered".to_owned();
    }
    assert_eq!(
        over.len(),
        seen.len(),
        "in some of the outages the lease ended"
    );
    let ends = range(over.into_iter());
    if column.serve_stale {
        assert_eq!(longest, 0);
        return format!("all answered, after {ends} by what was known then");
    }
    let stale = range(stale());
    format!("answered for {ends}, then denied as stale for {stale}")
}

/// The shortest and the longest, in seconds with one place, rounded away from each other.
fn range(ms: impl Iterator<Item = u64> + Clone) -> String {
    let (least, most) = (ms.clone().min().unwrap_or(0), ms.max().unwrap_or(0));
    format!(
        "{} to {} s",
        tenths(least / 100),
        tenths(most.div_ceil(100))
    )
}

fn tenths(tenths: u64) -> String {
    match tenths % 10 {
        0 => format!("{}", tenths / 10),
        rest => format!("{}.{rest}", tenths / 10),
    }
}

/// How long it takes until a revocation holds while one replica alone is cut off.
async fn confirmation(column: Column) -> String {
    let database = Database::new();
    let one = column.start(&database, 1).await;
    let other = column.start(&database, 2).await;
    create(&one.replica).await.expect("written");
    until(|| allows(&other.replica)).await;
    other.line.cut(true);
    let begun = Instant::now();
    let done = disable(&one.replica).await.expect("written");
    let most = Duration::from_secs(600);
    let enforced = one.replica.enforce(&done.durable(), most).await;
    let took = u64::try_from(begun.elapsed().as_millis()).expect("short");
    let (confirmed, unbounded) = match &enforced {
        Enforced::Confirmed { .. } => (true, false),
        Enforced::Committed {
            everywhere_after_ms,
            ..
        } => (false, everywhere_after_ms.is_none()),
        Enforced::Lost => (false, false),
    };
    let expected = (!column.serve_stale, column.serve_stale);
    assert_eq!((confirmed, unbounded), expected, "{enforced:?}");
    let holds = !allows(&other.replica);
    assert_ne!(
        holds, column.serve_stale,
        "what a replica without a lease answers"
    );
    other.line.cut(false);
    until(|| !allows(&other.replica)).await;
    one.task.stop().await;
    other.task.stop().await;
    if holds {
        format!("after {} s", tenths(took.div_ceil(100)))
    } else {
        "not before it is back".to_owned()
    }
}

async fn table() -> Vec<String> {
    let mut lines = Vec::new();
    for outage_s in [5, 30, 120] {
        let mut cells = Vec::new();
        for column in COLUMNS {
            cells.push(cell(column, outage_s * 1_000).await);
        }
        lines.push(format!("| Checks, {outage_s} s | {} |", cells.join(" | ")));
    }
    let mut cells = Vec::new();
    for column in COLUMNS {
        cells.push(confirmation(column).await);
    }
    lines.push(format!(
        "| one replica alone is cut off: a revocation holds | {} |",
        cells.join(" | ")
    ));
    lines
}

#[tokio::test(start_paused = true)]
async fn the_table_of_outages_is_what_replicas_do() {
    let readme = include_str!("../../README.md");
    let (_, after) = readme
        .split_once("<!-- outages: begin -->")
        .expect("a table");
    let (block, _) = after.split_once("<!-- outages: end -->").expect("a table");
    let written: Vec<&str> = block
        .lines()
        .filter(|line| line.starts_with("| "))
        .collect();
    let seen = table().await;
    assert_eq!(
        written[2..written.len() - 1],
        seen,
        "what the README says, and what was seen"
    );
}
