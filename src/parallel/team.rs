//! A team: a forward pass opens one, and shares its loops out with it.

#![allow(unsafe_code, reason = "each chunk of a region takes its own columns of shared matrices")]

use std::ops::Range;

use super::chunks;
use super::columns::{ColumnPartition, ColumnSlice};
use super::crew::Pass;
use super::threads::Threads;

/// A chunk in a lent pool is at most about this much work, in bytes of weights times tokens: a
/// millisecond for decode at 16 GB/s, and less for prefill, whose products find weights in the
/// cache.
const MAX_CHUNK_WORK: usize = 16 << 20;

/// A region that reads fewer bytes than this is done by the caller alone: sharing it would take
/// longer.
const MIN_REGION_BYTES: usize = 48 << 10;

/// The calling thread of a forward pass and its helpers, to run regions with. A region is a loop
/// whose iterations they share.
///
/// It isn't `Sync`, and what a region runs is: so a region inside a region doesn't compile.
pub(crate) struct Team<'a> {
    threads: &'a Threads,
    /// `None` if the caller is alone.
    pass: Option<Pass<'a>>,
}

impl<'a> Team<'a> {
    pub(super) fn new(threads: &'a Threads, pass: Option<Pass<'a>>) -> Self {
        Self { threads, pass }
    }

    /// The pass to run a region with, if it is worth sharing: one that reads `bytes` and consists
    /// of `n` items.
    fn pass_for(&self, n: usize, bytes: usize) -> Option<&Pass<'a>> {
        self.pass.as_ref().filter(|_| bytes >= MIN_REGION_BYTES && n > 1)
    }

    /// Calls `work(i)` once for every `i` below `callers + helpers`; see [`Pass::run_region`].
    fn run_region<F: Fn(usize) + Sync>(&self, pass: &Pass<'a>, callers: usize, helpers: usize, work: &F) {
        let threads = self.threads;
        if threads.are_lent() {
            threads.spawn_helpers();
            pass.run_region(callers, helpers, work, || threads.spawn_helpers());
        } else {
            pass.run_region(callers, helpers, work, || ());
        }
    }

    /// Calls `work(i)` once for every `i` below `n`. `bytes` is what they read.
    fn for_each(&self, n: usize, bytes: usize, work: impl Fn(usize) + Sync) {
        let Some(pass) = self.pass_for(n, bytes) else {
            return (0..n).for_each(work);
        };
        let callers = n.div_ceil(self.threads.count());
        self.run_region(pass, callers, n - callers, &work);
    }

    /// Calls `work(i, items[i])` once for every item, in any order, on any threads. `bytes` is what
    /// they read.
    pub(crate) fn for_each_mut<T: Send>(
        &self,
        items: &mut [T],
        bytes: usize,
        work: impl Fn(usize, &mut T) + Sync,
    ) {
        let n = items.len();
        let items = ColumnPartition::new(items, n.max(1), 1);
        self.for_each(n, bytes, move |i| {
            // SAFETY: `for_each` calls this once for each `i`, and an item is one column.
            let mut item = unsafe { items.slice(i..i + 1) };
            work(i, &mut item.row(0)[0]);
        });
    }

    /// Shares out the columns of some matrices that have the same number of work items, an item at
    /// a time: `work(item, slices, slices)` fills it in each of them. `bytes` is what the region
    /// reads.
    pub(crate) fn for_each_item<T: Send, const N: usize, const M: usize>(
        &self,
        floats: [ColumnPartition<'_>; N],
        others: [ColumnPartition<'_, T>; M],
        bytes: usize,
        work: impl Fn(usize, [ColumnSlice<'_>; N], [ColumnSlice<'_, T>; M]) + Sync,
    ) {
        let n = floats[0].n_items();
        assert!(
            floats.iter().all(|m| m.n_items() == n) && others.iter().all(|m| m.n_items() == n),
            "one number of items"
        );
        self.for_each(n, bytes, move |i| {
            // SAFETY: `for_each` calls this once for each `i`, so each item of each matrix is
            // taken once.
            let floats = std::array::from_fn(|m| unsafe { floats[m].slice(i..i + 1) });
            // SAFETY: `for_each` calls this once for each `i`, so each item of each matrix is
            // taken once.
            let others = std::array::from_fn(|m| unsafe { others[m].slice(i..i + 1) });
            work(i, floats, others);
        });
    }

    /// Shares out the columns of some matrices. Each group is `N` matrices with the same number of
    /// work items, which belong together; `work(group, items, slices)` fills these items of each of
    /// them. `bytes` is what the region reads.
    pub(crate) fn columns<const G: usize, const N: usize>(
        &self,
        groups: [[ColumnPartition<'_>; N]; G],
        bytes: usize,
        work: impl Fn(usize, Range<usize>, [ColumnSlice<'_>; N]) + Sync,
    ) {
        let n: usize = groups.iter().map(|group| group[0].n_items()).sum();
        let total_work = bytes.saturating_mul(groups[0][0].n_rows()).max(1);
        let run = move |chunk: Range<usize>| {
            let mut first = 0;
            for (g, group) in groups.iter().enumerate() {
                let end = first + group[0].n_items();
                let items = chunk.start.max(first)..chunk.end.min(end);
                if !items.is_empty() {
                    let items = items.start - first..items.end - first;
                    // SAFETY: this closure is called once with all items, or below, by
                    // `run_region`, once for each chunk of `chunks::partition`, which are disjoint
                    // ranges of them. Different items are different ones of a matrix, or of
                    // different groups, whose matrices `groups` borrows exclusively.
                    let slices = std::array::from_fn(|i| unsafe { group[i].slice(items.clone()) });
                    work(g, items, slices);
                }
                first = end;
            }
        };
        let Some(pass) = self.pass_for(n, bytes) else {
            return run(0..n);
        };
        let threads = self.threads;
        let max_items = if threads.are_lent() { n.saturating_mul(MAX_CHUNK_WORK) / total_work } else { n };
        let (caller, helpers) = chunks::partition(n, bytes, threads.count(), max_items.max(1));
        let (callers, n_helpers) = (caller.n_chunks(), helpers.n_chunks());
        self.run_region(pass, callers, n_helpers, &move |i| {
            run(if i < callers { caller.chunk(i) } else { helpers.chunk(i - callers) });
        });
    }
}
