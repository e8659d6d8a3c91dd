//! The keys and values of the tokens fed so far. Keys are stored as RoPE has rotated them.
//!
//! They lie in [segments](segments) of many positions, which sessions share after a fork. In a
//! segment, each head has a stretch of memory of its own, which is read as one stream (pieces of it
//! between those of other heads come from memory more slowly). A query is multiplied with the keys
//! of many positions at once, so those of [`BLOCK`] positions lie transposed: the products of one
//! query with them then need no sum across lanes, and each is summed in the plain order of its
//! dimensions, whatever the width of a vector.

mod q8_0;
mod segments;

use std::fmt;
use std::str::FromStr;

pub(crate) use q8_0::{GROUP, ROWS, n_groups};
pub(crate) use segments::{Earlier, LayerCache, Segments, Stretches};

use crate::config::Config;
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
    /// `int8` that share a half-precision scale by 32: about a quarter of the memory, for an error
    /// of up to 1/254 of the greatest of the 32. A head that isn't a multiple of 32 wide is padded.
    Q8_0,
}

impl CacheDtype {
    /// All types.
    pub const ALL: &'static [Self] = &[Self::F32, Self::F16, Self::Q8_0];

    /// Its name: `f32`, `f16` or `q8_0`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
        }
    }

    /// Bytes that a key or a value of a head takes.
    pub(crate) fn bytes(self, head_dim: usize) -> usize {
        match self {
            Self::F32 => f32::width(head_dim) * size_of::<f32>(),
            Self::F16 => u16::width(head_dim) * size_of::<u16>(),
            Self::Q8_0 => i8::width(head_dim),
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

/// What the cache consists of: numbers that are a part of a key or a value, or say something of
/// such.
pub(crate) trait KvElement: Copy + Default + Send + Sync {
    /// How many a head's key or value takes.
    fn width(head_dim: usize) -> usize {
        head_dim
    }
    /// Stores a head's key and value of one position, (`head_dim`) each, in all that the head has.
    fn store(cache: [&mut [Self]; 2], position: usize, key: &[f32], value: &[f32]);
    /// Where the `i`th element of a position's key is, among the `width` of each.
    fn key_place(position: usize, i: usize, width: usize) -> usize {
        position / BLOCK * BLOCK * width + i * BLOCK + position % BLOCK
    }
    /// Where the `i`th element of a position's value is.
    fn value_place(position: usize, i: usize, width: usize) -> usize {
        position * width + i
    }
    /// Its bytes, little-endian, to the end of some others.
    fn write(self, to: &mut Vec<u8>);
    /// From as many bytes as it has.
    fn read(from: &[u8]) -> Self;
}

/// A number of the cache: a part of a key or a value.
pub(crate) trait KvFloat: KvElement {
    fn from_f32(value: f32) -> Self;
    /// The first `LANES` numbers.
    fn load<S: Simd>(s: S, from: &[Self]) -> S::F32;
    /// All of `from`, which are fewer, and then zeros.
    fn load_partial<S: Simd>(s: S, from: &[Self]) -> S::F32;
}

impl KvElement for f32 {
    #[inline(always)]
    fn store(cache: [&mut [Self]; 2], position: usize, key: &[f32], value: &[f32]) {
        store_floats(cache, position, key, value);
    }
    fn write(self, to: &mut Vec<u8>) {
        to.extend(self.to_le_bytes());
    }
    fn read(from: &[u8]) -> Self {
        Self::from_le_bytes([from[0], from[1], from[2], from[3]])
    }
}

impl KvFloat for f32 {
    fn from_f32(value: f32) -> Self {
        value
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
    #[inline(always)]
    fn store(cache: [&mut [Self]; 2], position: usize, key: &[f32], value: &[f32]) {
        store_floats(cache, position, key, value);
    }
    fn write(self, to: &mut Vec<u8>) {
        to.extend(self.to_le_bytes());
    }
    fn read(from: &[u8]) -> Self {
        Self::from_le_bytes([from[0], from[1]])
    }
}

impl KvFloat for u16 {
    fn from_f32(value: f32) -> Self {
        half::f16::from_f32(value).to_bits()
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

/// Stores a head's key and value of one position as they are.
#[inline(always)]
fn store_floats<E: KvFloat>([keys, values]: [&mut [E]; 2], position: usize, key: &[f32], value: &[f32]) {
    let head_dim = key.len();
    let (block, j) = (position / BLOCK * BLOCK, position % BLOCK);
    let columns = keys[block * head_dim..][..BLOCK * head_dim].chunks_exact_mut(BLOCK);
    for (column, &key) in columns.zip(key) {
        column[j] = E::from_f32(key);
    }
    for (to, &value) in values[position * head_dim..][..head_dim].iter_mut().zip(value) {
        *to = E::from_f32(value);
    }
}

/// The cache of all layers.
#[derive(Clone, Debug)]
pub(crate) enum KvCache {
    F32(Segments<f32>),
    F16(Segments<u16>),
    Q8_0(Segments<i8>),
}

/// What a pass adds to, and reads, of one layer.
pub(crate) enum LayerMut<'a> {
    F32(LayerCache<'a, f32>),
    F16(LayerCache<'a, u16>),
    Q8_0(LayerCache<'a, i8>),
}

/// The same for all types.
macro_rules! with_segments {
    ($cache:expr, $segments:ident => $body:expr) => {
        match $cache {
            KvCache::F32($segments) => $body,
            KvCache::F16($segments) => $body,
            KvCache::Q8_0($segments) => $body,
        }
    };
}

impl KvCache {
    /// An empty cache for `n_layers`; keys and values are (`kv_dim`), heads of them (`head_dim`).
    pub(crate) fn new(n_layers: usize, kv_dim: usize, head_dim: usize, dtype: CacheDtype) -> Self {
        match dtype {
            CacheDtype::F32 => Self::F32(Segments::new(n_layers, kv_dim, head_dim)),
            CacheDtype::F16 => Self::F16(Segments::new(n_layers, kv_dim, head_dim)),
            CacheDtype::Q8_0 => Self::Q8_0(Segments::new(n_layers, kv_dim, head_dim)),
        }
    }

    /// Bytes that a position takes in all layers.
    pub(crate) fn bytes_per_position(config: &Config, dtype: CacheDtype) -> usize {
        2 * config.n_layers * config.n_kv_heads * dtype.bytes(config.head_dim)
    }

    pub(crate) fn dtype(&self) -> CacheDtype {
        match self {
            Self::F32(_) => CacheDtype::F32,
            Self::F16(_) => CacheDtype::F16,
            Self::Q8_0(_) => CacheDtype::Q8_0,
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
            Self::Q8_0(segments) => LayerMut::Q8_0(segments.layer(layer, position)),
        }
    }

    /// A cache with the same first `len` positions, which it shares.
    pub(crate) fn fork(&self, len: usize) -> Self {
        match self {
            Self::F32(segments) => Self::F32(segments.fork(len)),
            Self::F16(segments) => Self::F16(segments.fork(len)),
            Self::Q8_0(segments) => Self::Q8_0(segments.fork(len)),
        }
    }

    /// Appends a head's keys of the first `len` positions, and then its values: (`len`, width)
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
