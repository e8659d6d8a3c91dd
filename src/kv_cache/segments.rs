//! Positions in segments that sessions share: a fork costs nothing, and growth copies nothing.
//!
//! A segment begins at a multiple of [`BLOCK`] positions and is written by one session alone. When
//! that can't be, because a fork has it too, a new one begins at the last multiple of [`BLOCK`]:
//! at most 63 positions are copied.
//!
//! Where attention has a window, segments are of limited size, and the oldest are let go as the
//! text grows: a new one takes the memory of one that no fork has.

use std::ops::Range;
use std::sync::Arc;

use super::{BLOCK, KvElement, Reach};
use crate::error::{ErrorKind, Result};

/// The cache of all layers, with elements of one type.
///
/// It begins with space for as many positions as it is told and grows when they are used up, so
/// that a file whose header declares two billion positions costs nothing until they are used.
#[derive(Clone, Debug)]
pub(crate) struct Segments<E> {
    /// One after another; the first begins at position 0, unless others were let go. A position
    /// belongs to the last that begins at or before it.
    parts: Vec<Part<E>>,
    /// The first position that was read back from a file: its segment begins with its block.
    restored_from: usize,
    reach: Reach,
    n_layers: usize,
    n_kv_heads: usize,
    /// Elements of a head's key, or of its value.
    width: usize,
}

/// A segment, and where it begins.
#[derive(Clone, Debug)]
struct Part<E> {
    start: usize,
    segment: Arc<Segment<E>>,
}

/// Memory for `capacity` positions.
#[derive(Debug)]
struct Segment<E> {
    capacity: usize,
    layers: Vec<Layer<E>>,
}

/// Keys and values of one layer.
#[derive(Debug)]
struct Layer<E> {
    keys: Vec<E>,   // (n_kv_heads, capacity / BLOCK, width, BLOCK): see `KvElement::key_place`
    values: Vec<E>, // (n_kv_heads, capacity, width): see `KvElement::value_place`
}

impl<E: KvElement> Segment<E> {
    /// Its memory comes as zeroed pages from the system, which take no memory until they are
    /// written.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`].
    fn new(capacity: usize, n_layers: usize, kv_width: usize) -> Result<Self> {
        let out_of_memory = || ErrorKind::OutOfMemory {
            what: "the key and value cache",
            bytes: (capacity as u64).saturating_mul((2 * n_layers * kv_width * size_of::<E>()) as u64),
        };
        let len = capacity.checked_mul(kv_width).ok_or_else(out_of_memory)?;
        let bytes = len.checked_mul(size_of::<E>()).ok_or_else(out_of_memory)?;
        if !can_allocate(2 * n_layers, bytes) {
            return Err(out_of_memory().into());
        }
        let layer = |_| Layer { keys: vec![E::default(); len], values: vec![E::default(); len] };
        Ok(Self { capacity, layers: (0..n_layers).map(layer).collect() })
    }

    /// Copies the block of positions after the first `skipped` of another segment to the beginning.
    fn copy_block(&mut self, from: &Self, skipped: usize, n_kv_heads: usize, width: usize) {
        let (to_stride, from_stride) = (self.capacity * width, from.capacity * width);
        for (to, from) in self.layers.iter_mut().zip(&from.layers) {
            for (to, from) in [(&mut to.keys, &from.keys), (&mut to.values, &from.values)] {
                for head in 0..n_kv_heads {
                    let from = &from[head * from_stride + skipped * width..][..BLOCK * width];
                    to[head * to_stride..][..from.len()].copy_from_slice(from);
                }
            }
        }
    }
}

impl<E: KvElement> Segments<E> {
    pub(super) fn new(n_layers: usize, kv_dim: usize, head_dim: usize, reach: Reach) -> Self {
        let (n_kv_heads, width) = (kv_dim / head_dim, E::width(head_dim));
        Self { parts: Vec::new(), restored_from: 0, reach, n_layers, n_kv_heads, width }
    }

    pub(super) fn reach(&self) -> Reach {
        self.reach
    }

    /// The first position that is kept.
    fn first(&self) -> usize {
        self.parts.first().map_or(0, |part| part.start).max(self.restored_from)
    }

    /// Whether all is kept that the token at `position` sees.
    pub(super) fn sees(&self, position: usize) -> bool {
        let first = self.first();
        first == 0 || position + 1 >= self.reach.window.saturating_add(first)
    }

    pub(super) fn clear(&mut self) {
        self.parts.clear();
        self.restored_from = 0;
    }

    /// Gives an empty cache memory for these positions alone.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`].
    pub(super) fn reserve_span(&mut self, span: Range<usize>) -> Result<()> {
        self.restored_from = if span.is_empty() { 0 } else { span.start };
        let (mut start, end) = (span.start / BLOCK * BLOCK, span.end);
        while !span.is_empty() && start < end {
            let capacity = self.reach.step.unwrap_or(end - start).min(end - start).next_multiple_of(BLOCK);
            let segment = Arc::new(Segment::new(capacity, self.n_layers, self.kv_width())?);
            self.parts.push(Part { start, segment });
            start += capacity;
        }
        Ok(())
    }

    /// Lets go of segments that no token from `position` on sees, or one a step before it; gives
    /// those that no fork has.
    fn let_go(&mut self, position: usize) -> Vec<Segment<E>> {
        let Some(step) = self.reach.step else { return Vec::new() };
        let seen = (position + 1).saturating_sub(self.reach.window.saturating_add(step));
        let n_unseen = self.parts.windows(2).take_while(|parts| parts[1].start <= seen).count();
        self.parts.drain(..n_unseen).filter_map(|part| Arc::into_inner(part.segment)).collect()
    }

    /// Elements of all heads' keys, or values, of a position and a layer.
    fn kv_width(&self) -> usize {
        self.n_kv_heads * self.width
    }

    pub(super) fn position_bytes(&self) -> usize {
        2 * self.n_layers * self.kv_width() * size_of::<E>()
    }

    pub(super) fn capacity(&self) -> usize {
        self.parts.last().map_or(0, |part| part.start + part.segment.capacity)
    }

    /// Positions that its segments have memory for, also where another begins before its end.
    pub(super) fn held(&self) -> usize {
        self.parts.iter().map(|part| part.segment.capacity).sum()
    }

    /// Which part a position belongs to, if there is memory for it.
    fn part_of(&self, position: usize) -> Option<usize> {
        if position >= self.capacity() {
            return None;
        }
        self.parts.iter().rposition(|part| part.start <= position)
    }

    /// Sees to it that positions `position..needed` can be written, `position` being the number of
    /// those that were. The first segment holds `first` positions at least; later ones double what
    /// this session doesn't share, up to `limit` positions in all. Whether what was read ahead from
    /// `position` on is lost, as its place is another now. Where there is a window, a step's
    /// positions at most are reserved at once.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`]; nothing that was written is lost then.
    pub(super) fn reserve(
        &mut self,
        position: usize,
        needed: usize,
        first: usize,
        limit: usize,
    ) -> Result<bool> {
        let step = self.reach.step.unwrap_or(usize::MAX);
        let needed = needed.min(position.saturating_add(step));
        if needed <= position {
            return Ok(false);
        }
        let mut moves = false;
        if let Some(i) = self.part_of(position) {
            if Arc::get_mut(&mut self.parts[i].segment).is_none() {
                self.part_ways(i, position, needed)?;
                moves = true;
            }
            // Those after it are empty.
            let is_shared = |part: &mut Part<E>| Arc::get_mut(&mut part.segment).is_none();
            if let Some(shared) = self.parts[i + 1..].iter_mut().position(is_shared) {
                self.parts.truncate(i + 1 + shared);
                moves = true;
            }
        }
        let start = self.capacity();
        if needed > start {
            let own = self.parts.iter_mut().filter_map(|part| Arc::get_mut(&mut part.segment));
            let own = own.map(|segment| segment.capacity).sum::<usize>();
            let wanted = if self.parts.is_empty() { first } else { own.min(limit.saturating_sub(start)) };
            let wanted = wanted.min(step).max(needed - start);
            let capacity = wanted.checked_next_multiple_of(BLOCK).unwrap_or(usize::MAX);
            let unseen = self.let_go(position).into_iter().find(|segment| segment.capacity == capacity);
            let segment = match unseen {
                Some(segment) => segment, // a position is written before it is read
                None => Segment::new(capacity, self.n_layers, self.kv_width())?,
            };
            self.parts.push(Part { start, segment: Arc::new(segment) });
        }
        Ok(moves)
    }

    /// Gives this session a segment of its own in place of part `i`, which is shared, from
    /// `position`'s block on.
    fn part_ways(&mut self, i: usize, position: usize, needed: usize) -> Result<()> {
        let start = position / BLOCK * BLOCK;
        let capacity = (needed - start).next_multiple_of(BLOCK);
        let mut segment = Segment::new(capacity, self.n_layers, self.kv_width())?;
        let shared = &self.parts[i];
        if position > start {
            segment.copy_block(&shared.segment, start - shared.start, self.n_kv_heads, self.width);
        }
        self.parts.truncate(if start == shared.start { i } else { i + 1 });
        self.parts.push(Part { start, segment: Arc::new(segment) });
        Ok(())
    }

    pub(super) fn contiguous_from(&self, position: usize) -> usize {
        let Some(i) = self.part_of(position) else { return 0 };
        self.parts.get(i + 1).map_or(self.capacity(), |next| next.start) - position
    }

    pub(super) fn layer(&mut self, layer: usize, position: usize) -> LayerCache<'_, E> {
        let i = self.part_of(position).expect("positions are reserved before they are written");
        let (earlier, rest) = self.parts.split_at_mut(i);
        let part = &mut rest[0];
        let segment = Arc::get_mut(&mut part.segment).expect("a reserved segment isn't shared");
        let Layer { keys, values } = &mut segment.layers[layer];
        let earlier = Earlier { parts: earlier, end: part.start, layer };
        LayerCache { start: part.start, keys, values, earlier }
    }

    pub(super) fn read_head(&self, layer: usize, head: usize, span: Range<usize>, to: &mut Vec<u8>) {
        let d = self.width;
        for of_values in [false, true] {
            for (i, part) in self.parts.iter().enumerate() {
                let end = self.parts.get(i + 1).map_or(span.end, |next| next.start.min(span.end));
                let Layer { keys, values } = &part.segment.layers[layer];
                let stride = part.segment.capacity * d;
                let numbers = &(if of_values { values } else { keys })[head * stride..][..stride];
                for position in span.start.saturating_sub(part.start)..end.saturating_sub(part.start) {
                    let place = if of_values { E::value_place } else { E::key_place };
                    (0..d).for_each(|i| numbers[place(position, i, d)].write(to));
                }
            }
        }
    }

    pub(super) fn write_head(&mut self, layer: usize, head: usize, first: usize, from: &[u8]) {
        let d = self.width;
        let position_bytes = d * size_of::<E>();
        let (mut from_keys, mut from_values) = from.split_at(from.len() / 2);
        for part in &mut self.parts {
            let segment = Arc::get_mut(&mut part.segment).expect("a new segment isn't shared");
            let skipped = first.saturating_sub(part.start);
            let len = (segment.capacity - skipped).min(from_keys.len() / position_bytes) * position_bytes;
            let stride = segment.capacity * d;
            let Layer { keys, values } = &mut segment.layers[layer];
            let (keys, values) =
                (&mut keys[head * stride..][..stride], &mut values[head * stride..][..stride]);
            let (own_keys, own_values) = (from_keys.split_off(..len), from_values.split_off(..len));
            for (i, from) in own_keys.iter().flat_map(|own| own.chunks_exact(size_of::<E>())).enumerate() {
                keys[E::key_place(skipped + i / d, i % d, d)] = E::read(from);
            }
            for (i, from) in own_values.iter().flat_map(|own| own.chunks_exact(size_of::<E>())).enumerate() {
                values[E::value_place(skipped + i / d, i % d, d)] = E::read(from);
            }
        }
    }

    pub(super) fn fork(&self, len: usize) -> Self {
        let parts = self.parts.iter().take_while(|part| part.start < len).cloned().collect();
        Self { parts, ..*self }
    }
}

/// What a pass adds to, and reads, of one layer.
pub(crate) struct LayerCache<'a, E> {
    /// The first position of what can be written.
    pub(crate) start: usize,
    pub(crate) keys: &'a mut [E],   // (n_kv_heads, blocks, width, BLOCK)
    pub(crate) values: &'a mut [E], // (n_kv_heads, blocks * BLOCK, width)
    pub(crate) earlier: Earlier<'a, E>,
}

/// What a layer has in the segments before the one that is written.
#[derive(Clone, Copy)]
pub(crate) struct Earlier<'a, E> {
    parts: &'a [Part<E>],
    /// Their last position, and one more.
    end: usize,
    layer: usize,
}

impl<'a, E: KvElement> Earlier<'a, E> {
    /// A head's keys and values: those of earlier segments, and then these, of the last.
    #[inline(always)]
    pub(crate) fn head(
        self,
        head: usize,
        width: usize,
        [keys, values]: [&'a [E]; 2],
    ) -> [Stretches<'a, E>; 2] {
        [(false, keys), (true, values)].map(|(of_values, last)| Stretches {
            earlier: self,
            head,
            width,
            of_values,
            last,
        })
    }
}

/// A head's keys or values: a stretch of memory in each segment.
#[derive(Clone, Copy)]
pub(crate) struct Stretches<'a, E> {
    earlier: Earlier<'a, E>,
    head: usize,
    width: usize,
    of_values: bool,
    last: &'a [E],
}

impl<'a, E: KvElement> Stretches<'a, E> {
    /// The block of positions that the first stretch begins with.
    pub(crate) fn first_block(self) -> usize {
        self.earlier.parts.first().map_or(self.earlier.end, |part| part.start) / BLOCK
    }

    pub(crate) fn len(self) -> usize {
        self.earlier.parts.len() + 1
    }

    /// The `i`th stretch: in keys (blocks, `width`, [`BLOCK`]), in values (positions,
    /// `width`). There may be memory after its last position.
    #[inline(always)]
    pub(crate) fn get(self, i: usize) -> &'a [E] {
        let Some(part) = self.earlier.parts.get(i) else { return self.last };
        let Layer { keys, values } = &part.segment.layers[self.earlier.layer];
        let len = part.segment.capacity * self.width;
        &(if self.of_values { values } else { keys })[self.head * len..][..len]
    }

    /// The blocks of positions in the `i`th stretch; of the last, all that there is memory for.
    #[inline(always)]
    pub(crate) fn n_blocks(self, i: usize) -> usize {
        let Earlier { parts, end, .. } = self.earlier;
        match parts.get(i) {
            Some(part) => (parts.get(i + 1).map_or(end, |next| next.start) - part.start) / BLOCK,
            None => self.last.len() / self.width / BLOCK,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    const HEADS: usize = 3;
    const LAYERS: usize = 2;
    const DIM: usize = 4;

    /// A number for each head, position and dimension, and for what is written there.
    fn number(head: usize, position: usize, d: usize, mark: usize) -> f32 {
        (mark * 100_000 + head * 10_000 + position * DIM + d) as f32
    }

    /// A cache, and what each position of it was written with.
    #[derive(Clone)]
    struct Checked {
        cache: Segments<f32>,
        marks: Vec<usize>,
    }

    impl Checked {
        fn write(&mut self, n: usize, mark: usize) {
            let (mut position, end) = (self.marks.len(), self.marks.len() + n);
            self.cache.reserve(position, end, 1, 10_000).unwrap();
            while position < end {
                let n = self.cache.contiguous_from(position).min(end - position);
                assert!(n > 0, "what is reserved can be written");
                for layer in 0..LAYERS {
                    let LayerCache { start, keys, values, .. } = self.cache.layer(layer, position);
                    let per_head = keys.len() / HEADS;
                    let heads = keys.chunks_exact_mut(per_head).zip(values.chunks_exact_mut(per_head));
                    for (head, (keys, values)) in heads.enumerate() {
                        for position in position..position + n {
                            let key: [f32; DIM] = std::array::from_fn(|d| number(head, position, d, mark));
                            f32::store([keys, values], position - start, &key, &key.map(|x| -x));
                        }
                    }
                }
                position += n;
            }
            self.marks.resize(end, mark);
        }

        fn check(&mut self) {
            let Some(last) = self.marks.len().checked_sub(1) else { return };
            for head in 0..HEADS {
                let mut bytes = Vec::new();
                self.cache.read_head(1, head, 0..last + 1, &mut bytes);
                let numbers: Vec<f32> =
                    bytes.as_chunks::<4>().0.iter().map(|&x| f32::from_le_bytes(x)).collect();
                let (keys, values) = numbers.split_at((last + 1) * DIM);
                for (i, (&key, &value)) in keys.iter().zip(values).enumerate() {
                    let want = number(head, i / DIM, i % DIM, self.marks[i / DIM]);
                    assert_eq!((key, value), (want, -want), "head {head}, position {}", i / DIM);
                }
            }
        }
    }

    #[test]
    fn caches_keep_their_positions_through_growth_forks_and_truncation() {
        let mut state = 1_u64;
        let mut below = |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % n
        };
        let empty = Checked { cache: Segments::new(LAYERS, HEADS * DIM, DIM, Reach::ALL), marks: Vec::new() };
        let mut caches = vec![empty];
        for mark in 0..if cfg!(miri) { 20 } else { 400 } {
            let i = below(caches.len());
            match below(5) {
                0 if caches.len() < 8 => {
                    let Checked { cache, marks } = &caches[i];
                    let fork = Checked { cache: cache.fork(marks.len()), marks: marks.clone() };
                    caches.push(fork);
                }
                1 => {
                    let len = caches[i].marks.len();
                    caches[i].marks.truncate([below(len + 1), len / BLOCK * BLOCK][below(2)]);
                }
                2 if caches.len() > 1 => drop(caches.swap_remove(i)),
                _ => caches[i].write([1, 3, BLOCK, 200][below(4)], mark),
            }
            caches.iter_mut().for_each(Checked::check);
        }
    }

    #[test]
    fn a_fork_shares_all_but_the_block_that_it_writes() {
        let mut cache =
            Checked { cache: Segments::new(LAYERS, HEADS * DIM, DIM, Reach::ALL), marks: Vec::new() };
        cache.write(200, 1);
        let mut fork = cache.cache.fork(200);
        assert!(Arc::ptr_eq(&fork.parts[0].segment, &cache.cache.parts[0].segment));
        fork.reserve(200, 201, 1, 10_000).unwrap();
        assert_eq!((fork.parts.len(), fork.parts[1].start, fork.parts[1].segment.capacity), (2, 192, BLOCK));
        assert!(Arc::ptr_eq(&fork.parts[0].segment, &cache.cache.parts[0].segment));
    }

    #[test]
    fn more_memory_than_there_is_is_an_error_and_loses_nothing() {
        let mut cache =
            Checked { cache: Segments::new(LAYERS, HEADS * DIM, DIM, Reach::ALL), marks: Vec::new() };
        cache.write(70, 1);
        for needed in [1 << 50, usize::MAX / 2] {
            let error = cache.cache.reserve(70, needed, 1, usize::MAX).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::OutOfMemory { .. }), "{error}");
        }
        cache.check();
    }
}
