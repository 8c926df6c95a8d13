//! Servers that ask each other over mTLS, and clients from package registries.
//!
//! By the program as it is run; certificates are made while the test runs.

use std::process::Command;

use super::kit::{Authority, Files, House, Pair, admin_page, own};
use crate::leaks::{metrics, value};
use crate::postgres::database;
use crate::program::{Server, latchkey, run, tool};
use crate::replicas::bootstrap;

/// A number of a server's metrics; none if it is not there yet.
async fn number(ca: &Authority, server: &Server, name: &str) -> Option<f64> {
    let page = admin_page(&ca.pem, &server.admin_address, None, "/metrics").await;
    let page = page.expect("answered");
    let value = page.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_canary_and_the_drill_ask_every_server_over_mtls_postgres() {
    let database = database().await;
    let token = tokio::task::block_in_place(|| bootstrap(&database));
    let (ca, files) = (Authority::new(), Files::new());
    let mut set = own(&files, &ca, &ca.server(&[]));
    let authorities = files.folder().join("ca.pem");
    set.push(format!("tls.client_ca_file={}", authorities.display()));
    set.extend(["check.open=false", "lease.length=60s", "canary.interval=1s"].map(str::to_owned));
    let arguments: Vec<&str> = set.iter().flat_map(|one| ["--set", one]).collect();
    let servers = tokio::task::block_in_place(|| {
        ["a", "b"].map(|name| {
            let server = Server::replica(&database.url, name, &arguments);
            server.unwrap_or_else(|said| panic!("{name}: {said}"))
        })
    });
    // Both are measured by the older one.
    for name in ["a", "b"] {
        let denied = format!("latchkey_canary_denied_seconds_count{{replica=\"{name}\"}}");
        while number(&ca, &servers[0], &denied).await.unwrap_or_default() < 1.0 {
            tokio::task::yield_now().await;
        }
    }
    let violations = number(&ca, &servers[0], "latchkey_canary_violations_total").await;
    assert_eq!(violations, Some(0.0));
    let [cert, key] = files.pair("operator", &ca.client("spiffe://acme/operator"));
    let drilled = |more: &[&str]| {
        let mut command = latchkey();
        command
            .args(["drill", "--output", "json"])
            .args(more)
            .env("LATCHKEY_ADDR", format!("https://{}", servers[1].address))
            .env("LATCHKEY_TOKEN", &token)
            .env("LATCHKEY_CA_FILE", &authorities)
            .env("LATCHKEY_CERT_FILE", &cert)
            .env("LATCHKEY_CERT_KEY_FILE", &key);
        tokio::task::block_in_place(|| run(command, ""))
    };
    let told = drilled(&[]).json();
    let replicas = told["replicas"].as_array().expect("replicas");
    for one in replicas {
        let address = one["address"].as_str().expect("an address");
        assert!(address.starts_with("https://"), "{one}");
    }
    for server in &servers {
        let url = format!("https://{}", server.address);
        assert!(replicas.iter().any(|one| one["address"] == *url), "{told}");
    }
    // By addresses that are given without saying what is spoken there.
    let given = servers.each_ref().map(|server| server.address.as_str());
    drilled(&["--replica", given[0], "--replica", given[1]]).json();
}

/// What all replicas are called, as by a Service.
const SHARED: &str = "latchkey.tokens.svc";

/// A replica with this certificate, which wants a name of the others'. `ca.pem` of the files says
/// whom it believes; its metrics are in plain text.
pub(crate) fn named(
    url: &str,
    files: &Files,
    (called, pair): (&str, &Pair),
    name: &str,
    more: &[&str],
) -> Server {
    let [cert, key] = files.pair(called, pair);
    let authorities = files.folder().join("ca.pem");
    let set = [
        format!("tls.cert_file={cert}"),
        format!("tls.key_file={key}"),
        format!("replica.ca_file={}", authorities.display()),
        format!("replica.tls_name={name}"),
        "admin.plain_text=true".to_owned(),
        "check.open=false".to_owned(),
        "lease.length=60s".to_owned(),
    ];
    let set = set.iter().map(String::as_str).chain(more.iter().copied());
    let arguments: Vec<&str> = set.flat_map(|one| ["--set", one]).collect();
    let started = tokio::task::block_in_place(|| Server::replica(url, called, &arguments));
    started.unwrap_or_else(|said| panic!("{called}: {said}"))
}

/// Waits until the canary of a server has seen another one deny.
pub(crate) fn until_drilled(server: &Server, other: &str) {
    let denied = format!("latchkey_canary_denied_seconds_count{{replica=\"{other}\"}}");
    let page = || tokio::task::block_in_place(|| metrics(&server.admin_address));
    while value(&page(), &denied).is_none() {
        std::thread::yield_now();
    }
    assert_eq!(
        value(&page(), "latchkey_canary_violations_total"),
        Some(0.0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_canary_knows_replicas_by_a_name_that_all_have_postgres() {
    for is_mutual in [false, true] {
        let database = database().await;
        let token = tokio::task::block_in_place(|| bootstrap(&database));
        let (ca, files) = (Authority::new(), Files::new());
        let authorities = files.put("ca.pem", &ca.pem);
        let pairs = [0, 1].map(|_| ca.elsewhere(&[SHARED]));
        let mutual = [
            format!("tls.client_ca_file={}", authorities.display()),
            // Who asks shows what it serves with.
            format!("access.check={SHARED}"),
        ];
        let mut more = vec!["canary.interval=1s"];
        if is_mutual {
            more.extend(mutual.iter().map(String::as_str));
        }
        let start = |called, pair| named(&database.url, &files, (called, pair), SHARED, &more);
        let (a, _b) = (start("a", &pairs[0]), start("b", &pairs[1]));
        until_drilled(&a, "a");
        until_drilled(&a, "b");
        if is_mutual {
            continue;
        }
        // An operator by the same name.
        let mut command = latchkey();
        command
            .args(["drill", "--server-name", SHARED])
            .env("LATCHKEY_ADDR", &a.address)
            .env("LATCHKEY_TOKEN", &token)
            .env("LATCHKEY_CA_FILE", &authorities);
        tokio::task::block_in_place(|| run(command, "")).ok();
    }
}

/// By its address it would be let in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_certificate_lacks_the_name_is_asked_nothing_postgres() {
    let database = database().await;
    tokio::task::block_in_place(|| bootstrap(&database));
    let (ca, files) = (Authority::new(), Files::new());
    files.put("ca.pem", &ca.pem);
    let pairs = [ca.elsewhere(&[SHARED]), ca.server(&["other.tokens.svc"])];
    let start = |called, pair, more| named(&database.url, &files, (called, pair), SHARED, more);
    // The oldest asks.
    let _a = start("a", &pairs[0], &["canary.interval=1s"]);
    let b = start("b", &pairs[1], &[]);
    let page = || tokio::task::block_in_place(|| metrics(&b.admin_address));
    let refused = "latchkey_connections_refused_total{why=\"handshake\"}";
    // It tries again and again.
    while value(&page(), refused) < Some(3.0) {
        std::thread::yield_now();
    }
    let asked = |line: &str| {
        line.starts_with("latchkey_checks_total{") && line.contains("kind=\"resource\"")
    };
    let page = page();
    let mut counts = page.lines().filter(|line| asked(line)).peekable();
    assert!(counts.peek().is_some(), "{page}");
    assert!(counts.all(|line| line.ends_with(" 0")), "{page}");
}

/// Python's grpcio, as a client that shows this certificate.
fn python(house: &House, shown: &Pair) -> crate::program::Ran {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/clients.py");
    let [cert, key] = house.files.pair("python", shown);
    let (_, port) = house.server.address.rsplit_once(':').expect("a port");
    let mut command = Command::new(tool("python3"));
    command.arg(script).arg(format!("localhost:{port}"));
    command
        .arg(house.files.folder().join("ca.pem"))
        .args([key, cert]);
    run(command, house.admin_token())
}

#[test]
fn python_uses_the_api_over_mtls_embedded() {
    let house = House::mutual(&["access.manage=spiffe://acme/python"]);
    let ran = python(&house, &house.client("spiffe://acme/python")).ok();
    assert_eq!(
        ran.stdout.trim(),
        "allowed, denied, streamed, revoked, healthy",
        "{}",
        ran.stderr
    );
    let refused = python(&house, &house.client("spiffe://acme/other"));
    assert_ne!(refused.code, 0);
    assert!(
        refused.stderr.contains("PERMISSION_DENIED"),
        "{}",
        refused.stderr
    );
}
