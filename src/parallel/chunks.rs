//! How a region is cut into the chunks that threads claim.
//!
//! Each thread begins with large chunks, for the fewer there are the less often what was fetched
//! ahead is left behind, and ends with small ones, so that nobody waits long for the last.
//!
//! Source: Hummel, Schonberg and Flynn, "Factoring: a method for scheduling parallel loops" (1992).

use std::ops::Range;

/// A chunk reads at least about this many bytes. (8 KB made stories15M's shape 4 % faster in f32,
/// and 6 % slower in int8.)
const MIN_BYTES: usize = 24 << 10;

/// A thread claims this part of what is left. (A half decoded as fast, a sixth 1 % slower.)
const CLAIM: usize = 4;

/// But no less than this part of all that is its own. (A 64th decoded 1 % slower, and 16 equal
/// chunks 2 %.)
const MIN_CLAIM: usize = 32;

/// The caller's part of `units` indivisible pieces, which are `bytes` of memory, and the part of
/// its helpers. No chunk has more than `max` units.
pub(super) fn share_out(units: usize, bytes: usize, threads: usize, max: usize) -> (Part, Part) {
    let min = (units * MIN_BYTES).div_ceil(bytes.max(1));
    let min = min.max(units / (MIN_CLAIM * threads)).clamp(1, max);
    let middle = units.div_ceil(threads);
    let part = |units, threads| Part { units, threads, min, max };
    (part(0..middle, 1), part(middle..units, threads - 1))
}

/// Units of a region that some threads have to do.
pub(super) struct Part {
    units: Range<usize>,
    threads: usize,
    /// The fewest units of a chunk, but for the last.
    min: usize,
    /// The most.
    max: usize,
}

impl Part {
    /// Takes a round of chunks, one of the same size for each thread, off what is left: how many,
    /// and their size.
    fn round(&self, left: &mut Range<usize>) -> (usize, usize) {
        let size = (left.len() / (CLAIM * self.threads)).clamp(self.min, self.max);
        let n_chunks = left.len().div_ceil(size).min(self.threads);
        left.start = (left.start + n_chunks * size).min(left.end);
        (n_chunks, size)
    }

    pub(super) fn n_chunks(&self) -> usize {
        let mut left = self.units.clone();
        let mut n_chunks = 0;
        while !left.is_empty() {
            n_chunks += self.round(&mut left).0;
        }
        n_chunks
    }

    /// The units of a chunk. (Found anew each time, in a dozen rounds: a list of them would have to
    /// be kept somewhere.)
    ///
    /// # Panics
    /// If there is no such chunk.
    pub(super) fn chunk(&self, mut index: usize) -> Range<usize> {
        let mut left = self.units.clone();
        loop {
            assert!(!left.is_empty(), "no such chunk");
            let start = left.start;
            let (n_chunks, size) = self.round(&mut left);
            if index < n_chunks {
                let start = start + index * size;
                return start..(start + size).min(self.units.end);
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
        fn chunks_are_all_units_once_and_never_grow(
            units in 0usize..5000, bytes in 0usize..100 << 20, threads in 1usize..70, max in 1usize..5000,
        ) {
            let (caller, helpers) = share_out(units, bytes, threads, max);
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
            prop_assert_eq!(next, units);
        }

        #[test]
        fn what_a_thread_may_be_waited_for_is_little(units in 1000usize..5000, threads in 1usize..8) {
            let (caller, helpers) = share_out(units, 100 << 20, threads, units);
            for part in [caller, helpers] {
                let n = part.n_chunks();
                prop_assert!(n == 0 || part.chunk(n - 1).len() <= units / threads / MIN_CLAIM + 1);
                prop_assert!(n <= 2 * MIN_CLAIM * threads);
            }
        }
    }
}
