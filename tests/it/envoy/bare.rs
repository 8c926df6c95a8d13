//! Envoy without Latchkey: that the tests' Envoy and upstream are what other tests take them for.
//!
//! And what a filter does whose server is not there.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::client::{ask, get};
use super::config::{Listener, config};
use super::process::Envoy;
use super::upstream::Upstream;
use crate::watched::free_port;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_filter_everything_reaches_the_upstream_as_it_was_sent() {
    let upstream = Upstream::start().await;
    let mut plain = Listener::open("plain");
    plain.normalises = false;
    let envoy = Envoy::start(&config(&[plain, Listener::open("normal")], upstream.port)).await;
    let port = envoy.port("plain");
    let sent = ask("POST", "/a//b/%2e%2E/c?d=/../e")
        .header("X-Latchkey-Subject", "user:eve")
        .header("x_under", "1")
        .body(b"four");
    let seen = sent.send(port).await.seen();
    assert_eq!(
        (&*seen.method, &*seen.target),
        ("POST", "/a//b/%2e%2E/c?d=/../e")
    );
    assert_eq!(seen.all("x-latchkey-subject"), ["user:eve"]);
    assert_eq!(seen.all("x_under"), ["1"]);
    let port = envoy.port("normal");
    let seen = get("/a//b/%2e%2E/c?d=/../e").send(port).await.seen();
    assert_eq!(seen.target, "/a/c?d=/../e");
    assert_eq!(get("/a%2fb").send(port).await.status, 400);
    assert_eq!(get("/").header("x_under", "1").send(port).await.status, 400);
    assert_eq!(upstream.seen().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_carries_bytes_both_ways() {
    let upstream = Upstream::start().await;
    let envoy = Envoy::start(&config(&[Listener::open("plain")], upstream.port)).await;
    let opening = get("/")
        .header("connection", "upgrade")
        .header("upgrade", "websocket");
    let (answer, mut stream) = opening.open(envoy.port("plain")).await;
    assert_eq!(answer.status, 101, "{answer:?}");
    stream.write_all(b"any bytes").await.expect("sent");
    let mut bytes = [0; 9];
    stream.read_exact(&mut bytes).await.expect("received");
    assert_eq!(&bytes, b"any bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authorisation_server_that_is_not_there_is_a_failure_which_the_mode_judges() {
    let (upstream, port) = (Upstream::start().await, free_port());
    let closed = Listener::asking("closed", port);
    let mut open = Listener::asking("open", port);
    open.failure_mode_allow = true;
    let envoy = Envoy::start(&config(&[closed, open], upstream.port)).await;
    let answer = get("/").send(envoy.port("closed")).await;
    assert_eq!((answer.status, &*answer.body), (403, ""), "{answer:?}");
    assert!(upstream.seen().is_empty());
    assert_eq!(get("/").send(envoy.port("open")).await.status, 200);
    assert_eq!(upstream.seen().len(), 1);
}
