//! Which instruction sets there are, and how a kernel is compiled for each of them.

use std::fmt;
use std::str::FromStr;

#[cfg(target_arch = "aarch64")]
use super::neon;
use super::{QuantKernels, Simd, scalar};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use crate::error::{Error, Result, by_name};

/// A computation that is compiled once for each instruction set. `run` must be `#[inline(always)]`.
pub(crate) trait Kernel {
    type Output;
    /// Whether it multiplies int8. If it doesn't, instruction sets that differ in nothing else
    /// share one version, so that there is less to compile.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only AVX2 has two versions"))]
    const MULTIPLIES_INT8: bool = true;
    fn run<S: QuantKernels>(self, s: S) -> Self::Output;
}

/// The table of instruction sets, the slowest first: a variant, its token and its name.
macro_rules! levels {
    ($($(#[$cfg:meta])* $level:ident($token:ty) = $name:literal;)+) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Level {
            $($(#[$cfg])* $level($token),)+
        }

        impl Level {
            fn available() -> Vec<Self> {
                let found = [$($(#[$cfg])* <$token>::detect().map(Self::$level),)+];
                found.into_iter().flatten().collect()
            }

            fn name(self) -> &'static str {
                match self {
                    $($(#[$cfg])* Self::$level(_) => $name,)+
                }
            }

            fn lanes(self) -> usize {
                match self {
                    $($(#[$cfg])* Self::$level(_) => <$token as Simd>::LANES,)+
                }
            }

            fn signs_apart(self) -> bool {
                match self {
                    $($(#[$cfg])* Self::$level(_) => <$token as QuantKernels>::SIGNS_APART,)+
                }
            }

            #[inline]
            fn run<K: Kernel>(self, kernel: K) -> K::Output {
                match self {
                    $($(#[$cfg])* Self::$level(s) => s.run(kernel),)+
                }
            }
        }
    };
}

levels! {
    Scalar(scalar::Scalar) = "scalar";
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2<avx2::Widening>) = "avx2";
    #[cfg(target_arch = "x86_64")]
    Avx2Vnni(avx2::Avx2<avx2::Vnni>) = "avx2-vnni";
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512) = "avx512";
    #[cfg(target_arch = "aarch64")]
    Neon(neon::Neon<neon::Widening>) = "neon";
    #[cfg(target_arch = "aarch64")]
    NeonDotprod(neon::Neon<neon::Dotprod>) = "neon-dotprod";
}

/// An instruction set that this processor has been seen to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Level);

impl Isa {
    /// The instruction sets that this processor has, the slowest first. The first is always
    /// `scalar`.
    ///
    /// ```
    /// let isas = babyllama::Isa::available();
    /// assert_eq!(isas[0].name(), "scalar");
    /// ```
    #[must_use]
    pub fn available() -> Vec<Self> {
        Level::available().into_iter().map(Self).collect()
    }

    /// The fastest instruction set that this processor has.
    #[must_use]
    pub fn best() -> Self {
        Self::available().pop().unwrap_or(Self(Level::Scalar(scalar::Scalar)))
    }

    /// Its name: `scalar`, `avx2`, `avx2-vnni`, `avx512`, `neon` or `neon-dotprod`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0.name()
    }

    /// f32 in a vector.
    pub(crate) fn lanes(self) -> usize {
        self.0.lanes()
    }

    /// See [`QuantKernels::SIGNS_APART`].
    pub(crate) fn signs_apart(self) -> bool {
        self.0.signs_apart()
    }

    /// Runs the version of a kernel that was compiled for this instruction set.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        self.0.run(kernel)
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One that this processor has, by its name.
impl FromStr for Isa {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        by_name("instruction set", name, &Self::available(), Self::name)
    }
}

/// Lets a kernel be written like a function: `kernel! { fn name(s; args) -> T { body } }` makes
/// `name(isa, args)`, whose body is compiled for every instruction set with `s` as its [`Simd`]. A
/// type parameter must be in an argument's type. `float` before it says that it multiplies no int8
/// ([`Kernel::MULTIPLIES_INT8`]).
macro_rules! kernel {
    (float $($kernel:tt)+) => { $crate::simd::kernel! { @false $($kernel)+ } };
    (@$int8:literal $(#[$meta:meta])* $vis:vis fn $name:ident$(<$($param:ident: $bound:path),+>)?(
        $s:ident; $($arg:ident: $type:ty),* $(,)?
    ) $body:block) => {
        $crate::simd::kernel! {
            @$int8 $(#[$meta])* $vis fn $name$(<$($param: $bound),+>)?($s; $($arg: $type),*) -> () $body
        }
    };
    (@$int8:literal $(#[$meta:meta])* $vis:vis fn $name:ident$(<$($param:ident: $bound:path),+>)?(
        $s:ident; $($arg:ident: $type:ty),* $(,)?
    ) -> $out:ty $body:block) => {
        $(#[$meta])*
        #[inline]
        $vis fn $name$(<$($param: $bound),+>)?(isa: $crate::simd::Isa, $($arg: $type),*) -> $out {
            #[allow(non_camel_case_types, reason = "each argument's type parameter has the argument's name")]
            struct Arguments<$($arg),*> { $($arg: $arg),* }
            impl$(<$($param: $bound),+>)? $crate::simd::Kernel for Arguments<$($type),*> {
                type Output = $out;
                const MULTIPLIES_INT8: bool = $int8;
                #[inline(always)]
                fn run<S: $crate::simd::QuantKernels>(self, $s: S) -> $out {
                    let Self { $($arg),* } = self;
                    $body
                }
            }
            isa.run(Arguments { $($arg),* })
        }
    };
    ($($kernel:tt)+) => { $crate::simd::kernel! { @true $($kernel)+ } };
}
pub(crate) use kernel;
