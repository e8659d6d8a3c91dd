//! The products of rows of blocks with a few tokens, which share each superblock once it is
//! unpacked.

use std::ops::Range;

use super::SHARING_TOKENS;
use super::activation::{ActivationRows, Activations};
use super::block::{Block, GROUP, GROUPS, SUPERBLOCK};
use super::block_rows::{BlockRows, MAX_BYTES, OneScale};
use super::encoding::{Encoding, SubScales};
use super::points;
use super::sub_blocks::{dot_f32_sub_blocks, dot_int_sub_blocks};
use crate::simd::{Interleave, PREFETCH_DISTANCE, QuantKernels};

impl<B: Block> BlockRows<'_, B> {
    /// The order of a superblock's integers in the products with `n_tokens` tokens.
    pub(super) fn interleave(n_tokens: usize, transposes: bool) -> Option<Interleave> {
        if transposes && Self::is_transposed(n_tokens) {
            return Some(Interleave::Nibbles16);
        }
        B::INTERLEAVE
    }

    /// Whether it pays to transpose unpacked groups for `n_tokens` tokens: none of them then needs
    /// a sum across lanes.
    #[inline(always)]
    fn is_transposed(n_tokens: usize) -> bool {
        // What `QuantKernels::dot_interleaved` takes.
        let suits = matches!(B::ENCODING, Encoding::Signed) || B::ENCODING.bits() <= 5;
        let min_tokens = match B::INTERLEAVE {
            None => 2,
            Some(Interleave::Nibbles32) => 4,
            Some(Interleave::Nibbles16 | Interleave::Points) => usize::MAX,
        };
        suits && B::SUB_SCALES == SubScales::None && n_tokens >= min_tokens
    }

    /// See [`Format::dot_tokens`](super::Format::dot_tokens).
    #[inline(always)]
    pub(super) fn dot_shared<S: QuantKernels>(
        self,
        s: S,
        rows: Range<usize>,
        x: ActivationRows<'_>,
        tokens: Range<usize>,
        products: &mut [[f32; SHARING_TOKENS]],
    ) {
        let transposes = S::TRANSPOSES_GROUPS && Self::is_transposed(x.n_tokens());
        if transposes {
            self.dot_each_row::<S, true>(s, rows, x, tokens, products);
        } else {
            self.dot_each_row::<S, false>(s, rows, x, tokens, products);
        }
    }

    #[inline(always)]
    fn dot_each_row<S: QuantKernels, const TRANSPOSED: bool>(
        self,
        s: S,
        rows: Range<usize>,
        x: ActivationRows<'_>,
        tokens: Range<usize>,
        products: &mut [[f32; SHARING_TOKENS]],
    ) {
        let n = tokens.len();
        let order = Self::interleave(x.n_tokens(), TRANSPOSED);
        let mut of_tokens = [Activations::NONE; SHARING_TOKENS];
        for (t, token) in tokens.enumerate() {
            of_tokens[t] = Activations::row(&x.quantized_row(token), order);
        }
        for (row, products) in rows.zip(products) {
            *products = s.hsum_each(self.dot_row::<S, TRANSPOSED>(s, row, &of_tokens[..n]));
        }
    }

    /// The dot products of a row with some tokens, spread over lanes. Each superblock is unpacked
    /// once for all of them.
    #[inline(always)]
    fn dot_row<S: QuantKernels, const TRANSPOSED: bool>(
        &self,
        s: S,
        row: usize,
        x: &[Activations<'_>],
    ) -> [S::F32x8; SHARING_TOKENS] {
        let mut acc = [s.splat_x8(0.0); SHARING_TOKENS];
        let bytes = self.row(row);
        let superblocks = self.n / SUPERBLOCK;
        let mut ahead = RowPrefetcher { row: bytes, at: PREFETCH_DISTANCE };
        for i in 0..superblocks {
            let blocks = &bytes[i * Self::SUPERBLOCK_BYTES..][..Self::SUPERBLOCK_BYTES];
            ahead.fetch(s, Self::SUPERBLOCK_BYTES);
            if const { Self::OF_POINTS } {
                points::dot_shared::<S, B>(s, blocks, x, i * GROUPS, &mut acc);
                continue;
            }
            match B::SUB_SCALES {
                SubScales::None => {
                    let weights = OneScale::<S>::shared::<B, TRANSPOSED>(s, blocks);
                    for (x, acc) in x.iter().zip(&mut acc) {
                        *acc = weights.dot::<B>(s, x.at(i * GROUPS)).add(s, *acc);
                    }
                }
                SubScales::F32 => {
                    let weights = B::unpack(s, blocks);
                    for (x, acc) in x.iter().zip(&mut acc) {
                        *acc = dot_f32_sub_blocks::<S, B>(s, &weights, x.at(i * GROUPS), *acc);
                    }
                }
                SubScales::Int => {
                    let weights = B::unpack_sub_blocks(s, blocks);
                    for (x, acc) in x.iter().zip(&mut acc) {
                        *acc = dot_int_sub_blocks::<S, B>(s, &weights, x.at(i * GROUPS), *acc);
                    }
                }
            }
        }
        ahead.fetch(s, bytes.len() - superblocks * Self::SUPERBLOCK_BYTES);
        let rest = self.n % SUPERBLOCK / GROUP;
        if rest > 0 && B::WEIGHTS == GROUP {
            let mut padded = [0; MAX_BYTES];
            let weights = OneScale::<S>::shared::<B, TRANSPOSED>(s, self.last_superblock(row, &mut padded));
            for (x, acc) in x.iter().zip(&mut acc) {
                *acc = weights.dot::<B>(s, x.at(superblocks * GROUPS)).of_row(s, 0, rest).add(s, *acc);
            }
        }
        acc
    }
}

/// Has the cache fetch what follows a row, a superblock's bytes at a time.
struct RowPrefetcher<'a> {
    row: &'a [u8],
    /// The next byte, counted from the row's first.
    at: usize,
}

impl RowPrefetcher<'_> {
    #[inline(always)]
    fn fetch<S: QuantKernels>(&mut self, s: S, bytes: usize) {
        s.prefetch_all_nta(self.row, self.at, bytes);
        self.at += bytes;
    }
}
