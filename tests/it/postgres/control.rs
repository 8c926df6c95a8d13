//! What an operator, a crash and a failover do to a server of a test's own.
//!
//! Every call blocks until it has happened. A frozen server is one whose processes are all
//! stopped: its sockets stay open, the kernel still accepts connections, and nothing answers.

use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

use super::{INIT, Server};
use crate::watched::Watched;

/// What a standby is made of: a copy of the server behind `$FROM`, which it goes on following.
const COPY: &str = r#"
    export LC_ALL=C
    "$BIN/pg_basebackup" -h 127.0.0.1 -p "$FROM" -U postgres -D data -R -X stream -c fast \
        --no-sync >copy.log 2>&1 || { cat copy.log; exit 1; }
"#;

/// A certificate for `localhost` by an authority `ca.pem`, and another authority, `other.pem`.
/// The program's role gets in by TLS alone.
const CERTIFICATES: &str = r#"
    certify() {
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes "$@" || exit 1
    } >certificates.log 2>&1
    for name in ca other; do
        certify -x509 -days 2 -subj "/CN=$name" -keyout "$name.key" -out "$name.pem"
    done
    certify -subj /CN=localhost -keyout data/server.key -out server.csr
    echo subjectAltName=DNS:localhost >names
    openssl x509 -req -days 2 -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial \
        -extfile names -out data/server.crt >>certificates.log 2>&1 ||
        { cat certificates.log; echo "is openssl installed?"; exit 1; }
    chmod 600 data/server.key
    echo "host all postgres 127.0.0.1/32 trust" >data/pg_hba.conf
    echo "hostssl all all 127.0.0.1/32 trust" >>data/pg_hba.conf
"#;

impl Server {
    /// Starts a server of a test's own that the program's role reaches by TLS alone.
    pub(crate) fn with_tls() -> Self {
        let init = format!("{INIT}{CERTIFICATES}");
        tokio::task::block_in_place(|| Self::prepared_by(&init, "-c ssl=on", None))
    }

    /// Starts a server of a test's own with a tablespace `small`, on a disk that can be full.
    pub(crate) async fn with_small_disk(size: &str) -> Self {
        let init = format!("{INIT} mkdir disk/space\n");
        // What would make room again.
        let options = "-c autovacuum=off";
        let server = tokio::task::block_in_place(|| Self::prepared_by(&init, options, Some(size)));
        let space = server.file("disk/space").display().to_string();
        let sql = format!("CREATE TABLESPACE small LOCATION '{space}'");
        server.admin("postgres", &sql).await;
        server
    }

    /// Leaves no room on its disk.
    pub(crate) fn fill_disk(&self) {
        let fill = "dd if=/dev/zero of=disk/ballast bs=4k";
        self.run(&format!("! {fill} && test \"$(stat -f -c %a disk)\" -eq 0"));
    }

    /// Takes that back.
    pub(crate) fn free_disk(&self) {
        self.run("rm disk/ballast");
    }

    /// A file in this server's folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.watched().folder.join(name)
    }

    fn watched(&self) -> &Watched {
        let watched = self.watched.as_ref();
        watched.expect("a server of the test's own")
    }

    fn run(&self, line: &str) {
        tokio::task::block_in_place(|| self.watched().run(line));
    }

    /// Makes a standby that copies and follows what is on that port: this server, or a proxy of it.
    pub(crate) fn standby(from: u16) -> Self {
        let copy = COPY.replace("$FROM", &from.to_string());
        tokio::task::block_in_place(|| Self::prepared_by(&copy, "", None))
    }

    /// Makes this standby take writes.
    pub(crate) fn promote(&self) {
        self.run(r#""$BIN/pg_ctl" -D data -w -t 60 promote"#);
    }

    /// Crashes every process.
    pub(crate) fn crash(&self) {
        self.run(r#""$BIN/pg_ctl" -D data -w -t 60 -m immediate stop"#);
    }

    /// Crashes every process and starts again.
    pub(crate) fn crash_and_restart(&self) {
        self.run(r#""$BIN/pg_ctl" -D data -l log -w -t 60 -m immediate restart"#);
    }

    /// Stops every process where it stands, until the guard is dropped.
    pub(crate) fn freeze(&self) -> Frozen {
        let file = self.file("data/postmaster.pid");
        let text = std::fs::read_to_string(&file).expect("a running server");
        let first = text.lines().next().and_then(|line| line.parse().ok());
        let postmaster: i32 = first.expect("a process id");
        // The one that would make more of them first.
        let mut frozen = Frozen(Vec::new());
        frozen.stop(postmaster);
        for child in children(postmaster) {
            frozen.stop(child);
        }
        frozen
    }
}

/// Stops one process of a server of this machine, until the guard is dropped.
pub(crate) fn freeze_process(id: i32) -> Frozen {
    let mut frozen = Frozen(Vec::new());
    frozen.stop(id);
    frozen
}

/// Processes that are stopped until this is dropped.
pub(crate) struct Frozen(Vec<Pid>);

impl Frozen {
    fn stop(&mut self, id: i32) {
        let id = Pid::from_raw(id).expect("a process id");
        // One that has just ended is as still as one that is stopped.
        if kill_process(id, Signal::STOP).is_ok() {
            self.0.push(id);
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for id in self.0.iter().rev() {
            let _ = kill_process(*id, Signal::CONT);
        }
    }
}

fn children(parent: i32) -> Vec<i32> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let Ok(text) = std::fs::read_to_string(Path::new(&path)) else {
        return Vec::new();
    };
    let ids = text.split_whitespace();
    ids.filter_map(|id| id.parse().ok()).collect()
}
