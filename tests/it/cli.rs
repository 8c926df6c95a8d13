//! The command line as scripts and operators meet it: errors as JSON, backups and what is left
//! behind, the sentences that are printed.
//!
//! Through the program alone. What is issued, checked and audited has files of its own.

use std::path::Path;

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

/// A local command on a data directory.
fn local(line: &str, dir: &Path) -> Ran {
    let mut command = latchkey();
    command.args(words(line)).arg("--data-dir").arg(dir);
    run(command, "")
}

#[test]
fn backup_and_restore_say_what_was_copied_and_where_embedded() {
    let (dir, away) = (fresh(), fresh());
    let server = Server::start(dir.path());
    server
        .admin()
        .issue("--kind user --ttl 1h --name a --reason a");
    let head = server.admin().run("status --output json").json()["head"].clone();
    let head = head.as_str().expect("a head");
    let (file, to) = (away.path().join("copy.db"), away.path().join("restored"));

    let said = local(&format!("backup {}", file.display()), dir.path())
        .ok()
        .stdout;
    let bytes = std::fs::metadata(&file).expect("there").len();
    let size = indicatif::HumanBytes(bytes);
    let content = format!("revision {head} with 2 tokens");
    let first = format!("Copied {content} to {} ({size}).\n", file.display());
    assert!(said.starts_with(&first), "{said} is not {first}");
    assert!(
        said.contains(&format!("The store is {}.", dir.path().display())),
        "{said}"
    );

    let said = local(&format!("restore {}", file.display()), &to)
        .ok()
        .stdout;
    let first = format!("Restored {content} from {} ({size}).\n", file.display());
    assert!(said.starts_with(&first), "{said} is not {first}");
    let second = format!(
        "The store is {}; its log and its tables are whole.",
        to.display()
    );
    assert!(said.contains(&second), "{said}");
    let keys = "refused without the file seal.keys of the directory that was backed up.";
    assert!(said.contains(keys), "{said}");

    let again = away.path().join("again");
    let view = local(&format!("restore {} --output json", file.display()), &again).json();
    let expected = json!({
        "file": file, "data_dir": again, "revision": head, "tokens": 2, "bytes": bytes,
    });
    assert_eq!(view, expected);
}

#[test]
fn a_refused_restore_leaves_the_directory_as_it_was_embedded() {
    let (dir, away) = (fresh(), fresh());
    let _server = Server::start(dir.path());
    let file = away.path().join("copy.db");
    local(&format!("backup {}", file.display()), dir.path()).ok();
    // Whole by its log, but a token in the tables is not what the log made it.
    let database = rusqlite::Connection::open(&file).expect("opened");
    let changed = database
        .execute("UPDATE tokens SET kind = 2", [])
        .expect("changed");
    assert_eq!(changed, 1);
    drop(database);
    let to = away.path().join("not/yet");
    let line = format!("restore {}", file.display());
    let refused = local(&line, &to);
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("do not agree with the log"),
        "{}",
        refused.stderr
    );
    assert!(
        !away.path().join("not").exists(),
        "made by a restore that was refused"
    );
    std::fs::create_dir_all(&to).expect("made");
    assert_eq!(local(&line, &to).code, 3);
    assert_eq!(std::fs::read_dir(&to).expect("read").count(), 0);

    // What a restore that was killed has left is no empty directory.
    std::fs::rename(&file, to.join("latchkey.db.1.part")).expect("moved");
    let said = Server::start_with(&to, &[]).err().expect("refused");
    assert!(said.contains("latchkey.db.1.part is left of"), "{said}");
}

/// Runs a local command with all of its output on a terminal; what that was sent, and the code.
fn on_a_terminal(line: &str, dir: &Path) -> (String, i32) {
    let program = env!("CARGO_BIN_EXE_latchkey");
    let line = format!("{program} {line} --data-dir {}", dir.display());
    let mut script = std::process::Command::new("script");
    script
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .env("TERM", "xterm")
        .stdin(std::process::Stdio::null());
    let ran = script
        .output()
        .unwrap_or_else(|error| panic!("script of util-linux (bsdutils) is missing: {error}"));
    let sent = String::from_utf8(ran.stdout).expect("text");
    (sent, ran.status.code().unwrap_or(-1))
}

#[test]
fn a_terminal_sees_progress_and_a_pipe_does_not_embedded() {
    let (dir, away) = (fresh(), fresh());
    let file = away.path().join("copy.db");
    let check = |line: &str, dir: &Path, said: &[&str], answer: &str| {
        let (sent, code) = on_a_terminal(line, dir);
        assert_eq!(code, 0, "{line}: {sent}");
        for text in said {
            assert!(sent.contains(text), "{line} shows no {text:?}: {sent:?}");
        }
        // What is left on the screen: of every line what follows the last time it was cleared.
        let left = sent
            .lines()
            .map(|line| line.rsplit("\u{1b}[2K").next().unwrap_or(line));
        let left: Vec<&str> = left.collect();
        for text in said {
            let stays = left.iter().any(|line| line.contains(text));
            assert!(!stays, "{line} leaves {text:?}: {left:?}");
        }
        assert!(
            left.iter().any(|line| line.starts_with(answer)),
            "{line}: {left:?}"
        );
    };
    check(
        "bootstrap",
        dir.path(),
        &["verifying the store", "loading the store"],
        "data directory",
    );
    let backup = format!("backup {}", file.display());
    check(&backup, dir.path(), &["copying the store"], "Copied");
    let restore = format!("restore {}", file.display());
    let to = away.path().join("one");
    check(&restore, &to, &["verifying the backup"], "Restored");
    check(
        "audit verify",
        &to,
        &["verifying the log", "4/4"],
        "intact: 4 changes",
    );

    // The same without a terminal: the answer alone.
    std::fs::remove_file(&file).expect("removed");
    let to = away.path().join("two");
    for (line, dir) in [
        (backup.as_str(), dir.path()),
        (&restore, &to),
        ("audit verify", &to),
    ] {
        let ran = local(line, dir).ok();
        assert_eq!(ran.stderr, "", "{line}");
        assert!(!ran.stdout.contains('\u{1b}'), "{line}: {}", ran.stdout);
    }
}

#[test]
fn a_store_whose_administrator_is_gone_is_not_said_to_have_one_embedded() {
    for gone in ["disable", "delete"] {
        let dir = fresh();
        let server = Server::start(dir.path());
        server
            .admin()
            .run(&format!("user {gone} admin --reason r"))
            .ok();
        server.terminate();
        let refused = local("bootstrap", dir.path()).refused("--recover makes another token");
        assert!(
            !refused.stderr.contains("is an administrator"),
            "{}",
            refused.stderr
        );
        let made = local("bootstrap --recover --output json", dir.path()).json();
        let token = made["admin_token"].as_str().expect("a token");
        let server = Server::start(dir.path());
        assert!(server.as_bearer(token).check(token, "a:b", "c").0, "{gone}");
    }
}

#[test]
fn a_first_administrator_may_bring_its_token_embedded() {
    let dir = fresh();
    let secret = |kind: &str| {
        let file = dir.path().join(kind);
        let text = local("bootstrap --new-secret", dir.path()).ok().stdout;
        assert!(text.starts_with("lku_"), "{text}");
        std::fs::write(&file, &text).expect("written");
        (
            file.to_str().expect("a text").to_owned(),
            text.trim().to_owned(),
        )
    };
    let data = dir.path().join("data");
    let bootstrap = |file: &str| {
        let line = format!("bootstrap --output json --secret-file {file}");
        local(&line, &data)
    };
    let (first, token) = secret("first");
    let gone = dir.path().join("gone");
    let gone = gone.to_str().expect("a text");
    let refused = bootstrap(gone);
    assert_eq!(refused.code, 2, "{}", refused.stdout);
    let why = "is not there, and this store has had no administrator yet";
    assert!(refused.stderr.contains(why), "{}", refused.stderr);
    let made = bootstrap(&first);
    // What is kept by whoever runs it must not be in what it prints, which goes to a log.
    assert!(!format!("{}{}", made.stdout, made.stderr).contains(&token));
    assert_eq!(made.json()["made"], true);
    // Run again, as whatever repeats it does: nothing is done, and nothing is wrong.
    assert_eq!(bootstrap(&first).json()["made"], false);
    // Whoever has the token may take the file away.
    assert_eq!(bootstrap(gone).json()["made"], false);
    let (second, other) = secret("second");
    assert_eq!(bootstrap(&second).json()["made"], false);
    let server = Server::start(&data);
    assert!(server.as_bearer(&token).check(&token, "a:b", "c").0);
    assert!(!server.as_bearer(&token).check(&other, "a:b", "c").0);
    server.terminate();
    let wrong = dir.path().join("wrong");
    std::fs::write(&wrong, &token[1..]).expect("written");
    let refused = bootstrap(wrong.to_str().expect("a text"));
    assert_eq!(refused.code, 2, "{}", refused.stdout);
    assert!(
        refused.stderr.contains("holds no user's token"),
        "{}",
        refused.stderr
    );
}
