//! Attention: `softmax(q K^T / sqrt(head_dim)) V`, a few heads a task.
//!
//! Every sum here is added up in the plain order of its terms: vectors hold different positions (for scores) or
//! different dimensions (for the weighted sum), never parts of one sum. Each product is rounded together with the sum, but for the
//! scores in runq's arithmetic, which gcc compiles so for a processor with FMA. So the result is the same bits on every
//! instruction set, and for prefill and decode.

use crate::kv_cache::{BLOCK, Element, KeysValues, View};
use crate::matmul::Compute;
use crate::ops::{Arithmetic, exponentials};
use crate::parallel::{Band, Columns};
use crate::simd::{Simd, kernel};

/// The shape of an attention: `n_heads / n_kv_heads` query heads share a head of keys and values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    pub(crate) n_heads: usize,
    pub(crate) n_kv_heads: usize,
    pub(crate) head_dim: usize,
}

/// Queries that meet the same keys and values together, so that these are loaded once for all of them: heads that share
/// them, and neighbouring tokens.
const QUERIES: usize = 4;

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
    /// `out` and `q` are (`n_tokens`, `n_heads` * `head_dim`). `scores` is room for the scores of each task's queries.
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
        let per_task = heads.per_task();
        let room = (position + n_tokens).next_multiple_of(BLOCK);
        scores.resize(heads.score_rows() * room, 0.0);

        let tasks = Columns::new(out, q_dim, per_task * head_dim);
        let scores_width = scores.len();
        let mut outs = [[tasks, Columns::new(scores, scores_width, QUERIES * room)]];
        let bytes = n_tokens * (position + n_tokens) * q_dim * size_of::<f32>();
        self.team.bands(&mut outs, bytes, |_, tasks, [mut out, mut scores]| {
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
                attend(
                    self.isa,
                    self.arithmetic,
                    heads,
                    kv,
                    &mut scores.row(0)[i * QUERIES * room..][..QUERIES * room],
                    &mut out,
                );
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
    /// All queries of a task, some at a time. `scores` is room for (`QUERIES`, positions).
    fn attend(
        s; arithmetic: Arithmetic, task: Task<'_>, kv: KeysValues<'_>, scores: &mut [f32], out: &mut Band<'_>,
    ) {
        match (kv, arithmetic) {
            (KeysValues::F32(kv), Arithmetic::Llama2c) => attend_all::<S, _, false>(s, task, kv, scores, out),
            (KeysValues::F32(kv), Arithmetic::Exact) => attend_all::<S, _, true>(s, task, kv, scores, out),
            (KeysValues::F16(kv), _) => attend_all::<S, _, true>(s, task, kv, scores, out),
        }
    }
}

#[inline(always)]
fn attend_all<S: Simd, E: Element, const FUSED: bool>(
    s: S,
    task: Task<'_>,
    kv: View<'_, E>,
    scores: &mut [f32],
    out: &mut Band<'_>,
) {
    let n_queries = out.n_rows() * task.per_task;
    let mut i = 0;
    while i < n_queries {
        i += match n_queries - i {
            1 => attend_some::<S, E, FUSED, 1>(s, task, kv, i, scores, out),
            2 => attend_some::<S, E, FUSED, 2>(s, task, kv, i, scores, out),
            3 => attend_some::<S, E, FUSED, 3>(s, task, kv, i, scores, out),
            _ => attend_some::<S, E, FUSED, QUERIES>(s, task, kv, i, scores, out),
        };
    }
}

/// `Q` queries from the `first` on; how many that are. A query that sees fewer positions than the last has scores of
/// positions that it doesn't see; they are overwritten or ignored.
#[inline(always)]
fn attend_some<S: Simd, E: Element, const FUSED: bool, const Q: usize>(
    s: S,
    task: Task<'_>,
    kv: View<'_, E>,
    first: usize,
    scores: &mut [f32],
    out: &mut Band<'_>,
) -> usize {
    let mut queries: [&[f32]; Q] = [&[]; Q];
    let mut lens = [0; Q];
    for i in 0..Q {
        (queries[i], lens[i]) = task.query(first + i);
    }
    let room = scores.len() / QUERIES;
    for block in 0..lens[Q - 1].div_ceil(BLOCK) {
        let keys = kv.key_block(block, task.kv_start, task.head_dim);
        block_scores::<S, E, FUSED, Q>(s, scores, room, block * BLOCK, queries, keys);
    }
    softmax(s, scores, room, &lens);
    let mut column = 0;
    while column < task.head_dim {
        let vectors = (task.head_dim - column) / S::LANES;
        let width = match vectors {
            0 => {
                weighted_tail::<S, E, Q>(s, task, kv, column, first, scores, &lens, out);
                S::LANES
            }
            1 => weighted_sum::<S, E, Q, 1>(s, task, kv, column, first, scores, &lens, out),
            2 => weighted_sum::<S, E, Q, 2>(s, task, kv, column, first, scores, &lens, out),
            3 => weighted_sum::<S, E, Q, 3>(s, task, kv, column, first, scores, &lens, out),
            _ => weighted_sum::<S, E, Q, 4>(s, task, kv, column, first, scores, &lens, out),
        };
        column += width;
    }
    Q
}

/// Each query's scores become weights whose sum is 1. `scores` is (`QUERIES`, `room`).
///
/// The queries' sums take turns: one alone waits for each of its additions, which took an eighth of attention's time.
#[inline(always)]
fn softmax<S: Simd, const Q: usize>(s: S, scores: &mut [f32], room: usize, lens: &[usize; Q]) {
    for i in 0..Q {
        exponentials(s, &mut scores[i * room..][..lens[i]]);
    }
    let mut sums = [0.0; Q];
    let mut seen_by_all: [&[f32]; Q] = [&[]; Q];
    for i in 0..Q {
        seen_by_all[i] = &scores[i * room..][..lens[0]];
    }
    for j in 0..lens[0] {
        for i in 0..Q {
            sums[i] += seen_by_all[i][j];
        }
    }
    for i in 0..Q {
        let scores = &mut scores[i * room..][..lens[i]];
        for &score in &scores[lens[0]..] {
            sums[i] += score;
        }
        for score in scores {
            *score /= sums[i];
        }
    }
}

/// `scores[i][start + j] = q_i · keys[.., j] / sqrt(head_dim)` for the positions of a block; `keys` is (`head_dim`,
/// [`BLOCK`]), `scores` (`QUERIES`, `room`).
#[inline(always)]
fn block_scores<S: Simd, E: Element, const FUSED: bool, const Q: usize>(
    s: S,
    scores: &mut [f32],
    room: usize,
    start: usize,
    queries: [&[f32]; Q],
    keys: &[E],
) {
    let head_dim = keys.len() / BLOCK;
    let divisor = s.splat((head_dim as f32).sqrt());
    // Four vectors of positions at a time, for each query.
    let width = 4 * S::LANES;
    for part in (0..BLOCK).step_by(width) {
        let mut acc = [[s.splat(0.0); 4]; Q];
        for (d, keys) in keys.chunks_exact(BLOCK).enumerate() {
            let mut ks = [s.splat(0.0); 4];
            for v in 0..4 {
                ks[v] = E::load(s, &keys[part + v * S::LANES..]);
            }
            for i in 0..Q {
                let q = s.splat(queries[i][d]);
                for v in 0..4 {
                    acc[i][v] = if FUSED {
                        s.fused_mul_add(q, ks[v], acc[i][v])
                    } else {
                        s.add(acc[i][v], s.mul(q, ks[v]))
                    };
                }
            }
        }
        for i in 0..Q {
            let scores = &mut scores[i * room + start + part..][..width];
            for v in 0..4 {
                s.store(s.div(acc[i][v], divisor), &mut scores[v * S::LANES..]);
            }
        }
    }
}

/// `N` vectors' worth of columns of `weights · V` for each query, kept in registers; how many columns that are.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "the loop's state, inlined into the one caller")]
fn weighted_sum<S: Simd, E: Element, const Q: usize, const N: usize>(
    s: S,
    task: Task<'_>,
    kv: View<'_, E>,
    column: usize,
    first: usize,
    weights: &[f32],
    lens: &[usize; Q],
    out: &mut Band<'_>,
) -> usize {
    let (room, head_dim) = (weights.len() / QUERIES, task.head_dim);
    let mut sums = [[s.splat(0.0); N]; Q];
    // What all of them see, and what only some do.
    for start in (0..lens[0]).step_by(BLOCK) {
        let values = kv.value_block(start / BLOCK, task.kv_start, head_dim);
        for j in 0..BLOCK.min(lens[0] - start) {
            let mut value = [s.splat(0.0); N];
            for v in 0..N {
                value[v] = E::load(s, &values[j * head_dim + column + v * S::LANES..]);
            }
            for i in 0..Q {
                let weight = s.splat(weights[i * room + start + j]);
                for v in 0..N {
                    sums[i][v] = s.fused_mul_add(weight, value[v], sums[i][v]);
                }
            }
        }
    }
    for i in 0..Q {
        for position in lens[0]..lens[i] {
            let values = kv.value_block(position / BLOCK, task.kv_start, head_dim);
            let value = &values[position % BLOCK * head_dim + column..];
            let weight = s.splat(weights[i * room + position]);
            for v in 0..N {
                sums[i][v] = s.fused_mul_add(weight, E::load(s, &value[v * S::LANES..]), sums[i][v]);
            }
        }
        let (token, head) = ((first + i) / task.per_task, (first + i) % task.per_task);
        let out = &mut out.row(token)[task.column + head * head_dim + column..][..N * S::LANES];
        for v in 0..N {
            s.store(sums[i][v], &mut out[v * S::LANES..]);
        }
    }
    N * S::LANES
}

/// The last columns, which are less than a vector.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "the loop's state, inlined into the one caller")]
fn weighted_tail<S: Simd, E: Element, const Q: usize>(
    s: S,
    task: Task<'_>,
    kv: View<'_, E>,
    column: usize,
    first: usize,
    weights: &[f32],
    lens: &[usize; Q],
    out: &mut Band<'_>,
) {
    let (room, head_dim) = (weights.len() / QUERIES, task.head_dim);
    for i in 0..Q {
        let mut sum = s.splat(0.0);
        for (position, &weight) in weights[i * room..][..lens[i]].iter().enumerate() {
            let values = kv.value_block(position / BLOCK, task.kv_start, head_dim);
            let value = &values[position % BLOCK * head_dim..][column..head_dim];
            sum = s.fused_mul_add(s.splat(weight), E::load_partial(s, value), sum);
        }
        let (token, head) = ((first + i) / task.per_task, (first + i) % task.per_task);
        let end = task.column + (head + 1) * head_dim;
        s.store_partial(sum, &mut out.row(token)[end - (head_dim - column)..end]);
    }
}
