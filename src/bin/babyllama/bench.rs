//! `babyllama bench`: measures the speed of a model, or of a model's shape with synthetic weights.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use babyllama::{CacheDtype, Dtype, Isa, Model, ModelOptions, SessionOptions, TensorInfo, TokenId};
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::{Value, json};

use crate::args::{CacheArgs, MAX_THREADS, in_range, isa_parser};
use crate::error::CliError;
use crate::machine::{self, Memory};
use crate::models::{self, BUNDLED};
use crate::output::{note, print};
use crate::synthetic::{SHAPES, Shape};

/// Measure how fast a model runs on this machine, or would run if you downloaded it.
///
/// Prefill feeds a whole prompt at once, decode one token at a time; the figures are medians. The
/// percentages are of this machine's memory bandwidth and arithmetic peak with the same number of
/// threads, measured in the same run.
#[derive(Debug, Args)]
#[command(after_help = BENCH_EXAMPLES)]
pub(crate) struct BenchArgs {
    /// Model file; `bundled` is the model embedded in this program
    #[arg(default_value = BUNDLED, conflicts_with = "shape")]
    pub(crate) model: PathBuf,

    /// Use the shape of a well-known model, with synthetic weights
    #[arg(long, value_name = "NAME", value_parser = shape_parser())]
    pub(crate) shape: Option<Shape>,

    /// Format of the synthetic weights
    #[arg(long, value_name = "FORMAT", default_value = "q4_0", requires = "shape")]
    pub(crate) dtype: Dtype,

    /// Number of tokens in the prompt
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = in_range(1..=MAX_COUNT))]
    pub(crate) prompt: usize,

    /// Number of tokens to generate
    #[arg(long = "gen", value_name = "N", default_value_t = 32, value_parser = in_range(1..=MAX_COUNT))]
    pub(crate) generate: usize,

    /// Number of tokens already in the context
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = in_range(0..=MAX_COUNT))]
    pub(crate) depth: usize,

    /// Number of sessions that generate together; the rate is of all their tokens
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = in_range(1..=MAX_BATCH))]
    pub(crate) batch: usize,

    /// Number of measurements
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = in_range(1..=MAX_COUNT))]
    pub(crate) repetitions: usize,

    /// Number of threads, or several separated by commas [default: one per available processor]
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = in_range(1..=MAX_THREADS))]
    pub(crate) threads: Vec<usize>,

    /// Instruction set, or several separated by commas [default: the fastest that this processor
    /// has]
    #[arg(long, value_delimiter = ',', value_parser = isa_parser())]
    pub(crate) isa: Vec<Isa>,

    #[command(flatten)]
    pub(crate) cache: CacheArgs,

    /// Copy the weights into pages of 2 MiB, and measure memory with such pages (Linux); off by
    /// default
    #[arg(long)]
    pub(crate) huge_pages: bool,

    /// Measure beside a thread for each processor that never rests, as on a machine that others
    /// use; off by default
    #[arg(long)]
    pub(crate) busy: bool,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

const BENCH_EXAMPLES: &str = "\
Examples:
  babyllama bench --shape llama2-7b --dtype q4_0         without downloading it
  babyllama bench model.gguf --threads 1,2,4 --depth 1000
  babyllama bench model.gguf --batch 8 --busy            a server on a machine that others use
  babyllama bench model.gguf --isa scalar,avx2 --json";

fn shape_parser() -> impl TypedValueParser<Value = Shape> {
    PossibleValuesParser::new(SHAPES.iter().map(|shape| shape.name))
        .try_map(|name| SHAPES.iter().find(|shape| shape.name == name).copied().ok_or("no such shape"))
}

/// The maximum of tokens and repetitions: sums of them don't overflow.
const MAX_COUNT: u64 = 1 << 30;
const MAX_BATCH: u64 = 1024;

pub(crate) fn run(args: &BenchArgs) -> Result<(), CliError> {
    let isas = if args.isa.is_empty() { vec![Isa::best()] } else { args.isa.clone() };
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let threads = if args.threads.is_empty() { vec![processors] } else { args.threads.clone() };
    let memory = Memory::new(args.huge_pages).map_err(babyllama::Error::from)?;
    let source = Source::of(args)?;
    let options = ModelOptions::new().no_tokenizer().huge_pages(args.huge_pages);
    let mut rows = Vec::new();
    let _busy = Busy::new(if args.busy { processors } else { 0 });
    for &n_threads in &threads {
        for &isa in &isas {
            let model = source.open(&options.clone().isa(isa).threads(n_threads))?;
            rows.push(measure(args, &model, &memory)?);
            if !args.json {
                if rows.len() == 1 {
                    print(format!("{}\n{HEADING}", source.title(args, &model)).as_bytes())?;
                }
                print(rows[rows.len() - 1].line().as_bytes())?;
            }
        }
    }
    if args.json {
        let mut out = rows[0].json(&source);
        out["runs"] = rows.iter().map(|row| row.json(&source)).collect();
        print(format!("{out:#}\n").as_bytes())?;
    }
    Ok(())
}

const HEADING: &str = "\
isa           threads  prefill tok/s  GOP/s  of peak  decode tok/s   GB/s  of bandwidth
";

/// Threads that never rest, until it is dropped.
struct Busy {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Busy {
    fn new(n_threads: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let work = |stop: Arc<AtomicBool>| {
            move || {
                while !stop.load(Ordering::Relaxed) {
                    black_box((0..1000_u64).map(black_box).sum::<u64>());
                }
            }
        };
        let threads = (0..n_threads).map(|_| thread::spawn(work(Arc::clone(&stop)))).collect();
        Self { stop, threads }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// Where the model comes from.
enum Source<'a> {
    File(&'a Path),
    Synthetic { shape: Shape, n_layers: usize, dtype: Dtype },
}

impl<'a> Source<'a> {
    fn of(args: &'a BenchArgs) -> Result<Self, CliError> {
        let Some(shape) = args.shape else { return Ok(Self::File(&args.model)) };
        let dtype = args.dtype;
        // A fifth is left for the session and this program.
        let available = machine::available_memory().map_or(u64::MAX, |bytes| bytes / 10 * 8);
        let mut n_layers = shape.n_layers;
        while n_layers > 1 && shape.bytes(dtype, n_layers)? > available {
            n_layers -= 1;
        }
        if n_layers < shape.n_layers {
            note(&format!(
                "note: {} in {dtype} takes {:.1} GB, and {:.1} GB are available: running {n_layers} of its {} layers",
                shape.name,
                shape.bytes(dtype, shape.n_layers)? as f64 / 1e9,
                available as f64 / 1e9,
                shape.n_layers
            ));
        }
        Ok(Self::Synthetic { shape, n_layers, dtype })
    }

    fn open(&self, options: &ModelOptions) -> Result<Model, CliError> {
        match self {
            Self::File(path) => models::open(path, options),
            Self::Synthetic { shape, n_layers, dtype } => {
                Ok(Model::from_bytes_with(shape.make(*dtype, *n_layers)?, options)?)
            }
        }
    }

    fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Synthetic { shape, dtype, .. } => format!("{} {dtype}", shape.name),
        }
    }

    /// Layers of synthetic weights, and those of the model whose shape they have.
    fn layers(&self) -> Option<[usize; 2]> {
        match self {
            Self::File(_) => None,
            Self::Synthetic { shape, n_layers, .. } => Some([*n_layers, shape.n_layers]),
        }
    }

    fn title(&self, args: &BenchArgs, model: &Model) -> String {
        let layers = match self.layers() {
            Some([run, all]) if run < all => format!(", {run} of {all} layers"),
            _ => String::new(),
        };
        let synthetic = if self.layers().is_some() { ", synthetic weights" } else { "" };
        let sessions = if args.batch > 1 { format!(", {} sessions", args.batch) } else { String::new() };
        let busy = if args.busy { ", beside busy threads" } else { "" };
        let size = model.file_bytes() as f64 / 1e6;
        format!("{}{layers}, {size:.0} MB{synthetic}{sessions}{busy}", self.name())
    }
}

/// The measurements of one configuration.
struct Row<'a> {
    args: &'a BenchArgs,
    isa: Isa,
    threads: usize,
    /// Tokens per second.
    prefill: f64,
    /// Tokens per second.
    decode: f64,
    cost: Cost,
    /// Bytes per second.
    bandwidth: f64,
    share_of_bandwidth: f64,
    /// Operations per second.
    peak: f64,
}

fn measure<'a>(args: &'a BenchArgs, model: &Model, memory: &Memory) -> Result<Row<'a>, CliError> {
    let context = args.depth + args.prompt.max(args.generate);
    let options = SessionOptions::new().context_length(context).cache_dtype(args.cache.dtype());
    let mut sessions: Vec<_> = (0..args.batch).map(|_| model.session_with(options)).collect();
    let vocab_size = model.config().vocab_size;
    let tokens = |n: usize| (0..n).map(|i| (i * 7919 % vocab_size) as TokenId).collect::<Vec<_>>();
    if args.depth > 0 {
        for session in &mut sessions {
            session.forward(&tokens(args.depth))?;
        }
    }
    let (prompt, generated) = (tokens(args.prompt), tokens(args.generate));
    let prefill = times(args.repetitions, || {
        sessions[0].truncate(args.depth);
        sessions[0].forward(&prompt)?;
        Ok(())
    })?;

    let cost = Cost::of(args, model);
    let n_generated = (args.batch * args.generate) as f64;
    let (mut decode, mut bandwidth, mut shares) = (Vec::new(), Vec::new(), Vec::new());
    // Other programs use the memory too, so its bandwidth varies: it is measured before and after
    // each repetition.
    bandwidth.push(memory.read(model.threads()));
    for repetition in 0..args.repetitions {
        let seconds = median(times(1, || {
            sessions.iter_mut().for_each(|session| session.truncate(args.depth));
            for token in generated.chunks(1) {
                model.forward_together(sessions.iter_mut().map(|session| session.feed(token)))?;
            }
            Ok(())
        })?);
        bandwidth.push(memory.read(model.threads()));
        let limit = (bandwidth[repetition] + bandwidth[repetition + 1]) / 2.0;
        shares.push(n_generated * cost.bytes_per_token / seconds / limit);
        decode.push(seconds);
    }
    Ok(Row {
        args,
        isa: model.isa(),
        threads: model.threads(),
        prefill: args.prompt as f64 / median(prefill),
        decode: n_generated / median(decode),
        peak: machine::peak(model.isa(), model.threads(), cost.int8),
        cost,
        bandwidth: median(bandwidth),
        share_of_bandwidth: median(shares),
    })
}

/// How many operations and bytes a model takes.
struct Cost {
    /// Of all matrices; the classifier is multiplied with the prompt's last token only.
    operations_per_prompt: f64,
    /// Of the keys and values that a generated token attends to, and of the matrices, which the
    /// sessions of a batch share.
    bytes_per_token: f64,
    /// Whether the kernels multiply int8.
    int8: bool,
}

impl Cost {
    fn of(args: &BenchArgs, model: &Model) -> Self {
        let tied = !model.tensors().iter().any(|tensor| tensor.name == "output");
        let classifier = if tied { "tok_embeddings" } else { "output" };
        let mut matrices = model.tensors();
        matrices.retain(|tensor| {
            tensor.shape.len() == 2 && (tensor.name != "tok_embeddings" || tensor.name == classifier)
        });
        let weights = |tensor: &TensorInfo| tensor.shape.iter().product::<usize>() as f64;
        let all: f64 = matrices.iter().map(weights).sum();
        let of_classifier: f64 =
            matrices.iter().filter(|tensor| tensor.name == classifier).map(weights).sum();
        let of_matrices: f64 = matrices.iter().map(|tensor| tensor.bytes as f64).sum();
        let config = model.config();
        let bytes_per_head = match args.cache.dtype() {
            CacheDtype::F32 => 4 * config.head_dim,
            CacheDtype::F16 => 2 * config.head_dim,
            // 32 int8 and an f16.
            _ => config.head_dim.div_ceil(32) * 34,
        };
        let per_position = 2 * config.n_layers * config.n_kv_heads * bytes_per_head;
        let positions = args.depth as f64 + (args.generate as f64 + 1.0) / 2.0;
        Self {
            operations_per_prompt: 2.0 * (args.prompt as f64 * (all - of_classifier) + of_classifier),
            bytes_per_token: of_matrices / args.batch as f64 + positions * per_position as f64,
            int8: matrices
                .iter()
                .any(|tensor| !matches!(tensor.dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16)),
        }
    }
}

/// The seconds that each call takes, after a first one that isn't counted.
fn times(repetitions: usize, mut work: impl FnMut() -> Result<(), CliError>) -> Result<Vec<f64>, CliError> {
    work()?;
    let mut times = Vec::new();
    for _ in 0..repetitions {
        let start = Instant::now();
        work()?;
        times.push(start.elapsed().max(Duration::from_nanos(1)).as_secs_f64());
    }
    Ok(times)
}

/// The middle number, or the mean of the middle two.
fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let len = numbers.len();
    (numbers[len / 2] + numbers[(len - 1) / 2]) / 2.0
}

impl Row<'_> {
    fn operations(&self) -> f64 {
        self.prefill / self.args.prompt as f64 * self.cost.operations_per_prompt
    }

    fn bytes(&self) -> f64 {
        self.decode * self.cost.bytes_per_token
    }

    fn line(&self) -> String {
        format!(
            "{:<13} {:>7}  {:>13.1}  {:>5.0}  {:>6.0}%  {:>12.1}  {:>5.1}  {:>11.0}%\n",
            self.isa.name(),
            self.threads,
            self.prefill,
            self.operations() / 1e9,
            100.0 * self.operations() / self.peak,
            self.decode,
            self.bytes() / 1e9,
            100.0 * self.share_of_bandwidth,
        )
    }

    fn json(&self, source: &Source<'_>) -> Value {
        let layers = source.layers();
        json!({
            "model": source.name(),
            "layers_run": layers.map(|[run, _]| run),
            "layers": layers.map(|[_, all]| all),
            "isa": self.isa.name(),
            "threads": self.threads,
            "depth": self.args.depth,
            "sessions": self.args.batch,
            "busy": self.args.busy,
            "prefill": {
                "tokens": self.args.prompt,
                "tokens_per_second": self.prefill,
                "gop_per_second": self.operations() / 1e9,
                "share_of_peak": self.operations() / self.peak,
            },
            "decode": {
                "tokens": self.args.generate,
                "tokens_per_second": self.decode,
                "gb_per_second": self.bytes() / 1e9,
                "share_of_bandwidth": self.share_of_bandwidth,
            },
            "machine": { "gb_per_second": self.bandwidth / 1e9, "gop_per_second": self.peak / 1e9 },
        })
    }
}
