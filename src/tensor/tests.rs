//! What blocks stand for: the `gguf` of Python decodes them to the same bits.

use super::*;

/// Blocks and their weights, which `tests/golden/ggml_blocks.py` wrote.
const GOLDEN: &[u8] = include_bytes!("../../tests/golden/ggml_blocks.bin");

/// How many blocks of each format there are. `FORMATS` in that script must be equal to this table.
const FORMATS: [(Dtype, usize); 15] = [
    (Dtype::F32, 64),
    (Dtype::F16, 1024),
    (Dtype::Bf16, 1024),
    (Dtype::Q8_0, 48),
    (Dtype::Q4_0, 48),
    (Dtype::Q4_1, 48),
    (Dtype::Q5_0, 48),
    (Dtype::Q5_1, 48),
    (Dtype::Q2K, 24),
    (Dtype::Q3K, 24),
    (Dtype::Q4K, 24),
    (Dtype::Q5K, 24),
    (Dtype::Q6K, 24),
    (Dtype::Iq4Nl, 48),
    (Dtype::Iq4Xs, 24),
];

#[test]
fn every_format_decodes_to_the_bits_that_gguf_decodes_to() {
    let mut rest = GOLDEN;
    let mut take = |n: usize| {
        let (taken, left) = rest.split_at(n);
        rest = left;
        taken
    };
    for (dtype, n_blocks) in FORMATS {
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
