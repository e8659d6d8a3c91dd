//! Prefill's operands: many tokens' activations and some rows' weights, laid out for products from
//! registers.
//!
//! Tokens lie along the lanes of a vector, so a product of a weight with all of them needs no sum
//! across lanes:
//!
//! ```text
//! activations  (token tiles, groups, 8 quads, LANES tokens, 4)   int8, a vector for each quad of a tile's rows
//! weights      (strips, steps, 8 groups, strip rows, 32)          a quad at a time goes to all lanes
//! ```
//!
//! A product must come out as the same bits as decode's, whose vectors hold different groups of one
//! row: lane `j` sums every eighth group from `j` on, and then the lanes are added as a tree. So
//! groups are visited in that order here: first those of one lane of decode's (a *chain*), then
//! those of the lane that the tree adds to it, and so on. Activations are stored in the order in
//! which they are visited; weights step after step, as they are decoded.

use std::ops::{Deref, DerefMut};

use super::activation::{ActivationBuffer, QuantizedRow};
use super::blocks::{Block, Encoding, GROUP, GROUPS, Groups, PAIRS};
use crate::simd::{Isa, LINE, Simd, kernel};

/// The order in which decode adds up a row's groups, lane by lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chains {
    n_groups: usize,
}

impl Chains {
    pub(crate) fn new(n_groups: usize) -> Self {
        Self { n_groups }
    }

    /// The most groups that a chain has.
    #[inline(always)]
    fn steps(self) -> usize {
        self.n_groups.div_ceil(GROUPS)
    }

    /// Where the groups of a chain begin, among all in the order of visiting.
    #[inline(always)]
    fn start(self, chain: usize) -> usize {
        chain * (self.n_groups / GROUPS) + chain.min(self.n_groups % GROUPS)
    }

    /// The `i`th chain to be visited, and the positions of its groups. Chain after chain, those of
    /// each pair, each pair of pairs and so on are neighbours in decode's tree:
    /// ((0+4)+(1+5))+((2+6)+(3+7)).
    #[inline(always)]
    pub(crate) fn visit(self, i: usize) -> (usize, std::ops::Range<usize>) {
        let chain = [0, 4, 1, 5, 2, 6, 3, 7][i];
        (chain, self.start(chain)..self.start(chain + 1))
    }

    /// The position of a group.
    #[inline(always)]
    fn position(self, group: usize) -> usize {
        self.start(group % GROUPS) + group / GROUPS
    }
}

/// Encoding that begin where a cache line does, so that no vector of them lies in two lines.
#[derive(Clone, Debug, Default)]
pub(crate) struct Aligned<T> {
    buffer: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Copy + Default> Aligned<T> {
    /// Makes room for `len` numbers, which are whatever was there.
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

/// The activations of as many tokens as a vector has lanes, in groups of 32. Lanes without a token
/// hold zeros.
#[derive(Clone, Debug, Default)]
pub(crate) struct PackedTile {
    pub(crate) qs: Aligned<i8>,              // (groups, 8, LANES, 4)
    pub(crate) scales: Aligned<f32>,         // (groups, LANES)
    pub(crate) sums: [Aligned<i32>; 3],      // (groups, LANES) each, or nothing, as `Wanted` says
    pub(crate) sub_block_sums: Aligned<i32>, // likewise: the sums of both halves, as two int16
    pub(crate) scaled_sums: Aligned<f32>,    // likewise: the sum of a whole group times its scale
    rows: ActivationBuffer,
}

/// Which sums of a group's activations some weights want.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted {
    /// Of the whole group, of its first and of its second half.
    sums: [bool; 3],
    sub_block_sums: bool,
    scaled_sums: bool,
}

impl Wanted {
    /// Those for weights of these kinds, as
    /// [`Format::panel_encoding`](super::Format::panel_encoding) has them.
    pub(crate) fn by(kinds: impl Iterator<Item = (Encoding, bool)>) -> Self {
        let mut wanted = Self::default();
        for (numbers, halves) in kinds {
            match (numbers, halves) {
                (Encoding::Affine(_), false) => wanted.scaled_sums = true,
                (Encoding::Affine(_), true) => wanted.sub_block_sums = true,
                (_, false) => wanted.sums[0] = true,
                (_, true) => wanted.sums[1..].fill(true),
            }
        }
        wanted
    }
}

impl PackedTile {
    /// Quantises and packs at most as many tokens as a vector has lanes: `x` is (tokens, `n`).
    pub(crate) fn pack(&mut self, isa: Isa, x: &[f32], n: usize, wanted: Wanted) {
        let (n_groups, lanes) = (n / GROUP, isa.lanes());
        self.qs.resize(n * lanes);
        self.scales.resize(n_groups * lanes);
        let len = |wanted| if wanted { n_groups * lanes } else { 0 };
        for (sums, wanted) in self.sums.iter_mut().zip(wanted.sums) {
            sums.resize(len(wanted));
        }
        self.sub_block_sums.resize(len(wanted.sub_block_sums));
        self.scaled_sums.resize(len(wanted.scaled_sums));
        let mut rows = std::mem::take(&mut self.rows);
        pack_rows(isa, rows.quantize_tile(isa, x, n, lanes), n_groups, self);
        self.rows = rows;
    }
}

kernel! {
    /// Packs the rows of a tile's tokens, one behind the other in `rows`, each padded to whole
    /// steps.
    fn pack_rows(s; rows: QuantizedRow<'_>, n_groups: usize, tile: &mut PackedTile) {
        let (chains, padded) = (Chains::new(n_groups), rows.scales.len() / S::LANES);
        for g in 0..n_groups {
            let position = chains.position(g);
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

/// Rows of a tile of products for vectors of so many lanes: with two vectors of tokens, as many as
/// the registers hold. (AVX-VNNI has fewer loads with six than with four, and is as fast: 1.00 in
/// Q4_0, Q6_K and Q8_0.)
#[inline(always)]
pub(crate) const fn strip_rows(lanes: usize) -> usize {
    if lanes == 16 { 6 } else { 4 }
}

/// Some rows of weights as int8 with f32 scales and minima, in strips of rows that are multiplied
/// together.
#[derive(Debug, Default)]
pub(crate) struct Panel {
    pub(crate) n_groups: usize,
    /// Steps of eight groups. The last may be of fewer; what stands for the missing ones isn't
    /// used.
    n_steps: usize,
    qs: Aligned<u8>, // (strips, steps, 8, strip rows, 32)
    // (strips, steps, strip rows, 8) each: of the halves of a group, or the first for both
    scales: [Aligned<f32>; 2],
    mins: Aligned<f32>,      // (strips, steps, strip rows, 8)
    half_mins: Aligned<i32>, // likewise: multiples of these, of both halves, as two int16
}

impl Panel {
    /// Makes room for some rows, which are a multiple of a strip's.
    pub(crate) fn resize(&mut self, rows: usize, n_groups: usize) {
        (self.n_groups, self.n_steps) = (n_groups, Chains::new(n_groups).steps());
        let groups = rows * self.n_steps * GROUPS;
        self.qs.resize(groups * GROUP);
        self.scales.iter_mut().chain([&mut self.mins]).for_each(|facts| facts.resize(groups));
        self.half_mins.resize(groups);
    }

    /// Fills in a step of a row.
    #[inline(always)]
    pub(crate) fn set<S: Simd, B: Block>(&mut self, s: S, row: usize, step: usize, groups: &Groups<S>) {
        let ((numbers, halves), rows) = (B::PANEL, strip_rows(S::LANES));
        let (strip, row) = (row / rows, row % rows);
        let step = strip * self.n_steps + step;
        let qs = &mut self.qs[step * GROUPS * rows * GROUP..][..GROUPS * rows * GROUP];
        let qs = &mut qs[row * GROUP..][..((GROUPS - 1) * rows + 1) * GROUP];
        for p in 0..PAIRS {
            let pair = s.blocks(groups.q[p]);
            for i in 0..2 {
                let q = if numbers == Encoding::Signed { s.quads_of_i8x32(pair[i]) } else { pair[i] };
                s.store_bytes(q, &mut qs[(2 * p + i) * rows * GROUP..]);
            }
        }
        let at = (step * rows + row) * GROUPS;
        s.store_x8(groups.scales[0], &mut self.scales[0][at..]);
        match (numbers, halves) {
            (Encoding::Affine(_), _) => {
                s.store_x8(groups.mins, &mut self.mins[at..]);
                if halves {
                    s.store_i32x8(groups.half_mins, &mut self.half_mins[at..]);
                }
            }
            (_, true) => s.store_x8(groups.scales[1], &mut self.scales[1][at..]),
            (_, false) => {}
        }
    }

    /// What is in it, to be read.
    pub(crate) fn view(&self) -> PanelView<'_> {
        PanelView {
            n_groups: self.n_groups,
            n_steps: self.n_steps,
            qs: &self.qs,
            scales: [&self.scales[0], &self.scales[1]],
            mins: &self.mins,
            half_mins: &self.half_mins,
        }
    }
}

/// A [`Panel`], to be read.
#[derive(Clone, Copy)]
pub(crate) struct PanelView<'a> {
    pub(crate) n_groups: usize,
    n_steps: usize,
    qs: &'a [u8],
    scales: [&'a [f32]; 2],
    mins: &'a [f32],
    half_mins: &'a [i32],
}

impl<'a> PanelView<'a> {
    /// The groups of a strip's chain, one after another.
    #[inline(always)]
    pub(crate) fn chain<const MIN: bool, const HALVES: bool>(
        &self,
        lanes: usize,
        strip: usize,
        chain: usize,
    ) -> PanelChain<'a> {
        let rows = strip_rows(lanes);
        let first = strip * self.n_steps * rows * GROUPS;
        let facts = first + chain;
        PanelChain {
            qs: &self.qs[(first + chain * rows) * GROUP..],
            scales: [&self.scales[0][facts..], if HALVES && !MIN { &self.scales[1][facts..] } else { &[] }],
            mins: if MIN { &self.mins[facts..] } else { &[] },
            half_mins: if MIN && HALVES { &self.half_mins[facts..] } else { &[] },
        }
    }
}

/// Some groups of a strip of rows.
#[derive(Clone, Copy)]
pub(crate) struct PanelChain<'a> {
    qs: &'a [u8],
    scales: [&'a [f32]; 2],
    mins: &'a [f32],
    half_mins: &'a [i32],
}

impl<'a> PanelChain<'a> {
    /// The `i`th group of `R` rows: (`R`, 32).
    #[inline(always)]
    pub(crate) fn qs<const R: usize>(&self, i: usize) -> &'a [u8] {
        &self.qs[i * GROUPS * R * GROUP..][..R * GROUP]
    }

    /// Its scales, of either half, that of row `r` at `8 * r`.
    #[inline(always)]
    pub(crate) fn scales<const R: usize>(&self, half: usize, i: usize) -> &'a [f32] {
        &self.scales[half][i * R * GROUPS..][..(R - 1) * GROUPS + 1]
    }

    /// Its minima, likewise, or what they are multiples of.
    #[inline(always)]
    pub(crate) fn mins<const R: usize>(&self, i: usize) -> &'a [f32] {
        &self.mins[i * R * GROUPS..][..(R - 1) * GROUPS + 1]
    }

    /// The multiples for both halves, likewise.
    #[inline(always)]
    pub(crate) fn half_mins<const R: usize>(&self, i: usize) -> &'a [i32] {
        &self.half_mins[i * R * GROUPS..][..(R - 1) * GROUPS + 1]
    }
}
