//! Compiled sets of permissions: the evaluator that answers a need in a few dozen nanoseconds.
//!
//! A need is hashed once ([`Question`]): one hash for each action pattern that could match it,
//! one for each resource prefix. A set is a row of small rules that are compared with those
//! hashes without branching on text; only a rule whose hashes fit is verified against the text,
//! so a collision costs time and never gives anything. Patterns with an inner `*` take the slow
//! way. Used for the scopes and ceilings of tokens and for the live power of principals.

use std::sync::Arc;

use crate::domain::permission::{ACTION_PARTS_MAX, Need, Permission, RESOURCE_SEGMENTS_MAX};
use crate::domain::scopes::PermissionSet;

const SUMMARY_BYTES_MAX: usize = 128;
const EXACT_ACTION: usize = ACTION_PARTS_MAX;
const HASH_SEED: u64 = 0x51_7C_C1_B7_27_22_0A_95;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Reach {
    Exact = 0,
    Subtree = 1,
    Wild = 2,
}

/// Bytes of a packed rule.
const RULE_BYTES: usize = 20;

/// A permission as it is matched: hashes to compare, and where its texts lie to verify them.
#[derive(Clone, Copy, Debug)]
struct Rule {
    action: u32,
    resource: u32,
    text: u32,
    resource_bytes: u16,
    permission: u16,
    action_bytes: u8,
    // Which of a question's action hashes to compare with: parts before a `*`, or exact.
    action_slot: u8,
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
        packed[14..16].copy_from_slice(&self.permission.to_le_bytes());
        let reach = self.reach as u8;
        packed[16..].copy_from_slice(&[self.action_bytes, self.action_slot, self.depth, reach]);
        packed
    }

    #[inline]
    fn unpack(packed: &[u8; RULE_BYTES]) -> Self {
        let word = |at: usize| {
            u32::from_le_bytes([packed[at], packed[at + 1], packed[at + 2], packed[at + 3]])
        };
        let half = |at: usize| u16::from_le_bytes([packed[at], packed[at + 1]]);
        Self {
            action: word(0),
            resource: word(4),
            text: word(8),
            resource_bytes: half(12),
            permission: half(14),
            action_bytes: packed[16],
            action_slot: packed[17],
            depth: packed[18],
            reach: match packed[19] {
                0 => Reach::Exact,
                1 => Reach::Subtree,
                _ => Reach::Wild,
            },
        }
    }
}

/// A need with the hashes that rules are compared with.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    need: Need<'a>,
    actions: [u32; ACTION_PARTS_MAX + 1],
    resources: [u32; RESOURCE_SEGMENTS_MAX + 1],
    depth: u8,
}

impl<'a> Question<'a> {
    /// Hashes `need` once for every set that it is put to.
    #[must_use]
    pub fn new(need: Need<'a>) -> Self {
        let mut actions = [0; ACTION_PARTS_MAX + 1];
        let mut hash = HASH_SEED;
        for (parts, part) in need.action_parts().enumerate() {
            actions[parts] = fold(hash);
            hash = mix(hash, part.as_bytes());
        }
        actions[EXACT_ACTION] = fold(hash);
        let mut resources = [0; RESOURCE_SEGMENTS_MAX + 1];
        let mut depth: u8 = 0;
        let mut hash = HASH_SEED;
        resources[0] = fold(hash);
        for segment in need.segments() {
            hash = mix(hash, segment.as_bytes());
            depth += 1;
            resources[usize::from(depth)] = fold(hash);
        }
        // A wildcard slot that this action cannot match must fit no rule: rules with so many
        // parts before the `*` are longer than the action, and verification would refuse them.
        Self {
            need,
            actions,
            resources,
            depth,
        }
    }

    /// The need.
    #[must_use]
    pub fn need(&self) -> &Need<'a> {
        &self.need
    }
}

#[inline]
fn mix(mut hash: u64, bytes: &[u8]) -> u64 {
    const K: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        hash = (hash ^ u64::from_le_bytes(word))
            .wrapping_mul(K)
            .rotate_left(29);
    }
    let mut word = 0_u64;
    for byte in chunks.remainder() {
        word = word << 8 | u64::from(*byte);
    }
    // The length keeps `ab`+`c` apart from `a`+`bc`.
    (hash ^ word).wrapping_mul(K).rotate_left(29) ^ bytes.len() as u64
}

#[inline]
fn fold(hash: u64) -> u32 {
    let hash = hash.wrapping_mul(0xD6E8_FEB8_6659_FD93);
    (hash >> 32) as u32
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
        for (permission, index) in permissions.iter().zip(0..) {
            packed.extend(compile_rule(permission, index, &mut texts).pack());
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
    pub fn permits(&self, question: &Question<'_>) -> bool {
        let (rules, texts) = self.parts();
        rules.iter().any(|packed| {
            let rule = Rule::unpack(packed);
            let prefix = question.resources[usize::from(rule.depth)] == rule.resource;
            let resource_fits = match rule.reach {
                Reach::Exact => prefix && rule.depth == question.depth,
                Reach::Subtree => prefix && rule.depth <= question.depth,
                Reach::Wild => true,
            };
            question.actions[usize::from(rule.action_slot)] == rule.action
                && resource_fits
                && self.verify(&rule, texts, &question.need)
        })
    }

    // The hashes fit: now the text has to, so that a collision gives nothing.
    #[inline]
    fn verify(&self, rule: &Rule, texts: &[u8], need: &Need<'_>) -> bool {
        let text = &texts[rule.text as usize..];
        let (action, rest) = text.split_at(usize::from(rule.action_bytes));
        let pattern = &rest[..usize::from(rule.resource_bytes)];
        let asked = need.action().as_bytes();
        let action_fits = match action.strip_suffix(b"*") {
            Some(prefix) => asked.len() > prefix.len() && asked.starts_with(prefix),
            None => asked == action,
        };
        let resource = need.resource().as_bytes();
        action_fits
            && match rule.reach {
                Reach::Exact => pattern == resource,
                Reach::Subtree => {
                    let fixed = pattern.len() - b"**".len();
                    // `a/**` is this and all below: `a` itself, or what goes on behind `a/`.
                    fixed == 0
                        || resource.starts_with(&pattern[..fixed])
                        || *resource == pattern[..fixed - 1]
                }
                Reach::Wild => self.cold.permissions[usize::from(rule.permission)]
                    .resource
                    .matches(need.resource()),
            }
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

fn compile_rule(permission: &Permission, index: u16, texts: &mut String) -> Rule {
    let (action_slot, action) = match permission.action.wildcard_prefix() {
        Some(prefix) => {
            let mut hash = HASH_SEED;
            let mut parts = 0;
            for part in prefix.split(':').filter(|part| !part.is_empty()) {
                hash = mix(hash, part.as_bytes());
                parts += 1;
            }
            (parts, fold(hash))
        }
        None => {
            let parts = permission.action.as_str().split(':');
            let hash = parts.fold(HASH_SEED, |hash, part| mix(hash, part.as_bytes()));
            (EXACT_ACTION as u8, fold(hash))
        }
    };
    let pattern = permission.resource.as_str();
    let (fixed, tail) = match pattern.strip_suffix("**") {
        Some(head) => (head.strip_suffix('/').unwrap_or(head), true),
        None => (pattern, false),
    };
    let mut hash = HASH_SEED;
    let mut depth = 0;
    let mut wild = false;
    for segment in fixed.split('/').filter(|segment| !segment.is_empty()) {
        wild |= segment == "*";
        hash = mix(hash, segment.as_bytes());
        depth += 1;
    }
    let reach = match (wild, tail) {
        (true, _) => Reach::Wild,
        (false, true) => Reach::Subtree,
        (false, false) => Reach::Exact,
    };
    let action_text = permission.action.as_str();
    let text = texts.len() as u32;
    texts.push_str(action_text);
    texts.push_str(pattern);
    Rule {
        action,
        resource: fold(hash),
        text,
        // Within the limits of the grammar: 128 bytes of action, 1,027 of pattern.
        action_bytes: action_text.len() as u8,
        resource_bytes: pattern.len() as u16,
        permission: index,
        action_slot,
        depth,
        reach,
    }
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
            prop_assert_eq!(compiled.permits(&Question::new(need)), plain);
        }
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
