//! The last step of attention: the sum of all values that a query sees, weighted.

use super::QUERY_TILE;
use super::element::Element;
use super::prefetch::{BlockStep, Blocks, Prefetcher};
use crate::kv_cache::{BLOCK, KvFloat, Stretches};
use crate::simd::Simd;

/// `sums[i] = sum over j of weights[i][j] v_j` for queries that see positions below `visible[i]`,
/// the first query the fewest, from the block `first` on; those before their window weigh 0.
/// `weights` is ([`QUERY_TILE`], positions), `sums` ([`QUERY_TILE`], `head_dim`).
#[inline(always)]
pub(super) fn weighted_sums<S: Simd, E: Element>(
    s: S,
    weights: &[f32],
    visible: &[usize],
    first: usize,
    [values, keys]: [Stretches<'_, E>; 2],
    sums: &mut [f32],
) {
    let n = visible.len();
    let blocks = Blocks {
        stretches: values, // of (positions, width)
        block_len: BLOCK * E::width(sums.len() / QUERY_TILE),
        range: first..visible[n - 1].div_ceil(BLOCK),
        // A head's keys are followed by those of the next head, which is this thread's next task.
        then: (keys.get(0), keys.get(0).len()),
    };
    sums.fill(0.0);
    let stride = weights.len() / QUERY_TILE;
    blocks.for_each(s, n, &mut WeightedSums { weights, stride, visible, sums });
}

struct WeightedSums<'a> {
    weights: &'a [f32],
    stride: usize,
    visible: &'a [usize],
    sums: &'a mut [f32],
}

impl<S: Simd, E: Element> BlockStep<S, E> for WeightedSums<'_> {
    #[inline(always)]
    fn run<const Q: usize>(
        &mut self,
        s: S,
        block: usize,
        values: &[E],
        first: usize,
        prefetcher: Prefetcher<'_, E>,
    ) {
        let head_dim = self.sums.len() / QUERY_TILE;
        let (weights, visible) = (&self.weights[first * self.stride..], &self.visible[first..]);
        let sums = &mut self.sums[first * head_dim..];
        let start = block * BLOCK;
        let mut in_block: [&[f32]; Q] = [&[]; Q];
        for i in 0..Q {
            in_block[i] = &weights[i * self.stride..][start.min(visible[i])..visible[i].min(start + BLOCK)];
        }
        E::add_block::<S, Q>(s, values, prefetcher, in_block, sums, head_dim);
    }
}

/// Adds a block's values that are floats, ([`BLOCK`], `head_dim`), weighted.
#[inline(always)]
pub(super) fn add_tiles<S: Simd, E: KvFloat, const Q: usize>(
    s: S,
    values: &[E],
    prefetcher: Prefetcher<'_, E>,
    weights: [&[f32]; Q],
    sums: &mut [f32],
    head_dim: usize,
) {
    let mut column = 0;
    while column < head_dim {
        let vectors = (head_dim - column) / S::LANES;
        column += if const { S::REGISTER_TILE >= 4 } && vectors >= 4 {
            add_columns::<S, E, Q, 4>(s, values, prefetcher, weights, column, sums)
        } else if const { S::REGISTER_TILE >= 2 } && vectors >= 2 {
            add_columns::<S, E, Q, 2>(s, values, prefetcher, weights, column, sums)
        } else if vectors >= 1 {
            add_columns::<S, E, Q, 1>(s, values, prefetcher, weights, column, sums)
        } else {
            add_tail::<S, E, Q>(s, values, weights, column, sums);
            S::LANES
        };
    }
}

/// Adds a block's values, ([`BLOCK`], `head_dim`), to `N` vectors' worth of columns, which are kept
/// in registers; returns how many columns these are. `weights` are of the positions that each query
/// sees.
#[inline(always)]
fn add_columns<S: Simd, E: KvFloat, const Q: usize, const N: usize>(
    s: S,
    values: &[E],
    prefetcher: Prefetcher<'_, E>,
    weights: [&[f32]; Q],
    column: usize,
    sums: &mut [f32],
) -> usize {
    let (head_dim, width) = (values.len() / BLOCK, N * S::LANES);
    let mut acc = [[s.splat(0.0); N]; Q];
    for i in 0..Q {
        let sums = &sums[i * head_dim + column..][..width];
        for v in 0..N {
            acc[i][v] = s.load(&sums[v * S::LANES..]);
        }
    }
    // First the positions that all queries see, then those that only some of them do.
    let seen_by_all = weights[0].len();
    let mut common: [&[f32]; Q] = [&[]; Q];
    for i in 0..Q {
        common[i] = &weights[i][..seen_by_all];
    }
    for (j, values) in (0..seen_by_all).zip(values.chunks_exact(head_dim)) {
        let values = &values[column..][..width];
        prefetcher.fetch(s, j * head_dim + column, width);
        let mut value = [s.splat(0.0); N];
        for v in 0..N {
            value[v] = E::load(s, &values[v * S::LANES..]);
        }
        for i in 0..Q {
            let weight = s.splat(common[i][j]);
            for v in 0..N {
                acc[i][v] = s.fused_mul_add(weight, value[v], acc[i][v]);
            }
        }
    }
    for i in 1..Q {
        for j in seen_by_all..weights[i].len() {
            let values = &values[j * head_dim + column..][..width];
            let weight = s.splat(weights[i][j]);
            for v in 0..N {
                acc[i][v] = s.fused_mul_add(weight, E::load(s, &values[v * S::LANES..]), acc[i][v]);
            }
        }
    }
    for i in 0..Q {
        let sums = &mut sums[i * head_dim + column..][..width];
        for v in 0..N {
            s.store(acc[i][v], &mut sums[v * S::LANES..]);
        }
    }
    width
}

/// As [`add_columns`], for the last columns, which are less than a vector.
#[inline(always)]
fn add_tail<S: Simd, E: KvFloat, const Q: usize>(
    s: S,
    values: &[E],
    weights: [&[f32]; Q],
    column: usize,
    sums: &mut [f32],
) {
    let head_dim = values.len() / BLOCK;
    for i in 0..Q {
        let sums = &mut sums[i * head_dim..][column..head_dim];
        let mut sum = s.load_partial(sums);
        for (values, &weight) in values.chunks_exact(head_dim).zip(weights[i]) {
            sum = s.fused_mul_add(s.splat(weight), E::load_partial(s, &values[column..]), sum);
        }
        s.store_partial(sum, sums);
    }
}
