//! Why a Check was decided as it was: exactly one reason, in a fixed order of precedence.
//!
//! Bearers are told little ([`Reason::public`]), authorised operators all. Names are stable.

/// The reason of a decision. The order of the variants is the order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The replica may not answer: its lease has ended.
    Stale,
    /// No token was presented.
    NoToken,
    /// The text is not a token that we can have made.
    Malformed,
    /// Well-formed, but not one of ours, or long forgotten.
    Unknown,
    /// A kind that the caller does not accept.
    WrongKind,
    /// The token, an ancestor, its issuer or its subject was revoked or cut off.
    Revoked,
    /// The subject is disabled.
    SubjectDisabled,
    /// Past its expiry.
    Expired,
    /// Before its not-before.
    NotYetValid,
    /// The client's address is unknown or outside the token's networks.
    Network,
    /// The audience is missing or another.
    Audience,
    /// The workload is missing or another.
    Workload,
    /// A need is not covered.
    NotPermitted,
    /// The budget of uses is spent.
    UsesExhausted,
    /// Every step passed.
    Allowed,
}

impl Reason {
    /// Every reason, in the order of precedence; each stands at its number.
    pub const ALL: [Self; 15] = [
        Self::Stale,
        Self::NoToken,
        Self::Malformed,
        Self::Unknown,
        Self::WrongKind,
        Self::Revoked,
        Self::SubjectDisabled,
        Self::Expired,
        Self::NotYetValid,
        Self::Network,
        Self::Audience,
        Self::Workload,
        Self::NotPermitted,
        Self::UsesExhausted,
        Self::Allowed,
    ];

    /// What the bearer may be told: unknown and malformed look the same.
    #[must_use]
    pub fn public(self) -> Self {
        match self {
            Self::Malformed => Self::Unknown,
            other => other,
        }
    }

    /// The stable word for metrics, logs and the CLI.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::NoToken => "no_token",
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::WrongKind => "wrong_kind",
            Self::Revoked => "revoked",
            Self::SubjectDisabled => "subject_disabled",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Network => "network",
            Self::Audience => "audience",
            Self::Workload => "workload",
            Self::NotPermitted => "not_permitted",
            Self::UsesExhausted => "uses_exhausted",
            Self::Allowed => "allowed",
        }
    }

    /// A sentence for people, without anything about the token.
    #[must_use]
    pub fn message(self) -> &'static str {
        match self {
            Self::Stale => "this replica cannot answer now; ask again or ask another",
            Self::NoToken => "no token was presented",
            Self::Malformed | Self::Unknown => "the token is not known",
            Self::WrongKind => "this kind of token is not accepted here",
            Self::Revoked => "the token was revoked",
            Self::SubjectDisabled => "the token's subject is disabled",
            Self::Expired => "the token has expired",
            Self::NotYetValid => "the token is not valid yet",
            Self::Network => "the token may not be used from this address",
            Self::Audience => "the token is not meant for this audience",
            Self::Workload => "the token may not be used by this workload",
            Self::NotPermitted => "the token does not permit this",
            Self::UsesExhausted => "the token's uses are spent",
            Self::Allowed => "",
        }
    }
}
