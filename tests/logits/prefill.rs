//! Prefill decodes weights once for many tokens, decode multiplies row by row: both must give the
//! same bits, in every format, on every instruction set, for any number of threads.

use babyllama::{Dtype, Isa};

use crate::common::gguf::{Gguf, Value};
use crate::common::{RandomModel, Shape, SplitMix64, all_logits, assert_same_bits, open_on, step_by_step};

/// A format's number in a file, and where a block has scales, which must be small numbers for the
/// sums to stay finite.
fn number_and_scales(dtype: Dtype) -> (u32, &'static [usize]) {
    match dtype {
        Dtype::Q4_0 => (2, &[0]),
        Dtype::Q4_1 => (3, &[0, 2]),
        Dtype::Q5_0 => (6, &[0]),
        Dtype::Q5_1 => (7, &[0, 2]),
        Dtype::Q8_0 => (8, &[0]),
        Dtype::Q2K => (10, &[80, 82]),
        Dtype::Q3K => (11, &[108]),
        Dtype::Q4K => (12, &[0, 2]),
        Dtype::Q5K => (13, &[0, 2]),
        Dtype::Q6K => (14, &[208]),
        Dtype::Iq4Nl => (20, &[0]),
        Dtype::Iq4Xs => (23, &[0]),
        Dtype::Iq2Xxs => (16, &[0]),
        Dtype::Iq2Xs => (17, &[0]),
        Dtype::Iq3Xxs => (18, &[0]),
        Dtype::Iq1S => (19, &[0]),
        Dtype::Iq3S => (21, &[0]),
        Dtype::Iq2S => (22, &[0]),
        Dtype::Iq1M => (29, &[]), // the highest byte of its scale is made of two bytes' halves
        Dtype::Tq1_0 => (34, &[52]),
        Dtype::Tq2_0 => (35, &[64]),
        Dtype::Mxfp4 => (39, &[]),
        new => panic!("say here where {new} has scales"),
    }
}

/// A model whose matrices are random blocks.
fn model_in(dtype: Dtype, weights: usize, bytes: usize) -> Vec<u8> {
    let (kind, scales) = number_and_scales(dtype);
    // Ten or eleven groups a row where blocks are small: not a multiple of the eight that are
    // decoded together.
    let (dim, hidden_dim) = if weights == 32 { (320, 352) } else { (256, 768) };
    let shape = Shape::new(dim, hidden_dim).layers(1).heads(4, 2).vocab(77).context(128);
    let mut file: Gguf = RandomModel::new(shape, 5).to_gguf(1e-5, 1e4);
    file.set("general.alignment", Value::U32(32));
    let mut random = SplitMix64::new(u64::from(kind));
    for tensor in &mut file.tensors {
        let n: u64 = tensor.dims.iter().product();
        if tensor.dims.len() < 2 || tensor.name.starts_with(b"token_embd") {
            continue;
        }
        let mut data = random.bytes(n as usize / weights * bytes);
        for block in data.chunks_exact_mut(bytes) {
            for &at in scales {
                // Half-precision numbers of either sign about 2^-11.
                let bits = 0x1000 | (random.next_u64() as u16 & 0x8fff);
                block[at..at + 2].copy_from_slice(&bits.to_le_bytes());
            }
            match dtype {
                Dtype::Iq1M => (block[53], block[55]) = (block[53] & 0x8f, block[55] & 0x1f),
                Dtype::Mxfp4 => block[0] = 110 + block[0] % 8,
                _ => {}
            }
        }
        (tensor.kind, tensor.data) = (kind, data);
    }
    file.to_bytes()
}

#[test]
fn prefill_of_any_length_gives_decodes_bits_in_every_format() {
    // One vector of tokens and a part of one, two and a part, four and a part, with whatever a
    // vector is; without optimization fewer, since these products take longer than all other tests.
    let lengths: &[(usize, usize)] = if cfg!(debug_assertions) {
        &[(3, 2), (17, 1), (39, 2)]
    } else {
        &[(2, 1), (3, 2), (9, 1), (17, 2), (39, 1), (64, 3), (75, 2)]
    };
    let (longest, _) = *lengths.last().unwrap();
    for &dtype in Dtype::ALL {
        let Some((weights @ 2.., bytes)) = dtype.block() else { continue };
        let file = model_in(dtype, weights, bytes);
        for isa in Isa::available() {
            let tokens: Vec<u32> = (0..longest as u32).map(|i| i * 31 % 77).collect();
            let decoded = step_by_step(&open_on(file.clone(), isa, 1), &tokens);
            for &(n_tokens, threads) in lengths {
                let found = all_logits(&open_on(file.clone(), isa, threads), &tokens[..n_tokens]);
                let what = format!("{dtype} {} {n_tokens} tokens", isa.name());
                assert_same_bits(&found, &decoded[..77 * n_tokens], &what);
            }
        }
    }
}
