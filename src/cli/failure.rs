//! Why a command did not do what was asked, as one clear line and an exit code for scripts.
//!
//! Every command of `cli` ends in a [`CliError`] or in success; `cli::main` prints it once. A gRPC
//! status is read here, with its details: the stable reason decides the exit code, and missing
//! permissions and bad fields follow one a line. Absent: debug dumps, and secrets.

use std::fmt;
use std::process::ExitCode;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::output::clean;

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
    lines: Vec<String>,
}

impl CliError {
    /// The answer has been printed; only the exit code is left to tell.
    #[must_use]
    pub(crate) fn told(exit: Exit) -> Self {
        Self {
            exit,
            lines: Vec::new(),
        }
    }

    /// Denied or refused, and why.
    pub(crate) fn refused(message: impl fmt::Display) -> Self {
        Self::new(Exit::Refused, message)
    }

    /// The command line, a file or the environment is not usable, and why.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Nothing could be decided, and why.
    pub(crate) fn unavailable(message: impl fmt::Display) -> Self {
        Self::new(Exit::Unavailable, message)
    }

    fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self {
            exit,
            // A message of several lines, such as a place in a file, keeps them.
            lines: message.to_string().lines().map(clean).collect(),
        }
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

    /// What to print on stderr, line by line; none when all is told.
    #[must_use]
    pub(crate) fn lines(&self) -> &[String] {
        &self.lines
    }

    /// What a gRPC status says, with its details.
    #[must_use]
    pub(crate) fn of_status(status: &Status) -> Self {
        let details = status.get_error_details();
        let reason = details.error_info().map_or("", |info| info.reason.as_str());
        let exit = exit_of(reason, status.code());
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
            .map(|violation| format!("missing: {}", violation.subject))
            .collect();
        // What is missing follows one a line; the message may list it a second time.
        let message = match message.split_once("; missing:") {
            Some((head, _)) if !missing.is_empty() => head,
            _ => message,
        };
        let mut lines = vec![if reason.is_empty() {
            message.to_owned()
        } else {
            format!("{message} [{reason}]")
        }];
        let fields = fields
            .iter()
            .filter(|field| !message.contains(&field.description))
            .map(|field| format!("{}: {}", field.field, field.description));
        let cut = details
            .error_info()
            .and_then(|info| info.metadata.get("missing"));
        let cut = cut.map(|count| format!("missing in all: {count}"));
        lines.extend(fields.chain(missing.iter().cloned()).chain(cut));
        let lines = lines.iter().map(|line| clean(line)).collect();
        Self { exit, lines }
    }
}

impl From<Status> for CliError {
    fn from(status: Status) -> Self {
        Self::of_status(&status)
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join("\n"))
    }
}

/// The stable reason decides; the code is what is left for servers and proxies that give none.
fn exit_of(reason: &str, code: Code) -> Exit {
    match reason {
        "UNAVAILABLE" | "OUTCOME_UNKNOWN" | "NOT_REACHED" | "HISTORY_DIVERGED" => Exit::Unavailable,
        "INVALID_ARGUMENT" => Exit::Usage,
        "UNAUTHENTICATED"
        | "PERMISSION_DENIED"
        | "BOUNDARY"
        | "NOT_FOUND"
        | "ALREADY_EXISTS"
        | "CONFLICT"
        | "FAILED_PRECONDITION"
        | "LIMIT_EXCEEDED"
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
    }

    #[test]
    fn control_characters_of_a_server_never_reach_the_terminal() {
        let error = CliError::from(Status::not_found("\u{1b}[31mred"));
        assert!(!error.to_string().contains('\u{1b}'));
    }
}
