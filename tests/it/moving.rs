//! Moving an embedded store to a database: what is there afterwards, and what a cut leaves.
//!
//! The copy is the program's own command, as the role of the README. Stores are read by the door
//! of the trait on both sides; whatever a reader could see must be the same.

mod cuts;
mod logins;
mod same;
mod tables;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use latchkey::domain::chain::Head;
use latchkey::domain::change::Subject;
use latchkey::domain::clock::Now;
use latchkey::domain::entropy::OsEntropy;
use latchkey::domain::permission::Need;
use latchkey::domain::principal::PrincipalId;
use latchkey::domain::token::{KindSet, TokenId, TokenKind};
use latchkey::state::check::{CheckRequest, Context, check};
use latchkey::state::explain::{Target, explain};
use latchkey::state::{Loader, State};
use latchkey::store::embedded::{EmbeddedStore, OpenOptions};
use latchkey::store::list::{LastUsed, TokenQuery};
use latchkey::store::logins::{LoginKind, LoginNoted, Logins as _, OneTime};
use latchkey::store::postgres::{self, PostgresStore, Settings};
use latchkey::store::transfer::{Last, TABLES};
use latchkey::store::{Store, StoreError, Trim};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::model::recorded::{Recorded, record};
use crate::postgres::{Database, bare_database, database, server};
use crate::program::{Ran, Server, fresh, latchkey, run, words};
use crate::store::postgres::SMALL_PARTS;
use crate::store::scribe::{Scribe, put_principal, rows, whole_log};

const USED: OneTime = OneTime {
    id: [7; 32],
    now_ms: 1,
    until_ms: 1 << 45,
};

/// A login whose token is any that there is: the record does not look.
fn login(((token, account), from): ((TokenId, PrincipalId), Option<IpAddr>)) -> LoginNoted {
    LoginNoted {
        at_ms: 1,
        kind: match from {
            Some(_) => LoginKind::Login,
            None => LoginKind::Exchange,
        },
        account: from.map(|_| account),
        parent: from.is_none().then_some(TokenId::from_u128(8)),
        credential: TokenId::from_u128(9),
        token,
        from,
        expires_ms: 2,
    }
}

/// A closed directory with a random history.
async fn recorded(seed: u64) -> (TempDir, Recorded) {
    let folder = fresh();
    let store = EmbeddedStore::open(folder.path(), OpenOptions::default()).expect("opened");
    let made = record(&store, seed, 250).await;
    let query = TokenQuery {
        limit: 1_000,
        ..TokenQuery::default()
    };
    let tokens = store.tokens(query).await.expect("a page").rows;
    let used = |from| LastUsed { at_ms: 7, from };
    let froms = [Some(IpAddr::from([192, 0, 2, 1])), None];
    let used = tokens.iter().zip(froms.map(used));
    let used: Vec<_> = used.map(|(token, used)| (token.record.id, used)).collect();
    assert_eq!(used.len(), 2, "tokens that were used");
    store.note_used(&used).await.expect("noted");
    let subjects = tokens
        .iter()
        .filter_map(|token| match token.record.subject {
            Subject::Principal(id) => Some((token.record.id, id)),
            Subject::Resource(_) => None,
        });
    let logins = subjects.zip(froms.into_iter().cycle()).map(login);
    let logins: Vec<_> = logins.collect();
    assert!(logins.len() > 10, "logins of several pages");
    store.note_logins(&logins).await.expect("noted");
    assert!(store.consume(&USED).await.expect("an answer"));
    store.close().await.expect("closed");
    (folder, made)
}

fn copy_to(folder: &Path, url: &str) -> Ran {
    let mut command = latchkey();
    command
        .args(["copy", "--from"])
        .arg(folder)
        .args(["--to", url]);
    command.args(["--output", "json"]);
    run(command, "")
}

fn open(folder: &Path) -> EmbeddedStore {
    let options = OpenOptions {
        accept_moved: true,
        ..OpenOptions::default()
    };
    EmbeddedStore::open(folder, options).expect("opened")
}

async fn open_copy(database: &Database) -> PostgresStore {
    let settings = Settings {
        url: database.url.clone(),
        ..Settings::default()
    };
    PostgresStore::open(&settings, &OsEntropy)
        .await
        .expect("opened")
}

async fn loaded(store: &dyn Store) -> State {
    let snapshot = store.snapshot().await.expect("a snapshot");
    let (head, instant_ms, digest) = (snapshot.head, snapshot.instant_ms, snapshot.state_digest);
    drop(snapshot);
    let mut loader = Loader::default();
    loader.put(rows(store).await.1);
    loader.finish(head, instant_ms, digest).expect("of the log")
}

/// How many rows the tables of a database hold that the log makes.
async fn rows_in(database: &Database) -> i64 {
    let client = server().client("postgres", &database.name).await;
    let counts = TABLES
        .iter()
        .map(|table| format!("(SELECT count(*) FROM latchkey.{})", table.name));
    let sql = format!("SELECT {}", counts.collect::<Vec<_>>().join(" + "));
    client.query_one(&sql, &[]).await.expect("counts").get(0)
}

/// Every Check and Explain that the model's universe has for these secrets.
fn answers(state: &State, made: &Recorded) -> Vec<String> {
    let mut answers = Vec::new();
    for secret in &made.secrets {
        for action in ["s:read", "s:write", "tokens:issue", "users:write"] {
            for resource in ["a", "b", "a/x", "a/y", "b/x", "a/x/y"] {
                let needs = [Need::parse(action, resource).expect("a need")];
                let (context, kinds) = (Context::default(), KindSet::from_kinds(TokenKind::ALL));
                let request = CheckRequest {
                    token: secret,
                    needs: &needs,
                    context,
                    kinds,
                };
                let now = Now::at(made.now);
                let checked = check(state, &request, now);
                let target = Target::Token(secret);
                let explained = explain(state, target, &needs, context, kinds, now);
                let seen = checked.token.map(|one| (one.id, one.subject.to_owned()));
                let (reason, revision) = (checked.reason, checked.revision);
                answers.push(format!("{reason:?} {revision} {seen:?} {explained:?}"));
            }
        }
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_store_answers_as_before_postgres() {
    for seed in [1, 2, 3] {
        let (folder, made) = recorded(seed).await;
        let database = database().await;
        let copied = copy_to(folder.path(), &database.url).json();
        let (before, after) = (open(folder.path()), open_copy(&database).await);
        let log = whole_log(&before).await;
        let head = log.last().expect("a log").head;
        assert_eq!(copied["revision"], head.revision().to_string());

        let moved = whole_log(&after).await;
        assert_eq!(moved.len(), log.len());
        for (one, other) in log.iter().zip(&moved) {
            assert_eq!((&one.body, one.head), (&other.body, other.head));
        }
        let (_, rows_before) = rows(&before).await;
        let (_, rows_after) = rows(&after).await;
        assert_eq!(format!("{rows_before:?}"), format!("{rows_after:?}"));
        let listed = same::lists(&before, &made).await;
        same::assert_same(&listed, &same::lists(&after, &made).await);
        assert!(listed.len() > 40, "{}", listed.len());
        assert!(!after.consume(&USED).await.expect("an answer"));

        let (state, copy) = (loaded(&before).await, loaded(&after).await);
        let answered = answers(&state, &made);
        same::assert_same(&answered, &answers(&copy, &made));
        assert!(answered.iter().any(|one| one.starts_with("Allowed")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trimmed_log_is_moved_with_its_cut_postgres() {
    let (folder, _) = recorded(4).await;
    let trim = Trim {
        before_ms: u64::MAX,
        upto: 20,
        now_ms: 1 << 45,
    };
    let store = EmbeddedStore::open(folder.path(), OpenOptions::default()).expect("opened");
    let cut = store.trim(trim).await.expect("trimmed");
    let log = store.changes_after(20, 10_000).await.expect("the log");
    assert_eq!(cut.revision, 20);
    store.close().await.expect("closed");

    let database = database().await;
    copy_to(folder.path(), &database.url).json();
    let copy = open_copy(&database).await;
    assert_eq!(copy.cut().await.expect("a cut"), cut);
    assert!(copy.changes_after(20, 10_000).await.expect("the log") == log);
    let before = copy.changes_after(19, 1).await;
    assert!(
        matches!(before, Err(StoreError::Trimmed { .. })),
        "{before:?}"
    );
    let mut verify = latchkey();
    verify.args([
        "audit",
        "verify",
        "--output",
        "json",
        "--database-url",
        &database.url,
    ]);
    let verified = run(verify, "").json();
    assert_eq!(verified["after"], cut.revision().to_string());
    assert_eq!(verified["changes"], log.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trimmed_log_that_was_moved_is_trimmed_again_postgres() {
    let (folder, _) = recorded(5).await;
    let store = EmbeddedStore::open(folder.path(), OpenOptions::default()).expect("opened");
    let all = |upto| Trim {
        before_ms: u64::MAX,
        upto,
        now_ms: 1 << 45,
    };
    // In the middle of a partition, of four revisions there.
    assert_eq!(store.trim(all(18)).await.expect("trimmed").revision, 18);
    store.close().await.expect("closed");
    let database = database().await;
    server().admin(&database.name, SMALL_PARTS).await;
    copy_to(folder.path(), &database.url).json();
    let client = server().client("postgres", &database.name).await;
    let first = async || {
        let sql = "SELECT min(first) FROM latchkey.log_parts";
        let row = client.query_one(sql, &[]).await;
        row.expect("parts").get::<_, i64>(0)
    };
    let owner = Settings {
        url: server().url("postgres", &database.name),
        ..Settings::default()
    };
    assert_eq!(first().await, 1);
    for (upto, cut, begins) in [(19, 18, 17), (20, 20, 21), (27, 24, 25)] {
        let trimmed = postgres::trim(&owner, &all(upto)).await.expect("trimmed");
        assert_eq!(trimmed.revision, cut);
        assert_eq!(first().await, begins);
    }
}

#[tokio::test]
async fn a_log_that_begins_far_up_needs_no_room_below_postgres() {
    let database = database().await;
    let settings = Settings {
        url: database.url.clone(),
        ..Settings::default()
    };
    let cut = Head {
        revision: 4_000_000_000,
        chain: [7; 32],
    };
    let last = Last {
        cut,
        head: cut,
        instant_ms: 1,
        state_digest: None,
        principal_max: 1,
        grant_max: 0,
        requests: 0,
        format: 1,
    };
    let target = postgres::Target::open(&settings).await.expect("opened");
    let (_, nothing) = tokio::sync::mpsc::channel(1);
    target.take(&last, nothing).await.expect("taken");
    target.commit().await.expect("committed");
    let client = server().client("postgres", &database.name).await;
    let sql = "SELECT first FROM latchkey.log_parts ORDER BY first";
    let parts = client.query(sql, &[]).await.expect("parts");
    let parts: Vec<i64> = parts.iter().map(|row| row.get(0)).collect();
    assert_eq!(parts, [1, 4_000_000_001]);
    let mut scribe = Scribe::new();
    scribe.head = cut;
    let copy = open_copy(&database).await;
    scribe.append(&copy, [put_principal(2, "user:bob")]).await;
    assert_eq!(rows(&copy).await.0, scribe.head);
}

/// Refused until somebody says that the directory is the authority again.
fn no_authority_any_more(folder: &Path, database: &Database) {
    let refused = Server::start_with(folder, &[]).err().expect("refused");
    assert!(
        refused.contains("was moved to") && refused.contains("--accept-moved"),
        "{refused}"
    );
    assert!(refused.contains(&database.name), "{refused}");
    let mut backup = latchkey();
    backup
        .args(["backup", "--data-dir"])
        .arg(folder)
        .arg(folder.join("backup"));
    run(backup, "").ok();
    Server::start_with(folder, &["--accept-moved"])
        .expect("accepted")
        .terminate();
    Server::start(folder).terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_served_store_goes_on_in_the_database_postgres() {
    let dir = fresh();
    // Asking is a use of the token that asks; and no lease ends on a busy machine.
    let settings = ["last_used.enabled=false", "lease.length=60s"];
    let settings = settings.map(|setting| ["--set", setting]).concat();
    let embedded = Server::start_with(dir.path(), &settings).expect("starts");
    let token = embedded.admin.clone().expect("a token");
    let admin = embedded.admin();
    admin
        .run("user create bob --home acme --reason r --label team=web")
        .ok();
    admin
        .run("role create agent --home acme --action secrets:* --reason r")
        .ok();
    admin
        .run("grant create --principal user:bob --role agent --resource acme/** --reason r")
        .ok();
    let (id, live) = admin.issue("--kind user --subject user:bob --ttl 1h --name b --reason b");
    let (gone, revoked) =
        admin.issue("--kind user --subject user:bob --ttl 1h --name c --reason b");
    let last = admin
        .run(&format!("token revoke {gone} --reason r --output json"))
        .json();
    let revision = last["revision"].as_str().expect("a revision").to_owned();
    let lists = [
        "token list",
        "user list",
        "role list",
        "grant list",
        "audit list --limit 1000",
    ];
    let explain = format!("explain {id} --action secrets:read --resource acme/web");
    let ask = |server: &Server| {
        let admin = server.as_bearer(&token);
        let lines = lists.into_iter().chain([explain.as_str()]);
        lines
            .map(|line| admin.run(&format!("{line} --output json")).json())
            .collect::<Vec<_>>()
    };
    let before = ask(&embedded);
    // While it is served, nothing is copied.
    let database = database().await;
    let busy = copy_to(dir.path(), &database.url);
    assert!(
        busy.code == 3 && busy.stderr.contains("IN_USE"),
        "{}",
        busy.stderr
    );
    embedded.terminate();
    copy_to(dir.path(), &database.url).ok();

    let replica = Server::replica(&database.url, "a", &settings).expect("served");
    assert_eq!(ask(&replica), before);
    let admin = replica.as_bearer(&token);
    let asked = format!(
        "check --token-file - --action secrets:read --resource acme/web --at-least {revision}"
    );
    admin.run_with_input(&asked, &live).ok();
    admin.run_with_input(&asked, &revoked).refused("denied");
    admin.run("audit verify").ok();
    admin.issue("--kind user --subject user:bob --ttl 1h --name d --reason b");
    no_authority_any_more(dir.path(), &database);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_copied_is_refused_and_left_as_it_is_postgres() {
    let (folder, _) = recorded(4).await;
    let refused = |folder: &Path, url: &str, code: i32, what: &str| {
        let ran = copy_to(folder, url);
        assert_eq!(ran.code, code, "{what}: {}{}", ran.stdout, ran.stderr);
        assert!(ran.stderr.contains(what), "{what}: {}", ran.stderr);
        assert!(!folder.join("moved").exists(), "{what}: marked");
    };
    let (bare, owner) = bare_database().await;
    refused(folder.path(), &owner, 3, "NOT_MIGRATED");
    let newer = database().await;
    let sql = "INSERT INTO latchkey.schema_versions VALUES (999, 'from the future', 999)";
    server().admin(&newer.name, sql).await;
    refused(folder.path(), &newer.url, 3, "SCHEMA_VERSION");
    drop(bare);

    let used = database().await;
    let (other, _) = recorded(5).await;
    copy_to(other.path(), &used.url).ok();
    let before = rows_in(&used).await;
    refused(folder.path(), &used.url, 1, "ALREADY_EXISTS");
    assert_eq!(rows_in(&used).await, before);

    let empty = fresh();
    let store = EmbeddedStore::open(empty.path(), OpenOptions::default()).expect("opened");
    store.close().await.expect("closed");
    let target = database().await;
    refused(empty.path(), &target.url, 1, "empty");
    refused(fresh().path(), &target.url, 2, "no Latchkey database");
    let unreachable = "postgres://u:hunter2@127.0.0.1:1/d";
    let ran = copy_to(folder.path(), unreachable);
    assert!(
        ran.code == 3 && !ran.stderr.contains("hunter2"),
        "{}",
        ran.stderr
    );

    // A table outside the list of what is carried is a row that nobody would miss.
    server()
        .admin(
            &target.name,
            "INSERT INTO latchkey.cut_offs VALUES ('subject', '1', 1)",
        )
        .await;
    refused(folder.path(), &target.url, 1, "ALREADY_EXISTS");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_store_is_not_copied_postgres() {
    let (folder, _) = recorded(6).await;
    let target = database().await;
    let check = |sql: &'static str, what: &'static str| {
        let copy = copied_files(folder.path());
        let connection = Connection::open(copy.path().join("latchkey.db")).expect("opened");
        let changed = connection.execute(sql, []).expect(sql);
        assert!(changed > 0, "{sql}");
        drop(connection);
        let ran = copy_to(copy.path(), &target.url);
        assert_eq!(ran.code, 3, "{sql}: {}{}", ran.stdout, ran.stderr);
        assert!(
            ran.stderr.contains("DAMAGED") && ran.stderr.contains(what),
            "{sql}: {}",
            ran.stderr
        );
        assert!(!copy.path().join("moved").exists(), "{sql}: marked");
    };
    check(
        "UPDATE log SET body = zeroblob(40) WHERE revision = 7",
        "revision 7",
    );
    check("DELETE FROM log WHERE revision = 9", "revision 9");
    check(
        "UPDATE log SET actor = 'user:nobody' WHERE revision = 5",
        "column",
    );
    check("DELETE FROM log WHERE revision > 20", "revision");
    check(
        "DELETE FROM tokens WHERE id = (SELECT max(id) FROM tokens)",
        "state digest",
    );
    check(
        "UPDATE tokens SET revoked_at = NULL, revoked_ms = NULL WHERE revoked_at > 0",
        "state digest",
    );
    check(
        "DELETE FROM grants WHERE id = (SELECT min(id) FROM grants)",
        "state digest",
    );
    check("UPDATE roles SET actions = '*'", "state digest");
    assert_eq!(rows_in(&target).await, 0);
    copy_to(folder.path(), &target.url).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_directory_is_not_copied_postgres() {
    let (folder, _) = recorded(7).await;
    let target = database().await;
    let old = copied_files(folder.path());
    let store = open(folder.path());
    let mut scribe = Scribe::new();
    let (head, _) = rows(&store).await;
    (scribe.head, scribe.instant_ms) = (head, 1 << 45);
    scribe
        .append(&store, [put_principal(900, "user:late")])
        .await;
    store.close().await.expect("closed");
    std::fs::copy(
        old.path().join("latchkey.db"),
        folder.path().join("latchkey.db"),
    )
    .expect("put");
    let ran = copy_to(folder.path(), &target.url);
    assert!(
        ran.code == 1 && ran.stderr.contains("OLDER_COPY"),
        "{}",
        ran.stderr
    );
}

/// Copies every file of a closed directory.
fn copied_files(from: &Path) -> TempDir {
    let to = fresh();
    for entry in std::fs::read_dir(from).expect("read") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), to.path().join(entry.file_name())).expect("copied");
    }
    to
}

/// A command line of the copy that goes on beside the test.
fn begin_copy(folder: &Path, url: &str) -> std::process::Child {
    let mut command = latchkey();
    command
        .args(words("copy --from"))
        .arg(folder)
        .args(["--to", url]);
    command.stdout(std::process::Stdio::null());
    command.stderr(std::process::Stdio::null());
    command.spawn().expect("a process")
}

/// What is in a folder, by name and content, but for the lock.
fn content(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found: Vec<_> = std::fs::read_dir(folder)
        .expect("read")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.ends_with("latchkey.db") || path.ends_with("head"))
        .map(|path| (path.clone(), std::fs::read(path).expect("read")))
        .collect();
    found.sort();
    found
}
