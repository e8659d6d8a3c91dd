//! Activations: the input of a matrix product, as f32 and, where the weights are quantized, as
//! int8.
//!
//! They are laid out in one of three ways:
//!
//! - [`ActivationRows`]: row by row, for the dot products of a few tokens (decode); where weights
//!   are in blocks, superblock by superblock ([`ActivationSuperblock`])
//! - [`Int8Tile`](super::packed::Int8Tile): a vector's tokens side by side, for quantized weights
//!   and more tokens (prefill)
//! - [`F32Tile`](super::float::F32Tile): some tokens vector by vector, for float weights and more
//!   tokens (prefill)
//!
//! Each token's row is cut into groups. A group is stored as `q = round(x / d)` with `d = max|x| /
//! 127`, so every `q` is within -127..=127; a group of zeros has `d = 0` and `q = 0`. This is the
//! symmetric quantization of llama2.c's runq, bit for bit, rounding included (ties away from zero).
//! A group with a NaN or an infinity has `d = NaN`, where runq overlooks it, so that damaged
//! weights show in the logits.

use super::block::{GROUP, GROUPS, PAIRS, SUPERBLOCK};
use super::packed::Aligned;
use crate::simd::{Interleave, Isa, QuantKernels, kernel};

/// Quantized activations: a buffer that is reused from product to product. Rows are padded to
/// whole superblocks of eight groups, by repeating the last groups.
#[derive(Clone, Debug, Default)]
pub(crate) struct ActivationBuffer {
    qs: Aligned<i8>,       // (n_tokens, padded n)
    scales: Vec<f32>,      // (n_tokens, padded n / group)
    sums: Vec<i32>,        // (n_tokens, padded n / group): the sum of each group's q
    scaled_sums: Vec<f32>, // (n_tokens, padded n / group): that times the group's scale
    // (n_tokens, padded n / group): the sums of each group's halves, as two int16
    sub_block_sums: Vec<i32>,
    /// The same in superblocks, (superblocks, `n_tokens`): as they lie, and as each [`Interleave`]
    /// orders them, if somebody needs it.
    superblocks: [Vec<ActivationSuperblock>; 1 + Interleave::ALL.len()],
}

/// Eight groups of a token's activations, together with all that a product with them needs: so
/// that one address is enough to find it, and the next token's superblock is the next in memory.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct ActivationSuperblock {
    pub(super) qs: [i8; SUPERBLOCK],
    pub(super) scales: [f32; GROUPS],
    pub(super) sums: [i32; GROUPS],
    pub(super) scaled_sums: [f32; GROUPS],
    pub(super) sub_block_sums: [i32; GROUPS],
}

impl ActivationSuperblock {
    const ZERO: Self = Self {
        qs: [0; SUPERBLOCK],
        scales: [0.0; GROUPS],
        sums: [0; GROUPS],
        scaled_sums: [0.0; GROUPS],
        sub_block_sums: [0; GROUPS],
    };
}

/// Where the superblocks of an order are.
fn place(order: Option<Interleave>) -> usize {
    order.map_or(0, |order| 1 + order as usize)
}

/// The input of a matrix product, row by row: (`n_tokens`, `n`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct ActivationRows<'a> {
    x: &'a [f32],
    n: usize,
    quantized: Option<Quantized<'a>>,
}

/// Activations as int8, a scale for each `group`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quantized<'a> {
    /// All tokens, one after another.
    rows: QuantizedRow<'a>,
    superblocks: &'a [Vec<ActivationSuperblock>; 1 + Interleave::ALL.len()],
    /// Groups of a row, padded.
    n_groups: usize,
    group: usize,
}

/// One token's activations as int8, padded to whole superblocks of eight groups.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QuantizedRow<'a> {
    pub(crate) qs: &'a [i8],              // (padded n)
    pub(crate) scales: &'a [f32],         // (padded n / group)
    pub(crate) sums: &'a [i32],           // (padded n / group)
    pub(crate) scaled_sums: &'a [f32],    // (padded n / group)
    pub(crate) sub_block_sums: &'a [i32], // (padded n / group)
}

impl<'a> ActivationRows<'a> {
    /// Activations that are only multiplied with f32 weights.
    pub(crate) fn f32(x: &'a [f32], n: usize) -> Self {
        Self { x, n, quantized: None }
    }

    pub(crate) fn n_tokens(self) -> usize {
        self.x.len() / self.n
    }

    /// A token's activations: (`n`).
    #[inline(always)]
    pub(crate) fn row(self, token: usize) -> &'a [f32] {
        &self.x[token * self.n..][..self.n]
    }

    /// The activations of `T` tokens, from the `first` on.
    #[inline(always)]
    pub(crate) fn rows<const T: usize>(self, first: usize) -> [&'a [f32]; T] {
        let mut rows = [&[][..]; T];
        for (t, row) in rows.iter_mut().enumerate() {
            *row = self.row(first + t);
        }
        rows
    }

    /// All activations in superblocks of an order: (superblocks, `n_tokens`).
    ///
    /// # Panics
    /// If they weren't quantized.
    #[inline(always)]
    pub(super) fn superblocks(self, order: Option<Interleave>) -> &'a [ActivationSuperblock] {
        let quantized = self.quantized.expect("quantized weights need quantized activations");
        &quantized.superblocks[place(order)]
    }

    /// A token's activations as int8.
    ///
    /// # Panics
    /// If they weren't quantized.
    #[inline(always)]
    pub(crate) fn quantized_row(self, token: usize) -> QuantizedRow<'a> {
        let Quantized { rows, n_groups, group, .. } =
            self.quantized.expect("quantized weights need quantized activations");
        let integers = token * n_groups * group..(token + 1) * n_groups * group;
        let groups = token * n_groups..(token + 1) * n_groups;
        QuantizedRow {
            qs: &rows.qs[integers],
            scales: &rows.scales[groups.clone()],
            sums: &rows.sums[groups.clone()],
            scaled_sums: &rows.scaled_sums[groups.clone()],
            sub_block_sums: &rows.sub_block_sums[groups],
        }
    }
}

impl ActivationBuffer {
    /// Quantizes `x`, (`n_tokens`, `n`), in groups of `group`, which divides `n`. `needs` says
    /// whether they are also needed in superblocks of an order, which only groups of 32 have.
    pub(crate) fn quantize<'a>(
        &'a mut self,
        isa: Isa,
        x: &'a [f32],
        n: usize,
        group: usize,
        needs: impl Fn(Option<Interleave>) -> bool,
    ) -> ActivationRows<'a> {
        let n_tokens = x.len() / n;
        let n_groups = self.quantize_rows(isa, x, n, group, n_tokens);
        let mut superblocks = std::mem::take(&mut self.superblocks);
        for order in [None].into_iter().chain(Interleave::ALL.map(Some)) {
            let to = &mut superblocks[place(order)];
            to.resize(
                if needs(order) { n_tokens * n_groups / GROUPS } else { 0 },
                ActivationSuperblock::ZERO,
            );
            put_superblocks(isa, order, self.rows(), n_tokens, to);
        }
        self.superblocks = superblocks;
        let quantized = Quantized { rows: self.rows(), superblocks: &self.superblocks, n_groups, group };
        ActivationRows { x, n, quantized: Some(quantized) }
    }

    /// Quantizes `x`, (at most `n_rows`, `n`), in groups of 32: `n_rows` rows, one after another,
    /// with zeros for those that `x` doesn't have.
    pub(crate) fn quantize_tile(&mut self, isa: Isa, x: &[f32], n: usize, n_rows: usize) -> QuantizedRow<'_> {
        self.quantize_rows(isa, x, n, GROUP, n_rows);
        self.rows()
    }

    fn rows(&self) -> QuantizedRow<'_> {
        let Self { qs, scales, sums, scaled_sums, sub_block_sums, .. } = self;
        QuantizedRow { qs, scales, sums, scaled_sums, sub_block_sums }
    }

    /// Quantizes the rows that `x` has of `n_rows`, and makes zeros of the others; how many groups
    /// a row has then.
    fn quantize_rows(&mut self, isa: Isa, x: &[f32], n: usize, group: usize, n_rows: usize) -> usize {
        assert!(n.is_multiple_of(group) && x.len().is_multiple_of(n), "whole groups and whole rows");
        let n_groups = (n / group).next_multiple_of(GROUPS);
        let padded = n_groups * group;
        self.qs.resize(n_rows * padded);
        self.scales.resize(n_rows * n_groups, 0.0);
        self.sums.resize(n_rows * n_groups, 0);
        self.scaled_sums.resize(n_rows * n_groups, 0.0);
        self.sub_block_sums.resize(n_rows * n_groups, 0);
        for (token, x) in x.chunks_exact(n).enumerate() {
            let groups = token * n_groups..(token + 1) * n_groups;
            let out = GroupsMut {
                qs: &mut self.qs[token * padded..(token + 1) * padded],
                scales: &mut self.scales[groups.clone()],
                sums: &mut self.sums[groups.clone()],
                scaled_sums: &mut self.scaled_sums[groups.clone()],
                sub_block_sums: &mut self.sub_block_sums[groups],
            };
            quantize_groups(isa, x, group, out);
        }
        let n_tokens = x.len() / n;
        self.qs[n_tokens * padded..].fill(0);
        self.scales[n_tokens * n_groups..].fill(0.0);
        self.sums[n_tokens * n_groups..].fill(0);
        self.scaled_sums[n_tokens * n_groups..].fill(0.0);
        self.sub_block_sums[n_tokens * n_groups..].fill(0);
        n_groups
    }
}

/// Some groups of an [`ActivationBuffer`], to be filled in.
struct GroupsMut<'a> {
    qs: &'a mut [i8],
    scales: &'a mut [f32],
    sums: &'a mut [i32],
    scaled_sums: &'a mut [f32],
    sub_block_sums: &'a mut [i32],
}

impl GroupsMut<'_> {
    /// `n` of these groups, which have `group` activations each.
    #[inline(always)]
    fn slice(&mut self, first: usize, n: usize, group: usize) -> GroupsMut<'_> {
        GroupsMut {
            qs: &mut self.qs[first * group..][..n * group],
            scales: &mut self.scales[first..][..n],
            sums: &mut self.sums[first..][..n],
            scaled_sums: &mut self.scaled_sums[first..][..n],
            sub_block_sums: &mut self.sub_block_sums[first..][..n],
        }
    }
}

kernel! { float
    /// Fills in superblocks, (superblocks, `n_tokens`), with rows in groups of 32.
    fn put_superblocks(
        _s; order: Option<Interleave>, rows: QuantizedRow<'_>, n_tokens: usize, to: &mut [ActivationSuperblock],
    ) {
        let of_row = to.len() / n_tokens;
        for (i, to) in to.iter_mut().enumerate() {
            let from = i % n_tokens * of_row + i / n_tokens;
            let groups = from * GROUPS..(from + 1) * GROUPS;
            to.scales.copy_from_slice(&rows.scales[groups.clone()]);
            to.sums.copy_from_slice(&rows.sums[groups.clone()]);
            to.scaled_sums.copy_from_slice(&rows.scaled_sums[groups.clone()]);
            to.sub_block_sums.copy_from_slice(&rows.sub_block_sums[groups]);
            let qs = &rows.qs[from * SUPERBLOCK..(from + 1) * SUPERBLOCK];
            let Some(order) = order else {
                to.qs.copy_from_slice(qs);
                continue;
            };
            let ((qs, _), (to, _)) = (qs.as_chunks::<4>(), to.qs.as_chunks_mut::<4>());
            for (to, &quad) in to.iter_mut().zip(&S::INTERLEAVES[order as usize]) {
                *to = qs[usize::from(quad)];
            }
        }
    }
}

kernel! {
    fn quantize_groups(s; x: &[f32], group: usize, out: GroupsMut<'_>) {
        match group {
            GROUP => quantize_row::<S, GROUP>(s, x, group, out),
            64 => quantize_row::<S, 64>(s, x, group, out),
            _ => quantize_row::<S, 0>(s, x, group, out),
        }
    }
}

/// Quantizes a row in groups of `G`, or of `group` if `G` is 0: eight at a time, for their
/// reductions across lanes cost little more than one group's.
#[inline(always)]
fn quantize_row<S: QuantKernels, const G: usize>(s: S, x: &[f32], group: usize, mut out: GroupsMut<'_>) {
    let group = if G > 0 { G } else { group };
    let n_groups = x.len() / group;
    let whole = n_groups / GROUPS * GROUPS;
    for g in (0..whole).step_by(GROUPS) {
        quantize_chunk::<S, G, GROUPS>(s, &x[g * group..], group, out.slice(g, GROUPS, group));
    }
    for g in whole..n_groups {
        quantize_chunk::<S, G, 1>(s, &x[g * group..], group, out.slice(g, 1, group));
    }
    let GroupsMut { qs, scales, sums, scaled_sums, sub_block_sums } = out;
    for g in 0..n_groups {
        scaled_sums[g] = scales[g] * sums[g] as f32;
    }
    for to in n_groups..scales.len() {
        let from = to - n_groups % GROUPS;
        qs.copy_within(from * group..(from + 1) * group, to * group);
        (scales[to], sums[to]) = (scales[from], sums[from]);
        (scaled_sums[to], sub_block_sums[to]) = (scaled_sums[from], sub_block_sums[from]);
    }
}

/// The first `N` groups, at most eight.
#[inline(always)]
fn quantize_chunk<S: QuantKernels, const G: usize, const N: usize>(
    s: S,
    x: &[f32],
    group: usize,
    out: GroupsMut<'_>,
) {
    let group = if G > 0 { G } else { group };
    let x = &x[..N * group];
    let GroupsMut { qs, scales, sums, sub_block_sums, .. } = out;
    let mut sizes = [s.splat(0.0); GROUPS];
    for g in 0..N {
        sizes[g] = max_abs(s, &x[g * group..][..group]);
    }
    let sizes = s.to_array(s.hmax_abs_each(sizes));
    for g in 0..N {
        let scale = sizes[g] / 127.0;
        scales[g] = if scale.is_finite() { scale } else { f32::NAN };
    }
    for g in 0..N {
        quantize_group(s, &x[g * group..][..group], scales[g], &mut qs[g * group..][..group]);
    }
    if G == GROUP && N == GROUPS {
        let ones = s.load_bytes_x64(&[1_i8; 2 * GROUP]);
        let mut pairs = [s.dot_u8_x64(s.zero_x64(), s.zero_x64()); PAIRS];
        for p in 0..PAIRS {
            pairs[p] = s.dot_u8_x64(ones, s.load_bytes_x64(&qs[p * 2 * GROUP..]));
        }
        let [low, high] = s.sum_halves_x64::<true>(pairs);
        s.store_i32x8(s.add_i32x8(low, high), sums);
        s.store_i32x8(s.pack_i16(low, high), sub_block_sums);
        return;
    }
    for g in 0..N {
        let (low, high) = qs[g * group..][..group].split_at(group / 2);
        let [low, high] = [low, high].map(|half| half.iter().map(|&q| i32::from(q)).sum::<i32>());
        sums[g] = low + high;
        sub_block_sums[g] = low & 0xffff | high << 16;
    }
}

/// The greatest `|x|` in some lane; if one isn't finite, something that isn't.
#[inline(always)]
fn max_abs<S: QuantKernels>(s: S, x: &[f32]) -> S::F32 {
    let mut max = s.splat(0.0);
    let mut chunks = x.chunks_exact(S::LANES);
    for chunk in &mut chunks {
        max = s.max_abs(max, s.load(chunk));
    }
    if !chunks.remainder().is_empty() {
        max = s.max_abs(max, s.load_partial(chunks.remainder()));
    }
    max
}

#[inline(always)]
fn quantize_group<S: QuantKernels>(s: S, x: &[f32], scale: f32, qs: &mut [i8]) {
    if scale == 0.0 || scale.is_nan() {
        qs.fill(0);
        return;
    }
    let divisor = s.splat(scale);
    let mut chunks = x.chunks_exact(S::LANES);
    let mut out = qs.chunks_exact_mut(S::LANES);
    for (chunk, out) in (&mut chunks).zip(&mut out) {
        s.store_i8(s.div(s.load(chunk), divisor), out);
    }
    let tail = chunks.remainder();
    if !tail.is_empty() {
        let mut padded = [0; 16];
        s.store_i8(s.div(s.load_partial(tail), divisor), &mut padded[..S::LANES]);
        out.into_remainder().copy_from_slice(&padded[..tail.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn quantizing_is_round_of_x_over_scale_on_every_isa(
            x in prop::collection::vec(-1e3f32..1e3, 1..=700),
            group in prop_oneof![1usize..=67, Just(32), Just(64)],
        ) {
            let n = x.len() / group * group;
            prop_assume!(n > 0);
            for isa in Isa::available() {
                let mut buffer = ActivationBuffer::default();
                let input = buffer.quantize(isa, &x[..n], n, group, |_| false);
                let row = input.quantized_row(0);
                for (g, chunk) in x[..n].chunks(group).enumerate() {
                    let max = chunk.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                    let scale = max / 127.0;
                    prop_assert_eq!(row.scales[g], scale);
                    let want: Vec<i8> = chunk.iter()
                        .map(|v| if scale == 0.0 { 0 } else { (v / scale).round() as i8 }).collect();
                    prop_assert_eq!(&row.qs[g * group..][..group], &want[..], "{}", isa.name());
                    prop_assert_eq!(row.sums[g], want.iter().map(|&q| i32::from(q)).sum::<i32>());
                }
            }
        }
    }

    #[test]
    fn a_value_that_is_not_finite_makes_its_groups_scale_nan() {
        for isa in Isa::available() {
            for n in 1..=40 {
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    for at in 0..n {
                        let mut x: Vec<f32> = (0..2 * n).map(|i| i as f32).collect();
                        x[at] = bad;
                        let mut buffer = ActivationBuffer::default();
                        let row = buffer.quantize(isa, &x, 2 * n, n, |_| false).quantized_row(0);
                        assert!(row.scales[0].is_nan() && !row.scales[1].is_nan(), "{} {n}", isa.name());
                        assert_eq!(row.qs[..n], vec![0; n]);
                    }
                }
            }
        }
    }

    #[test]
    fn ties_round_away_from_zero_and_zeros_stay_zero() {
        // The scale is exactly 1, so the quotients are the values themselves.
        let x = [127.0, 0.5, -0.5, 1.5, -1.5, 0.499_999_97, -0.499_999_97, 2.5];
        for isa in Isa::available() {
            let mut buffer = ActivationBuffer::default();
            let row = buffer.quantize(isa, &x, 8, 8, |_| false).quantized_row(0);
            assert_eq!(row.qs[..8], [127, 1, -1, 2, -2, 0, 0, 3]);
            let zeros = buffer.quantize(isa, &[0.0; 8], 8, 4, |_| false);
            assert_eq!(
                (zeros.quantized_row(0).qs, zeros.quantized_row(0).scales),
                (&[0; 32][..], &[0.0; 8][..])
            );
        }
    }

    #[test]
    fn the_last_groups_are_repeated_as_padding() {
        let x: Vec<f32> = (0..40).map(|i| i as f32 - 17.5).collect();
        for isa in Isa::available() {
            let mut buffer = ActivationBuffer::default();
            let row = buffer.quantize(isa, &x, 40, 4, |_| false).quantized_row(0);
            for group in 8..16 {
                let like = 8 + group % 2;
                assert_eq!(row.qs[4 * group..][..4], row.qs[4 * like..][..4]);
                let metadata = |g: usize| (row.scales[g], row.sums[g], row.sub_block_sums[g]);
                assert_eq!(metadata(group), metadata(like));
            }
        }
    }
}
