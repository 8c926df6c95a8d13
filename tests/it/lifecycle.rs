//! How a server begins and ends: told to end before it serves, while it drains, while somebody takes
//! nothing of an answer; and with few files that it may open.
//!
//! What is waited for is waited for however long it takes; what must not be waited for would take
//! half a minute or more.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread::{park_timeout, spawn};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::leaks::{admin_page, metrics};
use crate::postgres::{database, server};
use crate::program::{Server, fresh, latchkey};
use crate::replicas::bootstrap;
use crate::telemetry::shown;

const CHECKS: &str = "/readyz?service=latchkey.v1.CheckService";

fn term(child: &std::process::Child) {
    kill_process(Pid::from_child(child), Signal::TERM).expect("it runs");
}

#[test]
fn a_server_that_waits_for_its_database_ends_when_it_is_told_to_postgres() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("bound");
    let mut server = latchkey();
    server
        .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .args(["--set", "database.connect_timeout=1m"])
        .args(["--database-url", &format!("postgres://u:p@{address}/d")]);
    let mut server = server.stderr(Stdio::piped()).spawn().expect("it starts");
    let _held = silent.accept().expect("it asks");
    term(&server);
    let ended = server.wait().expect("it ends");
    let mut said = String::new();
    let mut stderr = server.stderr.take().expect("piped");
    stderr.read_to_string(&mut said).expect("text");
    assert!(ended.success(), "{ended}: {said}");
    assert!(said.contains("stopped before it served"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_told_to_end_while_it_loads_is_no_member_any_more_postgres() {
    let database = database().await;
    let admin = bootstrap(&database);
    let settings = ["--set", "lease.length=60s"];
    let first = Server::replica(&database.url, "first", &settings).expect("it serves");
    let locks = server().client("postgres", &database.name).await;
    let lock = "BEGIN; LOCK TABLE latchkey.tokens IN ACCESS EXCLUSIVE MODE";
    locks.batch_execute(lock).await.expect("locked");
    let mut second = latchkey();
    second
        .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .args(["--set", "replica.name=second"])
        .args(["--database-url", &database.url]);
    let mut second = second.stderr(Stdio::piped()).spawn().expect("it starts");
    let mut log = BufReader::new(second.stderr.take().expect("piped"));
    let mut said = String::new();
    while !said.contains("joined the cluster") {
        assert!(log.read_line(&mut said).expect("text") > 0, "{said}");
    }
    let members = || {
        let status = first.as_bearer(&admin).run("status --output json").json();
        let replicas = status["replicas"].as_array().expect("replicas").iter();
        let names = replicas.map(|it| it["name"].as_str().expect("a name").to_owned());
        names.collect::<Vec<_>>()
    };
    term(&second);
    assert!(second.wait().expect("it ends").success(), "{said}");
    locks.batch_execute("ROLLBACK").await.expect("free again");
    assert_eq!(members(), ["first"]);
}

#[test]
fn who_is_told_by_the_admin_port_looks_elsewhere_before_a_server_ends_embedded() {
    let dir = fresh();
    let notice = ["--set", "limits.drain_notice=10m"];
    let server = Server::start_with(dir.path(), &notice).expect("it comes up");
    let page = |path: &str| admin_page(&server.admin_address, path);
    let login = "/readyz?service=latchkey.v1.LoginService";
    for path in ["/readyz", CHECKS, login] {
        assert!(page(path).contains("200 OK"), "{path}: {}", page(path));
    }
    let unknown = page("/readyz?service=latchkey.v1.Nothing");
    assert!(unknown.contains("404 Not Found"), "{unknown}");
    server.signal(Signal::TERM);
    while !page(CHECKS).contains("503 Service Unavailable") {}
    for path in ["/readyz", login] {
        assert!(page(path).contains("503 Service Unavailable"), "{path}");
    }
    assert!(page("/healthz").contains("200 OK"));
    let (allowed, reason) = server.admin().check("lku_x", "secrets:read", "projects/1");
    assert!(!allowed && reason == "unknown", "{reason}");
}

#[test]
fn who_takes_no_answer_of_the_admin_port_holds_up_no_end_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let mut greedy = TcpStream::connect(&server.admin_address).expect("the admin port");
    greedy.set_nonblocking(true).expect("a socket");
    // Until the server takes no more of them, for a long while: it is busy with answers.
    let requests = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100);
    let (mut sent, mut full) = (0, 0);
    while full < 500 {
        match greedy.write(&requests[sent % requests.len()..]) {
            Ok(more) => (sent, full) = (sent + more, 0),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                full += 1;
                park_timeout(Duration::from_millis(1));
            }
        }
    }
    let waits = spawn(move || server.terminate());
    // Who takes nothing has half a minute by itself.
    for _ in 0..150 {
        if waits.is_finished() {
            break;
        }
        park_timeout(Duration::from_millis(100));
    }
    assert!(waits.is_finished(), "it waits for who takes nothing");
    waits.join().expect("ended well");
}

/// A server that may open so many files, and more if it asks.
fn with_files(soft: u32, hard: u32, data: &std::path::Path) -> Result<Server, String> {
    let mut command = Command::new("sh");
    let limited = format!("ulimit -Sn {soft}; ulimit -Hn {hard}; exec \"$@\"");
    command.args(["-c", &limited, "sh"]);
    command.arg(latchkey().get_program());
    command.args(["dev", "--data-dir"]).arg(data);
    command.env_remove("LATCHKEY_TOOLS");
    Server::launch(&mut command)
}

#[test]
fn as_many_files_are_opened_as_are_allowed_embedded() {
    let dir = fresh();
    let server = with_files(256, 2_048, dir.path()).expect("it comes up");
    let told = metrics(&server.admin_address);
    assert!((shown(&told, "process_max_fds") - 2_048.0).abs() < 0.5);
    assert!(!server.terminate().contains("ulimit"));
}

#[test]
fn connections_leave_files_for_the_rest_embedded() {
    let dir = fresh();
    let server = with_files(256, 256, dir.path()).expect("it comes up");
    let mut held = Vec::new();
    for _ in 0..300 {
        let Ok(mut connection) = TcpStream::connect(&server.address) else {
            continue;
        };
        // Who has said hello may stay.
        let hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        if connection.write_all(hello).is_ok() {
            held.push(connection);
        }
    }
    let told = metrics(&server.admin_address);
    assert!(shown(&told, "latchkey_connections") < 120.0, "{told}");
    let open = shown(&told, "process_open_fds");
    assert!(open < 200.0, "{open}");
    drop(held);
    let said = server.terminate();
    assert!(said.contains("ulimit -n"), "{said}");
    assert!(!said.contains("cannot accept connections"), "{said}");
}

#[test]
fn too_few_files_are_refused_embedded() {
    let dir = fresh();
    let said = with_files(100, 100, dir.path()).err();
    let said = said.expect("it does not come up");
    assert!(said.contains("only 100 files"), "{said}");
}
