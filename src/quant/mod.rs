//! Weight formats: how a row of weights is stored, and its dot product with a token's activations.
//!
//! A format is one file here and one line in [`Rows`]. It draws its layout, says in plain scalar code what numbers the
//! bytes stand for ([`Format::dequantize`]), and multiplies some rows with some tokens ([`Format::dot`]), generic over
//! the instruction set.

pub(crate) mod activation;
mod f32;
mod int8;

pub(crate) use self::f32::F32Rows;
pub(crate) use self::int8::Int8Rows;

use std::fmt;
use std::ops::Range;

use crate::parallel::Band;
use crate::quant::activation::Input;
use crate::simd::Simd;

/// How the weights of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dtype {
    /// IEEE 754 single precision, 4 bytes a weight.
    F32,
    /// int8 with one f32 scale for every `group_size` weights of the tensor, counted row after row (llama2.c's v2).
    Int8 {
        /// Weights that share a scale.
        group_size: usize,
    },
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::F32 => f.write_str("f32"),
            Self::Int8 { group_size } => write!(f, "int8 (groups of {group_size})"),
        }
    }
}

/// Rows of weights in one format. All of them have the same number of columns.
pub(crate) trait Format: Copy {
    /// The dot products of `R` rows, from `row` on, with `T` tokens, from `token` on: `[row][token]`.
    ///
    /// Each product is added up in the same order whatever `R` and `T` are.
    fn dot<S: Simd, const R: usize, const T: usize>(
        self,
        s: S,
        row: usize,
        x: Input<'_>,
        token: usize,
    ) -> [[f32; T]; R];

    /// The numbers that a row stands for.
    fn dequantize(self, row: usize, out: &mut [f32]);
}

/// A matrix's weights, in whichever format they are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rows<'a> {
    F32(F32Rows<'a>),
    Int8(Int8Rows<'a>),
}

/// Calls a generic function with the format that the weights are in.
macro_rules! with_format {
    ($rows:expr, $format:ident => $body:expr) => {
        match $rows {
            $crate::quant::Rows::F32($format) => $body,
            $crate::quant::Rows::Int8($format) => $body,
        }
    };
}

impl Rows<'_> {
    /// The numbers that a row stands for.
    pub(crate) fn dequantize(self, row: usize, out: &mut [f32]) {
        with_format!(self, format => format.dequantize(row, out));
    }

    /// How many activations must share a scale for these weights; `None` if they are multiplied as f32.
    pub(crate) fn activation_group(self) -> Option<usize> {
        match self {
            Self::F32(_) => None,
            Self::Int8(rows) => Some(rows.activation_group()),
        }
    }

    /// The products of some rows with every token, into `out`: (`n_tokens`, as many columns as rows).
    #[inline(always)]
    pub(crate) fn dot_all<S: Simd>(
        self,
        s: S,
        rows: Range<usize>,
        x: Input<'_>,
        out: &mut Band<'_>,
        store: Store,
    ) {
        with_format!(self, format => dot_all(s, format, rows, x, out, store));
    }
}

/// Whether products replace what is there or are added to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    Set,
    Add,
}

/// Rows that are multiplied with all tokens before the next ones: about what fits a second-level cache.
const ROW_BLOCK: usize = 32;

/// Walks the products tile by tile. One token: 8 rows at a time share the loads of its activations. Many tokens: 2 rows
/// by 4 tokens, so that a weight is loaded (and decoded) once for 4 products.
#[inline(always)]
fn dot_all<S: Simd, F: Format>(
    s: S,
    format: F,
    rows: Range<usize>,
    x: Input<'_>,
    out: &mut Band<'_>,
    store: Store,
) {
    let n_tokens = x.n_tokens();
    let mut block = rows.start;
    while block < rows.end {
        let end = rows.end.min(block + ROW_BLOCK);
        let mut token = 0;
        while token + 4 <= n_tokens {
            let row = tiles::<S, F, 2, 4>(s, format, rows.start, block..end, x, token, out, store);
            tiles::<S, F, 1, 4>(s, format, rows.start, row..end, x, token, out, store);
            token += 4;
        }
        while token < n_tokens {
            let row = tiles::<S, F, 4, 1>(s, format, rows.start, block..end, x, token, out, store);
            tiles::<S, F, 1, 1>(s, format, rows.start, row..end, x, token, out, store);
            token += 1;
        }
        block = end;
    }
}

/// Multiplies as many whole tiles of `R` rows as there are; the first row that is left.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "the loop's state, inlined into the one caller")]
fn tiles<S: Simd, F: Format, const R: usize, const T: usize>(
    s: S,
    format: F,
    first: usize,
    rows: Range<usize>,
    x: Input<'_>,
    token: usize,
    out: &mut Band<'_>,
    store: Store,
) -> usize {
    let mut row = rows.start;
    while row + R <= rows.end {
        let products: [[f32; T]; R] = format.dot(s, row, x, token);
        for (r, products) in products.iter().enumerate() {
            for (t, &product) in products.iter().enumerate() {
                let out = &mut out.row(token + t)[row + r - first];
                match store {
                    Store::Set => *out = product,
                    Store::Add => *out += product,
                }
            }
        }
        row += R;
    }
    row
}
