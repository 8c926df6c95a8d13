//! Scopes: what a token is narrowed to, and the canonical sets of permissions behind them.
//!
//! A [`PermissionSet`] is sorted, without repetition and without members that another member
//! covers, so that equal powers written by different hands are one interned set in memory.
//! Also here: the text form `ACTION[,ACTION…]@RESOURCE` and `role:NAME@RESOURCE`.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::permission::{ActionPattern, GrammarError, Permission, ResourcePattern};
use super::principal::RoleName;

/// Most permissions in one set.
pub const PERMISSIONS_MAX: usize = 256;
// Most permissions that one set is made from, before what is covered is dropped.
const CANDIDATES_MAX: usize = 4 * PERMISSIONS_MAX;
/// Most bytes of all permission texts of one set.
pub const PERMISSIONS_BYTES_MAX: usize = 32 * 1024;

/// A canonical set of permissions: at most 256 of them and 32 KiB in all. Clones share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PermissionSet(Arc<Content>);

#[derive(Debug, PartialEq, Eq)]
struct Content {
    // First, so that different sets are told apart at once.
    hash: [u8; 32],
    permissions: Box<[Permission]>,
}

impl Default for PermissionSet {
    fn default() -> Self {
        Self::of([].into())
    }
}

// By the hash alone: it tells everything.
impl Hash for PermissionSet {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0.hash);
    }
}

/// A set of permissions is larger than a token may carry.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error(
    "more than {PERMISSIONS_MAX} permissions, or more than {PERMISSIONS_BYTES_MAX} bytes of them"
)]
pub struct SetTooLarge;

impl PermissionSet {
    /// The canonical set of these permissions.
    ///
    /// # Errors
    /// [`SetTooLarge`] when it passes the limits after what is covered was dropped.
    pub fn new(permissions: impl IntoIterator<Item = Permission>) -> Result<Self, SetTooLarge> {
        // Comparing is quadratic, and the writer does it: what is far too much is not compared.
        let mut all: Vec<Permission> = permissions.into_iter().take(CANDIDATES_MAX + 1).collect();
        if all.len() > CANDIDATES_MAX {
            return Err(SetTooLarge);
        }
        all.sort_unstable();
        all.dedup();
        let kept: Vec<Permission> = all
            .iter()
            .enumerate()
            .filter(|(index, one)| {
                !all.iter().enumerate().any(|(other_index, other)| {
                    // Two different patterns never cover each other both ways, so no tie to break.
                    other_index != *index && other.covers(one)
                })
            })
            .map(|(_, one)| one.clone())
            .collect();
        let bytes: usize = kept.iter().map(text_bytes).sum();
        if kept.len() > PERMISSIONS_MAX || bytes > PERMISSIONS_BYTES_MAX {
            return Err(SetTooLarge);
        }
        Ok(Self::of(kept.into()))
    }

    fn of(permissions: Box<[Permission]>) -> Self {
        let mut hash = Sha256::new();
        for permission in &permissions {
            hash.update(permission.action.as_str().as_bytes());
            hash.update(b"@");
            hash.update(permission.resource.as_str().as_bytes());
            hash.update(b"\n");
        }
        Self(Arc::new(Content {
            hash: hash.finalize().into(),
            permissions,
        }))
    }

    /// The members, in canonical order.
    pub fn iter(&self) -> std::slice::Iter<'_, Permission> {
        self.0.permissions.iter()
    }

    /// How many permissions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.permissions.len()
    }

    /// Whether the set permits nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.permissions.is_empty()
    }

    /// Whether one member covers `permission`.
    #[must_use]
    pub fn covers(&self, permission: &Permission) -> bool {
        self.iter().any(|mine| mine.covers(permission))
    }

    /// Whether every member of `other` is covered.
    #[must_use]
    pub fn covers_all(&self, other: &Self) -> bool {
        other.iter().all(|permission| self.covers(permission))
    }

    /// What both sets permit.
    ///
    /// # Errors
    /// [`SetTooLarge`] when the products pass the limits.
    pub fn meet(&self, other: &Self) -> Result<Self, SetTooLarge> {
        Self::new(
            self.iter()
                .flat_map(|mine| other.iter().filter_map(|theirs| mine.meet(theirs))),
        )
    }

    /// A hash of the content, the same on every replica and after every restart.
    #[must_use]
    pub fn content_hash(&self) -> [u8; 32] {
        self.0.hash
    }
}

fn text_bytes(permission: &Permission) -> usize {
    permission.action.as_str().len() + permission.resource.as_str().len()
}

impl<'a> IntoIterator for &'a PermissionSet {
    type Item = &'a Permission;
    type IntoIter = std::slice::Iter<'a, Permission>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// What a token is narrowed to. `Only` of nothing permits nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scopes {
    /// Not narrowed; only for tokens that speak for a principal.
    All,
    /// At most these permissions.
    Only(PermissionSet),
}

impl Scopes {
    /// Whether these scopes allow everything that `other` allows.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::All, _) => true,
            (Self::Only(_), Self::All) => false,
            (Self::Only(mine), Self::Only(theirs)) => mine.covers_all(theirs),
        }
    }

    /// Whether these scopes allow `permission`.
    #[must_use]
    pub fn covers_permission(&self, permission: &Permission) -> bool {
        match self {
            Self::All => true,
            Self::Only(set) => set.covers(permission),
        }
    }

    /// What both allow.
    ///
    /// # Errors
    /// [`SetTooLarge`] when the result passes the limits of a set.
    pub fn meet(&self, other: &Self) -> Result<Self, SetTooLarge> {
        Ok(match (self, other) {
            (Self::All, scopes) | (scopes, Self::All) => scopes.clone(),
            (Self::Only(mine), Self::Only(theirs)) => Self::Only(mine.meet(theirs)?),
        })
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Only(set) if set.is_empty() => f.write_str("nothing"),
            Self::Only(set) => {
                for (index, permission) in set.iter().enumerate() {
                    let comma = if index > 0 { ", " } else { "" };
                    write!(f, "{comma}{permission}")?;
                }
                Ok(())
            }
        }
    }
}

/// One entry of scope text, before roles are written out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScopeEntry {
    /// `ACTION[,ACTION…]@RESOURCE`.
    Permissions(Vec<Permission>),
    /// `role:NAME@RESOURCE`: the role's actions, as they are at issue.
    Role(RoleName, ResourcePattern),
}

/// Why a scope text is refused.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ScopeTextError {
    /// There is no `@`.
    #[error("a scope is ACTION[,ACTION...]@RESOURCE or role:NAME@RESOURCE")]
    Form,
    /// The name after `role:` is not a role name.
    #[error("a role name is 1 to 128 characters of [A-Za-z0-9._~+-]")]
    RoleName,
    /// An action or the resource is outside the grammar.
    #[error(transparent)]
    Grammar(#[from] GrammarError),
}

impl ScopeEntry {
    /// Reads one entry.
    ///
    /// # Errors
    /// [`ScopeTextError`] naming the part that is wrong.
    pub fn parse(text: &str) -> Result<Self, ScopeTextError> {
        let (actions, resource) = text.split_once('@').ok_or(ScopeTextError::Form)?;
        let resource = ResourcePattern::parse(resource)?;
        if let Some(role) = actions.strip_prefix("role:") {
            let role = RoleName::parse(role).ok_or(ScopeTextError::RoleName)?;
            return Ok(Self::Role(role, resource));
        }
        let permissions = actions
            .split(',')
            .map(|action| {
                Ok(Permission {
                    action: ActionPattern::parse(action)?,
                    resource: resource.clone(),
                })
            })
            .collect::<Result<_, GrammarError>>()?;
        Ok(Self::Permissions(permissions))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(texts: &[&str]) -> PermissionSet {
        let permissions = texts.iter().flat_map(|text| match ScopeEntry::parse(text) {
            Ok(ScopeEntry::Permissions(permissions)) => permissions,
            other => panic!("{text}: {other:?}"),
        });
        PermissionSet::new(permissions).expect("small")
    }

    #[test]
    fn sets_are_canonical() {
        let check = |input: &[&str], expected: &str| {
            assert_eq!(Scopes::Only(set(input)).to_string(), expected);
        };
        check(&[], "nothing");
        check(&["b:x@r", "a:x@r", "a:x@r"], "a:x@r, b:x@r");
        check(&["a:*@r", "a:x@r"], "a:*@r");
        check(&["a:x@r/**", "a:x@r", "a:x@r/*"], "a:x@r/**");
        check(&["*@**", "a:x@r", "b:y@s/t"], "*@**");
        check(&["a:x,b:y@r"], "a:x@r, b:y@r");
    }

    #[test]
    fn scope_text_outside_the_grammar_is_refused() {
        for text in [
            "",
            "a:x",
            "@",
            "@r",
            "a:x@",
            "a:x,@r",
            "A@r",
            "a:x@/r",
            "a:x@r/",
            "a:x@r//s",
            "a:x@r/../s",
            "a:x@r/**/s",
            "role:@r",
            "role:a b@r",
            "a:x @r",
            "a:x@ r",
            "a:x@r*",
            "a:*:b@r",
            "a:b:c:d:e@r",
        ] {
            assert!(ScopeEntry::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn roles_are_named_in_scope_text() {
        let entry = ScopeEntry::parse("role:agent@acme/*/prod").expect("valid");
        let ScopeEntry::Role(name, resource) = entry else {
            panic!("not a role");
        };
        assert_eq!((name.as_str(), resource.as_str()), ("agent", "acme/*/prod"));
    }

    #[test]
    fn too_large_a_set_is_refused_whole() {
        let many = (0..=PERMISSIONS_MAX)
            .map(|n| Permission::parse("a:x", &format!("r/{n}")).expect("valid"));
        assert_eq!(PermissionSet::new(many), Err(SetTooLarge));
        // Equal ones count, too, once there are far too many to compare.
        let one = Permission::parse("a:x", "r").expect("valid");
        let same = |count: usize| PermissionSet::new(std::iter::repeat_n(one.clone(), count));
        assert_eq!(same(CANDIDATES_MAX).map(|set| set.len()), Ok(1));
        assert_eq!(same(CANDIDATES_MAX + 1), Err(SetTooLarge));
    }

    #[test]
    fn only_of_nothing_covers_nothing_and_all_covers_all() {
        let nothing = Scopes::Only(PermissionSet::default());
        let one = Scopes::Only(set(&["a:x@r"]));
        assert!(Scopes::All.covers(&one) && Scopes::All.covers(&Scopes::All));
        assert!(one.covers(&nothing) && !nothing.covers(&one));
        assert!(!Scopes::Only(set(&["*@**"])).covers(&Scopes::All));
        assert_eq!(one.meet(&Scopes::All), Ok(one.clone()));
        assert_eq!(one.meet(&nothing), Ok(nothing));
    }
}
