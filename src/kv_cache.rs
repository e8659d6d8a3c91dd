//! The keys and values of the tokens fed so far. Keys are stored turned by RoPE.
//!
//! Both lie in blocks of [`BLOCK`] positions, and a block's heads one after another, so that a head is read as a stream. A query meets
//! the keys of many positions at once, so a block's keys lie transposed: the products of one query with them then need no sum across
//! lanes, and each is added up in the plain order of its dimensions, whatever the width of a vector.

use crate::error::{ErrorKind, Result};
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
    /// IEEE half precision: half the memory, and in long contexts less time, for an error of 2^-11 in each key and value.
    F16,
}

impl CacheDtype {
    fn bytes(self) -> usize {
        match self {
            Self::F32 => size_of::<f32>(),
            Self::F16 => size_of::<u16>(),
        }
    }
}

/// A number of the cache.
pub(crate) trait Element: Copy + Default {
    fn of(value: f32) -> Self;
    /// The first `LANES` numbers.
    fn load<S: Simd>(s: S, from: &[Self]) -> S::F32;
    /// All of `from`, which are fewer, and then zeros.
    fn load_partial<S: Simd>(s: S, from: &[Self]) -> S::F32;
}

impl Element for f32 {
    fn of(value: f32) -> Self {
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
impl Element for u16 {
    fn of(value: f32) -> Self {
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
/// It begins with room for as many positions as it is told and doubles when they are used up, so that a header that
/// promises two thousand million positions costs nothing until they are used.
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

#[derive(Clone, Debug, Default)]
struct Layer<E> {
    keys: Vec<E>,   // (capacity / BLOCK, kv_dim, BLOCK)
    values: Vec<E>, // (capacity / BLOCK, n_kv_heads, BLOCK, head_dim)
}

/// What attention reads of a layer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum KeysValues<'a> {
    F32(View<'a, f32>),
    F16(View<'a, u16>),
}

/// Keys and values of one kind of number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a, E> {
    keys: &'a [E],
    values: &'a [E],
    kv_dim: usize,
}

impl<'a, E: Element> View<'a, E> {
    /// A head's keys at the positions of one block: (`head_dim`, [`BLOCK`]). `start` is the head's first column.
    #[inline(always)]
    pub(crate) fn key_block(&self, block: usize, start: usize, head_dim: usize) -> &'a [E] {
        &self.keys[(block * self.kv_dim + start) * BLOCK..][..head_dim * BLOCK]
    }

    /// How far the keys, or values, of the next block lie behind those of a block.
    #[inline(always)]
    pub(crate) fn next_block(&self) -> usize {
        self.kv_dim * BLOCK
    }

    /// A head's values at the positions of one block: ([`BLOCK`], `head_dim`).
    #[inline(always)]
    pub(crate) fn value_block(&self, block: usize, start: usize, head_dim: usize) -> &'a [E] {
        &self.values[(block * self.kv_dim + start) * BLOCK..][..BLOCK * head_dim]
    }
}

impl<E: Element> Layer<E> {
    fn longer(&self, len: usize) -> Self {
        Self { keys: longer_copy(&self.keys, len), values: longer_copy(&self.values, len) }
    }

    fn copy_start(&mut self, from: &Self) {
        let len = self.keys.len();
        self.keys.copy_from_slice(&from.keys[..len]);
        self.values.copy_from_slice(&from.values[..len]);
    }

    fn write(&mut self, [kv_dim, head_dim]: [usize; 2], position: usize, keys: &[f32], values: &[f32]) {
        for (i, key) in keys.chunks_exact(kv_dim).enumerate() {
            let (block, j) = ((position + i) / BLOCK * BLOCK * kv_dim, (position + i) % BLOCK);
            for (column, &key) in self.keys[block..][..BLOCK * kv_dim].chunks_exact_mut(BLOCK).zip(key) {
                column[j] = E::of(key);
            }
            let value = values[i * kv_dim..][..kv_dim].chunks_exact(head_dim);
            for (head, value) in self.values[block..].chunks_exact_mut(BLOCK * head_dim).zip(value) {
                for (to, &value) in head[j * head_dim..][..head_dim].iter_mut().zip(value) {
                    *to = E::of(value);
                }
            }
        }
    }

    fn view(&self, kv_dim: usize) -> View<'_, E> {
        View { keys: &self.keys, values: &self.values, kv_dim }
    }
}

impl KvCache {
    /// A cache for so many layers; keys and values are (`kv_dim`), heads of them (`head_dim`).
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

    /// Positions that there is room for.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Makes room for positions below `needed`, which is at most `limit`.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`]; what was there stays.
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
        if !is_room_for(2 * self.n_layers, bytes) {
            return Err(out_of_memory().into());
        }
        self.layers = match &self.layers {
            Layers::F32(layers) => Layers::F32(layers.iter().map(|layer| layer.longer(len)).collect()),
            Layers::F16(layers) => Layers::F16(layers.iter().map(|layer| layer.longer(len)).collect()),
        };
        self.capacity = capacity;
        Ok(())
    }

    /// Stores the keys and values of consecutive positions: (`n_tokens`, `kv_dim`) each.
    pub(crate) fn write(&mut self, layer: usize, position: usize, keys: &[f32], values: &[f32]) {
        let widths = [self.kv_dim, self.head_dim];
        match &mut self.layers {
            Layers::F32(layers) => layers[layer].write(widths, position, keys, values),
            Layers::F16(layers) => layers[layer].write(widths, position, keys, values),
        }
    }

    pub(crate) fn layer(&self, layer: usize) -> KeysValues<'_> {
        match &self.layers {
            Layers::F32(layers) => KeysValues::F32(layers[layer].view(self.kv_dim)),
            Layers::F16(layers) => KeysValues::F16(layers[layer].view(self.kv_dim)),
        }
    }

    /// A copy of the first `len` positions, with room for little more.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`].
    pub(crate) fn fork(&self, len: usize) -> Result<Self> {
        let mut copy = Self::new(self.n_layers, self.kv_dim, self.head_dim, self.dtype());
        copy.reserve(len, len)?;
        match (&mut copy.layers, &self.layers) {
            (Layers::F32(to), Layers::F32(from)) => {
                to.iter_mut().zip(from).for_each(|(to, from)| to.copy_start(from));
            }
            (Layers::F16(to), Layers::F16(from)) => {
                to.iter_mut().zip(from).for_each(|(to, from)| to.copy_start(from));
            }
            _ => unreachable!("a copy is of the same kind"),
        }
        Ok(copy)
    }
}

/// Whether so many vectors of so many bytes can be had: `vec!` asks the system for zeroed pages, but ends the process where
/// there are none.
///
/// All are there at once before any is given back. One before each `vec!` would be what that gets, if it is small enough
/// for the allocator to keep, and would then have to be filled with zeros: on a 70B's first token, 2.6 GB.
fn is_room_for(n_vectors: usize, bytes: usize) -> bool {
    let mut vectors: Vec<Vec<u8>> = vec![Vec::new(); n_vectors];
    vectors.iter_mut().all(|vector| vector.try_reserve_exact(bytes).is_ok())
}

/// A longer copy, with zeros behind. They come from the system and are not touched, so they take no memory yet.
fn longer_copy<E: Element>(old: &[E], len: usize) -> Vec<E> {
    let mut new = vec![E::default(); len];
    new[..old.len()].copy_from_slice(old);
    new
}
