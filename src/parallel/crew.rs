//! A caller and its helpers, and the protocol by which they claim the chunks of a region.
//!
//! A region's chunks are in two queues, the caller's and the helpers'. Both are walked upwards, so
//! that what a chunk prefetches at its end is what its thread reads next. A thread whose queue is
//! empty takes chunks from the end of the other one. So on two threads each reads much the same
//! rows in every forward pass, and finds some of them in its own cache; and until one of them is
//! done, neither touches what the other writes: a cache line takes 30 to 300 ns from one processor
//! to another.

#![allow(unsafe_code, reason = "helpers call a closure that the caller's stack owns")]

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::queue::{CachePadded, ChunkQueue};
use super::sync::{AtomicBool, AtomicUsize, Ordering, UnsafeCell, spin_loop, yield_now};

/// How long a helper without work keeps its thread of the pool, so that the next token finds it
/// ready.
const LINGER: Duration = Duration::from_millis(20);

/// How long a helper spins between two forward passes before it sleeps: waking it costs about 50
/// us.
const SPIN_BETWEEN_PASSES: Duration = Duration::from_micros(200);

/// How long a helper keeps a thread of a lent pool. It leaves at the end of a region, where its
/// place is taken again within microseconds; so what it costs is the caller's time to spawn
/// another.
const STINT: Duration = Duration::from_millis(1);

/// How long it keeps the thread if the region doesn't end: then it leaves between two chunks.
pub(super) const MAX_STINT: Duration = Duration::from_millis(2);

/// What the caller and its helpers share.
#[derive(Default)]
pub(super) struct Crew {
    /// A [`Pass`] exists.
    entered: AtomicBool,
    /// Helpers may expect chunks.
    open: AtomicBool,
    callers: CachePadded<ChunkQueue>,
    shared: CachePadded<Region>,
    /// Helpers that were spawned and have not left.
    present: AtomicUsize,
    /// Whether they are in a lent pool, whose threads they must soon give back.
    is_lent: bool,
    /// Helpers that sleep between two passes.
    asleep: Mutex<usize>,
    wake: Condvar,
    /// What a chunk panicked with in a helper.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// What helpers need of a region.
#[derive(Default)]
struct Region {
    unclaimed: ChunkQueue,
    /// Chunks of this region that helpers have finished.
    finished: AtomicUsize,
    /// Written by the caller before it fills the queues; read by helpers that claimed a chunk.
    job: UnsafeCell<Option<Job>>,
}

// SAFETY: every field except `job` is `Sync` by itself. `job` is private to this module, which
// touches it in two places: `Pass::run_region` writes it and `Crew::run_chunks` reads it. Their
// notes prove that no read happens at the same time as a write. Reads at the same time copy a
// pointer to an `F: Sync` and a function, which any thread may have.
unsafe impl Sync for Region {}
// SAFETY: every field except the pointer in `job` is `Send` by itself. It points to an `F: Sync`,
// and only the unsafe `Job::run` follows it.
unsafe impl Send for Region {}

/// A borrow of a region's work without its type and its lifetime, so that it fits a field that
/// outlives the region.
#[derive(Clone, Copy)]
struct Job {
    work: *const (),
    call: unsafe fn(*const (), usize),
}

impl Job {
    fn new<F: Fn(usize) + Sync>(work: &F) -> Self {
        /// # Safety
        /// `work` points to a live `F`, which this thread may share.
        unsafe fn call<F: Fn(usize)>(work: *const (), chunk: usize) {
            // SAFETY: the function's contract is that of this dereference.
            let work = unsafe { &*work.cast::<F>() };
            work(chunk);
        }
        Self { work: std::ptr::from_ref(work).cast(), call: call::<F> }
    }

    /// # Safety
    /// The borrow that the job was made of still lasts, until this returns or unwinds.
    unsafe fn run(self, chunk: usize) {
        // SAFETY: `new` paired the pointer to an `F` with the function for that `F`, and required
        // `F: Sync`; that it is alive is this function's contract.
        unsafe { (self.call)(self.work, chunk) };
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The right to run regions with a crew. A crew has at most one at a time; it ends with the forward
/// pass, also by a panic.
///
/// It isn't `Sync`, and what a region runs is: so a region that opens another one doesn't compile.
/// (A chunk on the caller's own thread could still come by it, through a thread-local variable:
/// that is what `in_region` is for.)
pub(super) struct Pass<'a> {
    crew: &'a Crew,
    in_region: Cell<bool>,
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        // Left there if the caller's own chunk panicked as well.
        *lock(&self.crew.panic) = None;
        self.crew.open.store(false, Ordering::Release);
        self.crew.entered.store(false, Ordering::Release);
    }
}

impl Pass<'_> {
    /// Calls `work(i)` once for every `i` below `callers + helpers`, on the caller's thread and
    /// those of helpers that show up. The caller begins with number 0, helpers with number
    /// `callers`. `between` is called after each of the caller's chunks.
    ///
    /// Inside a region of the same pass, which then has all helpers, the caller does it alone.
    pub(super) fn run_region<F: Fn(usize) + Sync>(
        &self,
        callers: usize,
        helpers: usize,
        work: &F,
        between: impl Fn() + Sync,
    ) {
        if self.in_region.get() {
            return (0..callers + helpers).for_each(work);
        }
        let count = |n| u32::try_from(n).expect("a region has at most some thousand chunks");
        let (callers, n) = (count(callers), count(callers + helpers));
        let Crew { callers: callers_queue, shared: CachePadded(region), .. } = self.crew;
        let mut guard = RegionGuard::new(self, n);
        // SAFETY: nothing else accesses `job` now.
        // - No writer: that is this function alone. `self` is the crew's only `Pass`, since `open`
        //   made it after it changed `entered` from false to true, which only its drop takes back.
        //   It isn't `Sync`, so no other thread is in here with it; and this thread isn't, because
        //   `in_region` was false.
        // - No reader: `Crew::run_chunks` reads it after it claimed a chunk and before it counts
        //   that chunk as finished. Each region before this one has ended with the drop of its
        //   guard, which left both queues empty and saw, with Acquire, as many chunks counted, with
        //   Release, as helpers had claimed: so those reads happened before this write. That holds
        //   for the regions of earlier passes too, as `entered` was released after them and
        //   acquired before this one. Nothing can be claimed until the queues are filled below.
        region.job.with_mut(|job| unsafe { *job = Some(Job::new(work)) });
        region.finished.store(0, Ordering::Relaxed);
        region.unclaimed.set(callers..n);
        // The first chunk is the caller's without a claim, which would wait until the stores above
        // are with the helpers.
        callers_queue.0.set(callers.min(1)..callers);
        let mut claimed = (callers > 0).then_some(0);
        while let Some(chunk) = claimed {
            guard.not_callers -= 1;
            work(chunk as usize);
            between();
            claimed = callers_queue.0.claim_first().or_else(|| region.unclaimed.claim_last());
        }
        drop(guard);
        if let Some(payload) = lock(&self.crew.panic).take() {
            resume_unwind(payload);
        }
    }
}

/// Ends a region: however it ends, no helper has a chunk of it any more when this is dropped.
struct RegionGuard<'a> {
    pass: &'a Pass<'a>,
    /// Chunks that the caller hasn't claimed.
    not_callers: u32,
}

impl<'a> RegionGuard<'a> {
    fn new(pass: &'a Pass<'a>, n_chunks: u32) -> Self {
        pass.in_region.set(true);
        Self { pass, not_callers: n_chunks }
    }
}

impl Drop for RegionGuard<'_> {
    fn drop(&mut self) {
        let Crew { callers, shared, .. } = self.pass.crew;
        // Chunks are left only if the caller's own chunk panicked: take them, so that no helper
        // will.
        let left = callers.0.take() + shared.0.unclaimed.take();
        let claimed = self.not_callers as usize - left;
        let finished = || shared.0.finished.load(Ordering::Acquire) == claimed;
        while !spin(4096, finished) {
            yield_now(); // a helper lost its processor in the middle of a chunk
        }
        self.pass.in_region.set(false);
    }
}

impl Crew {
    pub(super) fn new(is_lent: bool) -> Self {
        Self { is_lent, ..Self::default() }
    }

    pub(super) fn is_lent(&self) -> bool {
        self.is_lent
    }

    /// Takes the crew for one forward pass and wakes its helpers; `None` if another pass has it.
    pub(super) fn open(&self) -> Option<Pass<'_>> {
        if self.entered.swap(true, Ordering::Acquire) {
            return None;
        }
        let asleep = lock(&self.asleep);
        self.open.store(true, Ordering::Release);
        if *asleep > 0 {
            self.wake.notify_all();
        }
        Some(Pass { crew: self, in_region: Cell::new(false) })
    }

    /// How many of `wanted` helpers are missing. They count as present from now on, so each must be
    /// made to call [`help`](Self::help).
    #[inline]
    pub(super) fn recruit(&self, wanted: usize) -> usize {
        let missing = wanted.saturating_sub(self.present.load(Ordering::Relaxed));
        if missing > 0 {
            self.present.fetch_add(missing, Ordering::Relaxed);
        }
        missing
    }

    #[cfg(all(test, feature = "rayon"))]
    pub(super) fn n_present(&self) -> usize {
        self.present.load(Ordering::Relaxed)
    }

    /// A helper's whole stay: claims chunks while a pass is open, waits between passes, and signs
    /// off.
    pub(super) fn help(&self) {
        let arrived = Instant::now();
        let stays = |limit| !self.is_lent || arrived.elapsed() < limit;
        loop {
            self.run_chunks(|| stays(MAX_STINT));
            if !stays(STINT) {
                return self.sign_off();
            }
            if !self.wait() {
                return;
            }
        }
    }

    /// Claims and runs chunks until none are left, or until `stays` is false after one of them.
    #[inline]
    pub(super) fn run_chunks(&self, stays: impl Fn() -> bool) {
        let region = &self.shared.0;
        while let Some(chunk) = region.unclaimed.claim_first().or_else(|| self.callers.0.claim_last()) {
            // SAFETY: nothing writes `job` now. `run_region` wrote it before it filled the queue,
            // with Release, that this chunk was claimed from, with Acquire; and it doesn't write it
            // again before this chunk's guard has seen it counted as finished, below.
            let job = region.job.with(|job| unsafe { *job });
            let run = || {
                if let Some(job) = job {
                    // SAFETY: the job was made of `run_region`'s borrow of `work`. It can neither
                    // return nor unwind before its guard has seen this chunk counted as finished,
                    // and that comes after this call has returned or unwound.
                    unsafe { job.run(chunk as usize) }
                }
            };
            if let Err(payload) = catch_unwind(AssertUnwindSafe(run)) {
                *lock(&self.panic) = Some(payload);
            }
            region.finished.fetch_add(1, Ordering::Release);
            if !stays() {
                return;
            }
        }
    }

    fn sign_off(&self) {
        self.present.fetch_sub(1, Ordering::Relaxed);
    }

    /// Waits for chunks; false if the helper has signed off.
    fn wait(&self) -> bool {
        let since = Instant::now();
        while !spin(64, || !self.shared.0.unclaimed.is_empty()) {
            if since.elapsed() < SPIN_BETWEEN_PASSES {
                continue;
            }
            if self.is_lent {
                // the caller is busy with something of its own, and its pool may have other work
                self.sign_off();
                return false;
            }
            if self.open.load(Ordering::Acquire) {
                // the caller is busy with something of its own: let others run
                yield_now();
            } else {
                return self.sleep();
            }
        }
        true
    }

    /// Sleeps until a pass opens; false if none did within [`LINGER`], and the helper has signed
    /// off.
    fn sleep(&self) -> bool {
        let mut asleep = lock(&self.asleep);
        *asleep += 1;
        let closed = |_: &mut usize| !self.open.load(Ordering::Acquire);
        let waited = self.wake.wait_timeout_while(asleep, LINGER, closed);
        let (mut asleep, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        *asleep -= 1;
        if timeout.timed_out() {
            self.sign_off(); // while no pass can open that would count on this helper
        }
        !timeout.timed_out()
    }
}

/// Spins until `done`, at most `times`; whether it was done.
#[inline]
fn spin(times: u32, done: impl Fn() -> bool) -> bool {
    for _ in 0..times {
        if done() {
            return true;
        }
        spin_loop();
    }
    false
}
