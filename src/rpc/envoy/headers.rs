//! The headers of a request that matter, noted as they pass: credentials, and who came how.
//!
//! ```text
//! header ─► is one of its length wanted? ─► which? ─► noted; most stop at the first question
//! ```
//!
//! Used by `service`. A credential is read where the operator says, `authorization` as a bearer
//! token (RFC 6750, section 2.1) and other headers as the bare one. Whatever could be read in two
//! ways is refused. Names that a service may take for one of our identity headers, because its
//! gateway interface makes `-` of `_`, are noted so that they can be taken away; and no header may
//! be named as one that the next proxy drops.

use std::collections::VecDeque;

use crate::config::{ENVOY_CREDENTIALS_MAX as CREDENTIALS_MAX, ENVOY_HOPS_MAX};

use super::attributes::Header;

/// Lengths of names that are told apart.
const LENGTHS: usize = 32;
/// Lines of `x-forwarded-for` that are looked at: as many as there may be trusted hops.
const FORWARDED_MAX: usize = ENVOY_HOPS_MAX;
/// Look-alikes of identity headers; nobody sends so many in good faith.
const LOOK_ALIKES_MAX: usize = 16;

const AUTHORIZATION: &str = "authorization";
/// Envoy takes it away, but for WebSockets, where it is passed on as it came.
const CONNECTION: &str = "connection";
/// What it may name beside headers, and headers of which nobody knows a request.
const OF_CONNECTIONS: [&str; 5] = ["upgrade", "keep-alive", "close", "te", "http2-settings"];
/// What Envoy's access log and traces call the request.
const REQUEST_ID: &str = "x-request-id";
/// The trace of the request (W3C Trace Context).
const TRACE_PARENT: &str = "traceparent";
const BEARER: &[u8] = b"bearer ";

/// What a header is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Credential(usize),
    ContentType,
    Connection,
    RequestId,
    TraceParent,
    ForwardedFor,
    Identity,
}

/// The names that matter.
#[derive(Debug)]
pub(super) struct Wanted {
    // By their lengths, those from the last on together: most headers have none of these.
    names: [Vec<(Box<str>, Use)>; LENGTHS],
    credentials: Vec<Box<str>>,
}

impl Wanted {
    /// Credentials in their order, at most [`CREDENTIALS_MAX`], and the identity headers.
    pub(super) fn new(credentials: &[&str], identity: &[&str], forwarded: bool) -> Self {
        let credentials: Vec<Box<str>> = credentials
            .iter()
            .take(CREDENTIALS_MAX)
            .map(|name| (*name).into())
            .collect();
        let mut names = vec![
            ("content-type".into(), Use::ContentType),
            (CONNECTION.into(), Use::Connection),
            (REQUEST_ID.into(), Use::RequestId),
            (TRACE_PARENT.into(), Use::TraceParent),
        ];
        for (at, name) in credentials.iter().enumerate() {
            names.push((name.clone(), Use::Credential(at)));
        }
        names.extend(forwarded.then(|| ("x-forwarded-for".into(), Use::ForwardedFor)));
        names.extend(identity.iter().map(|name| ((*name).into(), Use::Identity)));
        let mut by_length = [const { Vec::new() }; LENGTHS];
        for (name, of) in names {
            by_length[place(name.len())].push((name, of));
        }
        Self {
            names: by_length,
            credentials,
        }
    }

    /// The names of the headers that credentials are read from.
    pub(super) fn credentials(&self) -> impl Iterator<Item = &str> {
        self.credentials.iter().map(|name| &**name)
    }
}

fn place(length: usize) -> usize {
    length.min(LENGTHS - 1)
}

/// What a header that should come once was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Noted<'a> {
    #[default]
    Absent,
    One(&'a [u8]),
    Several,
}

/// The headers of one request that matter.
#[derive(Debug)]
pub(super) struct Headers<'w, 'a> {
    wanted: &'w Wanted,
    credentials: [Noted<'a>; CREDENTIALS_MAX],
    content_type: Noted<'a>,
    request_id: Noted<'a>,
    trace_parent: Noted<'a>,
    forwarded: VecDeque<&'a [u8]>,
    look_alikes: Vec<&'a str>,
    hostile: bool,
}

/// The credential of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Credential<'a> {
    /// There is none.
    None,
    /// Exactly one, as it came; it need not be well-formed.
    Token(&'a str),
    /// More than one, or what could be read as more than one.
    Several,
}

/// Stands for a credential that is no text: as malformed as any.
const NO_TEXT: &str = "?";

impl<'w, 'a> Headers<'w, 'a> {
    pub(super) fn of(wanted: &'w Wanted) -> Self {
        Self {
            wanted,
            credentials: Default::default(),
            content_type: Noted::Absent,
            request_id: Noted::Absent,
            trace_parent: Noted::Absent,
            forwarded: VecDeque::new(),
            look_alikes: Vec::new(),
            hostile: false,
        }
    }

    /// Notes a header if it matters.
    #[inline]
    pub(super) fn note(&mut self, header: Header<'a>) {
        let wanted = self.wanted;
        for (name, of) in &wanted.names[place(header.name.len())] {
            self.note_wanted(header, name, *of);
        }
    }

    #[inline]
    fn note_wanted(&mut self, Header { name, value }: Header<'a>, wanted: &str, of: Use) {
        if wanted.as_bytes() == name {
            match of {
                Use::Credential(at) => self.credentials[at].add(value),
                Use::ContentType => self.content_type.add(value),
                Use::Connection => self.note_connection(value),
                Use::RequestId => self.request_id.add(value),
                Use::TraceParent => self.trace_parent.add(value),
                Use::ForwardedFor => {
                    // The last ones count: what a client wrote stands before them.
                    if self.forwarded.len() == FORWARDED_MAX {
                        self.forwarded.pop_front();
                    }
                    self.forwarded.push_back(value);
                }
                // It is overwritten or taken away in any case.
                Use::Identity => {}
            }
        } else if of == Use::Identity && looks_like(name, wanted.as_bytes()) {
            self.note_look_alike(name);
        }
    }

    #[cold]
    fn note_look_alike(&mut self, name: &'a [u8]) {
        match std::str::from_utf8(name) {
            Ok(name) if self.look_alikes.len() < LOOK_ALIKES_MAX => self.look_alikes.push(name),
            _ => self.hostile = true,
        }
    }

    /// What it names is for one hop (RFC 9110, section 7.6.1): a proxy between Envoy and the
    /// service would drop it, be it an identity or what the resource was read from.
    #[cold]
    fn note_connection(&mut self, value: &[u8]) {
        let mut names = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        let is_known = |name: &[u8]| {
            let mut known = OF_CONNECTIONS.iter();
            name.is_empty() || known.any(|known| known.as_bytes().eq_ignore_ascii_case(name))
        };
        self.hostile |= !names.all(is_known);
    }

    /// Names that a service may take for identity headers; none if there are too many of them, or
    /// if headers were to be dropped.
    pub(super) fn look_alikes(&self) -> Option<&[&'a str]> {
        (!self.hostile).then_some(&self.look_alikes)
    }

    /// The names of the headers that the credential came in; others' schemes stay with them.
    pub(super) fn credential_names(&self) -> impl Iterator<Item = &'w str> {
        let read = self.credentials_read();
        read.filter_map(|(name, read)| (read != Credential::None).then_some(name))
    }

    /// What is read of each header that may hold a credential.
    fn credentials_read(&self) -> impl Iterator<Item = (&'w str, Credential<'a>)> {
        let came = self.wanted.credentials().zip(self.credentials);
        came.map(|(name, noted)| {
            let read = match noted {
                Noted::Absent => Credential::None,
                Noted::Several => Credential::Several,
                Noted::One(value) if name == AUTHORIZATION => bearer(value),
                Noted::One(value) => bare(value),
            };
            (name, read)
        })
    }

    /// Whether the request is gRPC's, so that its answer is made a gRPC status by Envoy, which
    /// looks at the same.
    pub(super) fn is_grpc(&self) -> bool {
        const GRPC: &[u8] = b"application/grpc";
        let Noted::One(value) = self.content_type else {
            return false;
        };
        let rest = value.strip_prefix(GRPC);
        rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'+')
    }

    /// What the request is called in Envoy's access log; none where Envoy names none.
    pub(super) fn request_id(&self) -> Option<&'a [u8]> {
        self.request_id.one()
    }

    /// The trace that it says it is of; none where it says two things.
    pub(super) fn trace_parent(&self) -> Option<&'a [u8]> {
        self.trace_parent.one()
    }

    /// The credential, from the first of its headers that has one; two that differ are several.
    pub(super) fn credential(&self) -> Credential<'a> {
        let mut found = Credential::None;
        for (_, read) in self.credentials_read() {
            match (found, read) {
                (_, Credential::Several) => return Credential::Several,
                (Credential::Token(one), Credential::Token(other)) if one != other => {
                    return Credential::Several;
                }
                (Credential::None, read) => found = read,
                _ => {}
            }
        }
        found
    }

    /// The entries of `x-forwarded-for` from the right, as far as they are looked at.
    pub(super) fn forwarded(&self) -> impl Iterator<Item = &'a str> {
        // What is no text is no address.
        let lines = self
            .forwarded
            .iter()
            .rev()
            .map(|line| std::str::from_utf8(line).unwrap_or(NO_TEXT));
        lines.flat_map(|line| line.rsplit(',').map(str::trim))
    }
}

impl<'a> Noted<'a> {
    fn one(self) -> Option<&'a [u8]> {
        match self {
            Self::One(value) => Some(value),
            Self::Absent | Self::Several => None,
        }
    }

    fn add(&mut self, value: &'a [u8]) {
        *self = match self {
            Self::Absent => Self::One(value),
            Self::One(_) | Self::Several => Self::Several,
        };
    }
}

/// Whether a service may take `name` for `wanted`: gateway interfaces (RFC 3875, section 4.1.18)
/// make one character of `-`, and some of `.` and others, too.
fn looks_like(name: &[u8], wanted: &[u8]) -> bool {
    let folded = |byte: &u8| match byte.is_ascii_alphanumeric() {
        true => byte.to_ascii_lowercase(),
        false => b'_',
    };
    name.len() == wanted.len() && name.iter().map(folded).eq(wanted.iter().map(folded))
}

/// The token of an `authorization`; schemes of others are none of ours.
fn bearer(value: &[u8]) -> Credential<'_> {
    let (scheme, token) = value.split_at(value.len().min(BEARER.len()));
    let is_bearer = |scheme: &[u8]| {
        let (word, rest) = scheme.split_at(scheme.len().min(BEARER.len() - 1));
        word.eq_ignore_ascii_case(&BEARER[..BEARER.len() - 1])
            && rest.iter().all(u8::is_ascii_whitespace)
    };
    if scheme.eq_ignore_ascii_case(BEARER) {
        return match bare(token) {
            Credential::None => Credential::Token(NO_TEXT),
            other => other,
        };
    }
    // Envoy joins two of them by a comma: the second may be a bearer token.
    let mut rest = value.split(|byte| *byte == b',').skip(1);
    let hidden = |part: &[u8]| {
        let part = part.trim_ascii_start();
        part.len() >= BEARER.len() && part[..BEARER.len()].eq_ignore_ascii_case(BEARER)
    };
    if rest.any(hidden) {
        Credential::Several
    } else if is_bearer(scheme) {
        // Without a token, or with one behind another blank: malformed, and not another's.
        Credential::Token(NO_TEXT)
    } else {
        Credential::None
    }
}

/// A token that is the whole value.
fn bare(value: &[u8]) -> Credential<'_> {
    if value.is_empty() {
        return Credential::None;
    }
    // Blanks, and control characters with them; all at once is faster than up to the first.
    let parts = |byte: &u8| *byte == b',' || *byte <= b' ';
    if value.iter().fold(false, |any, byte| any | parts(byte)) {
        return Credential::Several;
    }
    Credential::Token(std::str::from_utf8(value).unwrap_or(NO_TEXT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        let credentials = ["authorization", "x-api-key"];
        Wanted::new(
            &credentials,
            &["x-latchkey-subject", "x-latchkey-kind"],
            true,
        )
    }

    fn with<R>(headers: &[(&str, &str)], of: impl FnOnce(&Headers<'_, '_>) -> R) -> R {
        let wanted = wanted();
        let mut noted = Headers::of(&wanted);
        for (name, value) in headers {
            noted.note(Header {
                name: name.as_bytes(),
                value: value.as_bytes(),
            });
        }
        of(&noted)
    }

    fn check(headers: &[(&str, &str)], expected: Credential<'static>) {
        with(headers, |noted| {
            assert_eq!(noted.credential(), expected, "{headers:?}");
        });
    }

    #[test]
    fn a_credential_is_none_one_or_several() {
        use Credential::{None, Several, Token};
        let (auth, key) = ("authorization", "x-api-key");
        check(&[], None);
        check(&[(auth, "Bearer a")], Token("a"));
        check(&[(auth, "bEARER a")], Token("a"));
        check(&[(key, "a")], Token("a"));
        check(&[("x-api-kez", "a")], None);
        check(&[(auth, "Bearer a"), (key, "a")], Token("a"));
        check(&[(key, "a"), (auth, "Bearer a")], Token("a"));
        check(&[(auth, "Bearer a"), (key, "b")], Several);
        check(&[(auth, "Bearer a"), (auth, "Bearer b")], Several);
        check(&[(auth, "Bearer a"), (auth, "Bearer a")], Several);
        check(&[(auth, "Basic x"), (auth, "Bearer a")], Several);
        check(&[(auth, "Bearer a,Bearer b")], Several);
        check(&[(auth, "Bearer a, b")], Several);
        check(&[(auth, "Bearer a b")], Several);
        check(&[(auth, "Bearer  a")], Several);
        check(&[(auth, "Basic x, Bearer a")], Several);
        check(&[(auth, "Basic x,BEARER a")], Several);
        check(&[(key, "a,b")], Several);
        check(&[(key, "a b")], Several);
        // Others' schemes are theirs, also where they hold commas.
        check(&[(auth, "Basic x")], None);
        check(&[(auth, "Digest username=\"a\", realm=\"bearer \"")], None);
        check(&[(auth, "Basic x"), (key, "a")], Token("a"));
        check(&[(auth, ""), (key, "")], None);
        // A bearer without a token is malformed, not anonymous.
        check(&[(auth, "Bearer")], Token(NO_TEXT));
        check(&[(auth, "Bearer ")], Token(NO_TEXT));
        check(&[(auth, "bearer\ta")], Token(NO_TEXT));
        check(&[(auth, "Bearers a")], None);
        check(&[(auth, "Bearer"), (key, "a")], Several);
    }

    #[test]
    fn only_headers_that_hold_a_credential_are_named() {
        let check = |headers: &[(&str, &str)], expected: &[&str]| {
            with(headers, |noted| {
                let names: Vec<_> = noted.credential_names().collect();
                assert_eq!(names, expected, "{headers:?}");
            });
        };
        let (auth, key) = ("authorization", "x-api-key");
        check(&[], &[]);
        check(&[(auth, "Bearer a"), (key, "a")], &[auth, key]);
        check(&[(key, "a")], &[key]);
        // A service may have users of its own.
        check(&[(auth, "Basic x"), (key, "a")], &[key]);
        check(&[(auth, "Basic x")], &[]);
    }

    #[test]
    fn what_is_no_text_is_malformed() {
        let wanted = wanted();
        let mut noted = Headers::of(&wanted);
        noted.note(Header {
            name: b"authorization",
            value: b"Bearer \xff",
        });
        assert_eq!(noted.credential(), Credential::Token(NO_TEXT));
    }

    #[test]
    fn look_alikes_of_identity_headers_are_noted() {
        let came = [
            ("x_latchkey_subject", "root"),
            ("x-latchkey_subject", "root"),
            ("X-Latchkey_Kind", "user"),
            ("x-latchkey-subject", "root"),
            ("x-latchkey-subjecu", "root"),
            ("x_latchkey_scopes", "all"),
            ("x.latchkey.kind", "user"),
        ];
        with(&came, |noted| {
            let expected = [
                "x_latchkey_subject",
                "x-latchkey_subject",
                "X-Latchkey_Kind",
                "x.latchkey.kind",
            ];
            assert_eq!(noted.look_alikes(), Some(&expected[..]));
        });
        with(
            &[("x_latchkey_kind", "user"); LOOK_ALIKES_MAX + 1],
            |noted| {
                assert_eq!(noted.look_alikes(), None);
            },
        );
    }

    #[test]
    fn forwarded_entries_are_counted_from_the_right_over_all_lines() {
        let line = |value| ("x-forwarded-for", value);
        let check = |lines: &[(&str, &str)], expected: &[&str]| {
            with(lines, |noted| {
                assert_eq!(noted.forwarded().collect::<Vec<_>>(), expected, "{lines:?}");
            });
        };
        check(&[], &[]);
        check(&[line("a")], &["a"]);
        check(&[line("a, b"), line("c,d")], &["d", "c", "b", "a"]);
        check(&[line("")], &[""]);
        let mut many = [line("mine"); FORWARDED_MAX + 2];
        many[1] = line("second");
        check(&many, &["mine"; FORWARDED_MAX]);
    }

    #[test]
    fn no_header_may_be_named_for_one_hop() {
        for (value, expected) in [
            ("Upgrade", true),
            ("keep-alive, Upgrade", true),
            ("Upgrade, HTTP2-Settings,", true),
            ("close", true),
            ("upgrade, x-latchkey-subject", false),
            ("upgrade,x-environment", false),
            ("Authorization ,upgrade", false),
        ] {
            with(&[("connection", value)], |noted| {
                assert_eq!(noted.look_alikes().is_some(), expected, "{value}");
            });
        }
    }

    #[test]
    fn a_request_has_one_id_or_none() {
        let check = |headers: &[(&str, &str)], expected: Option<&str>| {
            with(headers, |noted| {
                assert_eq!(noted.request_id(), expected.map(str::as_bytes));
            });
        };
        check(&[], None);
        check(
            &[("x-request-id", "4711"), ("x-request-ie", "1")],
            Some("4711"),
        );
        check(&[("x-request-id", "4711"), ("x-request-id", "1")], None);
    }

    #[test]
    fn grpc_is_what_envoy_takes_for_it() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/json", false),
            ("", false),
        ] {
            with(&[("content-type", value)], |noted| {
                assert_eq!(noted.is_grpc(), expected, "{value}");
            });
        }
    }
}
