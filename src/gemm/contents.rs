//! What panels of quantized weights hold.

use std::ops::Range;

use crate::simd::{PanelGroup, PanelTokens, QuantKernels};

/// What a panel holds. Its product is compiled for each kind by itself: in one function, a change
/// for one of them would move another's registers.
pub(super) trait Contents: Copy {
    /// Whether the integers have signs.
    const SIGNED: bool;
    /// Whether their products need the sums of activations, as `Encoding::needs_sums` says.
    const SUMS: bool;
    /// Whether there are minima.
    const MINS: bool;
    /// Whether each sub-block has a scale or, if there are minima, a minimum of its own.
    const SUB_SCALES: bool;
    /// [`QuantKernels::dot_micro_panel`] for its integers.
    fn dot<S: QuantKernels, const V: usize, const R: usize>(
        s: S,
        dots: [[S::I32; V]; R],
        w: PanelGroup<'_, R>,
        x: PanelTokens<'_, S, V>,
        bias: Option<u32>,
        quads: Range<usize>,
    ) -> [[S::I32; V]; R];
}

/// Integers of `BITS` bits, and the constants of [`Contents`].
#[derive(Clone, Copy)]
pub(super) struct Integers<const BITS: u32, const MINS: bool, const SUB_SCALES: bool>;

impl<const BITS: u32, const MINS: bool, const SUB_SCALES: bool> Contents
    for Integers<BITS, MINS, SUB_SCALES>
{
    const SIGNED: bool = BITS == 8;
    const SUMS: bool = BITS > 4 || !MINS;
    const MINS: bool = MINS;
    const SUB_SCALES: bool = SUB_SCALES;

    #[inline(always)]
    fn dot<S: QuantKernels, const V: usize, const R: usize>(
        s: S,
        dots: [[S::I32; V]; R],
        w: PanelGroup<'_, R>,
        x: PanelTokens<'_, S, V>,
        bias: Option<u32>,
        quads: Range<usize>,
    ) -> [[S::I32; V]; R] {
        s.dot_micro_panel::<BITS, R, V>(dots, w, x, bias, quads)
    }
}
