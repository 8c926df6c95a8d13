//! Seal keys and key pairs as an operator makes and keeps them: files, their modes, reloads.
//!
//! Through the program: what a server does without a setting, what it refuses to start with, and
//! that it follows a file. What is read from where is tested beside the reader.

mod lost;
mod retired;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use latchkey::domain::key::PublicKey;
use latchkey::domain::key_pair::KeyPair;
use rustix::process::Signal;
use serde_json::Value;

use crate::credentials::{PLACE, READ, World, prepare, word};
use crate::leaks::{metrics, value};
use crate::postgres::database;
use crate::program::{Ran, Server, fresh, latchkey, run, words};
use crate::replicas::bootstrap;

const KEYS: &str = "latchkey_seal_keys ";
const REFUSED: &str = "latchkey_seal_keys_refused ";

fn until(server: &Server, name: &str, expected: u64) {
    while value(&metrics(&server.admin_address), name) != Some(expected as f64) {
        std::thread::yield_now();
    }
}

fn local(line: &str) -> Ran {
    let mut command = latchkey();
    command.args(words(line));
    run(command, "")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
}

/// A new key in a file; its id.
pub(crate) fn generate(file: &Path) -> String {
    let line = format!("seal-key generate --out {} --output json", file.display());
    local(&line).json()["key_id"]
        .as_str()
        .expect("an id")
        .to_owned()
}

#[test]
fn a_server_without_settings_makes_one_key_and_keeps_it_embedded() {
    let dir = fresh();
    let file = dir.path().join("seal.keys");
    let server = Server::start_with(dir.path(), &["--set", "seal.poll=100ms"]).expect("serves");
    until(&server, KEYS, 1);
    assert_eq!(mode(&file), 0o600);
    let made = fs::read_to_string(&file).expect("readable");
    // Whoever adds a key need not tell the server.
    let id = generate(&file);
    until(&server, KEYS, 2);
    let logged = server.terminate();
    assert!(logged.contains(&id), "{logged}");
    let kept = fs::read_to_string(&file).expect("readable");
    assert!(kept.starts_with(&made) && kept.lines().count() == 2);
    for key in kept.lines() {
        assert!(!logged.contains(key), "a key is in the log");
    }
    let server = Server::start(dir.path());
    until(&server, KEYS, 2);
    assert_eq!(fs::read_to_string(&file).expect("readable"), kept);
}

#[test]
fn a_file_of_keys_is_read_again_at_a_signal_and_refused_whole_embedded() {
    let (dir, away) = (fresh(), fresh());
    let file = away.path().join("keys");
    generate(&file);
    let setting = format!("seal.keys_file={}", file.display());
    let settings = ["--set", &setting, "--set", "seal.poll=1h"];
    let server = Server::start_with(dir.path(), &settings).expect("serves");
    until(&server, KEYS, 1);
    assert!(!dir.path().join("seal.keys").exists(), "it has keys");
    generate(&file);
    server.signal(Signal::HUP);
    until(&server, KEYS, 2);
    set_mode(&file, 0o644);
    server.signal(Signal::HUP);
    until(&server, REFUSED, 1);
    until(&server, KEYS, 2);
    set_mode(&file, 0o600);
    let one = fs::read_to_string(&file).expect("readable");
    fs::write(&file, one.lines().next().expect("a line")).expect("written");
    server.signal(Signal::HUP);
    until(&server, KEYS, 1);
    until(&server, REFUSED, 0);
    let logged = server.terminate();
    assert!(
        logged.contains("others may read or write it (mode 644)"),
        "{logged}"
    );
}

#[test]
fn a_server_does_not_start_with_keys_that_are_wrong_embedded() {
    let (dir, away) = (fresh(), fresh());
    let file = away.path().join("keys");
    let check = |content: Option<&str>, told: &str| {
        if let Some(content) = content {
            fs::write(&file, content).expect("written");
        }
        let line = format!(
            "serve --listen 127.0.0.1:0 --data-dir {} --set seal.keys_file={}",
            dir.path().display(),
            file.display()
        );
        let ran = local(&line);
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        let told = format!("{}{told}", file.display());
        assert!(ran.stderr.contains(&told), "{} is not {told}", ran.stderr);
    };
    check(None, ": cannot be read: ");
    check(Some(""), ": others may read or write it (mode ");
    set_mode(&file, 0o600);
    check(
        Some(""),
        ": holds no key; `latchkey seal-key generate --out FILE` makes one",
    );
    check(Some("# a\nword\n"), ":2: is not the base64 of 32 bytes");
    assert!(!dir.path().join("latchkey.db").exists(), "a store was made");

    let with_text = |command: &mut Command, text: &str| {
        command
            .args(words("serve --listen 127.0.0.1:0 --data-dir"))
            .arg(dir.path());
        command.env("LATCHKEY_SEAL_KEYS", text);
    };
    let mut command = latchkey();
    with_text(&mut command, "hunter2");
    let ran = run(command, "");
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("seal.keys:1: is not the base64"),
        "{}",
        ran.stderr
    );
    assert!(!ran.stderr.contains("hunter2"), "{}", ran.stderr);
    let mut command = latchkey();
    with_text(&mut command, "hunter2");
    command.arg("--print-config");
    let ran = run(command, "").ok();
    assert!(ran.stdout.contains("keys = \"***\"") && !ran.stdout.contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_makes_no_key_and_takes_those_of_its_environment_postgres() {
    let database = database().await;
    bootstrap(&database);
    let replica = Server::replica(&database.url, "a", &[]).expect("serves");
    until(&replica, KEYS, 0);
    let logged = replica.terminate();
    assert!(logged.contains("no seal keys are set"), "{logged}");
    let printed = local("seal-key generate --out -").ok().stdout;
    let setting = format!("seal.keys={}", printed.trim());
    let replica = Server::replica(&database.url, "a", &["--set", &setting]).expect("serves");
    until(&replica, KEYS, 1);
}

#[test]
fn seal_keys_are_added_to_a_file_of_their_owner_alone() {
    let dir = fresh();
    let file = dir.path().join("keys");
    let ids: Vec<String> = (0..16).map(|_| generate(&file)).collect();
    assert_eq!(mode(&file), 0o600);
    assert_eq!(
        fs::read_to_string(&file).expect("readable").lines().count(),
        16
    );
    let distinct: std::collections::BTreeSet<&String> = ids.iter().collect();
    assert_eq!(distinct.len(), 16);
    let line = format!("seal-key generate --out {}", file.display());
    local(&line).refused("has 16 keys already");
    fs::write(&file, "nonsense\n").expect("written");
    assert_eq!(local(&line).code, 2);
    assert_eq!(fs::read_to_string(&file).expect("readable"), "nonsense\n");
    let others = dir.path().join("others");
    fs::write(&others, "").expect("written");
    set_mode(&others, 0o604);
    let ran = local(&format!("seal-key generate --out {}", others.display()));
    assert!(
        ran.code == 2 && ran.stderr.contains("others may read"),
        "{}",
        ran.stderr
    );
    let folder = local(&format!("seal-key generate --out {}", dir.path().display()));
    assert_eq!(folder.code, 2, "{}", folder.stderr);
}

#[test]
fn a_key_pair_is_written_once_and_its_public_half_printed() {
    let dir = fresh();
    let check = |arguments: &str, name: &str, algorithm: &str| {
        let file = dir.path().join(name);
        let line = format!("key-pair generate --out {} {arguments}", file.display());
        let ran = local(line.trim()).ok();
        assert_eq!(mode(&file), 0o600);
        let private = fs::read_to_string(&file).expect("readable");
        let pair = KeyPair::parse_pem(&private).expect("a private key");
        let public = PublicKey::parse_pem(&ran.stdout).expect("nothing but a public key");
        assert_eq!(&public, pair.public());
        assert_eq!(public.algorithm().name(), algorithm);
        local(line.trim()).refused("a key is never overwritten");
        assert_eq!(fs::read_to_string(&file).expect("readable"), private);
    };
    check("", "ed25519", "ed25519");
    check("--p256", "p256", "p256");
    let file = dir.path().join("json");
    let line = format!("key-pair generate --output json --out {}", file.display());
    let said = local(&line).json();
    assert_eq!(said["private_key_file"], file.display().to_string());
    assert_eq!(said["algorithm"], "ed25519");
    assert!(PublicKey::parse_pem(said["public_key"].as_str().expect("text")).is_ok());
    let nowhere = format!("key-pair generate --out {}/no/such", dir.path().display());
    assert_eq!(local(&nowhere).code, 2);
}

#[test]
fn one_seal_key_follows_another_embedded() {
    let world = World::start();
    let (_, secret) = world.secret("");
    let before = world.token(&secret);
    let phases = || {
        let list = world.json("seal-key list");
        let keys = list["keys"].as_array().expect("a list").clone();
        let text = |key: &Value, name: &str| key[name].as_str().expect(name).to_owned();
        keys.iter()
            .map(|key| (text(key, "key_id"), text(key, "phase")))
            .collect::<Vec<_>>()
    };
    let [(first, phase)] = &phases()[..] else {
        panic!("{:?}", phases());
    };
    assert_eq!(phase, "minting");
    world
        .admin()
        .run("seal-key rotate --reason r")
        .refused("no new seal key is loaded");
    let file = world.dir.path().join("seal.keys");
    let made = world.json(&format!("seal-key generate --out {}", file.display()));
    let second = made["key_id"].as_str().expect("an id");
    while value(&metrics(&world.server.admin_address), "latchkey_seal_keys ") != Some(2.0) {
        std::thread::yield_now();
    }
    let new = (second.to_owned(), "new".to_owned());
    assert!(phases().contains(&new), "{:?}", phases());
    let rotate = "seal-key rotate --reason r --request-id once";
    for _ in 0..2 {
        assert_eq!(world.json(rotate)["key_id"], second);
    }
    let after = world.token(&secret);
    assert!(world.allows(&before) && world.allows(&after));
    let retire = format!("seal-key retire {first} --reason r");
    world.admin().run(&retire).refused("[FAILED_PRECONDITION]");
    let revoked = world
        .admin()
        .run(&format!("seal-key revoke {first} --reason r"))
        .ok();
    assert!(
        revoked.stdout.contains("confirmed by 1 replica"),
        "{}",
        revoked.stdout
    );
    assert!(!world.allows(&before) && world.allows(&after));
    let mut expected = vec![
        (first.clone(), "revoked".to_owned()),
        (second.to_owned(), "minting".to_owned()),
    ];
    expected.sort();
    assert_eq!(phases(), expected);
}

#[test]
fn who_revokes_the_key_that_seals_is_told_which_may_follow_embedded() {
    let world = World::start();
    let (_, secret) = world.secret("");
    world.token(&secret);
    let first = world.json("seal-key list")["keys"][0]["key_id"].clone();
    let first = first.as_str().expect("an id");
    let second = generate(&world.dir.path().join("seal.keys"));
    until(&world.server, KEYS, 2);
    world.json("seal-key rotate --reason r");
    let revoked = world.json(&format!("seal-key revoke {second} --reason r"));
    assert_eq!(revoked["key_id"], second.as_str());
    let refused = world
        .admin()
        .run_with_input("login ci --secret-file -", &secret);
    refused.refused(&format!("latchkey seal-key rotate {first}"));
    world.json(&format!("seal-key rotate {first} --reason r"));
    assert!(world.allows(&world.token(&secret)));
}

fn replica_with_keys(url: &str, name: &str, file: &Path) -> Server {
    let file = format!("seal.keys_file={}", file.display());
    let settings = ["--set", &file, "--set", "seal.poll=100ms"];
    let settings = [&settings[..], &["--set", "lease.length=60s"]].concat();
    Server::replica(url, name, &settings).expect("serves")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_seals_when_every_replica_has_it_postgres() {
    let database = database().await;
    let admin = bootstrap(&database);
    let files = fresh();
    let at = |name: &str| files.path().join(name);
    let replica = |name: &str| replica_with_keys(&database.url, name, &at(name));
    generate(&at("a"));
    fs::copy(at("a"), at("b")).expect("copied");
    let (a, b) = (replica("a"), replica("b"));
    let on = |server: &Server, line: &str| server.as_bearer(&admin).run(line);
    prepare(&a.as_bearer(&admin));
    let secret = on(
        &a,
        "credential create ci --name n --reason r --secret-only --wait",
    )
    .ok()
    .stdout;
    let login = |server: &Server| {
        let ran = server
            .as_bearer(&admin)
            .run_with_input("login ci --secret-file -", &secret);
        word(&ran.ok()).to_owned()
    };
    let first = login(&a);
    assert!(
        b.as_bearer(&admin).check(&first, READ, PLACE).0,
        "sealed on one, good on both"
    );

    let second = generate(&at("a"));
    let listed = |name: &str, expected: &str| {
        let list = on(&a, "seal-key list --output json").json();
        let keys = list["keys"].as_array().expect("a list").clone();
        let found = keys
            .into_iter()
            .find(|key| key["key_id"] == second.as_str());
        found.is_some_and(|key| key[name] == serde_json::json!([expected]))
    };
    while !listed("loaded_by", "a") {
        tokio::task::yield_now().await;
    }
    assert!(listed("missing_on", "b"));
    let rotate = format!("seal-key rotate {second} --reason r");
    on(&b, &rotate).refused("is not loaded by b");
    fs::copy(at("a"), at("b")).expect("copied");
    while on(&b, &rotate).code != 0 {
        tokio::task::yield_now().await;
    }
    let sealed = login(&b);
    assert!(a.as_bearer(&admin).check(&sealed, READ, PLACE).0);
    assert!(a.as_bearer(&admin).check(&first, READ, PLACE).0);
}
