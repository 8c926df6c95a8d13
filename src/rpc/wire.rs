//! The usual Check by its bytes: read in place, and its reply written once.
//!
//! Used by `unary`. What nearly every Check sends, a token, at most one need and a context, is
//! borrowed from the request; anything else is none of this file's and goes to prost, so there is
//! no second opinion on unusual input. The writer makes the bytes that prost would; tests compare
//! both directions with it. Absent on purpose: errors; what cannot be read here is just not usual.

use crate::domain::reason::Reason;

use super::convert::{kind_number, reason_number};
use super::fields::{HEAD_BYTES, end_body, put_message, put_number, put_text, put_time};
use super::question::Told;

/// Room for a usual reply; it grows when it must.
const REPLY_BYTES: usize = 256;

/// A request whose shape is the usual one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Usual<'a> {
    pub(super) token: &'a str,
    pub(super) need: Option<(&'a str, &'a str)>,
    pub(super) client_ip: Option<&'a str>,
    pub(super) workload: Option<&'a str>,
    pub(super) audience: Option<&'a str>,
}

impl<'a> Usual<'a> {
    /// Reads the bytes of a CheckRequest; none when the shape is another.
    #[inline]
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut usual = Self::default();
        let (mut fields, mut seen) = (Fields(Span::of(bytes)), 0_u8);
        while let Some((number, body)) = fields.next()? {
            // A field that comes twice has rules of its own.
            if seen & (1 << number) != 0 {
                return None;
            }
            seen |= 1 << number;
            match number {
                1 => usual.token = body.text()?,
                2 => {
                    let [action, resource, _] = texts(body, 2)?;
                    usual.need = Some((action.unwrap_or_default(), resource.unwrap_or_default()));
                }
                3 => [usual.client_ip, usual.workload, usual.audience] = texts(body, 3)?,
                _ => return None,
            }
        }
        Some(usual)
    }
}

/// The fields 1 to `most` of a message that has only texts, each at most once.
#[inline]
fn texts(message: Span<'_>, most: usize) -> Option<[Option<&str>; 3]> {
    let mut texts = [None; 3];
    let mut fields = Fields(message);
    while let Some((number, body)) = fields.next()? {
        let place = texts[..most].get_mut(usize::from(number).checked_sub(1)?)?;
        if place.replace(body.text()?).is_some() {
            return None;
        }
    }
    Some(texts)
}

/// Bytes of the request, and what they are as text if the whole request is text: lengths below
/// 128 are ASCII, so that one look at it all spares one at each field.
#[derive(Clone, Copy)]
struct Span<'a> {
    bytes: &'a [u8],
    text: Option<&'a str>,
}

impl<'a> Span<'a> {
    #[inline]
    fn of(bytes: &'a [u8]) -> Self {
        let text = std::str::from_utf8(bytes).ok();
        Self { bytes, text }
    }

    #[inline]
    fn text(self) -> Option<&'a str> {
        self.text.or_else(|| std::str::from_utf8(self.bytes).ok())
    }

    /// None where there are not so many bytes, or where a character would be cut.
    #[inline]
    fn split_at(self, place: usize) -> Option<(Self, Self)> {
        let bytes = self.bytes.split_at_checked(place)?;
        let text = match self.text {
            Some(text) => text
                .split_at_checked(place)
                .map(|(a, b)| (Some(a), Some(b)))?,
            None => (None, None),
        };
        let span = |bytes, text| Self { bytes, text };
        Some((span(bytes.0, text.0), span(bytes.1, text.1)))
    }
}

/// Length-delimited fields with numbers below 8.
struct Fields<'a>(Span<'a>);

impl<'a> Fields<'a> {
    /// The next field; `Some(None)` at the end, none for what is not usual.
    #[inline]
    fn next(&mut self) -> Option<Option<(u8, Span<'a>)>> {
        let [key, rest @ ..] = self.0.bytes else {
            return Some(None);
        };
        let (head, length) = match rest {
            [length @ ..0x80, ..] => (2, usize::from(*length)),
            [low, high @ 1..0x80, ..] => (3, usize::from(*low & 0x7f) | usize::from(*high) << 7),
            _ => return None,
        };
        if key & 0b111 != 2 || *key >= 8 << 3 {
            return None;
        }
        let (_, body) = self.0.split_at(head)?;
        let (body, rest) = body.split_at(length)?;
        self.0 = rest;
        Some(Some((key >> 3, body)))
    }
}

/// What is told, as the body of a unary reply: a CheckResponse with its head.
#[inline]
pub(super) fn written(told: &Told<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(REPLY_BYTES);
    out.extend_from_slice(&[0; HEAD_BYTES]);
    let allowed = told.reason == Reason::Allowed;
    put_number(&mut out, 1, u64::from(allowed));
    put_number(&mut out, 2, reason_number(told.reason) as u64);
    put_text(&mut out, 3, told.reason.message());
    if let Some(seen) = told.seen {
        out.extend_from_slice(&[4 << 3 | 2, seen.id.text().len() as u8]);
        out.extend_from_slice(&seen.id.text());
        put_number(&mut out, 5, kind_number(seen.kind) as u64);
        let number = if seen.is_resource { 7 } else { 6 };
        put_text(&mut out, number, seen.subject);
        put_message(&mut out, 8, |out| {
            match seen.scopes.count() {
                None => put_number(out, 1, u64::from(!seen.narrowed)),
                Some(count) => put_number(out, 2, count as u64),
            }
            put_number(out, 3, u64::from(seen.narrowed));
        });
        put_time(&mut out, 9, seen.expires_ms);
    }
    put_time(&mut out, 10, told.valid_for_ms);
    put_message(&mut out, 11, |out| {
        put_number(out, 1, told.revision.number);
        out.extend_from_slice(&[2 << 3 | 2, 8]);
        out.extend_from_slice(&told.revision.chain);
    });
    put_time(&mut out, 12, told.retry_after_ms);
    end_body(&mut out);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::super::fields::message_in;
    use super::super::question::answered;
    use super::*;
    use crate::authority::check::{Seen, SeenScopes};
    use crate::domain::chain::Revision;
    use crate::domain::token::{TokenId, TokenKind};
    use crate::proto::v1;

    fn as_message(usual: &Usual<'_>) -> v1::CheckRequest {
        let context = v1::Context {
            client_ip: usual.client_ip.map(str::to_owned),
            workload: usual.workload.map(str::to_owned),
            audience: usual.audience.map(str::to_owned),
        };
        let need = usual.need.map(|(action, resource)| v1::Need {
            action: action.to_owned(),
            resource: resource.to_owned(),
        });
        v1::CheckRequest {
            token: usual.token.to_owned(),
            needs: need.into_iter().collect(),
            context: (context != v1::Context::default()).then_some(context),
            ..Default::default()
        }
    }

    fn need() -> impl Strategy<Value = v1::Need> {
        ("[a-z:]{0,9}", "[a-z/é]{0,300}")
            .prop_map(|(action, resource)| v1::Need { action, resource })
    }

    fn context() -> impl Strategy<Value = v1::Context> {
        let text = || proptest::option::of("[a-z0-9.:]{0,200}");
        (text(), text(), text()).prop_map(|(client_ip, workload, audience)| v1::Context {
            client_ip,
            workload,
            audience,
        })
    }

    fn request() -> impl Strategy<Value = v1::CheckRequest> {
        let needs = proptest::collection::vec(need(), 0..3);
        let kinds = proptest::collection::vec(0..5_i32, 0..2);
        let context = proptest::option::of(context());
        ("[a-z_]{0,200}", needs, context, kinds, "[a-z]{0,3}").prop_map(
            |(token, needs, context, accepted_kinds, request_id)| v1::CheckRequest {
                token,
                needs,
                context,
                accepted_kinds,
                at_least: None,
                request_id,
            },
        )
    }

    #[test]
    fn a_message_is_plain_whole_and_not_too_long() {
        assert_eq!(message_in(&[0, 0, 0, 0, 0], 0), Some(&[][..]));
        assert_eq!(message_in(&[0, 0, 0, 0, 1, 7], 1), Some(&[7][..]));
        for other in [
            &[][..],
            &[0, 0, 0, 0],
            &[1, 0, 0, 0, 1, 7],
            &[0, 0, 0, 0, 1],
            &[0, 0, 0, 0, 1, 7, 0],
            &[0, 0, 0, 0, 2, 7, 7],
            &[0, 255, 255, 255, 255, 7],
        ] {
            assert_eq!(message_in(other, 1), None, "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_in_place_is_what_prost_reads(message in request()) {
            let bytes = message.encode_to_vec();
            let plain = message.accepted_kinds.is_empty() && message.request_id.is_empty();
            let read = Usual::read(&bytes);
            prop_assert_eq!(read.is_some(), plain && message.needs.len() < 2);
            if let Some(usual) = read {
                let mut message = message.clone();
                // An empty context is none.
                message.context = message.context.filter(|one| *one != v1::Context::default());
                prop_assert_eq!(as_message(&usual), message);
            }
        }

        #[test]
        fn garbage_that_is_read_in_place_is_read_alike_by_prost(
            message in request(),
            at in any::<proptest::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let mut bytes = message.encode_to_vec();
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Some(usual) = Usual::read(&bytes) {
                let mut read = v1::CheckRequest::decode(&*bytes).unwrap();
                read.context = read.context.filter(|one| *one != v1::Context::default());
                prop_assert_eq!(as_message(&usual), read);
            }
        }

        #[test]
        fn the_reply_is_what_prost_writes(
            reason in proptest::sample::select(&Reason::ALL[..]),
            kind in 0..7_usize,
            subject in "[a-z:/]{0,300}",
            expires_ms in proptest::option::of(any::<u64>()),
            times in (proptest::option::of(0..100_000_u64), proptest::option::of(0..100_000_u64)),
            (number, chain) in (any::<u64>(), any::<[u8; 8]>()),
            (shown, narrowed) in any::<(bool, bool)>(),
        ) {
            let seen = Seen {
                id: TokenId::from_u128(u128::from(number) << 40 | 7),
                kind: TokenKind::ALL[kind],
                subject: &subject,
                stored: TokenId::from_u128(7),
                is_resource: TokenKind::ALL[kind] == TokenKind::Resource,
                scopes: SeenScopes::All,
                narrowed,
                expires_ms,
                counts_uses: false,
            };
            let told = Told {
                reason,
                seen: shown.then_some(&seen),
                valid_for_ms: times.0,
                ends_ms: None,
                left_ms: 0,
                retry_after_ms: times.1,
                revision: Revision { number, chain },
            };
            let message = answered(&told).encode_to_vec();
            let body = written(&told);
            prop_assert_eq!(message_in(&body, message.len()), Some(&*message));
        }
    }
}
