//! Requests that are taken back in the segment that they came in, as only bytes by hand are.
//!
//! Envoy asks about each of them and takes that back too, on the one connection to Latchkey that
//! everybody's questions take. HTTP/2 servers end a connection on which too much is taken back.

use std::sync::Arc;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::client::PATIENCE;
use super::config::{Listener, config};
use super::frames::{ALL_OF_IT, CANCEL, HEADERS, PREFACE, RST_STREAM, SETTINGS, frame};
use super::mesh::{Mesh, SECRET, asking};
use super::process::Envoy;
use crate::program::{Server, fresh};

const GOAWAY: u8 = 7;

/// The fields of a GET by RFC 7541: names and usual values by their numbers in its table.
fn fields(path: &str, more: &[u8]) -> Vec<u8> {
    let literal = |name: u8, value: &str| {
        let length = u8::try_from(value.len()).expect("short");
        [&[name, length], value.as_bytes()].concat()
    };
    let (get, http) = (0x82, 0x86);
    let (path, host) = (literal(0x04, path), literal(0x01, "api.example.com"));
    [&[get, http], &path[..], &host, more].concat()
}

/// So many requests from a stream on, each taken back at once.
fn taken_back(count: u32, from: u32, fields: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for stream in (from..).step_by(2).take(count as usize) {
        bytes.extend(frame(HEADERS, ALL_OF_IT, stream, fields));
        bytes.extend(frame(RST_STREAM, 0, stream, &CANCEL));
    }
    bytes
}

/// A connection that has begun.
async fn begun(port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port))
        .await
        .expect("connected");
    let begin = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    stream.write_all(&begin).await.expect("sent");
    stream
}

/// Waits until a stream is answered.
async fn answer(stream: &mut TcpStream, id: u32) {
    loop {
        let mut head = [0; 9];
        let read = timeout(PATIENCE, stream.read_exact(&mut head)).await;
        read.expect("in time").expect("it goes on");
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await.expect("a frame");
        let of = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        assert_ne!(head[3], GOAWAY, "{payload:?}");
        if (head[3], of) == (HEADERS, id) {
            return;
        }
    }
}

/// A question among many that are taken back, each time on a new connection to Envoy, is answered.
async fn check(port: u16, taken: u32) {
    for _ in 0..3 {
        let mut stream = begun(port).await;
        // From the first answer on Envoy is connected to Latchkey.
        let ask = |id| frame(HEADERS, ALL_OF_IT, id, &fields(SECRET, b""));
        stream.write_all(&ask(1)).await.expect("sent");
        answer(&mut stream, 1).await;
        let last = 3 + 2 * taken;
        let bytes = [taken_back(taken, 3, &fields(SECRET, b"")), ask(last)].concat();
        stream.write_all(&bytes).await.expect("sent");
        answer(&mut stream, last).await;
    }
}

fn fails_open(name: &'static str, port: u16) -> Listener {
    let mut open = asking(name, port);
    open.failure_mode_allow = true;
    open
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_client_ends_the_connection_that_everybodys_questions_take() {
    let mesh = Mesh::start(&[], |port| vec![fails_open("open", port)]).await;
    // Beyond 250 Envoy ends the client's connection.
    check(mesh.envoy.port("open"), 200).await;
    assert_eq!(mesh.reached(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envoy_that_reads_few_requests_at_a_time_takes_few_back() {
    let tight = ["limits.pending_resets_max=20"];
    let mesh = Mesh::start(&tight, |port| vec![fails_open("unused", port)]).await;
    let port = super::mesh::port(&mesh.latchkey);
    let mut config = config(&[fails_open("open", port)], mesh.upstream.port);
    let layer = json!({"http.max_requests_per_io_cycle": 1});
    config["layered_runtime"] = json!({"layers": [{"name": "few", "static_layer": layer}]});
    let envoy = Envoy::start(&config).await;
    check(envoy.port("open"), 200).await;
    assert_eq!(mesh.reached(), Vec::<String>::new());
}

/// What one connection may make a server hold: headers of 64 kB are some 200 in memory, and as many
/// requests may be under way as may be taken back.
const KIB_EACH_MAX: u64 = 64 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_taken_back_costs_little_memory() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let (before, port) = (server.peak_kib(), super::mesh::port(&server));
    // A byte each, by the number of a usual header: some 100 in memory.
    let many = fields("/a", &[0x90; 1_000]);
    let bytes = Arc::new(taken_back(1_500, 1, &many));
    let connections = 8;
    let mut ends = JoinSet::new();
    for _ in 0..connections {
        let bytes = Arc::clone(&bytes);
        ends.spawn(async move {
            let mut stream = begun(port).await;
            // It may be ended in the midst of it, which is its end too.
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
            let read = timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await;
            let _ = read.expect("it ends");
        });
    }
    ends.join_all().await;
    let held = server.peak_kib() - before;
    assert!(held < connections * KIB_EACH_MAX, "{held} KiB");
}
