//! llama2.c's three formats, as its `export.py` writes them. Little-endian; weights in Meta's
//! layout.
//!
//! ```text
//! v0   7 x i32 dim hidden_dim n_layers n_heads n_kv_heads ±vocab_size (negative: not tied)
//!      max_seq_len
//!      f32: tok_embeddings;
//!      of all layers: attention_norm, wq, wk, wv, wo, ffn_norm, w1, w2, w3; norm;
//!      two tables of max_seq_len * head_dim / 2, which aren't used; output if not tied
//! v1   "24ka" i32 1, the 7 integers, u8 tied, zeros to byte 256
//!      f32: of all layers: attention_norm, ffn_norm; norm; tok_embeddings;
//!      of all layers: wq, wk, wv, wo, w1, w2, w3; output if not tied
//! v2   like v1, with i32 group_size at byte 37; norms in f32, every other tensor as rows*columns
//!      int8 and then its f32 scales, one for each group
//! ```
//!
//! The files hold neither `norm_eps` nor `rope_theta`: 1e-5 and 10,000 are what llama2.c takes, and
//! options override them.

use std::sync::Arc;

use super::Checkpoint;
use super::file_kind::FileKind;
use crate::arch::{LAYER, NORM, OUTPUT, TOK_EMBEDDINGS, TensorId, TensorKind, TensorReader};
use crate::bytes::ByteReader;
use crate::compute::Numerics;
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::quant::Dtype;
use crate::storage::Storage;
use crate::tensor::Tensor;
use crate::weights::Weights;

pub(crate) const MAGIC: u32 = 0x616b_3432;
/// The seven integers.
const HEADER_INTS: usize = 7;
/// Where v1's and v2's weights start.
pub(crate) const VERSIONED_HEADER: usize = 256;
/// A group's dot product must fit an i32: 65,536 * 255 * 127 does.
pub(crate) const MAX_GROUP: usize = 1 << 16;

/// Tensors that follow each other in a file.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    /// One of the model's own.
    Model(&'static TensorKind),
    /// Those of one kind, of all layers.
    Layers(&'static TensorKind),
    RopeTables,
}

/// What decides which parts a file has, and how long they are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout<'a> {
    /// 0, 1 or 2.
    pub(crate) version: u32,
    pub(crate) config: &'a Config,
    /// Whether the classifier is the embeddings.
    pub(crate) tied: bool,
    /// Weights that share a scale, in v2.
    pub(crate) group_size: Option<usize>,
}

impl Layout<'_> {
    /// All parts, in the file's order: in v1 and v2 the vectors come first.
    pub(crate) fn parts(&self) -> Vec<Part> {
        let is_had = |kind: &&'static TensorKind| {
            !kind.is_bias() && !TensorId::of_model(kind).shape(self.config).is_empty()
        };
        let layers = LAYER.iter().filter(is_had).map(Part::Layers);
        let (first, norm) = (Part::Model(&TOK_EMBEDDINGS), Part::Model(&NORM));
        let output = (!self.tied).then_some(Part::Model(&OUTPUT));
        if self.version == 0 {
            return [first].into_iter().chain(layers).chain([norm, Part::RopeTables]).chain(output).collect();
        }
        let (vectors, matrices): (Vec<_>, Vec<_>) = layers.partition(|&part| self.is_vector(part));
        vectors.into_iter().chain([norm, first]).chain(matrices).chain(output).collect()
    }

    /// The tensors of a part, in the file's order.
    #[cfg(feature = "convert")]
    pub(crate) fn tensors(&self, part: Part) -> Vec<TensorId> {
        match part {
            Part::Model(kind) => vec![TensorId::of_model(kind)],
            Part::Layers(kind) => (0..self.config.n_layers).map(|l| TensorId::of_layer(l, kind)).collect(),
            Part::RopeTables => Vec::new(),
        }
    }

    /// (rows, columns) of each tensor of a part. A vector is one row, and so are the tables.
    fn shape(&self, part: Part) -> [usize; 2] {
        let (Part::Model(kind) | Part::Layers(kind)) = part else {
            return [2 * self.config.max_seq_len, self.config.head_dim / 2];
        };
        match *TensorId::of_model(kind).shape(self.config) {
            [rows, columns] => [rows, columns],
            ref vector => [1, vector.iter().product()],
        }
    }

    fn is_vector(&self, part: Part) -> bool {
        let (Part::Model(kind) | Part::Layers(kind)) = part else { return false };
        TensorId::of_model(kind).shape(self.config).len() == 1
    }

    /// Weights that share a scale in a part, if it is quantized.
    pub(crate) fn group_size(&self, part: Part) -> Option<usize> {
        self.group_size.filter(|_| !self.is_vector(part))
    }

    /// Bytes of the whole file. Each factor is below 2^31, so a u128 can't overflow.
    pub(crate) fn file_bytes(&self) -> u128 {
        self.header_bytes() as u128 + self.parts().into_iter().map(|part| self.bytes(part)).sum::<u128>()
    }

    fn header_bytes(&self) -> usize {
        if self.version == 0 { 4 * HEADER_INTS } else { VERSIONED_HEADER }
    }

    /// Bytes of a part.
    fn bytes(&self, part: Part) -> u128 {
        let n_tensors = if let Part::Layers(_) = part { self.config.n_layers as u128 } else { 1 };
        n_tensors * self.tensor_bytes(part)
    }

    /// Bytes of each tensor of a part.
    fn tensor_bytes(&self, part: Part) -> u128 {
        let [rows, columns] = self.shape(part).map(|n| n as u128);
        let n = rows * columns;
        self.group_size(part).map_or(4 * n, |group_size| n + n / group_size as u128 * 4)
    }

    /// The weights of a file of this layout.
    fn read(&self, storage: &Arc<Storage>) -> Result<Weights> {
        let expected = u64::try_from(self.file_bytes()).unwrap_or(u64::MAX);
        if storage.len() != expected {
            return Err(ErrorKind::FileSize { expected, found: storage.len() }.into());
        }
        Weights::load(self.config, &mut Tensors { layout: *self, storage })
    }
}

/// The tensors of a file that has the size that its layout asks for, so that no place in it
/// overflows.
struct Tensors<'a> {
    layout: Layout<'a>,
    storage: &'a Arc<Storage>,
}

impl TensorReader for Tensors<'_> {
    fn take(&mut self, id: TensorId) -> Result<Option<Tensor>> {
        let mut start = self.layout.header_bytes();
        for part in self.layout.parts() {
            if let Part::Model(kind) | Part::Layers(kind) = part
                && std::ptr::eq(kind, id.kind)
            {
                let layer = id.layer.unwrap_or(0);
                return self.tensor(part, start + layer * self.layout.tensor_bytes(part) as usize).map(Some);
            }
            start += self.layout.bytes(part) as usize;
        }
        Ok(None)
    }

    fn name(&self, id: TensorId) -> String {
        id.to_string()
    }
}

impl Tensors<'_> {
    fn tensor(&self, part: Part, start: usize) -> Result<Tensor> {
        let Self { layout, storage } = self;
        let [rows, columns] = layout.shape(part);
        let end = start + layout.tensor_bytes(part) as usize;
        let tensor = match layout.group_size(part) {
            None => Tensor::new(storage, start..end, rows, columns, Dtype::F32),
            Some(group_size) => {
                let scales = start + rows * columns;
                Tensor::int8(storage, start..scales, scales..end, rows, columns, group_size)
            }
        };
        // The file's size is right, so only its alignment in memory can be wrong.
        tensor.ok_or_else(|| Error::truncated("a tensor", start as u64, (end - start) as u64, 0))
    }
}

pub(super) fn has_magic(storage: &Storage) -> bool {
    storage.bytes().starts_with(&MAGIC.to_le_bytes())
}

/// v0 has no magic: its header must be possible, for a file of any size, and it must not look
/// like another kind of file.
pub(super) fn looks_like_v0(storage: &Storage) -> bool {
    v0_header(storage).is_ok() && FileKind::detect(storage.bytes(), storage.len()).is_none()
}

/// Why a file that [`looks_like_v0`] refused is none.
pub(super) fn why_not_v0(storage: &Storage) -> String {
    v0_header(storage).map_or_else(|e| e.to_string(), |_| "its magic is another format's".into())
}

pub(super) fn read_v0(storage: &Arc<Storage>) -> Result<Checkpoint> {
    let (config, tied) = v0_header(storage)?;
    let weights = Layout { version: 0, config: &config, tied, group_size: None }.read(storage)?;
    Ok(Checkpoint::plain(storage, "llama2.c v0", config, weights, Numerics::Accurate))
}

pub(super) fn read_versioned(storage: &Arc<Storage>) -> Result<Checkpoint> {
    let mut header = ByteReader::new(storage.bytes());
    header.u32("the magic number")?;
    // The version comes first: another one's header may mean something else, and have another
    // length.
    let version = header.u32("the version")?;
    if !matches!(version, 1 | 2) {
        return Err(ErrorKind::UnsupportedVersion { format: "llama2.c", found: version }.into());
    }
    ByteReader::new(storage.bytes()).expect(1, VERSIONED_HEADER as u64, "the header")?;
    let config = config_of(&ints(&mut header)?)?;
    let [flag] = header.array("the header")?;
    let tied = match flag {
        0 => false,
        1 => true,
        other => return Err(Error::config("the flag of a tied classifier", other, "must be 0 or 1")),
    };
    let (format, group_size, numerics) = match version {
        1 => ("llama2.c v1", None, Numerics::Accurate),
        _ => {
            let group_size = group_size(header.u32("the header")?.cast_signed(), &config)?;
            ("llama2.c v2", Some(group_size), Numerics::RunqCompatible)
        }
    };
    let weights = Layout { version, config: &config, tied, group_size }.read(storage)?;
    Ok(Checkpoint::plain(storage, format, config, weights, numerics))
}

fn ints(header: &mut ByteReader<'_>) -> Result<[i32; HEADER_INTS]> {
    let bytes = header.array::<{ 4 * HEADER_INTS }>("its header")?;
    Ok(std::array::from_fn(|i| i32::from_le_bytes(std::array::from_fn(|b| bytes[4 * i + b]))))
}

/// v0's header: the sign of `vocab_size` says whether the classifier is tied.
fn v0_header(storage: &Storage) -> Result<(Config, bool)> {
    let mut ints = ints(&mut ByteReader::new(storage.bytes()))?;
    let tied = ints[5] > 0;
    ints[5] = ints[5].checked_abs().ok_or_else(|| Error::config("vocab_size", ints[5], "is out of range"))?;
    Ok((config_of(&ints)?, tied))
}

fn config_of(
    &[dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, max_seq_len]: &[i32; HEADER_INTS],
) -> Result<Config> {
    let size = |field, value: i32| {
        usize::try_from(value).map_err(|_| Error::config(field, value, "must not be negative"))
    };
    let (dim, n_heads) = (size("dim", dim)?, size("n_heads", n_heads)?);
    if n_heads == 0 || !dim.is_multiple_of(n_heads) {
        return Err(Error::config("n_heads", n_heads, format!("must divide dim, {dim}")));
    }
    let (hidden_dim, n_layers) = (size("hidden_dim", hidden_dim)?, size("n_layers", n_layers)?);
    let (n_kv_heads, vocab_size) = (size("n_kv_heads", n_kv_heads)?, size("vocab_size", vocab_size)?);
    let max_seq_len = size("max_seq_len", max_seq_len)?;
    let config = Config::new(dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, max_seq_len);
    config.validate()?;
    Ok(config)
}

/// The weights that share a scale, which must divide every matrix.
fn group_size(value: i32, config: &Config) -> Result<usize> {
    let group_size = usize::try_from(value).unwrap_or(0);
    if group_size == 0 || group_size > MAX_GROUP {
        return Err(Error::config("group_size", value, format!("must be between 1 and {MAX_GROUP}")));
    }
    for kind in std::iter::once(&TOK_EMBEDDINGS).chain(LAYER) {
        if let [rows, columns] = *TensorId::of_model(kind).shape(config)
            && !(rows as u128 * columns as u128).is_multiple_of(group_size as u128)
        {
            let reason = format!("must divide the {rows} x {columns} weights of each tensor");
            return Err(Error::config("group_size", value, reason));
        }
    }
    Ok(group_size)
}
