//! What a server refuses to start with, and says why: plain text on a network, and files that
//! make no sense together.
//!
//! By the program as it is run, over connections of its own for each certificate.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use super::kit::{Authority, Files, own};
use crate::program::{Ran, Server, fresh, latchkey, run};

fn started(arguments: &[&str]) -> Ran {
    let dir = fresh();
    let mut command = latchkey();
    command.args(["serve", "--data-dir"]).arg(dir.path());
    command.args(arguments);
    run(command, "")
}

#[test]
fn plain_text_is_for_loopback_unless_it_is_asked_for() {
    for (arguments, key) in [
        (
            ["--listen", "0.0.0.0:0", "--admin", "127.0.0.1:0"],
            "listen.plain_text",
        ),
        (
            ["--listen", "[::]:0", "--admin", "127.0.0.1:0"],
            "listen.plain_text",
        ),
        (
            ["--listen", "127.0.0.1:0", "--admin", "0.0.0.0:0"],
            "admin.plain_text",
        ),
    ] {
        let ran = started(&arguments);
        assert_eq!(ran.code, 2, "{arguments:?}: {}{}", ran.stdout, ran.stderr);
        assert!(ran.stderr.contains(key), "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("tls.cert_file"), "{}", ran.stderr);
    }
    let dir = fresh();
    let mut command = latchkey();
    command.args(["serve", "--data-dir"]).arg(dir.path());
    command.args(["--listen", "0.0.0.0:0", "--admin", "0.0.0.0:0"]);
    for key in ["listen.plain_text=true", "admin.plain_text=true"] {
        command.args(["--set", key]);
    }
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("starts");
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    stdout.read_line(&mut line).expect("readable");
    child.kill().expect("running");
    child.wait().expect("ends");
    assert!(line.contains("listens on 0.0.0.0:"), "{line}");
}

#[test]
fn files_that_make_no_sense_are_told_at_the_start() {
    let (ca, files) = (Authority::new(), Files::new());
    let (pair, other) = (ca.server(&[]), ca.server(&[]));
    let good = own(&files, &ca, &pair);
    let check = |settings: &[&str], expected: &str| {
        let dir = fresh();
        let all = good
            .iter()
            .map(String::as_str)
            .chain(settings.iter().copied());
        let arguments: Vec<&str> = all.flat_map(|one| ["--set", one]).collect();
        let said = match Server::start_with(dir.path(), &arguments) {
            Ok(_) => String::new(),
            Err(said) => said,
        };
        assert!(said.contains(expected), "{settings:?}: {said:?}");
    };
    let named = |key: &str, name: &str, text: &str| {
        let file = files.put(name, text);
        format!("{key}={}", file.display())
    };
    check(&[], "");
    let others = named("tls.key_file", "other.key", &other.key);
    check(&[&others], "not the key of the certificate");
    check(
        &[&named("tls.key_file", "no.key", "nothing")],
        "no private key",
    );
    check(
        &[&named("tls.cert_file", "no.pem", "nothing")],
        "no certificate in it",
    );
    check(&["tls.cert_file=/nowhere"], "/nowhere");
    let empty = named("tls.client_ca_file", "no-ca.pem", &pair.key);
    check(&[&empty], "no certificate in it");
    check(&["tls.key_file="], "tls.key_file");
    check(&["tls.client_auth=require"], "tls.client_ca_file");
    check(&["admin.client_auth=require"], "tls.client_ca_file");
    check(&["check.open=mtls"], "tls.client_ca_file");
    check(
        &["access.check=spiffe://acme/web"],
        "nobody proves who it is",
    );
    check(&["listen.plain_text=true"], "which is meant");
    check(&["tls.min_version=1.1"], "1.1");
}
