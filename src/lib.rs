//! Runs Llama models on the CPU from one memory-mapped file: like llama2.c, but a crate.
//!
//! ```
//! use babyllama::{Model, Sampler, SamplerOptions};
//!
//! # #[cfg(not(feature = "bundled"))]
//! # trait Bundled { fn bundled() -> babyllama::Result<Model>; }
//! # #[cfg(not(feature = "bundled"))]
//! # impl Bundled for Model {
//! #     fn bundled() -> babyllama::Result<Model> {
//! #         Model::open(concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf"))
//! #     }
//! # }
//! # fn main() -> Result<(), babyllama::Error> {
//! // The small model of the feature `bundled`. Other models come from a file, which is mapped, in
//! // milliseconds whatever its size: `Model::open("llama-2-7b-chat.Q4_K_M.gguf")?`.
//! let model = Model::bundled()?;
//! let mut session = model.session();
//! let mut sampler = Sampler::new(SamplerOptions::new().temperature(0.0));
//! let mut story = String::new();
//! for piece in session.generate("Once upon a time", &mut sampler)?.max_tokens(20) {
//!     story += piece?.as_str();
//! }
//! assert!(story.starts_with(", there was a little girl named Lily."));
//! # Ok(())
//! # }
//! ```
//!
//! A [`Model`] is a file: hyperparameters, weights and tokenizer, shared by everything that uses
//! it. A [`Session`] is one text: it holds what the model remembers. [`Session::forward`] turns
//! tokens into logits, [`Sampler`] a row of logits into a token, [`Tokenizer`] tokens into text and
//! back, and [`Session::generate`] does all of it in a loop.
//!
//! # The contract
//! The same file, tokens, seed and instruction set give the same bits, whatever the threads, the
//! cut into calls, what is fed together, what was guessed, and whether the session was truncated,
//! forked, saved and restored, or cancelled in between. `tests/session/laws.rs` holds it to that.
//!
//! What that makes possible: [`Session::fork`] shares what was read, [`Session::keep_prefix`] and
//! [`Model::restore`] reuse it, [`Model::forward_together`] feeds many sessions in one pass (with
//! [`Generation`], a batch of generations), [`Session::forward_guessing`] and [`Draft`] read ahead,
//! [`Session::cancel_on`] stops a pass, [`Session::score`] and [`Session::embed`] read results.
//! Each that fails leaves the session at complete passes, usable.
//!
//! # Complete programs
//! `tests/programs/` has three, to be read and copied: a chat service over HTTP for many clients at
//! once, classification of texts by their scores, and extraction of JSON by a schema.
//!
//! # In a debug build
//! Without optimization a model runs about a hundred times slower, because each intrinsic is then a
//! function call and vectors go through memory. Only the program's own `Cargo.toml` can change
//! that:
//!
//! ```toml
//! [profile.dev.package.babyllama]
//! opt-level = 3
//! ```
//!
//! Debug assertions and overflow checks stay on, and no other package needs it.
//!
//! `half` depends on `zerocopy`, `syn` and `quote` from its version 2.7 on, a tenth of a first
//! build's time; `cargo update -p half --precise 2.6.0` avoids them.
//!
//! # Reading the source
//! Seven stops, each to be read from top to bottom, with their lines in parentheses:
//!
//! 1. `tests/common/forward.rs` (128): the whole network as loops in f64, by its definition.
//! 2. `src/forward.rs` (223): the same network made fast. All tokens of a pass go through a layer
//!    together, keys and values are kept, and each line is a call of one operation.
//! 3. `src/compute.rs` (23), `src/ops.rs` (216): what every operation is given, and the small ones:
//!    norms, SwiGLU, softmax, RoPE.
//! 4. `src/attention/mod.rs` (255), `src/attention/scores.rs` (114): the three steps of attention,
//!    and how the first of them fills the registers; `values.rs` is the last one, in the same way.
//! 5. `src/matmul.rs` (238): matrix products: how activations are laid out, and which thread
//!    multiplies which rows of the weights.
//! 6. `src/quant/encoding.rs` (42), `src/quant/block.rs` (137), `src/quant/q4.rs` (86),
//!    `src/quant/block_rows.rs` (331): what a format of quantized weights says of its blocks, such
//!    a format, and the product of a row of blocks with a token.
//! 7. `src/simd/avx2.rs` (255), `src/simd/avx2/widening.rs` (108), `src/simd/x86.rs` (259): the
//!    instructions that this takes on one instruction set.
//!
//! On the way from 5 to 7 a product passes, in this order:
//!
//! - `tensor.rs`: `Tensor::matrix`, the weights as rows of their format
//! - `quant/activation.rs`: `quantize_groups`, activations as int8
//! - `quant/mod.rs`: `Rows::dot_all`, which format (`formats!`, `with_format!`)
//! - `simd/isa.rs`: `kernel!`, which instruction set
//! - `quant/walk.rs`: `dot_all`, in which order rows and tokens are taken
//! - `quant/row_tails.rs`, `quant/shared_rows.rs`: the ends of rows, and several tokens at once
//! - `simd/quant_kernels.rs`: `interleave_nibbles_16` and `dot_interleaved`, what interleaved
//!   integers are; in terms of the instructions' usual names, which `simd/primitives.rs` lists
//!
//! Beside this path are prompts' products (`gemm/`), threads (`parallel/`), files (`storage`,
//! `checkpoint/`), and text (`tokenizer/`, `sampler/`, `generate`). `CONTRIBUTING.md` has a
//! glossary.
//!
//! Prefill gives the bits of decode because each of its parts does. A token's activations are
//! quantized by themselves. Products of integers are exact. A group's term is one fused
//! multiply-add of the same two f32. Groups 0, 8, 16 and so on are summed one after another, and so
//! are the other seven lanes, which are then added as a tree: `quant/packed.rs` has the picture.
//! Attention adds up each score and each output in the order of its terms.
//!
//! Names are Meta's: `wq wk wv wo` make attention, `w1` (gate), `w2` (down) and `w3` (up) the
//! feed-forward network. Shapes stand beside buffers, outermost first:
//!
//! | shape | what |
//! | --- | --- |
//! | (`n_tokens`, `dim`) | the residual stream: a row for each token |
//! | (`n_tokens`, `n_heads * head_dim`) | queries |
//! | (`n_tokens`, `n_kv_heads * head_dim`) | keys, values; `kv_dim` wide |
//! | (`n_tokens`, `hidden_dim`) | inside the feed-forward network |
//! | (`out`, `in`) | a matrix of weights, row by row: `y = W x` |
//! | (`vocab_size`) | logits |
//!
//! # Unsafe code
//! It is denied except in three places: `storage.rs` (mapping a file, viewing bytes as numbers),
//! `simd/` (intrinsics) and `parallel/` (threads that write disjoint parts of one buffer). Each
//! says at its top why it is sound.
//!
//! # Features
//! - `rayon` (default): threads. Without it everything runs on the calling thread.
//! - `bundled`: a model of 1.3 MB as part of the program, `Model::bundled`.
//! - `convert`: writing models, in the module `convert`.
//! - `grammar`: text that follows a JSON schema, a regular expression or a grammar, `Grammar`.
//! - `jinja`: a model file's own chat template is run as Jinja, `chat::JinjaTemplate`.
//! - `serde`: options, messages and what has a name can be read and written with serde.
//! - `cli`: the `babyllama` binary, `jinja`, the crates that only it needs, and `machine` for its
//!   `bench`.

mod arch;
mod attention;
#[cfg(feature = "serde")]
mod by_name;
mod bytes;
pub mod chat;
mod checkpoint;
mod compute;
mod config;
mod constraint;
mod conversation;
#[cfg(feature = "convert")]
pub mod convert;
mod error;
mod forward;
mod gemm;
mod generate;
pub mod inspect;
mod kv_cache;
mod logprobs;
mod matmul;
mod model;
mod ops;
mod parallel;
mod perplexity;
mod quant;
#[cfg(test)]
#[path = "../tests/common/rng.rs"]
mod rng;
mod sampler;
mod session;
mod settings;
mod simd;
mod storage;
mod tensor;
mod tokenizer;
mod weights;

pub use config::{Config, QkNorm, QueryGrowth, RopePairs, RopeScaling};
pub use constraint::Constraint;
#[cfg(feature = "grammar")]
pub use constraint::{Grammar, GrammarConstraint};
pub use conversation::{Answer, Chat, ContextPolicy};
pub use error::{Error, ErrorKind, Result, TokenId};
pub use generate::{Draft, DraftModel, FinishReason, Generate, Generation, Piece, Prompt, PromptLookup};
pub use kv_cache::CacheDtype;
pub use logprobs::TokenLogprob;
pub use model::{Model, ModelBytes, ModelOptions, TokenizerSource};
pub use perplexity::{Perplexity, PerplexityOptions};
pub use quant::Dtype;
pub use sampler::{Rng, Sampler, SamplerOptions, SamplingDefaults, TokenMask};
pub use session::{Feed, Pooling, Score, Session, SessionOptions};
pub use simd::Isa;
#[cfg(feature = "cli")]
pub use simd::machine;
pub use tokenizer::{Decoder, PieceKind, Tokenizer};
pub use weights::TensorInfo;

/// The README's code, so that it is compiled and run.
#[cfg(all(doctest, feature = "bundled"))]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
