//! In which order the rows of a matrix are read while they are multiplied with one token or a few.

use super::activation::ActivationRows;
use super::{Format, Output, SHARING_TOKENS};
use crate::parallel::{ColumnSlice, MAX_STRIPS};
use crate::simd::{PREFETCH_DISTANCE, QuantKernels, Simd, kernel};

/// How many streams a thread reads for one token: rows far from each other, side by side.
///
/// A core may get more from memory so: on a Zen 3 one stream gets 12 GB/s, two 17, four 20, as the
/// processor's own prefetching ends with a page of 4 KiB and begins anew in the next, and the next
/// page's address has to be found. A superblock's products take longer than its bytes, so two are
/// enough for blocks.
pub(super) const fn streams<S: Simd, F: Format>() -> usize {
    if S::STREAMS < F::STREAMS { S::STREAMS } else { F::STREAMS }
}

/// How many bytes ahead a stream is prefetched if there are `streams`: several get what the
/// processor fetches by itself, and need less.
pub(crate) const fn prefetch_distance(streams: usize) -> usize {
    if streams == 1 { PREFETCH_DISTANCE } else { PREFETCH_DISTANCE / 2 / streams }
}

/// Rows that are multiplied with all tokens before the next ones: about what fits a second-level
/// cache.
const ROW_BLOCK: usize = 32;

kernel! {
    /// Walks the products. A single token is multiplied with a few rows at a time, which share the
    /// loads of its activations; a few tokens with one row at a time, unpacked once for all.
    pub(super) fn dot_all<F: Format>(
        s; format: F, x: ActivationRows<'_>, out: &mut ColumnSlice<'_>, output: Output,
    ) {
        let n_tokens = x.n_tokens();
        // As even as they can be: of nine tokens, five and four.
        let at_once = n_tokens.div_ceil(n_tokens.div_ceil(F::SHARING_TOKENS).max(1)).max(1);
        for first in (0..out.columns(0).len()).step_by(ROW_BLOCK) {
            for token in (0..n_tokens).step_by(at_once) {
                let tokens = token..n_tokens.min(token + at_once);
                let done = if tokens.len() > 1 || S::REGISTER_TILE == 1 {
                    0
                } else if F::EIGHT_ROWS {
                    dot_rows::<S, F, 8>(s, format, first, x, token, out, output)
                } else {
                    dot_rows::<S, F, 4>(s, format, first, x, token, out, output)
                };
                for strip in 0..out.n_strips() {
                    let columns = out.columns(strip);
                    let rows = first + done..columns.len().min(first + ROW_BLOCK);
                    if rows.is_empty() {
                        continue;
                    }
                    let mut products = [[0.0; SHARING_TOKENS]; ROW_BLOCK];
                    let products = &mut products[..rows.len()];
                    let weights = columns.start + rows.start..columns.start + rows.end;
                    format.dot_tokens(s, weights, x, tokens.clone(), products);
                    for (t, token) in tokens.clone().enumerate() {
                        let out = &mut out.strip(strip, token)[rows.clone()];
                        for (out, products) in out.iter_mut().zip(&*products) {
                            output.write(out, products[t]);
                        }
                    }
                }
            }
        }
    }
}

kernel! { float
    /// [`streams`] on an instruction set.
    pub(super) fn streams_of<F: Format>(_s; _format: F) -> usize {
        streams::<S, F>()
    }
}

/// Multiplies a block of rows of each strip, from the `first` on, with a token: `R` rows at a time,
/// from one strip after the other. How many rows of each strip that were.
#[inline(always)]
fn dot_rows<S: QuantKernels, F: Format, const R: usize>(
    s: S,
    format: F,
    first: usize,
    x: ActivationRows<'_>,
    token: usize,
    out: &mut ColumnSlice<'_>,
    output: Output,
) -> usize {
    let n_strips = out.n_strips();
    // The last strip may be shorter, and has no such block then.
    let len = out.columns(n_strips - 1).len().saturating_sub(first).min(ROW_BLOCK);
    let done = len - len % (R / n_strips);
    if done == 0 {
        return 0;
    }
    let mut rows = [0; R];
    for r in 0..R {
        rows[r] = out.columns(r % n_strips).start + first + r / n_strips;
    }
    let mut products = [0.0; ROW_BLOCK * MAX_STRIPS]; // (rows of a strip, strips)
    for (i, products) in products[..done * n_strips].chunks_exact_mut(R).enumerate() {
        let step = i * (R / n_strips);
        products.copy_from_slice(&format.dot::<S, R>(s, rows.map(|row| row + step), x, token));
    }
    for strip in 0..n_strips {
        let products = products[strip..done * n_strips].iter().step_by(n_strips);
        for (out, &product) in out.strip(strip, token)[first..][..done].iter_mut().zip(products) {
            output.write(out, product);
        }
    }
    done
}
