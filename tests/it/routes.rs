//! The route table by `latchkey routes`: what a request has, why it is denied, what is no table.
//!
//! Through the program alone, without a server; `live` is about the table of one that runs. What
//! the real Envoy makes of hostile paths is tested with it.

mod live;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::program::{Ran, fresh, latchkey, run, words};

const TABLE: &str = r#"# Routes of the example.
[[route]]
grpc = "acme.v1.Secrets/GetSecret"
action = "secrets:read"
resource = "acme/{header:x-environment}"

[[route]]
grpc = "acme.v1.Secrets/*"
action = "secrets:admin"
resource = "acme"
stale = "error"

[[route]]
host = "api.example.com"
methods = ["GET", "HEAD"]
path = "/v1/projects/{project}/secrets/{folder=**}"
action = "secrets:read"
resource = "acme/{project}/{header:x-environment}/{folder}"
audience = "secrets-api"

[[route]]
host = "*.example.com"
methods = ["POST"]
path = "/v1/jobs/{id}:cancel"
action = "jobs:cancel"
resource = "acme/jobs/{id}"

[[route]]
path = "/health"
optional = true

[[route]]
path = "/public/**"
"#;

struct World {
    dir: TempDir,
}

impl World {
    fn new(table: impl AsRef<[u8]>) -> Self {
        let dir = fresh();
        std::fs::write(dir.path().join("routes.toml"), table).expect("written");
        Self { dir }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("routes.toml")
    }

    fn test(&self, method: &str, url: &str, headers: &[&str], more: &[&str]) -> Ran {
        let mut command = latchkey();
        command.args(["routes", "test", method, url]).args(more);
        command.arg("--file").arg(self.file());
        for header in headers {
            command.args(["--header", header]);
        }
        run(command, "")
    }

    /// The answer as a document, which ends in this exit code.
    #[track_caller]
    fn told(&self, method: &str, url: &str, headers: &[&str], code: i32) -> Value {
        let ran = self.test(method, url, headers, &["--output", "json"]);
        assert_eq!(
            ran.code, code,
            "{method} {url}: {}{}",
            ran.stdout, ran.stderr
        );
        assert_eq!(ran.stderr, "", "{method} {url}");
        serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {}", ran.stdout))
    }

    /// A route matches, and needs this.
    #[track_caller]
    fn check(&self, method: &str, url: &str, headers: &[&str], line: usize, need: &str) {
        let told = self.told(method, url, headers, 0);
        let text = |key: &str| told[key].as_str().unwrap_or_default();
        let found = format!("{}@{}", text("action"), text("resource"));
        assert_eq!(
            (&told["line"], found.as_str()),
            (&json!(line), need),
            "{method} {url}: {told}"
        );
    }

    /// The request is denied for this reason.
    #[track_caller]
    fn check_denied(&self, method: &str, url: &str, headers: &[&str], reason: &str) {
        let told = self.told(method, url, headers, 1);
        assert_eq!(told["reason"], reason, "{method} {url}: {told}");
        assert!(
            told["message"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{told}"
        );
    }
}

#[test]
fn a_request_is_shown_its_route_and_what_it_needs() {
    let world = World::new(TABLE);
    let prod = ["X-Environment: prod"];
    let secrets = "https://api.example.com/v1/projects/web/secrets/db/main?x=y";
    world.check(
        "GET",
        secrets,
        &prod,
        13,
        "secrets:read@acme/web/prod/db/main",
    );
    world.check(
        "HEAD",
        secrets,
        &prod,
        13,
        "secrets:read@acme/web/prod/db/main",
    );
    world.check(
        "POST",
        "/acme.v1.Secrets/GetSecret",
        &prod,
        2,
        "secrets:read@acme/prod",
    );
    world.check(
        "POST",
        "grpc://h/acme.v1.Secrets/List",
        &[],
        7,
        "secrets:admin@acme",
    );
    let cancel = "https://eu.API.example.com/v1/jobs/17:cancel";
    world.check("POST", cancel, &[], 21, "jobs:cancel@acme/jobs/17");
    world.check("GET", "/health", &[], 28, "@");
    world.check("PUT", "http://any/public", &[], 32, "@");
    world.check("PUT", "http://any/public/%63af%C3%A9/a%20b/", &[], 32, "@");

    let told = world.told("GET", secrets, &prod, 0);
    let expected = json!({
        "file": world.file().display().to_string(),
        "line": 13,
        "path": "/v1/projects/{project}/secrets/{folder=**}",
        "action": "secrets:read",
        "resource": "acme/web/prod/db/main",
        "audience": "secrets-api",
        "stale": "deny",
        "optional": false,
    });
    assert_eq!(told, expected);
    let told = world.told("GET", "/health", &[], 0);
    let rest = (&told["action"], &told["audience"], &told["optional"]);
    assert_eq!(rest, (&json!(null), &json!(null), &json!(true)), "{told}");
    let told = world.told("POST", "/acme.v1.Secrets/List", &[], 0);
    assert_eq!(told["stale"], "error");
}

#[test]
fn people_are_shown_where_the_route_stands() {
    let world = World::new(TABLE);
    let shown = world.file().display().to_string();
    let url = "https://api.example.com/v1/projects/web/secrets/db";
    let ran = world.test("GET", url, &["x-environment:prod"], &[]).ok();
    for part in [
        &format!("{shown}:13"),
        "/v1/projects/{project}/secrets/{folder=**}",
        "secrets:read@acme/web/prod/db",
        "secrets-api",
    ] {
        assert!(ran.stdout.contains(part), "{part}: {}", ran.stdout);
    }
    let ran = world.test("GET", "/health", &[], &[]).ok();
    assert!(
        ran.stdout.contains("any token that holds"),
        "{}",
        ran.stdout
    );
    let denied = world.test("DELETE", url, &[], &[]).refused("[no_route]");
    let near = format!("  {shown}:13 is for other methods\n");
    assert!(denied.stdout.ends_with(&near), "{}", denied.stdout);
    let denied = world
        .test("GET", &url.replace("api", "web"), &[], &[])
        .refused("no_route");
    let near = format!("  {shown}:13 is for other hosts\n");
    assert!(denied.stdout.ends_with(&near), "{}", denied.stdout);
    let denied = world
        .test("GET", url, &[], &[])
        .refused("{header:x-environment}");
    assert!(
        denied.stdout.contains(&format!("{shown}:13 matches")),
        "{}",
        denied.stdout
    );
}

#[test]
fn a_port_counts_unless_the_table_says_otherwise() {
    let url = "https://api.example.com:8443/v1/projects/web/secrets/db";
    let prod = ["x-environment: prod"];
    let world = World::new(TABLE);
    world.check_denied("GET", url, &prod, "no_route");
    let denied = world.test("GET", url, &prod, &[]);
    denied.refused("write ignore_ports = true above the routes");
    world.check_denied("GET", &url.replace(":8443", "."), &prod, "no_route");
    let world = World::new(format!("ignore_ports = true\n{TABLE}"));
    world.check("GET", url, &prod, 14, "secrets:read@acme/web/prod/db");
    world.check_denied("GET", &url.replace(":8443", "."), &prod, "no_route");
}

#[test]
fn a_request_without_a_route_or_a_value_is_denied() {
    let world = World::new(TABLE);
    let denied = |method: &str, url: &str, headers: &[&str], reason: &str| {
        world.check_denied(method, url, headers, reason);
    };
    denied("GET", "/", &[], "no_route");
    denied("GET", "https://api.example.com", &[], "no_route");
    denied("GET", "/health/", &[], "no_route");
    denied("GET", "/Health", &[], "no_route");
    denied("GET", "/acme.v1.Secrets/GetSecret", &[], "no_route");
    denied("POST", "/acme.v1.Secrets", &[], "no_route");
    denied(
        "POST",
        "https://example.com/v1/jobs/17:cancel",
        &[],
        "no_route",
    );
    denied("POST", "https://a.example.com/v1/jobs/17", &[], "no_route");
    let secrets = "https://api.example.com/v1/projects/web/secrets/db";
    denied("get", secrets, &["x-environment: prod"], "no_route");
    denied("GET", secrets, &[], "no_resource");
    denied("GET", secrets, &["x-environment:"], "no_resource");
    denied("GET", secrets, &["x-environment: a/b"], "no_resource");
    denied("GET", secrets, &["x-environment: a,b"], "no_resource");
    denied("GET", secrets, &["x-environment: .."], "no_resource");
    denied(
        "GET",
        secrets,
        &["x-environment: a", "X-Environment: a"],
        "no_resource",
    );
    let prod = ["x-environment: prod"];
    denied("GET", &secrets.replace("/db", ""), &prod, "no_resource");
    denied("GET", &secrets.replace("/db", "/"), &prod, "no_resource");
    denied("GET", &secrets.replace("/db", "/db/"), &prod, "no_resource");
    denied(
        "GET",
        &secrets.replace("web", "a%20b"),
        &prod,
        "no_resource",
    );
    denied("GET", &secrets.replace("web", "*"), &prod, "no_resource");
    denied("GET", &secrets.replace("/db", "/**"), &prod, "no_resource");
}

#[test]
fn a_path_with_two_readings_is_denied_although_a_route_is_for_all_paths() {
    let world = World::new("[[route]]\npath = \"/**\"\noptional = true\n");
    world.check("GET", "/a/b?c=/../d;e", &[], 1, "@");
    for path in [
        "/a/../b",
        "/a/..",
        "/./a",
        "/a/.",
        "/%2e%2e/a",
        "/%2E./a",
        "/a//b",
        "//a",
        "/a%2fb",
        "/a%2Fb",
        "/a%5cb",
        "/a\\b",
        "/a;b",
        "/a%3bb",
        "/..;/a",
        "/a%00",
        "/a%0d%0ab",
        "/a%25b",
        "/%252e%252e/a",
        "/a%",
        "/a%zz",
        "/a#b",
        "/a?b#c",
        "/a%3fb",
        "/a%23b",
        "/%c0%ae%c0%ae/a",
        "/%ff",
        "/a b",
        "/é",
    ] {
        world.check_denied("GET", path, &[], "path");
        world.check_denied(
            "GET",
            &format!("https://api.example.com{path}"),
            &[],
            "path",
        );
    }
}

/// A wrong table is told with its line by both commands, in both forms.
#[track_caller]
fn check_wrong(table: impl AsRef<[u8]>, line: Option<usize>, hint: &str) {
    let world = World::new(table);
    let place = match line {
        Some(line) => format!("{}:{line}: ", world.file().display()),
        None => format!("{}: ", world.file().display()),
    };
    let mut command = latchkey();
    command
        .args(["routes", "check", "--file"])
        .arg(world.file());
    let ran = run(command, "");
    assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{}", ran.stderr);
    let said = ran.stderr.strip_prefix("error: ").expect("an error");
    assert!(
        said.starts_with(&place) && said.contains(hint),
        "{place}{hint}: {said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");

    let ran = world.test("GET", "/a", &[], &["--output", "json"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{}", ran.stderr);
    let error: Value = serde_json::from_str(&ran.stderr).expect("one object");
    let message = error["error"]["message"].as_str().expect("a message");
    assert!(
        message.starts_with(&place) && message.contains(hint),
        "{place}{hint}: {message}"
    );
}

#[test]
fn a_wrong_table_is_told_with_its_line_and_what_to_do() {
    check_wrong("", None, "write one route at least");
    check_wrong("[[route]", Some(1), "expected");
    check_wrong(
        "[[routes]]\npath = \"/a\"",
        Some(1),
        "unknown field `routes`, expected `ignore_ports` or `route`",
    );
    check_wrong(
        "[[route]]\npath = \"/a\"\nactoin = \"a:b\"",
        Some(3),
        "expected one of",
    );
    check_wrong(
        "[[route]]\naction = \"a\"",
        Some(1),
        "for every request write path = \"/**\"",
    );
    check_wrong(
        "[[route]]\npath = \"/a\"\ngrpc = \"a.B/C\"",
        Some(1),
        "make two routes",
    );
    check_wrong(
        "[[route]]\npath = \"/a\"\naction = \"a:b\"",
        Some(1),
        "they come together",
    );
}

#[test]
fn a_wrong_value_is_told_with_its_line_and_what_to_write() {
    check_wrong("[[route]]\npath = \"a\"", Some(2), "begins with '/'");
    check_wrong("[[route]]\npath = \"/a%2fb\"", Some(2), "write it decoded");
    check_wrong("[[route]]\npath = \"/a/../b\"", Some(2), "no accepted path");
    check_wrong(
        "[[route]]\npath = \"/**/a\"",
        Some(2),
        "only be the last segment",
    );
    check_wrong("[[route]]\npath = \"/a-{b}\"", Some(2), "whole segments");
    check_wrong(
        "[[route]]\ngrpc = \"Secrets\"",
        Some(2),
        "acme.v1.Secrets/GetSecret",
    );
    check_wrong(
        "[[route]]\ngrpc = \"a.B/C\"\nmethods = [\"GET\"]",
        Some(3),
        "leave 'methods' out",
    );
    check_wrong(
        "[[route]]\npath = \"/a\"\nmethods = [\"get\"]",
        Some(3),
        "upper case",
    );
    check_wrong(
        "[[route]]\npath = \"/a\"\nhost = \"a:80\"",
        Some(3),
        "no port",
    );
    check_wrong(
        "[[route]]\npath = \"/a\"\nstale = \"allow\"",
        Some(3),
        "failure_mode_allow",
    );
    check_wrong(
        "[[route]]\npath = \"/a\"\noptional = 1",
        Some(3),
        "expected a boolean",
    );
}

#[test]
fn what_a_route_cannot_need_is_told_and_what_never_matches() {
    let need = |need: &str| format!("[[route]]\npath = \"/{{a}}\"\n{need}");
    check_wrong(
        need("action = \"A\"\nresource = \"b\""),
        Some(3),
        "[a-z0-9_-]",
    );
    check_wrong(
        need("action = \"a\"\nresource = \"{b}\""),
        Some(4),
        "name it there",
    );
    check_wrong(
        need("action = \"a\"\nresource = \"x/*\""),
        Some(4),
        "a resource is",
    );
    let secret = "action = \"a\"\nresource = \"{header:authorization}\"";
    check_wrong(need(secret), Some(4), "a credential");
    let hidden = "[[route]]\npath = \"/a/**\"\n\n[[route]]\npath = \"/a/b\"\n";
    check_wrong(
        hidden,
        Some(4),
        "the one at line 1 matches all of its requests; put it before",
    );
    check_wrong(b"[[route]]\npath = \"/\xff\"", Some(2), "UTF-8");
    check_wrong(vec![b'#'; (1 << 20) + 1], None, "at most 1048576 bytes");
    let many: String = (0..4097)
        .map(|at| format!("[[route]]\npath = \"/{at}\"\n"))
        .collect();
    check_wrong(many, Some(8193), "at most 4096 routes");
}

#[test]
fn no_resource_is_made_of_a_header_that_the_settings_give_another_meaning() {
    let route = "[[route]]\npath = \"/a\"\naction = \"a:b\"\nresource = \"acme/{header:x-acme}\"\n";
    let world = World::new(route);
    world.check("GET", "/a", &["x-acme: web"], 1, "a:b@acme/web");
    for setting in [
        "envoy.credentials=authorization,x-acme",
        "envoy.credentials=x_acme",
        "envoy.headers.subject=x-acme",
        "envoy.headers.revision=x-acme",
    ] {
        let ran = world.test("GET", "/a", &["x-acme: web"], &["--set", setting]);
        assert_eq!(
            (ran.code, ran.stdout.as_str()),
            (2, ""),
            "{setting}: {}",
            ran.stderr
        );
        let place = format!(
            "{}:4: '{{header:x-acme}}': a credential",
            world.file().display()
        );
        assert!(ran.stderr.contains(&place), "{setting}: {}", ran.stderr);
    }
}

fn command(words: &[&str], file: &Path) -> Ran {
    let mut command = latchkey();
    command.args(words).arg(file);
    run(command, "")
}

#[test]
fn the_table_is_that_of_the_servers_settings_if_none_is_named() {
    let world = World::new(TABLE);
    let settings = world.dir.path().join("latchkey.toml");
    let text = format!("[envoy]\nroutes_file = {:?}\n", world.file());
    std::fs::write(&settings, text).expect("written");
    let told = command(
        &["routes", "check", "--output", "json", "--config"],
        &settings,
    )
    .json();
    assert_eq!(told["routes"], 6);
    let told = command(
        &[
            "routes", "test", "GET", "/health", "--output", "json", "--config",
        ],
        &settings,
    );
    assert_eq!(told.json()["line"], 28);

    let mut by_variable = latchkey();
    by_variable.args(["routes", "check"]);
    by_variable.env("LATCHKEY_ENVOY_ROUTES_FILE", world.file());
    let ran = run(by_variable, "").ok();
    assert_eq!(
        ran.stdout,
        format!("{}: 6 routes\n", world.file().display())
    );

    let mut without = latchkey();
    without.args(["routes", "check"]);
    let ran = run(without, "");
    assert_eq!(ran.code, 2, "{}", ran.stdout);
    assert!(
        ran.stderr.contains("--file") && ran.stderr.contains("envoy.routes_file"),
        "{}",
        ran.stderr
    );
    let gone = command(&["routes", "check", "--file"], Path::new("no/such/file"));
    assert_eq!(gone.code, 2, "{}", gone.stdout);
    assert!(
        gone.stderr.contains("no/such/file: cannot be read: "),
        "{}",
        gone.stderr
    );
    let folder = command(&["routes", "check", "--file"], world.dir.path());
    assert_eq!(folder.code, 2, "{}", folder.stdout);
}

#[test]
fn the_readme_has_a_table_and_what_the_program_says_of_it() {
    let readme = include_str!("../../README.md");
    let section = readme.split_once("<!-- routes: begin -->\n```toml\n");
    let (table, rest) = section
        .and_then(|(_, rest)| rest.split_once("```\n<!-- routes: end -->\n"))
        .expect("a table");
    let (shown, _) = rest
        .split_once("```console\n$ latchkey ")
        .and_then(|(_, rest)| rest.split_once("```\n"))
        .expect("a command");
    let (line, expected) = shown.split_once('\n').expect("its answer");
    let world = World::new(table);
    let mut command = latchkey();
    command.args(words(line)).current_dir(world.dir.path());
    assert_eq!(run(command, "").ok().stdout, expected, "{line}");
}
