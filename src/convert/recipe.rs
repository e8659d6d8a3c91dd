//! Recipes: which format each matrix of a model gets.
//!
//! Some matrices repay more bits than others: the output, the value projection of attention, the
//! down projection of the feed-forward network, and these in some layers more than in others. A
//! recipe is a format for most matrices and llama.cpp's rules for the others; a matrix whose rows
//! aren't a multiple of the block gets a format with shorter blocks.
//!
//! Source: what llama.cpp chooses, tensor by tensor, for models of many shapes:
//! `tests/golden/recipes.py`.

use std::fmt;
use std::str::FromStr;

use crate::config::Config;
use crate::error::{Error, Result, by_name};
use crate::quant::Dtype;

/// The table of recipes. A row is a variant of [`Recipe`], its name, and the format of most
/// matrices.
macro_rules! recipes {
    ($($recipe:ident = $name:literal, $most:expr;)+) => {
        /// Which format each matrix of a model gets, as llama.cpp's file types of the same names
        /// choose it. Vectors are always F32. [`Recipe::Mxfp4`] is ours: llama.cpp has one for
        /// mixtures of experts alone.
        ///
        /// ```
        /// use babyllama::convert::Recipe;
        ///
        /// assert_eq!("q4_k_m".parse::<Recipe>()?, Recipe::Q4KM);
        /// assert_eq!(Recipe::Q4KM.to_string(), "Q4_K_M");
        /// # Ok::<(), babyllama::Error>(())
        /// ```
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        #[allow(missing_docs, reason = "the names are llama.cpp's")]
        pub enum Recipe {
            $($recipe,)+
        }

        const RECIPES: &[(Recipe, &str, Dtype)] = &[$((Recipe::$recipe, $name, $most)),+];
    };
}

recipes! {
    F32 = "F32", Dtype::F32;
    F16 = "F16", Dtype::F16;
    Bf16 = "BF16", Dtype::Bf16;
    Q8_0 = "Q8_0", Dtype::Q8_0;
    Q4_0 = "Q4_0", Dtype::Q4_0;
    Q4_1 = "Q4_1", Dtype::Q4_1;
    Q5_0 = "Q5_0", Dtype::Q5_0;
    Q5_1 = "Q5_1", Dtype::Q5_1;
    Q2K = "Q2_K", Dtype::Q2K;
    Q3KS = "Q3_K_S", Dtype::Q3K;
    Q3KM = "Q3_K_M", Dtype::Q3K;
    Q3KL = "Q3_K_L", Dtype::Q3K;
    Q4KS = "Q4_K_S", Dtype::Q4K;
    Q4KM = "Q4_K_M", Dtype::Q4K;
    Q5KS = "Q5_K_S", Dtype::Q5K;
    Q5KM = "Q5_K_M", Dtype::Q5K;
    Q6K = "Q6_K", Dtype::Q6K;
    Tq1_0 = "TQ1_0", Dtype::Tq1_0;
    Tq2_0 = "TQ2_0", Dtype::Tq2_0;
    Mxfp4 = "MXFP4", Dtype::Mxfp4;
}

impl Recipe {
    /// All recipes.
    pub fn all() -> impl Iterator<Item = Self> {
        RECIPES.iter().map(|row| row.0)
    }

    fn row(self) -> &'static (Self, &'static str, Dtype) {
        &RECIPES[self as usize]
    }

    /// llama.cpp's number for it, `general.file_type`.
    pub(crate) fn file_type(self) -> Option<u32> {
        match self {
            Self::Q3KS => Some(11),
            Self::Q3KL => Some(13),
            Self::Q4KS => Some(14),
            Self::Q5KS => Some(16),
            _ => self.row().2.file_type(),
        }
    }

    /// The format of a matrix, by its name in Meta's terms and its width.
    pub(crate) fn dtype(self, name: &str, columns: usize, model: &Traits) -> Dtype {
        let most = self.row().2;
        let dtype = match most {
            Dtype::F32 | Dtype::F16 | Dtype::Bf16 | Dtype::Q8_0 => most,
            Dtype::Mxfp4 if matches!(name, "output" | "tok_embeddings") => Dtype::Q8_0,
            _ if name == "output" || name == "tok_embeddings" && model.tied => Dtype::Q6K,
            Dtype::Tq1_0 | Dtype::Tq2_0 if name == "tok_embeddings" => Dtype::Q4K,
            _ => layer_and_matrix(name)
                .and_then(|(l, matrix)| self.more_bits(l, matrix, model))
                .unwrap_or(most),
        };
        with_whole_blocks(dtype, columns)
    }

    /// What a matrix of a layer gets instead of the format of most.
    fn more_bits(self, l: usize, matrix: &str, model: &Traits) -> Option<Dtype> {
        let n = model.n_layers;
        match matrix {
            "attention.wv" => {
                let dtype = self.values(l, model);
                // With eight query heads to each value head, these matrices are so small that more
                // bits cost nothing.
                let few_bits = matches!(dtype.unwrap_or(self.row().2), Dtype::Q3K | Dtype::Q4K);
                if model.is_70b() && few_bits { Some(Dtype::Q5K) } else { dtype }
            }
            "attention.wo" => match self {
                Self::Q2K => Some(Dtype::Q3K),
                Self::Q3KM => Some(Dtype::Q4K),
                Self::Q3KL => Some(Dtype::Q5K),
                _ => None,
            },
            "feed_forward.w2" => match self {
                Self::Q2K => Some(Dtype::Q3K),
                Self::Q3KM if l < n / 16 => Some(Dtype::Q5K),
                Self::Q3KM => Some(Dtype::Q4K),
                Self::Q3KL => Some(Dtype::Q5K),
                Self::Q4KS if l < n / 8 => Some(Dtype::Q5K),
                Self::Q4KM | Self::Q5KM if model.matters(l) => Some(Dtype::Q6K),
                // A scale that is fitted to few columns may go far astray in these.
                Self::Q4_0 if model.has_importance && l < n / 8 => Some(Dtype::Q4_1),
                Self::Q5_0 if model.has_importance && l < n / 8 => Some(Dtype::Q5_1),
                _ => None,
            },
            _ => None,
        }
    }

    /// What the value projection of a layer gets instead of the format of most.
    fn values(self, l: usize, model: &Traits) -> Option<Dtype> {
        match self {
            Self::Q2K if model.heads_per_kv_head >= 4 => Some(Dtype::Q4K),
            Self::Q2K => Some(Dtype::Q3K),
            Self::Q3KM if l < 2 => Some(Dtype::Q5K),
            Self::Q3KM => Some(Dtype::Q4K),
            Self::Q3KL => Some(Dtype::Q5K),
            Self::Q4KS if l < 4 => Some(Dtype::Q5K),
            Self::Q4KM | Self::Q5KM if model.matters(l) => Some(Dtype::Q6K),
            _ => None,
        }
    }
}

/// What a choice depends on, besides the matrix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traits {
    n_layers: usize,
    heads_per_kv_head: usize,
    /// The output is the token embeddings.
    tied: bool,
    /// The importance of columns is known.
    has_importance: bool,
}

impl Traits {
    pub(crate) fn of(config: &Config, tied: bool, has_importance: bool) -> Self {
        let Config { n_layers, n_heads, n_kv_heads, .. } = *config;
        Self { n_layers, heads_per_kv_head: n_heads / n_kv_heads, tied, has_importance }
    }

    /// llama.cpp knows Llama 2 70B by its 80 layers. LLaMA 65B has 80 too, but a value head for
    /// each query head.
    fn is_70b(&self) -> bool {
        self.n_layers == 80 && self.heads_per_kv_head > 1
    }

    /// Errors in the first and the last eighth of the layers, and in every third between them,
    /// weigh most.
    fn matters(&self, l: usize) -> bool {
        let n = self.n_layers;
        l < n / 8 || l >= 7 * n / 8 || (l - n / 8) % 3 == 2
    }
}

/// `layers.3.attention.wq` as 3 and `attention.wq`.
fn layer_and_matrix(name: &str) -> Option<(usize, &str)> {
    let (layer, matrix) = name.strip_prefix("layers.")?.split_once('.')?;
    Some((layer.parse().ok()?, matrix))
}

/// A format, or where rows aren't a multiple of its block, one of shorter blocks with the same bits
/// or more.
pub(crate) fn with_whole_blocks(dtype: Dtype, columns: usize) -> Dtype {
    let fits = |dtype: Dtype| dtype.block().is_some_and(|(weights, _)| columns.is_multiple_of(weights));
    if fits(dtype) {
        return dtype;
    }
    let shorter = match dtype {
        Dtype::Q2K | Dtype::Q3K | Dtype::Tq1_0 | Dtype::Tq2_0 => Dtype::Q4_0,
        Dtype::Q4K => Dtype::Q5_0,
        Dtype::Q5K => Dtype::Q5_1,
        Dtype::Q6K => Dtype::Q8_0,
        _ => Dtype::F16,
    };
    if fits(shorter) { shorter } else { Dtype::F16 }
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row().1)
    }
}

/// Reads a name in upper or lower case. Without a size, as in `q4_k`, the medium one is meant.
impl FromStr for Recipe {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let is_medium = |row: &str| row.strip_suffix("_M").is_some_and(|row| row.eq_ignore_ascii_case(name));
        match RECIPES.iter().find(|row| is_medium(row.1)) {
            Some(row) => Ok(row.0),
            None => by_name("recipe", name, &Self::all().collect::<Vec<_>>(), |recipe| recipe.row().1),
        }
    }
}

#[cfg(test)]
mod tests;
