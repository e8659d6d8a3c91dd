//! Options that several commands share, and how their values are read.

use std::ffi::OsStr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use babyllama::chat::Template;
use babyllama::{
    CacheDtype, ContextPolicy, ErrorKind, Isa, ModelOptions, Pooling, Sampler, SamplerOptions,
    SamplingDefaults, SessionOptions, TokenId, Tokenizer,
};
use clap::builder::{
    PossibleValue, PossibleValuesParser, RangedU64ValueParser, StringValueParser, TypedValueParser,
};
use clap::{Arg, Args, Command, ValueEnum};

use crate::error::CliError;

/// llama.cpp's.
const DRY_BREAKERS: [&str; 4] = ["\n", ":", "\"", "*"];

/// How tokens are sampled.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// 0 always picks the most likely token; the higher, the more varied the text [default: 1; in
    /// chat the model file's, or 0.7]
    #[arg(short, long, value_name = "TEMP")]
    temperature: Option<f32>,

    /// Nucleus sampling: keep the most likely tokens whose probabilities add up to P; 0 and 1 turn
    /// it off [default: 0.9; in chat the model file's, or 1]
    #[arg(short = 'p', long, value_name = "P")]
    top_p: Option<f32>,

    /// Keep the K most likely tokens; 0 turns it off [default: 0; in chat the model file's, or 0]
    #[arg(short = 'k', long, value_name = "K")]
    top_k: Option<usize>,

    /// Drop tokens less likely than P times the most likely one, from 0 to 1; 0 turns it off
    /// [default: 0; in chat the model file's, or 0.05]
    #[arg(long, value_name = "P")]
    min_p: Option<f32>,

    /// Keep the tokens closest to the entropy whose probabilities add up to P (locally typical
    /// sampling); 1 turns it off
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    typical_p: f32,

    /// Drop tokens whose logit is more than N standard deviations below the greatest; 0 turns it
    /// off
    #[arg(long, value_name = "N", default_value_t = 0.0)]
    top_n_sigma: f32,

    /// XTC: how often, from 0 to 1, to drop all top choices except the least likely; 0 turns it off
    /// [default: 0; in chat the model file's, or 0]
    #[arg(long, value_name = "P")]
    xtc_probability: Option<f32>,

    /// The probability that makes a token a top choice for XTC [default: 0.1; in chat the model
    /// file's, or 0.1]
    #[arg(long, value_name = "P")]
    xtc_threshold: Option<f32>,

    /// Apply the temperature after the filters above instead of before them, as llama.cpp does; off
    /// by default
    #[arg(long)]
    temperature_last: bool,

    /// DRY: penalize what would repeat a sequence of tokens, by X times a power of its length; 0.8
    /// is usual, 0 turns it off
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    dry_multiplier: f32,

    /// The base of DRY's power
    #[arg(long, value_name = "B", default_value_t = 1.75)]
    dry_base: f32,

    /// The length from which DRY penalizes repeated sequences
    #[arg(long, value_name = "N", default_value_t = 2)]
    dry_allowed_length: usize,

    /// How many of the last tokens DRY compares
    #[arg(long, value_name = "N", default_value_t = 1024)]
    dry_window: usize,

    /// A text at which DRY's sequences end; can be given several times, or as '' for none [default:
    /// a line break, a colon, a double quotation mark and an asterisk]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    dry_breaker: Vec<String>,

    /// Penalize the last 64 tokens by this factor, so that they repeat less often; 1 turns it off
    /// [default: 1; in chat the model file's, or 1]
    #[arg(long, value_name = "X")]
    repetition_penalty: Option<f32>,

    /// Seed of the random numbers: the same seed gives the same text; 0 picks a new one
    #[arg(short, long, default_value_t = 0)]
    pub(crate) seed: u64,

    /// Stop before this text; can be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) stop: Vec<String>,
}

impl SamplingArgs {
    /// The options, if they are valid, without DRY's breakers. Those that weren't given are as in
    /// `defaults`.
    pub(crate) fn options(&self, defaults: SamplerOptions) -> Result<SamplerOptions, CliError> {
        if let Some(top_p) = self.top_p.filter(|top_p| !(0.0..=1.0).contains(top_p)) {
            return Err(CliError::Usage(format!("--top-p {top_p}: must be from 0 to 1")));
        }
        let mut given = SamplingDefaults::default();
        (given.temperature, given.top_p, given.top_k) = (self.temperature, self.top_p, self.top_k);
        (given.min_p, given.repetition_penalty) = (self.min_p, self.repetition_penalty);
        (given.xtc_probability, given.xtc_threshold) = (self.xtc_probability, self.xtc_threshold);
        let options = given
            .apply(defaults)
            .typical_p(self.typical_p)
            .top_n_sigma(self.top_n_sigma)
            .temperature_last(self.temperature_last)
            .dry_multiplier(self.dry_multiplier)
            .dry_base(self.dry_base)
            .dry_allowed_length(self.dry_allowed_length)
            .dry_window(self.dry_window)
            .seed(if self.seed == 0 { new_seed() } else { self.seed });
        options.validate().map_err(|e| {
            CliError::Usage(match e.kind() {
                ErrorKind::InvalidOption { name, value, reason } => {
                    format!("--{} {value}: {reason}", name.replace('_', "-"))
                }
                _ => e.to_string(),
            })
        })?;
        Ok(options)
    }

    /// A sampler with these options and the breakers as the tokenizer's tokens.
    pub(crate) fn sampler(&self, options: SamplerOptions, tokenizer: &Tokenizer) -> Sampler {
        if options.dry_multiplier == 0.0 {
            return Sampler::new(options);
        }
        let breakers = match &self.dry_breaker[..] {
            [] => DRY_BREAKERS.iter().flat_map(|text| tokenizer.breakers(text)).collect(),
            texts => texts.iter().flat_map(|text| tokenizer.breakers(text)).collect(),
        };
        Sampler::new(options.dry_breakers(breakers))
    }
}

/// What `chat` chooses where neither the command line nor the model's file says anything.
pub(crate) fn chat_defaults() -> SamplerOptions {
    SamplerOptions::new().temperature(0.7).min_p(0.05).top_p(1.0)
}

/// A seed that differs from run to run. It is below 2^31 so that it is short, and llama2.c can be
/// given it.
fn new_seed() -> u64 {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // The upper bits after a multiplication by an odd constant depend on all bits of the time.
    let mixed =
        (time.as_nanos() as u64 ^ u64::from(std::process::id()) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 33).max(1)
}

/// What happens to a conversation that no longer fits its context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum WhenFull {
    /// Forget the oldest messages, so that the reply has at least a quarter of the context, or the
    /// tokens of -n if these are fewer
    DropOldest,
    /// Refuse the message
    Refuse,
}

impl WhenFull {
    /// For replies of at most this many tokens, in a context of this length.
    pub(crate) fn policy(self, max_tokens: usize, capacity: usize) -> ContextPolicy {
        match self {
            Self::DropOldest => ContextPolicy::DropOldest { reserve: max_tokens.min(capacity / 4) },
            Self::Refuse => ContextPolicy::Refuse,
        }
    }
}

/// Which tokenizer is used.
#[derive(Debug, Args)]
pub(crate) struct TokenizerArgs {
    /// Tokenizer file, GGUF or llama2.c's tokenizer.bin, used instead of the model's own
    #[arg(short = 'z', long = "tokenizer", value_name = "FILE")]
    pub(crate) path: Option<PathBuf>,
}

/// How a model is run.
#[derive(Debug, Args)]
#[command(next_help_heading = "Running the model")]
pub(crate) struct EngineArgs {
    /// Number of threads [default: one per available processor]
    #[arg(long, value_name = "N", value_parser = in_range(1..=MAX_THREADS))]
    threads: Option<usize>,

    /// Instruction set [default: the fastest that this processor has]
    #[arg(long, value_parser = isa_parser())]
    isa: Option<Isa>,

    /// Length of the context in tokens [default: the model's maximum]
    #[arg(long, value_name = "N", value_parser = in_range(1..=MAX_POSITIONS))]
    pub(crate) context_length: Option<usize>,

    #[command(flatten)]
    cache: CacheArgs,

    /// Copy the weights into pages of 2 MiB: slower to start, faster to run (Linux); off by default
    #[arg(long)]
    huge_pages: bool,

    #[command(flatten)]
    hyperparameters: HyperparameterArgs,
}

/// How keys and values are stored.
#[derive(Debug, Args)]
pub(crate) struct CacheArgs {
    /// How keys and values are kept: the second takes half of the first's memory, the third a
    /// quarter; both are slightly less exact
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = cache_parser())]
    cache_dtype: CacheDtype,

    /// An older name of --cache-dtype f16
    #[arg(long, hide = true, conflicts_with = "cache_dtype")]
    f16_cache: bool,
}

impl CacheArgs {
    pub(crate) fn dtype(&self) -> CacheDtype {
        if self.f16_cache { CacheDtype::F16 } else { self.cache_dtype }
    }
}

/// Takes the names of cache types, and lists them in the help.
fn cache_parser() -> impl TypedValueParser<Value = CacheDtype> {
    let names = CacheDtype::ALL.iter().map(|dtype| dtype.name());
    PossibleValuesParser::new(names).try_map(|name| name.parse::<CacheDtype>())
}

/// Hyperparameters that override the file's.
#[derive(Debug, Args)]
pub(crate) struct HyperparameterArgs {
    /// Epsilon of RMSNorm; LLaMA 1 has 1e-6 [default: the file's, or 1e-5 for llama2.c's, which
    /// don't store it]
    #[arg(long, value_name = "EPS", value_parser = parse_norm_eps)]
    norm_eps: Option<f32>,

    /// Base of the rotary frequencies; Code Llama has 1e6 [default: the file's, or 1e4 for
    /// llama2.c's, which don't store it]
    #[arg(long, value_name = "THETA", value_parser = parse_rope_theta)]
    rope_theta: Option<f64>,
}

impl HyperparameterArgs {
    /// With the file of a tokenizer, if one was given.
    pub(crate) fn model_options(&self, tokenizer: Option<&Path>) -> ModelOptions {
        let mut options = ModelOptions::new();
        (options.norm_eps, options.rope_theta) = (self.norm_eps, self.rope_theta);
        match tokenizer {
            Some(path) => options.tokenizer_path(path),
            None => options,
        }
    }
}

impl EngineArgs {
    /// With the file of a tokenizer, if one was given.
    pub(crate) fn model_options(&self, tokenizer: Option<&Path>) -> ModelOptions {
        let mut options = self.hyperparameters.model_options(tokenizer).huge_pages(self.huge_pages);
        (options.threads, options.isa) = (self.threads, self.isa);
        options
    }

    /// For a second model, to which the hyperparameters of the first don't belong.
    pub(crate) fn draft_options(&self, tokenizer: Option<&Path>) -> ModelOptions {
        let mut options = self.model_options(tokenizer);
        (options.norm_eps, options.rope_theta) = (None, None);
        options
    }

    pub(crate) fn session_options(&self) -> SessionOptions {
        let mut options = SessionOptions::new().cache_dtype(self.cache.dtype());
        options.context_length = self.context_length;
        options
    }
}

/// Takes the names of the instruction sets that this processor has, and lists them in the help.
pub(crate) fn isa_parser() -> impl TypedValueParser<Value = Isa> {
    let names = Isa::available().into_iter().map(Isa::name);
    PossibleValuesParser::new(names).try_map(|name| name.parse::<Isa>())
}

/// Takes the names of poolings, and lists them in the help.
pub(crate) fn pooling_parser() -> impl TypedValueParser<Value = Pooling> {
    let names = Pooling::ALL.iter().map(|pooling| pooling.name());
    PossibleValuesParser::new(names).try_map(|name| name.parse::<Pooling>())
}

/// Takes any name, since a model's file may bring templates, and lists those of layouts in the
/// help.
#[derive(Clone)]
pub(crate) struct TemplateParser;

impl TypedValueParser for TemplateParser {
    type Value = String;

    fn parse_ref(&self, cmd: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(cmd, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(Template::ALL.iter().map(|template| PossibleValue::new(template.name()))))
    }
}

/// The epsilon of `RMSNorm`.
fn parse_norm_eps(text: &str) -> Result<f32, String> {
    let eps: f32 = text.parse().map_err(|e| format!("{e}"))?;
    if eps.is_finite() && eps >= 0.0 { Ok(eps) } else { Err("must be a number that is not negative".into()) }
}

/// The base of the rotary frequencies.
fn parse_rope_theta(text: &str) -> Result<f64, String> {
    let theta: f64 = text.parse().map_err(|e| format!("{e}"))?;
    if theta.is_finite() && theta > 0.0 { Ok(theta) } else { Err("must be a number above 0".into()) }
}

pub(crate) const MAX_THREADS: u64 = 1024;
pub(crate) const MAX_POSITIONS: u64 = i32::MAX as u64;

/// Takes an integer in a range.
pub(crate) fn in_range(range: RangeInclusive<u64>) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(range)
}

/// Token ids, as `tokenize` prints them.
#[derive(Clone, Debug)]
pub(crate) struct TokenList(pub(crate) Vec<TokenId>);

impl FromStr for TokenList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words = text.split(|c: char| c.is_whitespace() || c == ',').filter(|word| !word.is_empty());
        let parse = |word: &str| word.parse().map_err(|_| format!("{word} is not a token id"));
        let tokens: Vec<TokenId> = words.map(parse).collect::<Result<_, _>>()?;
        if tokens.is_empty() { Err("there are no tokens".into()) } else { Ok(Self(tokens)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_lists_take_spaces_and_commas() {
        assert_eq!("1 403,\n407".parse::<TokenList>().unwrap().0, [1, 403, 407]);
        for bad in ["", " , ", "1 x", "-1", "4294967296"] {
            assert!(bad.parse::<TokenList>().is_err(), "{bad:?}");
        }
    }
}
