//! What a crash, a second process and an old copy do to an embedded node: nothing acknowledged
//! is lost, and nothing that forgets a revocation is served.
//!
//! Processes are ended by their id; every directory is the test's own.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use latchkey::proto::v1;
use v1::token_service_client::TokenServiceClient;

use crate::program::{Server, fresh, latchkey, run};
use crate::wire::{bearer, channel};

const WRITERS: usize = 8;
const ACKNOWLEDGED: usize = 150;

/// A token of its own resource.
pub(crate) fn issue(n: usize) -> v1::IssueTokenRequest {
    v1::IssueTokenRequest {
        kind: v1::TokenKind::Resource as i32,
        resource: format!("crash/{n}"),
        scopes: Some(v1::ScopesInput {
            extent: Some(v1::scopes_input::Extent::Only(v1::ScopeList {
                scopes: vec![format!("a:b@crash/{n}")],
            })),
        }),
        name: format!("token {n}"),
        reason: "crash test".to_owned(),
        ..v1::IssueTokenRequest::default()
    }
}

/// Writes from many tasks until enough is acknowledged, then kills the server under them.
/// Returns the secrets that must be allowed, and those that must be revoked.
async fn write_until_killed(
    server: Server,
    admin: &str,
    from: usize,
) -> (Vec<String>, Vec<String>) {
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let address = server.address.clone();
    let tasks: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (address, admin) = (address.clone(), admin.to_owned());
            let acknowledged = Arc::clone(&acknowledged);
            tokio::spawn(async move {
                let mut client = TokenServiceClient::new(channel(&address).await);
                let (mut live, mut revoked) = (Vec::new(), Vec::new());
                for n in (from + writer..).step_by(WRITERS) {
                    let Ok(issued) = client.issue_token(bearer(&admin, issue(n))).await else {
                        break;
                    };
                    let issued = issued.into_inner();
                    acknowledged.fetch_add(1, Ordering::SeqCst);
                    if n % 3 > 0 {
                        live.push(issued.secret);
                        continue;
                    }
                    let revoke = v1::RevokeTokenRequest {
                        target: Some(v1::revoke_token_request::Target::Secret(
                            issued.secret.clone(),
                        )),
                        reason: "crash test".to_owned(),
                        ..v1::RevokeTokenRequest::default()
                    };
                    // Without an answer nothing is promised, one way or the other.
                    if client.revoke_token(bearer(&admin, revoke)).await.is_err() {
                        break;
                    }
                    revoked.push(issued.secret);
                }
                (live, revoked)
            })
        })
        .collect();
    while acknowledged.load(Ordering::SeqCst) < ACKNOWLEDGED {
        tokio::task::yield_now().await;
    }
    server.kill();
    let (mut live, mut revoked) = (Vec::new(), Vec::new());
    for task in tasks {
        let (more_live, more_revoked) = task.await.expect("a writer");
        live.extend(more_live);
        revoked.extend(more_revoked);
    }
    (live, revoked)
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_under_load_loses_no_acknowledged_write_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let admin = server.admin.clone().expect("fresh");
    let (mut live, mut revoked) = (Vec::new(), Vec::new());
    let mut server = server;
    for round in 0..3 {
        let (more_live, more_revoked) = write_until_killed(server, &admin, round * 1_000_000).await;
        live.extend(more_live);
        revoked.extend(more_revoked);
        server = Server::start(dir.path());
        assert_eq!(
            server.admin, None,
            "old tokens stay valid on an existing directory"
        );
    }
    let as_admin = server.as_bearer(&admin);
    assert!(live.len() >= ACKNOWLEDGED && !revoked.is_empty());
    let unique: HashSet<&String> = live.iter().chain(&revoked).collect();
    assert_eq!(unique.len(), live.len() + revoked.len());
    let mut client =
        v1::check_service_client::CheckServiceClient::new(channel(&server.address).await);
    for (secrets, expected) in [
        (&live, v1::Reason::Allowed),
        (&revoked, v1::Reason::Revoked),
    ] {
        for secret in secrets {
            let request = v1::CheckRequest {
                token: secret.clone(),
                ..v1::CheckRequest::default()
            };
            let answer = client.check(request).await.expect("answered").into_inner();
            assert_eq!(answer.reason(), expected);
        }
    }
    as_admin.run("audit verify").ok();
}

#[test]
fn a_second_process_on_the_same_directory_is_refused_embedded() {
    let dir = fresh();
    let _server = Server::start(dir.path());
    let said = Server::start_with(dir.path(), &[]).err().expect("refused");
    assert!(said.contains("in use"), "{said}");
    assert!(said.contains(&dir.path().display().to_string()), "{said}");
}

#[test]
fn a_restored_older_copy_is_refused_until_it_is_accepted_embedded() {
    let (dir, copies) = (fresh(), fresh());
    let server = Server::start(dir.path());
    let admin = server.admin.clone().expect("fresh");
    let (id, secret) = server
        .admin()
        .issue("--kind user --ttl 1h --name a --reason a");
    let backup = copies.path().join("backup.db");
    command(
        &["backup", &backup.display().to_string(), "--data-dir"],
        dir.path(),
    )
    .ok();
    server
        .admin()
        .run(&format!("token revoke {id} --reason leaked"))
        .ok();
    server.terminate();

    // The copy does not know of the revocation, and the witness file does.
    let restored = command(
        &["restore", &backup.display().to_string(), "--data-dir"],
        dir.path(),
    );
    assert_ne!(restored.code, 0, "{}", restored.stdout);
    let elsewhere = copies.path().join("elsewhere");
    command(
        &["restore", &backup.display().to_string(), "--data-dir"],
        &elsewhere,
    )
    .ok();
    let database = |dir: &Path| dir.join("latchkey.db");
    for name in ["latchkey.db-wal", "latchkey.db-shm"] {
        let _ = std::fs::remove_file(dir.path().join(name));
    }
    std::fs::copy(database(&elsewhere), database(dir.path())).expect("copied");
    let said = Server::start_with(dir.path(), &[]).err().expect("refused");
    assert!(said.contains("older copy"), "{said}");

    let server = Server::start_with(dir.path(), &["--accept-older-copy"]).expect("accepted");
    assert!(
        server.as_bearer(&admin).check(&secret, "a:b", "c").0,
        "what accepting means"
    );
    server.terminate();
    Server::start(dir.path()).terminate();
}

#[test]
fn a_damaged_log_is_refused_and_named_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    server
        .admin()
        .issue("--kind user --ttl 1h --name a --reason 'the reason to damage'");
    server.kill();
    let said = damage(dir.path(), b"the reason to damage", b"the reason to forget");
    assert!(said.contains("revision 5"), "{said}");
}

/// Changes bytes wherever they stand in the database's files; what a start then says.
fn damage(dir: &Path, from: &[u8], to: &[u8]) -> String {
    let mut changed = 0;
    for file in std::fs::read_dir(dir).expect("readable") {
        let path = file.expect("readable").path();
        let mut bytes = std::fs::read(&path).expect("readable");
        let places: Vec<usize> = bytes
            .windows(from.len())
            .enumerate()
            .filter(|(_, window)| *window == from)
            .map(|(place, _)| place)
            .collect();
        for place in &places {
            bytes[*place..*place + to.len()].copy_from_slice(to);
        }
        changed += places.len();
        if !places.is_empty() {
            std::fs::write(&path, bytes).expect("writable");
        }
    }
    assert!(changed > 0, "there was something to damage");
    Server::start_with(dir, &[]).err().expect("refused")
}

fn command(words: &[&str], dir: &Path) -> crate::program::Ran {
    let mut command = latchkey();
    command.args(words).arg(dir);
    run(command, "")
}
