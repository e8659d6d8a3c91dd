//! Attention: `softmax(q K^T / sqrt(head_dim)) V`, a head of keys and values at a time, with all
//! the queries that share it.
//!
//! [`Head::attend`] shows the three steps: [`scores`], softmax, [`values`]. `prefetch` walks the
//! KV cache for the first and the last of them: keys in blocks of 64 positions, transposed, values
//! position after position (see `kv_cache.rs`).
//!
//! Scores and weighted values are summed in the plain order of their terms: a vector holds several
//! positions (for scores) or several dimensions (for the weighted sum), never parts of one sum.
//! Products are fused multiply-adds, except for scores in runq's numerics, as gcc compiles those.
//! The sum of a row's exponentials has sixteen parts, whatever a vector's length. So the result is
//! the same bits on every instruction set, and for prefill and decode.
//!
//! In a long context it is loads that cost, not arithmetic: so eight queries are multiplied with a
//! block while it is in the L1 cache, four at a time from registers.

mod element;
mod prefetch;
mod q8_0;
mod scores;
mod values;

use element::Element;

use crate::compute::{Compute, Numerics};
use crate::config::{QueryGrowth, RopePairs};
use crate::kv_cache::{BLOCK, Earlier, LayerCache, LayerMut};
use crate::ops::{rope, softmax};
use crate::parallel::{ColumnPartition, ColumnSlice};
use crate::simd::{Simd, kernel};

/// The parameters of attention in a layer: `n_heads / n_kv_heads` query heads share a head of keys
/// and values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    pub(crate) n_heads: usize,
    pub(crate) n_kv_heads: usize,
    pub(crate) head_dim: usize,
    /// What RoPE rotates together.
    pub(crate) pairs: RopePairs,
    /// By how much queries grow with their position.
    pub(crate) query_growth: Option<QueryGrowth>,
    /// What products of queries and keys are divided by.
    pub(crate) divisor: f32,
    /// Positions that a query sees, its own included.
    pub(crate) window: usize,
}

/// Queries that meet a block of keys or values together, so that it comes from memory once for all
/// of them: heads that share it, and neighboring tokens.
const QUERY_TILE: usize = 8;

/// Queries that share each load of a vector of keys or values: their sums fill the registers.
const REGISTER_QUERIES: usize = 4;

impl Heads {
    /// Rows of scores that are needed at once.
    pub(crate) fn score_rows(self) -> usize {
        self.n_kv_heads * QUERY_TILE
    }
}

/// The queries, keys and values of the tokens of a pass.
pub(crate) struct Tokens<'a> {
    pub(crate) q: &'a mut [f32],  // (n_tokens, n_heads * head_dim)
    pub(crate) k: &'a mut [f32],  // (n_tokens, n_kv_heads * head_dim)
    pub(crate) v: &'a [f32],      // (n_tokens, n_kv_heads * head_dim)
    pub(crate) angles: &'a [f32], // (n_tokens, pairs, 2): cosines and sines; empty without RoPE
    /// Of the first token.
    pub(crate) position: usize,
}

/// Memory that is reused from pass to pass.
#[derive(Debug, Default)]
pub(crate) struct AttentionBuffer {
    pub(crate) scores: Vec<f32>, // (score rows, positions)
    sums: Vec<f32>,              // (score rows, head_dim)
}

/// Rotates queries and keys by their angles, stores keys and values in the cache, and lets each
/// token attend to every position up to its own. `out` is (`n_tokens`, `n_heads` * `head_dim`).
///
/// A thread does all of that for a head of keys and values: what it then reads of them is in its
/// own processor's cache.
pub(crate) fn rope_store_attend(
    compute: &Compute<'_>,
    out: &mut [f32],
    tokens: Tokens<'_>,
    cache: LayerMut<'_>,
    heads: Heads,
    buffer: &mut AttentionBuffer,
) {
    match cache {
        LayerMut::F32(layer) => in_layer(compute, out, tokens, layer, heads, buffer),
        LayerMut::F16(layer) => in_layer(compute, out, tokens, layer, heads, buffer),
        LayerMut::Q8_0(layer) => in_layer(compute, out, tokens, layer, heads, buffer),
    }
}

fn in_layer<E: Element>(
    compute: &Compute<'_>,
    out: &mut [f32],
    tokens: Tokens<'_>,
    layer: LayerCache<'_, E>,
    heads: Heads,
    buffer: &mut AttentionBuffer,
) {
    let Heads { n_heads, n_kv_heads, head_dim, .. } = heads;
    let Tokens { q, k, v, angles, position } = tokens;
    let (q_dim, kv_dim) = (n_heads * head_dim, n_kv_heads * head_dim);
    let n_tokens = q.len() / q_dim;
    let stride = (position + n_tokens).next_multiple_of(BLOCK);
    buffer.scores.resize(heads.score_rows() * stride, 0.0);
    buffer.sums.resize(heads.score_rows() * head_dim, 0.0);

    let (isa, numerics) = (compute.isa, compute.numerics);
    let group_size = n_heads / n_kv_heads;
    let floats = [
        ColumnPartition::new(out, q_dim, group_size * head_dim),
        ColumnPartition::new(q, q_dim, group_size * head_dim),
        ColumnPartition::new(k, kv_dim, head_dim),
        ColumnPartition::parts(&mut buffer.scores, n_kv_heads),
        ColumnPartition::parts(&mut buffer.sums, n_kv_heads),
    ];
    let LayerCache { start, keys, values, earlier } = layer;
    let cache = [keys, values].map(|numbers| ColumnPartition::parts(numbers, n_kv_heads));
    let bytes = n_tokens * (position + n_tokens) * q_dim * size_of::<f32>();
    compute.team.for_each_item(
        floats,
        cache,
        bytes,
        move |index, [out, q, k, mut scores, mut sums], [mut keys, mut values]| {
            let head = Head {
                index,
                heads,
                group_size,
                position,
                out,
                q,
                k,
                v: &v[index * head_dim..],
                kv_dim,
                angles,
                start,
                cache: [keys.row(0), values.row(0)],
                earlier,
                scores: scores.row(0),
                sums: sums.row(0),
            };
            run(isa, numerics, head);
        },
    );
}

/// The work of one thread: a head of keys and values, the queries that share it, and all tokens.
struct Head<'a, E> {
    /// Which head of keys and values it is.
    index: usize,
    heads: Heads,
    /// Heads of queries that share it.
    group_size: usize,
    /// Of the first token.
    position: usize,
    out: ColumnSlice<'a>, // (n_tokens, group_size * head_dim)
    q: ColumnSlice<'a>,   // (n_tokens, group_size * head_dim)
    k: ColumnSlice<'a>,   // (n_tokens, head_dim)
    v: &'a [f32],         // (n_tokens, kv_dim), from this head's columns on
    kv_dim: usize,
    angles: &'a [f32], // (n_tokens, pairs, 2)
    /// Its keys, (blocks, width, BLOCK), and values, (positions, width), from position `start` on:
    /// `width` numbers are a head's, `head_dim` of them except in Q8_0.
    cache: [&'a mut [E]; 2],
    start: usize,
    /// Those before `start`.
    earlier: Earlier<'a, E>,
    scores: &'a mut [f32], // (QUERY_TILE, positions)
    sums: &'a mut [f32],   // (QUERY_TILE, head_dim)
}

kernel! { float
    fn run<E: Element>(s; numerics: Numerics, head: Head<'_, E>) {
        let mut head = head;
        head.rotate_and_store();
        head.attend(s, numerics);
    }
}

impl<E: Element> Head<'_, E> {
    /// Positions enter here: once queries and keys are rotated, a dot product of two of them
    /// depends on their distance alone.
    #[inline(always)]
    fn rotate_and_store(&mut self) {
        let Self { heads, position, q, k, v, kv_dim, angles, cache: [keys, values], start, .. } = self;
        let Heads { head_dim, pairs, query_growth, .. } = *heads;
        let (n_tokens, width) = (q.n_rows(), angles.len() / q.n_rows());
        for token in 0..n_tokens {
            let angles = &angles[token * width..][..width];
            rope(q.row(token), angles, head_dim, pairs);
            rope(k.row(token), angles, head_dim, pairs);
            if let Some(growth) = query_growth {
                let scale = growth.at(*position + token);
                q.row(token).iter_mut().for_each(|q| *q *= scale);
            }
            let value = &v[token * *kv_dim..][..head_dim];
            E::store([keys, values], *position + token - *start, k.get(token), value);
        }
    }

    /// The three steps, for a tile of queries at a time: those of the first token, then those of
    /// the next.
    #[inline(always)]
    fn attend<S: Simd>(self, s: S, numerics: Numerics) {
        let Self { index, heads, group_size, position, mut out, q, cache, earlier, scores, sums, .. } = self;
        let Heads { head_dim, divisor, window, .. } = heads;
        let [keys, values] = earlier.head(index, E::width(head_dim), cache.map(|numbers| &*numbers));
        let n_queries = q.n_rows() * group_size;
        let stride = scores.len() / QUERY_TILE;
        for first in (0..n_queries).step_by(QUERY_TILE) {
            let n = QUERY_TILE.min(n_queries - first);
            let place = |i| ((first + i) / group_size, (first + i) % group_size * head_dim);
            let mut queries: [&[f32]; QUERY_TILE] = [&[]; QUERY_TILE];
            let mut visible = [const { 0..0 }; QUERY_TILE]; // positions that each query sees
            for i in 0..n {
                let (token, column) = place(i);
                queries[i] = &q.get(token)[column..][..head_dim];
                let end = position + token + 1;
                visible[i] = end.saturating_sub(window)..end;
            }
            // The blocks that any of them sees.
            let blocks = visible[0].start / BLOCK..visible[n - 1].end.div_ceil(BLOCK);

            // 1. scores = q K^T / divisor, which is sqrt(head_dim) in most models
            scores::fill(s, numerics, &queries[..n], blocks.clone(), divisor, [keys, values], scores);

            // 2. Softmax: scores become weights, which the division below makes add up to 1.
            let mut divisors = [1.0; QUERY_TILE];
            for i in 0..n {
                let scores = &mut scores[i * stride..][..visible[i].end];
                divisors[i] = softmax(s, numerics, &mut scores[visible[i].start..]);
                // What is before its window weighs nothing.
                scores[blocks.start * BLOCK..visible[i].start].fill(0.0);
            }

            // 3. out = weights V
            let ends = visible.each_ref().map(|visible| visible.end);
            values::weighted_sums(s, scores, &ends[..n], blocks.start, [values, keys], sums);
            for (i, sums) in sums.chunks_exact(head_dim).take(n).enumerate() {
                let (token, column) = place(i);
                for (out, sum) in out.row(token)[column..][..head_dim].iter_mut().zip(sums) {
                    *out = sum / divisors[i];
                }
            }
        }
    }
}
