//! Interning: equal values are kept once and named by a small number.
//!
//! Most tokens share their scopes, their issuer and often their resource with many others; a
//! token's record holds four bytes for each. Counted, so that what no token uses any more goes
//! away. Numbers are private to one process: nothing that is stored or hashed contains them.

use std::hash::Hash;
use std::sync::Arc;

use foldhash::quality::RandomState;
use imbl::GenericHashMap;
use imbl::shared_ptr::DefaultSharedPtr;

use super::table::Table;

/// A persistent map from a value to its number. Seeded at random: contents are made by callers.
type Numbers<K> = GenericHashMap<K, u32, RandomState, DefaultSharedPtr>;

/// A persistent table of interned values.
pub(super) struct Interner<K: Clone + Eq + Hash, V: Clone> {
    // The values themselves, so that a reader comes from the number to the value in one step.
    values: Table<Option<V>>,
    contents: imbl::Vector<Option<Arc<K>>>,
    // Beside the values, so that counting copies plain numbers and touches no other count.
    counts: imbl::Vector<u32>,
    numbers: Numbers<Arc<K>>,
    free: imbl::Vector<u32>,
}

// By hand, for contents that are costly to clone: they are shared.
impl<K: Clone + Eq + Hash, V: Clone> Clone for Interner<K, V> {
    fn clone(&self) -> Self {
        Self {
            values: self.values.clone(),
            contents: self.contents.clone(),
            counts: self.counts.clone(),
            numbers: self.numbers.clone(),
            free: self.free.clone(),
        }
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Default for Interner<K, V> {
    fn default() -> Self {
        Self {
            values: Table::default(),
            contents: imbl::Vector::new(),
            counts: imbl::Vector::new(),
            numbers: Numbers::default(),
            free: imbl::Vector::new(),
        }
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Interner<K, V> {
    /// The number of `content`, made with `make` if it is new; counts one more use.
    pub(super) fn acquire(&mut self, content: &K, make: impl FnOnce(&K) -> V) -> u32 {
        if let Some(number) = self.numbers.get(content) {
            let number = *number;
            if let Some(count) = self.counts.get_mut(number as usize) {
                *count += 1;
            }
            return number;
        }
        let value = make(content);
        let content = Arc::new(content.clone());
        let number = if let Some(number) = self.free.pop_back() {
            self.set_value(number, Some(value));
            self.contents
                .set(number as usize, Some(Arc::clone(&content)));
            self.counts.set(number as usize, 1);
            number
        } else {
            self.values.push(Some(value));
            self.contents.push_back(Some(Arc::clone(&content)));
            self.counts.push_back(1);
            // A process runs out of memory long before it has four thousand million sets.
            u32::try_from(self.values.len() - 1).unwrap_or(u32::MAX)
        };
        self.numbers.insert(content, number);
        number
    }

    /// Counts one use less; the last one forgets the value.
    pub(super) fn release(&mut self, number: u32) {
        let Some(count) = self.counts.get_mut(number as usize) else {
            return;
        };
        *count = count.saturating_sub(1);
        if *count > 0 {
            return;
        }
        if let Some(gone) = self.contents.set(number as usize, None) {
            self.set_value(number, None);
            self.numbers.remove(&gone);
            self.free.push_back(number);
        }
    }

    fn set_value(&mut self, number: u32, value: Option<V>) {
        if let Some(slot) = self.values.entry(number as usize) {
            *slot = value;
        }
    }

    /// The value with this number.
    #[inline]
    pub(super) fn value(&self, number: u32) -> Option<&V> {
        self.values.get(number as usize)?.as_ref()
    }

    /// The content that the value with this number was made from.
    #[inline]
    pub(super) fn content(&self, number: u32) -> Option<&K> {
        self.contents.get(number as usize)?.as_deref()
    }

    /// Every value that is kept.
    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.values.iter().flatten()
    }

    /// How many values are kept.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_contents_share_a_number_until_the_last_use_ends() {
        let mut interner: Interner<String, usize> = Interner::default();
        let a = interner.acquire(&"a".to_owned(), String::len);
        let b = interner.acquire(&"b".to_owned(), String::len);
        assert_eq!(interner.acquire(&"a".to_owned(), String::len), a);
        assert_ne!(a, b);
        let before = interner.clone();
        interner.release(a);
        assert!(interner.value(a).is_some());
        interner.release(a);
        assert!(interner.value(a).is_none());
        assert_eq!(interner.len(), 1);
        assert_eq!(interner.acquire(&"c".to_owned(), String::len), a);
        assert_eq!(before.content(a).map(String::as_str), Some("a"));
    }
}
