//! Attention: `softmax(q K^T / sqrt(head_dim)) V`, a few heads a task.
//!
//! Scores and weighted values are added up in the plain order of their terms: vectors hold different positions (for
//! scores) or different dimensions (for the weighted sum), never parts of one sum. Each product is rounded together with
//! the sum, but for the scores in runq's arithmetic, which gcc compiles so for a processor with FMA. The sum of a row's
//! exponentials has sixteen parts, whatever a vector's length. So the result is the same bits on every instruction set,
//! and for prefill and decode.
//!
//! In a long context it is loads that cost, not arithmetic: so eight queries meet a block while it is in the nearest
//! cache, four at a time from registers.

use crate::kv_cache::{BLOCK, Element, KeysValues, View};
use crate::matmul::Compute;
use crate::ops::{Arithmetic, exponentials, sum};
use crate::parallel::{Band, Columns};
use crate::simd::{Simd, kernel};

/// The shape of an attention: `n_heads / n_kv_heads` query heads share a head of keys and values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    pub(crate) n_heads: usize,
    pub(crate) n_kv_heads: usize,
    pub(crate) head_dim: usize,
}

/// Queries that meet a block of keys or values together, so that it comes from memory once for all of them: heads that
/// share it, and neighbouring tokens.
const QUERIES: usize = 8;

/// Those of them that meet a vector of it together, so that it is loaded once: their sums fill the registers.
const AT_ONCE: usize = 4;

impl Heads {
    /// Heads that are computed by one thread: as many as share keys and make up whole sets of queries.
    fn per_task(self) -> usize {
        let sharing = self.n_heads / self.n_kv_heads;
        (1..=QUERIES).rev().find(|heads| sharing.is_multiple_of(*heads)).unwrap_or(1)
    }

    /// Rows of scores that are needed at once.
    pub(crate) fn score_rows(self) -> usize {
        self.n_heads / self.per_task() * QUERIES
    }
}

impl Compute<'_> {
    /// Lets the tokens at `position..` attend to every position up to their own.
    ///
    /// `out` and `q` are (`n_tokens`, `n_heads` * `head_dim`). `scores` and `sums` are room for each task's queries.
    #[allow(clippy::too_many_arguments, reason = "two of them are buffers")]
    pub(crate) fn attention(
        &self,
        out: &mut [f32],
        q: &[f32],
        kv: KeysValues<'_>,
        heads: Heads,
        position: usize,
        scores: &mut Vec<f32>,
        sums: &mut Vec<f32>,
    ) {
        let Heads { n_heads, n_kv_heads, head_dim } = heads;
        let q_dim = n_heads * head_dim;
        let n_tokens = q.len() / q_dim;
        let per_task = heads.per_task();
        let room = (position + n_tokens).next_multiple_of(BLOCK);
        scores.resize(heads.score_rows() * room, 0.0);
        sums.resize(heads.score_rows() * head_dim, 0.0);

        let tasks = Columns::new(out, q_dim, per_task * head_dim);
        let (scores_width, sums_width) = (scores.len(), sums.len());
        let scores = Columns::new(scores, scores_width, QUERIES * room);
        let sums = Columns::new(sums, sums_width, QUERIES * head_dim);
        let bytes = n_tokens * (position + n_tokens) * q_dim * size_of::<f32>();
        self.team.bands(&mut [[tasks, scores, sums]], bytes, |_, tasks, [mut out, mut scores, mut sums]| {
            for (i, task) in tasks.enumerate() {
                let head = task * per_task;
                let heads = Task {
                    q: &q[head * head_dim..],
                    q_dim,
                    head_dim,
                    column: i * per_task * head_dim,
                    per_task,
                    kv_start: head / (n_heads / n_kv_heads) * head_dim,
                    position,
                };
                let scores = &mut scores.row(0)[i * QUERIES * room..][..QUERIES * room];
                let sums = &mut sums.row(0)[i * QUERIES * head_dim..][..QUERIES * head_dim];
                attend(self.isa, self.arithmetic, heads, kv, scores, sums, &mut out);
            }
        });
    }
}

/// Some heads that share keys and values, and all tokens.
#[derive(Clone, Copy)]
struct Task<'a> {
    /// From the first head's queries on: (`n_tokens`, `q_dim`).
    q: &'a [f32],
    q_dim: usize,
    head_dim: usize,
    /// The first head's column in the output.
    column: usize,
    per_task: usize,
    /// The first column of the keys and values.
    kv_start: usize,
    /// Of the first token.
    position: usize,
}

impl<'a> Task<'a> {
    /// The `i`th query, token after token: (`head_dim`), and how many positions it sees.
    #[inline(always)]
    fn query(&self, i: usize) -> (&'a [f32], usize) {
        let (token, head) = (i / self.per_task, i % self.per_task);
        (&self.q[token * self.q_dim + head * self.head_dim..][..self.head_dim], self.position + token + 1)
    }
}

kernel! {
    /// All queries of a task, some at a time.
    fn attend(
        s; arithmetic: Arithmetic, task: Task<'_>, kv: KeysValues<'_>, scores: &mut [f32], sums: &mut [f32],
        out: &mut Band<'_>,
    ) {
        match (kv, arithmetic) {
            (KeysValues::F32(kv), Arithmetic::Llama2c) => attend_all::<S, _, false>(s, arithmetic, task, kv, scores, sums, out),
            (KeysValues::F32(kv), Arithmetic::Exact) => attend_all::<S, _, true>(s, arithmetic, task, kv, scores, sums, out),
            (KeysValues::F16(kv), _) => attend_all::<S, _, true>(s, arithmetic, task, kv, scores, sums, out),
        }
    }
}

/// `FUSED` says that each product of a score is rounded together with the sum. `scores` is (`QUERIES`, positions),
/// `sums` (`QUERIES`, `head_dim`).
#[inline(always)]
fn attend_all<S: Simd, E: Element, const FUSED: bool>(
    s: S,
    arithmetic: Arithmetic,
    task: Task<'_>,
    kv: View<'_, E>,
    scores: &mut [f32],
    sums: &mut [f32],
    out: &mut Band<'_>,
) {
    let (n_queries, head_dim) = (out.n_rows() * task.per_task, task.head_dim);
    let room = scores.len() / QUERIES;
    let at_once = if S::TILE_WIDTH > 1 { AT_ONCE } else { 1 };
    for first in (0..n_queries).step_by(QUERIES) {
        let n = QUERIES.min(n_queries - first);
        let mut queries: [&[f32]; QUERIES] = [&[]; QUERIES];
        let mut seen = [0; QUERIES];
        for i in 0..n {
            (queries[i], seen[i]) = task.query(first + i);
        }
        let n_blocks = seen[n - 1].div_ceil(BLOCK);
        for block in 0..n_blocks {
            let keys = kv.key_block(block, task.kv_start, head_dim);
            for i in (0..n).step_by(at_once) {
                let (queries, scores) = (&queries[i..n], &mut scores[i * room + block * BLOCK..]);
                let next = if i == 0 { kv.next_block() } else { 0 };
                match queries.len() {
                    n if S::TILE_WIDTH == 1 || n == 1 => {
                        block_scores::<S, E, FUSED, 1>(s, queries, keys, next, scores, room);
                    }
                    2 => block_scores::<S, E, FUSED, 2>(s, queries, keys, next, scores, room),
                    3 => block_scores::<S, E, FUSED, 3>(s, queries, keys, next, scores, room),
                    _ => block_scores::<S, E, FUSED, AT_ONCE>(s, queries, keys, next, scores, room),
                }
            }
        }
        let mut divisors = [1.0; QUERIES];
        for i in 0..n {
            divisors[i] = softmax(s, arithmetic, &mut scores[i * room..][..seen[i]]);
        }
        sums.fill(0.0);
        for block in 0..n_blocks {
            let values = kv.value_block(block, task.kv_start, head_dim);
            for i in (0..n).step_by(at_once) {
                let (seen, sums) = (&seen[i..n], &mut sums[i * head_dim..]);
                let (weights, start) = (&scores[i * room..], block * BLOCK);
                let next = if i == 0 { kv.next_block() } else { 0 };
                match seen.len() {
                    n if S::TILE_WIDTH == 1 || n == 1 => {
                        block_sums::<S, E, 1>(s, values, next, weights, room, start, seen, sums);
                    }
                    2 => block_sums::<S, E, 2>(s, values, next, weights, room, start, seen, sums),
                    3 => block_sums::<S, E, 3>(s, values, next, weights, room, start, seen, sums),
                    _ => block_sums::<S, E, AT_ONCE>(s, values, next, weights, room, start, seen, sums),
                }
            }
        }
        for (i, sums) in sums.chunks_exact(head_dim).take(n).enumerate() {
            let (token, head) = ((first + i) / task.per_task, (first + i) % task.per_task);
            let out = &mut out.row(token)[task.column + head * head_dim..][..head_dim];
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = sum / divisors[i];
            }
        }
    }
}

/// A query's scores become weights; what the sum of the weighted values is to be divided by.
#[inline(always)]
fn softmax<S: Simd>(s: S, arithmetic: Arithmetic, scores: &mut [f32]) -> f32 {
    exponentials(s, arithmetic, scores);
    match arithmetic {
        Arithmetic::Exact => sum(scores),
        Arithmetic::Llama2c => {
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

/// Has the cache fetch `width` numbers that lie `next` behind these, or nothing.
#[inline(always)]
fn fetch<S: Simd, E: Element>(s: S, near: &[E], next: usize, width: usize) {
    if next > 0 {
        s.prefetch_all(near, next, width);
    }
}

/// `scores[i][j] = q_i · keys[.., j] / sqrt(head_dim)` for the first `Q` queries and a block's positions; `keys` is
/// (`head_dim`, [`BLOCK`]), and a row of `scores` begins `room` behind the last. A query that sees fewer positions has scores
/// of those that it doesn't see; they are overwritten or ignored.
#[inline(always)]
fn block_scores<S: Simd, E: Element, const FUSED: bool, const Q: usize>(
    s: S,
    queries: &[&[f32]],
    keys: &[E],
    next: usize,
    scores: &mut [f32],
    room: usize,
) {
    let head_dim = keys.len() / BLOCK;
    let mut qs: [&[f32]; Q] = [&[]; Q];
    for i in 0..Q {
        qs[i] = &queries[i][..head_dim];
    }
    if S::TILE_WIDTH == 4 {
        parts_of_scores::<S, E, FUSED, Q, 4>(s, qs, keys, next, scores, room);
    } else if S::TILE_WIDTH == 2 {
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
    next: usize,
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
            fetch(s, keys, next, width);
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

/// Adds `weights · V` of the block of positions from `start` on to the `sums` of the first `Q` queries, which see so many
/// positions, the first the fewest. `values` is ([`BLOCK`], `head_dim`), `sums` (`Q`, `head_dim`), and a row of `weights` begins
/// `room` behind the last.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "they are its one caller's variables")]
fn block_sums<S: Simd, E: Element, const Q: usize>(
    s: S,
    values: &[E],
    next: usize,
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
        column += if S::TILE_WIDTH >= 4 && vectors >= 4 {
            add_columns::<S, E, Q, 4>(s, values, next, in_block, column, sums)
        } else if S::TILE_WIDTH >= 2 && vectors >= 2 {
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
    next: usize,
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
        fetch(s, values, next, width);
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
