//! Seal keys that the log knows and a server has not loaded: a store restored without its file, a
//! replica with a file of another installation.
//!
//! What they sealed is answered as stale, for another server might know it. So the server says at
//! its start which keys it lacks and what to do, and until it is done logs nobody in.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{generate, replica_with_keys};
use crate::credentials::{PLACE, READ, World, prepare, word};
use crate::leaks::{admin_page, metrics, value};
use crate::postgres::database;
use crate::program::{As, Server, fresh, latchkey, run, words};
use crate::replicas::bootstrap;

const MISSING: &str = "latchkey_seal_keys_missing ";

/// A copy of the world's store without its keys.
fn copied(world: &World) -> PathBuf {
    let (copy, to) = (world.at("copy.db"), world.at("restored"));
    for line in [
        format!(
            "backup {} --data-dir {}",
            copy.display(),
            world.dir.path().display()
        ),
        format!("restore {} --data-dir {}", copy.display(), to.display()),
    ] {
        let mut command = latchkey();
        command.args(words(&line));
        run(command, "").ok();
    }
    to
}

fn start(dir: &Path) -> Server {
    Server::start_with(dir, &["--set", "seal.poll=100ms"]).expect("serves")
}

/// What a Check says, and Explain as well.
fn reason(who: &As<'_>, token: &str) -> String {
    let [check, explain] = ["check", "explain"].map(|verb| {
        let need = format!("--action {READ} --resource {PLACE}");
        let line = format!("{verb} --token-file - {need} --output json");
        let ran = who.run_with_input(&line, token);
        let said: Value = serde_json::from_str(&ran.stdout).expect("a decision");
        said["reason"].as_str().expect("reason").to_owned()
    });
    assert_eq!(explain, check);
    check
}

/// The only key in use that somebody lacks, and on how many servers.
fn missing(who: &As<'_>) -> Option<(String, usize)> {
    let list = who.run("seal-key list --output json").json();
    let keys = list["keys"].as_array().expect("a list").clone();
    let missing = |key: &Value| key["missing_on"].as_array().map_or(0, Vec::len);
    let lacks = |key: &&Value| key["phase"] != "new" && missing(key) > 0;
    let mut lacking = keys.iter().filter(lacks);
    let key = lacking.next()?;
    assert!(lacking.next().is_none(), "{list}");
    let id = key["key_id"].as_str().expect("an id");
    Some((id.to_owned(), missing(key)))
}

fn logs_in(who: &As<'_>) -> bool {
    let line = "health --service latchkey.v1.LoginService";
    let ran = who.run(line);
    assert!(ran.code == 0 || ran.code == 3, "{}", ran.stderr);
    ran.code == 0
}

fn until_it_logs_in(who: &As<'_>, expected: bool) {
    while logs_in(who) != expected {
        std::thread::yield_now();
    }
}

/// Waits until a server has said so often that it lacks keys, last of all this one, and asserts
/// that it says what to do.
fn until_told(server: &Server, times: usize, key: &str) {
    let lines = || {
        let logged = server.logged();
        let lines = logged.lines().filter(|line| line.contains("not loaded"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    while lines().len() < times {
        std::thread::yield_now();
    }
    let lines = lines();
    let last = lines.last().expect("told");
    for told in [
        key,
        "seal.keys_file",
        "`latchkey seal-key rotate`",
        "`latchkey seal-key revoke ID`",
    ] {
        assert!(last.contains(told), "{told} is not in {last}");
    }
}

#[test]
fn a_store_restored_without_its_keys_says_which_it_lacks_and_what_to_do_embedded() {
    let world = World::start();
    let (_, secret) = world.secret("");
    let token = world.token(&secret);
    let admin = world.server.admin.clone().expect("a token");
    let first = &world.json("seal-key list")["keys"][0]["key_id"];
    let first = first.as_str().expect("an id").to_owned();
    let to = copied(&world);

    let restored = start(&to);
    let bearer = restored.as_bearer(&admin);
    let login = || bearer.run_with_input("login ci --secret-file -", &secret);
    assert_eq!(reason(&bearer, &token), "stale");
    let refused = login();
    assert_eq!(refused.code, 3, "{}{}", refused.stdout, refused.stderr);
    assert_eq!(missing(&bearer), Some((first.clone(), 1)));
    // Stored tokens are as good as ever: it is ready, and logs nobody in.
    assert!(admin_page(&restored.admin_address, "/readyz").contains("200 OK"));
    until_it_logs_in(&bearer, false);
    bearer.run("health").ok();
    assert_eq!(value(&metrics(&restored.admin_address), MISSING), Some(1.0));
    until_told(&restored, 1, &format!("{first} (minting)"));

    bearer.run("seal-key rotate --reason r").ok();
    until_it_logs_in(&bearer, true);
    let new = word(&login().ok()).to_owned();
    assert_eq!(reason(&bearer, &new), "allowed");
    assert_eq!(reason(&bearer, &token), "stale");
    // It may come back, or never.
    let line = format!("seal-key revoke {first} --reason lost");
    bearer.run(&line).ok();
    // Nobody can open it, not even to say that it was revoked.
    assert_eq!(reason(&bearer, &token), "unknown");
    assert_eq!(reason(&bearer, &new), "allowed");
    assert_eq!(missing(&bearer), None);
    assert_eq!(value(&metrics(&restored.admin_address), MISSING), Some(0.0));
    restored.terminate();
    let logged = start(&to).terminate();
    assert!(!logged.contains("not loaded"), "{logged}");
}

#[test]
fn a_store_restored_without_its_keys_opens_what_they_sealed_once_it_has_them_embedded() {
    let world = World::start();
    let (_, secret) = world.secret("");
    let token = world.token(&secret);
    let admin = world.server.admin.clone().expect("a token");
    let to = copied(&world);
    let restored = start(&to);
    let bearer = restored.as_bearer(&admin);
    bearer.run("seal-key rotate --reason r").ok();
    assert_eq!(reason(&bearer, &token), "stale");
    let both = [to.as_path(), world.dir.path()]
        .map(|folder| fs::read_to_string(folder.join("seal.keys")).expect("readable"));
    fs::write(to.join("seal.keys"), both.concat()).expect("written");
    while value(&metrics(&restored.admin_address), MISSING) != Some(0.0) {
        std::thread::yield_now();
    }
    assert_eq!(reason(&bearer, &token), "allowed");
    let all = "all seal keys that the log knows are loaded";
    while !restored.logged().contains(all) {
        std::thread::yield_now();
    }
    // What it lacks from now on it says as well.
    fs::write(to.join("seal.keys"), &both[0]).expect("written");
    until_told(&restored, 2, "(verifying)");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_says_which_keys_it_lacks_and_logs_nobody_in_postgres() {
    let database = database().await;
    let admin = bootstrap(&database);
    let files = fresh();
    let at = |name: &str| files.path().join(name);
    let first = generate(&at("a"));
    let a = replica_with_keys(&database.url, "a", &at("a"));
    let bearer = a.as_bearer(&admin);
    prepare(&bearer);
    let secret = bearer
        .run("credential create ci --name n --reason r --secret-only --wait")
        .ok()
        .stdout;
    let token = bearer.run_with_input("login ci --secret-file -", &secret);
    let token = word(&token.ok()).to_owned();
    generate(&at("b"));
    let b = replica_with_keys(&database.url, "b", &at("b"));
    until_told(&b, 1, &format!("{first} (minting)"));
    let on_b = b.as_bearer(&admin);
    until_it_logs_in(&on_b, false);
    until_it_logs_in(&bearer, true);
    assert_eq!(reason(&on_b, &token), "stale");
    assert_eq!(missing(&bearer), Some((first, 1)));
    fs::copy(at("a"), at("b")).expect("copied");
    until_it_logs_in(&on_b, true);
    assert_eq!(reason(&on_b, &token), "allowed");
}
