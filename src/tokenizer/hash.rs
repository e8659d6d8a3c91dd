//! Hashes for the tokenizer's own tables: much faster than the standard library's for the few bytes
//! of a piece.
//!
//! Keys are random, so that no file and no text can be made whose hashes all collide. They are not
//! as strong as the standard library's against somebody who can time many chosen look-ups; nobody
//! can here.
//!
//! Invariant: equal input, equal hash, for one [`Keys`] and its clones.

use std::hash::{BuildHasher, RandomState};

/// What a table's hashes depend on, besides what is hashed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys {
    start: u64,
    /// Odd, so that no multiplication by it loses bits.
    factor: u64,
}

impl Keys {
    pub(super) fn random() -> Self {
        let random = RandomState::new();
        Self { start: random.hash_one(0), factor: random.hash_one(1) | 1 }
    }

    #[inline]
    pub(super) fn number(self, number: u64) -> u64 {
        let product = u128::from(number ^ self.start) * u128::from(self.factor);
        // The upper half alone has bits of all input bits.
        (product >> 64) as u64 ^ product as u64
    }

    #[inline]
    pub(super) fn bytes(self, bytes: &[u8]) -> u64 {
        // The length makes all inputs different: the last word may overlap the one before, or be
        // padded.
        let mut hash = self.number(bytes.len() as u64);
        let (words, _) = bytes.as_chunks::<8>();
        for word in words {
            hash = self.number(hash ^ u64::from_le_bytes(*word));
        }
        // A last round by itself: without it one random factor in some 1,500 left similar texts in
        // a seventh of a table.
        if words.len() * 8 == bytes.len() {
            return self.number(hash);
        }
        let tail = match (bytes.last_chunk::<8>(), bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
            (Some(last), ..) => u64::from_le_bytes(*last),
            (None, Some(first), Some(last)) => {
                u64::from(u32::from_le_bytes(*first)) | u64::from(u32::from_le_bytes(*last)) << 32
            }
            // One to three bytes: the first, the middle, the last.
            _ => {
                let byte = |i: usize| u64::from(bytes[i]);
                byte(0) | byte(bytes.len() / 2) << 8 | byte(bytes.len() - 1) << 16
            }
        };
        self.number(self.number(hash ^ tail))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_byte_and_the_length_matter() {
        let keys = Keys::random();
        let mut hashes = HashSet::new();
        let mut count = 0;
        for len in 0..40 {
            let bytes = vec![0; len];
            assert_eq!(keys.bytes(&bytes), keys.bytes(&bytes.clone()));
            hashes.insert(keys.bytes(&bytes));
            for i in 0..len {
                for bit in 0..8 {
                    let mut other = bytes.clone();
                    other[i] ^= 1 << bit;
                    hashes.insert(keys.bytes(&other));
                }
            }
            count += 1 + 8 * len;
        }
        assert_eq!(hashes.len(), count, "equal hashes");
    }

    #[test]
    fn any_bits_of_hashes_spread_similar_texts() {
        let keys = Keys::random();
        // 4,096 texts in 4,096 slots: a random function fills 2,589 of them, a bad one a few.
        for shift in [0, 20, 32, 52] {
            let slot = |n: u32| keys.bytes(format!("piece {n}").as_bytes()) >> shift & 0xfff;
            let filled = (0..4096).map(slot).collect::<HashSet<_>>().len();
            assert!(filled > 2000, "{filled} of the bits from {shift} on");
        }
    }
}
