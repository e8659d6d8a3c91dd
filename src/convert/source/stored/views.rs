//! Views whose rows don't lie one number after another: transposed ones, and ones that repeat
//! numbers; and tensors that are several in one.

use std::ops::Range;

use super::{FloatType, ShardedTensor, StoredTensors, StoredType, TensorView, decode};
use crate::error::Result;

impl TensorView {
    /// How many weights further the next one of a row is.
    fn column_stride(&self) -> usize {
        self.strides.last().copied().unwrap_or(1)
    }

    /// Whether the weights of a row lie one after another.
    pub(super) fn has_rows(&self) -> bool {
        self.columns() == 1 || self.column_stride() == 1
    }

    /// Checks that a view that repeats numbers isn't far more than what is stored: memory is taken
    /// for its rows.
    pub(super) fn check_repeats(&self) -> Result<()> {
        const MOST: usize = 1 << 28;
        const MOST_COLUMNS: usize = 1 << 20;
        let repeats = self.shape.iter().zip(&self.strides).any(|(&n, &stride)| n > 1 && stride == 0);
        let numbers = self.shape.iter().try_fold(1_usize, |numbers, &n| numbers.checked_mul(n));
        if repeats && (self.columns() > MOST_COLUMNS || numbers.is_none_or(|numbers| numbers > MOST)) {
            return Err(self.layout("it repeats few numbers very often: save it contiguous"));
        }
        Ok(())
    }

    /// Decodes numbers that lie one after another, from the number `first` of the view's storage
    /// on.
    fn numbers(
        &self,
        float_type: FloatType,
        first: usize,
        bytes: &mut Vec<u8>,
        out: &mut [f32],
    ) -> Result<()> {
        let size = float_type.bytes();
        bytes.resize(out.len() * size, 0);
        self.file.read_at("a tensor", self.start + first as u64 * size as u64, bytes)?;
        decode(float_type, bytes, out);
        Ok(())
    }

    /// Decodes some rows, wherever their numbers lie: (rows, columns).
    pub(super) fn read_view(&self, float_type: FloatType, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        /// Numbers between those of a row are read along with them up to this stride.
        const GAP: usize = 64;
        /// Numbers that are read at once.
        const SPAN: usize = 1 << 16;
        let (columns, down, across) = (self.columns(), self.row_stride(), self.column_stride());
        let mut bytes = Vec::new();
        if down == 1 && across > 0 {
            let mut column = vec![0.0; rows.len()];
            for c in 0..columns {
                self.numbers(float_type, rows.start + c * across, &mut bytes, &mut column)?;
                column.iter().enumerate().for_each(|(row, number)| out[row * columns + c] = *number);
            }
            return Ok(());
        }
        let at_once = if across > GAP { 1 } else { SPAN / across.max(1) };
        let mut span = Vec::new();
        for (row, out) in rows.zip(out.chunks_exact_mut(columns)) {
            for (first, out) in (0..columns).step_by(at_once).zip(out.chunks_mut(at_once)) {
                span.resize((out.len() - 1) * across + 1, 0.0);
                self.numbers(float_type, row * down + first * across, &mut bytes, &mut span)?;
                out.iter_mut().enumerate().for_each(|(i, out)| *out = span[i * across]);
            }
        }
        Ok(())
    }
}

impl ShardedTensor {
    /// Decodes some rows of heads in NEOX order, each head at once.
    pub(super) fn read_heads(&self, head_dim: usize, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let columns = self.parts[0].columns();
        let (mut block, mut held) = (vec![0.0; head_dim * columns], None);
        for (row, out) in rows.zip(out.chunks_exact_mut(columns)) {
            let (head, i) = (row / head_dim, row % head_dim);
            if held != Some(head) {
                self.read_in_order(head * head_dim..(head + 1) * head_dim, &mut block)?;
                held = Some(head);
            }
            let row = i / 2 + i % 2 * (head_dim / 2);
            out.copy_from_slice(&block[row * columns..][..columns]);
        }
        Ok(())
    }
}

impl StoredTensors {
    /// Cuts a tensor, if it is there, into tensors of some rows each: their names and numbers of
    /// rows.
    ///
    /// # Errors
    /// [`ErrorKind::TensorLayout`](crate::ErrorKind::TensorLayout) if it has another number of
    /// rows.
    pub(in super::super) fn cut(&mut self, name: &str, parts: &[(String, usize)]) -> Result<()> {
        let Some(whole) = self.by_name.remove(name) else { return Ok(()) };
        let [tensor] = &*whole else { return Err(whole[0].layout("it is there several times")) };
        let rows: usize = parts.iter().map(|(_, rows)| rows).sum();
        let (StoredType::Float(float), [found, ..]) = (&tensor.dtype, &*tensor.shape) else {
            return Err(tensor.shape_error(&[rows]));
        };
        if *found != rows {
            return Err(tensor.layout(&format!("it has {found} rows, and {rows} are expected")));
        }
        let mut first = 0;
        for (name, rows) in parts {
            let mut part = tensor.clone();
            part.start += (first * tensor.strides[0] * float.bytes()) as u64;
            part.shape[0] = *rows;
            first += rows;
            self.add_as(name.clone(), part);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{DataFile, Join, ShardedTensor, StoredType, TensorView};
    use super::FloatType;

    /// Reads a view of the numbers 0, 1, 2, ... in chunks of `at_once` rows.
    fn read(
        shape: &[usize],
        strides: &[usize],
        neox: Option<usize>,
        at_once: usize,
    ) -> Result<Vec<f32>, String> {
        let folder = tempfile();
        let path = folder.0.join("numbers");
        let bytes: Vec<u8> = (0..4096_u16).flat_map(|n| f32::from(n).to_le_bytes()).collect();
        std::fs::write(&path, bytes).unwrap();
        let file = Arc::new(DataFile::open(&path).unwrap());
        let float = StoredType::Float(FloatType::F32);
        let tensor = TensorView::strided("a".into(), &file, 4, shape.into(), strides.into(), float);
        let joined =
            ShardedTensor::new("a".into(), shape, vec![tensor.map_err(|e| e.to_string())?], Join::Same);
        let mut joined = joined.map_err(|e| e.to_string())?;
        joined.neox_head_dim = neox;
        let (rows, columns) = if let [rows, columns] = *shape { (rows, columns) } else { (1, shape[0]) };
        let mut numbers = vec![0.0; rows * columns];
        for first in (0..rows).step_by(at_once) {
            let end = rows.min(first + at_once);
            joined.read(first..end, &mut numbers[first * columns..end * columns]).unwrap();
        }
        Ok(numbers)
    }

    struct Folder(std::path::PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn tempfile() -> Folder {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("babyllama-views-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Folder(folder)
    }

    #[test]
    fn views_give_the_numbers_that_they_stand_for() {
        let cases: [(&[usize], &[usize]); 9] = [
            (&[8, 6], &[6, 1]),
            (&[8, 6], &[1, 8]),
            (&[8, 6], &[12, 2]),
            (&[8, 6], &[1, 100]),
            (&[8, 6], &[3, 70]),
            (&[8, 6], &[0, 1]),
            (&[8, 6], &[1, 0]),
            (&[8, 6], &[0, 0]),
            (&[6], &[5]),
        ];
        for (shape, strides) in cases {
            let (rows, columns) = if let [rows, columns] = *shape { (rows, columns) } else { (1, shape[0]) };
            let (down, across) = if let [down, across] = *strides { (down, across) } else { (0, strides[0]) };
            for (neox, at_once) in [(None, 1), (None, 3), (None, 8), (Some(4), 1), (Some(4), 3), (Some(4), 8)]
            {
                if neox.is_some() && rows == 1 {
                    continue;
                }
                let place = |row: usize| match neox {
                    Some(n) => row / n * n + row % n / 2 + row % 2 * (n / 2),
                    None => row,
                };
                let number = |i: usize| (1 + place(i / columns) * down + i % columns * across) as f32;
                let expected: Vec<f32> = (0..rows * columns).map(number).collect();
                let found = read(shape, strides, neox, at_once).unwrap();
                assert_eq!(found, expected, "{shape:?} {strides:?} {neox:?} {at_once}");
            }
        }
    }

    #[test]
    fn views_that_repeat_without_end_are_refused() {
        for shape in [&[1 << 40, 1 << 40][..], &[1 << 14, 1 << 15], &[1, 1 << 21]] {
            let strides = vec![0; shape.len()];
            let refusal = read(shape, &strides, None, 1).unwrap_err();
            assert!(refusal.contains("repeats few numbers very often"), "{shape:?}: {refusal}");
        }
    }
}
