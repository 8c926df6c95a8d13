//! Answers to Envoy by their bytes: a request passes, or it does not.
//!
//! ```text
//! allowed ─► status OK, identity headers that replace, names to take away, metadata
//! denied  ─► status that is never OK, HTTP status, challenge, body, metadata
//! ```
//!
//! Used by `service`. To Envoy a status that is unset is OK whatever else is said, so one function
//! makes denials, from a type that has no OK. A header without `append` is added beside the
//! client's own, so each has an explicit `append: false`, and identity headers that are not set
//! are taken away. Numbers are those of proto/envoy; tests read the answers with prost.

use std::io::Write as _;
use std::sync::LazyLock;

use jiff::Timestamp;

use crate::authority::check::Seen;
use crate::config::Envoy;
use crate::domain::chain::Revision;
use crate::domain::permission::Need;

use super::super::fields::{
    Form, HEAD_BYTES, end_body, put_long, put_message, put_number, put_text,
};
use super::super::question::Told;
use super::denial::{Challenge, Denial};
use super::headers::Headers;

/// Room for a usual answer; it grows when it must.
const ANSWER_BYTES: usize = 1_024;
/// Bytes of scopes that a service is told; longer ones are not, and it asks for itself.
const SCOPES_BYTES_MAX: usize = 2_048;
/// Bytes of a request id that is repeated.
const REQUEST_ID_BYTES_MAX: usize = 128;
/// Tells a client that its token ends soon.
const EXPIRES_AT: &str = "x-latchkey-token-expires-at";
/// When a client may try again where it was not the token's fault, in seconds.
const RETRY_AFTER_S: &str = "1";

/// What a service is told of the token, each in a header of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Identity {
    Subject,
    TokenId,
    Kind,
    Scopes,
    Revision,
}

/// How answers look: what the operator sets of them.
#[derive(Debug)]
pub(super) struct Style {
    identity: Vec<(Identity, Box<str>, Form)>,
    realm: Box<str>,
    strips_credential: bool,
    expires_soon_ms: Option<u64>,
}

/// A request that does not pass.
#[derive(Clone, Copy)]
pub(super) struct Refused<'a> {
    /// Why.
    pub(super) denial: Denial,
    /// What it needed, where that is known.
    pub(super) need: Option<Need<'a>>,
    /// What may be told of the token, if one was judged.
    pub(super) told: Option<&'a Told<'a>>,
    /// Whether a gRPC client asks.
    pub(super) grpc: bool,
    /// What the request is called.
    pub(super) request_id: &'a [u8],
}

impl Style {
    pub(super) fn of(settings: &Envoy) -> Self {
        let names = &settings.headers;
        let identity = [
            (Identity::Subject, &names.subject),
            (Identity::TokenId, &names.token_id),
            (Identity::Kind, &names.kind),
            (Identity::Scopes, &names.scopes),
            (Identity::Revision, &names.revision),
        ];
        let set = identity.into_iter().filter(|(_, name)| !name.is_empty());
        Self {
            identity: set
                .map(|(of, name)| (of, name.as_str().into(), header(name)))
                .collect(),
            realm: settings.realm.as_str().into(),
            strips_credential: settings.strip_credential,
            expires_soon_ms: settings
                .expires_soon
                .map(|soon| u64::try_from(soon.as_millis()).unwrap_or(u64::MAX)),
        }
    }

    /// The names of the identity headers.
    pub(super) fn identity(&self) -> impl Iterator<Item = &str> {
        self.identity.iter().map(|(_, name, _)| &**name)
    }

    /// The request passes, with what may be told of its token, or without one.
    pub(super) fn allowed(
        &self,
        told: Option<&Told<'_>>,
        headers: &Headers<'_, '_>,
        look_alikes: &[&str],
    ) -> Vec<u8> {
        let mut out = begun();
        let texts = told.map(Texts::of);
        put_message(&mut out, 1, |_| {});
        put_long(&mut out, 3, |out| {
            for (of, name, header) in &self.identity {
                let start = out.len();
                let set = texts
                    .as_ref()
                    .is_some_and(|texts| header.put(out, |out| put_identity(out, *of, texts)));
                if !set {
                    out.truncate(start);
                    put_text(out, 5, name);
                }
            }
            for name in look_alikes {
                put_text(out, 5, name);
            }
            if self.strips_credential {
                headers
                    .credential_names()
                    .for_each(|name| put_text(out, 5, name));
            }
            if let Some(at_ms) = told.and_then(|told| self.ends_soon(told)) {
                put_header(out, 6, EXPIRES_AT, |out| put_instant(out, at_ms));
            }
        });
        put_long(&mut out, 4, |out| {
            put_metadata(out, "allowed", texts.as_ref())
        });
        end_body(&mut out);
        out
    }

    fn ends_soon(&self, told: &Told<'_>) -> Option<u64> {
        let at_ms = told.ends_ms?;
        (told.left_ms <= self.expires_soon_ms?).then_some(at_ms)
    }

    /// The request does not pass.
    pub(super) fn denied(&self, refused: &Refused<'_>) -> Vec<u8> {
        denied(&self.realm, refused)
    }
}

/// The only place where it is said that a request does not pass.
fn denied(realm: &str, refused: &Refused<'_>) -> Vec<u8> {
    let Refused {
        denial,
        grpc,
        request_id,
        ..
    } = *refused;
    let code = denial.code(grpc);
    let mut out = begun();
    put_message(&mut out, 1, |out| put_number(out, 1, u64::from(code.grpc)));
    put_long(&mut out, 2, |out| {
        put_message(out, 1, |out| put_number(out, 1, u64::from(code.http)));
        if denial.challenge().is_some() {
            put_header(out, 2, "www-authenticate", |out| {
                put_challenge(out, realm, refused);
            });
        }
        if denial.is_passing() {
            put_header(out, 2, "retry-after", |out| {
                out.extend_from_slice(RETRY_AFTER_S.as_bytes());
            });
        }
        if grpc {
            // Envoy makes it the message of the status.
            put_text(out, 3, denial.message());
        } else {
            put_header(out, 2, "content-type", |out| {
                out.extend_from_slice(b"application/json");
            });
            put_long(out, 3, |out| put_body(out, denial, request_id));
        }
    });
    put_long(&mut out, 4, |out| {
        put_metadata(out, denial.name(), refused.told.map(Texts::of).as_ref());
    });
    end_body(&mut out);
    out
}

/// RFC 6750, section 3.
fn put_challenge(out: &mut Vec<u8>, realm: &str, refused: &Refused<'_>) {
    put_all(out, &["Bearer realm=\"", realm, "\""]);
    let denial = refused.denial;
    let Some(challenge) = denial.challenge() else {
        return;
    };
    let Some(error) = challenge.error() else {
        return;
    };
    let message = denial.message();
    put_all(
        out,
        &[
            ", error=\"",
            error,
            "\", error_description=\"",
            message,
            "\"",
        ],
    );
    if let (Some(need), Challenge::InsufficientScope) = (refused.need, challenge) {
        put_all(
            out,
            &[", scope=\"", need.action(), "@", need.resource(), "\""],
        );
    }
}

fn begun() -> Vec<u8> {
    let mut out = Vec::with_capacity(ANSWER_BYTES);
    out.extend_from_slice(&[0; HEAD_BYTES]);
    out
}

fn put_all(out: &mut Vec<u8>, texts: &[&str]) {
    texts
        .iter()
        .for_each(|text| out.extend_from_slice(text.as_bytes()));
}

/// A HeaderValueOption in field 2 that replaces what is there: its `append` is a BoolValue that is
/// there, and false.
fn header(name: &str) -> Form {
    let option = Form::new(2).within(1).text(1, name).within(2);
    option.ending(&[2 << 3 | 2, 0])
}

/// The same with its value, in any field.
fn put_header(out: &mut Vec<u8>, field: u8, name: &str, fill: impl FnOnce(&mut Vec<u8>)) {
    put_long(out, field, |out| {
        put_long(out, 1, |out| {
            put_text(out, 1, name);
            put_long(out, 2, fill);
        });
        put_message(out, 2, |_| {});
    });
}

/// What is told, with what of it stands in an answer twice already as text.
struct Texts<'a> {
    told: &'a Told<'a>,
    token_id: Option<[u8; 36]>,
    revision: RevisionText,
}

impl<'a> Texts<'a> {
    #[inline]
    fn of(told: &'a Told<'a>) -> Self {
        Self {
            told,
            token_id: told.seen.map(|seen| seen.id.text()),
            revision: RevisionText::of(told.revision),
        }
    }
}

/// Writes nothing where there is nothing to tell.
#[inline]
fn put_identity(out: &mut Vec<u8>, of: Identity, texts: &Texts<'_>) {
    let (Some(seen), Some(token_id)) = (texts.told.seen, &texts.token_id) else {
        return;
    };
    match of {
        Identity::Subject => put_subject(out, seen),
        Identity::TokenId => out.extend_from_slice(token_id),
        Identity::Kind => out.extend_from_slice(seen.kind.name().as_bytes()),
        Identity::Scopes => put_scopes(out, seen),
        Identity::Revision => out.extend_from_slice(texts.revision.as_bytes()),
    }
}

/// Whom the token speaks for. A resource may be called as a principal is, so it says what it is.
fn put_subject(out: &mut Vec<u8>, seen: &Seen<'_>) {
    let prefix = if seen.is_resource { "resource:" } else { "" };
    put_all(out, &[prefix, seen.subject]);
}

/// What the token is narrowed to, as a list of RFC 6749, section 3.3.
fn put_scopes(out: &mut Vec<u8>, seen: &Seen<'_>) {
    if seen.scopes.count().is_none() {
        // Narrowed by what it was derived from or by a ceiling, it has no list of its own to tell.
        if !seen.narrowed {
            out.extend_from_slice(b"all");
        }
        return;
    }
    let start = out.len();
    for (action, resource) in seen.scopes.texts() {
        let space = if out.len() == start { "" } else { " " };
        put_all(out, &[space, action, "@", resource]);
        if out.len() - start > SCOPES_BYTES_MAX {
            out.truncate(start);
            return;
        }
    }
}

/// A consistency token: at most 20 digits, a dash and 16 digits of its chain.
struct RevisionText {
    // Written from its end, since a number is.
    text: [u8; 37],
    start: usize,
}

impl RevisionText {
    fn of(revision: Revision) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [b'-'; 37];
        for (at, byte) in revision.chain.into_iter().enumerate() {
            text[21 + 2 * at] = DIGITS[usize::from(byte >> 4)];
            text[22 + 2 * at] = DIGITS[usize::from(byte & 0xf)];
        }
        let (mut number, mut start) = (revision.number, 20);
        loop {
            start -= 1;
            text[start] = DIGITS[(number % 10) as usize];
            number /= 10;
            if number == 0 {
                return Self { text, start };
            }
        }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.text[self.start..]
    }
}

/// RFC 3339, in whole seconds.
fn put_instant(out: &mut Vec<u8>, at_ms: u64) {
    let second = i64::try_from(at_ms / 1_000).unwrap_or(i64::MAX);
    if let Ok(at) = Timestamp::from_second(second) {
        // Writing to memory does not fail.
        let _ = write!(out, "{at}");
    }
}

fn put_body(out: &mut Vec<u8>, denial: Denial, request_id: &[u8]) {
    let (reason, message) = (denial.name(), denial.message());
    put_all(
        out,
        &["{\"reason\":\"", reason, "\",\"message\":\"", message, "\""],
    );
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._".contains(byte);
    let known = (1..=REQUEST_ID_BYTES_MAX).contains(&request_id.len());
    if known && request_id.iter().all(is_plain) {
        put_all(out, &[",\"request_id\":\""]);
        out.extend_from_slice(request_id);
        out.push(b'"');
    }
    out.push(b'}');
}

/// What filters, access logs and rate limits may use: the fields of a Struct.
struct Facts {
    reason: Form,
    revision: Form,
    token_id: Form,
    subject: Form,
    kind: Form,
    valid_for_ms: Form,
}

static FACTS: LazyLock<Facts> = LazyLock::new(|| {
    let value = |name| Form::new(1).text(1, name).within(2);
    let text = |name| value(name).within(3);
    Facts {
        reason: text("reason"),
        revision: text("revision"),
        token_id: text("token_id"),
        subject: text("subject"),
        kind: text("kind"),
        valid_for_ms: value("valid_for_ms"),
    }
});

fn put_metadata(out: &mut Vec<u8>, reason: &str, texts: Option<&Texts<'_>>) {
    let facts = &*FACTS;
    facts.reason.put(out, |out| put_all(out, &[reason]));
    let Some(texts) = texts else { return };
    let revision = texts.revision.as_bytes();
    facts
        .revision
        .put(out, |out| out.extend_from_slice(revision));
    if let (Some(seen), Some(token_id)) = (texts.told.seen, &texts.token_id) {
        facts
            .token_id
            .put(out, |out| out.extend_from_slice(token_id));
        facts.subject.put(out, |out| put_subject(out, seen));
        facts.kind.put(out, |out| put_all(out, &[seen.kind.name()]));
    }
    if let Some(valid_for_ms) = texts.told.valid_for_ms {
        facts.valid_for_ms.put(out, |out| {
            // A number of a Struct is a double.
            out.push(2 << 3 | 1);
            out.extend_from_slice(&(valid_for_ms as f64).to_le_bytes());
        });
    }
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
