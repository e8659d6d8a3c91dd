//! What blocks stand for: the `gguf` of Python decodes them to the same bits.

use super::*;

/// Blocks and their weights, which `tests/golden/ggml_blocks.py` wrote.
const GOLDEN: &[u8] = include_bytes!("../../tests/golden/ggml_blocks.bin");

/// How many blocks of a format there are. `FORMATS` in that script must say the same, in the order
/// of [`Dtype::ALL`].
fn n_blocks(dtype: Dtype) -> usize {
    match dtype.block().unwrap() {
        (1, 4) => 64,
        (1, _) => 1024,
        (32, _) => 48,
        _ => 24,
    }
}

/// A line for each format, which that script wrote too.
const HASHES: &str = include_str!("../../tests/golden/ggml_blocks.hashes");

/// The finalizer of `SplitMix64`.
fn mixed(x: u64) -> u64 {
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// Every point of every grid is among them, and every byte at every place of a block.
#[test]
fn random_bytes_decode_to_what_gguf_decodes_them_to() {
    let words = (1..=1_u64 << 14).map(|i| mixed(i.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    let mut lines = HASHES.lines();
    for &dtype in Dtype::ALL {
        let (weights, block) = dtype.block().unwrap();
        let n_blocks = bytes.len() / block;
        let storage = Arc::new(Storage::from_vec(bytes.clone()));
        let tensor = Tensor::new(&storage, 0..n_blocks * block, n_blocks, weights, dtype).unwrap();
        let hash = (0_u64..).zip(tensor.to_f32()).fold(0_u64, |hash, (i, weight)| {
            let bits = if weight.is_nan() { 0x7fc0_0000 } else { weight.to_bits() };
            hash.wrapping_add(mixed(u64::from(bits) | i << 32))
        });
        let found = format!("{} {hash:016x}", dtype.to_string().to_ascii_uppercase());
        assert_eq!(Some(&*found), lines.next());
    }
    assert_eq!(lines.next(), None);
}

#[test]
fn every_format_decodes_to_the_bits_that_gguf_decodes_to() {
    let mut rest = GOLDEN;
    let mut take = |n: usize| {
        let (taken, left) = rest.split_at(n);
        rest = left;
        taken
    };
    for &dtype in Dtype::ALL {
        let n_blocks = n_blocks(dtype);
        let (weights, bytes) = dtype.block().unwrap();
        let blocks = take(n_blocks * bytes);
        let expected: Vec<f32> = take(4 * n_blocks * weights)
            .chunks_exact(4)
            .map(|x| f32::from_le_bytes(x.try_into().unwrap()))
            .collect();
        let storage = Arc::new(Storage::from_vec(blocks.to_vec()));
        // Rows of two blocks, so that a row starts where it should.
        let (rows, columns) = (n_blocks / 2, 2 * weights);
        let found = Tensor::new(&storage, 0..blocks.len(), rows, columns, dtype).unwrap().to_f32();
        assert_eq!(found.len(), expected.len());
        assert!(expected.iter().filter(|x| x.is_finite()).count() > expected.len() / 2, "{dtype}");
        for (i, (&found, &expected)) in found.iter().zip(&expected).enumerate() {
            let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
            assert!(
                same,
                "{dtype}, weight {} of block {}: {found:e}, gguf {expected:e}",
                i % weights,
                i / weights
            );
        }
    }
    assert!(rest.is_empty());
}
