//! Threads: how the rows of a matrix are shared out, and, with its tests, the only file that names
//! rayon.
//!
//! A forward pass is a few hundred regions of some microseconds each, so entering a pool for each
//! of them would cost more than it gains. Instead the calling thread opens a [`Team`] once for a
//! forward pass; helpers from the pool join it and claim chunks of whatever region is under way,
//! each part's from an atomic word. Measured on two threads, a region costs 0.3-2 us this way,
//! against 6-15 us for a rayon `install`.
//!
//! What holds:
//! - The caller works too, and never waits for a helper that hasn't claimed a chunk. So a pool that
//!   is busy, or whose every thread waits for the caller, costs speed and never liveness.
//! - A chunk computes the same numbers whoever runs it, so results are the same bits for any number
//!   of threads.
//! - The process-global pool is never built or used.
//! - In a pool of our own entering allocates nothing after the first time: a helper lingers for
//!   [`LINGER`] before it gives its thread back.
//! - In the caller's pool a helper gives its thread back after a [`STINT`], and is sent for again
//!   behind whatever waits for it there. For rayon may run a helper inside a `join` of the
//!   caller's, which goes on only when the helper returns.

#![cfg_attr(not(feature = "rayon"), allow(dead_code, unused_imports, reason = "without it nobody helps"))]
#![allow(
    unsafe_code,
    reason = "chunks write disjoint columns of one buffer, which slices alone can't express"
)]

mod chunks;

use std::any::Any;
use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{ErrorKind, Result};

#[cfg(feature = "rayon")]
pub(crate) use rayon::ThreadPool;

/// How long a helper without work keeps its thread of the pool, so that the next token finds it
/// ready.
const LINGER: Duration = Duration::from_millis(20);

/// How long a helper spins between two forward passes before it sleeps: waking it costs about 50
/// us.
const SPIN_BETWEEN_PASSES: Duration = Duration::from_micros(200);

/// How long a helper keeps a thread of the caller's pool. It leaves at the end of a region, where
/// its place is taken again within microseconds; so what it costs is the caller's time to send for
/// it.
const STINT: Duration = Duration::from_millis(1);

/// How long it keeps the thread if the region doesn't end: then it leaves between two chunks.
const MAX_STINT: Duration = Duration::from_millis(2);

/// A chunk in the caller's pool is at most about this much work, in bytes of weights times tokens:
/// a millisecond for decode at 16 GB/s, and less for prefill, whose products meet a weight in the
/// cache.
const MAX_CHUNK_WORK: usize = 16 << 20;

/// A region that reads fewer bytes than this is done by the caller alone: sharing it would take
/// longer.
const MIN_REGION_BYTES: usize = 48 << 10;

/// The threads of a model: the calling one, and helpers from a pool.
#[derive(Clone)]
pub(crate) struct Threads {
    count: usize,
    crew: Arc<Crew>,
    /// Threads of our own start with the first pass that shares its work.
    #[cfg(feature = "rayon")]
    pool: Arc<OnceLock<Arc<ThreadPool>>>,
}

impl std::fmt::Debug for Threads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Threads({})", self.count)
    }
}

impl Threads {
    /// As many threads as `count`, of which one is the caller's; the others are a pool of our own,
    /// started already.
    ///
    /// # Errors
    /// As [`Threads::start`].
    #[cfg(test)]
    pub(crate) fn new(count: usize) -> Result<Self> {
        let threads = Self::unstarted(count);
        threads.start().map(|()| threads)
    }

    #[cfg(feature = "rayon")]
    fn unstarted(count: usize) -> Self {
        Self { count: count.max(1), crew: Arc::default(), pool: Arc::default() }
    }

    /// Without rayon there is only the caller.
    #[cfg(not(feature = "rayon"))]
    fn unstarted(_count: usize) -> Self {
        Self { count: 1, crew: Arc::default() }
    }

    /// Starts the threads, if they are ours and haven't been started.
    ///
    /// # Errors
    /// [`ErrorKind::ThreadPool`] if the system can't start them; the next call tries again.
    #[cfg(feature = "rayon")]
    pub(crate) fn start(&self) -> Result<()> {
        if self.count > 1 && self.pool.get().is_none() {
            let builder = rayon::ThreadPoolBuilder::new().num_threads(self.count - 1);
            let pool = builder.thread_name(|i| format!("babyllama-{}", i + 1)).build();
            let pool = pool.map_err(|e| ErrorKind::ThreadPool(e.to_string()))?;
            // If another pass was first, these end again.
            let _ = self.pool.set(Arc::new(pool));
        }
        Ok(())
    }

    #[cfg(feature = "rayon")]
    fn is_started(&self) -> bool {
        self.pool.get().is_some()
    }

    /// There are none to be started.
    #[cfg(not(feature = "rayon"))]
    pub(crate) fn start(&self) -> Result<()> {
        Ok(())
    }

    #[cfg(not(feature = "rayon"))]
    fn is_started(&self) -> bool {
        false
    }

    /// As many threads as an option asks for, or as the machine runs at once, unstarted: until they
    /// are, the caller works alone.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidOption`] beyond 1 to 1024.
    pub(crate) fn of_option(threads: Option<usize>) -> Result<Self> {
        let threads = threads.unwrap_or_else(available_threads);
        if !(1..=1024).contains(&threads) {
            let (name, value, reason) = ("threads", threads.to_string(), "must be between 1 and 1024".into());
            return Err(ErrorKind::InvalidOption { name, value, reason }.into());
        }
        Ok(Self::unstarted(threads))
    }

    /// The caller and a pool of the caller's: as many threads as the pool has, but no more than the
    /// machine runs at once, beyond which helpers would only take the processors from each other.
    #[cfg(feature = "rayon")]
    pub(crate) fn from_pool(pool: Arc<ThreadPool>) -> Self {
        let count = pool.current_num_threads().clamp(1, available_threads().max(2));
        let crew = Crew { is_lent: true, ..Crew::default() };
        Self { count, crew: Arc::new(crew), pool: Arc::new(pool.into()) }
    }

    /// Whether the helpers are threads of a pool of the caller's, who may have other work for them.
    pub(crate) fn are_lent(&self) -> bool {
        self.crew.is_lent
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Runs `work` with a team. `alone` keeps everything on the calling thread. So does another
    /// forward pass of the same model that is under way: two at once would only wait for each
    /// other's helpers.
    pub(crate) fn enter<R>(&self, alone: bool, work: impl FnOnce(&Team<'_>) -> R) -> R {
        if alone || self.count == 1 || !self.is_started() || !self.crew.open() {
            return work(&Team { threads: None });
        }
        let _open = Opened(&self.crew);
        self.send_for_helpers();
        work(&Team { threads: Some(self) })
    }

    /// Sends for the helpers that are missing.
    #[inline]
    fn send_for_helpers(&self) {
        let wanted = self.count - 1;
        let missing = wanted.saturating_sub(self.crew.present.load(Ordering::Relaxed));
        if missing > 0 {
            self.crew.present.fetch_add(missing, Ordering::Relaxed);
            (0..missing).for_each(|_| self.spawn_helper());
        }
    }

    /// Calls `work(i)` once for every `i` below `callers + helpers`; see [`Crew::run_region`].
    fn run_region<F: Fn(usize) + Sync>(&self, callers: usize, helpers: usize, work: &F) {
        if !self.crew.is_lent {
            return self.crew.run_region(callers, helpers, work, || ());
        }
        self.send_for_helpers();
        self.crew.run_region(callers, helpers, work, || self.send_for_helpers());
    }

    #[cfg(feature = "rayon")]
    fn spawn_helper(&self) {
        if let Some(pool) = self.pool.get() {
            let crew = Arc::clone(&self.crew);
            pool.spawn(move || crew.help());
        }
    }

    #[cfg(not(feature = "rayon"))]
    fn spawn_helper(&self) {}
}

fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Closes the crew when the forward pass ends, also by a panic.
struct Opened<'a>(&'a Crew);

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        self.0.open.store(false, Ordering::Release);
        self.0.entered.store(false, Ordering::Release);
    }
}

/// What the caller of a forward pass shares out its regions with.
pub(crate) struct Team<'a> {
    /// `None` if the caller is alone.
    threads: Option<&'a Threads>,
}

impl Team<'_> {
    /// Calls `work(i, items[i])` once for every item, in any order, on any threads. `bytes` is what
    /// they read.
    pub(crate) fn for_each_mut<T: Send>(
        &self,
        items: &mut [T],
        bytes: usize,
        work: impl Fn(usize, &mut T) + Sync,
    ) {
        let Some(threads) = self.threads.filter(|_| bytes >= MIN_REGION_BYTES && items.len() > 1) else {
            return items.iter_mut().enumerate().for_each(|(i, item)| work(i, item));
        };
        let start = Shared(items.as_mut_ptr());
        let callers = items.len().div_ceil(threads.count);
        threads.run_region(callers, items.len() - callers, &|i| {
            // SAFETY: `i` is below the number of items, and a region runs each chunk once, so this
            // is the only borrow of the item; `items` is borrowed for as long as the region lasts.
            work(i, unsafe { &mut *start.get().add(i) });
        });
    }

    /// Shares out the columns of some matrices that have the same number of units, a unit at a
    /// time: `work(unit, bands, bands)` fills it in each of them. `bytes` is what the region reads.
    pub(crate) fn units<T: Send, const N: usize, const M: usize>(
        &self,
        floats: [ColumnPartition<'_>; N],
        others: [ColumnPartition<'_, T>; M],
        bytes: usize,
        work: impl Fn(usize, [ColumnSlice<'_>; N], [ColumnSlice<'_, T>; M]) + Sync,
    ) {
        let n = floats[0].n_units();
        assert!(
            floats.iter().all(|m| m.n_units() == n) && others.iter().all(|m| m.n_units() == n),
            "one number of units"
        );
        let run = move |unit: usize| {
            // SAFETY: below, each unit is run once, and different units are different columns of
            // matrices that are borrowed exclusively for as long as this function runs.
            let floats = std::array::from_fn(|i| unsafe { floats[i].band(unit..unit + 1) });
            // SAFETY: likewise.
            let others = std::array::from_fn(|i| unsafe { others[i].band(unit..unit + 1) });
            work(unit, floats, others);
        };
        let Some(threads) = self.threads.filter(|_| bytes >= MIN_REGION_BYTES && n > 1) else {
            return (0..n).for_each(run);
        };
        let callers = n.div_ceil(threads.count);
        threads.run_region(callers, n - callers, &run);
    }

    /// Shares out the columns of some matrices. Each group is `N` matrices with the same number of
    /// units, which belong together; `work(group, units, bands)` fills these units of each of them.
    /// `bytes` is what the region reads.
    pub(crate) fn bands<const G: usize, const N: usize>(
        &self,
        groups: [[ColumnPartition<'_>; N]; G],
        bytes: usize,
        work: impl Fn(usize, Range<usize>, [ColumnSlice<'_>; N]) + Sync,
    ) {
        let units: usize = groups.iter().map(|group| group[0].n_units()).sum();
        let work_in_all = bytes.saturating_mul(groups[0][0].n_rows).max(1);
        let run = move |chunk: Range<usize>| {
            let mut first = 0;
            for (g, group) in groups.iter().enumerate() {
                let end = first + group[0].n_units();
                let units = chunk.start.max(first)..chunk.end.min(end);
                if !units.is_empty() {
                    let units = units.start - first..units.end - first;
                    // SAFETY: a region runs each chunk once, and different chunks are different
                    // columns or different matrices, which `groups` borrows exclusively for as long
                    // as the region lasts.
                    let bands = std::array::from_fn(|i| unsafe { group[i].band(units.clone()) });
                    work(g, units, bands);
                }
                first = end;
            }
        };
        let Some(threads) = self.threads.filter(|_| bytes >= MIN_REGION_BYTES) else {
            return run(0..units);
        };
        let max_units =
            if threads.crew.is_lent { units.saturating_mul(MAX_CHUNK_WORK) / work_in_all } else { units };
        let (caller, helpers) = chunks::share_out(units, bytes, threads.count, max_units.max(1));
        let (callers, n_helpers) = (caller.n_chunks(), helpers.n_chunks());
        threads.run_region(callers, n_helpers, &move |i| {
            run(if i < callers { caller.chunk(i) } else { helpers.chunk(i - callers) });
        });
    }
}

/// The start of some items that threads take one by one.
struct Shared<T>(*mut T);

impl<T> Shared<T> {
    fn get(&self) -> *mut T {
        self.0
    }
}

// SAFETY: whoever goes through the pointer says why no item is borrowed twice; items may be sent.
unsafe impl<T: Send> Sync for Shared<T> {}

/// A matrix (`n_rows`, `width`) that lies row by row, whose columns are to be shared out `unit` at
/// a time.
pub(crate) struct ColumnPartition<'a, T = f32> {
    start: *mut T,
    n_rows: usize,
    width: usize,
    unit: usize,
    _borrowed: PhantomData<&'a mut [T]>,
}

// SAFETY: it is an exclusive borrow of numbers that may be sent, so it may move to and be shared
// with other threads; `band` says what it takes to write through it.
unsafe impl<T: Send> Send for ColumnPartition<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for ColumnPartition<'_, T> {}

impl<'a, T> ColumnPartition<'a, T> {
    /// # Panics
    /// If the matrix isn't a whole number of rows.
    pub(crate) fn new(matrix: &'a mut [T], width: usize, unit: usize) -> Self {
        assert!(width > 0 && unit > 0 && matrix.len().is_multiple_of(width), "whole rows");
        let (start, n_rows) = (matrix.as_mut_ptr(), matrix.len() / width);
        Self { start, n_rows, width, unit, _borrowed: PhantomData }
    }

    /// A matrix of one row, whose columns are to be shared out in so many equal parts.
    ///
    /// # Panics
    /// If it isn't so many parts.
    pub(crate) fn parts(row: &'a mut [T], n: usize) -> Self {
        assert!(row.len().is_multiple_of(n), "equal parts");
        let width = row.len();
        Self::new(row, width, width / n)
    }

    /// The last unit may be narrower.
    fn n_units(&self) -> usize {
        self.width.div_ceil(self.unit)
    }

    /// # Safety
    /// While the band lives, nothing else may touch these columns.
    unsafe fn band(&self, units: Range<usize>) -> ColumnSlice<'_, T> {
        assert!(units.start <= units.end && units.end <= self.n_units());
        let columns = units.start * self.unit..(units.end * self.unit).min(self.width);
        // SAFETY: the assertion keeps the start inside the matrix or one past its end.
        let start = unsafe { self.start.add(columns.start) };
        ColumnSlice {
            start,
            n_rows: self.n_rows,
            stride: self.width,
            width: columns.len(),
            _borrowed: PhantomData,
        }
    }
}

/// Some columns of a matrix, exclusively.
pub(crate) struct ColumnSlice<'a, T = f32> {
    start: *mut T,
    n_rows: usize,
    stride: usize,
    width: usize,
    _borrowed: PhantomData<&'a mut T>,
}

impl<T> ColumnSlice<'_, T> {
    /// The number of rows, which is that of the matrix.
    pub(crate) fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// The band's part of one row.
    ///
    /// # Panics
    /// If there is no such row.
    #[inline(always)]
    pub(crate) fn row(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.n_rows);
        // SAFETY: row < n_rows and the band's columns lie inside the matrix, both checked; whoever
        // made the band promised that nobody else touches them; the borrow of `self` keeps rows
        // from being taken twice.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row * self.stride), self.width) }
    }

    /// As [`ColumnSlice::row`], to read, with others.
    #[inline(always)]
    pub(crate) fn get(&self, row: usize) -> &[T] {
        assert!(row < self.n_rows);
        // SAFETY: as in `row`, and the borrow of `self` keeps rows from being written.
        unsafe { std::slice::from_raw_parts(self.start.add(row * self.stride), self.width) }
    }
}

/// A region's work with its type and its borrow's lifetime taken off; [`Crew::run_region`] says why
/// that is sound.
#[derive(Clone, Copy)]
struct Job {
    work: *const (),
    call: unsafe fn(*const (), usize),
}

impl Job {
    fn new<F: Fn(usize) + Sync>(work: &F) -> Self {
        /// # Safety
        /// `work` points to a live `F`.
        unsafe fn call<F: Fn(usize)>(work: *const (), index: usize) {
            // SAFETY: the caller's promise.
            let work = unsafe { &*work.cast::<F>() };
            work(index);
        }
        Self { work: std::ptr::from_ref(work).cast(), call: call::<F> }
    }

    /// # Safety
    /// What the job was made from is still alive.
    unsafe fn run(self, index: usize) {
        // SAFETY: the caller's promise, and `new` paired the function with the pointer's type.
        unsafe { (self.call)(self.work, index) };
    }
}

/// The chunks `from..to` of a region that nobody has claimed yet, in one word.
#[derive(Default)]
struct ChunkQueue(AtomicU64);

impl ChunkQueue {
    /// To be called while nobody claims.
    fn set(&self, chunks: Range<u32>) {
        self.0.store(pack(chunks), Ordering::Release);
    }

    fn is_empty(&self) -> bool {
        unpack(self.0.load(Ordering::Relaxed)).is_empty()
    }

    /// Claims all that is left; how many. It looks first, as that leaves the cache line with
    /// whoever else looks.
    fn take(&self) -> usize {
        if self.is_empty() { 0 } else { unpack(self.0.swap(pack(0..0), Ordering::AcqRel)).len() }
    }

    fn claim_first(&self) -> Option<u32> {
        self.claim(|chunks| (chunks.start, chunks.start + 1..chunks.end))
    }

    fn claim_last(&self) -> Option<u32> {
        self.claim(|chunks| (chunks.end - 1, chunks.start..chunks.end - 1))
    }

    /// Claims the chunk that `choose` takes from those left.
    #[inline]
    fn claim(&self, choose: impl Fn(Range<u32>) -> (u32, Range<u32>)) -> Option<u32> {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let chunks = unpack(word);
            if chunks.is_empty() {
                return None;
            }
            let (chunk, rest) = choose(chunks);
            match self.0.compare_exchange_weak(word, pack(rest), Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Some(chunk),
                Err(now) => word = now,
            }
        }
    }
}

fn pack(chunks: Range<u32>) -> u64 {
    u64::from(chunks.start) << 32 | u64::from(chunks.end)
}

fn unpack(word: u64) -> Range<u32> {
    (word >> 32) as u32..word as u32
}

/// What lies in cache lines of its own: two, as some processors fetch them in pairs.
#[derive(Default)]
#[repr(align(128))]
struct CachePadded<T>(T);

/// What the caller and its helpers share.
///
/// A region's chunks are in two parts, the caller's and the helpers'. Both are walked upwards, so
/// that what a chunk fetches ahead is what its thread does next: `SmolLM2`'s decode is 8 % faster
/// than with helpers that walk downwards. Whoever is done first takes what is left of the other
/// part, from its end. So on two threads each meets much the same rows in every pass, and finds
/// some of them in its own cache. And until then neither touches what the other writes: a cache
/// line takes 30 to 300 ns from one processor to another.
#[derive(Default)]
struct Crew {
    /// A forward pass holds the crew.
    entered: AtomicBool,
    /// The forward pass is still under way.
    open: AtomicBool,
    callers: CachePadded<ChunkQueue>,
    shared: CachePadded<Region>,
    /// Helpers that were sent for and have not left.
    present: AtomicUsize,
    /// Whether they are in the caller's pool, whose threads they must soon give back.
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
    /// Written by the caller only while no chunk is unclaimed or unfinished; read only by whoever
    /// has claimed one.
    job: UnsafeCell<Option<Job>>,
}

// SAFETY: `job` is the only field that isn't Sync by itself. It is written before chunks are stored
// with Release to be claimed and read after one was claimed with Acquire, and it isn't written
// again before all chunks are finished, which the writer sees with Acquire.
unsafe impl Sync for Region {}
// SAFETY: the pointer in `job` is to a `Fn + Sync`.
unsafe impl Send for Region {}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Crew {
    /// Takes the crew for one forward pass and wakes its helpers; false if another pass has it.
    fn open(&self) -> bool {
        if self.entered.swap(true, Ordering::Acquire) {
            return false;
        }
        let asleep = lock(&self.asleep);
        self.open.store(true, Ordering::Release);
        if *asleep > 0 {
            self.wake.notify_all();
        }
        true
    }

    /// Calls `work(i)` once for every `i` below `callers + helpers`, on the caller's thread and
    /// those of helpers that show up. The caller begins with the first, helpers with number
    /// `callers`.
    ///
    /// The job is used by whoever has claimed a chunk of this region, and `RegionGuard::drop` lets
    /// nobody past before every claimed chunk is finished, also when one panics: so the borrow of
    /// `work` outlives each use. `between` is called after each of the caller's chunks.
    fn run_region<F: Fn(usize) + Sync>(&self, callers: usize, helpers: usize, work: &F, between: impl Fn()) {
        let count = |n| u32::try_from(n).expect("a region has at most some thousand chunks");
        let (callers, n) = (count(callers), count(callers + helpers));
        let region = &self.shared.0;
        // SAFETY: every chunk of the region before is finished (its `RegionGuard` was dropped), so
        // nobody reads `job` now.
        unsafe { *region.job.get() = Some(Job::new(work)) };
        region.finished.store(0, Ordering::Relaxed);
        region.unclaimed.set(callers..n);
        // The first chunk is the caller's without a claim, which would wait until the stores above
        // are with the helpers.
        self.callers.0.set(callers.min(1)..callers);
        let mut claimed = (callers > 0).then_some(0);

        let mut unfinished = RegionGuard { crew: self, by_helpers: n };
        while let Some(chunk) = claimed {
            unfinished.by_helpers -= 1;
            work(chunk as usize);
            between();
            claimed = self.callers.0.claim_first().or_else(|| region.unclaimed.claim_last());
        }
        drop(unfinished);
        if let Some(payload) = lock(&self.panic).take() {
            resume_unwind(payload);
        }
    }

    /// A helper's whole stay: claims chunks while a pass is open, waits between passes, and signs
    /// off.
    fn help(&self) {
        let region = &self.shared.0;
        let arrived = Instant::now();
        let stays = |limit| !self.is_lent || arrived.elapsed() < limit;
        loop {
            while let Some(chunk) = region.unclaimed.claim_first().or_else(|| self.callers.0.claim_last()) {
                // SAFETY: a claimed chunk keeps the region alive until it is counted as finished
                // below.
                let job = unsafe { *region.job.get() };
                // SAFETY: as above, and so what the job was made from is alive.
                let run = |job: Job| unsafe { job.run(chunk as usize) };
                if let Err(payload) = catch_unwind(AssertUnwindSafe(|| job.into_iter().for_each(run))) {
                    *lock(&self.panic) = Some(payload);
                }
                region.finished.fetch_add(1, Ordering::Release);
                if !stays(MAX_STINT) {
                    return self.sign_off();
                }
            }
            if !stays(STINT) {
                return self.sign_off();
            }
            if !self.wait() {
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
                std::thread::yield_now();
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
            self.sign_off(); // while nobody can open, who would count on this helper
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
        std::hint::spin_loop();
    }
    false
}

/// Ends a region: whatever happened, no chunk is running when this is dropped.
struct RegionGuard<'a> {
    crew: &'a Crew,
    /// Chunks that the caller hasn't claimed.
    by_helpers: u32,
}

impl Drop for RegionGuard<'_> {
    fn drop(&mut self) {
        let Crew { callers, shared, .. } = self.crew;
        // Chunks are left only if the caller's own chunk panicked: take them, so that no helper
        // will.
        let left = callers.0.take() + shared.0.unclaimed.take();
        let claimed = self.by_helpers as usize - left;
        let finished = || shared.0.finished.load(Ordering::Acquire) == claimed;
        while !spin(4096, finished) {
            std::thread::yield_now(); // a helper lost its processor in the middle of a chunk
        }
    }
}

#[cfg(all(test, feature = "rayon"))]
mod tests;
