//! The drill and the canary on real servers: what is measured, who measures, and what is an alarm.
//!
//! Replicas are processes on one database; a promise is broken on purpose by a replica that is set
//! to answer without a lease, of which the others are not told, and cut off.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use latchkey::authority::canary::CANARY_RESOURCE;
use latchkey::authority::cluster::Enforced;
use latchkey::rpc::drill::{Dial, Drill, Question, Target};
use zeroize::Zeroizing;

use crate::fleet::{Node, Options, fleet};
use crate::leaks::{metrics, value};
use crate::postgres::{Database, database, server};
use crate::program::{As, Server};
use crate::proxy::{Flow, Proxy};
use crate::replicas::bootstrap;

/// Three servers on one database, by name, and the administrator's token.
fn three(database: &Database, arguments: &[&str]) -> (BTreeMap<&'static str, Server>, String) {
    let admin = bootstrap(database);
    let start = |name| {
        let server = Server::replica(&database.url, name, arguments);
        (name, server.unwrap_or_else(|said| panic!("{name}: {said}")))
    };
    (["a", "b", "c"].map(start).into(), admin)
}

/// Waits until a server's metrics say so.
fn until(server: &Server, is_so: impl Fn(&str) -> bool) -> String {
    loop {
        let text = metrics(&server.admin_address);
        if is_so(&text) {
            return text;
        }
        std::thread::yield_now();
    }
}

const GOOD: &str = "latchkey_canary_runs_total{outcome=\"good\"}";
const LAST_GOOD: &str = "latchkey_canary_last_good_seconds";

/// Live tokens of the drill and the canary.
fn left(admin: As<'_>) -> Vec<Value> {
    let listed = admin.run("token list --state active --output json").json();
    let tokens = listed["tokens"].as_array().expect("tokens").clone();
    let ours = |one: &Value| ["canary", "drill"].contains(&one["name"].as_str().unwrap_or(""));
    tokens.into_iter().filter(ours).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_shows_when_every_server_denies_postgres() {
    let database = database().await;
    let (servers, token) = three(&database, &["--set", "check.open=false"]);
    let admin = servers["b"].as_bearer(&token);
    // Whoever made the administrator is gone.
    // Nobody can log in without a seal key, which its code tells of.
    let listed = || {
        let said = admin.run("status --output json").stdout;
        let said: Result<Value, _> = serde_json::from_str(&said);
        let said = said.unwrap_or_else(|error| panic!("{error}"));
        said["replicas"].clone()
    };
    while listed().as_array().map(Vec::len) != Some(3) {}
    let told = admin.run("drill --output json").json();
    assert_eq!(told["enforcement"]["state"], "confirmed");
    let replicas = told["replicas"].as_array().expect("replicas");
    let names: Vec<&str> = replicas
        .iter()
        .filter_map(|one| one["name"].as_str())
        .collect();
    assert_eq!(names, ["a", "b", "c"]);
    for one in replicas {
        assert!(
            one["denied_after_ms"].as_f64().expect("denied") > 0.0,
            "{one}"
        );
        assert!(one["violations"] == 0 && one["trouble"].is_null(), "{one}");
    }
    assert!(left(admin).is_empty());

    // The same for people, by addresses; one of them is of no server.
    let [a, c] = ["a", "c"].map(|name| servers[name].address.clone());
    let shown = admin
        .run(&format!("drill --replica {a} --replica {c}"))
        .ok();
    assert_eq!(shown.stdout.lines().count(), 4, "{}", shown.stdout);
    let missing = admin.run(&format!(
        "drill --replica {a} --replica 127.0.0.1:1 --wait 2s"
    ));
    assert_eq!(missing.code, 3, "{}", missing.stdout);
    assert!(
        missing.stdout.contains("cannot be asked"),
        "{}",
        missing.stdout
    );
    assert!(left(admin).is_empty());
    for (_, server) in servers {
        assert!(
            !server.terminate().contains("lkr_"),
            "a secret is in the log"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_servers_canary_measures_all_of_them_postgres() {
    let database = database().await;
    // No lease ends on a busy machine: another's canary would drill.
    let settings = ["check.open=false", "lease.length=60s", "canary.interval=1s"];
    let settings = settings.map(|setting| ["--set", setting]).concat();
    let (mut servers, token) = three(&database, &settings);
    let names = ["a", "b", "c"];
    let line = |what: &str, name: &str| {
        format!("latchkey_canary_denied_seconds{what}{{replica=\"{name}\"}}")
    };
    // Whoever came first may have drilled before the others were there.
    let twice = |text: &str, name| value(text, &line("_count", name)) >= Some(2.0);
    let text = until(&servers["a"], |text| {
        value(text, GOOD) >= Some(2.0) && names.iter().all(|name| twice(text, name))
    });
    for name in names {
        assert!(
            value(&text, &line("_sum", name)) > Some(0.0),
            "{name}: {text}"
        );
        assert!(
            value(&text, &line("_max", name)) > Some(0.0),
            "{name}: {text}"
        );
    }
    assert!(value(&text, "latchkey_canary_confirmed_seconds_count") >= Some(2.0));
    assert_eq!(value(&text, "latchkey_canary_violations_total"), Some(0.0));
    assert_eq!(value(&text, "latchkey_canary_interval_seconds"), Some(1.0));
    assert!(value(&text, LAST_GOOD) > Some(1.7e9), "{text}");
    for name in ["b", "c"] {
        let text = metrics(&servers[name].admin_address);
        assert_eq!(
            (value(&text, GOOD), value(&text, LAST_GOOD)),
            (Some(0.0), None),
            "{name}"
        );
    }
    // The next oldest goes on; whatever the first had made is gone with it.
    let mut logs = vec![servers.remove("a").expect("there").terminate()];
    until(&servers["b"], |text| value(text, GOOD) >= Some(1.0));
    assert_eq!(
        value(&metrics(&servers["c"].admin_address), GOOD),
        Some(0.0)
    );
    // What the last has made itself is gone once nobody drills any more.
    for name in ["b", "c"] {
        logs.push(servers.remove(name).expect("there").terminate());
    }
    let quiet = Server::replica(&database.url, "d", &settings[..4]).expect("started");
    servers.insert("c", quiet);
    let audit = servers["c"].as_bearer(&token);
    assert!(left(audit).is_empty());
    let listed = audit.run("audit list --actor system --kind token.revoke --limit 2 --output json");
    let changes = listed.json()["changes"].as_array().expect("changes").len();
    assert_eq!(changes, 2);
    logs.push(servers.remove("c").expect("there").terminate());
    for log in logs {
        assert!(!log.contains("lkr_") && !log.contains("ALARM"), "{log}");
    }
}

/// How often a canary's drill may pass by before it is where the test wants it.
const ROUNDS_MAX: usize = 5;
const VIOLATIONS: &str = "latchkey_canary_violations_total";
/// Allows that are enough for an alarm.
const ENOUGH: f64 = 100.0;

/// Drills of the canary that have ended.
fn runs(text: &str) -> f64 {
    let runs = ["good", "failed", "violated"];
    let line = |outcome| format!("latchkey_canary_runs_total{{outcome=\"{outcome}\"}}");
    let ended = runs.map(|outcome| value(text, &line(outcome)).unwrap_or(0.0));
    ended.iter().sum()
}

/// The canary's replica, and one that answers without a lease: in the middle of a drill it is cut
/// off from the database, with the token that it then goes on to allow.
#[tokio::test(flavor = "multi_thread")]
async fn a_canary_raises_an_alarm_where_the_promise_is_broken_postgres() {
    let database = database().await;
    bootstrap(&database);
    server().hide_who_serves_stale(&database.name).await;
    let start = |url: &str, name: &str, settings: &[&str]| {
        let lease = ["--set", "lease.length=2s"];
        let started = Server::replica(url, name, &[&lease, settings].concat());
        started.unwrap_or_else(|said| panic!("{name}: {said}"))
    };
    let a = start(&database.url, "a", &["--set", "canary.interval=1s"]);
    let way = Proxy::of(server().port).await;
    let port = |port: u16| format!(":{port}/");
    let by_way = database
        .url
        .replacen(&port(server().port), &port(way.port), 1);
    // What the canary asks of it goes this way.
    let (asked, tell) = Proxy::ahead().await;
    let address = format!("replica.address=127.0.0.1:{}", asked.port);
    let settings = ["--set", "lease.serve_stale=true", "--set", &address];
    asked.to_client(Flow::Hold);
    let b = start(&by_way, "b", &settings);
    tell.send(b.address.parse().expect("an address"))
        .expect("it waits");

    let of_drills = "latchkey_checks_total{reason=\"allowed\",kind=\"resource\"}";
    let allowed = |text: &str| value(text, of_drills);
    let mut told = String::new();
    for _ in 0..ROUNDS_MAX {
        // Its answers are held, so the drill has not come to its revocation.
        let before = allowed(&metrics(&b.admin_address));
        until(&b, |text| allowed(text) > before);
        way.both_ways(Flow::Hold);
        let before = runs(&metrics(&a.admin_address));
        asked.to_client(Flow::Pass);
        told = until(&a, |text| runs(text) > before);
        if value(&told, VIOLATIONS) > Some(0.0) {
            break;
        }
        asked.to_client(Flow::Hold);
        way.both_ways(Flow::Pass);
        way.cut();
    }
    assert_eq!(value(&told, VIOLATIONS), Some(ENOUGH), "{told}");
    let violated = "latchkey_canary_runs_total{outcome=\"violated\"}";
    assert_eq!(value(&told, violated), Some(1.0), "{told}");
    // The log comes by a pipe of its own.
    while !a.logged().contains("ALARM") {
        std::thread::yield_now();
    }
    let logged = a.logged();
    let alarms = logged.lines().filter(|line| line.contains("ALARM"));
    let alarms: Vec<Value> = alarms
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let [alarm] = &alarms[..] else {
        panic!("one alarm: {logged}")
    };
    assert_eq!(
        (&alarm["level"], &alarm["replica"]),
        (&json!("ERROR"), &json!("b"))
    );
    assert!(!logged.contains("lkr_"), "a secret is in the log");
}

/// A replica that answers without a lease, cut off while a revocation is confirmed without it.
#[tokio::test(flavor = "multi_thread")]
async fn a_drill_finds_where_the_promise_is_broken_postgres() {
    let lease = Duration::from_secs(3);
    let mut stale = Options::lease(lease);
    stale.lease.serve_stale = true;
    let ([a, b], _) = fleet([Options::lease(lease), stale]).await;
    server().hide_who_serves_stale(&a.database).await;
    // Its token must have come to the other before that is cut off.
    let secret = a
        .authority
        .canary_issue("canary:ping")
        .await
        .expect("issued");
    let asked = Question {
        caller: Zeroizing::new(String::from("nobody asks")),
        token: Zeroizing::new(secret.secret.reveal().to_owned()),
        action: "canary:ping".to_owned(),
        resource: CANARY_RESOURCE.to_owned(),
    };
    let target = |node: &Node, name: &str| Target {
        name: name.to_owned(),
        address: node.address.clone(),
        is_live: true,
    };
    let targets = vec![target(&a, "a"), target(&b, "b")];
    let mut drill = Drill::begin(targets, &asked, &Dial::default(), Duration::from_secs(10));
    assert_eq!(drill.works(Duration::from_secs(10)).await, 2);
    b.partition();
    drill.revoking();
    let enforced = a.authority.canary_revoke(secret.id).await.expect("revoked");
    assert!(
        matches!(enforced, Enforced::Confirmed { .. }),
        "{enforced:?}"
    );
    drill.enforced(Duration::ZERO);
    let seen = drill.end().await;
    assert!(
        seen[0].is_good() && seen[0].denied_after.is_some(),
        "{seen:?}"
    );
    assert!(seen[1].violations > 0 && !seen[1].is_good(), "{seen:?}");
    b.heal();
}
