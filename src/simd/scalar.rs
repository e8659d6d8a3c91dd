//! The oracle: every primitive as plain arithmetic on arrays, and the kernels' portable
//! definitions. The other instruction sets are tested against it.

use super::{BlockKernels, Byte, Kernel, LowBitKernels, QuantKernels, Simd, Simd256};

/// No instruction set at all. Arrays of 8 let the compiler use what every processor of the target
/// has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scalar;

impl Scalar {
    pub(crate) fn detect() -> Option<Self> {
        Some(Self)
    }

    // Inlined, kernels would be compiled into each of their callers.
    #[inline(never)]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }
}

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
    fn load_bytes(self, from: &[impl Byte]) -> Self::I8x32 {
        let mut block = [0; 32];
        for (to, byte) in block.iter_mut().zip(&from[..32]) {
            *to = byte.signed();
        }
        block
    }
    #[inline(always)]
    fn store_bytes(self, value: Self::I8x32, to: &mut [impl Byte]) {
        for (to, value) in to[..32].iter_mut().zip(value) {
            *to = Byte::of(value);
        }
    }
    #[inline(always)]
    fn splat_u8x32(self, value: u8) -> Self::I8x32 {
        [value as i8; 32]
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
    fn add_i32x8(self, a: Self::I32x8, b: Self::I32x8) -> Self::I32x8 {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub_shifted_i32x8(self, a: Self::I32x8, b: Self::I32x8, n: u32) -> Self::I32x8 {
        std::array::from_fn(|i| a[i] - (b[i] << n))
    }
    #[inline(always)]
    fn madd_i16_x8(self, a: Self::I32x8, b: Self::I32x8) -> Self::I32x8 {
        std::array::from_fn(|i| i32::from(a[i] as i16) * i32::from(b[i] as i16) + (a[i] >> 16) * (b[i] >> 16))
    }
    #[inline(always)]
    fn to_f32x8(self, a: Self::I32x8) -> Self::F32x8 {
        a.map(|v| v as f32)
    }
    #[inline(always)]
    fn splat_x8(self, value: f32) -> Self::F32x8 {
        [value; 8]
    }
    #[inline(always)]
    fn splat_f16_x8(self, bits: u16) -> Self::F32x8 {
        [f16_to_f32(bits); 8]
    }
    #[inline(always)]
    fn load_x8(self, from: &[f32]) -> Self::F32x8 {
        std::array::from_fn(|i| from[i])
    }
    #[inline(always)]
    fn store_x8(self, a: Self::F32x8, to: &mut [f32]) {
        to[..8].copy_from_slice(&a);
    }
    #[inline(always)]
    fn add_x8(self, a: Self::F32x8, b: Self::F32x8) -> Self::F32x8 {
        self.add(a, b)
    }
    #[inline(always)]
    fn mul_x8(self, a: Self::F32x8, b: Self::F32x8) -> Self::F32x8 {
        self.mul(a, b)
    }
    #[inline(always)]
    fn mul_add_x8(self, a: Self::F32x8, b: Self::F32x8, c: Self::F32x8) -> Self::F32x8 {
        self.mul_add(a, b, c)
    }
    #[inline(always)]
    fn hsum(self, v: Self::F32x8) -> f32 {
        ((v[0] + v[4]) + (v[1] + v[5])) + ((v[2] + v[6]) + (v[3] + v[7]))
    }
}

impl Simd for Scalar {
    const LANES: usize = LANES;
    const REGISTER_TILE: usize = 1;
    type F32 = [f32; LANES];
    type I32 = [i32; LANES];
    type Quads = [[i8; 4]; LANES];
    const QUADS_BIAS: Option<u32> = None;

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
    fn load_i8(self, from: &[i8]) -> Self::F32 {
        std::array::from_fn(|i| from[i].into())
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
    fn store_i8(self, value: Self::F32, to: &mut [i8]) {
        for (to, v) in to[..LANES].iter_mut().zip(value) {
            *to = v.round() as i8;
        }
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
    fn max_lane(self, a: Self::F32) -> f32 {
        a.iter().fold(f32::NEG_INFINITY, |max, &v| if max > v { max } else { v })
    }
    #[inline(always)]
    fn reduce_to_x8(self, a: Self::F32) -> Self::F32x8 {
        a
    }
    #[inline(always)]
    fn load_i32(self, from: &[i32]) -> Self::I32 {
        std::array::from_fn(|i| from[i])
    }
    #[inline(always)]
    fn store_i32(self, a: Self::I32, to: &mut [i32]) {
        to[..LANES].copy_from_slice(&a);
    }
    #[inline(always)]
    fn splat_i32(self, value: i32) -> Self::I32 {
        [value; LANES]
    }
    #[inline(always)]
    fn sub_shifted_i32(self, a: Self::I32, b: Self::I32, n: u32) -> Self::I32 {
        std::array::from_fn(|i| a[i] - (b[i] << n))
    }
    #[inline(always)]
    fn madd_i16(self, a: Self::I32, b: Self::I32) -> Self::I32 {
        self.madd_i16_x8(a, b)
    }
    #[inline(always)]
    fn to_f32(self, a: Self::I32) -> Self::F32 {
        a.map(|v| v as f32)
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
    // As fast as if it were inlined, and less to compile.
    #[inline(never)]
    fn dot_i8x32(self, acc: Self::I32x8, w: Self::I8x32, x: Self::I8x32) -> Self::I32x8 {
        std::array::from_fn(|lane| {
            (4 * lane..4 * lane + 4).map(|i| i32::from(w[i]) * i32::from(x[i])).sum::<i32>() + acc[lane]
        })
    }
    #[inline(always)]
    fn dot_u8x32(self, acc: Self::I32x8, w: Self::I8x32, x: Self::I8x32) -> Self::I32x8 {
        self.dot_i8x32(acc, w, x)
    }
}

impl BlockKernels for Scalar {}

impl LowBitKernels for Scalar {}

impl QuantKernels for Scalar {
    type I8x64 = [[i8; 32]; 2];
    type I32x16 = [[i32; 8]; 2];
}
