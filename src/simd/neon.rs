//! NEON: every 64-bit ARM processor; and its dot products of int8 (`dotprod`), which nearly all
//! since 2018 have: Apple M1, Neoverse N1, Cortex-A76 and A55 onwards.
//!
//! A vector here is a pair of 128-bit registers. Thirty-two registers then hold as many vectors as
//! AVX2's sixteen, so tiles that fit there fit here, and every sum has twice as many additions
//! under way.
//!
//! What it costs, counted in the code that rustc 1.95 makes, for want of a processor to time it on.
//! Decode's dot product of a row, where it isn't interleaved and ends with sums across lanes, takes
//! this many instructions for 32 weights, loads included:
//!
//! | | Q8_0 | Q4_0 | Q4_K | Q5_K | Q6_K | Q5_0 |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | with `dotprod` | 12.0 | 14.5 | 16.1 | 21.4 | 22.5 | 24.5 |
//! | without | 15.0 | 17.5 | 19.1 | 25.0 | 28.5 | 28.8 |
//!
//! Prefill's tile, 4 rows by 16 tokens, takes 348 for a group of 32: 128 `sdot`, 48 that scale
//! their results, and the rest mostly loads and stores. So where a processor does `sdot` and f32
//! operations at the same rate, 73 % of its peak is the most; without `dotprod` the tile takes 872.
//! None of these loops calls anything. That of the products spills nothing; a tile's sums, for
//! which there are no registers left, are read and written once a group.
//!
//! `i8mm` has `smmla`, two `sdot` in one, but its results are two rows by two tokens. Operands
//! stored as they are now would be shuffled into pairs, and results out of them, with all the
//! instructions that it saves; it pays only where panels and tiles are stored in pairs, and sums
//! stay so until the output.
//!
//! `sdot`, and `fcvtl` from half precision, are written as `asm!`: Rust 1.89 has no stable
//! intrinsic for them.

#![allow(unsafe_code, reason = "functions that ask for NEON: the token proves it")]

mod blocks;
mod dotprod;
mod low_bits;
mod memory;
mod parts;
mod products;
mod widening;

use std::arch::aarch64::*;
use std::ops::Range;

use self::blocks::{add_x8, load_bytes, load_i32x8, load_x8, store_i32x8, store_x8};
pub(super) use self::dotprod::Dotprod;
use self::memory::{load_below_4, load_f32x4, load_i8x16, load_u16x8, store_128, store_below_4};
use self::parts::{sum_registers, widen_f16};
use self::products::Products;
pub(super) use self::widening::Widening;
use super::features::target_feature_impl;
use super::panel::take_off_bias;
use super::{Kernel, PanelGroup, PanelTokens, QuantKernels, Simd, Simd256};

/// Proof that NEON is there, and how int8 are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Neon<P>(P);

impl<P: Products> Neon<P> {
    pub(crate) fn detect() -> Option<Self> {
        P::detect().map(Self)
    }

    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        P::run(self, kernel)
    }
}

target_feature_impl! {
    "neon"
    impl<P: Products> Simd for Neon<P> {
        {
            const LANES: usize = 8;
            const REGISTER_TILE: usize = 2;
            type F32 = float32x4x2_t;
            type I32 = int32x4x2_t;
            type Quads = int8x16x2_t;
            const QUADS_BIAS: Option<u32> = None;

            #[inline(always)]
            fn dot_i8x32(self, acc: int32x4x2_t, w: int8x16x2_t, x: int8x16x2_t) -> int32x4x2_t {
                self.dot4_u8i8(acc, w, x)
            }
            #[inline(always)]
            fn dot_u8x32(self, acc: int32x4x2_t, w: int8x16x2_t, x: int8x16x2_t) -> int32x4x2_t {
                self.dot4_u8i8(acc, w, x)
            }
            #[inline(always)]
            fn dot4_u8i8(self, acc: int32x4x2_t, w: int8x16x2_t, x: int8x16x2_t) -> int32x4x2_t {
                int32x4x2_t(self.0.dot_quads(acc.0, w.0, x.0), self.0.dot_quads(acc.1, w.1, x.1))
            }
        }
        fn splat(value: f32) -> float32x4x2_t {
            float32x4x2_t(vdupq_n_f32(value), vdupq_n_f32(value))
        }
        fn load(from: &[f32]) -> float32x4x2_t {
            load_x8(from)
        }
        fn load_f16(from: &[u16]) -> float32x4x2_t {
            widen_f16(load_u16x8(from))
        }
        fn load_i8(from: &[i8]) -> float32x4x2_t {
            let bytes: [u8; 8] = std::array::from_fn(|i| from[i].cast_unsigned());
            let words = vmovl_s8(vcreate_s8(u64::from_le_bytes(bytes)));
            let (low, high) = (vmovl_s16(vget_low_s16(words)), vmovl_high_s16(words));
            float32x4x2_t(vcvtq_f32_s32(low), vcvtq_f32_s32(high))
        }
        fn load_bf16(from: &[u16]) -> float32x4x2_t {
            let (words, zero) = (load_u16x8(from), vdupq_n_u16(0));
            let (low, high) = (vzip1q_u16(zero, words), vzip2q_u16(zero, words));
            float32x4x2_t(vreinterpretq_f32_u16(low), vreinterpretq_f32_u16(high))
        }
        fn load_partial(from: &[f32]) -> float32x4x2_t {
            assert!(from.len() < 8);
            match from.split_at_checked(4) {
                Some((low, rest)) => float32x4x2_t(load_f32x4(low), load_below_4(rest)),
                None => float32x4x2_t(load_below_4(from), vdupq_n_f32(0.0)),
            }
        }
        fn store(value: float32x4x2_t, to: &mut [f32]) {
            store_x8(value, to);
        }
        fn store_partial(value: float32x4x2_t, to: &mut [f32]) {
            assert!(to.len() < 8);
            match to.split_at_mut_checked(4) {
                Some((low, rest)) => {
                    store_128(vreinterpretq_u8_f32(value.0), low);
                    store_below_4(value.1, rest);
                }
                None => store_below_4(value.0, to),
            }
        }
        fn add(a: float32x4x2_t, b: float32x4x2_t) -> float32x4x2_t {
            add_x8(a, b)
        }
        fn mul(a: float32x4x2_t, b: float32x4x2_t) -> float32x4x2_t {
            float32x4x2_t(vmulq_f32(a.0, b.0), vmulq_f32(a.1, b.1))
        }
        fn div(a: float32x4x2_t, b: float32x4x2_t) -> float32x4x2_t {
            float32x4x2_t(vdivq_f32(a.0, b.0), vdivq_f32(a.1, b.1))
        }
        fn mul_add(a: float32x4x2_t, b: float32x4x2_t, c: float32x4x2_t) -> float32x4x2_t {
            float32x4x2_t(vfmaq_f32(c.0, a.0, b.0), vfmaq_f32(c.1, a.1, b.1))
        }
        fn max(a: float32x4x2_t, b: float32x4x2_t) -> float32x4x2_t {
            // Not `fmax`, in which a NaN on either side wins.
            let max = |a, b| vbslq_f32(vcgtq_f32(a, b), a, b);
            float32x4x2_t(max(a.0, b.0), max(a.1, b.1))
        }
        fn max_abs(a: float32x4x2_t, b: float32x4x2_t) -> float32x4x2_t {
            // The bits of numbers without a sign have the order of the numbers.
            let low = vmaxq_u32(vreinterpretq_u32_f32(a.0), vreinterpretq_u32_f32(vabsq_f32(b.0)));
            let high = vmaxq_u32(vreinterpretq_u32_f32(a.1), vreinterpretq_u32_f32(vabsq_f32(b.1)));
            float32x4x2_t(vreinterpretq_f32_u32(low), vreinterpretq_f32_u32(high))
        }
        fn reduce_to_x8(a: float32x4x2_t) -> float32x4x2_t {
            a
        }
        fn max_lane(a: float32x4x2_t) -> f32 {
            vmaxvq_f32(vmaxq_f32(a.0, a.1))
        }
        fn store_i8(value: float32x4x2_t, to: &mut [i8]) {
            // ties away from zero
            let (low, high) = (vcvtaq_s32_f32(value.0), vcvtaq_s32_f32(value.1));
            let bytes = vmovn_s16(vcombine_s16(vmovn_s32(low), vmovn_s32(high)));
            let bytes = vget_lane_u64::<0>(vreinterpret_u64_s8(bytes)).to_le_bytes();
            to[..8].copy_from_slice(&bytes.map(|byte| byte as i8));
        }
        fn load_i32(from: &[i32]) -> int32x4x2_t {
            load_i32x8(from)
        }
        fn store_i32(a: int32x4x2_t, to: &mut [i32]) {
            store_i32x8(a, to);
        }
        fn splat_i32(value: i32) -> int32x4x2_t {
            int32x4x2_t(vdupq_n_s32(value), vdupq_n_s32(value))
        }
        fn to_f32(a: int32x4x2_t) -> float32x4x2_t {
            blocks::to_f32x8(a)
        }
        fn madd_i16(a: int32x4x2_t, b: int32x4x2_t) -> int32x4x2_t {
            blocks::madd_i16_x8(a, b)
        }
        fn sub_shifted_i32(a: int32x4x2_t, b: int32x4x2_t, n: u32) -> int32x4x2_t {
            blocks::sub_shifted_i32x8(a, b, n)
        }
        fn load_quads(from: &[i8]) -> int8x16x2_t {
            load_bytes(from)
        }
        fn splat_quad(from: &[u8]) -> int8x16x2_t {
            let quad = i32::from_le_bytes([from[0], from[1], from[2], from[3]]);
            let half = vreinterpretq_s8_s32(vdupq_n_s32(quad));
            int8x16x2_t(half, half)
        }
    }
}

target_feature_impl! {
    "neon"
    impl<P: Products> QuantKernels for Neon<P> {
        {
            type I8x64 = [int8x16x2_t; 2];
            type I32x16 = [int32x4x2_t; 2];

            #[inline(always)]
            fn dot_each(self, w: &[Self::I8x64; 4], x: &[i8], _signed: bool, _small: bool) -> int32x4x2_t {
                // One register for each product, so that there are half as many sums across lanes.
                let mut dots = [self.zero_i32x8().0; 8];
                for i in 0..8 {
                    let (w, x) = (w[i / 2][i % 2], self.load_bytes(&x[32 * i..]));
                    dots[i] = self.0.dot(self.0.dot(dots[i], w.0, x.0), w.1, x.1);
                }
                self.sum_registers_each(dots)
            }
            #[inline(always)]
            fn dot_micro_panel<const BITS: u32, const R: usize, const V: usize>(
                self,
                dots: [[int32x4x2_t; V]; R],
                w: PanelGroup<'_, R>,
                x: PanelTokens<'_, Self, V>,
                bias: Option<u32>,
                quads: Range<usize>,
            ) -> [[int32x4x2_t; V]; R] {
                let mut dots = take_off_bias::<Self, BITS, R, V>(self, dots, x, bias);
                // Four quads of a row are one register, and a product takes one of them for all
                // its lanes.
                for four in quads.start / 4..quads.end / 4 {
                    let mut rows = [self.zero_i8x16(); R];
                    for r in 0..R {
                        rows[r] = self.load_register(&w.qs[r][16 * four..]);
                    }
                    let mut tokens = [&x.group[0][..0]; V];
                    for v in 0..V {
                        tokens[v] = &x.group[v][128 * four..][..128];
                    }
                    dots = self.dot_panel_lane::<0, R, V>(dots, rows, tokens);
                    dots = self.dot_panel_lane::<1, R, V>(dots, rows, tokens);
                    dots = self.dot_panel_lane::<2, R, V>(dots, rows, tokens);
                    dots = self.dot_panel_lane::<3, R, V>(dots, rows, tokens);
                }
                dots
            }
        }
        fn hmax_abs_each(a: [float32x4x2_t; 8]) -> float32x4x2_t {
            let mut of_four = [vdupq_n_u32(0); 8];
            for i in 0..8 {
                of_four[i] = vmaxq_u32(vreinterpretq_u32_f32(a[i].0), vreinterpretq_u32_f32(a[i].1));
            }
            let [a, b, c, d, e, f, g, h] = of_four;
            let low = vpmaxq_u32(vpmaxq_u32(a, b), vpmaxq_u32(c, d));
            let high = vpmaxq_u32(vpmaxq_u32(e, f), vpmaxq_u32(g, h));
            float32x4x2_t(vreinterpretq_f32_u32(low), vreinterpretq_f32_u32(high))
        }
        fn mask_from_bits(bits: u32) -> int8x16x2_t {
            // Each byte gets the byte of `bits` that holds its bit, and tests that bit.
            let bytes = vreinterpretq_u8_u32(vdupq_n_u32(bits));
            let bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
            let test = |low, high| {
                let which = vcombine_u8(vdup_n_u8(low), vdup_n_u8(high));
                vreinterpretq_s8_u8(vtstq_u8(vqtbl1q_u8(bytes, which), bit))
            };
            int8x16x2_t(test(0, 1), test(2, 3))
        }
        fn gather_f16<const STRIDE: usize>(from: &[u8]) -> float32x4x2_t {
            let from = &from[..8 * STRIDE - 2];
            let mut numbers = [0; 8];
            for i in 0..8 {
                numbers[i] = u16::from_le_bytes([from[i * STRIDE], from[i * STRIDE + 1]]);
            }
            load_f16(&numbers)
        }
    }
}

/// Operations on single registers.
trait Registers {
    /// 16 zeros.
    fn zero_i8x16(self) -> int8x16_t;
    /// The first 16 bytes. Panics if there are fewer.
    fn load_register(self, from: &[u8]) -> int8x16_t;
    /// In lane `i`, the sum of the lanes of `a[i]`.
    fn sum_registers_each(self, a: [int32x4_t; 8]) -> int32x4x2_t;
}

target_feature_impl! {
    "neon"
    impl<P: Products> Registers for Neon<P> {
        {}
        fn zero_i8x16() -> int8x16_t {
            vdupq_n_s8(0)
        }
        fn load_register(from: &[u8]) -> int8x16_t {
            load_i8x16(from)
        }
        fn sum_registers_each(a: [int32x4_t; 8]) -> int32x4x2_t {
            sum_registers(a)
        }
    }
}

impl<P: Products> Neon<P> {
    /// `dots[r][v]` with the products of quad `LANE` of `w[r]` and of each token's quad `LANE`
    /// added. `x[v]` is (4, 8 tokens, 4).
    #[inline(always)]
    fn dot_panel_lane<const LANE: i32, const R: usize, const V: usize>(
        self,
        mut dots: [[int32x4x2_t; V]; R],
        w: [int8x16_t; R],
        x: [&[i8]; V],
    ) -> [[int32x4x2_t; V]; R] {
        for v in 0..V {
            let x = self.load_quads(&x[v][32 * LANE as usize..]);
            for r in 0..R {
                let int32x4x2_t(low, high) = dots[r][v];
                dots[r][v] = int32x4x2_t(
                    self.0.dot_quads_lane::<LANE>(low, w[r], x.0),
                    self.0.dot_quads_lane::<LANE>(high, w[r], x.1),
                );
            }
        }
        dots
    }
}
