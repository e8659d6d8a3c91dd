//! Attention: `softmax(q K^T / sqrt(head_dim)) V`, one task a head.
//!
//! Every sum here is added up in the plain order of its terms: vectors hold different positions (for scores) or
//! different dimensions (for the weighted sum), never parts of one sum. Scores round each product before it is added;
//! the weighted sum rounds once. So the result is the same bits on every instruction set, for prefill and decode, and in
//! runq as gcc compiles it for a processor with FMA.

use crate::kv_cache::{BLOCK, KeysValues};
use crate::matmul::Compute;
use crate::ops::softmax;
use crate::parallel::Columns;
use crate::simd::{Simd, kernel};

/// The shape of an attention: `n_heads / n_kv_heads` query heads share a head of keys and values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    pub(crate) n_heads: usize,
    pub(crate) n_kv_heads: usize,
    pub(crate) head_dim: usize,
}

impl Compute<'_> {
    /// Lets the tokens at `position..` attend to every position up to their own.
    ///
    /// `out` and `q` are (`n_tokens`, `n_heads` * `head_dim`). `scores` is room for a head's scores, for each head.
    pub(crate) fn attention(
        &self,
        out: &mut [f32],
        q: &[f32],
        kv: KeysValues<'_>,
        heads: Heads,
        position: usize,
        scores: &mut Vec<f32>,
    ) {
        let Heads { n_heads, n_kv_heads, head_dim } = heads;
        let q_dim = n_heads * head_dim;
        let n_tokens = q.len() / q_dim;
        let room = (position + n_tokens).next_multiple_of(BLOCK);
        scores.resize(n_heads * room, 0.0);

        let mut outs = [[Columns::new(out, q_dim, head_dim), Columns::new(scores, n_heads * room, room)]];
        let bytes = n_tokens * (position + n_tokens) * q_dim * size_of::<f32>();
        self.team.bands(&mut outs, bytes, |_, heads, [mut out, mut scores]| {
            for (i, head) in heads.enumerate() {
                let kv_head = head / (n_heads / n_kv_heads);
                let scores = &mut scores.row(0)[i * room..][..room];
                for token in 0..n_tokens {
                    let q = &q[token * q_dim + head * head_dim..][..head_dim];
                    let out = &mut out.row(token)[i * head_dim..][..head_dim];
                    attend(self.isa, out, q, kv, kv_head * head_dim, position + token + 1, scores);
                }
            }
        });
    }
}

kernel! {
    /// One query, one head: `out` and `q` are (`head_dim`). It sees the first `len` positions; its keys and values
    /// begin at column `start`.
    fn attend(
        s; out: &mut [f32], q: &[f32], kv: KeysValues<'_>, start: usize, len: usize, scores: &mut [f32],
    ) {
        for (block, scores) in scores[..len.next_multiple_of(BLOCK)].chunks_exact_mut(BLOCK).enumerate() {
            block_scores(s, scores, q, kv.key_block(block, start, q.len()));
        }
        let weights = &mut scores[..len];
        softmax(s, weights);

        let head_dim = out.len();
        let mut column = 0;
        while column + S::LANES <= head_dim {
            let (out, start) = (&mut out[column..], start + column);
            let vectors = (out.len() / S::LANES).min(4);
            match vectors {
                4 => weighted_sum::<S, 4>(s, out, weights, kv, start),
                3 => weighted_sum::<S, 3>(s, out, weights, kv, start),
                2 => weighted_sum::<S, 2>(s, out, weights, kv, start),
                _ => weighted_sum::<S, 1>(s, out, weights, kv, start),
            }
            column += vectors * S::LANES;
        }
        if column < head_dim {
            let mut sum = s.splat(0.0);
            for (position, &weight) in weights.iter().enumerate() {
                let value = s.load_partial(kv.value(position, start + column, head_dim - column));
                sum = s.fused_mul_add(s.splat(weight), value, sum);
            }
            s.store_partial(sum, &mut out[column..]);
        }
    }
}

/// `scores[i] = q · keys[.., i] / sqrt(head_dim)` for the positions of a block; `keys` is (`head_dim`, [`BLOCK`]).
#[inline(always)]
fn block_scores<S: Simd>(s: S, scores: &mut [f32], q: &[f32], keys: &[f32]) {
    // A vector each for 64 positions is the most that any instruction set needs, and is kept in registers.
    let mut acc = [s.splat(0.0); 8];
    let n = BLOCK / S::LANES;
    for (&q, keys) in q.iter().zip(keys.chunks_exact(BLOCK)) {
        let q = s.splat(q);
        for (acc, keys) in acc[..n].iter_mut().zip(keys.chunks_exact(S::LANES)) {
            *acc = s.add(*acc, s.mul(q, s.load(keys)));
        }
    }
    let divisor = s.splat((q.len() as f32).sqrt());
    for (acc, scores) in acc[..n].iter().zip(scores.chunks_exact_mut(S::LANES)) {
        s.store(s.div(*acc, divisor), scores);
    }
}

/// `N` vectors' worth of columns of `weights · V`, kept in registers.
#[inline(always)]
fn weighted_sum<S: Simd, const N: usize>(
    s: S,
    out: &mut [f32],
    weights: &[f32],
    kv: KeysValues<'_>,
    start: usize,
) {
    let mut sums = [s.splat(0.0); N];
    for (position, &weight) in weights.iter().enumerate() {
        let value = kv.value(position, start, N * S::LANES);
        let weight = s.splat(weight);
        for (sum, value) in sums.iter_mut().zip(value.chunks_exact(S::LANES)) {
            *sum = s.fused_mul_add(weight, s.load(value), *sum);
        }
    }
    for (sum, out) in sums.iter().zip(out.chunks_exact_mut(S::LANES)) {
        s.store(*sum, out);
    }
}
