//! Requests that are taken back as soon as they are sent, many at once.
//!
//! Envoy takes back what it has asked about them. A server that ends the connection over it, as
//! CVE-2023-44487 has taught servers, ends the questions of everybody else on it, too: errors to
//! Envoy, with which requests pass where the operator fails open.

use tokio::io::AsyncWriteExt as _;

use super::client::get;
use super::frames::{ALL_OF_IT, CANCEL, HEADERS, PREFACE, RST_STREAM, SETTINGS, frame};
use super::mesh::{Mesh, SECRET, asking};

/// Less than what Envoy itself takes for an attack.
const AT_ONCE: u32 = 100;
const TIMES: usize = 10;

/// An entry of HPACK's table with a value of our own.
fn named(entry: u8, value: &str) -> Vec<u8> {
    let length = u8::try_from(value.len()).expect("short");
    [&[entry, length], value.as_bytes()].concat()
}

/// So many requests, each of them taken back, in one piece.
fn taken_back() -> Vec<u8> {
    // `:method: GET`, `:scheme: http`, `:path`, `:authority`.
    let headers = [&[0x82, 0x86][..], &named(0x04, SECRET), &named(0x01, "h")].concat();
    let streams = (0..AT_ONCE).map(|at| 2 * at + 1);
    let of = |stream| {
        let request = frame(HEADERS, ALL_OF_IT, stream, &headers);
        [request, frame(RST_STREAM, 0, stream, &CANCEL)].concat()
    };
    streams.flat_map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_requests_back_ends_nobody_elses_embedded() {
    let mesh = Mesh::start(&[], |port| vec![asking("front", port)]).await;
    let port = mesh.envoy.port("front");
    let denied = async || assert_eq!(get(SECRET).send(port).await.status, 401);
    denied().await;
    for _ in 0..TIMES {
        let mut stream = get(SECRET).connect(port).await;
        let begun = [PREFACE.to_vec(), frame(SETTINGS, 0, 0, b""), taken_back()].concat();
        stream.write_all(&begun).await.expect("sent");
        // What Envoy has asked meanwhile goes before this on the same connection.
        denied().await;
    }
    let stats = mesh
        .envoy
        .ask("/stats?filter=asked-by-front.upstream_cx_total$")
        .await;
    assert_eq!(stats.trim(), "cluster.asked-by-front.upstream_cx_total: 1");
}
