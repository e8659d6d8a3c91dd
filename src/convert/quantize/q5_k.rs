//! Q5_K: as Q4_K, with 32 steps.

use super::q3_k::put_high_bits;
use super::q4_k::{fitted_steps, put_nibbles};
use super::scale_search::Candidates;

const CANDIDATES: Candidates = Candidates { first: -0.5, step: 0.1, count: 16 };

/// Encodes one block.
#[inline(always)]
pub(super) fn quantize(weights: &[f32; 256], columns: Option<&[f32; 256]>, out: &mut [u8; 176]) {
    let (header, rest) = out.split_at_mut(16);
    let (high, low) = rest.split_at_mut(32);
    let q = fitted_steps(weights, columns, 31.0, CANDIDATES, header);
    put_high_bits(&q.map(|q| q >> 4), high);
    put_nibbles(&q, low);
}
