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
use std::ops::Range;
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

/// Which positions tokens see.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach {
    /// That a token sees, its own included, in all layers.
    window: usize,
    /// The positions of a segment, if those that are out of sight are let go. As many before the
    /// window are kept: to go back by no more costs nothing.
    step: Option<usize>,
}

impl Reach {
    /// A token sees all before it.
    #[cfg(test)]
    const ALL: Self = Self { window: usize::MAX, step: None };
    /// The least positions of a segment that is let go: those of a pass.
    const MIN_STEP: usize = 512;

    /// In sessions of a model that hold `capacity` positions.
    pub(crate) fn new(config: &Config, capacity: usize) -> Self {
        let window = (0..config.n_layers).map(|l| config.window(l)).max().unwrap_or(usize::MAX);
        let step = (window / 8).clamp(Self::MIN_STEP, usize::MAX / 8).next_multiple_of(BLOCK);
        let is_less = capacity > window.saturating_add(4 * step);
        Self { window, step: is_less.then_some(step) }
    }

    /// The most positions that there is memory for at once, where a session holds `capacity`: the
    /// window, a step before it and one after it, and what the first and the last segment have
    /// beyond them.
    pub(crate) fn most_held(self, capacity: usize) -> usize {
        self.step.map_or(capacity, |step| self.window + 4 * step)
    }

    /// Whether what is out of sight is let go.
    pub(crate) fn lets_go(self) -> bool {
        self.step.is_some()
    }

    /// The first position that the token at `position` sees.
    pub(crate) fn first_seen(self, position: usize) -> usize {
        (position + 1).saturating_sub(self.window)
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
    /// An empty cache of a model, for sessions that hold `capacity` positions.
    pub(crate) fn new(config: &Config, capacity: usize, dtype: CacheDtype) -> Self {
        let (n_layers, kv_dim, head_dim) = (config.n_layers, config.kv_dim(), config.head_dim);
        let reach = Reach::new(config, capacity);
        match dtype {
            CacheDtype::F32 => Self::F32(Segments::new(n_layers, kv_dim, head_dim, reach)),
            CacheDtype::F16 => Self::F16(Segments::new(n_layers, kv_dim, head_dim, reach)),
            CacheDtype::Q8_0 => Self::Q8_0(Segments::new(n_layers, kv_dim, head_dim, reach)),
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

    pub(crate) fn reach(&self) -> Reach {
        with_segments!(self, segments => segments.reach())
    }

    /// Whether it keeps all that the token at `position` sees.
    pub(crate) fn sees(&self, position: usize) -> bool {
        with_segments!(self, segments => segments.sees(position))
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        with_segments!(self, segments => segments.clear());
    }

    /// See [`Segments::reserve_span`].
    pub(crate) fn reserve_span(&mut self, span: Range<usize>) -> Result<()> {
        with_segments!(self, segments => segments.reserve_span(span))
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

    /// Appends a head's keys of some positions, and then its values: (positions, width) each, in
    /// the order of positions, little-endian.
    pub(crate) fn read_head(&self, layer: usize, head: usize, span: Range<usize>, to: &mut Vec<u8>) {
        with_segments!(self, segments => segments.read_head(layer, head, span, to));
    }

    /// Stores what [`read_head`](Self::read_head) wrote of positions from `first` on, in an empty
    /// cache where these are reserved.
    pub(crate) fn write_head(&mut self, layer: usize, head: usize, first: usize, from: &[u8]) {
        with_segments!(self, segments => segments.write_head(layer, head, first, from));
    }
}
