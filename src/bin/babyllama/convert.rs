//! `babyllama convert`: a model in another format.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use babyllama::Error;
use babyllama::convert::{
    GgufOptions, ImportanceMatrix, Llama2c, OutputFile, Recipe, Source, check, gguf_bytes, llama2c_bytes,
    to_gguf, to_llama2c, to_tokenizer_bin,
};
use clap::Args;
use indicatif::ProgressBar;

use crate::args::{HyperparameterArgs, MAX_POSITIONS, MAX_THREADS, in_range};
use crate::error::CliError;
use crate::interrupt::{Watch, is_terminated, remove_when_killed};
use crate::output::{note, progress_bar};

/// Convert a model to GGUF, quantized if wanted, or to one of llama2.c's formats.
///
/// The files also run in llama.cpp or llama2.c. The output file appears under its name only when it
/// is complete.
#[derive(Debug, Args)]
#[command(after_help = CONVERT_EXAMPLES)]
pub(crate) struct ConvertArgs {
    /// The model: a directory from Hugging Face (with config.json) or Meta (with params.json), or a
    /// file in GGUF or one of llama2.c's formats
    #[arg(value_name = "SRC")]
    pub(crate) source: PathBuf,

    /// Output file
    #[arg(value_name = "DST")]
    pub(crate) target: PathBuf,

    /// Output format; llama2.c's also write NAME.tokenizer.bin beside NAME.bin
    /// [default: llama2c-v0 if DST ends in .bin, else gguf]
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub(crate) to: Option<TargetFormat>,

    #[arg(long, value_name = "FORMAT", default_value = "auto", hide_default_value = true, help = dtype_help())]
    pub(crate) dtype: RecipeOrAuto,

    #[arg(long, value_name = "N", help = group_size_help())]
    pub(crate) group_size: Option<usize>,

    /// Merge an adapter (LoRA): PEFT's directory or a GGUF file, times SCALE if it is given;
    /// several are merged one after another
    #[arg(long, value_name = "ADAPTER[=SCALE]", value_parser = parse_lora)]
    pub(crate) lora: Vec<(PathBuf, f32)>,

    /// Read the output back and compare every tensor, the tokenizer and the hyperparameters with
    /// the source
    #[arg(long)]
    pub(crate) check: bool,

    /// Tokenizer file, used instead of the model's own: tokenizer.model, tokenizer.json,
    /// tokenizer.bin or GGUF
    #[arg(short = 'z', long, value_name = "FILE")]
    pub(crate) tokenizer: Option<PathBuf>,

    /// Importance matrix of llama.cpp's llama-imatrix, GGUF or imatrix.dat: which columns matter
    /// most, for formats of 2 to 6 bits
    #[arg(long, value_name = "FILE")]
    pub(crate) imatrix: Option<PathBuf>,

    /// Replace the output file if it exists
    #[arg(short, long)]
    pub(crate) force: bool,

    /// Number of threads [default: one per available processor]
    #[arg(long, value_name = "N", value_parser = in_range(1..=MAX_THREADS))]
    pub(crate) threads: Option<usize>,

    /// Set a key of the GGUF file, such as general.name or general.license; can be given several
    /// times
    #[arg(long, value_name = "KEY=TEXT", value_parser = parse_key_and_text)]
    pub(crate) set: Vec<(String, String)>,

    #[command(flatten)]
    pub(crate) hyperparameters: HyperparameterArgs,

    /// Maximum context length of the model, which Meta's files don't store [default: guessed from
    /// the other hyperparameters]
    #[arg(long, value_name = "N", value_parser = in_range(1..=MAX_POSITIONS))]
    pub(crate) max_seq_len: Option<usize>,
}

/// The format that a model is converted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum TargetFormat {
    Gguf,
    Llama2cV0,
    Llama2cV1,
    Llama2cV2,
}

const CONVERT_EXAMPLES: &str = "\
Examples:
  babyllama convert Llama-2-7b-hf llama2-7b.gguf --dtype q8_0 --check
  babyllama convert llama-2-7b/ llama2-7b.bin --to llama2c-v2
  babyllama convert stories15M.bin stories15M.gguf -z tokenizer.bin --dtype q8_0
  babyllama convert Llama-2-7b-hf chat.gguf --lora my-adapter --dtype q4_k_m
  babyllama convert llama2-7b.F16.gguf llama2-7b.Q4_K_M.gguf --dtype q4_k_m
  babyllama convert model.bin model.gguf --set general.name=\"My model\" --set general.license=MIT";

/// The formats of matrices; `None` keeps the source's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecipeOrAuto(pub(crate) Option<Recipe>);

impl FromStr for RecipeOrAuto {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        if name == "auto" { Ok(Self(None)) } else { name.parse().map(|recipe| Self(Some(recipe))) }
    }
}

fn group_size_help() -> String {
    format!(
        "Number of weights that share a scale in llama2c-v2; halved until it divides dim [default: {}]",
        Llama2c::GROUP_SIZE
    )
}

fn dtype_help() -> String {
    let names: Vec<_> = Recipe::all().map(|recipe| recipe.to_string().to_ascii_lowercase()).collect();
    format!(
        "Weight format, or a mix of formats as llama.cpp has them: {}; auto keeps the source's [default: auto]",
        names.join(", ")
    )
}

/// An adapter, and what it is multiplied with.
fn parse_lora(text: &str) -> Result<(PathBuf, f32), String> {
    let scaled = text.rsplit_once('=').filter(|_| !Path::new(text).exists());
    let Some((path, scale)) = scaled else { return Ok((text.into(), 1.0)) };
    let scale = scale.parse::<f32>().ok().filter(|scale| scale.is_finite());
    scale.map(|scale| (path.into(), scale)).ok_or_else(|| "the scale after = must be a finite number".into())
}

/// A key of a GGUF file, and its text.
fn parse_key_and_text(text: &str) -> Result<(String, String), String> {
    let (key, text) = text.split_once('=').ok_or("expected KEY=TEXT")?;
    // The other keys have types of their own, and `convert` sets them.
    if !key.starts_with("general.") {
        return Err(format!("only keys that begin with general. can be set, not {key}"));
    }
    Ok((key.into(), text.into()))
}

pub(crate) fn run(args: &ConvertArgs) -> Result<(), CliError> {
    if args.target == Path::new("-") {
        let reason = "a model can't be written to standard output: name a file (./- is one of that name)";
        return Err(CliError::Usage(reason.into()));
    }
    if args.group_size.is_some() && args.to != Some(TargetFormat::Llama2cV2) {
        return Err(CliError::Usage("--group-size is for --to llama2c-v2 alone".into()));
    }
    let mut options = args.hyperparameters.model_options(args.tokenizer.as_deref());
    options.max_seq_len = args.max_seq_len;
    let mut source = Source::open(&args.source, &options)?;
    args.lora.iter().try_for_each(|(path, scale)| source.merge_lora(path, *scale))?;
    source.notes().iter().for_each(|text| note(&format!("note: {text}")));
    // Until the output is complete, a signal must remove it. Comparing it writes nothing.
    let watch = Watch::new();
    match version(args) {
        None => write_gguf(args, &source, &watch)?,
        Some(version) => write_llama2c(args, &source, version, &watch)?,
    }
    if is_terminated() {
        return Err(CliError::Interrupted);
    }
    drop(watch);
    if args.check {
        let bar = progress_bar("comparing {wide_bar} {percent} %, {eta} left", weights(&source));
        check(&source, &args.target, |compared| bar.set_position(compared))?;
        bar.finish_and_clear();
        note("every tensor, the tokenizer and the hyperparameters match the source");
    }
    Ok(())
}

/// Which of llama2.c's formats was chosen; `None` is GGUF.
fn version(args: &ConvertArgs) -> Option<Llama2c> {
    let is_bin = args.target.extension().is_some_and(|extension| extension == "bin");
    match args.to.unwrap_or(if is_bin { TargetFormat::Llama2cV0 } else { TargetFormat::Gguf }) {
        TargetFormat::Gguf => None,
        TargetFormat::Llama2cV0 => Some(Llama2c::V0),
        TargetFormat::Llama2cV1 => Some(Llama2c::V1),
        TargetFormat::Llama2cV2 => {
            Some(Llama2c::V2 { group_size: args.group_size.unwrap_or(Llama2c::GROUP_SIZE) })
        }
    }
}

fn write_gguf(args: &ConvertArgs, source: &Source, watch: &Watch) -> Result<(), CliError> {
    let mut options = GgufOptions::new();
    (options.recipe, options.threads) = (args.dtype.0, args.threads);
    options.importance = args.imatrix.as_ref().map(ImportanceMatrix::open).transpose()?;
    for (key, text) in &args.set {
        options = options.metadata(key, text.as_str());
    }
    let bytes = gguf_bytes(source, &options).map_err(|e| CliError::of(args.target.display(), e))?;
    write(args, bytes, watch, |to| to_gguf(source, &options, to))?.persist()?;
    if source.tokenizer()?.is_none() {
        note("note: there is no tokenizer: the output can only be run on token ids");
    }
    Ok(())
}

/// Writes the weights, and the tokenizer if llama2.c's format can express it.
fn write_llama2c(
    args: &ConvertArgs,
    source: &Source,
    version: Llama2c,
    watch: &Watch,
) -> Result<(), CliError> {
    if args.dtype.0.is_some() || args.imatrix.is_some() || !args.set.is_empty() {
        let why = if args.to.is_none() { ", and .bin chose one: --to gguf changes it" } else { "" };
        return Err(CliError::Usage(format!("llama2.c's formats take no --dtype, --imatrix or --set{why}")));
    }
    let of_target = |e| CliError::of(args.target.display(), e);
    let mut tokenizer = Vec::new();
    let beside: PathBuf = args.target.with_extension("tokenizer.bin");
    let beside = match to_tokenizer_bin(source, &mut tokenizer) {
        Ok(()) => Some(create(args, &beside)?),
        Err(e) => {
            note(&format!("note: no {}: {e}", beside.display()));
            None
        }
    };
    let bytes = llama2c_bytes(source, version).map_err(of_target)?;
    let file = write(args, bytes, watch, |to| to_llama2c(source, version, to))?;
    if let Some(mut beside) = beside {
        beside.write_all(&tokenizer).map_err(|e| of_target(e.into()))?;
        beside.persist()?;
    }
    file.persist()?;
    let config = source.config();
    if (config.norm_eps, config.rope_theta) != (1e-5, 1e4) {
        let (eps, theta) = (config.norm_eps, config.rope_theta);
        note(&format!(
            "note: llama2.c's formats don't store these options: run it with --norm-eps {eps:e} --rope-theta {theta}"
        ));
    }
    Ok(())
}

/// Creates an output file, which must not be one that the model is read from.
fn create(args: &ConvertArgs, target: &Path) -> Result<OutputFile, CliError> {
    let mut sources = vec![args.source.as_path()];
    sources.extend(args.tokenizer.as_deref());
    sources.extend(args.lora.iter().map(|(path, _)| path.as_path()));
    let file = OutputFile::create_apart(target, args.force, &sources)?;
    remove_when_killed(&file);
    Ok(file)
}

/// Writes a file that doesn't have its name yet, and shows progress.
fn write(
    args: &ConvertArgs,
    bytes: u64,
    watch: &Watch,
    write: impl FnOnce(BufWriter<&mut Watched<'_>>) -> babyllama::Result<()>,
) -> Result<OutputFile, CliError> {
    let mut file = create(args, &args.target)?;
    file.require_space(bytes)?;
    let bar = progress_bar("writing {wide_bar} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left", bytes);
    let mut watched = Watched { to: &mut file, watch, bar: &bar };
    let result = write(BufWriter::new(&mut watched));
    bar.finish_and_clear();
    if watch.interrupted() {
        return Err(CliError::Interrupted);
    }
    result.map_err(|e| described(&e, &args.target))?;
    Ok(file)
}

/// An error without a path is about the output.
fn described(error: &Error, target: &Path) -> CliError {
    match error.path() {
        Some(_) => CliError::Error(error.to_string()),
        None => CliError::of(target.display(), error),
    }
}

fn weights(source: &Source) -> u64 {
    let weights = |shape: &[usize]| shape.iter().map(|&n| n as u64).product::<u64>();
    source.tensors().iter().map(|tensor| weights(&tensor.shape)).sum()
}

/// Shows progress, and fails at the first write after Ctrl-C, so that the unfinished file is
/// removed.
#[derive(Debug)]
struct Watched<'a> {
    to: &'a mut OutputFile,
    watch: &'a Watch,
    bar: &'a ProgressBar,
}

impl Write for Watched<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.watch.interrupted() {
            // Not `Interrupted`: that means "try again".
            return Err(io::ErrorKind::Other.into());
        }
        let written = self.to.write(bytes)?;
        self.bar.inc(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
