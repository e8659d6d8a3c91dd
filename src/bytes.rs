//! Takes bytes apart from their front, where each length is checked against what is left; and sums
//! them up.

use crate::error::{Error, Result};

/// A place in some bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct ByteReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> ByteReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes before this place.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// Bytes from this place on.
    pub(crate) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// All bytes from `start` to this place.
    pub(crate) fn since(&self, start: usize) -> &'a [u8] {
        &self.bytes[start..self.at]
    }

    /// Checks that `count` things of at least `size` bytes can be left.
    ///
    /// # Errors
    /// [`ErrorKind::Truncated`](crate::ErrorKind::Truncated), here and in all that follows.
    pub(crate) fn expect(&self, count: u64, size: u64, what: &'static str) -> Result<()> {
        let (needed, available) = (count.saturating_mul(size), self.rest().len() as u64);
        if needed <= available {
            return Ok(());
        }
        Err(Error::truncated(what, self.at as u64, needed, available))
    }

    /// The next `len` bytes.
    pub(crate) fn take(&mut self, len: u64, what: &'static str) -> Result<&'a [u8]> {
        self.expect(1, len, what)?;
        let start = self.at;
        self.at += len as usize; // no more than are left, so it fits
        Ok(self.since(start))
    }

    /// The next `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N]> {
        let taken = self.take(N as u64, what)?;
        Ok(std::array::from_fn(|i| taken[i]))
    }

    #[cfg(feature = "convert")]
    pub(crate) fn u16(&mut self, what: &'static str) -> Result<u16> {
        self.array(what).map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A little-endian number of up to 8 bytes.
    pub(crate) fn number(&mut self, bytes: u64, what: &'static str) -> Result<u64> {
        let taken = self.take(bytes, what)?;
        Ok(taken.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }
}

/// A checksum that changes whenever one word of what it sums does: each step is one to one.
#[derive(Clone, Copy)]
pub(crate) struct Checksum(u64);

impl Checksum {
    pub(crate) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Bytes, and how many they are.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|&word| self.add_word(u64::from_le_bytes(word)));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.add_word(u64::from_le_bytes(last));
        self.add_word(bytes.len() as u64);
    }

    fn add_word(&mut self, word: u64) {
        let mixed = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ mixed >> 32;
    }

    pub(crate) fn sum(self) -> u64 {
        self.0
    }
}
