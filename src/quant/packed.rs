//! Prefill's operands: many tokens' activations and some rows' weights, laid out for products from registers.
//!
//! Tokens lie along the lanes of a vector, so a product of a weight with all of them needs no sum across lanes:
//!
//! ```text
//! activations  (token tiles, groups, 8 quads, LANES tokens, 4)   int8, a vector for each quad of a tile's rows
//! weights      (rows, groups, 32)                                a quad at a time goes to all lanes
//! ```
//!
//! A product must come out as the same bits as decode's, whose vectors hold different groups of one row: lane `j` sums
//! every eighth group from `j` on, and then the lanes are added as a tree. So groups are visited in that order here:
//! first those of one lane of decode's (a *chain*), then those of the lane that the tree adds to it, and so on. Both
//! operands are stored in the order in which they are visited.

use super::activation::{ActivationBuffer, QuantizedRow};
use super::blocks::{Block, GROUP, GROUPS, Groups, Numbers};
use crate::simd::{Isa, Simd};

/// The order in which decode adds up a row's groups, lane by lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chains {
    n_groups: usize,
}

impl Chains {
    pub(crate) fn new(n_groups: usize) -> Self {
        Self { n_groups }
    }

    /// Where the groups of a chain begin, among all in the order of visiting.
    #[inline(always)]
    fn start(self, chain: usize) -> usize {
        chain * (self.n_groups / GROUPS) + chain.min(self.n_groups % GROUPS)
    }

    /// The positions of the `i`th chain's groups. Chain after chain, those of each pair, each pair of pairs and so on are
    /// neighbours in decode's tree: ((0+4)+(1+5))+((2+6)+(3+7)).
    #[inline(always)]
    pub(crate) fn visit(self, i: usize) -> std::ops::Range<usize> {
        let chain = [0, 4, 1, 5, 2, 6, 3, 7][i];
        self.start(chain)..self.start(chain + 1)
    }

    /// The position of a group.
    #[inline(always)]
    fn position(self, group: usize) -> usize {
        self.start(group % GROUPS) + group / GROUPS
    }
}

/// The activations of as many tokens as a vector has lanes, in groups of 32. Lanes without a token hold zeros.
#[derive(Clone, Debug, Default)]
pub(crate) struct PackedTile {
    pub(crate) qs: Vec<i8>,         // (groups, 8, LANES, 4)
    pub(crate) scales: Vec<f32>,    // (groups, LANES)
    pub(crate) sums: [Vec<i32>; 3], // (groups, LANES) each: of the group, of its first and of its second half
    row: ActivationBuffer,
}

impl PackedTile {
    /// Quantises and packs at most `lanes` tokens: `x` is (tokens, `n`).
    pub(crate) fn pack(&mut self, isa: Isa, lanes: usize, x: &[f32], n: usize) {
        self.clear(lanes, n);
        let mut row = std::mem::take(&mut self.row);
        for (lane, x) in x.chunks_exact(n).enumerate() {
            self.set(lanes, lane, row.quantize(isa, x, n, GROUP).quantized_row(0));
        }
        self.row = row;
    }

    /// Makes room for `lanes` tokens of `n` activations, all zero.
    fn clear(&mut self, lanes: usize, n: usize) {
        self.qs.clear();
        self.qs.resize(n * lanes, 0);
        self.scales.clear();
        self.scales.resize(n / GROUP * lanes, 0.0);
        for sums in &mut self.sums {
            sums.clear();
            sums.resize(n / GROUP * lanes, 0);
        }
    }

    /// Puts a token into a lane.
    fn set(&mut self, lanes: usize, lane: usize, row: QuantizedRow<'_>) {
        let chains = Chains::new(row.scales.len());
        for (g, q) in row.qs.chunks_exact(GROUP).enumerate() {
            let position = chains.position(g);
            let quads = self.qs[position * GROUP * lanes..][..GROUP * lanes].chunks_exact_mut(4 * lanes);
            for (quad, q) in quads.zip(q.chunks_exact(4)) {
                quad[4 * lane..][..4].copy_from_slice(q);
            }
            let at = position * lanes + lane;
            let (sum, low) = (row.sums[g], row.low_sums[g]);
            self.scales[at] = row.scales[g];
            self.sums[0][at] = sum;
            self.sums[1][at] = low;
            self.sums[2][at] = sum - low;
        }
    }
}

/// Some rows of weights, as int8 with f32 scales and minima.
#[derive(Debug, Default)]
pub(crate) struct Panel {
    pub(crate) n_groups: usize,
    pub(crate) qs: Vec<u8>,           // (rows, groups, 32)
    pub(crate) scales: [Vec<f32>; 2], // (rows, groups) each: of the first and of the second half of a group, or the first for both
    pub(crate) mins: [Vec<f32>; 2],   // likewise
}

impl Panel {
    /// Makes room for some rows.
    pub(crate) fn resize(&mut self, rows: usize, n_groups: usize) {
        self.n_groups = n_groups;
        self.qs.resize(rows * n_groups * GROUP, 0);
        for facts in self.scales.iter_mut().chain(&mut self.mins) {
            facts.resize(rows * n_groups, 0.0);
        }
    }

    /// Fills in the groups of a row from the `first` on, which is a multiple of 8.
    #[inline(always)]
    pub(crate) fn set<S: Simd, B: Block>(&mut self, s: S, row: usize, first: usize, groups: &Groups<S>) {
        let chains = Chains::new(self.n_groups);
        let n = GROUPS.min(self.n_groups - first);
        let row = row * self.n_groups;
        let facts = |groups: S::F32x8, to: &mut [f32]| {
            for (j, value) in s.lanes_x8(groups).into_iter().enumerate().take(n) {
                to[row + chains.position(first + j)] = value;
            }
        };
        for j in 0..n {
            let q = if B::NUMBERS == Numbers::Signed { s.quads_of_i8x32(groups.q[j]) } else { groups.q[j] };
            s.store_u8x32(q, &mut self.qs[(row + chains.position(first + j)) * GROUP..]);
        }
        for half in 0..if B::HALVES { 2 } else { 1 } {
            facts(groups.scales[half], &mut self.scales[half]);
            if B::NUMBERS == Numbers::WithMin {
                facts(groups.mins[half], &mut self.mins[half]);
            }
        }
    }
}
