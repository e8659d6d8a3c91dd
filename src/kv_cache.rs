//! The keys and values of the tokens fed so far. Keys are stored as RoPE has rotated them.
//!
//! Each head has a stretch of memory of its own, which is read as one stream (pieces of it between
//! those of other heads come from memory more slowly). A query meets the keys of many positions at
//! once, so those of [`BLOCK`] positions lie transposed: the products of one query with them then
//! need no sum across lanes, and each is summed in the plain order of its dimensions, whatever the
//! width of a vector.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result, by_name};
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

    fn bytes(self) -> usize {
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
pub(crate) trait KvElement: Copy + Default + Send {
    fn from_f32(value: f32) -> Self;
    /// The first `LANES` numbers.
    fn load<S: Simd>(s: S, from: &[Self]) -> S::F32;
    /// All of `from`, which are fewer, and then zeros.
    fn load_partial<S: Simd>(s: S, from: &[Self]) -> S::F32;
}

impl KvElement for f32 {
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

/// The cache of all layers.
///
/// It begins with space for as many positions as it is told and doubles when they are used up, so
/// that a file whose header declares two billion positions costs nothing until they are used.
#[derive(Clone, Debug)]
pub(crate) struct KvCache {
    layers: Layers,
    n_layers: usize,
    kv_dim: usize,
    head_dim: usize,
    capacity: usize,
}

#[derive(Clone, Debug)]
enum Layers {
    F32(Vec<Layer<f32>>),
    F16(Vec<Layer<u16>>),
}

/// Keys and values of one layer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layer<E> {
    pub(crate) keys: Vec<E>,   // (n_kv_heads, capacity / BLOCK, head_dim, BLOCK)
    pub(crate) values: Vec<E>, // (n_kv_heads, capacity, head_dim)
}

/// A layer, to add to and to read.
pub(crate) enum LayerMut<'a> {
    F32(&'a mut Layer<f32>),
    F16(&'a mut Layer<u16>),
}

impl<E: KvElement> Layer<E> {
    /// Copies the first positions of each head, as many as both can hold.
    fn copy_start(&mut self, from: &Self, n_kv_heads: usize) {
        for (to, from) in [(&mut self.keys, &from.keys), (&mut self.values, &from.values)] {
            let (to_len, from_len) = (to.len() / n_kv_heads, from.len() / n_kv_heads);
            let both = to_len.min(from_len);
            for head in 0..n_kv_heads {
                to[head * to_len..][..both].copy_from_slice(&from[head * from_len..][..both]);
            }
        }
    }
}

/// Stores a head's key and value of one position, (`head_dim`) each, where [`Layer`] has them.
#[inline(always)]
pub(crate) fn store<E: KvElement>(
    [keys, values]: [&mut [E]; 2],
    position: usize,
    key: &[f32],
    value: &[f32],
) {
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

impl KvCache {
    /// A cache for `n_layers`; keys and values are (`kv_dim`), heads of them (`head_dim`).
    pub(crate) fn new(n_layers: usize, kv_dim: usize, head_dim: usize, dtype: CacheDtype) -> Self {
        let layers = match dtype {
            CacheDtype::F32 => Layers::F32(vec![Layer::default(); n_layers]),
            CacheDtype::F16 => Layers::F16(vec![Layer::default(); n_layers]),
        };
        Self { layers, n_layers, kv_dim, head_dim, capacity: 0 }
    }

    fn dtype(&self) -> CacheDtype {
        match self.layers {
            Layers::F32(_) => CacheDtype::F32,
            Layers::F16(_) => CacheDtype::F16,
        }
    }

    /// Bytes that a position takes in all layers.
    pub(crate) fn bytes_per_position(n_layers: usize, kv_dim: usize, dtype: CacheDtype) -> usize {
        2 * n_layers * kv_dim * dtype.bytes()
    }

    /// Bytes that a position takes.
    pub(crate) fn position_bytes(&self) -> usize {
        Self::bytes_per_position(self.n_layers, self.kv_dim, self.dtype())
    }

    /// Positions that it holds without growing.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Grows if it holds fewer than `needed` positions, of which there will never be more than
    /// `limit`.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`]; the cache is unchanged then.
    pub(crate) fn reserve(&mut self, needed: usize, limit: usize) -> Result<()> {
        if needed <= self.capacity {
            return Ok(());
        }
        let capacity = needed.max((self.capacity * 2).min(limit)).next_multiple_of(BLOCK);
        let out_of_memory = || ErrorKind::OutOfMemory {
            what: "the key and value cache",
            bytes: (capacity as u64).saturating_mul(self.position_bytes() as u64),
        };
        let len = capacity.checked_mul(self.kv_dim).ok_or_else(out_of_memory)?;
        let bytes = len.checked_mul(self.dtype().bytes()).ok_or_else(out_of_memory)?;
        if !can_allocate(2 * self.n_layers, bytes) {
            return Err(out_of_memory().into());
        }
        let n_kv_heads = self.kv_dim / self.head_dim;
        match &mut self.layers {
            Layers::F32(layers) => grow(layers, len, n_kv_heads),
            Layers::F16(layers) => grow(layers, len, n_kv_heads),
        }
        self.capacity = capacity;
        Ok(())
    }

    pub(crate) fn layer(&mut self, layer: usize) -> LayerMut<'_> {
        match &mut self.layers {
            Layers::F32(layers) => LayerMut::F32(&mut layers[layer]),
            Layers::F16(layers) => LayerMut::F16(&mut layers[layer]),
        }
    }

    /// A copy of the first `len` positions, without spare capacity.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`].
    pub(crate) fn fork(&self, len: usize) -> Result<Self> {
        let mut copy = Self::new(self.n_layers, self.kv_dim, self.head_dim, self.dtype());
        copy.reserve(len, len)?;
        let n_kv_heads = self.kv_dim / self.head_dim;
        match (&mut copy.layers, &self.layers) {
            (Layers::F32(to), Layers::F32(from)) => {
                to.iter_mut().zip(from).for_each(|(to, from)| to.copy_start(from, n_kv_heads));
            }
            (Layers::F16(to), Layers::F16(from)) => {
                to.iter_mut().zip(from).for_each(|(to, from)| to.copy_start(from, n_kv_heads));
            }
            _ => unreachable!("a copy has the same dtype"),
        }
        Ok(copy)
    }
}

/// Whether `n_vectors` of `bytes` each can be allocated. `vec!` gets zeroed pages from the system,
/// but ends the process where there are none.
///
/// All are allocated before any is freed. If one were tried and freed before each `vec!`, the
/// allocator might hand the same memory out again and would then have to fill it with zeros: on a
/// 70B's first token, 2.6 GB.
fn can_allocate(n_vectors: usize, bytes: usize) -> bool {
    let mut vectors: Vec<Vec<u8>> = vec![Vec::new(); n_vectors];
    vectors.iter_mut().all(|vector| vector.try_reserve_exact(bytes).is_ok())
}

/// Grows the keys and the values of each layer to `len` numbers. The new ones come as zeroed pages
/// from the system and are not touched, so they take no memory yet.
fn grow<E: KvElement>(layers: &mut [Layer<E>], len: usize, n_kv_heads: usize) {
    for layer in layers {
        let mut longer = Layer { keys: vec![E::default(); len], values: vec![E::default(); len] };
        longer.copy_start(layer, n_kv_heads);
        *layer = longer;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: usize = BLOCK + 5;
    const HEADS: usize = 3;

    /// A number for each head, position and dimension.
    fn number(head: usize, position: usize, d: usize) -> f32 {
        (head * 1000 + position * 4 + d) as f32
    }

    /// Asserts that the first positions of each head have their keys and values.
    fn holds(cache: &mut KvCache, len: usize) {
        let LayerMut::F32(layer) = cache.layer(1) else { panic!("the cache is of f32") };
        let per_head = layer.keys.len() / HEADS;
        for head in 0..HEADS {
            for position in 0..len {
                for d in 0..4 {
                    let want = number(head, position, d);
                    let key = head * per_head + position / BLOCK * BLOCK * 4 + d * BLOCK + position % BLOCK;
                    assert_eq!(layer.keys[key], want);
                    assert_eq!(layer.values[head * per_head + position * 4 + d], -want);
                }
            }
        }
    }

    #[test]
    fn each_head_keeps_its_positions_when_the_cache_grows_or_is_forked() {
        let mut cache = KvCache::new(2, HEADS * 4, 4, CacheDtype::F32);
        cache.reserve(LEN, 1000).unwrap();
        let LayerMut::F32(layer) = cache.layer(1) else { panic!("the cache is of f32") };
        let per_head = layer.keys.len() / HEADS;
        let heads = layer.keys.chunks_exact_mut(per_head).zip(layer.values.chunks_exact_mut(per_head));
        for (head, (keys, values)) in heads.enumerate() {
            for position in 0..LEN {
                let key: [f32; 4] = std::array::from_fn(|d| number(head, position, d));
                store([keys, values], position, &key, &key.map(|x| -x));
            }
        }
        holds(&mut cache, LEN);
        cache.reserve(4 * BLOCK, 1000).unwrap();
        assert!(cache.capacity() >= 4 * BLOCK);
        holds(&mut cache, LEN);
        for len in [1, BLOCK, LEN] {
            holds(&mut cache.fork(len).unwrap(), len);
        }
    }
}
