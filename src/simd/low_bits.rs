//! The second floor, for formats of less than 3 bits a weight: what looking weights up takes,
//! element by element. An instruction set overrides what it has something better for.

use super::block_kernels::bytes;
use super::{BlockKernels, Simd256};

/// Operations on blocks of 32 int8, for weights that are looked up.
pub(crate) trait LowBitKernels: Simd256 + BlockKernels {
    /// Four little-endian words, one after another.
    #[inline(always)]
    fn bytes_of_words(self, words: [u64; 4]) -> Self::I8x32 {
        let mut bytes = [0_u8; 32];
        for i in 0..4 {
            bytes[8 * i..][..8].copy_from_slice(&words[i].to_le_bytes());
        }
        self.load_bytes(&bytes)
    }
    /// Eight little-endian words of half that length, one after another.
    #[inline(always)]
    fn bytes_of_dwords(self, words: [u32; 8]) -> Self::I8x32 {
        let mut pairs = [0; 4];
        for i in 0..4 {
            pairs[i] = u64::from(words[2 * i]) | u64::from(words[2 * i + 1]) << 32;
        }
        self.bytes_of_words(pairs)
    }
    /// `a + b` modulo 256, byte by byte.
    #[inline(always)]
    fn add_u8x32(self, a: Self::I8x32, b: Self::I8x32) -> Self::I8x32 {
        let (mut a, b) = (bytes(self, a), bytes(self, b));
        for i in 0..32 {
            a[i] = a[i].wrapping_add(b[i]);
        }
        self.load_bytes(&a)
    }
    /// `-a` modulo 256 where a byte of the mask is 255, and `a` where it is 0.
    #[inline(always)]
    fn negate(self, a: Self::I8x32, mask: Self::I8x32) -> Self::I8x32 {
        let (mut a, mask) = (bytes(self, a), bytes(self, mask));
        for i in 0..32 {
            a[i] = (a[i] ^ mask[i]).wrapping_sub(mask[i]);
        }
        self.load_bytes(&a)
    }
    /// `3 * a / 256`, rounded down: the first digit to the base 3 of `a / 256`.
    #[inline(always)]
    fn first_trit(self, a: Self::I8x32) -> Self::I8x32 {
        let mut a = bytes(self, a);
        for i in 0..32 {
            a[i] = ((u16::from(a[i] as u8) * 3) >> 8) as i8;
        }
        self.load_bytes(&a)
    }
}
