//! Trimming by the command line: export, trim, and a server that goes on from the cut.
//!
//! Of an embedded store the server is stopped for it; of a database it is not, and there a trim
//! takes whole partitions, of three revisions here. The answer to the bootstrap, revision 4, is
//! remembered like that of any request.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::postgres::{database, server as postgres};
use crate::program::{Ran, Server, fresh, latchkey, run, words};
use crate::store::postgres::SMALL_PARTS;

/// What nothing here takes longer than unless it hangs.
const HANGS: Duration = Duration::from_secs(60);

/// Runs `latchkey log …` on a store.
fn log(line: &str, file: &Path, store: [&str; 2]) -> Ran {
    let mut command = latchkey();
    let words = words(line).into_iter();
    let words = words.map(|word| match word.as_str() {
        "FILE" => file.display().to_string(),
        _ => word,
    });
    command.arg("log").args(words).args(store);
    command.args(["--output", "json"]);
    run(command, "")
}

/// Ten changes, of which the sixth has a request id; the id of the token that it made.
fn ten(server: &Server) -> String {
    let admin = server.admin();
    // The administrator is four.
    admin.run("user create u5 --home acme --reason r").ok();
    let (id, _) = admin.issue("--kind user --name a --reason a --request-id r-1");
    for number in 7..=10 {
        let line = format!("user create u{number} --home acme --reason r");
        admin.run(&line).ok();
    }
    id
}

/// The numbers of the changes that are listed.
fn listed(server: &Server) -> Vec<u64> {
    let said = server.admin().run("audit list --output json").json();
    let changes = said["changes"].as_array().expect("changes").iter();
    let number = |change: &Value| {
        let revision = change["revision"].as_str().expect("a revision");
        let number = revision.split('-').next().unwrap_or_default();
        number.parse().expect("a number")
    };
    changes.map(number).collect()
}

/// What everybody sees of a log that begins after `cut`.
fn goes_on_from(server: &Server, cut: u64, id: &str) {
    let admin = server.admin();
    let verified = admin.run("audit verify --output json").json();
    let after = verified["after"].as_str().expect("where it begins");
    assert!(after.starts_with(&format!("{cut}-")), "{after}");
    assert_eq!(verified["changes"], 10 - cut);
    assert_eq!(listed(server), (cut + 1..=10).rev().collect::<Vec<_>>());
    let from_cut = format!("audit verify --after {after} --output json");
    assert_eq!(admin.run(&from_cut).json()["changes"], 10 - cut);
    let at_cut = format!("audit list --after {after} --oldest-first --output json");
    let said = admin.run(&at_cut).json();
    assert_eq!(
        said["changes"].as_array().expect("changes").len() as u64,
        10 - cut
    );
    for line in [
        "audit list --after 1 --output json",
        "audit verify --after 1 --output json",
        "audit watch --after 1 --output json",
    ] {
        let ran = admin.run(line);
        assert_eq!(ran.code, 1, "{line}: {}", ran.stderr);
        let said = "revision 1 is not in the log any more";
        assert!(ran.stderr.contains("\"TRIMMED\""), "{line}: {}", ran.stderr);
        assert!(ran.stderr.contains(said), "{line}: {}", ran.stderr);
    }
    // A request id is remembered for longer than what it was answered with may be trimmed.
    let (again, _) = repeated(server);
    assert_eq!(again, id);
}

fn repeated(server: &Server) -> (String, bool) {
    let line = "token issue --kind user --name a --reason a --request-id r-1 --output json";
    let said = server.admin().run(line).json();
    let id = said["token_id"].as_str().expect("an id").to_owned();
    (id, said["secret"].is_null())
}

#[test]
fn a_stopped_store_is_exported_and_trimmed_and_serves_on_embedded() {
    let dir = fresh();
    let mut server = Server::start(dir.path());
    let token = server.admin.clone();
    let id = ten(&server);
    let data_dir = dir.path().display().to_string();
    let store = ["--data-dir", data_dir.as_str()];
    let folder = fresh();
    let file = folder.path().join("export.jsonl");
    // An export is made beside a server, a trim is not.
    let exported = log("export FILE --before 1ms", &file, store).json();
    assert_eq!(exported["changes"], 10);
    let ran = log("trim --before 1ms --export FILE", &file, store);
    assert!(
        ran.code == 3 && ran.stderr.contains("IN_USE"),
        "{}",
        ran.stderr
    );
    server.terminate();

    log("export FILE --before 1ms", &file, store).refused("cannot make");
    let ran = log("trim --before 1ms", &file, store);
    assert_eq!(ran.code, 2, "nobody keeps it: {}", ran.stderr);
    let whole = std::fs::read_to_string(&file).expect("an export");
    let refuses = |text: String, said: &str| {
        let other = folder.path().join("edited.jsonl");
        std::fs::write(&other, text).expect("written");
        log("trim --before 1ms --export FILE", &other, store).refused(said);
    };
    refuses(whole.replacen("user:u7", "user:u8", 1), "line 8");
    let cut = whole.rfind("{\"until\"").expect("a last line");
    refuses(whole[..cut].to_owned(), "ends before");
    // Nothing is old enough by the setting.
    let trimmed = log("trim --export FILE", &file, store).json();
    assert_eq!(trimmed["changes"], 0);
    let trimmed = log("trim --before 1ms --export FILE", &file, store).json();
    assert_eq!(
        trimmed["changes"], 3,
        "up to the request that is remembered"
    );

    server = Server::start(dir.path());
    server.admin = token;
    goes_on_from(&server, 3, &id);
    server.terminate();
    // What comes next may not leave a gap.
    let later = folder.path().join("later.jsonl");
    let exported = log("export FILE --before 1ms", &later, store).json();
    assert!(
        exported["after"]
            .as_str()
            .expect("a revision")
            .starts_with("3-")
    );
    let other = fresh();
    Server::start(other.path()).terminate();
    let elsewhere = other.path().display().to_string();
    let elsewhere = ["--data-dir", elsewhere.as_str()];
    log("trim --before 1ms --export FILE", &later, elsewhere).refused("would be lost");
    log("trim --before 1ms --export FILE", &file, elsewhere).refused("not what the log has");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_served_database_is_exported_and_trimmed_by_its_owner_postgres() {
    let database = database().await;
    let parts = SMALL_PARTS.replace("BY 4", "BY 3");
    let parts = parts.replace("ELSE 4", "ELSE 3");
    postgres().admin(&database.name, &parts).await;
    let mut bootstrap = latchkey();
    bootstrap.args([
        "bootstrap",
        "--output",
        "json",
        "--database-url",
        &database.url,
    ]);
    let made = run(bootstrap, "").json();
    let serve = |name: &str| {
        let mut server = Server::replica(&database.url, name, &[]).expect("started");
        server.admin = Some(made["admin_token"].as_str().expect("a token").to_owned());
        let begun = Instant::now();
        // It answers once it holds a lease.
        while server.admin().run("audit list --limit 1").code != 0 {
            assert!(begun.elapsed() < HANGS, "{}", server.logged());
        }
        server
    };
    let server = serve("one");
    let id = ten(&server);
    let folder = fresh();
    let file = folder.path().join("export.jsonl");
    let as_server = ["--database-url", database.url.as_str()];
    assert_eq!(
        log("export FILE --before 1ms", &file, as_server).json()["changes"],
        10
    );
    // It has to have reported what it has applied, which it does at its next renewal.
    let owner = postgres().url("postgres", &database.name);
    let as_owner = ["--database-url", owner.as_str()];
    let ran = log("trim --before 1ms --export FILE", &file, as_server);
    assert_eq!(ran.code, 3, "not by the server's role: {}", ran.stderr);
    let begun = Instant::now();
    while log("trim --before 1ms --export FILE", &file, as_owner).json()["changes"] != 3 {
        assert!(begun.elapsed() < HANGS, "nothing was trimmed");
    }
    goes_on_from(&server, 3, &id);
    server.terminate();
    // A server that starts on it goes on, too.
    let server = serve("two");
    goes_on_from(&server, 3, &id);
    server.terminate();
}
