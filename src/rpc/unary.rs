//! The straight way of the unary Check, before the generated service.
//!
//! ```text
//! /…/Check ─► one message in one piece, of the usual shape? ─┬─► read in place, decide, write
//!                                                            └─► generated service, as read so far
//! the other methods ─► generated service, a stream's with a message limit of its own
//! ```
//!
//! Used by `server` as the direct service. Decoding and encoding by prost and tonic's general
//! machinery cost more than the decision itself; this path is why a Check costs little more than
//! an empty RPC. It decides nothing: what is asked and told is `question`'s and `check`'s, and
//! whatever is unusual (compression, several frames, fields out of the way, a wait) is given to
//! the generated service byte for byte, so that there is no second opinion on it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http_body::{Body as _, Frame};
use prost::bytes::{Bytes, BytesMut};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use tonic::codegen::{BoxFuture, Service, http};
use tonic::metadata::GRPC_CONTENT_TYPE;

use crate::authority::check::CheckRequest;
use crate::domain::permission::Need;
use crate::domain::refusal::Refusal;
use crate::domain::token::KindSet;
use crate::proto::v1::check_service_server::CheckServiceServer;

use super::check::CheckRpc;
use super::errors::invalid;
use super::fields::{HEAD_BYTES, message_in};
use super::front::DirectAnswer;
use super::metrics::Way;
use super::observe::{Arrival, Asking};
use super::question::parsed_context;
use super::wire::{Usual, written};

const CHECK: &str = "/latchkey.v1.CheckService/Check";
const STREAM_CHECK: &str = "/latchkey.v1.CheckService/StreamCheck";
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Bytes of a question of a stream: what a client may leave half sent on each of its streams.
const STREAM_MESSAGE_BYTES_MAX: usize = 64 << 10;

/// CheckService, its unary Check first.
#[derive(Clone)]
pub(super) struct CheckFront(Arc<Services>);

struct Services {
    check: CheckRpc,
    all: CheckServiceServer<CheckRpc>,
    streams: CheckServiceServer<CheckRpc>,
    message_bytes_max: usize,
}

impl CheckFront {
    pub(super) fn new(check: CheckRpc, message_bytes_max: usize) -> Self {
        let of =
            |bytes_max| CheckServiceServer::new(check.clone()).max_decoding_message_size(bytes_max);
        Self(Arc::new(Services {
            all: of(message_bytes_max),
            streams: of(message_bytes_max.min(STREAM_MESSAGE_BYTES_MAX)),
            check,
            message_bytes_max,
        }))
    }
}

impl Service<http::Request<Body>> for CheckFront {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, request: http::Request<Body>) -> Answering {
        let services = Arc::clone(&self.0);
        match request.uri().path() {
            CHECK => {
                let arrival = services.check.arrival_of(request.headers());
                Answering::First(Box::pin(services.first(request, arrival)))
            }
            STREAM_CHECK => Answering::Unwritten(services.streams.clone().call(request)),
            _ => Answering::Unwritten(services.all.clone().call(request)),
        }
    }
}

/// How far an answer of CheckService is.
pub(super) enum Answering {
    /// A Check that is read, and answered if it is a usual one.
    First(BoxFuture<http::Response<Body>, Box<Unusual>>),
    /// A Check that the generated service answers; it may count a use.
    Generated(BoxFuture<http::Response<Body>, Infallible>),
    /// A call that writes nothing before its headers.
    Unwritten(BoxFuture<http::Response<Body>, Infallible>),
}

/// A Check that is left to the generated service.
pub(super) struct Unusual {
    services: Arc<Services>,
    request: http::Request<Body>,
}

impl Future for Answering {
    type Output = Result<http::Response<Body>, Infallible>;

    #[inline]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        match this {
            Self::First(answer) => match answer.as_mut().poll(context) {
                Poll::Ready(Ok(answer)) => Poll::Ready(Ok(answer)),
                Poll::Ready(Err(unusual)) => {
                    let Unusual { services, request } = *unusual;
                    *this = Self::Generated(services.all.clone().call(request));
                    // Pending once: only who has a place by then may go on to submit a use.
                    context.waker().wake_by_ref();
                    Poll::Pending
                }
                Poll::Pending => Poll::Pending,
            },
            Self::Generated(answer) | Self::Unwritten(answer) => answer.as_mut().poll(context),
        }
    }
}

impl DirectAnswer for Answering {
    fn may_write(&self) -> bool {
        matches!(self, Self::Generated(_))
    }
}

impl Services {
    async fn first(
        self: Arc<Self>,
        request: http::Request<Body>,
        arrival: Arrival,
    ) -> Result<http::Response<Body>, Box<Unusual>> {
        let unusual = |services, request| Err(Box::new(Unusual { services, request }));
        let (mut parts, mut body) = request.into_parts();
        let read = Read::all(&mut body).await;
        if let Read::Whole(bytes) = &read
            && let asking = Asking::of(Way::Check, &arrival, &parts.headers, &parts.extensions)
            && let Some(answer) = self.at_once(&asking, &parts, bytes)
        {
            self.check.took(Way::Check, arrival.came);
            return Ok(match answer {
                Ok(message) => replied(message),
                Err(refusal) => self.check.refused(refusal, &asking).into_http(),
            });
        }
        parts.extensions.insert(arrival);
        let body = Body::new(read.rewound(body));
        unusual(self, http::Request::from_parts(parts, body))
    }

    /// The answer to a usual question that needs no wait; none if there is more to it.
    #[inline]
    fn at_once(
        &self,
        asking: &Asking<'_>,
        parts: &http::request::Parts,
        bytes: &Bytes,
    ) -> Option<Result<Bytes, Refusal>> {
        let usual = Usual::read(message_in(bytes, self.message_bytes_max)?)?;
        self.decided(asking, parts, &usual).transpose()
    }

    #[inline]
    fn decided(
        &self,
        asking: &Asking<'_>,
        parts: &http::request::Parts,
        usual: &Usual<'_>,
    ) -> Result<Option<Bytes>, Refusal> {
        let caller = self.check.caller(&parts.headers, &parts.extensions)?;
        let need = match usual.need {
            None => None,
            Some((action, resource)) => {
                let need = Need::parse(action, resource);
                Some(need.map_err(|error| invalid("needs", error))?)
            }
        };
        let question = CheckRequest {
            token: usual.token,
            needs: need.as_slice(),
            context: parsed_context(usual.client_ip, usual.workload, usual.audience)?,
            kinds: KindSet::ALL,
        };
        let view = self.check.view();
        let check = &self.check;
        let verdict = check.verdict(&view, caller, &question, asking.arrival, written)?;
        if verdict.counts_use {
            return Ok(None);
        }
        Ok(Some(check.done(verdict, asking).into()))
    }
}

/// Why the body of a call is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoBody {
    /// It is longer than a message may be.
    TooLong,
    /// It broke off.
    Broken,
}

/// The whole body of a unary call.
///
/// # Errors
/// [`NoBody`] if it breaks off or is longer than a message of `most` bytes may be.
#[inline]
pub(super) async fn collected(body: &mut Body, most: usize) -> Result<Bytes, NoBody> {
    match Read::all(body).await {
        Read::Whole(bytes) if bytes.len() > most + HEAD_BYTES => Err(NoBody::TooLong),
        Read::Whole(bytes) => Ok(bytes),
        Read::Begun(frames) => Box::pin(joined(frames, body, most)).await,
    }
}

async fn joined(
    begun: VecDeque<Result<Frame<Bytes>, Status>>,
    body: &mut Body,
    most: usize,
) -> Result<Bytes, NoBody> {
    let mut all = BytesMut::new();
    let mut begun = begun.into_iter();
    loop {
        let frame = match begun.next() {
            Some(frame) => Some(frame),
            None => poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await,
        };
        let Some(frame) = frame else {
            return Ok(all.freeze());
        };
        if let Ok(data) = frame.map_err(|_| NoBody::Broken)?.into_data() {
            if all.len() + data.len() > most + HEAD_BYTES {
                return Err(NoBody::TooLong);
            }
            all.extend_from_slice(&data);
        }
    }
}

/// What was read of a request's body.
enum Read {
    /// All of it, in one piece.
    Whole(Bytes),
    /// Frames, and perhaps there are more.
    Begun(VecDeque<Result<Frame<Bytes>, Status>>),
}

impl Read {
    #[inline]
    async fn all(body: &mut Body) -> Self {
        let mut whole = None;
        loop {
            let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await;
            let frame = match (frame, &whole) {
                (None, _) => return Self::Whole(whole.unwrap_or_default()),
                (Some(Ok(frame)), None) if frame.is_data() => {
                    whole = frame.into_data().ok();
                    if body.is_end_stream() {
                        return Self::Whole(whole.unwrap_or_default());
                    }
                    continue;
                }
                // Some clients end the stream by a frame of its own.
                (Some(Ok(frame)), _) if frame.data_ref().is_some_and(Bytes::is_empty) => continue,
                (Some(frame), _) => frame,
            };
            let former = whole.map(Frame::data).map(Ok);
            return Self::Begun(former.into_iter().chain([frame]).collect());
        }
    }

    /// A body that yields again what was read, and then the rest.
    fn rewound(self, rest: Body) -> Rewound {
        let read = match self {
            Self::Whole(bytes) => VecDeque::from([Ok(Frame::data(bytes))]),
            Self::Begun(frames) => frames,
        };
        Rewound { read, rest }
    }
}

struct Rewound {
    read: VecDeque<Result<Frame<Bytes>, Status>>,
    rest: Body,
}

impl http_body::Body for Rewound {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.read.pop_front() {
            Some(frame) => Poll::Ready(Some(frame)),
            None => Pin::new(&mut self.rest).poll_frame(context),
        }
    }
}

pub(super) fn replied(message: Bytes) -> http::Response<Body> {
    let mut response = http::Response::new(Body::new(Reply::Message(message)));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
    response
}

/// The body of a reply: one message, then the status OK.
enum Reply {
    Message(Bytes),
    Status,
    Ended,
}

impl http_body::Body for Reply {
    type Data = Bytes;
    type Error = Status;

    #[inline]
    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let (frame, next) = match std::mem::replace(&mut *self, Self::Ended) {
            Self::Message(message) => (Frame::data(message), Self::Status),
            Self::Status => {
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
                (Frame::trailers(trailers), Self::Ended)
            }
            Self::Ended => return Poll::Ready(None),
        };
        *self = next;
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body of these frames; `ended` says at the last that it is the last.
    struct Script {
        frames: VecDeque<Frame<Bytes>>,
        ended: bool,
    }

    impl http_body::Body for Script {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.frames.pop_front().map(Ok))
        }

        fn is_end_stream(&self) -> bool {
            self.ended && self.frames.is_empty()
        }
    }

    fn data(text: &'static str) -> Frame<Bytes> {
        Frame::data(Bytes::from_static(text.as_bytes()))
    }

    async fn bytes_of(mut body: impl http_body::Body<Data = Bytes> + Unpin) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(Ok(frame)) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
        {
            all.extend(frame.into_data().unwrap_or_default());
        }
        all
    }

    async fn check(texts: &[&'static str], whole: bool) {
        for ended in [false, true] {
            let frames = texts.iter().map(|text| data(text)).collect();
            let mut body = Body::new(Script { frames, ended });
            let read = Read::all(&mut body).await;
            assert_eq!(matches!(read, Read::Whole(_)), whole, "{texts:?}");
            let again = bytes_of(read.rewound(body)).await;
            assert_eq!(again, texts.concat().as_bytes(), "{texts:?}");
        }
    }

    #[tokio::test]
    async fn a_body_in_one_piece_is_whole_and_any_other_loses_nothing() {
        check(&[], true).await;
        check(&["abc"], true).await;
        check(&["abc", ""], true).await;
        check(&["", "abc", ""], false).await;
        check(&["abc", "def"], false).await;
        check(&["abc", "", "def", "ghi"], false).await;
    }

    #[tokio::test]
    async fn a_reply_is_one_message_and_the_status() {
        let message = Bytes::from_static(b"message");
        let mut body = replied(message.clone()).into_body();
        let mut frames = Vec::new();
        while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            frames.push(frame.unwrap());
        }
        let [first, second] = &*frames else {
            panic!("{frames:?}");
        };
        assert_eq!(first.data_ref(), Some(&message));
        let trailers = second.trailers_ref().unwrap();
        assert_eq!(trailers.get("grpc-status").unwrap(), "0");
        assert!(body.is_end_stream());
    }
}
