//! The second floor, for formats of less than 3 bits a weight: what looking weights up takes,
//! element by element. An instruction set overrides what it has something better for.

use super::block_kernels::{bytes, lanes};
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
    /// The same bytes as little-endian int32.
    #[inline(always)]
    fn as_i32x8(self, a: Self::I8x32) -> Self::I32x8 {
        self.load_i32x8(&dwords(self, a).map(u32::cast_signed))
    }
    /// The bytes of little-endian int32.
    #[inline(always)]
    fn as_i8x32(self, a: Self::I32x8) -> Self::I8x32 {
        self.bytes_of_dwords(lanes(self, a).map(i32::cast_unsigned))
    }
    /// Eight little-endian u16 as int32. Panics if there are fewer.
    #[inline(always)]
    fn widen_u16x8(self, from: &[u8]) -> Self::I32x8 {
        let mut lanes = [0; 8];
        for i in 0..8 {
            lanes[i] = i32::from(u16::from_le_bytes([from[2 * i], from[2 * i + 1]]));
        }
        self.load_i32x8(&lanes)
    }
    /// `a >> N`, as unsigned numbers. `N` is below 32.
    #[inline(always)]
    fn shr_u32x8<const N: u32>(self, a: Self::I32x8) -> Self::I32x8 {
        self.load_i32x8(&lanes(self, a).map(|lane| (lane.cast_unsigned() >> N).cast_signed()))
    }
    /// The four dwords at odd places of `a`, then those of `b`.
    #[inline(always)]
    fn odd_dwords(self, a: Self::I8x32, b: Self::I8x32) -> Self::I32x8 {
        let ([_, a, _, b, _, c, _, d], [_, e, _, f, _, g, _, h]) = (dwords(self, a), dwords(self, b));
        self.load_i32x8(&[a, b, c, d, e, f, g, h].map(u32::cast_signed))
    }
    /// The 16 bytes at odd places of `a`, then those of `b`.
    #[inline(always)]
    fn odd_bytes(self, a: Self::I8x32, b: Self::I8x32) -> Self::I8x32 {
        let (a, b, mut odd) = (bytes(self, a), bytes(self, b), [0; 32]);
        for i in 0..16 {
            (odd[i], odd[i + 16]) = (a[2 * i + 1], b[2 * i + 1]);
        }
        self.load_bytes(&odd)
    }
    /// In byte `i` of each lane, the `N` bits of that lane from bit `N * i` on. `N` is at most 8.
    #[inline(always)]
    fn spread_bits<const N: u32>(self, a: Self::I32x8) -> Self::I8x32 {
        let (lanes, mut spread) = (lanes(self, a), [0; 32]);
        for i in 0..32 {
            spread[i] = (lanes[i / 4] >> (N * (i as u32 % 4)) & ((1 << N) - 1)) as i8;
        }
        self.load_bytes(&spread)
    }
    /// `a`, whose bytes are below 128, with bit 7 such that an even number of each byte's bits are
    /// set.
    #[inline(always)]
    fn with_parity(self, a: Self::I8x32) -> Self::I8x32 {
        let mut a = bytes(self, a);
        for i in 0..32 {
            a[i] |= ((a[i].count_ones() & 1) << 7) as i8;
        }
        self.load_bytes(&a)
    }
    /// The low and the high half of each of the first 16 bytes, one after the other. Panics if
    /// there are fewer.
    #[inline(always)]
    fn spread_nibbles(self, from: &[u8]) -> Self::I8x32 {
        let mut nibbles = [0_u8; 32];
        for (i, byte) in from[..16].iter().enumerate() {
            (nibbles[2 * i], nibbles[2 * i + 1]) = (byte & 15, byte >> 4);
        }
        self.load_bytes(&nibbles)
    }
    /// Numbers of 16 bits, by their low and high bytes.
    #[inline(always)]
    fn zip_bytes(self, low: Self::I8x32, high: Self::I8x32) -> [u16; 32] {
        let (low, high, mut numbers) = (bytes(self, low), bytes(self, high), [0; 32]);
        for i in 0..32 {
            numbers[i] = u16::from_le_bytes([low[i].cast_unsigned(), high[i].cast_unsigned()]);
        }
        numbers
    }
    /// For vector `v` of the order [`Interleave::Points`](super::Interleave): in all eight bytes of
    /// a place, the byte of `a` that belongs to it, which is byte `4g + i` for the `i`th place of
    /// group `g`.
    #[inline(always)]
    fn repeat_place(self, a: Self::I8x32, v: usize) -> Self::I8x32 {
        let (a, mut repeated) = (bytes(self, a), [0; 32]);
        for i in 0..32 {
            repeated[i] = a[i / 16 * 16 + v / 4 * 8 + i / 8 % 2 * 4 + v % 4];
        }
        self.load_bytes(&repeated)
    }
    /// In byte `i`, 255 if its bit `i % 8` is set, or else 0.
    #[inline(always)]
    fn mask_of_bits(self, a: Self::I8x32) -> Self::I8x32 {
        let mut a = bytes(self, a);
        for i in 0..32 {
            a[i] = -(a[i] >> (i % 8) & 1);
        }
        self.load_bytes(&a)
    }
    /// In word `i` of vector `k`, word `k` of vector `i`.
    #[inline(always)]
    fn transpose_words(self, vectors: [Self::I8x32; 4]) -> [Self::I8x32; 4] {
        let (mut from, mut to) = ([[0; 32]; 4], [[0; 32]; 4]);
        for i in 0..4 {
            from[i] = bytes(self, vectors[i]);
        }
        for i in 0..128 {
            to[i / 8 % 4][i / 32 * 8 + i % 8] = from[i / 32][i % 32];
        }
        let [a, b, c, d] = to;
        [self.load_bytes(&a), self.load_bytes(&b), self.load_bytes(&c), self.load_bytes(&d)]
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
    /// `3 * (a * b modulo 256) / 256`, rounded down. Where `b` is the `n`th power of 3, that is
    /// digit `n` to the base 3 of `a / 256`, the first one after the point being digit 0.
    #[inline(always)]
    fn trits(self, a: Self::I8x32, b: Self::I8x32) -> Self::I8x32 {
        let mut products = bytes(self, self.mul_u8x32(a, b));
        for i in 0..32 {
            products[i] = ((u16::from(products[i].cast_unsigned()) * 3) >> 8) as i8;
        }
        self.load_bytes(&products)
    }
}

/// The little-endian dwords of a vector.
#[inline(always)]
fn dwords<S: Simd256>(s: S, a: S::I8x32) -> [u32; 8] {
    let (bytes, mut dwords) = (bytes(s, a), [0; 8]);
    for i in 0..8 {
        let at = |j: usize| bytes[4 * i + j].cast_unsigned();
        dwords[i] = u32::from_le_bytes([at(0), at(1), at(2), at(3)]);
    }
    dwords
}
