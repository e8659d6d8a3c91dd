//! AVX-512 (F, BW, DQ, VL) with VNNI: Ice Lake (2019) and Zen 4 (2022) onwards.
//!
//! f32 vectors are 512 bits wide, and so is what is decoded for one token: two blocks of 32 int8,
//! or as [`Simd::Interleaved`] says. (Zen 4 does such an operation in two halves, so there it costs
//! as much as with 256 bits; later processors do it at once.)

#![allow(unsafe_code, reason = "intrinsics: the token proves that the processor has them")]

use std::arch::x86_64::*;

use super::avx2::blocks_of_256_bits;
use super::avx2::parts::{
    first_lanes, hsum_each, load_two, max_of_each, nibbles, round_away_x8, sum_halves_each,
    sum_scaled_halves_each, transpose_dwords,
};
use super::{Byte, Interleave, Kernel, Number, Simd};

/// Proof that AVX-512 F, BW, DQ, VL and VNNI are there, and all of AVX2's company.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx512(());

impl Avx512 {
    pub(crate) fn detect() -> Option<Self> {
        let found = super::avx2::Avx2::<super::avx2::Widening>::detect().is_some()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni");
        found.then_some(Self(()))
    }

    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
        fn with_features<K: Kernel>(token: Avx512, kernel: K) -> K::Output {
            kernel.run(token)
        }
        // SAFETY: `self` proves that the features are there.
        unsafe { with_features(self, kernel) }
    }
}

// SAFETY of every block below: `self` proves the features; each pointer comes from a slice whose
// length was checked on the line before, and the unaligned or masked forms of load and store are
// used.
impl Simd for Avx512 {
    const LANES: usize = 16;
    const REGISTER_TILE: usize = 4;
    type F32 = __m512;
    type I8x32 = __m256i;
    type I32x8 = __m256i;
    type F32x8 = __m256;
    type I8x64 = __m512i;
    type I32x16 = __m512i;
    type I32 = __m512i;
    type Quads = __m512i;
    /// Bytes as they lie, and sums across lanes at the end. [`Interleave::Nibbles16`]: the low
    /// halves of groups 0 to 3, their high halves, then those of groups 4 to 7.
    /// [`Interleave::Nibbles32`]: of the even groups, the first and the second 8 bytes of each 16,
    /// then likewise of the odd groups; in 128 bits 8 bytes are of a group below 4, and the others
    /// of the one four behind it.
    ///
    /// (As with AVX2, lane by lane, Q4_0 was multiplied at 43 GB/s from a near cache and not at 63,
    /// `Q4_K` at 37 and not at 47: Zen 5.)
    type Interleaved = [__m512i; 4];
    const QUADS_BIAS: Option<u32> = Some(7);
    const INTERLEAVES: [[u8; 64]; 2] = {
        let mut turns = [[0; 64]; 2];
        let mut i = 0;
        while i < 64 {
            let (vector, quarter, quad) = (i / 16, i / 4 % 4, i % 4);
            let (group, of_group) = (vector / 2 * 4 + quarter, vector % 2 * 4 + quad);
            turns[Interleave::Nibbles16 as usize][i] = (8 * group + of_group) as u8;
            let group = quad / 2 * 4 + quarter / 2 * 2 + vector / 2;
            let of_group = quarter % 2 * 4 + vector % 2 * 2 + quad % 2;
            turns[Interleave::Nibbles32 as usize][i] = (8 * group + of_group) as u8;
            i += 1;
        }
        turns
    };
    blocks_of_256_bits!();

    #[inline(always)]
    fn gather_f16<const STRIDE: usize>(self, from: &[u8]) -> __m256 {
        const { assert!(STRIDE >= 18 && STRIDE <= 62 && STRIDE.is_multiple_of(2)) };
        let from = &from[..8 * STRIDE - 2];
        let p = from.as_ptr();
        let s = (STRIDE / 2) as i16;
        // SAFETY: as above. 64 bytes from the fifth number on end inside the slice, as 4 STRIDE >
        // 65; so do 32 bytes from the seventh on, as 2 STRIDE > 33; and 64 bytes are loaded there
        // only of numbers that are more than 32 apart.
        unsafe {
            if 3 * STRIDE + 2 <= 64 {
                // Four numbers lie in one vector.
                let order = _mm_setr_epi16(0, s, 2 * s, 3 * s, 32, 32 + s, 32 + 2 * s, 32 + 3 * s);
                let (low, high) =
                    (_mm512_loadu_si512(p.cast()), _mm512_loadu_si512(p.add(4 * STRIDE).cast()));
                let numbers = _mm512_permutex2var_epi16(low, _mm512_castsi128_si512(order), high);
                return _mm256_cvtph_ps(_mm512_castsi512_si128(numbers));
            }
            let (p2, p4, p6) = (p.add(2 * STRIDE), p.add(4 * STRIDE), p.add(6 * STRIDE));
            let (low, high) = if STRIDE + 2 <= 32 {
                // Two lie in one of half the length.
                let order = _mm256_castsi128_si256(_mm_setr_epi16(0, s, 16, 16 + s, 0, 0, 0, 0));
                let (a, b) = (_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p2.cast()));
                let (c, d) = (_mm256_loadu_si256(p4.cast()), _mm256_loadu_si256(p6.cast()));
                (
                    _mm256_castsi256_si128(_mm256_permutex2var_epi16(a, order, b)),
                    _mm256_castsi256_si128(_mm256_permutex2var_epi16(c, order, d)),
                )
            } else {
                const { assert!(STRIDE + 2 <= 32 || 2 * STRIDE >= 66) };
                let order = _mm512_castsi128_si512(_mm_setr_epi16(0, s, 32, 32 + s, 0, 0, 0, 0));
                let (a, b) = (_mm512_loadu_si512(p.cast()), _mm512_loadu_si512(p2.cast()));
                let (c, d) = (_mm512_loadu_si512(p4.cast()), _mm512_loadu_si512(p6.cast()));
                (
                    _mm512_castsi512_si128(_mm512_permutex2var_epi16(a, order, b)),
                    _mm512_castsi512_si128(_mm512_permutex2var_epi16(c, order, d)),
                )
            };
            _mm256_cvtph_ps(_mm_unpacklo_epi64(low, high))
        }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_set1_ps(value) }
    }
    #[inline(always)]
    fn load(self, from: &[f32]) -> __m512 {
        let from = &from[..16];
        // SAFETY: as above.
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }
    #[inline(always)]
    fn load_f16(self, from: &[u16]) -> __m512 {
        let from = &from[..16];
        // SAFETY: as above.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())) }
    }
    #[inline(always)]
    fn load_bf16(self, from: &[u16]) -> __m512 {
        let from = &from[..16];
        // SAFETY: as above.
        unsafe {
            let words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))
        }
    }
    #[inline(always)]
    fn load_partial(self, from: &[f32]) -> __m512 {
        assert!(from.len() < 16);
        // SAFETY: as above; the mask has a bit for each element and no more.
        unsafe { _mm512_maskz_loadu_ps((1 << from.len()) - 1, from.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, value: __m512, to: &mut [f32]) {
        let to = &mut to[..16];
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), value) }
    }
    #[inline(always)]
    fn store_partial(self, value: __m512, to: &mut [f32]) {
        assert!(to.len() < 16);
        // SAFETY: as above; the mask has a bit for each element and no more.
        unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), (1 << to.len()) - 1, value) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn fused_mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        self.mul_add(a, b, c)
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn max_abs(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: as above. The bits of numbers without a sign have the order of the numbers.
        unsafe {
            let size = _mm512_castps_si512(_mm512_abs_ps(b));
            _mm512_castsi512_ps(_mm512_max_epu32(_mm512_castps_si512(a), size))
        }
    }
    #[inline(always)]
    fn hmax_abs_each(self, a: [__m512; 8]) -> __m256 {
        // SAFETY: as above.
        unsafe {
            let mut halves = [_mm256_setzero_si256(); 8];
            for i in 0..8 {
                let a = _mm512_castps_si512(a[i]);
                halves[i] = _mm256_max_epu32(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64::<1>(a));
            }
            _mm256_castsi256_ps(max_of_each(halves))
        }
    }
    #[inline(always)]
    fn reduce_to_x8(self, a: __m512) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a)) }
    }
    #[inline(always)]
    fn max_lane(self, a: __m512) -> f32 {
        // SAFETY: as above.
        unsafe { _mm512_reduce_max_ps(a) }
    }
    #[inline(always)]
    fn store_i8(self, value: __m512, to: &mut [i8]) {
        let to = &mut to[..16];
        // SAFETY: as above; 16 bytes are written.
        unsafe {
            let low = round_away_x8(_mm512_castps512_ps256(value));
            let high = round_away_x8(_mm512_extractf32x8_ps::<1>(value));
            let dwords = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
            _mm_storeu_si128(to.as_mut_ptr().cast(), _mm512_cvtsepi32_epi8(dwords));
        }
    }

    #[inline(always)]
    fn load_i8x32_partial(self, from: &[i8]) -> __m256i {
        assert!(from.len() < 32);
        // SAFETY: as above; the mask has a bit for each element and no more.
        unsafe { _mm256_maskz_loadu_epi8((1 << from.len()) - 1, from.as_ptr()) }
    }
    #[inline(always)]
    fn mask_from_bits(self, bits: u32) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_movm_epi8(bits) }
    }
    #[inline(always)]
    fn dot_i8x32(self, acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: as above.
        unsafe {
            let unsigned = _mm256_xor_si256(w, _mm256_set1_epi8(-128)); // w + 128, as a u8
            _mm256_dpbusd_epi32(acc, unsigned, x)
        }
    }
    #[inline(always)]
    fn dot_u8x32(self, acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_dpbusd_epi32(acc, w, x) }
    }
    #[inline(always)]
    fn load_i8x64(self, from: &[i8]) -> __m512i {
        let from = &from[..64];
        // SAFETY: as above.
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }
    #[inline(always)]
    fn load_u8x64(self, from: &[u8]) -> __m512i {
        let from = &from[..64];
        // SAFETY: as above.
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }
    #[inline(always)]
    fn zero_x64(self) -> __m512i {
        self.zero_i32()
    }
    #[inline(always)]
    fn blocks(self, pair: __m512i) -> [__m256i; 2] {
        // SAFETY: as above.
        unsafe { [_mm512_castsi512_si256(pair), _mm512_extracti64x4_epi64::<1>(pair)] }
    }
    #[inline(always)]
    fn load_u8_2x32(self, [first, second]: [&[u8]; 2]) -> __m512i {
        let (first, second) = (self.load_u8x32(first), self.load_u8x32(second));
        // SAFETY: as above.
        unsafe { _mm512_inserti64x4::<1>(_mm512_castsi256_si512(first), second) }
    }
    #[inline(always)]
    fn load_nibbles_x64(self, [first, second]: [&[u8]; 2]) -> __m512i {
        let (first, second) = (&first[..16], &second[..16]);
        // SAFETY: as above.
        unsafe {
            let first = _mm512_broadcast_i32x4(_mm_loadu_si128(first.as_ptr().cast()));
            let both = _mm512_mask_broadcast_i32x4(first, 0xff00, _mm_loadu_si128(second.as_ptr().cast()));
            let shifted = _mm512_srlv_epi64(both, _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4));
            _mm512_and_si512(shifted, _mm512_set1_epi8(15))
        }
    }
    #[inline(always)]
    fn mask_from_bits_x64(self, [first, second]: [u32; 2]) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_movm_epi8(u64::from(first) | u64::from(second) << 32) }
    }
    #[inline(always)]
    fn shr_mask_split<const FIRST: u32, const SECOND: u32>(self, a: __m256i, mask: u8) -> __m512i {
        // SAFETY: as above.
        unsafe {
            let shifted =
                _mm512_srlv_epi64(_mm512_broadcast_i64x4(a), each_block(FIRST.into(), SECOND.into()));
            _mm512_and_si512(shifted, _mm512_set1_epi8(mask as i8))
        }
    }
    #[inline(always)]
    fn shl_mask_split<const FIRST: u32, const SECOND: u32>(self, a: __m256i, masks: [u8; 2]) -> __m512i {
        // SAFETY: as above.
        unsafe {
            let masks = masks.map(|mask| i64::from_ne_bytes([mask; 8]));
            let masked = _mm512_and_si512(_mm512_broadcast_i64x4(a), each_block(masks[0], masks[1]));
            _mm512_sllv_epi64(masked, each_block(FIRST.into(), SECOND.into()))
        }
    }
    #[inline(always)]
    fn shr_mask_x64<const SHIFT: u32>(self, a: __m512i, mask: u8) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_and_si512(_mm512_srli_epi16::<SHIFT>(a), _mm512_set1_epi8(mask as i8)) }
    }
    #[inline(always)]
    fn and_mask_x64(self, a: __m512i, mask: u8) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_and_si512(a, _mm512_set1_epi8(mask as i8)) }
    }
    #[inline(always)]
    fn or_x64(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_or_si512(a, b) }
    }
    #[inline(always)]
    fn shuffle_x64(self, table: &[i8; 16], a: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe {
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
            _mm512_shuffle_epi8(table, a)
        }
    }
    #[inline(always)]
    fn dot_i8_x64(self, w: __m512i, x: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe {
            let unsigned = _mm512_xor_si512(w, _mm512_set1_epi8(-128)); // w + 128, as a u8
            _mm512_dpbusd_epi32(_mm512_setzero_si512(), unsigned, x)
        }
    }
    #[inline(always)]
    fn dot_u8_x64(self, w: __m512i, x: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_dpbusd_epi32(_mm512_setzero_si512(), w, x) }
    }
    #[inline(always)]
    fn sum_halves_x64<const SMALL: bool>(self, a: [__m512i; 4]) -> [__m256i; 2] {
        // SAFETY: as above.
        unsafe {
            // As AVX2's `sum_halves_each`, with twice the halves.
            let (ab, cd) = (add_neighbours::<SMALL>(a[0], a[1]), add_neighbours::<SMALL>(a[2], a[3]));
            let sums = add_neighbours::<SMALL>(ab, cd);
            // The low halves of the first blocks, their high halves, then those of the second
            // blocks.
            let order = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
            self.blocks(_mm512_permutexvar_epi32(order, sums))
        }
    }
    #[inline(always)]
    fn sum_scaled_halves_x64(self, a: [__m512i; 4], scales: __m256i) -> __m256i {
        // SAFETY: as above.
        unsafe {
            // As `sum_halves_x64`. 128 bits have two sums of a half of each pair, and each gets the
            // half's scale: as the high byte of a word, which is then its own.
            let (ab, cd) = (add_neighbours::<true>(a[0], a[1]), add_neighbours::<true>(a[2], a[3]));
            let which =
                _mm512_broadcast_i32x4(_mm_setr_epi32(0x0080_0080, 0x0480_0480, 0x0880_0880, 0x0c80_0c80));
            let half = _mm512_setr_epi64(
                0,
                0,
                0x0100_0100_0100_0100,
                0x0100_0100_0100_0100,
                0x0200_0200_0200_0200,
                0x0200_0200_0200_0200,
                0x0300_0300_0300_0300,
                0x0300_0300_0300_0300,
            );
            let scales = _mm512_broadcast_i32x4(_mm256_castsi256_si128(scales));
            let scales = _mm512_shuffle_epi8(scales, _mm512_or_si512(which, half));
            let sums = _mm512_madd_epi16(_mm512_packs_epi32(ab, cd), _mm512_srai_epi16::<8>(scales));
            let order = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
            let [low, high] = self.blocks(_mm512_permutexvar_epi32(order, sums));
            self.add_i32x8(low, high)
        }
    }
    #[inline(always)]
    fn mul_x64(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: as above. The low byte of a product of words is that of their low bytes.
        unsafe {
            let even = _mm512_mullo_epi16(a, b);
            let odd = _mm512_mullo_epi16(_mm512_srli_epi16::<8>(a), _mm512_srli_epi16::<8>(b));
            _mm512_mask_blend_epi8(0xaaaa_aaaa_aaaa_aaaa, even, _mm512_slli_epi16::<8>(odd))
        }
    }
    #[inline(always)]
    fn sum_blocks_each(self, [a, b, c, d, e, f, g, h]: [__m512i; 8]) -> [__m256i; 2] {
        // SAFETY: as above.
        unsafe {
            let (ab, cd) = (add_neighbours::<false>(a, b), add_neighbours::<false>(c, d));
            let (ef, gh) = (add_neighbours::<false>(e, f), add_neighbours::<false>(g, h));
            // Of each block, two lanes of 128 bits have parts of the sums.
            let (first, last) = (add_neighbours::<false>(ab, cd), add_neighbours::<false>(ef, gh));
            let even = _mm512_shuffle_i32x4::<0b10_00_10_00>(first, last);
            let odd = _mm512_shuffle_i32x4::<0b11_01_11_01>(first, last);
            let sums = _mm512_add_epi32(even, odd);
            self.blocks(_mm512_shuffle_i32x4::<0b11_01_10_00>(sums, sums))
        }
    }
    #[inline(always)]
    fn interleave_nibbles_16<const STRIDE: usize>(self, from: &[u8]) -> [__m512i; 4] {
        let from = &from[..7 * STRIDE + 16];
        // SAFETY: as above; four rows of 16 bytes end where the second four begin, or where the
        // slice ends.
        unsafe {
            let p = from.as_ptr();
            halves([load_rows_of_16::<STRIDE>(p), load_rows_of_16::<STRIDE>(p.add(4 * STRIDE))])
        }
    }
    #[inline(always)]
    fn interleave_nibbles_32(self, from: &[u8]) -> [__m512i; 4] {
        let (a, b) = (self.load_u8x64(from), self.load_u8x64(&from[64..]));
        // SAFETY: as above.
        let [low, high, odd_low, odd_high] =
            unsafe { halves([_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b)]) };
        [low, odd_low, high, odd_high]
    }
    #[inline(always)]
    fn shuffle_interleaved(self, table: &[i8; 16], a: [__m512i; 4]) -> [__m512i; 4] {
        let [a, b, c, d] = a;
        [
            self.shuffle_x64(table, a),
            self.shuffle_x64(table, b),
            self.shuffle_x64(table, c),
            self.shuffle_x64(table, d),
        ]
    }
    #[inline(always)]
    fn dot_interleaved<const SIGNED: bool>(self, turn: Interleave, w: [__m512i; 4], x: &[i8]) -> __m256i {
        let mut dots = [self.zero_i32(); 2];
        for k in 0..4 {
            let x = self.load_i8x64(&x[64 * k..]);
            // SAFETY: as above. (w + 128, as a u8)
            let w = if SIGNED { unsafe { _mm512_xor_si512(w[k], _mm512_set1_epi8(-128)) } } else { w[k] };
            dots[k / 2] = self.dot4_u8i8(dots[k / 2], w, x);
        }
        // SAFETY: as above. Two lanes are 16 products of a number within 0..=15 and an int8, unless
        // they are signed.
        unsafe {
            let sums = if SIGNED {
                add_neighbours::<false>(dots[0], dots[1])
            } else {
                add_neighbours::<true>(dots[0], dots[1])
            };
            // Two sums of each group are left, and the second ones go to the upper half.
            // (Neighbours once more, of `sums` twice, were fewer instructions, but the compiler
            // puts any register for the second, and each product waited for the one before.)
            let order = match turn {
                Interleave::Nibbles16 => {
                    _mm512_setr_epi32(0, 4, 8, 12, 2, 6, 10, 14, 1, 5, 9, 13, 3, 7, 11, 15)
                }
                Interleave::Nibbles32 => {
                    _mm512_setr_epi32(0, 2, 8, 10, 1, 3, 9, 11, 4, 6, 12, 14, 5, 7, 13, 15)
                }
            };
            let [first, second] = self.blocks(_mm512_permutexvar_epi32(order, sums));
            self.add_i32x8(first, second)
        }
    }
    #[inline(always)]
    fn load_quads(self, from: &[i8]) -> __m512i {
        let from = &from[..64];
        // SAFETY: as above.
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }
    #[inline(always)]
    fn splat_quad(self, from: &[u8]) -> __m512i {
        let quad = i32::from_le_bytes([from[0], from[1], from[2], from[3]]);
        // SAFETY: as above.
        unsafe { _mm512_set1_epi32(quad) }
    }
    #[inline(always)]
    fn dot4_u8i8(self, acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_dpbusd_epi32(acc, w, x) }
    }
    #[inline(always)]
    fn dot4_i8i8(self, acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
        self.dot4_u8i8(acc, w, x)
    }
    #[inline(always)]
    fn quads_of_i8x32(self, w: __m256i) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_xor_si256(w, _mm256_set1_epi8(-128)) } // w + 128, as a u8
    }
    #[inline(always)]
    fn load_i32(self, from: &[i32]) -> __m512i {
        let from = &from[..16];
        // SAFETY: as above.
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }
    #[inline(always)]
    fn sub_shifted_i32(self, a: __m512i, b: __m512i, n: u32) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_sub_epi32(a, _mm512_sll_epi32(b, _mm_cvtsi32_si128(n as i32))) }
    }
    #[inline(always)]
    fn splat_i32(self, value: i32) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_set1_epi32(value) }
    }
    #[inline(always)]
    fn madd_i16(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_madd_epi16(a, b) }
    }
    #[inline(always)]
    fn zero_i32(self) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_setzero_si512() }
    }
    #[inline(always)]
    fn to_f32(self, a: __m512i) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_cvtepi32_ps(a) }
    }
    #[inline(always)]
    fn remove_bias(self, dots: __m256i, x_sums: __m256i) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_sub_epi32(dots, _mm256_slli_epi32::<7>(x_sums)) }
    }
}

/// A number in all lanes of the first block of a pair, and another in those of the second.
///
/// # Safety
/// The processor has AVX-512 F.
#[inline(always)]
unsafe fn each_block(first: i64, second: i64) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe { _mm512_setr_epi64(first, first, first, first, second, second, second, second) }
}

/// Sums of neighbours in 128 bits: two of `a`, then two of `b`. `SMALL` says that all fit int16.
///
/// # Safety
/// The processor has AVX-512 F and BW.
#[inline(always)]
unsafe fn add_neighbours<const SMALL: bool>(a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        if SMALL {
            return _mm512_madd_epi16(_mm512_packs_epi32(a, b), _mm512_set1_epi16(1));
        }
        let (a, b) = (_mm512_castsi512_ps(a), _mm512_castsi512_ps(b));
        let even = _mm512_castps_si512(_mm512_shuffle_ps::<0b10_00_10_00>(a, b));
        let odd = _mm512_castps_si512(_mm512_shuffle_ps::<0b11_01_11_01>(a, b));
        _mm512_add_epi32(even, odd)
    }
}

/// The low and the high halves of some bytes, and then those of others.
///
/// # Safety
/// The processor has AVX-512 F and BW.
#[inline(always)]
unsafe fn halves([a, b]: [__m512i; 2]) -> [__m512i; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let (low, high_a, high_b) =
            (_mm512_set1_epi8(15), _mm512_srli_epi16::<4>(a), _mm512_srli_epi16::<4>(b));
        [
            _mm512_and_si512(a, low),
            _mm512_and_si512(high_a, low),
            _mm512_and_si512(b, low),
            _mm512_and_si512(high_b, low),
        ]
    }
}

/// 16 bytes from each of bytes 0, `STRIDE`, 2 `STRIDE` and 3 `STRIDE` on.
///
/// # Safety
/// The processor has AVX-512 F and BW, and 3 `STRIDE` + 16 bytes can be read.
#[inline(always)]
unsafe fn load_rows_of_16<const STRIDE: usize>(from: *const u8) -> __m512i {
    /// The words to take: those from 32 on are of 64 bytes that end with the last row.
    const fn order(stride: usize) -> [i16; 32] {
        assert!(stride.is_multiple_of(2) && 16 <= stride && stride <= 37);
        let mut order = [0; 32];
        let mut i = 0;
        while i < 32 {
            let at = i / 8 * stride + i % 8 * 2;
            order[i] = (if at < 64 { at / 2 } else { 32 + (at + 48 - 3 * stride) / 2 }) as i16;
            i += 1;
        }
        order
    }
    // SAFETY: the caller's promise.
    unsafe {
        let first = _mm512_loadu_si512(from.cast());
        if STRIDE == 16 {
            return first;
        }
        let order = const { order(STRIDE) };
        let last = _mm512_loadu_si512(from.add(3 * STRIDE - 48).cast());
        _mm512_permutex2var_epi16(first, _mm512_loadu_si512(order.as_ptr().cast()), last)
    }
}
