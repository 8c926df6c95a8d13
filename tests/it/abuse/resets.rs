//! Streams that are reset, by the attacker or by our own errors, and streams that never end.
//!
//! CVE-2023-44487 (rapid reset) and CVE-2025-8671 (MadeYouReset): work that is begun and taken back
//! does not count against the streams under way, so resets have limits of their own.

use super::attacker::{
    Attacker, CHECK, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, PROTOCOL_ERROR,
    WINDOW_UPDATE, field, fields, open, stream,
};
use super::scene::{OF_PEER, STREAMS, Scene};
use crate::envoy::frames::{CANCEL, HEADERS, RST_STREAM, frame};

/// Streams of one attack, far beyond what any limit lets be reset.
const MANY: u32 = 2_000;
/// Attacks one after the other: what each leaves behind would add up.
const ROUNDS: usize = 8;

const OUR_RESETS: (u32, &str) = (ENHANCE_YOUR_CALM, "too_many_internal_resets");

/// So many streams, each with what `of` gives for it.
fn streams(count: u32, of: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    (0..count).flat_map(|n| of(stream(n))).collect()
}

/// Sends it on one connection after the other, each of which ends as expected.
async fn check(scene: &Scene, name: &str, bytes: &[u8], expected: (u32, &str)) {
    let attack = async |scene: &Scene| {
        for _ in 0..ROUNDS {
            let mut attacker = scene.attacker().await;
            // It may be ended in the midst of it.
            attacker.send(bytes).await;
            assert_eq!(attacker.ended().await.goaway(), expected, "{name}");
        }
    };
    scene.attack(name, 1, attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_streams_back_is_ended() {
    let scene = Scene::set().await;
    let large = field(0, "x-large", &[b'x'; 4_000]);
    for (name, more) in [("rapid reset", &[][..]), ("rapid reset, large", &large)] {
        let bytes = streams(MANY, |id| {
            let headers = frame(HEADERS, END_HEADERS, id, &fields(CHECK, more));
            [headers, frame(RST_STREAM, 0, id, &CANCEL)].concat()
        });
        check(&scene, name, &bytes, (ENHANCE_YOUR_CALM, "too_many_resets")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_makes_us_reset_streams_is_ended() {
    let scene = Scene::set().await;
    let largest = 0x7FFF_FFFF_u32.to_be_bytes();
    let overflow = |id| [open(id), frame(WINDOW_UPDATE, 0, id, &largest)].concat();
    let announced = |length: &str, data: &[u8], flags| {
        let length = field(0, "content-length", length.as_bytes());
        let (block, data) = (fields(CHECK, &length), data.to_owned());
        move |id| {
            let headers = frame(HEADERS, END_HEADERS, id, &block);
            [headers, frame(DATA, flags, id, &data)].concat()
        }
    };
    let hop = fields(CHECK, &field(0, "connection", b"close"));
    let malformed = |id| frame(HEADERS, END_HEADERS, id, &hop);
    for (name, bytes) in [
        ("window overflows", streams(MANY, overflow)),
        (
            "longer than announced",
            streams(MANY, announced("1", &[0; 9], 0)),
        ),
        (
            "shorter than announced",
            streams(MANY, announced("9", &[0], END_STREAM)),
        ),
        ("malformed headers", streams(MANY, malformed)),
        ("more streams than may be", streams(MANY, open)),
    ] {
        check(&scene, name, &bytes, OUR_RESETS).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_breaks_the_rules_of_a_connection_is_ended_at_the_first_time() {
    let scene = Scene::set().await;
    let whole = |id| frame(HEADERS, END_HEADERS | END_STREAM, id, &fields(CHECK, &[]));
    let nothing = 0_u32.to_be_bytes();
    for (name, bytes) in [
        (
            "zero increment",
            [open(1), frame(WINDOW_UPDATE, 0, 1, &nothing)].concat(),
        ),
        (
            "data after the end",
            [whole(1), frame(DATA, 0, 1, &[0; 9])].concat(),
        ),
        ("data of no stream", frame(DATA, 0, 1, &[0; 9])),
        ("a reset of no stream", frame(RST_STREAM, 0, 1, &CANCEL)),
    ] {
        check(&scene, name, &bytes, (PROTOCOL_ERROR, "")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_never_end_are_answered_in_time() {
    let scene = Scene::set().await;
    let large = field(0, "x-large", &[b'x'; 4_000]);
    // Half a message each, and all of them within the window that a connection begins with.
    let half = [&[0, 0, 0, 0xFF, 0][..], &[0; 1_500]].concat();
    let bytes = streams(STREAMS, |id| {
        let headers = frame(HEADERS, END_HEADERS, id, &fields(CHECK, &large));
        [headers, frame(DATA, 0, id, &half)].concat()
    });
    let attack = async |scene: &Scene| {
        let mut attackers: Vec<Attacker> = Vec::new();
        for _ in 0..OF_PEER {
            let mut attacker = scene.attacker().await;
            assert!(attacker.send(&bytes).await, "taken");
            attackers.push(attacker);
        }
        for mut attacker in attackers {
            let all = |told: &super::attacker::Told| told.answers == STREAMS;
            let told = attacker.until("each answered", all).await;
            assert_eq!((told.goaway, told.data_bytes), (None, 0));
        }
    };
    scene
        .attack("streams that never end", OF_PEER, attack)
        .await;
}
