//! The algebra of permissions: actions, resources, their patterns, and what covers what.
//!
//! Allow-only and monotone. `covers` is total and sound: a pattern covers another only if it
//! matches everything that the other matches; where that cannot be shown the answer is no.
//! `meet` is exact: it matches what both match. Everything is parsed once, at the edge, and
//! anything outside the grammar is refused, never repaired. The bulk evaluator for Check is in
//! `state::scopeset`; a property test holds the two together.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// Most parts of an action, a final `*` included.
pub const ACTION_PARTS_MAX: usize = 4;
/// Most bytes of an action or action pattern.
pub const ACTION_BYTES_MAX: usize = 128;
/// Most segments of a resource (a final `**` not counted).
pub const RESOURCE_SEGMENTS_MAX: usize = 16;
/// Most bytes of a resource or of a resource pattern.
pub const RESOURCE_BYTES_MAX: usize = 1024;
/// Most bytes of one segment.
pub const SEGMENT_BYTES_MAX: usize = 128;

/// Why a text is not an action, a resource or a pattern of one.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum GrammarError {
    /// Not 1 to 4 parts of `[a-z0-9_-]+` joined by `:`.
    #[error("an action is 1 to 4 parts of [a-z0-9_-] joined by ':', at most 128 bytes")]
    Action,
    /// Not an action with at most a final `*`.
    #[error("an action pattern is an action, or one whose last part is '*', or '*'")]
    ActionPattern,
    /// Not 1 to 16 valid segments in at most 1,024 bytes.
    #[error(
        "a resource is 1 to 16 segments of [A-Za-z0-9._~@:+-] (1 to 128 bytes, not '.' or '..') \
         joined by '/', at most 1024 bytes"
    )]
    Resource,
    /// Not a resource with `*` segments and at most a final `**`.
    #[error("a resource pattern is a resource in which a segment may be '*' and the last '**'")]
    ResourcePattern,
}

fn is_action_part(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(is_action_byte)
}

fn is_action_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-')
}

/// Whether `segment` may stand in a resource.
#[must_use]
pub fn is_segment(segment: &str) -> bool {
    !segment.is_empty()
        && segment.len() <= SEGMENT_BYTES_MAX
        && segment != "."
        && segment != ".."
        && segment.bytes().all(is_segment_byte)
}

// A table: one load a byte, on the path of every Check.
const SEGMENT_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(byte, b'.' | b'_' | b'~' | b'@' | b':' | b'+' | b'-');
        byte += 1;
    }
    table
};

#[inline]
fn is_segment_byte(byte: u8) -> bool {
    SEGMENT_BYTES[usize::from(byte)]
}

/// A concrete resource: a path such as `acme/web/prod`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resource(Arc<str>);

impl Resource {
    /// Reads a resource.
    ///
    /// # Errors
    /// [`GrammarError::Resource`] for anything outside the grammar.
    pub fn parse(text: &str) -> Result<Self, GrammarError> {
        resource_ends(text)?;
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

// One pass over the bytes: a Check parses its needs, so this is on the hot path.
fn resource_ends(text: &str) -> Result<Ends<RESOURCE_SEGMENTS_MAX>, GrammarError> {
    let ends = Ends::of(text, b'/', is_segment_byte).ok_or(GrammarError::Resource)?;
    let valid = text.len() <= RESOURCE_BYTES_MAX
        && ends.parts(text).all(|segment| {
            let dots = matches!(segment, "." | "..");
            !segment.is_empty() && segment.len() <= SEGMENT_BYTES_MAX && !dots
        });
    valid.then_some(ends).ok_or(GrammarError::Resource)
}

fn action_ends(text: &str) -> Result<Ends<ACTION_PARTS_MAX>, GrammarError> {
    let ends = Ends::of(text, b':', is_action_byte).ok_or(GrammarError::Action)?;
    let valid = text.len() <= ACTION_BYTES_MAX && ends.parts(text).all(|part| !part.is_empty());
    valid.then_some(ends).ok_or(GrammarError::Action)
}

/// Where the parts of a text end; found once, used by every evaluator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ends<const MAX: usize> {
    ends: [u16; MAX],
    count: u8,
}

impl<const MAX: usize> Ends<MAX> {
    #[inline]
    fn of(text: &str, separator: u8, is_part: impl Fn(u8) -> bool) -> Option<Self> {
        let mut ends = [0; MAX];
        let mut count = 0;
        // Longer texts are refused by their length; here it only must not wrap.
        let bytes = text
            .as_bytes()
            .get(..text.len().min(usize::from(u16::MAX)))?;
        for (place, byte) in bytes.iter().enumerate() {
            if *byte == separator {
                *ends.get_mut(count)? = place as u16;
                count += 1;
            } else if !is_part(*byte) {
                return None;
            }
        }
        *ends.get_mut(count)? = bytes.len() as u16;
        Some(Self {
            ends,
            count: count as u8 + 1,
        })
    }

    #[inline]
    fn parts<'t>(&self, text: &'t str) -> impl Iterator<Item = &'t str> {
        let mut start = 0;
        self.ends
            .into_iter()
            .take(usize::from(self.count))
            .map(move |end| {
                let part = &text[start..usize::from(end)];
                start = usize::from(end) + 1;
                part
            })
    }
}

/// An action on a resource that a Check asks about. Borrowed: parsing allocates nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need<'a> {
    action: &'a str,
    resource: &'a str,
    action_ends: Ends<ACTION_PARTS_MAX>,
    resource_ends: Ends<RESOURCE_SEGMENTS_MAX>,
}

impl<'a> Need<'a> {
    /// Reads a concrete action and a concrete resource; patterns are refused.
    ///
    /// # Errors
    /// [`GrammarError`] naming the part that is outside the grammar.
    pub fn parse(action: &'a str, resource: &'a str) -> Result<Self, GrammarError> {
        Ok(Self {
            action,
            resource,
            action_ends: action_ends(action)?,
            resource_ends: resource_ends(resource)?,
        })
    }

    /// A need for something that the server itself names.
    pub(crate) fn known(action: &'a str, resource: &'a Resource) -> Self {
        Self::parse(action, resource.as_str()).expect("an action of our own on a parsed resource")
    }

    /// The parts of the action.
    #[inline]
    pub(crate) fn action_parts(&self) -> impl Iterator<Item = &'a str> {
        self.action_ends.parts(self.action)
    }

    /// The segments of the resource.
    #[inline]
    pub(crate) fn segments(&self) -> impl Iterator<Item = &'a str> {
        self.resource_ends.parts(self.resource)
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
        match self.wildcard_prefix() {
            Some(prefix) => action.len() > prefix.len() && action.starts_with(prefix),
            None => &*self.0 == action,
        }
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
        let (fixed, tail) = match self.0.strip_suffix("**") {
            Some(head) => (head.strip_suffix('/').unwrap_or(head), true),
            None => (&*self.0, false),
        };
        (fixed.split('/').filter(|part| !part.is_empty()), tail)
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
        let (mine, my_tail) = self.parts();
        let mut theirs = resource.split('/');
        for part in mine {
            match theirs.next() {
                Some(their_part) if part == "*" || part == their_part => {}
                _ => return false,
            }
        }
        my_tail || theirs.next().is_none()
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

    /// Whether this permission permits `need`.
    #[must_use]
    pub fn covers_need(&self, need: &Need<'_>) -> bool {
        self.action.matches(need.action) && self.resource.matches(need.resource)
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
