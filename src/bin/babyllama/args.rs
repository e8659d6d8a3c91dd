//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use babyllama::chat::Template;
use babyllama::{CacheDtype, ErrorKind, Isa, ModelOptions, Sampler, SamplerOptions, SessionOptions, TokenId};
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};

use crate::bench::BenchArgs;
use crate::convert::ConvertArgs;
use crate::error::CliError;
use crate::models::BUNDLED;

/// Runs Llama models on the CPU.
///
/// Without a command it tells a story: a small model and its tokenizer are inside this program.
/// Text goes to standard output, everything else to standard error.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub(crate) struct Cli {
    /// Tells the story of this seed again; 0 takes a new one
    #[arg(short, long, value_name = "SEED", default_value_t = 0, hide_default_value = true)]
    pub(crate) seed: u64,

    /// Don't print the speed and the seed
    #[arg(short, long)]
    pub(crate) quiet: bool,

    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

const EXAMPLES: &str = "\
Examples:
  babyllama                                      a story, another one each time
  babyllama run -i \"Lily found a llama\" -t 0.8   a story that begins so
  babyllama run stories15M.bin -z tokenizer.bin  llama2.c's files
  babyllama chat llama2-7b-chat.bin              a conversation
  babyllama inspect                              what is in the bundled model

The story without a command is `babyllama run -t 0.8 -n 0`: to its end, and at a temperature
that keeps so small a model to the point better than llama2.c's 1.0 does.
With NO_COLOR set, or TERM=dumb, no escape sequences are written.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(RunArgs),
    Chat(ChatArgs),
    Tokenize(TokenizeArgs),
    Perplexity(PerplexityArgs),
    Logits(LogitsArgs),
    Inspect(InspectArgs),
    Convert(ConvertArgs),
    Bench(BenchArgs),
}

/// Writes on from a prompt, with the options of llama2.c.
///
/// The text goes to standard output, the prompt included, token by token; the speed and the seed to
/// standard error. The same model, options and seed give the same text as llama2.c, with any number
/// of threads. It ends where the model ends it, at -n tokens, before a --stop text, or at Ctrl-C
/// (exit code 130). Control characters other than white space aren't printed.
#[derive(Debug, Args)]
#[command(allow_negative_numbers = true, after_help = RUN_EXAMPLES)]
pub(crate) struct RunArgs {
    /// The model's file; `bundled` is the model inside this program
    #[arg(default_value = BUNDLED)]
    pub(crate) model: PathBuf,

    /// The text to go on from; `-` reads it from standard input, less one newline at its end
    #[arg(short = 'i', long, default_value = "", hide_default_value = true, allow_hyphen_values = true)]
    pub(crate) prompt: String,

    /// How many tokens to print, those of the prompt included; 0 is as many as the context holds,
    /// which is also the most
    #[arg(short = 'n', long, value_name = "STEPS", default_value_t = 256)]
    pub(crate) steps: usize,

    #[command(flatten)]
    pub(crate) tokenizer: TokenizerArgs,

    /// Don't print the speed and the seed
    #[arg(short, long)]
    pub(crate) quiet: bool,

    // These have headings of their own in the help, so they come last.
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

impl RunArgs {
    /// What a run without a command is.
    pub(crate) fn story(seed: u64, quiet: bool) -> Self {
        Self {
            model: BUNDLED.into(),
            prompt: String::new(),
            steps: 0,
            sampling: SamplingArgs {
                temperature: 0.8,
                top_p: 0.9,
                top_k: 0,
                min_p: 0.0,
                repetition_penalty: 1.0,
                seed,
                stop: Vec::new(),
            },
            tokenizer: TokenizerArgs { path: None },
            engine: EngineArgs::default(),
            quiet,
        }
    }
}

const RUN_EXAMPLES: &str = "\
Examples:
  babyllama run -i \"One day, Tom\" -n 0                  the bundled model, to the story's end
  babyllama run stories260K.bin -z tok512.bin -t 0      the likeliest text
  babyllama run model.bin -t 0.8 -s 42 --threads 2      the same text each time
  babyllama run model.bin -i - --stop \"The end\" < p.txt";

/// Talks with a model that was tuned for it.
///
/// Ctrl-C stops an answer; Ctrl-C or Ctrl-D at the prompt leaves; /help lists the commands. A line
/// that ends with a backslash goes on in the next; a question of many lines stands between lines of
/// \"\"\". If standard input is no terminal, each of its lines is a question as it stands, also one
/// that begins with /, and only the answers are printed.
#[derive(Debug, Args)]
#[command(allow_negative_numbers = true)]
pub(crate) struct ChatArgs {
    /// The model's file; `bundled` is the model inside this program, which knows stories but not
    /// how to chat
    #[arg(default_value = BUNDLED)]
    pub(crate) model: PathBuf,

    /// How a conversation is laid out [default: what the file says; llama2 if it says nothing]
    #[arg(long, value_name = "NAME", value_parser = template_parser())]
    pub(crate) template: Option<Template>,

    /// The system prompt: how the model should behave
    #[arg(short = 'y', long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) system: Option<String>,

    /// The most tokens that an answer may have; 0: until the context is full
    #[arg(short = 'n', long, value_name = "TOKENS", default_value_t = 0)]
    pub(crate) max_tokens: usize,

    #[command(flatten)]
    pub(crate) tokenizer: TokenizerArgs,

    /// Print answers and errors, and nothing else
    #[arg(short, long)]
    pub(crate) quiet: bool,

    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// Prints a text's tokens on one line, separated by spaces, as a prompt is fed to the model.
#[derive(Debug, Args)]
#[command(
    override_usage = "babyllama tokenize [--no-bos] <MODEL> <TEXT>\n       \
                      babyllama tokenize [--no-bos] --tokenizer <FILE> <TEXT>",
    after_help = TOKENIZE_EXAMPLES
)]
pub(crate) struct TokenizeArgs {
    /// The model whose tokenizer is taken (`bundled` is the one inside this program), unless one is
    /// given with -z; then the text. Text is `-` for all of standard input; put `--` before a text
    /// that begins with `-`
    #[arg(value_name = "MODEL|TEXT")]
    pub(crate) first: OsString,
    /// The text, if a model was given
    #[arg(value_name = "TEXT")]
    pub(crate) second: Option<OsString>,

    #[command(flatten)]
    pub(crate) tokenizer: TokenizerArgs,

    /// Leave out the token that begins a text
    #[arg(long)]
    pub(crate) no_bos: bool,

    /// Print nothing but tokens and errors, which is what it does anyway
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

const TOKENIZE_EXAMPLES: &str = "\
Examples:
  babyllama tokenize bundled \"Once upon a time\"
  babyllama tokenize -z tokenizer.bin - < text.txt
  babyllama tokenize --no-bos bundled -- \"- Hello, said Tom.\"";

/// Measures how well a model knows a text: the lower the perplexity, the better.
///
/// Counts as llama.cpp does: windows without overlap, of which the second half counts. The running
/// value after each window, and at last the perplexity alone on its line, go to standard output;
/// the error to standard error.
#[derive(Debug, Args)]
pub(crate) struct PerplexityArgs {
    /// The model's file; `bundled` is the model inside this program
    pub(crate) model: PathBuf,

    /// The text; `-` is standard input
    pub(crate) file: PathBuf,

    /// How many tokens a window has
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(4..=i64::from(i32::MAX)))]
    pub(crate) ctx: u32,

    /// How many windows are read at most; 0: all that the text has
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) chunks: usize,

    #[command(flatten)]
    pub(crate) tokenizer: TokenizerArgs,

    /// Don't show how far it is
    #[arg(short, long)]
    pub(crate) quiet: bool,

    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// Writes the logits that a model gives at every position, to compare engines.
///
/// They are little-endian f32: for each token a row, as long as the vocabulary. If something goes
/// wrong, the file is as it was before.
#[derive(Debug, Args)]
#[command(after_help = LOGITS_EXAMPLES)]
pub(crate) struct LogitsArgs {
    /// The model's file; `bundled` is the model inside this program
    pub(crate) model: PathBuf,

    /// The tokens to feed, separated by spaces or commas
    #[arg(long)]
    pub(crate) tokens: TokenList,

    /// The file to write; `-` is standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) out: PathBuf,

    /// Replace the file if it is there already
    #[arg(short, long)]
    pub(crate) force: bool,

    /// Print nothing but errors, which is what it does anyway
    #[arg(short, long)]
    pub(crate) quiet: bool,

    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

const LOGITS_EXAMPLES: &str = "\
Examples:
  babyllama logits model.bin --tokens \"1 403 407\" --out logits.f32
  babyllama logits bundled --tokens \"$(babyllama tokenize bundled 'Once upon')\" --out logits.f32";

/// Shows a model's format, hyperparameters, tensors, and the memory it takes.
///
/// Of a GGUF file that can't be run it shows what is in it, and why it can't.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The model's file, or a directory that `convert` takes; `bundled` is the model inside this
    /// program
    #[arg(default_value = BUNDLED)]
    pub(crate) model: PathBuf,

    /// Show every tensor; otherwise those of all layers are shown together
    #[arg(long)]
    pub(crate) tensors: bool,

    /// Show every key of a GGUF file, where long texts are cut short and arrays only counted; or of
    /// config.json or params.json
    #[arg(long)]
    pub(crate) metadata: bool,

    /// Show it in JSON; tensors and keys only if they are asked for
    #[arg(long)]
    pub(crate) json: bool,

    /// Print nothing on standard error but errors, which is what it does anyway
    #[arg(short, long)]
    pub(crate) quiet: bool,

    #[command(flatten)]
    pub(crate) tokenizer: TokenizerArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// How tokens are chosen.
#[derive(Debug, Args)]
#[command(next_help_heading = "Choosing tokens")]
pub(crate) struct SamplingArgs {
    /// 0 takes the likeliest token; the higher, the more varied the text
    #[arg(short, long, value_name = "TEMP", default_value_t = 1.0)]
    pub(crate) temperature: f32,

    /// Choose among the likeliest tokens that together are this likely, from 0 to 1; 0 and 1 are
    /// off
    #[arg(short = 'p', long, value_name = "P", default_value_t = 0.9)]
    pub(crate) top_p: f32,

    /// Choose among this many of the likeliest tokens; 0 is off
    #[arg(short = 'k', long, value_name = "K", default_value_t = 0)]
    pub(crate) top_k: usize,

    /// Leave out tokens less likely than this times the likeliest, from 0 to 1; 0 is off
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    pub(crate) min_p: f32,

    /// Divides the logits of the last 64 tokens, so that they come up less often; 1 is off
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub(crate) repetition_penalty: f32,

    /// The same seed gives the same text; 0 takes a new one
    #[arg(short, long, default_value_t = 0)]
    pub(crate) seed: u64,

    /// Stop before this text; may be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) stop: Vec<String>,
}

impl SamplingArgs {
    /// The sampler, if the options can be honoured.
    pub(crate) fn sampler(&self) -> Result<Sampler, CliError> {
        if !(0.0..=1.0).contains(&self.top_p) {
            return Err(CliError::Usage(format!("--top-p {}: must be from 0 to 1", self.top_p)));
        }
        let options = SamplerOptions {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed: if self.seed == 0 { new_seed() } else { self.seed },
            ..Default::default()
        };
        options.validate().map_err(|e| {
            CliError::Usage(match e.kind() {
                ErrorKind::InvalidOption { name, value, reason } => {
                    format!("--{} {value}: {reason}", name.replace('_', "-"))
                }
                _ => e.to_string(),
            })
        })?;
        Ok(Sampler::new(options))
    }
}

/// A seed that differs from run to run. It is below 2^31 so that it is short, and llama2.c can be
/// given it.
fn new_seed() -> u64 {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // A multiplication by an odd number and the upper bits: every nanosecond counts, and so does
    // every second.
    let mixed =
        (time.as_nanos() as u64 ^ u64::from(std::process::id()) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 33).max(1)
}

/// Which tokenizer.
#[derive(Debug, Args)]
pub(crate) struct TokenizerArgs {
    /// The tokenizer's file, GGUF or a tokenizer.bin, instead of the model's own or the one beside
    /// it
    #[arg(short = 'z', long = "tokenizer", value_name = "FILE")]
    pub(crate) path: Option<PathBuf>,
}

/// How a model is run.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Running the model")]
pub(crate) struct EngineArgs {
    /// How many threads compute [default: as many as the machine runs at once]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,

    /// The instruction set to compute with [default: the fastest here]
    #[arg(long, value_parser = isa_parser())]
    isa: Option<Isa>,

    /// How many tokens the context holds [default: what the model was made for]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(i32::MAX)))]
    context_length: Option<u32>,

    /// Keep keys and values in half precision: half the memory, faster in long contexts, not quite
    /// exact
    #[arg(long)]
    f16_cache: bool,

    /// Copy the weights into pages of 2 MiB first: slower to start, faster to run (Linux)
    #[arg(long)]
    huge_pages: bool,

    /// Added to the mean square in RMSNorm; llama2.c's files don't say. LLaMA 1 has 1e-6 [default:
    /// 1e-5]
    #[arg(long, value_name = "EPS", value_parser = parse_norm_eps)]
    norm_eps: Option<f32>,

    /// The base of the rotary frequencies; llama2.c's files don't say. Code Llama has 1e6 [default:
    /// 1e4]
    #[arg(long, value_name = "THETA", value_parser = parse_rope_theta)]
    rope_theta: Option<f64>,
}

impl EngineArgs {
    pub(crate) fn model_options(&self) -> ModelOptions {
        let mut options = ModelOptions::new().huge_pages(self.huge_pages);
        if let Some(threads) = self.threads {
            options = options.threads(threads.into());
        }
        if let Some(isa) = self.isa {
            options = options.isa(isa);
        }
        if let Some(norm_eps) = self.norm_eps {
            options = options.norm_eps(norm_eps);
        }
        if let Some(rope_theta) = self.rope_theta {
            options = options.rope_theta(rope_theta);
        }
        options
    }

    pub(crate) fn cache_dtype(&self) -> CacheDtype {
        cache_dtype(self.f16_cache)
    }

    /// Whether a context's length was asked for.
    pub(crate) fn has_context_length(&self) -> bool {
        self.context_length.is_some()
    }

    pub(crate) fn session_options(&self) -> SessionOptions {
        let options = SessionOptions::new().cache_dtype(self.cache_dtype());
        match self.context_length {
            Some(positions) => options.context_length(positions as usize),
            None => options,
        }
    }
}

/// How keys and values are kept.
pub(crate) fn cache_dtype(f16: bool) -> CacheDtype {
    if f16 { CacheDtype::F16 } else { CacheDtype::F32 }
}

/// Takes the names of the instruction sets that are there, and lists them in the help.
pub(crate) fn isa_parser() -> impl TypedValueParser<Value = Isa> {
    let names = Isa::available().into_iter().map(Isa::name);
    PossibleValuesParser::new(names).try_map(|name| {
        let isa = Isa::available().into_iter().find(|isa| isa.name() == name);
        isa.ok_or("not an instruction set of this processor")
    })
}

/// Takes the names of templates, and lists them in the help.
fn template_parser() -> impl TypedValueParser<Value = Template> {
    // llama.cpp's names, which files have, are taken too.
    let more = ["mistral-v1", "mistral-v3-tekken", "mistral-v7-tekken"];
    let more = more.map(|name| PossibleValue::new(name).hide(true));
    let names = Template::ALL.map(|template| PossibleValue::new(template.name()));
    PossibleValuesParser::new(names.into_iter().chain(more)).try_map(|name| name.parse::<Template>())
}

/// What is added to a mean square, so that one divides by its root.
pub(crate) fn parse_norm_eps(text: &str) -> Result<f32, String> {
    let eps: f32 = text.parse().map_err(|e| format!("{e}"))?;
    if eps.is_finite() && eps >= 0.0 { Ok(eps) } else { Err("must be a number that is not negative".into()) }
}

/// The base of the rotary frequencies.
pub(crate) fn parse_rope_theta(text: &str) -> Result<f64, String> {
    let theta: f64 = text.parse().map_err(|e| format!("{e}"))?;
    if theta.is_finite() && theta > 0.0 { Ok(theta) } else { Err("must be a number above 0".into()) }
}

/// A number of positions.
pub(crate) fn parse_positions(text: &str) -> Result<usize, String> {
    let positions = text.parse().map_err(|e| format!("{e}"))?;
    if (1..=i32::MAX as usize).contains(&positions) {
        Ok(positions)
    } else {
        Err("must be from 1 to 2147483647".into())
    }
}

/// Token ids, as `tokenize` prints them.
#[derive(Clone, Debug)]
pub(crate) struct TokenList(pub(crate) Vec<TokenId>);

impl FromStr for TokenList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words = text.split(|c: char| c.is_whitespace() || c == ',').filter(|word| !word.is_empty());
        let parse = |word: &str| word.parse().map_err(|_| format!("{word} is not a token's number"));
        let tokens: Vec<TokenId> = words.map(parse).collect::<Result<_, _>>()?;
        if tokens.is_empty() { Err("there are no tokens".into()) } else { Ok(Self(tokens)) }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn token_lists_take_spaces_and_commas() {
        assert_eq!("1 403,\n407".parse::<TokenList>().unwrap().0, [1, 403, 407]);
        for bad in ["", " , ", "1 x", "-1", "4294967296"] {
            assert!(bad.parse::<TokenList>().is_err(), "{bad:?}");
        }
    }
}
