//! A model's tensors as they stand in its GGUF file: in some architectures several are one.
//!
//! Invariant: rows of the whole are those of the parts, so a format that encodes rows makes the
//! same of either.

use crate::convert::source::{SourceModel, SourceTensor};

/// The tensors in the order in which they are written, with their names.
pub(in crate::convert) fn tensors(source: &SourceModel) -> Vec<(String, SourceTensor<'_>)> {
    let architecture = source.architecture;
    let mut tensors: Vec<(String, SourceTensor<'_>)> =
        source.tensors().into_iter().map(|tensor| (architecture.tensor(tensor.id), tensor)).collect();
    let mut all = Vec::with_capacity(tensors.len());
    while !tensors.is_empty() {
        let fused = architecture.fused(tensors[0].1.id);
        let place = |part: &String| tensors.iter().position(|(name, _)| name == part);
        let places = |(name, parts): (String, Vec<String>)| {
            Some((name, parts.iter().map(place).collect::<Option<Vec<_>>>()?))
        };
        // Parts that differ in their formats stay parts.
        let dtype = |at: &usize| tensors[*at].1.info.dtype;
        let is_alike = |places: &[usize]| places.iter().all(|at| dtype(at) == dtype(&places[0]));
        match fused.and_then(places).filter(|(_, places)| is_alike(places)) {
            Some((name, places)) => {
                // They are in this order, and each that is taken moves those after it.
                let take = |(n_taken, at): (usize, &usize)| tensors.remove(at - n_taken).1;
                all.push((name, joined(places.iter().enumerate().map(take).collect())));
            }
            None => all.push(tensors.remove(0)),
        }
    }
    all
}

/// Matrices of one width as one, or vectors: named as the last of them, by which llama.cpp chooses
/// the format of the whole.
fn joined(mut parts: Vec<SourceTensor<'_>>) -> SourceTensor<'_> {
    let last = &parts[parts.len() - 1];
    let (id, mut info) = (last.id, last.info.clone());
    let ends: Vec<usize> = parts
        .iter()
        .scan(0, |end, part| {
            *end += part.info.shape[0];
            Some(*end)
        })
        .collect();
    info.shape[0] = ends[ends.len() - 1];
    info.bytes = parts.iter().map(|part| part.info.bytes).sum();
    let bytes = parts.iter_mut().map(|part| part.bytes.take()).collect::<Option<Vec<_>>>();
    let is_matrix = info.shape.len() == 2;
    let read = Box::new(move |rows: std::ops::Range<usize>, out: &mut [f32]| {
        // A vector is one row: all of it is read.
        let rows = if is_matrix { rows } else { 0..out.len() };
        let columns = out.len() / rows.len().max(1);
        let mut start = 0;
        let mut rest = out;
        for (part, &end) in parts.iter().zip(&ends) {
            let own = rows.start.max(start)..rows.end.min(end);
            if !own.is_empty() {
                let (out, after) = std::mem::take(&mut rest).split_at_mut(own.len() * columns);
                let own = if is_matrix { own.start - start..own.end - start } else { 0..1 };
                (part.read)(own, out)?;
                rest = after;
            }
            start = end;
        }
        Ok(())
    });
    SourceTensor { id, info, bytes: bytes.map(|bytes| bytes.concat()), read }
}
