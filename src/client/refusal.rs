//! The answers of the layer to requests that may not pass, over HTTP and over gRPC.
//!
//! Used by the layer alone. HTTP answers follow RFC 6750: 401 and 403 with a challenge, and
//! 503 when nothing was decided. gRPC answers are trailers-only, with status 16, 7 or 14.
//! Promise: the bearer learns little. Which fault made a token invalid is in no answer.

use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, Response, StatusCode};
use tonic::Status;

use crate::proto::v1;

/// A challenge must have a parameter (RFC 6750, section 3), so that there is a realm.
const CHALLENGE: &str = "Bearer realm=\"latchkey\"";

/// A longer list of scopes is left off: some clients drop answers with large headers.
const SCOPE_BYTES_MAX: usize = 1_024;

/// Why a request may not pass, as far as its sender may know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::client) enum Refusal {
    /// It presents no token.
    NoToken,
    /// What it presents is not accepted.
    InvalidToken,
    /// The token does not cover what the request needs, if that can be said.
    InsufficientScope(Vec<v1::Need>),
    /// Nothing was decided: closed until it is.
    Undecided { retry_after: Option<Duration> },
}

impl Refusal {
    /// What the sender is told of a denial with these needs.
    pub(in crate::client) fn of(reason: v1::Reason, needs: Vec<v1::Need>) -> Self {
        match reason {
            v1::Reason::NoToken => Self::NoToken,
            v1::Reason::NotPermitted => Self::InsufficientScope(needs),
            v1::Reason::Stale => Self::Undecided { retry_after: None },
            // RFC 6750, section 3.1: "expired, revoked, malformed, or invalid for other
            // reasons". Spent uses are among them, and so is a reason that is unknown here.
            _ => Self::InvalidToken,
        }
    }

    /// Answers a request in the protocol that it was made in.
    pub(in crate::client) fn answer<B: Default>(self, grpc: bool) -> Response<B> {
        if grpc {
            self.status().into_http()
        } else {
            self.http()
        }
    }

    fn status(&self) -> Status {
        match self {
            Self::NoToken => Status::unauthenticated("no token was presented"),
            Self::InvalidToken => Status::unauthenticated("the token is not accepted"),
            Self::InsufficientScope(_) => {
                Status::permission_denied("the token does not permit this")
            }
            Self::Undecided { .. } => Status::unavailable("the token cannot be checked now"),
        }
    }

    fn http<B: Default>(self) -> Response<B> {
        let mut response = Response::new(B::default());
        let headers = response.headers_mut();
        let status = match self {
            Self::NoToken => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
                StatusCode::UNAUTHORIZED
            }
            Self::InvalidToken => {
                headers.insert(WWW_AUTHENTICATE, challenge("invalid_token", ""));
                StatusCode::UNAUTHORIZED
            }
            Self::InsufficientScope(needs) => {
                let scope = scope(&needs);
                headers.insert(WWW_AUTHENTICATE, challenge("insufficient_scope", &scope));
                StatusCode::FORBIDDEN
            }
            Self::Undecided { retry_after } => {
                if let Some(retry_after) = retry_after {
                    let seconds = retry_after.as_millis().div_ceil(1_000);
                    let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
                    headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
                }
                StatusCode::SERVICE_UNAVAILABLE
            }
        };
        *response.status_mut() = status;
        response
    }
}

/// Whether a request is a gRPC call, and so expects an answer with HTTP status 200.
pub(in crate::client) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

fn challenge(error: &str, scope: &str) -> HeaderValue {
    let mut text = format!("{CHALLENGE}, error=\"{error}\"");
    if !scope.is_empty() && scope.len() <= SCOPE_BYTES_MAX {
        text.push_str(&format!(", scope=\"{scope}\""));
    }
    // Needs were parsed, so that they hold neither quotes nor anything but visible ASCII.
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(CHALLENGE))
}

/// All that the request needs, in the form that scopes are given in.
fn scope(needs: &[v1::Need]) -> String {
    let each: Vec<String> = needs
        .iter()
        .map(|need| format!("{}@{}", need.action, need.resource))
        .collect();
    each.join(" ")
}
