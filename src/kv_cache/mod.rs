//! The keys and values of the tokens fed so far. Keys are stored as RoPE has rotated them.
//!
//! They lie in [segments](segments) of many positions, which sessions share after a fork. In a
//! segment, each head has a stretch of memory of its own, which is read as one stream (pieces of it
//! between those of other heads come from memory more slowly). A query is multiplied with the keys
//! of many positions at once, so those of [`BLOCK`] positions lie transposed: the products of one
//! query with them then need no sum across lanes, and each is summed in the plain order of its
//! dimensions, whatever the width of a vector.

mod segments;

use std::fmt;
use std::str::FromStr;

pub(crate) use segments::{Earlier, LayerCache, Segments, Stretches, store};

use crate::error::{Error, Result, by_name};
use crate::simd::Simd;

/// Positions whose keys lie together.
pub(crate) const BLOCK: usize = 64;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CacheDtype {
    /// As they are computed: exact.
    #[default]
    F32,
    /// IEEE half precision: half the memory, and in long contexts less time, for an error of 2^-11
    /// in each key and value.
    F16,
}

impl CacheDtype {
    /// All types.
    pub const ALL: &'static [Self] = &[Self::F32, Self::F16];

    /// Its name: `f32` or `f16`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        }
    }

    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::F32 => size_of::<f32>(),
            Self::F16 => size_of::<u16>(),
        }
    }
}

impl fmt::Display for CacheDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for CacheDtype {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        by_name("cache type", name, Self::ALL, Self::name)
    }
}

/// A number of the cache: a part of a key or a value.
pub(crate) trait KvElement: Copy + Default + Send + Sync {
    fn from_f32(value: f32) -> Self;
    /// Its bytes, little-endian, to the end of some others.
    fn write(self, to: &mut Vec<u8>);
    /// From as many bytes as it has.
    fn read(from: &[u8]) -> Self;
    /// The first `LANES` numbers.
    fn load<S: Simd>(s: S, from: &[Self]) -> S::F32;
    /// All of `from`, which are fewer, and then zeros.
    fn load_partial<S: Simd>(s: S, from: &[Self]) -> S::F32;
}

impl KvElement for f32 {
    fn from_f32(value: f32) -> Self {
        value
    }
    fn write(self, to: &mut Vec<u8>) {
        to.extend(self.to_le_bytes());
    }
    fn read(from: &[u8]) -> Self {
        Self::from_le_bytes([from[0], from[1], from[2], from[3]])
    }
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[f32]) -> S::F32 {
        s.load(from)
    }
    #[inline(always)]
    fn load_partial<S: Simd>(s: S, from: &[f32]) -> S::F32 {
        s.load_partial(from)
    }
}

/// The bits of a half-precision number.
impl KvElement for u16 {
    fn from_f32(value: f32) -> Self {
        half::f16::from_f32(value).to_bits()
    }
    fn write(self, to: &mut Vec<u8>) {
        to.extend(self.to_le_bytes());
    }
    fn read(from: &[u8]) -> Self {
        Self::from_le_bytes([from[0], from[1]])
    }
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[u16]) -> S::F32 {
        s.load_f16(from)
    }
    #[inline(always)]
    fn load_partial<S: Simd>(s: S, from: &[u16]) -> S::F32 {
        let mut padded = [0; 16];
        padded[..from.len()].copy_from_slice(from);
        s.load_f16(&padded)
    }
}

/// The cache of all layers.
#[derive(Clone, Debug)]
pub(crate) enum KvCache {
    F32(Segments<f32>),
    F16(Segments<u16>),
}

/// What a pass adds to, and reads, of one layer.
pub(crate) enum LayerMut<'a> {
    F32(LayerCache<'a, f32>),
    F16(LayerCache<'a, u16>),
}

/// The same for both types.
macro_rules! with_segments {
    ($cache:expr, $segments:ident => $body:expr) => {
        match $cache {
            KvCache::F32($segments) => $body,
            KvCache::F16($segments) => $body,
        }
    };
}

impl KvCache {
    /// An empty cache for `n_layers`; keys and values are (`kv_dim`), heads of them (`head_dim`).
    pub(crate) fn new(n_layers: usize, kv_dim: usize, head_dim: usize, dtype: CacheDtype) -> Self {
        match dtype {
            CacheDtype::F32 => Self::F32(Segments::new(n_layers, kv_dim, head_dim)),
            CacheDtype::F16 => Self::F16(Segments::new(n_layers, kv_dim, head_dim)),
        }
    }

    /// Bytes that a position takes in all layers.
    pub(crate) fn bytes_per_position(n_layers: usize, kv_dim: usize, dtype: CacheDtype) -> usize {
        2 * n_layers * kv_dim * dtype.bytes()
    }

    pub(crate) fn dtype(&self) -> CacheDtype {
        match self {
            Self::F32(_) => CacheDtype::F32,
            Self::F16(_) => CacheDtype::F16,
        }
    }

    /// Bytes that a position takes.
    pub(crate) fn position_bytes(&self) -> usize {
        with_segments!(self, segments => segments.position_bytes())
    }

    /// Positions that it can hold without growing.
    pub(crate) fn capacity(&self) -> usize {
        with_segments!(self, segments => segments.capacity())
    }

    /// Bytes of all its segments.
    pub(crate) fn bytes(&self) -> usize {
        with_segments!(self, segments => segments.held() * segments.position_bytes())
    }

    /// See [`Segments::reserve`].
    pub(crate) fn reserve(
        &mut self,
        position: usize,
        needed: usize,
        first: usize,
        limit: usize,
    ) -> Result<bool> {
        with_segments!(self, segments => segments.reserve(position, needed, first, limit))
    }

    /// How many positions from `position` on one pass can fill.
    pub(crate) fn contiguous_from(&self, position: usize) -> usize {
        with_segments!(self, segments => segments.contiguous_from(position))
    }

    /// A layer, to add positions from `position` on, which were reserved.
    pub(crate) fn layer(&mut self, layer: usize, position: usize) -> LayerMut<'_> {
        match self {
            Self::F32(segments) => LayerMut::F32(segments.layer(layer, position)),
            Self::F16(segments) => LayerMut::F16(segments.layer(layer, position)),
        }
    }

    /// A cache with the same first `len` positions, which it shares.
    pub(crate) fn fork(&self, len: usize) -> Self {
        match self {
            Self::F32(segments) => Self::F32(segments.fork(len)),
            Self::F16(segments) => Self::F16(segments.fork(len)),
        }
    }

    /// Appends a head's keys of the first `len` positions, and then its values: (`len`, `head_dim`)
    /// each, in the order of positions, little-endian.
    pub(crate) fn read_head(&self, layer: usize, head: usize, len: usize, to: &mut Vec<u8>) {
        with_segments!(self, segments => segments.read_head(layer, head, len, to));
    }

    /// Stores what [`read_head`](Self::read_head) wrote in an empty cache where its positions are
    /// reserved.
    pub(crate) fn write_head(&mut self, layer: usize, head: usize, from: &[u8]) {
        with_segments!(self, segments => segments.write_head(layer, head, from));
    }
}
