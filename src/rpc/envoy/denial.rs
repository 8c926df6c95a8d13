//! Why a request does not pass, and what its sender is told of it.
//!
//! Used by `service` and `answer`. One table: HTTP status, error of RFC 6750, word and sentence.
//! Envoy makes gRPC statuses of HTTP ones by a table of its own, so a gRPC caller is answered the
//! status that becomes the right code there. Absent on purpose: anything about the token beyond
//! the reason, and a way to a status of OK.

use crate::domain::reason::Reason;

/// Why a request does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denial {
    /// The token was judged, and does not do; never [`Reason::Allowed`].
    Token(Reason),
    /// More than one credential came, or what may be read as more than one.
    SeveralTokens,
    /// The path could be read in two ways.
    Path,
    /// No rule says what the request needs.
    NoRoute,
    /// What is needed depends on something in the request that is not there or not clean.
    NoResource,
    /// The rule at Envoy's route cannot be read.
    Misconfigured,
    /// Headers came that could mislead a service: too many that it may take for identity headers,
    /// or one that has identity headers dropped.
    Headers,
    /// Envoy itself may not ask: it is not known.
    Caller,
    /// Envoy itself may not ask about this.
    CallerNotPermitted,
    /// The question is longer than messages may be.
    TooLarge,
    /// The question could not be read.
    Unreadable,
    /// The question could not be answered, or not in time.
    Unanswered,
}

/// The error of a challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// None: no credential was sent, so there is nothing to say about it.
    Plain,
    /// The request has more than one credential.
    InvalidRequest,
    /// The token does not do.
    InvalidToken,
    /// The token is good, but not for this.
    InsufficientScope,
}

impl Challenge {
    /// The code of RFC 6750, section 3.1.
    pub(super) fn error(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::InvalidRequest => Some("invalid_request"),
            Self::InvalidToken => Some("invalid_token"),
            Self::InsufficientScope => Some("insufficient_scope"),
        }
    }
}

/// The HTTP status and the code of google.rpc.Code, which is never OK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) http: u16,
    pub(super) grpc: u8,
}

impl Outcome {
    const BAD_REQUEST: Self = Self { http: 400, grpc: 3 };
    const TOO_LARGE: Self = Self { http: 413, grpc: 3 };
    const UNAUTHENTICATED: Self = Self {
        http: 401,
        grpc: 16,
    };
    const FORBIDDEN: Self = Self { http: 403, grpc: 7 };
    const UNAVAILABLE: Self = Self {
        http: 503,
        grpc: 14,
    };
}

impl Denial {
    /// The status; `grpc` is whether a gRPC client asks.
    pub(super) fn code(self, grpc: bool) -> Outcome {
        match self {
            // The request is not passed on whatever the reason: an allow is none of ours.
            Self::Token(Reason::Stale | Reason::Allowed)
            | Self::Caller
            | Self::Unreadable
            | Self::Unanswered => Outcome::UNAVAILABLE,
            Self::Token(Reason::NotPermitted)
            | Self::NoRoute
            | Self::NoResource
            | Self::Misconfigured
            | Self::CallerNotPermitted => Outcome::FORBIDDEN,
            Self::Token(_) => Outcome::UNAUTHENTICATED,
            // Envoy makes INTERNAL of 400, which says that the service is broken.
            Self::SeveralTokens if grpc => Outcome::UNAUTHENTICATED,
            Self::Path | Self::Headers | Self::TooLarge if grpc => Outcome::FORBIDDEN,
            Self::SeveralTokens | Self::Path | Self::Headers => Outcome::BAD_REQUEST,
            Self::TooLarge => Outcome::TOO_LARGE,
        }
    }

    /// What a client may do about its credential, if anything.
    pub(super) fn challenge(self) -> Option<Challenge> {
        match self {
            Self::Token(Reason::NoToken) => Some(Challenge::Plain),
            Self::Token(Reason::NotPermitted) => Some(Challenge::InsufficientScope),
            Self::Token(Reason::Stale | Reason::Allowed) => None,
            Self::Token(_) => Some(Challenge::InvalidToken),
            Self::SeveralTokens => Some(Challenge::InvalidRequest),
            _ => None,
        }
    }

    /// Whether the same request may pass soon.
    pub(super) fn is_passing(self) -> bool {
        self.code(false) == Outcome::UNAVAILABLE
    }

    /// The stable word for bodies and dynamic metadata.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Token(reason) => reason.public().name(),
            Self::SeveralTokens => "several_tokens",
            Self::Path => "path",
            Self::NoRoute => "no_route",
            Self::NoResource => "no_resource",
            Self::Misconfigured => "misconfigured",
            Self::Headers => "headers",
            Self::Caller => "caller",
            Self::CallerNotPermitted => "caller_not_permitted",
            Self::TooLarge => "too_large",
            Self::Unreadable => "unreadable",
            Self::Unanswered => "unanswered",
        }
    }

    /// As [`Denial::name`], in the form of the reasons of refusals; none for what is counted as an
    /// answered Check.
    pub(super) fn refusal(self) -> Option<&'static str> {
        Some(match self {
            // The caller's refusal has a reason of its own.
            Self::Token(_) | Self::Caller | Self::CallerNotPermitted => return None,
            Self::SeveralTokens => "SEVERAL_TOKENS",
            Self::Path => "PATH",
            Self::NoRoute => "NO_ROUTE",
            Self::NoResource => "NO_RESOURCE",
            Self::Misconfigured => "MISCONFIGURED",
            Self::Headers => "HEADERS",
            Self::TooLarge => "TOO_LARGE",
            Self::Unreadable => "UNREADABLE",
            Self::Unanswered => "UNANSWERED",
        })
    }

    /// A sentence for people.
    pub(super) fn message(self) -> &'static str {
        match self {
            Self::Token(reason) => reason.message(),
            Self::SeveralTokens => "more than one credential was presented",
            Self::Path => "the path can be read in more than one way",
            Self::NoRoute => "no rule permits this request",
            Self::NoResource => "the request does not name a resource as its rule asks",
            Self::Misconfigured => "the rule for this route cannot be read",
            Self::Headers => "headers of the request could mislead a service",
            Self::Caller => "the proxy may not ask for this check",
            Self::CallerNotPermitted => "the proxy may not ask about this resource",
            Self::TooLarge => "the request is too large to be judged",
            Self::Unreadable => "the request could not be read",
            Self::Unanswered => "the check could not be answered; try again",
        }
    }
}

/// Every denial, for tests.
#[cfg(test)]
pub(super) const ALL: [Denial; 26] = [
    Denial::Token(Reason::Stale),
    Denial::Token(Reason::NoToken),
    Denial::Token(Reason::Malformed),
    Denial::Token(Reason::Unknown),
    Denial::Token(Reason::WrongKind),
    Denial::Token(Reason::Revoked),
    Denial::Token(Reason::SubjectDisabled),
    Denial::Token(Reason::Expired),
    Denial::Token(Reason::NotYetValid),
    Denial::Token(Reason::Network),
    Denial::Token(Reason::Audience),
    Denial::Token(Reason::Workload),
    Denial::Token(Reason::NotPermitted),
    Denial::Token(Reason::UsesExhausted),
    Denial::Token(Reason::Allowed),
    Denial::SeveralTokens,
    Denial::Path,
    Denial::NoRoute,
    Denial::NoResource,
    Denial::Misconfigured,
    Denial::Headers,
    Denial::Caller,
    Denial::CallerNotPermitted,
    Denial::TooLarge,
    Denial::Unreadable,
    Denial::Unanswered,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// source/common/grpc/status.cc of Envoy: what it makes of a denied status.
    fn by_envoy(http: u16) -> u8 {
        match http {
            400 => 13,
            401 => 16,
            403 => 7,
            404 => 12,
            429 | 502 | 503 | 504 => 14,
            _ => 2,
        }
    }

    #[test]
    fn no_denial_is_ok_and_grpc_clients_get_the_code_that_is_meant() {
        for denial in ALL {
            for grpc in [false, true] {
                let code = denial.code(grpc);
                assert!(code.grpc != 0 && code.http >= 400, "{denial:?}");
            }
            let code = denial.code(true);
            assert_eq!(by_envoy(code.http), code.grpc, "{denial:?}");
        }
    }

    #[test]
    fn unauthenticated_and_forbidden_come_with_their_challenges() {
        for denial in ALL {
            let error = denial.challenge().map(Challenge::error);
            match denial.code(false).http {
                401 => assert!(
                    [Some(None), Some(Some("invalid_token"))].contains(&error),
                    "{denial:?}"
                ),
                503 => assert!(error.is_none() && denial.is_passing(), "{denial:?}"),
                _ => assert!(!denial.is_passing(), "{denial:?}"),
            }
        }
        let plain = Denial::Token(Reason::NoToken).challenge();
        assert_eq!(plain.and_then(Challenge::error), None);
    }

    #[test]
    fn unknown_and_malformed_look_the_same() {
        let [unknown, malformed] = [Reason::Unknown, Reason::Malformed].map(Denial::Token);
        assert_eq!(unknown.name(), malformed.name());
        assert_eq!(unknown.message(), malformed.message());
    }
}
