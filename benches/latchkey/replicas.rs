//! Replicas on Postgres: group commit, confirmed revocations, propagation, fairness, loading.
//!
//! Server, replicas and callers share the machine's cores. Latencies are taken one by one and told
//! as the median and the 99th percentile; they are not compared with anything outside this run.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};
use latchkey::authority::{Authority, Settings};
use latchkey::domain::entropy::OsEntropy;
use latchkey::domain::token::Secret;
use latchkey::replica::{BATCH_COMMANDS_MAX, Enforced, Replica};
use latchkey::state::RowsDigest;
use latchkey::state::decide::{Caller, Command, Envelope, RevokeTarget};
use latchkey::store::Store as _;

use super::database::{Database, Disk, Running, Server, client};
use super::proxy::{Flow, Proxy};
use super::report::{Spread, percentiles};
use super::store::{fill, issue};

const ROUNDS: usize = 5;
const ISSUES_MIN: usize = 200;
const REVOKES: usize = 500;
const MOST: Duration = Duration::from_secs(5);
const FAR: Duration = Duration::from_millis(1);
const FAIR_CALLERS: usize = 8;
const FAIR_ISSUES: usize = 200;
const SAMPLE: u64 = 20_000;

/// What `wanted` chooses: `appends` by so many callers, `fairness`, `revocations`.
pub(crate) fn run(callers: &[u64], wanted: impl Fn(&str) -> bool) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for disk in [Disk::AsIs, Disk::Slow] {
        let server = Server::start(disk);
        if wanted("appends") {
            for callers in callers {
                runtime.block_on(issues(&server, disk, *callers as usize));
            }
        }
        if wanted("fairness") {
            runtime.block_on(fairness(&server, disk));
        }
        if wanted("revocations") && disk == Disk::AsIs {
            for replicas in [1, 3, 16] {
                runtime.block_on(revocations(&server, replicas));
            }
        }
    }
}

fn named(disk: Disk) -> &'static str {
    match disk {
        Disk::AsIs => "this disk",
        Disk::Slow => "flushes 1 ms slower",
    }
}

async fn issues(server: &Server, disk: Disk, callers: usize) {
    let mut rates = [Vec::new(), Vec::new()];
    // Interleaved, so that a noisy moment hits both.
    for round in 0..ROUNDS {
        for (index, batch) in [1, BATCH_COMMANDS_MAX].into_iter().enumerate() {
            let database = database(server, &format!("i{round}_{index}_{callers}")).await;
            let running = database.replica("one", batch).await;
            let admin = administrator(&running.replica).await;
            let each = if batch == 1 {
                ISSUES_MIN
            } else {
                ISSUES_MIN * callers.min(16)
            };
            rates[index].push(issue_round(&running.replica, &admin, callers, each).await);
            running.task.stop().await;
        }
    }
    let [single, grouped] = rates.map(Spread::of);
    println!(
        "Postgres, {}, {callers} callers: {single} issues a second one transaction each; \
         {grouped} with group commit ({:.1} times as many)",
        named(disk),
        grouped.median / single.median,
    );
}

async fn database(server: &Server, name: &str) -> Database {
    server.database(&format!("bench_{name}")).await
}

async fn administrator(replica: &Replica) -> Secret {
    let settings = Settings {
        valid_for_ms: 5_000,
        confirm_time_max: MOST,
    };
    let authority = Authority::new(replica.clone(), Arc::new(OsEntropy), settings);
    authority
        .bootstrap(false)
        .await
        .expect("made")
        .expect("fresh")
}

fn envelope(admin: &Secret, command: Command) -> Envelope {
    Envelope {
        caller: Caller::Bearer {
            key: admin.digest().key(),
            client_ip: None,
            peer: None,
        },
        reason: "benchmark".to_owned(),
        request: None,
        command,
    }
}

/// Issues a second.
async fn issue_round(replica: &Replica, admin: &Secret, callers: usize, issues: usize) -> f64 {
    let left = AtomicUsize::new(issues);
    let begun = Instant::now();
    let caller = || async {
        while left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            })
            .is_ok()
        {
            let command = Command::IssueToken(Box::new(issue()));
            replica
                .submit(envelope(admin, command))
                .await
                .expect("issued");
        }
    };
    join_all((0..callers).map(|_| caller())).await;
    issues as f64 / begun.elapsed().as_secs_f64()
}

async fn started(database: &Database, count: usize) -> Vec<Running> {
    let mut running = Vec::new();
    for index in 0..count {
        running.push(
            database
                .replica(&format!("r{index}"), BATCH_COMMANDS_MAX)
                .await,
        );
    }
    running
}

async fn revocations(server: &Server, count: usize) {
    let database = database(server, &format!("r{count}")).await;
    let running = started(&database, count).await;
    let first = &running[0].replica;
    let admin = administrator(first).await;
    let mut tokens = Vec::new();
    for _ in 0..REVOKES {
        let asked = issue();
        tokens.push(asked.id);
        let command = Command::IssueToken(Box::new(asked));
        first
            .submit(envelope(&admin, command))
            .await
            .expect("issued");
    }
    let (mut confirmed, mut applied) = (Vec::new(), Vec::new());
    for id in tokens {
        let begun = Instant::now();
        let command = Command::RevokeToken {
            target: RevokeTarget::Id(id),
            compromised: false,
        };
        let done = first
            .submit(envelope(&admin, command))
            .await
            .expect("revoked");
        let committed = Instant::now();
        let others = running[1..].iter().map(|other| {
            let mut published = other.replica.revisions();
            async move {
                let reached = published.wait_for(|number| *number >= done.revision.number);
                reached.await.expect("it runs");
                committed.elapsed()
            }
        });
        let enforce = async {
            let enforced = first.enforce(&done.durable(), MOST).await;
            let confirmed =
                matches!(&enforced, Enforced::Confirmed { replicas } if replicas.len() == count);
            assert!(confirmed, "{enforced:?}");
            begun.elapsed()
        };
        let (elapsed, reached) = join(enforce, join_all(others)).await;
        confirmed.push(elapsed);
        applied.extend(reached.into_iter().max());
    }
    println!(
        "Postgres, {count} replicas: revoked to confirmed {}{}",
        percentiles(&mut confirmed),
        if applied.is_empty() {
            String::new()
        } else {
            format!(
                "; committed to applied by the last {}",
                percentiles(&mut applied)
            )
        }
    );
    for one in running {
        one.task.stop().await;
    }
}

/// Three replicas write, one of them further away.
async fn fairness(server: &Server, disk: Disk) {
    let near = database(server, "fair").await;
    let proxy = Proxy::start(([127, 0, 0, 1], server.port).into()).await;
    proxy.both_ways(Flow::Late(FAR));
    let far = Database {
        port: proxy.port,
        ..near.clone()
    };
    let mut running = started(&near, 2).await;
    let admin = administrator(&running[0].replica).await;
    running.push(far.replica("far", BATCH_COMMANDS_MAX).await);
    let all = running.iter().map(|one| {
        let callers = (0..FAIR_CALLERS).map(|_| async {
            let mut taken = Vec::new();
            for _ in 0..FAIR_ISSUES {
                let command = Command::IssueToken(Box::new(issue()));
                let begun = Instant::now();
                one.replica
                    .submit(envelope(&admin, command))
                    .await
                    .expect("issued");
                taken.push((Instant::now(), begun.elapsed()));
            }
            taken
        });
        async { join_all(callers).await.concat() }
    });
    let begun = Instant::now();
    let taken = join_all(all).await;
    // Whoever is done first leaves the others more room: what comes later does not count.
    let ends = taken
        .iter()
        .filter_map(|one| one.iter().map(|(at, _)| *at).max());
    let until = ends.min().expect("all have written");
    let mut taken: Vec<Vec<Duration>> = taken
        .into_iter()
        .map(|one| {
            one.into_iter()
                .filter(|(at, _)| *at <= until)
                .map(|(_, took)| took)
                .collect()
        })
        .collect();
    let rate = taken.iter().map(Vec::len).sum::<usize>() as f64 / (until - begun).as_secs_f64();
    let told: Vec<_> = taken.iter_mut().map(|one| percentiles(one)).collect();
    let p99s = || told.iter().map(|one| one.p99.as_secs_f64());
    let ratio = p99s().fold(0.0, f64::max) / p99s().fold(f64::INFINITY, f64::min);
    let told: Vec<String> = told.iter().map(ToString::to_string).collect();
    println!(
        "Postgres, {}, three replicas with {FAIR_CALLERS} callers each, the third {} ms away: {}; \
         {rate:.0} a second in all while all three write; the largest p99 is {ratio:.2} times the smallest",
        named(disk),
        2 * FAR.as_millis(),
        told.join(", "),
    );
    for one in running {
        one.task.stop().await;
    }
}

/// How long a replica loads so many tokens.
pub(crate) fn load(count: u64) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let server = Server::start(Disk::AsIs);
    runtime.block_on(async {
        let database = database(&server, "load").await;
        let begun = Instant::now();
        fill_tables(&database, count).await;
        let filled = begun.elapsed().as_secs_f64();
        let size = bytes_of(&database, "tokens").await / count as f64;
        let mut rounds = Vec::new();
        for _ in 0..if count > 1_000_000 { 3 } else { ROUNDS } {
            let begun = Instant::now();
            let running = database.replica("load", BATCH_COMMANDS_MAX).await;
            rounds.push(begun.elapsed().as_secs_f64());
            assert_eq!(running.replica.state().token_count() as u64, count);
            running.task.stop().await;
        }
        let spread = Spread::of(rounds);
        println!(
            "Postgres, {count} tokens of {size:.0} bytes each, indexes apart: loaded in {:.2} [{:.2}-{:.2}] s \
             (filled in {filled:.0} s)",
            spread.median, spread.lowest, spread.highest,
        );
    });
}

async fn bytes_of(database: &Database, table: &str) -> f64 {
    let client = client(&database.url()).await;
    let sql = format!("SELECT pg_table_size('latchkey.{table}')");
    let row = client.query_one(&sql, &[]).await.expect("a size");
    row.get::<_, i64>(0) as f64
}

/// Fills the tables: some tokens through the log, and then each of them again and again under
/// other ids and digests. What the head vouches for is made to be the digest of that.
async fn fill_tables(database: &Database, count: u64) {
    let store = database.store().await;
    fill(&store, SAMPLE.min(count)).await;
    let client = client(&database.url()).await;
    if count > SAMPLE {
        let sql = "DROP INDEX latchkey.tokens_by_subject, latchkey.tokens_by_resource,
               latchkey.tokens_by_parent, latchkey.tokens_by_end;
             CREATE TEMPORARY TABLE made AS SELECT row_number() OVER (ORDER BY id) - 1 AS n, *
               FROM latchkey.tokens";
        client.batch_execute(sql).await.expect("made");
        let columns = client
            .query(
                "SELECT column_name FROM information_schema.columns
                 WHERE table_schema = 'latchkey' AND table_name = 'tokens' ORDER BY ordinal_position",
                &[],
            )
            .await
            .expect("columns");
        let columns: Vec<String> = columns.iter().map(|row| row.get(0)).collect();
        let values = columns.iter().map(|column| match column.as_str() {
            "id" => "(lpad(to_hex(1800000000000 + k.n / 100), 12, '0') || '7000'
                || substr(md5(k.n::text), 1, 16))::uuid"
                .to_owned(),
            "digest" => "d.digest".to_owned(),
            "slice" => "get_byte(d.digest, 0)".to_owned(),
            other => format!("m.{other}"),
        });
        let sql = format!(
            "INSERT INTO latchkey.tokens ({}) SELECT {} FROM generate_series({SAMPLE}, {}) AS k(n)
             JOIN made m ON m.n = k.n % {SAMPLE}
             CROSS JOIN LATERAL (SELECT sha256(k.n::text::bytea) AS digest) d",
            columns.join(", "),
            values.collect::<Vec<_>>().join(", "),
            count - 1,
        );
        client.batch_execute(&sql).await.expect("filled");
        client
            .batch_execute("VACUUM ANALYZE latchkey.tokens")
            .await
            .expect("analysed");
    }
    let mut snapshot = store.snapshot().await.expect("a snapshot");
    let mut digest = RowsDigest::default();
    while let Some(rows) = snapshot.rows.recv().await {
        rows.expect("rows").iter().for_each(|row| digest.add(row));
    }
    let sql = "UPDATE latchkey.head SET state_digest = $1";
    let digest = digest.finish();
    client
        .execute(sql, &[&digest.as_slice()])
        .await
        .expect("vouched for");
    store.close().await.expect("closes");
}
