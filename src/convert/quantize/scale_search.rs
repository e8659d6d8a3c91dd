//! The scale, and the minimum, with which integers come nearest to a group of weights.
//!
//! Which integer each weight becomes depends on the scale, and the best scale on the integers. So
//! some scales near the one that just reaches the farthest weight are tried: each gives integers,
//! for which there is a best scale by least squares. With importances `w`, weights `x` and integers
//! `q`, the squared error of `x = s q + m` is
//!
//! ```text
//! sum(w x x) - gain
//! gain = 2 (s sum(w x q) + m sum(w x)) - (s s sum(w q q) + 2 s m sum(w q) + m m sum(w))
//! ```
//!
//! so that the candidate of the greatest gain is the best, and no error is ever summed up.
//!
//! Source: least squares, as in any textbook; the importances and the range of candidates are those
//! with which llama.cpp's k-quants were made and measured.

use super::groups::{Each, Groups, LEAST, farthest};
use super::round;

/// What the farthest weight becomes before it is rounded: `first + step * 0..count` away from the
/// farthest integer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidates {
    pub(super) first: f32,
    pub(super) step: f32,
    pub(super) count: u8,
}

/// Those of formats with minima, if the importance of columns is known.
pub(super) const FINE: Candidates = Candidates { first: -0.9, step: 0.05, count: 37 };

impl Candidates {
    #[inline(always)]
    fn each(self) -> impl Iterator<Item = f32> {
        (0..self.count).map(move |i| self.first + self.step * f32::from(i))
    }
}

/// Each group's scale `s` for weights `s * q`, with `q` in `-n..n`. The farthest weight may become
/// `-n`, so a scale has any sign.
#[inline(always)]
pub(super) fn scales<const N: usize, const G: usize>(
    x: &Groups<N, G>,
    importances: &Groups<N, G>,
    n: f32,
    candidates: Candidates,
) -> Each<G> {
    let farthest = farthest(x);
    let (mut scales, mut gains) = ([0.0; G], [0.0; G]);
    for candidate in candidates.each() {
        let inverse = farthest.map(|far| if far.abs() < LEAST { 0.0 } else { -(n + candidate) / far });
        let (mut sum_xq, mut sum_qq) = ([0.0; G], [0.0; G]);
        for (x, w) in x.iter().zip(importances) {
            for g in 0..G {
                let q = round(x[g] * inverse[g]).clamp(-n, n - 1.0);
                let wq = w[g] * q;
                sum_xq[g] += wq * x[g];
                sum_qq[g] += wq * q;
            }
        }
        for g in 0..G {
            // Where all are zero this is NaN, and so no gain.
            let scale = sum_xq[g] / sum_qq[g];
            let gain = scale * sum_xq[g];
            let better = gain > gains[g];
            scales[g] = if better { scale } else { scales[g] };
            gains[g] = if better { gain } else { gains[g] };
        }
    }
    scales
}

/// Each group's scale `s` and minimum `m`, neither of them negative, for weights `s * q - m`, with
/// `q` in `0..=n`.
///
/// The first to be tried is what reaches from the least to the greatest weight. Candidates then
/// count their integers from the best minimum so far.
#[inline(always)]
pub(super) fn scales_and_mins<const N: usize, const G: usize>(
    x: &Groups<N, G>,
    importances: &Groups<N, G>,
    n: f32,
    candidates: Candidates,
) -> [Each<G>; 2] {
    let (least, greatest) = range(x);
    let fixed = fixed_sums(x, importances);
    // A minimum is stored without its sign, so what is added can't be positive.
    let mut offsets = least.map(|least| if least < 0.0 { least } else { 0.0 });
    let (mut scales, mut gains) = ([0.0; G], [0.0; G]);
    for g in 0..G {
        scales[g] = (greatest[g] - offsets[g]) / n;
    }
    let sums = sums(x, importances, n, &offsets, &inverse(n, &greatest, &offsets));
    for g in 0..G {
        gains[g] = gain(scales[g], offsets[g], of(&fixed, g), of(&sums, g));
    }
    for candidate in candidates.each() {
        let sums = self::sums(x, importances, n, &offsets, &inverse(n + candidate, &greatest, &offsets));
        for g in 0..G {
            let (scale, offset) = least_squares(of(&fixed, g), of(&sums, g));
            let gain = gain(scale, offset, of(&fixed, g), of(&sums, g));
            // Where all integers are the same, these are NaN, and so no gain.
            let better = gain > gains[g];
            scales[g] = if better { scale } else { scales[g] };
            offsets[g] = if better { offset } else { offsets[g] };
            gains[g] = if better { gain } else { gains[g] };
        }
    }
    [scales, offsets.map(|offset| -offset)]
}

/// The least and the greatest weight of each group.
#[inline(always)]
fn range<const N: usize, const G: usize>(x: &Groups<N, G>) -> (Each<G>, Each<G>) {
    let (mut least, mut greatest) = (x[0], x[0]);
    for x in x {
        for g in 0..G {
            least[g] = if x[g] < least[g] { x[g] } else { least[g] };
            greatest[g] = if x[g] > greatest[g] { x[g] } else { greatest[g] };
        }
    }
    (least, greatest)
}

/// What weights are multiplied with so that those at `offset` become 0, and the greatest `top`.
/// Where there is nothing between them, all become 0.
#[inline(always)]
fn inverse<const G: usize>(top: f32, greatest: &Each<G>, offsets: &Each<G>) -> Each<G> {
    let mut inverse = [0.0; G];
    for g in 0..G {
        let range = greatest[g] - offsets[g];
        inverse[g] = if range < LEAST { 0.0 } else { top / range };
    }
    inverse
}

/// One group's sums of those over each group.
#[inline(always)]
fn of<const K: usize, const G: usize>(sums: &[Each<G>; K], g: usize) -> [f32; K] {
    sums.map(|each| each[g])
}

/// `w` and `w x`
#[inline(always)]
fn fixed_sums<const N: usize, const G: usize>(x: &Groups<N, G>, importances: &Groups<N, G>) -> [Each<G>; 2] {
    let (mut sum_w, mut sum_x) = ([0.0; G], [0.0; G]);
    for (x, w) in x.iter().zip(importances) {
        for g in 0..G {
            sum_w[g] += w[g];
            sum_x[g] += w[g] * x[g];
        }
    }
    [sum_w, sum_x]
}

/// `w q`, `w q q` and `w x q`, where `q` is the integer nearest to `(x - offset) * inverse` in
/// `0..=n`.
#[inline(always)]
fn sums<const N: usize, const G: usize>(
    x: &Groups<N, G>,
    importances: &Groups<N, G>,
    n: f32,
    offsets: &Each<G>,
    inverse: &Each<G>,
) -> [Each<G>; 3] {
    let (mut sum_q, mut sum_qq, mut sum_xq) = ([0.0; G], [0.0; G], [0.0; G]);
    for (x, w) in x.iter().zip(importances) {
        for g in 0..G {
            let q = round((x[g] - offsets[g]) * inverse[g]).clamp(0.0, n);
            let wq = w[g] * q;
            sum_q[g] += wq;
            sum_qq[g] += wq * q;
            sum_xq[g] += wq * x[g];
        }
    }
    [sum_q, sum_qq, sum_xq]
}

/// The scale, and the offset that isn't positive, of the least squared error.
#[inline(always)]
fn least_squares([w, x]: [f32; 2], [q, qq, xq]: [f32; 3]) -> (f32, f32) {
    let determinant = w * qq - q * q;
    let offset = (qq * x - q * xq) / determinant;
    if offset > 0.0 { (xq / qq, 0.0) } else { ((w * xq - x * q) / determinant, offset) }
}

/// By how much the squared error is less than that of zeros.
#[inline(always)]
fn gain(scale: f32, offset: f32, [w, x]: [f32; 2], [q, qq, xq]: [f32; 3]) -> f32 {
    2.0 * (scale * xq + offset * x) - (scale * scale * qq + 2.0 * scale * offset * q + offset * offset * w)
}
