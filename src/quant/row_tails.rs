//! What is left of a row of blocks after its last superblock: fewer groups than it has lanes.

use super::activation::ActivationSuperblock;
use super::block::{Block, SUPERBLOCK};
use super::block_rows::{BlockRows, MAX_BYTES, dot_superblock};
use crate::simd::QuantKernels;

impl<'a, B: Block> BlockRows<'a, B> {
    /// What is left of a row after its last superblock, as a superblock: the next row follows, or
    /// zeros.
    #[inline(always)]
    pub(super) fn tail_superblock<'b>(&self, row: usize, padded: &'b mut [u8; MAX_BYTES]) -> &'b [u8]
    where
        'a: 'b,
    {
        let rest = &self.bytes[(row * self.n + self.n / SUPERBLOCK * SUPERBLOCK) / B::WEIGHTS * B::BYTES..];
        if rest.len() >= Self::SUPERBLOCK_BYTES {
            return &rest[..Self::SUPERBLOCK_BYTES];
        }
        padded[..rest.len()].copy_from_slice(rest);
        &padded[..Self::SUPERBLOCK_BYTES]
    }

    /// The last `G` groups of `R` rows, as a superblock.
    #[inline(always)]
    pub(super) fn copy_tails<const R: usize, const G: usize>(
        &self,
        rows: [&[u8]; R],
        to: &mut [u8; MAX_BYTES],
    ) {
        let start = self.n / SUPERBLOCK * Self::SUPERBLOCK_BYTES;
        for r in 0..R {
            to[r * G * B::BYTES..][..G * B::BYTES].copy_from_slice(&rows[r][start..][..G * B::BYTES]);
        }
    }

    /// Adds the products of the last `G` groups of `R` rows, which make up a superblock: a token's
    /// last groups are repeated for it.
    #[inline(always)]
    pub(super) fn add_tails<S: QuantKernels, const R: usize, const G: usize>(
        &self,
        s: S,
        tails: &[u8; MAX_BYTES],
        x: &ActivationSuperblock,
        mut acc: [S::F32x8; R],
    ) -> [S::F32x8; R] {
        let tails = dot_superblock::<S, B>(s, &tails[..Self::SUPERBLOCK_BYTES], x);
        for r in 0..R {
            acc[r] = tails.of_row(s, r * G, G).add(s, acc[r]);
        }
        acc
    }
}
