//! `babyllama inspect`: what a model is made of.

use std::fmt::Write;

use babyllama::{Config, Model, PieceKind, RopeScaling, Session, TensorInfo, Tokenizer};

use crate::args::InspectArgs;
use crate::failure::Failure;
use crate::models::{self, TokenizerChoice};
use crate::output::print;

pub(crate) fn run(args: &InspectArgs) -> Result<(), Failure> {
    let options = args.engine.model_options();
    let choice = TokenizerChoice::from(args.tokenizer.path.as_deref());
    let (model, tokenizer) = match (models::open(&args.model, choice, options.clone()), choice) {
        (Ok(model), _) => {
            let tokenizer = model.tokenizer().map_or_else(|| "none".into(), describe_tokenizer);
            (model, tokenizer)
        }
        // It may be only the tokenizer beside the model that is bad, and one would like to know that.
        (Err(Failure::Error(reason)), TokenizerChoice::Own) => {
            match models::open(&args.model, TokenizerChoice::None, options) {
                Ok(model) => (model, format!("unusable: {reason}")),
                Err(_) => return Err(Failure::Error(reason)),
            }
        }
        (Err(failure), _) => return Err(failure),
    };
    let context = model.session_with(args.engine.session_options()).capacity();
    let mut text = describe(&model, &args.model.display().to_string(), &tokenizer, context);
    describe_tensors(&mut text, &model.tensors(), args.tensors);
    if args.metadata {
        describe_metadata(&mut text, model.metadata());
    }
    print(text.as_bytes())
}

fn describe(model: &Model, name: &str, tokenizer: &str, context: usize) -> String {
    let tensors = model.tensors();
    let parameters: u128 = tensors.iter().map(parameters).sum();
    let Config {
        dim,
        hidden_dim,
        n_layers,
        n_heads,
        n_kv_heads,
        head_dim,
        rope_dim,
        vocab_size,
        max_seq_len,
        norm_eps,
        rope_theta,
        rope_scaling,
        ..
    } = model.config();
    let template = model.chat_template().map_or_else(
        || "none".into(),
        |jinja| format!("in the file, {} characters", digits(jinja.chars().count() as u128)),
    );
    let classifier = if tensors.iter().any(|tensor| tensor.name == "output") {
        "its own"
    } else {
        "tied to the token embeddings"
    };
    let threads = model.threads();
    let memory = |positions| Session::memory_bytes(model.config(), positions);
    // Far from the start only the cache grows.
    let per_position = memory(1 << 16).saturating_sub(memory((1 << 16) - 1));
    let lines = [
        ("model", name.into()),
        ("format", model.format().into()),
        ("size", size(model.file_bytes())),
        ("parameters", digits(parameters)),
        ("", String::new()),
        ("dim", dim.to_string()),
        ("hidden_dim", hidden_dim.to_string()),
        ("n_layers", n_layers.to_string()),
        ("n_heads", n_heads.to_string()),
        ("n_kv_heads", n_kv_heads.to_string()),
        ("head_dim", head_dim.to_string()),
        ("rope_dim", rope_dim.to_string()),
        ("vocab_size", vocab_size.to_string()),
        ("max_seq_len", max_seq_len.to_string()),
        ("norm_eps", format!("{norm_eps:e}")),
        ("rope_theta", rope_theta.to_string()),
        ("rope_scaling", describe_scaling(*rope_scaling)),
        ("classifier", classifier.into()),
        ("tokenizer", tokenizer.into()),
        ("chat template", template),
        ("", String::new()),
        ("instructions", model.isa().name().into()),
        ("threads", threads.to_string()),
        ("memory", format!("{} a position used", size(per_position))),
        (
            "session",
            format!("{} when all {} positions are used", size(memory(context)), digits(context as u128)),
        ),
    ];
    let mut text = String::new();
    for (name, value) in lines {
        // Writing to a String doesn't fail.
        let _ = writeln!(text, "{}", format!("{name:<13} {value}").trim_end());
    }
    text
}

fn describe_scaling(scaling: RopeScaling) -> String {
    match scaling {
        RopeScaling::None => "none".into(),
        RopeScaling::Linear { factor } => format!("linear, factor {factor}"),
        RopeScaling::Yarn { factor, original_context_length, .. } => {
            format!("yarn, factor {factor}, from {original_context_length} positions")
        }
        // There may be others one day.
        other => format!("{other:?}"),
    }
}

/// Appends the keys of a GGUF file and their values.
fn describe_metadata(text: &mut String, metadata: &[(String, String)]) {
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

/// Appends a table of the tensors; unless `all` are wanted, a tensor that every layer has takes one line.
fn describe_tensors(text: &mut String, tensors: &[TensorInfo], all: bool) {
    let mut rows: Vec<Row> = Vec::new();
    for tensor in tensors {
        let name = if all { tensor.name.clone() } else { without_layer(&tensor.name) };
        let dtype = tensor.dtype.to_string();
        match rows.iter_mut().find(|row| row.name == name && row.shape == tensor.shape && row.dtype == dtype)
        {
            Some(row) => {
                row.count += 1;
                row.bytes += tensor.bytes as u64;
            }
            None => {
                let (shape, bytes) = (tensor.shape.clone(), tensor.bytes as u64);
                rows.push(Row { name, shape, dtype, count: 1, bytes });
            }
        }
    }
    let cells: Vec<[String; 5]> = rows.iter().map(Row::cells).collect();
    let width = |column: usize| cells.iter().map(|cells| cells[column].len()).max().unwrap_or(0);
    let widths: [usize; 5] = std::array::from_fn(width);
    let bytes: u64 = rows.iter().map(|row| row.bytes).sum();
    let _ = writeln!(text, "\n{} tensors, {}", tensors.len(), size(bytes));
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
fn size(bytes: u64) -> String {
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
fn digits(n: u128) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
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
