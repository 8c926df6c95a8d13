//! `examples/envoy/run.sh`, as somebody runs it who wants to see Envoy ask Latchkey.
//!
//! The script itself holds every answer against what it promises and fails at the first that is
//! another; here what it shows is read, too, and that nothing of it is left behind.

use std::process::Command;

use crate::program::{Ran, run, tool};
use crate::watched::free_port;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/envoy/run.sh");

fn script(arguments: &[&str], folder: &std::path::Path) -> Ran {
    let mut command = Command::new("bash");
    command.arg(SCRIPT).args(arguments);
    command
        .env("LATCHKEY", env!("CARGO_BIN_EXE_latchkey"))
        .env("ENVOY", tool("envoy"))
        .env("TMPDIR", folder);
    for port in ["FRONT", "FRONT_ADMIN", "SERVICE", "LATCHKEY", "POSTGRES"] {
        command.env(format!("{port}_PORT"), free_port().to_string());
    }
    run(command, "")
}

/// The lines are shown, in this order.
#[track_caller]
fn shows(mut said: &str, lines: &[&str]) {
    for line in lines {
        let found = said.find(line);
        let at = found.unwrap_or_else(|| panic!("{line:?} is not, or not here, in {said}"));
        said = &said[at + line.len()..];
    }
}

#[test]
fn the_script_shows_allow_deny_revoke_and_stale_embedded_postgres() {
    let folder = crate::program::fresh();
    let ran = script(&[], folder.path()).ok();
    let lines = [
        "== allow: the token may read secrets of acme/web",
        "HTTP 200\n",
        r#""x-latchkey-kind": "resource""#,
        r#""x-latchkey-scopes": "secrets:read@acme/web/**""#,
        "== allow: what the client says about itself is overwritten",
        "HTTP 200\n",
        "== deny: no token",
        "HTTP 401\n",
        "www-authenticate: Bearer realm=\"latchkey\"\n",
        r#"{"reason":"no_token""#,
        "== deny: the token may not read what belongs to another project",
        "HTTP 403\n",
        r#"error="insufficient_scope""#,
        r#"scope="secrets:read@acme/api/db""#,
        "== deny: nor write",
        "HTTP 403\n",
        r#"scope="secrets:write@acme/web/db""#,
        "== deny: no route of routes.toml matches",
        r#"{"reason":"no_route""#,
        "== deny: two tokens",
        "HTTP 400\n",
        r#"error="invalid_request""#,
        "== deny: a path that the service might read in another way",
        "HTTP 400\n",
        "== allow: the public part asks for no token, and names nobody",
        "HTTP 200\n",
        r#"{"headers": {}, "method": "GET", "path": "/public/index.html"}"#,
        "== revoke",
        "revoked at revision",
        "== deny: the token was revoked",
        "HTTP 401\n",
        r#"error="invalid_token""#,
        r#"{"reason":"revoked""#,
        "== the same tokens, moved to a Postgres of our own",
        "HTTP 200\n",
        "== stale",
        "== cannot know",
        "HTTP 503\n",
        "retry-after: 1\n",
        r#"{"reason":"stale""#,
        "== allow: the database is back, and nothing had to be done",
        "HTTP 200\n",
        "== Latchkey gone",
        "HTTP 503\n",
        "== Envoy's access log",
        "401 GET /v1/projects/web/secrets/db no_token - ",
        "401 GET /v1/projects/web/secrets/db revoked",
        "503 GET /v1/projects/web/secrets/db stale",
        "== done: everything answered as promised\n",
    ];
    shows(&ran.stdout, &lines);
    assert!(!ran.stdout.contains("user:root"), "{}", ran.stdout);
    // What a client is told can be found in Envoy's log.
    let (_, after) = ran
        .stdout
        .split_once(r#""reason":"no_token""#)
        .expect("the denial");
    let (_, id) = after.split_once(r#""request_id":""#).expect("an id");
    let (id, _) = id.split_once('"').expect("its end");
    let logged = format!("no_token - {id}\n");
    assert!(ran.stdout.contains(&logged), "{logged}: {}", ran.stdout);
    for secret in ["lks_", "lkr_", "lku_"] {
        assert!(!ran.stdout.contains(secret), "{secret}: {}", ran.stdout);
    }
    let left = std::fs::read_dir(folder.path()).expect("a folder").count();
    assert_eq!(left, 0, "it has left something");
}

#[test]
fn the_script_says_what_is_wrong_before_it_starts_anything() {
    let folder = crate::program::fresh();
    script(&["--with-stale"], folder.path()).refused("unknown argument --with-stale");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port().to_string();
    let mut command = Command::new("bash");
    command.arg(SCRIPT).env("FRONT_PORT", &port);
    run(command, "").refused(&format!("port {port} is taken"));
}
