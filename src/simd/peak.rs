//! How much an instruction set computes from registers alone: what kernels are measured against.

use super::{Isa, kernel};

/// Chains of operations: enough to hide an operation's latency.
const CHAINS: usize = 12;

impl Isa {
    /// Multiplies and adds int8 in registers, `rounds` times in each of twelve chains, on the calling thread; how many
    /// operations that were. Time it to know this processor's peak.
    #[must_use]
    pub fn multiply_int8(self, rounds: usize) -> u64 {
        int8(self, rounds);
        (rounds * CHAINS * self.lanes() * 4 * 2) as u64
    }

    /// As [`Isa::multiply_int8`], with f32.
    #[must_use]
    pub fn multiply_f32(self, rounds: usize) -> u64 {
        f32(self, rounds);
        (rounds * CHAINS * self.lanes() * 2) as u64
    }
}

kernel! {
    fn int8(s; rounds: usize) {
        let (w, x) = (s.splat_quad(&[1, 2, 3, 4]), s.load_quads(&[1; 64]));
        let mut acc = [s.zero_i32(); CHAINS];
        for _ in 0..rounds {
            let w = std::hint::black_box(w);
            for acc in &mut acc {
                *acc = s.dot_quads_u8(*acc, w, x);
            }
        }
        std::hint::black_box(acc);
    }
}

kernel! {
    fn f32(s; rounds: usize) {
        let x = s.splat(0.5);
        let mut acc = [s.splat(0.0); CHAINS];
        for _ in 0..rounds {
            let w = std::hint::black_box(x);
            for acc in &mut acc {
                *acc = s.mul_add(w, x, *acc);
            }
        }
        std::hint::black_box(acc);
    }
}
