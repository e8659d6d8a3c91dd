//! The bytes of a checkpoint: a file mapping, or memory that the caller gave.
//!
//! # What a mapping promises
//! A mapped file can be changed while it is mapped, by this process or by another, and no program
//! can prevent that. By the letter of the memory model it is undefined behavior: a write to the
//! file at the time of a read through the mapping is a data race, and the bytes behind a `&[u8]`
//! must not change at all. That is why [`Mmap::map`] is unsafe, and nothing in this file takes the
//! problem away. [`Model::open`] is a safe function all the same. It asks its callers not to change
//! the file, and this crate keeps to four rules so that in practice nothing worse comes of it than
//! wrong numbers:
//!
//! 1. Headers, hyperparameters, vocabulary and strings are copied out while the file is read, by
//!    safe code, which stays in bounds whatever it reads.
//! 2. Tensor bytes are viewed only as [`Plain`] types, for which every bit pattern is a value.
//! 3. After the model is loaded, no length and no position is taken from mapped bytes. The only
//!    indices are the codes of formats with a table of values (IQ4): they are masked to the size of
//!    the table in the expression that reads them, so that it doesn't matter which bytes it reads.
//! 4. No public function returns a slice of mapped bytes.
//!
//! What follows in practice: a read of a byte that is being written gives its old or its new value,
//! and one that the compiler repeats may give both. So a file that is overwritten while it is in
//! use gives wrong numbers. One that is cut short ends the process with the operating system's own
//! signal, as for every program that maps files. A program that can't rule this out reads the file
//! itself and gives the bytes to [`Model::from_bytes`].
//!
//! [`Model::open`]: crate::Model::open
//! [`Model::from_bytes`]: crate::Model::from_bytes

#![allow(unsafe_code, reason = "maps a file, and views bytes as numbers")]

pub(crate) mod folder;

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::{Mmap, MmapMut};

use crate::error::{Error, ErrorKind, Result};
use crate::simd::Number;

/// Tensors of f32 are viewed in place, so the storage must start at a multiple of this many bytes.
const ALIGNMENT: usize = 64;

/// Bytes of a huge page.
const HUGE_PAGE: usize = 2 << 20;

/// A type of which every bit pattern is a value.
///
/// # Safety
/// Any `size_of::<Self>()` initialized bytes at an aligned address are a valid `Self`, and `Self`
/// has at least one byte and no interior mutability.
pub(crate) unsafe trait Plain: Copy + 'static {}
// SAFETY: every pattern of 32 bits is an f32.
unsafe impl Plain for f32 {}
// SAFETY: every pattern of 32 bits is an i32.
unsafe impl Plain for i32 {}
// SAFETY: every pattern of 16 bits is a u16.
unsafe impl Plain for u16 {}
// SAFETY: every pattern of 16 bits is an i16.
unsafe impl Plain for i16 {}
// SAFETY: every byte is an i8.
unsafe impl Plain for i8 {}
// SAFETY: every byte is a u8.
unsafe impl Plain for u8 {}
// SAFETY: it is transparent over four bytes, and every byte is a u8.
unsafe impl Plain for UnalignedF32 {}

/// A little-endian f32 at any address: llama2.c's v2 puts scales after int8
/// blocks of any length.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(transparent)]
pub(crate) struct UnalignedF32([u8; 4]);

impl Number for UnalignedF32 {
    #[inline(always)]
    fn get(self) -> f32 {
        f32::from_le_bytes(self.0)
    }
}

#[cfg(target_endian = "big")]
compile_error!(
    "checkpoints are little-endian and viewed in place, so babyllama needs a little-endian target"
);

/// Where the bytes of a checkpoint lie.
#[derive(Debug)]
pub(crate) struct Storage {
    bytes: Bytes,
    path: Option<PathBuf>,
}

enum Bytes {
    Mapped(Mmap),
    Static(&'static [u8]),
    Owned(OwnedBytes),
    Aligned(AlignedBytes),
    /// Anonymous memory, which is used from `start` on.
    HugePages {
        map: MmapMut,
        start: usize,
    },
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (name, len) = match self {
            Self::Mapped(b) => ("Mapped", b.len()),
            Self::Static(b) => ("Static", b.len()),
            Self::Owned(b) => ("Owned", b.len),
            Self::Aligned(b) => ("Aligned", b.len),
            Self::HugePages { map, .. } => ("HugePages", map.len()),
        };
        write!(f, "{name}({len} bytes)")
    }
}

impl Storage {
    /// Maps a file. The mapping costs address space, not memory: pages come in when they are read.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let at = |e: std::io::Error| Error::from(e).at(Some(path));
        // Asked of the path: to open a pipe would wait for somebody to write to it.
        let metadata = std::fs::metadata(path).map_err(at)?;
        if !metadata.is_file() {
            return Err(Error::from(folder::not_a_file(path)).at(Some(path)));
        }
        let file = File::open(path).map_err(at)?;
        let bytes =
            if metadata.len() == 0 { Bytes::Static(&[]) } else { map(&file, metadata.len()).map_err(at)? };
        Ok(Self { bytes, path: Some(path.to_path_buf()) })
    }

    /// Takes bytes that live as long as the program, such as those of `include_bytes!`.
    pub(crate) fn from_static(bytes: &'static [u8]) -> Self {
        Self::aligned_or_copied(Bytes::Static(bytes))
    }

    #[cfg(any(test, feature = "convert"))]
    pub(crate) fn from_vec(bytes: Vec<u8>) -> Self {
        Self::from_owner(bytes)
    }

    /// Takes bytes with what owns them. They are asked for once.
    pub(crate) fn from_owner<T: AsRef<[u8]> + Send + Sync + 'static>(owner: T) -> Self {
        Self::aligned_or_copied(Bytes::Owned(OwnedBytes::new(owner)))
    }

    /// Copies some bytes to memory in pages of 2 MiB, which the processor reads faster than pages
    /// of 4 KiB, and says where each of them is. Each begins at a multiple of [`ALIGNMENT`].
    ///
    /// The system decides: it may have no such pages, and then the copy lies in small ones.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`].
    pub(crate) fn in_huge_pages(parts: &[&[u8]]) -> Result<(Self, Vec<Range<usize>>)> {
        let mut len = 0;
        let mut ranges = Vec::new();
        for part in parts {
            ranges.push(len..len + part.len());
            len = (len + part.len()).next_multiple_of(ALIGNMENT);
        }
        if !HAS_MAPPINGS {
            // `len` is rounded up after each part, as its blocks are.
            let blocks = parts.iter().flat_map(|part| AlignedBytes::copy_of(part).blocks).collect();
            return Ok((Self { bytes: Bytes::Aligned(AlignedBytes { blocks, len }), path: None }, ranges));
        }
        let out_of_memory = |_| ErrorKind::OutOfMemory { what: "a copy of the weights", bytes: len as u64 };
        let mut map = MmapMut::map_anon(len + HUGE_PAGE).map_err(out_of_memory)?;
        let start = map.as_ptr().align_offset(HUGE_PAGE).min(HUGE_PAGE);
        #[cfg(target_os = "linux")]
        // A system without such pages says so here; small ones do as well.
        let _ = map.advise(memmap2::Advice::HugePage);
        for (part, range) in parts.iter().zip(&ranges) {
            map[start..][range.clone()].copy_from_slice(part);
        }
        Ok((Self { bytes: Bytes::HugePages { map, start }, path: None }, ranges))
    }

    /// Keeps bytes that are aligned for f32 where they are, and copies others to where they are.
    fn aligned_or_copied(bytes: Bytes) -> Self {
        let storage = Self { bytes, path: None };
        if storage.bytes().as_ptr().cast::<f32>().is_aligned() {
            return storage;
        }
        let copy = AlignedBytes::copy_of(storage.bytes());
        Self { bytes: Bytes::Aligned(copy), path: None }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(b) => b,
            Bytes::Static(b) => b,
            Bytes::Owned(b) => b.as_slice(),
            Bytes::Aligned(b) => b.as_slice(),
            Bytes::HugePages { map, start } => &map[*start..],
        }
    }

    pub(crate) fn len(&self) -> u64 {
        self.bytes().len() as u64
    }

    /// The file, when the bytes came from one.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Views a range as numbers.
    ///
    /// # Panics
    /// If the range lies outside, is misaligned, or isn't a multiple of `T`'s size: readers check
    /// that before they make a tensor.
    pub(crate) fn view<T: Plain>(&self, range: Range<usize>) -> &[T] {
        cast(&self.bytes()[range]).expect("tensors are checked when they are made")
    }

    /// Whether a range can be viewed as `T`s.
    pub(crate) fn can_view<T: Plain>(&self, range: Range<usize>) -> bool {
        self.bytes().get(range).is_some_and(|bytes| cast::<T>(bytes).is_some())
    }
}

/// Whether the system maps files. WASI doesn't, nor does Miri.
const HAS_MAPPINGS: bool = cfg!(all(any(unix, windows), not(miri)));

/// Maps a file; where that isn't possible, reads it.
fn map(file: &File, len: u64) -> std::io::Result<Bytes> {
    if HAS_MAPPINGS {
        // SAFETY: `Mmap::map` requires that nobody changes the file while it is mapped. That can't
        // be proved: `Model::open` asks it of its callers, and the top of this module says what
        // follows where they break it.
        return Ok(Bytes::Mapped(unsafe { Mmap::map(file) }?));
    }
    let mut bytes = Vec::new();
    let too_large = |_| std::io::Error::from(std::io::ErrorKind::OutOfMemory);
    bytes.try_reserve_exact(usize::try_from(len).unwrap_or(usize::MAX)).map_err(too_large)?;
    let mut file = file;
    file.read_to_end(&mut bytes)?;
    Ok(Storage::from_owner(bytes).bytes)
}

/// Views bytes as numbers; `None` if they are misaligned or don't divide evenly.
fn cast<T: Plain>(bytes: &[u8]) -> Option<&[T]> {
    let size = size_of::<T>();
    let start = bytes.as_ptr().cast::<T>();
    if !start.is_aligned() || !bytes.len().is_multiple_of(size) {
        return None;
    }
    // SAFETY: `start` is aligned for `T` and the length is a multiple of its size (both checked
    // above), so these are exactly the initialized bytes of `bytes`, which `T: Plain` says are
    // valid elements. They stay borrowed, unchanged, for the lifetime of `bytes`, which is that of
    // the result.
    Some(unsafe { std::slice::from_raw_parts(start, bytes.len() / size) })
}

/// Bytes of an owner that the caller brought: a vector, a mapping, or a type of its own.
///
/// A safe `AsRef` may give another slice each time, so it is asked once, and the slice is kept as a
/// pointer beside the owner. An `Arc` holds the owner: it stays where it is when this moves, and
/// unlike a `Box` it claims no sole access to it, which the pointer would break.
struct OwnedBytes {
    start: NonNull<u8>,
    len: usize,
    _owner: Arc<dyn Send + Sync>,
}

// SAFETY: it holds what a `&[u8]` and an `Arc<dyn Send + Sync>` are made of, both of which are
// `Send`; the pointer is never written through.
unsafe impl Send for OwnedBytes {}
// SAFETY: it holds what a `&[u8]` and an `Arc<dyn Send + Sync>` are made of, both of which are
// `Sync`; the pointer is never written through.
unsafe impl Sync for OwnedBytes {}

impl OwnedBytes {
    fn new<T: AsRef<[u8]> + Send + Sync + 'static>(owner: T) -> Self {
        let owner = Arc::new(owner);
        let bytes: &[u8] = T::as_ref(&owner);
        Self { start: NonNull::from(bytes).cast(), len: bytes.len(), _owner: owner }
    }

    fn as_slice(&self) -> &[u8] {
        // SAFETY: `new` took the pointer and the length from a `&[u8]` that was borrowed from the
        // owner, so they are good for as long as that borrow could have lasted. It could have
        // lasted until the owner is dropped: no one else has this Arc, and nothing here calls the
        // owner, moves it out of the Arc or borrows it mutably. `self` drops it, and the result
        // borrows `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

/// Owned bytes that start at a multiple of [`ALIGNMENT`].
///
/// Invariant: the blocks have at least `len` bytes.
struct AlignedBytes {
    blocks: Vec<Block>,
    len: usize,
}

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Block([u8; ALIGNMENT]);

impl AlignedBytes {
    fn copy_of(bytes: &[u8]) -> Self {
        let blocks = bytes
            .chunks(ALIGNMENT)
            .map(|chunk| {
                let mut block = Block([0; ALIGNMENT]);
                block.0[..chunk.len()].copy_from_slice(chunk);
                block
            })
            .collect();
        Self { blocks, len: bytes.len() }
    }

    fn as_slice(&self) -> &[u8] {
        debug_assert!(self.len <= size_of_val(&self.blocks[..]));
        // SAFETY: a `Block` is `ALIGNMENT` initialized bytes, without padding as it is as large as
        // its alignment; `blocks` has at least `len` of them by the type's invariant, one after
        // another, and stays borrowed with `self` for as long as the result.
        unsafe { std::slice::from_raw_parts(self.blocks.as_ptr().cast::<u8>(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misaligned_bytes_are_copied_to_where_they_can_be_viewed() {
        static BACKING: Block = Block([7; ALIGNMENT]);
        let odd = Storage::from_static(&BACKING.0[1..9]);
        assert_eq!(odd.bytes(), &[7; 8]);
        assert_eq!(odd.view::<f32>(0..8).len(), 2);
        let even = Storage::from_static(&BACKING.0[4..12]);
        assert_eq!(even.bytes().as_ptr(), BACKING.0[4..].as_ptr(), "an aligned slice is not copied");
    }

    #[test]
    fn bytes_of_every_owner_stay_where_they_are() {
        let numbers = || (0..1000).map(|i| i as u8).collect::<Vec<u8>>();
        // Real allocators align bytes for f32; Miri's doesn't always, and then they are copied.
        let is_at = |storage: &Storage, address: *const u8| {
            storage.bytes().as_ptr() == address || !address.cast::<f32>().is_aligned()
        };
        let vector = numbers();
        let address = vector.as_ptr();
        assert!(is_at(&Storage::from_owner(vector), address));
        let boxed = numbers().into_boxed_slice();
        let address = boxed.as_ptr();
        assert!(is_at(&Storage::from_owner(boxed), address));
        let shared: Arc<[u8]> = numbers().into();
        assert!(is_at(&Storage::from_owner(Arc::clone(&shared)), shared.as_ptr()));
        if HAS_MAPPINGS {
            let mut map = MmapMut::map_anon(1000).unwrap();
            map.copy_from_slice(&numbers());
            let map = map.make_read_only().unwrap();
            let address = map.as_ptr();
            assert_eq!(Storage::from_owner(map).bytes().as_ptr(), address);
        }
        // The bytes may lie in the owner itself, which then stays where it is when the storage
        // moves.
        let storage = Storage::from_owner(Block([7; ALIGNMENT]));
        let address = storage.bytes().as_ptr();
        let moved = std::thread::spawn(move || Box::new(storage)).join().unwrap();
        assert_eq!((moved.bytes().as_ptr(), moved.bytes()), (address, &[7; ALIGNMENT][..]));
    }

    impl AsRef<[u8]> for Block {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    #[test]
    fn an_owner_that_gives_other_bytes_each_time_is_asked_once() {
        use std::sync::atomic::{AtomicUsize, Ordering};

        struct Fickle(Vec<u8>, AtomicUsize, Arc<AtomicUsize>);

        impl AsRef<[u8]> for Fickle {
            fn as_ref(&self) -> &[u8] {
                let asked = self.1.fetch_add(1, Ordering::Relaxed);
                self.2.store(asked + 1, Ordering::Relaxed);
                [&self.0[..], &self.0[..1], &[]][asked.min(2)]
            }
        }

        let asked = Arc::new(AtomicUsize::new(0));
        let storage = Storage::from_owner(Fickle(vec![5; 400], AtomicUsize::new(0), Arc::clone(&asked)));
        for _ in 0..3 {
            assert_eq!((storage.len(), storage.view::<u8>(396..400)), (400, &[5; 4][..]));
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_view_outside_or_uneven_is_refused() {
        let storage = Storage::from_vec(vec![0; 64]);
        assert!(storage.can_view::<f32>(0..64));
        assert!(!storage.can_view::<f32>(0..63));
        assert!(!storage.can_view::<f32>(1..5));
        assert!(!storage.can_view::<f32>(0..128));
        assert!(storage.can_view::<UnalignedF32>(1..5));
    }
}
