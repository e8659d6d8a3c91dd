//! Scores and weighted sums of keys and values in `Q8_0`: `kv_cache/q8_0.rs` draws how they lie.
//!
//! A group's products are summed in the order of its dimensions, and then multiplied with its scale
//! and added; a value's scale is multiplied with its weight first. So the order of every sum
//! depends on positions and dimensions alone.

use super::prefetch::Prefetcher;
use crate::kv_cache::{BLOCK, GROUP, ROWS, n_groups};
use crate::simd::Simd;

/// The scores of `Q` queries and a block of keys, `N` vectors of positions at a time.
#[inline(always)]
pub(super) fn group_scores<S: Simd, const Q: usize, const N: usize>(
    s: S,
    queries: [&[f32]; Q],
    keys: &[i8],
    divisor: f32,
    prefetcher: Prefetcher<'_, i8>,
    scores: &mut [f32],
    stride: usize,
) {
    let width = N * S::LANES;
    let parts = BLOCK / width;
    let divisor = s.splat(divisor);
    for q in 0..Q {
        scores[q * stride..][..BLOCK].fill(0.0);
    }
    for (g, group) in keys.chunks_exact(ROWS * BLOCK).enumerate() {
        let queries =
            queries.map(|query| copied::<GROUP>(&query[g * GROUP..query.len().min((g + 1) * GROUP)]));
        let (rows, scales) = group.split_at(GROUP * BLOCK);
        for part in 0..parts {
            let mut acc = [[s.splat(0.0); N]; Q];
            for (d, row) in (0..GROUP).zip(rows.chunks_exact(BLOCK)) {
                let row = &row[part * width..][..width];
                // A row is a line, which one of the parts fetches.
                if d % parts == part {
                    prefetcher.fetch(s, (g * ROWS + d) * BLOCK, BLOCK);
                }
                let mut ks = [s.splat(0.0); N];
                for v in 0..N {
                    ks[v] = s.load_i8(&row[v * S::LANES..]);
                }
                for q in 0..Q {
                    let query = s.splat(queries[q][d]);
                    for v in 0..N {
                        acc[q][v] = s.fused_mul_add(query, ks[v], acc[q][v]);
                    }
                }
            }
            for v in 0..N {
                let at = part * width + v * S::LANES;
                let scale = load_scales(s, &scales[2 * at..]);
                for q in 0..Q {
                    let sum = &mut scores[q * stride + at..][..S::LANES];
                    s.store(s.fused_mul_add(scale, acc[q][v], s.load(sum)), sum);
                }
            }
        }
        prefetcher.fetch(s, (g * ROWS + GROUP) * BLOCK, 2 * BLOCK);
    }
    for q in 0..Q {
        for at in (0..BLOCK).step_by(S::LANES) {
            let score = &mut scores[q * stride + at..][..S::LANES];
            s.store(s.div(s.load(score), divisor), score);
        }
    }
}

/// Adds a block's values, weighted, to the sums of `Q` queries, (`Q`, `head_dim`). `weights` are of
/// the positions that each query sees, the first query the fewest.
#[inline(always)]
pub(super) fn add_groups<S: Simd, const Q: usize>(
    s: S,
    values: &[i8],
    prefetcher: Prefetcher<'_, i8>,
    weights: [&[f32]; Q],
    sums: &mut [f32],
    head_dim: usize,
) {
    let n_groups = n_groups(head_dim);
    let width = n_groups * GROUP;
    let (numbers, scales) = values.split_at(BLOCK * width);
    prefetcher.fetch(s, numbers.len(), scales.len());
    let weights = weights.map(|weights| (copied::<BLOCK>(weights), weights.len()));
    let (seen_by_all, column) = (weights[0].1, 2 * S::LANES);
    for g in 0..n_groups {
        let n = GROUP.min(head_dim - g * GROUP);
        let mut scaled = [[0.0_f32; BLOCK]; Q];
        for j in (0..BLOCK).step_by(S::LANES) {
            let scale = load_scales(s, &scales[2 * (g * BLOCK + j)..]);
            for q in 0..Q {
                s.store(s.mul(s.load(&weights[q].0[j..]), scale), &mut scaled[q][j..]);
            }
        }
        let mut totals = [[0.0_f32; GROUP]; Q];
        for q in 0..Q {
            totals[q] = copied(&sums[q * head_dim + g * GROUP..][..n]);
        }
        for at in (0..GROUP).step_by(column) {
            let row = |j: usize| {
                let row = &numbers[j * width + g * GROUP + at..][..2 * S::LANES];
                [s.load_i8(row), s.load_i8(&row[S::LANES..])]
            };
            let mut acc = [[s.splat(0.0); 2]; Q];
            for q in 0..Q {
                acc[q] = [0, S::LANES].map(|lane| s.load(&totals[q][at + lane..]));
            }
            for j in 0..seen_by_all {
                // Each line once, though a group is half of one.
                if at == 0 && g % 2 == 0 {
                    prefetcher.fetch(s, j * width + g * GROUP, 2 * GROUP);
                }
                let value = row(j);
                for q in 0..Q {
                    let weight = s.splat(scaled[q][j]);
                    for v in 0..2 {
                        acc[q][v] = s.fused_mul_add(weight, value[v], acc[q][v]);
                    }
                }
            }
            for q in 1..Q {
                for j in seen_by_all..weights[q].1 {
                    let (weight, value) = (s.splat(scaled[q][j]), row(j));
                    for v in 0..2 {
                        acc[q][v] = s.fused_mul_add(weight, value[v], acc[q][v]);
                    }
                }
            }
            for q in 0..Q {
                for v in 0..2 {
                    s.store(acc[q][v], &mut totals[q][at + v * S::LANES..]);
                }
            }
        }
        for q in 0..Q {
            let sums = &mut sums[q * head_dim + g * GROUP..][..n];
            match <&mut [f32; GROUP]>::try_from(&mut *sums) {
                Ok(sums) => *sums = totals[q],
                Err(_) => sums.copy_from_slice(&totals[q][..n]),
            }
        }
    }
}

/// Up to `N` numbers, and zeros after them. All of them, as most are, are copied without a call.
#[inline(always)]
fn copied<const N: usize>(numbers: &[f32]) -> [f32; N] {
    if let Ok(numbers) = <&[f32; N]>::try_from(numbers) {
        return *numbers;
    }
    let mut padded = [0.0; N];
    padded[..numbers.len()].copy_from_slice(numbers);
    padded
}

/// `LANES` scales.
#[inline(always)]
fn load_scales<S: Simd>(s: S, from: &[i8]) -> S::F32 {
    let mut bits = [0; 16];
    for (bits, scale) in bits[..S::LANES].iter_mut().zip(from[..2 * S::LANES].as_chunks::<2>().0) {
        *bits = u16::from_le_bytes(scale.map(i8::cast_unsigned));
    }
    s.load_f16(&bits)
}
