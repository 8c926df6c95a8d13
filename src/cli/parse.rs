//! Readers of argument values: durations, instants, labels, revisions and enumerations.
//!
//! Each is a clap value parser: text in, a value out, or a sentence that says what is wanted. What
//! the server decides (names, grammar of a scope) is only checked here where the domain has one
//! rule for it, so that a typing mistake costs no round trip.

use std::time::Duration;

use clap::ValueEnum;
use jiff::Timestamp;

use crate::domain::permission::Need;
use crate::domain::principal::{PrincipalKind, PrincipalName};
use crate::domain::scopes::ScopeEntry;
use crate::domain::token::TokenId;
use crate::proto::v1;
use crate::proto::v1::scopes_input::Extent;

/// A duration of at least a millisecond, such as `10s` or `1h 30m`.
///
/// # Errors
/// A sentence that says what is wanted.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        Ok(_) => Err("must be longer than nothing".to_owned()),
        Err(_) => Err("wants a duration such as `90s`, `1h` or `30d`".to_owned()),
    }
}

/// A lifetime: whole seconds, at least one.
///
/// # Errors
/// A sentence that says what is wanted.
pub(crate) fn lifetime(text: &str) -> Result<Duration, String> {
    let duration = duration(text)?;
    if duration.subsec_nanos() == 0 {
        Ok(duration)
    } else {
        Err("wants whole seconds".to_owned())
    }
}

/// A grace: whole seconds, or `0` for none.
///
/// # Errors
/// A sentence that says what is wanted.
pub(crate) fn grace(text: &str) -> Result<Duration, String> {
    if matches!(text, "0" | "0s") {
        return Ok(Duration::ZERO);
    }
    lifetime(text)
}

/// An instant as RFC 3339 writes it.
///
/// # Errors
/// A sentence that says what is wanted.
pub(crate) fn instant(text: &str) -> Result<Timestamp, String> {
    text.parse()
        .map_err(|_| "wants an instant such as `2026-01-31T12:00:00Z`".to_owned())
}

/// What is meant by old.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Before {
    /// From before this instant.
    Instant(Timestamp),
    /// Older than this.
    Age(Duration),
}

/// An instant, or an age.
///
/// # Errors
/// What is wanted instead.
pub(crate) fn before(text: &str) -> Result<Before, String> {
    let age = duration(text).map(Before::Age);
    age.or_else(|_| instant(text).map(Before::Instant))
        .map_err(|_| {
            "wants an instant such as `2026-01-31T12:00:00Z` or an age such as `400d`".to_owned()
        })
}

/// A label, `KEY=VALUE`.
///
/// # Errors
/// A sentence that says what is wanted.
pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("wants KEY=VALUE".to_owned()),
    }
}

/// A revision, `NUMBER` or `NUMBER-HEX` as this program prints it.
///
/// # Errors
/// A sentence that says what is wanted.
pub(crate) fn revision(text: &str) -> Result<v1::Revision, String> {
    let wanted = || "wants a revision such as `12` or `12-9f2c01aa5be07d43`".to_owned();
    let (number, chain) = text.split_once('-').unwrap_or((text, ""));
    let number = number.parse().map_err(|_| wanted())?;
    if !chain.is_ascii() || !matches!(chain.len(), 0 | 16) || text.ends_with('-') {
        return Err(wanted());
    }
    let chain = (0..chain.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&chain[at..at + 2], 16))
        .collect::<Result<_, _>>()
        .map_err(|_| wanted())?;
    Ok(v1::Revision { number, chain })
}

/// One scope text; written out by the server.
///
/// # Errors
/// A sentence that names the part that is wrong.
pub(crate) fn scope(text: &str) -> Result<String, String> {
    match ScopeEntry::parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// The id of a token. A secret in its place is recognised, so that the mistake is named.
///
/// # Errors
/// A sentence that says what is wanted.
pub(crate) fn token_id(text: &str) -> Result<String, String> {
    if text.starts_with("lk") && text.contains('_') {
        return Err(
            "looks like a secret; a token id is wanted (secrets go into a file)".to_owned(),
        );
    }
    match TokenId::parse(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err("wants a token id, as `token list` shows it".to_owned()),
    }
}

/// A need, `ACTION@RESOURCE`.
///
/// # Errors
/// A sentence that names the part that is wrong.
pub(crate) fn need(text: &str) -> Result<v1::Need, String> {
    let (action, resource) = text.split_once('@').ok_or("wants ACTION@RESOURCE")?;
    exact_need(action, resource)
}

/// A need from its two parts.
///
/// # Errors
/// A sentence that names the part that is wrong.
pub(crate) fn exact_need(action: &str, resource: &str) -> Result<v1::Need, String> {
    Need::parse(action, resource).map_err(|error| error.to_string())?;
    Ok(v1::Need {
        action: action.to_owned(),
        resource: resource.to_owned(),
    })
}

/// What a login or a credential is narrowed to; none given is not narrowed.
#[must_use]
pub(crate) fn narrowed(scopes: Vec<String>) -> Option<v1::ScopesInput> {
    let given = !scopes.is_empty();
    given.then_some(v1::ScopesInput {
        extent: Some(Extent::Only(v1::ScopeList { scopes })),
    })
}

/// The full name of a principal of `kind`: `alice` and `user:alice` are the same user.
#[must_use]
pub(crate) fn principal_of(kind: PrincipalKind, text: &str) -> String {
    match PrincipalName::parse(text) {
        Some(name) if name.kind() == kind => text.to_owned(),
        _ => format!("{}:{text}", kind.name()),
    }
}

/// The full name of a principal of any kind; a name by itself is a service account's.
pub(crate) fn principal_or_service(text: &str) -> String {
    match PrincipalName::parse(text) {
        Some(_) => text.to_owned(),
        None => principal_of(PrincipalKind::Service, text),
    }
}

/// What a token speaks for, as an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// A user, with the user's live permissions.
    User,
    /// A team, with the team's live permissions.
    Team,
    /// A resource; its scopes are its whole power.
    Resource,
    /// A service account, with its live permissions.
    Service,
}

impl Kind {
    /// The kind in the API.
    #[must_use]
    pub(crate) fn wire(self) -> v1::TokenKind {
        match self {
            Self::User => v1::TokenKind::User,
            Self::Team => v1::TokenKind::Team,
            Self::Resource => v1::TokenKind::Resource,
            Self::Service => v1::TokenKind::Service,
        }
    }

    /// The kind of principal that such a token speaks for; none for a resource.
    #[must_use]
    pub(crate) fn principal(self) -> Option<PrincipalKind> {
        match self {
            Self::User => Some(PrincipalKind::User),
            Self::Team => Some(PrincipalKind::Team),
            Self::Service => Some(PrincipalKind::Service),
            Self::Resource => None,
        }
    }
}

/// The kind of a token that is there, as an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AnyKind {
    /// A user, with the user's live permissions.
    User,
    /// A team, with the team's live permissions.
    Team,
    /// A resource; its scopes are its whole power.
    Resource,
    /// A service account, with its live permissions.
    Service,
    /// What a login or an exchange gave.
    Access,
    /// A client secret, which can only log in.
    #[value(alias = "client_secret")]
    ClientSecret,
    /// A registered public key, which can only log in.
    #[value(alias = "public_key")]
    PublicKey,
}

impl AnyKind {
    /// The kind in the API.
    #[must_use]
    pub(crate) fn wire(self) -> v1::TokenKind {
        match self {
            Self::User => v1::TokenKind::User,
            Self::Team => v1::TokenKind::Team,
            Self::Resource => v1::TokenKind::Resource,
            Self::Service => v1::TokenKind::Service,
            Self::Access => v1::TokenKind::Access,
            Self::ClientSecret => v1::TokenKind::ClientSecret,
            Self::PublicKey => v1::TokenKind::PublicKey,
        }
    }
}

/// Whether a token works, as an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum State {
    /// It works.
    Active,
    /// Its not-before instant has not come yet.
    NotYetValid,
    /// It has expired.
    Expired,
    /// It was revoked.
    Revoked,
    /// Its subject is disabled.
    SubjectDisabled,
    /// It has no uses left.
    UsesExhausted,
}

impl State {
    /// The state in the API.
    #[must_use]
    pub(crate) fn wire(self) -> v1::TokenState {
        match self {
            Self::Active => v1::TokenState::Active,
            Self::NotYetValid => v1::TokenState::NotYetValid,
            Self::Expired => v1::TokenState::Expired,
            Self::Revoked => v1::TokenState::Revoked,
            Self::SubjectDisabled => v1::TokenState::SubjectDisabled,
            Self::UsesExhausted => v1::TokenState::UsesExhausted,
        }
    }
}

/// A duration for the API.
#[must_use]
pub(crate) fn wire_duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

/// An instant for the API.
#[must_use]
pub(crate) fn wire_instant(instant: Timestamp) -> prost_types::Timestamp {
    // The API's nanoseconds count forward from the second, also before 1970.
    let nanos = instant.subsec_nanosecond();
    let (seconds, nanos) = if nanos < 0 {
        (instant.as_second() - 1, nanos + 1_000_000_000)
    } else {
        (instant.as_second(), nanos)
    };
    prost_types::Timestamp { seconds, nanos }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_and_lifetimes_whole_seconds() {
        let check = |text, seconds| assert_eq!(lifetime(text), Ok(Duration::from_secs(seconds)));
        check("1h", 3_600);
        check("90s", 90);
        check("1h 30m", 5_400);
        check("30d", 2_592_000);
        for text in ["", "1", "h", "-1h", "0s", "1500ms", "1 fortnight"] {
            assert!(lifetime(text).is_err(), "{text:?}");
        }
        assert_eq!(duration("1500ms"), Ok(Duration::from_millis(1_500)));
        assert_eq!(grace("0"), Ok(Duration::ZERO));
    }

    #[test]
    fn labels_split_at_the_first_equals_sign() {
        let pair = |key: &str, value: &str| Ok((key.to_owned(), value.to_owned()));
        assert_eq!(label("env=prod"), pair("env", "prod"));
        assert_eq!(label("a=b=c"), pair("a", "b=c"));
        assert_eq!(label("a="), pair("a", ""));
        for text in ["", "a", "=b"] {
            assert!(label(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn revisions_read_back_and_others_are_refused() {
        let full = revision("12-9f2c01aa5be07d43").expect("valid");
        assert_eq!((full.number, full.chain.len()), (12, 8));
        assert_eq!(revision("7").expect("valid").chain, Vec::<u8>::new());
        for text in [
            "",
            "-",
            "12-",
            "12-9f",
            "x",
            "12-zzzzzzzzzzzzzzzz",
            "12-éééééééé",
        ] {
            assert!(revision(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn principals_may_leave_out_their_kind() {
        let check = |kind, text, expected| assert_eq!(principal_of(kind, text), expected);
        check(PrincipalKind::User, "alice", "user:alice");
        check(PrincipalKind::User, "user:alice", "user:alice");
        check(PrincipalKind::Team, "platform", "team:platform");
        let check = |text, expected| assert_eq!(principal_or_service(text), expected);
        check("ci-runner", "service:ci-runner");
        check("service:ci-runner", "service:ci-runner");
        check("user:alice", "user:alice");
    }

    #[test]
    fn a_secret_in_place_of_an_id_is_named() {
        assert!(token_id("lku_abc").is_err_and(|text| text.contains("secret")));
        assert!(token_id("nonsense").is_err());
        assert!(token_id("0197f3a2-7c00-7000-8000-000000000000").is_ok());
    }

    #[test]
    fn instants_before_1970_count_forward() {
        let wire = wire_instant(instant("1969-12-31T23:59:59.5Z").expect("valid"));
        assert_eq!((wire.seconds, wire.nanos), (-1, 500_000_000));
    }
}
