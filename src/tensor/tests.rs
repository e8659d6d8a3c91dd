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
