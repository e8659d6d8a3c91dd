//! With the feature `serde`: a value that has a name is written as that name, and read from it.

use serde::de::{Deserialize, Deserializer, Error};
use serde::ser::{Serialize, Serializer};

use crate::chat::{Role, Template};
#[cfg(feature = "convert")]
use crate::convert::Recipe;
use crate::kv_cache::CacheDtype;
use crate::quant::Dtype;
use crate::simd::Isa;

macro_rules! by_name {
    ($($(#[$meta:meta])* $type:ty),*) => {$(
        $(#[$meta])*
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        $(#[$meta])*
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    )*};
}

by_name!(
    CacheDtype,
    Dtype,
    Isa,
    Role,
    Template,
    #[cfg(feature = "convert")]
    Recipe
);
