//! Prefill's operands: many tokens' activations and some rows' weights, laid out for products from
//! registers.
//!
//! Tokens lie along the lanes of a vector, so a product of a weight with all of them needs no sum
//! across lanes:
//!
//! ```text
//! activations  (token tiles, groups, 8 quads, LANES tokens, 4)   a vector is a quad of each token
//! weights      (micro-panels, decode's lanes, superblocks, rows, 32)   a quad, to all lanes
//! ```
//!
//! A product must come out as the same bits as decode's, and f32 sums depend on their order. Decode
//! has eight sums side by side, one in each lane of a vector, and adds them up at the end.
//! Prefill's lanes are tokens, so it has one sum at a time for each of them, and visits the groups
//! in *lane order*: first those of one of decode's lanes, then those of the lane that the reduction
//! tree adds to it, and so on. Both add the same terms in the same order. A row of 20 groups:
//!
//! ```text
//! decode, one token                             prefill, a token in each lane
//!
//!            lane  0   1   2   3   4   5   6   7    visit  lane  groups   reduction tree
//!                  |   |   |   |   |   |   |   |      0     0    0 8 16   --+
//! superblock 0     0   1   2   3   4   5   6   7      1     4    4 12     --+--+
//! superblock 1     8   9  10  11  12  13  14  15      2     1    1 9 17   --+  |
//! superblock 2    16  17  18  19   |   |   |   |      3     5    5 13     --+--+--+
//!                  |   |   |   |   |   |   |   |      4     2    2 10 18  --+     |
//!                 s0  s1  s2  s3  s4  s5  s6  s7      5     6    6 14     --+--+  |
//!                                                     6     3    3 11 19  --+  |  |
//! ((s0 + s4) + (s1 + s5)) + ((s2 + s6) + (s3 + s7))   7     7    7 15     --+--+--+-- sum
//! ```
//!
//! Activations are stored in the order in which they are visited, and so are weights, but for the
//! lanes' order: what a lane's products read lies side by side, and the processor fetches it ahead.

use std::ops::{Deref, DerefMut, Range};

use super::activation::{ActivationBuffer, QuantizedRow};
use super::block::{Block, GROUP, GROUPS, PAIRS, SUPERBLOCK, UnpackedSuperblock};
use super::encoding::Encoding;
use crate::simd::{Isa, LINE, Pair, QuantKernels, kernel};

/// The order in which decode adds up a row's groups, lane by lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaneOrder {
    n_groups: usize,
}

impl LaneOrder {
    pub(crate) fn new(n_groups: usize) -> Self {
        Self { n_groups }
    }

    /// Where the groups of one of decode's lanes begin, among all in the order of visiting.
    #[inline(always)]
    fn start(self, lane: usize) -> usize {
        lane * (self.n_groups / GROUPS) + lane.min(self.n_groups % GROUPS)
    }

    /// The `i`th lane to be visited, and the positions of its groups. Lanes that follow each other,
    /// pairs of them, and pairs of pairs are neighbors in decode's reduction tree:
    /// ((0+4)+(1+5))+((2+6)+(3+7)).
    #[inline(always)]
    pub(crate) fn visit(self, i: usize) -> (usize, Range<usize>) {
        let lane = [0, 4, 1, 5, 2, 6, 3, 7][i];
        (lane, self.start(lane)..self.start(lane + 1))
    }

    /// The position of a group.
    #[inline(always)]
    fn position(self, group: usize) -> usize {
        self.start(group % GROUPS) + group / GROUPS
    }
}

/// Numbers that begin where a cache line does, so that no vector of them lies in two lines.
#[derive(Clone, Debug, Default)]
pub(crate) struct Aligned<T> {
    buffer: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Copy + Default> Aligned<T> {
    /// Has `len` numbers from now on, whose values are unspecified.
    pub(crate) fn resize(&mut self, len: usize) {
        let needed = len + LINE / size_of::<T>();
        if self.buffer.len() < needed {
            self.buffer.resize(needed, T::default());
            self.start = self.buffer.as_ptr().align_offset(LINE).min(needed - len);
        }
        self.len = len;
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];
    #[inline(always)]
    fn deref(&self) -> &[T] {
        &self.buffer[self.start..][..self.len]
    }
}

impl<T> DerefMut for Aligned<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.buffer[self.start..][..self.len]
    }
}

/// The activations of a tile of tokens, one for each lane of a vector, as int8 in groups of 32.
/// Lanes without a token hold zeros.
#[derive(Clone, Debug, Default)]
pub(crate) struct Int8Tile {
    pub(crate) qs: Aligned<i8>,      // (groups, 8, LANES, 4)
    pub(crate) scales: Aligned<f32>, // (groups, LANES)
    // (groups, LANES) each, or nothing, as `RequiredSums` says:
    /// Of a group, of its first and of its second sub-block, as [`QuantKernels::add_quads`] makes
    /// them.
    pub(crate) sums: [Aligned<i32>; 3],
    pub(crate) sub_block_sums: Aligned<i32>, // of both sub-blocks, as two int16
    pub(crate) scaled_sums: Aligned<f32>,    // of a group, times its scale
    rows: ActivationBuffer,
}

/// Which sums of a group's activations some weights need.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RequiredSums {
    /// Of the group, of its first and of its second sub-block.
    sums: [bool; 3],
    sub_block_sums: bool,
    scaled_sums: bool,
}

impl RequiredSums {
    /// Those for weights that are packed as
    /// [`Format::panel_encoding`](super::Format::panel_encoding) says.
    pub(crate) fn by(panel_encodings: impl Iterator<Item = (Encoding, bool)>) -> Self {
        let mut required = Self::default();
        for (encoding, sub_scales) in panel_encodings {
            match sub_scales {
                _ if !encoding.needs_sums() => {}
                true => required.sums[1..].fill(true),
                false => required.sums[0] = true,
            }
            match (encoding, sub_scales) {
                (Encoding::Affine(_), false) => required.scaled_sums = true,
                (Encoding::Affine(_), true) => required.sub_block_sums = true,
                _ => {}
            }
        }
        required
    }
}

impl Int8Tile {
    /// Quantizes and packs at most a token for each lane of a vector: `x` is (tokens, `n`).
    pub(crate) fn pack(&mut self, isa: Isa, x: &[f32], n: usize, required: RequiredSums) {
        let (n_groups, lanes) = (n / GROUP, isa.lanes());
        self.qs.resize(n * lanes);
        self.scales.resize(n_groups * lanes);
        let len = |required| if required { n_groups * lanes } else { 0 };
        for (sums, required) in self.sums.iter_mut().zip(required.sums) {
            sums.resize(len(required));
        }
        self.sub_block_sums.resize(len(required.sub_block_sums));
        self.scaled_sums.resize(len(required.scaled_sums));
        let mut rows = std::mem::take(&mut self.rows);
        pack_rows(isa, rows.quantize_tile(isa, x, n, lanes), n_groups, self);
        self.rows = rows;
    }
}

kernel! {
    /// Packs the rows of a tile's tokens, one after another in `rows`, each padded to superblocks.
    fn pack_rows(s; rows: QuantizedRow<'_>, n_groups: usize, tile: &mut Int8Tile) {
        let (order, padded) = (LaneOrder::new(n_groups), rows.scales.len() / S::LANES);
        for g in 0..n_groups {
            let position = order.position(g);
            let qs = &mut tile.qs[position * GROUP * S::LANES..][..GROUP * S::LANES];
            let lanes = position * S::LANES..(position + 1) * S::LANES;
            for first in (0..S::LANES).step_by(8) {
                for half in 0..2 {
                    let from = first * padded * GROUP + g * GROUP + half * GROUP / 2;
                    let quads = s.transpose_16x8(&rows.qs[from..], padded * GROUP);
                    for k in 0..4 {
                        s.store_bytes(quads[k], &mut qs[((4 * half + k) * S::LANES + first) * 4..]);
                    }
                }
            }
            let (mut d, mut sums, mut sub_block_sums) = ([0.0; MAX_LANES], [0; MAX_LANES], [0; MAX_LANES]);
            for lane in 0..S::LANES {
                let at = lane * padded + g;
                (d[lane], sums[lane], sub_block_sums[lane]) =
                    (rows.scales[at], rows.sums[at], rows.sub_block_sums[at]);
            }
            tile.scales[lanes.clone()].copy_from_slice(&d[..S::LANES]);
            if let Some(to) = tile.sub_block_sums.get_mut(lanes.clone()) {
                to.copy_from_slice(&sub_block_sums[..S::LANES]);
            }
            if let Some(to) = tile.scaled_sums.get_mut(lanes) {
                s.store(s.mul(s.load(&d), s.to_f32(s.load_i32(&sums))), to);
            }
        }
        sum_quads(s, tile, 0, 0..8);
        sum_quads(s, tile, 1, 0..4);
        sum_quads(s, tile, 2, 4..8);
    }
}

/// Fills in the sums of some quads of each group, if these sums are required. (Not when a group has
/// just been stored, for a vector can't be loaded from two stores that are still under way.)
#[inline(always)]
fn sum_quads<S: QuantKernels>(s: S, tile: &mut Int8Tile, which: usize, quads: Range<usize>) {
    let (groups, sums) = (&tile.qs, &mut tile.sums[which]);
    for g in 0..sums.len() / S::LANES {
        let group = &groups[g * GROUP * S::LANES..][..GROUP * S::LANES];
        let mut sum = s.zero_i32();
        for q in quads.start..quads.end {
            sum = s.add_quads(sum, s.load_quads(&group[4 * S::LANES * q..]));
        }
        s.store_i32(sum, &mut sums[g * S::LANES..]);
    }
}

/// The most lanes that a vector has.
const MAX_LANES: usize = 16;

/// Rows of weights that are multiplied together, a micro-panel, for vectors of `lanes`: with two
/// vectors of tokens, their products fill the registers. (AVX-VNNI has fewer loads with six rows
/// than with four, and is as fast.)
#[inline(always)]
pub(crate) const fn micro_panel_rows(lanes: usize) -> usize {
    if lanes == 16 { 6 } else { 4 }
}

/// Some rows of weights as int8 with f32 scales and minima, in micro-panels.
#[derive(Debug, Default)]
pub(crate) struct Panel {
    pub(crate) n_groups: usize,
    /// Superblocks of a row. The last may have fewer groups; what stands for the missing ones isn't
    /// used.
    n_superblocks: usize,
    qs: Aligned<u8>, // (micro-panels, lanes, superblocks, rows, 32)
    // Of `qs` with a sign, on an instruction set with `SIGNS_APART`, as `PanelGroup` has them:
    signs: Aligned<u8>, // the same
    // (micro-panels, superblocks, rows, 8) each:
    below_zero: Aligned<i32>,
    scales: [Aligned<f32>; 2], // of sub-blocks, or the first for whole groups
    mins: Aligned<f32>,
    sub_block_mins: Aligned<i32>, // multiples of `mins`, of both sub-blocks, as two int16
}

impl Panel {
    /// Has `rows` rows from now on, whole micro-panels; `signs_apart` says whether integers have
    /// signs that are stored apart.
    pub(crate) fn resize(&mut self, rows: usize, n_groups: usize, signs_apart: bool) {
        (self.n_groups, self.n_superblocks) = (n_groups, n_groups.div_ceil(GROUPS));
        let groups = rows * self.n_superblocks * GROUPS;
        self.qs.resize(groups * GROUP);
        self.signs.resize(if signs_apart { groups * GROUP } else { 0 });
        self.below_zero.resize(if signs_apart { groups } else { 0 });
        self.scales.iter_mut().chain([&mut self.mins]).for_each(|metadata| metadata.resize(groups));
        self.sub_block_mins.resize(groups);
    }

    /// Fills in a superblock of a row.
    #[inline(always)]
    pub(crate) fn set<S: QuantKernels, B: Block>(
        &mut self,
        s: S,
        row: usize,
        superblock: usize,
        unpacked: &UnpackedSuperblock<S>,
    ) {
        let ((encoding, sub_scales), rows) = (B::PANEL_ENCODING, micro_panel_rows(S::LANES));
        let (micro_panel, row) = (row / rows, row % rows);
        let at = ((micro_panel * self.n_superblocks + superblock) * rows + row) * GROUPS;
        // Where the first group's integers are, and how far it is to the next group's.
        let first = ((micro_panel * GROUPS * self.n_superblocks + superblock) * rows + row) * GROUP;
        let stride = self.n_superblocks * rows * GROUP;
        let len = (GROUPS - 1) * stride + GROUP;
        let qs = &mut self.qs[first..][..len];
        if const { matches!(B::PANEL_ENCODING.0, Encoding::Signed) && S::SIGNS_APART } {
            let mut below_zero = unpacked.q;
            let signs = &mut self.signs[first..][..len];
            for p in 0..PAIRS {
                let mut pair = s.blocks(unpacked.q[p]);
                for i in 0..2 {
                    let [absolute, sign] = s.split_signs(pair[i]);
                    s.store_bytes(absolute, &mut qs[(2 * p + i) * stride..]);
                    s.store_bytes(sign, &mut signs[(2 * p + i) * stride..]);
                    pair[i] = s.and_u8x32(absolute, sign);
                }
                below_zero[p] = Pair::join(s, pair);
            }
            let sums = s.dot_each(&below_zero, &[1; SUPERBLOCK], false, false);
            s.store_i32x8(sums, &mut self.below_zero[at..]);
        } else {
            for p in 0..PAIRS {
                let pair = s.blocks(unpacked.q[p]);
                for i in 0..2 {
                    let q = if encoding == Encoding::Signed { s.quads_of_i8x32(pair[i]) } else { pair[i] };
                    s.store_bytes(q, &mut qs[(2 * p + i) * stride..]);
                }
            }
        }
        s.store_x8(unpacked.scales[0], &mut self.scales[0][at..]);
        match (encoding, sub_scales) {
            (Encoding::Affine(_), _) => {
                s.store_x8(unpacked.mins, &mut self.mins[at..]);
                if sub_scales {
                    s.store_i32x8(unpacked.sub_block_mins, &mut self.sub_block_mins[at..]);
                }
            }
            (_, true) => s.store_x8(unpacked.scales[1], &mut self.scales[1][at..]),
            (_, false) => {}
        }
    }

    /// What is in it, in micro-panels of `R` rows.
    #[inline(always)]
    pub(crate) fn view<const R: usize>(&self) -> PanelView<'_, R> {
        PanelView {
            n_groups: self.n_groups,
            n_superblocks: self.n_superblocks,
            qs: in_rows(&self.qs),
            signs: in_rows(&self.signs),
            below_zero: in_rows(&self.below_zero),
            scales: [in_rows(&self.scales[0]), in_rows(&self.scales[1])],
            mins: in_rows(&self.mins),
            sub_block_mins: in_rows(&self.sub_block_mins),
        }
    }
}

/// Numbers as `R` rows of `N`, over and over.
#[inline(always)]
fn in_rows<T, const R: usize, const N: usize>(numbers: &[T]) -> &[[[T; N]; R]] {
    numbers.as_chunks().0.as_chunks().0
}

/// A [`Panel`] in micro-panels of `R` rows, to be read.
#[derive(Clone, Copy)]
pub(crate) struct PanelView<'a, const R: usize> {
    pub(crate) n_groups: usize,
    pub(crate) n_superblocks: usize,
    // (micro-panels, lanes, superblocks) of:
    pub(crate) qs: &'a [[[u8; GROUP]; R]],
    pub(crate) signs: &'a [[[u8; GROUP]; R]],
    // (micro-panels, superblocks) of:
    pub(crate) below_zero: &'a [[[i32; GROUPS]; R]],
    pub(crate) scales: [&'a [[[f32; GROUPS]; R]]; 2],
    pub(crate) mins: &'a [[[f32; GROUPS]; R]],
    pub(crate) sub_block_mins: &'a [[[i32; GROUPS]; R]],
}
