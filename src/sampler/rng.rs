//! Random numbers.

/// The random numbers of `run.c`: xorshift64*, of which the upper half is used.
///
/// ```
/// let mut rng = babyllama::Rng::new(7);
/// let coin = rng.next_f32();
/// assert!((0.0..1.0).contains(&coin));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rng {
    state: u64,
}

impl Rng {
    /// Starts at `seed`. 0, from which all numbers would be 0, counts as 0x9E3779B97F4A7C15.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: if seed == 0 { 0x9E37_79B9_7F4A_7C15 } else { seed } }
    }

    /// The next 32 bits.
    pub fn next_u32(&mut self) -> u32 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        (self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) as u32
    }

    /// The next number from 0 up to but not including 1, a multiple of 2^-24.
    pub fn next_f32(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 / 16_777_216.0
    }
}
