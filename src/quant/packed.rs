//! Prefill's operands: many tokens' activations and some rows' weights, laid out for products from
//! registers.
//!
//! Tokens lie along the lanes of a vector, so a product of a weight with all of them needs no sum
//! across lanes:
//!
//! ```text
//! activations  (token tiles, groups, 8 quads, LANES tokens, 4)   a vector is a quad of each token
//! weights      (micro-panels, superblocks, 8 groups, rows, 32)   a quad at a time, to all lanes
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
//! Activations are stored in the order in which they are visited; weights superblock after
//! superblock, as they are unpacked.

use std::ops::{Deref, DerefMut};

use super::activation::{ActivationBuffer, QuantizedRow};
use super::block::{Block, GROUP, GROUPS, PAIRS, UnpackedSuperblock};
use super::encoding::Encoding;
use crate::simd::{Isa, LINE, QuantKernels, kernel};

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
    pub(crate) fn visit(self, i: usize) -> (usize, std::ops::Range<usize>) {
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
    pub(crate) sums: [Aligned<i32>; 3], // of a group, of its first and of its second sub-block
    pub(crate) sub_block_sums: Aligned<i32>, // of both sub-blocks, as two int16
    pub(crate) scaled_sums: Aligned<f32>, // of a group, times its scale
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
            match (encoding, sub_scales) {
                (Encoding::Affine(_), false) => required.scaled_sums = true,
                (Encoding::Affine(_), true) => required.sub_block_sums = true,
                (_, false) => required.sums[0] = true,
                (_, true) => required.sums[1..].fill(true),
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
            for first in (0..S::LANES).step_by(8) {
                for half in 0..2 {
                    let from = first * padded * GROUP + g * GROUP + half * GROUP / 2;
                    let quads = s.transpose_16x8(&rows.qs[from..], padded * GROUP);
                    for k in 0..4 {
                        s.store_bytes(quads[k], &mut qs[((4 * half + k) * S::LANES + first) * 4..]);
                    }
                }
            }
            let lanes = position * S::LANES..(position + 1) * S::LANES;
            let (mut d, mut sums, mut sub_block_sums) =
                ([0.0; MAX_LANES], [[0; MAX_LANES]; 3], [0; MAX_LANES]);
            for lane in 0..S::LANES {
                let at = lane * padded + g;
                let (sum, halves) = (rows.sums[at], rows.sub_block_sums[at]);
                (d[lane], sub_block_sums[lane]) = (rows.scales[at], halves);
                (sums[0][lane], sums[1][lane], sums[2][lane]) = (sum, i32::from(halves as i16), halves >> 16);
            }
            tile.scales[lanes.clone()].copy_from_slice(&d[..S::LANES]);
            for part in 0..3 {
                if let Some(to) = tile.sums[part].get_mut(lanes.clone()) {
                    to.copy_from_slice(&sums[part][..S::LANES]);
                }
            }
            if let Some(to) = tile.sub_block_sums.get_mut(lanes.clone()) {
                to.copy_from_slice(&sub_block_sums[..S::LANES]);
            }
            if let Some(to) = tile.scaled_sums.get_mut(lanes) {
                s.store(s.mul(s.load(&d), s.to_f32(s.load_i32(&sums[0]))), to);
            }
        }
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
    qs: Aligned<u8>, // (micro-panels, superblocks, 8, rows, 32)
    // (micro-panels, superblocks, rows, 8) each: of sub-blocks, or the first for whole groups
    scales: [Aligned<f32>; 2],
    mins: Aligned<f32>,           // (micro-panels, superblocks, rows, 8)
    sub_block_mins: Aligned<i32>, // the same: multiples of `mins`, of both sub-blocks, as two int16
}

impl Panel {
    /// Has `rows` rows from now on, whole micro-panels.
    pub(crate) fn resize(&mut self, rows: usize, n_groups: usize) {
        (self.n_groups, self.n_superblocks) = (n_groups, n_groups.div_ceil(GROUPS));
        let groups = rows * self.n_superblocks * GROUPS;
        self.qs.resize(groups * GROUP);
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
        let superblock = micro_panel * self.n_superblocks + superblock;
        let qs = &mut self.qs[superblock * GROUPS * rows * GROUP..][..GROUPS * rows * GROUP];
        let qs = &mut qs[row * GROUP..][..((GROUPS - 1) * rows + 1) * GROUP];
        for p in 0..PAIRS {
            let pair = s.blocks(unpacked.q[p]);
            for i in 0..2 {
                let q = if encoding == Encoding::Signed { s.quads_of_i8x32(pair[i]) } else { pair[i] };
                s.store_bytes(q, &mut qs[(2 * p + i) * rows * GROUP..]);
            }
        }
        let at = (superblock * rows + row) * GROUPS;
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

    /// What is in it, to be read.
    pub(crate) fn view(&self) -> PanelView<'_> {
        PanelView {
            n_groups: self.n_groups,
            n_superblocks: self.n_superblocks,
            qs: &self.qs,
            scales: [&self.scales[0], &self.scales[1]],
            mins: &self.mins,
            sub_block_mins: &self.sub_block_mins,
        }
    }
}

/// A [`Panel`], to be read.
#[derive(Clone, Copy)]
pub(crate) struct PanelView<'a> {
    pub(crate) n_groups: usize,
    n_superblocks: usize,
    qs: &'a [u8],
    scales: [&'a [f32]; 2],
    mins: &'a [f32],
    sub_block_mins: &'a [i32],
}

impl<'a> PanelView<'a> {
    /// The groups of a micro-panel that one of decode's lanes sums, one after another.
    /// `mins` and `sub_scales` say what of a panel's parts there is.
    #[inline(always)]
    pub(crate) fn lane(
        &self,
        lanes: usize,
        micro_panel: usize,
        lane: usize,
        mins: bool,
        sub_scales: bool,
    ) -> PanelLane<'a> {
        let rows = micro_panel_rows(lanes);
        let first = micro_panel * self.n_superblocks * rows * GROUPS;
        let groups = first + lane;
        PanelLane {
            qs: &self.qs[(first + lane * rows) * GROUP..],
            scales: [
                &self.scales[0][groups..],
                if sub_scales && !mins { &self.scales[1][groups..] } else { &[] },
            ],
            mins: if mins { &self.mins[groups..] } else { &[] },
            sub_block_mins: if mins && sub_scales { &self.sub_block_mins[groups..] } else { &[] },
        }
    }
}

/// Every eighth group of a micro-panel of `R` rows.
#[derive(Clone, Copy)]
pub(crate) struct PanelLane<'a> {
    qs: &'a [u8],
    scales: [&'a [f32]; 2],
    mins: &'a [f32],
    sub_block_mins: &'a [i32],
}

impl<'a> PanelLane<'a> {
    /// The integers of the `i`th group: (`R`, 32).
    #[inline(always)]
    pub(crate) fn qs<const R: usize>(&self, i: usize) -> &'a [u8] {
        &self.qs[i * GROUPS * R * GROUP..][..R * GROUP]
    }

    /// The scales of the `i`th group or of one of its sub-blocks: that of row `r` is at `8 * r`.
    #[inline(always)]
    pub(crate) fn scales<const R: usize>(&self, sub_block: usize, i: usize) -> &'a [f32] {
        &self.scales[sub_block][i * R * GROUPS..][..(R - 1) * GROUPS + 1]
    }

    /// The minima of the `i`th group, or what they are multiples of: that of row `r` is at `8 * r`.
    #[inline(always)]
    pub(crate) fn mins<const R: usize>(&self, i: usize) -> &'a [f32] {
        &self.mins[i * R * GROUPS..][..(R - 1) * GROUPS + 1]
    }

    /// Which multiples of `mins` the sub-blocks have, as two int16: those of row `r` at `8 * r`.
    #[inline(always)]
    pub(crate) fn sub_block_mins<const R: usize>(&self, i: usize) -> &'a [i32] {
        &self.sub_block_mins[i * R * GROUPS..][..(R - 1) * GROUPS + 1]
    }
}
