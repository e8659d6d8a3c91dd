//! Vectors: what the kernels need from a processor, on two floors.
//!
//! - Primitives ([`Simd256`], [`Simd`]): load, add, multiply, dot product. Each instruction set has
//!   them by its own intrinsics.
//! - Kernels of quantized formats ([`BlockKernels`], [`LowBitKernels`], [`QuantKernels`]): defined
//!   in terms of primitives. An instruction set overrides what it does better.
//!
//! A kernel is generic over these traits and marked `#[inline(always)]`; [`Isa::run`] calls it from
//! a `#[target_feature]` function, so one source is compiled once for each instruction set. A
//! helper that is not inlined would be compiled without the features, so everything that is hot in
//! a kernel is `#[inline(always)]`.
//!
//! [`Isa`] is a proof: only [`Isa::available`] and [`Isa::best`] make one, after asking the
//! processor, so whoever holds `Avx512` knows that it is there. The design follows `pulp`'s and
//! `fearless_simd`'s tokens.

mod block_kernels;
mod features;
mod isa;
mod low_bits;
#[cfg(feature = "cli")]
pub mod machine;
mod panel;
mod primitives;
mod quant_kernels;
pub(crate) mod scalar;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use self::block_kernels::BlockKernels;
pub use self::isa::Isa;
pub(crate) use self::isa::{Kernel, kernel};
pub(crate) use self::low_bits::LowBitKernels;
pub(crate) use self::panel::{PanelGroup, PanelTokens};
pub(crate) use self::primitives::{Simd, Simd256};
pub(crate) use self::quant_kernels::{Interleave, Pair, QuantKernels, six_bits};
use crate::storage::Plain;

/// Bytes of a cache line, on nearly every processor.
pub(crate) const LINE: usize = 64;

/// How many bytes ahead weights are fetched, at least: what memory delivers to a thread in the time
/// that a line takes. Two threads at 65 GB/s read 30 bytes in a nanosecond each, and a line may
/// take more than 200 of them. (Half and twice this distance were slower for most formats.)
pub(crate) const PREFETCH_DISTANCE: usize = 8 << 10;

/// An f32, perhaps at an address that isn't a multiple of four: its bytes are the f32's.
pub(crate) trait Number: Plain {
    /// Its value.
    fn get(self) -> f32;
}

impl Number for f32 {
    #[inline(always)]
    fn get(self) -> f32 {
        self
    }
}

/// A byte, with a sign or without.
pub(crate) trait Byte: Plain {
    /// The same bits with a sign.
    fn signed(self) -> i8;
    /// The same bits.
    fn of(bits: i8) -> Self;
}

impl Byte for i8 {
    #[inline(always)]
    fn signed(self) -> i8 {
        self
    }
    #[inline(always)]
    fn of(bits: i8) -> Self {
        bits
    }
}

impl Byte for u8 {
    #[inline(always)]
    fn signed(self) -> i8 {
        self as i8
    }
    #[inline(always)]
    fn of(bits: i8) -> Self {
        bits as Self
    }
}

#[cfg(test)]
mod tests;
