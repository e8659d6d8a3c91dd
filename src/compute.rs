//! What every operation of a forward pass is given: instruction set, numerics and threads.

use crate::parallel::Team;
use crate::simd::Isa;

/// What a forward pass computes with. The operations in `ops`, `matmul` and `attention` that use
/// threads take it as their first argument.
pub(crate) struct Compute<'a> {
    pub(crate) isa: Isa,
    pub(crate) numerics: Numerics,
    pub(crate) team: &'a Team<'a>,
}

/// The arithmetic of norms, RoPE, softmax and SwiGLU, in which engines differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Numerics {
    /// Angles and the sums of norms are in f64. In f32 those sums would be most of the error of an
    /// f32 model's logits: 4e-7 of their standard deviation instead of 2.7e-7, at a width of 256.
    Accurate,
    /// All of it is in f32, as in llama2.c: an int8 file is defined by what runq computes from it,
    /// bit for bit.
    RunqCompatible,
}
