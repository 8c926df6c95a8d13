//! Whoever reads the log: where it stops reading, nobody waits; where it goes on, all lines are there.
//!
//! The log is a pipe that is full from the start, so that the first line finds no room in it.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::OFlags;

use super::shown;
use crate::leaks::{admin_page, metrics};
use crate::program::{Server, fresh, latchkey};

/// A pipe with a name, held open at both ends.
struct Pipe {
    path: PathBuf,
    end: File,
}

impl Pipe {
    fn full(folder: &Path) -> Self {
        let path = folder.join("log");
        let made = Command::new("mkfifo").arg(&path).status();
        assert!(made.expect("mkfifo runs").success());
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).expect("a flag");
        let mut end = options.custom_flags(flags).open(&path).expect("a pipe");
        let full = loop {
            if let Err(error) = end.write(&[b'.'; 4096]) {
                break error;
            }
        };
        assert_eq!(full.kind(), ErrorKind::WouldBlock);
        Self { path, end }
    }

    /// A server with its log here.
    fn logs_of(&self, data: &Path) -> Server {
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$@\" 2> \"$LOG\"", "sh"]);
        command.arg(latchkey().get_program());
        command.args(["dev", "--data-dir"]).arg(data);
        command.env("LOG", &self.path).env_remove("LATCHKEY_TOOLS");
        Server::launch(&mut command).expect("it comes up")
    }

    /// Reads until it has come to this.
    fn read_until(&mut self, wanted: &str) -> String {
        let (mut bytes, mut text) = ([0; 4096], String::new());
        while !text.contains(wanted) {
            match self.end.read(&mut bytes) {
                Ok(read) => text.push_str(&String::from_utf8_lossy(&bytes[..read])),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        text
    }
}

#[test]
fn who_stops_reading_the_log_stops_nobody_embedded() {
    let folder = fresh();
    let mut log = Pipe::full(folder.path());
    let server = log.logs_of(&folder.path().join("data"));
    let admin = server.admin();
    // Each of these has a line.
    admin.run("user create alice --home acme --reason x").ok();
    let (_, secret) = admin.issue("--subject alice --name a --kind user --reason x");
    let (allowed, _) = admin.check(&secret, "secrets:read", "projects/1");
    assert!(!allowed);
    admin.run("token list").ok();
    let alive = admin_page(&server.admin_address, "/healthz");
    assert!(alive.contains("alive"), "{alive}");
    let counted = metrics(&server.admin_address);
    assert_eq!(shown(&counted, "latchkey_log_lines_dropped_total"), 0.0);
    // Who goes on reading finds all of it.
    let told = log.read_until("access");
    let at = |what: &str| told.find(what).unwrap_or_else(|| panic!("{what}: {told}"));
    assert!(at("serving") < at("TokenService/Issue"));
    server.terminate();
}

#[test]
fn a_server_ends_though_nobody_reads_its_log_embedded() {
    let folder = fresh();
    let data = folder.path().join("data");
    let log = Pipe::full(folder.path());
    let server = log.logs_of(&data);
    server
        .admin()
        .run("user create alice --home acme --reason x")
        .ok();
    server.terminate();
    // It was closed: the next need not verify the whole log.
    let next = Server::start(&data);
    assert!(next.terminate().contains("serving"));
}
