//! How intrinsics are called: in functions that are compiled for the instruction set that has
//! them, where they are safe.

/// Implements a trait for a token. Each operation becomes a function of its own with
/// `#[target_feature]`, in which intrinsics are safe, and a method that calls it. What stands in
/// braces at the top is part of the `impl` as it is.
///
/// Only a kernel's function (see [`Isa::run`](super::Isa::run)) and other such functions have the
/// features that the compiler asks for before it inlines an operation, and it does so by its own
/// judgment: keep operations short.
macro_rules! target_feature_impl {
    (
        $features:literal
        impl $(<$param:ident: $bound:ident>)? $trait:ident for $token:ty {
            { $($verbatim:tt)* }
            $(
                $(#[$meta:meta])*
                fn $name:ident $(<$(const $const:ident: $const_type:ty),+>)? (
                    $($arg:ident: $type:ty),* $(,)?
                ) $(-> $out:ty)? $body:block
            )*
        }
    ) => {
        impl $(<$param: $bound>)? $trait for $token {
            $($verbatim)*
            $(
                #[inline(always)]
                fn $name $(<$(const $const: $const_type),+>)? (self, $($arg: $type),*) $(-> $out)? {
                    // SAFETY: the function asks for nothing except the features. `self` proves
                    // that the processor has them: it is made only by `detect`, after that has
                    // seen each of them, or from a token whose features include these.
                    unsafe { $name $(::<$($const),+>)? ($($arg),*) }
                }
            )*
        }
        $(
            $(#[$meta])*
            #[target_feature(enable = $features)]
            #[inline]
            pub(in crate::simd) fn $name $(<$(const $const: $const_type),+>)? (
                $($arg: $type),*
            ) $(-> $out)? $body
        )*
    };
}
pub(crate) use target_feature_impl;
