//! The random numbers of all tests: those here, those in `src`, and the benches.

#![allow(dead_code, unreachable_pub, reason = "each crate that includes this file uses a part of it")]

/// `SplitMix64`: a counter that is mixed, so Python can compute any stretch of the stream at once.
pub struct SplitMix64(u64);

impl SplitMix64 {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in `[-1, 1)`, on a grid of 2^-23: every step is exact in f32, in any language.
    pub fn next_f32(&mut self) -> f32 {
        let k = (self.next_u64() >> 40) as i32; // the top 24 bits
        (k - (1 << 23)) as f32 / (1 << 23) as f32
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next_u64() % n as u64) as usize
    }

    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next_u64() as u8).collect()
    }

    pub fn tensor(&mut self, len: usize, center: f32, scale: f32) -> Vec<f32> {
        (0..len).map(|_| center + self.next_f32() * scale).collect()
    }

    /// Damages one of the first `within` bytes: a bit flips, or it becomes any byte, or one at an
    /// end of its range.
    pub fn damage(&mut self, bytes: &mut [u8], within: usize) {
        let at = self.below(within);
        bytes[at] = match self.below(3) {
            0 => bytes[at] ^ 1 << self.below(8),
            1 => self.next_u64() as u8,
            _ => [0, 1, 0x7F, 0x80, 0xFF][self.below(5)],
        };
    }
}
