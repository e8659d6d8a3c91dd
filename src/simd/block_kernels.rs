//! The second floor, for one block: operations that quantized formats need and that are made of
//! primitives here, element by element. An instruction set overrides those for which it has
//! something better.

use super::{Byte, Number, Simd256};

/// Operations on blocks of 32 int8, and on eight lanes.
pub(crate) trait BlockKernels: Simd256 {
    /// All of `from`, which has fewer than 32 elements, and then zeros.
    #[inline(always)]
    fn load_bytes_partial(self, from: &[i8]) -> Self::I8x32 {
        let mut block = [0; 32];
        block[..from.len()].copy_from_slice(from);
        self.load_bytes(&block)
    }
    /// The low halves of the first 16 bytes, then their high halves. Panics if there are fewer.
    #[inline(always)]
    fn load_nibbles(self, from: &[u8]) -> Self::I8x32 {
        let mut nibbles = [0_u8; 32];
        for (i, byte) in from[..16].iter().enumerate() {
            (nibbles[i], nibbles[i + 16]) = (byte & 15, byte >> 4);
        }
        self.load_bytes(&nibbles)
    }
    /// The little-endian word's 16 int8, twice.
    #[inline(always)]
    fn splat_u128(self, a: u128) -> Self::I8x32 {
        let mut bytes = [0_u8; 32];
        bytes[..16].copy_from_slice(&a.to_le_bytes());
        bytes[16..].copy_from_slice(&a.to_le_bytes());
        self.load_bytes(&bytes)
    }
    /// `a * b` modulo 256, byte by byte.
    #[inline(always)]
    fn mul_u8x32(self, a: Self::I8x32, b: Self::I8x32) -> Self::I8x32 {
        let (mut a, b) = (bytes(self, a), bytes(self, b));
        for i in 0..32 {
            a[i] = a[i].wrapping_mul(b[i]);
        }
        self.load_bytes(&a)
    }
    /// In dword `g` of vector `k`, bytes `4k` to `4k + 3` of the 16 that begin at byte `g *
    /// stride`. Panics if there are fewer.
    #[inline(always)]
    fn transpose_16x8(self, from: &[impl Byte], stride: usize) -> [Self::I8x32; 4] {
        let mut vectors = [self.splat_u8x32(0); 4];
        for k in 0..4 {
            let mut to = [0_i8; 32];
            for i in 0..32 {
                to[i] = from[i / 4 * stride + 4 * k + i % 4].signed();
            }
            vectors[k] = self.load_bytes(&to);
        }
        vectors
    }
    /// In dword `j` of the first half of vector `k`, bytes `4k` to `4k + 3` of the 32 that begin at
    /// byte `32 j`; in its second half, bytes `4k + 16` to `4k + 19`. Panics if there are fewer.
    #[inline(always)]
    fn transpose_32x4(self, from: &[u8]) -> [Self::I8x32; 4] {
        let mut vectors = [self.splat_u8x32(0); 4];
        for k in 0..4 {
            let mut to = [0_u8; 32];
            for i in 0..32 {
                to[i] = from[i / 4 % 4 * 32 + i / 16 * 16 + 4 * k + i % 4];
            }
            vectors[k] = self.load_bytes(&to);
        }
        vectors
    }
    /// In lane `i` of vector `k`, element `i * stride + k`. Panics if there are fewer.
    #[inline(always)]
    fn transpose_f32_8x4(self, from: &[impl Number], stride: usize) -> [Self::F32x8; 4] {
        let mut vectors = [self.splat_x8(0.0); 4];
        for k in 0..4 {
            let mut to = [0.0; 8];
            for i in 0..8 {
                to[i] = from[i * stride + k].get();
            }
            vectors[k] = self.load_x8(&to);
        }
        vectors
    }
    /// The `n` lanes from `first` on, then zeros. `first + n` is at most 8.
    #[inline(always)]
    fn extract_lanes(self, a: Self::F32x8, first: usize, n: usize) -> Self::F32x8 {
        let mut lanes = [0.0; 16];
        self.store_x8(a, &mut lanes);
        lanes[first + n..].fill(0.0);
        self.load_x8(&lanes[first..])
    }

    /// The first 16 int8 as int16, two in a lane, the first in its low half; then the others.
    #[inline(always)]
    fn widen_i8_to_i16(self, a: Self::I8x32) -> [Self::I32x8; 2] {
        let (bytes, mut pairs) = (bytes(self, a), [0; 16]);
        for i in 0..16 {
            pairs[i] = i32::from(bytes[2 * i]) & 0xffff | i32::from(bytes[2 * i + 1]) << 16;
        }
        [self.load_i32x8(&pairs), self.load_i32x8(&pairs[8..])]
    }
    /// The eight int8 of a little-endian word, as int32.
    #[inline(always)]
    fn widen_i8x8(self, a: u64) -> Self::I32x8 {
        let mut lanes = [0; 8];
        for (lane, byte) in lanes.iter_mut().zip(a.to_le_bytes()) {
            *lane = i32::from(byte as i8);
        }
        self.load_i32x8(&lanes)
    }
    /// The int8 of a little-endian word, as int32: those at even places, and those at odd ones.
    #[inline(always)]
    fn widen_i8_even_odd(self, a: u128) -> [Self::I32x8; 2] {
        let (bytes, mut lanes) = (a.to_le_bytes(), [0; 16]);
        for i in 0..16 {
            lanes[i % 2 * 8 + i / 2] = i32::from(bytes[i] as i8);
        }
        [self.load_i32x8(&lanes), self.load_i32x8(&lanes[8..])]
    }
    /// Two numbers that fit int16 in each lane, the first in its low half.
    #[inline(always)]
    fn pack_i16(self, low: Self::I32x8, high: Self::I32x8) -> Self::I32x8 {
        let (mut pairs, high) = (lanes(self, low), lanes(self, high));
        for i in 0..8 {
            pairs[i] = pairs[i] & 0xffff | high[i] << 16;
        }
        self.load_i32x8(&pairs)
    }
    /// The low and the high int16 of each lane.
    #[inline(always)]
    fn unpack_i16(self, a: Self::I32x8) -> [Self::I32x8; 2] {
        let (mut low, mut high) = (lanes(self, a), lanes(self, a));
        for i in 0..8 {
            (low[i], high[i]) = (i32::from(low[i] as i16), high[i] >> 16);
        }
        [self.load_i32x8(&low), self.load_i32x8(&high)]
    }

    /// In lane `i`, the sum of lanes 0 to 3 of `a[i]`, and that of lanes 4 to 7: sixteen reductions
    /// at once cost little more than two. `SMALL` says that each lane is the sum of four products
    /// of a number within 0..=31 and an int8.
    #[inline(always)]
    fn sum_halves_each<const SMALL: bool>(self, a: [Self::I32x8; 8]) -> [Self::I32x8; 2] {
        let mut sums = [0; 16];
        for i in 0..8 {
            let lanes = lanes(self, a[i]);
            sums[i] = lanes[..4].iter().sum();
            sums[i + 8] = lanes[4..].iter().sum();
        }
        [self.load_i32x8(&sums), self.load_i32x8(&sums[8..])]
    }
    /// In lane `i`, the sum of the lanes of `a[i]`.
    #[inline(always)]
    fn sum_each(self, a: [Self::I32x8; 8]) -> Self::I32x8 {
        let [low, high] = self.sum_halves_each::<false>(a);
        self.add_i32x8(low, high)
    }
    /// In lane `i`, the sum of lanes 0 to 3 of `a[i]` times the int8 `2i` of `scales`, and that of
    /// lanes 4 to 7 times the int8 `2i + 1`. Each lane of `a` is the sum of four products of a
    /// number within 0..=31 and an int8.
    #[inline(always)]
    fn sum_scaled_halves_each(self, a: [Self::I32x8; 8], scales: Self::I8x32) -> Self::I32x8 {
        let [low, high] = self.sum_halves_each::<true>(a);
        let (mut sums, high, scales) = (lanes(self, low), lanes(self, high), bytes(self, scales));
        for i in 0..8 {
            sums[i] = sums[i] * i32::from(scales[2 * i]) + high[i] * i32::from(scales[2 * i + 1]);
        }
        self.load_i32x8(&sums)
    }
    /// In each half, the sums of neighbors in that half of `a`, then those of `b`: two and two.
    #[inline(always)]
    fn sum_neighbors(self, a: Self::I32x8, b: Self::I32x8) -> Self::I32x8 {
        let (a, b, mut sums) = (lanes(self, a), lanes(self, b), [0; 8]);
        for i in 0..8 {
            let (from, at) = (if i % 4 < 2 { a } else { b }, i / 4 * 4 + i % 2 * 2);
            sums[i] = from[at] + from[at + 1];
        }
        self.load_i32x8(&sums)
    }
    /// In lane `2i`, the sum of lanes `i` and `i + 4` of `even`, in lane `2i + 1` those of `odd`.
    #[inline(always)]
    fn sum_halves_alternately(self, even: Self::I32x8, odd: Self::I32x8) -> Self::I32x8 {
        let (even, odd, mut sums) = (lanes(self, even), lanes(self, odd), [0; 8]);
        for i in 0..4 {
            (sums[2 * i], sums[2 * i + 1]) = (even[i] + even[i + 4], odd[i] + odd[i + 4]);
        }
        self.load_i32x8(&sums)
    }
}

/// The elements of a block.
#[inline(always)]
pub(super) fn bytes<S: Simd256>(s: S, a: S::I8x32) -> [i8; 32] {
    let mut bytes = [0; 32];
    s.store_bytes(a, &mut bytes);
    bytes
}

/// The lanes of a vector.
#[inline(always)]
pub(super) fn lanes<S: Simd256>(s: S, a: S::I32x8) -> [i32; 8] {
    let mut lanes = [0; 8];
    s.store_i32x8(a, &mut lanes);
    lanes
}
