//! Floods of frames that cost their sender nothing, and answers that nobody reads.
//!
//! CVE-2019-9512 and 9515 (PING and SETTINGS, their answers unread), 9517 (answers that pile up)
//! and 9518 (empty frames). Who does not read is no longer read from, and after the time of a ping
//! it is cut.

use latchkey::proto::v1::CheckRequest;
use prost::Message as _;

use super::attacker::{
    CHECK, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, PING, Told, fields, open, stream,
};
use super::scene::{OF_PEER, STREAMS, Scene};
use crate::envoy::frames::{HEADERS, SETTINGS, frame};

/// Floods of so many bytes are not taken from anybody who does not read.
const BYTES_MAX: usize = 256 << 20;
/// Sent at once.
const BURST: usize = 1_000;

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
