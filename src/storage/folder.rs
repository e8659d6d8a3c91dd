//! What errors tell about the folder of a published model: without a JSON parser, which the default
//! build doesn't have.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::ErrorKind;

/// Settings are a few thousand bytes.
const MAX_BYTES: u64 = 1 << 16;

fn start_of(folder: &Path, name: &str) -> Option<String> {
    let path = folder.join(name);
    // To open a pipe would wait for somebody to write to it.
    let file = path.is_file().then(|| File::open(path).ok()).flatten()?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The base model of the adapter (`LoRA`) in this folder: `None` if there is no adapter, and
/// `Some(None)` if it doesn't name one.
pub(crate) fn adapter_base(folder: &Path) -> Option<Option<String>> {
    let settings = start_of(folder, "adapter_config.json")?;
    let value = settings.split_once("\"base_model_name_or_path\"").map(|(_, value)| value.trim_start());
    let value = value.and_then(|value| value.strip_prefix(':')?.trim_start().strip_prefix('"'));
    let base = value.and_then(|value| value.split_once('"')).map(|(base, _)| base.to_owned());
    Some(base.filter(|base| !base.is_empty()))
}

/// Whether the weights of the model in this folder are quantized already.
pub(crate) fn is_quantized(folder: &Path) -> bool {
    start_of(folder, "config.json").is_some_and(|config| config.contains("\"quantization_config\""))
}

/// The error for a path that isn't a regular file: what it is, and what to do.
pub(super) fn not_a_file(path: &Path) -> ErrorKind {
    let holds = |name: &str| path.join(name).is_file();
    let shown = path.display();
    let hint = if !path.is_dir() {
        "it is not a regular file".into()
    } else if let Some(base) = adapter_base(path) {
        let base = base.map_or_else(|| "its base".into(), |base| format!("its base, {base},"));
        format!(
            "it is the directory of a LoRA adapter, which only changes another model: `babyllama convert \
             BASE NAME.gguf --lora {shown}` merges it into {base} and makes a file that runs"
        )
    } else if is_quantized(path) {
        "it is the directory of a model that is quantized already, as its config.json says \
         (quantization_config): take the model that it was made of, or one in GGUF"
            .into()
    } else if holds("config.json") || holds("params.json") {
        let target = path.canonicalize().unwrap_or_else(|_| path.into());
        let target = target.file_name().unwrap_or_default().to_string_lossy();
        format!("it is a directory: `babyllama convert {shown} {target}.gguf` makes a file of it that runs")
    } else {
        format!(
            "it is a directory: name a file in it; of a published model's, with its config.json, \
             `babyllama convert {shown} NAME.gguf` makes one"
        )
    };
    ErrorKind::UnknownFormat { hint }
}
