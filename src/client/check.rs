//! One question of a Check, its verdict, and the rule by which an answer may be acted on.
//!
//! Used by `Client::check` and the layer. Promise: `judge` is the only place that makes an
//! `Identity`, and it makes one only of an allow that is within the caller's deadline and
//! within `valid_for`, both counted from before the request was sent. A denial is a verdict;
//! an error means that nothing was decided, and that the request must not pass.

use std::fmt;
use std::time::Duration;

use thiserror::Error;
use tonic::{Code, Status};

use super::calls::reason_of;
use crate::domain::clock::{Clock, UnixMs};
use crate::proto::v1;

/// A question: may this token do all of that? Its `Debug` withholds the token.
#[derive(Clone)]
pub struct CheckQuery {
    request: v1::CheckRequest,
    deadline: Option<Duration>,
}

impl CheckQuery {
    /// A question about a token as it was presented, without `Bearer `. Without needs it asks
    /// whether the token is valid.
    pub fn new(token: impl Into<String>) -> Self {
        Self {
            request: v1::CheckRequest {
                token: token.into(),
                ..v1::CheckRequest::default()
            },
            deadline: None,
        }
    }

    /// Adds a need, an exact action on an exact resource; all needs must be covered.
    #[must_use]
    pub fn need(self, action: impl Into<String>, resource: impl Into<String>) -> Self {
        self.needs([v1::Need {
            action: action.into(),
            resource: resource.into(),
        }])
    }

    /// Adds needs.
    #[must_use]
    pub fn needs(mut self, needs: impl IntoIterator<Item = v1::Need>) -> Self {
        self.request.needs.extend(needs);
        self
    }

    /// Says what is known of the request that presented the token: the address as a trusted
    /// proxy saw it, never a header that the client can set.
    #[must_use]
    pub fn context(mut self, context: v1::Context) -> Self {
        self.request.context = Some(context);
        self
    }

    /// Accepts this kind, and of the others only those that are named too. Without any, every
    /// kind is accepted.
    #[must_use]
    pub fn accept(mut self, kind: v1::TokenKind) -> Self {
        self.request.accepted_kinds.push(kind.into());
        self
    }

    /// Demands an answer at this revision or a later one.
    #[must_use]
    pub fn at_least(mut self, revision: v1::Revision) -> Self {
        self.request.at_least = Some(revision);
        self
    }

    /// Lets repeats count as one use of a token whose uses are limited.
    #[must_use]
    pub fn request_id(mut self, id: impl Into<String>) -> Self {
        self.request.request_id = id.into();
        self
    }

    /// Gives this Check so long instead of the client's deadline.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    pub(in crate::client) fn needs_asked(&self) -> &[v1::Need] {
        &self.request.needs
    }

    pub(in crate::client) fn into_parts(self) -> (v1::CheckRequest, Option<Duration>) {
        (self.request, self.deadline)
    }
}

impl fmt::Debug for CheckQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckQuery")
            .field("request", &self.request)
            .field("deadline", &self.deadline)
            .finish()
    }
}

/// What was decided.
#[derive(Clone, Debug, PartialEq)]
#[must_use = "only an allowed verdict lets a request pass"]
pub enum Verdict {
    /// The request may pass, as long as the identity is fresh.
    Allowed(Identity),
    /// It may not.
    Denied(Denial),
}

/// Who may pass, and until when that may be acted on.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Identity {
    /// Public id of the token.
    pub token_id: String,
    /// Kind of the token.
    pub kind: v1::TokenKind,
    /// The principal that the token speaks for, as `user:alice`; empty for a resource token.
    pub subject: String,
    /// The resource that a resource token speaks for; empty for the other kinds.
    pub resource: String,
    /// The revision that the decision was made at.
    pub revision: v1::Revision,
    /// When the token expires, if it does, by the server's clock.
    pub expires_at: Option<UnixMs>,
    valid_until_boot_ms: u64,
}

impl Identity {
    /// Until when the decision may be acted on, in milliseconds of this machine's boot time:
    /// at this instant it is over. It is no licence to let other requests pass.
    #[must_use]
    pub fn valid_until(&self) -> u64 {
        self.valid_until_boot_ms
    }

    /// Whether the decision may still be acted on. A handler that waited for something asks
    /// before it acts; one that goes on for long, as a stream, checks anew.
    #[must_use]
    pub fn is_fresh(&self, clock: &dyn Clock) -> bool {
        clock.boot_ms() < self.valid_until_boot_ms
    }
}

/// Why a request may not pass.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Denial {
    /// The reason; unspecified when the server is newer and gave one that is unknown here.
    pub reason: v1::Reason,
    /// The reason for people.
    pub message: String,
    /// Public id of the token, for logs; empty when there is no such token.
    pub token_id: String,
    /// The principal that the token speaks for, for logs; empty when there is none.
    pub subject: String,
    /// The revision that the decision was made at.
    pub revision: v1::Revision,
}

/// Why nothing was decided. The request must not pass.
#[derive(Debug, Error)]
pub enum CheckError {
    /// The server cannot know at the moment: ask again later, or ask another.
    #[error("the server cannot know at the moment")]
    Stale {
        /// How long to wait before asking this server again.
        retry_after: Option<Duration>,
    },
    /// An allow came later than it may be acted on: ask again.
    #[error("the answer came too late to be acted on")]
    TooLate,
    /// No answer within the caller's own deadline: ask again if there is time.
    #[error("no answer within the deadline")]
    DeadlineExceeded,
    /// The server did not reach the demanded revision in time: ask again, or ask another.
    #[error("the server did not reach the demanded revision in time")]
    NotReached,
    /// The demanded revision is of another history, as after a restored backup: what the
    /// caller wrote or saw may be lost. See `Client::forget_own_writes`.
    #[error("the demanded revision is of another history")]
    HistoryDiverged,
    /// The server cannot be reached or takes no more: ask again later.
    #[error("the server is unavailable: {}", .0.message())]
    Unavailable(#[source] Status),
    /// The caller's own token is refused or may not check: mend the caller's configuration.
    #[error("the caller may not check: {}", .0.message())]
    CallerRefused(#[source] Status),
    /// The question does not parse: mend the caller's code.
    #[error("the question is invalid: {}", .0.message())]
    InvalidQuestion(#[source] Status),
    /// The answer contradicts itself: what answered is no Latchkey, or a broken one.
    #[error("the answer cannot be understood: {0}")]
    Contradiction(&'static str),
}

/// When a question was sent and its answer came, in boot time, and how long it had.
#[derive(Clone, Copy, Debug)]
pub(in crate::client) struct Timing {
    pub(in crate::client) sent_ms: u64,
    pub(in crate::client) received_ms: u64,
    pub(in crate::client) deadline: Duration,
}

/// Turns an answer into a verdict, or into the reason why it decides nothing.
pub(in crate::client) fn judge(
    answer: v1::CheckResponse,
    timing: Timing,
) -> Result<Verdict, CheckError> {
    // The timer that waited for the answer stands still in suspend; the boot clock does not.
    if timing.received_ms >= ends_ms(timing.sent_ms, timing.deadline) {
        return Err(CheckError::DeadlineExceeded);
    }
    let reason = answer.reason();
    match (answer.allowed, reason) {
        (true, v1::Reason::Allowed) => allowed(answer, timing),
        (true, _) => Err(CheckError::Contradiction("an allow with another reason")),
        (false, v1::Reason::Allowed) => Err(CheckError::Contradiction("a denial without reason")),
        (false, v1::Reason::Stale) => Err(CheckError::Stale {
            retry_after: answer.retry_after.and_then(|it| it.try_into().ok()),
        }),
        (false, _) => Ok(Verdict::Denied(Denial {
            reason,
            message: answer.message,
            token_id: answer.token_id,
            subject: answer.subject,
            revision: answer.revision.unwrap_or_default(),
        })),
    }
}

fn allowed(answer: v1::CheckResponse, timing: Timing) -> Result<Verdict, CheckError> {
    let kind = answer.kind();
    let Some(revision) = answer.revision else {
        return Err(CheckError::Contradiction("an allow without revision"));
    };
    let valid_for: Duration = answer
        .valid_for
        .and_then(|it| it.try_into().ok())
        .ok_or(CheckError::Contradiction("an allow without valid_for"))?;
    let valid_until_boot_ms = ends_ms(timing.sent_ms, valid_for);
    if timing.received_ms >= valid_until_boot_ms {
        return Err(CheckError::TooLate);
    }
    Ok(Verdict::Allowed(Identity {
        token_id: answer.token_id,
        kind,
        subject: answer.subject,
        resource: answer.resource,
        revision,
        expires_at: answer.expires_at.map(unix_ms),
        valid_until_boot_ms,
    }))
}

/// The first whole millisecond at which the span is over. Both readings are rounded down, so
/// that a later reading below it is within the span, and never the other way round.
fn ends_ms(sent_ms: u64, span: Duration) -> u64 {
    sent_ms.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}

fn unix_ms(instant: prost_types::Timestamp) -> UnixMs {
    let seconds = u64::try_from(instant.seconds).unwrap_or(0);
    let millis = u64::try_from(instant.nanos).unwrap_or(0) / 1_000_000;
    seconds.saturating_mul(1_000).saturating_add(millis)
}

/// What an error status of a Check means to the caller.
pub(in crate::client) fn undecided(status: Status) -> CheckError {
    match (status.code(), reason_of(&status).as_str()) {
        (_, "NOT_REACHED") => CheckError::NotReached,
        (_, "HISTORY_DIVERGED") => CheckError::HistoryDiverged,
        // The transport reports its own time-out as cancelled.
        (Code::DeadlineExceeded | Code::Cancelled, _) => CheckError::DeadlineExceeded,
        (Code::Unauthenticated | Code::PermissionDenied, _) => CheckError::CallerRefused(status),
        (Code::InvalidArgument, _) => CheckError::InvalidQuestion(status),
        _ => CheckError::Unavailable(status),
    }
}
