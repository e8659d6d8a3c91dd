//! The packed matrix product of prefill: weights are unpacked once for a whole batch of tokens and multiplied from
//! registers. It knows no format: `quant/packed.rs` has the operands' layout and the order in which terms are added.
//!
//! A tile of the output is `R` rows of weights by `V` vectors of tokens. Its whole-number products of a group of 32 stay in
//! registers, as do its sums, while a chain of groups passes. The next strip of `R` rows then meets the same activations,
//! which by now are in the first-level cache; after all strips come the next chain, and then the next tokens.
//!
//! Source of the shape: Goto and van de Geijn, "Anatomy of high-performance matrix multiplication" (2008).

use std::ops::Range;

use crate::parallel::Band;
use crate::quant::blocks::{GROUP, Numbers};
use crate::quant::packed::{Chains, PackedTile, Panel};
use crate::quant::{Rows, Store};
use crate::simd::Simd;

/// Rows that are unpacked together: a panel of 24 rows of 5,632 takes 135 KB of the second-level cache.
pub(crate) const PANEL_ROWS: usize = 24;

/// The products of some rows with every token, into `out`: (`n_tokens`, as many columns as rows).
#[inline(always)]
pub(crate) fn multiply<S: Simd>(
    s: S,
    weights: Rows<'_>,
    rows: Range<usize>,
    x: &[PackedTile],
    panel: &mut Panel,
    out: &mut Band<'_>,
    store: Store,
) {
    let Some((numbers, halves)) = weights.int8_kind() else {
        unreachable!("only what can be unpacked is packed")
    };
    let bias = match numbers {
        Numbers::Signed => S::QUADS_BIAS,
        Numbers::Offset(n) => Some(n),
        Numbers::WithMin => None,
    };
    for first in rows.clone().step_by(PANEL_ROWS) {
        let n_rows = PANEL_ROWS.min(rows.end - first);
        weights.unpack(s, first..first + n_rows, panel);
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
    #[inline(always)]
    fn multiply<S: Simd, const SIGNED: bool, const MIN: bool, const HALVES: bool>(
        self,
        s: S,
        x: &[PackedTile],
        out: &mut Band<'_>,
    ) {
        let mut token = 0;
        for tiles in x.chunks(2) {
            match tiles {
                [a, b] => self.tokens::<S, SIGNED, MIN, HALVES, 2>(s, [a, b], token, out),
                [a] => self.tokens::<S, SIGNED, MIN, HALVES, 1>(s, [a], token, out),
                _ => {}
            }
            token += 2 * S::LANES;
        }
    }

    /// `V` vectors of tokens with all rows. The tile is as large as the registers allow.
    #[inline(always)]
    fn tokens<S: Simd, const SIGNED: bool, const MIN: bool, const HALVES: bool, const V: usize>(
        self,
        s: S,
        x: [&PackedTile; V],
        token: usize,
        out: &mut Band<'_>,
    ) {
        let row = if S::LANES == 16 {
            self.strips::<S, SIGNED, MIN, HALVES, V, 6, 4>(s, x, 0, token, out)
        } else {
            self.strips::<S, SIGNED, MIN, HALVES, V, 4, 6>(s, x, 0, token, out)
        };
        self.strips::<S, SIGNED, MIN, HALVES, V, 2, 3>(s, x, row, token, out);
    }

    /// The rows from `row` on, in strips of `R`, of which there are at most `N`; the first row that is left. Rows behind the
    /// last are read from the panel, which has room for them, and not stored.
    #[inline(always)]
    fn strips<
        S: Simd,
        const SIGNED: bool,
        const MIN: bool,
        const HALVES: bool,
        const V: usize,
        const R: usize,
        const N: usize,
    >(
        self,
        s: S,
        x: [&PackedTile; V],
        row: usize,
        token: usize,
        out: &mut Band<'_>,
    ) -> usize {
        let n_strips = if R == 2 { (self.n_rows - row).div_ceil(R) } else { (self.n_rows - row) / R };
        let chains = Chains::new(self.panel.n_groups);
        let mut sums = [[[[s.splat(0.0); V]; R]; LEVELS]; N];
        for i in 0..8 {
            let groups = chains.visit(i);
            for (strip, levels) in sums[..n_strips].iter_mut().enumerate() {
                let first = row + strip * R;
                let mut sum = self.chain::<S, SIGNED, MIN, HALVES, V, R>(s, x, first, groups.clone());
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
            self.store::<S, V, R>(s, &levels[LEVELS - 1], row + strip * R, token, out);
        }
        row + n_strips * R
    }

    /// One chain's groups of `R` rows with `V` vectors of tokens.
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
        row: usize,
        groups: Range<usize>,
    ) -> [[S::F32; V]; R] {
        let panel = self.panel;
        let qs: [&[u8]; R] =
            std::array::from_fn(|r| &panel.qs[(row + r) * panel.n_groups * GROUP..][..groups.end * GROUP]);
        let facts =
            |of: &'_ [Vec<f32>; 2], half: usize, r: usize, g: usize| of[half][(row + r) * panel.n_groups + g];
        let mut acc = [[s.splat(0.0); V]; R];
        for g in groups {
            let quads: [&[i8]; V] =
                std::array::from_fn(|v| &x[v].qs[g * GROUP * S::LANES..][..GROUP * S::LANES]);
            let w: [&[u8]; R] = std::array::from_fn(|r| &qs[r][g * GROUP..][..GROUP]);
            let scales: [S::F32; V] = std::array::from_fn(|v| s.load(&x[v].scales[g * S::LANES..]));
            for half in 0..if HALVES { 2 } else { 1 } {
                let sums = |v: usize| &x[v].sums[if HALVES { 1 + half } else { 0 }][g * S::LANES..];
                let mut dots = [[s.zero_i32(); V]; R];
                if let Some(n) = self.bias {
                    for v in 0..V {
                        let bias = s.sub_shifted_i32(s.zero_i32(), s.load_i32(sums(v)), n);
                        for r in 0..R {
                            dots[r][v] = bias;
                        }
                    }
                }
                let which = if HALVES { 4 * half..4 * half + 4 } else { 0..8 };
                for q in which {
                    let x: [S::Quads; V] =
                        std::array::from_fn(|v| s.load_quads(&quads[v][q * 4 * S::LANES..]));
                    for r in 0..R {
                        let w = s.splat_quad(&w[r][q * 4..]);
                        for v in 0..V {
                            dots[r][v] = if SIGNED {
                                s.dot_quads_i8(dots[r][v], w, x[v])
                            } else {
                                s.dot_quads_u8(dots[r][v], w, x[v])
                            };
                        }
                    }
                }
                for r in 0..R {
                    let scale = s.splat(facts(&panel.scales, half, r, g));
                    for v in 0..V {
                        acc[r][v] = s.mul_add(s.to_f32(dots[r][v]), s.mul(scale, scales[v]), acc[r][v]);
                    }
                }
                if MIN {
                    let sums: [S::F32; V] =
                        std::array::from_fn(|v| s.mul(scales[v], s.to_f32(s.load_i32(sums(v)))));
                    for r in 0..R {
                        let min = s.splat(facts(&panel.mins, half, r, g));
                        for v in 0..V {
                            acc[r][v] = s.mul_add(min, sums[v], acc[r][v]);
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
