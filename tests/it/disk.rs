//! A full disk under a running server, or under its database: what is refused is said, what was
//! answered stays, and checks go on.
//!
//! A file system that can be full belongs to the test alone: the test runs itself once more in a
//! mount namespace of its own (and a user namespace, so that it need not be root) with a tmpfs
//! on its directory. Nothing of it is seen outside, and it goes when the processes end. Every
//! loop has a bound, every call a deadline, and the whole has two minutes.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use latchkey::proto::v1;
use serde_json::Value;
use tonic::{Request, Status};
use tonic_types::StatusExt as _;
use v1::check_service_client::CheckServiceClient;
use v1::token_service_client::TokenServiceClient;

use crate::crash::issue;
use crate::fleet::{revoke, why, within};
use crate::postgres;
use crate::program::{Server, fresh};
use crate::replicas::bootstrap;
use crate::wire::{bearer, channel, check};

/// Tells the test that it runs on the small disk, and where that is.
const SMALL_DISK: &str = "IT_SMALL_DISK";
const DISK: &str = "16m";
/// A database without tokens takes 10 MB of it.
const DATABASE_DISK: &str = "32m";
/// More tokens than the disk has room for.
const ISSUES_MAX: usize = 20_000;
/// How long one call may take.
const CALL_TIME_MAX: Duration = Duration::from_secs(10);

/// Runs the named test of this binary again, with a file system of its own on `dir`.
fn on_a_small_disk(test: &str, dir: &Path) {
    let missing = |error| panic!("unshare of util-linux is missing: {error}");
    let mut unshare = Command::new("unshare");
    let allowed = Command::new("unshare").args(["--mount", "true"]).output();
    if !allowed.unwrap_or_else(missing).status.success() {
        unshare.args(["--user", "--map-root-user"]);
    }
    let mount = "mount -t tmpfs -o size=\"$1\" tmpfs \"$2\" && shift 2 && \
                 exec timeout --signal=KILL 120 \"$@\"";
    let ran = unshare
        .args(["--mount", "sh", "-c", mount, "sh", DISK])
        .arg(dir)
        .arg(std::env::current_exe().expect("this binary"))
        .args(["--exact", test, "--nocapture"])
        .env(SMALL_DISK, dir)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(missing);
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&ran.stdout),
        String::from_utf8_lossy(&ran.stderr)
    );
    assert!(
        ran.status.success() && said.contains("1 passed"),
        "{said}\nThis test needs a mount namespace with a tmpfs in it: `unshare --mount` as root \
         (in a container with CAP_SYS_ADMIN), or as a user `unshare --user --map-root-user \
         --mount`, which the kernel must allow (user.max_user_namespaces, \
         kernel.apparmor_restrict_unprivileged_userns, the container's seccomp profile)."
    );
}

/// Takes all that is left of the disk, until it is dropped.
struct Ballast<'a>(&'a Path);

impl<'a> Ballast<'a> {
    fn fill(path: &'a Path) -> Self {
        let mut file = File::create(path).expect("a file");
        let page = [0x55; 4096];
        loop {
            match file.write_all(&page) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return Self(path),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

impl Drop for Ballast<'_> {
    fn drop(&mut self) {
        fs::remove_file(self.0).expect("removed");
    }
}

/// A server, its administrator's token, and the secrets of all issues that were answered.
struct Answered {
    server: Server,
    admin: String,
    secrets: Vec<String>,
    tried: usize,
}

impl Answered {
    /// Issues up to so many tokens; the first failure ends it.
    async fn issue(&mut self, most: usize, time_max: Duration) -> Result<(), Status> {
        let mut tokens = TokenServiceClient::new(channel(&self.server.address).await);
        for _ in 0..most {
            self.tried += 1;
            let mut request = bearer(&self.admin, issue(self.tried));
            request.set_timeout(time_max);
            let issued = tokens.issue_token(request).await?.into_inner();
            self.secrets.push(issued.secret);
        }
        Ok(())
    }

    /// What a full disk refuses, and says so: to scripts too, and of a revocation too.
    fn a_revocation_is_refused(&mut self) {
        let doomed = self.secrets.pop().expect("issued");
        let revoke = "token revoke --secret-file - --reason r --output json";
        let admin = self.server.as_bearer(&self.admin);
        let ran = admin.run_with_input(revoke, &doomed);
        assert_eq!((ran.code, ran.stdout.as_str()), (3, ""), "{}", ran.stderr);
        let said: Value = serde_json::from_str(ran.stderr.trim()).expect("one JSON line");
        let reason = said["error"]["reason"].as_str().expect("a reason");
        assert_eq!(reason, "UNAVAILABLE", "{said}");
        let logged = self.server.logged();
        assert!(logged.contains("disk is full"), "{logged}");
    }

    /// Revokes one after the other until one is refused; the secrets of those that were not.
    async fn revoke(&mut self) -> Vec<String> {
        let mut tokens = TokenServiceClient::new(channel(&self.server.address).await);
        let mut revoked = Vec::new();
        while let Some(secret) = self.secrets.pop() {
            let request = within(CALL_TIME_MAX, bearer(&self.admin, revoke(&secret)));
            match tokens.revoke_token(request).await {
                Ok(_) => revoked.push(secret),
                Err(status) => {
                    assert_eq!(why(&status), "UNAVAILABLE", "{status:?}");
                    self.secrets.push(secret);
                    return revoked;
                }
            }
        }
        panic!("a full disk takes any number of revocations")
    }

    /// How many tokens were issued, by the log.
    fn issues(&self) -> usize {
        let admin = self.server.as_bearer(&self.admin);
        let list = "audit list --kind token.issue --limit 1000 --output json";
        let listed = admin.run(list).json();
        listed["changes"].as_array().expect("changes").len()
    }

    /// What a full disk does not touch.
    async fn reads_go_on(&self) {
        self.all_are_allowed().await;
        let admin = self.server.as_bearer(&self.admin);
        admin.run("status").ok();
        admin.run("token list").ok();
        admin.run("audit verify").ok();
    }

    async fn all_are_allowed(&self) {
        let mut checks = CheckServiceClient::new(channel(&self.server.address).await);
        for secret in &self.secrets {
            let mut request = Request::new(v1::CheckRequest {
                token: secret.clone(),
                ..v1::CheckRequest::default()
            });
            request.set_timeout(CALL_TIME_MAX);
            let answer = checks.check(request).await.expect("answered").into_inner();
            assert_eq!(answer.reason(), v1::Reason::Allowed);
        }
    }
}

async fn fill_free_kill_and_restart(disk: &Path) {
    let (data, ballast) = (disk.join("data"), disk.join("ballast"));
    let server = Server::start(&data);
    let admin = server.admin.clone().expect("fresh");
    let mut answered = Answered {
        server,
        admin,
        secrets: Vec::new(),
        tried: 0,
    };
    answered.issue(20, CALL_TIME_MAX).await.expect("room");
    let full = Ballast::fill(&ballast);
    let status = answered.issue(ISSUES_MAX, CALL_TIME_MAX).await;
    let status = status.expect_err("a full disk takes no more tokens");
    let reason = status.get_details_error_info().map(|info| info.reason);
    let reason = reason.expect("a reason of the server");
    assert_eq!(reason, "UNAVAILABLE", "{status:?}");
    answered.a_revocation_is_refused();
    answered.reads_go_on().await;

    // Room again: the same process goes on.
    drop(full);
    answered.issue(20, CALL_TIME_MAX).await.expect("room again");
    answered.reads_go_on().await;

    // Full again, and the process dies while it tries to write.
    let full = Ballast::fill(&ballast);
    let hasty = Duration::from_millis(500);
    let status = answered.issue(ISSUES_MAX, hasty).await;
    status.expect_err("a full disk takes no more tokens");
    let Answered { server, .. } = &mut answered;
    server.cut();
    drop(full);
    *server = Server::start(&data);
    answered.issue(20, CALL_TIME_MAX).await.expect("goes on");
    answered.reads_go_on().await;
    answered.server.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_of_the_database_refuses_writes_and_loses_none_that_was_answered_postgres() {
    let postgres = postgres::Server::with_small_disk(DATABASE_DISK).await;
    let database = postgres.database_with("TABLESPACE small").await;
    let admin = bootstrap(&database);
    let start = |name| {
        // No lease ends on a busy machine.
        let started = Server::replica(&database.url, name, &["--set", "lease.length=60s"]);
        started.unwrap_or_else(|said| panic!("{name}: {said}"))
    };
    let (server, other) = (start("a"), start("b"));
    let mut answered = Answered {
        server,
        admin,
        secrets: Vec::new(),
        tried: 0,
    };
    answered.issue(100, CALL_TIME_MAX).await.expect("room");
    let before = answered.issues() - answered.secrets.len();
    postgres.fill_disk();
    let status = answered.issue(ISSUES_MAX, CALL_TIME_MAX).await;
    let status = status.expect_err("a full disk takes no more tokens");
    assert_eq!(why(&status), "UNAVAILABLE", "{status:?}");
    let revoked = answered.revoke().await;
    answered.a_revocation_is_refused();
    answered.reads_go_on().await;

    // Room again: the same processes go on, and the log has what was answered and nothing else.
    postgres.free_disk();
    let issued = before + answered.secrets.len() + revoked.len() + 1;
    assert_eq!(answered.issues(), issued);
    answered.issue(20, CALL_TIME_MAX).await.expect("room again");
    let line = "user create bob --home acme --reason r --wait";
    let known = answered.server.as_bearer(&answered.admin).run(line).ok();
    assert!(
        known.stdout.contains("confirmed by 2 replicas"),
        "{}",
        known.stdout
    );
    for server in [&answered.server, &other] {
        let mut checks = CheckServiceClient::new(channel(&server.address).await);
        for secret in &revoked {
            let answer = checks.check(check(secret, &[])).await.expect("answered");
            assert_eq!(answer.get_ref().reason(), v1::Reason::Revoked);
        }
    }
    answered.reads_go_on().await;
    answered.server = other;
    answered.reads_go_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_and_loses_none_that_was_answered_embedded() {
    let name = "disk::a_full_disk_refuses_writes_and_loses_none_that_was_answered_embedded";
    match std::env::var_os(SMALL_DISK) {
        Some(disk) => fill_free_kill_and_restart(Path::new(&disk)).await,
        None => on_a_small_disk(name, fresh().path()),
    }
}
