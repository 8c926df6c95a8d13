//! Calls as spans, by OpenTelemetry's names for RPC.
//!
//! Two ways: a question's span is made whole when it is answered, without `tracing`; a management
//! call's is begun before it, so that what is done for it lies within. Attributes are facts that
//! an access line has, too: never a secret, and texts of clients cut and masked.

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;
use tonic::codegen::http::HeaderMap;
use tracing::Span;

use crate::domain::clock::unix_nanos;
use crate::domain::token::TokenKind;
use crate::telemetry::access::{Denied, Line, masked};
use crate::telemetry::context::Parent;
use crate::telemetry::spans::CallSpan;
use crate::telemetry::tracer;

use super::super::auth::{Calling, RefusedLogin};
use super::super::metrics::Way;
use super::{Ended, Facts, Joined, Observer, Who};

pub(super) const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";
/// Characters of what a caller may write beside its trace (W3C Trace Context, section 3.3.1.5).
const STATE_CHARS_MAX: usize = 512;

/// Characters of a name that anybody may send.
const CLIENT_ID_CHARS_MAX: usize = 128;

/// What is a failure of the server's and not of its caller's.
const FAILURES: [&str; 6] = [
    "UNKNOWN",
    "DEADLINE_EXCEEDED",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
];

/// The trace that a caller says its call is of.
pub(in super::super) fn parent_in(headers: &HeaderMap) -> Option<Parent> {
    Parent::read(headers.get(TRACEPARENT)?.as_bytes())
}

pub(super) fn state_in(headers: &HeaderMap) -> String {
    let mut state = String::new();
    for line in headers.get_all(TRACESTATE) {
        let comma = if state.is_empty() { "" } else { "," };
        let Ok(line) = line.to_str() else {
            return String::new();
        };
        state.extend([comma, line]);
    }
    // Cut anywhere it would say something else.
    if state.len() > STATE_CHARS_MAX {
        state.clear();
    }
    masked(&state, STATE_CHARS_MAX)
}

fn method(way: Way) -> &'static str {
    const BATCH: &str = "latchkey.v1.CheckService/BatchCheck";
    const STREAM: &str = "latchkey.v1.CheckService/StreamCheck";
    const UNARY: &str = "latchkey.v1.CheckService/Check";
    match way {
        Way::Check => UNARY,
        Way::Batch => BATCH,
        Way::Stream => STREAM,
        Way::Envoy => "envoy.service.auth.v3.Authorization/Check",
    }
}

/// The span of a question that was answered now.
pub(super) fn span(
    id: [u8; 8],
    joined: &Joined,
    ended: &Ended,
    facts: &Facts,
    who: &Who,
    took: Duration,
) -> CallSpan {
    let method = method(ended.way);
    let mut attributes = vec![
        ("rpc.system.name", "grpc".to_owned()),
        ("rpc.method", method.to_owned()),
        ("rpc.response.status_code", ended.code.to_owned()),
    ];
    let failed = FAILURES.contains(&ended.code);
    let mut told = |name, value: Option<String>| {
        attributes.extend(value.filter(|value| !value.is_empty()).map(|it| (name, it)));
    };
    told("error.type", failed.then(|| ended.code.to_owned()));
    told("latchkey.reason", Some(ended.reason.to_owned()));
    let kind = facts.kind.map(TokenKind::name).map(str::to_owned);
    told("latchkey.token.kind", kind);
    told("latchkey.token.id", facts.token.map(|id| id.to_string()));
    told("latchkey.subject", facts.subject.clone());
    told("latchkey.needs", Some(facts.needs.clone()));
    told("latchkey.request_id", Some(who.request_id.clone()));
    let (http_method, path) = facts.http.clone().unzip();
    told("http.request.method", http_method);
    told("url.path", path);
    let text = |address: IpAddr| address.to_string();
    told("client.address", facts.client.or(who.peer).map(text));
    told("network.peer.address", who.peer.map(text));
    let checks = facts.checks.and_then(|checks| i64::try_from(checks).ok());
    let ended_ns = unix_nanos();
    let took_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
    CallSpan {
        trace: joined.trace,
        span: id,
        parent: joined.parent,
        state: joined.state.clone(),
        method,
        began_ns: ended_ns.saturating_sub(took_ns),
        ended_ns,
        attributes,
        numbers: checks
            .map(|checks| ("latchkey.checks", checks))
            .into_iter()
            .collect(),
        failed,
    }
}

/// The span of a management call, begun; none where none is made.
pub(in super::super) struct Called(Span);

impl Called {
    /// Where what is done for the call belongs.
    pub(in super::super) fn span(&self) -> Span {
        self.0.clone()
    }

    /// Takes note of how it ended.
    pub(in super::super) fn ended(&self, code: &str, reason: &str, token_id: &str) {
        if self.0.is_none() {
            return;
        }
        self.0.record("rpc.response.status_code", code);
        for (name, value) in [("latchkey.reason", reason), ("latchkey.token.id", token_id)] {
            if !value.is_empty() {
                self.0.record(name, value);
            }
        }
        if FAILURES.contains(&code) {
            self.0.record("error.type", code);
            self.0.record("otel.status_code", "ERROR");
        }
    }
}

/// A management call that was denied: to whom it was not said who calls, or who may not.
pub(in super::super) struct DeniedCall<'a> {
    /// `Service/Method`.
    pub(in super::super) method: &'a str,
    pub(in super::super) reason: &'a str,
    pub(in super::super) who: Who,
    pub(in super::super) calling: &'a Calling,
    pub(in super::super) came: Instant,
}

impl Observer {
    /// Tells of a call that was denied, as of so many in a second.
    #[cold]
    pub(in super::super) fn tell_denied(&self, denied: DeniedCall<'_>) {
        let DeniedCall {
            method,
            reason,
            who,
            calling,
            came,
        } = denied;
        let Some(access) = &self.0.access else {
            return;
        };
        if !access.admit(Denied::Call, came) {
            return;
        }
        let login = calling.login();
        let told = |login: &RefusedLogin| masked(&login.client_id, CLIENT_ID_CHARS_MAX);
        let line = Line {
            method: method.to_owned().into(),
            reason: reason.to_owned().into(),
            token: calling.token(),
            client_id: login.map(told),
            outcome: login.map(|login| login.outcome),
            ..Line::default()
        };
        access.write(self.asked_by(line, who, came.elapsed()));
    }

    /// Begins a management call of this method, `package.Service/Method`.
    pub(in super::super) fn called(
        &self,
        method: &str,
        headers: &HeaderMap,
        peer: Option<IpAddr>,
    ) -> Called {
        if !self.traces() {
            return Called(Span::none());
        }
        let parent = parent_in(headers);
        let wanted = match parent {
            Some(parent) => self.traces_asked(parent, Instant::now()),
            None => self.samples(self.0.traces),
        };
        if !wanted {
            return Called(Span::none());
        }
        let state = state_in(headers);
        let span = tracer::call(method, parent.map(|parent| (parent, state.as_str())));
        if let Some(peer) = peer {
            span.record("client.address", peer.to_string());
        }
        Called(span)
    }
}
