//! Refusals as gRPC statuses: the one file that makes codes.
//!
//! Used by every service. Each status carries google.rpc.ErrorInfo with the domain `latchkey` and
//! a stable reason; callers act on these, texts are for people. Absent on purpose: anything that
//! a refusal does not say, such as a driver's words, a backtrace or a secret.

use std::collections::HashMap;

use tonic::codegen::http::{HeaderMap, Response};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, PreconditionViolation, StatusExt as _};

use crate::domain::permission::Permission;
use crate::domain::refusal::Refusal;

/// How a call ends that nobody vouches for.
pub(super) const UNAUTHENTICATED: &str = "UNAUTHENTICATED";
/// How a call ends of somebody who may not.
pub(super) const PERMISSION_DENIED: &str = "PERMISSION_DENIED";
/// The reason of what comes too fast.
pub(super) const RATE_LIMITED: &str = "RATE_LIMITED";

const DOMAIN: &str = "latchkey";

// A status travels in headers, and common clients take 8 KiB of those: what is cut is counted.
const MESSAGE_BYTES_MAX: usize = 1_024;
const MISSING_BYTES_MAX: usize = 3_072;
// What stands before the permissions in a refusal's text.
const LIST: &str = "missing: ";
// The constant texts of a violation with their tags.
const VIOLATION_BYTES: usize = 48;

/// Refuses one field of a request.
pub(super) fn invalid(field: &'static str, what: impl ToString) -> Refusal {
    Refusal::invalid(field, what)
}

/// Code and stable reason of a refusal.
fn mapped(refusal: &Refusal) -> (Code, &'static str) {
    match refusal {
        Refusal::Invalid { .. } => (Code::InvalidArgument, "INVALID_ARGUMENT"),
        Refusal::Unauthenticated => (Code::Unauthenticated, UNAUTHENTICATED),
        Refusal::LoginRefused(_) => (Code::Unauthenticated, "LOGIN_REFUSED"),
        Refusal::NotPermitted(_) => (Code::PermissionDenied, PERMISSION_DENIED),
        Refusal::PeerNotAllowed => (Code::PermissionDenied, "PEER_NOT_ALLOWED"),
        Refusal::Boundary(_) => (Code::PermissionDenied, "BOUNDARY"),
        Refusal::NotAMember => (Code::PermissionDenied, "NOT_A_MEMBER"),
        Refusal::NotFound(_) => (Code::NotFound, "NOT_FOUND"),
        Refusal::AlreadyExists(_) => (Code::AlreadyExists, "ALREADY_EXISTS"),
        Refusal::Conflict(_) => (Code::Aborted, "CONFLICT"),
        Refusal::Precondition(_) => (Code::FailedPrecondition, "FAILED_PRECONDITION"),
        Refusal::Limit(_) => (Code::ResourceExhausted, "LIMIT_EXCEEDED"),
        Refusal::RateLimited { .. } => (Code::ResourceExhausted, RATE_LIMITED),
        Refusal::RequestIdReused => (Code::InvalidArgument, "REQUEST_ID_REUSED"),
        Refusal::Unavailable(_) => (Code::Unavailable, "UNAVAILABLE"),
        Refusal::OutcomeUnknown => (Code::Unknown, "OUTCOME_UNKNOWN"),
        Refusal::NotReached(_) => (Code::DeadlineExceeded, "NOT_REACHED"),
        Refusal::Trimmed { .. } => (Code::OutOfRange, "TRIMMED"),
        Refusal::OtherHistory(_) => (Code::Aborted, "HISTORY_DIVERGED"),
    }
}

/// The code of what did not fail.
pub(super) const OK: &str = "OK";
/// The code of what another server may do.
pub(super) const UNAVAILABLE: &str = "UNAVAILABLE";

/// The name of a refusal's code, and its stable reason.
pub(super) fn how(refusal: &Refusal) -> (&'static str, &'static str) {
    let (code, reason) = mapped(refusal);
    (name(code), reason)
}

/// The stable reason of a refusal.
pub(super) fn reason(refusal: &Refusal) -> &'static str {
    mapped(refusal).1
}

/// The status that a caller gets for a refusal.
pub(super) fn status(refusal: Refusal) -> Status {
    let (code, reason) = mapped(&refusal);
    let message = message(&refusal);
    let mut details = ErrorDetails::new();
    let mut metadata = HashMap::new();
    match &refusal {
        Refusal::Invalid { field, what } => {
            details.add_bad_request_violation(*field, what.as_str());
        }
        Refusal::NotPermitted(missing) | Refusal::Boundary(missing) => {
            let told = violations(missing);
            if told.len() < missing.len() {
                metadata.insert("missing".to_owned(), missing.len().to_string());
            }
            details.set_precondition_failure(told);
        }
        Refusal::LoginRefused(Some(cause)) => {
            metadata.insert("cause".to_owned(), cause.name().to_owned());
        }
        Refusal::RateLimited { again, .. } => {
            details.set_retry_info(Some(*again));
        }
        Refusal::Precondition(what) => {
            details.add_precondition_failure_violation("STATE", "", what.as_str());
        }
        _ => {}
    }
    details.set_error_info(reason, DOMAIN, metadata);
    Status::with_error_details(code, message, details)
}

/// One violation for each missing permission, as many as fit.
fn violations(missing: &[Permission]) -> Vec<PreconditionViolation> {
    let mut left = MISSING_BYTES_MAX;
    let fitting = missing.iter().map_while(|permission| {
        let subject = permission.to_string();
        left = left.checked_sub(subject.len() + VIOLATION_BYTES)?;
        Some(PreconditionViolation::new(
            "PERMISSION",
            subject,
            "not held by the calling token",
        ))
    });
    fitting.collect()
}

/// The refusal's text, as much as fits; of a long list whole permissions, and how many more.
fn message(refusal: &Refusal) -> String {
    let text = refusal.to_string();
    let (Refusal::NotPermitted(missing) | Refusal::Boundary(missing)) = refusal else {
        return shortened(text);
    };
    let Some((said, _)) = text
        .split_once(LIST)
        .filter(|_| text.len() > MESSAGE_BYTES_MAX)
    else {
        return text;
    };
    let mut message = format!("{said}{LIST}");
    let more = |left: usize| format!("and {left} more");
    let room = MESSAGE_BYTES_MAX - more(missing.len()).len();
    for (told, permission) in missing.iter().enumerate() {
        let next = format!("{permission}, ");
        if message.len() + next.len() > room {
            message.push_str(&more(missing.len() - told));
            break;
        }
        message.push_str(&next);
    }
    message
}

fn shortened(mut text: String) -> String {
    if text.len() > MESSAGE_BYTES_MAX {
        text.truncate(text.floor_char_boundary(MESSAGE_BYTES_MAX));
        text.push('…');
    }
    text
}

/// A refusal inside a stream that goes on: code as a number, reason, text.
pub(super) fn told(refusal: &Refusal) -> (i32, &'static str, String) {
    let (code, reason) = mapped(refusal);
    (code as i32, reason, message(refusal))
}

/// A refusal as a whole answer, where no service has been reached.
pub(super) fn response<B: Default>(refusal: Refusal) -> Response<B> {
    status(refusal).into_http()
}

/// How a call ended, for metrics and logs: the code's name and, of a failure, its stable reason.
///
/// Unary calls that fail say so in the first headers; a stream that fails later counts as begun.
pub(super) fn ended(headers: &HeaderMap) -> (&'static str, Option<String>) {
    let Some(status) = Status::from_header_map(headers) else {
        return (name(Code::Ok), None);
    };
    let reason = status.get_details_error_info().map(|info| info.reason);
    (name(status.code()), reason)
}

/// The code's name as the gRPC specification writes it.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => OK,
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => PERMISSION_DENIED,
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => UNAVAILABLE,
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => UNAUTHENTICATED,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::chain::Revision;
    use crate::domain::login::LoginCause;
    use crate::domain::reason::Reason;

    fn missing() -> Vec<Permission> {
        let parse = |action, resource| Permission::parse(action, resource).unwrap();
        vec![
            parse("secrets:read", "acme/web/**"),
            parse("tokens:issue", "acme"),
        ]
    }

    fn check(refusal: Refusal, code: Code, reason: &str) {
        let text = refusal.to_string();
        let status = status(refusal.clone());
        assert_eq!(status.code(), code, "{refusal:?}");
        assert_eq!(status.message(), text);
        let info = status.get_details_error_info().unwrap();
        assert_eq!(
            (info.domain.as_str(), info.reason.as_str()),
            (DOMAIN, reason)
        );
        assert_eq!(told(&refusal), (code as i32, mapped(&refusal).1, text));
        let answer: Response<()> = response(refusal);
        assert_eq!(
            ended(answer.headers()),
            (name(code), Some(reason.to_owned()))
        );
    }

    #[test]
    fn who_is_too_fast_is_told_when_to_come_again() {
        let again = Duration::from_millis(201);
        let refusal = Refusal::RateLimited {
            what: "calls",
            again,
        };
        check(refusal.clone(), Code::ResourceExhausted, "RATE_LIMITED");
        let status = status(refusal);
        assert!(
            status.message().ends_with("try again in 0.3 s"),
            "{status:?}"
        );
        let retry = status.get_details_retry_info().expect("when");
        assert_eq!(retry.retry_delay, Some(again));
    }

    #[test]
    fn every_refusal_has_one_code_and_one_stable_reason() {
        let revision = Revision {
            number: 7,
            chain: [1; 8],
        };
        let text = || "text".to_owned();
        let permission_denied = Code::PermissionDenied;
        check(
            invalid("name", "is empty"),
            Code::InvalidArgument,
            "INVALID_ARGUMENT",
        );
        check(
            Refusal::Unauthenticated,
            Code::Unauthenticated,
            "UNAUTHENTICATED",
        );
        check(
            Refusal::LoginRefused(None),
            Code::Unauthenticated,
            "LOGIN_REFUSED",
        );
        check(
            Refusal::NotPermitted(missing()),
            permission_denied,
            "PERMISSION_DENIED",
        );
        check(Refusal::Boundary(missing()), permission_denied, "BOUNDARY");
        check(Refusal::NotAMember, permission_denied, "NOT_A_MEMBER");
        check(Refusal::NotFound("token"), Code::NotFound, "NOT_FOUND");
        check(
            Refusal::AlreadyExists("user"),
            Code::AlreadyExists,
            "ALREADY_EXISTS",
        );
        check(Refusal::Conflict(text()), Code::Aborted, "CONFLICT");
        check(
            Refusal::Precondition(text()),
            Code::FailedPrecondition,
            "FAILED_PRECONDITION",
        );
        check(
            Refusal::Limit(text()),
            Code::ResourceExhausted,
            "LIMIT_EXCEEDED",
        );
        check(
            Refusal::RequestIdReused,
            Code::InvalidArgument,
            "REQUEST_ID_REUSED",
        );
        check(
            Refusal::Unavailable(text()),
            Code::Unavailable,
            "UNAVAILABLE",
        );
        check(Refusal::OutcomeUnknown, Code::Unknown, "OUTCOME_UNKNOWN");
        check(
            Refusal::NotReached(revision),
            Code::DeadlineExceeded,
            "NOT_REACHED",
        );
        check(
            Refusal::OtherHistory(revision),
            Code::Aborted,
            "HISTORY_DIVERGED",
        );
    }

    #[test]
    fn the_cause_of_a_refused_login_is_told_to_programs_unless_it_is_a_guess() {
        let cause = |cause| {
            let info = status(Refusal::LoginRefused(cause)).get_details_error_info();
            info.expect("details").metadata.get("cause").cloned()
        };
        let revoked = LoginCause::Credential(Reason::Revoked);
        assert_eq!(cause(Some(revoked)).as_deref(), Some("revoked"));
        assert_eq!(cause(None), None);
    }

    #[test]
    fn a_boundary_lists_exactly_what_is_missing() {
        let failure = status(Refusal::Boundary(missing())).get_details_precondition_failure();
        let violations = failure.unwrap().violations;
        let subjects: Vec<&str> = violations.iter().map(|one| one.subject.as_str()).collect();
        assert_eq!(subjects, ["secrets:read@acme/web/**", "tokens:issue@acme"]);
        assert!(violations.iter().all(|one| one.r#type == "PERMISSION"));
    }

    #[test]
    fn a_status_fits_the_headers_that_clients_take() {
        let missing = vec![missing()[0].clone(); 256];
        let status = status(Refusal::Boundary(missing));
        let told = status
            .get_details_precondition_failure()
            .unwrap()
            .violations;
        assert!(!told.is_empty());
        let info = status.get_details_error_info().unwrap();
        assert_eq!(info.metadata["missing"], "256");
        let listed = status.message().matches("secrets:read@acme/web/**").count();
        let marked = format!("secrets:read@acme/web/**, and {} more", 256 - listed);
        assert!(status.message().ends_with(&marked), "{}", status.message());
        assert!(status.message().len() <= MESSAGE_BYTES_MAX);
        assert!(status.message().len() + status.details().len() * 4 / 3 < 7_000);
    }

    #[test]
    fn a_permission_too_long_for_the_message_is_counted_too() {
        let long = format!("acme/{}", vec!["x".repeat(120); 8].join("/"));
        let missing = vec![Permission::parse("secrets:read", &long).unwrap(); 2];
        let status = status(Refusal::NotPermitted(missing));
        assert!(status.message().ends_with("missing: and 2 more"));
        let told = status.get_details_precondition_failure().unwrap();
        assert_eq!(told.violations.len(), 2, "the details have more room");
    }

    #[test]
    fn an_invalid_argument_names_its_field() {
        let request = status(invalid("reason", "is empty")).get_details_bad_request();
        let violations = request.unwrap().field_violations;
        assert_eq!(violations.len(), 1);
        assert_eq!(
            (&*violations[0].field, &*violations[0].description),
            ("reason", "is empty")
        );
    }
}
