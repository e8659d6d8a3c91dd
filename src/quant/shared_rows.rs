//! The products of rows of blocks with a few tokens, which share each superblock once it is
//! unpacked.

use std::ops::Range;

use super::SHARING_TOKENS;
use super::activation::ActivationRows;
use super::block::{Block, GROUP, SUPERBLOCK};
use super::block_rows::{BlockRows, MAX_BYTES, OneScale};
use super::encoding::{Encoding, SubScales};
use super::points;
use super::sub_blocks::{dot_f32_sub_blocks, dot_int_sub_blocks};
use super::walk::{BlockProducts, RowTile, rows_at_once};
use crate::simd::{Interleave, QuantKernels};

impl<B: Block> BlockRows<'_, B> {
    /// The order of a superblock's integers in the products with `n_tokens` tokens.
    pub(super) fn order<S: QuantKernels>(n_tokens: usize) -> Option<Interleave> {
        if Self::is_transposed::<S>(n_tokens) {
            return Some(Interleave::Nibbles16);
        }
        B::INTERLEAVE
    }

    /// Whether it pays to transpose unpacked groups for `n_tokens` tokens: none of them then needs
    /// a sum across lanes.
    #[inline(always)]
    fn is_transposed<S: QuantKernels>(n_tokens: usize) -> bool {
        // What `QuantKernels::dot_interleaved` takes.
        let suits = matches!(B::ENCODING, Encoding::Signed) || B::ENCODING.bits() <= 5;
        suits
            && B::SUB_SCALES == SubScales::None
            && S::min_transposed_tokens(B::INTERLEAVE).is_some_and(|least| n_tokens >= least)
    }

    /// See [`Format::dot_tokens`](super::Format::dot_tokens).
    #[inline(always)]
    pub(super) fn dot_shared<S: QuantKernels>(
        self,
        s: S,
        block: RowTile,
        x: ActivationRows<'_>,
        tokens: Range<usize>,
        products: &mut BlockProducts,
    ) {
        let is_transposed = Self::is_transposed::<S>(x.n_tokens());
        if const { rows_at_once::<S>() == 2 } {
            if is_transposed {
                self.dot_each_row::<S, true, 2>(s, block, x, tokens, products);
            } else {
                self.dot_each_row::<S, false, 2>(s, block, x, tokens, products);
            }
        } else if is_transposed {
            self.dot_each_row::<S, true, 1>(s, block, x, tokens, products);
        } else {
            self.dot_each_row::<S, false, 1>(s, block, x, tokens, products);
        }
    }

    /// All rows of a block, `R` at a time.
    #[inline(always)]
    fn dot_each_row<S: QuantKernels, const TRANSPOSED: bool, const R: usize>(
        self,
        s: S,
        block: RowTile,
        x: ActivationRows<'_>,
        tokens: Range<usize>,
        products: &mut BlockProducts,
    ) {
        let ahead = block.prefetch_distance();
        for i in (0..block.len()).step_by(R) {
            let rows = block.rows(i);
            let sums = self.dot_rows_shared::<S, TRANSPOSED, R>(s, rows, x, tokens.clone(), ahead);
            for r in 0..R {
                products[i + r] = s.hsum_each(sums[r]);
            }
        }
    }

    /// The dot products of some rows with some tokens, spread over lanes. Each superblock is
    /// unpacked once for all of them, and prefetched `ahead` bytes before it is needed.
    #[inline(always)]
    fn dot_rows_shared<S: QuantKernels, const TRANSPOSED: bool, const R: usize>(
        &self,
        s: S,
        row_numbers: [usize; R],
        x: ActivationRows<'_>,
        tokens: Range<usize>,
        ahead: usize,
    ) -> [[S::F32x8; SHARING_TOKENS]; R] {
        let mut acc = [[s.splat_x8(0.0); SHARING_TOKENS]; R];
        let rows = row_numbers.map(|row| self.row(row));
        let n_tokens = x.n_tokens();
        let all = x.superblocks(Self::order::<S>(n_tokens));
        let superblocks = self.n / SUPERBLOCK;
        for i in 0..superblocks {
            let x = &all[i * n_tokens..][tokens.clone()];
            let mut blocks = [&[][..]; R];
            for r in 0..R {
                blocks[r] = &rows[r][i * Self::SUPERBLOCK_BYTES..][..Self::SUPERBLOCK_BYTES];
                s.prefetch_all_nta(blocks[r], ahead, Self::SUPERBLOCK_BYTES);
            }
            if const { Self::OF_POINTS } {
                for r in 0..R {
                    points::dot_shared::<S, B>(s, blocks[r], x, &mut acc[r]);
                }
                continue;
            }
            match B::SUB_SCALES {
                SubScales::None => {
                    let mut weights = [OneScale::<S>::shared::<B, TRANSPOSED>(s, blocks[0]); R];
                    for r in 1..R {
                        weights[r] = OneScale::<S>::shared::<B, TRANSPOSED>(s, blocks[r]);
                    }
                    for (t, x) in x.iter().enumerate() {
                        for r in 0..R {
                            acc[r][t] = weights[r].dot::<B>(s, x).add(s, acc[r][t]);
                        }
                    }
                }
                SubScales::F32 => {
                    let mut weights = [B::unpack(s, blocks[0]); R];
                    for r in 1..R {
                        weights[r] = B::unpack(s, blocks[r]);
                    }
                    for (t, x) in x.iter().enumerate() {
                        for r in 0..R {
                            acc[r][t] = dot_f32_sub_blocks::<S, B>(s, &weights[r], x, acc[r][t]);
                        }
                    }
                }
                SubScales::Int => {
                    let mut weights = [B::unpack_sub_blocks(s, blocks[0]); R];
                    for r in 1..R {
                        weights[r] = B::unpack_sub_blocks(s, blocks[r]);
                    }
                    for (t, x) in x.iter().enumerate() {
                        for r in 0..R {
                            acc[r][t] = dot_int_sub_blocks::<S, B>(s, &weights[r], x, acc[r][t]);
                        }
                    }
                }
            }
        }
        let rest = self.n % SUPERBLOCK / GROUP;
        if const { B::WEIGHTS == GROUP } && rest > 0 {
            let x = &all[superblocks * n_tokens..][tokens];
            for r in 0..R {
                let mut padded = [0; MAX_BYTES];
                let last = self.tail_superblock(row_numbers[r], &mut padded);
                let weights = OneScale::<S>::shared::<B, TRANSPOSED>(s, last);
                for (x, acc) in x.iter().zip(&mut acc[r]) {
                    *acc = weights.dot::<B>(s, x).of_row(s, 0, rest).add(s, *acc);
                }
            }
        }
        acc
    }
}
