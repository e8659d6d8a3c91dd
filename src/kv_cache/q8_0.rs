//! Keys and values in `Q8_0`: groups of 32 of a head's dimensions, each an int8 times the group's
//! scale, an f16. A head of another width is padded with zeros.
//!
//! ```text
//! keys     (blocks, groups) of: int8 (32, 64 positions), scales (64 positions)
//! values   (blocks) of: int8 (64 positions, groups, 32), scales (groups, 64 positions)
//! ```
//!
//! All are bytes. So that neighboring numbers of a vector are neighbors in memory, and scales too.

use super::{BLOCK, KvElement};

/// Dimensions that share a scale.
pub(crate) const GROUP: usize = 32;
/// Bytes of a scale.
const SCALE: usize = 2;
/// Bytes of a group.
pub(crate) const ROWS: usize = GROUP + SCALE;

/// The groups of a head.
pub(crate) fn n_groups(head_dim: usize) -> usize {
    head_dim.div_ceil(GROUP)
}

impl KvElement for i8 {
    fn width(head_dim: usize) -> usize {
        n_groups(head_dim) * ROWS
    }

    #[inline(always)]
    fn store([keys, values]: [&mut [Self]; 2], position: usize, key: &[f32], value: &[f32]) {
        let n_groups = n_groups(key.len());
        let (block, j) = (position / BLOCK * BLOCK * n_groups * ROWS, position % BLOCK);
        let block = block..block + BLOCK * n_groups * ROWS;
        let (keys, values) = (&mut keys[block.clone()], &mut values[block]);
        for (group, key) in keys.chunks_exact_mut(ROWS * BLOCK).zip(key.chunks(GROUP)) {
            let (codes, scale) = quantized(key);
            for i in 0..GROUP {
                group[i * BLOCK + j] = codes[i];
            }
            group[GROUP * BLOCK + SCALE * j..][..SCALE].copy_from_slice(&scale);
        }
        let (numbers, scales) = values.split_at_mut(BLOCK * n_groups * GROUP);
        for (g, value) in value.chunks(GROUP).enumerate() {
            let (codes, scale) = quantized(value);
            numbers[(j * n_groups + g) * GROUP..][..GROUP].copy_from_slice(&codes);
            scales[(g * BLOCK + j) * SCALE..][..SCALE].copy_from_slice(&scale);
        }
    }

    fn key_place(position: usize, i: usize, width: usize) -> usize {
        let (group, i) = (position / BLOCK * BLOCK * width + i / ROWS * ROWS * BLOCK, i % ROWS);
        let j = position % BLOCK;
        group + if i < GROUP { i * BLOCK + j } else { GROUP * BLOCK + SCALE * j + i - GROUP }
    }

    fn value_place(position: usize, i: usize, width: usize) -> usize {
        let (block, j, n_groups) = (position / BLOCK * BLOCK * width, position % BLOCK, width / ROWS);
        block
            + match i.checked_sub(n_groups * GROUP) {
                None => j * n_groups * GROUP + i,
                Some(i) => BLOCK * n_groups * GROUP + (i / SCALE * BLOCK + j) * SCALE + i % SCALE,
            }
    }

    fn write(self, to: &mut Vec<u8>) {
        to.push(self.cast_unsigned());
    }

    fn read(from: &[u8]) -> Self {
        from[0].cast_signed()
    }
}

/// The numbers of a group, or of what there is of it, and their scale.
#[inline(always)]
fn quantized(numbers: &[f32]) -> ([i8; GROUP], [i8; SCALE]) {
    let mut padded = [0.0_f32; GROUP];
    padded[..numbers.len()].copy_from_slice(numbers);
    let mut greatest = padded.iter().fold(0.0_f32, |greatest, x| greatest.max(x.abs()));
    if padded.iter().any(|x| x.is_nan()) {
        greatest = f32::NAN; // which `max` passes over
    }
    // What is stored is multiplied with the scale as it is stored.
    let scale = half::f16::from_f32(greatest / 127.0);
    let inverse = if scale == half::f16::ZERO { 0.0 } else { 1.0 / scale.to_f32() };
    let code = |x: f32| (x * inverse).round_ties_even().clamp(-127.0, 127.0) as i8;
    (padded.map(code), scale.to_le_bytes().map(u8::cast_signed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn float(scale: [i8; SCALE]) -> f32 {
        half::f16::from_le_bytes(scale.map(i8::cast_unsigned)).to_f32()
    }

    #[test]
    fn groups_are_within_half_a_step_of_what_they_store() {
        let numbers: Vec<f32> = (0..GROUP).map(|i| ((i * 37 % 61) as f32 - 30.0) / 7.0).collect();
        for n in [GROUP, 20, 3] {
            let (codes, scale) = quantized(&numbers[..n]);
            let scale = float(scale);
            for i in 0..GROUP {
                let stored = f32::from(codes[i]) * scale;
                let number = if i < n { numbers[i] } else { 0.0 };
                assert!((stored - number).abs() <= scale * 0.52, "{i}: {stored} {number}");
            }
        }
        // Too small for a scale, nothing, and what isn't finite.
        for (number, scale) in [(1e-9, 0.0), (0.0, 0.0), (f32::INFINITY, f32::INFINITY)] {
            assert_eq!(float(quantized(&[number]).1), scale);
        }
        assert!(float(quantized(&[1.0, f32::NAN]).1).is_nan());
    }

    #[test]
    fn every_element_has_a_place_of_its_own_which_is_where_it_is_stored() {
        const DIM: usize = 70;
        let width = i8::width(DIM);
        for place in [i8::key_place, i8::value_place] {
            let mut met = vec![false; 3 * BLOCK * width];
            for position in 0..3 * BLOCK {
                for i in 0..width {
                    assert!(!std::mem::replace(&mut met[place(position, i, width)], true));
                }
            }
            assert!(met.into_iter().all(|is_met| is_met));
        }
        let (mut keys, mut values) = (vec![0; 3 * BLOCK * width], vec![0; 3 * BLOCK * width]);
        let key: Vec<f32> = (0..DIM).map(|i| i as f32 - 20.5).collect();
        i8::store([&mut keys, &mut values], BLOCK + 7, &key, &key);
        for (numbers, place) in
            [(&keys, i8::key_place as fn(usize, usize, usize) -> usize), (&values, i8::value_place)]
        {
            let own = (0..width).map(|i| place(BLOCK + 7, i, width));
            let (own, all) =
                (own.filter(|&at| numbers[at] != 0).count(), numbers.iter().filter(|&&x| x != 0).count());
            assert!(own == all && all > DIM, "{own} of {all}");
        }
    }
}
