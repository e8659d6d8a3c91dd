//! The oracle: every operation as plain arithmetic on arrays. The other instruction sets are tested against it.

use super::Simd;

/// No instruction set at all. Arrays of 8 let the compiler use what every processor of the target has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scalar;

const LANES: usize = 8;

/// `f` of each pair of lanes.
#[inline(always)]
fn zip(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Scalar {
    const LANES: usize = LANES;
    type F32 = [f32; LANES];
    type I8x32 = [i8; 32];
    type I32x8 = [i32; 8];
    type F32x8 = [f32; 8];

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F32 {
        [value; LANES]
    }
    #[inline(always)]
    fn load(self, from: &[f32]) -> Self::F32 {
        std::array::from_fn(|i| from[i])
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
        // Not f32::mul_add, which is a call into the C library where the target has no such instruction.
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
    fn abs(self, a: Self::F32) -> Self::F32 {
        a.map(f32::abs)
    }
    #[inline(always)]
    fn fold_x8(self, a: Self::F32) -> Self::F32x8 {
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
    fn load_i8x32(self, from: &[i8]) -> Self::I8x32 {
        std::array::from_fn(|i| from[i])
    }
    #[inline(always)]
    fn load_i32x8(self, from: &[i32]) -> Self::I32x8 {
        std::array::from_fn(|i| from[i])
    }
    #[inline(always)]
    fn zero_i32x8(self) -> Self::I32x8 {
        [0; 8]
    }
    #[inline(always)]
    fn dot_i8x32(self, acc: Self::I32x8, w: Self::I8x32, x: Self::I8x32) -> Self::I32x8 {
        std::array::from_fn(|lane| {
            (4 * lane..4 * lane + 4).map(|i| i32::from(w[i]) * i32::from(x[i])).sum::<i32>() + acc[lane]
        })
    }
    #[inline(always)]
    fn dot_unbias(self, dots: Self::I32x8, _x_sums: Self::I32x8) -> Self::I32x8 {
        dots
    }
    #[inline(always)]
    fn sum_i32x8_each(self, a: [Self::I32x8; 8]) -> Self::I32x8 {
        a.map(|v| v.iter().sum())
    }
    #[inline(always)]
    fn to_f32x8(self, a: Self::I32x8) -> Self::F32x8 {
        a.map(|v| v as f32)
    }
    #[inline(always)]
    fn set_x8(self, lanes: [f32; 8]) -> Self::F32x8 {
        lanes
    }
    #[inline(always)]
    fn lanes_x8(self, a: Self::F32x8) -> [f32; 8] {
        a
    }
    #[inline(always)]
    fn mul_x8(self, a: Self::F32x8, b: Self::F32x8) -> Self::F32x8 {
        self.mul(a, b)
    }
    #[inline(always)]
    fn sum_x8_each<const N: usize>(self, a: [Self::F32x8; N]) -> [f32; N] {
        a.map(|v| v.iter().sum())
    }
}
