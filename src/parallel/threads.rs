//! The threads of a model: how many there are, and the pool that helpers come from.

use std::sync::Arc;
#[cfg(feature = "rayon")]
use std::sync::OnceLock;

use super::crew::Crew;
use super::team::Team;
use crate::error::{ErrorKind, Result};

#[cfg(feature = "rayon")]
pub(crate) use rayon::ThreadPool;

/// The calling thread, and helpers from a pool: one of our own, or one that the caller lends.
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
    /// `count` threads, of which one is the caller's; the others are a pool of our own, started
    /// already.
    ///
    /// # Errors
    /// Those of [`Threads::start`].
    #[cfg(test)]
    pub(crate) fn new(count: usize) -> Result<Self> {
        let threads = Self::unstarted(count);
        threads.start().map(|()| threads)
    }

    /// Without rayon there is only the caller.
    fn unstarted(count: usize) -> Self {
        Self {
            count: if cfg!(feature = "rayon") { count.max(1) } else { 1 },
            crew: Arc::default(),
            #[cfg(feature = "rayon")]
            pool: Arc::default(),
        }
    }

    /// Starts the threads, if they are ours and haven't been started.
    ///
    /// # Errors
    /// [`ErrorKind::ThreadPool`] if the system can't start them; the next call tries again.
    pub(crate) fn start(&self) -> Result<()> {
        #[cfg(feature = "rayon")]
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

    #[cfg(not(feature = "rayon"))]
    fn is_started(&self) -> bool {
        false
    }

    /// The number of threads that an option asks for, or that the machine runs at once. They aren't
    /// started yet: until they are, the caller works alone.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidOption`] if it isn't 1 to 1024.
    pub(crate) fn of_option(threads: Option<usize>) -> Result<Self> {
        let threads = threads.unwrap_or_else(available_threads);
        if !(1..=1024).contains(&threads) {
            let (name, value, reason) = ("threads", threads.to_string(), "must be between 1 and 1024".into());
            return Err(ErrorKind::InvalidOption { name, value, reason }.into());
        }
        Ok(Self::unstarted(threads))
    }

    /// The caller and a lent pool: as many threads as the pool has, but no more than the machine
    /// runs at once, because more helpers would only take the processors from each other.
    #[cfg(feature = "rayon")]
    pub(crate) fn from_pool(pool: Arc<ThreadPool>) -> Self {
        let count = pool.current_num_threads().clamp(1, available_threads().max(2));
        Self { count, crew: Arc::new(Crew::new(true)), pool: Arc::new(pool.into()) }
    }

    /// Whether the helpers are threads of a lent pool, whose owner may have other work for them.
    pub(crate) fn are_lent(&self) -> bool {
        self.crew.is_lent()
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Helpers that haven't left.
    #[cfg(all(test, feature = "rayon"))]
    pub(super) fn n_helpers(&self) -> usize {
        self.crew.n_present()
    }

    /// Runs `work` with a team. `alone` keeps everything on the calling thread. So does another
    /// forward pass of the same model that is under way: two at once would only wait for each
    /// other's helpers.
    pub(crate) fn enter<R>(&self, alone: bool, work: impl FnOnce(&Team<'_>) -> R) -> R {
        let is_alone = alone || self.count == 1 || !self.is_started();
        let pass = if is_alone { None } else { self.crew.open() };
        if pass.is_some() {
            self.spawn_helpers();
        }
        work(&Team::new(self, pass))
    }

    /// Spawns the helpers that are missing.
    #[inline]
    pub(super) fn spawn_helpers(&self) {
        (0..self.crew.recruit(self.count - 1)).for_each(|_| self.spawn_helper());
    }

    fn spawn_helper(&self) {
        #[cfg(feature = "rayon")]
        if let Some(pool) = self.pool.get() {
            let crew = Arc::clone(&self.crew);
            pool.spawn(move || crew.help());
        }
    }
}

fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
