//! The first step of attention: how well each query matches each key.

use std::ops::Range;

use super::QUERY_TILE;
use super::element::Element;
use super::prefetch::{BlockStep, Blocks, Prefetcher};
use crate::compute::Numerics;
use crate::kv_cache::{BLOCK, KvFloat, Stretches};
use crate::simd::Simd;

/// `scores[i][j] = q_i · k_j / divisor` for queries of (`head_dim`) and the keys of
/// some blocks. `scores` is ([`QUERY_TILE`], positions).
///
/// `values` are read after the last keys, and prefetched meanwhile. `for_each` (`prefetch.rs`)
/// calls `run` for each block, with four queries at a time, and with the one to three that are
/// left.
///
/// A query that sees fewer positions gets scores of those that it doesn't see, and of those that
/// fill the last block; nobody reads them.
#[inline(always)]
pub(super) fn fill<S: Simd, E: Element>(
    s: S,
    numerics: Numerics,
    queries: &[&[f32]],
    blocks: Range<usize>,
    divisor: f32,
    [keys, values]: [Stretches<'_, E>; 2],
    scores: &mut [f32],
) {
    let blocks = Blocks {
        stretches: keys, // of (blocks, width, BLOCK)
        block_len: BLOCK * E::width(queries[0].len()),
        range: blocks,
        then: (values.get(0), 0),
    };
    let stride = scores.len() / QUERY_TILE;
    let n = queries.len();
    if const { E::UNFUSED } && numerics == Numerics::RunqCompatible {
        blocks.for_each(s, n, &mut Scores::<false> { queries, divisor, scores, stride });
    } else {
        blocks.for_each(s, n, &mut Scores::<true> { queries, divisor, scores, stride });
    }
}

/// `FUSED` says that each product is rounded together with the sum.
struct Scores<'a, const FUSED: bool> {
    queries: &'a [&'a [f32]],
    divisor: f32,
    scores: &'a mut [f32],
    stride: usize,
}

impl<S: Simd, E: Element, const FUSED: bool> BlockStep<S, E> for Scores<'_, FUSED> {
    #[inline(always)]
    fn run<const Q: usize>(
        &mut self,
        s: S,
        block: usize,
        keys: &[E],
        first: usize,
        prefetcher: Prefetcher<'_, E>,
    ) {
        let mut queries: [&[f32]; Q] = [&[]; Q];
        queries.copy_from_slice(&self.queries[first..first + Q]);
        let scores = &mut self.scores[first * self.stride + block * BLOCK..];
        E::scores::<S, FUSED, Q>(s, queries, keys, self.divisor, prefetcher, scores, self.stride);
    }
}

/// The scores of `Q` queries and a block of keys, (`head_dim`, [`BLOCK`]): those of `N` vectors of
/// positions at a time, for each query, are kept in registers.
#[inline(always)]
pub(super) fn block_scores<S: Simd, E: KvFloat, const FUSED: bool, const Q: usize, const N: usize>(
    s: S,
    queries: [&[f32]; Q],
    keys: &[E],
    divisor: f32,
    prefetcher: Prefetcher<'_, E>,
    scores: &mut [f32],
    stride: usize,
) {
    let head_dim = keys.len() / BLOCK;
    let queries = queries.map(|query| &query[..head_dim]);
    let divisor = s.splat(divisor);
    let width = N * S::LANES;
    for part in (0..BLOCK).step_by(width) {
        let mut acc = [[s.splat(0.0); N]; Q];
        for (d, keys) in (0..head_dim).zip(keys.chunks_exact(BLOCK)) {
            let keys = &keys[part..][..width];
            prefetcher.fetch(s, d * BLOCK + part, width);
            let mut ks = [s.splat(0.0); N];
            for v in 0..N {
                ks[v] = E::load(s, &keys[v * S::LANES..]);
            }
            for i in 0..Q {
                let q = s.splat(queries[i][d]);
                for v in 0..N {
                    acc[i][v] = if FUSED {
                        s.fused_mul_add(q, ks[v], acc[i][v])
                    } else {
                        s.add(acc[i][v], s.mul(q, ks[v]))
                    };
                }
            }
        }
        for i in 0..Q {
            let scores = &mut scores[i * stride + part..][..width];
            for v in 0..N {
                s.store(s.div(acc[i][v], divisor), &mut scores[v * S::LANES..]);
            }
        }
    }
}
