//! Chunks of a region that nobody has claimed yet, in one atomic word.

use std::ops::Range;

use super::sync::{AtomicU64, Ordering};

/// The chunks `start..end` that are left. Each is claimed by one thread.
///
/// A claim that succeeds reads the word that [`set`](Self::set) stored, or one that another claim
/// made of it: so what was written before `set` is seen after a claim.
#[derive(Default)]
pub(super) struct ChunkQueue(AtomicU64);

impl ChunkQueue {
    /// Fills the queue. To be called while it is empty and no thread can expect chunks of it.
    pub(super) fn set(&self, chunks: Range<u32>) {
        self.0.store(pack(chunks), Ordering::Release);
    }

    pub(super) fn is_empty(&self) -> bool {
        unpack(self.0.load(Ordering::Relaxed)).is_empty()
    }

    /// Claims all chunks that are left, and returns how many. It looks first, because a store would
    /// take the cache line from the threads that look.
    pub(super) fn take(&self) -> usize {
        if self.is_empty() { 0 } else { unpack(self.0.swap(pack(0..0), Ordering::AcqRel)).len() }
    }

    pub(super) fn claim_first(&self) -> Option<u32> {
        self.claim(|chunks| (chunks.start, chunks.start + 1..chunks.end))
    }

    pub(super) fn claim_last(&self) -> Option<u32> {
        self.claim(|chunks| (chunks.end - 1, chunks.start..chunks.end - 1))
    }

    /// Claims the chunk that `choose` takes from those left.
    #[inline]
    fn claim(&self, choose: impl Fn(Range<u32>) -> (u32, Range<u32>)) -> Option<u32> {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let chunks = unpack(word);
            if chunks.is_empty() {
                return None;
            }
            let (chunk, rest) = choose(chunks);
            // The word may be an old region's. If it is also this region's, so are its chunks.
            match self.0.compare_exchange_weak(word, pack(rest), Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Some(chunk),
                Err(now) => word = now,
            }
        }
    }
}

fn pack(chunks: Range<u32>) -> u64 {
    u64::from(chunks.start) << 32 | u64::from(chunks.end)
}

fn unpack(word: u64) -> Range<u32> {
    (word >> 32) as u32..word as u32
}

/// A value in cache lines of its own: two, because some processors fetch them in pairs.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct CachePadded<T>(pub(super) T);
