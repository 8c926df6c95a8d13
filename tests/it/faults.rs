//! Three replicas on one database, each behind a network of its own, while everything breaks.
//!
//! ```text
//! checkers, issuers, revokers ─► a, b, c (processes) ─► a proxy each ─► Postgres (a test's own)
//!                 oracle              stopped, killed        cut, held, dripped       restarted, frozen
//! ```
//!
//! The oracle: no Check that is *sent* after its token's revocation was answered CONFIRMED (or so
//! long after COMMITTED as that answer said) is allowed by any replica, and a token whose issue
//! was answered so is denied by none but as stale. In the end all replicas stand at one revision.
//! `LATCHKEY_FAULT_SECONDS` is how long it runs, 90 by default, and `LATCHKEY_FAULT_SEED` what the
//! faults are drawn from; what happened is kept in a file if the oracle finds anything.

mod disturb;
mod history;
mod settle;
mod traffic;
mod world;

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use disturb::{Disturber, Kind};
use history::History;
use traffic::Traffic;
use world::World;

/// How long a replica answers without the database.
const LEASE: Duration = Duration::from_millis(800);
const SECONDS_DEFAULT: u64 = 90;
/// Until a replica that breaks the rule must have been caught.
const CAUGHT_WITHIN: Duration = Duration::from_secs(60);

/// Random numbers from a seed.
struct Dice(u64);

impl Dice {
    // SplitMix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let range = (most - least).as_millis() as usize;
        least + Duration::from_millis(self.below(range + 1) as u64)
    }
}

/// One run at a time: each has more processes than most machines have cores.
static ALONE: Mutex<()> = Mutex::const_new(());

/// One run.
struct Plan {
    seed: u64,
    /// Until when faults happen, at the latest.
    most: Duration,
    kinds: &'static [Kind],
    /// Settings of the replicas beyond the usual ones.
    settings: &'static [&'static str],
    /// Whether it ends with the first token that is let in and must not be.
    until_caught: bool,
}

async fn run(plan: &Plan) -> Arc<History> {
    let _alone = ALONE.lock().await;
    let world = Arc::new(World::start(plan.settings).await);
    let history = Arc::new(History::new(plan.seed));
    let stop = CancellationToken::new();
    let traffic = Traffic::start(&world, &history, &stop, plan.seed);
    let disturber = Disturber::new(&world, &history, plan);
    let faults = async {
        tokio::select! {
            () = disturber.run(&stop) => {}
            () = history.caught(), if plan.until_caught => {}
        }
    };
    // Running out of time is how a run without violations ends.
    let _ = timeout(plan.most, faults).await;
    stop.cancel();
    world.heal();
    drop(world.starting.lock().await);
    let cases = traffic.end().await;
    if !plan.until_caught {
        settle::settle(&world, &history, &cases).await;
    }
    world.keep_logs(&history);
    history
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is a number")),
    )
}

fn seed() -> u64 {
    number("LATCHKEY_FAULT_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.expect("after 1970").as_millis() as u64
    })
}

/// Past the capture of the test's output: what happened is worth reading also when all is well.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_fault_lets_a_revoked_token_in_postgres() {
    let seconds = number("LATCHKEY_FAULT_SECONDS").unwrap_or(SECONDS_DEFAULT);
    let plan = Plan {
        seed: seed(),
        most: Duration::from_secs(seconds),
        kinds: &Kind::ALL,
        settings: &[],
        until_caught: false,
    };
    let history = run(&plan).await;
    tell(&history.table());
    let found = history.violations();
    assert!(found.is_empty(), "{}\n{}", history.keep(), found.join("\n"));
    let never = history.never(plan.kinds);
    assert!(
        never.is_empty(),
        "{}\nthese never happened: {never:?}",
        history.keep()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_serves_stale_checks_is_caught_postgres() {
    let plan = Plan {
        seed: seed(),
        most: CAUGHT_WITHIN,
        kinds: &[
            Kind::Stop,
            Kind::Partition,
            Kind::DeafOneWay,
            Kind::MuteOneWay,
        ],
        settings: &["lease.serve_stale=true"],
        until_caught: true,
    };
    let history = run(&plan).await;
    tell(&history.table());
    let found = history.violations();
    assert!(
        found.iter().any(|one| one.contains("after it was gone")),
        "{}\nthe oracle finds nothing",
        history.keep()
    );
}
