//! Answers to Envoy, read with prost: what replaces, what is taken away, what is told.
//!
//! The golden bytes of Envoy's whole API are held elsewhere, by the integration tests; here the
//! trimmed types are enough.

use std::collections::BTreeMap;
use std::time::Duration;

use prost::Message as _;
use prost_types::value::Kind;

use super::super::attributes::Header;
use super::super::headers::Wanted;
use super::*;
use crate::authority::check::{Answer, Decision, SeenScopes};
use crate::domain::reason::Reason;
use crate::domain::token::{TokenId, TokenKind};
use crate::proto::envoy::config::core::v3::HeaderValueOption;
use crate::proto::envoy::service::auth::v3::CheckResponse;
use crate::proto::envoy::service::auth::v3::check_response::HttpResponse;

const ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

fn style(settings: &Envoy) -> Style {
    Style::of(settings)
}

fn read(body: &[u8]) -> CheckResponse {
    let length = u32::from_be_bytes(body[1..HEAD_BYTES].try_into().unwrap());
    assert_eq!((body[0], length as usize), (0, body.len() - HEAD_BYTES));
    CheckResponse::decode(&body[HEAD_BYTES..]).unwrap()
}

fn with_told<R>(reason: Reason, subject: &str, of: impl FnOnce(&Told<'_>) -> R) -> R {
    with_told_narrowed(reason, subject, false, of)
}

fn with_told_narrowed<R>(
    reason: Reason,
    subject: &str,
    narrowed: bool,
    of: impl FnOnce(&Told<'_>) -> R,
) -> R {
    let seen = Seen {
        id: TokenId::parse(ID).unwrap(),
        kind: TokenKind::User,
        subject,
        stored: TokenId::parse(ID).unwrap(),
        is_resource: false,
        scopes: SeenScopes::All,
        narrowed,
        expires_ms: Some(1_700_000_000_000),
        counts_uses: false,
    };
    let decision = Decision {
        reason,
        token: Some(seen),
        ends_ms: Some(1_700_000_000_000),
        revision: Revision {
            number: 1_207,
            chain: [0xab; 8],
        },
    };
    let answer = Answer {
        decision,
        valid_for_ms: 5_000,
        left_ms: 60_000,
    };
    of(&Told::of(&answer, false))
}

fn named(headers: &[HeaderValueOption]) -> BTreeMap<&str, &str> {
    // Present and false: the one form that every Envoy reads as *replace*.
    let replaces = |option: &HeaderValueOption| option.append == Some(false);
    assert!(headers.iter().all(replaces));
    let headers = headers.iter().filter_map(|option| option.header.as_ref());
    headers
        .map(|header| (header.key.as_str(), header.value.as_str()))
        .collect()
}

fn facts(response: &CheckResponse) -> BTreeMap<&str, String> {
    let fields = &response.dynamic_metadata.as_ref().unwrap().fields;
    let text = |kind: &Kind| match kind {
        Kind::StringValue(text) => text.clone(),
        Kind::NumberValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    };
    let fields = fields.iter();
    fields
        .map(|(name, value)| (name.as_str(), text(value.kind.as_ref().unwrap())))
        .collect()
}

#[test]
fn an_allow_replaces_identity_headers_and_tells_of_the_token() {
    let wanted = Wanted::new(&["authorization"], &[], false);
    let headers = Headers::of(&wanted);
    let out = with_told(Reason::Allowed, "user:alice", |told| {
        style(&Envoy::default()).allowed(Some(told), &headers, &["x_latchkey_subject"])
    });
    let response = read(&out);
    assert_eq!(response.status.as_ref().unwrap().code, 0);
    let Some(HttpResponse::OkResponse(ok)) = &response.http_response else {
        panic!("{response:?}");
    };
    let expected = BTreeMap::from([
        ("x-latchkey-subject", "user:alice"),
        ("x-latchkey-token-id", ID),
        ("x-latchkey-kind", "user"),
        ("x-latchkey-scopes", "all"),
        ("x-latchkey-revision", "1207-abababababababab"),
    ]);
    assert_eq!(named(&ok.headers), expected);
    assert_eq!(ok.headers_to_remove, ["x_latchkey_subject"]);
    let soon = BTreeMap::from([(EXPIRES_AT, "2023-11-14T22:13:20Z")]);
    assert_eq!(named(&ok.response_headers_to_add), soon);
    let facts = facts(&response);
    assert_eq!(facts["reason"], "allowed");
    assert_eq!(facts["subject"], "user:alice");
    assert_eq!(facts["kind"], "user");
    assert_eq!(facts["token_id"], ID);
    assert_eq!(facts["revision"], "1207-abababababababab");
    assert_eq!(facts["valid_for_ms"], "5000");
}

#[test]
fn what_is_not_set_is_taken_away() {
    let mut settings = Envoy {
        strip_credential: true,
        expires_soon: Some(Duration::from_secs(59)),
        ..Envoy::default()
    };
    settings.headers.kind = String::new();
    let wanted = Wanted::new(&["authorization", "x-api-key"], &[], false);
    let mut headers = Headers::of(&wanted);
    headers.note(Header {
        name: b"x-api-key",
        value: b"lku_a",
    });
    let ok = |out: &[u8]| match read(out).http_response {
        Some(HttpResponse::OkResponse(ok)) => ok,
        other => panic!("{other:?}"),
    };
    let anonymous = ok(&style(&settings).allowed(None, &headers, &[]));
    assert!(anonymous.headers.is_empty());
    let removed = [
        "x-latchkey-subject",
        "x-latchkey-token-id",
        "x-latchkey-scopes",
        "x-latchkey-revision",
        "x-api-key",
    ];
    assert_eq!(anonymous.headers_to_remove, removed);
    // A subject that is gone is no empty header.
    let gone = with_told(Reason::Allowed, "", |told| {
        style(&settings).allowed(Some(told), &headers, &[])
    });
    let gone = ok(&gone);
    assert_eq!(gone.headers_to_remove, ["x-latchkey-subject", "x-api-key"]);
    assert!(gone.response_headers_to_add.is_empty(), "60 s are not soon");
}

fn check_denied(denial: Denial, grpc: bool, expected: (i32, &str, Option<&str>)) {
    let out = with_told(Reason::Revoked, "user:alice", |told| {
        style(&Envoy::default()).denied(&Refused {
            denial,
            need: Some(Need::parse("secrets:read", "acme/web").unwrap()),
            told: Some(told),
            grpc,
            request_id: b"4711-a.b_c",
        })
    });
    let response = read(&out);
    assert_ne!(response.status.as_ref().unwrap().code, 0, "{denial:?}");
    let Some(HttpResponse::DeniedResponse(denied)) = &response.http_response else {
        panic!("{response:?}");
    };
    let headers = named(&denied.headers);
    let told = (
        denied.status.as_ref().unwrap().code,
        denied.body.as_str(),
        headers.get("www-authenticate").copied(),
    );
    assert_eq!(told, expected, "{denial:?}");
    assert_eq!(headers.contains_key("retry-after"), expected.0 == 503);
    assert_eq!(headers.contains_key("content-type"), !grpc);
    assert_eq!(facts(&response)["reason"], denial.name());
    assert_eq!(facts(&response)["token_id"], ID);
}

#[test]
fn a_denial_says_what_is_wrong_as_the_standard_has_it() {
    check_denied(
        Denial::Token(Reason::NoToken),
        false,
        (
            401,
            r#"{"reason":"no_token","message":"no token was presented","request_id":"4711-a.b_c"}"#,
            Some(r#"Bearer realm="latchkey""#),
        ),
    );
    check_denied(
        Denial::Token(Reason::Revoked),
        true,
        (
            401,
            "the token was revoked",
            Some(
                r#"Bearer realm="latchkey", error="invalid_token", error_description="the token was revoked""#,
            ),
        ),
    );
    check_denied(
        Denial::Token(Reason::NotPermitted),
        true,
        (
            403,
            "the token does not permit this",
            Some(
                r#"Bearer realm="latchkey", error="insufficient_scope", error_description="the token does not permit this", scope="secrets:read@acme/web""#,
            ),
        ),
    );
    check_denied(
        Denial::Caller,
        true,
        (503, "the proxy may not ask for this check", None),
    );
}

#[test]
fn a_request_id_that_is_not_plain_is_not_repeated() {
    for id in ["", "a\"b", "<b>", "é", &"x".repeat(129)] {
        let mut out = Vec::new();
        put_body(&mut out, Denial::Path, id.as_bytes());
        let body: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(body["reason"], "path");
        assert!(body.get("request_id").is_none(), "{id}");
    }
}

#[test]
fn bodies_and_challenges_need_no_escapes() {
    for denial in super::super::denial::ALL {
        let texts = [denial.name(), denial.message()];
        let is_plain = |text: &str| {
            let mut bytes = text.bytes();
            bytes.all(|byte| (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\')
        };
        assert!(texts.into_iter().all(is_plain), "{denial:?}");
    }
}

#[test]
fn what_cannot_be_answered_is_denied() {
    let response = read(&style(&Envoy::default()).denied(&Refused {
        denial: Denial::Unanswered,
        need: None,
        told: None,
        grpc: true,
        request_id: b"",
    }));
    assert_eq!(response.status.unwrap().code, 14);
    let denied = match response.http_response {
        Some(HttpResponse::DeniedResponse(denied)) => denied,
        other => panic!("{other:?}"),
    };
    assert_eq!(denied.status.unwrap().code, 503);
}

#[test]
fn a_token_that_others_narrow_is_not_told_to_have_all_scopes() {
    let wanted = Wanted::new(&["authorization"], &[], false);
    let headers = Headers::of(&wanted);
    let out = with_told_narrowed(Reason::Allowed, "user:alice", true, |told| {
        style(&Envoy::default()).allowed(Some(told), &headers, &[])
    });
    let Some(HttpResponse::OkResponse(ok)) = read(&out).http_response else {
        panic!("it passes");
    };
    assert!(!named(&ok.headers).contains_key("x-latchkey-scopes"));
    assert_eq!(ok.headers_to_remove, ["x-latchkey-scopes"]);
}
