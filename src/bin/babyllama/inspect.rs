//! `babyllama inspect`: what a model is made of.

use std::collections::HashMap;
use std::fmt::Write;

use babyllama::convert::Source;
use babyllama::{Config, Model, PieceKind, RopeScaling, SessionOptions, TensorInfo, Tokenizer};
use serde_json::{Map, Value, json};

use crate::commands::InspectArgs;
use crate::error::CliError;
use crate::models;
use crate::output::{print_json, print_text};
use crate::unrunnable::Unrunnable;

pub(crate) fn run(args: &InspectArgs) -> Result<(), CliError> {
    // A directory can be converted but not run; a file of one can't be run either.
    let description = if args.model.is_dir() {
        Description::of_source(args)
    } else {
        Description::of_model(args).or_else(|failure| Description::of_source(args).map_err(|_| failure))
    };
    let description = match description {
        Err(CliError::Error(reason)) => {
            // That is when people look: what is in it, and why doesn't it run?
            let unrunnable = Unrunnable::open(args, &reason).ok_or(CliError::Error(reason))?;
            return match args.json {
                true => print_json(&unrunnable.to_json(args)),
                false => print_text(&unrunnable.describe(args)),
            };
        }
        description => description?,
    };
    if args.json {
        return print_json(&description.to_json(args));
    }
    let mut text = description.describe();
    let tensors = description.tensors.iter().map(|tensor| {
        (tensor.name.clone(), tensor.shape.clone(), tensor.dtype.to_string(), tensor.bytes as u64)
    });
    describe_table(&mut text, tensors, args.tensors);
    if args.metadata {
        describe_metadata(&mut text, &description.metadata);
    }
    print_text(&text)
}

/// What is shown of a model, whatever files it is in.
struct Description {
    name: String,
    format: &'static str,
    file_bytes: u64,
    config: Config,
    tensors: Vec<TensorInfo>,
    /// Why it can't be used, if it can't.
    tokenizer: Result<Option<Tokenizer>, String>,
    chat_template: Option<String>,
    named_templates: Vec<(String, String)>,
    metadata: Vec<(String, String)>,
    notes: Vec<String>,
    engine: Option<Engine>,
}

/// How a model would be run.
struct Engine {
    isa: &'static str,
    threads: usize,
    /// Positions that a session holds.
    context: usize,
    session: SessionOptions,
}

impl Description {
    fn of_model(args: &InspectArgs) -> Result<Self, CliError> {
        let options = args.engine.model_options(args.tokenizer.path.as_deref());
        let (model, unusable) = match models::open(&args.model, &options) {
            Ok(model) => (model, None),
            // It may be only the tokenizer beside the model that is bad, and one would like to know
            // that.
            Err(CliError::Error(reason)) if args.tokenizer.path.is_none() => {
                match models::open(&args.model, &options.no_tokenizer()) {
                    Ok(model) => (model, Some(reason)),
                    Err(_) => return Err(CliError::Error(reason)),
                }
            }
            Err(failure) => return Err(failure),
        };
        let tokenizer = unusable.map_or_else(|| Ok(model.tokenizer().cloned()), Err);
        let session = args.engine.session_options();
        let context = model.session_with(session).capacity();
        Ok(Self {
            name: args.model.display().to_string(),
            format: model.format(),
            file_bytes: model.file_bytes(),
            config: model.config().clone(),
            tensors: model.tensors(),
            tokenizer,
            chat_template: model.chat_template().map(str::to_owned),
            named_templates: model.named_chat_templates().to_vec(),
            metadata: model.metadata().to_vec(),
            notes: model.notes().to_vec(),
            engine: Some(Engine {
                isa: Model::isa(&model).name(),
                threads: model.threads(),
                context,
                session,
            }),
        })
    }

    fn of_source(args: &InspectArgs) -> Result<Self, CliError> {
        let options = args.engine.model_options(args.tokenizer.path.as_deref());
        let (source, unusable) = match Source::open(&args.model, &options) {
            Ok(source) => (source, None),
            // It may be only the tokenizer that is bad.
            Err(error) => match Source::open(&args.model, &options.no_tokenizer()) {
                Ok(source) => (source, Some(error.to_string())),
                Err(_) => return Err(error.into()),
            },
        };
        let tokenizer = match unusable {
            Some(reason) => Err(reason),
            None => source.tokenizer().map_err(|e| e.to_string()),
        };
        Ok(Self {
            name: args.model.display().to_string(),
            format: source.format(),
            file_bytes: source.file_bytes(),
            config: source.config().clone(),
            tensors: source.tensors(),
            tokenizer,
            chat_template: source.chat_template().map(str::to_owned),
            named_templates: source.named_chat_templates().to_vec(),
            metadata: source.metadata().to_vec(),
            notes: source.notes().to_vec(),
            engine: None,
        })
    }

    fn parameters(&self) -> u128 {
        self.tensors.iter().map(parameters).sum()
    }

    fn is_tied(&self) -> bool {
        self.tensors.iter().all(|tensor| tensor.name != "output")
    }

    fn describe(&self) -> String {
        let config = &self.config;
        let length = |jinja: &str| format!("{} characters", digits(jinja.chars().count() as u128));
        let mut template = self
            .chat_template
            .as_ref()
            .map_or_else(|| "none".into(), |jinja| format!("in the file, {}", length(jinja)));
        for (name, jinja) in &self.named_templates {
            template += &format!("; {name}, {}", length(jinja));
        }
        let tokenizer = match &self.tokenizer {
            Ok(tokenizer) => tokenizer.as_ref().map_or_else(|| "none".into(), describe_tokenizer),
            Err(reason) => format!("unusable: {reason}"),
        };
        let classifier = if self.is_tied() { "tied to the token embeddings" } else { "its own" };
        let mut lines = vec![
            ("model", self.name.clone()),
            ("format", self.format.into()),
            ("size", size(self.file_bytes)),
            ("parameters", digits(self.parameters())),
            ("", String::new()),
        ];
        lines.extend(counts(config).map(|(name, value)| (name, value.to_string())));
        lines.extend([
            ("norm_eps", format!("{:e}", config.norm_eps)),
            ("rope_theta", config.rope_theta.to_string()),
            ("rope_scaling", describe_scaling(config.rope_scaling)),
            ("classifier", classifier.into()),
            ("tokenizer", tokenizer),
            ("chat template", template),
        ]);
        if let Some(Engine { isa, threads, context, session }) = &self.engine {
            let session_size = size(session.memory_bytes(config));
            lines.extend([
                ("", String::new()),
                ("instructions", (*isa).into()),
                ("threads", threads.to_string()),
                ("memory", format!("{} a position used", size(bytes_per_position(*session, config)))),
                (
                    "session",
                    format!("{session_size} when all {} positions are used", digits(*context as u128)),
                ),
            ]);
        }
        lines.extend(self.notes.iter().map(|note| ("note", note.clone())));
        let mut text = String::new();
        for (name, value) in lines {
            // Writing to a String doesn't fail.
            let _ = writeln!(text, "{}", format!("{name:<13} {value}").trim_end());
        }
        text
    }

    fn to_json(&self, args: &InspectArgs) -> Value {
        let mut config: Map<_, _> = counts(&self.config).map(|(name, n)| (name.into(), n.into())).collect();
        config.insert("norm_eps".into(), json!(self.config.norm_eps));
        config.insert("rope_theta".into(), json!(self.config.rope_theta));
        config.insert("rope_scaling".into(), describe_scaling(self.config.rope_scaling).into());
        let mut all = json!({
            "model": self.name,
            "format": self.format,
            "bytes": self.file_bytes,
            "parameters": u64::try_from(self.parameters()).unwrap_or(u64::MAX),
            "config": config,
            "tied": self.is_tied(),
            "tokenizer": match &self.tokenizer {
                Ok(Some(tokenizer)) => json!({
                    "pieces": tokenizer.vocab_size(),
                    "bos": tokenizer.bos(),
                    "eos": tokenizer.eos(),
                    "adds_bos": tokenizer.adds_bos(),
                }),
                Ok(None) => Value::Null,
                Err(reason) => json!({ "unusable": reason }),
            },
            "chat_template": self.chat_template,
        });
        if !self.named_templates.is_empty() {
            let named = self.named_templates.iter().map(|(name, jinja)| (name.clone(), json!(jinja)));
            all["named_chat_templates"] = named.collect();
        }
        if !self.notes.is_empty() {
            all["notes"] = json!(self.notes);
        }
        if args.tensors {
            let tensor = |tensor: &TensorInfo| {
                let TensorInfo { name, shape, dtype, bytes, .. } = tensor;
                json!({ "name": name, "shape": shape, "dtype": dtype.to_string(), "bytes": bytes })
            };
            all["tensors"] = self.tensors.iter().map(tensor).collect();
        }
        if args.metadata {
            all["metadata"] = self.metadata.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
        }
        if let Some(Engine { isa, threads, context, session }) = &self.engine {
            all["instructions"] = (*isa).into();
            all["threads"] = (*threads).into();
            all["context_length"] = (*context).into();
            all["session_bytes"] = session.memory_bytes(&self.config).into();
        }
        all
    }
}

/// The hyperparameters that are integers.
fn counts(config: &Config) -> impl Iterator<Item = (&'static str, usize)> {
    let window = config.sliding_window.map(|window| ("window", window));
    let always = [
        ("dim", config.dim),
        ("hidden_dim", config.hidden_dim),
        ("n_layers", config.n_layers),
        ("n_heads", config.n_heads),
        ("n_kv_heads", config.n_kv_heads),
        ("head_dim", config.head_dim),
        ("rope_dim", config.rope_dim),
        ("vocab_size", config.vocab_size),
        ("max_seq_len", config.max_seq_len),
    ];
    always.into_iter().chain(window)
}

/// What a session takes for one more position.
fn bytes_per_position(options: SessionOptions, config: &Config) -> u64 {
    let mut config = config.clone();
    config.sliding_window = None; // it lets go of what is far from the end
    let memory = |positions| options.context_length(positions).memory_bytes(&config);
    // Far from the start only the cache grows.
    memory(1 << 16).saturating_sub(memory(1 << 15)) >> 15
}

fn describe_scaling(scaling: RopeScaling) -> String {
    match scaling {
        RopeScaling::None => "none".into(),
        RopeScaling::Linear { factor } => format!("linear, factor {factor}"),
        RopeScaling::Yarn { factor, original_context_length, .. } => {
            format!("yarn, factor {factor}, from {original_context_length} positions")
        }
        RopeScaling::Long { original_context_length, .. } => {
            format!("longrope, long factors in contexts of more than {original_context_length} positions")
        }
        // There may be others one day.
        other => format!("{other:?}"),
    }
}

/// Appends the keys of a GGUF file and their values.
pub(crate) fn describe_metadata(text: &mut String, metadata: &[(String, String)]) {
    let width = metadata.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    let _ = writeln!(text, "\n{} keys", metadata.len());
    for (key, value) in metadata {
        let _ = writeln!(text, "{key:<width$}  {value}");
    }
}

fn describe_tokenizer(tokenizer: &Tokenizer) -> String {
    let pieces = tokenizer.vocab_size();
    let is_byte = |&id: &u32| tokenizer.kind(id) == Some(PieceKind::Byte);
    let bytes = (0..pieces as u32).filter(is_byte).count();
    let id = |id: Option<u32>| id.map_or_else(|| "none".into(), |id| id.to_string());
    let (bos, eos) = (id(tokenizer.bos()), id(tokenizer.eos()));
    format!("{} pieces, {bytes} of them bytes; BOS {bos}, EOS {eos}", digits(pieces as u128))
}

/// Appends a table of the tensors; unless `all` are wanted, a tensor that every layer has takes one
/// line. A tensor is its name, its shape, how it is stored, and its bytes.
pub(crate) fn describe_table(
    text: &mut String,
    tensors: impl ExactSizeIterator<Item = (String, Vec<usize>, String, u64)>,
    all: bool,
) {
    let n_tensors = tensors.len();
    let mut rows: Vec<Row> = Vec::new();
    let mut by_kind: HashMap<(String, Vec<usize>, String), usize> = HashMap::new();
    for (name, shape, dtype, bytes) in tensors {
        let name = if all { name } else { without_layer(&name) };
        let at = *by_kind.entry((name.clone(), shape.clone(), dtype.clone())).or_insert(rows.len());
        match rows.get_mut(at) {
            Some(row) => {
                row.count += 1;
                row.bytes = row.bytes.saturating_add(bytes);
            }
            None => rows.push(Row { name, shape, dtype, count: 1, bytes }),
        }
    }
    let cells: Vec<[String; 5]> = rows.iter().map(Row::cells).collect();
    let width = |column: usize| cells.iter().map(|cells| cells[column].len()).max().unwrap_or(0);
    let widths: [usize; 5] = std::array::from_fn(width);
    let bytes = rows.iter().map(|row| row.bytes).fold(0, u64::saturating_add);
    let _ = writeln!(text, "\n{n_tensors} tensors, {}", size(bytes));
    for [count, name, shape, dtype, bytes] in &cells {
        let _ = writeln!(
            text,
            "{count:>0$} {name:<1$}  {shape:<2$}  {dtype:<3$}  {bytes:>4$}",
            widths[0], widths[1], widths[2], widths[3], widths[4],
        );
    }
}

/// A line of the table: one tensor, or the same one of several layers.
#[derive(Debug)]
struct Row {
    name: String,
    shape: Vec<usize>,
    dtype: String,
    count: usize,
    /// Of all of them.
    bytes: u64,
}

impl Row {
    fn cells(&self) -> [String; 5] {
        let count = if self.count > 1 { format!("{} x", self.count) } else { String::new() };
        let shape: Vec<_> = self.shape.iter().map(ToString::to_string).collect();
        let shape = format!("({})", shape.join(", "));
        [count, self.name.clone(), shape, self.dtype.clone(), size(self.bytes)]
    }
}

/// `layers.*.attention.wq` of `layers.3.attention.wq`.
fn without_layer(name: &str) -> String {
    let parts = name.split('.').map(|part| if part.parse::<usize>().is_ok() { "*" } else { part });
    parts.collect::<Vec<_>>().join(".")
}

fn parameters(tensor: &TensorInfo) -> u128 {
    tensor.shape.iter().map(|&n| n as u128).product()
}

/// A number of bytes in the unit that suits it, and exactly.
pub(crate) fn size(bytes: u64) -> String {
    let exact = format!("{} bytes", digits(bytes.into()));
    let mut value = bytes as f64;
    let mut unit = "";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        // Less than this, so that it isn't rounded to 1024.0.
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    if unit.is_empty() { exact } else { format!("{value:.1} {unit} ({exact})") }
}

/// A number with commas between thousands.
pub(crate) fn digits(n: u128) -> String {
    let digits = n.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable_and_exact() {
        assert_eq!(size(0), "0 bytes");
        assert_eq!(size(1023), "1,023 bytes");
        assert_eq!(size(1024), "1.0 KiB (1,024 bytes)");
        assert_eq!(size(1024 * 1024 - 1), "1.0 MiB (1,048,575 bytes)");
        assert_eq!(size(1_398_528), "1.3 MiB (1,398,528 bytes)");
        assert_eq!(size(u64::MAX), "16777216.0 TiB (18,446,744,073,709,551,615 bytes)");
    }

    #[test]
    fn layers_are_shown_together() {
        assert_eq!(without_layer("layers.12.attention.wq"), "layers.*.attention.wq");
        assert_eq!(without_layer("tok_embeddings"), "tok_embeddings");
    }
}
