//! A checkpoint that is already in memory.

use std::sync::Arc;

use crate::storage::Storage;

/// The bytes of a checkpoint in memory. Bytes that are aligned for f32 are used where they are;
/// others are copied once.
///
/// Memory from the allocator and mappings are aligned; bytes of `include_bytes!` may lie anywhere,
/// so [`include_model!`](crate::include_model) aligns them. What isn't named here can bring its
/// bytes through [`ModelBytes::from_owner`].
#[derive(Debug)]
pub struct ModelBytes(pub(crate) Storage);

impl ModelBytes {
    /// The bytes of any owner, such as a `memmap2::Mmap` of the caller's or a `bytes::Bytes`: it is
    /// kept while the model lives.
    ///
    /// Its `as_ref` is called once. A mapped file must not change while the model lives, as with
    /// [`Model::open`](crate::Model::open).
    ///
    /// ```
    /// use babyllama::{Model, ModelBytes};
    ///
    /// struct Downloaded { body: Vec<u8> }
    ///
    /// impl AsRef<[u8]> for Downloaded {
    ///     fn as_ref(&self) -> &[u8] {
    ///         &self.body
    ///     }
    /// }
    ///
    /// # let body = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf"))?;
    /// let downloaded = Downloaded { body };
    /// let model = Model::from_bytes(ModelBytes::from_owner(downloaded))?;
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    #[must_use]
    pub fn from_owner<T: AsRef<[u8]> + Send + Sync + 'static>(owner: T) -> Self {
        Self(Storage::from_owner(owner))
    }
}

impl From<&'static [u8]> for ModelBytes {
    fn from(bytes: &'static [u8]) -> Self {
        Self(Storage::from_static(bytes))
    }
}

impl<const N: usize> From<&'static [u8; N]> for ModelBytes {
    fn from(bytes: &'static [u8; N]) -> Self {
        Self(Storage::from_static(bytes))
    }
}

impl From<Vec<u8>> for ModelBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::from_owner(bytes)
    }
}

impl From<Box<[u8]>> for ModelBytes {
    fn from(bytes: Box<[u8]>) -> Self {
        Self::from_owner(bytes)
    }
}

impl From<Arc<[u8]>> for ModelBytes {
    fn from(bytes: Arc<[u8]>) -> Self {
        Self::from_owner(bytes)
    }
}

/// Includes a checkpoint in the program, aligned so that the model uses it where it is: `&'static
/// [u8]`.
///
/// The path is relative to the source file, as with [`include_bytes!`].
///
/// ```
/// use babyllama::Model;
///
/// static STORIES: &[u8] =
///     babyllama::include_model!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf"));
///
/// let model = Model::from_bytes(STORIES)?;
/// assert_eq!(model.config().dim, 128);
/// # Ok::<(), babyllama::Error>(())
/// ```
#[macro_export]
macro_rules! include_model {
    ($path:expr $(,)?) => {{
        #[repr(C, align(64))]
        struct Aligned<T: ?Sized>(T);
        const MODEL: &Aligned<[u8]> = &Aligned(*::core::include_bytes!($path));
        let bytes: &'static [u8] = &MODEL.0;
        bytes
    }};
}
