//! No secret and no digest leaves by a side door: log lines, statuses, metrics, lists, the audit
//! trail, error messages, the data directory.
//!
//! Looked for are the text, parts of it, and the digest in the forms that it might be printed in.

use std::io::{Read, Write};
use std::net::TcpStream;

use latchkey::domain::token::Digest;

use crate::program::{Server, fresh};

/// The value of one line of the metrics; none if it is not there.
pub(crate) fn value(text: &str, line: &str) -> Option<f64> {
    let found = text.lines().find_map(|one| one.strip_prefix(line));
    found.map(|value| value.trim().parse().expect("a number"))
}

/// Every form that a secret might leak in.
fn forms(secret: &str) -> Vec<String> {
    let digest = Digest::of(secret);
    let hex: String = digest
        .as_bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let decimal = format!("{:?}", digest.as_bytes());
    vec![
        secret.to_owned(),
        secret[4..].to_owned(),
        secret[4..30].to_owned(),
        hex[..32].to_owned(),
        hex[..32].to_uppercase(),
        decimal[1..40].to_owned(),
        digest.key().to_string(),
    ]
}

#[test]
fn no_secret_or_digest_appears_anywhere_in_a_whole_run_embedded() {
    let dir = fresh();
    let admin_port = free_port();
    let arguments = ["--admin", &admin_port, "--log-level", "trace"];
    let server = Server::start_with(dir.path(), &arguments).expect("starts");
    let admin = server.admin();
    let mut secrets = vec![server.admin.clone().expect("fresh")];
    let mut said = String::new();
    let (id, secret) = admin.issue("--kind user --ttl 1h --name a --reason a");
    secrets.push(secret.clone());
    let rotated = admin
        .run(&format!("token rotate {id} --grace 60s --output json"))
        .json();
    secrets.push(rotated["secret"].as_str().expect("a secret").to_owned());
    said.push_str(&ask_everything(&server, &id, &secret));
    said.push_str(&server.as_bearer(&secret).run("token list").stderr);
    said.push_str(&metrics(&admin_port));
    let logged = server.terminate();
    assert!(logged.lines().count() > 10, "trace logs are on: {logged}");
    for secret in &secrets {
        for form in forms(secret) {
            assert!(!said.contains(&form), "an answer holds {form}");
            assert!(!logged.contains(&form), "a log line holds {form}");
        }
    }
    for file in std::fs::read_dir(dir.path()).expect("readable") {
        let path = file.expect("readable").path();
        let bytes = std::fs::read(&path).expect("readable");
        for secret in &secrets {
            let found = bytes
                .windows(secret.len())
                .any(|window| window == secret.as_bytes());
            assert!(!found, "{} holds a secret", path.display());
        }
    }
}

/// Everything that is printed about a token whose secret is this.
fn ask_everything(server: &Server, id: &str, secret: &str) -> String {
    let admin = server.admin();
    let mut said = String::new();
    for (line, input) in [
        (format!("token show {id} --output json"), ""),
        ("token list --output json".to_owned(), ""),
        ("token list".to_owned(), ""),
        ("token whoami".to_owned(), ""),
        (
            "explain --token-file - --action a:b --resource c --output json".to_owned(),
            secret,
        ),
        (
            "check --token-file - --action a:b --resource c".to_owned(),
            secret,
        ),
        (
            "check --token-file - --action a:b --resource c/../d".to_owned(),
            secret,
        ),
        (
            "token revoke --secret-file - --reason x --output json".to_owned(),
            secret,
        ),
        (
            "check --token-file - --action a:b --resource c".to_owned(),
            secret,
        ),
        ("audit list --output json".to_owned(), ""),
        ("audit verify".to_owned(), ""),
        ("status --output json".to_owned(), ""),
    ] {
        let ran = admin.run_with_input(&line, input);
        said.push_str(&ran.stdout);
        said.push_str(&ran.stderr);
    }
    said
}

/// An address that nothing listens on; the program says so if somebody else was quicker.
pub(crate) fn free_port() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound").to_string()
}

/// What the admin port shows.
pub(crate) fn metrics(address: &str) -> String {
    let answer = admin_page(address, "/metrics");
    assert!(answer.contains("latchkey_checks_total"), "{answer}");
    answer
}

/// A page of the admin port, with its head.
pub(crate) fn admin_page(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("the admin port");
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("writes");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("reads");
    answer
}
