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
use super::scene::{OF_PEER, STREAMS, Scene};
use crate::envoy::frames::{HEADERS, SETTINGS, frame};

/// Floods of so many bytes are not taken from anybody who does not read.
const BYTES_MAX: usize = 256 << 20;
/// Sent at once.
const BURST: usize = 1_000;

/// Questions on each stream: all of them fit into the window that a connection begins with.
const QUESTIONS: usize = 50;
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
/// What may be ready for a peer before it is sent, `PEER_BYTES_MAX` of the server, and what is on its
/// way there on `REFLECTIONS_MAX` streams.
const UNSENT_KIB: u64 = (8 << 10) + 32 * 256;

/// A whole Check.
fn asked(id: u32) -> Vec<u8> {
    let message = CheckRequest {
        token: "lku_garbage".to_owned(),
        ..CheckRequest::default()
    };
    let message = message.encode_to_vec();
    let head = [&[0][..], &(message.len() as u32).to_be_bytes()].concat();
    let headers = frame(HEADERS, END_HEADERS, id, &fields(CHECK, &[]));
    let data = frame(DATA, END_STREAM, id, &[head, message].concat());
    [headers, data].concat()
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_for_much_and_reads_nothing_is_cut() {
    let scene = Scene::set().await;
    let headers = |id| frame(HEADERS, END_HEADERS, id, &fields(REFLECTION, &[]));
    let opened: Vec<u8> = (0..STREAMS).flat_map(|n| headers(stream(n))).collect();
    // `file_containing_symbol`, by whose answer the whole API is described.
    let symbol = "latchkey.v1.TokenService";
    let question = [&[0x22, symbol.len() as u8], symbol.as_bytes()].concat();
    let question = [&[0, 0, 0, 0, question.len() as u8][..], &question].concat();
    let all = question.repeat(QUESTIONS);
    let questions: Vec<u8> = (0..STREAMS)
        .flat_map(|n| frame(DATA, 0, stream(n), &all))
        .collect();
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
            attacker.send(&opened).await;
            attacker.send(&questions).await;
            attacker.flood(&burst, BYTES_MAX / burst.len()).await;
        });
        futures_util::future::join_all(floods).await;
    };
    let name = "much asked for, answers unread";
    scene.attack_with(name, OF_PEER, UNSENT_KIB, attack).await;
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
