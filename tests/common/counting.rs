//! An allocator that counts, for test crates that say `#[global_allocator]`.

#![allow(
    unsafe_code,
    reason = "GlobalAlloc is an unsafe trait; every call is handed on to the system's allocator"
)]
#![allow(dead_code, reason = "each test crate uses a part of it")]
#![allow(unreachable_pub, reason = "as in common/mod.rs")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts calls on all threads, and bytes on each.
pub struct Counting;

static CALLS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    // Constants without a destructor: reading them allocates nothing.
    static CALLS_HERE: Cell<usize> = const { Cell::new(0) };
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(size: usize) {
    CALLS.fetch_add(1, Ordering::Relaxed);
    CALLS_HERE.set(CALLS_HERE.get() + 1);
    LIVE.set(LIVE.get() + size as isize);
    PEAK.set(PEAK.get().max(LIVE.get()));
}

// SAFETY: everything is handed on to `System`, with what the caller promised.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both may exist for a moment.
        count(size);
        LIVE.set(LIVE.get() - layout.size() as isize);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get() - layout.size() as isize);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(old, layout) }
    }
}

/// Calls to the allocator so far, on all threads.
pub fn calls() -> u64 {
    CALLS.load(Ordering::Relaxed)
}

/// Calls to the allocator so far, on this thread.
pub fn calls_here() -> usize {
    CALLS_HERE.get()
}

/// What `work` gives, and the most bytes that this thread held meanwhile beyond those it held
/// before.
pub fn peak<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.get();
    PEAK.set(before);
    let result = work();
    (result, usize::try_from(PEAK.get() - before).unwrap())
}
