//! A CheckRequest as the authority's question, and a decision as a CheckResponse.
//!
//! Used by `check`. Reading borrows from the message: one need, which is what nearly every Check
//! asks, costs no allocation. What does not parse is refused, never repaired. Absent on purpose:
//! malformed as a reason on the wire; to callers it is unknown.

use std::net::IpAddr;

use crate::authority::Context;
use crate::authority::check::{Answer, CheckRequest, STALE_RETRY_AFTER_MS, Seen};
use crate::domain::chain::Revision;
use crate::domain::permission::Need;
use crate::domain::reason::Reason;
use crate::domain::refusal::Refusal;
use crate::domain::token::{KindSet, TokenKind};
use crate::proto::v1;

use super::convert::{self, kind_number, milliseconds, reason_number, timestamp};
use super::errors::invalid;

/// Most needs of one question.
pub(super) const NEEDS_MAX: usize = 32;

/// The needs of a question, parsed.
pub(super) enum Needs<'a> {
    /// None: is the token good?
    None,
    /// One, in place.
    One([Need<'a>; 1]),
    /// Several.
    Many(Vec<Need<'a>>),
}

impl<'a> Needs<'a> {
    /// Reads the needs of a message.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] for a pattern, for what is outside the grammar, and for too many.
    #[inline]
    pub(super) fn parse(needs: &'a [v1::Need]) -> Result<Self, Refusal> {
        match needs {
            [] => Ok(Self::None),
            [need] => Ok(Self::One([parse_need(need)?])),
            needs if needs.len() <= NEEDS_MAX => {
                let needs: Result<_, _> = needs.iter().map(parse_need).collect();
                Ok(Self::Many(needs?))
            }
            _ => Err(invalid("needs", "are at most 32")),
        }
    }

    #[inline]
    pub(super) fn as_slice(&self) -> &[Need<'a>] {
        match self {
            Self::None => &[],
            Self::One(need) => need,
            Self::Many(needs) => needs,
        }
    }
}

#[inline]
fn parse_need(need: &v1::Need) -> Result<Need<'_>, Refusal> {
    Need::parse(&need.action, &need.resource).map_err(|error| invalid("needs", error))
}

/// The question in a message whose needs are parsed.
///
/// # Errors
/// [`Refusal::Invalid`] for an address or a kind that is none.
#[inline]
pub(super) fn asked<'a>(
    message: &'a v1::CheckRequest,
    needs: &'a Needs<'a>,
) -> Result<CheckRequest<'a>, Refusal> {
    let context = match &message.context {
        None => Context::default(),
        Some(context) => parse_context(context)?,
    };
    Ok(CheckRequest {
        token: &message.token,
        needs: needs.as_slice(),
        context,
        kinds: parse_kinds(&message.accepted_kinds)?,
    })
}

fn parse_context(context: &v1::Context) -> Result<Context<'_>, Refusal> {
    parsed_context(
        context.client_ip.as_deref(),
        context.workload.as_deref(),
        context.audience.as_deref(),
    )
}

/// What is known of a request, by the texts of it.
///
/// # Errors
/// [`Refusal::Invalid`] for an address that is none.
pub(super) fn parsed_context<'a>(
    client_ip: Option<&str>,
    workload: Option<&'a str>,
    audience: Option<&'a str>,
) -> Result<Context<'a>, Refusal> {
    let address = |text: &str| {
        let address: Result<IpAddr, _> = text.parse();
        // An IPv4 client of a dual-stack proxy is in the IPv4 networks of a token.
        address.map(|address| address.to_canonical())
    };
    let client_ip = client_ip.map(address).transpose();
    Ok(Context {
        client_ip: client_ip.map_err(|_| invalid("context.client_ip", "is not an IP address"))?,
        audience,
        workload,
    })
}

fn parse_kinds(numbers: &[i32]) -> Result<KindSet, Refusal> {
    if numbers.is_empty() {
        return Ok(KindSet::ALL);
    }
    let kinds: Option<Vec<TokenKind>> = numbers
        .iter()
        .map(|number| TokenKind::from_number(u8::try_from(*number).ok()?))
        .collect();
    let kinds = kinds.ok_or_else(|| invalid("accepted_kinds", "holds a kind that is none"))?;
    Ok(KindSet::from_kinds(kinds))
}

/// A consistency token; the chain is none when it is not to be compared.
///
/// # Errors
/// [`Refusal::Invalid`] for a chain of another length.
pub(super) fn parse_revision(revision: &v1::Revision) -> Result<(u64, Option<[u8; 8]>), Refusal> {
    let chain = match revision.chain.as_slice() {
        [] => None,
        chain => {
            let chain = <[u8; 8]>::try_from(chain);
            Some(chain.map_err(|_| invalid("at_least.chain", "is 8 bytes or none"))?)
        }
    };
    Ok((revision.number, chain))
}

/// What a caller is told of a decision: the one place where that is decided.
pub(super) struct Told<'s> {
    /// The reason, as it may be known.
    pub(super) reason: Reason,
    /// The token, where it may be known.
    pub(super) seen: Option<&'s Seen<'s>>,
    /// How long an allow may be acted on, in milliseconds.
    pub(super) valid_for_ms: Option<u64>,
    /// When what was presented ends: the token, an ancestor, or the grace of a former secret.
    pub(super) ends_ms: Option<u64>,
    /// How long that is, in milliseconds.
    pub(super) left_ms: u64,
    /// When to ask again, in milliseconds.
    pub(super) retry_after_ms: Option<u64>,
    /// The revision of the decision.
    pub(super) revision: Revision,
}

impl<'s> Told<'s> {
    /// Of a decision; with `hidden` the caller may not learn of the token.
    #[inline]
    pub(super) fn of(answer: &'s Answer<'s>, hidden: bool) -> Self {
        let decision = &answer.decision;
        let reason = match hidden {
            true => Reason::Unknown,
            false => decision.reason.public(),
        };
        Self {
            reason,
            seen: decision.token.as_ref().filter(|_| tells_of_token(reason)),
            valid_for_ms: (reason == Reason::Allowed).then_some(answer.valid_for_ms),
            ends_ms: decision.ends_ms,
            left_ms: answer.left_ms,
            retry_after_ms: (reason == Reason::Stale).then_some(STALE_RETRY_AFTER_MS),
            revision: decision.revision,
        }
    }
}

/// What is told, as a message.
pub(super) fn answered(told: &Told<'_>) -> v1::CheckResponse {
    let mut response = v1::CheckResponse {
        revision: Some(convert::revision(told.revision)),
        valid_for: told.valid_for_ms.map(milliseconds),
        retry_after: told.retry_after_ms.map(milliseconds),
        ..v1::CheckResponse::default()
    };
    set_reason(&mut response, told.reason);
    if let Some(seen) = told.seen {
        set_token(&mut response, seen);
    }
    response
}

/// The answer after the use of a token was counted, or was found to be spent.
pub(super) fn counted(
    allowed: v1::CheckResponse,
    reason: Reason,
    revision: Revision,
) -> v1::CheckResponse {
    let revision = Some(convert::revision(revision));
    let mut response = if tells_of_token(reason) {
        v1::CheckResponse {
            revision,
            ..allowed
        }
    } else {
        v1::CheckResponse {
            revision,
            ..v1::CheckResponse::default()
        }
    };
    set_reason(&mut response, reason);
    if reason != Reason::Allowed {
        response.valid_for = None;
    }
    if reason == Reason::Stale {
        response.retry_after = Some(milliseconds(STALE_RETRY_AFTER_MS));
    }
    response
}

// A caller that does not accept the kind has no business with the token.
fn tells_of_token(reason: Reason) -> bool {
    !matches!(
        reason,
        Reason::Stale | Reason::NoToken | Reason::Malformed | Reason::Unknown | Reason::WrongKind
    )
}

fn set_reason(response: &mut v1::CheckResponse, reason: Reason) {
    let reason = reason.public();
    response.allowed = reason == Reason::Allowed;
    response.reason = reason_number(reason);
    response.message = reason.message().to_owned();
}

fn set_token(response: &mut v1::CheckResponse, seen: &Seen<'_>) {
    response.token_id = seen.id.to_string();
    response.kind = kind_number(seen.kind);
    let subject = seen.subject.to_owned();
    match seen.is_resource {
        true => response.resource = subject,
        false => response.subject = subject,
    }
    response.scopes = Some(match seen.scopes.count() {
        None => v1::ScopesSummary {
            all: !seen.narrowed,
            permission_count: 0,
            narrowed: seen.narrowed,
        },
        Some(count) => v1::ScopesSummary {
            all: false,
            permission_count: u32::try_from(count).unwrap_or(u32::MAX),
            narrowed: seen.narrowed,
        },
    });
    response.expires_at = seen.expires_ms.map(timestamp);
}

#[cfg(test)]
mod tests {
    use prost_types::{Duration, Timestamp};

    use super::*;
    use crate::authority::check::{Decision, SeenScopes};
    use crate::domain::token::TokenId;

    const ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

    fn need(action: &str, resource: &str) -> v1::Need {
        v1::Need {
            action: action.into(),
            resource: resource.into(),
        }
    }

    fn refused_field(message: &v1::CheckRequest) -> Option<&'static str> {
        let read =
            Needs::parse(&message.needs).and_then(|needs| asked(message, &needs).map(|_| ()));
        match read {
            Ok(()) => None,
            Err(Refusal::Invalid { field, .. }) => Some(field),
            Err(other) => panic!("{other:?}"),
        }
    }

    fn check_needs(needs: Vec<v1::Need>, expected: Option<&'static str>) {
        let message = v1::CheckRequest {
            needs,
            ..Default::default()
        };
        assert_eq!(refused_field(&message), expected, "{:?}", message.needs);
    }

    #[test]
    fn needs_are_concrete_and_at_most_32() {
        let one = || need("secrets:read", "acme/web");
        check_needs(vec![], None);
        check_needs(vec![one()], None);
        check_needs(vec![one(); 32], None);
        check_needs(vec![one(); 33], Some("needs"));
        check_needs(vec![one(), need("secrets:*", "acme")], Some("needs"));
        check_needs(vec![need("secrets:read", "acme/**")], Some("needs"));
        check_needs(vec![need("", "acme")], Some("needs"));
        check_needs(vec![need("secrets:read", "")], Some("needs"));
    }

    #[test]
    fn context_and_kinds_are_read_or_refused() {
        let with_ip = |ip: &str| v1::CheckRequest {
            context: Some(v1::Context {
                client_ip: Some(ip.into()),
                ..Default::default()
            }),
            ..Default::default()
        };
        for (ip, expected) in [
            ("192.0.2.1", None),
            ("2001:db8::1", None),
            ("::ffff:192.0.2.1", None),
            ("", Some("context.client_ip")),
            ("192.0.2.1:80", Some("context.client_ip")),
            ("localhost", Some("context.client_ip")),
        ] {
            assert_eq!(refused_field(&with_ip(ip)), expected, "{ip}");
        }
        for (kinds, expected) in [
            (vec![], None),
            (vec![1, 4], None),
            (vec![0], Some("accepted_kinds")),
            (vec![1, 8], Some("accepted_kinds")),
            (vec![-255], Some("accepted_kinds")),
        ] {
            let message = v1::CheckRequest {
                accepted_kinds: kinds,
                ..Default::default()
            };
            assert_eq!(
                refused_field(&message),
                expected,
                "{:?}",
                message.accepted_kinds
            );
        }
    }

    #[test]
    fn an_ipv4_address_in_ipv6_clothes_is_the_ipv4_address() {
        let context = v1::Context {
            client_ip: Some("::ffff:192.0.2.1".into()),
            ..Default::default()
        };
        let read = parse_context(&context).unwrap().client_ip;
        assert_eq!(read, Some("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn a_chain_is_eight_bytes_or_none() {
        let read = |chain: &[u8]| {
            parse_revision(&v1::Revision {
                number: 7,
                chain: chain.to_vec(),
            })
        };
        assert_eq!(read(&[]), Ok((7, None)));
        assert_eq!(read(&[1; 8]), Ok((7, Some([1; 8]))));
        assert!(read(&[1; 7]).is_err());
        assert!(read(&[1; 32]).is_err());
    }

    fn answer(reason: Reason, token: bool) -> v1::CheckResponse {
        let seen = Seen {
            id: TokenId::parse(ID).unwrap(),
            kind: TokenKind::User,
            subject: "user:alice",
            stored: TokenId::parse(ID).unwrap(),
            is_resource: false,
            scopes: SeenScopes::All,
            narrowed: false,
            expires_ms: Some(1_500),
            counts_uses: false,
        };
        let decision = Decision {
            reason,
            token: token.then_some(seen),
            ends_ms: None,
            revision: Revision {
                number: 7,
                chain: [7; 8],
            },
        };
        let answer = Answer {
            decision,
            valid_for_ms: 2_250,
            left_ms: 2_250,
        };
        answered(&Told::of(&answer, false))
    }

    #[test]
    fn an_allow_tells_of_the_token_and_for_how_long() {
        let response = answer(Reason::Allowed, true);
        assert!(response.allowed);
        assert_eq!(response.reason(), v1::Reason::Allowed);
        assert_eq!(response.token_id, ID);
        assert_eq!(response.subject, "user:alice");
        assert_eq!(
            response.scopes,
            Some(v1::ScopesSummary {
                all: true,
                permission_count: 0,
                narrowed: false,
            })
        );
        let expires = Timestamp {
            seconds: 1,
            nanos: 500_000_000,
        };
        assert_eq!(response.expires_at, Some(expires));
        let valid_for = Duration {
            seconds: 2,
            nanos: 250_000_000,
        };
        assert_eq!(response.valid_for, Some(valid_for));
        assert_eq!(
            response.revision,
            Some(v1::Revision {
                number: 7,
                chain: vec![7; 8]
            })
        );
    }

    #[test]
    fn a_denial_tells_no_more_than_it_should() {
        for reason in [Reason::Revoked, Reason::Expired, Reason::NotPermitted] {
            let response = answer(reason, true);
            assert!(!response.allowed && response.valid_for.is_none());
            assert_eq!(response.token_id, ID, "{reason:?}");
        }
        for reason in [
            Reason::WrongKind,
            Reason::Unknown,
            Reason::Malformed,
            Reason::NoToken,
        ] {
            let response = answer(reason, true);
            let told = (response.token_id.as_str(), response.subject.as_str());
            assert_eq!(told, ("", ""), "{reason:?}");
            assert_eq!((response.kind, response.expires_at), (0, None));
        }
        assert_eq!(
            answer(Reason::Malformed, false),
            answer(Reason::Unknown, false)
        );
        let stale = answer(Reason::Stale, false);
        assert_eq!(
            stale.retry_after,
            Some(Duration {
                seconds: 1,
                nanos: 0
            })
        );
    }

    #[test]
    fn a_spent_use_takes_the_allow_back() {
        let revision = Revision {
            number: 8,
            chain: [8; 8],
        };
        let response = counted(
            answer(Reason::Allowed, true),
            Reason::UsesExhausted,
            revision,
        );
        assert!(!response.allowed && response.valid_for.is_none());
        assert_eq!(response.token_id, ID);
        assert_eq!(response.revision.map(|revision| revision.number), Some(8));
        let gone = counted(answer(Reason::Allowed, true), Reason::Unknown, revision);
        assert_eq!((gone.allowed, gone.token_id.as_str()), (false, ""));
    }
}
