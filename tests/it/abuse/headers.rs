//! Headers without an end, and headers that are far more than their bytes.
//!
//! CVE-2024-27316 (CONTINUATION flood), and bombs by way of HPACK's tables, whose fields are a byte
//! each on the way and many in memory.

use super::attacker::{
    CHECK, CONTINUATION, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, PROTOCOL_ERROR, field, fields,
    stream,
};
use super::scene::{HEADER_BYTES, Scene};
use crate::envoy::frames::{HEADERS, frame};

/// Frames of one flood at the most.
const MANY: usize = 100_000;
/// The most that a frame may have.
const FRAME_BYTES: usize = 16_384;

const TOO_MANY: (u32, &str) = (ENHANCE_YOUR_CALM, "too_many_continuations");
const TOO_LARGE: (u32, &str) = (ENHANCE_YOUR_CALM, "header_list_way_too_large");

/// Sends the beginning once and the rest again and again, which ends as expected.
async fn check(name: &str, first: &[u8], again: &[u8], expected: (u32, &str)) {
    let scene = Scene::set().await;
    let attack = async |scene: &Scene| {
        let mut attacker = scene.attacker().await;
        if attacker.send(first).await {
            attacker.flood(again, MANY).await;
        }
        assert_eq!(attacker.ended().await.goaway(), expected, "{name}");
    };
    scene.attack(name, 1, attack).await;
}

/// Headers that go on.
fn begun(block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_STREAM, 1, block)
}

fn whole(id: u32, more: &[u8]) -> Vec<u8> {
    let flags = END_HEADERS | END_STREAM;
    frame(HEADERS, flags, id, &fields(CHECK, more))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_never_end_end_their_connection() {
    let first = begun(&fields(CHECK, &[]));
    let small = frame(CONTINUATION, 0, 1, &field(0, "x", b"1"));
    check("CONTINUATION flood", &first, &small, TOO_MANY).await;
    let empty = frame(CONTINUATION, 0, 1, &[]);
    check("CONTINUATION flood, empty", &first, &empty, TOO_MANY).await;
    // A value of 100 MB that is announced and begun.
    let value = [
        &[0, 1, b'x', 0x7F, 0x80, 0xC2, 0xD7, 0x2F][..],
        &[b'x'; 100],
    ]
    .concat();
    let first = begun(&fields(CHECK, &value));
    let more = frame(CONTINUATION, 0, 1, &[b'x'; FRAME_BYTES]);
    check("one huge header", &first, &more, TOO_MANY).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn header_bombs_end_their_connection() {
    let more = FRAME_BYTES - 200;
    // `accept-encoding: gzip, deflate`, 60 bytes by HTTP/2's count.
    let small = whole(1, &vec![0x90; more]);
    check("many small headers", &small, &small, TOO_LARGE).await;
    // A field of 4,000 bytes that is remembered, and named by a byte each.
    let remembered = field(0x40, "x-bomb", &[b'x'; 4_000]);
    let bomb = [&remembered[..], &vec![0xBE; more - 4_100]].concat();
    let bomb = whole(1, &bomb);
    check("HPACK bomb", &bomb, &bomb, TOO_LARGE).await;
    // A table of 256 MiB.
    let table = [vec![0x3F, 0xE1, 0xFF, 0xFF, 0x7F], fields(CHECK, &[])].concat();
    let table = frame(HEADERS, END_HEADERS, 1, &table);
    check("a huge HPACK table", &table, &table, (PROTOCOL_ERROR, "")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_somewhat_too_long_are_refused_one_by_one() {
    const REQUESTS: u32 = 16;
    let scene = Scene::set().await;
    let attack = async |scene: &Scene| {
        let mut attacker = scene.attacker().await;
        let long = field(0, "x-long", &[b'x'; HEADER_BYTES + 1_000]);
        for n in 0..REQUESTS {
            assert!(attacker.send(&whole(stream(n), &long)).await, "taken");
        }
        let each = |told: &super::attacker::Told| told.answers == REQUESTS;
        let told = attacker.until("each refused", each).await;
        assert_eq!(told.goaway, None);
    };
    scene.attack("headers somewhat too long", 1, attack).await;
}
