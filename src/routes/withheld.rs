//! Headers that no resource is made of.
//!
//! A resource is logged and told to clients, so that a credential must not be part of it. And the
//! headers that tell a service who asks are still the client's own when a resource is made.

/// Those that hold credentials whatever the settings say.
const ALWAYS: &[&str] = &[
    "authorization",
    "cookie",
    "proxy-authorization",
    "x-api-key",
];

/// Names of headers that no resource is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Withheld(Box<[Box<str>]>);

impl Withheld {
    /// Those that always are, and these.
    #[must_use]
    pub fn with<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        Self(
            names
                .filter(|name| !name.is_empty())
                .map(Box::from)
                .collect(),
        )
    }

    /// Whether a name is one of them, also with `_` for `-`, as some programs write it.
    pub(super) fn has(&self, name: &str) -> bool {
        let own = self.0.iter().map(|name| &**name);
        let mut all = ALWAYS.iter().copied().chain(own);
        all.any(|known| is_like(known, name))
    }
}

fn is_like(one: &str, other: &str) -> bool {
    let spelt = |byte| if byte == b'_' { b'-' } else { byte };
    one.bytes().map(spelt).eq(other.bytes().map(spelt))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_withheld_always_and_what_is_set() {
        let withheld = Withheld::with(["x-acme-token", "x_user"].into_iter());
        for name in [
            "authorization",
            "cookie",
            "x-api-key",
            "x_api_key",
            "x-acme-token",
            "x_acme-token",
            "x-user",
        ] {
            assert!(withheld.has(name), "{name}");
        }
        for name in ["x-environment", "x-acme", "x-acme-tokens", ""] {
            assert!(!withheld.has(name), "{name}");
        }
        assert!(!Withheld::default().has("x-acme-token"));
    }
}
