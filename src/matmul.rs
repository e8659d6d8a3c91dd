//! Matrix products, and what is fused with them so that a layer takes few parallel regions.
//!
//! All of them compute `Y = X W^T` for activations `X` (`n_tokens`, in) and weights `W` (out, in),
//! and share out the columns of `Y`, that is the rows of `W`: each weight is read by one thread.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::gemm;
use crate::ops::{self, Numerics};
use crate::parallel::{ColumnPartition, ColumnSlice, Team};
use crate::quant::Output;
use crate::quant::activation::{ActivationBuffer, ActivationRows};
use crate::quant::float::{F32Tile, tile_tokens};
use crate::quant::packed::{Aligned, Int8Tile, Panel, RequiredSums};
use crate::simd::{Isa, PREFETCH_DISTANCE, kernel};
use crate::tensor::{Matrix, Tensor};

/// What a forward pass computes with.
pub(crate) struct Compute<'a> {
    pub(crate) isa: Isa,
    pub(crate) numerics: Numerics,
    pub(crate) team: &'a Team<'a>,
}

impl Compute<'_> {
    /// `outs[i] = x W_i^T` for matrices that share their input. `outs[i]` is (`n_tokens`, rows of
    /// `W_i`).
    pub(crate) fn matmul<const N: usize>(
        &self,
        outs: [&mut [f32]; N],
        weights: [&Tensor; N],
        x: &[f32],
        buffer: &mut MatmulBuffer,
    ) {
        let weights = weights.map(Tensor::matrix);
        let x = self.operand(&weights, x, buffer);
        let (isa, row_unit) = (self.isa, x.row_unit(&weights[0]));
        let mut i = 0;
        let outs = outs.map(|out| {
            i += 1;
            [ColumnPartition::new(out, weights[i - 1].n_rows, row_unit)]
        });
        self.team.bands(outs, bytes(&weights), move |i, units, [mut band]| {
            products(isa, weights[i], rows(units, row_unit, weights[i]), x, &mut band, Output::Overwrite);
        });
    }

    /// `out += x W^T`: the product joins the residual stream. `out` is (`n_tokens`, rows of `W`).
    pub(crate) fn matmul_add(&self, out: &mut [f32], weights: &Tensor, x: &[f32], buffer: &mut MatmulBuffer) {
        let weights = [weights.matrix()];
        let x = self.operand(&weights, x, buffer);
        let (isa, row_unit) = (self.isa, x.row_unit(&weights[0]));
        let outs = [[ColumnPartition::new(out, weights[0].n_rows, row_unit)]];
        self.team.bands(outs, bytes(&weights), move |_, units, [mut band]| {
            products(isa, weights[0], rows(units, row_unit, weights[0]), x, &mut band, Output::Accumulate);
        });
    }

    /// `gate = silu(x W1^T) * (x W3^T)`: the first half of the feed-forward network. `gate` and
    /// `up`, which is room for the second factor, are (`n_tokens`, `hidden_dim`).
    pub(crate) fn matmul_swiglu(
        &self,
        gate: &mut [f32],
        up: &mut [f32],
        [w1, w3]: [&Tensor; 2],
        x: &[f32],
        buffer: &mut MatmulBuffer,
    ) {
        let weights = [w1.matrix(), w3.matrix()];
        let x = self.operand(&weights, x, buffer);
        let (isa, numerics, row_unit) = (self.isa, self.numerics, x.row_unit(&weights[0]));
        let columns = |out, w: &Matrix<'_>| ColumnPartition::new(out, w.n_rows, row_unit);
        let outs = [[columns(gate, &weights[0]), columns(up, &weights[1])]];
        self.team.bands(outs, bytes(&weights), move |_, units, [mut gate, mut up]| {
            let rows = rows(units, row_unit, weights[0]);
            if matches!(x, Operand::Rows(_)) {
                // What is fetched ahead at the end of one matrix's rows isn't the start of the
                // other's.
                fetch(isa, &weights[1].bytes[rows.start * weights[1].row_bytes()..]);
            }
            products(isa, weights[0], rows.clone(), x, &mut gate, Output::Overwrite);
            products(isa, weights[1], rows, x, &mut up, Output::Overwrite);
            for token in 0..gate.n_rows() {
                ops::swiglu(isa, numerics, gate.row(token), up.row(token));
            }
        });
    }

    /// The activations in the form that the weights want.
    fn operand<'b>(&self, weights: &[Matrix<'_>], x: &'b [f32], buffer: &'b mut MatmulBuffer) -> Operand<'b> {
        let n = weights[0].n_columns;
        let n_tokens = x.len() / n;
        let panel_encodings = || weights.iter().map(|w| w.rows.panel_encoding());
        if n_tokens >= MIN_PACKED_TOKENS && panel_encodings().all(|kind| kind.is_some()) {
            let (lanes, wanted) = (self.isa.lanes(), RequiredSums::by(panel_encodings().flatten()));
            buffer.tiles.resize_with(n_tokens.div_ceil(lanes), Int8Tile::default);
            self.team.for_each_mut(&mut buffer.tiles, size_of_val(x), |i, tile| {
                let rows = &x[i * lanes * n..];
                tile.pack(self.isa, &rows[..rows.len().min(lanes * n)], n, wanted);
            });
            return Operand::Packed(&buffer.tiles, &buffer.panels);
        }
        if n_tokens >= gemm::float::MIN_TOKENS && weights.iter().all(|w| w.rows.activation_group().is_none())
        {
            let tile_tokens = tile_tokens(self.isa.lanes());
            buffer.float_tiles.resize_with(n_tokens.div_ceil(tile_tokens), F32Tile::default);
            self.team.for_each_mut(&mut buffer.float_tiles, size_of_val(x), |i, tile| {
                let rows = &x[i * tile_tokens * n..];
                tile.pack(self.isa, &rows[..rows.len().min(tile_tokens * n)], n);
            });
            return Operand::Floats(&buffer.float_tiles, &buffer.float_panels);
        }
        Operand::Rows(match weights.iter().find_map(|w| w.rows.activation_group()) {
            Some(group) => {
                let wanted = |turn| weights.iter().any(|w| w.rows.interleave() == Some(turn));
                buffer.rows.quantize(self.isa, x, n, group, wanted)
            }
            None => ActivationRows::f32(x, n),
        })
    }
}

/// From so many tokens on, weights are unpacked once for all of them.
const MIN_PACKED_TOKENS: usize = 3;

/// Room for the activations of a product, in either form, and for panels of weights, one for each
/// thread at work.
#[derive(Debug, Default)]
pub(crate) struct MatmulBuffer {
    rows: ActivationBuffer,
    tiles: Vec<Int8Tile>,
    float_tiles: Vec<F32Tile>,
    panels: Mutex<Vec<Panel>>,
    float_panels: Mutex<Vec<Aligned<f32>>>,
}

/// The input of a product.
#[derive(Clone, Copy)]
enum Operand<'a> {
    /// Row by row: each row of weights is decoded for each few tokens.
    Rows(ActivationRows<'a>),
    /// Packed, for the panels of int8 that some rows of weights are unpacked into.
    Packed(&'a [Int8Tile], &'a Mutex<Vec<Panel>>),
    /// Packed, for f32 products.
    Floats(&'a [F32Tile], &'a Mutex<Vec<Aligned<f32>>>),
}

impl Operand<'_> {
    /// Rows of weights are shared out in multiples of what a kernel takes at once.
    fn row_unit(self, weights: &Matrix<'_>) -> usize {
        match self {
            Self::Rows(_) => 8,
            Self::Packed(..) => gemm::int8::PANEL_ROWS,
            Self::Floats(..) => gemm::float::panel_rows(weights.row_bytes()),
        }
    }
}

/// The rows that some units are.
fn rows(units: Range<usize>, unit: usize, matrix: Matrix<'_>) -> Range<usize> {
    units.start * unit..(units.end * unit).min(matrix.n_rows)
}

kernel! {
    /// Has the cache fetch what a product will read first.
    fn fetch(s; bytes: &[u8]) {
        s.prefetch_all_nta(bytes, 0, PREFETCH_DISTANCE);
    }
}

/// What a product reads.
fn bytes(weights: &[Matrix<'_>]) -> usize {
    weights.iter().map(|w| w.len_bytes).sum()
}

/// A panel that no thread is using.
fn take<P: Default>(panels: &Mutex<Vec<P>>) -> P {
    panels.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
}

fn give_back<P>(panels: &Mutex<Vec<P>>, panel: P) {
    panels.lock().unwrap_or_else(PoisonError::into_inner).push(panel);
}

/// Some rows of `x W^T`, into the columns of the output that belong to them.
fn products(
    isa: Isa,
    weights: Matrix<'_>,
    rows: Range<usize>,
    x: Operand<'_>,
    out: &mut ColumnSlice<'_>,
    store: Output,
) {
    match x {
        Operand::Rows(x) => weights.rows.dot_all(isa, rows, x, out, store),
        Operand::Packed(x, panels) => {
            let mut panel = take(panels);
            gemm::int8::multiply(isa, weights, rows, x, &mut panel, out, store);
            give_back(panels, panel);
        }
        Operand::Floats(x, panels) => {
            let mut panel = take(panels);
            gemm::float::multiply(isa, weights, rows, x, &mut panel, out, store);
            give_back(panels, panel);
        }
    }
}

#[cfg(test)]
mod tests;
