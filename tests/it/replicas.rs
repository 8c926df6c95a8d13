//! Replicas on one database, as an operator runs them: migrate, bootstrap, serve, serve, serve.
//!
//! By the program's own commands, as the role and with the grants of the README. How writes are
//! confirmed, and what faults do, is tested beside.

use latchkey::store::postgres::known;
use std::time::Duration;

use latchkey::proto::v1;
use serde_json::Value;
use v1::check_service_client::CheckServiceClient;

use crate::postgres::{Database, SERVER_ROLE, bare_database, database, grants, server};
use crate::program::{Ran, Server, latchkey, run, words};
use crate::proxy::{Flow, Proxy};
use crate::wire::{channel, check};

/// Runs a command line on a database.
fn on(url: &str, line: &str) -> Ran {
    let mut command = latchkey();
    command.args(words(line)).env("LATCHKEY_DATABASE_URL", url);
    run(command, "")
}

/// The first administrator's token.
pub(crate) fn bootstrap(database: &Database) -> String {
    let made = on(&database.url, "bootstrap --output json").json();
    made["admin_token"].as_str().expect("a token").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_may_grant_what_servers_need_postgres() {
    let (database, owner) = bare_database().await;
    let refused = on(&owner, "migrate up --grant-to nobody-of-this-name");
    assert_eq!(refused.code, 3, "{}", refused.stdout);
    assert!(
        refused.stderr.contains("granted nothing"),
        "{}",
        refused.stderr
    );
    // The tables are there; their grants are made, or made again, by whoever repeats it.
    for _ in 0..2 {
        let line = format!("migrate up --output json --grant-to {SERVER_ROLE}");
        let said = on(&owner, &line).json();
        assert_eq!(said["granted_to"], SERVER_ROLE);
        assert_eq!(said["applied"], serde_json::json!([]));
    }
    let token = bootstrap(&database);
    let a = replica(&database.url, "a");
    assert!(a.as_bearer(&token).check(&token, "a:b", "c").0);
    // The README says to whoever does it by hand what is done here.
    let program = include_str!("../../src/store/postgres/migrations/grants.sql");
    assert_eq!(grants().trim(), program.trim());
}

fn replica(url: &str, name: &str) -> Server {
    // No lease ends on a busy machine.
    replica_with(url, name, &["--set", "lease.length=60s"])
}

fn replica_with(url: &str, name: &str, settings: &[&str]) -> Server {
    let started = Server::replica(url, name, settings);
    started.unwrap_or_else(|said| panic!("{name}: {said}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn three_replicas_serve_one_database_postgres() {
    let (database, owner) = bare_database().await;
    let missing = on(&owner, "migrate status --output json");
    assert_eq!(missing.code, 1, "{}", missing.stderr);
    let found: Value = serde_json::from_str(&missing.stdout).expect("JSON");
    assert!(found["versions"][0]["applied_at"].is_null(), "{found}");
    let known = found["known"].as_u64().expect("a version");
    let applied = on(&owner, "migrate up --output json").json();
    assert_eq!(
        applied["applied"].as_array().map(Vec::len),
        Some(known as usize)
    );
    on(&owner, "migrate up").ok();
    assert_eq!(on(&owner, "migrate status").code, 0);
    database.grant().await;

    let admin = bootstrap(&database);
    on(&database.url, "bootstrap").refused("had its first administrator");
    let replicas = ["a", "b", "c"].map(|name| replica(&database.url, name));
    let [a, b, c] = [0, 1, 2].map(|index| replicas[index].as_bearer(&admin));
    let line = "token issue --kind resource --resource acme/web --scope secrets:read@acme/web/** \
                --ttl 1h --name n --reason r --output json";
    let issued = a.run(line).json();
    let secret = issued["secret"].as_str().expect("a secret");
    let head = issued["revision"].as_str().expect("a revision");
    for other in [b, c] {
        let line = format!(
            "check --token-file - --action secrets:read --resource acme/web/x --at-least {head}"
        );
        other.run_with_input(&line, secret).ok();
    }
    let line = "token revoke --secret-file - --reason r --output json";
    let revoked = b.run_with_input(line, secret).json();
    let revision = revoked["revision"].as_str().expect("a revision");
    for other in [a, b, c] {
        let line = format!(
            "check --token-file - --action secrets:read --resource acme/web/x --at-least {revision}"
        );
        other.run_with_input(&line, secret).refused("denied");
    }
    for replica in replicas {
        let said = replica.terminate();
        assert!(!said.contains("handed back; it ends by itself"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_told_that_a_replica_serves_may_ask_it_postgres() {
    let database = database().await;
    let admin = bootstrap(&database);
    // Its first renewal is answered long after it could listen; and to connect takes it longer
    // than it waits for an answer: a second.
    let way = Proxy::of(server().port).await;
    way.both_ways(Flow::Late(Duration::from_millis(180)));
    let port = |port: u16| format!(":{port}/");
    let url = database
        .url
        .replacen(&port(server().port), &port(way.port), 1);
    let settings = ["lease.length=10s", "database.connect_timeout=10s"];
    let settings = settings.map(|setting| ["--set", setting]).concat();
    let replica = replica_with(&url, "a", &settings);
    let mut checks = CheckServiceClient::new(channel(&replica.address).await);
    let answer = checks.check(check(&admin, &[])).await.expect("answered");
    assert_eq!(answer.get_ref().reason(), v1::Reason::Allowed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_another_version_is_not_served_postgres() {
    let (database, owner) = bare_database().await;
    let said = Server::replica(&owner, "early", &[])
        .err()
        .expect("refused");
    assert!(said.contains("latchkey migrate up"), "{said}");
    on(&owner, "migrate up").ok();
    let newer = |version, reads_from| {
        format!("INSERT INTO latchkey.schema_versions VALUES ({version}, 'next', {reads_from})")
    };
    // What only adds is left alone; this is how a server of the version before comes back.
    database.grant().await;
    server().admin(&database.name, &newer(9998, known())).await;
    bootstrap(&database);
    replica(&database.url, "before").terminate();
    on(&owner, "migrate status").ok();
    on(&owner, "migrate up").ok();
    server().admin(&database.name, &newer(9999, 9999)).await;
    let said = Server::replica(&owner, "old", &[]).err().expect("refused");
    assert!(said.contains("9999"), "{said}");
    on(&owner, "migrate status").refused("too new for this program");
    let up = on(&owner, "migrate up");
    assert_eq!(up.code, 3, "{}{}", up.stdout, up.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fits_no_database_is_refused_without_its_password_postgres() {
    let database = database().await;
    let url = database
        .url
        .replace("latchkey_server@", "latchkey_server:hunter2@");
    for (line, code, part) in [
        ("serve --verify-all", 2, "data directory"),
        ("backup file", 2, "pg_dump"),
        ("restore file", 2, "pg_dump"),
        ("serve --print-config", 0, "latchkey_server:***@"),
        (
            "serve --database-url postgres://u:hunter2@127.0.0.1:1/d",
            3,
            "127.0.0.1",
        ),
        (
            "migrate up --database-url mysql://u:hunter2@h/d",
            2,
            "postgres://",
        ),
        (
            "migrate up --set database.password_file=/nowhere",
            2,
            "/nowhere",
        ),
    ] {
        let ran = on(&url, line);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert_eq!(ran.code, code, "{line}: {said}");
        assert!(said.contains(part), "{line}: {said}");
        assert!(!said.contains("hunter2"), "{line}: {said}");
    }
    let unnamed = on("", "migrate up");
    assert!(
        unnamed.stderr.contains("LATCHKEY_DATABASE_URL"),
        "{}",
        unnamed.stderr
    );
}
