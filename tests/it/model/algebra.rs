//! Permissions by brute force: what a pattern covers is asked of every concrete pair there is.
//!
//! Used by the oracle and by the property that nobody ends up with more. Written from the
//! grammar in DESIGN.md, shares nothing with `domain::permission`: texts in, sets of a small
//! universe out. The universe has a fresh word (`zz`) everywhere, so that a pattern that covers
//! all of it covers what nobody has thought of. Deliberately absent: speed, and sets larger than
//! the universe.

use std::cell::RefCell;
use std::collections::HashMap;

use latchkey::domain::permission::Permission;
use latchkey::domain::scopes::PermissionSet;

/// Every concrete action of the universe.
pub(crate) const ACTIONS: [&str; 23] = [
    "s:read",
    "s:write",
    "s:zz",
    "s:read:zz",
    "zz",
    "zz:zz",
    "tokens:issue",
    "tokens:revoke",
    "tokens:read",
    "tokens:zz",
    "grants:write",
    "grants:read",
    "users:write",
    "users:read",
    "teams:write",
    "teams:read",
    "services:write",
    "services:read",
    "roles:write",
    "roles:read",
    "keys:write",
    "zz:zz:zz",
    "s:zz:zz:zz",
];
const SEGMENTS: [&str; 6] = ["a", "b", "x", "y", "latchkey", "zz"];

/// A pattern of actions on a pattern of resources, as text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Perm {
    pub action: String,
    pub resource: String,
}

/// A set of members of the universe: of actions in the first, of resources in the others.
type Bits = Vec<bool>;

thread_local! {
    static KNOWN: RefCell<HashMap<(bool, String), Bits>> = RefCell::default();
    static RESOURCES: Vec<String> = resources();
}

impl Perm {
    pub(crate) fn new(action: &str, resource: &str) -> Self {
        Self {
            action: action.to_owned(),
            resource: resource.to_owned(),
        }
    }

    pub(crate) fn of(permission: &Permission) -> Self {
        Self::new(permission.action.as_str(), permission.resource.as_str())
    }

    pub(crate) fn text(&self) -> String {
        format!("{}@{}", self.action, self.resource)
    }

    /// Whether every pair that `other` permits is permitted.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let within = |mine: Bits, theirs: Bits| mine.iter().zip(theirs).all(|(m, t)| *m || !t);
        within(actions_of(&self.action), actions_of(&other.action))
            && within(resources_of(&self.resource), resources_of(&other.resource))
    }
}

pub(crate) fn perms(set: &PermissionSet) -> Vec<Perm> {
    set.iter().map(Perm::of).collect()
}

/// Whether one of `layer` covers `wanted`: where that cannot be shown it is not given.
pub(crate) fn one_covers(layer: &[Perm], wanted: &Perm) -> bool {
    layer.iter().any(|one| one.covers(wanted))
}

/// The pairs of the universe that every layer permits, each layer a set of permissions.
pub(crate) fn extent(layers: &[Vec<Perm>]) -> Vec<bool> {
    let resources = RESOURCES.with(Vec::len);
    let mut all = vec![true; ACTIONS.len() * resources];
    for layer in layers {
        let mut permitted = vec![false; all.len()];
        for one in layer {
            let (actions, on) = (actions_of(&one.action), resources_of(&one.resource));
            for (action, _) in actions.iter().enumerate().filter(|(_, in_it)| **in_it) {
                let row = &mut permitted[action * resources..(action + 1) * resources];
                row.iter_mut()
                    .zip(&on)
                    .for_each(|(cell, in_it)| *cell |= in_it);
            }
        }
        all.iter_mut()
            .zip(permitted)
            .for_each(|(cell, in_it)| *cell &= in_it);
    }
    all
}

/// The pairs that are in the first and not in the second, as text.
pub(crate) fn beyond(first: &[bool], second: &[bool]) -> Vec<String> {
    let resources = RESOURCES.with(Clone::clone);
    let pairs = first.iter().zip(second).enumerate();
    pairs
        .filter(|(_, (one, other))| **one && !**other)
        .map(|(index, _)| {
            format!(
                "{}@{}",
                ACTIONS[index / resources.len()],
                resources[index % resources.len()]
            )
        })
        .collect()
}

/// What of `list` no other one covers, sorted: two lists of one power look the same.
pub(crate) fn canonical(list: &[Perm]) -> Vec<String> {
    let mut kept: Vec<String> = list
        .iter()
        .filter(|one| !list.iter().any(|other| other != *one && other.covers(one)))
        .map(Perm::text)
        .collect();
    kept.sort();
    kept.dedup();
    kept
}

fn actions_of(pattern: &str) -> Bits {
    remembered(false, pattern, || {
        ACTIONS
            .iter()
            .map(|action| action_matches(pattern, action))
            .collect()
    })
}

fn resources_of(pattern: &str) -> Bits {
    remembered(true, pattern, || {
        RESOURCES.with(|all| {
            all.iter()
                .map(|one| resource_matches(pattern, one))
                .collect()
        })
    })
}

fn remembered(resource: bool, pattern: &str, make: impl FnOnce() -> Bits) -> Bits {
    let key = (resource, pattern.to_owned());
    if let Some(bits) = KNOWN.with_borrow(|known| known.get(&key).cloned()) {
        return bits;
    }
    let bits = make();
    KNOWN.with_borrow_mut(|known| known.insert(key, bits.clone()));
    bits
}

/// "A final `*` covers one or more remaining parts."
fn action_matches(pattern: &str, action: &str) -> bool {
    let (pattern, action): (Vec<&str>, Vec<&str>) =
        (pattern.split(':').collect(), action.split(':').collect());
    match pattern.split_last() {
        Some((&"*", head)) => action.len() > head.len() && action.starts_with(head),
        _ => pattern == action,
    }
}

/// "`*` (one segment)", "`a/**` covers `a` and all below".
fn resource_matches(pattern: &str, resource: &str) -> bool {
    let (mut pattern, resource): (Vec<&str>, Vec<&str>) =
        (pattern.split('/').collect(), resource.split('/').collect());
    let below = pattern.last() == Some(&"**");
    if below {
        pattern.pop();
    }
    let long_enough = match below {
        true => resource.len() >= pattern.len(),
        false => resource.len() == pattern.len(),
    };
    long_enough
        && pattern
            .iter()
            .zip(&resource)
            .all(|(p, r)| *p == "*" || p == r)
}

fn resources() -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let mut last: Vec<String> = vec![String::new()];
    for _ in 0..3 {
        last = last
            .iter()
            .flat_map(|head| {
                SEGMENTS
                    .iter()
                    .map(move |segment| format!("{head}/{segment}"))
            })
            .collect();
        all.extend(last.iter().map(|path| path[1..].to_owned()));
    }
    all
}
