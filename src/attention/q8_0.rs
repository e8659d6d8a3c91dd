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
        let mut in_group = [[0.0; GROUP]; Q];
        for q in 0..Q {
            let end = queries[q].len().min((g + 1) * GROUP);
            in_group[q] = copied(&queries[q][g * GROUP..end]);
        }
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
                    let query = s.splat(in_group[q][d]);
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
    let mut padded = [[0.0; BLOCK]; Q];
    for q in 0..Q {
        padded[q] = copied(weights[q]);
    }
    let (seen_by_all, column) = (weights[0].len(), 2 * S::LANES);
    for g in 0..n_groups {
        let n = GROUP.min(head_dim - g * GROUP);
        let mut scaled = [[0.0_f32; BLOCK]; Q];
        for j in (0..BLOCK).step_by(S::LANES) {
            let scale = load_scales(s, &scales[2 * (g * BLOCK + j)..]);
            for q in 0..Q {
                s.store(s.mul(s.load(&padded[q][j..]), scale), &mut scaled[q][j..]);
            }
        }
        let mut totals = [[0.0_f32; GROUP]; Q];
        for q in 0..Q {
            totals[q] = copied(&sums[q * head_dim + g * GROUP..][..n]);
        }
        let n_lines = if g % 2 == 0 { seen_by_all } else { 0 };
        for at in (0..GROUP).step_by(column) {
            let rows = &numbers[g * GROUP + at..];
            // Each line once, though a group is half of one.
            let fetch = |j| {
                if at == 0 && j < n_lines {
                    prefetcher.fetch(s, j * width + g * GROUP, 2 * GROUP);
                }
            };
            let mut acc = [[s.splat(0.0); 2]; Q];
            let mut common = [&[][..]; Q];
            for q in 0..Q {
                for v in 0..2 {
                    acc[q][v] = s.load(&totals[q][at + v * S::LANES..]);
                }
                common[q] = &scaled[q][..seen_by_all];
            }
            acc = add_rows(s, rows, width, common, fetch, acc);
            for q in 1..Q {
                let rest = &scaled[q][seen_by_all..weights[q].len()];
                if !rest.is_empty() {
                    [acc[q]] = add_rows(s, &rows[seen_by_all * width..], width, [rest], |_| (), [acc[q]]);
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

/// The sums of each query's two vectors of columns, with those columns of some rows of values
/// added: a row for each of a query's `weights`, of `width` from the next. (Sums come and go by
/// value: where they are changed in place, each step writes them to memory.)
#[inline(always)]
fn add_rows<S: Simd, const Q: usize>(
    s: S,
    rows: &[i8],
    width: usize,
    weights: [&[f32]; Q],
    fetch: impl Fn(usize),
    mut sums: [[S::F32; 2]; Q],
) -> [[S::F32; 2]; Q] {
    let n = weights[0].len();
    for (j, row) in (0..n).zip(rows.chunks(width)) {
        fetch(j);
        let row = &row[..2 * S::LANES];
        let values = [s.load_i8(row), s.load_i8(&row[S::LANES..])];
        for q in 0..Q {
            let weight = s.splat(weights[q][..n][j]);
            for v in 0..2 {
                sums[q][v] = s.fused_mul_add(weight, values[v], sums[q][v]);
            }
        }
    }
    sums
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
