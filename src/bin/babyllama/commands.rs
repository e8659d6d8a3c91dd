//! The command line: its commands and what each of them takes. `convert` and `bench` have theirs
//! beside their code.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::LazyLock;

use babyllama::{Isa, Pooling};
use clap::{Args, Parser, Subcommand};

use crate::args::{
    EngineArgs, SamplingArgs, TemplateParser, TokenList, TokenizerArgs, WhenFull, pooling_parser,
};
use crate::bench::BenchArgs;
use crate::constraint::ConstraintArgs;
use crate::convert::ConvertArgs;
use crate::draft::DraftArgs;
use crate::models::BUNDLED;
use crate::template::parse_variable;

/// Run Llama models on the CPU.
///
/// Without a command it tells a story, with the small model that is embedded in this program.
/// Generated text goes to standard output, everything else to standard error.
#[derive(Debug, Parser)]
#[command(version, long_version = LONG_VERSION.as_str(), args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub(crate) struct Cli {
    /// Seed of the random numbers: the same seed tells the same story; 0 picks a new one
    #[arg(short, long, value_name = "SEED", default_value_t = 0, hide_default_value = true)]
    pub(crate) seed: u64,

    /// Print only results and errors: no notes, no progress, no speed
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,

    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// Reports of slow or wrong results need it: what the kernels can run on here.
static LONG_VERSION: LazyLock<String> = LazyLock::new(|| {
    let names: Vec<_> = Isa::available().into_iter().map(Isa::name).collect();
    format!("{}\ninstruction sets: {} (the last is the default)", env!("CARGO_PKG_VERSION"), names.join(", "))
});

const EXAMPLES: &str = "\
Examples:
  babyllama                                      a story, a new one each time
  babyllama run -i \"Lily found a llama\" -t 0.8   a story with this beginning
  babyllama run stories15M.bin -z tokenizer.bin  llama2.c's files
  babyllama chat llama2-7b-chat.gguf             a conversation
  babyllama inspect                              what the embedded model consists of

The story without a command is `babyllama run -t 0.8 -n 0`: up to its end, and at a temperature
that suits so small a model better than llama2.c's default of 1.0.
No colors and no escape sequences are written if NO_COLOR is set or TERM is `dumb`.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(RunArgs),
    Chat(ChatArgs),
    Tokenize(TokenizeArgs),
    Perplexity(PerplexityArgs),
    Score(ScoreArgs),
    Embed(EmbedArgs),
    Logits(LogitsArgs),
    Inspect(InspectArgs),
    Convert(ConvertArgs),
    Bench(BenchArgs),
}

impl Command {
    /// What the program does without a command.
    pub(crate) fn story(seed: u64) -> Self {
        let args = ["babyllama", "run", "-t", "0.8", "-n", "0", "-s", &seed.to_string()];
        Cli::parse_from(args).command.expect("run is a command")
    }
}

/// Generate text from a prompt, with the options of llama2.c.
///
/// The prompt and the text after it go to standard output, token by token; the speed and the seed
/// go to standard error. The same model, options and seed give the same text as llama2.c, with any
/// number of threads. Generation ends with the model's end-of-text token, after -n tokens, before a
/// --stop text, or at Ctrl-C (exit code 130). Control characters other than white space aren't
/// printed.
#[derive(Debug, Args)]
#[command(allow_negative_numbers = true, after_help = RUN_EXAMPLES)]
pub(crate) struct RunArgs {
    /// Model file; `bundled` is the model embedded in this program
    #[arg(default_value = BUNDLED)]
    pub(crate) model: PathBuf,

    /// The prompt; `-` reads it from standard input, without its final newline
    #[arg(short = 'i', long, default_value = "", hide_default_value = true, allow_hyphen_values = true)]
    pub(crate) prompt: String,

    /// Let names of control tokens in the prompt, such as `<|im_start|>`, mean these tokens; by
    /// default they are text
    #[arg(long)]
    pub(crate) special: bool,

    /// Number of tokens to print, including the prompt's; 0 is the context's length, which is also
    /// the maximum
    #[arg(short = 'n', long, value_name = "STEPS", default_value_t = 256)]
    pub(crate) steps: usize,

    /// Continue the text in this file: the prompt is appended to it, and only what is new is read
    /// and printed. In the end the file has the new text too; if there is no file, it is made.
    /// Random numbers aren't saved: the same seed begins anew each time. Nothing is saved if Ctrl-C
    /// stops the reading of the prompt
    #[arg(long, value_name = "FILE")]
    pub(crate) session: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) tokenizer: TokenizerArgs,

    // These have headings of their own in the help, so they come last.
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) constraint: ConstraintArgs,
    #[command(flatten)]
    pub(crate) draft: DraftArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

const RUN_EXAMPLES: &str = "\
Examples:
  babyllama run -i \"One day, Tom\" -n 0                  the embedded model, up to the story's end
  babyllama run stories260K.bin -z tok512.bin -t 0      greedy: always the most likely token
  babyllama run model.gguf -t 0.8 -s 42 --threads 2     the same text each time
  babyllama run -i \"One day\" --session story            and later: babyllama run --session story
  babyllama run model.gguf -i - --stop \"The end\" < prompt.txt";

/// Chat with an instruction-tuned model.
///
/// Ctrl-C stops a reply; Ctrl-C or Ctrl-D at the prompt leaves; /help lists the commands. A line
/// that ends with a backslash continues on the next one; """ encloses a message of several lines.
/// If standard input is not a terminal, each of its lines is a message, even one that begins with
/// /, and only the replies are printed.
#[derive(Debug, Args)]
#[command(allow_negative_numbers = true)]
pub(crate) struct ChatArgs {
    /// Model file; `bundled` is the model embedded in this program, which tells stories but can't
    /// chat
    #[arg(default_value = BUNDLED)]
    pub(crate) model: PathBuf,

    /// Chat template: a layout, or by its name one of those that the model's file brings (`inspect`
    /// lists them) [default: the file's default, and its `tool_use`, if it has that, when the
    /// variable `tools` is set; llama2 if it has none]
    #[arg(long, value_name = "NAME", value_parser = TemplateParser)]
    pub(crate) template: Option<String>,

    /// Set a variable of the model file's template, such as `enable_thinking=false` or
    /// `date_string=1 May 2026`; can be given several times. The value is JSON, or else a text
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_variable)]
    pub(crate) set: Vec<(String, String)>,

    /// System prompt: how the model should behave
    #[arg(short = 'y', long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) system: Option<String>,

    /// Maximum number of tokens in a reply; 0 is no limit except the context
    #[arg(short = 'n', long, value_name = "TOKENS", default_value_t = 0)]
    pub(crate) max_tokens: usize,

    /// What to do when the conversation no longer fits the context
    #[arg(long, value_name = "POLICY", value_enum, default_value_t = WhenFull::DropOldest)]
    pub(crate) context_policy: WhenFull,

    /// Continue the conversation in this file, without reading it again, and save it there when the
    /// chat ends; if there is no file, it is made. Random numbers aren't saved: the same seed
    /// begins anew each time. Options such as --template aren't saved either
    #[arg(long, value_name = "FILE")]
    pub(crate) session: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) tokenizer: TokenizerArgs,

    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) draft: DraftArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// Print the tokens of a text on one line, separated by spaces, as a model is fed them.
#[derive(Debug, Args)]
#[command(
    override_usage = "babyllama tokenize [--no-bos] <MODEL> <TEXT>\n       \
                      babyllama tokenize [--no-bos] --tokenizer <FILE> <TEXT>",
    after_help = TOKENIZE_EXAMPLES
)]
pub(crate) struct TokenizeArgs {
    /// Model file whose tokenizer is used (`bundled` is the model embedded in this program), unless
    /// -z names one; then the text. The text `-` is standard input; put `--` before a text that
    /// begins with `-`
    #[arg(value_name = "MODEL|TEXT")]
    pub(crate) first: OsString,
    /// The text, if the first argument is a model
    #[arg(value_name = "TEXT")]
    pub(crate) second: Option<OsString>,

    #[command(flatten)]
    pub(crate) tokenizer: TokenizerArgs,

    /// Let names of control tokens in the text mean these tokens; by default they are text
    #[arg(long)]
    pub(crate) special: bool,

    /// Leave out the BOS token
    #[arg(long)]
    pub(crate) no_bos: bool,
}

const TOKENIZE_EXAMPLES: &str = "\
Examples:
  babyllama tokenize bundled \"Once upon a time\"
  babyllama tokenize -z tokenizer.bin - < text.txt
  babyllama tokenize --no-bos bundled -- \"- Hello, said Tom.\"";

/// Measure the perplexity of a model on a text; lower is better.
///
/// It is computed as llama.cpp does: over windows that don't overlap, of which the second half
/// counts. The running value after each window, and finally the perplexity alone on a line, go to
/// standard output; the standard error of the estimate goes to standard error.
#[derive(Debug, Args)]
pub(crate) struct PerplexityArgs {
    /// Model file; `bundled` is the model embedded in this program
    pub(crate) model: PathBuf,

    /// Text file; `-` is standard input
    pub(crate) file: PathBuf,

    /// Number of tokens in a window
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(4..=i64::from(i32::MAX)))]
    pub(crate) ctx: u32,

    /// Maximum number of windows; 0 is no limit
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) chunks: usize,

    #[command(flatten)]
    pub(crate) tokenizer: TokenizerArgs,

    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// Show how likely a model holds each token of a text to be.
///
/// Each token has a line, with tabs between its id, its text and its log-probability: the natural
/// logarithm of the probability that the model gives it after all tokens before. The first token is
/// given, so it has 0. In the text, control characters, backslashes and bytes that are no UTF-8 are
/// escaped, as \n, \\ and \xc3. The total and the mean of all others go to standard error.
#[derive(Debug, Args)]
#[command(after_help = SCORE_EXAMPLES)]
pub(crate) struct ScoreArgs {
    /// Model file; `bundled` is the model embedded in this program
    pub(crate) model: PathBuf,

    /// Text file; `-` is standard input
    pub(crate) file: PathBuf,

    /// Print an object of JSON on each line: id, text, logprob, `is_greatest`
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) tokenizer: TokenizerArgs,

    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

const SCORE_EXAMPLES: &str = "\
Examples:
  babyllama score model.gguf story.txt
  babyllama score model.gguf story.txt | sort -t$'\\t' -gk3 | head    the most surprising tokens
  babyllama score model.gguf - --json < story.txt";

/// Print the vector that a model makes of a text, to compare texts by their meaning.
///
/// Each line of the text has a line: numbers separated by spaces, as many as the model's dimension.
/// The vectors have length 1, so the sum of the products of two of them is the cosine of the angle
/// between them. Models that were trained for it do this best.
#[derive(Debug, Args)]
#[command(after_help = EMBED_EXAMPLES)]
pub(crate) struct EmbedArgs {
    /// Model file; `bundled` is the model embedded in this program
    pub(crate) model: PathBuf,

    /// The text; `-` is standard input. Put `--` before a text that begins with `-`
    pub(crate) text: String,

    /// Which tokens' hidden states make the vector: the last one's, or the mean of all [default: as
    /// the model file says, or last]
    #[arg(long, value_parser = pooling_parser())]
    pub(crate) pooling: Option<Pooling>,

    /// Print an object of JSON on each line: text, embedding
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) tokenizer: TokenizerArgs,

    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

const EMBED_EXAMPLES: &str = "\
Examples:
  babyllama embed model.gguf \"a cat\"
  babyllama embed model.gguf - --pooling mean < lines.txt > vectors.txt";

/// Write a model's logits at every position, to compare engines.
///
/// They are little-endian f32, a row of vocabulary size for each token. If something fails, the
/// output file is left as it was.
#[derive(Debug, Args)]
#[command(after_help = LOGITS_EXAMPLES)]
pub(crate) struct LogitsArgs {
    /// Model file; `bundled` is the model embedded in this program
    pub(crate) model: PathBuf,

    /// Token ids to feed, separated by spaces or commas
    #[arg(long)]
    pub(crate) tokens: TokenList,

    /// Output file; `-` is standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) out: PathBuf,

    /// Replace the output file if it exists
    #[arg(short, long)]
    pub(crate) force: bool,

    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

const LOGITS_EXAMPLES: &str = "\
Examples:
  babyllama logits model.gguf --tokens \"1 403 407\" --out logits.f32
  babyllama logits bundled --tokens \"$(babyllama tokenize bundled 'Once upon')\" --out logits.f32";

/// Show a model's format, hyperparameters, tensors, and memory use.
///
/// Of a GGUF file that can't be run, it shows the contents and the reason.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Model file, or a directory that `convert` reads; `bundled` is the model embedded in this
    /// program
    #[arg(default_value = BUNDLED)]
    pub(crate) model: PathBuf,

    /// Show every tensor; by default, the same tensor of all layers takes one line
    #[arg(long)]
    pub(crate) tensors: bool,

    /// Show every key of a GGUF file (long texts cut short, arrays by length), config.json or
    /// params.json
    #[arg(long)]
    pub(crate) metadata: bool,

    /// Print JSON; tensors and metadata only with --tensors and --metadata
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) tokenizer: TokenizerArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
