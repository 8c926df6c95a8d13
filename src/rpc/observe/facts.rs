//! The facts of a decision that are told: about the token, what was asked, and who asked.
//!
//! Gathered only where something is told. Texts that a client has chosen are cut and masked, and a
//! path is told without its query, which is where secrets are put that should not be.

use std::net::IpAddr;

use tonic::codegen::http::{Extensions, HeaderMap};

use crate::authority::check::{CheckRequest, Seen};
use crate::domain::token::{TokenId, TokenKind};
use crate::telemetry::access::masked;
use crate::telemetry::context::Parent;

use super::super::auth::Peer;
use super::call::parent_in;

const NEEDS_CHARS_MAX: usize = 512;
const PATH_CHARS_MAX: usize = 256;
const METHOD_CHARS_MAX: usize = 32;
const REQUEST_ID_CHARS_MAX: usize = 128;
const REQUEST_ID: &str = "x-request-id";

/// What is told of a decision.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Facts {
    pub(in super::super) kind: Option<TokenKind>,
    pub(in super::super) token: Option<TokenId>,
    pub(in super::super) subject: Option<String>,
    pub(in super::super) needs: String,
    pub(in super::super) client: Option<IpAddr>,
    // Method and path of the request that Envoy asks about.
    pub(in super::super) http: Option<(String, String)>,
    // Questions of a batch.
    pub(in super::super) checks: Option<usize>,
}

impl Facts {
    /// Of a question that was decided about this token, if its caller may learn of it.
    #[cold]
    pub(in super::super) fn of(request: &CheckRequest<'_>, seen: Option<&Seen<'_>>) -> Self {
        let mut needs = String::new();
        for need in request.needs {
            if needs.len() > NEEDS_CHARS_MAX {
                break;
            }
            let blank = if needs.is_empty() { "" } else { " " };
            needs.extend([blank, need.action(), "@", need.resource()]);
        }
        Self {
            kind: seen.map(|seen| seen.kind),
            token: seen.map(|seen| seen.id),
            subject: seen.map(|seen| seen.subject.to_owned()),
            needs: masked(&needs, NEEDS_CHARS_MAX),
            client: request.context.client_ip,
            ..Self::default()
        }
    }

    /// Takes note of the request that Envoy asks about.
    pub(in super::super) fn note_request(&mut self, method: &[u8], path: &[u8]) {
        let ends = path.iter().position(|byte| matches!(byte, b'?' | b'#'));
        let path = &path[..ends.unwrap_or(path.len())];
        let told = |bytes, most| masked(&String::from_utf8_lossy(bytes), most);
        self.http = Some((told(method, METHOD_CHARS_MAX), told(path, PATH_CHARS_MAX)));
    }
}

/// Who asked.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Who {
    pub(in super::super) peer: Option<IpAddr>,
    // As it may be told; empty if it has none.
    pub(in super::super) request_id: String,
    // The trace that it says it is of, recorded or not.
    pub(in super::super) trace: Option<Parent>,
}

impl Who {
    /// By the parts of a call.
    pub(in super::super) fn of(headers: &HeaderMap, extensions: &Extensions) -> Self {
        let id = headers.get(REQUEST_ID).map(|id| id.as_bytes());
        Self::called(id.unwrap_or_default(), parent_in(headers), extensions)
    }

    /// By the parts of a call about a request with this id, of this trace.
    pub(in super::super) fn called(
        request_id: &[u8],
        trace: Option<Parent>,
        extensions: &Extensions,
    ) -> Self {
        Self {
            trace,
            peer: extensions.get::<Peer>().map(|peer| peer.address),
            request_id: masked(&String::from_utf8_lossy(request_id), REQUEST_ID_CHARS_MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: &str) {
        let mut facts = Facts::default();
        facts.note_request(b"GET", path.as_bytes());
        assert_eq!(facts.http.unwrap().1, expected, "{path}");
    }

    #[test]
    fn a_path_is_told_without_its_query_and_without_tokens() {
        check("/a/b", "/a/b");
        check("/a?token=lku_0123456789abcdef", "/a");
        check("/a#b", "/a");
        check("/lku_0123456789abcdef/b", "/lku_***/b");
        check("", "");
        check(&"a".repeat(300), &"a".repeat(256));
    }
}
