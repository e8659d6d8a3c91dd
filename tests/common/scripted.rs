//! A model that says what it is told to, so that a test of generation knows every token beforehand.

use super::{Layer, RandomModel, Shape};

/// A model of one layer that does nothing, whose best next token after `t` is always `next[t]`,
/// with a margin: the others' logits are 0. There is a token for each of `next`, whose number is
/// even.
///
/// Each embedding is a direction of its own, and each row of the classifier is the sum of the
/// directions of the tokens that it follows.
pub fn scripted_model(next: &[u32], max_seq_len: usize) -> RandomModel {
    let n = next.len();
    assert!(n.is_multiple_of(2), "RoPE rotates pairs");
    let shape = Shape::new(n, 1).layers(1).heads(n / 2, 1).vocab(n).context(max_seq_len);
    let mut tok_embeddings = vec![0.0; n * n];
    let mut output = vec![0.0; n * n];
    for (token, &next) in next.iter().enumerate() {
        tok_embeddings[token * n + token] = 1.0;
        output[next as usize * n + token] = 1.0;
    }
    let layer = Layer {
        attention_norm: vec![1.0; n],
        wq: vec![0.0; n * n],
        wk: vec![0.0; 2 * n],
        wv: vec![0.0; 2 * n],
        wo: vec![0.0; n * n],
        ffn_norm: vec![1.0; n],
        w1: vec![0.0; n],
        w2: vec![0.0; n],
        w3: vec![0.0; n],
    };
    RandomModel { shape, tok_embeddings, layers: vec![layer], norm: vec![1.0; n], output: Some(output) }
}

/// A `tokenizer.bin`: the pieces after `<unk>`, BOS and EOS, which are tokens 0, 1 and 2.
pub fn tokenizer_bin(pieces: &[&[u8]]) -> Vec<u8> {
    let specials: [&[u8]; 3] = [b"<unk>", b"\n<s>\n", b"\n</s>\n"];
    let all = || specials.iter().chain(pieces);
    let longest = all().map(|piece| piece.len()).max().unwrap();
    let mut file = i32::try_from(longest).unwrap().to_le_bytes().to_vec();
    for (id, piece) in all().enumerate() {
        file.extend((-(id as f32)).to_le_bytes());
        file.extend(i32::try_from(piece.len()).unwrap().to_le_bytes());
        file.extend(*piece);
    }
    file
}
