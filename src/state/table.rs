//! A persistent table indexed by small dense numbers: two steps from a number to its value.
//!
//! Chunks behind one array of pointers. A clone shares both; a change copies the array (a
//! pointer for each 256 entries) and the one chunk that it touches, once a batch. Used where a
//! Check comes from a number to what it stands for. Deliberately absent: removal, which is a
//! value that says *gone*.

use std::sync::Arc;

const CHUNK: usize = 256;

/// The table.
#[derive(Debug)]
pub(super) struct Table<V> {
    chunks: Arc<Vec<Arc<Vec<V>>>>,
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
            chunks: Arc::new(Vec::new()),
            len: 0,
        }
    }
}

impl<V: Clone> Table<V> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(super) fn get(&self, index: usize) -> Option<&V> {
        self.chunks.get(index / CHUNK)?.get(index % CHUNK)
    }

    /// The value at an index, to be changed.
    pub(super) fn entry(&mut self, index: usize) -> Option<&mut V> {
        let chunk = Arc::make_mut(&mut self.chunks).get_mut(index / CHUNK)?;
        Arc::make_mut(chunk).get_mut(index % CHUNK)
    }

    pub(super) fn push(&mut self, value: V) {
        let chunks = Arc::make_mut(&mut self.chunks);
        if self.len.is_multiple_of(CHUNK) {
            chunks.push(Arc::new(Vec::with_capacity(CHUNK)));
        }
        if let Some(last) = chunks.last_mut() {
            Arc::make_mut(last).push(value);
            self.len += 1;
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &V> {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
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
