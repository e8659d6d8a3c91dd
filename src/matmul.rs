//! Matrix products, and what is fused with them so that a layer takes few parallel regions.
//!
//! All of them compute `Y = X W^T` for activations `X` (`n_tokens`, in) and weights `W` (out, in).
//! Threads divide the columns of `Y` among them, that is the rows of `W`, so each weight is read by
//! one thread.
//!
//! First the activations are laid out as the kernels read them ([`Activations`]), then each thread
//! multiplies its rows of `W` with all tokens: `quant`'s `dot_all` if they are few, else `gemm`.

use std::sync::{Mutex, PoisonError};

use crate::compute::Compute;
use crate::gemm;
use crate::ops;
use crate::parallel::{ColumnPartition, ColumnSlice};
use crate::quant::activation::{ActivationBuffer, ActivationRows};
use crate::quant::float::{F32Tile, tile_tokens};
use crate::quant::packed::{Int8Tile, Panel, RequiredSums};
use crate::quant::{Output, Rows, prefetch_distance};
use crate::simd::{Isa, kernel};
use crate::tensor::{Matrix, Tensor};

/// `outs[i] = x W_i^T` for matrices that share their input. `outs[i]` is (`n_tokens`, rows of
/// `W_i`).
pub(crate) fn matmul<const N: usize>(
    compute: &Compute<'_>,
    outs: [&mut [f32]; N],
    weights: [&Tensor; N],
    x: &[f32],
    buffer: &mut MatmulBuffer,
) {
    let weights = weights.map(Tensor::matrix);
    let x = Activations::of(compute, x, &weights, buffer);
    let (isa, mut i) = (compute.isa, 0);
    let outs = outs.map(|out| {
        i += 1;
        [x.partition(isa, out, &weights[i - 1])]
    });
    compute.team.columns(outs, bytes(&weights), move |i, _, [mut out]| {
        products(isa, weights[i], x, &mut out, Output::Overwrite);
    });
}

/// `out += x W^T`: the product joins the residual stream. `out` is (`n_tokens`, rows of `W`).
pub(crate) fn matmul_add(
    compute: &Compute<'_>,
    out: &mut [f32],
    weights: &Tensor,
    x: &[f32],
    buffer: &mut MatmulBuffer,
) {
    let weights = [weights.matrix()];
    let x = Activations::of(compute, x, &weights, buffer);
    let isa = compute.isa;
    let outs = [[x.partition(isa, out, &weights[0])]];
    compute.team.columns(outs, bytes(&weights), move |_, _, [mut out]| {
        products(isa, weights[0], x, &mut out, Output::Accumulate);
    });
}

/// `gate = silu(x W1^T + b1) * (x W3^T + b3)`, with the biases that there are: the first half of
/// the feed-forward network. `gate` and `up`, which holds the second factor, are (`n_tokens`,
/// `hidden_dim`).
pub(crate) fn matmul_swiglu(
    compute: &Compute<'_>,
    gate: &mut [f32],
    up: &mut [f32],
    [w1, w3]: [&Tensor; 2],
    biases: [Option<&[f32]>; 2],
    x: &[f32],
    buffer: &mut MatmulBuffer,
) {
    let weights = [w1.matrix(), w3.matrix()];
    let x = Activations::of(compute, x, &weights, buffer);
    let (isa, numerics) = (compute.isa, compute.numerics);
    // Both alike, so that a thread has the same columns of both.
    let outs = [[x.partition(isa, gate, &weights[0]), x.partition(isa, up, &weights[0])]];
    compute.team.columns(outs, bytes(&weights), move |_, _, [mut gate, mut up]| {
        if matches!(x, Activations::RowMajor(_)) {
            // While the last rows of w1 are multiplied, what follows them in memory is prefetched,
            // so the first rows of w3 are prefetched here.
            let distance = prefetch_distance(gate.n_strips());
            for strip in 0..gate.n_strips() {
                let start = gate.columns(strip).start * weights[1].row_bytes();
                prefetch_start(isa, &weights[1].bytes[start..], distance);
            }
        }
        products(isa, weights[0], x, &mut gate, Output::Overwrite);
        products(isa, weights[1], x, &mut up, Output::Overwrite);
        for token in 0..gate.n_rows() {
            for strip in 0..gate.n_strips() {
                let columns = gate.columns(strip);
                let (gate, up) = (gate.strip(strip, token), up.strip(strip, token));
                for (out, bias) in [(&mut *gate, biases[0]), (&mut *up, biases[1])] {
                    let bias = bias.map_or(&[][..], |bias| &bias[columns.clone()]);
                    out.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias);
                }
                ops::swiglu(isa, numerics, gate, up);
            }
        }
    });
}

/// The activations of a product, in the layout that suits the weights and the number of tokens.
#[derive(Clone, Copy)]
enum Activations<'a> {
    /// Row by row, for decode and short prompts: each row of weights is unpacked once for a few
    /// tokens. Quantized weights want the rows in int8, others in f32.
    RowMajor(ActivationRows<'a>),
    /// Tiles of as many tokens as a vector has lanes, in int8, for prompts: some rows of quantized
    /// weights are unpacked into an int8 panel once, which is multiplied with all tiles.
    Int8Tiles { tiles: &'a [Int8Tile], panels: &'a Mutex<Vec<Panel>> },
    /// Tiles of some tokens in f32, for prompts: weights that aren't quantized are multiplied with
    /// all of them.
    F32Tiles { tiles: &'a [F32Tile], workspaces: &'a Mutex<Vec<gemm::float::Workspace>> },
}

/// Whether the weights are quantized in formats that can be unpacked into int8 panels, and there
/// are enough tokens to share the unpacking.
fn suits_int8_tiles(isa: Isa, weights: &[Matrix<'_>], n_tokens: usize) -> bool {
    let suits = |rows: Rows<'_>| rows.panel_encoding().is_some() && n_tokens >= rows.min_panel_tokens(isa);
    weights.iter().all(|w| suits(w.rows))
}

/// Whether no weights are quantized, and there are enough tokens to share the loads of a tile.
fn suits_f32_tiles(isa: Isa, weights: &[Matrix<'_>], n_tokens: usize) -> bool {
    n_tokens >= gemm::float::min_tokens(isa.lanes())
        && weights.iter().all(|w| w.rows.activation_group().is_none())
}

impl<'a> Activations<'a> {
    /// Lays out `x`, (`n_tokens`, in), for all `weights`, (out, in) each.
    fn of(compute: &Compute<'_>, x: &'a [f32], weights: &[Matrix<'_>], buffer: &'a mut MatmulBuffer) -> Self {
        let n = weights[0].n_columns;
        let n_tokens = x.len() / n;
        if suits_int8_tiles(compute.isa, weights, n_tokens) {
            Self::int8_tiles(compute, x, weights, buffer)
        } else if suits_f32_tiles(compute.isa, weights, n_tokens) {
            Self::f32_tiles(compute, x, n, buffer)
        } else if let Some(group) = weights.iter().find_map(|w| w.rows.activation_group()) {
            let wanted =
                |order| weights.iter().any(|w| w.rows.needs_superblocks(compute.isa, n_tokens, order));
            Self::RowMajor(buffer.rows.quantize(compute.isa, x, n, group, wanted))
        } else {
            Self::RowMajor(ActivationRows::f32(x, n))
        }
    }

    fn int8_tiles(
        compute: &Compute<'_>,
        x: &[f32],
        weights: &[Matrix<'_>],
        buffer: &'a mut MatmulBuffer,
    ) -> Self {
        let (isa, n, tokens) = (compute.isa, weights[0].n_columns, compute.isa.lanes());
        let wanted = RequiredSums::by(weights.iter().filter_map(|w| w.rows.panel_encoding()));
        buffer.tiles.resize_with((x.len() / n).div_ceil(tokens), Int8Tile::default);
        compute.team.for_each_mut(&mut buffer.tiles, size_of_val(x), move |i, tile| {
            let rows = &x[i * tokens * n..];
            tile.pack(isa, &rows[..rows.len().min(tokens * n)], n, wanted);
        });
        Self::Int8Tiles { tiles: &buffer.tiles, panels: &buffer.panels }
    }

    fn f32_tiles(compute: &Compute<'_>, x: &[f32], n: usize, buffer: &'a mut MatmulBuffer) -> Self {
        let (lanes, tokens) = (compute.isa.lanes(), tile_tokens(compute.isa.lanes()));
        buffer.float_tiles.resize_with((x.len() / n).div_ceil(tokens), F32Tile::default);
        compute.team.for_each_mut(&mut buffer.float_tiles, size_of_val(x), move |i, tile| {
            let rows = &x[i * tokens * n..];
            tile.pack(lanes, &rows[..rows.len().min(tokens * n)], n);
        });
        Self::F32Tiles { tiles: &buffer.float_tiles, workspaces: &buffer.float_workspaces }
    }

    /// The columns of the output, cut as threads take them: in multiples of the rows that a kernel
    /// takes at once, and for a few tokens in as many strips as a thread reads streams.
    fn partition<'o>(self, isa: Isa, out: &'o mut [f32], weights: &Matrix<'_>) -> ColumnPartition<'o> {
        let (columns, n_strips) = match self {
            // As many as a kernel takes with a token, for no chunk to be cut in between.
            Self::RowMajor(x) => (8, weights.rows.streams(isa, x.n_tokens())),
            Self::Int8Tiles { .. } => (gemm::int8::PANEL_ROWS, 1),
            Self::F32Tiles { .. } => (gemm::float::panel_rows(weights.row_bytes()), 1),
        };
        ColumnPartition::new(out, weights.n_rows, columns).in_strips(n_strips)
    }
}

/// Memory that is reused from product to product: activations in every layout, and what a thread at
/// work keeps.
#[derive(Debug, Default)]
pub(crate) struct MatmulBuffer {
    rows: ActivationBuffer,
    tiles: Vec<Int8Tile>,
    float_tiles: Vec<F32Tile>,
    panels: Mutex<Vec<Panel>>,
    float_workspaces: Mutex<Vec<gemm::float::Workspace>>,
}

/// The columns of `x W^T` that `out` has.
fn products(isa: Isa, weights: Matrix<'_>, x: Activations<'_>, out: &mut ColumnSlice<'_>, output: Output) {
    match x {
        Activations::RowMajor(x) => weights.rows.dot_all(isa, x, out, output),
        Activations::Int8Tiles { tiles, panels } => {
            let mut panel = take(panels);
            gemm::int8::multiply(isa, weights, out.columns(0), tiles, &mut panel, out, output);
            give_back(panels, panel);
        }
        Activations::F32Tiles { tiles, workspaces } => {
            let mut workspace = take(workspaces);
            gemm::float::multiply(isa, weights, out.columns(0), tiles, &mut workspace, out, output);
            give_back(workspaces, workspace);
        }
    }
}

/// The bytes that a product reads.
fn bytes(weights: &[Matrix<'_>]) -> usize {
    weights.iter().map(|w| w.len_bytes).sum()
}

kernel! { float
    /// Prefetches what a product reads first.
    fn prefetch_start(s; bytes: &[u8], distance: usize) {
        s.prefetch_all_nta(bytes, 0, distance);
    }
}

/// Memory that no thread is using.
fn take<T: Default>(unused: &Mutex<Vec<T>>) -> T {
    unused.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
}

fn give_back<T>(unused: &Mutex<Vec<T>>, memory: T) {
    unused.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
}

#[cfg(test)]
mod tests;
