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

/// Reads memory in order, as kernels read weights; the bits that any byte has. In one stream, which
/// is prefetched, or in four side by side, which the processor prefetches by itself: which one is
/// faster depends on it.
#[must_use]
pub fn read(isa: Isa, bytes: &[u8], four_streams: bool) -> u8 {
    if four_streams {
        let parts = bytes.len() / 4 / CHUNK * CHUNK;
        let (first, rest) = bytes.split_at(parts);
        let (second, rest) = rest.split_at(parts);
        let (third, rest) = rest.split_at(parts);
        let (fourth, rest) = rest.split_at(parts);
        read_streams(isa, &[first, second, third, fourth]) | read_streams(isa, &[rest])
    } else {
        read_streams(isa, &[bytes])
    }
}

/// Bytes that are read of a stream before the next one's.
const CHUNK: usize = 256;

kernel! { float
    /// All streams are as long as the first one.
    fn read_streams(s; streams: &[&[u8]]) -> u8 {
        let mut bits = [s.zero_x64(); 4];
        let whole = streams[0].len() / CHUNK * CHUNK;
        for at in (0..whole).step_by(CHUNK) {
            for &stream in streams {
                let chunk = &stream[at..][..CHUNK];
                if streams.len() == 1 {
                    s.prefetch_all_nta(chunk, PREFETCH_DISTANCE, CHUNK);
                }
                for i in 0..4 {
                    bits[i] = s.or_x64(bits[i], s.load_bytes_x64(&chunk[64 * i..]));
                }
            }
        }
        let rest = streams.iter().flat_map(|stream| &stream[whole..]);
        let mut all = rest.fold(0, |bits, byte| bits | byte);
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
            let lens = [0, 1, 255, 256, 257, 1000, 1024, 3000];
            for (len, four) in lens.into_iter().flat_map(|len| [(len, false), (len, true)]) {
                let mut bytes = vec![0; len];
                assert_eq!(read(isa, &bytes, four), 0);
                for at in 0..len {
                    bytes[at] = 0x41;
                    assert_eq!(read(isa, &bytes, four), 0x41, "{} {at} of {len}", isa.name());
                    bytes[at] = 0;
                }
            }
        }
    }
}
