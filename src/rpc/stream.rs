//! StreamCheck, and how a stream ends when the server does.
//!
//! One question is read, answered and sent before the next is read: answers keep their order,
//! nothing is buffered, and a client that does not read stops its own questions by flow control.
//! Used by `check`; `Drain` by every service with a stream that would not end by itself.

use std::fmt;
use std::future::ready;
use std::pin::Pin;

use futures_util::stream::{Stream, StreamExt as _, once, unfold};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status, Streaming};

use crate::domain::refusal::Refusal;
use crate::proto::v1;
use crate::proto::v1::stream_check_response::Outcome;

use super::auth::Kept;
use super::check::{CheckRpc, WAIT_MAX};
use super::errors::{how, invalid, status, told};
use super::metrics::Way;
use super::observe::{Asking, Streamed, Who};

/// The answers of a stream.
pub(super) type Answers =
    Pin<Box<dyn Stream<Item = Result<v1::StreamCheckResponse, Status>> + Send>>;

/// Tells streams that the server is about to end. It comes with every request that does not go
/// straight to Check as an extension; cancelled once, by `serve`.
#[derive(Clone, Default)]
pub(super) struct Drain(CancellationToken);

impl Drain {
    /// That of the server which took this request; one that never comes outside a server.
    pub(super) fn of<T>(request: &Request<T>) -> Self {
        request
            .extensions()
            .get::<Self>()
            .cloned()
            .unwrap_or_default()
    }

    /// Tells all streams.
    pub(super) fn begin(&self) {
        self.0.cancel();
    }

    /// Returns once the server is about to end.
    pub(super) async fn begun(&self) {
        self.0.cancelled().await;
    }

    /// Ends a stream with UNAVAILABLE when the server is about to end.
    pub(super) fn ends<T, S>(self, stream: S) -> impl Stream<Item = Result<T, Status>>
    where
        S: Stream<Item = Result<T, Status>>,
    {
        let drain = self.0.clone();
        let last = async move { drain.is_cancelled().then(|| Err(status(stopping()))) };
        stream
            .take_until(self.0.cancelled_owned())
            .chain(once(last).filter_map(ready))
    }
}

impl fmt::Debug for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Drain")
    }
}

fn stopping() -> Refusal {
    Refusal::Unavailable("the server is stopping".to_owned())
}

/// One client's questions, and what its calling token is judged by at each of them.
struct Questions {
    rpc: CheckRpc,
    caller: Kept,
    who: Who,
    // None where none of them is told of in a span.
    streamed: Option<Streamed>,
    questions: Streaming<v1::StreamCheckRequest>,
    drain: Drain,
}

/// Answers questions as they come, to whom may ask any: judged before anything is read.
///
/// # Errors
/// The status of a [`Refusal::Unauthenticated`] for no calling token that can be used, or more than
/// one.
pub(super) fn answers(
    rpc: CheckRpc,
    request: Request<Streaming<v1::StreamCheckRequest>>,
) -> Result<Answers, Status> {
    let judged = rpc.caller_of(&request).and_then(|caller| {
        rpc.view().may_check(caller, &[])?;
        Ok(Kept::of(caller))
    });
    let caller = judged.map_err(|refusal| {
        let arrival = rpc.arrival_of(request.metadata().as_ref());
        rpc.refused(refusal, &Asking::by(Way::Stream, &arrival, &request))
    })?;
    let drain = Drain::of(&request);
    let who = Who::of(request.metadata().as_ref(), request.extensions());
    let streamed = rpc.observer().streamed(request.metadata().as_ref());
    let stream = Questions {
        drain,
        caller,
        who,
        streamed,
        rpc,
        questions: request.into_inner(),
    };
    let answers = unfold(Some(stream), |stream| async {
        let mut stream = stream?;
        match stream.next().await {
            Ok(Some(answer)) => Some((Ok(answer), Some(stream))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(Box::pin(answers))
}

impl Questions {
    /// The next answer; none after the last question; an error ends the stream.
    async fn next(&mut self) -> Result<Option<v1::StreamCheckResponse>, Status> {
        let question = tokio::select! {
            biased;
            () = self.drain.begun() => return Err(status(stopping())),
            question = self.questions.message() => question?,
        };
        let Some(question) = question else {
            return Ok(None);
        };
        let v1::StreamCheckRequest { id, check } = question;
        let arrival = self.rpc.observer().arrival_in(self.streamed.as_ref());
        let caller = self.caller.credentials();
        let asking = Asking::known(Way::Stream, &arrival, &self.who);
        let answer = match &check {
            Some(check) => self.rpc.answer(caller, check, WAIT_MAX, &asking).await,
            None => Err(invalid("check", "is required")),
        };
        self.rpc.took(Way::Stream, arrival.came);
        let outcome = match answer {
            Ok(answer) => Outcome::Check(answer),
            Err(refusal @ Refusal::Unauthenticated) => {
                return Err(self.rpc.refused(refusal, &asking));
            }
            Err(refusal) => {
                self.rpc.note(&refusal);
                let (code, reason, message) = told(&refusal);
                self.rpc.turned_away(how(&refusal), &asking);
                Outcome::Error(v1::StreamCheckError {
                    code,
                    reason: reason.to_owned(),
                    message,
                })
            }
        };
        Ok(Some(v1::StreamCheckResponse {
            id,
            outcome: Some(outcome),
        }))
    }
}
