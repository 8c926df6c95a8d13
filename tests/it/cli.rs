//! The command line as scripts and operators meet it: errors as JSON, backups and what is left
//! behind, the sentences that are printed.
//!
//! Through the program alone. What is issued, checked and audited has files of its own.

use serde_json::{Value, json};

use crate::program::{Ran, Server, fresh, latchkey, run, words};

/// The error that a failed command tells scripts: the last line of standard error.
#[track_caller]
fn error(ran: &Ran, code: i32) -> Value {
    assert_eq!(ran.code, code, "{}{}", ran.stdout, ran.stderr);
    let line = ran.stderr.lines().last().expect("a line");
    let said: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {}", ran.stderr));
    said["error"].clone()
}

#[test]
fn a_failed_command_tells_scripts_one_json_object_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let admin = server.admin();
    admin.run("user create bob --home acme --reason r").ok();
    let (_, bob) = admin.issue("--kind user --subject user:bob --ttl 1h --name b --reason b");
    let bob = server.as_bearer(&bob);

    // Refused by the server, with all that is missing.
    let issue = "token issue --kind resource --resource acme/web --scope a:b,c:d@acme/web \
                 --ttl 1h --name n --reason r --output json";
    let refused = bob.run(issue);
    assert_eq!(refused.stdout, "");
    assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
    let said = error(&refused, 1);
    assert_eq!(said["reason"], "PERMISSION_DENIED");
    assert_eq!(said["missing"], json!(["tokens:issue@acme/web"]));
    assert!(!said["message"].as_str().expect("text").contains("missing"));
    let people = bob.run(&issue.replace("--output json", ""));
    assert!(
        people
            .stderr
            .contains("[PERMISSION_DENIED]\n  missing: tokens:issue@acme/web\n"),
        "{}",
        people.stderr
    );

    let check = |line: &str, code: i32, reason: &str| {
        let said = error(&admin.run(&format!("{line} --output json")), code);
        assert_eq!(said["reason"], reason, "{line}: {said}");
        assert_eq!(said["missing"], json!([]), "{line}: {said}");
    };
    check("user get nobody", 1, "NOT_FOUND");
    check(
        "user create bob --home acme --reason r",
        1,
        "ALREADY_EXISTS",
    );
    check(
        "user create x --home a//b --reason r",
        2,
        "INVALID_ARGUMENT",
    );
    // Wrong usage that the parser finds, and that is found after it.
    check("token issue --kind nonsense", 2, "USAGE");
    check("user update bob --reason r", 2, "USAGE");
    check("token whoami --token-file no/such/file", 2, "USAGE");
    check("token whoami --addr 127.0.0.1:1", 3, "UNAVAILABLE");
    check("health --service no.such.Service", 3, "NOT_SERVING");

    // A denial is an answer, on standard output.
    let denied = admin.run_with_input(
        "check --token-file - --action a:b --resource c --output json",
        "lku_nonsense",
    );
    assert_eq!(
        (denied.code, denied.stderr.as_str()),
        (1, ""),
        "{}",
        denied.stdout
    );
}

#[test]
fn local_commands_tell_scripts_their_errors_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let check = |line: &str, code: i32, reason: &str| {
        let mut command = latchkey();
        command.args(words(line)).arg("--data-dir").arg(dir.path());
        let said = error(&run(command, ""), code);
        assert_eq!(said["reason"], reason, "{line}: {said}");
    };
    check("bootstrap --recover --output json", 3, "IN_USE");
    check("serve --listen 127.0.0.1:0 --output json", 3, "IN_USE");
    check("serve --set no.such=key --output json", 2, "USAGE");
    check("restore no/such/file --output json", 2, "USAGE");
    server.terminate();
    check("bootstrap --output json", 1, "ALREADY_EXISTS");
}
