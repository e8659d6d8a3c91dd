//! What the integers of a format stand for, and which scales a group's sub-blocks have.

/// What the integers `q` of a format stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// int8: weight = scale * q.
    Signed,
    /// `n + 1` bits, or the two of a digit from 0 to 2 if `n` is 0: weight = scale * (q - 2^n).
    Biased(u32),
    /// `n` bits, at most 6: weight = scale * q + min.
    Affine(u32),
}

impl Encoding {
    /// Whether the products of a panel need the sums of activations: to take a bias off, or because
    /// the integers are too large for sums of int16, unless half their range is taken off.
    pub(crate) const fn needs_sums(self) -> bool {
        !matches!(self, Self::Affine(..=4))
    }

    /// Bits of an integer; 8 for those with a sign.
    pub(crate) const fn bits(self) -> u32 {
        match self {
            Self::Signed => 8,
            Self::Biased(0) => 2,
            Self::Biased(n) => n + 1,
            Self::Affine(n) => n,
        }
    }
}

/// What the two sub-blocks of a group have of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SubScales {
    /// Nothing: a group has one scale.
    None,
    /// A scale each.
    F32,
    /// A scale each, and perhaps a minimum, which are small integers: the products of both
    /// sub-blocks are multiplied with them and added up before they become f32, which is exact.
    Int,
}
