//! Connections that are silent, slow or too many, and streams that are idle.
//!
//! A drip is paced by the good client: a byte, some of its Checks, the next byte. No byte of it
//! moves a deadline.

use super::attacker::{Attacker, DATA, END_HEADERS, END_STREAM, Told, fields, open, stream};
use super::scene::{CONNECTIONS, HEADER_BYTES, OF_PEER, STREAMS, Scene};
use crate::envoy::frames::{HEADERS, PREFACE, frame};

/// Checks of the good client between two bytes.
const PACE: u64 = 5;

/// A byte after the other, as long as the server takes them and has not done what it should.
async fn drip(scene: &Scene, attacker: &mut Attacker, bytes: &[u8]) {
    for byte in bytes.chunks(1) {
        if attacker.is_ended() || !attacker.send(byte).await {
            return;
        }
        scene.served(PACE).await;
    }
}

/// As many connections as one peer may have, each of which says this and no more.
async fn check_silent(scene: &Scene, name: &str, said: &[u8]) {
    let attack = async |scene: &Scene| {
        let before = scene.refused("silent").await;
        let mut attackers = Vec::new();
        for _ in 0..OF_PEER {
            let mut attacker = scene.stranger().await;
            assert!(attacker.send(said).await, "taken");
            attackers.push(attacker);
        }
        for attacker in attackers {
            assert_eq!(attacker.ended().await.goaway, None);
        }
        let refused = scene.refused("silent").await - before;
        assert_eq!(refused, OF_PEER as f64);
    };
    scene.attack(name, OF_PEER, attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_are_closed() {
    let scene = Scene::set().await;
    check_silent(&scene, "silent connections", b"").await;
    check_silent(&scene, "half a preface", &PREFACE[..20]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_handshakes_are_closed() {
    let scene = Scene::secured().await;
    check_silent(&scene, "TLS: silent connections", b"").await;
    // A record of a ClientHello, of which there are 4 of 508 bytes.
    let half = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC];
    check_silent(&scene, "TLS: half-open handshakes", &half).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preface_byte_by_byte_is_cut_at_its_deadline() {
    let scene = Scene::set().await;
    let attack = async |scene: &Scene| {
        let before = scene.refused("silent").await;
        let mut attacker = scene.stranger().await;
        // All but its last byte.
        drip(scene, &mut attacker, &PREFACE[..PREFACE.len() - 1]).await;
        assert_eq!(attacker.ended().await.goaway, None);
        assert_eq!(scene.refused("silent").await - before, 1.0);
    };
    scene.attack("slow drip: the preface", 1, attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_byte_by_byte_are_cut_by_the_ping_that_they_cannot_answer() {
    let scene = Scene::set().await;
    let attack = async |scene: &Scene| {
        let mut attacker = scene.attacker().await;
        let bytes = frame(HEADERS, 0, 1, &[0; HEADER_BYTES]);
        drip(scene, &mut attacker, &bytes).await;
        assert_eq!(attacker.ended().await.goaway(), (0, ""));
    };
    scene.attack("slow drip: headers", 1, attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_byte_by_byte_is_answered_at_its_deadline() {
    let scene = Scene::set().await;
    let attack = async |scene: &Scene| {
        let mut attacker = scene.attacker().await;
        assert!(attacker.send(&open(1)).await, "taken");
        let message = [&[0, 0, 0, 0xFF, 0][..], &[0; 1_000]].concat();
        for byte in message.chunks(1) {
            if attacker.is_answered() {
                break;
            }
            assert!(attacker.send(&frame(DATA, 0, 1, byte)).await, "taken");
            scene.served(PACE).await;
        }
        let answered = |told: &Told| told.answers == 1;
        let told = attacker.until("answered", answered).await;
        assert_eq!(told.goaway, None);
    };
    scene.attack("slow drip: a body", 1, attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beyond_the_limits_are_closed_at_once() {
    let scene = Scene::set().await;
    let attack = async |scene: &Scene| {
        let refused = async || [scene.refused("peer").await, scene.refused("total").await];
        let before = refused().await;
        let mut held = Vec::new();
        for _ in 0..OF_PEER {
            held.push(scene.attacker().await);
        }
        // The good client has one, too.
        let left = CONNECTIONS - 1 - OF_PEER;
        assert_eq!(scene.stranger().await.ended().await.goaway, None);
        for _ in 0..left {
            let mut attacker = scene.stranger_from([127, 0, 0, 3]).await;
            attacker.begin(&[]).await;
            held.push(attacker);
        }
        assert_eq!(
            scene
                .stranger_from([127, 0, 0, 4])
                .await
                .ended()
                .await
                .goaway,
            None
        );
        let after = refused().await;
        assert_eq!([after[0] - before[0], after[1] - before[1]], [1.0, 1.0]);
        drop(held);
    };
    scene
        .attack("connections beyond the limits", CONNECTIONS, attack)
        .await;
    scene.welcomes().await;
}

/// A stream that anybody may open, with its whole question; what it is told at once is its health.
fn watch(id: u32) -> Vec<u8> {
    let path = "/grpc.health.v1.Health/Watch";
    let headers = frame(HEADERS, END_HEADERS, id, &fields(path, &[]));
    [headers, frame(DATA, END_STREAM, id, &[0; 5])].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_peer_has_its_share_of_idle_streams_and_no_more() {
    /// What a peer has of it, and what each is told: 1, in a message of its own.
    const SHARE: usize = 256 / 8;
    const HEALTHY: usize = 5 + 2;
    let scene = Scene::set_with(&["limits.lasting_streams_max=256"]).await;
    let opened: Vec<u8> = (0..STREAMS).flat_map(|n| watch(stream(n))).collect();
    let shed = async |scene: &Scene| scene.metric("latchkey_requests_shed_total").await;
    let attack = async |scene: &Scene| {
        let before = shed(scene).await;
        let (mut attackers, mut told_bytes) = (Vec::new(), 0);
        for _ in 0..OF_PEER {
            let mut attacker = scene.attacker().await;
            assert!(attacker.send(&opened).await, "taken");
            attackers.push(attacker);
        }
        for attacker in &mut attackers {
            let all = |told: &Told| told.answers == STREAMS;
            told_bytes += attacker.until("each answered", all).await.data_bytes;
        }
        let turned_away = OF_PEER * STREAMS as usize - SHARE;
        assert_eq!(shed(scene).await - before, turned_away as f64);
        assert!(told_bytes <= SHARE * HEALTHY, "{told_bytes}");
        // Another has its own.
        let mut other = scene.stranger_from([127, 0, 0, 3]).await;
        other.begin(&[]).await;
        assert!(other.send(&watch(1)).await, "taken");
        other.until("told", |told| told.data_bytes == HEALTHY).await;
    };
    scene.attack("idle streams", OF_PEER, attack).await;
}

/// A stream of changes whose question does not come; nobody says who asks.
fn half_asked(id: u32) -> Vec<u8> {
    let path = "/latchkey.v1.AuditService/WatchChanges";
    frame(HEADERS, END_HEADERS, id, &fields(path, &[]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_who_is_not_known_keep_nobody_from_streams() {
    /// Half asked: more than the share of streams that last, fewer than that of what waits.
    const HALVES: u32 = 6;
    let scene = Scene::set_with(&["limits.lasting_streams_max=32"]).await;
    let halves: Vec<u8> = (0..HALVES).flat_map(|n| half_asked(stream(n))).collect();
    // It has no Check in it, and is told so.
    let path = "/latchkey.v1.CheckService/StreamCheck";
    let headers = frame(HEADERS, END_HEADERS, 1, &fields(path, &[]));
    let check = [headers, frame(DATA, 0, 1, &[0; 5])].concat();
    let attack = async |scene: &Scene| {
        let mut attacker = scene.attacker().await;
        assert!(attacker.send(&halves).await, "taken");
        scene.served(PACE).await;
        let mut neighbour = scene.attacker().await;
        assert!(neighbour.send(&check).await, "taken");
        neighbour.until("told", |told| told.data_bytes > 0).await;
    };
    scene.attack("half-asked streams", 2, attack).await;
}
