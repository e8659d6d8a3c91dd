//! Prefill's product with quantized weights: they are unpacked into a panel of int8 once for a
//! whole batch of tokens, and multiplied from registers. `quant/packed.rs` has the operands' layout
//! and the order in which terms are added.
//!
//! A tile of the output is a micro-panel of `R` rows of weights by `V` vectors of tokens. Its
//! integer products of a group of 32 stay in registers, and so do its sums, until all groups of one
//! of decode's lanes have passed. The next micro-panel is then multiplied with the same numbers,
//! which by now are in the first-level cache; after all micro-panels come the next lane's groups,
//! and after all lanes the next tokens.

use std::marker::PhantomData;
use std::ops::Range;

use super::Prefetcher;
use super::contents::{Contents, Integers};
use super::lanes::{PanelLane, TokensLane};
use crate::parallel::ColumnSlice;
use crate::quant::Output;
use crate::quant::block::{GROUP, GROUPS};
use crate::quant::encoding::Encoding;
use crate::quant::packed::{Int8Tile, LaneOrder, Panel, PanelView, micro_panel_rows};
use crate::simd::{Isa, Kernel, PanelTokens, QuantKernels, Simd};
use crate::tensor::Matrix;

/// Rows that are unpacked together: a panel of 24 rows of 5,632 takes 135 KB of the second-level
/// cache. (48 were no faster.)
pub(crate) const PANEL_ROWS: usize = 24;

/// The most tokens of a tile.
const TILE_TOKENS: usize = 32;

/// The products of some rows with every token, into `out`: (`n_tokens`, a column for each row).
pub(crate) fn multiply(
    isa: Isa,
    weights: Matrix<'_>,
    rows: Range<usize>,
    x: &[Int8Tile],
    panel: &mut Panel,
    out: &mut ColumnSlice<'_>,
    output: Output,
) {
    let Some((encoding, sub_scales)) = weights.rows.panel_encoding() else {
        unreachable!("only weights that can be unpacked are packed")
    };
    debug_assert!(encoding == Encoding::Signed || encoding.bits() <= if sub_scales { 7 } else { 5 });
    let signs_apart = encoding == Encoding::Signed && isa.signs_apart();
    panel.resize(PANEL_ROWS, weights.n_columns / GROUP, signs_apart);
    for first in rows.clone().step_by(PANEL_ROWS) {
        let n_rows = PANEL_ROWS.min(rows.end - first);
        weights.rows.pack_panel(isa, first..first + n_rows, panel);
        let visits = GROUPS * x.len().div_ceil(2) * n_rows.div_ceil(micro_panel_rows(isa.lanes()));
        let ahead = Prefetcher::new(weights, first + n_rows..first + n_rows + PANEL_ROWS, visits);
        let target = Target { n_rows, column: first - rows.start, output };
        let product = Product { panel, encoding, target, x, ahead, out };
        match (encoding, sub_scales) {
            (Encoding::Signed, _) => isa.run(Of::<Integers<8, false, false>>::new(product)),
            (Encoding::Biased(..=3), false) => isa.run(Of::<Integers<4, false, false>>::new(product)),
            (Encoding::Biased(_), false) => isa.run(Of::<Integers<5, false, false>>::new(product)),
            (Encoding::Biased(..=5), true) => isa.run(Of::<Integers<6, false, true>>::new(product)),
            (Encoding::Biased(_), true) => isa.run(Of::<Integers<7, false, true>>::new(product)),
            (Encoding::Affine(..=4), false) => isa.run(Of::<Integers<4, true, false>>::new(product)),
            (Encoding::Affine(_), false) => isa.run(Of::<Integers<5, true, false>>::new(product)),
            (Encoding::Affine(_), true) => isa.run(Of::<Integers<6, true, true>>::new(product)),
        }
    }
}

/// The product of a panel with all tokens.
struct Product<'a, 'o> {
    panel: &'a Panel,
    encoding: Encoding,
    target: Target,
    x: &'a [Int8Tile],
    ahead: Prefetcher<'a>,
    out: &'a mut ColumnSlice<'o>,
}

/// Where a panel's products go.
#[derive(Clone, Copy)]
struct Target {
    n_rows: usize,
    /// The first column of the output.
    column: usize,
    output: Output,
}

/// A product of such contents.
struct Of<'a, 'o, C> {
    product: Product<'a, 'o>,
    contents: PhantomData<C>,
}

impl<'a, 'o, C: Contents> Of<'a, 'o, C> {
    fn new(product: Product<'a, 'o>) -> Self {
        Self { product, contents: PhantomData }
    }
}

impl<C: Contents> Kernel for Of<'_, '_, C> {
    type Output = ();

    /// A tile is as large as the registers allow.
    #[inline(always)]
    fn run<S: QuantKernels>(self, s: S) {
        if const { S::LANES == 16 } {
            self.product.all_tokens::<S, C, 16, 6, { PANEL_ROWS / 6 }>(s);
        } else {
            self.product.all_tokens::<S, C, 8, 4, { PANEL_ROWS / 4 }>(s);
        }
    }
}

/// The levels of decode's reduction tree, of eight lanes.
const LEVELS: usize = 4;

/// The sums of a tile: of a micro-panel's `R` rows with `V` vectors of tokens.
type Sums<S, const V: usize, const R: usize> = [[<S as Simd>::F32; V]; R];

impl Product<'_, '_> {
    /// All rows, `PANELS` micro-panels, with all tokens.
    #[inline(always)]
    fn all_tokens<S: QuantKernels, C: Contents, const LANES: usize, const R: usize, const PANELS: usize>(
        mut self,
        s: S,
    ) {
        let panel = self.panel.view::<R>();
        let (mut x, mut token) = (self.x, 0);
        if const { S::REGISTER_TILE > 1 } {
            let mut workspace = Workspace::<S, 2, R, PANELS>::new(s);
            while let [first, second, rest @ ..] = x {
                self.tokens::<S, C, LANES, 2, R, PANELS>(s, panel, [first, second], &mut workspace, token);
                (x, token) = (rest, token + 2 * S::LANES);
            }
        }
        if !x.is_empty() {
            let mut workspace = Workspace::<S, 1, R, PANELS>::new(s);
            for tile in x {
                self.tokens::<S, C, LANES, 1, R, PANELS>(s, panel, [tile], &mut workspace, token);
                token += S::LANES;
            }
        }
    }

    /// `V` vectors of tokens, from `token` on, with all rows.
    #[inline(always)]
    fn tokens<
        S: QuantKernels,
        C: Contents,
        const LANES: usize,
        const V: usize,
        const R: usize,
        const PANELS: usize,
    >(
        &mut self,
        s: S,
        panel: PanelView<'_, R>,
        x: [&Int8Tile; V],
        workspace: &mut Workspace<S, V, R, PANELS>,
        token: usize,
    ) {
        let order = LaneOrder::new(panel.n_groups);
        let micro_panels = &mut workspace.levels[..self.target.n_rows.div_ceil(R)];
        for i in 0..GROUPS {
            let (lane, groups) = order.visit(i);
            let x = TokensLane::<LANES, V>::new::<C>(x, groups);
            for (micro_panel, levels) in micro_panels.iter_mut().enumerate() {
                self.ahead.fetch(s);
                let w = PanelLane::new::<S, C>(panel, micro_panel, lane, x.n_groups);
                let mut sum = lane_sums::<S, C, LANES, V, R>(s, self.encoding, x, w);
                // A lane that completes a pair is added to the other, the sum perhaps to another
                // pair's, and so on.
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
        for (micro_panel, levels) in micro_panels.iter().enumerate() {
            for r in 0..R {
                for v in 0..V {
                    let at = (micro_panel * R + r) * TILE_TOKENS + v * S::LANES;
                    s.store(levels[LEVELS - 1][r][v], &mut workspace.products[at..]);
                }
            }
        }
        self.target.store(s, &workspace.products, token, V * S::LANES, self.out);
    }
}

/// The sums of one of decode's lanes, for a micro-panel with `V` vectors of tokens.
#[inline(always)]
fn lane_sums<S: QuantKernels, C: Contents, const LANES: usize, const V: usize, const R: usize>(
    s: S,
    encoding: Encoding,
    x: TokensLane<'_, LANES, V>,
    w: PanelLane<'_, R>,
) -> Sums<S, V, R> {
    let n = if let Encoding::Biased(n) = encoding { n } else { 0 };
    let bias = if C::SIGNED || C::MINS { None } else { Some(n) };
    let mut acc = [[s.splat(0.0); V]; R];
    for i in 0..x.n_groups {
        let mut group = [&[][..]; V];
        let mut d = [s.splat(0.0); V];
        for v in 0..V {
            group[v] = x.qs[v][i].as_flattened().as_flattened();
            d[v] = s.load(&x.scales[v][i]);
        }
        let terms = Terms { w, x, bias, i, group, d };
        acc = terms.add::<C, 0>(s, acc);
        if C::SUB_SCALES && !C::MINS {
            acc = terms.add::<C, 1>(s, acc);
        }
    }
    acc
}

impl Target {
    /// Writes products (`PANEL_ROWS`, `TILE_TOKENS`) into rows of tokens: all of a token's at once,
    /// as vectors, for the rows of a tile's tokens may lie in one set of the first-level cache, and
    /// stores wait for each other.
    #[inline(always)]
    fn store<S: QuantKernels>(
        self,
        s: S,
        products: &[f32],
        token: usize,
        n_tokens: usize,
        out: &mut ColumnSlice<'_>,
    ) {
        let n_tokens = n_tokens.min(out.n_rows() - token);
        for first in (0..n_tokens).step_by(4) {
            for row in (0..self.n_rows).step_by(8) {
                let transposed = s.transpose_f32_8x4(&products[row * TILE_TOKENS + first..], TILE_TOKENS);
                for t in 0..4.min(n_tokens - first) {
                    let out = &mut out.row(token + first + t)[self.column..][..self.n_rows][row..];
                    if out.len() < 8 {
                        for (out, product) in out.iter_mut().zip(s.to_array(transposed[t])) {
                            self.output.write(out, product);
                        }
                        continue;
                    }
                    let product = match self.output {
                        Output::Overwrite => transposed[t],
                        Output::Accumulate => s.add_x8(s.load_x8(out), transposed[t]),
                    };
                    s.store_x8(product, out);
                }
            }
        }
    }
}

/// What a group adds to the sums of a tile.
#[derive(Clone, Copy)]
struct Terms<'a, S: QuantKernels, const LANES: usize, const V: usize, const R: usize> {
    w: PanelLane<'a, R>,
    x: TokensLane<'a, LANES, V>,
    /// The power of two that is to be taken off each weight.
    bias: Option<u32>,
    /// The group's place in its lane.
    i: usize,
    /// Its activations: (8, `LANES`, 4) of each vector.
    group: [&'a [i8]; V],
    d: [S::F32; V],
}

impl<S: QuantKernels, const LANES: usize, const V: usize, const R: usize> Terms<'_, S, LANES, V, R> {
    /// Adds the integer products of some quads, whose sums are the `SUMS`th.
    #[inline(always)]
    fn dot<C: Contents, const SUMS: usize>(
        self,
        s: S,
        dots: [[S::I32; V]; R],
        quads: Range<usize>,
    ) -> [[S::I32; V]; R] {
        let mut sums = [s.zero_i32(); V];
        if C::SUMS {
            for v in 0..V {
                sums[v] = s.load_i32(&self.x.sums[SUMS][v][self.i]);
            }
        }
        let x = PanelTokens { group: self.group, sums };
        C::dot::<S, V, R>(s, dots, self.w.group::<S, C>(self.i), x, self.bias, quads)
    }

    /// Adds those of the first (0) or the second (1) sub-block, or of the whole group if its
    /// sub-blocks have no scales. (A loop over both stayed a loop, with everything in memory that
    /// it chose from.)
    #[inline(always)]
    fn add<C: Contents, const SUB_BLOCK: usize>(self, s: S, mut acc: Sums<S, V, R>) -> Sums<S, V, R> {
        let mut dots = [[s.zero_i32(); V]; R];
        if !C::SUB_SCALES {
            dots = self.dot::<C, 0>(s, dots, 0..8);
        } else if C::MINS {
            dots = self.dot::<C, 0>(s, dots, 0..4);
            dots = self.dot::<C, 1>(s, dots, 4..8);
        } else {
            dots = self.dot::<C, SUB_BLOCK>(s, dots, 4 * SUB_BLOCK..4 * SUB_BLOCK + 4);
        }
        let lane = self.w.lane;
        let scales = &self.w.scales[SUB_BLOCK][self.i];
        for r in 0..R {
            let scale = s.splat(scales[r][lane]);
            for v in 0..V {
                acc[r][v] = s.mul_add(s.to_f32(dots[r][v]), s.mul(scale, self.d[v]), acc[r][v]);
                if C::SUB_SCALES && !C::MINS && SUB_BLOCK == 0 {
                    acc[r][v] = s.in_order(acc[r][v]);
                }
            }
        }
        if C::MINS && C::SUB_SCALES {
            let (mins, sub_block_mins) = (&self.w.mins[self.i], &self.w.sub_block_mins[self.i]);
            for v in 0..V {
                let sums = s.load_i32(&self.x.sub_block_sums[v][self.i]);
                for r in 0..R {
                    let multiple = s.to_f32(s.madd_i16(s.splat_i32(sub_block_mins[r][lane]), sums));
                    let min = s.mul(s.splat(mins[r][lane]), self.d[v]);
                    acc[r][v] = s.mul_add(multiple, min, acc[r][v]);
                }
            }
        } else if C::MINS {
            let mins = &self.w.mins[self.i];
            for v in 0..V {
                let sum = s.load(&self.x.scaled_sums[v][self.i]);
                for r in 0..R {
                    acc[r][v] = s.mul_add(s.splat(mins[r][lane]), sum, acc[r][v]);
                }
            }
        }
        acc
    }
}

/// Sums of a panel with `V` vectors of tokens.
struct Workspace<S: QuantKernels, const V: usize, const R: usize, const PANELS: usize> {
    /// Of each micro-panel, at each level of the reduction tree.
    levels: [[Sums<S, V, R>; LEVELS]; PANELS],
    /// The last level's: (`PANEL_ROWS`, `TILE_TOKENS`).
    products: [f32; PANEL_ROWS * TILE_TOKENS],
}

impl<S: QuantKernels, const V: usize, const R: usize, const PANELS: usize> Workspace<S, V, R, PANELS> {
    #[inline(always)]
    fn new(s: S) -> Self {
        Self { levels: [[[[s.splat(0.0); V]; R]; LEVELS]; PANELS], products: [0.0; PANEL_ROWS * TILE_TOKENS] }
    }
}
