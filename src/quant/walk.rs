//! In which order the rows of a matrix are read while they are multiplied with one token or a few.

use std::ops::Range;

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
    PREFETCH_DISTANCE / (streams * streams)
}

/// Rows of a strip that are multiplied with all tokens before the next ones: about what fits a
/// second-level cache.
const ROW_BLOCK: usize = 32;

/// The same number of rows of each of some strips, in the order in which they are read: the first
/// row of each strip, then the second of each, and so on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowTile {
    /// The first row of each strip.
    firsts: [usize; MAX_STRIPS],
    n_strips: usize,
    /// Rows of a strip, at most [`ROW_BLOCK`].
    n_rows: usize,
}

/// The products of the rows of a [`RowTile`], in its order, with some tokens.
pub(crate) type BlockProducts = [[f32; SHARING_TOKENS]; ROW_BLOCK * MAX_STRIPS];

impl RowTile {
    /// The number of rows, of all strips together.
    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        self.n_rows * self.n_strips
    }

    /// How many bytes ahead its rows are prefetched.
    #[inline(always)]
    pub(super) fn prefetch_distance(&self) -> usize {
        prefetch_distance(self.n_strips)
    }

    /// `N` rows, from the `i`th on. Where one is missing, the last one stands for it.
    #[inline(always)]
    pub(super) fn rows<const N: usize>(&self, i: usize) -> [usize; N] {
        let mut rows = [0; N];
        for (r, row) in rows.iter_mut().enumerate() {
            let i = (i + r).min(self.len() - 1);
            *row = self.firsts[i % self.n_strips] + i / self.n_strips;
        }
        rows
    }
}

kernel! {
    /// Walks the products. A single token is multiplied with a few rows at a time, which share the
    /// loads of its activations; a few tokens with a row or two at a time, unpacked once for all.
    pub(super) fn dot_all<F: Format>(
        s; format: F, x: ActivationRows<'_>, out: &mut ColumnSlice<'_>, output: Output,
    ) {
        let (n_tokens, n_strips) = (x.n_tokens(), out.n_strips());
        // As even as they can be: of nine tokens, five and four.
        let at_once = n_tokens.div_ceil(n_tokens.div_ceil(F::SHARING_TOKENS).max(1)).max(1);
        // The last of several tokens shares rows with nobody, but its activations lie as theirs.
        let alone = n_tokens == 1 || F::SHARING_TOKENS == 1;
        let mut products = [[0.0; SHARING_TOKENS]; ROW_BLOCK * MAX_STRIPS];
        for first in (0..out.columns(0).len()).step_by(ROW_BLOCK) {
            let end = |columns: Range<usize>| columns.len().min(first + ROW_BLOCK).max(first);
            // The last strip may be shorter.
            let common = end(out.columns(n_strips - 1));
            for token in (0..n_tokens).step_by(at_once) {
                let tokens = token..n_tokens.min(token + at_once);
                let mut done = first;
                if const { S::REGISTER_TILE > 1 } && alone {
                    let block = row_tile(out, 0..n_strips, first..common);
                    done += if const { F::EIGHT_ROWS } {
                        dot_rows::<S, F, 8>(s, format, block, x, token, first, out, output)
                    } else {
                        dot_rows::<S, F, 4>(s, format, block, x, token, first, out, output)
                    };
                }
                // The rows of all strips, and then those that only some strips have.
                for part in 0..=n_strips {
                    let (strips, rows) = match part {
                        0 => (0..n_strips, done..common),
                        _ => (part - 1..part, done.max(common)..end(out.columns(part - 1))),
                    };
                    if rows.is_empty() {
                        continue;
                    }
                    let block = row_tile(out, strips.clone(), rows.clone());
                    format.dot_tokens(s, block, x, tokens.clone(), &mut products);
                    for (t, token) in tokens.clone().enumerate() {
                        for (i, strip) in strips.clone().enumerate() {
                            let out = out.strip(strip, token)[rows.clone()].iter_mut();
                            let products = products[i..].iter().step_by(block.n_strips);
                            for (out, products) in out.zip(products) {
                                output.write(out, products[t]);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Some of the rows, counted from the first one of each strip, of some of the strips of an output.
#[inline(always)]
fn row_tile(out: &ColumnSlice<'_>, strips: Range<usize>, rows: Range<usize>) -> RowTile {
    let mut firsts = [0; MAX_STRIPS];
    for (first, strip) in firsts.iter_mut().zip(strips.clone()) {
        *first = out.columns(strip).start + rows.start;
    }
    RowTile { firsts, n_strips: strips.len(), n_rows: rows.len() }
}

kernel! { float
    /// [`streams`] on an instruction set, for `n_tokens`. Several tokens have one where a row at a
    /// time is multiplied with them: row by row from places in turn is slower.
    pub(super) fn streams_of<F: Format>(_s; _format: F, n_tokens: usize) -> usize {
        if n_tokens == 1 || rows_at_once::<S>() > 1 { streams::<S, F>() } else { 1 }
    }
}

/// How many rows share the loads of a few tokens' activations: as many as there are registers for.
pub(super) const fn rows_at_once<S: Simd>() -> usize {
    if S::REGISTER_TILE == 4 { 2 } else { 1 }
}

/// Multiplies a block of rows of all strips, which are columns of the output from the `first` on,
/// with a token: `R` rows at a time. How many rows of each strip that were.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "those of its one caller")]
fn dot_rows<S: QuantKernels, F: Format, const R: usize>(
    s: S,
    format: F,
    block: RowTile,
    x: ActivationRows<'_>,
    token: usize,
    first: usize,
    out: &mut ColumnSlice<'_>,
    output: Output,
) -> usize {
    let done = block.n_rows - block.n_rows % (R / block.n_strips);
    if done == 0 {
        return 0;
    }
    let mut products = [0.0; ROW_BLOCK * MAX_STRIPS];
    let rows = block.rows::<R>(0);
    for (i, products) in products[..done * block.n_strips].chunks_exact_mut(R).enumerate() {
        let step = i * (R / block.n_strips);
        products.copy_from_slice(&format.dot::<S, R>(s, rows.map(|row| row + step), x, token));
    }
    for strip in 0..block.n_strips {
        let products = products[strip..done * block.n_strips].iter().step_by(block.n_strips);
        for (out, &product) in out.strip(strip, token)[first..][..done].iter_mut().zip(products) {
            output.write(out, product);
        }
    }
    done
}
