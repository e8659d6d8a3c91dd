//! AVX2 with FMA and F16C: every x86-64 processor since Haswell (2013) and Zen (2017); and its dot
//! products of int8 (AVX-VNNI), which clients have since Alder Lake (2021) and Zen 5 (2024).

#![allow(unsafe_code, reason = "intrinsics: the token proves that the processor has them")]

use std::arch::x86_64::*;
use std::ops::Range;

pub(super) mod parts;
mod products;

use self::parts::{
    first_lanes, hsum_each, load_two, max_of_each, nibbles, round_away_x8, sum_halves_each,
    sum_scaled_halves_each, transpose_dwords,
};
use self::products::Products;
pub(super) use self::products::{Vnni, Widening};
use super::{Byte, Interleave, Kernel, Number, Simd};

/// Proof that AVX2, FMA and F16C are there, and how int8 are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx2<P>(P);

impl<P: Products> Avx2<P> {
    pub(crate) fn detect() -> Option<Self> {
        P::detect().map(Self)
    }

    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        P::run(self, kernel)
    }
}

/// The operations on 256-bit blocks that AVX-512 has no better instructions for, in an `impl Simd`.
macro_rules! blocks_of_256_bits {
    () => {
        #[inline(always)]
        fn load_i8x32(self, from: &[i8]) -> __m256i {
            let from = &from[..32];
            // SAFETY: as above.
            unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
        }
        #[inline(always)]
        fn splat_u8x32(self, value: u8) -> __m256i {
            // SAFETY: as above.
            unsafe { _mm256_set1_epi8(value as i8) }
        }
        #[inline(always)]
        fn load_u8x32(self, from: &[u8]) -> __m256i {
            let from = &from[..32];
            // SAFETY: as above.
            unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
        }
        #[inline(always)]
        fn load_nibbles(self, from: &[u8]) -> __m256i {
            let from = &from[..16];
            // SAFETY: as above.
            unsafe { nibbles(_mm_loadu_si128(from.as_ptr().cast())) }
        }
        #[inline(always)]
        fn shr_mask<const SHIFT: u32>(self, a: __m256i, mask: u8) -> __m256i {
            // SAFETY: as above.
            unsafe {
                _mm256_and_si256(
                    _mm256_srl_epi16(a, _mm_cvtsi32_si128(SHIFT as i32)),
                    _mm256_set1_epi8(mask as i8),
                )
            }
        }
        #[inline(always)]
        fn shl_mask<const SHIFT: u32>(self, a: __m256i, mask: u8) -> __m256i {
            // SAFETY: as above.
            unsafe {
                _mm256_sll_epi16(
                    _mm256_and_si256(a, _mm256_set1_epi8(mask as i8)),
                    _mm_cvtsi32_si128(SHIFT as i32),
                )
            }
        }
        #[inline(always)]
        fn and_u8x32(self, a: __m256i, b: __m256i) -> __m256i {
            // SAFETY: as above.
            unsafe { _mm256_and_si256(a, b) }
        }
        #[inline(always)]
        fn or_u8x32(self, a: __m256i, b: __m256i) -> __m256i {
            // SAFETY: as above.
            unsafe { _mm256_or_si256(a, b) }
        }
        #[inline(always)]
        fn shuffle(self, table: &[i8; 16], a: __m256i) -> __m256i {
            // SAFETY: as above.
            unsafe {
                let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
                _mm256_shuffle_epi8(table, a)
            }
        }
        #[inline(always)]
        fn load_i32x8(self, from: &[i32]) -> __m256i {
            let from = &from[..8];
            // SAFETY: as above.
            unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
        }
        #[inline(always)]
        fn store_i32x8(self, a: __m256i, to: &mut [i32]) {
            let to = &mut to[..8];
            // SAFETY: as above.
            unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), a) }
        }
        #[inline(always)]
        fn zero_i32x8(self) -> __m256i {
            // SAFETY: as above.
            unsafe { _mm256_setzero_si256() }
        }
        #[inline(always)]
        fn sum_halves_each<const SMALL: bool>(self, a: [__m256i; 8]) -> [__m256i; 2] {
            // SAFETY: as above.
            unsafe { sum_halves_each::<SMALL>(a) }
        }
        #[inline(always)]
        fn sum_scaled_halves_each(self, a: [__m256i; 8], scales: __m256i) -> __m256i {
            // SAFETY: as above.
            unsafe { sum_scaled_halves_each(a, scales) }
        }
        #[inline(always)]
        fn splat_u128(self, a: u128) -> __m256i {
            // SAFETY: as above.
            unsafe { _mm256_broadcastsi128_si256(_mm_set_epi64x((a >> 64) as i64, a as i64)) }
        }
        #[inline(always)]
        fn mul_u8x32(self, a: __m256i, b: __m256i) -> __m256i {
            // SAFETY: as above. The low byte of a product of words is that of their low bytes.
            unsafe {
                let even = _mm256_mullo_epi16(a, b);
                let odd = _mm256_mullo_epi16(_mm256_srli_epi16::<8>(a), _mm256_srli_epi16::<8>(b));
                let low = _mm256_and_si256(even, _mm256_set1_epi16(0xff));
                _mm256_or_si256(low, _mm256_slli_epi16::<8>(odd))
            }
        }
        #[inline(always)]
        fn widen_i8_to_i16(self, a: __m256i) -> [__m256i; 2] {
            // SAFETY: as above.
            unsafe {
                let second = _mm256_extracti128_si256::<1>(a);
                [_mm256_cvtepi8_epi16(_mm256_castsi256_si128(a)), _mm256_cvtepi8_epi16(second)]
            }
        }
        #[inline(always)]
        fn pack_i16(self, low: __m256i, high: __m256i) -> __m256i {
            // SAFETY: as above.
            unsafe { _mm256_blend_epi16::<0b1010_1010>(low, _mm256_slli_epi32::<16>(high)) }
        }
        #[inline(always)]
        fn unpack_i16(self, a: __m256i) -> [__m256i; 2] {
            // SAFETY: as above.
            unsafe { [_mm256_srai_epi32::<16>(_mm256_slli_epi32::<16>(a)), _mm256_srai_epi32::<16>(a)] }
        }
        #[inline(always)]
        fn madd_i16_x8(self, a: __m256i, b: __m256i) -> __m256i {
            // SAFETY: as above.
            unsafe { _mm256_madd_epi16(a, b) }
        }
        #[inline(always)]
        fn transpose_16x8<B: Byte>(self, from: &[B], stride: usize) -> [__m256i; 4] {
            const { assert!(size_of::<B>() == 1) };
            let from = &from[..7 * stride + 16];
            // SAFETY: as above; the last 16 that are read end where the slice does, and are plain
            // bytes.
            unsafe {
                let p = from.as_ptr().cast::<u8>();
                transpose_dwords([
                    load_two(p, p.add(4 * stride)),
                    load_two(p.add(stride), p.add(5 * stride)),
                    load_two(p.add(2 * stride), p.add(6 * stride)),
                    load_two(p.add(3 * stride), p.add(7 * stride)),
                ])
            }
        }
        #[inline(always)]
        fn transpose_32x4(self, from: &[u8]) -> [__m256i; 4] {
            let from = &from[..128];
            // SAFETY: as above; all of the slice is read.
            unsafe {
                let p = from.as_ptr().cast::<__m256i>();
                transpose_dwords([
                    _mm256_loadu_si256(p),
                    _mm256_loadu_si256(p.add(1)),
                    _mm256_loadu_si256(p.add(2)),
                    _mm256_loadu_si256(p.add(3)),
                ])
            }
        }
        #[inline(always)]
        fn sum_halves_alternately(self, even: __m256i, odd: __m256i) -> __m256i {
            // SAFETY: as above.
            unsafe {
                let first = _mm256_permute2x128_si256::<0x20>(even, odd);
                let sums = _mm256_add_epi32(first, _mm256_permute2x128_si256::<0x31>(even, odd));
                _mm256_permutevar8x32_epi32(sums, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
            }
        }
        #[inline(always)]
        fn extract_lanes(self, a: __m256, first: usize, n: usize) -> __m256 {
            // SAFETY: as above.
            unsafe {
                let order = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
                let order = _mm256_add_epi32(order, _mm256_set1_epi32(first as i32));
                _mm256_and_ps(_mm256_permutevar8x32_ps(a, order), _mm256_castsi256_ps(first_lanes(n)))
            }
        }
        #[inline(always)]
        fn prefetch<T>(self, near: &[T], at: usize) {
            // SAFETY: as above; any address may be prefetched.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(near.as_ptr().wrapping_add(at).cast()) }
        }
        #[inline(always)]
        fn prefetch_nta<T>(self, near: &[T], at: usize) {
            // SAFETY: as above.
            unsafe { _mm_prefetch::<_MM_HINT_NTA>(near.as_ptr().wrapping_add(at).cast()) }
        }
        #[inline(always)]
        fn sub_shifted_i32x8(self, a: __m256i, b: __m256i, n: u32) -> __m256i {
            // SAFETY: as above.
            unsafe { _mm256_sub_epi32(a, _mm256_sll_epi32(b, _mm_cvtsi32_si128(n as i32))) }
        }
        #[inline(always)]
        fn store_bytes<B: Byte>(self, value: __m256i, to: &mut [B]) {
            const { assert!(size_of::<B>() == 1) };
            let to = &mut to[..32];
            // SAFETY: as above; any bits are a byte's.
            unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), value) }
        }
        #[inline(always)]
        fn add_i32x8(self, a: __m256i, b: __m256i) -> __m256i {
            // SAFETY: as above.
            unsafe { _mm256_add_epi32(a, b) }
        }
        #[inline(always)]
        fn widen_i8x8(self, a: u64) -> __m256i {
            // SAFETY: as above.
            unsafe { _mm256_cvtepi8_epi32(_mm_cvtsi64_si128(a as i64)) }
        }
        #[inline(always)]
        fn widen_i8_even_odd(self, a: u128) -> [__m256i; 2] {
            // SAFETY: as above.
            unsafe {
                let words = _mm256_cvtepi16_epi32(_mm_set_epi64x((a >> 64) as i64, a as i64));
                [_mm256_srai_epi32::<24>(_mm256_slli_epi32::<24>(words)), _mm256_srai_epi32::<8>(words)]
            }
        }
        #[inline(always)]
        fn splat_f16_x8(self, bits: u16) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_cvtph_ps(_mm_set1_epi16(bits as i16)) }
        }
        #[inline(always)]
        fn splat_x8(self, value: f32) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_set1_ps(value) }
        }
        #[inline(always)]
        fn load_x8(self, from: &[f32]) -> __m256 {
            let from = &from[..8];
            // SAFETY: as above.
            unsafe { _mm256_loadu_ps(from.as_ptr()) }
        }
        #[inline(always)]
        fn mul_add_x8(self, a: __m256, b: __m256, c: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        fn to_f32x8(self, a: __m256i) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_cvtepi32_ps(a) }
        }
        #[inline(always)]
        fn from_array(self, [a, b, c, d, e, f, g, h]: [f32; 8]) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_setr_ps(a, b, c, d, e, f, g, h) }
        }
        #[inline(always)]
        fn add_x8(self, a: __m256, b: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        fn transpose_f32_8x4<N: Number>(self, from: &[N], stride: usize) -> [__m256; 4] {
            const { assert!(size_of::<N>() == size_of::<f32>()) };
            let from = &from[..7 * stride + 4];
            // SAFETY: as above; the last 4 that are read end where the slice does, and are plain
            // numbers of 4 bytes.
            unsafe {
                let p = from.as_ptr();
                let row = |i: usize| p.add(i * stride).cast::<u8>();
                let interleaved = transpose_dwords([
                    load_two(row(0), row(4)),
                    load_two(row(1), row(5)),
                    load_two(row(2), row(6)),
                    load_two(row(3), row(7)),
                ]);
                let [a, b, c, d] = interleaved;
                [
                    _mm256_castsi256_ps(a),
                    _mm256_castsi256_ps(b),
                    _mm256_castsi256_ps(c),
                    _mm256_castsi256_ps(d),
                ]
            }
        }
        #[inline(always)]
        fn store_x8(self, a: __m256, to: &mut [f32]) {
            let to = &mut to[..8];
            // SAFETY: as above.
            unsafe { _mm256_storeu_ps(to.as_mut_ptr(), a) }
        }
        #[inline(always)]
        fn to_array(self, a: __m256) -> [f32; 8] {
            let mut lanes = [0.0; 8];
            // SAFETY: as above; 8 lanes are written.
            unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), a) };
            lanes
        }
        #[inline(always)]
        fn mul_x8(self, a: __m256, b: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_mul_ps(a, b) }
        }
        #[inline(always)]
        fn hsum_each<const N: usize>(self, a: [__m256; N]) -> [f32; N] {
            // SAFETY: as above.
            unsafe { hsum_each(a) }
        }
    };
}
pub(super) use blocks_of_256_bits;

// SAFETY of every block below: `self` proves AVX2, FMA and F16C; each pointer comes from a slice
// whose length was checked on the line before, and the unaligned forms of load and store are used.
impl<P: Products> Simd for Avx2<P> {
    const LANES: usize = 8;
    const REGISTER_TILE: usize = 2;
    type F32 = __m256;
    type I8x32 = __m256i;
    type I32x8 = __m256i;
    type F32x8 = __m256;
    type I32 = __m256i;
    type Quads = __m256i;
    const QUADS_BIAS: Option<u32> = P::BIAS;
    super::pairs_of_blocks!();
    blocks_of_256_bits!();

    #[inline(always)]
    fn gather_f16<const STRIDE: usize>(self, from: &[u8]) -> __m256 {
        let from = &from[..8 * STRIDE - 2];
        let number = |i: usize| {
            // SAFETY: as above; eight numbers at this distance lie in the slice.
            u64::from(unsafe { from.as_ptr().add(i * STRIDE).cast::<u16>().read_unaligned() })
        };
        // Put together in general registers, which are idle, and not by shuffles. (Of
        // `u16::from_le_bytes` the compiler made a chain of twenty shuffles, which halved the speed
        // of Q4_0.)
        let four = |i| number(i) | number(i + 1) << 16 | number(i + 2) << 32 | number(i + 3) << 48;
        // SAFETY: as above.
        unsafe { _mm256_cvtph_ps(_mm_set_epi64x(four(4) as i64, four(0) as i64)) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_set1_ps(value) }
    }
    #[inline(always)]
    fn load(self, from: &[f32]) -> __m256 {
        let from = &from[..8];
        // SAFETY: as above.
        unsafe { _mm256_loadu_ps(from.as_ptr()) }
    }
    #[inline(always)]
    fn load_f16(self, from: &[u16]) -> __m256 {
        let from = &from[..8];
        // SAFETY: as above.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast())) }
    }
    #[inline(always)]
    fn load_bf16(self, from: &[u16]) -> __m256 {
        let from = &from[..8];
        // SAFETY: as above.
        unsafe {
            let words = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.as_ptr().cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words))
        }
    }
    #[inline(always)]
    fn load_partial(self, from: &[f32]) -> __m256 {
        assert!(from.len() < 8);
        // SAFETY: as above; the mask covers as many elements as there are.
        unsafe { _mm256_maskload_ps(from.as_ptr(), first_lanes(from.len())) }
    }
    #[inline(always)]
    fn store(self, value: __m256, to: &mut [f32]) {
        let to = &mut to[..8];
        // SAFETY: as above.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), value) }
    }
    #[inline(always)]
    fn store_partial(self, value: __m256, to: &mut [f32]) {
        assert!(to.len() < 8);
        // SAFETY: as above; the mask covers as many elements as there are.
        unsafe { _mm256_maskstore_ps(to.as_mut_ptr(), first_lanes(to.len()), value) }
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn fused_mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        self.mul_add(a, b, c)
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    fn max_abs(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: as above. The bits of numbers without a sign have the order of the numbers.
        unsafe {
            let size = _mm256_andnot_ps(_mm256_set1_ps(-0.0), b);
            _mm256_castsi256_ps(_mm256_max_epu32(_mm256_castps_si256(a), _mm256_castps_si256(size)))
        }
    }
    #[inline(always)]
    fn hmax_abs_each(self, a: [__m256; 8]) -> __m256 {
        // SAFETY: as above.
        unsafe {
            let mut bits = [_mm256_setzero_si256(); 8];
            for i in 0..8 {
                bits[i] = _mm256_castps_si256(a[i]);
            }
            _mm256_castsi256_ps(max_of_each(bits))
        }
    }
    #[inline(always)]
    fn reduce_to_x8(self, a: __m256) -> __m256 {
        a
    }
    #[inline(always)]
    fn max_lane(self, a: __m256) -> f32 {
        // SAFETY: as above.
        unsafe {
            let m = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let m = _mm_max_ps(m, _mm_movehl_ps(m, m));
            _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)))
        }
    }
    #[inline(always)]
    fn store_i8(self, value: __m256, to: &mut [i8]) {
        let to = &mut to[..8];
        // SAFETY: as above; 8 bytes are written.
        unsafe {
            let rounded = round_away_x8(value);
            let words =
                _mm_packs_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256::<1>(rounded));
            _mm_storel_epi64(to.as_mut_ptr().cast(), _mm_packs_epi16(words, words));
        }
    }

    #[inline(always)]
    fn mask_from_bits(self, bits: u32) -> __m256i {
        // Each byte gets the byte of `bits` that holds its bit, and keeps that bit alone.
        // SAFETY: as above.
        unsafe {
            let which =
                _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
            let bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(bits as i32), which);
            let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
            _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit)
        }
    }
    #[inline(always)]
    fn dot_i8x32(self, acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        self.0.dot_i8(acc, self.0.signed(w), x)
    }
    #[inline(always)]
    fn dot_u8x32(self, acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        self.0.dot_u8(acc, w, x)
    }
    #[inline(always)]
    fn dot_nibbles(self, w: [__m256i; 4], x: &[i8]) -> __m256i {
        P::dot_nibbles(self, w, x)
    }
    #[inline(always)]
    fn remove_bias(self, dots: __m256i, x_sums: __m256i) -> __m256i {
        match P::BIAS {
            Some(n) => self.sub_shifted_i32x8(dots, x_sums, n),
            None => dots,
        }
    }
    #[inline(always)]
    fn load_quads(self, from: &[i8]) -> __m256i {
        self.load_i8x32(from)
    }
    #[inline(always)]
    fn splat_quad(self, from: &[u8]) -> __m256i {
        let quad = i32::from_le_bytes([from[0], from[1], from[2], from[3]]);
        // SAFETY: as above.
        unsafe { _mm256_set1_epi32(quad) }
    }
    #[inline(always)]
    fn dot4_u8i8(self, acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        self.0.dot_u8(acc, w, x)
    }
    #[inline(always)]
    fn dot4_i8i8(self, acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        self.0.dot_i8(acc, w, x)
    }
    #[inline(always)]
    fn dot_micro_panel<const BITS: u32, const R: usize, const V: usize>(
        self,
        dots: [[__m256i; V]; R],
        w: &[u8],
        x: [&[i8]; V],
        quads: Range<usize>,
    ) -> [[__m256i; V]; R] {
        P::dot_micro_panel::<BITS, R, V>(self, dots, w, x, quads)
    }
    #[inline(always)]
    fn quads_of_i8x32(self, w: __m256i) -> __m256i {
        self.0.signed(w)
    }
    #[inline(always)]
    fn load_i32(self, from: &[i32]) -> __m256i {
        self.load_i32x8(from)
    }
    #[inline(always)]
    fn sub_shifted_i32(self, a: __m256i, b: __m256i, n: u32) -> __m256i {
        self.sub_shifted_i32x8(a, b, n)
    }
    #[inline(always)]
    fn splat_i32(self, value: i32) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_set1_epi32(value) }
    }
    #[inline(always)]
    fn madd_i16(self, a: __m256i, b: __m256i) -> __m256i {
        self.madd_i16_x8(a, b)
    }
    #[inline(always)]
    fn zero_i32(self) -> __m256i {
        self.zero_i32x8()
    }
    #[inline(always)]
    fn to_f32(self, a: __m256i) -> __m256 {
        self.to_f32x8(a)
    }
}
