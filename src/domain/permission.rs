//! The algebra of permissions: actions, resources, their patterns, and what covers what.
//!
//! Allow-only and monotone. `covers` is total and sound: a pattern covers another only if it
//! matches everything that the other matches; where that cannot be shown the answer is no.
//! `meet` is exact: it matches what both match. Everything is parsed once, at the edge, and
//! anything outside the grammar is refused, never repaired. The bulk evaluator for Check is in
//! `state::scopeset`; a property test holds the two together.

use std::fmt;
use std::sync::Arc;

use super::grammar::{ActionHashes, ResourceHashes, is_action_part, read_action, read_resource};

pub use super::grammar::{
    ACTION_BYTES_MAX, ACTION_PARTS_MAX, GrammarError, RESOURCE_BYTES_MAX, RESOURCE_SEGMENTS_MAX,
    SEGMENT_BYTES_MAX, is_segment,
};

/// A concrete resource: a path such as `acme/web/prod`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resource(Arc<str>);

impl Resource {
    /// Reads a resource.
    ///
    /// # Errors
    /// [`GrammarError::Resource`] for anything outside the grammar.
    pub fn parse(text: &str) -> Result<Self, GrammarError> {
        read_resource(text, &mut ResourceHashes::default())?;
        Ok(Self(text.into()))
    }

    /// The path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// This resource and every one above it, nearest first: `a/b/c`, `a/b`, `a`.
    pub fn self_and_ancestors(&self) -> impl Iterator<Item = Self> {
        let paths = std::iter::successors(Some(self.as_str()), |path| {
            path.rfind('/').map(|slash| &path[..slash])
        });
        // Every prefix that ends at a slash is in the grammar, too.
        paths.map(|path| Self(path.into()))
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An action on a resource that a Check asks about. Borrowed: parsing allocates nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need<'a> {
    action: &'a str,
    resource: &'a str,
    action_hashes: ActionHashes,
    resource_hashes: ResourceHashes,
}

impl<'a> Need<'a> {
    /// Reads a concrete action and a concrete resource; patterns are refused.
    ///
    /// # Errors
    /// [`GrammarError`] naming the part that is outside the grammar.
    #[inline]
    pub fn parse(action: &'a str, resource: &'a str) -> Result<Self, GrammarError> {
        let mut need = Self {
            action,
            resource,
            action_hashes: ActionHashes::default(),
            resource_hashes: ResourceHashes::default(),
        };
        read_action(action, &mut need.action_hashes)?;
        read_resource(resource, &mut need.resource_hashes)?;
        Ok(need)
    }

    /// A need for something that the server itself names.
    pub(crate) fn known(action: &'a str, resource: &'a Resource) -> Self {
        Self::parse(action, resource.as_str()).expect("an action of our own on a parsed resource")
    }

    /// The hash of the first `parts` parts of the action; 0 if it has not so many.
    #[inline]
    pub(crate) fn action_hash(&self, parts: u8) -> u32 {
        let hash = self.action_hashes.get(usize::from(parts));
        hash.copied().unwrap_or_default()
    }

    /// The hash of the first `segments` segments of the resource; 0 if it has not so many.
    #[inline]
    pub(crate) fn resource_hash(&self, segments: u8) -> u32 {
        let hash = self.resource_hashes.get(usize::from(segments));
        hash.copied().unwrap_or_default()
    }

    /// The action.
    #[must_use]
    pub fn action(&self) -> &'a str {
        self.action
    }

    /// The resource.
    #[must_use]
    pub fn resource(&self) -> &'a str {
        self.resource
    }

    /// The permission that matches exactly this need.
    #[must_use]
    pub fn to_permission(&self) -> Permission {
        Permission {
            action: ActionPattern(self.action.into()),
            resource: ResourcePattern(self.resource.into()),
        }
    }
}

/// Which actions: one exactly, all below a prefix (`secrets:*`), or all (`*`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ActionPattern(Box<str>);

impl ActionPattern {
    /// Reads an action pattern.
    ///
    /// # Errors
    /// [`GrammarError::ActionPattern`] for anything outside the grammar.
    pub fn parse(text: &str) -> Result<Self, GrammarError> {
        let mut parts = text.split(':');
        let last = parts.next_back().unwrap_or_default();
        let valid = text.len() <= ACTION_BYTES_MAX
            && text.split(':').count() <= ACTION_PARTS_MAX
            && (last == "*" || is_action_part(last))
            && parts.all(is_action_part);
        if valid {
            Ok(Self(text.into()))
        } else {
            Err(GrammarError::ActionPattern)
        }
    }

    /// The text form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What every covered action begins with, colon included, or `None` for an exact action.
    #[must_use]
    pub fn wildcard_prefix(&self) -> Option<&str> {
        self.0.strip_suffix('*')
    }

    /// Whether every action that `other` matches is matched by this pattern.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match self.wildcard_prefix() {
            // A prefix ends in ':' or is empty, so a longer text under it has a part more.
            Some(prefix) => other.0.len() > prefix.len() && other.0.starts_with(prefix),
            None => self.0 == other.0,
        }
    }

    /// Whether `action`, which is inside the grammar, is matched.
    #[must_use]
    pub fn matches(&self, action: &str) -> bool {
        action_matches(self.0.as_bytes(), action.as_bytes())
    }

    /// The pattern of what both match, if they have anything in common.
    #[must_use]
    pub fn meet(&self, other: &Self) -> Option<Self> {
        if self.covers(other) {
            Some(other.clone())
        } else if other.covers(self) {
            Some(self.clone())
        } else {
            None
        }
    }
}

impl fmt::Display for ActionPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether an action pattern, as text, matches an action.
#[inline]
pub(crate) fn action_matches(pattern: &[u8], action: &[u8]) -> bool {
    match pattern.strip_suffix(b"*") {
        // A prefix ends in ':' or is empty, so a longer text under it has a part more.
        Some(prefix) => action.len() > prefix.len() && action.starts_with(prefix),
        None => pattern == action,
    }
}

/// Which resources: segments that may be `*` (one segment), and a last `**` (this and below).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourcePattern(Box<str>);

impl ResourcePattern {
    /// Reads a resource pattern.
    ///
    /// # Errors
    /// [`GrammarError::ResourcePattern`] for anything outside the grammar.
    pub fn parse(text: &str) -> Result<Self, GrammarError> {
        let fixed = match text.strip_suffix("**") {
            Some("") => return Ok(Self(text.into())),
            Some(head) => head
                .strip_suffix('/')
                .ok_or(GrammarError::ResourcePattern)?,
            None => text,
        };
        let valid = text.len() <= RESOURCE_BYTES_MAX
            && fixed.split('/').count() <= RESOURCE_SEGMENTS_MAX
            && fixed.split('/').all(|part| part == "*" || is_segment(part));
        if valid {
            Ok(Self(text.into()))
        } else {
            Err(GrammarError::ResourcePattern)
        }
    }

    /// The pattern `**`: every resource.
    #[must_use]
    pub fn everything() -> Self {
        Self("**".into())
    }

    /// The pattern `resource/**`: this resource and everything below it.
    #[must_use]
    pub fn under(resource: &Resource) -> Self {
        Self(format!("{resource}/**").into())
    }

    /// The pattern that matches exactly `resource`.
    #[must_use]
    pub fn exactly(resource: &Resource) -> Self {
        Self(resource.as_str().into())
    }

    /// The text form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The segments before a final `**`, and whether there is one.
    fn parts(&self) -> (impl Iterator<Item = &str> + Clone, bool) {
        pattern_parts(&self.0)
    }

    /// Whether every resource that `other` matches is matched by this pattern.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let (mine, my_tail) = self.parts();
        let (mut theirs, their_tail) = other.parts();
        if their_tail && !my_tail {
            return false;
        }
        for part in mine {
            match theirs.next() {
                Some(their_part) if part == "*" || part == their_part => {}
                _ => return false,
            }
        }
        my_tail || theirs.next().is_none()
    }

    /// Whether `resource`, which is inside the grammar, is matched.
    #[must_use]
    pub fn matches(&self, resource: &str) -> bool {
        resource_matches(&self.0, resource)
    }

    /// The pattern of what both match, if they have anything in common.
    #[must_use]
    pub fn meet(&self, other: &Self) -> Option<Self> {
        let (mut mine, my_tail) = self.parts();
        let (mut theirs, their_tail) = other.parts();
        let mut met: Vec<&str> = Vec::with_capacity(RESOURCE_SEGMENTS_MAX + 1);
        let both_tail = loop {
            match (mine.next(), theirs.next()) {
                (Some(a), Some(b)) if a == "*" || a == b => met.push(b),
                (Some(a), Some("*")) => met.push(a),
                (Some(_), Some(_)) => return None,
                (Some(a), None) if their_tail => met.push(a),
                (None, Some(b)) if my_tail => met.push(b),
                (None, None) => break my_tail && their_tail,
                (Some(_), None) | (None, Some(_)) => return None,
            }
        };
        if both_tail {
            met.push("**");
        }
        let text = met.join("/");
        // Longer than any resource: both match something, but nothing in common.
        (!text.is_empty() && text.len() <= RESOURCE_BYTES_MAX).then(|| Self(text.into()))
    }
}

impl fmt::Display for ResourcePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn pattern_parts(pattern: &str) -> (impl Iterator<Item = &str> + Clone, bool) {
    let (fixed, tail) = match pattern.strip_suffix("**") {
        Some(head) => (head.strip_suffix('/').unwrap_or(head), true),
        None => (pattern, false),
    };
    (fixed.split('/').filter(|part| !part.is_empty()), tail)
}

/// Whether a resource pattern, as text, matches a resource.
pub(crate) fn resource_matches(pattern: &str, resource: &str) -> bool {
    let (mine, my_tail) = pattern_parts(pattern);
    let mut theirs = resource.split('/');
    for part in mine {
        match theirs.next() {
            Some(their_part) if part == "*" || part == their_part => {}
            _ => return false,
        }
    }
    my_tail || theirs.next().is_none()
}

/// An action pattern on a resource pattern; text form `ACTION@RESOURCE`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Permission {
    /// Which actions.
    pub action: ActionPattern,
    /// Which resources.
    pub resource: ResourcePattern,
}

impl Permission {
    /// Reads the two patterns.
    ///
    /// # Errors
    /// [`GrammarError`] naming the part that is outside the grammar.
    pub fn parse(action: &str, resource: &str) -> Result<Self, GrammarError> {
        Ok(Self {
            action: ActionPattern::parse(action)?,
            resource: ResourcePattern::parse(resource)?,
        })
    }

    /// An action that the server itself names, on a pattern.
    pub(crate) fn known(action: &str, resource: ResourcePattern) -> Self {
        debug_assert!(ActionPattern::parse(action).is_ok(), "a name of our own");
        Self {
            action: ActionPattern(action.into()),
            resource,
        }
    }

    /// `*@**`: every action on every resource.
    #[must_use]
    pub fn everything() -> Self {
        Self {
            action: ActionPattern("*".into()),
            resource: ResourcePattern::everything(),
        }
    }

    /// Whether everything that `other` permits is permitted by this permission.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.action.covers(&other.action) && self.resource.covers(&other.resource)
    }

    /// What both permit, if that is anything.
    #[must_use]
    pub fn meet(&self, other: &Self) -> Option<Self> {
        Some(Self {
            action: self.action.meet(&other.action)?,
            resource: self.resource.meet(&other.resource)?,
        })
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.action, self.resource)
    }
}

#[cfg(test)]
#[path = "permission_tests.rs"]
mod tests;
