//! The image and the compose file: linted, held against the program, and as near to being run as a
//! machine without a container engine comes.
//!
//! `image/alone.py` starts the program as a container would: in a root that has only it and its
//! shared libraries and that nobody can write to, as a user without capabilities. What that leaves
//! untried is what an engine does itself: to build the image, and to fetch those it builds upon.
//! The program is the release build, which `make test` makes first; that of the image differs by what
//! the profile `dist` optimises besides.

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::program::{Ran, Server, fresh, latchkey, run, tool};
use crate::tls::kit::{Authority, Files, own};

mod compose;

const ALONE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/image/alone.py");
const PROGRAM: &str = "/usr/local/bin/latchkey";
/// The user of the image, and of the chart.
const NOBODY: u32 = 65532;
/// What `distroless/cc-debian12` brings.
const LIBRARIES: [&str; 6] = [
    "ld-linux-x86-64.so.2",
    "libc.so.6",
    "libdl.so.2",
    "libgcc_s.so.1",
    "libm.so.6",
    "libpthread.so.0",
];

fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The instructions of the Dockerfile; continued lines are one.
fn all_instructions() -> Vec<(String, String)> {
    let text = file("Dockerfile").replace("\\\n", " ");
    let lines = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    lines
        .filter_map(|line| line.split_once(' '))
        .map(|(name, rest)| (name.to_owned(), rest.trim().to_owned()))
        .collect()
}

/// Those of its last stage.
fn instructions() -> Vec<(String, String)> {
    let all = all_instructions();
    let last = all
        .iter()
        .rposition(|(name, _)| name == "FROM")
        .expect("a stage");
    all[last..].to_vec()
}

#[track_caller]
fn instruction(name: &str) -> String {
    let mut found = instructions().into_iter().filter(|(it, _)| it == name);
    let one = found.next().unwrap_or_else(|| panic!("no {name}"));
    assert!(found.next().is_none(), "{name} stands twice");
    one.1
}

/// The words of an instruction in JSON's notation.
fn listed(text: &str) -> Vec<String> {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// `NAME=VALUE` and `NAME="VALUE"` pairs of an instruction.
fn pairs(name: &str) -> BTreeMap<String, String> {
    let text = instruction(name);
    let (mut found, mut rest) = (BTreeMap::new(), text.as_str());
    while let Some((key, after)) = rest.split_once('=') {
        let quoted = after.strip_prefix('"').and_then(|it| it.split_once('"'));
        let (value, more) = quoted.unwrap_or_else(|| after.split_once(' ').unwrap_or((after, "")));
        found.insert(key.trim().to_owned(), value.to_owned());
        rest = more;
    }
    found
}

/// The environment of the image, whose settings file is written to a folder.
pub(crate) fn environment(folder: &Path) -> BTreeMap<String, String> {
    let mut found = pairs("ENV");
    let named = found.get_mut("LATCHKEY_CONFIG").expect("a file");
    let instructions = all_instructions();
    let makes = |(name, text): &&(String, String)| name == "RUN" && text.contains("printf");
    let (_, made) = instructions.iter().find(makes).expect("who makes it");
    let out = folder.to_str().expect("a text");
    let ran = Command::new("sh")
        .args(["-euc", &made.replace("/out", out)])
        .status();
    assert!(ran.expect("sh runs").success(), "{made}");
    *named = format!("{out}{named}");
    found
}

/// The program with these arguments and this environment, which it has to take.
fn program(arguments: &[&str], environment: &BTreeMap<String, String>) -> Ran {
    let mut command = latchkey();
    command.args(arguments).envs(environment);
    run(command, "")
}

fn hadolint(dockerfile: &str) -> Ran {
    let mut command = Command::new(tool("hadolint"));
    command.arg("-");
    run(command, dockerfile)
}

#[test]
fn the_dockerfile_passes_its_linter() {
    let good = file("Dockerfile");
    let ran = hadolint(&good);
    assert_eq!(ran.code, 0, "{}", ran.stdout);
    for (from, to, why) in [
        ("cc-debian12:nonroot", "cc-debian12", "DL3006"),
        ("WORKDIR /src", "WORKDIR src", "DL3000"),
        ("CMD [\"serve\"]", "CMD serve", "DL3025"),
        ("USER 65532:65532", "USER root", "DL3002"),
    ] {
        assert!(good.contains(from), "{from}");
        let ran = hadolint(&good.replacen(from, to, 1));
        assert_eq!(ran.code, 1, "{to} passes");
        assert!(ran.stdout.contains(why), "{why}: {}", ran.stdout);
    }
}

#[test]
fn the_image_is_what_the_program_takes() {
    let folder = fresh();
    let environment = environment(folder.path());
    // A variable would go before every file that somebody brings.
    let names: Vec<&String> = environment.keys().collect();
    assert_eq!(names, ["LATCHKEY_CONFIG"]);
    let settings = program(
        &["serve", "--print-config", "--output", "json"],
        &environment,
    )
    .json();
    let port = |section: &str| {
        let addr = settings[section]["addr"].as_str().expect("an address");
        addr.rsplit_once(':').expect("a port").1.to_owned()
    };
    let exposed = instruction("EXPOSE");
    assert_eq!(exposed, format!("{} {}", port("listen"), port("admin")));
    assert_eq!(listed(&instruction("ENTRYPOINT")), [PROGRAM]);
    let command = listed(&instruction("CMD"));
    assert_eq!(command, ["serve"]);
    let health = instruction("HEALTHCHECK");
    let (_, health) = health.split_once("CMD ").expect("a command");
    let health = listed(health);
    assert_eq!(health[0], PROGRAM);
    let mut health: Vec<&str> = health[1..].iter().map(String::as_str).collect();
    health.push("--help");
    program(&health, &environment).ok();
    assert_eq!(instruction("USER"), format!("{NOBODY}:{NOBODY}"));
    assert_eq!(instruction("STOPSIGNAL"), "SIGTERM");
    let labels = pairs("LABEL");
    let label = |name: &str| labels[&format!("org.opencontainers.image.{name}")].as_str();
    assert_eq!(label("version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(label("title"), env!("CARGO_PKG_NAME"));
    assert_eq!(label("description"), env!("CARGO_PKG_DESCRIPTION"));
    assert_eq!(label("licenses"), env!("CARGO_PKG_LICENSE"));
    let builder = file("Dockerfile");
    let builder = builder.lines().find(|line| line.ends_with(" AS builder"));
    let wanted = format!(
        "FROM rust:{}-bookworm AS builder",
        env!("CARGO_PKG_RUST_VERSION")
    );
    assert_eq!(builder, Some(wanted.as_str()));
    // The chart runs the same user and program.
    let values = file("helm/values.yaml");
    assert!(
        values.contains(&format!("runAsUser: {NOBODY}\n")),
        "helm/values.yaml"
    );
    assert!(file("helm/templates/_pod.tpl").contains(&format!("command: [{PROGRAM}]")));
}

/// A file of somebody's own says all, however little it is.
#[test]
fn the_images_settings_give_way_to_every_other() {
    let folder = fresh();
    let mut environment = environment(folder.path());
    let shown = |environment: &BTreeMap<String, String>, more: &[&str]| {
        let mut arguments = vec!["serve", "--print-config", "--output", "json"];
        arguments.extend(more);
        let settings = program(&arguments, environment).json();
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let (listen, admin) = (&settings["listen"]["addr"], &settings["admin"]["addr"]);
        [listen, admin, &settings["store"]["data_dir"]].map(text)
    };
    let data = "/var/lib/latchkey/data";
    let whole = ["0.0.0.0:7421", "0.0.0.0:7422", data];
    assert_eq!(shown(&environment, &[]), whole);
    let own = folder.path().join("own.toml");
    std::fs::write(&own, "listen.addr = '[::]:1'\nstore.data_dir = '/data'\n").expect("written");
    let own = own.to_str().expect("a text");
    let ours = ["[::]:1", "127.0.0.1:7422", "/data"];
    assert_eq!(shown(&environment, &["--config", own]), ours);
    environment.insert("LATCHKEY_LISTEN_ADDR".to_owned(), "[::]:7421".to_owned());
    let some = ["[::]:7421", "0.0.0.0:7422", data];
    assert_eq!(shown(&environment, &[]), some);
}

/// With a certificate, the image's own check needs to be told whom it asks.
#[test]
fn the_health_check_asks_over_tls_as_it_is_said() {
    let (ca, files, data) = (Authority::new(), Files::new(), fresh());
    let set = own(&files, &ca, &ca.elsewhere(&["tokens.example.com"]));
    let arguments: Vec<&str> = set.iter().flat_map(|one| ["--set", one]).collect();
    let started = Server::start_with(data.path(), &arguments);
    let server = started.unwrap_or_else(|said| panic!("it did not start: {said}"));
    let health = instruction("HEALTHCHECK");
    let (_, health) = health.split_once("CMD ").expect("a command");
    let health = listed(health);
    let health: Vec<&str> = health[1..].iter().map(String::as_str).collect();
    let authorities = files.folder().join("ca.pem");
    let mut environment: BTreeMap<String, String> = [
        ("LATCHKEY_ADDR", format!("https://{}", server.address)),
        ("LATCHKEY_CA_FILE", authorities.display().to_string()),
        ("LATCHKEY_SERVER_NAME", "tokens.example.com".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    for (name, text) in [
        ("Dockerfile", file("Dockerfile")),
        ("README.md", file("README.md")),
    ] {
        for variable in environment.keys() {
            assert!(text.contains(variable), "{name}: {variable}");
        }
    }
    let asked = |environment: &BTreeMap<String, String>| program(&health, environment);
    assert_eq!(asked(&environment).ok().stdout, "serving\n");
    environment.remove("LATCHKEY_SERVER_NAME");
    assert_eq!(asked(&environment).code, 3);
}

/// Copies what `.dockerignore` lets into the build to `to`.
fn build_context(to: &Path) {
    let ignored = file(".dockerignore");
    let kept = ignored.lines().filter_map(|line| line.strip_prefix('!'));
    for path in kept {
        let target = to.join(path);
        std::fs::create_dir_all(target.parent().expect("a folder")).expect("made");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        let copied = Command::new("cp")
            .arg("-r")
            .args([&source, &target])
            .status();
        assert!(copied.expect("cp runs").success(), "{path}");
    }
}

/// Files that cargo would build from and that are not in a folder.
fn missing(folder: &Path) -> Vec<String> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["metadata", "--no-deps", "--offline", "--format-version=1"]);
    command.current_dir(folder);
    let metadata = run(command, "").json();
    let targets = metadata["packages"][0]["targets"]
        .as_array()
        .expect("targets");
    let is_program = |it: &&Value| it["name"] == "latchkey" && it["kind"][0] == "bin";
    assert_eq!(targets.iter().filter(is_program).count(), 1);
    let sources = targets
        .iter()
        .map(|it| it["src_path"].as_str().expect("a path"));
    let missing = sources.filter(|source| !Path::new(source).is_file());
    missing.map(str::to_owned).collect()
}

#[test]
fn the_image_is_built_from_all_that_the_program_needs() {
    let folder = fresh();
    build_context(folder.path());
    assert_eq!(missing(folder.path()), [""; 0]);
    // What is compiled in besides code is there as well: tables and interface definitions.
    for path in [
        "src/store/postgres/migrations",
        "proto/latchkey/v1",
        "Cargo.lock",
        // What it says of memory is worth a third of a Check's time.
        ".cargo/config.toml",
    ] {
        assert!(folder.path().join(path).exists(), "{path}");
    }
    std::fs::remove_file(folder.path().join("src/main.rs")).expect("removed");
    assert_eq!(missing(folder.path()).len(), 1);
}

/// The release build of the program.
fn released() -> PathBuf {
    let debug = Path::new(env!("CARGO_BIN_EXE_latchkey"));
    let target = debug.ancestors().nth(2).expect("a folder of builds");
    let path = target.join("release/latchkey");
    assert!(
        path.is_file(),
        "{} is missing: run `cargo build --release`, as `make test` does",
        path.display()
    );
    path
}

/// The shared libraries of the program, as the loader finds them.
fn libraries() -> Vec<PathBuf> {
    let mut command = Command::new("ldd");
    command.arg(released());
    let said = run(command, "").ok().stdout;
    let paths = said.split_whitespace().filter(|word| word.starts_with('/'));
    let mut found: Vec<PathBuf> = paths.map(PathBuf::from).collect();
    found.dedup();
    assert!(found.len() >= 3, "{said}");
    found
}

#[test]
fn the_image_brings_every_shared_library() {
    for library in libraries() {
        let name = library.file_name().expect("a name").to_string_lossy();
        assert!(
            LIBRARIES.contains(&name.as_ref()),
            "{name} is not in the image"
        );
    }
}

/// A root with the program and its shared libraries, and a folder for its data.
struct Alone {
    root: TempDir,
    data: TempDir,
}

impl Alone {
    fn new() -> Self {
        let (root, data) = (fresh(), fresh());
        let put = |from: &Path, to: &Path| {
            let to = root
                .path()
                .join(to.strip_prefix("/").expect("from the root"));
            std::fs::create_dir_all(to.parent().expect("a folder")).expect("made");
            // The content of what a link names.
            std::fs::copy(from, &to).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
        };
        put(&released(), Path::new(PROGRAM));
        for library in libraries() {
            put(&library, &library);
        }
        std::fs::create_dir_all(root.path().join("var/lib/latchkey")).expect("made");
        environment(root.path());
        let readable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(root.path(), readable).expect("its mode is set");
        // Who is not root owns it already.
        let _ = chown(data.path(), Some(NOBODY), Some(NOBODY));
        Self { root, data }
    }

    /// A command line of the program alone, with the environment of the image.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(tool("python3"));
        command
            .arg(ALONE)
            .args([self.root.path(), self.data.path()]);
        command.arg(PROGRAM).args(arguments);
        command.env_clear().envs(pairs("ENV"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        run(self.command(arguments), "")
    }
}

#[test]
fn the_program_runs_alone_in_a_read_only_root_as_nobody() {
    let alone = Alone::new();
    let made = alone.run(&["bootstrap", "--output", "json"]).json();
    let token = made["admin_token"].as_str().expect("a token");
    let started = Server::launch(&mut alone.command(&["serve", "--admin", "127.0.0.1:0"]));
    let server = started.unwrap_or_else(|said| panic!("it did not start: {said}"));
    let status = server.process("status");
    let line = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let line = line.unwrap_or_else(|| panic!("{name}: {status}"));
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    // Seen from outside, who is not root stays who they are.
    let us = rustix::process::geteuid();
    let (user, group) = match us.is_root() {
        true => (NOBODY, NOBODY),
        false => (us.as_raw(), rustix::process::getegid().as_raw()),
    };
    let four = |id: u32| [id; 4].map(|id| id.to_string()).join(" ");
    assert_eq!((line("Uid:"), line("Gid:")), (four(user), four(group)));
    assert!(!us.is_root() || line("Groups:").is_empty(), "{status}");
    assert_eq!(line("NoNewPrivs:"), "1");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(line(set), "0000000000000000", "{set}");
    }
    // Asked as the image's own health check asks, and as a client does.
    let asked = alone.run(&["health", "--addr", &server.address]);
    assert_eq!(asked.ok().stdout, "serving\n");
    let (_, secret) = server
        .as_bearer(token)
        .issue("--kind user --ttl 1h --name a --reason a");
    assert!(
        server
            .as_bearer(token)
            .check(&secret, "secrets:read", "acme/web")
            .0
    );
    // The root really is read-only, to the program too.
    let written = alone.run(&["backup", "/usr/copy.db"]);
    assert_eq!(written.code, 3, "{}", written.stdout);
    assert!(
        written.stderr.contains("Read-only file system"),
        "{}",
        written.stderr
    );
    let kept = alone.run(&["backup", "/var/lib/latchkey/copy.db"]);
    assert_eq!(kept.code, 0, "{}", kept.stderr);
    server.terminate();
}
