//! A client that means harm: a connection, bytes by hand, and what it was told.
//!
//! It comes from an address of its own, as from another machine. One that listens notes every
//! frame; one that is deaf reads nothing, with a small buffer, so that the server soon has nowhere
//! to put an answer.

use std::collections::BTreeMap;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpSocket;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::envoy::frames::{HEADERS, PREFACE, RST_STREAM, SETTINGS, frame};

/// Until something must have happened on a busy machine.
pub(super) const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

pub(super) const DATA: u8 = 0;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;
pub(super) const END_STREAM: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;

/// Codes of a GOAWAY or a reset (RFC 9113, section 7).
pub(super) const PROTOCOL_ERROR: u32 = 1;
pub(super) const ENHANCE_YOUR_CALM: u32 = 11;

/// The least that the kernel gives.
const SMALL_BUFFER: u32 = 4 << 10;

pub(super) const CHECK: &str = "/latchkey.v1.CheckService/Check";

/// The number of the client's n-th stream.
pub(super) fn stream(n: u32) -> u32 {
    2 * n + 1
}

/// A string of RFC 7541, section 5.2, as it is.
fn string(bytes: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::new();
    let mut left = bytes.len();
    if left < 127 {
        encoded.push(left as u8);
    } else {
        encoded.push(127);
        left -= 127;
        while left >= 128 {
            encoded.push((left % 128) as u8 | 128);
            left /= 128;
        }
        encoded.push(left as u8);
    }
    encoded.extend(bytes);
    encoded
}

/// A field with a name of its own; the first byte says whether it is remembered.
pub(super) fn field(first: u8, name: &str, value: &[u8]) -> Vec<u8> {
    [vec![first], string(name.as_bytes()), string(value)].concat()
}

/// The fields of a call, and more.
pub(super) fn fields(path: &str, more: &[u8]) -> Vec<u8> {
    let (post, http, by_path) = (0x83, 0x86, 0x04);
    let path = [vec![post, http, by_path], string(path.as_bytes())].concat();
    let kind = field(0, "content-type", b"application/grpc");
    [&path[..], &kind, more].concat()
}

/// The headers of a Check without an end.
pub(super) fn open(id: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, id, &fields(CHECK, &[]))
}

/// What a connection was told so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// Answers whose headers came.
    pub(super) answers: u32,
    /// Bytes of their bodies.
    pub(super) data_bytes: usize,
    /// Streams that were reset, by code.
    pub(super) resets: BTreeMap<u32, u32>,
    /// The last GOAWAY: its code, and what was said with it.
    pub(super) goaway: Option<(u32, String)>,
    /// Whether the server has closed.
    pub(super) ended: bool,
}

impl Told {
    fn note(&mut self, kind: u8, payload: &[u8]) {
        let number = |at: usize| {
            let bytes = payload[at..at + 4].try_into().expect("four bytes");
            u32::from_be_bytes(bytes)
        };
        match kind {
            DATA => self.data_bytes += payload.len(),
            HEADERS => self.answers += 1,
            RST_STREAM => *self.resets.entry(number(0)).or_default() += 1,
            GOAWAY => {
                let said = String::from_utf8_lossy(&payload[8..]).into_owned();
                self.goaway = Some((number(4), said));
            }
            _ => {}
        }
    }

    /// How it was ended.
    #[track_caller]
    pub(super) fn goaway(&self) -> (u32, &str) {
        let (code, said) = self.goaway.as_ref().unwrap_or_else(|| panic!("{self:?}"));
        (*code, said)
    }
}

/// A connection of the attacker.
pub(super) struct Attacker {
    to: OwnedWriteHalf,
    told: watch::Receiver<Told>,
    // Of one that is deaf.
    _unread: Option<OwnedReadHalf>,
}

impl Attacker {
    /// Connects from an address of this machine, and says nothing.
    pub(super) async fn connect(server: &str, from: [u8; 4], deaf: bool) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        let here = (from, 0).into();
        socket.bind(here).expect("an address of this machine");
        if deaf {
            let set = socket.set_recv_buffer_size(SMALL_BUFFER);
            set.expect("a small buffer");
        }
        let connected = socket.connect(server.parse().expect("an address")).await;
        let (from, to) = connected.expect("connected").into_split();
        let (tell, told) = watch::channel(Told::default());
        if deaf {
            let _unread = Some(from);
            return Self { to, told, _unread };
        }
        tokio::spawn(listen(from, tell));
        let _unread = None;
        Self { to, told, _unread }
    }

    /// Begins as every client does, with these settings.
    pub(super) async fn begin(&mut self, settings: &[u8]) {
        let bytes = [PREFACE, &frame(SETTINGS, 0, 0, settings)].concat();
        assert!(self.send(&bytes).await, "it is ended before it begins");
    }

    /// Sends bytes; whether the connection took them.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> bool {
        let sent = timeout(PATIENCE, self.to.write_all(bytes)).await;
        sent.expect("bytes are neither taken nor refused").is_ok()
    }

    /// Sends the same again and again until it is ended for it.
    pub(super) async fn flood(&mut self, bytes: &[u8], times_max: usize) {
        for _ in 0..times_max {
            if !self.send(bytes).await {
                return;
            }
        }
        panic!("{times_max} times {} bytes were taken", bytes.len());
    }

    /// Waits until it was told so.
    pub(super) async fn until(&mut self, what: &str, holds: impl Fn(&Told) -> bool) -> Told {
        let told = timeout(PATIENCE, self.told.wait_for(|told| holds(told))).await;
        let told = told.map(|told| told.map(|told| told.clone()));
        let Ok(Ok(told)) = told else {
            panic!("not {what}: {:?}", self.told.borrow().clone());
        };
        told
    }

    /// Waits until the server ends it.
    pub(super) async fn ended(mut self) -> Told {
        self.until("ended", |told| told.ended).await
    }

    /// Whether a stream was answered.
    pub(super) fn is_answered(&self) -> bool {
        self.told.borrow().answers > 0
    }

    /// Whether the server has ended it.
    pub(super) fn is_ended(&self) -> bool {
        self.told.borrow().ended
    }
}

async fn listen(from: OwnedReadHalf, tell: watch::Sender<Told>) {
    let mut from = BufReader::new(from);
    let mut head = [0; 9];
    while from.read_exact(&mut head).await.is_ok() {
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        if from.read_exact(&mut payload).await.is_err() {
            break;
        }
        tell.send_modify(|told| told.note(head[3], &payload));
    }
    tell.send_modify(|told| told.ended = true);
}
