//! How a service account logs in: its methods, their settings, and what locks somebody out.
//!
//! A login exchanges a credential for an access token. Each method is set on an account before
//! it can be used, and its settings hold for every access token that was born from it, also
//! after they changed. Held by State, decided on in `state::decide`; nothing here is secret.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv6Net};

use super::chain::RevisionNumber;
use super::limits::Networks;
use super::principal::PrincipalId;
use super::reason::Reason;
use super::refusal::Refusal;
use super::token::TokenKind;

/// The life of an access token where none is set, in seconds.
pub const TTL_S_DEFAULT: u32 = 3_600;

/// Networks that are locked out of one account at a time.
pub const LOCKS_MAX: usize = 64;

const THRESHOLD_MAX: u32 = 30;
const LOCKED_S: RangeInclusive<u32> = 30..=86_400;
const RESET_S: RangeInclusive<u32> = 5..=3_600;
const TTL_BESIDE_PERIOD: &str = "has no ttl beside it: tokens live by the period";

/// How credentials are shown at a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum LoginMethod {
    /// A client id and a client secret.
    UniversalAuth = 1,
    /// An assertion that is signed with a registered key (RFC 7523).
    KeyPair = 2,
}

impl LoginMethod {
    /// Every method, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::UniversalAuth, Self::KeyPair];

    /// The word used in the API, the CLI and the log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::UniversalAuth => "universal_auth",
            Self::KeyPair => "key_pair",
        }
    }

    /// The method with this number, as the log stores it.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|one| *one as u8 == number)
    }

    /// The method with this word.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == name)
    }

    /// The method that credentials of a kind log in by; none for what is no credential.
    #[must_use]
    #[inline]
    pub fn of(kind: TokenKind) -> Option<Self> {
        match kind {
            TokenKind::ClientSecret => Some(Self::UniversalAuth),
            TokenKind::PublicKey => Some(Self::KeyPair),
            _ => None,
        }
    }
}

impl fmt::Display for LoginMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// When failing logins lock out whoever makes them: one client network of one account.
///
/// While [`LOCKS_MAX`] networks are locked out of an account no other one is: what fails from
/// there is refused as any guess is, and writes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LockoutPolicy {
    /// At so many failures.
    pub threshold: u32,
    /// For so many seconds.
    pub duration_s: u32,
    /// Failures that are further apart than this many seconds do not add up.
    pub reset_s: u32,
}

impl Default for LockoutPolicy {
    fn default() -> Self {
        Self {
            threshold: 3,
            duration_s: 300,
            reset_s: 30,
        }
    }
}

/// What holds for the logins of one method and for the access tokens born from them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginSettings {
    /// How long an access token lives, in seconds.
    pub ttl_s: u32,
    /// How long a session can be renewed, in seconds from the login; none is not at all.
    pub max_ttl_s: Option<u32>,
    /// Renewable for ever by this many seconds: then neither of the two above is given, nor are
    /// uses.
    pub period_s: Option<u32>,
    /// How often an access token can be used; then it is stored, not sealed.
    pub uses: Option<u32>,
    /// From where access tokens may be used.
    pub networks: Networks,
    /// From where logins may come.
    pub login_networks: Networks,
    /// When failures lock out; none is never.
    pub lockout: Option<LockoutPolicy>,
}

impl Default for LoginSettings {
    fn default() -> Self {
        Self {
            ttl_s: TTL_S_DEFAULT,
            max_ttl_s: None,
            period_s: None,
            uses: None,
            networks: Networks::default(),
            login_networks: Networks::default(),
            lockout: Some(LockoutPolicy::default()),
        }
    }
}

impl LoginSettings {
    /// The ttl beside a period, as both are asked for: none given is the default.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] where both are given.
    pub fn ttl_asked(ttl_s: Option<u32>, period_s: Option<u32>) -> Result<u32, Refusal> {
        match ttl_s {
            Some(_) if period_s.is_some() => {
                Err(Refusal::invalid("settings.period", TTL_BESIDE_PERIOD))
            }
            ttl_s => Ok(ttl_s.unwrap_or(TTL_S_DEFAULT)),
        }
    }

    /// The ttl, unless tokens live by a period.
    #[must_use]
    pub fn ttl_given(&self) -> Option<u32> {
        self.period_s.is_none().then_some(self.ttl_s)
    }

    /// Whether they can be set.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] for what is out of its bounds, or means nothing beside another.
    pub fn check(&self) -> Result<(), Refusal> {
        let refused = |field, what: &str| Err(Refusal::invalid(field, what));
        let seconds = [
            ("settings.ttl", Some(self.ttl_s)),
            ("settings.max_ttl", self.max_ttl_s),
            ("settings.period", self.period_s),
        ];
        if let Some((field, _)) = seconds.into_iter().find(|(_, seconds)| *seconds == Some(0)) {
            return refused(field, "is at least one second");
        }
        if self.period_s.is_some() {
            if self.max_ttl_s.is_some() {
                return refused("settings.period", "has no max_ttl beside it");
            }
            if self.ttl_s != TTL_S_DEFAULT {
                return refused("settings.period", TTL_BESIDE_PERIOD);
            }
            if self.uses.is_some() {
                let what = "has no uses beside it: what has a number of uses is not renewed";
                return refused("settings.period", what);
            }
        }
        if self.max_ttl_s.is_some_and(|max| max < self.ttl_s) {
            return refused("settings.max_ttl", "is less than the ttl");
        }
        if self.uses == Some(0) {
            return refused("settings.uses", "is at least 1");
        }
        let Some(lockout) = self.lockout else {
            return Ok(());
        };
        if !(1..=THRESHOLD_MAX).contains(&lockout.threshold) {
            return refused("settings.lockout.threshold", "is 1 to 30");
        }
        if !LOCKED_S.contains(&lockout.duration_s) {
            return refused("settings.lockout.duration", "is 30 seconds to a day");
        }
        if !RESET_S.contains(&lockout.reset_s) {
            return refused("settings.lockout.reset", "is 5 seconds to an hour");
        }
        Ok(())
    }

    /// How long an access token lives from its issue or renewal, in seconds.
    #[must_use]
    #[inline]
    pub fn life_s(&self) -> u32 {
        self.period_s.unwrap_or(self.ttl_s)
    }

    /// How long a session lives from its login, in seconds; none is without end.
    #[must_use]
    #[inline]
    pub fn session_s(&self) -> Option<u32> {
        match self.period_s {
            Some(_) => None,
            None => Some(self.max_ttl_s.unwrap_or(self.ttl_s)),
        }
    }
}

/// A method that is set on a service account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MethodRecord {
    /// The account.
    pub principal: PrincipalId,
    /// The method.
    pub method: LoginMethod,
    /// The revision at which it was set, not last changed: what was made before is refused.
    pub made_at: RevisionNumber,
    /// What holds for it now.
    pub settings: LoginSettings,
}

/// Why a login came to nothing that has shown the right credential: told to whoever has shown it,
/// and to nobody who guesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginCause {
    /// The credential or its account is good for no login, or for none like this one.
    Credential(Reason),
    /// The credential's method is not set on the account, or was set later than it was made.
    NoMethod,
    /// `iss` or `sub` of the assertion is not the client that it is shown for.
    OtherClient,
    /// The assertion is for another audience, or for others too.
    OtherAudience,
    /// The time of the assertion is over.
    AssertionExpired,
    /// The time of the assertion has not come.
    AssertionEarly,
    /// The end of the assertion is further ahead than one may be good for.
    TooFarAhead,
    /// The assertion was used before.
    Replayed,
}

impl LoginCause {
    /// The stable word for error details, metrics and the CLI.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Credential(reason) => reason.name(),
            Self::NoMethod => "no_method",
            Self::OtherClient => "other_client",
            Self::OtherAudience => Reason::Audience.name(),
            Self::AssertionExpired => Reason::Expired.name(),
            Self::AssertionEarly => Reason::NotYetValid.name(),
            Self::TooFarAhead => "too_far_ahead",
            Self::Replayed => "replayed",
        }
    }
}

impl fmt::Display for LoginCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Credential(Reason::Revoked) => "the credential was revoked",
            Self::Credential(Reason::SubjectDisabled) => "the account is disabled",
            Self::Credential(Reason::Expired) => "the credential has expired",
            Self::Credential(Reason::NotYetValid) => "the credential is not valid yet",
            Self::Credential(Reason::Network) => "logins may not come from this address",
            Self::Credential(Reason::Workload) => "another workload logs in with this credential",
            Self::Credential(Reason::UsesExhausted) => "the credential's logins are spent",
            Self::Credential(_) => "the credential is not good for this login",
            Self::NoMethod => "the account does not log in with this credential any more",
            Self::OtherClient => "`iss` and `sub` of the assertion are not the client",
            Self::OtherAudience => "`aud` of the assertion is not this server's alone",
            Self::AssertionExpired => "the assertion has expired",
            Self::AssertionEarly => "the assertion is from the future",
            Self::TooFarAhead => "`exp` of the assertion is too far ahead",
            Self::Replayed => "the assertion was used before",
        })
    }
}

/// From where logins come, as far as a lockout tells them apart: an IPv4 address, the /64 of an
/// IPv6 one, or that it is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientNetwork(Option<IpNet>);

impl ClientNetwork {
    const UNKNOWN: &str = "unknown";

    /// The network of an address.
    #[must_use]
    pub fn of(address: Option<IpAddr>) -> Self {
        Self(address.map(|address| match address.to_canonical() {
            address @ IpAddr::V4(_) => IpNet::from(address),
            IpAddr::V6(address) => Ipv6Net::new_assert(address, 64).trunc().into(),
        }))
    }

    /// Reads the text form; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == Self::UNKNOWN {
            return Some(Self(None));
        }
        let network: IpNet = text.parse().ok()?;
        let read = Self::of(Some(network.addr()));
        (read.0 == Some(network)).then_some(read)
    }
}

impl fmt::Display for ClientNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(network) => network.fmt(f),
            None => f.write_str(Self::UNKNOWN),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_of_clients_read_back_and_others_are_refused() {
        let of = |text: &str| ClientNetwork::of(Some(text.parse().expect("an address")));
        assert_eq!(of("192.0.2.7").to_string(), "192.0.2.7/32");
        assert_eq!(of("::ffff:192.0.2.7"), of("192.0.2.7"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("2001:db8::1").to_string(), "2001:db8::/64");
        for known in [of("192.0.2.7"), of("2001:db8::1"), ClientNetwork::of(None)] {
            assert_eq!(ClientNetwork::parse(&known.to_string()), Some(known));
        }
        for text in [
            "",
            "192.0.2.7",
            "192.0.2.0/24",
            "2001:db8::1/64",
            "2001:db8::/48",
        ] {
            assert_eq!(ClientNetwork::parse(text), None, "{text}");
        }
    }
}
