//! What the sums of one of decode's lanes are made of: see `quant/packed.rs`.
//!
//! Each part is cut to as many groups as the lane has, so that one check of a group's number holds
//! for all of them. (One for each part was a twentieth of the instructions of a group.)

use std::ops::Range;

use super::contents::Contents;
use crate::quant::block::{GROUP, GROUPS};
use crate::quant::packed::{Int8Tile, PanelView};
use crate::simd::{PanelGroup, QuantKernels};

/// Activations in `V` vectors of tokens, of some groups. They are cut out of the tiles once for all
/// micro-panels, for it takes as many instructions as a third of a group.
#[derive(Clone, Copy)]
pub(super) struct TokensLane<'a, const LANES: usize, const V: usize> {
    pub(super) n_groups: usize,
    pub(super) qs: [&'a [[[[i8; 4]; LANES]; 8]]; V],
    pub(super) scales: [&'a [[f32; LANES]]; V],
    // As the contents of the panel need them, or nothing:
    pub(super) sums: [[&'a [[i32; LANES]]; V]; 2], // of both sub-blocks, or the first for a group
    pub(super) sub_block_sums: [&'a [[i32; LANES]]; V], // of both sub-blocks, as two int16
    pub(super) scaled_sums: [&'a [[f32; LANES]]; V], // of the group, times its scale
}

impl<'a, const LANES: usize, const V: usize> TokensLane<'a, LANES, V> {
    /// The groups at some positions.
    #[inline(always)]
    pub(super) fn new<C: Contents>(x: [&'a Int8Tile; V], groups: Range<usize>) -> Self {
        let mut lane = Self {
            n_groups: groups.len(),
            qs: [&[]; V],
            scales: [&[]; V],
            sums: [[&[]; V]; 2],
            sub_block_sums: [&[]; V],
            scaled_sums: [&[]; V],
        };
        for v in 0..V {
            let qs = x[v].qs[groups.start * GROUP * LANES..].as_chunks().0.as_chunks().0.as_chunks().0;
            lane.qs[v] = &qs[..lane.n_groups];
            lane.scales[v] = of_groups(&x[v].scales, &groups);
            match (C::SUMS, C::SUB_SCALES) {
                (true, true) => {
                    lane.sums[0][v] = of_groups(&x[v].sums[1], &groups);
                    lane.sums[1][v] = of_groups(&x[v].sums[2], &groups);
                }
                (true, false) => lane.sums[0][v] = of_groups(&x[v].sums[0], &groups),
                (false, _) => {}
            }
            match (C::MINS, C::SUB_SCALES) {
                (true, true) => lane.sub_block_sums[v] = of_groups(&x[v].sub_block_sums, &groups),
                (true, false) => lane.scaled_sums[v] = of_groups(&x[v].scaled_sums, &groups),
                (false, _) => {}
            }
        }
        lane
    }
}

/// The numbers of some groups, one for each token.
#[inline(always)]
fn of_groups<'a, T, const LANES: usize>(numbers: &'a [T], groups: &Range<usize>) -> &'a [[T; LANES]] {
    &numbers[groups.start * LANES..].as_chunks().0[..groups.len()]
}

/// Every eighth group of a micro-panel of `R` rows.
#[derive(Clone, Copy)]
pub(super) struct PanelLane<'a, const R: usize> {
    /// Which of a superblock's groups.
    pub(super) lane: usize,
    qs: &'a [[[u8; GROUP]; R]],
    // What the contents of the panel have of these, or nothing:
    signs: &'a [[[u8; GROUP]; R]],
    // Of all groups of each superblock:
    below_zero: &'a [[[i32; GROUPS]; R]],
    pub(super) scales: [&'a [[[f32; GROUPS]; R]]; 2],
    pub(super) mins: &'a [[[f32; GROUPS]; R]],
    pub(super) sub_block_mins: &'a [[[i32; GROUPS]; R]],
}

impl<'a, const R: usize> PanelLane<'a, R> {
    /// The first `n_groups` groups of a lane.
    #[inline(always)]
    pub(super) fn new<S: QuantKernels, C: Contents>(
        panel: PanelView<'a, R>,
        micro_panel: usize,
        lane: usize,
        n_groups: usize,
    ) -> Self {
        let integers = (micro_panel * GROUPS + lane) * panel.n_superblocks;
        let superblocks = micro_panel * panel.n_superblocks;
        let signs_apart = C::SIGNED && S::SIGNS_APART;
        Self {
            lane: lane % GROUPS, // It is less, which the compiler doesn't know.
            qs: part(panel.qs, integers, n_groups, true),
            signs: part(panel.signs, integers, n_groups, signs_apart),
            below_zero: part(panel.below_zero, superblocks, n_groups, signs_apart),
            scales: [
                part(panel.scales[0], superblocks, n_groups, true),
                part(panel.scales[1], superblocks, n_groups, C::SUB_SCALES && !C::MINS),
            ],
            mins: part(panel.mins, superblocks, n_groups, C::MINS),
            sub_block_mins: part(panel.sub_block_mins, superblocks, n_groups, C::MINS && C::SUB_SCALES),
        }
    }

    /// The integers of the `i`th group.
    #[inline(always)]
    pub(super) fn group<S: QuantKernels, C: Contents>(&self, i: usize) -> PanelGroup<'a, R> {
        let qs = &self.qs[i];
        if !(C::SIGNED && S::SIGNS_APART) {
            return PanelGroup { qs, signs: &[], below_zero: [0; R] };
        }
        let mut below_zero = [0; R];
        for r in 0..R {
            below_zero[r] = self.below_zero[i][r][self.lane];
        }
        PanelGroup { qs, signs: &self.signs[i], below_zero }
    }
}

/// `n` elements of a part of a panel, if its contents have this part.
#[inline(always)]
fn part<T>(all: &[T], first: usize, n: usize, is_there: bool) -> &[T] {
    if is_there { &all[first..][..n] } else { &[] }
}
