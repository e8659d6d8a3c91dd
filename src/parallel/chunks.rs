//! How a region is cut into the chunks that threads claim.
//!
//! Each thread begins with large chunks, because what was prefetched at the end of a chunk is of
//! use only if the next one follows it, and ends with small ones, so that nobody waits long for the
//! last.
//!
//! Source: Hummel, Schonberg and Flynn, "Factoring: a method for scheduling parallel loops" (1992).

use std::ops::Range;

/// A chunk reads at least about this many bytes. (With a third of it f32 gains and int8 loses.)
const MIN_BYTES: usize = 24 << 10;

/// A thread claims this part of what is left.
const CLAIM: usize = 4;

/// But no less than this part of all its items. (Smaller last chunks decode slower, and so do
/// chunks of equal size.)
const MIN_CLAIM: usize = 32;

/// The caller's part of `n` work items, which read `bytes`, and the part of its helpers. No chunk
/// has more than `max` items.
pub(super) fn partition(n: usize, bytes: usize, threads: usize, max: usize) -> (Part, Part) {
    let min = (n * MIN_BYTES).div_ceil(bytes.max(1));
    let min = min.max(n / (MIN_CLAIM * threads)).clamp(1, max);
    let middle = n.div_ceil(threads);
    let part = |items, threads| Part { items, threads, min, max };
    (part(0..middle, 1), part(middle..n, threads - 1))
}

/// Work items of a region that some threads have to do.
pub(super) struct Part {
    items: Range<usize>,
    threads: usize,
    /// The fewest items of a chunk, except of the last.
    min: usize,
    /// The most.
    max: usize,
}

impl Part {
    /// Takes a round of chunks, one of the same size for each thread, off what is left, and returns
    /// how many they are, and their size.
    fn round(&self, left: &mut Range<usize>) -> (usize, usize) {
        let size = (left.len() / (CLAIM * self.threads)).clamp(self.min, self.max);
        let n_chunks = left.len().div_ceil(size).min(self.threads);
        left.start = (left.start + n_chunks * size).min(left.end);
        (n_chunks, size)
    }

    pub(super) fn n_chunks(&self) -> usize {
        let mut left = self.items.clone();
        let mut n_chunks = 0;
        while !left.is_empty() {
            n_chunks += self.round(&mut left).0;
        }
        n_chunks
    }

    /// The items of a chunk: those of different chunks are disjoint. (Computed anew each time, in a
    /// dozen rounds: a list of them would need memory.)
    ///
    /// # Panics
    /// If there is no such chunk.
    pub(super) fn chunk(&self, mut index: usize) -> Range<usize> {
        let mut left = self.items.clone();
        loop {
            assert!(!left.is_empty(), "no such chunk");
            let start = left.start;
            let (n_chunks, size) = self.round(&mut left);
            if index < n_chunks {
                let start = start + index * size;
                return start..(start + size).min(self.items.end);
            }
            index -= n_chunks;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn chunks_are_all_items_once_and_never_grow(
            items in 0usize..5000, bytes in 0usize..100 << 20, threads in 1usize..70, max in 1usize..5000,
        ) {
            let (caller, helpers) = partition(items, bytes, threads, max);
            let mut next = 0;
            for part in [caller, helpers] {
                let mut last = usize::MAX;
                for i in 0..part.n_chunks() {
                    let chunk = part.chunk(i);
                    prop_assert_eq!(chunk.start, next);
                    prop_assert!(!chunk.is_empty() && chunk.len() <= last.min(max));
                    (next, last) = (chunk.end, chunk.len());
                }
            }
            prop_assert_eq!(next, items);
        }

        #[test]
        fn what_a_thread_may_be_waited_for_is_little(items in 1000usize..5000, threads in 1usize..8) {
            let (caller, helpers) = partition(items, 100 << 20, threads, items);
            for part in [caller, helpers] {
                let n = part.n_chunks();
                prop_assert!(n == 0 || part.chunk(n - 1).len() <= items / threads / MIN_CLAIM + 1);
                prop_assert!(n <= 2 * MIN_CLAIM * threads);
            }
        }
    }
}
