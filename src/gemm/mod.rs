//! The matrix products of prefill, which read each weight once for a whole batch of tokens. They know no format.
//!
//! - `int8`: quantised weights, unpacked into int8 panels
//! - `float`: the others, widened to f32
//!
//! Source of the shape: Goto and van de Geijn, "Anatomy of high-performance matrix multiplication" (2008).

pub(crate) mod float;
pub(crate) mod int8;
