//! ggml's block formats: what the module of a format declares of its blocks.
//!
//! A row is cut into blocks of 32 or 256 weights, as the file stores them. Computation uses the
//! same sizes in all formats:
//!
//! ```text
//! superblock   256 weights   unpacked together: one block, or eight of 32
//! group         32 weights   share a scale of the activations (quantized in groups of 32 as well)
//! sub-block     16 weights   half a group: the least that has a scale of its own
//! ```

pub(crate) use super::bytes::{SIGN, bytes_at, f16_at, pair_at, scale_times, times, u16_at, u32_at, u64_at};
use super::encoding::{Encoding, SubScales};
use super::points::{self, PointSuperblock};
use super::sub_blocks::IntSubBlocks;
use crate::simd::{Interleave, QuantKernels};

/// Weights of a group.
pub(crate) const GROUP: usize = 32;
/// Groups of a superblock.
pub(crate) const GROUPS: usize = 8;
/// They are unpacked and multiplied two by two.
pub(crate) const PAIRS: usize = GROUPS / 2;
/// Weights of a superblock.
pub(crate) const SUPERBLOCK: usize = GROUPS * GROUP;

/// A block format of ggml.
pub(crate) trait Block: Copy + Send + Sync + 'static {
    /// Weights in a block: 32 or 256.
    const WEIGHTS: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// What the integers `q` of a block stand for.
    const ENCODING: Encoding;
    /// What sub-blocks have of their own. If it is anything, `ENCODING` isn't
    /// [`Encoding::Signed`].
    const SUB_SCALES: SubScales = SubScales::None;
    /// What the integers of [`Block::unpack`] stand for, which prefill's panels hold, and whether
    /// sub-blocks have their own scales or, if there are minima, their own minima there:
    /// [`SubScales::Int`] are multiplied into a panel's integers.
    const PANEL_ENCODING: (Encoding, bool) = (Self::ENCODING, matches!(Self::SUB_SCALES, SubScales::F32));
    /// The order of a superblock's integers in the product with a single token, for formats with
    /// [`Block::unpack_interleaved`]. `None`: group after group, with sums across lanes.
    const INTERLEAVE: Option<Interleave> = None;
    /// Whether points have signs apart, in the order [`Interleave::Points`].
    const POINT_SIGNS: bool = true;
    /// See [`Format::min_panel_tokens`](super::Format::min_panel_tokens). Measured with AVX2, for
    /// instruction sets that transpose groups (benches/NOTES.md).
    const MIN_PANEL_TOKENS: usize = super::SHARING_TOKENS + 1;

    /// The weights of a block, as ggml defines them, to the bit.
    fn dequantize(block: &[u8], out: &mut [f32]);

    /// Unpacks a superblock, its groups in their order: for prefill's panels, and for single
    /// tokens where there is no `INTERLEAVE`. This one is of formats whose weights are points.
    #[inline(always)]
    fn unpack<S: QuantKernels>(s: S, blocks: &[u8]) -> UnpackedSuperblock<S> {
        points::unpack::<S, Self>(s, blocks)
    }

    /// Unpacks a superblock with [`SubScales::Int`], for single tokens.
    #[inline(always)]
    fn unpack_sub_blocks<S: QuantKernels>(_s: S, _block: &[u8]) -> IntSubBlocks<S> {
        unreachable!("only formats whose sub-blocks have integers as scales")
    }

    /// Unpacks a superblock in the order [`Interleave::Points`], for single tokens.
    #[inline(always)]
    fn unpack_points<S: QuantKernels>(_s: S, _block: &[u8]) -> PointSuperblock<S> {
        unreachable!("only formats of points")
    }

    /// The eight weights of each of four places (`points.rs`), or their absolute values.
    #[inline(always)]
    fn look_up<S: QuantKernels>(
        _s: S,
        _block: &[u8],
        _numbers: &[[u16; GROUP]; 2],
        _places: [usize; 4],
    ) -> S::I8x32 {
        unreachable!("only formats of points")
    }

    /// Unpacks a superblock with its groups transposed, as [`Interleave::Nibbles16`], for a few
    /// tokens. Of formats without [`SubScales`].
    #[inline(always)]
    fn unpack_transposed<S: QuantKernels>(s: S, blocks: &[u8]) -> Interleaved<S> {
        let UnpackedSuperblock { q, scales: [scales, _], mins, .. } = Self::unpack(s, blocks);
        Interleaved { q: s.transpose_groups(q), scales, mins }
    }

    /// Unpacks a superblock in the order of [`Block::INTERLEAVE`], for single tokens.
    #[inline(always)]
    fn unpack_interleaved<S: QuantKernels>(_s: S, _blocks: &[u8]) -> Interleaved<S> {
        unreachable!("only formats that have such an order")
    }
}

/// A superblock, unpacked.
#[derive(Clone, Copy)]
pub(crate) struct UnpackedSuperblock<S: QuantKernels> {
    /// The integers: as [`Block::PANEL_ENCODING`] says.
    pub(crate) q: [S::I8x64; PAIRS],
    /// The scale of each group; of the first and of the second sub-block of each group with
    /// [`SubScales::F32`], otherwise the same twice.
    pub(crate) scales: [S::F32x8; 2],
    /// What is added to each group; with `sub_block_mins`, what these are multiples of.
    pub(crate) mins: S::F32x8,
    /// With [`SubScales::Int`] and minima: which multiples of `mins` the sub-blocks of each group
    /// have, as two int16.
    pub(crate) sub_block_mins: S::I32x8,
}

impl<S: QuantKernels> UnpackedSuperblock<S> {
    /// Groups without minima.
    #[inline(always)]
    pub(crate) fn scaled(s: S, q: [S::I8x64; PAIRS], scales: S::F32x8) -> Self {
        Self::with_mins(s, q, scales, s.splat_x8(0.0))
    }

    /// Groups with minima.
    #[inline(always)]
    pub(crate) fn with_mins(s: S, q: [S::I8x64; PAIRS], scales: S::F32x8, mins: S::F32x8) -> Self {
        Self { q, scales: [scales; 2], mins, sub_block_mins: s.zero_i32x8() }
    }
}

/// A superblock, unpacked in the order of an [`Interleave`].
#[derive(Clone, Copy)]
pub(crate) struct Interleaved<S: QuantKernels> {
    /// The integers, as [`Block::ENCODING`] says.
    pub(crate) q: [S::I8x64; PAIRS],
    /// The scale of each group.
    pub(crate) scales: S::F32x8,
    /// What is added to each group.
    pub(crate) mins: S::F32x8,
}
