//! A block of weights as `G` groups of `N`, side by side: the groups are the lanes of vectors,
//! so that nothing is ever summed across lanes, and what is decided for each group is decided for
//! all of them at once.
//!
//! [`Groups`] are (`N`, `G`): `groups[i][g]` is weight `i` of group `g`.

use super::{inverse, round, to_u8};

/// Half of the least number that a 16-bit scale can be: where no weight reaches it, zeros are
/// nearest.
pub(super) const LEAST: f32 = 1.0 / (1 << 25) as f32;

/// One number for each weight.
pub(super) type Groups<const N: usize, const G: usize> = [[f32; G]; N];

/// One number for each group.
pub(super) type Each<const G: usize> = [f32; G];

/// A block's weights by their groups.
#[inline(always)]
pub(super) fn groups<const N: usize, const G: usize>(weights: &[f32]) -> Groups<N, G> {
    let mut groups = [[0.0; G]; N];
    for (g, group) in weights.chunks_exact(N).enumerate() {
        for (i, &weight) in group.iter().enumerate() {
            groups[i][g] = weight;
        }
    }
    groups
}

/// How much each weight counts, if the importance of its column is known: by that, and by how far
/// it is from zero, besides `spread` times the block's mean square.
#[inline(always)]
pub(super) fn by_columns<const N: usize, const G: usize>(
    x: &Groups<N, G>,
    columns: &[f32],
    spread: f32,
) -> Groups<N, G> {
    let (mut squares, mut importances) = (0.0, groups::<N, G>(columns));
    for x in x {
        for g in 0..G {
            squares += x[g] * x[g];
        }
    }
    let base = spread * squares / (N * G) as f32;
    for i in 0..N {
        for g in 0..G {
            importances[i][g] *= (base + x[i][g] * x[i][g]).sqrt();
        }
    }
    importances
}

/// One number for each group: the sum of all.
#[inline(always)]
pub(super) fn sums<const N: usize, const G: usize>(x: &Groups<N, G>) -> Each<G> {
    let mut sums = [0.0; G];
    for x in x {
        for g in 0..G {
            sums[g] += x[g];
        }
    }
    sums
}

/// `(weight + min) / scale`, rounded to the steps `0..=max`: bytes in the order of the weights.
///
/// A group whose scale is 0 has all weights at the first step.
#[inline(always)]
pub(super) fn steps<const N: usize, const G: usize>(
    x: &Groups<N, G>,
    scales: &Each<G>,
    mins: &Each<G>,
    max: f32,
) -> [u8; 256] {
    let inverse = scales.map(inverse);
    let mut q = [[0; G]; N];
    for i in 0..N {
        for g in 0..G {
            q[i][g] = to_u8(round((x[i][g] + mins[g]) * inverse[g]).clamp(0.0, max));
        }
    }
    let mut steps = [0; 256];
    for (g, group) in steps.chunks_exact_mut(N).enumerate() {
        for (i, step) in group.iter_mut().enumerate() {
            *step = q[i][g];
        }
    }
    steps
}

/// Each group's number that is farthest from zero, with its sign; of two the first.
#[inline(always)]
pub(super) fn farthest<const N: usize, const G: usize>(x: &Groups<N, G>) -> Each<G> {
    let mut farthest = x[0];
    for x in x {
        for g in 0..G {
            farthest[g] = if x[g].abs() > farthest[g].abs() { x[g] } else { farthest[g] };
        }
    }
    farthest
}

/// Of one number for each group, the one that is farthest from zero; of two the first.
#[inline(always)]
pub(super) fn farthest_of_all<const G: usize>(each: &Each<G>) -> f32 {
    each.iter().fold(0.0, |farthest: f32, &x| if x.abs() > farthest.abs() { x } else { farthest })
}

/// Numbers that aren't negative as multiples, `0..=max`, of one that is written as f16: what they
/// become, and the multiples.
#[inline(always)]
pub(super) fn round_to_steps<const G: usize>(each: &Each<G>, max: f32, d: &mut [u8]) -> (Each<G>, [u8; G]) {
    let greatest = each.iter().fold(0.0, |greatest, &x| if x > greatest { x } else { greatest });
    let inverse = inverse(greatest / max);
    let d = put_f16(greatest / max, d);
    let steps = each.map(|x| round(x * inverse).clamp(0.0, max));
    (steps.map(|step| d * step), steps.map(to_u8))
}

/// As [`round_to_steps`], but the number that they are multiples of is the one by which those come
/// nearest that count most.
#[inline(always)]
pub(super) fn fit_to_steps<const G: usize>(
    each: &Each<G>,
    importances: &Each<G>,
    max: f32,
    d: &mut [u8],
) -> (Each<G>, [u8; G]) {
    let greatest = each.iter().fold(0.0, |greatest, &x| if x > greatest { x } else { greatest });
    let (mut best, mut best_gain) = (greatest / max, 0.0);
    for candidate in -8..=8 {
        let inverse = inverse(greatest / (max + 0.125 * candidate as f32));
        let (mut sum_xq, mut sum_qq) = (0.0, 0.0);
        for g in 0..G {
            let q = round(each[g] * inverse).clamp(0.0, max);
            sum_xq += importances[g] * each[g] * q;
            sum_qq += importances[g] * q * q;
        }
        // Where all are zero this is NaN, and so no gain.
        let gain = sum_xq * sum_xq / sum_qq;
        best = if gain > best_gain { sum_xq / sum_qq } else { best };
        best_gain = if gain > best_gain { gain } else { best_gain };
    }
    let d = put_f16(best, d);
    let inverse = inverse(d);
    let steps = each.map(|x| round(x * inverse).clamp(0.0, max));
    (steps.map(|step| d * step), steps.map(to_u8))
}

/// Writes a number as f16; the number that it becomes.
#[inline(always)]
pub(super) fn put_f16(x: f32, out: &mut [u8]) -> f32 {
    let x = half::f16::from_f32(x);
    out.copy_from_slice(&x.to_le_bytes());
    x.to_f32_const()
}
