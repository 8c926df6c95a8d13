//! What becomes of a replica when one process of its database stands still and all others go on.
//!
//! The kernel still accepts and acknowledges every byte for it, so nothing but a deadline tells.

use std::time::{Duration, Instant};

use latchkey::proto::v1;
use tokio_postgres::Client;
use v1::check_service_client::CheckServiceClient;

use crate::postgres;
use crate::postgres::control::freeze_process;
use crate::program::Server;
use crate::replicas::bootstrap;
use crate::wire::{channel, check};

/// Until something must have happened on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// A statement may take far longer than the lease.
const SETTINGS: [&str; 4] = [
    "--set",
    "lease.length=4s",
    "--set",
    "database.statement_timeout=60s",
];
/// Of which each begins a quarter of a lease after the one before.
const RENEWALS: i64 = 6;

/// The server's process whose last statement has this name, once there is one.
async fn process(client: &Client, database: &str, statement: &str) -> i32 {
    let sql = "SELECT pid FROM pg_stat_activity WHERE datname = $1
        AND query LIKE '-- ' || $2 || E'\n%' AND application_name = 'latchkey'";
    let began = Instant::now();
    loop {
        let found = client.query_opt(sql, &[&database, &statement]).await;
        if let Some(found) = found.expect("one process") {
            return found.get(0);
        }
        assert!(began.elapsed() < PATIENCE, "nothing says {statement}");
    }
}

async fn renewals(client: &Client) -> i64 {
    let sql = "SELECT heartbeat FROM latchkey.replicas";
    client.query_one(sql, &[]).await.expect("a member").get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_keeps_its_lease_when_its_feed_stands_still_postgres() {
    let server = tokio::task::block_in_place(|| postgres::Server::private(""));
    let database = server.database().await;
    let admin = bootstrap(&database);
    let replica = tokio::task::block_in_place(|| Server::replica(&database.url, "a", &SETTINGS));
    let replica = replica.expect("started");
    let client = server.client("postgres", &database.name).await;
    let frozen = freeze_process(process(&client, &database.name, "feed").await);
    let (first, began) = (renewals(&client).await, Instant::now());
    let mut checks = CheckServiceClient::new(channel(&replica.address).await);
    while renewals(&client).await < first + RENEWALS {
        let answer = checks.check(check(&admin, &[])).await;
        let reason = answer.expect("answered").into_inner().reason();
        assert_ne!(reason, v1::Reason::Stale, "after {:?}", began.elapsed());
        assert!(began.elapsed() < PATIENCE, "it renews no more");
    }
    drop(frozen);
}
