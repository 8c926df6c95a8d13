//! Handshakes: who is let in, what the others are told, and what none of them can hold up.
//!
//! By the program as it is run; certificates are made while the test runs.

use std::io::ErrorKind;

use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, Error as TlsError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::kit::{Authority, House, Pair};
use crate::program::Server;

const ID: &str = "spiffe://acme/web";
const WHOAMI: &str = "token whoami";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_versions_are_spoken_unless_the_older_is_ruled_out() {
    let both = House::open(&[]);
    for version in [&TLS12, &TLS13] {
        let stream = both.shaken(None, &[version]).await.expect("let in");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    }
    let newer = House::open(&["tls.min_version=1.3"]);
    newer.shaken(None, &[&TLS13]).await.expect("let in");
    let error = newer.shaken(None, &[&TLS12]).await.expect_err("too old");
    let error = error.get_ref().and_then(|error| error.downcast_ref());
    let expected = TlsError::AlertReceived(AlertDescription::ProtocolVersion);
    assert_eq!(error, Some(&expected));
    assert_eq!(
        newer
            .metric(r#"latchkey_connections_refused_total{why="handshake"}"#)
            .await,
        1.0
    );
}

/// Runs a command that is not to be let in, and what it is told.
#[track_caller]
fn kept_out(house: &House, shown: Option<&Pair>, expected: &str) {
    let ran = house.run(shown, WHOAMI);
    assert_eq!(ran.code, 3, "{}{}", ran.stdout, ran.stderr);
    assert!(
        ran.stderr.contains(expected),
        "{expected:?} is not in {}",
        ran.stderr
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_certificates_of_the_clients_authority_are_let_in() {
    let house = House::mutual(&[]);
    let web = house.client(ID);
    let who = tokio::task::block_in_place(|| {
        let stranger = Authority::named("another authority").client(ID);
        kept_out(&house, None, "asks for a client certificate");
        kept_out(&house, Some(&stranger), "does not know the authority");
        let late = house.ca.expired_client(ID);
        kept_out(&house, Some(&late), "our client certificate has expired");
        // One that is for servers only says nothing of a client.
        let server = Authority::named("another authority").server(&[]);
        kept_out(&house, Some(&server), "does not know the authority");
        house.run(Some(&web), WHOAMI).ok()
    });
    assert!(who.stdout.contains("user:admin"), "{}", who.stdout);
    let refused = r#"latchkey_connections_refused_total{why="handshake"}"#;
    assert!(house.metric(refused).await >= 4.0);
    // The library's client by the same door.
    let who = house.connected(Some(&web)).await.whoami().await;
    assert_eq!(
        who.expect("answered").token.expect("a token").subject,
        "user:admin"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_asked_for_and_not_required_may_be_missing_but_not_wrong() {
    let house = House::mutual(&["tls.client_auth=request"]);
    tokio::task::block_in_place(|| {
        house.run(None, WHOAMI).ok();
        house.run(Some(&house.client(ID)), WHOAMI).ok();
        let stranger = Authority::named("another authority").client(ID);
        kept_out(&house, Some(&stranger), "does not know the authority");
    });
    // Where none is asked for nobody is kept out, whatever it shows.
    let house = House::mutual(&["tls.client_auth=none"]);
    tokio::task::block_in_place(|| house.run(None, WHOAMI).ok());
}

#[test]
fn a_command_says_why_it_does_not_believe_a_server() {
    let house = House::open(&[]);
    let url = house.url();
    let check = |line: &str, code: i32, expected: &str| {
        let ran = house.run(None, line);
        assert_eq!(ran.code, code, "{line}: {}{}", ran.stdout, ran.stderr);
        assert!(ran.stderr.contains(expected), "{line}: {}", ran.stderr);
    };
    check("health", 0, "");
    check(&format!("health --addr {}", house.server.address), 0, "");
    let other = Authority::named("another authority");
    let file = house.files.put("other.pem", &other.pem);
    let other = format!("health --ca-file {}", file.display());
    check(&other, 3, "not signed by an authority");
    check(
        &format!("health --addr http://{}", house.server.address),
        2,
        "plain text",
    );
    let elsewhere = House::open(&[]);
    let pair = elsewhere.ca.elsewhere(&["elsewhere.test"]);
    let [cert, key] = elsewhere.files.pair("elsewhere", &pair);
    let dir = crate::program::fresh();
    let [cert, key] = [
        format!("tls.cert_file={cert}"),
        format!("tls.key_file={key}"),
    ];
    let other = Server::start_with(dir.path(), &["--set", &cert, "--set", &key]);
    let other = other.expect("it starts");
    let line = format!("health --addr https://{}", other.address);
    let ran = elsewhere.run(None, &line);
    assert_eq!(ran.code, 3, "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("for another name"), "{}", ran.stderr);
    let named = |name: &str| elsewhere.run(None, &format!("{line} --server-name {name}"));
    named("elsewhere.test").ok();
    let ran = named("localhost");
    assert_eq!(ran.code, 3, "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("for another name"), "{}", ran.stderr);
    check("health --server-name *.test", 2, "not a DNS name");
    check("health --ca-file /nowhere", 2, "/nowhere");
    check("health --cert-file /nowhere", 2, "--cert-key-file");
    let plain = Server::start(crate::program::fresh().path());
    check(
        &format!("health --addr https://{}", plain.address),
        3,
        "no TLS is spoken there",
    );
    // Without certificates, plain text against TLS.
    let mut command = crate::program::latchkey();
    command.args([
        "health",
        "--addr",
        &format!("http://{}", house.server.address),
    ]);
    let ran = crate::program::run(command, "");
    assert_eq!(ran.code, 3, "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("https://"), "{}", ran.stderr);
    let mut command = crate::program::latchkey();
    command.args(["health", "--addr", &url]);
    let ran = crate::program::run(command, "");
    assert_eq!(ran.code, 2, "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("--ca-file"), "{}", ran.stderr);
}

#[test]
fn an_expired_server_certificate_is_told_on_both_sides() {
    let (ca, files, dir) = (
        Authority::new(),
        super::kit::Files::new(),
        crate::program::fresh(),
    );
    let set = super::kit::own(&files, &ca, &ca.expired_server());
    let arguments: Vec<&str> = set.iter().flat_map(|one| ["--set", one]).collect();
    let server = Server::start_with(dir.path(), &arguments).expect("it starts all the same");
    let mut command = crate::program::latchkey();
    command.args(["health", "--addr", &format!("https://{}", server.address)]);
    command.arg("--ca-file").arg(files.folder().join("ca.pem"));
    let ran = crate::program::run(command, "");
    assert_eq!(ran.code, 3, "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("has expired"), "{}", ran.stderr);
    let said = server.kill();
    assert!(said.contains("the TLS certificate has expired"), "{said}");
}

/// Reads to the end of a connection, which a reset is, too.
async fn to_its_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut read = Vec::new();
    let _ = stream.read_to_end(&mut read).await;
    read
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_silent_is_cut_and_nonsense_is_turned_away() {
    let house = House::open(&["limits.hello_time_max=300ms"]);
    let refused = |why: &str| format!(r#"latchkey_connections_refused_total{{why="{why}"}}"#);
    let connect = || TcpStream::connect(&house.server.address);
    // Not a word, half a hello, and all of the handshake without a word after it.
    let mut silent = connect().await.expect("a connection");
    assert_eq!(to_its_end(&mut silent).await, b"");
    let mut half = connect().await.expect("a connection");
    half.write_all(b"\x16\x03\x01\x02\x00\x01")
        .await
        .expect("sent");
    assert_eq!(to_its_end(&mut half).await, b"");
    let mut shaken = house.shaken(None, &[&TLS13]).await.expect("let in");
    let mut read = Vec::new();
    let ended = shaken.read_to_end(&mut read).await;
    assert!(ended.is_ok() || ended.is_err_and(|error| error.kind() == ErrorKind::UnexpectedEof));
    assert_eq!(house.metric(&refused("silent")).await, 3.0);
    assert_eq!(house.metric(&refused("handshake")).await, 0.0);
    // A request of another protocol is answered by an alert, and closed.
    for nonsense in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut stream = connect().await.expect("a connection");
        stream.write_all(nonsense).await.expect("sent");
        let told = to_its_end(&mut stream).await;
        assert_eq!(told.first(), Some(&21), "an alert: {told:?}");
    }
    assert_eq!(house.metric(&refused("handshake")).await, 2.0);
    assert_eq!(house.metric(&refused("silent")).await, 3.0);
    assert_eq!(house.metric("latchkey_connections ").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_do_not_finish_hold_up_nobody() {
    let house = House::open(&["limits.hello_time_max=600s"]);
    let mut held = Vec::new();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(&house.server.address)
            .await
            .expect("a connection");
        stream
            .write_all(b"\x16\x03\x01\x02\x00\x01")
            .await
            .expect("sent");
        held.push(stream);
    }
    let client = house.connected(None).await;
    client.whoami().await.expect("answered");
    assert_eq!(house.metric("latchkey_connections ").await, 51.0);
}
