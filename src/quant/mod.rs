//! Weight formats: how a row of weights is stored, and its dot product with a token's activations.
//!
//! A format is one file here and one row of the table [`formats!`]. The file draws the layout of a
//! block, says in plain scalar code what its bytes stand for ([`Block::dequantize`](block::Block)),
//! and unpacks eight groups of 32 weights at a time, generic over the instruction set. All that is
//! listed by format (names, GGUF's numbers, block sizes, [`Rows`]) comes from the table.

pub(crate) mod activation;
pub(crate) mod block;
mod block_rows;
mod bytes;
pub(crate) mod encoding;
pub(crate) mod float;
mod grids;
mod int8;
mod iq1;
mod iq2;
mod iq3;
mod iq4;
pub(crate) mod mxfp4;
pub(crate) mod packed;
mod points;
mod q2_k;
mod q3_k;
mod q4;
mod q4_k;
mod q5;
mod q5_k;
mod q6_k;
mod q8_0;
mod row_tails;
mod shared_rows;
mod sub_blocks;
mod ternary;
mod walk;

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use self::activation::ActivationRows;
use self::block_rows::BlockRows;
use self::encoding::Encoding;
use self::float::FloatRows;
use self::int8::Int8Rows;
use self::packed::Panel;
pub(crate) use self::walk::prefetch_distance;
use self::walk::{BlockProducts, RowTile, dot_all, streams_of};
use crate::error::{Error, Result, by_name};
use crate::parallel::ColumnSlice;
use crate::simd::{Interleave, Isa, QuantKernels, kernel};
use crate::storage::{Plain, Storage};

/// The table of formats. A row says, from left to right:
///
/// ```text
/// /// What it is, in a sentence that ends up in the documentation of `Dtype`.
/// Q4_0 = "Q4_0", type 2, file 2, BlockRows<q4::Q4_0>;
/// │      │       │       │       └ how its rows are stored: blocks, or plain numbers
/// │      │       │       └ GGUF's number for a file that has most matrices in it (`llama_ftype`)
/// │      │       └ GGUF's number for a tensor in it (`ggml_type`)
/// │      └ the name that is shown, and read in either case
/// └ the variant of `Dtype` and of `Rows`
/// ```
///
/// int8, llama2.c's, isn't in the table but written out beside it: it has a parameter, a second
/// range of bytes, and no number in GGUF.
macro_rules! formats {
    // `$d` is a dollar sign, for the macro that this one makes.
    ($d:tt $($(#[$doc:meta])+ $variant:ident = $name:literal, type $id:literal, file $file:literal,
        $rows:ident<$of:ty>;)+) => {
        /// How the weights of a tensor are stored.
        ///
        /// ```
        /// use babyllama::Dtype;
        ///
        /// assert_eq!("q4_k".parse::<Dtype>()?, Dtype::Q4K);
        /// assert_eq!(Dtype::Q4K.to_string(), "Q4_K");
        /// assert_eq!(Dtype::Q4K.block(), Some((256, 144)));
        /// # Ok::<(), babyllama::Error>(())
        /// ```
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Dtype {
            $($(#[$doc])+ $variant,)+
            /// int8 with one f32 scale for every `group_size` weights of the tensor, counted row
            /// after row (llama2.c's v2).
            Int8 {
                /// Weights that share a scale.
                group_size: usize,
            },
        }

        impl Dtype {
            /// All formats of GGUF files: all except [`Dtype::Int8`].
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Weights and bytes of a block, which rows are made of; `None` for [`Dtype::Int8`],
            /// whose scales lie apart.
            #[must_use]
            pub fn block(self) -> Option<(usize, usize)> {
                match self {
                    $(Self::$variant => Some(<$rows<'_, $of> as StoredRows<'_>>::BLOCK),)+
                    Self::Int8 { .. } => None,
                }
            }

            /// The number of this format in GGUF's list of tensors.
            pub(crate) fn ggml_type(self) -> Option<u32> {
                match self {
                    $(Self::$variant => Some($id),)+
                    Self::Int8 { .. } => None,
                }
            }

            /// `general.file_type` of a GGUF file with most matrices in this format; where there
            /// are several, that of the medium size.
            #[cfg(feature = "convert")]
            pub(crate) fn file_type(self) -> Option<u32> {
                match self {
                    $(Self::$variant => Some($file),)+
                    Self::Int8 { .. } => None,
                }
            }

            fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                    Self::Int8 { .. } => "int8",
                }
            }

            /// Whether a range of the storage can be viewed as weights in this format.
            pub(crate) fn can_view(self, storage: &Storage, weights: Range<usize>) -> bool {
                match self {
                    $(Self::$variant => {
                        storage.can_view::<<$rows<'_, $of> as StoredRows<'_>>::Element>(weights)
                    })+
                    Self::Int8 { .. } => storage.can_view::<i8>(weights),
                }
            }
        }

        /// A matrix's weights, in whichever format they are.
        #[derive(Clone, Copy, Debug)]
        pub(crate) enum Rows<'a> {
            $($variant($rows<'a, $of>),)+
            Int8(Int8Rows<'a>),
        }

        impl<'a> Rows<'a> {
            /// Rows of `n` weights, and their scales if these lie apart.
            ///
            /// # Panics
            /// If a range can't be viewed as what it should be: see [`Dtype::can_view`].
            pub(crate) fn new(
                dtype: Dtype,
                storage: &'a Storage,
                weights: Range<usize>,
                scales: Range<usize>,
                n: usize,
            ) -> Self {
                match dtype {
                    $(Dtype::$variant => Self::$variant(StoredRows::new(storage.view(weights), n)),)+
                    Dtype::Int8 { group_size } => {
                        let (weights, scales) = (storage.view(weights), storage.view(scales));
                        Self::Int8(Int8Rows::new(weights, scales, n, group_size))
                    }
                }
            }
        }

        /// Calls a generic function with the format that the weights are in.
        macro_rules! with_format {
            ($d rows:expr, $d format:ident => $d body:expr) => {
                match $d rows {
                    $(Rows::$variant($d format) => $d body,)+
                    Rows::Int8($d format) => $d body,
                }
            };
        }
    };
}

formats! { $
    /// IEEE 754 single precision, 4 bytes a weight.
    F32 = "f32", type 0, file 0, FloatRows<float::F32>;
    /// IEEE 754 half precision, 2 bytes a weight.
    F16 = "f16", type 1, file 1, FloatRows<float::F16>;
    /// The upper half of an f32, 2 bytes a weight.
    Bf16 = "bf16", type 30, file 32, FloatRows<float::Bf16>;
    /// ggml's 8 bits with a scale for every 32.
    Q8_0 = "Q8_0", type 8, file 7, BlockRows<q8_0::Q8_0>;
    /// ggml's 4 bits with a scale for every 32.
    Q4_0 = "Q4_0", type 2, file 2, BlockRows<q4::Q4_0>;
    /// ggml's 4 bits with a scale and a minimum for every 32.
    Q4_1 = "Q4_1", type 3, file 3, BlockRows<q4::Q4_1>;
    /// ggml's 5 bits with a scale for every 32.
    Q5_0 = "Q5_0", type 6, file 8, BlockRows<q5::Q5_0>;
    /// ggml's 5 bits with a scale and a minimum for every 32.
    Q5_1 = "Q5_1", type 7, file 9, BlockRows<q5::Q5_1>;
    /// ggml's 2 bits in blocks of 256, a scale and a minimum of 4 bits for every 16.
    Q2K = "Q2_K", type 10, file 10, BlockRows<q2_k::Q2K>;
    /// ggml's 3 bits in blocks of 256, a scale of 6 bits for every 16.
    Q3K = "Q3_K", type 11, file 12, BlockRows<q3_k::Q3K>;
    /// ggml's 4 bits in blocks of 256, a scale and a minimum of 6 bits for every 32.
    Q4K = "Q4_K", type 12, file 15, BlockRows<q4_k::Q4K>;
    /// ggml's 5 bits in blocks of 256, a scale and a minimum of 6 bits for every 32.
    Q5K = "Q5_K", type 13, file 17, BlockRows<q5_k::Q5K>;
    /// ggml's 6 bits in blocks of 256, a scale of 8 bits for every 16.
    Q6K = "Q6_K", type 14, file 18, BlockRows<q6_k::Q6K>;
    /// ggml's 4 bits that choose from 16 values, a scale for every 32.
    Iq4Nl = "IQ4_NL", type 20, file 25, BlockRows<iq4::Iq4Nl>;
    /// ggml's 4 bits that choose from 16 values, in blocks of 256, a scale of 6 bits for every 32.
    Iq4Xs = "IQ4_XS", type 23, file 30, BlockRows<iq4::Iq4Xs>;
    /// ggml's 2 bits: 256 points for every eight and signs, a scale of 4 bits for every 32.
    Iq2Xxs = "IQ2_XXS", type 16, file 19, BlockRows<iq2::Iq2Xxs>;
    /// ggml's 2.3 bits: 512 points for every eight and signs, a scale of 4 bits for every 16.
    Iq2Xs = "IQ2_XS", type 17, file 20, BlockRows<iq2::Iq2Xs>;
    /// ggml's 2.5 bits: 1,024 points for every eight and signs, a scale of 4 bits for every 16.
    Iq2S = "IQ2_S", type 22, file 28, BlockRows<iq2::Iq2S>;
    /// ggml's 3 bits: 256 points for every four and signs, a scale of 4 bits for every 32.
    Iq3Xxs = "IQ3_XXS", type 18, file 23, BlockRows<iq3::Iq3Xxs>;
    /// ggml's 3.4 bits: 512 points for every four and signs, a scale of 4 bits for every 32.
    Iq3S = "IQ3_S", type 21, file 26, BlockRows<iq3::Iq3S>;
    /// ggml's 1.5 bits: 2,048 points for every eight, a scale of 3 bits for every 32.
    Iq1S = "IQ1_S", type 19, file 24, BlockRows<iq1::Iq1S>;
    /// ggml's 1.75 bits: 2,048 points for every eight, a scale of 3 bits for every 16.
    Iq1M = "IQ1_M", type 29, file 31, BlockRows<iq1::Iq1M>;
    /// ggml's three values, five in a byte, a scale for every 256.
    Tq1_0 = "TQ1_0", type 34, file 36, BlockRows<ternary::Tq1_0>;
    /// ggml's three values, four in a byte, a scale for every 256.
    Tq2_0 = "TQ2_0", type 35, file 37, BlockRows<ternary::Tq2_0>;
    /// Microscaling's floats of 4 bits, a power of two for every 32.
    Mxfp4 = "MXFP4", type 39, file 38, BlockRows<mxfp4::Mxfp4>;
}

impl Dtype {
    /// The format that has a number in GGUF's list of tensors.
    pub(crate) fn from_ggml_type(id: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|dtype| dtype.ggml_type() == Some(id))
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int8 { group_size } => write!(f, "int8 (groups of {group_size})"),
            _ => f.write_str(self.name()),
        }
    }
}

/// Reads what [`Display`](fmt::Display) writes, in upper or lower case.
impl FromStr for Dtype {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let int8 = || {
            let group_size = name.strip_prefix("int8 (groups of ")?.strip_suffix(')')?.parse().ok()?;
            Some(Self::Int8 { group_size })
        };
        int8().map_or_else(|| by_name("weight format", name, Self::ALL, Self::name), Ok)
    }
}

/// The most tokens of [`Format::dot_tokens`].
pub(crate) const SHARING_TOKENS: usize = 8;

/// Rows of weights in one format. All of them have the same number of columns.
pub(crate) trait Format: Copy {
    /// Whether [`Format::dot`] is fastest with eight rows at once, and not with four.
    const EIGHT_ROWS: bool = false;

    /// How many rows, far from each other, are read side by side for a token where the processor
    /// reads several streams faster than one ([`walk::streams`]): 1, 2 or 4.
    const STREAMS: usize = 2;

    /// The tokens that share a row, which is unpacked once for all of them: at most
    /// [`SHARING_TOKENS`].
    const SHARING_TOKENS: usize = SHARING_TOKENS;

    /// The dot products of `R` rows with a token. As many as there are [`walk::streams`] are read
    /// side by side.
    ///
    /// Each product is added up in the same order whatever `R` is.
    fn dot<S: QuantKernels, const R: usize>(
        self,
        s: S,
        rows: [usize; R],
        x: ActivationRows<'_>,
        token: usize,
    ) -> [f32; R];

    /// The dot products of some rows with some tokens, at most as many as share a row. The same
    /// bits as [`Format::dot`].
    fn dot_tokens<S: QuantKernels>(
        self,
        s: S,
        block: RowTile,
        x: ActivationRows<'_>,
        tokens: Range<usize>,
        products: &mut BlockProducts,
    );

    /// The numbers that a row stands for.
    fn dequantize(self, row: usize, out: &mut [f32]);

    /// How many activations must share a scale for these weights; `None` if they are multiplied as
    /// f32.
    fn activation_group(self) -> Option<usize> {
        None
    }

    /// Whether the activations of some tokens are needed in superblocks of an order.
    #[inline(always)]
    fn needs_superblocks<S: QuantKernels>(self, _n_tokens: usize, _order: Option<Interleave>) -> bool {
        false
    }

    /// What a panel of int8 holds of this format, and whether the sub-blocks of a group have their
    /// own scales there; `None` if the format has no such panels.
    fn panel_encoding(self) -> Option<(Encoding, bool)> {
        None
    }

    /// The fewest tokens for which unpacking rows into a panel pays: fewer are no slower with
    /// [`Format::dot_tokens`], which takes fewer instructions where groups are transposed.
    #[inline(always)]
    fn min_panel_tokens<S: QuantKernels>(self) -> usize {
        1
    }

    /// Unpacks some rows into a panel.
    ///
    /// # Panics
    /// If [`Format::panel_encoding`] is `None`.
    #[inline(always)]
    fn pack_panel<S: QuantKernels>(self, _s: S, _rows: Range<usize>, _panel: &mut Panel) {
        unreachable!("this format has no int8 panels");
    }
}

/// Rows that lie one after another in the storage, whose format is in the table.
pub(crate) trait StoredRows<'a>: Format {
    /// What they are views of.
    type Element: Plain;
    /// Weights and bytes of a block.
    const BLOCK: (usize, usize);
    /// Rows of `n` weights.
    fn new(weights: &'a [Self::Element], n: usize) -> Self;
}

impl Rows<'_> {
    /// The numbers that a row stands for.
    pub(crate) fn dequantize(self, row: usize, out: &mut [f32]) {
        with_format!(self, format => format.dequantize(row, out));
    }

    /// See [`Format::activation_group`].
    pub(crate) fn activation_group(self) -> Option<usize> {
        with_format!(self, format => format.activation_group())
    }

    /// See [`Format::needs_superblocks`].
    pub(crate) fn needs_superblocks(self, isa: Isa, n_tokens: usize, order: Option<Interleave>) -> bool {
        with_format!(self, format => needs_superblocks(isa, format, n_tokens, order))
    }

    /// See [`Format::panel_encoding`].
    pub(crate) fn panel_encoding(self) -> Option<(Encoding, bool)> {
        with_format!(self, format => format.panel_encoding())
    }

    /// See [`Format::min_panel_tokens`].
    pub(crate) fn min_panel_tokens(self, isa: Isa) -> usize {
        with_format!(self, format => min_panel_tokens(isa, format))
    }

    /// See [`Format::pack_panel`].
    pub(crate) fn pack_panel(self, isa: Isa, rows: Range<usize>, panel: &mut Panel) {
        with_format!(self, format => pack_panel(isa, format, rows, panel));
    }

    /// The streams that a thread reads for some tokens: see [`walk::streams`].
    pub(crate) fn streams(self, isa: Isa, n_tokens: usize) -> usize {
        with_format!(self, format => streams_of(isa, format, n_tokens))
    }

    /// The products of every token with the rows whose columns `out`, (`n_tokens`, rows), has.
    pub(crate) fn dot_all(self, isa: Isa, x: ActivationRows<'_>, out: &mut ColumnSlice<'_>, output: Output) {
        with_format!(self, format => dot_all(isa, format, x, out, output));
    }
}

/// Whether products replace what is there or are added to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    Overwrite,
    Accumulate,
}

impl Output {
    #[inline(always)]
    pub(crate) fn write(self, out: &mut f32, product: f32) {
        match self {
            Self::Overwrite => *out = product,
            Self::Accumulate => *out += product,
        }
    }
}

kernel! {
    fn needs_superblocks<F: Format>(_s; format: F, n_tokens: usize, order: Option<Interleave>) -> bool {
        format.needs_superblocks::<S>(n_tokens, order)
    }
}

kernel! {
    fn min_panel_tokens<F: Format>(_s; format: F) -> usize {
        format.min_panel_tokens::<S>()
    }
}

kernel! {
    fn pack_panel<F: Format>(s; format: F, rows: Range<usize>, panel: &mut Panel) {
        format.pack_panel(s, rows, panel);
    }
}
