//! Floods of frames that cost their sender nothing, and answers that nobody reads.
//!
//! CVE-2019-9512 and 9515 (PING and SETTINGS, their answers unread), 9517 (answers that pile up)
//! and 9518 (empty frames). Who does not read is no longer read from, and after the time of a ping
//! it is cut.

use latchkey::proto::v1::CheckRequest;
use prost::Message as _;

use super::attacker::{
    CHECK, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, PING, Told, WINDOW_UPDATE, fields,
    open, stream,
};
use super::scene::{OF_PEER, STREAMS, Scene, WINDOW_KIB};
use crate::envoy::frames::{HEADERS, SETTINGS, frame};

/// Floods of so many bytes are not taken from anybody who does not read.
const BYTES_MAX: usize = 256 << 20;
/// Sent at once.
const BURST: usize = 1_000;

const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const STREAM_CHECK: &str = "/latchkey.v1.CheckService/StreamCheck";
/// Questions on each stream, in bytes: the first of all of them are within what a connection begins
/// with, and all within `WINDOW_KIB`.
const FIRST_BYTES: usize = 2_000;
const MORE_BYTES: usize = 14_000;
/// Checks of the good client until the rest is asked.
const PACE: u64 = 5;
/// What such connections may have sent that is not read yet.
const UNREAD_KIB: u64 = OF_PEER as u64 * WINDOW_KIB;
/// Of these a peer has 32 in all, and asks for as many on each connection.
const LASTING: &str = "limits.lasting_streams_max=256";
/// The answers to all questions of so many streams, and what they are put together in.
const CHECKED_KIB: u64 = 32 * 256;
/// The same of its share of `REFLECTIONS_MAX`, where hyper keeps no more for each.
const REFLECTED_KIB: u64 = 4 * 400;

/// A whole Check.
fn asked(id: u32) -> Vec<u8> {
    let asked = CheckRequest {
        token: "lku_garbage".to_owned(),
        ..CheckRequest::default()
    };
    let data = frame(DATA, END_STREAM, id, &message(&asked.encode_to_vec()));
    [opened(CHECK, id), data].concat()
}

/// Floods from clients that read nothing, all at the same time; each is cut.
async fn check_unread(name: &str, one: &[u8]) {
    let scene = Scene::set().await;
    let burst = one.repeat(BURST);
    let attack = async |scene: &Scene| {
        let floods = (0..OF_PEER).map(async |_| {
            let mut attacker = scene.deaf().await;
            attacker.flood(&burst, BYTES_MAX / burst.len()).await;
        });
        futures_util::future::join_all(floods).await;
    };
    scene.attack(name, OF_PEER, attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_pings_and_reads_nothing_is_cut() {
    check_unread("PING flood, unread", &frame(PING, 0, 0, &[7; 8])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sends_settings_and_reads_nothing_is_cut() {
    // SETTINGS_MAX_CONCURRENT_STREAMS.
    let settings = frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]);
    check_unread("SETTINGS flood, unread", &settings).await;
}

/// A stream without an end.
fn opened(path: &str, id: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, id, &fields(path, &[]))
}

/// A message with its length before it.
fn message(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_be_bytes()[3..], bytes].concat()
}

/// `file_containing_symbol`, by whose answer the whole API is described.
fn about_the_api() -> Vec<u8> {
    let symbol = "latchkey.v1.TokenService";
    message(&[&[0x22, symbol.len() as u8], symbol.as_bytes()].concat())
}

/// A question again and again, on as many streams and connections as a peer may have, and its
/// answers unread; each connection is cut.
async fn check_unread_answers(name: &str, path: &str, question: &[u8], unsent_kib: u64) {
    let scene = Scene::set_with(&[LASTING]).await;
    let asked = |id, bytes| frame(DATA, 0, id, &question.repeat(bytes / question.len()));
    let begun = |id| [opened(path, id), asked(id, FIRST_BYTES)].concat();
    let all = || (0..STREAMS).map(stream);
    let first: Vec<u8> = all().flat_map(begun).collect();
    let more: Vec<u8> = all().flat_map(|id| asked(id, MORE_BYTES)).collect();
    let burst = frame(PING, 0, 0, &[7; 8]).repeat(BURST);
    let attack = async |scene: &Scene| {
        let floods = (0..OF_PEER).map(async |_| {
            let mut attacker = scene.deaf().await;
            // It may be sent as much as can be said, on each stream and in all.
            let (settings, all) = (
                [0, 4, 0x7F, 0xFF, 0xFF, 0xFF],
                0x7FFF_0000_u32.to_be_bytes(),
            );
            attacker.send(&frame(SETTINGS, 0, 0, &settings)).await;
            attacker.send(&frame(WINDOW_UPDATE, 0, 0, &all)).await;
            attacker.send(&first).await;
            scene.served(PACE).await;
            attacker.send(&more).await;
            attacker.flood(&burst, BYTES_MAX / burst.len()).await;
        });
        futures_util::future::join_all(floods).await;
    };
    scene
        .attack_with(name, UNREAD_KIB + unsent_kib, attack)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_for_much_and_reads_nothing_is_cut() {
    let name = "much asked for, answers unread";
    check_unread_answers(name, REFLECTION, &about_the_api(), REFLECTED_KIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_checks_on_streams_and_reads_nothing_is_cut() {
    let name = "StreamCheck, answers unread";
    // The shortest: its answer says that there is no Check in it.
    check_unread_answers(name, STREAM_CHECK, &message(&[]), CHECKED_KIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_holds_questions_about_the_api_open_keeps_no_other_from_it() {
    let scene = Scene::set().await;
    let asks = |flags, n| {
        let id = stream(n);
        [
            opened(REFLECTION, id),
            frame(DATA, flags, id, &about_the_api()),
        ]
        .concat()
    };
    let held: Vec<u8> = (0..STREAMS).flat_map(|n| asks(0, n)).collect();
    let attack = async |scene: &Scene| {
        let mut attackers = Vec::new();
        for _ in 0..OF_PEER {
            let mut attacker = scene.attacker().await;
            assert!(attacker.send(&held).await, "taken");
            let each = |told: &Told| told.answers == STREAMS;
            attacker.until("each let in or turned away", each).await;
            attackers.push(attacker);
        }
        let mut other = scene.stranger_from([127, 0, 0, 3]).await;
        other.begin(&[]).await;
        assert!(other.send(&asks(END_STREAM, 0)).await, "taken");
        other.until("told", |told| told.data_bytes > 0).await;
    };
    scene.attack("reflection, held open", OF_PEER, attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_no_bodies_holds_no_more_answers_than_streams() {
    let scene = Scene::set().await;
    let attack = async |scene: &Scene| {
        let mut attacker = scene.stranger().await;
        // SETTINGS_INITIAL_WINDOW_SIZE.
        attacker.begin(&[0, 4, 0, 0, 0, 0]).await;
        for n in 0..STREAMS {
            assert!(attacker.send(&asked(stream(n))).await, "taken");
        }
        let each = |told: &Told| told.answers == STREAMS;
        let told = attacker.until("each answered", each).await;
        assert_eq!((told.data_bytes, told.goaway), (0, None));
        let more: Vec<u8> = (STREAMS..2 * STREAMS)
            .flat_map(|n| asked(stream(n)))
            .collect();
        attacker.send(&more).await;
        let told = attacker.ended().await;
        let expected = (ENHANCE_YOUR_CALM, "too_many_internal_resets");
        assert_eq!((told.goaway(), told.answers), (expected, STREAMS));
    };
    scene.attack("answers without a window", 1, attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sends_empty_data_is_ended() {
    let scene = Scene::set().await;
    let attack = async |scene: &Scene| {
        let mut attacker = scene.attacker().await;
        assert!(attacker.send(&open(1)).await, "taken");
        let burst = frame(DATA, 0, 1, &[]).repeat(BURST);
        attacker.flood(&burst, BYTES_MAX / burst.len()).await;
        let expected = (ENHANCE_YOUR_CALM, "too_many_data_frames");
        assert_eq!(attacker.ended().await.goaway(), expected);
    };
    scene.attack("empty DATA flood", 1, attack).await;
}
