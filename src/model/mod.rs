//! A model: one checkpoint, ready to run, shared by all its sessions.

#[macro_use]
mod bytes;
mod options;
mod templates;
mod tokenizer;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

pub use bytes::ModelBytes;
pub use options::{ModelOptions, TokenizerSource};

use crate::bytes::Checksum;
use crate::checkpoint::{self, Checkpoint};
use crate::compute::Numerics;
use crate::config::Config;
#[cfg(feature = "grammar")]
use crate::constraint::vocabulary::Vocabulary;
use crate::error::{Error, ErrorKind, Result, TokenId};
use crate::forward::{Llama, Scratch};
use crate::ops::RopeByContext;
use crate::parallel::Threads;
use crate::sampler::SamplingDefaults;
use crate::simd::Isa;
use crate::storage::Storage;
use crate::tokenizer::Tokenizer;
use crate::weights::{TensorInfo, Weight};

/// Bytes of each end of a tensor that count for the fingerprint.
const END: usize = 256;

/// A Llama and its tokenizer. Immutable, and cheap to clone: clones share everything.
///
/// ```no_run
/// use babyllama::{Model, Sampler};
///
/// let model = Model::open("models/babyllama.gguf")?;
/// let mut session = model.session();
/// for piece in session.generate("Once upon a time", &mut Sampler::default())? {
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
    named_templates: Vec<(String, String)>,
    sampling: SamplingDefaults,
    metadata: Vec<(String, String)>,
    file_bytes: u64,
    notes: Vec<String>,
    /// The buffers of passes, one for each that was at work at once.
    scratch: Mutex<Vec<Scratch>>,
    /// Made by the first grammar.
    #[cfg(feature = "grammar")]
    grammar_vocabulary: std::sync::OnceLock<Arc<Vocabulary>>,
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
    /// use babyllama::{Model, Sampler};
    ///
    /// let model = Model::bundled()?;
    /// let mut session = model.session();
    /// for piece in session.generate("", &mut Sampler::default())?.max_tokens(20) {
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
            Numerics::Accurate => RopeByContext::accurate(&config, &rope_factors),
            Numerics::RunqCompatible => {
                RopeByContext::runq_compatible(config.head_dim, config.rope_theta as f32)
            }
        };
        let inner = Inner {
            llama: Llama { config, weights, rope_frequencies, numerics },
            tokenizer,
            isa: options.isa.unwrap_or_else(Isa::best),
            threads: options.build_threads()?,
            format,
            chat_template: checkpoint.chat_template,
            named_templates: checkpoint.named_templates,
            sampling: checkpoint.sampling,
            metadata: checkpoint.metadata,
            file_bytes: checkpoint.file_bytes,
            notes: checkpoint.notes,
            scratch: Mutex::default(),
            #[cfg(feature = "grammar")]
            grammar_vocabulary: std::sync::OnceLock::new(),
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

    /// How to sample, as the file recommends: it says nothing of most options. What of it can't be
    /// honored, [`Model::notes`] names.
    #[must_use]
    pub fn sampling_defaults(&self) -> &SamplingDefaults {
        &self.inner.sampling
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

    /// The tokenizer's pieces as grammars need them.
    #[cfg(feature = "grammar")]
    pub(crate) fn grammar_vocabulary(&self) -> Result<Arc<Vocabulary>> {
        let kept = &self.inner.grammar_vocabulary;
        if let Some(vocabulary) = kept.get() {
            return Ok(vocabulary.clone());
        }
        let tokenizer = self.tokenizer().ok_or(ErrorKind::NoTokenizer)?;
        let made = Arc::new(Vocabulary::new(tokenizer)?);
        Ok(kept.get_or_init(|| made).clone()) // another thread may have been faster
    }

    pub(crate) fn llama(&self) -> &Llama {
        &self.inner.llama
    }

    pub(crate) fn thread_team(&self) -> &Threads {
        &self.inner.threads
    }

    /// The buffers of a pass, which no other pass uses.
    pub(crate) fn take_scratch(&self) -> Scratch {
        self.inner.scratch.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    pub(crate) fn give_back_scratch(&self, scratch: Scratch) {
        self.inner.scratch.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
    }

    /// A number that another model, or the same with other settings, has by chance alone: of all
    /// that its logits depend on, but of tensors only their ends.
    pub(crate) fn fingerprint(&self) -> u64 {
        let Inner { llama, tokenizer, .. } = &*self.inner;
        let mut checksum = Checksum::new();
        let Llama { config, rope_frequencies, numerics, .. } = llama;
        for frequencies in rope_frequencies.all() {
            checksum.add(format!("{config:?} {frequencies:?} {numerics:?}").as_bytes());
        }
        for (id, weight) in llama.weights.tensors() {
            checksum.add(format!("{:?}", weight.info(id.to_string())).as_bytes());
            match weight {
                Weight::Matrix(tensor) => tensor.parts().into_iter().for_each(|part| {
                    checksum.add(&part[..part.len().min(END)]);
                    checksum.add(&part[part.len().saturating_sub(END)..]);
                }),
                Weight::Vector(vector) => vector.iter().for_each(|x| checksum.add(&x.to_le_bytes())),
            }
        }
        if let Some(tokenizer) = tokenizer {
            for id in 0..tokenizer.vocab_size() as TokenId {
                checksum.add(tokenizer.piece(id).unwrap_or_default());
                checksum.add(&[tokenizer.kind(id).map_or(u8::MAX, |kind| kind as u8)]);
            }
        }
        checksum.sum()
    }

    /// Whether both are the same model, opened once.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}
