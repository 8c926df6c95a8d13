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
//! the generated service byte for byte, so that there is no second opinion on it. What is needed to
//! tell of a call that `front` gives up stays at hand until it is answered.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

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
use super::errors::{invalid, response};
use super::fields::{HEAD_BYTES, message_in};
use super::front::DirectAnswer;
use super::metrics::Way;
use super::observe::{Arrival, Asking, Who};
use super::question::parsed_context;
use super::wire::{Usual, written};

const CHECK: &str = "/latchkey.v1.CheckService/Check";
const BATCH_CHECK: &str = "/latchkey.v1.CheckService/BatchCheck";
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
    fn call(&mut self, mut request: http::Request<Body>) -> Answering {
        let services = Arc::clone(&self.0);
        match request.uri().path() {
            CHECK => Answering::First(Box::new(First {
                arrival: services.check.arrival_of(request.headers()),
                services,
                request,
                reading: Reading::default(),
            })),
            BATCH_CHECK => {
                let arrival = services.check.arrival_of(request.headers());
                let asked = Asked::of(&services, Way::Batch, &arrival, &request);
                request.extensions_mut().insert(arrival);
                Answering::Batch(services.all.clone().call(request), asked)
            }
            // Whether the stream goes on is told at once.
            STREAM_CHECK => Answering::AtOnce(services.streams.clone().call(request)),
            _ => Answering::AtOnce(services.all.clone().call(request)),
        }
    }
}

/// How far an answer of CheckService is.
pub(super) enum Answering {
    /// A Check that is read, and answered if it is a usual one.
    First(Box<First>),
    /// A Check that the generated service answers; it may count a use.
    Generated(BoxFuture<http::Response<Body>, Infallible>, Box<Asked>),
    /// A batch, which writes nothing.
    Batch(BoxFuture<http::Response<Body>, Infallible>, Box<Asked>),
    /// A call that waits for nothing before its headers.
    AtOnce(BoxFuture<http::Response<Body>, Infallible>),
}

/// A Check that is being read.
pub(super) struct First {
    services: Arc<Services>,
    request: http::Request<Body>,
    reading: Reading,
    arrival: Arrival,
}

/// What is told of a call that the generated service has, if it is given up.
pub(super) struct Asked {
    services: Arc<Services>,
    way: Way,
    arrival: Arrival,
    who: Who,
}

impl Asked {
    fn of<T>(
        services: &Arc<Services>,
        way: Way,
        arrival: &Arrival,
        request: &http::Request<T>,
    ) -> Box<Self> {
        Box::new(Self {
            services: Arc::clone(services),
            way,
            arrival: arrival.clone(),
            who: Who::of(request.headers(), request.extensions()),
        })
    }
}

impl Future for Answering {
    type Output = Result<http::Response<Body>, Infallible>;

    #[inline]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        match this {
            Self::First(first) => {
                let read = ready!(first.reading.poll(first.request.body_mut(), context));
                if let Some(answer) = first.at_once(&read) {
                    return Poll::Ready(Ok(answer));
                }
                *this = first.unusual(read);
                // Pending once: only who has a place by then may go on to submit a use.
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Self::Generated(answer, _) | Self::Batch(answer, _) | Self::AtOnce(answer) => {
                answer.as_mut().poll(context)
            }
        }
    }
}

impl DirectAnswer for Answering {
    fn may_write(&self) -> bool {
        matches!(self, Self::Generated(..))
    }

    fn given_up(&self, why: Refusal) -> http::Response<Body> {
        let status = match self {
            Self::First(first) => {
                let First {
                    services,
                    request,
                    arrival,
                    ..
                } = &**first;
                let (headers, extensions) = (request.headers(), request.extensions());
                let asking = Asking::of(Way::Check, arrival, headers, extensions);
                services.check.given_up(why, &asking)
            }
            Self::Generated(_, asked) | Self::Batch(_, asked) => {
                let asking = Asking::known(asked.way, &asked.arrival, &asked.who);
                asked.services.check.given_up(why, &asking)
            }
            Self::AtOnce(_) => return response(why),
        };
        status.into_http()
    }
}

impl First {
    /// The answer to a usual question that needs no wait; none if there is more to it.
    #[inline]
    fn at_once(&self, read: &Read) -> Option<http::Response<Body>> {
        let Self {
            services,
            request,
            arrival,
            ..
        } = self;
        let Read::Whole(bytes) = read else {
            return None;
        };
        let (headers, extensions) = (request.headers(), request.extensions());
        let asking = Asking::of(Way::Check, arrival, headers, extensions);
        let answer = services.at_once(&asking, request, bytes)?;
        services.check.took(Way::Check, arrival.came);
        Some(match answer {
            Ok(message) => replied(message),
            Err(refusal) => services.check.refused(refusal, &asking).into_http(),
        })
    }

    /// The same question, left to the generated service.
    fn unusual(&mut self, read: Read) -> Answering {
        let asked = Asked::of(&self.services, Way::Check, &self.arrival, &self.request);
        let (mut parts, rest) = std::mem::take(&mut self.request).into_parts();
        parts.extensions.insert(self.arrival.clone());
        let body = Body::new(read.rewound(rest));
        let request = http::Request::from_parts(parts, body);
        Answering::Generated(self.services.all.clone().call(request), asked)
    }
}

impl Services {
    /// The answer to a usual question that needs no wait; none if there is more to it.
    #[inline]
    fn at_once(
        &self,
        asking: &Asking<'_>,
        request: &http::Request<Body>,
        bytes: &Bytes,
    ) -> Option<Result<Bytes, Refusal>> {
        let usual = Usual::read(message_in(bytes, self.message_bytes_max)?)?;
        self.decided(asking, request, &usual).transpose()
    }

    #[inline]
    fn decided(
        &self,
        asking: &Asking<'_>,
        request: &http::Request<Body>,
        usual: &Usual<'_>,
    ) -> Result<Option<Bytes>, Refusal> {
        let caller = self.check.caller(request.headers(), request.extensions())?;
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

/// The whole body of a unary call, as it comes.
#[derive(Default)]
pub(super) struct Collecting {
    reading: Reading,
    // Of what comes in several pieces.
    joined: Option<BytesMut>,
}

impl Collecting {
    /// The body once it is there; [`NoBody`] if it breaks off or is longer than a message of `most`
    /// bytes may be.
    #[inline]
    pub(super) fn poll(
        &mut self,
        body: &mut Body,
        most: usize,
        context: &mut Context<'_>,
    ) -> Poll<Result<Bytes, NoBody>> {
        if self.joined.is_none() {
            match ready!(self.reading.poll(body, context)) {
                Read::Whole(bytes) if bytes.len() > most + HEAD_BYTES => {
                    return Poll::Ready(Err(NoBody::TooLong));
                }
                Read::Whole(bytes) => return Poll::Ready(Ok(bytes)),
                Read::Begun(frames) => {
                    let joined = self.joined.insert(BytesMut::new());
                    for frame in frames {
                        join(joined, frame, most)?;
                    }
                }
            }
        }
        let joined = self.joined.get_or_insert_default();
        while let Some(frame) = ready!(Pin::new(&mut *body).poll_frame(context)) {
            join(joined, frame, most)?;
        }
        Poll::Ready(Ok(std::mem::take(joined).freeze()))
    }
}

/// Adds a piece to those before it.
fn join(
    joined: &mut BytesMut,
    frame: Result<Frame<Bytes>, Status>,
    most: usize,
) -> Result<(), NoBody> {
    if let Ok(data) = frame.map_err(|_| NoBody::Broken)?.into_data() {
        if joined.len() + data.len() > most + HEAD_BYTES {
            return Err(NoBody::TooLong);
        }
        joined.extend_from_slice(&data);
    }
    Ok(())
}

/// What was read of a request's body.
enum Read {
    /// All of it, in one piece.
    Whole(Bytes),
    /// Frames, and perhaps there are more.
    Begun(VecDeque<Result<Frame<Bytes>, Status>>),
}

/// How far a body is read.
#[derive(Default)]
struct Reading {
    whole: Option<Bytes>,
}

impl Reading {
    #[inline]
    fn poll(&mut self, body: &mut Body, context: &mut Context<'_>) -> Poll<Read> {
        loop {
            let frame = ready!(Pin::new(&mut *body).poll_frame(context));
            let frame = match (frame, &self.whole) {
                (None, _) => break,
                (Some(Ok(frame)), None) if frame.is_data() => {
                    self.whole = frame.into_data().ok();
                    if body.is_end_stream() {
                        break;
                    }
                    continue;
                }
                // Some clients end the stream by a frame of its own.
                (Some(Ok(frame)), _) if frame.data_ref().is_some_and(Bytes::is_empty) => continue,
                (Some(frame), _) => frame,
            };
            let former = self.whole.take().map(Frame::data).map(Ok);
            return Poll::Ready(Read::Begun(former.into_iter().chain([frame]).collect()));
        }
        Poll::Ready(Read::Whole(self.whole.take().unwrap_or_default()))
    }
}

impl Read {
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
    use std::future::poll_fn;

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
            let mut reading = Reading::default();
            let read = poll_fn(|context| reading.poll(&mut body, context)).await;
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
