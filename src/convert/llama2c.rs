//! Writes llama2.c's three formats and its `tokenizer.bin`, byte for byte as its `export.py` and
//! `tokenizer.py` do; `checkpoint/llama2c.rs` draws the layouts.
//!
//! The tables of v0, which no program reads, are rounded correctly here; `export.py`'s depend on
//! the machine in the last bit.
//!
//! Invariant: what the formats can't hold and would change the model's numbers is refused, except
//! `norm_eps` and `rope_theta`, which none of them holds and options give.

use std::collections::HashMap;
use std::io::Write;
use std::ops::Range;

use super::source::{Source, SourceModel, SourceTensor};
use crate::arch::{OUTPUT, TOK_EMBEDDINGS, TensorId};
use crate::checkpoint::llama2c::{Layout, MAGIC, MAX_GROUP, Part, VERSIONED_HEADER};
use crate::config::{Config, RopeScaling};
use crate::error::{Error, ErrorKind, Result};
use crate::ops::RopeFactors;
use crate::tokenizer::{PieceKind, TextSettings, TokenizerModel, TokenizerSpec, with_plain_spaces};

/// Weights that are in memory at once, except of rows that are longer.
const CHUNK: usize = 1 << 20;
/// llama2.c's formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Llama2c {
    /// f32 without a magic number: what `run.c` reads.
    V0,
    /// f32 after a header of 256 bytes.
    V1,
    /// int8 with a scale for every group of weights: what `runq.c` reads.
    V2 {
        /// Weights in a group, [`Llama2c::GROUP_SIZE`] in most files; half of that, and so on, if
        /// they don't divide `dim`.
        group_size: usize,
    },
}

impl Llama2c {
    /// The weights in a group of v2 that `export.py` takes.
    pub const GROUP_SIZE: usize = 64;
}

/// Bytes that [`to_llama2c`] will write.
///
/// # Errors
/// As [`to_llama2c`].
pub fn llama2c_bytes(source: &Source, version: Llama2c) -> Result<u64> {
    let config = within_window(source.config());
    let plan = Plan::new(source.model(), &config, version)?;
    Ok(u64::try_from(plan.layout.file_bytes()).unwrap_or(u64::MAX))
}

/// Writes a model in one of llama2.c's formats. The files hold neither `norm_eps` nor `rope_theta`:
/// what reads them must know both.
///
/// # Errors
/// [`ErrorKind::Io`]; [`ErrorKind::Unwritable`] if the format can't hold the model: heads of
/// another width than `dim / n_heads`, scaled rotary frequencies, and for v2 a weight that isn't
/// finite or a matrix that its groups don't divide; [`ErrorKind::InvalidOption`] for groups that
/// can't be; and the errors of reading the source.
pub fn to_llama2c(source: &Source, version: Llama2c, mut to: impl Write) -> Result<()> {
    let config = within_window(source.config());
    let plan = Plan::new(source.model(), &config, version)?;
    to.write_all(&plan.header())?;
    for part in plan.layout.parts() {
        if let Part::RopeTables = part {
            write_rope_tables(plan.layout.config, &mut to)?;
        }
        for id in plan.layout.tensors(part) {
            match plan.layout.group_size(part) {
                Some(group_size) => write_int8(plan.tensor(id)?, group_size, &mut to)?,
                None => write_floats(plan.tensor(id)?, &mut to)?,
            }
        }
    }
    Ok(to.flush()?)
}

/// The hyperparameters without a window, which the formats don't have: the context ends with it,
/// and within it there is no difference.
pub(super) fn within_window(config: &Config) -> Config {
    let max_seq_len = config.max_seq_len.min(config.sliding_window.unwrap_or(usize::MAX));
    Config { max_seq_len, sliding_window: None, windowed_layers: Vec::new(), ..config.clone() }
}

/// What is known before anything is written.
struct Plan<'a> {
    layout: Layout<'a>,
    /// By Meta's names.
    tensors: HashMap<String, SourceTensor<'a>>,
}

impl<'a> Plan<'a> {
    fn new(source: &'a SourceModel, config: &'a Config, version: Llama2c) -> Result<Self> {
        check(config, source.rope_factors != RopeFactors::default())?;
        let tensors = source.tensors().into_iter().map(|tensor| (tensor.info.name.clone(), tensor));
        let (version, group_size) = match version {
            Llama2c::V0 => (0, None),
            Llama2c::V1 => (1, None),
            Llama2c::V2 { group_size } => (2, Some(group_size_of(group_size, config.dim)?)),
        };
        let layout = Layout { version, config, tied: true, group_size };
        let mut plan = Self { layout, tensors: tensors.collect() };
        plan.layout.tied = plan.is_tied()?;
        plan.check_tensors()?;
        Ok(plan)
    }

    fn tensor(&self, id: TensorId) -> Result<&SourceTensor<'a>> {
        let name = id.to_string();
        self.tensors.get(&name).ok_or_else(|| Error::missing_tensor(name))
    }

    /// Whether there is no classifier except the embeddings, or one with the same weights.
    fn is_tied(&self) -> Result<bool> {
        let Ok(output) = self.tensor(TensorId::of_model(&OUTPUT)) else { return Ok(true) };
        let embeddings = self.tensor(TensorId::of_model(&TOK_EMBEDDINGS))?;
        let mut same = true;
        let mut others = Vec::new();
        for_chunks(embeddings, 1, &mut |rows, weights| {
            others.resize(weights.len(), 0.0);
            (output.read)(rows, &mut others)?;
            same = others == weights;
            Ok(same)
        })?;
        Ok(same)
    }

    /// Checks that the format has every tensor, and that groups divide those that are quantized.
    fn check_tensors(&self) -> Result<()> {
        if let Some(tensor) = self.tensors.values().find(|it| it.id.kind.is_bias()) {
            let what = format!("tensor {:?} in llama2.c's formats", tensor.info.name);
            return Err(Error::unwritable(what, "they have no such tensor"));
        }
        for part in self.layout.parts() {
            let Some(group_size) = self.layout.group_size(part) else { continue };
            for id in self.layout.tensors(part) {
                let shape = &self.tensor(id)?.info.shape;
                if !shape.iter().product::<usize>().is_multiple_of(group_size) {
                    let reason = format!("its shape {shape:?} is not a multiple of groups of {group_size}");
                    return Err(Error::unwritable(format!("tensor \"{id}\" as llama2.c's v2"), reason));
                }
            }
        }
        Ok(())
    }

    fn header(&self) -> Vec<u8> {
        let Layout { version, config, tied, group_size } = self.layout;
        let &Config { dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, max_seq_len, .. } = config;
        // A valid Config's are below 2^31.
        let mut ints =
            [dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, max_seq_len].map(|n| n as i32);
        if version == 0 && !tied {
            ints[5] = -ints[5];
        }
        let ints = ints.iter().flat_map(|n| n.to_le_bytes());
        if version == 0 {
            return ints.collect();
        }
        let mut header =
            [MAGIC, version].iter().flat_map(|n| n.to_le_bytes()).chain(ints).collect::<Vec<_>>();
        header.push(tied.into());
        header.extend(group_size.map(|group_size| (group_size as u32).to_le_bytes()).into_iter().flatten());
        header.resize(VERSIONED_HEADER, 0);
        header
    }
}

/// The group size that is wanted, halved until it divides `dim`.
fn group_size_of(wanted: usize, dim: usize) -> Result<usize> {
    if !(1..=MAX_GROUP).contains(&wanted) {
        let (value, reason) = (wanted.to_string(), format!("must be between 1 and {MAX_GROUP}"));
        return Err(ErrorKind::InvalidOption { name: "group_size", value, reason }.into());
    }
    let mut group_size = wanted;
    while !dim.is_multiple_of(group_size) {
        group_size /= 2;
    }
    Ok(group_size)
}

/// Checks that the formats can hold a model.
fn check(config: &Config, has_rope_factors: bool) -> Result<()> {
    let refuse = |reason: &str| Err(Error::unwritable("the model in llama2.c's formats", reason));
    if config.n_heads * config.head_dim != config.dim {
        return refuse("its heads are of another width than dim / n_heads");
    }
    if config.rope_dim != config.head_dim {
        return refuse("RoPE rotates only a part of each head");
    }
    if !config.is_llama() {
        return refuse("it isn't a Llama, but of another architecture");
    }
    if config.rope_scaling != RopeScaling::None || has_rope_factors {
        return refuse("its rotary frequencies are scaled");
    }
    Ok(())
}

/// Takes some rows of a tensor, and says whether it wants more.
pub(super) type TakeRows<'a> = &'a mut dyn FnMut(Range<usize>, &[f32]) -> Result<bool>;

/// Passes on a tensor's rows in chunks, each a multiple of `multiple` rows.
pub(super) fn for_chunks(tensor: &SourceTensor<'_>, multiple: usize, take: TakeRows<'_>) -> Result<()> {
    let (rows, columns) = tensor.rows_and_columns();
    let step = (CHUNK / columns).clamp(1, rows).next_multiple_of(multiple).min(rows);
    let mut weights = vec![0.0; step * columns];
    for first in (0..rows).step_by(step) {
        let chunk = first..rows.min(first + step);
        let weights = &mut weights[..chunk.len() * columns];
        (tensor.read)(chunk.clone(), weights)?;
        if !take(chunk, weights)? {
            break;
        }
    }
    Ok(())
}

fn write_floats(tensor: &SourceTensor<'_>, to: &mut impl Write) -> Result<()> {
    let mut bytes = Vec::new();
    for_chunks(tensor, 1, &mut |_, weights| {
        bytes.clear();
        bytes.extend(weights.iter().flat_map(|weight| weight.to_le_bytes()));
        to.write_all(&bytes)?;
        Ok(true)
    })
}

/// Writes all weights as int8, and then all scales. Groups run on from row to row, so chunks are
/// whole groups.
fn write_int8(tensor: &SourceTensor<'_>, group_size: usize, to: &mut impl Write) -> Result<()> {
    let (mut quants, mut scales) = (Vec::new(), Vec::new());
    for_chunks(tensor, group_size, &mut |_, weights| {
        if let Some(weight) = weights.iter().find(|weight| !weight.is_finite()) {
            let what = format!("tensor {:?} as llama2.c's v2", tensor.info.name);
            return Err(Error::unwritable(what, format!("a weight is {weight}")));
        }
        quants.clear();
        for group in weights.chunks_exact(group_size) {
            scales.extend(quantize_group(group, &mut quants).to_le_bytes());
        }
        to.write_all(&quants)?;
        Ok(true)
    })?;
    Ok(to.write_all(&scales)?)
}

/// Appends a group: the largest weight becomes 127 or -127, others the nearest step, of two equally
/// near the even one. Gives the scale, which is 0 for a group of zeros.
pub(super) fn quantize_group(group: &[f32], quants: &mut Vec<u8>) -> f32 {
    let largest = group.iter().fold(0.0_f32, |largest, weight| largest.max(weight.abs()));
    let scale = largest / 127.0;
    let step = |weight: &f32| if scale == 0.0 { 0.0 } else { (weight / scale).round_ties_even() };
    // Beyond 127 is only what a scale of a few bits, below all normal numbers, can't divide.
    quants.extend(group.iter().map(|weight| (step(weight).clamp(-127.0, 127.0) as i8).cast_unsigned()));
    scale
}

/// Cosines and then sines: (`max_seq_len`, `head_dim / 2`) each.
fn write_rope_tables(config: &Config, to: &mut impl Write) -> Result<()> {
    // Every step but the last is of f32, as in `export.py`.
    let frequency = |i: usize| {
        let exponent = (2 * i) as f32 / config.head_dim as f32;
        1.0 / config.rope_theta.powf(exponent.into()) as f32
    };
    let frequencies: Vec<f32> = (0..config.head_dim / 2).map(frequency).collect();
    for of_angle in [f64::cos, f64::sin] {
        for position in 0..config.max_seq_len {
            let angles = frequencies.iter().map(|frequency| f64::from(position as f32 * frequency));
            let row: Vec<u8> = angles.flat_map(|angle| (of_angle(angle) as f32).to_le_bytes()).collect();
            to.write_all(&row)?;
        }
    }
    Ok(())
}

/// Writes a tokenizer as llama2.c's `tokenizer.bin`. If the model has more logits than there are
/// pieces, others make up the difference, since llama2.c wants a piece for each logit.
///
/// # Errors
/// [`ErrorKind::Io`]; [`ErrorKind::NoTokenizer`]; [`ErrorKind::Unwritable`] for a tokenizer that
/// isn't SentencePiece's, or has other ids for BOS and EOS than 1 and 2, or no dummy prefix: the
/// file doesn't say them.
pub fn to_tokenizer_bin(source: &Source, mut to: impl Write) -> Result<()> {
    let model = source.model();
    let parts = model.tokenizer()?.ok_or_else(|| Error::from(ErrorKind::NoTokenizer))?;
    check_tokenizer(&parts, model.config.vocab_size)?;
    let mut entries = Vec::new();
    for (id, piece) in (0_u32..).zip(&parts.pieces) {
        let text = match id {
            BOS | EOS => [b"\n", piece.text.trim_ascii(), b"\n"].concat(),
            _ if piece.kind == PieceKind::Control => piece.text.to_vec(),
            _ => with_plain_spaces(&piece.text),
        };
        entries.push((piece.score, text));
    }
    for id in parts.pieces.len()..model.config.vocab_size {
        entries.push((0.0, format!("[PAD{id}]").into_bytes()));
    }
    let longest = entries.iter().map(|(_, text)| text.len()).max().unwrap_or(0);
    to.write_all(&(longest as u32).to_le_bytes())?;
    for (score, text) in entries {
        to.write_all(&score.to_le_bytes())?;
        to.write_all(&(text.len() as u32).to_le_bytes())?;
        to.write_all(&text)?;
    }
    Ok(to.flush()?)
}

/// The ids that llama2.c takes for granted.
const BOS: u32 = 1;
const EOS: u32 = 2;

fn check_tokenizer(parts: &TokenizerSpec<'_>, vocab_size: usize) -> Result<()> {
    let refuse = |reason: &str| Err(Error::unwritable("the tokenizer as tokenizer.bin", reason));
    if parts.pieces.len() > vocab_size {
        return Err(ErrorKind::VocabMismatch { tokenizer: parts.pieces.len(), model: vocab_size }.into());
    }
    if !parts.model.is_sentencepiece() {
        return refuse("it is byte-level, and not SentencePiece's");
    }
    if let TokenizerModel::SentencePiece { add_space_prefix: false } = parts.model {
        return refuse("it puts no space before a text");
    }
    // Whether spaces collapse is what the file never says, and what llama2.c never does.
    let others = TextSettings { collapse_spaces: false, ..parts.text.clone() };
    if others != TextSettings::default() {
        return refuse("the file can't say what it does to a text before it encodes it; GGUF can");
    }
    if parts.bos.is_some_and(|id| id != BOS) || parts.eos.is_some_and(|id| id != EOS) {
        return refuse("BOS and EOS must be 1 and 2");
    }
    Ok(())
}
