//! Servers that ask each other over mTLS, and clients from package registries.
//!
//! By the program as it is run; certificates are made while the test runs.

use std::process::Command;

use super::kit::{Authority, Files, House, Pair, admin_page, own};
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
