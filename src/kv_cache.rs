//! The keys and values of the tokens fed so far. Keys are stored turned by RoPE.
//!
//! A query meets the keys of many positions at once, so keys lie transposed in blocks of [`BLOCK`] positions: the
//! products of one query with a block's keys then need no sum across lanes, and each is added up in the plain order of
//! its dimensions, whatever the width of a vector.

use crate::error::{ErrorKind, Result};

/// Positions whose keys lie together.
pub(crate) const BLOCK: usize = 64;

/// The cache of all layers.
///
/// It begins with room for as many positions as it is told and doubles when they are used up, so that a header that
/// promises two thousand million positions costs nothing until they are used.
#[derive(Clone, Debug)]
pub(crate) struct KvCache {
    layers: Vec<Layer>,
    kv_dim: usize,
    capacity: usize,
}

#[derive(Clone, Debug, Default)]
struct Layer {
    keys: Vec<f32>,   // (capacity / BLOCK, kv_dim, BLOCK)
    values: Vec<f32>, // (capacity, kv_dim)
}

/// What attention reads of a layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeysValues<'a> {
    keys: &'a [f32],
    values: &'a [f32],
    kv_dim: usize,
}

impl<'a> KeysValues<'a> {
    /// A head's keys at the positions of one block: (`width`, [`BLOCK`]). `start` is the head's first column.
    #[inline(always)]
    pub(crate) fn key_block(&self, block: usize, start: usize, width: usize) -> &'a [f32] {
        &self.keys[(block * self.kv_dim + start) * BLOCK..][..width * BLOCK]
    }

    /// A head's value at a position: (`width`).
    #[inline(always)]
    pub(crate) fn value(&self, position: usize, start: usize, width: usize) -> &'a [f32] {
        &self.values[position * self.kv_dim + start..][..width]
    }
}

impl KvCache {
    pub(crate) fn new(n_layers: usize, kv_dim: usize) -> Self {
        Self { layers: vec![Layer::default(); n_layers], kv_dim, capacity: 0 }
    }

    /// Bytes that a position takes in all layers.
    pub(crate) fn bytes_per_position(n_layers: usize, kv_dim: usize) -> usize {
        2 * n_layers * kv_dim * size_of::<f32>()
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
            bytes: (capacity as u64)
                .saturating_mul(Self::bytes_per_position(self.layers.len(), self.kv_dim) as u64),
        };
        let len = capacity.checked_mul(self.kv_dim).ok_or_else(out_of_memory)?;
        if !is_room_for(2 * self.layers.len(), len) {
            return Err(out_of_memory().into());
        }
        let longer = |Layer { keys, values }: &Layer| Layer {
            keys: longer_copy(keys, len),
            values: longer_copy(values, len),
        };
        self.layers = self.layers.iter().map(longer).collect();
        self.capacity = capacity;
        Ok(())
    }

    /// Stores the keys and values of consecutive positions: (`n_tokens`, `kv_dim`) each.
    pub(crate) fn write(&mut self, layer: usize, position: usize, keys: &[f32], values: &[f32]) {
        let Layer { keys: to_keys, values: to_values } = &mut self.layers[layer];
        to_values[position * self.kv_dim..][..values.len()].copy_from_slice(values);
        for (position, key) in (position..).zip(keys.chunks_exact(self.kv_dim)) {
            let block = &mut to_keys[position / BLOCK * BLOCK * self.kv_dim..][..BLOCK * self.kv_dim];
            for (column, &key) in block.chunks_exact_mut(BLOCK).zip(key) {
                column[position % BLOCK] = key;
            }
        }
    }

    pub(crate) fn layer(&self, layer: usize) -> KeysValues<'_> {
        let Layer { keys, values } = &self.layers[layer];
        KeysValues { keys, values, kv_dim: self.kv_dim }
    }

    /// A copy of the first `len` positions, with room for little more.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`].
    pub(crate) fn fork(&self, len: usize) -> Result<Self> {
        let mut copy = Self::new(self.layers.len(), self.kv_dim);
        copy.reserve(len, len)?;
        for (to, from) in copy.layers.iter_mut().zip(&self.layers) {
            let len = to.keys.len();
            to.keys.copy_from_slice(&from.keys[..len]);
            to.values.copy_from_slice(&from.values[..len]);
        }
        Ok(copy)
    }
}

/// Whether so many vectors of `len` can be had: `vec!` asks the system for zeroed pages, but ends the process where there
/// are none.
///
/// All are there at once before any is given back. One before each `vec!` would be what that gets, if it is small enough
/// for the allocator to keep, and would then have to be filled with zeros: on a 70B's first token, 2.6 GB.
fn is_room_for(n_vectors: usize, len: usize) -> bool {
    let mut vectors: Vec<Vec<f32>> = vec![Vec::new(); n_vectors];
    vectors.iter_mut().all(|vector| vector.try_reserve_exact(len).is_ok())
}

/// A longer copy, with zeros behind. They come from the system and are not touched, so they take no memory yet.
fn longer_copy(old: &[f32], len: usize) -> Vec<f32> {
    let mut new = vec![0.0; len];
    new[..old.len()].copy_from_slice(old);
    new
}
