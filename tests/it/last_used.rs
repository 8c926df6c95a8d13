//! When, and from where, tokens were last used, as an operator sees it.
//!
//! Nothing waits for the clock: a server that stops writes what it has gathered, so what is to be
//! seen is there after a restart.

use std::path::Path;

use jiff::Timestamp;
use serde_json::Value;

use crate::leaks::{free_port, metrics};
use crate::postgres::database;
use crate::program::{As, Server, fresh};
use crate::replicas::bootstrap;

const SCOPED: &str = "--kind resource --resource acme/web --scope secrets:read@acme/web/** \
                      --ttl 1h --name n --reason r";

fn check(who: As<'_>, secret: &str, resource: &str, from: &str) -> i32 {
    let line = format!(
        "check --token-file - --action secrets:read --resource {resource} --client-ip {from}"
    );
    who.run_with_input(&line, secret).code
}

/// When and from where, or empty.
fn last_used(who: As<'_>, id: &str) -> (String, String) {
    let shown = who.run(&format!("token show {id} --output json")).json();
    let text = |key: &str| shown[key].as_str().unwrap_or_default().to_owned();
    let (at, from) = (text("last_used_at"), text("last_used_from"));
    assert!(
        at.is_empty() || instant(&at) >= instant(&text("created_at")),
        "{shown}"
    );
    (at, from)
}

/// An instant by its text, which has no zeros at its end and so has another order.
fn instant(text: &str) -> Timestamp {
    text.parse().expect("an instant")
}

#[test]
fn instants_are_not_compared_as_texts() {
    let [earlier, later] = ["2026-11-22T16:32:17.7Z", "2026-11-22T16:32:17.774Z"];
    assert!(earlier > later && instant(earlier) < instant(later));
}

fn from_where(who: As<'_>, id: &str) -> Option<String> {
    let (at, from) = last_used(who, id);
    (!at.is_empty()).then_some(from)
}

fn again(dir: &Path, server: Server) -> Server {
    server.terminate();
    Server::start(dir)
}

#[test]
fn a_use_is_shown_after_a_restart_and_a_denial_is_none_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let admin_token = server.admin.clone().expect("a fresh directory");
    let admin = server.admin();
    let issued = |more: &str| admin.issue(&format!("{SCOPED} {more}"));
    let (used, secret) = issued("");
    assert_eq!(check(admin, &secret, "acme/web/x", "192.0.2.7"), 0);
    // Not the first of its hour.
    assert_eq!(check(admin, &secret, "acme/web/x", "192.0.2.8"), 0);
    let (denied, secret) = issued("");
    assert_eq!(check(admin, &secret, "acme/api", "192.0.2.7"), 1);
    let (counted, secret) = issued("--uses 1");
    assert_eq!(check(admin, &secret, "acme/web/x", "::ffff:192.0.2.9"), 0);
    let (bearer, secret) = issued("");
    server.as_bearer(&secret).run("token whoami").ok();
    let (idle, _) = issued("");

    let server = again(dir.path(), server);
    let admin = server.as_bearer(&admin_token);
    let from = |id: &str| from_where(admin, id);
    assert_eq!(from(&used).as_deref(), Some("192.0.2.7"));
    assert_eq!(from(&counted).as_deref(), Some("192.0.2.9"));
    assert_eq!(from(&bearer).as_deref(), Some("127.0.0.1"));
    assert_eq!(from(&denied), None);
    assert_eq!(from(&idle), None);

    let listed = admin.run("token list --output json").json();
    let (at, _) = last_used(admin, &used);
    let tokens = listed["tokens"].as_array().expect("tokens");
    let one = tokens
        .iter()
        .find(|token| token["token_id"] == used.as_str());
    assert_eq!(one.expect("listed")["last_used_at"], at.as_str());
    let table = admin.run("token list").ok().stdout;
    assert!(
        table.contains("LAST USED") && table.contains(&at),
        "{table}"
    );
    let page = admin.run(&format!("token show {used}")).ok().stdout;
    assert!(page.contains("192.0.2.7"), "{page}");
    // The log knows nothing of it.
    let audit = admin.run("audit list").ok().stdout;
    assert!(!audit.contains("192.0.2"), "{audit}");
    server.terminate();
}

#[test]
fn who_asks_a_check_uses_its_own_token_embedded() {
    let dir = fresh();
    let closed = ["--set", "check.open=false"];
    let server = Server::start_with(dir.path(), &closed).expect("starts");
    let admin_token = server.admin.clone().expect("a fresh directory");
    let admin = server.admin();
    let (asking, caller) = admin.issue(
        "--kind resource --resource acme --scope tokens:check@acme/** --ttl 1h --name c --reason r",
    );
    let (used, secret) = admin.issue(SCOPED);
    let bearer = server.as_bearer(&caller);
    assert_eq!(check(bearer, &secret, "acme/web/x", "192.0.2.7"), 0);
    let server = again(dir.path(), server);
    let admin = server.as_bearer(&admin_token);
    assert_eq!(from_where(admin, &asking).as_deref(), Some("127.0.0.1"));
    assert_eq!(from_where(admin, &used).as_deref(), Some("192.0.2.7"));
}

#[test]
fn nothing_is_noted_where_it_is_switched_off_embedded() {
    let dir = fresh();
    let off = ["--set", "last_used.enabled=false"];
    let server = Server::start_with(dir.path(), &off).expect("starts");
    let admin_token = server.admin.clone().expect("a fresh directory");
    let (id, secret) = server.admin().issue(SCOPED);
    assert_eq!(check(server.admin(), &secret, "acme/web/x", "192.0.2.7"), 0);
    let server = again(dir.path(), server);
    assert_eq!(from_where(server.as_bearer(&admin_token), &id), None);
}

#[test]
fn a_use_is_written_while_the_server_goes_on_embedded() {
    const TRIES: usize = 5_000;
    let dir = fresh();
    let admin_port = free_port();
    let soon = ["--set", "last_used.interval=1s", "--admin", &admin_port];
    let mut server = Server::start_with(dir.path(), &soon).expect("starts");
    let admin_token = server.admin.clone().expect("a fresh directory");
    let (id, secret) = server.admin().issue(SCOPED);
    assert_eq!(check(server.admin(), &secret, "acme/web/x", "192.0.2.7"), 0);
    let mut tries = 0..TRIES;
    let seen = |_| from_where(server.admin(), &id).is_some();
    assert!(tries.any(seen), "it is never written");
    let shown = metrics(&admin_port);
    assert!(
        shown.contains("latchkey_last_used_dropped_total 0"),
        "{shown}"
    );
    // What was written outlives the process, however that ends.
    server.cut();
    let server = Server::start(dir.path());
    let from = from_where(server.as_bearer(&admin_token), &id);
    assert_eq!(from.as_deref(), Some("192.0.2.7"));
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_note_uses_of_the_same_token_and_the_latest_stands_postgres() {
    let database = database().await;
    let admin = bootstrap(&database);
    let start = |name: &str| Server::replica(&database.url, name, &[]).expect("starts");
    let [a, b] = ["a", "b"].map(start);
    let issued: Value = a
        .as_bearer(&admin)
        .run(&format!("token issue {SCOPED} --output json"))
        .json();
    let text = |key: &str| issued[key].as_str().expect(key).to_owned();
    let (id, secret) = (text("token_id"), text("secret"));
    // So that the other one knows it.
    let head = text("revision");
    let reached = format!(
        "check --token-file - --action secrets:read --resource acme/web/x --client-ip 192.0.2.2 \
         --at-least {head}"
    );
    assert_eq!(
        check(a.as_bearer(&admin), &secret, "acme/web/x", "192.0.2.1"),
        0
    );
    let said = a.terminate();
    assert!(!said.contains("the store is closed"), "{said}");
    let (first, from) = last_used(b.as_bearer(&admin), &id);
    assert_eq!(from, "192.0.2.1");
    b.as_bearer(&admin).run_with_input(&reached, &secret).ok();
    b.terminate();
    let c = start("c");
    let (second, from) = last_used(c.as_bearer(&admin), &id);
    assert!(instant(&second) > instant(&first), "{second} {first}");
    assert_eq!(from, "192.0.2.2");
    c.terminate();
}
