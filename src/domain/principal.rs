//! Names of principals and roles, and the internal id that is never used again.
//!
//! Tokens, grants and memberships hold a [`PrincipalId`], so a name that is given a second time
//! revives nothing. Names follow the grammar of one path segment.

use std::fmt;

use super::permission::is_segment;

/// The internal number of a principal; never reused. As text, `principal:17`, it names one that
/// is gone: no name does that for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PrincipalId(pub u32);

impl PrincipalId {
    const PREFIX: &str = "principal:";

    /// Whether a text is meant as a number and not as a name.
    #[must_use]
    pub fn is_meant(text: &str) -> bool {
        text.starts_with(Self::PREFIX)
    }

    /// Reads `principal:17`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let number = text.strip_prefix(Self::PREFIX)?;
        let canonical = number.starts_with(|first: char| matches!(first, '1'..='9'));
        number.parse().ok().filter(|_| canonical).map(Self)
    }
}

impl fmt::Display for PrincipalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", Self::PREFIX, self.0)
    }
}

/// The internal number of a grant; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GrantId(pub u32);

/// What sort of principal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum PrincipalKind {
    /// A person: `user:alice`.
    User = 1,
    /// A set of users and service accounts: `team:platform`.
    Team = 2,
    /// A machine identity: `service:ci-runner`.
    Service = 3,
}

impl PrincipalKind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::User, Self::Team, Self::Service];

    /// The word before the colon.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Team => "team",
            Self::Service => "service",
        }
    }

    /// The kind with this number, as the log stores it.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// The name of a principal while it lives, such as `user:alice`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PrincipalName {
    kind: PrincipalKind,
    name: Box<str>,
}

impl PrincipalName {
    /// A name of `kind`; `None` outside the grammar of a segment.
    #[must_use]
    pub fn new(kind: PrincipalKind, name: &str) -> Option<Self> {
        is_segment(name).then(|| Self {
            kind,
            name: name.into(),
        })
    }

    /// Reads `user:NAME`, `team:NAME` or `service:NAME`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, name) = text.split_once(':')?;
        let kind = PrincipalKind::ALL.into_iter().find(|k| k.name() == kind)?;
        Self::new(kind, name)
    }

    /// What sort of principal it is.
    #[must_use]
    pub fn kind(&self) -> PrincipalKind {
        self.kind
    }

    /// The name without its kind.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for PrincipalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.name(), self.name)
    }
}

/// The name of a role, unique in the installation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoleName(Box<str>);

impl RoleName {
    /// Reads a name: a path segment without `@` and `:`, so that scope text stays unambiguous.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        (is_segment(text) && !text.contains(['@', ':'])).then(|| Self(text.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn principal_names_read_back_and_others_are_refused() {
        for text in [
            "user:alice",
            "team:platform",
            "service:ci-runner",
            "user:a@b.example",
        ] {
            let name = PrincipalName::parse(text).expect(text);
            assert_eq!(name.to_string(), text);
        }
        for text in [
            "",
            "alice",
            "user:",
            "robot:r2",
            "User:alice",
            "user:a/b",
            "user:..",
            "user:a b",
        ] {
            assert_eq!(PrincipalName::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn numbers_of_principals_read_back_and_others_are_refused() {
        let id = PrincipalId(17);
        assert_eq!(id.to_string(), "principal:17");
        assert_eq!(PrincipalId::parse("principal:17"), Some(id));
        for text in [
            "principal:",
            "principal:0",
            "principal:017",
            "principal:+17",
            "principal:-1",
            "principal:4294967296",
            "principal:x",
            "user:17",
            "17",
        ] {
            assert_eq!(PrincipalId::parse(text), None, "{text:?}");
        }
        assert!(PrincipalName::parse("principal:17").is_none());
    }

    #[test]
    fn role_names_have_no_colon_and_no_at_sign() {
        assert!(RoleName::parse("agent-v2").is_some());
        for text in ["", "a:b", "a@b", "a/b", "."] {
            assert_eq!(RoleName::parse(text), None, "{text:?}");
        }
    }
}
