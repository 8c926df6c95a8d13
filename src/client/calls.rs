//! What every call carries and how a call that is no Check fails.
//!
//! Used by `Client`. The calling token and the deadline are added to each request here, also
//! to those of the raw clients. Promise: the token shows in no `Debug` output and is wiped
//! from memory with its last holder (the copies that the transport sends are not ours to
//! wipe). Errors say what the caller can do next, not what went wrong inside.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use thiserror::Error;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt;
use zeroize::Zeroizing;

use super::bearer::is_token;

/// The caller's own token, presented with each call.
#[derive(Clone)]
pub struct CallingToken(Arc<Zeroizing<String>>);

impl CallingToken {
    /// Takes a token without `Bearer `; white space around it is left off, as files end in it.
    ///
    /// # Errors
    /// When the text is empty, over 4,096 bytes or cannot stand in a header.
    pub fn parse(text: &str) -> Result<Self, MalformedToken> {
        let text = text.trim();
        if !is_token(text) {
            return Err(MalformedToken);
        }
        Ok(Self(Arc::new(Zeroizing::new(format!("Bearer {text}")))))
    }

    fn to_metadata(&self) -> Result<MetadataValue<Ascii>, Status> {
        let mut value = MetadataValue::try_from(self.0.as_str())
            // Not reached: `parse` lets only visible ASCII in.
            .map_err(|_| Status::internal("the calling token does not fit into metadata"))?;
        // Keeps it out of the header compression's table and of `Debug` output.
        value.set_sensitive(true);
        Ok(value)
    }
}

impl fmt::Debug for CallingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallingToken")
    }
}

/// A text that cannot be a calling token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the calling token is empty, too long or has characters that no token has")]
pub struct MalformedToken;

/// Adds the calling token and, where there is none yet, a deadline to each request.
#[derive(Clone, Debug)]
pub struct Calling {
    // Written by whoever keeps the client logged in, read at each call.
    token: Arc<ArcSwapOption<CallingToken>>,
    deadline: Option<Duration>,
}

impl Calling {
    pub(in crate::client) fn new(
        token: Arc<ArcSwapOption<CallingToken>>,
        deadline: Option<Duration>,
    ) -> Self {
        Self { token, deadline }
    }
}

impl Interceptor for Calling {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &*self.token.load() {
            let value = token.to_metadata()?;
            request.metadata_mut().insert("authorization", value);
        }
        if let Some(deadline) = self.deadline
            && !request.metadata().contains_key("grpc-timeout")
        {
            request.set_timeout(deadline);
        }
        Ok(request)
    }
}

/// Why a call that is no Check did not succeed.
#[derive(Debug, Error)]
pub enum CallError {
    /// The calling token is missing or no longer good: get another.
    #[error("the calling token is refused: {}", .0.message())]
    Unauthenticated(#[source] Status),
    /// The server refused, and nothing was changed. Sending the same again is of no use.
    #[error("refused ({reason}): {}", status.message())]
    Refused {
        /// The stable reason, for example `BOUNDARY` or `NOT_FOUND`; empty when the server
        /// gave none.
        reason: String,
        /// The status, with its details.
        #[source]
        status: Status,
    },
    /// Nothing was changed; it may work later.
    #[error("unavailable: {}", .0.message())]
    Unavailable(#[source] Status),
    /// Whether a write was made is not known. Send it again with the same request id; a read
    /// may just be asked again.
    #[error("the outcome is unknown: {}", .0.message())]
    OutcomeUnknown(#[source] Status),
}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        let reason = reason_of(&status);
        match (reason.as_str(), status.code()) {
            ("OUTCOME_UNKNOWN", _) => Self::OutcomeUnknown(status),
            ("UNAVAILABLE", _) => Self::Unavailable(status),
            (_, Code::Unauthenticated) => Self::Unauthenticated(status),
            // With a reason the server itself answered. Without one the connection or a
            // deadline broke the call, at what point is not known.
            (
                "",
                Code::Unavailable
                | Code::Cancelled
                | Code::DeadlineExceeded
                | Code::Unknown
                | Code::Internal,
            ) => Self::OutcomeUnknown(status),
            _ => Self::Refused { reason, status },
        }
    }
}

/// Waits for a call, at most until its deadline.
pub(in crate::client) async fn within<T>(
    deadline: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(deadline, call).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => Err(CallError::OutcomeUnknown(Status::deadline_exceeded(
            "no answer within the call's deadline",
        ))),
    }
}

/// The stable reason of an error, empty when it is not one of Latchkey's.
pub(in crate::client) fn reason_of(status: &Status) -> String {
    status
        .get_details_error_info()
        .filter(|info| info.domain == "latchkey")
        .map(|info| info.reason)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use tonic_types::ErrorDetails;

    fn check(code: Code, reason: &str, expected: &str) {
        let status = if reason.is_empty() {
            Status::new(code, "")
        } else {
            let details = ErrorDetails::with_error_info(reason, "latchkey", HashMap::new());
            Status::with_error_details(code, "", details)
        };
        let found = match CallError::from(status) {
            CallError::Unauthenticated(_) => "another token".to_owned(),
            CallError::Refused { reason, .. } => format!("refused {reason}"),
            CallError::Unavailable(_) => "later".to_owned(),
            CallError::OutcomeUnknown(_) => "unknown".to_owned(),
        };
        assert_eq!(found, expected, "{code:?} {reason}");
    }

    #[test]
    fn errors_say_what_the_caller_can_do() {
        check(Code::Unauthenticated, "UNAUTHENTICATED", "another token");
        check(Code::PermissionDenied, "BOUNDARY", "refused BOUNDARY");
        check(Code::NotFound, "NOT_FOUND", "refused NOT_FOUND");
        check(Code::Unimplemented, "", "refused ");
        check(Code::Unavailable, "UNAVAILABLE", "later");
        check(Code::Unavailable, "OUTCOME_UNKNOWN", "unknown");
        // A connection that broke: the request may have arrived.
        check(Code::Unavailable, "", "unknown");
        check(Code::Cancelled, "", "unknown");
        check(Code::DeadlineExceeded, "", "unknown");
    }

    #[test]
    fn a_calling_token_is_parsed_and_never_shown() {
        let token = CallingToken::parse(" lks_0123456789\n").expect("a token");
        let value = token.to_metadata().expect("it fits");
        assert_eq!(value.to_str().expect("ASCII"), "Bearer lks_0123456789");
        for output in [format!("{token:?}"), format!("{value:?}")] {
            assert!(!output.contains("0123456789"), "{output}");
        }
        for text in ["", " ", "a b", "a,b", "ä", "a\nb", &"a".repeat(4_097)] {
            assert!(CallingToken::parse(text).is_err(), "{text:?}");
        }
    }
}
