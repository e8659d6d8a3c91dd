//! What ggml's block formats have in common.
//!
//! All of them cut a row into groups of 32 weights (or two halves of 16) whose value is `scale * (q
//! - offset) + min`, with `q` a small whole number and either the offset or the minimum zero. A
//! format decodes eight groups at a time into [`Groups`]; the dot product with activations that
//! were quantised in groups of 32, `x = d * p`, is then the same for all:
//!
//! ```text
//! sum over groups of  (scale * d) * (q · p - offset * sum(p))  +  min * (d * sum(p))
//! ```
//!
//! Eight whole-number products share one reduction across lanes, and their scales are applied as
//! one vector. Lane `j` of the sum holds every eighth group from `j` on. Where the halves of a
//! group have whole numbers as scales ([`SubScales::Int`]), so is what is in the brackets: both
//! halves' products, each times its scale. The packed product of many tokens (`packed.rs`) rounds
//! the same terms in the same order.

use std::marker::PhantomData;
use std::ops::Range;

use super::Format;
use super::activation::{Input, QuantizedRow};
use super::packed::Panel;
use crate::simd::{Interleave, PREFETCH_DISTANCE, Simd};

/// Weights that share an activation scale.
pub(crate) const GROUP: usize = 32;
/// Groups that are decoded together.
pub(crate) const GROUPS: usize = 8;
/// Weights that are decoded together.
const STEP_WEIGHTS: usize = GROUPS * GROUP;
/// They are decoded and multiplied two by two.
pub(crate) const PAIRS: usize = GROUPS / 2;

/// Eight decoded groups of 32 weights.
pub(crate) struct Groups<S: Simd> {
    /// The whole numbers, as [`Block::PANEL`] says.
    pub(crate) q: [S::I8x64; PAIRS],
    /// The scale of each group; of the first and the second half of each group with
    /// [`SubScales::F32`], else twice the same.
    pub(crate) scales: [S::F32x8; 2],
    /// What is added to each group; with `half_mins`, what these are multiples of.
    pub(crate) mins: S::F32x8,
    /// With [`SubScales::Int`] and minima: which multiples of `mins` the halves have, as two int16.
    pub(crate) half_mins: S::I32x8,
}

impl<S: Simd> Groups<S> {
    /// Groups without minima.
    #[inline(always)]
    pub(crate) fn scaled(s: S, q: [S::I8x64; PAIRS], scales: S::F32x8) -> Self {
        Self::with_mins(s, q, scales, s.splat_x8(0.0))
    }

    /// Groups with minima.
    #[inline(always)]
    pub(crate) fn with_mins(s: S, q: [S::I8x64; PAIRS], scales: S::F32x8, mins: S::F32x8) -> Self {
        Self { q, scales: [scales; 2], mins, half_mins: s.zero_i32x8() }
    }
}

/// Eight decoded groups of 32 weights whose halves have whole numbers as scales
/// ([`SubScales::Int`]).
pub(crate) struct IntSubBlocks<S: Simd> {
    /// The whole numbers, as [`Block::ENCODING`] says, within 0..=7.
    pub(crate) q: [S::I8x64; PAIRS],
    /// The scales of the halves, int8, in the first 16 places.
    pub(crate) scales: S::I8x32,
    /// What the sums of the halves' activations are multiplied with, as two int16: the minima, or
    /// the scales.
    pub(crate) of_sums: S::I32x8,
    /// What scales are multiples of.
    pub(crate) d: S::F32x8,
    /// What minima are multiples of, with its sign.
    pub(crate) dmin: S::F32x8,
}

/// Eight decoded groups of 32 weights in a [`Interleave`]'s order.
pub(crate) struct Interleaved<S: Simd> {
    /// The whole numbers, as [`Block::ENCODING`] says.
    pub(crate) q: S::Interleaved,
    /// The scale of each group.
    pub(crate) scales: S::F32x8,
    /// What is added, likewise.
    pub(crate) mins: S::F32x8,
}

/// The most that [`BlockRows::STEP`] is.
const MAX_STEP: usize = GROUPS * 34;

/// What the whole numbers of a format are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// int8: weight = scale * q.
    Signed,
    /// `n + 1` bits: weight = scale * (q - 2^n).
    Biased(u32),
    /// So many bits, at most 6: weight = scale * q + min.
    Affine(u32),
}

impl Encoding {
    /// Bits of a number; 8 for those with a sign.
    pub(crate) const fn bits(self) -> u32 {
        match self {
            Self::Signed => 8,
            Self::Biased(n) => n + 1,
            Self::Affine(bits) => bits,
        }
    }
}

/// What the halves of a group have of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SubScales {
    /// Nothing.
    None,
    /// A scale each.
    F32,
    /// A scale each, and perhaps a minimum, which are small whole numbers: the products of both
    /// halves are multiplied with them and added up before they become f32, which is exact.
    Int,
}

/// The sign of a half-precision number.
pub(crate) const SIGN: u16 = 0x8000;

/// A format of ggml: blocks of 32 or 256 weights.
pub(crate) trait Block: Copy + Send + Sync + 'static {
    /// Weights in a block.
    const WEIGHTS: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// What `q` is.
    const ENCODING: Encoding;
    /// What the halves of a group have of their own. If it is anything, numbers aren't
    /// [`Encoding::Signed`].
    const HALVES: SubScales = SubScales::None;
    /// What the whole numbers of a panel are, and whether the halves of its groups have their own
    /// scales or, where there are minima, their own minima: [`SubScales::Int`] are part of a
    /// panel's numbers.
    const PANEL: (Encoding, bool) = (Self::ENCODING, matches!(Self::HALVES, SubScales::F32));
    /// Whether `q` is within 0..=31.
    const SMALL: bool = Self::ENCODING.bits() <= 5;

    /// The numbers that a block stands for, as ggml defines them, to the bit.
    fn dequantize(block: &[u8], out: &mut [f32]);

    /// The order in which one token's product takes the groups. `None`: one after another, with
    /// sums across lanes.
    const INTERLEAVE: Option<Interleave> = None;

    /// Decodes eight groups, as [`Block::PANEL`] says.
    fn decode<S: Simd>(s: S, blocks: &[u8]) -> Groups<S>;

    /// Decodes eight groups of [`SubScales::Int`].
    #[inline(always)]
    fn decode_halves<S: Simd>(_s: S, _block: &[u8]) -> IntSubBlocks<S> {
        unreachable!("only of halves with whole numbers as scales")
    }

    /// Decodes eight groups in the order of [`Block::INTERLEAVE`].
    #[inline(always)]
    fn decode_interleaved<S: Simd>(_s: S, _blocks: &[u8]) -> Interleaved<S> {
        unreachable!("only what has an order is interleaved")
    }
}

/// Rows of blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockRows<'a, B> {
    bytes: &'a [u8],
    n: usize,
    _format: PhantomData<B>,
}

impl<'a, B: Block> BlockRows<'a, B> {
    pub(crate) fn new(bytes: &'a [u8], n: usize) -> Self {
        Self { bytes, n, _format: PhantomData }
    }

    #[inline(always)]
    fn row(&self, row: usize) -> &'a [u8] {
        let len = self.n / B::WEIGHTS * B::BYTES;
        &self.bytes[row * len..][..len]
    }

    /// Bytes of eight groups.
    const STEP: usize = STEP_WEIGHTS / B::WEIGHTS * B::BYTES;

    /// What is left of a row after whole steps, as a step: the next row follows, or zeros.
    #[inline(always)]
    fn last_step<'b>(&self, row: usize, padded: &'b mut [u8; MAX_STEP]) -> &'b [u8]
    where
        'a: 'b,
    {
        let rest =
            &self.bytes[(row * self.n + self.n / STEP_WEIGHTS * STEP_WEIGHTS) / B::WEIGHTS * B::BYTES..];
        if rest.len() >= Self::STEP {
            return &rest[..Self::STEP];
        }
        padded[..rest.len()].copy_from_slice(rest);
        &padded[..Self::STEP]
    }

    /// The dot products of `R` rows with a token, spread over lanes.
    #[inline(always)]
    fn dot_rows<S: Simd, const R: usize>(&self, s: S, row: usize, x: QuantizedRow<'_>) -> [S::F32x8; R] {
        let mut acc = [s.splat_x8(0.0); R];
        let steps = self.n / STEP_WEIGHTS;
        let mut rows: [&[u8]; R] = [&[]; R];
        for r in 0..R {
            rows[r] = self.row(row + r);
        }
        let rest = if B::WEIGHTS == GROUP { self.n / GROUP % GROUPS } else { 0 };
        // Copied long before they are loaded: a vector can't be loaded from several stores that are
        // still under way.
        let together = R > 1 && R * rest <= GROUPS;
        let mut tails = [0; MAX_STEP];
        match rest {
            1 if together => self.copy_tails::<R, 1>(rows, &mut tails),
            2 if together => self.copy_tails::<R, 2>(rows, &mut tails),
            _ => {}
        }
        // One after another, for the processor reads one stream fastest. (Four at once shared the
        // loads of activations; `Q4_K` was then read at 42 GB/s where one row is at 49, by two
        // threads, and Q4_0 at 63 instead of 66.)
        for r in 0..R {
            let row = rows[r];
            let mut ahead = Fetch { near: row, at: PREFETCH_DISTANCE };
            let mut sum = s.splat_x8(0.0);
            for (blocks, x) in row.chunks_exact(Self::STEP).zip(Activations::steps::<B>(&x)) {
                ahead.fetch(s, Self::STEP);
                sum = match B::HALVES {
                    SubScales::None => dot_step::<S, B>(s, blocks, x).add(s, sum),
                    SubScales::F32 => dot_halves::<S, B>(s, &B::decode(s, blocks), x, sum),
                    SubScales::Int => dot_whole_halves::<S, B>(s, &B::decode_halves(s, blocks), x, sum),
                };
            }
            ahead.fetch(s, row.len() - steps * Self::STEP);
            acc[r] = sum;
        }
        match rest {
            0 => acc,
            1 if together => self.add_tails::<S, R, 1>(s, &tails, x, acc),
            2 if together => self.add_tails::<S, R, 2>(s, &tails, x, acc),
            _ => {
                let mut padded = [0; MAX_STEP];
                for r in 0..R {
                    let blocks = self.last_step(row + r, &mut padded);
                    let tail = dot_step::<S, B>(s, blocks, Activations::at::<B>(&x, steps * GROUPS));
                    acc[r] = tail.of_row(s, 0, rest).add(s, acc[r]);
                }
                acc
            }
        }
    }

    /// The last `G` groups of `R` rows, as a step.
    #[inline(always)]
    fn copy_tails<const R: usize, const G: usize>(&self, rows: [&[u8]; R], to: &mut [u8; MAX_STEP]) {
        let start = self.n / STEP_WEIGHTS * Self::STEP;
        for r in 0..R {
            to[r * G * B::BYTES..][..G * B::BYTES].copy_from_slice(&rows[r][start..][..G * B::BYTES]);
        }
    }

    /// Adds the products of the last `G` groups of `R` rows, which make up a step: a token's last
    /// groups are repeated for it.
    #[inline(always)]
    fn add_tails<S: Simd, const R: usize, const G: usize>(
        &self,
        s: S,
        tails: &[u8; MAX_STEP],
        x: QuantizedRow<'_>,
        mut acc: [S::F32x8; R],
    ) -> [S::F32x8; R] {
        let first = self.n / STEP_WEIGHTS * GROUPS;
        let tails = dot_step::<S, B>(s, &tails[..Self::STEP], Activations::at::<B>(&x, first));
        for r in 0..R {
            acc[r] = tails.of_row(s, r * G, G).add(s, acc[r]);
        }
        acc
    }
}

/// Has the cache fetch what follows `near`, bit by bit.
struct Fetch<'a> {
    near: &'a [u8],
    /// The next byte.
    at: usize,
}

impl Fetch<'_> {
    #[inline(always)]
    fn fetch<S: Simd>(&mut self, s: S, bytes: usize) {
        s.prefetch_all_nta(self.near, self.at, bytes);
        self.at += bytes;
    }
}

impl<B: Block> Format for BlockRows<'_, B> {
    #[inline(always)]
    fn dot<S: Simd, const R: usize>(self, s: S, row: usize, x: Input<'_>, token: usize) -> [f32; R] {
        s.hsum_each(self.dot_rows::<S, R>(s, row, x.quantized_row(token)))
    }

    fn interleave(self) -> Option<Interleave> {
        B::INTERLEAVE
    }

    fn panel_encoding(self) -> Option<(Encoding, bool)> {
        Some(B::PANEL)
    }

    #[inline(always)]
    fn unpack<S: Simd>(self, s: S, rows: Range<usize>, panel: &mut Panel) {
        let mut padded = [0; MAX_STEP];
        for (i, row) in rows.enumerate() {
            let steps = self.row(row).chunks_exact(Self::STEP);
            let rest = steps.remainder();
            let mut step = 0;
            for blocks in steps {
                panel.set::<S, B>(s, i, step, &B::decode(s, blocks));
                step += 1;
            }
            if !rest.is_empty() {
                panel.set::<S, B>(s, i, step, &B::decode(s, self.last_step(row, &mut padded)));
            }
        }
    }

    fn dequantize(self, row: usize, out: &mut [f32]) {
        let blocks = self.row(row).chunks_exact(B::BYTES);
        for (block, out) in blocks.zip(out.chunks_exact_mut(B::WEIGHTS)) {
            B::dequantize(block, out);
        }
    }
}

/// Eight groups of a token's activations.
#[derive(Clone, Copy)]
struct Activations<'a> {
    /// In the order of [`Block::INTERLEAVE`].
    qs: &'a [i8],
    scales: &'a [f32],
    sums: &'a [i32],
    sub_block_sums: &'a [i32],
}

impl<'a> Activations<'a> {
    /// A row's, as a format wants them.
    #[inline(always)]
    fn row<B: Block>(x: &QuantizedRow<'a>) -> Self {
        let qs = match B::INTERLEAVE {
            None => x.qs,
            Some(Interleave::Nibbles16) => x.interleaved[0],
            Some(Interleave::Nibbles32) => x.interleaved[1],
        };
        Self { qs, scales: x.scales, sums: x.sums, sub_block_sums: x.sub_block_sums }
    }

    /// All of a row's, eight groups at a time.
    #[inline(always)]
    fn steps<B: Block>(x: &QuantizedRow<'a>) -> impl Iterator<Item = Self> {
        let row = Self::row::<B>(x);
        let facts = row.scales.chunks_exact(GROUPS).zip(row.sums.chunks_exact(GROUPS));
        let facts = facts.zip(row.sub_block_sums.chunks_exact(GROUPS));
        let steps = row.qs.chunks_exact(STEP_WEIGHTS).zip(facts);
        steps.map(|(qs, ((scales, sums), sub_block_sums))| Self { qs, scales, sums, sub_block_sums })
    }

    /// Those of a row from a group on.
    #[inline(always)]
    fn at<B: Block>(x: &QuantizedRow<'a>, first: usize) -> Self {
        let row = Self::row::<B>(x);
        let facts = first..first + GROUPS;
        Self {
            qs: &row.qs[first * GROUP..][..STEP_WEIGHTS],
            scales: &row.scales[facts.clone()],
            sums: &row.sums[facts.clone()],
            sub_block_sums: &row.sub_block_sums[facts],
        }
    }
}

/// What eight groups add to a sum: a product of whole numbers and its scale in each lane, and a
/// minimum and what it is to be multiplied with.
#[derive(Clone, Copy)]
struct Terms<S: Simd, B> {
    dots: S::F32x8,
    scales: S::F32x8,
    mins: S::F32x8,
    sums: S::F32x8,
    _format: PhantomData<B>,
}

impl<S: Simd, B: Block> Terms<S, B> {
    /// `(scale * d) * dot` and `min * (d * sum)`.
    #[inline(always)]
    fn new(s: S, dots: S::I32x8, sums: S::I32x8, scales: S::F32x8, mins: S::F32x8, d: S::F32x8) -> Self {
        let dots = match B::ENCODING {
            Encoding::Signed => s.remove_bias(dots, sums),
            Encoding::Biased(n) => s.sub_shifted_i32x8(dots, sums, n),
            Encoding::Affine(_) => dots,
        };
        let (dots, scales) = (s.to_f32x8(dots), s.mul_x8(scales, d));
        Self { dots, scales, mins, sums: s.mul_x8(d, s.to_f32x8(sums)), _format: PhantomData }
    }

    /// Those of `n` groups only, from `first` on, in the first lanes.
    #[inline(always)]
    fn of_row(self, s: S, first: usize, n: usize) -> Self {
        Self {
            dots: s.extract_lanes(self.dots, first, n),
            scales: s.extract_lanes(self.scales, first, n),
            mins: s.extract_lanes(self.mins, first, n),
            sums: s.extract_lanes(self.sums, first, n),
            _format: PhantomData,
        }
    }

    #[inline(always)]
    fn add(self, s: S, acc: S::F32x8) -> S::F32x8 {
        let acc = s.mul_add_x8(self.dots, self.scales, acc);
        match B::ENCODING {
            Encoding::Affine(_) => s.mul_add_x8(self.mins, self.sums, acc),
            _ => acc,
        }
    }
}

/// The products of eight groups whose halves have no scales of their own, in whichever order suits
/// the format.
#[inline(always)]
fn dot_step<S: Simd, B: Block>(s: S, blocks: &[u8], x: Activations<'_>) -> Terms<S, B> {
    if B::INTERLEAVE.is_some() {
        return dot_interleaved(s, blocks, x);
    }
    dot_in_order(s, &B::decode(s, blocks), x)
}

#[inline(always)]
fn dot_interleaved<S: Simd, B: Block>(s: S, blocks: &[u8], x: Activations<'_>) -> Terms<S, B> {
    let interleaved = B::decode_interleaved(s, &blocks[..BlockRows::<B>::STEP]);
    let turn = B::INTERLEAVE.unwrap_or(Interleave::Nibbles16);
    let dots = match B::ENCODING {
        Encoding::Signed => s.dot_interleaved::<true>(turn, interleaved.q, x.qs),
        _ => s.dot_interleaved::<false>(turn, interleaved.q, x.qs),
    };
    let (d, sums) = (s.load_x8(x.scales), s.load_i32x8(x.sums));
    Terms::new(s, dots, sums, interleaved.scales, interleaved.mins, d)
}

#[inline(always)]
fn dot_in_order<S: Simd, B: Block>(s: S, groups: &Groups<S>, x: Activations<'_>) -> Terms<S, B> {
    let dots = s.dot_each(&groups.q, x.qs, B::ENCODING == Encoding::Signed, B::SMALL);
    let (d, sums) = (s.load_x8(x.scales), s.load_i32x8(x.sums));
    Terms::new(s, dots, sums, groups.scales[0], groups.mins, d)
}

/// The products of eight groups' numbers without a sign, not yet summed up.
#[inline(always)]
fn dots_of_pairs<S: Simd>(s: S, q: &[S::I8x64; PAIRS], x: Activations<'_>) -> [S::I32x16; PAIRS] {
    let mut dots = [s.dot_u8_x64(s.zero_x64(), s.zero_x64()); PAIRS];
    for p in 0..PAIRS {
        dots[p] = s.dot_u8_x64(q[p], s.load_i8x64(&x.qs[p * 2 * GROUP..]));
    }
    dots
}

/// Adds the products of eight groups whose halves have scales of their own to a sum.
#[inline(always)]
fn dot_halves<S: Simd, B: Block>(s: S, groups: &Groups<S>, x: Activations<'_>, acc: S::F32x8) -> S::F32x8 {
    let [low, high] = s.sum_halves_x64::<false>(dots_of_pairs(s, &groups.q, x));
    let d = s.load_x8(x.scales);
    let [low_sums, high_sums] = s.unpack_i16(s.load_i32x8(x.sub_block_sums));
    let acc = Terms::<S, B>::new(s, low, low_sums, groups.scales[0], groups.mins, d).add(s, acc);
    Terms::<S, B>::new(s, high, high_sums, groups.scales[1], groups.mins, d).add(s, acc)
}

/// Adds the products of eight groups whose halves have whole numbers as scales to a sum. (With f32
/// for each half, a sum waited for four products one after another in `Q2_K` and two in `Q3_K`,
/// which were read at 33 and 45 GB/s by two threads, and not at 47 and 48.)
#[inline(always)]
fn dot_whole_halves<S: Simd, B: Block>(
    s: S,
    halves: &IntSubBlocks<S>,
    x: Activations<'_>,
    acc: S::F32x8,
) -> S::F32x8 {
    let dots = s.sum_scaled_halves_x64(dots_of_pairs(s, &halves.q, x), halves.scales);
    let sums = s.madd_i16_x8(halves.of_sums, s.load_i32x8(x.sub_block_sums));
    let d = s.load_x8(x.scales);
    let scales = s.mul_x8(halves.d, d);
    match B::ENCODING {
        Encoding::Biased(n) => s.mul_add_x8(s.to_f32x8(s.sub_shifted_i32x8(dots, sums, n)), scales, acc),
        _ => {
            let acc = s.mul_add_x8(s.to_f32x8(dots), scales, acc);
            s.mul_add_x8(s.to_f32x8(sums), s.mul_x8(halves.dmin, d), acc)
        }
    }
}

/// `q` with each half of its groups multiplied with its scale, as int8: modulo 256.
#[inline(always)]
pub(crate) fn scale_halves<S: Simd>(s: S, q: [S::I8x64; PAIRS], scales: &[i8; 16]) -> [S::I8x64; PAIRS] {
    let mut scaled = q;
    for p in 0..PAIRS {
        let mut of_each = [0; 2 * GROUP];
        for i in 0..2 * GROUP {
            of_each[i] = (4 * p + i / (GROUP / 2)) as i8;
        }
        let of_each = s.shuffle_x64(scales, s.load_i8x64(&of_each));
        scaled[p] = s.mul_x64(q[p], of_each);
    }
    scaled
}

/// The little-endian u16 at a byte.
#[inline(always)]
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// The little-endian u32 at a byte. (A closure for this was sometimes left as a call.)
#[inline(always)]
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The little-endian u64 at a byte.
#[inline(always)]
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// The half-precision number at a byte, for specifications: not on a hot path.
pub(crate) fn f16_at(bytes: &[u8], at: usize) -> f32 {
    half::f16::from_bits(u16_at(bytes, at)).to_f32_const()
}

/// The `p`th two blocks of 32 weights, from byte `at` of each on.
#[inline(always)]
pub(crate) fn pair_at<B: Block>(blocks: &[u8], p: usize, at: usize) -> [&[u8]; 2] {
    [&blocks[2 * p * B::BYTES + at..], &blocks[(2 * p + 1) * B::BYTES + at..]]
}

/// `numbers * d`. (Closures for such things are sometimes left as calls, compiled without the
/// instruction set.)
#[inline(always)]
pub(crate) fn times<S: Simd>(s: S, numbers: S::I32x8, d: S::F32x8) -> S::F32x8 {
    s.mul_x8(s.to_f32x8(numbers), d)
}
