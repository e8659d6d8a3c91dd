//! The walk through a head's keys or values: each block is multiplied with a tile of
//! queries while the next one is prefetched.

use std::ops::Range;

use super::REGISTER_QUERIES;
use crate::kv_cache::{KvElement, Stretches};
use crate::simd::Simd;

/// What is done with a block.
pub(super) trait BlockStep<S: Simd, E: KvElement> {
    /// Multiplies the `Q` queries from `first` on with the `block`th block, whose numbers are
    /// `numbers`, and calls the prefetcher on its way through them.
    fn run<const Q: usize>(
        &mut self,
        s: S,
        block: usize,
        numbers: &[E],
        first: usize,
        prefetcher: Prefetcher<'_, E>,
    );
}

/// The blocks of a head's keys, or of its values.
#[derive(Clone)]
pub(super) struct Blocks<'a, E> {
    pub(super) stretches: Stretches<'a, E>, // of (blocks, head_dim * BLOCK), and perhaps more
    pub(super) block_len: usize,
    /// Which of them are met.
    pub(super) range: Range<usize>,
    /// What is read after the last block: some numbers, and where among them. It may be where they
    /// end, for what lies there in memory.
    pub(super) then: (&'a [E], usize),
}

impl<E: KvElement> Blocks<'_, E> {
    /// Multiplies all queries with each block: [`REGISTER_QUERIES`] at a time, or one if the
    /// registers hold no more.
    #[inline(always)]
    pub(super) fn for_each<S: Simd>(self, s: S, n_queries: usize, step: &mut impl BlockStep<S, E>) {
        let at_once = if S::REGISTER_TILE > 1 { REGISTER_QUERIES } else { 1 };
        let mut block = self.stretches.first_block();
        for i in 0..self.stretches.len() {
            let mut numbers = self.stretches.get(i);
            let all = block + self.stretches.n_blocks(i);
            let skipped = self.range.start.clamp(block, all) - block;
            if skipped > 0 {
                numbers = &numbers[skipped * self.block_len..];
                block += skipped;
            }
            let end = self.range.end.min(all);
            while block < end {
                let (now, after) = numbers.split_at(self.block_len);
                let next = if block + 1 < end {
                    (after, 0)
                } else if end < self.range.end {
                    (self.stretches.get(i + 1), 0)
                } else {
                    self.then
                };
                for first in (0..n_queries).step_by(at_once) {
                    let sets = (first / at_once, n_queries.div_ceil(at_once));
                    let prefetcher = Prefetcher::new(next, self.block_len, sets);
                    match n_queries - first {
                        n if const { S::REGISTER_TILE == 1 } || n == 1 => {
                            step.run::<1>(s, block, now, first, prefetcher);
                        }
                        2 => step.run::<2>(s, block, now, first, prefetcher),
                        3 => step.run::<3>(s, block, now, first, prefetcher),
                        _ => step.run::<REGISTER_QUERIES>(s, block, now, first, prefetcher),
                    }
                }
                numbers = after;
                block += 1;
            }
        }
    }
}

/// Prefetches what is read after a block, evenly: memory that waits for arithmetic is lost time. Of
/// two sets of queries, the first prefetches one half, the second the other.
#[derive(Clone, Copy)]
pub(super) struct Prefetcher<'a, E> {
    numbers: &'a [E],
    start: usize,
    half: bool,
}

impl<'a, E: KvElement> Prefetcher<'a, E> {
    /// For one of `n_sets` sets of queries.
    #[inline(always)]
    fn new((numbers, start): (&'a [E], usize), block_len: usize, (set, n_sets): (usize, usize)) -> Self {
        Self { numbers, start: start + if set == 0 { 0 } else { block_len / 2 }, half: n_sets > 1 }
    }

    /// Prefetches what corresponds to the `width` numbers at `at` of this block.
    #[inline(always)]
    pub(super) fn fetch<S: Simd>(self, s: S, at: usize, width: usize) {
        if self.half {
            s.prefetch_all(self.numbers, self.start + at / 2, width / 2);
        } else {
            s.prefetch_all(self.numbers, self.start + at, width);
        }
    }
}
