//! What a folder of a published model says of it, as far as errors tell it: without a JSON parser,
//! which the default build doesn't have.

use std::fs::File;
use std::io::Read;
use std::path::Path;

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

/// What a LoRA adapter in this folder changes: `None` if there is no adapter, and nothing within if
/// it doesn't say.
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
