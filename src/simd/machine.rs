//! How fast this machine can be: what an instruction set reads from memory, and computes from
//! registers alone. The bundled binary compares models with it.
//!
//! All of it runs on the calling thread; time it.

use super::{Isa, PREFETCH_DISTANCE, kernel};

/// Chains of operations: enough to hide an operation's latency.
const CHAINS: usize = 12;

/// Multiplies and adds int8 in registers, `rounds` times in each of twelve chains; how many
/// operations that were.
#[must_use]
pub fn multiply_int8(isa: Isa, rounds: usize) -> u64 {
    int8(isa, rounds);
    (rounds * CHAINS * isa.lanes() * 4 * 2) as u64
}

/// Multiplies and adds f32 in registers, `rounds` times in each of twelve chains; how many
/// operations that were.
#[must_use]
pub fn multiply_f32(isa: Isa, rounds: usize) -> u64 {
    f32(isa, rounds);
    (rounds * CHAINS * isa.lanes() * 2) as u64
}

kernel! { float
    /// Reads memory as kernels read weights, in order and prefetched; the bits that any byte has.
    pub fn read(s; bytes: &[u8]) -> u8 {
        let mut bits = [s.zero_x64(); 4];
        let mut chunks = bytes.chunks_exact(256);
        for chunk in &mut chunks {
            s.prefetch_all_nta(chunk, PREFETCH_DISTANCE, 256);
            for i in 0..4 {
                bits[i] = s.or_x64(bits[i], s.load_bytes_x64(&chunk[64 * i..]));
            }
        }
        let mut all = chunks.remainder().iter().fold(0, |bits, byte| bits | byte);
        for block in bits.map(|pair| s.blocks(pair)).as_flattened() {
            let mut block_bytes = [0_u8; 32];
            s.store_bytes(*block, &mut block_bytes);
            all = block_bytes.iter().fold(all, |bits, byte| bits | byte);
        }
        all
    }
}

kernel! {
    fn int8(s; rounds: usize) {
        let (w, x) = (s.splat_quad(&[1, 2, 3, 4]), s.load_quads(&[1; 64]));
        let mut acc = [s.zero_i32(); CHAINS];
        for _ in 0..rounds {
            let w = std::hint::black_box(w);
            for acc in &mut acc {
                *acc = s.dot4_u8i8(*acc, w, x);
            }
        }
        std::hint::black_box(acc);
    }
}

kernel! { float
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_sees_every_byte() {
        for isa in Isa::available() {
            for len in [0, 1, 255, 256, 257, 1000] {
                let mut bytes = vec![0; len];
                assert_eq!(read(isa, &bytes), 0);
                for at in 0..len {
                    bytes[at] = 0x41;
                    assert_eq!(read(isa, &bytes), 0x41, "{} {at} of {len}", isa.name());
                    bytes[at] = 0;
                }
            }
        }
    }
}
