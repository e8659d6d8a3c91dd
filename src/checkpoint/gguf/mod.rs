//! GGUF, versions 1 to 3: llama.cpp's files, little-endian.
//!
//! ```text
//! "GGUF"  u32 version  count n_tensors  count n_keys          a count is a u64; in version 1 a u32
//! n_keys of:     string key, u32 type, value                  a string is a count and its bytes
//!                an array is u32 type, count, its elements
//! n_tensors of:  string name, u32 n_dims, count for each dimension (innermost first), u32 type,
//!                u64 offset
//! zeros to the next multiple of general.alignment (32), from where offsets are counted; each
//! tensor starts at such a multiple
//! ```
//!
//! Only the modules here, those that write such files in `convert/gguf`, and the table of tensors
//! in `arch.rs` know GGUF's names. In architecture `llama` and some others the rows of Q and K are
//! already in Meta's order: RoPE rotates adjacent pairs.
//!
//! - here: the file, and models that are split into several
//! - [`cursor`]: numbers, strings and values from bytes
//! - [`keys`]: their names; [`metadata`]: the keys of a file; [`value`]: their values, by type
//! - [`tensors`]: where tensors lie, and in which format
//! - [`purpose`]: files that hold no model, and weights that are no longer read
//! - [`sampling`]: how to sample, as the model's makers recommend
//! - [`contents`]: all that is in a file, whether or not it can be run
//! - `importance`: files that help to quantize a model
//! - [`hyperparameters`]: the [`Config`], and [`settings`] which keys may say something of it
//! - [`vocabulary`]: the tokenizer, and [`tokenizer_settings`] what each key of it counts for
//!
//! Source: `docs/gguf.md` in the ggml repository; and, for what is required and what is the
//! default, llama.cpp.

#[cfg(feature = "convert")]
pub(crate) mod adapter;
pub(crate) mod contents;
mod cursor;
mod hyperparameters;
#[cfg(feature = "convert")]
pub(crate) mod importance;
pub(crate) mod keys;
mod metadata;
mod purpose;
pub(crate) mod sampling;
mod settings;
mod tensors;
pub(crate) mod tokenizer_settings;
mod value;
mod vocabulary;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cursor::Cursor;
use metadata::Metadata;
#[cfg(all(test, feature = "convert"))]
pub(crate) use settings::KEYS;
use tensors::{TensorInfo, Tensors};
#[cfg(feature = "convert")]
pub(crate) use value::{Kind, Value};

use super::Checkpoint;
use super::file_kind::{FileKind, Wanted};
use crate::arch::{Architecture, FUSED, TOK_EMBEDDINGS, TensorId, TensorReader};
use crate::compute::Numerics;
use crate::config::{Config, RopeScaling};
use crate::error::{Error, ErrorKind, Result};
use crate::ops::RopeFactors;
use crate::storage::Storage;
use crate::tensor::Tensor;
use crate::tokenizer::Tokenizer;
use crate::weights::Weights;

const FORMAT: &str = "GGUF";
/// What Llama 3.1's rotary frequencies are divided by: a tensor that Meta has no name for.
const ROPE_FREQS: &str = "rope_freqs.weight";
/// The same in short and in long contexts, of Phi 3.
pub(crate) const ROPE_FACTORS: [&str; 2] = ["rope_factors_short.weight", "rope_factors_long.weight"];
pub(crate) const MAGIC: &[u8] = b"GGUF";
/// What tensors start at multiples of, if the file doesn't say otherwise.
pub(crate) const ALIGNMENT: u64 = 32;
/// The most keys, and tensors: ten times what the largest model has. The least of them takes 14
/// bytes in a file but 100 in memory, so without a limit a file could take several times its size.
pub(crate) const MAX_ENTRIES: u64 = 1 << 14;
/// The format's limit.
pub(crate) const MAX_KEY_BYTES: usize = (1 << 16) - 1;
/// The format's limit.
const MAX_NAME_BYTES: usize = 64;

pub(crate) fn has_magic(storage: &Storage) -> bool {
    storage.bytes().starts_with(MAGIC)
}

pub(super) fn read(storage: &Arc<Storage>) -> Result<Checkpoint> {
    let (header, mut cursor) = Header::read(storage)?;
    let metadata = &header.metadata;
    // A later part of a split model has no architecture, so this comes first.
    let parts = Parts::of(metadata, storage.path())?;
    purpose::check_is_model(metadata, header.n_tensors, parts.is_none())?;
    let architecture = hyperparameters::architecture(metadata)?;

    let mut tensors = Tensors::default();
    let mut file_bytes = storage.len();
    header.read_tensors(&mut cursor, storage, &mut tensors)?;
    if let Some(parts) = parts {
        for part in 1..parts.count {
            file_bytes += parts.read(part, &mut tensors)?;
        }
        parts.check_total(metadata, &tensors)?;
    }

    let mut notes = Vec::new();
    // A bad template doesn't keep the model from running without a chat.
    let chat_template = metadata.lossy_text(keys::CHAT_TEMPLATE).unwrap_or_else(|error| {
        notes.push(format!("{error}: so the file doesn't say how to chat with the model"));
        None
    });
    let (config, weights, rope_factors) = weights(metadata, architecture, tensors, &mut notes)?;
    Ok(Checkpoint {
        format: header.format,
        architecture,
        config,
        weights,
        rope_factors,
        numerics: Numerics::Accurate,
        chat_template: chat_template.filter(|text| !text.trim().is_empty()),
        named_templates: named_templates(metadata, &mut notes),
        sampling: sampling::read(metadata, &mut notes),
        metadata: metadata.describe(),
        file_bytes,
        notes,
    })
}

/// Templates for special uses, and notes of those that are none.
fn named_templates(metadata: &Metadata<'_>, notes: &mut Vec<String>) -> Vec<(String, String)> {
    let mut named = Vec::new();
    for (key, value) in metadata.iter() {
        let Some(name) = key.strip_prefix(keys::CHAT_TEMPLATE_OF) else { continue };
        match value.text() {
            Some(text) => named.push((name.to_owned(), String::from_utf8_lossy(text).into_owned())),
            None => notes.push(format!("key {key} is {value}, which is no chat template")),
        }
    }
    named
}

pub(super) fn read_tokenizer(storage: &Storage) -> Result<Option<Tokenizer>> {
    let (header, _) = Header::read(storage)?;
    vocabulary::spec(&header.metadata)?.as_ref().map(Tokenizer::from_spec).transpose()
}

/// All keys of a file and their values, in the order of the keys.
#[cfg(feature = "convert")]
pub(crate) fn metadata(storage: &Storage) -> Result<Vec<(String, Value<'_>)>> {
    Header::read(storage).map(|(header, _)| header.metadata.into_pairs())
}

/// What comes before the tensors.
#[derive(Debug)]
struct Header<'a> {
    format: &'static str,
    metadata: Metadata<'a>,
    n_tensors: u64,
}

impl<'a> Header<'a> {
    /// Reads up to the tensors' infos, at which the cursor then stands.
    fn read(storage: &'a Storage) -> Result<(Self, Cursor<'a>)> {
        let mut cursor = Cursor::new(storage.bytes());
        cursor.bytes.take(MAGIC.len() as u64, "the magic number")?;
        let format = match cursor.bytes.u32("the version")? {
            1 => "GGUF v1",
            2 => "GGUF v2",
            3 => "GGUF v3",
            found if (1..=3).contains(&found.swap_bytes()) => {
                return Err(ErrorKind::BigEndian { format: FORMAT }.into());
            }
            found => return Err(ErrorKind::UnsupportedVersion { format: FORMAT, found }.into()),
        };
        cursor.wide = format != "GGUF v1";
        let n_tensors = cursor.count("the number of tensors")?;
        let n_keys = cursor.count("the number of keys")?;
        for (what, count) in [("tensors", n_tensors), ("keys", n_keys)] {
            if count > MAX_ENTRIES {
                return Err(Error::malformed(
                    FORMAT,
                    format!("{count} {what}, at most {MAX_ENTRIES} are possible"),
                ));
            }
        }
        let mut metadata = Metadata::default();
        for _ in 0..n_keys {
            let (key, value) = cursor.pair()?;
            metadata.insert(key, value)?;
        }
        Ok((Self { format, metadata, n_tensors }, cursor))
    }

    fn read_tensors(
        &self,
        cursor: &mut Cursor<'a>,
        storage: &Arc<Storage>,
        tensors: &mut Tensors,
    ) -> Result<()> {
        let alignment = match self.metadata.optional::<u32>(keys::ALIGNMENT)? {
            None => ALIGNMENT,
            Some(alignment) if alignment.is_power_of_two() => alignment.into(),
            Some(found) => {
                return Err(Error::malformed(FORMAT, format!("the alignment {found} is not a power of two")));
            }
        };
        let mut infos = Vec::new();
        for _ in 0..self.n_tensors {
            infos.push(TensorInfo::read(cursor)?);
        }
        // A position and an alignment below 2^32 don't overflow.
        let start = (cursor.bytes.position() as u64).next_multiple_of(alignment);
        tensors.add(storage, infos, start, alignment)
    }
}

/// The hyperparameters, the weights, and what rotary frequencies are divided by.
fn weights(
    metadata: &Metadata<'_>,
    architecture: &'static Architecture,
    mut tensors: Tensors,
    notes: &mut Vec<String>,
) -> Result<(Config, Weights, RopeFactors)> {
    let embeddings = TensorId::of_model(&TOK_EMBEDDINGS).gguf();
    let shape = tensors.shape(&embeddings).ok_or_else(|| Error::missing_tensor(embeddings))?;
    let vocab_size = match (
        vocabulary::len(metadata)?,
        metadata.optional(&architecture.key(keys::VOCAB_SIZE))?,
        &*shape,
    ) {
        // Rows after the last piece are padding, and llama.cpp lets a vocabulary overrule the
        // key.
        (Some(_), _, &[rows, _]) => rows,
        (None, Some(vocab_size), _) => vocab_size,
        (_, _, &[rows, _]) => rows,
        _ => 1, // its shape is then no matrix's, which is found out below
    };
    let has_long_factors = ROPE_FACTORS.iter().any(|name| tensors.shape(name).is_some());
    let config = hyperparameters::config(metadata, architecture, vocab_size, has_long_factors, notes)?;
    config.validate()?;

    let is_fused =
        tensors.shape("blk.0.attn_qkv.weight").is_some() || tensors.shape("blk.0.ffn_gate.weight").is_none();
    let mut reader = LlamaTensors { tensors: &mut tensors, config: &config, architecture, is_fused };
    let weights = Weights::load(&config, &mut reader)?;
    let rope_factors = rope_factors(&mut tensors, &config)?;
    leave_out_frequencies(&mut tensors, &config, architecture)?;
    tensors.finish()?;
    Ok((config, weights, rope_factors))
}

fn rope_factors(tensors: &mut Tensors, config: &Config) -> Result<RopeFactors> {
    let mut take = |name: &str, field: &'static str| -> Result<Option<Vec<f32>>> {
        let factors = tensors.vector(name, config.rope_dim / 2)?;
        let bad = factors.iter().flatten().find(|&&factor| !(factor > 0.0 && factor.is_finite()));
        bad.map_or(Ok(()), |bad| Err(Error::config(field, bad, "must be positive numbers")))?;
        Ok(factors)
    };
    if !matches!(config.rope_scaling, RopeScaling::Long { .. }) {
        return Ok(RopeFactors { short: take(ROPE_FREQS, "rope_freqs")?, long: None });
    }
    let [short, long] = ROPE_FACTORS;
    let factors =
        RopeFactors { short: take(short, "rope_factors_short")?, long: take(long, "rope_factors_long")? };
    match [(&factors.short, short), (&factors.long, long)].iter().find(|(factors, _)| factors.is_none()) {
        Some((_, missing)) => Err(Error::missing_tensor(*missing)),
        None => Ok(factors),
    }
}

impl RopeFactors {
    /// Their tensors.
    #[cfg(feature = "convert")]
    pub(crate) fn tensors(&self) -> impl Iterator<Item = (&'static str, &[f32])> {
        let [short, long] = ROPE_FACTORS;
        let short = if self.long.is_some() { short } else { ROPE_FREQS };
        let both = [(short, self.short.as_deref()), (long, self.long.as_deref())];
        both.into_iter().filter_map(|(name, factors)| Some((name, factors?)))
    }
}

/// A Llama's tensors among those of the files.
struct LlamaTensors<'a> {
    tensors: &'a mut Tensors,
    config: &'a Config,
    architecture: &'a Architecture,
    /// Whether there are tensors that are several in one.
    is_fused: bool,
}

impl LlamaTensors<'_> {
    /// Rows of a tensor that is several in one, as some files have them.
    fn take_fused(&mut self, id: TensorId) -> Result<Option<Tensor>> {
        let rows_of = |part: &str| match part {
            "attn_q" => self.config.q_dim(),
            "attn_k" | "attn_v" => self.config.kv_dim(),
            _ => self.config.hidden_dim,
        };
        let (own, mut shape) = (id.gguf(), id.shape(self.config));
        for (fused, parts) in FUSED {
            let mut start = 0;
            for &part in parts {
                let rows = rows_of(part);
                if let Some((layer, end)) = own.split_once(&format!(".{part}.")) {
                    let name = format!("{layer}.{fused}.{end}");
                    shape[0] = parts.iter().map(|part| rows_of(part)).sum();
                    // `ffn_up` may be that alone.
                    let is_there = fused != "ffn_up" || self.tensors.shape(&name).as_ref() == Some(&shape);
                    let rows = start..start + rows;
                    return if is_there { self.tensors.take_rows(&name, &shape, rows) } else { Ok(None) };
                }
                start += rows;
            }
        }
        Ok(None)
    }
}

impl TensorReader for LlamaTensors<'_> {
    fn take(&mut self, id: TensorId) -> Result<Option<Tensor>> {
        if self.is_fused
            && let Some(tensor) = self.take_fused(id)?
        {
            return Ok(Some(tensor));
        }
        self.tensors.take(&self.architecture.tensor(id), &id.shape(self.config))
    }

    fn name(&self, id: TensorId) -> String {
        self.architecture.tensor(id)
    }
}

/// Leaves out the rotary frequencies that a converter of 2024 wrote into every layer, though the
/// keys say them: llama.cpp refuses such files.
fn leave_out_frequencies(tensors: &mut Tensors, config: &Config, architecture: &Architecture) -> Result<()> {
    /// Of a frequency: they are f32, or were f16.
    const TOLERANCE: f64 = 1e-3;
    let frequency = |i: usize| config.rope_theta.powf(-2.0 * i as f64 / config.rope_dim as f64);
    for l in 0..config.n_layers {
        for name in [format!("blk.{l}.attn_rot_embd"), format!("blk.{l}.attn_rot_embd.weight")] {
            let Some(found) = tensors.vector(&name, config.rope_dim / 2)? else {
                continue;
            };
            let is_close = |(i, found): (usize, &f32)| {
                (f64::from(*found) - frequency(i)).abs() <= TOLERANCE * frequency(i)
            };
            if !found.iter().enumerate().all(is_close) {
                let (key, theta) = (architecture.key(keys::ROPE_THETA), config.rope_theta);
                let reason = format!(
                    "it holds other rotary frequencies than {key}, {theta}, gives, so one of them is wrong"
                );
                return Err(Error::tensor_layout(name, reason));
            }
        }
    }
    Ok(())
}

/// A model in several files: `NAME-00001-of-00003.gguf` and so on. The first has all the metadata.
#[derive(Debug)]
struct Parts {
    /// The path without `-00001-of-00003.gguf`.
    prefix: PathBuf,
    count: u32,
}

impl Parts {
    /// `None` if the model is whole.
    fn of(metadata: &Metadata<'_>, path: Option<&Path>) -> Result<Option<Self>> {
        let Some(count) = metadata.optional::<u32>(keys::SPLIT_COUNT)?.filter(|&count| count > 1) else {
            return Ok(None);
        };
        if count >= 100_000 {
            return Err(Error::malformed(FORMAT, format!("a model in {count} parts")));
        }
        let Some(path) = path else {
            return Err(Error::split(format!(
                "this is a part of {count}: only files can be joined, not bytes in memory"
            )));
        };
        let number = metadata.required::<u32>(keys::SPLIT_NUMBER)?;
        let name = path.file_name().unwrap_or_default();
        let suffix = part_name(number, count);
        let prefix = without_suffix(name, &suffix).map(|prefix| path.with_file_name(prefix));
        if number > 0 {
            let first = prefix.map_or_else(
                || format!("the file whose name ends in {}", part_name(0, count)),
                |prefix| Self { prefix, count }.path(0).display().to_string(),
            );
            let number = u64::from(number) + 1;
            return Err(Error::split(format!("this is part {number} of {count}: open {first}")));
        }
        let prefix = prefix.ok_or_else(|| {
            Error::split(format!("the name of the first of {count} parts must end in {suffix}"))
        })?;
        Ok(Some(Self { prefix, count }))
    }

    fn path(&self, number: u32) -> PathBuf {
        let mut path = self.prefix.clone().into_os_string();
        path.push(part_name(number, self.count));
        path.into()
    }

    /// Adds a part's tensors; its size in bytes.
    fn read(&self, number: u32, tensors: &mut Tensors) -> Result<u64> {
        let storage = Arc::new(Storage::open(&self.path(number))?);
        self.read_part(number, &storage, tensors).map_err(|e| e.at(storage.path()))?;
        Ok(storage.len())
    }

    fn read_part(&self, number: u32, storage: &Arc<Storage>, tensors: &mut Tensors) -> Result<()> {
        if !has_magic(storage) {
            let kind = FileKind::detect(storage.bytes(), storage.len());
            let hint = kind.map_or("it isn't GGUF".into(), |kind| kind.sentence(Wanted::Model));
            let hint = format!("the part of a GGUF model was expected, and {hint}");
            return Err(Error::unknown_format(hint));
        }
        let (header, mut cursor) = Header::read(storage)?;
        let found =
            (header.metadata.required(keys::SPLIT_NUMBER)?, header.metadata.required(keys::SPLIT_COUNT)?);
        if found != (number, self.count) {
            let reason = format!(
                "part {} of {} was expected, and it says it is part {} of {}",
                number + 1,
                self.count,
                u64::from(found.0) + 1,
                found.1
            );
            return Err(Error::split(reason));
        }
        header.read_tensors(&mut cursor, storage, tensors)
    }

    /// Checks that all parts together have the number of tensors that the first says.
    fn check_total(&self, metadata: &Metadata<'_>, tensors: &Tensors) -> Result<()> {
        let Some(expected) = metadata.optional::<usize>(keys::SPLIT_TENSORS)? else {
            return Ok(());
        };
        let found = tensors.len();
        if expected == found {
            return Ok(());
        }
        Err(Error::split(format!(
            "the {} parts should have {expected} tensors, they have {found}",
            self.count
        )))
    }
}

/// The name without its end. A name need not be UTF-8 (or UTF-16).
fn without_suffix(name: &OsStr, suffix: &str) -> Option<OsString> {
    if let Some(name) = name.to_str() {
        return name.strip_suffix(suffix).map(OsString::from);
    }
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        name.as_bytes().strip_suffix(suffix.as_bytes()).map(|prefix| OsStr::from_bytes(prefix).into())
    }
    #[cfg(not(unix))]
    None
}

/// What the name of a part ends with. Parts are counted from 0, in names from 1.
fn part_name(number: u32, count: u32) -> String {
    format!("-{:05}-of-{count:05}.gguf", u64::from(number) + 1)
}
