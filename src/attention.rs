//! Attention: `softmax(q K^T / sqrt(head_dim)) V`, a head of keys and values at a time, with all
//! queries that share it.
//!
//! Scores and weighted values are added up in the plain order of their terms: vectors hold
//! different positions (for scores) or different dimensions (for the weighted sum), never parts of
//! one sum. Each product is rounded together with the sum, but for the scores in runq's arithmetic,
//! which gcc compiles so for a processor with FMA. The sum of a row's exponentials has sixteen
//! parts, whatever a vector's length. So the result is the same bits on every instruction set, and
//! for prefill and decode.
//!
//! In a long context it is loads that cost, not arithmetic: so eight queries meet a block while it
//! is in the nearest cache, four at a time from registers.

use crate::kv_cache::{BLOCK, Element, Layer, LayerMut, store};
use crate::matmul::Compute;
use crate::ops::{Numerics, exponentials, rope, sum};
use crate::parallel::{ColumnPartition, ColumnSlice};
use crate::simd::{Simd, kernel};

/// The shape of an attention: `n_heads / n_kv_heads` query heads share a head of keys and values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    pub(crate) n_heads: usize,
    pub(crate) n_kv_heads: usize,
    pub(crate) head_dim: usize,
}

/// Queries that meet a block of keys or values together, so that it comes from memory once for all
/// of them: heads that share it, and neighbouring tokens.
const QUERY_TILE: usize = 8;

/// Those of them that meet a vector of it together, so that it is loaded once: their sums fill the
/// registers.
const REGISTER_QUERIES: usize = 4;

impl Heads {
    /// Rows of scores that are needed at once.
    pub(crate) fn score_rows(self) -> usize {
        self.n_kv_heads * QUERY_TILE
    }
}

/// What some tokens ask, and what they add to the cache.
pub(crate) struct Tokens<'a> {
    pub(crate) q: &'a mut [f32],  // (n_tokens, n_heads * head_dim)
    pub(crate) k: &'a mut [f32],  // (n_tokens, n_kv_heads * head_dim)
    pub(crate) v: &'a [f32],      // (n_tokens, n_kv_heads * head_dim)
    pub(crate) angles: &'a [f32], // (n_tokens, pairs, 2): cosines and sines
    /// Of the first token.
    pub(crate) position: usize,
}

/// Room that is reused from pass to pass.
#[derive(Debug, Default)]
pub(crate) struct AttentionBuffer {
    pub(crate) scores: Vec<f32>, // (score rows, positions)
    sums: Vec<f32>,              // (score rows, head_dim)
}

impl Compute<'_> {
    /// Turns queries and keys by their angles, adds keys and values to the cache, and lets each
    /// token attend to every position up to its own. `out` is (`n_tokens`, `n_heads` * `head_dim`).
    ///
    /// A thread does all of that for a head of keys and values: what it reads of them isn't in
    /// another's cache then.
    pub(crate) fn attention(
        &self,
        out: &mut [f32],
        tokens: Tokens<'_>,
        cache: LayerMut<'_>,
        heads: Heads,
        buffer: &mut AttentionBuffer,
    ) {
        match cache {
            LayerMut::F32(layer) => self.attention_in(out, tokens, layer, heads, buffer),
            LayerMut::F16(layer) => self.attention_in(out, tokens, layer, heads, buffer),
        }
    }

    fn attention_in<E: Element>(
        &self,
        out: &mut [f32],
        tokens: Tokens<'_>,
        layer: &mut Layer<E>,
        heads: Heads,
        buffer: &mut AttentionBuffer,
    ) {
        let Heads { n_heads, n_kv_heads, head_dim } = heads;
        let Tokens { q, k, v, angles, position } = tokens;
        let (q_dim, kv_dim) = (n_heads * head_dim, n_kv_heads * head_dim);
        let n_tokens = q.len() / q_dim;
        let room = (position + n_tokens).next_multiple_of(BLOCK);
        buffer.scores.resize(heads.score_rows() * room, 0.0);
        buffer.sums.resize(heads.score_rows() * head_dim, 0.0);

        let (isa, numerics) = (self.isa, self.numerics);
        let sharing = n_heads / n_kv_heads;
        let floats = [
            ColumnPartition::new(out, q_dim, sharing * head_dim),
            ColumnPartition::new(q, q_dim, sharing * head_dim),
            ColumnPartition::new(k, kv_dim, head_dim),
            ColumnPartition::parts(&mut buffer.scores, n_kv_heads),
            ColumnPartition::parts(&mut buffer.sums, n_kv_heads),
        ];
        let cache =
            [&mut layer.keys, &mut layer.values].map(|numbers| ColumnPartition::parts(numbers, n_kv_heads));
        let bytes = n_tokens * (position + n_tokens) * q_dim * size_of::<f32>();
        self.team.units(
            floats,
            cache,
            bytes,
            move |head, [out, q, k, mut scores, mut sums], [mut keys, mut values]| {
                let head = Head {
                    head_dim,
                    sharing,
                    position,
                    out,
                    q,
                    k,
                    v: &v[head * head_dim..],
                    kv_dim,
                    angles,
                    cache: [keys.row(0), values.row(0)],
                    scores: scores.row(0),
                    sums: sums.row(0),
                };
                attend(isa, numerics, head);
            },
        );
    }
}

/// A head of keys and values, the queries that share it, and all tokens.
struct Head<'a, E> {
    head_dim: usize,
    /// Heads of queries.
    sharing: usize,
    /// Of the first token.
    position: usize,
    out: ColumnSlice<'a>, // (n_tokens, sharing * head_dim)
    q: ColumnSlice<'a>,   // (n_tokens, sharing * head_dim)
    k: ColumnSlice<'a>,   // (n_tokens, head_dim)
    v: &'a [f32],         // (n_tokens, kv_dim), from this head's columns on
    kv_dim: usize,
    angles: &'a [f32],       // (n_tokens, pairs, 2)
    cache: [&'a mut [E]; 2], // (blocks, head_dim, BLOCK) and (positions, head_dim)
    scores: &'a mut [f32],   // (QUERY_TILE, positions)
    sums: &'a mut [f32],     // (QUERY_TILE, head_dim)
}

kernel! {
    /// Turns and stores a head's keys, and lets its queries attend.
    fn attend<E: Element>(s; numerics: Numerics, head: Head<'_, E>) {
        let mut head = head;
        head.rotate_and_store();
        match numerics {
            Numerics::RunqCompatible => head.attend::<S, false>(s, numerics),
            Numerics::Accurate => head.attend::<S, true>(s, numerics),
        }
    }
}

impl<E: Element> Head<'_, E> {
    /// Positions enter here: queries and keys are interleaved, and a dot product then depends on
    /// their distance alone.
    #[inline(always)]
    fn rotate_and_store(&mut self) {
        let Self { head_dim, position, q, k, v, kv_dim, angles, cache: [keys, values], .. } = self;
        let n_tokens = q.n_rows();
        for (token, angles) in angles.chunks_exact(angles.len() / n_tokens).enumerate() {
            rope(q.row(token), angles, *head_dim);
            rope(k.row(token), angles, *head_dim);
            let value = &v[token * *kv_dim..][..*head_dim];
            store([keys, values], *position + token, k.get(token), value);
        }
    }

    /// All queries, some at a time. `FUSED` says that each product of a score is rounded together
    /// with the sum.
    #[inline(always)]
    fn attend<S: Simd, const FUSED: bool>(self, s: S, numerics: Numerics) {
        let Self { head_dim, sharing, position, mut out, q, cache: [keys, values], scores, sums, .. } = self;
        let (keys, values) = (&*keys, &*values);
        let n_queries = q.n_rows() * sharing;
        let (room, block_len) = (scores.len() / QUERY_TILE, BLOCK * head_dim);
        let at_once = if S::REGISTER_TILE > 1 { REGISTER_QUERIES } else { 1 };
        for first in (0..n_queries).step_by(QUERY_TILE) {
            let n = QUERY_TILE.min(n_queries - first);
            let mut queries: [&[f32]; QUERY_TILE] = [&[]; QUERY_TILE];
            let mut seen = [0; QUERY_TILE];
            for i in 0..n {
                let (token, head) = ((first + i) / sharing, (first + i) % sharing);
                queries[i] = &q.get(token)[head * head_dim..][..head_dim];
                seen[i] = position + token + 1;
            }
            let n_blocks = seen[n - 1].div_ceil(BLOCK);
            for block in 0..n_blocks {
                let (keys, behind) = keys[block * block_len..].split_at(block_len);
                let next = if block + 1 < n_blocks { (behind, 0) } else { (values, 0) };
                for i in (0..n).step_by(at_once) {
                    let (queries, scores) = (&queries[i..n], &mut scores[i * room + block * BLOCK..]);
                    let next = Next::part(next, block_len, i / at_once, n.div_ceil(at_once));
                    match queries.len() {
                        n if S::REGISTER_TILE == 1 || n == 1 => {
                            block_scores::<S, E, FUSED, 1>(s, queries, keys, next, scores, room);
                        }
                        2 => block_scores::<S, E, FUSED, 2>(s, queries, keys, next, scores, room),
                        3 => block_scores::<S, E, FUSED, 3>(s, queries, keys, next, scores, room),
                        _ => block_scores::<S, E, FUSED, REGISTER_QUERIES>(
                            s, queries, keys, next, scores, room,
                        ),
                    }
                }
            }
            let mut divisors = [1.0; QUERY_TILE];
            for i in 0..n {
                divisors[i] = softmax(s, numerics, &mut scores[i * room..][..seen[i]]);
            }
            sums.fill(0.0);
            for block in 0..n_blocks {
                let (values, behind) = values[block * block_len..].split_at(block_len);
                // Right behind a head's keys lie those of the next, which is this thread's next
                // task.
                let next = if block + 1 < n_blocks { (behind, 0) } else { (keys, keys.len()) };
                for i in (0..n).step_by(at_once) {
                    let (seen, sums) = (&seen[i..n], &mut sums[i * head_dim..]);
                    let (weights, start) = (&scores[i * room..], block * BLOCK);
                    let next = Next::part(next, block_len, i / at_once, n.div_ceil(at_once));
                    match seen.len() {
                        n if S::REGISTER_TILE == 1 || n == 1 => {
                            block_sums::<S, E, 1>(s, values, next, weights, room, start, seen, sums);
                        }
                        2 => block_sums::<S, E, 2>(s, values, next, weights, room, start, seen, sums),
                        3 => block_sums::<S, E, 3>(s, values, next, weights, room, start, seen, sums),
                        _ => block_sums::<S, E, REGISTER_QUERIES>(
                            s, values, next, weights, room, start, seen, sums,
                        ),
                    }
                }
            }
            for (i, sums) in sums.chunks_exact(head_dim).take(n).enumerate() {
                let (token, head) = ((first + i) / sharing, (first + i) % sharing);
                let out = &mut out.row(token)[head * head_dim..][..head_dim];
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out = sum / divisors[i];
                }
            }
        }
    }
}

/// A query's scores become weights; what the sum of the weighted values is to be divided by.
#[inline(always)]
fn softmax<S: Simd>(s: S, numerics: Numerics, scores: &mut [f32]) -> f32 {
    exponentials(s, numerics, scores);
    match numerics {
        Numerics::Accurate => sum(scores),
        Numerics::RunqCompatible => {
            let mut sum = 0.0;
            for &mut score in &mut *scores {
                sum += score;
            }
            for score in scores {
                *score /= sum;
            }
            1.0
        }
    }
}

/// What is read after a block, to be fetched meanwhile: evenly, for memory that waits for
/// arithmetic is lost time. The first of two sets of queries fetches one half, the second the
/// other.
#[derive(Clone, Copy)]
struct Next<'a, E> {
    numbers: &'a [E],
    start: usize,
    half: bool,
}

impl<'a, E: Element> Next<'a, E> {
    /// The part of the next block that belongs to one of some sets of queries.
    #[inline(always)]
    fn part((numbers, start): (&'a [E], usize), block_len: usize, set: usize, n_sets: usize) -> Self {
        Self { numbers, start: start + if set == 0 { 0 } else { block_len / 2 }, half: n_sets > 1 }
    }

    /// Has the cache fetch what belongs to `width` numbers at `at` of this block.
    #[inline(always)]
    fn fetch<S: Simd>(self, s: S, at: usize, width: usize) {
        if self.half {
            s.prefetch_all(self.numbers, self.start + at / 2, width / 2);
        } else {
            s.prefetch_all(self.numbers, self.start + at, width);
        }
    }
}

/// `scores[i][j] = q_i · keys[.., j] / sqrt(head_dim)` for the first `Q` queries and a block's
/// positions; `keys` is (`head_dim`, [`BLOCK`]), and a row of `scores` begins `room` behind the
/// last. A query that sees fewer positions has scores of those that it doesn't see; they are
/// overwritten or ignored.
#[inline(always)]
fn block_scores<S: Simd, E: Element, const FUSED: bool, const Q: usize>(
    s: S,
    queries: &[&[f32]],
    keys: &[E],
    next: Next<'_, E>,
    scores: &mut [f32],
    room: usize,
) {
    let head_dim = keys.len() / BLOCK;
    let mut qs: [&[f32]; Q] = [&[]; Q];
    for i in 0..Q {
        qs[i] = &queries[i][..head_dim];
    }
    if S::REGISTER_TILE == 4 {
        parts_of_scores::<S, E, FUSED, Q, 4>(s, qs, keys, next, scores, room);
    } else if S::REGISTER_TILE == 2 {
        parts_of_scores::<S, E, FUSED, Q, 2>(s, qs, keys, next, scores, room);
    } else {
        parts_of_scores::<S, E, FUSED, Q, 1>(s, qs, keys, next, scores, room);
    }
}

/// `N` vectors of positions at a time, for each query, kept in registers.
#[inline(always)]
fn parts_of_scores<S: Simd, E: Element, const FUSED: bool, const Q: usize, const N: usize>(
    s: S,
    queries: [&[f32]; Q],
    keys: &[E],
    next: Next<'_, E>,
    scores: &mut [f32],
    room: usize,
) {
    let head_dim = keys.len() / BLOCK;
    let divisor = s.splat((head_dim as f32).sqrt());
    let width = N * S::LANES;
    for part in (0..BLOCK).step_by(width) {
        let mut acc = [[s.splat(0.0); N]; Q];
        for (d, keys) in (0..head_dim).zip(keys.chunks_exact(BLOCK)) {
            let keys = &keys[part..][..width];
            next.fetch(s, d * BLOCK + part, width);
            let mut ks = [s.splat(0.0); N];
            for v in 0..N {
                ks[v] = E::load(s, &keys[v * S::LANES..]);
            }
            for i in 0..Q {
                let q = s.splat(queries[i][d]);
                for v in 0..N {
                    acc[i][v] = if FUSED {
                        s.fused_mul_add(q, ks[v], acc[i][v])
                    } else {
                        s.add(acc[i][v], s.mul(q, ks[v]))
                    };
                }
            }
        }
        for i in 0..Q {
            let scores = &mut scores[i * room + part..][..width];
            for v in 0..N {
                s.store(s.div(acc[i][v], divisor), &mut scores[v * S::LANES..]);
            }
        }
    }
}

/// Adds `weights · V` of the block of positions from `start` on to the `sums` of the first `Q`
/// queries, which see so many positions, the first the fewest. `values` is ([`BLOCK`], `head_dim`),
/// `sums` (`Q`, `head_dim`), and a row of `weights` begins `room` behind the last.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "they are its one caller's variables")]
fn block_sums<S: Simd, E: Element, const Q: usize>(
    s: S,
    values: &[E],
    next: Next<'_, E>,
    weights: &[f32],
    room: usize,
    start: usize,
    seen: &[usize],
    sums: &mut [f32],
) {
    let mut in_block: [&[f32]; Q] = [&[]; Q];
    for i in 0..Q {
        in_block[i] = &weights[i * room..][start.min(seen[i])..seen[i].min(start + BLOCK)];
    }
    let head_dim = values.len() / BLOCK;
    let mut column = 0;
    while column < head_dim {
        let vectors = (head_dim - column) / S::LANES;
        column += if S::REGISTER_TILE >= 4 && vectors >= 4 {
            add_columns::<S, E, Q, 4>(s, values, next, in_block, column, sums)
        } else if S::REGISTER_TILE >= 2 && vectors >= 2 {
            add_columns::<S, E, Q, 2>(s, values, next, in_block, column, sums)
        } else if vectors >= 1 {
            add_columns::<S, E, Q, 1>(s, values, next, in_block, column, sums)
        } else {
            add_tail::<S, E, Q>(s, values, in_block, column, sums);
            S::LANES
        };
    }
}

/// `N` vectors' worth of columns, kept in registers; how many columns that are.
#[inline(always)]
fn add_columns<S: Simd, E: Element, const Q: usize, const N: usize>(
    s: S,
    values: &[E],
    next: Next<'_, E>,
    weights: [&[f32]; Q],
    column: usize,
    sums: &mut [f32],
) -> usize {
    let (head_dim, width) = (values.len() / BLOCK, N * S::LANES);
    let mut acc = [[s.splat(0.0); N]; Q];
    for i in 0..Q {
        let sums = &sums[i * head_dim + column..][..width];
        for v in 0..N {
            acc[i][v] = s.load(&sums[v * S::LANES..]);
        }
    }
    // What all of them see, and what only some do.
    let seen_by_all = weights[0].len();
    let mut common: [&[f32]; Q] = [&[]; Q];
    for i in 0..Q {
        common[i] = &weights[i][..seen_by_all];
    }
    for (j, values) in (0..seen_by_all).zip(values.chunks_exact(head_dim)) {
        let values = &values[column..][..width];
        next.fetch(s, j * head_dim + column, width);
        let mut value = [s.splat(0.0); N];
        for v in 0..N {
            value[v] = E::load(s, &values[v * S::LANES..]);
        }
        for i in 0..Q {
            let weight = s.splat(common[i][j]);
            for v in 0..N {
                acc[i][v] = s.fused_mul_add(weight, value[v], acc[i][v]);
            }
        }
    }
    for i in 0..Q {
        for (values, &weight) in values.chunks_exact(head_dim).zip(weights[i]).skip(seen_by_all) {
            let weight = s.splat(weight);
            for v in 0..N {
                let value = E::load(s, &values[column + v * S::LANES..]);
                acc[i][v] = s.fused_mul_add(weight, value, acc[i][v]);
            }
        }
        let sums = &mut sums[i * head_dim + column..][..width];
        for v in 0..N {
            s.store(acc[i][v], &mut sums[v * S::LANES..]);
        }
    }
    width
}

/// The last columns, which are less than a vector.
#[inline(always)]
fn add_tail<S: Simd, E: Element, const Q: usize>(
    s: S,
    values: &[E],
    weights: [&[f32]; Q],
    column: usize,
    sums: &mut [f32],
) {
    let head_dim = values.len() / BLOCK;
    for i in 0..Q {
        let sums = &mut sums[i * head_dim..][column..head_dim];
        let mut sum = s.load_partial(sums);
        for (values, &weight) in values.chunks_exact(head_dim).zip(weights[i]) {
            sum = s.fused_mul_add(s.splat(weight), E::load_partial(s, &values[column..]), sum);
        }
        s.store_partial(sum, sums);
    }
}
