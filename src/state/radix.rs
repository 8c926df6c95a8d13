//! A persistent hash index: cheap to clone, cheap to change, one cache line to read.
//!
//! A trie of fan-out 16 over the leading bits of a 64-bit hash; its leaves are small
//! open-addressed tables of plain entries. A clone shares everything; a change copies the one
//! leaf and the few branches above it that are still shared, so the copy that group commit
//! decides on costs what it changes, and a reader's snapshot never moves under it. A hit reads
//! the top branches (hot in cache), a branch at the bottom and the entry's own line.
//!
//! Written by the one writer through `&mut`, read through any clone. Deliberately absent:
//! locks, tombstones (a removal rebuilds its leaf), and iteration order that means anything.

use std::sync::Arc;

const FANOUT_BITS: u32 = 4;
const FANOUT: usize = 1 << FANOUT_BITS;
const LEAF_ENTRIES_MAX: usize = 256;
const LEAF_SLOTS_MIN: usize = 4;

/// What an index holds: small, plain, with one value that means *no entry*.
pub(super) trait Slot: Copy + Send + Sync {
    /// The value that marks a free slot.
    const FREE: Self;

    /// Whether this is [`Slot::FREE`].
    fn is_free(&self) -> bool;

    /// The hash that the index is ordered by; uniform over all its bits.
    fn hash(&self) -> u64;
}

#[derive(Clone)]
struct Leaf<S> {
    slots: Arc<[S]>,
    used: u32,
}

#[derive(Clone)]
enum Node<S> {
    Leaf(Leaf<S>),
    Branch(Arc<[Node<S>; FANOUT]>),
}

/// The index.
#[derive(Clone)]
pub(super) struct Radix<S> {
    root: Node<S>,
    len: usize,
}

impl<S: Slot> Default for Radix<S> {
    fn default() -> Self {
        Self {
            root: Node::Leaf(Leaf::with_slots(LEAF_SLOTS_MIN)),
            len: 0,
        }
    }
}

impl<S: Slot> Radix<S> {
    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The entry under `hash` that `is_it` accepts.
    #[inline]
    pub(super) fn find(&self, hash: u64, is_it: impl FnMut(&S) -> bool) -> Option<&S> {
        let mut node = &self.root;
        let mut rest = hash;
        loop {
            match node {
                Node::Branch(children) => {
                    node = &children[top_bits(rest)];
                    rest <<= FANOUT_BITS;
                }
                Node::Leaf(leaf) => return leaf.find(rest, is_it),
            }
        }
    }

    /// Adds `entry`. The caller has made sure that it is not there already.
    pub(super) fn insert(&mut self, entry: S) {
        debug_assert!(!entry.is_free(), "the free value cannot be stored");
        let mut node = &mut self.root;
        let mut rest = entry.hash();
        let mut depth = 0;
        loop {
            if let Node::Leaf(leaf) = node
                && leaf.used as usize >= LEAF_ENTRIES_MAX
                && depth + FANOUT_BITS < u64::BITS
            {
                *node = leaf.split(depth);
            }
            match node {
                Node::Branch(children) => {
                    node = &mut Arc::make_mut(children)[top_bits(rest)];
                    rest <<= FANOUT_BITS;
                    depth += FANOUT_BITS;
                }
                Node::Leaf(leaf) => {
                    leaf.insert(entry, depth);
                    self.len += 1;
                    return;
                }
            }
        }
    }

    /// Adds many entries, none of which is there already; leaves them sorted by their hashes. Every
    /// leaf is made anew once and in the order of memory, which costs a fraction of single inserts.
    pub(super) fn extend(&mut self, entries: &mut [S]) {
        entries.sort_unstable_by_key(Slot::hash);
        self.root.extend(entries, 0);
        self.len += entries.len();
    }

    /// Removes and returns the entry under `hash` that `is_it` accepts.
    pub(super) fn remove(&mut self, hash: u64, is_it: impl Fn(&S) -> bool) -> Option<S> {
        let (leaf, rest, depth) = self.leaf_mut(hash);
        let position = leaf.position(rest, &is_it)?;
        let removed = leaf.slots[position];
        leaf.rebuild_without(position, depth);
        self.len -= 1;
        Some(removed)
    }

    /// Visits every entry whose hash begins with the byte `slice`.
    pub(super) fn for_slice(&self, slice: u8, mut visit: impl FnMut(&S)) {
        let mut node = &self.root;
        let wanted = u64::from(slice) << (u64::BITS - u8::BITS);
        let mut rest = wanted;
        for _ in 0..u8::BITS / FANOUT_BITS {
            if let Node::Branch(children) = node {
                node = &children[top_bits(rest)];
                rest <<= FANOUT_BITS;
            }
        }
        node.visit(&mut |entry: &S| {
            if entry.hash() >> (u64::BITS - u8::BITS) == u64::from(slice) {
                visit(entry);
            }
        });
    }

    /// Bytes on the heap: leaves and branches, without the allocator's own overhead.
    pub(super) fn heap_bytes(&self) -> usize {
        self.root.heap_bytes()
    }

    // The leaf for `hash`, unshared branches above it, the unused hash bits and the depth.
    fn leaf_mut(&mut self, hash: u64) -> (&mut Leaf<S>, u64, u32) {
        let mut node = &mut self.root;
        let mut rest = hash;
        let mut depth = 0;
        loop {
            match node {
                Node::Branch(children) => {
                    node = &mut Arc::make_mut(children)[top_bits(rest)];
                    rest <<= FANOUT_BITS;
                    depth += FANOUT_BITS;
                }
                Node::Leaf(leaf) => return (leaf, rest, depth),
            }
        }
    }
}

#[inline]
fn top_bits(rest: u64) -> usize {
    (rest >> (u64::BITS - FANOUT_BITS)) as usize
}

impl<S: Slot> Node<S> {
    // Entries sorted by their hashes, all of which belong below this node.
    fn extend(&mut self, entries: &[S], depth: u32) {
        match self {
            Self::Branch(children) => {
                let mut rest = entries;
                for (bits, child) in Arc::make_mut(children).iter_mut().enumerate() {
                    let is_its = |entry: &S| top_bits(entry.hash() << depth) == bits;
                    let (its, others) = rest.split_at(rest.partition_point(is_its));
                    if !its.is_empty() {
                        child.extend(its, depth + FANOUT_BITS);
                    }
                    rest = others;
                }
            }
            Self::Leaf(leaf)
                if leaf.used as usize + entries.len() <= LEAF_ENTRIES_MAX
                    || depth + FANOUT_BITS >= u64::BITS =>
            {
                leaf.extend(entries, depth);
            }
            Self::Leaf(leaf) => {
                *self = leaf.split(depth);
                self.extend(entries, depth);
            }
        }
    }

    fn visit(&self, visit: &mut impl FnMut(&S)) {
        match self {
            Self::Leaf(leaf) => leaf.entries().for_each(visit),
            Self::Branch(children) => children.iter().for_each(|child| child.visit(visit)),
        }
    }

    fn heap_bytes(&self) -> usize {
        match self {
            Self::Leaf(leaf) => size_of_val(&*leaf.slots),
            Self::Branch(children) => {
                size_of_val(&**children) + children.iter().map(Self::heap_bytes).sum::<usize>()
            }
        }
    }
}

impl<S: Slot> Leaf<S> {
    fn with_slots(slots: usize) -> Self {
        Self {
            slots: std::iter::repeat_n(S::FREE, slots).collect(),
            used: 0,
        }
    }

    fn entries(&self) -> impl Iterator<Item = &S> {
        self.slots.iter().filter(|slot| !slot.is_free())
    }

    #[inline]
    fn find(&self, rest: u64, mut is_it: impl FnMut(&S) -> bool) -> Option<&S> {
        let slots = &*self.slots;
        let mut position = home(rest, slots.len());
        // At least one slot is free, so the walk ends; the bound says so without trusting it.
        for _ in 0..slots.len() {
            let slot = &slots[position];
            if slot.is_free() {
                return None;
            }
            if is_it(slot) {
                return Some(slot);
            }
            position = next(position, slots.len());
        }
        None
    }

    fn position(&self, rest: u64, is_it: &impl Fn(&S) -> bool) -> Option<usize> {
        let slots = &*self.slots;
        let mut position = home(rest, slots.len());
        for _ in 0..slots.len() {
            if slots[position].is_free() {
                return None;
            }
            if is_it(&slots[position]) {
                return Some(position);
            }
            position = next(position, slots.len());
        }
        None
    }

    fn insert(&mut self, entry: S, depth: u32) {
        let used = self.used as usize + 1;
        if used * 10 > self.slots.len() * 7 {
            // From full to 60 %: growth by a sixth keeps the mean load near two thirds.
            self.rebuild(used * 10 / 6 + 1, depth, |_| true);
        }
        place(Arc::make_mut(&mut self.slots), entry, depth);
        self.used += 1;
    }

    fn extend(&mut self, entries: &[S], depth: u32) {
        let used = self.used as usize + entries.len();
        // Two thirds full, which is what single inserts come to.
        self.rebuild(used * 3 / 2 + 1, depth, |_| true);
        let slots = Arc::make_mut(&mut self.slots);
        for entry in entries {
            debug_assert!(!entry.is_free(), "the free value cannot be stored");
            place(slots, *entry, depth);
            self.used += 1;
        }
    }

    // No tombstones: probing stays short however often tokens come and go.
    fn rebuild_without(&mut self, removed: usize, depth: u32) {
        let slots = (self.used as usize * 10 / 6 + 1).min(self.slots.len());
        self.rebuild(slots, depth, |position| position != removed);
    }

    fn rebuild(&mut self, slots: usize, depth: u32, keep: impl Fn(usize) -> bool) {
        let mut fresh = Self::with_slots(slots.max(LEAF_SLOTS_MIN));
        // Nobody else holds the fresh slots, so this does not copy.
        let target = Arc::make_mut(&mut fresh.slots);
        for (position, entry) in self.slots.iter().enumerate() {
            if !entry.is_free() && keep(position) {
                place(target, *entry, depth);
                fresh.used += 1;
            }
        }
        *self = fresh;
    }

    fn split(&self, depth: u32) -> Node<S> {
        let mut children: [Self; FANOUT] =
            std::array::from_fn(|_| Self::with_slots(LEAF_SLOTS_MIN));
        for entry in self.entries() {
            children[top_bits(entry.hash() << depth)].insert(*entry, depth + FANOUT_BITS);
        }
        Node::Branch(Arc::new(children.map(Node::Leaf)))
    }
}

// Where an entry would like to be: the order of hashes is the order of homes.
#[inline]
fn home(rest: u64, slots: usize) -> usize {
    ((u128::from(rest) * slots as u128) >> u64::BITS) as usize
}

#[inline]
fn next(position: usize, slots: usize) -> usize {
    if position + 1 == slots {
        0
    } else {
        position + 1
    }
}

fn place<S: Slot>(slots: &mut [S], entry: S, depth: u32) {
    let mut position = home(entry.hash() << depth, slots.len());
    while !slots[position].is_free() {
        position = next(position, slots.len());
    }
    slots[position] = entry;
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Pair(u64, u64);

    impl Slot for Pair {
        const FREE: Self = Self(0, 0);
        fn is_free(&self) -> bool {
            self.1 == 0
        }
        fn hash(&self) -> u64 {
            self.0
        }
    }

    fn spread(n: u64) -> u64 {
        n.wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    #[test]
    fn many_entries_are_all_found_and_slices_partition_them() {
        let mut index = Radix::default();
        for n in 1..=100_000 {
            index.insert(Pair(spread(n), n));
        }
        assert_eq!(index.len(), 100_000);
        for n in 1..=100_000 {
            assert_eq!(
                index.find(spread(n), |p| p.1 == n),
                Some(&Pair(spread(n), n))
            );
        }
        assert_eq!(
            index.find(spread(200_000), |p| p.0 == spread(200_000)),
            None
        );
        let mut seen = 0;
        for slice in 0..=u8::MAX {
            index.for_slice(slice, |_| seen += 1);
        }
        assert_eq!(seen, 100_000);
        // Two thirds full, and the branches are small change.
        assert!(index.heap_bytes() < 100_000 * size_of::<Pair>() * 7 / 4);
    }

    #[test]
    fn equal_hashes_are_told_apart_without_end() {
        let mut index = Radix::default();
        for n in 1..=600 {
            index.insert(Pair(7, n));
        }
        assert!((1..=600).all(|n| index.find(7, |p| p.1 == n).is_some()));
        assert_eq!(index.find(7, |p| p.1 == 601), None);
    }

    proptest! {
        #[test]
        fn many_at_once_are_as_one_by_one(
            batches in proptest::collection::vec(proptest::collection::vec(0_u64..1 << 20, 0..900), 1..6),
            alike in 0_u32..60,
        ) {
            let (mut index, mut single) = (Radix::default(), Radix::default());
            let (mut seen, mut frozen) = (std::collections::HashSet::new(), Vec::new());
            for batch in &batches {
                frozen.push((index.clone(), seen.len()));
                let fresh = batch.iter().filter(|n| seen.insert(**n));
                // The more bits are alike, the deeper the trie, down to hashes that are all alike.
                let mut entries: Vec<Pair> =
                    fresh.map(|n| Pair(spread(*n) >> alike, n + 1)).collect();
                entries.iter().for_each(|entry| single.insert(*entry));
                index.extend(&mut entries);
            }
            for (index, len) in frozen.iter().chain([&(index, seen.len())]) {
                prop_assert_eq!(index.len(), *len);
                let mut count = 0;
                (0..=u8::MAX).for_each(|slice| index.for_slice(slice, |_| count += 1));
                prop_assert_eq!(count, *len);
            }
            for n in &seen {
                let hash = spread(*n) >> alike;
                prop_assert!(frozen.iter().all(|(index, _)| index.find(hash, |p| p.1 == 0).is_none()));
                prop_assert!(single.find(hash, |p| p.1 == n + 1).is_some());
            }
        }

        #[test]
        fn it_behaves_like_a_map_and_clones_never_change(
            commands in proptest::collection::vec((0_u64..700, 0_u8..4, 1_u64..9), 1..3_000)
        ) {
            let mut index = Radix::default();
            let mut oracle = HashMap::new();
            let mut frozen = None;
            for (step, (key, command, value)) in commands.iter().enumerate() {
                // A few leading bits only, so that leaves overflow and split.
                let hash = (spread(*key) & 0xFF00_0000_0000_0000) | key;
                match (command, oracle.contains_key(&hash)) {
                    (0 | 1, false) => {
                        index.insert(Pair(hash, *value));
                        oracle.insert(hash, *value);
                    }
                    (2, true) => {
                        prop_assert_eq!(index.remove(hash, |p| p.0 == hash).map(|p| p.1), oracle.remove(&hash));
                    }
                    (_, known) => {
                        prop_assert_eq!(index.find(hash, |p| p.0 == hash).is_some(), known);
                    }
                }
                if step == commands.len() / 2 {
                    frozen = Some((index.clone(), oracle.clone()));
                }
            }
            for (index, oracle) in [(index, oracle)].into_iter().chain(frozen) {
                prop_assert_eq!(index.len(), oracle.len());
                let mut count = 0;
                (0..=u8::MAX).for_each(|slice| index.for_slice(slice, |_| count += 1));
                prop_assert_eq!(count, oracle.len());
                for (hash, value) in &oracle {
                    prop_assert_eq!(index.find(*hash, |p| p.0 == *hash).map(|p| p.1), Some(*value));
                }
            }
        }
    }
}
