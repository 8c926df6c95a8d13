//! A stream's body under watch: a message that has begun has a place and a deadline.
//!
//! ```text
//! opened ─► awaits the first message ─► between messages, for as long as it likes
//!                                        └─► half a message ─► whole ─► …
//! ```
//!
//! Used by `front` for the calls whose client streams. Such a call has its headers answered at
//! once and then no deadline, while tonic keeps what has come of a message; so what is half there
//! counts as a request that waits. It reads lengths and passes bytes on as they are.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http_body::Frame;
use prost::bytes::Bytes;
use tonic::Status;
use tonic::body::Body;

use crate::domain::refusal::Refusal;

use super::errors::status;
use super::places::{Held, Places};

/// A flag and a length of four bytes stand before each message.
const HEAD_BYTES: usize = 5;

/// How far the messages have come.
#[derive(Default)]
struct Progress {
    head: [u8; HEAD_BYTES],
    head_bytes: usize,
    left: usize,
    whole: bool,
}

impl Progress {
    /// Whether a message, or the first one, is awaited.
    fn awaits(&self) -> bool {
        !self.whole || self.head_bytes > 0
    }

    /// Takes note of bytes; whether they end a message.
    fn note(&mut self, mut bytes: &[u8]) -> bool {
        let mut ends = false;
        while !bytes.is_empty() {
            if self.head_bytes < HEAD_BYTES {
                let (head, rest) = bytes.split_at(bytes.len().min(HEAD_BYTES - self.head_bytes));
                self.head[self.head_bytes..][..head.len()].copy_from_slice(head);
                self.head_bytes += head.len();
                bytes = rest;
                if self.head_bytes < HEAD_BYTES {
                    break;
                }
                let [_, length @ ..] = self.head;
                self.left = u32::from_be_bytes(length) as usize;
            }
            let taken = self.left.min(bytes.len());
            self.left -= taken;
            bytes = &bytes[taken..];
            if self.left == 0 {
                self.head_bytes = 0;
                self.whole = true;
                ends = true;
            }
        }
        ends
    }
}

/// The body of a client's stream.
pub(super) struct Watched {
    body: Body,
    progress: Progress,
    places: Arc<Places>,
    peer: Option<IpAddr>,
    held: Option<Held>,
}

impl Watched {
    pub(super) fn new(body: Body, places: Arc<Places>, peer: Option<IpAddr>) -> Self {
        Self {
            body,
            progress: Progress::default(),
            places,
            peer,
            held: None,
        }
    }

    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        let held = match &mut self.held {
            Some(held) => held,
            None => match self.places.hold(self.peer) {
                Some(held) => self.held.insert(held),
                None => {
                    return Poll::Ready(unavailable("too many requests are waiting; try again"));
                }
            },
        };
        let ended = held.poll_end(cx);
        ended.map(|()| unavailable("the message took too long"))
    }
}

fn unavailable(what: &str) -> Status {
    status(Refusal::Unavailable(what.to_owned()))
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            if !self.progress.awaits() {
                return Poll::Pending;
            }
            return self.wait(cx).map(|ended| Some(Err(ended)));
        };
        let data = frame
            .as_ref()
            .and_then(|frame| frame.as_ref().ok()?.data_ref());
        // The next message has a time of its own.
        if data.is_none_or(|data| self.progress.note(data)) {
            self.held = None;
        }
        Poll::Ready(frame)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body::Body as _;

    use super::*;
    use crate::rpc::metrics::Metrics;

    fn check(parts: &[&[u8]], awaits: &[bool]) {
        let mut progress = Progress::default();
        let found: Vec<bool> = parts
            .iter()
            .map(|part| {
                progress.note(part);
                progress.awaits()
            })
            .collect();
        assert_eq!(found, awaits, "{parts:?}");
    }

    #[test]
    fn a_message_is_awaited_from_its_first_byte_to_its_last() {
        check(&[b""], &[true]);
        check(&[b"\0\0\0\0\x02ab"], &[false]);
        check(&[b"\0\0\0\0\0"], &[false]);
        check(&[b"\0\0\0\0\x02a", b"b"], &[true, false]);
        check(
            &[b"\0\0", b"\0\0\x01", b"a", b"\0"],
            &[true, true, false, true],
        );
        check(&[b"\0\0\0\0\x01a\0\0\0\0\x02b", b"c"], &[true, false]);
        check(&[b"\0\0\0\0\x01a\0\0\0\0\x01b"], &[false]);
    }

    /// A body that has these bytes and then nothing more, without an end.
    struct Stalls(Option<Bytes>);

    impl http_body::Body for Stalls {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            match self.0.take() {
                Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                None => Poll::Pending,
            }
        }
    }

    fn stalled(bytes: &'static [u8], places: &Arc<Places>) -> Watched {
        let bytes = Bytes::from_static(bytes);
        let body = Body::new(Stalls(Some(bytes)));
        Watched::new(body, Arc::clone(places), None)
    }

    async fn next(body: &mut Watched) -> Option<Result<Frame<Bytes>, Status>> {
        std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
    }

    #[tokio::test]
    async fn half_a_message_has_a_deadline_and_a_whole_one_none() {
        let time_max = Duration::from_millis(5);
        let places = Arc::new(Places::new(Metrics::default(), 1, time_max));
        for half in [b"".as_slice(), b"\0", b"\0\0\0\0\x02a"] {
            let mut body = stalled(half, &places);
            assert!(next(&mut body).await.unwrap().is_ok());
            let ended = next(&mut body).await.unwrap().unwrap_err();
            assert_eq!(ended.code(), tonic::Code::Unavailable);
        }
        let mut body = stalled(b"\0\0\0\0\x01a", &places);
        assert!(next(&mut body).await.unwrap().is_ok());
        assert!(futures_util::poll!(Box::pin(next(&mut body))).is_pending());
        assert!(body.held.is_none());
    }

    #[tokio::test]
    async fn no_more_messages_are_half_there_than_there_are_places() {
        let time_max = Duration::from_secs(600);
        let places = Arc::new(Places::new(Metrics::default(), 1, time_max));
        let mut first = stalled(b"\0", &places);
        assert!(next(&mut first).await.unwrap().is_ok());
        assert!(futures_util::poll!(Box::pin(next(&mut first))).is_pending());
        let mut second = stalled(b"\0", &places);
        assert!(next(&mut second).await.unwrap().is_ok());
        assert!(next(&mut second).await.unwrap().is_err());
        drop(first);
        let mut third = stalled(b"\0", &places);
        assert!(next(&mut third).await.unwrap().is_ok());
        assert!(futures_util::poll!(Box::pin(next(&mut third))).is_pending());
    }
}
