//! Verification of what lies in a database, after somebody who may do everything has changed it.
//!
//! Each case is a database of its own, made from one with a random history; it is verified by the
//! command, without a server and through one.

use latchkey::domain::entropy::OsEntropy;
use latchkey::store::Store;
use latchkey::store::postgres::{PostgresStore, Settings};
use serde_json::Value;

use crate::model::recorded::record;
use crate::postgres::{Database, database, server};
use crate::program::{Ran, Server, fresh, latchkey, run, words};

/// A database with a random history that nobody uses.
async fn recorded(seed: u64) -> Database {
    let database = database().await;
    let settings = Settings {
        url: database.url.clone(),
        ..Settings::default()
    };
    let store = PostgresStore::open(&settings, &OsEntropy)
        .await
        .expect("opened");
    record(&store, seed, 250).await;
    store.close().await.expect("closed");
    drop(store);
    let client = server().client("postgres", "postgres").await;
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1";
    // A database that is copied from must have no connection.
    while client
        .query_one(sql, &[&database.name])
        .await
        .expect("activity")
        .get::<_, i64>(0)
        > 0
    {}
    database
}

async fn copy_of(database: &Database) -> Database {
    let name = server()
        .create(&format!("TEMPLATE {}", database.name))
        .await;
    Database {
        url: server().url("latchkey_server", &name),
        name,
    }
}

fn verify(line: &str, url: &str) -> Ran {
    let mut command = latchkey();
    command.args(words(line)).args(["--output", "json"]);
    command.env("LATCHKEY_DATABASE_URL", url);
    run(command, "")
}

#[track_caller]
fn broken(ran: &Ran, revision: Option<u64>, what: &str) {
    assert_eq!(ran.code, 1, "{what}: {}{}", ran.stdout, ran.stderr);
    let said: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(said["intact"], false, "{what}: {said}");
    let message = said["message"].as_str().expect("a message");
    assert!(message.contains(what), "{what}: {said}");
    if let Some(revision) = revision {
        assert_eq!(said["broken_at"], revision, "{what}: {said}");
    }
}

/// The head, whatever revision that is.
const HEAD: Option<u64> = Some(u64::MAX);

/// What is changed, the first revision that is wrong then, and what is said of it.
const CHANGES: &[(&str, Option<u64>, &str)] = &[
    (
        "UPDATE log SET body = body || '\\x00' WHERE revision = 7",
        Some(7),
        "changed",
    ),
    (
        "UPDATE log SET chain = sha256('x') WHERE revision = 8",
        Some(8),
        "changed",
    ),
    (
        "UPDATE log SET reason = 'another' WHERE revision = 9",
        Some(9),
        "column",
    ),
    (
        "UPDATE log SET actor_token = NULL WHERE revision = 60",
        Some(60),
        "column",
    ),
    (
        "UPDATE log SET batch_id = '\\x00' WHERE revision = 10",
        Some(10),
        "column",
    ),
    (
        "UPDATE log SET body_hash = sha256('x') WHERE revision = 11",
        Some(11),
        "column",
    ),
    ("DELETE FROM log WHERE revision = 1", Some(1), "missing"),
    ("DELETE FROM log WHERE revision = 12", Some(12), "missing"),
    ("DELETE FROM log WHERE revision > 20", Some(21), "missing"),
    ("DELETE FROM log", Some(1), "missing"),
    (
        "UPDATE head SET (revision, chain) = (SELECT 20, chain FROM log WHERE revision = 20)",
        HEAD,
        "head row",
    ),
    (
        "UPDATE head SET state_digest = sha256('x')",
        HEAD,
        "head row",
    ),
    (
        "UPDATE head SET instant_ms = instant_ms + 1",
        HEAD,
        "head row",
    ),
    (
        "DELETE FROM tokens WHERE id = (SELECT id FROM tokens ORDER BY id DESC LIMIT 1)",
        HEAD,
        "tables",
    ),
    (
        "UPDATE tokens SET revoked_at = NULL, revoked_ms = NULL WHERE revoked_at > 0",
        HEAD,
        "tables",
    ),
    (
        "UPDATE tokens SET digest = sha256('x') || ''",
        HEAD,
        "tables",
    ),
    ("UPDATE roles SET actions = '*'", HEAD, "tables"),
    (
        "UPDATE principals SET disabled = NOT disabled",
        HEAD,
        "tables",
    ),
    ("DELETE FROM grants", HEAD, "tables"),
    ("DELETE FROM members", HEAD, "tables"),
    ("DELETE FROM cut_offs", HEAD, "tables"),
    ("DELETE FROM requests", HEAD, "tables"),
    ("UPDATE tokens SET scopes = 'no scope'", None, "unreadable"),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_was_changed_in_a_database_is_found_offline_postgres() {
    let whole = recorded(21).await;
    let intact = verify("audit verify --offline", &whole.url).json();
    assert_eq!(intact["intact"], true);
    let head = intact["changes"].as_u64().expect("a number");
    for (sql, revision, what) in CHANGES {
        let revision = revision.map(|found| found.min(head));
        let copy = copy_of(&whole).await;
        let client = server().client("postgres", &copy.name).await;
        client
            .batch_execute("SET search_path = latchkey")
            .await
            .expect("set");
        let changed = client.execute(*sql, &[]).await.expect(sql);
        assert!(changed > 0, "{sql}");
        let ran = verify(&format!("audit verify --database-url {}", copy.url), "");
        broken(&ran, revision, what);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_is_verified_beside_servers_and_through_them_postgres() {
    let dir = fresh();
    let database = database().await;
    let dev = {
        let mut made = latchkey();
        made.args(words("bootstrap --output json"))
            .env("LATCHKEY_DATABASE_URL", &database.url);
        run(made, "").json()
    };
    let token = dev["admin_token"].as_str().expect("a token").to_owned();
    let replica = Server::replica(&database.url, "a", &[]).expect("served");
    let admin = replica.as_bearer(&token);
    for name in ["bob", "eve", "joe", "kim"] {
        admin
            .run(&format!("user create {name} --home acme --reason r"))
            .ok();
    }
    let by_server = || admin.run("audit verify --output json");
    let changes = by_server().json()["changes"].clone();
    let line = format!("audit verify --database-url {}", database.url);
    assert_eq!(verify(&line, "").json()["changes"], changes);
    // A directory that is named is verified, whatever the environment says.
    let named = format!("audit verify --data-dir {}", dir.path().display());
    let ran = verify(&named, &database.url);
    assert!(
        ran.code == 2 && ran.stderr.contains("no Latchkey database"),
        "{}",
        ran.stderr
    );
    let both = verify("audit verify --offline --until 3", &database.url);
    assert_eq!(both.code, 2, "{}", both.stderr);

    let change = async |sql: &str| server().admin(&database.name, sql).await;
    change("CREATE TABLE kept AS SELECT * FROM latchkey.log WHERE revision = 3").await;
    change("UPDATE latchkey.log SET body = body || '\\x00' WHERE revision = 3").await;
    broken(&by_server(), Some(3), "changed");
    change("DELETE FROM latchkey.log WHERE revision = 3").await;
    broken(&by_server(), Some(3), "missing");
    broken(&verify(&line, ""), Some(3), "missing");
    change("INSERT INTO latchkey.log SELECT * FROM kept").await;
    by_server().ok();
    replica.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_a_directory_are_verified_too_embedded() {
    let dir = fresh();
    let store = latchkey::store::embedded::EmbeddedStore::open(
        dir.path(),
        latchkey::store::embedded::OpenOptions::default(),
    );
    let store = store.expect("opened");
    record(&store, 22, 100).await;
    store.close().await.expect("closed");
    drop(store);
    let line = format!("audit verify --data-dir {}", dir.path().display());
    verify(&line, "").ok();
    let connection = rusqlite::Connection::open(dir.path().join("latchkey.db")).expect("opened");
    let changed = connection.execute("UPDATE tokens SET rotation = rotation + 1", []);
    assert!(changed.expect("changed") > 0);
    broken(&verify(&line, ""), None, "tables");
}
