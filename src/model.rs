//! A model: one checkpoint, ready to run, shared by all its sessions.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::checkpoint::file_kind::{FileKind, Wanted};
use crate::checkpoint::{self, Checkpoint};
use crate::compute::Numerics;
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::forward::Llama;
use crate::ops::RopeFrequencies;
#[cfg(feature = "rayon")]
use crate::parallel::ThreadPool;
use crate::parallel::Threads;
use crate::simd::Isa;
use crate::storage::Storage;
use crate::tokenizer::Tokenizer;
use crate::weights::TensorInfo;

/// A Llama and its tokenizer. Immutable, and cheap to clone: clones share everything.
///
/// ```no_run
/// use babyllama::{Model, Sampler, SamplerOptions};
///
/// let model = Model::open("models/babyllama.gguf")?;
/// let mut session = model.session();
/// let mut sampler = Sampler::new(SamplerOptions::default());
/// for piece in session.generate("Once upon a time", &mut sampler)? {
///     print!("{}", piece?);
/// }
/// # Ok::<(), babyllama::Error>(())
/// ```
#[derive(Clone)]
pub struct Model {
    inner: Arc<Inner>,
}

struct Inner {
    llama: Llama,
    tokenizer: Option<Tokenizer>,
    isa: Isa,
    threads: Threads,
    format: &'static str,
    chat_template: Option<String>,
    metadata: Vec<(String, String)>,
    file_bytes: u64,
    notes: Vec<String>,
}

/// What it is, not its weights.
impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { llama, tokenizer, isa, threads, format, file_bytes, .. } = &*self.inner;
        f.debug_struct("Model")
            .field("format", format)
            .field("file_bytes", file_bytes)
            .field("config", &llama.config)
            .field("tokenizer", tokenizer)
            .field("isa", &isa.name())
            .field("threads", &threads.count())
            .finish()
    }
}

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
    /// [`Model::open`].
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
    /// # fn main() -> babyllama::Result<()> {
    /// # let body = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf"))?;
    /// let downloaded = Downloaded { body };
    /// let model = Model::from_bytes(ModelBytes::from_owner(downloaded))?;
    /// # Ok(())
    /// # }
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

/// How a model is opened. Everything has a default.
#[derive(Clone, Debug, Default)]
pub struct ModelOptions {
    threads: Option<usize>,
    #[cfg(feature = "rayon")]
    pool: Option<Arc<ThreadPool>>,
    isa: Option<Isa>,
    tokenizer: Option<TokenizerSource>,
    norm_eps: Option<f32>,
    rope_theta: Option<f64>,
    max_seq_len: Option<usize>,
    huge_pages: bool,
}

#[derive(Clone, Debug)]
enum TokenizerSource {
    Given(Box<Tokenizer>),
    File(PathBuf),
    None,
}

impl ModelOptions {
    /// All defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of threads, the calling one included. The default is as many as the machine runs
    /// at once. The others are a pool of the model's own, which starts with its first pass; a small
    /// model never needs them.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Uses the caller's pool instead of one of the model's own; [`ModelOptions::threads`] is then
    /// ignored. The process-global pool is never used.
    #[cfg(feature = "rayon")]
    #[must_use]
    pub fn pool(mut self, pool: Arc<ThreadPool>) -> Self {
        self.pool = Some(pool);
        self
    }

    /// The instruction set to compute with. The default is the fastest that the processor has.
    #[must_use]
    pub fn isa(mut self, isa: Isa) -> Self {
        self.isa = Some(isa);
        self
    }

    /// A tokenizer, instead of the one beside the model.
    #[must_use]
    pub fn tokenizer(mut self, tokenizer: Tokenizer) -> Self {
        self.tokenizer = Some(TokenizerSource::Given(Box::new(tokenizer)));
        self
    }

    /// The file of a tokenizer, instead of the one beside the model.
    #[must_use]
    pub fn tokenizer_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.tokenizer = Some(TokenizerSource::File(path.into()));
        self
    }

    /// No tokenizer, even if one lies beside the model: the model then takes tokens alone.
    #[must_use]
    pub fn no_tokenizer(mut self) -> Self {
        self.tokenizer = Some(TokenizerSource::None);
        self
    }

    /// Overrides what is added to the mean square in RMSNorm. llama2.c files don't hold it; 1e-5 is
    /// the default, and LLaMA 1 wants 1e-6.
    #[must_use]
    pub fn norm_eps(mut self, norm_eps: f32) -> Self {
        self.norm_eps = Some(norm_eps);
        self
    }

    /// Overrides the base of the rotary frequencies. llama2.c files don't hold it; 10,000 is the
    /// default, and Code Llama wants 1,000,000.
    #[must_use]
    pub fn rope_theta(mut self, rope_theta: f64) -> Self {
        self.rope_theta = Some(rope_theta);
        self
    }

    /// Overrides the number of positions that the model was made for. A model whose attention has a
    /// sliding window takes no more than that.
    #[must_use]
    pub fn max_seq_len(mut self, max_seq_len: usize) -> Self {
        self.max_seq_len = Some(max_seq_len);
        self
    }

    /// Copies the weights once into memory in pages of 2 MiB, from which they are read faster than
    /// from a mapped file; the default is not to. It takes as much memory as they, and the time to
    /// read the file. Only Linux has such pages; elsewhere it is a plain copy.
    #[must_use]
    pub fn huge_pages(mut self, huge_pages: bool) -> Self {
        self.huge_pages = huge_pages;
        self
    }

    fn build_threads(&self) -> Result<Threads> {
        #[cfg(feature = "rayon")]
        if let Some(pool) = &self.pool {
            return Ok(Threads::from_pool(Arc::clone(pool)));
        }
        Threads::of_option(self.threads)
    }

    /// Sets the hyperparameters that are to be other than the file says.
    pub(crate) fn override_config(&self, config: &mut Config) -> Result<()> {
        config.norm_eps = self.norm_eps.unwrap_or(config.norm_eps);
        config.rope_theta = self.rope_theta.unwrap_or(config.rope_theta);
        config.max_seq_len = self.max_seq_len.unwrap_or(config.max_seq_len);
        config.validate()
    }

    /// The tokenizer that was asked for, or that there be none. `None` if neither was.
    pub(crate) fn chosen_tokenizer(&self) -> Option<Result<Option<Tokenizer>>> {
        Some(match self.tokenizer.as_ref()? {
            TokenizerSource::Given(tokenizer) => Ok(Some(Tokenizer::clone(tokenizer))),
            TokenizerSource::File(path) => Tokenizer::open(path).map(Some),
            TokenizerSource::None => Ok(None),
        })
    }

    /// The file of the tokenizer that was asked for.
    pub(crate) fn tokenizer_file(&self) -> Option<&Path> {
        if let Some(TokenizerSource::File(path)) = &self.tokenizer { Some(path) } else { None }
    }

    /// Whether the tokenizer isn't to be the file's own.
    #[cfg(feature = "convert")]
    pub(crate) fn names_tokenizer(&self) -> bool {
        self.tokenizer.is_some()
    }

    /// The tokenizer that was asked for, or else the file's own, or else the one beside it.
    pub(crate) fn find_tokenizer(&self, storage: &Storage) -> Result<Option<Tokenizer>> {
        if let Some(chosen) = self.chosen_tokenizer() {
            return chosen;
        }
        if let Some(own) = checkpoint::read_tokenizer(storage)? {
            return Ok(Some(own));
        }
        let Some(model) = storage.path() else { return Ok(None) };
        let beside = [model.with_extension("tokenizer.bin"), model.with_file_name("tokenizer.bin")];
        beside.iter().find(|path| path.is_file()).map(Tokenizer::open).transpose()
    }
}

impl Tokenizer {
    /// Reads a tokenizer from a file: GGUF, which need not hold a model, or llama2.c's
    /// `tokenizer.bin`.
    ///
    /// # Errors
    /// [`ErrorKind::Io`], what [`Tokenizer::from_gguf`] or [`Tokenizer::from_llama2c`] finds wrong,
    /// and [`ErrorKind::UnknownFormat`] for another kind of file; each names the file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        // Only a file can be GGUF: a pipe can't be looked into first.
        let is_gguf = path.is_file() && checkpoint::gguf::has_magic(&Storage::open(path)?);
        if is_gguf {
            return Self::from_gguf(path);
        }
        if path.is_dir() {
            let hint = "it is a directory: name the tokenizer's file in it".into();
            return Err(Error::from(ErrorKind::UnknownFormat { hint }).at(Some(path)));
        }
        let bytes = std::fs::read(path).map_err(|e| Error::from(e).at(Some(path)))?;
        Self::from_llama2c(&bytes).map_err(|e| {
            let kind = FileKind::detect(&bytes, bytes.len() as u64);
            let other = kind.filter(|kind| *kind != FileKind::TokenizerBin);
            // A model that happens to be like text is one all the same.
            if path.is_file() && Storage::open(path).is_ok_and(|storage| checkpoint::is_llama2c(&storage)) {
                let hint = "it is a model of llama2.c's: the tokenizer is another file".into();
                return Error::from(ErrorKind::UnknownFormat { hint }).at(Some(path));
            }
            let error = other
                .map_or(e, |kind| ErrorKind::UnknownFormat { hint: kind.sentence(Wanted::Tokenizer) }.into());
            error.at(Some(path))
        })
    }

    /// Reads the tokenizer of a GGUF file. The file need not hold a model.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]; [`ErrorKind::NoTokenizer`] if the file brings none, or isn't GGUF; and
    /// whatever is wrong with it.
    pub fn from_gguf(path: impl AsRef<Path>) -> Result<Self> {
        let storage = Storage::open(path.as_ref())?;
        let tokenizer = checkpoint::read_tokenizer(&storage)?;
        tokenizer.ok_or_else(|| Error::from(ErrorKind::NoTokenizer).at(storage.path()))
    }
}

impl Model {
    /// Opens a checkpoint: GGUF of architecture `llama`, or llama2.c's v0, v1 or v2. The file is
    /// mapped, so this takes milliseconds whatever its size, and must not be changed while the
    /// model lives. A GGUF model that is split into several files is opened by the first,
    /// `NAME-00001-of-00003.gguf`.
    ///
    /// A tokenizer in the file is used. Else one is looked for beside it: for `NAME.bin`,
    /// `NAME.tokenizer.bin` and then `tokenizer.bin`.
    ///
    /// # Errors
    /// Whatever is wrong with the file or its tokenizer; each error names the file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, &ModelOptions::default())
    }

    /// Opens a checkpoint with options.
    ///
    /// # Errors
    /// As [`Model::open`]; and [`ErrorKind::InvalidOption`] for options.
    pub fn open_with(path: impl AsRef<Path>, options: &ModelOptions) -> Result<Self> {
        Self::load(Storage::open(path.as_ref())?, options)
    }

    /// The model that comes with this crate: it tells short English stories for children, in 1.3
    /// MB, and is good for nothing else. It is part of the program: no file is read.
    ///
    /// ```
    /// use babyllama::{Model, Sampler, SamplerOptions};
    ///
    /// let model = Model::bundled()?;
    /// let mut session = model.session();
    /// let mut sampler = Sampler::new(SamplerOptions::default());
    /// for piece in session.generate("", &mut sampler)?.max_tokens(20) {
    ///     print!("{}", piece?);
    /// }
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    ///
    /// # Errors
    /// None that is known.
    #[cfg(feature = "bundled")]
    pub fn bundled() -> Result<Self> {
        Self::bundled_with(&ModelOptions::default())
    }

    /// The model that comes with this crate, with options.
    ///
    /// # Errors
    /// As [`Model::open_with`], for options.
    #[cfg(feature = "bundled")]
    pub fn bundled_with(options: &ModelOptions) -> Result<Self> {
        static BABYLLAMA: &[u8] =
            include_model!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf"));
        Self::from_bytes_with(BABYLLAMA, options)
    }

    /// Opens a checkpoint that is already in memory: see [`ModelBytes`].
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn from_bytes(bytes: impl Into<ModelBytes>) -> Result<Self> {
        Self::from_bytes_with(bytes, &ModelOptions::default())
    }

    /// Opens a checkpoint that is already in memory, with options.
    ///
    /// # Errors
    /// As [`Model::open_with`].
    pub fn from_bytes_with(bytes: impl Into<ModelBytes>, options: &ModelOptions) -> Result<Self> {
        Self::load(bytes.into().0, options)
    }

    fn load(storage: Storage, options: &ModelOptions) -> Result<Self> {
        let storage = Arc::new(storage);
        let checkpoint = checkpoint::read(&storage)?;
        let Checkpoint { format, mut config, mut weights, rope_factors, numerics, .. } = checkpoint;
        options.override_config(&mut config)?;
        let tokenizer = options.find_tokenizer(&storage)?;
        if let Some(tokenizer) = &tokenizer
            && tokenizer.vocab_size() > config.vocab_size
        {
            let kind =
                ErrorKind::VocabMismatch { tokenizer: tokenizer.vocab_size(), model: config.vocab_size };
            return Err(Error::from(kind).at(options.tokenizer_file().or(storage.path())));
        }
        if options.huge_pages {
            weights.move_to_huge_pages().map_err(|e| e.at(storage.path()))?;
        }
        let rope_frequencies = match numerics {
            Numerics::Accurate => RopeFrequencies::accurate(&config, rope_factors.as_deref()),
            Numerics::RunqCompatible => {
                RopeFrequencies::runq_compatible(config.head_dim, config.rope_theta as f32)
            }
        };
        let inner = Inner {
            llama: Llama { config, weights, rope_frequencies, numerics },
            tokenizer,
            isa: options.isa.unwrap_or_else(Isa::best),
            threads: options.build_threads()?,
            format,
            chat_template: checkpoint.chat_template,
            metadata: checkpoint.metadata,
            file_bytes: checkpoint.file_bytes,
            notes: checkpoint.notes,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The hyperparameters.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.inner.llama.config
    }

    /// The tokenizer, if the model came with one.
    #[must_use]
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.inner.tokenizer.as_ref()
    }

    /// The name of the file's format.
    #[must_use]
    pub fn format(&self) -> &'static str {
        self.inner.format
    }

    /// The template that the file brings for chats, in Jinja.
    #[must_use]
    pub fn chat_template(&self) -> Option<&str> {
        self.inner.chat_template.as_deref()
    }

    /// What a GGUF file says of itself: each key, and its value for people to read. Long strings
    /// are cut short and arrays only counted.
    #[must_use]
    pub fn metadata(&self) -> &[(String, String)] {
        &self.inner.metadata
    }

    /// What whoever runs it should know: keys that aren't known, and a context that is shorter than
    /// the file says. Each is a sentence for people; of most models there is none.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.inner.notes
    }

    /// The file's size in bytes; of all files, if the model is split.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.inner.file_bytes
    }

    /// The instruction set that it computes with.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.inner.isa
    }

    /// The number of threads that it computes with.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.inner.threads.count()
    }

    /// What tensors it has, in the order of the forward pass.
    #[must_use]
    pub fn tensors(&self) -> Vec<TensorInfo> {
        self.inner.llama.weights.infos()
    }

    pub(crate) fn llama(&self) -> &Llama {
        &self.inner.llama
    }

    pub(crate) fn thread_team(&self) -> &Threads {
        &self.inner.threads
    }
}
