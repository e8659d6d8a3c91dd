//! The oracle: every operation as plain arithmetic on arrays. The other instruction sets are tested
//! against it.

use super::{Byte, Interleave, Number, Simd, Simd256};

/// No instruction set at all. Arrays of 8 let the compiler use what every processor of the target
/// has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scalar;

const LANES: usize = 8;

/// `f` of each pair of lanes.
#[inline(always)]
fn zip(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

/// Not [`half::f16::to_f32`], which asks the processor each time.
#[inline(always)]
fn f16_to_f32(bits: u16) -> f32 {
    half::f16::from_bits(bits).to_f32_const()
}

impl Simd256 for Scalar {
    type I8x32 = [i8; 32];
    type I32x8 = [i32; 8];
    type F32x8 = [f32; 8];

    #[inline(always)]
    fn load_i8x32(self, from: &[i8]) -> Self::I8x32 {
        std::array::from_fn(|i| from[i])
    }
    #[inline(always)]
    fn splat_u8x32(self, value: u8) -> Self::I8x32 {
        [value as i8; 32]
    }
    #[inline(always)]
    fn load_u8x32(self, from: &[u8]) -> Self::I8x32 {
        std::array::from_fn(|i| from[i] as i8)
    }
    #[inline(always)]
    fn load_nibbles(self, from: &[u8]) -> Self::I8x32 {
        std::array::from_fn(|i| if i < 16 { from[i] & 15 } else { from[i - 16] >> 4 } as i8)
    }
    #[inline(always)]
    fn shr_mask<const SHIFT: u32>(self, a: Self::I8x32, mask: u8) -> Self::I8x32 {
        a.map(|byte| (byte as u8 >> SHIFT & mask) as i8)
    }
    #[inline(always)]
    fn shl_mask<const SHIFT: u32>(self, a: Self::I8x32, mask: u8) -> Self::I8x32 {
        a.map(|byte| ((byte as u8 & mask) << SHIFT) as i8)
    }
    #[inline(always)]
    fn and_u8x32(self, a: Self::I8x32, b: Self::I8x32) -> Self::I8x32 {
        std::array::from_fn(|i| a[i] & b[i])
    }
    #[inline(always)]
    fn or_u8x32(self, a: Self::I8x32, b: Self::I8x32) -> Self::I8x32 {
        std::array::from_fn(|i| a[i] | b[i])
    }
    #[inline(always)]
    fn shuffle(self, table: &[i8; 16], a: Self::I8x32) -> Self::I8x32 {
        a.map(|i| table[i as usize & 15])
    }
    #[inline(always)]
    fn load_i32x8(self, from: &[i32]) -> Self::I32x8 {
        std::array::from_fn(|i| from[i])
    }
    #[inline(always)]
    fn store_i32x8(self, a: Self::I32x8, to: &mut [i32]) {
        to[..8].copy_from_slice(&a);
    }
    #[inline(always)]
    fn zero_i32x8(self) -> Self::I32x8 {
        [0; 8]
    }
    #[inline(always)]
    fn sum_halves_each<const SMALL: bool>(self, a: [Self::I32x8; 8]) -> [Self::I32x8; 2] {
        [a.map(|v| v[..4].iter().sum()), a.map(|v| v[4..].iter().sum())]
    }
    #[inline(always)]
    fn sum_scaled_halves_each(self, a: [Self::I32x8; 8], scales: Self::I8x32) -> Self::I32x8 {
        let [low, high] = self.sum_halves_each::<true>(a);
        std::array::from_fn(|i| low[i] * i32::from(scales[2 * i]) + high[i] * i32::from(scales[2 * i + 1]))
    }
    #[inline(always)]
    fn splat_u128(self, a: u128) -> Self::I8x32 {
        let bytes = a.to_le_bytes();
        std::array::from_fn(|i| bytes[i % 16] as i8)
    }
    #[inline(always)]
    fn mul_u8x32(self, a: Self::I8x32, b: Self::I8x32) -> Self::I8x32 {
        std::array::from_fn(|i| a[i].wrapping_mul(b[i]))
    }
    #[inline(always)]
    fn widen_i8_to_i16(self, a: Self::I8x32) -> [Self::I32x8; 2] {
        let wide = a.map(i32::from);
        [0, 16].map(|first| {
            let pair = |i: usize| wide[first + 2 * i] & 0xffff | wide[first + 2 * i + 1] << 16;
            std::array::from_fn(pair)
        })
    }
    #[inline(always)]
    fn pack_i16(self, low: Self::I32x8, high: Self::I32x8) -> Self::I32x8 {
        std::array::from_fn(|i| low[i] & 0xffff | high[i] << 16)
    }
    #[inline(always)]
    fn unpack_i16(self, a: Self::I32x8) -> [Self::I32x8; 2] {
        [a.map(|pair| i32::from(pair as i16)), a.map(|pair| pair >> 16)]
    }
    #[inline(always)]
    fn madd_i16_x8(self, a: Self::I32x8, b: Self::I32x8) -> Self::I32x8 {
        std::array::from_fn(|i| i32::from(a[i] as i16) * i32::from(b[i] as i16) + (a[i] >> 16) * (b[i] >> 16))
    }
    #[inline(always)]
    fn sub_shifted_i32x8(self, a: Self::I32x8, b: Self::I32x8, n: u32) -> Self::I32x8 {
        std::array::from_fn(|i| a[i] - (b[i] << n))
    }
    #[inline(always)]
    fn add_i32x8(self, a: Self::I32x8, b: Self::I32x8) -> Self::I32x8 {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn widen_i8x8(self, a: u64) -> Self::I32x8 {
        a.to_le_bytes().map(|byte| i32::from(byte as i8))
    }
    #[inline(always)]
    fn widen_i8_even_odd(self, a: u128) -> [Self::I32x8; 2] {
        let bytes = a.to_le_bytes();
        [0, 1].map(|odd| std::array::from_fn(|i| i32::from(bytes[2 * i + odd] as i8)))
    }
    #[inline(always)]
    fn splat_f16_x8(self, bits: u16) -> Self::F32x8 {
        [f16_to_f32(bits); 8]
    }
    #[inline(always)]
    fn splat_x8(self, value: f32) -> Self::F32x8 {
        [value; 8]
    }
    #[inline(always)]
    fn load_x8(self, from: &[f32]) -> Self::F32x8 {
        std::array::from_fn(|i| from[i])
    }
    #[inline(always)]
    fn mul_add_x8(self, a: Self::F32x8, b: Self::F32x8, c: Self::F32x8) -> Self::F32x8 {
        self.mul_add(a, b, c)
    }
    #[inline(always)]
    fn to_f32x8(self, a: Self::I32x8) -> Self::F32x8 {
        a.map(|v| v as f32)
    }
    #[inline(always)]
    fn from_array(self, lanes: [f32; 8]) -> Self::F32x8 {
        lanes
    }
    #[inline(always)]
    fn add_x8(self, a: Self::F32x8, b: Self::F32x8) -> Self::F32x8 {
        self.add(a, b)
    }
    #[inline(always)]
    fn transpose_f32_8x4(self, from: &[impl Number], stride: usize) -> [Self::F32x8; 4] {
        std::array::from_fn(|k| std::array::from_fn(|i| from[i * stride + k].get()))
    }
    #[inline(always)]
    fn store_x8(self, a: Self::F32x8, to: &mut [f32]) {
        to[..8].copy_from_slice(&a);
    }
    #[inline(always)]
    fn mul_x8(self, a: Self::F32x8, b: Self::F32x8) -> Self::F32x8 {
        self.mul(a, b)
    }
    #[inline(always)]
    fn hsum(self, v: Self::F32x8) -> f32 {
        ((v[0] + v[4]) + (v[1] + v[5])) + ((v[2] + v[6]) + (v[3] + v[7]))
    }
    #[inline(always)]
    fn hsum_4(self, a: [Self::F32x8; 4]) -> [f32; 4] {
        a.map(|v| self.hsum(v))
    }
    #[inline(always)]
    fn transpose_16x8(self, from: &[impl Byte], stride: usize) -> [Self::I8x32; 4] {
        std::array::from_fn(|k| std::array::from_fn(|i| from[i / 4 * stride + 4 * k + i % 4].signed()))
    }
    #[inline(always)]
    fn transpose_32x4(self, from: &[u8]) -> [Self::I8x32; 4] {
        std::array::from_fn(|k| {
            std::array::from_fn(|i| from[i / 4 % 4 * 32 + i / 16 * 16 + 4 * k + i % 4] as i8)
        })
    }
    #[inline(always)]
    fn sum_halves_alternately(self, even: Self::I32x8, odd: Self::I32x8) -> Self::I32x8 {
        std::array::from_fn(|i| [even, odd][i % 2][i / 2] + [even, odd][i % 2][i / 2 + 4])
    }
    #[inline(always)]
    fn extract_lanes(self, a: Self::F32x8, first: usize, n: usize) -> Self::F32x8 {
        std::array::from_fn(|i| if i < n { a[first + i] } else { 0.0 })
    }
    #[inline(always)]
    fn prefetch(self, _line: *const u8) {}
    #[inline(always)]
    fn prefetch_nta(self, _line: *const u8) {}
    #[inline(always)]
    fn store_bytes(self, value: Self::I8x32, to: &mut [impl Byte]) {
        for (to, value) in to[..32].iter_mut().zip(value) {
            *to = Byte::of(value);
        }
    }
}

impl Simd for Scalar {
    const LANES: usize = LANES;
    const REGISTER_TILE: usize = 1;
    type F32 = [f32; LANES];
    type I32 = [i32; LANES];
    type Quads = [[i8; 4]; LANES];
    const QUADS_BIAS: Option<u32> = None;
    super::pairs_of_blocks!();

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F32 {
        [value; LANES]
    }
    #[inline(always)]
    fn load(self, from: &[f32]) -> Self::F32 {
        std::array::from_fn(|i| from[i])
    }
    #[inline(always)]
    fn load_f16(self, from: &[u16]) -> Self::F32 {
        std::array::from_fn(|i| f16_to_f32(from[i]))
    }
    #[inline(always)]
    fn load_bf16(self, from: &[u16]) -> Self::F32 {
        std::array::from_fn(|i| f32::from_bits(u32::from(from[i]) << 16))
    }
    #[inline(always)]
    fn load_partial(self, from: &[f32]) -> Self::F32 {
        std::array::from_fn(|i| from.get(i).copied().unwrap_or(0.0))
    }
    #[inline(always)]
    fn store(self, value: Self::F32, to: &mut [f32]) {
        to[..LANES].copy_from_slice(&value);
    }
    #[inline(always)]
    fn store_partial(self, value: Self::F32, to: &mut [f32]) {
        to.copy_from_slice(&value[..to.len()]);
    }
    #[inline(always)]
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32 {
        // Not f32::mul_add, which is a call into the C library where the target has no such
        // instruction.
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn fused_mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32 {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn max_abs(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        std::array::from_fn(|i| f32::from_bits(a[i].to_bits().max(b[i].abs().to_bits())))
    }
    #[inline(always)]
    fn hmax_abs_each(self, a: [Self::F32; 8]) -> Self::F32x8 {
        a.map(|sizes| f32::from_bits(sizes.iter().fold(0, |max, size| size.to_bits().max(max))))
    }
    #[inline(always)]
    fn reduce_to_x8(self, a: Self::F32) -> Self::F32x8 {
        a
    }
    #[inline(always)]
    fn max_lane(self, a: Self::F32) -> f32 {
        a.iter().fold(f32::NEG_INFINITY, |max, &v| if max > v { max } else { v })
    }
    #[inline(always)]
    fn store_i8(self, value: Self::F32, to: &mut [i8]) {
        for (to, v) in to[..LANES].iter_mut().zip(value) {
            *to = v.round() as i8;
        }
    }
    #[inline(always)]
    fn mask_from_bits(self, bits: u32) -> Self::I8x32 {
        std::array::from_fn(|i| -((bits >> i & 1) as i8))
    }
    #[inline(always)]
    fn dot_i8x32(self, acc: Self::I32x8, w: Self::I8x32, x: Self::I8x32) -> Self::I32x8 {
        std::array::from_fn(|lane| {
            (4 * lane..4 * lane + 4).map(|i| i32::from(w[i]) * i32::from(x[i])).sum::<i32>() + acc[lane]
        })
    }
    #[inline(always)]
    fn dot_u8x32(self, acc: Self::I32x8, w: Self::I8x32, x: Self::I8x32) -> Self::I32x8 {
        self.dot_i8x32(acc, w, x)
    }
    #[inline(always)]
    fn remove_bias(self, dots: Self::I32x8, _x_sums: Self::I32x8) -> Self::I32x8 {
        dots
    }
    #[inline(always)]
    fn gather_f16<const STRIDE: usize>(self, from: &[u8]) -> Self::F32x8 {
        std::array::from_fn(|i| f16_to_f32(u16::from_le_bytes([from[i * STRIDE], from[i * STRIDE + 1]])))
    }
    #[inline(always)]
    fn load_quads(self, from: &[i8]) -> Self::Quads {
        std::array::from_fn(|i| std::array::from_fn(|j| from[4 * i + j]))
    }
    #[inline(always)]
    fn splat_quad(self, from: &[u8]) -> Self::Quads {
        [std::array::from_fn(|j| from[j] as i8); LANES]
    }
    #[inline(always)]
    fn dot4_u8i8(self, acc: Self::I32, w: Self::Quads, x: Self::Quads) -> Self::I32 {
        std::array::from_fn(|i| (0..4).map(|j| i32::from(w[i][j]) * i32::from(x[i][j])).sum::<i32>() + acc[i])
    }
    #[inline(always)]
    fn dot4_i8i8(self, acc: Self::I32, w: Self::Quads, x: Self::Quads) -> Self::I32 {
        self.dot4_u8i8(acc, w, x)
    }
    #[inline(always)]
    fn quads_of_i8x32(self, w: Self::I8x32) -> Self::I8x32 {
        w
    }
    #[inline(always)]
    fn load_i32(self, from: &[i32]) -> Self::I32 {
        std::array::from_fn(|i| from[i])
    }
    #[inline(always)]
    fn sub_shifted_i32(self, a: Self::I32, b: Self::I32, n: u32) -> Self::I32 {
        std::array::from_fn(|i| a[i] - (b[i] << n))
    }
    #[inline(always)]
    fn splat_i32(self, value: i32) -> Self::I32 {
        [value; LANES]
    }
    #[inline(always)]
    fn madd_i16(self, a: Self::I32, b: Self::I32) -> Self::I32 {
        self.madd_i16_x8(a, b)
    }
    #[inline(always)]
    fn zero_i32(self) -> Self::I32 {
        [0; LANES]
    }
    #[inline(always)]
    fn to_f32(self, a: Self::I32) -> Self::F32 {
        a.map(|v| v as f32)
    }
}
