//! The product of int8 panels: weights are unpacked once for a whole batch of tokens and multiplied
//! from registers. `quant/packed.rs` has the operands' layout and the order in which terms are
//! added.
//!
//! A tile of the output is a strip of `R` rows of weights by `V` vectors of tokens. Its
//! whole-number products of a group of 32 stay in registers, as do its sums, while a chain of
//! groups passes. The next strip then meets the same activations, which by now are in the
//! first-level cache; after all strips come the next chain, and then the next tokens.

use std::ops::Range;

use super::Prefetcher;
use crate::parallel::ColumnSlice;
use crate::quant::Output;
use crate::quant::block::{GROUP, GROUPS};
use crate::quant::encoding::Encoding;
use crate::quant::packed::{Int8Tile, LaneOrder, Panel, PanelLane, PanelView};
use crate::simd::{Isa, Kernel, QuantKernels};
use crate::tensor::Matrix;

/// Rows that are unpacked together: a panel of 24 rows of 5,632 takes 135 KB of the second-level
/// cache. (48 were no faster.)
pub(crate) const PANEL_ROWS: usize = 24;

/// The products of some rows with every token, into `out`: (`n_tokens`, as many columns as rows).
pub(crate) fn multiply(
    isa: Isa,
    weights: Matrix<'_>,
    rows: Range<usize>,
    x: &[Int8Tile],
    panel: &mut Panel,
    out: &mut ColumnSlice<'_>,
    store: Output,
) {
    let Some((numbers, halves)) = weights.rows.panel_encoding() else {
        unreachable!("only what can be unpacked is packed")
    };
    debug_assert!(numbers == Encoding::Signed || numbers.bits() <= if halves { 6 } else { 5 });
    panel.resize(PANEL_ROWS, weights.n_columns / GROUP);
    for first in rows.clone().step_by(PANEL_ROWS) {
        let n_rows = PANEL_ROWS.min(rows.end - first);
        weights.rows.pack_panel(isa, first..first + n_rows, panel);
        let block = Block { panel: panel.view(), n_rows, column: first - rows.start, numbers, store };
        let visits = GROUPS * x.len().div_ceil(2);
        let ahead = Prefetcher::new(weights, first + n_rows..first + n_rows + PANEL_ROWS, visits);
        match (numbers, halves) {
            (Encoding::Signed, _) => isa.run(Product::<8, false, false> { block, x, ahead, out }),
            (Encoding::Biased(..=3), false) => isa.run(Product::<4, false, false> { block, x, ahead, out }),
            (Encoding::Biased(_), false) => isa.run(Product::<5, false, false> { block, x, ahead, out }),
            (Encoding::Biased(_), true) => isa.run(Product::<6, false, true> { block, x, ahead, out }),
            (Encoding::Affine(..=4), false) => isa.run(Product::<4, true, false> { block, x, ahead, out }),
            (Encoding::Affine(_), false) => isa.run(Product::<5, true, false> { block, x, ahead, out }),
            (Encoding::Affine(_), true) => isa.run(Product::<6, true, true> { block, x, ahead, out }),
        }
    }
}

/// A panel, and where its products go.
#[derive(Clone, Copy)]
struct Block<'a> {
    panel: PanelView<'a>,
    n_rows: usize,
    /// The first column of the output.
    column: usize,
    numbers: Encoding,
    store: Output,
}

/// The product of a panel with all tokens: of numbers of so many bits, perhaps with minima, perhaps
/// with scales for each half of a group or, if they have minima, with these for each half. Each is
/// compiled by itself: in one function, a change of one of them would move another's registers.
struct Product<'a, 'o, const BITS: u32, const MIN: bool, const HALVES: bool> {
    block: Block<'a>,
    x: &'a [Int8Tile],
    ahead: Prefetcher<'a>,
    out: &'a mut ColumnSlice<'o>,
}

impl<const BITS: u32, const MIN: bool, const HALVES: bool> Kernel for Product<'_, '_, BITS, MIN, HALVES> {
    type Output = ();

    /// A tile is as large as the registers allow.
    #[inline(always)]
    fn run<S: QuantKernels>(mut self, s: S) {
        if S::LANES == 16 {
            self.block.all_tokens::<S, BITS, MIN, HALVES, 6, 4>(s, self.x, &mut self.ahead, self.out);
        } else {
            self.block.all_tokens::<S, BITS, MIN, HALVES, 4, 6>(s, self.x, &mut self.ahead, self.out);
        }
    }
}

/// The levels of decode's tree of eight sums.
const LEVELS: usize = 4;

impl Block<'_> {
    /// All rows with all tokens.
    #[inline(always)]
    fn all_tokens<
        S: QuantKernels,
        const BITS: u32,
        const MIN: bool,
        const HALVES: bool,
        const R: usize,
        const STRIPS: usize,
    >(
        self,
        s: S,
        x: &[Int8Tile],
        ahead: &mut Prefetcher<'_>,
        out: &mut ColumnSlice<'_>,
    ) {
        let (mut x, mut token) = (x, 0);
        if S::REGISTER_TILE > 1 {
            let mut room = Room::<S, 2, R, STRIPS>::new(s);
            while let [first, second, rest @ ..] = x {
                let tiles = [first, second];
                self.tokens::<S, BITS, MIN, HALVES, 2, R, STRIPS>(s, tiles, &mut room, token, ahead, out);
                (x, token) = (rest, token + 2 * S::LANES);
            }
        }
        if !x.is_empty() {
            let mut room = Room::<S, 1, R, STRIPS>::new(s);
            for tile in x {
                self.tokens::<S, BITS, MIN, HALVES, 1, R, STRIPS>(s, [tile], &mut room, token, ahead, out);
                token += S::LANES;
            }
        }
    }

    /// `V` vectors of tokens, from `token` on, with all rows. `room` is for each strip's sums.
    #[inline(always)]
    fn tokens<
        S: QuantKernels,
        const BITS: u32,
        const MIN: bool,
        const HALVES: bool,
        const V: usize,
        const R: usize,
        const STRIPS: usize,
    >(
        self,
        s: S,
        x: [&Int8Tile; V],
        room: &mut Room<S, V, R, STRIPS>,
        token: usize,
        ahead: &mut Prefetcher<'_>,
        out: &mut ColumnSlice<'_>,
    ) {
        let chains = LaneOrder::new(self.panel.n_groups);
        let strips = &mut room.levels[..self.n_rows.div_ceil(R)];
        for i in 0..GROUPS {
            let (chain, groups) = chains.visit(i);
            let x = TokensLane::new::<S, MIN, HALVES>(x, groups);
            ahead.fetch(s);
            for (strip, levels) in strips.iter_mut().enumerate() {
                let w = self.panel.lane::<MIN, HALVES>(S::LANES, strip, chain);
                let mut sum = self.chain::<S, BITS, MIN, HALVES, V, R>(s, x, w);
                // A chain that completes a pair is added to the other, the sum perhaps to another
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
        for (strip, levels) in strips.iter().enumerate() {
            for r in 0..R {
                for v in 0..V {
                    let at = (strip * R + r) * TILE_TOKENS + v * S::LANES;
                    s.store(levels[LEVELS - 1][r][v], &mut room.products[at..]);
                }
            }
        }
        self.store(s, &room.products, token, V * S::LANES, out);
    }

    /// One chain's groups of a strip with `V` vectors of tokens.
    #[inline(always)]
    fn chain<
        S: QuantKernels,
        const BITS: u32,
        const MIN: bool,
        const HALVES: bool,
        const V: usize,
        const R: usize,
    >(
        self,
        s: S,
        x: TokensLane<'_, V>,
        w: PanelLane<'_>,
    ) -> [[S::F32; V]; R] {
        // The power of two that is to be taken off each weight.
        let bias = match self.numbers {
            Encoding::Signed => S::QUADS_BIAS,
            Encoding::Biased(n) => Some(n),
            Encoding::Affine(_) => None,
        };
        let mut acc = [[s.splat(0.0); V]; R];
        for i in 0..x.n_groups {
            let mut group = [&[][..]; V];
            let mut d = [s.splat(0.0); V];
            for v in 0..V {
                group[v] = &x.qs[v][i * GROUP * S::LANES..][..GROUP * S::LANES];
                d[v] = s.load(&x.scales[v][i * S::LANES..]);
            }
            let terms = Terms { w, x, bias, i, group, d };
            acc = terms.add::<BITS, MIN, HALVES, 0, R>(s, acc);
            if HALVES && !MIN {
                acc = terms.add::<BITS, MIN, HALVES, 1, R>(s, acc);
            }
        }
        acc
    }

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
                let interleaved = s.transpose_f32_8x4(&products[row * TILE_TOKENS + first..], TILE_TOKENS);
                for t in 0..4.min(n_tokens - first) {
                    let out = &mut out.row(token + first + t)[self.column..][..self.n_rows][row..];
                    if out.len() < 8 {
                        for (out, product) in out.iter_mut().zip(s.to_array(interleaved[t])) {
                            match self.store {
                                Output::Overwrite => *out = product,
                                Output::Accumulate => *out += product,
                            }
                        }
                        continue;
                    }
                    let product = match self.store {
                        Output::Overwrite => interleaved[t],
                        Output::Accumulate => s.add_x8(s.load_x8(out), interleaved[t]),
                    };
                    s.store_x8(product, out);
                }
            }
        }
    }
}

/// A chain's activations, in `V` vectors of tokens. (They are cut out of the tiles once for all
/// strips, for it takes as many instructions as a third of a group: for each strip, a prompt took 1
/// to 2 % longer.)
#[derive(Clone, Copy)]
struct TokensLane<'a, const V: usize> {
    n_groups: usize,
    qs: [&'a [i8]; V],      // (groups, 8, LANES, 4)
    scales: [&'a [f32]; V], // (groups, LANES)
    // likewise: of the halves of a group, or the first for all of it
    sums: [[&'a [i32]; V]; 2],
    sub_block_sums: [&'a [i32]; V], // likewise: of both halves, as two int16
    scaled_sums: [&'a [f32]; V],    // likewise: of all of a group
}

impl<'a, const V: usize> TokensLane<'a, V> {
    /// The groups at some positions.
    #[inline(always)]
    fn new<S: QuantKernels, const MIN: bool, const HALVES: bool>(
        x: [&'a Int8Tile; V],
        groups: Range<usize>,
    ) -> Self {
        let lanes = groups.start * S::LANES..groups.end * S::LANES;
        let mut chain = Self {
            n_groups: groups.len(),
            qs: [&[]; V],
            scales: [&[]; V],
            sums: [[&[]; V]; 2],
            sub_block_sums: [&[]; V],
            scaled_sums: [&[]; V],
        };
        for v in 0..V {
            chain.qs[v] = &x[v].qs[lanes.start * GROUP..lanes.end * GROUP];
            chain.scales[v] = &x[v].scales[lanes.clone()];
            let lanes = lanes.clone();
            match (MIN, HALVES) {
                (true, true) => chain.sub_block_sums[v] = &x[v].sub_block_sums[lanes],
                (true, false) => chain.scaled_sums[v] = &x[v].scaled_sums[lanes],
                (false, true) => {
                    chain.sums[0][v] = &x[v].sums[1][lanes.clone()];
                    chain.sums[1][v] = &x[v].sums[2][lanes];
                }
                (false, false) => chain.sums[0][v] = &x[v].sums[0][lanes],
            }
        }
        chain
    }
}

/// What a group adds to the sums of a tile.
#[derive(Clone, Copy)]
struct Terms<'a, S: QuantKernels, const V: usize> {
    w: PanelLane<'a>,
    x: TokensLane<'a, V>,
    /// The power of two that is to be taken off each weight.
    bias: Option<u32>,
    /// The group's place in its chain.
    i: usize,
    /// Its activations: (8, `LANES`, 4) of each vector.
    group: [&'a [i8]; V],
    d: [S::F32; V],
}

impl<S: QuantKernels, const V: usize> Terms<'_, S, V> {
    /// Adds those of the first (0) or the second (1) half, or of the whole group if its halves have
    /// no scales. (A loop over both halves stayed a loop, with everything in memory that it chose
    /// from: on AVX2, Q6_K took 245 instructions for 1,024 products.)
    #[inline(always)]
    fn add<const BITS: u32, const MIN: bool, const HALVES: bool, const HALF: usize, const R: usize>(
        self,
        s: S,
        mut acc: [[S::F32; V]; R],
    ) -> [[S::F32; V]; R] {
        let mut dots = [[s.zero_i32(); V]; R];
        if let Some(n) = self.bias {
            for v in 0..V {
                let sums = s.load_i32(&self.x.sums[HALF][v][self.i * S::LANES..]);
                let bias = s.sub_shifted_i32(s.zero_i32(), sums, n);
                for r in 0..R {
                    dots[r][v] = bias;
                }
            }
        }
        let quads = if HALVES && !MIN { 4 * HALF..4 * HALF + 4 } else { 0..8 };
        let dots = s.dot_micro_panel::<BITS, R, V>(dots, self.w.qs::<R>(self.i), self.group, quads);
        let scales = self.w.scales::<R>(HALF, self.i);
        for r in 0..R {
            let scale = s.splat(scales[r * GROUPS]);
            for v in 0..V {
                acc[r][v] = s.mul_add(s.to_f32(dots[r][v]), s.mul(scale, self.d[v]), acc[r][v]);
            }
        }
        if MIN && HALVES {
            let (mins, sub_block_mins) = (self.w.mins::<R>(self.i), self.w.sub_block_mins::<R>(self.i));
            for v in 0..V {
                let sums = s.load_i32(&self.x.sub_block_sums[v][self.i * S::LANES..]);
                for r in 0..R {
                    let multiple = s.to_f32(s.madd_i16(s.splat_i32(sub_block_mins[r * GROUPS]), sums));
                    let min = s.mul(s.splat(mins[r * GROUPS]), self.d[v]);
                    acc[r][v] = s.mul_add(multiple, min, acc[r][v]);
                }
            }
        } else if MIN {
            let mins = self.w.mins::<R>(self.i);
            for v in 0..V {
                let sum = s.load(&self.x.scaled_sums[v][self.i * S::LANES..]);
                for r in 0..R {
                    acc[r][v] = s.mul_add(s.splat(mins[r * GROUPS]), sum, acc[r][v]);
                }
            }
        }
        acc
    }
}

/// The most tokens of a tile.
const TILE_TOKENS: usize = 32;

/// Room for the sums of a panel with `V` vectors of tokens.
struct Room<S: QuantKernels, const V: usize, const R: usize, const STRIPS: usize> {
    /// Of each strip, at each level of the tree.
    levels: [[[[S::F32; V]; R]; LEVELS]; STRIPS],
    /// The last level's: (`PANEL_ROWS`, `TILE_TOKENS`).
    products: [f32; PANEL_ROWS * TILE_TOKENS],
}

impl<S: QuantKernels, const V: usize, const R: usize, const STRIPS: usize> Room<S, V, R, STRIPS> {
    #[inline(always)]
    fn new(s: S) -> Self {
        Self { levels: [[[[s.splat(0.0); V]; R]; LEVELS]; STRIPS], products: [0.0; PANEL_ROWS * TILE_TOKENS] }
    }
}
