//! Why a command did not do what was asked: clear lines or one JSON object, and an exit code.
//!
//! Every command of `cli` ends in a [`CliError`] or in success; `cli::main` prints it once. A gRPC
//! status is read here, with its details: the stable reason decides the exit code, and missing
//! permissions and bad fields follow one a line. Absent: debug dumps, and secrets.

use std::error::Error as _;
use std::fmt;
use std::process::ExitCode;

use serde::Serialize;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::tls::trouble;

use super::output::clean;

/// The reason of whatever could not be decided, ours and the server's alike.
const UNAVAILABLE: &str = "UNAVAILABLE";

/// What tonic says of answers that are none; a record of TLS is such a one.
const NO_HTTP2: &str = "h2 protocol error";

/// What a script can tell from the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0: allowed, or done.
    Done,
    /// 1: denied, or refused.
    Refused,
    /// 2: the command line, a file or the environment is not usable.
    Usage,
    /// 3: not known: unavailable, too late, or a stale server.
    Unavailable,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Refused => 1,
            Exit::Usage => 2,
            Exit::Unavailable => 3,
        })
    }
}

/// How a command ended when it did not simply succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CliError {
    exit: Exit,
    /// Stable, for scripts: the server's own, or one of ours.
    reason: String,
    /// People are shown the server's reasons only: they are what its papers speak of.
    by_server: bool,
    /// The message, line by line; none when all is told.
    lines: Vec<String>,
    /// Permissions that the calling token lacks, as ACTION@RESOURCE.
    missing: Vec<String>,
    /// How many are missing where a status had no room for all of them.
    missing_in_all: Option<usize>,
    /// Why a login was refused, in one word; people are told it in the message.
    cause: Option<String>,
}

/// One line of JSON on standard error.
#[derive(Serialize)]
struct ErrorView<'a> {
    error: ErrorFields<'a>,
}

#[derive(Serialize)]
struct ErrorFields<'a> {
    reason: &'a str,
    message: String,
    missing: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    missing_in_all: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'a str>,
}

impl CliError {
    /// The answer has been printed; only the exit code is left to tell.
    #[must_use]
    pub(crate) fn told(exit: Exit) -> Self {
        Self {
            lines: Vec::new(),
            ..Self::new(exit, "", "")
        }
    }

    /// Denied or refused, and why.
    pub(crate) fn refused(message: impl fmt::Display) -> Self {
        Self::new(Exit::Refused, "REFUSED", message)
    }

    /// The command line, a file or the environment is not usable, and why.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::new(Exit::Usage, "USAGE", message)
    }

    /// Nothing could be decided, and why.
    pub(crate) fn unavailable(message: impl fmt::Display) -> Self {
        Self::new(Exit::Unavailable, UNAVAILABLE, message)
    }

    fn new(exit: Exit, reason: &str, message: impl fmt::Display) -> Self {
        Self {
            exit,
            reason: reason.to_owned(),
            by_server: false,
            // A message of several lines, such as a place in a file, keeps them.
            lines: message.to_string().lines().map(clean).collect(),
            missing: Vec::new(),
            missing_in_all: None,
            cause: None,
        }
    }

    /// This error with a reason that a script can act on.
    #[must_use]
    pub(crate) fn because(mut self, reason: &'static str) -> Self {
        self.reason = reason.to_owned();
        self
    }

    /// This error with one more line below it.
    #[must_use]
    pub(crate) fn with_line(mut self, line: impl fmt::Display) -> Self {
        self.lines.push(clean(&line.to_string()));
        self
    }

    /// The exit code.
    #[must_use]
    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// What to print on stderr for people, line by line; none when all is told.
    #[must_use]
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = self.lines.clone();
        if let (Some(first), true) = (lines.first_mut(), self.by_server) {
            *first = format!("{first} [{}]", self.reason);
        }
        lines.extend(self.missing.iter().map(|one| format!("missing: {one}")));
        lines.extend(
            self.missing_in_all
                .map(|count| format!("missing in all: {count}")),
        );
        lines
    }

    /// What to print on stderr for scripts, one line; none when all is told.
    #[must_use]
    pub(crate) fn json(&self) -> Option<String> {
        if self.lines.is_empty() {
            return None;
        }
        let view = ErrorView {
            error: ErrorFields {
                reason: &self.reason,
                message: self.lines.join("\n"),
                missing: &self.missing,
                missing_in_all: self.missing_in_all,
                cause: self.cause.as_deref(),
            },
        };
        // Texts alone: nothing in it can fail to be written.
        serde_json::to_string(&view).ok()
    }

    /// What a gRPC status says, with its details.
    #[must_use]
    pub(crate) fn of_status(status: &Status) -> Self {
        // What the server said of our certificate comes with the first call.
        if let Some(what) = status.source().and_then(trouble) {
            return Self::unavailable(what);
        }
        if status.code() == Code::Internal && status.message().starts_with(NO_HTTP2) {
            return Self::unavailable(
                "no gRPC is spoken there; if the server speaks TLS, give https://HOST:PORT and \
                 --ca-file FILE",
            );
        }
        let details = status.get_error_details();
        let info = details.error_info();
        let reason = info.map_or("", |info| info.reason.as_str());
        let message = match status.message() {
            "" => code_words(status.code()),
            text => text,
        };
        let fields = details
            .bad_request()
            .map_or(&[][..], |bad| &bad.field_violations);
        let missing = details
            .precondition_failure()
            .map_or(&[][..], |failure| &failure.violations);
        let missing: Vec<String> = missing
            .iter()
            .filter(|violation| !violation.subject.is_empty())
            .map(|violation| clean(&violation.subject))
            .collect();
        // What is missing follows one a line; the message may list it a second time.
        let message = match message.split_once("; missing:") {
            Some((head, _)) if !missing.is_empty() => head,
            _ => message,
        };
        let fields = fields
            .iter()
            .filter(|field| !message.contains(&field.description))
            .map(|field| clean(&format!("{}: {}", field.field, field.description)));
        let in_all = info.and_then(|info| info.metadata.get("missing")?.parse().ok());
        Self {
            exit: exit_of(reason, status.code()),
            reason: match reason {
                "" => code_reason(status.code()).to_owned(),
                reason => clean(reason),
            },
            by_server: !reason.is_empty(),
            lines: std::iter::once(clean(message)).chain(fields).collect(),
            missing,
            missing_in_all: in_all,
            cause: info.and_then(|info| Some(clean(info.metadata.get("cause")?))),
        }
    }
}

impl From<Status> for CliError {
    fn from(status: Status) -> Self {
        Self::of_status(&status)
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().join("\n"))
    }
}

/// The stable reason decides; the code is what is left for servers and proxies that give none.
fn exit_of(reason: &str, code: Code) -> Exit {
    match reason {
        UNAVAILABLE | "RATE_LIMITED" | "OUTCOME_UNKNOWN" | "NOT_REACHED" | "HISTORY_DIVERGED" => {
            Exit::Unavailable
        }
        "INVALID_ARGUMENT" => Exit::Usage,
        "UNAUTHENTICATED"
        | "LOGIN_REFUSED"
        | "PERMISSION_DENIED"
        | "BOUNDARY"
        | "NOT_FOUND"
        | "ALREADY_EXISTS"
        | "CONFLICT"
        | "FAILED_PRECONDITION"
        | "LIMIT_EXCEEDED"
        | "TRIMMED"
        | "REQUEST_ID_REUSED" => Exit::Refused,
        _ => match code {
            Code::Ok => Exit::Done,
            Code::InvalidArgument | Code::OutOfRange => Exit::Usage,
            Code::Unauthenticated
            | Code::PermissionDenied
            | Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition => Exit::Refused,
            _ => Exit::Unavailable,
        },
    }
}

/// The stable reason of a status that carries none: a proxy made it, or the channel itself.
fn code_reason(code: Code) -> &'static str {
    match code {
        Code::InvalidArgument | Code::OutOfRange => "INVALID_ARGUMENT",
        Code::Unauthenticated => "UNAUTHENTICATED",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Unimplemented => "UNIMPLEMENTED",
        _ => UNAVAILABLE,
    }
}

fn code_words(code: Code) -> &'static str {
    match code {
        Code::Unauthenticated => "the call needs a valid token",
        Code::PermissionDenied => "not permitted",
        Code::NotFound => "not found",
        Code::DeadlineExceeded | Code::Cancelled => "no answer before the deadline",
        Code::Unavailable => "the server is unavailable",
        Code::Unimplemented => "the server does not know this call",
        _ => "the call failed",
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::{ErrorDetails, PreconditionViolation};

    use super::*;

    #[test]
    fn every_status_has_the_documented_exit_code() {
        let check = |code, reason: &str, expected| {
            let status = if reason.is_empty() {
                Status::new(code, "words")
            } else {
                let details = ErrorDetails::with_error_info(
                    reason,
                    "latchkey",
                    std::collections::HashMap::new(),
                );
                Status::with_error_details(code, "words", details)
            };
            assert_eq!(CliError::from(status).exit(), expected, "{code:?} {reason}");
        };
        check(Code::PermissionDenied, "PERMISSION_DENIED", Exit::Refused);
        check(Code::PermissionDenied, "BOUNDARY", Exit::Refused);
        check(Code::Unauthenticated, "UNAUTHENTICATED", Exit::Refused);
        check(Code::NotFound, "NOT_FOUND", Exit::Refused);
        check(Code::ResourceExhausted, "LIMIT_EXCEEDED", Exit::Refused);
        check(Code::ResourceExhausted, "RATE_LIMITED", Exit::Unavailable);
        check(Code::Aborted, "CONFLICT", Exit::Refused);
        check(Code::Aborted, "HISTORY_DIVERGED", Exit::Unavailable);
        check(Code::DeadlineExceeded, "NOT_REACHED", Exit::Unavailable);
        check(Code::Unavailable, "UNAVAILABLE", Exit::Unavailable);
        check(Code::Unknown, "OUTCOME_UNKNOWN", Exit::Unavailable);
        check(Code::InvalidArgument, "INVALID_ARGUMENT", Exit::Usage);
        check(Code::InvalidArgument, "", Exit::Usage);
        check(Code::ResourceExhausted, "", Exit::Unavailable);
        check(Code::DeadlineExceeded, "", Exit::Unavailable);
        check(Code::Cancelled, "", Exit::Unavailable);
        check(Code::Internal, "", Exit::Unavailable);
    }

    #[test]
    fn missing_permissions_follow_one_a_line() {
        let mut details =
            ErrorDetails::with_error_info("BOUNDARY", "latchkey", std::collections::HashMap::new());
        let violation = |subject: &str| PreconditionViolation::new("PERMISSION", subject, "words");
        details.set_precondition_failure(vec![violation("a:x@r"), violation("a:y@r/**")]);
        let status = Status::with_error_details(
            Code::PermissionDenied,
            "more than held; missing: a:x@r, a:y@r/**",
            details,
        );
        let error = CliError::from(status);
        assert_eq!(
            error.lines(),
            [
                "more than held [BOUNDARY]",
                "missing: a:x@r",
                "missing: a:y@r/**"
            ]
        );
        assert_eq!(
            error.json().as_deref(),
            Some(
                r#"{"error":{"reason":"BOUNDARY","message":"more than held","missing":["a:x@r","a:y@r/**"]}}"#
            )
        );
    }

    #[test]
    fn what_a_status_had_no_room_for_is_counted() {
        let metadata = [("missing".to_owned(), "70".to_owned())];
        let mut details = ErrorDetails::with_error_info("BOUNDARY", "latchkey", metadata);
        let violation = PreconditionViolation::new("PERMISSION", "a:x@r", "words");
        details.set_precondition_failure(vec![violation]);
        let status = Status::with_error_details(Code::PermissionDenied, "words", details);
        let error = CliError::from(status);
        assert_eq!(
            error.lines().last().map(String::as_str),
            Some("missing in all: 70")
        );
        assert_eq!(
            error.json().as_deref(),
            Some(
                r#"{"error":{"reason":"BOUNDARY","message":"words","missing":["a:x@r"],"missing_in_all":70}}"#
            )
        );
    }

    #[test]
    fn the_cause_of_a_refused_login_is_a_field_of_its_own() {
        let metadata = [("cause".to_owned(), "revoked".to_owned())];
        let details = ErrorDetails::with_error_info("LOGIN_REFUSED", "latchkey", metadata);
        let status = Status::with_error_details(Code::Unauthenticated, "words", details);
        let error = CliError::from(status);
        assert_eq!(error.lines(), ["words [LOGIN_REFUSED]"]);
        assert_eq!(
            error.json().as_deref(),
            Some(
                r#"{"error":{"reason":"LOGIN_REFUSED","message":"words","missing":[],"cause":"revoked"}}"#
            )
        );
    }

    #[test]
    fn every_error_has_a_reason_and_what_is_told_has_no_line() {
        let check = |error: CliError, reason: &str| {
            let line = error.json().expect("a line");
            let read: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            assert_eq!(read["error"]["reason"], reason);
            assert!(!line.contains('\n'), "{line}");
        };
        check(CliError::usage("a\nb"), "USAGE");
        check(CliError::refused("a"), "REFUSED");
        check(CliError::refused("a").because("OLDER_COPY"), "OLDER_COPY");
        check(CliError::unavailable("a"), "UNAVAILABLE");
        check(Status::deadline_exceeded("a").into(), "UNAVAILABLE");
        check(Status::not_found("a").into(), "NOT_FOUND");
        check(Status::unimplemented("a").into(), "UNIMPLEMENTED");
        assert_eq!(CliError::told(Exit::Done).json(), None);
    }

    #[test]
    fn control_characters_of_a_server_never_reach_the_terminal() {
        let error = CliError::from(Status::not_found("\u{1b}[31mred"));
        assert!(!error.to_string().contains('\u{1b}'));
    }
}
