//! A persistent table indexed by small dense numbers: two steps from a number to its value.
//!
//! Chunks behind one array of pointers. A clone shares both; a change copies the array (a
//! pointer for each 256 entries) and the one chunk that it touches, once a batch. Used where a
//! Check comes from a number to what it stands for. Chunks are whole from the start, filled with
//! defaults, so that nothing but the two pointers lies between. Deliberately absent: removal,
//! which is a value that says *gone*.

use std::sync::Arc;

const CHUNK: usize = 256;

/// The table.
#[derive(Debug)]
pub(super) struct Table<V> {
    // Doubled when full: the rest are empty chunks.
    chunks: Arc<[Arc<[V]>]>,
    len: usize,
}

// By hand: the values are shared, whatever they are.
impl<V> Clone for Table<V> {
    fn clone(&self) -> Self {
        Self {
            chunks: Arc::clone(&self.chunks),
            len: self.len,
        }
    }
}

impl<V> Default for Table<V> {
    fn default() -> Self {
        Self {
            chunks: Arc::default(),
            len: 0,
        }
    }
}

impl<V: Clone + Default> Table<V> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(super) fn get(&self, index: usize) -> Option<&V> {
        if index < self.len {
            self.chunks.get(index / CHUNK)?.get(index % CHUNK)
        } else {
            None
        }
    }

    /// The value at an index, to be changed.
    pub(super) fn entry(&mut self, index: usize) -> Option<&mut V> {
        if index >= self.len {
            return None;
        }
        let chunk = Arc::make_mut(&mut self.chunks).get_mut(index / CHUNK)?;
        Arc::make_mut(chunk).get_mut(index % CHUNK)
    }

    pub(super) fn push(&mut self, value: V) {
        if self.len.is_multiple_of(CHUNK) {
            self.add_chunk();
        }
        let index = self.len;
        self.len += 1;
        if let Some(slot) = self.entry(index) {
            *slot = value;
        }
    }

    fn add_chunk(&mut self) {
        let index = self.len / CHUNK;
        if index == self.chunks.len() {
            let empty = std::iter::repeat_with(Arc::default).take(index.max(1));
            self.chunks = self.chunks.iter().cloned().chain(empty).collect();
        }
        if let Some(chunk) = Arc::make_mut(&mut self.chunks).get_mut(index) {
            *chunk = std::iter::repeat_n(V::default(), CHUNK).collect();
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &V> {
        let all = self.chunks.iter().flat_map(|chunk| chunk.iter());
        all.take(self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_where_they_were_put_and_clones_never_change() {
        let mut table = Table::default();
        for n in 0..1_000 {
            table.push(n);
        }
        let before = table.clone();
        *table.entry(700).expect("there") = 7;
        table.push(1_000);
        assert_eq!((table.get(700), before.get(700)), (Some(&7), Some(&700)));
        assert_eq!((table.len(), before.len()), (1_001, 1_000));
        assert_eq!((table.get(1_000), before.get(1_000)), (Some(&1_000), None));
        assert!(before.iter().copied().eq(0..1_000));
        assert!(table.entry(1_001).is_none());
    }
}
