//! The product of int8 panels: weights are unpacked once for a whole batch of tokens and multiplied from registers.
//! `quant/packed.rs` has the operands' layout and the order in which terms are added.
//!
//! A tile of the output is a strip of `R` rows of weights by `V` vectors of tokens. Its whole-number products of a group of 32 stay in
//! registers, as do its sums, while a chain of groups passes. The next strip then meets the same activations,
//! which by now are in the first-level cache; after all strips come the next chain, and then the next tokens.

use std::ops::Range;

use crate::parallel::Band;
use crate::quant::Store;
use crate::quant::blocks::{GROUP, Numbers};
use crate::quant::packed::{Chains, PackedTile, Panel};
use crate::simd::Simd;
use crate::tensor::Matrix;

/// Rows that are unpacked together: a panel of 24 rows of 5,632 takes 135 KB of the second-level cache.
pub(crate) const PANEL_ROWS: usize = 24;

/// Rows of a tile for vectors of so many lanes: with two vectors of tokens, as many as the registers hold.
pub(crate) fn strip_rows(lanes: usize) -> usize {
    if lanes == 16 { 6 } else { 4 }
}

/// The products of some rows with every token, into `out`: (`n_tokens`, as many columns as rows).
#[inline(always)]
pub(crate) fn multiply<S: Simd>(
    s: S,
    weights: Matrix<'_>,
    rows: Range<usize>,
    x: &[PackedTile],
    panel: &mut Panel,
    out: &mut Band<'_>,
    store: Store,
) {
    let Some((numbers, halves)) = weights.rows.int8_kind() else {
        unreachable!("only what can be unpacked is packed")
    };
    let bias = match numbers {
        Numbers::Signed => S::QUADS_BIAS,
        Numbers::Offset(n) => Some(n),
        Numbers::WithMin => None,
    };
    panel.resize(PANEL_ROWS, strip_rows(S::LANES), weights.n_columns / GROUP);
    for first in rows.clone().step_by(PANEL_ROWS) {
        let n_rows = PANEL_ROWS.min(rows.end - first);
        weights.rows.unpack(s, first..first + n_rows, panel);
        let block = Block { panel, n_rows, column: first - rows.start, bias, store };
        match (numbers, halves) {
            (Numbers::Signed, _) => block.multiply::<S, true, false, false>(s, x, out),
            (Numbers::Offset(_), false) => block.multiply::<S, false, false, false>(s, x, out),
            (Numbers::Offset(_), true) => block.multiply::<S, false, false, true>(s, x, out),
            (Numbers::WithMin, false) => block.multiply::<S, false, true, false>(s, x, out),
            (Numbers::WithMin, true) => block.multiply::<S, false, true, true>(s, x, out),
        }
    }
}

/// A panel, and where its products go.
#[derive(Clone, Copy)]
struct Block<'a> {
    panel: &'a Panel,
    n_rows: usize,
    /// The first column of the output.
    column: usize,
    /// The power of two that is to be taken off each weight.
    bias: Option<u32>,
    store: Store,
}

/// The levels of decode's tree of eight sums.
const LEVELS: usize = 4;

impl Block<'_> {
    /// All rows with all tokens. A tile is as large as the registers allow.
    #[inline(always)]
    fn multiply<S: Simd, const SIGNED: bool, const MIN: bool, const HALVES: bool>(
        self,
        s: S,
        x: &[PackedTile],
        out: &mut Band<'_>,
    ) {
        if S::LANES == 16 {
            self.all_tokens::<S, SIGNED, MIN, HALVES, 6, 4>(s, x, out);
        } else {
            self.all_tokens::<S, SIGNED, MIN, HALVES, 4, 6>(s, x, out);
        }
    }

    #[inline(always)]
    fn all_tokens<
        S: Simd,
        const SIGNED: bool,
        const MIN: bool,
        const HALVES: bool,
        const R: usize,
        const STRIPS: usize,
    >(
        self,
        s: S,
        x: &[PackedTile],
        out: &mut Band<'_>,
    ) {
        let mut sums = [[[[s.splat(0.0); 2]; R]; LEVELS]; STRIPS];
        let mut pairs = x.chunks_exact(2);
        let mut token = 0;
        for pair in &mut pairs {
            self.tokens::<S, SIGNED, MIN, HALVES, 2, R>(s, [&pair[0], &pair[1]], &mut sums, token, out);
            token += 2 * S::LANES;
        }
        if let [last] = pairs.remainder() {
            let mut sums = [[[[s.splat(0.0); 1]; R]; LEVELS]; STRIPS];
            self.tokens::<S, SIGNED, MIN, HALVES, 1, R>(s, [last], &mut sums, token, out);
        }
    }

    /// `V` vectors of tokens, from `token` on, with all rows. `sums` is room for each strip's sums at each level of the tree.
    #[inline(always)]
    fn tokens<
        S: Simd,
        const SIGNED: bool,
        const MIN: bool,
        const HALVES: bool,
        const V: usize,
        const R: usize,
    >(
        self,
        s: S,
        x: [&PackedTile; V],
        sums: &mut [[[[S::F32; V]; R]; LEVELS]],
        token: usize,
        out: &mut Band<'_>,
    ) {
        let chains = Chains::new(self.panel.n_groups);
        let n_strips = self.n_rows.div_ceil(R);
        for i in 0..8 {
            let groups = chains.visit(i);
            for (strip, levels) in sums[..n_strips].iter_mut().enumerate() {
                let mut sum = self.chain::<S, SIGNED, MIN, HALVES, V, R>(s, x, strip, groups.clone());
                // A chain that completes a pair is added to the other, the sum perhaps to another pair's, and so on.
                let level = i.trailing_ones() as usize;
                for lower in &levels[..level] {
                    for r in 0..R {
                        for v in 0..V {
                            sum[r][v] = s.add(lower[r][v], sum[r][v]);
                        }
                    }
                }
                levels[level] = sum;
            }
        }
        for (strip, levels) in sums[..n_strips].iter().enumerate() {
            self.store::<S, V, R>(s, &levels[LEVELS - 1], strip * R, token, out);
        }
    }

    /// One chain's groups of a strip with `V` vectors of tokens.
    #[inline(always)]
    fn chain<
        S: Simd,
        const SIGNED: bool,
        const MIN: bool,
        const HALVES: bool,
        const V: usize,
        const R: usize,
    >(
        self,
        s: S,
        x: [&PackedTile; V],
        strip: usize,
        groups: Range<usize>,
    ) -> [[S::F32; V]; R] {
        let panel = self.panel;
        let n_halves = if HALVES { 2 } else { 1 };
        let first = strip * panel.n_groups;
        let qs = &panel.qs[first * R * GROUP..];
        let scales: [&[f32]; 2] = std::array::from_fn(|half| &panel.scales[half][first * R..]);
        let mins: [&[f32]; 2] = std::array::from_fn(|half| &panel.mins[half][first * R..]);
        let x_qs: [&[i8]; V] = std::array::from_fn(|v| &*x[v].qs);
        let x_scales: [&[f32]; V] = std::array::from_fn(|v| &*x[v].scales);
        let x_sums: [[&[i32]; V]; 2] = std::array::from_fn(|half| {
            std::array::from_fn(|v| &*x[v].sums[if HALVES { 1 + half } else { 0 }])
        });

        let mut acc = [[s.splat(0.0); V]; R];
        for g in groups {
            let w = &qs[g * R * GROUP..][..R * GROUP];
            let mut x_qs = x_qs;
            for v in 0..V {
                x_qs[v] = &x_qs[v][g * GROUP * S::LANES..][..GROUP * S::LANES];
            }
            let mut d = [s.splat(0.0); V];
            for v in 0..V {
                d[v] = s.load(&x_scales[v][g * S::LANES..]);
            }
            for half in 0..n_halves {
                let mut sums = [s.zero_i32(); V];
                for v in 0..V {
                    sums[v] = s.load_i32(&x_sums[half][v][g * S::LANES..]);
                }
                let mut dots = [[s.zero_i32(); V]; R];
                if let Some(n) = self.bias {
                    for v in 0..V {
                        let bias = s.sub_shifted_i32(s.zero_i32(), sums[v], n);
                        for r in 0..R {
                            dots[r][v] = bias;
                        }
                    }
                }
                let quads = half * 8 / n_halves..(half + 1) * 8 / n_halves;
                let dots = s.dot_strip::<SIGNED, R, V>(dots, w, x_qs, quads);
                let scales = &scales[half][g * R..][..R];
                for r in 0..R {
                    let scale = s.splat(scales[r]);
                    for v in 0..V {
                        acc[r][v] = s.mul_add(s.to_f32(dots[r][v]), s.mul(scale, d[v]), acc[r][v]);
                    }
                }
                if MIN {
                    let mins = &mins[half][g * R..][..R];
                    for v in 0..V {
                        let sum = s.mul(d[v], s.to_f32(sums[v]));
                        for r in 0..R {
                            acc[r][v] = s.mul_add(s.splat(mins[r]), sum, acc[r][v]);
                        }
                    }
                }
            }
        }
        acc
    }

    /// Writes a tile, whose tokens lie along lanes, into rows of tokens.
    #[inline(always)]
    fn store<S: Simd, const V: usize, const R: usize>(
        self,
        s: S,
        tile: &[[S::F32; V]; R],
        row: usize,
        token: usize,
        out: &mut Band<'_>,
    ) {
        let mut lanes = [[[0.0; 16]; V]; R];
        for r in 0..R {
            for v in 0..V {
                s.store(tile[r][v], &mut lanes[r][v]);
            }
        }
        let n_tokens = (V * S::LANES).min(out.n_rows() - token);
        let n_rows = R.min(self.n_rows - row);
        for t in 0..n_tokens {
            let out = &mut out.row(token + t)[self.column + row..][..n_rows];
            for (r, out) in out.iter_mut().enumerate() {
                let product = lanes[r][t / S::LANES][t % S::LANES];
                match self.store {
                    Store::Set => *out = product,
                    Store::Add => *out += product,
                }
            }
        }
    }
}
