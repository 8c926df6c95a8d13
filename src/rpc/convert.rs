//! Values of the API read into domain types, and domain values written into the API.
//!
//! Parse, do not validate: what these functions return needs no second look. Used by all services.
//! Every refusal names the field as the API does; nothing is repaired but this: instants are cut
//! to milliseconds. Absent on purpose: whole requests and answers, which stand with their service.

use std::collections::BTreeMap;

use prost_types::{Duration, FieldMask, Timestamp};

use crate::authority::Context;
use crate::authority::audit::RevisionAsked;
use crate::domain::chain::Revision;
use crate::domain::permission::{ActionPattern, Resource, ResourcePattern};
use crate::domain::principal::{PrincipalKind, PrincipalName, RoleName};
use crate::domain::reason::Reason;
use crate::domain::refusal::Refusal;
use crate::domain::token::{KindSet, TokenId, TokenKind};
use crate::proto::v1;

/// Most characters of a name.
pub(super) const NAME_CHARS_MAX: usize = 128;
/// Most characters of a description.
pub(super) const DESCRIPTION_CHARS_MAX: usize = 1_024;
const LABELS_MAX: usize = 16;
const LABEL_KEY_CHARS_MAX: usize = 63;
const LABEL_VALUE_CHARS_MAX: usize = 128;
// The last second of the year 9999, where a google.protobuf.Timestamp ends.
const INSTANT_S_MAX: i64 = 253_402_300_799;

/// A revision as answers carry it.
pub(super) fn revision(revision: Revision) -> v1::Revision {
    v1::Revision {
        number: revision.number,
        chain: revision.chain.to_vec(),
    }
}

/// Reads a revision; one without a chain is not compared.
pub(super) fn revision_asked(
    field: &'static str,
    revision: Option<&v1::Revision>,
) -> Result<Option<RevisionAsked>, Refusal> {
    let Some(revision) = revision else {
        return Ok(None);
    };
    let chain = match revision.chain.as_slice() {
        [] => None,
        bytes => Some(
            bytes
                .try_into()
                .map_err(|_| Refusal::invalid(field, "has a chain of 8 bytes or none"))?,
        ),
    };
    Ok(Some(RevisionAsked {
        number: revision.number,
        chain,
    }))
}

/// An instant as answers carry it.
pub(super) fn timestamp(unix_ms: u64) -> Timestamp {
    Timestamp {
        // Instants of the domain have 48 bits, so neither part overflows.
        seconds: (unix_ms / 1_000) as i64,
        nanos: (unix_ms % 1_000) as i32 * 1_000_000,
    }
}

/// Reads an instant after 1970, cut to milliseconds.
pub(super) fn instant(field: &'static str, at: Option<&Timestamp>) -> Result<Option<u64>, Refusal> {
    let Some(at) = at else {
        return Ok(None);
    };
    let valid = (1..=INSTANT_S_MAX).contains(&at.seconds) && (0..1_000_000_000).contains(&at.nanos);
    if !valid {
        return Err(Refusal::invalid(
            field,
            "is not an instant between 1970 and 9999",
        ));
    }
    Ok(Some(
        at.seconds as u64 * 1_000 + at.nanos as u64 / 1_000_000,
    ))
}

/// A lifetime as answers carry it.
pub(super) fn duration(seconds: u32) -> Duration {
    Duration {
        seconds: i64::from(seconds),
        nanos: 0,
    }
}

/// A duration of milliseconds. Those of the domain are far below what the wire can hold.
pub(super) fn milliseconds(ms: u64) -> Duration {
    Duration {
        seconds: i64::try_from(ms / 1_000).unwrap_or(i64::MAX),
        nanos: (ms % 1_000) as i32 * 1_000_000,
    }
}

/// Reads a lifetime: whole seconds, at least one.
pub(super) fn seconds(
    field: &'static str,
    asked: Option<&Duration>,
) -> Result<Option<u32>, Refusal> {
    match whole_seconds(field, asked)? {
        Some(0) => Err(Refusal::invalid(field, "is at least one second")),
        seconds => Ok(seconds),
    }
}

/// Reads a duration that may be nothing: whole seconds.
pub(super) fn whole_seconds(
    field: &'static str,
    asked: Option<&Duration>,
) -> Result<Option<u32>, Refusal> {
    let Some(asked) = asked else {
        return Ok(None);
    };
    let seconds = u32::try_from(asked.seconds)
        .ok()
        .filter(|_| asked.nanos == 0);
    seconds.map(Some).ok_or_else(|| {
        Refusal::invalid(
            field,
            "is whole seconds, not negative, and less than 136 years",
        )
    })
}

/// Reads a text of at most so many characters.
pub(super) fn text(field: &'static str, text: &str, chars_max: usize) -> Result<String, Refusal> {
    if text.chars().count() > chars_max {
        return Err(Refusal::invalid(
            field,
            format!("is at most {chars_max} characters"),
        ));
    }
    Ok(text.to_owned())
}

/// Reads a name that must be there.
pub(super) fn name(field: &'static str, name: &str) -> Result<String, Refusal> {
    if name.is_empty() {
        return Err(Refusal::invalid(field, "is required, 1 to 128 characters"));
    }
    text(field, name, NAME_CHARS_MAX)
}

/// Reads labels.
pub(super) fn labels(
    labels: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, Refusal> {
    if labels.len() > LABELS_MAX {
        return Err(Refusal::invalid(
            "labels",
            format!("are at most {LABELS_MAX}"),
        ));
    }
    for (key, value) in labels {
        label_key("labels", key)?;
        label_value("labels", value)?;
    }
    Ok(labels.clone())
}

/// Reads `KEY` or `KEY=VALUE`; empty is no filter.
pub(super) fn label_filter(text: &str) -> Result<Option<(String, Option<String>)>, Refusal> {
    if text.is_empty() {
        return Ok(None);
    }
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (text, None),
    };
    label_key("label", key)?;
    label_value("label", value.unwrap_or_default())?;
    Ok(Some((key.to_owned(), value.map(str::to_owned))))
}

fn label_key(field: &'static str, key: &str) -> Result<(), Refusal> {
    let in_alphabet = |b: u8| {
        b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'/' | b'-')
    };
    if key.is_empty() || key.len() > LABEL_KEY_CHARS_MAX || !key.bytes().all(in_alphabet) {
        return Err(Refusal::invalid(
            field,
            "a key is 1 to 63 characters of [a-z0-9._/-]",
        ));
    }
    Ok(())
}

fn label_value(field: &'static str, value: &str) -> Result<(), Refusal> {
    if value.chars().count() > LABEL_VALUE_CHARS_MAX {
        return Err(Refusal::invalid(field, "a value is at most 128 characters"));
    }
    Ok(())
}

/// The paths of a mask, which must name something.
pub(super) fn mask(mask: Option<&FieldMask>) -> Result<&[String], Refusal> {
    match mask.map(|mask| mask.paths.as_slice()) {
        None | Some([]) => Err(Refusal::invalid("update_mask", "names at least one field")),
        Some(paths) => Ok(paths),
    }
}

/// The refusal of a path that a mask must not name.
pub(super) fn unknown_path(known: &str) -> Refusal {
    Refusal::invalid(
        "update_mask",
        format!("names only {known}, each as a whole"),
    )
}

/// Reads the name of a principal of any kind.
pub(super) fn principal(field: &'static str, text: &str) -> Result<PrincipalName, Refusal> {
    PrincipalName::parse(text).ok_or_else(|| {
        Refusal::invalid(
            field,
            "is user:NAME, team:NAME or service:NAME, NAME 1 to 128 of [A-Za-z0-9._~@:+-]",
        )
    })
}

/// Reads the name of a principal of one kind.
pub(super) fn principal_of(
    kind: PrincipalKind,
    field: &'static str,
    text: &str,
) -> Result<PrincipalName, Refusal> {
    let name = principal(field, text)?;
    if name.kind() == kind {
        Ok(name)
    } else {
        Err(Refusal::invalid(
            field,
            format!("is {}:NAME here", kind.name()),
        ))
    }
}

/// Reads the name of a role.
pub(super) fn role(field: &'static str, text: &str) -> Result<RoleName, Refusal> {
    RoleName::parse(text)
        .ok_or_else(|| Refusal::invalid(field, "is 1 to 128 characters of [A-Za-z0-9._~+-]"))
}

/// Reads the patterns of a role's actions.
pub(super) fn actions(texts: &[String]) -> Result<Vec<ActionPattern>, Refusal> {
    let parse = |text: &String| ActionPattern::parse(text);
    let actions: Result<_, _> = texts.iter().map(parse).collect();
    actions.map_err(|error| Refusal::invalid("actions", error))
}

/// Reads a resource.
pub(super) fn resource(field: &'static str, text: &str) -> Result<Resource, Refusal> {
    Resource::parse(text).map_err(|error| Refusal::invalid(field, error))
}

/// Reads a pattern of resources.
pub(super) fn pattern(field: &'static str, text: &str) -> Result<ResourcePattern, Refusal> {
    ResourcePattern::parse(text).map_err(|error| Refusal::invalid(field, error))
}

/// Reads the id of a token.
pub(super) fn token_id(field: &'static str, text: &str) -> Result<TokenId, Refusal> {
    TokenId::parse(text).ok_or_else(|| Refusal::invalid(field, "is a UUID with hyphens"))
}

/// Reads what may be empty, which is none.
pub(super) fn optional<T>(
    field: &'static str,
    text: &str,
    read: impl FnOnce(&'static str, &str) -> Result<T, Refusal>,
) -> Result<Option<T>, Refusal> {
    (!text.is_empty()).then(|| read(field, text)).transpose()
}

/// Reads a kind of token; unspecified is none.
pub(super) fn kind(field: &'static str, number: i32) -> Result<Option<TokenKind>, Refusal> {
    if number == 0 {
        return Ok(None);
    }
    let kind = u8::try_from(number).ok().and_then(TokenKind::from_number);
    kind.map(Some)
        .ok_or_else(|| Refusal::invalid(field, "is not a kind that is known here"))
}

/// Reads the kinds that are accepted; none given accepts all.
pub(super) fn kinds(field: &'static str, numbers: &[i32]) -> Result<KindSet, Refusal> {
    let required = |number: &i32| {
        kind(field, *number)?.ok_or_else(|| Refusal::invalid(field, "holds the unspecified kind"))
    };
    let kinds: Vec<TokenKind> = numbers.iter().map(required).collect::<Result<_, _>>()?;
    Ok(KindSet::from_kinds(kinds))
}

/// The number of a kind of token.
pub(super) fn kind_number(kind: TokenKind) -> i32 {
    let kind = match kind {
        TokenKind::User => v1::TokenKind::User,
        TokenKind::Team => v1::TokenKind::Team,
        TokenKind::Resource => v1::TokenKind::Resource,
        TokenKind::Service => v1::TokenKind::Service,
        TokenKind::Access => v1::TokenKind::Access,
        TokenKind::ClientSecret => v1::TokenKind::ClientSecret,
        TokenKind::PublicKey => v1::TokenKind::PublicKey,
    };
    kind.into()
}

/// The number of a reason, as callers may know it.
pub(super) fn reason_number(reason: Reason) -> i32 {
    let reason = match reason {
        Reason::Stale => v1::Reason::Stale,
        Reason::NoToken => v1::Reason::NoToken,
        Reason::Malformed | Reason::Unknown => v1::Reason::Unknown,
        Reason::WrongKind => v1::Reason::WrongKind,
        Reason::Revoked => v1::Reason::Revoked,
        Reason::SubjectDisabled => v1::Reason::SubjectDisabled,
        Reason::Expired => v1::Reason::Expired,
        Reason::NotYetValid => v1::Reason::NotYetValid,
        Reason::Network => v1::Reason::Network,
        Reason::Audience => v1::Reason::Audience,
        Reason::Workload => v1::Reason::Workload,
        Reason::NotPermitted => v1::Reason::NotPermitted,
        Reason::UsesExhausted => v1::Reason::UsesExhausted,
        Reason::Allowed => v1::Reason::Allowed,
    };
    reason.into()
}

/// Reads what is known of a request.
pub(super) fn context(context: Option<&v1::Context>) -> Result<Context<'_>, Refusal> {
    let Some(context) = context else {
        return Ok(Context::default());
    };
    let address = context.client_ip.as_deref().map(str::parse).transpose();
    Ok(Context {
        client_ip: address
            .map_err(|_| Refusal::invalid("context.client_ip", "is an IPv4 or IPv6 address"))?,
        audience: context.audience.as_deref(),
        workload: context.workload.as_deref(),
    })
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
