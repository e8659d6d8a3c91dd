//! The steps of attention that depend on how keys and values are stored.

use super::prefetch::Prefetcher;
use super::q8_0::{add_groups, group_scores};
use super::scores::block_scores;
use super::values::add_tiles;
use crate::kv_cache::KvElement;
use crate::simd::Simd;

/// What a block of keys or values consists of.
pub(super) trait Element: KvElement {
    /// Whether scores can be summed without rounding a product together with its sum. If they
    /// can't, both versions would be the same.
    const UNFUSED: bool;

    /// The scores of `Q` queries of (`head_dim`) and a block of keys, (width, `BLOCK`). Rows of
    /// `scores` are `stride` apart.
    fn scores<S: Simd, const FUSED: bool, const Q: usize>(
        s: S,
        queries: [&[f32]; Q],
        keys: &[Self],
        divisor: f32,
        prefetcher: Prefetcher<'_, Self>,
        scores: &mut [f32],
        stride: usize,
    );

    /// Adds a block's values, weighted, to the sums of `Q` queries, (`Q`, `head_dim`). `weights`
    /// are of the positions that each query sees, the first query the fewest.
    fn add_block<S: Simd, const Q: usize>(
        s: S,
        values: &[Self],
        prefetcher: Prefetcher<'_, Self>,
        weights: [&[f32]; Q],
        sums: &mut [f32],
        head_dim: usize,
    );
}

/// A version of a function for as many vectors of sums as the registers hold.
macro_rules! tiled {
    ($function:ident::<$($generic:tt),*>($($arg:expr),*)) => {
        if const { S::REGISTER_TILE == 4 } {
            $function::<$($generic),*, 4>($($arg),*);
        } else if const { S::REGISTER_TILE == 2 } {
            $function::<$($generic),*, 2>($($arg),*);
        } else {
            $function::<$($generic),*, 1>($($arg),*);
        }
    };
}

macro_rules! floats {
    ($($type:ty),*) => {
        $(impl Element for $type {
            const UNFUSED: bool = true;

            #[inline(always)]
            fn scores<S: Simd, const FUSED: bool, const Q: usize>(
                s: S,
                queries: [&[f32]; Q],
                keys: &[Self],
                divisor: f32,
                prefetcher: Prefetcher<'_, Self>,
                scores: &mut [f32],
                stride: usize,
            ) {
                tiled!(block_scores::<S, Self, FUSED, Q>(s, queries, keys, divisor, prefetcher, scores, stride));
            }

            #[inline(always)]
            fn add_block<S: Simd, const Q: usize>(
                s: S,
                values: &[Self],
                prefetcher: Prefetcher<'_, Self>,
                weights: [&[f32]; Q],
                sums: &mut [f32],
                head_dim: usize,
            ) {
                add_tiles::<S, Self, Q>(s, values, prefetcher, weights, sums, head_dim);
            }
        })*
    };
}

floats!(f32, u16);

impl Element for i8 {
    const UNFUSED: bool = false;

    #[inline(always)]
    fn scores<S: Simd, const FUSED: bool, const Q: usize>(
        s: S,
        queries: [&[f32]; Q],
        keys: &[Self],
        divisor: f32,
        prefetcher: Prefetcher<'_, Self>,
        scores: &mut [f32],
        stride: usize,
    ) {
        tiled!(group_scores::<S, Q>(s, queries, keys, divisor, prefetcher, scores, stride));
    }

    #[inline(always)]
    fn add_block<S: Simd, const Q: usize>(
        s: S,
        values: &[Self],
        prefetcher: Prefetcher<'_, Self>,
        weights: [&[f32]; Q],
        sums: &mut [f32],
        head_dim: usize,
    ) {
        add_groups::<S, Q>(s, values, prefetcher, weights, sums, head_dim);
    }
}
