//! Weight formats: how a row of weights is stored, and its dot product with a token's activations.
//!
//! A format is one file here and one line in [`Rows`]. It draws its layout, says in plain scalar
//! code what numbers the bytes stand for ([`Format::dequantize`]), and multiplies some rows with
//! some tokens ([`Format::dot`]), generic over the instruction set.

pub(crate) mod activation;
pub(crate) mod blocks;
pub(crate) mod float;
mod int8;
mod iq4;
pub(crate) mod packed;
mod q2_k;
mod q3_k;
mod q4;
mod q4_k;
mod q5;
mod q5_k;
mod q6_k;
mod q8_0;

use self::blocks::{Block, BlockRows, Encoding, GROUP};
use self::float::{Bf16, F16, F32, FloatRows};
pub(crate) use self::int8::Int8Rows;
use self::iq4::{Iq4Nl, Iq4Xs};
use self::q2_k::Q2K;
use self::q3_k::Q3K;
use self::q4::{Q4_0, Q4_1};
use self::q4_k::Q4K;
use self::q5::{Q5_0, Q5_1};
use self::q5_k::Q5K;
use self::q6_k::Q6K;
use self::q8_0::Q8_0;

use std::fmt;
use std::ops::Range;

use crate::parallel::ColumnSlice;
use crate::quant::activation::Input;
use crate::quant::packed::Panel;
use crate::simd::{Interleave, Isa, Simd, kernel};

/// How the weights of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dtype {
    /// IEEE 754 single precision, 4 bytes a weight.
    F32,
    /// IEEE 754 half precision, 2 bytes a weight.
    F16,
    /// The upper half of an f32, 2 bytes a weight.
    Bf16,
    /// int8 with one f32 scale for every `group_size` weights of the tensor, counted row after row
    /// (llama2.c's v2).
    Int8 {
        /// Weights that share a scale.
        group_size: usize,
    },
    /// ggml's 8 bits with a scale for every 32.
    Q8_0,
    /// ggml's 4 bits with a scale for every 32.
    Q4_0,
    /// ggml's 4 bits with a scale and a minimum for every 32.
    Q4_1,
    /// ggml's 5 bits with a scale for every 32.
    Q5_0,
    /// ggml's 5 bits with a scale and a minimum for every 32.
    Q5_1,
    /// ggml's 2 bits in blocks of 256, a scale and a minimum of 4 bits for every 16.
    Q2K,
    /// ggml's 3 bits in blocks of 256, a scale of 6 bits for every 16.
    Q3K,
    /// ggml's 4 bits in blocks of 256, a scale and a minimum of 6 bits for every 32.
    Q4K,
    /// ggml's 5 bits in blocks of 256, a scale and a minimum of 6 bits for every 32.
    Q5K,
    /// ggml's 6 bits in blocks of 256, a scale of 8 bits for every 16.
    Q6K,
    /// ggml's 4 bits that choose from 16 values, a scale for every 32.
    Iq4Nl,
    /// ggml's 4 bits that choose from 16 values, in blocks of 256, a scale of 6 bits for every 32.
    Iq4Xs,
}

impl Dtype {
    /// Weights and bytes of a block, where a row is a whole number of blocks; `None` for
    /// [`Dtype::Int8`], whose scales lie apart.
    #[must_use]
    pub fn block(self) -> Option<(usize, usize)> {
        fn of<B: Block>() -> (usize, usize) {
            (B::WEIGHTS, B::BYTES)
        }
        Some(match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Int8 { .. } => return None,
            Self::Q8_0 => of::<Q8_0>(),
            Self::Q4_0 => of::<Q4_0>(),
            Self::Q4_1 => of::<Q4_1>(),
            Self::Q5_0 => of::<Q5_0>(),
            Self::Q5_1 => of::<Q5_1>(),
            Self::Q2K => of::<Q2K>(),
            Self::Q3K => of::<Q3K>(),
            Self::Q4K => of::<Q4K>(),
            Self::Q5K => of::<Q5K>(),
            Self::Q6K => of::<Q6K>(),
            Self::Iq4Nl => of::<Iq4Nl>(),
            Self::Iq4Xs => of::<Iq4Xs>(),
        })
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Int8 { group_size } => return write!(f, "int8 (groups of {group_size})"),
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
            Self::Iq4Nl => "IQ4_NL",
            Self::Iq4Xs => "IQ4_XS",
        };
        f.write_str(name)
    }
}

/// Rows of weights in one format. All of them have the same number of columns.
pub(crate) trait Format: Copy {
    /// Whether [`Format::dot`] wants eight rows at once, and not four.
    const EIGHT_ROWS: bool = false;

    /// The dot products of `R` rows, from `row` on, with a token.
    ///
    /// Each product is added up in the same order whatever `R` is.
    fn dot<S: Simd, const R: usize>(self, s: S, row: usize, x: Input<'_>, token: usize) -> [f32; R];

    /// The numbers that a row stands for.
    fn dequantize(self, row: usize, out: &mut [f32]);

    /// The order in which one token's activations are wanted, if not in their own.
    fn interleave(self) -> Option<Interleave> {
        None
    }

    /// What a panel of int8 holds of this format, and whether the halves of a group have their own
    /// scales; `None` if the format can't be unpacked into one.
    fn panel_encoding(self) -> Option<(Encoding, bool)> {
        None
    }

    /// Unpacks some rows into a panel.
    ///
    /// # Panics
    /// If [`Format::panel_encoding`] is `None`.
    #[inline(always)]
    fn unpack<S: Simd>(self, _s: S, _rows: Range<usize>, _panel: &mut Panel) {
        unreachable!("this format has no int8 panels");
    }
}

/// A matrix's weights, in whichever format they are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rows<'a> {
    F32(FloatRows<'a, F32>),
    F16(FloatRows<'a, F16>),
    Bf16(FloatRows<'a, Bf16>),
    Int8(Int8Rows<'a>),
    Q8_0(BlockRows<'a, Q8_0>),
    Q4_0(BlockRows<'a, Q4_0>),
    Q4_1(BlockRows<'a, Q4_1>),
    Q5_0(BlockRows<'a, Q5_0>),
    Q5_1(BlockRows<'a, Q5_1>),
    Q2K(BlockRows<'a, Q2K>),
    Q3K(BlockRows<'a, Q3K>),
    Q4K(BlockRows<'a, Q4K>),
    Q5K(BlockRows<'a, Q5K>),
    Q6K(BlockRows<'a, Q6K>),
    Iq4Nl(BlockRows<'a, Iq4Nl>),
    Iq4Xs(BlockRows<'a, Iq4Xs>),
}

/// Calls a generic function with the format that the weights are in.
macro_rules! with_format {
    ($rows:expr, $format:ident => $body:expr) => {
        match $rows {
            Rows::F32($format) => $body,
            Rows::F16($format) => $body,
            Rows::Bf16($format) => $body,
            Rows::Int8($format) => $body,
            Rows::Q8_0($format) => $body,
            Rows::Q4_0($format) => $body,
            Rows::Q4_1($format) => $body,
            Rows::Q5_0($format) => $body,
            Rows::Q5_1($format) => $body,
            Rows::Q2K($format) => $body,
            Rows::Q3K($format) => $body,
            Rows::Q4K($format) => $body,
            Rows::Q5K($format) => $body,
            Rows::Q6K($format) => $body,
            Rows::Iq4Nl($format) => $body,
            Rows::Iq4Xs($format) => $body,
        }
    };
}

impl<'a> Rows<'a> {
    /// Rows of one of ggml's block formats.
    ///
    /// # Panics
    /// If `dtype` is none of them.
    pub(crate) fn of_blocks(dtype: Dtype, bytes: &'a [u8], n: usize) -> Self {
        match dtype {
            Dtype::Q8_0 => Self::Q8_0(BlockRows::new(bytes, n)),
            Dtype::Q4_0 => Self::Q4_0(BlockRows::new(bytes, n)),
            Dtype::Q4_1 => Self::Q4_1(BlockRows::new(bytes, n)),
            Dtype::Q5_0 => Self::Q5_0(BlockRows::new(bytes, n)),
            Dtype::Q5_1 => Self::Q5_1(BlockRows::new(bytes, n)),
            Dtype::Q2K => Self::Q2K(BlockRows::new(bytes, n)),
            Dtype::Q3K => Self::Q3K(BlockRows::new(bytes, n)),
            Dtype::Q4K => Self::Q4K(BlockRows::new(bytes, n)),
            Dtype::Q5K => Self::Q5K(BlockRows::new(bytes, n)),
            Dtype::Q6K => Self::Q6K(BlockRows::new(bytes, n)),
            Dtype::Iq4Nl => Self::Iq4Nl(BlockRows::new(bytes, n)),
            Dtype::Iq4Xs => Self::Iq4Xs(BlockRows::new(bytes, n)),
            Dtype::F32 | Dtype::F16 | Dtype::Bf16 | Dtype::Int8 { .. } => {
                panic!("{dtype} has no blocks")
            }
        }
    }

    pub(crate) fn f32(weights: &'a [f32], n: usize) -> Self {
        Self::F32(FloatRows::new(weights, n))
    }

    pub(crate) fn f16(weights: &'a [u16], n: usize) -> Self {
        Self::F16(FloatRows::new(weights, n))
    }

    pub(crate) fn bf16(weights: &'a [u16], n: usize) -> Self {
        Self::Bf16(FloatRows::new(weights, n))
    }

    /// The numbers that a row stands for.
    pub(crate) fn dequantize(self, row: usize, out: &mut [f32]) {
        with_format!(self, format => format.dequantize(row, out));
    }

    /// How many activations must share a scale for these weights; `None` if they are multiplied as
    /// f32.
    pub(crate) fn activation_group(self) -> Option<usize> {
        match self {
            Self::F32(_) | Self::F16(_) | Self::Bf16(_) => None,
            Self::Int8(rows) => Some(rows.activation_group()),
            _ => Some(GROUP),
        }
    }

    /// See [`Format::interleave`].
    pub(crate) fn interleave(self) -> Option<Interleave> {
        with_format!(self, format => format.interleave())
    }

    /// See [`Format::panel_encoding`].
    pub(crate) fn panel_encoding(self) -> Option<(Encoding, bool)> {
        with_format!(self, format => format.panel_encoding())
    }

    /// See [`Format::unpack`].
    pub(crate) fn unpack(self, isa: Isa, rows: Range<usize>, panel: &mut Panel) {
        with_format!(self, format => unpack(isa, format, rows, panel));
    }

    /// The products of some rows with every token, into `out`: (`n_tokens`, as many columns as
    /// rows).
    pub(crate) fn dot_all(
        self,
        isa: Isa,
        rows: Range<usize>,
        x: Input<'_>,
        out: &mut ColumnSlice<'_>,
        store: Output,
    ) {
        with_format!(self, format => dot_all(isa, format, rows, x, out, store));
    }
}

/// Whether products replace what is there or are added to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    Overwrite,
    Accumulate,
}

/// Rows that are multiplied with all tokens before the next ones: about what fits a second-level
/// cache.
const ROW_BLOCK: usize = 32;

kernel! {
    /// Walks the products, a few rows at a time, which share the loads of a token's activations.
    fn dot_all<F: Format>(
        s; format: F, rows: Range<usize>, x: Input<'_>, out: &mut ColumnSlice<'_>, store: Output,
    ) {
        let n_tokens = x.n_tokens();
        let mut block = rows.start;
        while block < rows.end {
            let end = rows.end.min(block + ROW_BLOCK);
            for token in 0..n_tokens {
                let row = if S::REGISTER_TILE == 1 {
                    block
                } else if F::EIGHT_ROWS {
                    dot_rows::<S, F, 8>(s, format, rows.start, block..end, x, token, out, store)
                } else {
                    dot_rows::<S, F, 4>(s, format, rows.start, block..end, x, token, out, store)
                };
                dot_rows::<S, F, 1>(s, format, rows.start, row..end, x, token, out, store);
            }
            block = end;
        }
    }
}

kernel! {
    fn unpack<F: Format>(s; format: F, rows: Range<usize>, panel: &mut Panel) {
        format.unpack(s, rows, panel);
    }
}

/// Multiplies rows, `R` at a time; the first row that is left.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "the loop's state, inlined into the one caller")]
fn dot_rows<S: Simd, F: Format, const R: usize>(
    s: S,
    format: F,
    first: usize,
    rows: Range<usize>,
    x: Input<'_>,
    token: usize,
    out: &mut ColumnSlice<'_>,
    store: Output,
) -> usize {
    let mut row = rows.start;
    while row + R <= rows.end {
        let products: [f32; R] = format.dot(s, row, x, token);
        let out = &mut out.row(token)[row - first..][..R];
        for (out, product) in out.iter_mut().zip(products) {
            match store {
                Output::Overwrite => *out = product,
                Output::Accumulate => *out += product,
            }
        }
        row += R;
    }
    row
}
