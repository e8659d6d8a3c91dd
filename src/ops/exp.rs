//! The exponential function: in f32, and correctly rounded.

/// `e^x` to within one unit in the last place, in a fifth of [`exp`]'s time. Below -87 it is
/// `e^-87`, above 88.4 infinite.
///
/// The method is [`exp`]'s, with ln 2 in two parts and a polynomial of degree 7. Its coefficient of
/// `r^6` makes up for most of the term `r^8 / 8!` that it lacks: what is left is below 1e-9.
#[inline(always)]
pub(super) fn exp_in_f32(x: f32) -> f32 {
    const ROUNDER: f32 = 12_582_912.0; // 1.5 * 2^23
    const LN_2_HIGH: f32 = 0.693_145_75; // 16 bits, so that its products with n are exact
    const LN_2_LOW: f32 = 1.428_606_8e-6;
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUNDER);
    let n = shifted - ROUNDER;
    let r = n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, x));
    let mut e = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0 + 2.2e-6, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5] {
        e = r.mul_add(e, coefficient);
    }
    let e = (r * r).mul_add(e, r) + 1.0;
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    e * power
}

/// `e^x`, correctly rounded except in one case in a million; 0 below -104, infinite above 88.8.
///
/// `x = n ln 2 + r` with an integer `n` and `|r| <= ln 2 / 2`, so `e^x = 2^n e^r`, and `e^r` is its
/// Taylor polynomial of degree 10 in f64, whose remainder is below `r^11 / 11! = 2.2e-13`. There
/// are no branches and no calls, so that a loop over it becomes vector code.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    /// Adding it to a small f64 rounds that to an integer, which then stands in the sum's low bits.
    const ROUNDER: f64 = 6_755_399_441_055_744.0; // 1.5 * 2^52
    // Written with `>` and `<` so that a NaN stays one.
    let x = f64::from(x);
    let x = if x < -110.0 { -110.0 } else { x };
    let x = if x > 100.0 { 100.0 } else { x };
    let shifted = x * std::f64::consts::LOG2_E + ROUNDER;
    let n = shifted - ROUNDER;
    // n is below 160, so the product's rounding error is below 1e-14
    let r = x - n * std::f64::consts::LN_2;
    let mut e = 1.0 / 3_628_800.0;
    for coefficient in [
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        e = e * r + coefficient;
    }
    // 2^n, from its exponent bits.
    let power = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    (e * power) as f32
}
