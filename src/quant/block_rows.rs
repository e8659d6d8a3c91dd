//! Rows of ggml's blocks, and their dot products with one token's activations.
//!
//! A group of 32 weights has the values `scale * (q - bias) + min`, with `q` a small integer and
//! either the bias or the minimum zero. Its activations are quantized as `x = d * p`, so that the
//! dot product is the same for all formats:
//!
//! ```text
//! sum over groups of  (scale * d) * (q · p - bias * sum(p))  +  min * (d * sum(p))
//! ```
//!
//! A superblock's eight integer products end up in eight lanes, and their scales are applied as one
//! vector. In an interleaved format ([`Block::INTERLEAVE`]) the lanes of the operands belong to the
//! eight groups from the start; in others the eight products share one reduction across lanes. Lane
//! `j` of the sum holds every eighth group from `j` on. Where sub-blocks have integers as scales
//! ([`SubScales::Int`]), what is in the parentheses is an integer too: the products of both
//! sub-blocks, each times its scale. Prefill's product of many tokens (`gemm/int8.rs`) rounds the
//! same terms in the same order, which `packed.rs` explains.

use std::marker::PhantomData;
use std::ops::Range;

use super::activation::{ActivationRows, ActivationSuperblock};
use super::block::{Block, GROUP, GROUPS, Interleaved, SUPERBLOCK, UnpackedSuperblock};
use super::encoding::{Encoding, SubScales};
use super::packed::Panel;
use super::sub_blocks::{dot_f32_sub_blocks, dot_int_sub_blocks};
use super::walk::{BlockProducts, RowTile, prefetch_distance, streams};
use super::{Format, SHARING_TOKENS, StoredRows, points};
use crate::simd::{Interleave, QuantKernels};

/// The most bytes of a superblock: Q8_0's.
pub(super) const MAX_BYTES: usize = GROUPS * 34;

/// Rows of blocks, `n` weights each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockRows<'a, B> {
    pub(super) bytes: &'a [u8],
    pub(super) n: usize,
    _format: PhantomData<B>,
}

impl<'a, B: Block> StoredRows<'a> for BlockRows<'a, B> {
    type Element = u8;
    const BLOCK: (usize, usize) = (B::WEIGHTS, B::BYTES);

    fn new(bytes: &'a [u8], n: usize) -> Self {
        Self { bytes, n, _format: PhantomData }
    }
}

impl<'a, B: Block> BlockRows<'a, B> {
    #[inline(always)]
    pub(super) fn row(&self, row: usize) -> &'a [u8] {
        let len = self.n / B::WEIGHTS * B::BYTES;
        &self.bytes[row * len..][..len]
    }

    /// Whether weights are looked up as points of a grid.
    pub(super) const OF_POINTS: bool = matches!(B::INTERLEAVE, Some(Interleave::Points));

    pub(super) const SUPERBLOCK_BYTES: usize = SUPERBLOCK / B::WEIGHTS * B::BYTES;

    /// The dot products of `R` rows with a token, spread over lanes.
    #[inline(always)]
    fn dot_rows<S: QuantKernels, const R: usize>(
        &self,
        s: S,
        row_numbers: [usize; R],
        x: ActivationRows<'_>,
        token: usize,
    ) -> [S::F32x8; R] {
        let superblocks = self.n / SUPERBLOCK;
        let n_tokens = x.n_tokens();
        let x = &x.superblocks(B::INTERLEAVE)[token..];
        let rows = row_numbers.map(|row| self.row(row));
        let rest = if B::WEIGHTS == GROUP { self.n / GROUP % GROUPS } else { 0 };
        // A row of 576 weights is two superblocks and two groups: the last groups of four rows make
        // up one superblock, which is multiplied with the token's last two groups, four times over.
        // Copied long before they are loaded: a vector can't be loaded from several stores that are
        // still under way.
        let together = R > 1 && R * rest <= GROUPS;
        let mut tails = [0; MAX_BYTES];
        match rest {
            1 if together => self.copy_tails::<R, 1>(rows, &mut tails),
            2 if together => self.copy_tails::<R, 2>(rows, &mut tails),
            _ => {}
        }
        let mut acc = [s.splat_x8(0.0); R];
        let width = streams::<S, Self>();
        for r in (0..R).step_by(width) {
            if width == 2 && r + 1 < R {
                [acc[r], acc[r + 1]] = Self::dot_superblocks(s, [rows[r], rows[r + 1]], x, n_tokens);
            } else {
                [acc[r]] = Self::dot_superblocks(s, [rows[r]], x, n_tokens);
            }
        }
        match rest {
            0 => acc,
            1 if together => self.add_tails::<S, R, 1>(s, &tails, &x[superblocks * n_tokens], acc),
            2 if together => self.add_tails::<S, R, 2>(s, &tails, &x[superblocks * n_tokens], acc),
            _ => {
                let mut padded = [0; MAX_BYTES];
                for r in 0..R {
                    let blocks = self.tail_superblock(row_numbers[r], &mut padded);
                    let tail = dot_superblock::<S, B>(s, blocks, &x[superblocks * n_tokens]);
                    acc[r] = tail.of_row(s, 0, rest).add(s, acc[r]);
                }
                acc
            }
        }
    }

    /// The products of the superblocks of some rows, which are read side by side.
    #[inline(always)]
    fn dot_superblocks<S: QuantKernels, const W: usize>(
        s: S,
        rows: [&[u8]; W],
        x: &[ActivationSuperblock],
        n_tokens: usize,
    ) -> [S::F32x8; W] {
        let mut sums = [s.splat_x8(0.0); W];
        let n = rows[0].len() / Self::SUPERBLOCK_BYTES;
        for i in 0..n {
            let x = &x[i * n_tokens];
            for r in 0..W {
                let blocks = &rows[r][i * Self::SUPERBLOCK_BYTES..][..Self::SUPERBLOCK_BYTES];
                s.prefetch_all_nta(blocks, prefetch_distance(W), Self::SUPERBLOCK_BYTES);
                sums[r] = if const { Self::OF_POINTS } {
                    points::dot::<S, B>(s, blocks, x, sums[r])
                } else {
                    match B::SUB_SCALES {
                        SubScales::None => dot_superblock::<S, B>(s, blocks, x).add(s, sums[r]),
                        SubScales::F32 => dot_f32_sub_blocks::<S, B>(s, &B::unpack(s, blocks), x, sums[r]),
                        SubScales::Int => {
                            dot_int_sub_blocks::<S, B>(s, &B::unpack_sub_blocks(s, blocks), x, sums[r])
                        }
                    }
                };
            }
        }
        let rest = rows[0].len() - n * Self::SUPERBLOCK_BYTES;
        for r in 0..W {
            s.prefetch_all_nta(rows[r], n * Self::SUPERBLOCK_BYTES + prefetch_distance(W), rest);
        }
        sums
    }
}

impl<B: Block> Format for BlockRows<'_, B> {
    #[inline(always)]
    fn dot<S: QuantKernels, const R: usize>(
        self,
        s: S,
        rows: [usize; R],
        x: ActivationRows<'_>,
        token: usize,
    ) -> [f32; R] {
        s.hsum_each(self.dot_rows::<S, R>(s, rows, x, token))
    }

    #[inline(always)]
    fn dot_tokens<S: QuantKernels>(
        self,
        s: S,
        block: RowTile,
        x: ActivationRows<'_>,
        tokens: Range<usize>,
        products: &mut BlockProducts,
    ) {
        self.dot_shared(s, block, x, tokens, products);
    }

    fn activation_group(self) -> Option<usize> {
        Some(GROUP)
    }

    #[inline(always)]
    fn needs_superblocks<S: QuantKernels>(self, n_tokens: usize, order: Option<Interleave>) -> bool {
        order == Self::order::<S>(n_tokens)
    }

    fn panel_encoding(self) -> Option<(Encoding, bool)> {
        Some(B::PANEL_ENCODING)
    }

    #[inline(always)]
    fn min_panel_tokens<S: QuantKernels>(self) -> usize {
        // A panel's products are of sixteen tokens each there, even if there are fewer: measured in
        // benches/NOTES.md, "Passes of a few tokens".
        if S::LANES == 16 {
            return if B::SUB_SCALES == SubScales::None { 13 } else { 11 };
        }
        S::min_transposed_tokens(None).map_or(SHARING_TOKENS + 1, |_| B::MIN_PANEL_TOKENS)
    }

    #[inline(always)]
    fn pack_panel<S: QuantKernels>(self, s: S, rows: Range<usize>, panel: &mut Panel) {
        let mut padded = [0; MAX_BYTES];
        for (i, row) in rows.enumerate() {
            let superblocks = self.row(row).chunks_exact(Self::SUPERBLOCK_BYTES);
            let rest = superblocks.remainder();
            let mut superblock = 0;
            for blocks in superblocks {
                panel.set::<S, B>(s, i, superblock, &B::unpack(s, blocks));
                superblock += 1;
            }
            if const { B::WEIGHTS == GROUP } && !rest.is_empty() {
                let blocks = self.tail_superblock(row, &mut padded);
                panel.set::<S, B>(s, i, superblock, &B::unpack(s, blocks));
            }
        }
    }

    fn dequantize(self, row: usize, out: &mut [f32]) {
        let blocks = self.row(row).chunks_exact(B::BYTES);
        for (block, out) in blocks.zip(out.chunks_exact_mut(B::WEIGHTS)) {
            B::dequantize(block, out);
        }
    }
}

/// What the eight groups of a superblock add to a sum, one in each lane: `dots * scales + mins *
/// sums`.
#[derive(Clone, Copy)]
pub(super) struct Terms<S: QuantKernels, B> {
    dots: S::F32x8,
    scales: S::F32x8,
    mins: S::F32x8,
    sums: S::F32x8,
    _format: PhantomData<B>,
}

impl<S: QuantKernels, B: Block> Terms<S, B> {
    /// `(scale * d) * dot` and `min * scaled_sum`.
    #[inline(always)]
    pub(super) fn new(
        s: S,
        dots: S::I32x8,
        [scales, mins]: [S::F32x8; 2],
        d: S::F32x8,
        sums: S::I32x8,
        scaled_sums: S::F32x8,
    ) -> Self {
        let dots = match B::ENCODING {
            Encoding::Signed => s.remove_bias(dots, sums),
            Encoding::Biased(n) => s.sub_shifted_i32x8(dots, sums, n),
            Encoding::Affine(_) => dots,
        };
        let (dots, scales) = (s.to_f32x8(dots), s.mul_x8(scales, d));
        Self { dots, scales, mins, sums: scaled_sums, _format: PhantomData }
    }

    /// Those of `n` groups, from `first` on, in the first lanes; zeros in the others.
    #[inline(always)]
    pub(super) fn of_row(self, s: S, first: usize, n: usize) -> Self {
        Self {
            dots: s.extract_lanes(self.dots, first, n),
            scales: s.extract_lanes(self.scales, first, n),
            mins: s.extract_lanes(self.mins, first, n),
            sums: s.extract_lanes(self.sums, first, n),
            _format: PhantomData,
        }
    }

    #[inline(always)]
    pub(super) fn add(self, s: S, acc: S::F32x8) -> S::F32x8 {
        let acc = s.mul_add_x8(self.dots, self.scales, acc);
        match B::ENCODING {
            Encoding::Affine(_) => s.mul_add_x8(self.mins, self.sums, acc),
            _ => acc,
        }
    }
}

/// A superblock whose sub-blocks have no scales of their own, unpacked for products with tokens.
#[derive(Clone, Copy)]
pub(super) enum OneScale<S: QuantKernels> {
    Interleaved(Interleave, Interleaved<S>),
    InOrder(UnpackedSuperblock<S>),
}

impl<S: QuantKernels> OneScale<S> {
    /// For several tokens: with its groups transposed, if they are `TRANSPOSED` there.
    #[inline(always)]
    pub(super) fn shared<B: Block, const TRANSPOSED: bool>(s: S, blocks: &[u8]) -> Self {
        if !TRANSPOSED {
            return Self::unpack::<B>(s, blocks);
        }
        Self::Interleaved(Interleave::Nibbles16, B::unpack_transposed(s, blocks))
    }

    #[inline(always)]
    pub(super) fn unpack<B: Block>(s: S, blocks: &[u8]) -> Self {
        if let Some(order) = B::INTERLEAVE {
            let blocks = &blocks[..BlockRows::<B>::SUPERBLOCK_BYTES];
            Self::Interleaved(order, B::unpack_interleaved(s, blocks))
        } else {
            Self::InOrder(B::unpack(s, blocks))
        }
    }

    /// The products with a token's activations.
    #[inline(always)]
    pub(super) fn dot<B: Block>(&self, s: S, x: &ActivationSuperblock) -> Terms<S, B> {
        let (d, sums, scaled_sums) = (s.load_x8(&x.scales), s.load_i32x8(&x.sums), s.load_x8(&x.scaled_sums));
        match self {
            Self::Interleaved(order, weights) => {
                let dots = match B::ENCODING {
                    Encoding::Signed => s.dot_interleaved::<true>(*order, weights.q, &x.qs),
                    _ => s.dot_interleaved::<false>(*order, weights.q, &x.qs),
                };
                Terms::new(s, dots, [weights.scales, weights.mins], d, sums, scaled_sums)
            }
            Self::InOrder(weights) => {
                let is_signed = B::ENCODING == Encoding::Signed;
                let dots = s.dot_each(&weights.q, &x.qs, is_signed, B::ENCODING.bits() <= 5);
                Terms::new(s, dots, [weights.scales[0], weights.mins], d, sums, scaled_sums)
            }
        }
    }
}

/// The products of a superblock whose sub-blocks have no scales of their own.
#[inline(always)]
pub(super) fn dot_superblock<S: QuantKernels, B: Block>(
    s: S,
    blocks: &[u8],
    x: &ActivationSuperblock,
) -> Terms<S, B> {
    OneScale::unpack::<B>(s, blocks).dot(s, x)
}
