//! Compiled sets of permissions: the evaluator that answers a need in a few dozen nanoseconds.
//!
//! A parsed [`Need`] carries a hash for each prefix of its action and of its resource. A set is a
//! row of small rules that are compared with those hashes without looking at text; only a rule
//! whose hashes fit is verified against the text, so a collision costs time and never gives
//! anything. Patterns with an inner `*` take the slow way. Used for the scopes and ceilings of
//! tokens and for the live power of principals.

use std::sync::Arc;

use crate::domain::grammar::prefix_hash;
use crate::domain::permission::{Need, Permission, action_matches, resource_matches};
use crate::domain::scopes::PermissionSet;

const SUMMARY_BYTES_MAX: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Reach {
    Exact = 0,
    Subtree = 1,
    Wild = 2,
}

/// Bytes of a packed rule.
const RULE_BYTES: usize = 18;

/// A permission as it is matched: hashes to compare, and where its texts lie to verify them.
#[derive(Clone, Copy, Debug)]
struct Rule {
    action: u32,
    resource: u32,
    text: u32,
    resource_bytes: u16,
    action_bytes: u8,
    // How many parts or segments there are before a `*` or `**`: which prefix to compare with.
    action_parts: u8,
    depth: u8,
    reach: Reach,
}

impl Rule {
    fn pack(&self) -> [u8; RULE_BYTES] {
        let mut packed = [0; RULE_BYTES];
        packed[0..4].copy_from_slice(&self.action.to_le_bytes());
        packed[4..8].copy_from_slice(&self.resource.to_le_bytes());
        packed[8..12].copy_from_slice(&self.text.to_le_bytes());
        packed[12..14].copy_from_slice(&self.resource_bytes.to_le_bytes());
        let reach = self.reach as u8;
        packed[14..].copy_from_slice(&[self.action_bytes, self.action_parts, self.depth, reach]);
        packed
    }

    // Nearly all that a Check asks of a rule: is the hash of what the need begins with the same?
    #[inline]
    fn may_fit(packed: &[u8; RULE_BYTES], need: &Need<'_>) -> bool {
        let [a0, a1, a2, a3, r0, r1, r2, r3, .., action_parts, depth, _] = *packed;
        need.resource_hash(depth) == u32::from_le_bytes([r0, r1, r2, r3])
            && need.action_hash(action_parts) == u32::from_le_bytes([a0, a1, a2, a3])
    }

    fn unpack(packed: &[u8; RULE_BYTES]) -> Self {
        let word = |at: usize| {
            u32::from_le_bytes([packed[at], packed[at + 1], packed[at + 2], packed[at + 3]])
        };
        Self {
            action: word(0),
            resource: word(4),
            text: word(8),
            resource_bytes: u16::from_le_bytes([packed[12], packed[13]]),
            action_bytes: packed[14],
            action_parts: packed[15],
            depth: packed[16],
            reach: match packed[17] {
                0 => Reach::Exact,
                1 => Reach::Subtree,
                _ => Reach::Wild,
            },
        }
    }

    // The hashes fit: now the text has to, so that a collision gives nothing.
    fn matches(&self, texts: &[u8], need: &Need<'_>) -> bool {
        let text = &texts[self.text as usize..];
        let (action, rest) = text.split_at(usize::from(self.action_bytes));
        let pattern = &rest[..usize::from(self.resource_bytes)];
        let asked = need.action().as_bytes();
        let resource = need.resource().as_bytes();
        action_matches(action, asked)
            && match self.reach {
                Reach::Exact => pattern == resource,
                Reach::Subtree => {
                    let fixed = pattern.len() - b"**".len();
                    // `a/**` is this and all below: `a` itself, or what goes on behind `a/`.
                    fixed == 0
                        || resource.starts_with(&pattern[..fixed])
                        || *resource == pattern[..fixed - 1]
                }
                Reach::Wild => std::str::from_utf8(pattern)
                    .is_ok_and(|pattern| resource_matches(pattern, need.resource())),
            }
    }
}

/// A set of permissions, compiled. Immutable; a clone shares it.
#[derive(Clone, Debug)]
pub struct ScopeSet {
    // The rules and behind them all texts: a Check comes here from a number in one step, and
    // what it reads lies side by side.
    packed: Arc<[u8]>,
    cold: Arc<Cold>,
}

/// What a Check does not read.
#[derive(Debug)]
struct Cold {
    permissions: Box<[Permission]>,
    summary: Box<str>,
}

impl ScopeSet {
    /// Compiles these permissions.
    pub fn compile(permissions: impl IntoIterator<Item = Permission>) -> Self {
        let permissions: Box<[Permission]> = permissions.into_iter().collect();
        let mut texts = String::new();
        let mut packed = Vec::new();
        packed.extend((permissions.len() as u32).to_le_bytes());
        for permission in &permissions {
            packed.extend(compile_rule(permission, &mut texts).pack());
        }
        packed.extend(texts.as_bytes());
        Self {
            packed: packed.into(),
            cold: Arc::new(Cold {
                summary: summarise(&permissions).into(),
                permissions,
            }),
        }
    }

    #[inline]
    fn parts(&self) -> (&[[u8; RULE_BYTES]], &[u8]) {
        let Some((count, rest)) = self.packed.split_first_chunk::<4>() else {
            return (&[], &[]);
        };
        let rules = u32::from_le_bytes(*count) as usize * RULE_BYTES;
        let (rules, texts) = rest.split_at(rules.min(rest.len()));
        (rules.as_chunks().0, texts)
    }

    /// Whether one permission covers the need.
    #[must_use]
    #[inline]
    pub fn permits(&self, need: &Need<'_>) -> bool {
        let (rules, texts) = self.parts();
        rules
            .iter()
            .any(|rule| Rule::may_fit(rule, need) && Rule::unpack(rule).matches(texts, need))
    }

    /// Whether one permission covers `permission`.
    #[must_use]
    pub fn covers(&self, permission: &Permission) -> bool {
        self.cold
            .permissions
            .iter()
            .any(|mine| mine.covers(permission))
    }

    /// The permissions.
    #[must_use]
    pub fn permissions(&self) -> &[Permission] {
        &self.cold.permissions
    }

    /// The first permissions as text, at most 128 bytes and how many more there are.
    #[must_use]
    pub fn summary(&self) -> &str {
        &self.cold.summary
    }

    /// The permissions as the canonical set they were compiled from.
    ///
    /// # Panics
    /// Never for sets of tokens, which were within the limits when they were compiled.
    #[must_use]
    pub fn to_set(&self) -> PermissionSet {
        PermissionSet::new(self.cold.permissions.iter().cloned())
            .expect("a token's set was within the limits when it was made")
    }

    /// Bytes on the heap, texts included.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let permissions = &self.cold.permissions;
        let texts: usize = permissions
            .iter()
            .map(|p| p.action.as_str().len() + p.resource.as_str().len())
            .sum();
        size_of::<Self>()
            + self.packed.len()
            + size_of::<Cold>()
            + size_of_val(&**permissions)
            + self.cold.summary.len()
            + texts
    }
}

fn compile_rule(permission: &Permission, texts: &mut String) -> Rule {
    let action = match permission.action.wildcard_prefix() {
        Some(prefix) => prefix.strip_suffix(':').unwrap_or(prefix),
        None => permission.action.as_str(),
    };
    let pattern = permission.resource.as_str();
    // What every resource begins with that the pattern matches.
    let (fixed, reach) = match pattern.split_once('*') {
        None => (pattern, Reach::Exact),
        Some((before, "*")) => (before, Reach::Subtree),
        Some((before, _)) => (before, Reach::Wild),
    };
    let fixed = fixed.strip_suffix('/').unwrap_or(fixed);
    let action_text = permission.action.as_str();
    let text = texts.len() as u32;
    texts.push_str(action_text);
    texts.push_str(pattern);
    Rule {
        action: prefix_hash(action),
        resource: prefix_hash(fixed),
        text,
        // Within the limits of the grammar: 128 bytes of action, 1,027 of pattern.
        action_bytes: action_text.len() as u8,
        resource_bytes: pattern.len() as u16,
        action_parts: count_parts(action, ':'),
        depth: count_parts(fixed, '/'),
        reach,
    }
}

// At most 17, by the grammar.
fn count_parts(prefix: &str, separator: char) -> u8 {
    let separators = prefix.matches(separator).count() as u8;
    if prefix.is_empty() { 0 } else { separators + 1 }
}

fn summarise(permissions: &[Permission]) -> String {
    let mut text = String::new();
    for (index, permission) in permissions.iter().enumerate() {
        let one = permission.to_string();
        let comma = if index > 0 { ", " } else { "" };
        if index > 0 && text.len() + comma.len() + one.len() > SUMMARY_BYTES_MAX {
            return format!("{text} and {} more", permissions.len() - index);
        }
        text.push_str(comma);
        text.push_str(&one);
    }
    if text.is_empty() {
        text.push_str("nothing");
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn permission() -> impl Strategy<Value = Permission> {
        let part = "[ab]";
        let action = prop_oneof![
            Just("*".to_owned()),
            proptest::collection::vec(part, 1..=4).prop_map(|p| p.join(":")),
            proptest::collection::vec(part, 1..=3).prop_map(|p| p.join(":") + ":*"),
        ];
        let segment = prop_oneof![Just("*"), Just("x"), Just("y"), Just("long-segment-1")];
        let resource = (proptest::collection::vec(segment, 0..=4), any::<bool>()).prop_filter_map(
            "empty",
            |(mut segments, tail)| {
                if tail {
                    segments.push("**");
                }
                (!segments.is_empty()).then(|| segments.join("/"))
            },
        );
        (action, resource).prop_map(|(a, r)| Permission::parse(&a, &r).expect("in the grammar"))
    }

    proptest! {
        #[test]
        fn compiled_and_plain_evaluation_agree(
            permissions in proptest::collection::vec(permission(), 0..6),
            action in proptest::collection::vec("[ab]", 1..=4),
            resource in proptest::collection::vec("x|y|long-segment-1|long-segment-2", 1..=5),
        ) {
            let (action, resource) = (action.join(":"), resource.join("/"));
            let need = Need::parse(&action, &resource).expect("in the grammar");
            let plain = permissions.iter().any(|p| p.covers(&need.to_permission()));
            let compiled = ScopeSet::compile(permissions);
            prop_assert_eq!(compiled.permits(&need), plain);
        }
    }

    #[test]
    fn a_set_of_more_rules_than_two_bytes_count_gives_what_it_says() {
        let read = Permission::parse("secrets:read", "acme/**").expect("valid");
        let write = Permission::parse("secrets:write", "*/x").expect("valid");
        let between =
            (1..=u16::MAX).map(|n| Permission::parse("a:b", &format!("other/{n}")).expect("valid"));
        let set = ScopeSet::compile([read].into_iter().chain(between).chain([write]));
        let permits =
            |action, resource| set.permits(&Need::parse(action, resource).expect("in the grammar"));
        assert!(permits("secrets:read", "acme/y") && permits("secrets:write", "acme/x"));
        assert!(permits("a:b", "other/65535") && !permits("a:b", "other/65536"));
        assert!(!permits("secrets:write", "acme/y"));
    }

    #[test]
    fn summaries_are_bounded_and_say_what_is_left_out() {
        let many =
            (0..20).map(|n| Permission::parse("secrets:read", &format!("acme/{n}")).expect("ok"));
        let set = ScopeSet::compile(many);
        assert!(set.summary().len() <= SUMMARY_BYTES_MAX + " and 20 more".len());
        assert!(set.summary().ends_with("more"), "{}", set.summary());
        assert_eq!(ScopeSet::compile([]).summary(), "nothing");
    }
}
