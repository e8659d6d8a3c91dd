//! What differs between the levels of AVX2: products of int8.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::panel::{dot_quad_by_quad, take_off_bias};
use super::super::{Kernel, PanelGroup, PanelTokens};
use super::Avx2;

/// Products of int8, of which `x` is within -127..=127. A value proves that the processor has them,
/// and AVX2, FMA and F16C: the two types that are one can only be made in this folder.
pub(crate) trait Products: Copy + Send + Sync + 'static {
    /// What [`Products::dot_i8`] adds beside the product: this power of two for each `x`. `None`:
    /// nothing.
    const BIAS: Option<u32>;
    /// See [`QuantKernels::SIGNS_APART`](super::super::QuantKernels::SIGNS_APART).
    const SIGNS_APART: bool = false;
    fn detect() -> Option<Self>;
    /// Runs a kernel that was compiled for AVX2 with these products.
    fn run<K: Kernel>(token: Avx2<Self>, kernel: K) -> K::Output;
    /// int8 as [`Products::dot_i8`] wants them.
    fn signed(self, w: __m256i) -> __m256i;
    /// In lane `i`, `acc[i]` and the dot product of the quads `i`, with the bias.
    fn dot_i8(self, acc: __m256i, w: __m256i, x: __m256i) -> __m256i;
    /// In lane `i`, `acc[i]` and the dot product of the quads `i`, where `w` is within 0..=127.
    fn dot_u8(self, acc: __m256i, w: __m256i, x: __m256i) -> __m256i;
    /// As [`QuantKernels::dot_nibbles`](super::super::QuantKernels::dot_nibbles).
    fn dot_nibbles(self, w: [__m256i; 4], x: &[i8]) -> __m256i;
    /// As [`QuantKernels::dot_u8_twice`](super::super::QuantKernels::dot_u8_twice).
    #[inline(always)]
    fn dot_u8_twice(self, w: [__m256i; 2], x: [__m256i; 2], zero: __m256i) -> __m256i {
        self.dot_u8(self.dot_u8(zero, w[0], x[0]), w[1], x[1])
    }
    /// As [`QuantKernels::add_quads`](super::super::QuantKernels::add_quads).
    fn add_quads(self, sums: __m256i, x: __m256i) -> __m256i;
    /// As [`QuantKernels::dot_micro_panel`](super::super::QuantKernels::dot_micro_panel).
    #[inline(always)]
    fn dot_micro_panel<const BITS: u32, const R: usize, const V: usize>(
        token: Avx2<Self>,
        dots: [[__m256i; V]; R],
        w: PanelGroup<'_, R>,
        x: PanelTokens<'_, Avx2<Self>, V>,
        bias: Option<u32>,
        quads: Range<usize>,
    ) -> [[__m256i; V]; R] {
        let dots = take_off_bias::<_, BITS, R, V>(token, dots, x, bias);
        dot_quad_by_quad::<_, BITS, R, V>(token, dots, w.qs, x.group, quads)
    }
}
