//! What instruction sets override, against the portable definitions.

use super::*;

kernel! {
    /// The results of all kernels on one block: 512 bytes go in.
    fn block_kernels(s; bytes: &[u8]) -> Vec<i32> {
        let signed: Vec<i8> = bytes.iter().map(|&byte| byte as i8).collect();
        let word = u128::from_le_bytes(*bytes.first_chunk().unwrap());
        let (a, b) = (s.load_bytes(bytes), s.load_bytes(&bytes[32..]));
        let mut blocks = vec![s.load_bytes_partial(&signed[..13]), s.load_nibbles(bytes)];
        blocks.extend([s.splat_u128(word), s.mul_u8x32(a, b), s.mask_from_bits(word as u32)]);
        blocks.extend(s.transpose_16x8(bytes, 20));
        blocks.extend(s.transpose_32x4(bytes));
        let words = [word as u64, (word >> 64) as u64, !word as u64, word as u64];
        blocks.push(s.bytes_of_dwords([1, word as u32, 3, (word >> 32) as u32, 5, 6, !word as u32, 8]));
        blocks.extend([s.bytes_of_words(words), s.add_u8x32(a, b), s.trits(a, b)]);
        blocks.push(s.negate(a, s.mask_from_bits(word as u32)));
        blocks.extend(s.split_signs(a));
        blocks.extend(point_kernels(s, bytes));
        // Each is the sum of four products of a number within 0..=31 and an int8.
        let mut small = [s.zero_i32x8(); 8];
        for i in 0..8 {
            let lanes: Vec<i32> = (0..8).map(|lane| i32::from(signed[8 * i + lane]) * 4 * 31).collect();
            small[i] = s.load_i32x8(&lanes);
        }
        let mut lanes = vec![s.widen_u16x8(bytes), s.odd_dwords(a, b), s.shr_u32x8::<28>(s.as_i32x8(a))];
        lanes.extend(places_dots(s, bytes));
        lanes.extend([s.widen_i8x8(word as u64), s.sum_neighbors(small[0], small[1])]);
        lanes.extend([s.pack_i16(small[0], small[1])]);
        lanes.extend([s.sum_each(small), s.sum_halves_alternately(small[0], small[1])]);
        lanes.push(s.sum_scaled_halves_each(small, s.splat_u128((word >> 2) & (u128::MAX / 255 * 31))));
        lanes.extend(s.widen_i8_to_i16(a));
        lanes.extend(s.widen_i8_even_odd(word));
        lanes.extend(s.unpack_i16(s.pack_i16(small[2], small[3])));
        lanes.extend(s.sum_halves_each::<true>(small));
        lanes.extend(s.sum_halves_each::<false>(small));
        let mut out = Vec::new();
        for block in blocks {
            let mut to = [0_i8; 32];
            s.store_bytes(block, &mut to);
            out.extend(to.map(i32::from));
        }
        for lanes in lanes {
            let mut to = [0; 8];
            s.store_i32x8(lanes, &mut to);
            out.extend(to);
        }
        out
    }
}

/// What formats of points are unpacked by.
fn point_kernels<S: QuantKernels>(s: S, bytes: &[u8]) -> Vec<S::I8x32> {
    let (a, b) = (s.load_bytes(bytes), s.load_bytes(&bytes[32..]));
    let mut blocks = vec![s.spread_bits::<7>(s.as_i32x8(a)), s.spread_bits::<3>(s.as_i32x8(b))];
    blocks.extend([s.spread_bits::<2>(s.as_i32x8(b)), s.with_parity(s.and_u8x32(a, s.splat_u8x32(127)))]);
    blocks.extend([s.spread_nibbles(bytes), s.mask_of_bits(a), s.as_i8x32(s.as_i32x8(b))]);
    blocks.push(s.odd_bytes(a, b));
    blocks.extend((0..8).map(|v| s.repeat_place(a, v)));
    blocks.extend(s.transpose_words([a, b, s.load_bytes(&bytes[64..]), s.load_bytes(&bytes[96..])]));
    let zipped: Vec<u8> = s.zip_bytes(a, b).into_iter().flat_map(u16::to_le_bytes).collect();
    blocks.extend([s.load_bytes(&zipped), s.load_bytes(&zipped[32..])]);
    blocks
}

/// [`QuantKernels::dot_places`] with signs and without.
fn places_dots<S: QuantKernels>(s: S, bytes: &[u8]) -> Vec<S::I32x8> {
    let x: Vec<i8> = bytes.iter().map(|&byte| (byte as i8).max(-127)).collect();
    // 62 among them.
    let sizes: Vec<u8> = bytes.iter().map(|&byte| if byte > 200 { 62 } else { byte % 63 }).collect();
    let mut w = [s.splat_u8x32(0); 8];
    for v in 0..8 {
        w[v] = s.load_bytes(&sizes[256 + 32 * v..]);
    }
    let mut dots = Vec::new();
    for i in 0..4 {
        for signs in [Some(s.load_bytes(bytes)), None] {
            dots.push(s.dot_places(i, [w[2 * i], w[2 * i + 1]], signs, &x[64 * i..]));
        }
    }
    dots
}

kernel! {
    /// The results of kernels that give f32: 512 bytes go in, and as many finite numbers.
    fn float_kernels(s; bytes: &[u8], floats: &[f32]) -> Vec<u32> {
        let a = s.load_x8(floats);
        let mut vectors = vec![s.extract_lanes(a, 0, 8), s.extract_lanes(a, 3, 4), s.extract_lanes(a, 7, 0)];
        vectors.extend(s.transpose_f32_8x4(floats, 21));
        vectors.extend([s.gather_f16::<18>(bytes), s.gather_f16::<20>(bytes), s.gather_f16::<22>(bytes)]);
        vectors.extend([s.gather_f16::<24>(bytes), s.gather_f16::<34>(bytes)]);
        vectors.extend(s.scales_and_mins(bytes));
        // Vectors of any width that hold the same eight numbers.
        let mut sizes = [s.splat(0.0); 8];
        for i in 0..8 {
            for lane in 0..8 {
                sizes[i] = s.max_abs(sizes[i], s.splat(floats[8 * i + lane]));
            }
        }
        vectors.push(s.hmax_abs_each(sizes));
        vectors.push(s.from_array(s.hsum_each([a, s.load_x8(&floats[8..]), a, a, a, a, a, s.splat_x8(0.1)])));
        vectors.into_iter().flat_map(|vector| s.to_array(vector)).map(f32::to_bits).collect()
    }
}

kernel! {
    /// The halves of four times 32 bytes transposed, and transposed by the portable definition.
    fn transposed_nibbles(s; bytes: &[u8]) -> [Vec<i8>; 2] {
        let mut groups = [s.zero_x64(); 4];
        for p in 0..4 {
            groups[p] = s.shr_mask_split::<0, 4>(s.load_bytes(&bytes[32 * p..]), 15);
        }
        [s.transpose_nibbles_32(bytes), s.transpose_groups(groups)].map(|pairs| {
            let blocks = pairs.into_iter().flat_map(|pair| s.blocks(pair));
            blocks.flat_map(|block| {
                let mut to = [0_i8; 32];
                s.store_bytes(block, &mut to);
                to
            }).collect()
        })
    }
}

kernel! {
    /// Eight groups of 32 bytes transposed, and what the order says that they are.
    fn transposed_groups(s; bytes: &[u8]) -> [Vec<u8>; 2] {
        let pair = |i: usize| s.load_bytes_x64(&bytes[64 * i..]);
        let transposed = s.transpose_groups([pair(0), pair(1), pair(2), pair(3)]);
        let mut found = Vec::new();
        for block in transposed.into_iter().flat_map(|pair| s.blocks(pair)) {
            let mut to = [0_i8; 32];
            s.store_bytes(block, &mut to);
            found.extend(to.map(|byte| byte as u8));
        }
        let order = S::INTERLEAVES[Interleave::Nibbles16 as usize];
        [found, order.iter().flat_map(|&quad| &bytes[4 * usize::from(quad)..][..4]).copied().collect()]
    }
}

#[test]
fn groups_are_transposed_into_the_order_of_16_nibbles() {
    let bytes: Vec<u8> = (0..=255).collect();
    for isa in Isa::available() {
        let [found, expected] = transposed_groups(isa, &bytes);
        assert_eq!(found, expected, "{isa}");
    }
}

#[test]
fn halves_of_32_bytes_are_transposed_as_groups_are() {
    let bytes: Vec<u8> = (0..128).map(|i: u8| i.wrapping_mul(37).wrapping_add(11)).collect();
    for isa in Isa::available() {
        let [found, expected] = transposed_nibbles(isa, &bytes);
        assert_eq!(found, expected, "{isa}");
    }
}

kernel! {
    /// The products of a row with tokens that are `x` and `-x` in turn, as a panel makes them.
    fn panel_products(s; w: &[u8; 32], x: &[i8; 32], bits: u32, bias: Option<u32>) -> Vec<i32> {
        match bits {
            4 => panel_dots::<S, 4>(s, w, x, bias, 8),
            5 => panel_dots::<S, 5>(s, w, x, bias, 8),
            6 => panel_dots::<S, 6>(s, w, x, bias, 4),
            7 => panel_dots::<S, 7>(s, w, x, bias, 4),
            _ => panel_dots::<S, 8>(s, w, x, bias, 8),
        }
    }
}

/// [`QuantKernels::dot_micro_panel`] of `n` quads and of others, until all eight are multiplied.
fn panel_dots<S: QuantKernels, const BITS: u32>(
    s: S,
    w: &[u8; 32],
    x: &[i8; 32],
    bias: Option<u32>,
    n: usize,
) -> Vec<i32> {
    let group: Vec<i8> = (0..32 * S::LANES)
        .map(|i| x[i / (4 * S::LANES) * 4 + i % 4] * if i / 4 % 2 == 0 { 1 } else { -1 })
        .collect();
    let (mut qs, mut signs) = (*w, [0; 32]);
    let below_zero = w.iter().map(|&w| -i32::from(w as i8).min(0)).sum();
    if BITS == 8 && S::SIGNS_APART {
        let [absolute, sign] = s.split_signs(s.load_bytes(w));
        s.store_bytes(absolute, &mut qs);
        s.store_bytes(sign, &mut signs);
    } else if BITS == 8 {
        s.store_bytes(s.quads_of_i8x32(s.load_bytes(w)), &mut qs);
    }
    let mut dots = [[s.zero_i32(); 1]; 1];
    for first in (0..8).step_by(n) {
        let mut sums = [s.zero_i32()];
        for q in first..first + n {
            sums[0] = s.add_quads(sums[0], s.load_quads(&group[4 * S::LANES * q..]));
        }
        let w = PanelGroup { qs: &[qs], signs: &[signs], below_zero: [below_zero] };
        let x = PanelTokens { group: [&group[..]], sums };
        dots = s.dot_micro_panel::<BITS, 1, 1>(dots, w, x, bias, first..first + n);
    }
    let mut lanes = vec![0; S::LANES];
    s.store_i32(dots[0][0], &mut lanes);
    lanes
}

fn alternating<T: Copy>(even: T, odd: T) -> [T; 32] {
    std::array::from_fn(|i| if i % 2 == 0 { even } else { odd })
}

#[test]
fn products_of_panels_are_exact_up_to_the_greatest_numbers() {
    for isa in Isa::available() {
        for (bits, biases) in [
            (4, &[None, Some(0), Some(3)][..]),
            (5, &[None, Some(4)]),
            (6, &[None, Some(5)]),
            (7, &[Some(6)]),
            (8, &[None]),
        ] {
            let top = if bits == 8 { 127 } else { (1 << bits) - 1 };
            // -128 and -127 if there are signs.
            let low = if bits == 8 { [128, 129] } else { [0, 1] };
            for w in [[top; 32], [low[0]; 32], alternating(top, low[0]), alternating(low[1], top - 1)] {
                for x in [[127; 32], alternating(127, -127), alternating(-127, 127), alternating(0, -1)] {
                    for &bias in biases {
                        let less = bias.map_or(0, |n| 1 << n);
                        let product = |(&w, &x): (&u8, &i8)| {
                            let w = if bits == 8 { i32::from(w as i8) } else { i32::from(w) };
                            (w - less) * i32::from(x)
                        };
                        let expected: i32 = w.iter().zip(&x).map(product).sum();
                        let found = panel_products(isa, &w, &x, bits, bias);
                        let expected: Vec<i32> = (0..found.len())
                            .map(|lane| if lane % 2 == 0 { expected } else { -expected })
                            .collect();
                        assert_eq!(found, expected, "{isa}, {bits} bits, {bias:?}, {w:?} by {x:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn overridden_kernels_give_what_the_portable_ones_do() {
    let mut state = 1_u64;
    for _ in 0..200 {
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .take(512)
        .collect();
        let floats: Vec<f32> = bytes.iter().map(|&byte| f32::from(byte) - 100.3).collect();
        // Halves that are finite: a NaN's bits may differ.
        let halves: Vec<u8> = bytes.iter().map(|byte| byte & 0xbf).collect();
        let [scalar, others @ ..] = &Isa::available()[..] else { panic!("there is always scalar") };
        for isa in others {
            assert_eq!(block_kernels(*isa, &bytes), block_kernels(*scalar, &bytes), "{isa}");
            let floats = (float_kernels(*isa, &halves, &floats), float_kernels(*scalar, &halves, &floats));
            assert_eq!(floats.0, floats.1, "{isa}");
        }
    }
}
