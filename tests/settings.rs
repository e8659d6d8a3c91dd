//! Settings of published models, and how their files vary: what becomes of them computes what
//! transformers computes, is refused in words that help, or is said.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use babyllama::convert::{GgufOptions, Recipe, Source, check, to_gguf};
use babyllama::{ErrorKind, Model, ModelOptions, SessionOptions};
use common::{TempFile, max_abs_diff, std_dev};
use serde_json::{Map, Value, json};

/// `TOKENS` of `variants.py`.
const TOKENS: [u32; 8] = [1, 351, 7, 260, 150, 7, 288, 0];
/// Of logits, in their standard deviation: transformers computes some steps in f32.
const TOLERANCE: f64 = 1e-4;

// --- Directories

/// A tensor of a safetensors file: its type, its shape and its bytes.
#[derive(Clone)]
struct Stored(String, Vec<usize>, Vec<u8>);

/// A copy of `published/llama3`, whose tensors are in one file. It goes when it is dropped.
struct Copy {
    /// In the directory, and it makes the directory.
    marker: TempFile,
    config: Map<String, Value>,
    tensors: Vec<(String, Stored)>,
}

fn published(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/published").join(name)
}

fn read_safetensors(path: &Path) -> Vec<(String, Stored)> {
    let bytes = fs::read(path).unwrap();
    let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + len]).unwrap();
    let entry = |(name, entry): (&String, &Value)| {
        let numbers = |key: &str| -> Vec<usize> { serde_json::from_value(entry[key].clone()).unwrap() };
        let at = numbers("data_offsets");
        let data = bytes[8 + len..][at[0]..at[1]].to_vec();
        (name.clone(), Stored(entry["dtype"].as_str().unwrap().into(), numbers("shape"), data))
    };
    header.iter().filter(|(name, _)| *name != "__metadata__").map(entry).collect()
}

fn safetensors(tensors: &[(String, Stored)]) -> Vec<u8> {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, Stored(dtype, shape, bytes)) in tensors {
        let at = [data.len(), data.len() + bytes.len()];
        header.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": at}));
        data.extend(bytes);
    }
    let header = Value::Object(header).to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
}

impl Copy {
    fn new() -> Self {
        let marker = TempFile::new("marker", b"");
        let from = published("llama3");
        let mut tensors = Vec::new();
        for entry in fs::read_dir(&from).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "safetensors") {
                tensors.extend(read_safetensors(&path));
            } else if !path.ends_with("model.safetensors.index.json") {
                fs::copy(&path, marker.path().with_file_name(path.file_name().unwrap())).unwrap();
            }
        }
        let config = serde_json::from_slice(&fs::read(from.join("config.json")).unwrap()).unwrap();
        Self { marker, config, tensors }
    }

    fn folder(&self) -> &Path {
        self.marker.path().parent().unwrap()
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.folder().join(name), bytes).unwrap();
    }

    fn set(mut self, key: &str, value: Value) -> Self {
        self.config.insert(key.into(), value);
        self
    }

    fn drop(mut self, key: &str) -> Self {
        self.config.remove(key);
        self
    }

    fn tensor(mut self, name: &str, tensor: Stored) -> Self {
        self.tensors.push((name.into(), tensor));
        self
    }

    fn get(&self, name: &str) -> &Stored {
        &self.tensors.iter().find(|(of, _)| of == name).unwrap().1
    }

    fn open(&self) -> babyllama::Result<Source> {
        self.write("config.json", Value::Object(self.config.clone()).to_string());
        self.write("model.safetensors", safetensors(&self.tensors));
        Source::open(self.folder(), &ModelOptions::new())
    }

    /// The error without the directory's name.
    #[track_caller]
    fn refusal(&self) -> String {
        let error = self.open().unwrap_err();
        assert!(error.path().is_some(), "{error}");
        error.to_string().replace(&format!("{}/", self.folder().display()), "")
    }
}

fn gguf(source: &Source) -> Vec<u8> {
    let mut file = Vec::new();
    to_gguf(source, &GgufOptions::new().recipe(Recipe::F32), &mut file).unwrap();
    let written = TempFile::new("model.gguf", &file);
    check(source, &written, |_| ()).unwrap();
    file
}

/// Every 11th logit after each token, as `variants.py` keeps them.
fn logits(source: &Source) -> Vec<f32> {
    let model = Model::from_bytes(gguf(source)).unwrap();
    let logits = model.session().forward_all(&TOKENS).unwrap().to_vec();
    logits.chunks_exact(352).flat_map(|row| row.iter().copied().step_by(11)).collect()
}

fn notes_have(source: &Source, part: &str) -> bool {
    source.notes().iter().any(|note| note.contains(part))
}

// --- What transformers computes
// -----------------------------------------------------------------------------

/// A classifier of its own, as `variants.py` makes it: BF16.
fn other_classifier() -> Stored {
    let number = |i: i64| (i * 37 % 101 - 50) as f32 / 256.0;
    let bf16 = |number: f32| ((number.to_bits() >> 16) as u16).to_le_bytes();
    Stored("BF16".into(), vec![352, 16], (0..352 * 16).flat_map(|i| bf16(number(i))).collect())
}

#[test]
fn variants_compute_what_transformers_computes() {
    let golden = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let variants: Map<String, Value> =
        serde_json::from_slice(&fs::read(golden("variants.json")).unwrap()).unwrap();
    let bytes = fs::read(golden("variants.f64")).unwrap();
    let numbers: Vec<f64> = bytes.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect();
    assert!(variants.len() > 20 && numbers.len() == variants.len() * 8 * 32);
    for (name, variant) in &variants {
        // The maps of serde_json are sorted, so each says its place.
        let at = variant["at"].as_u64().unwrap() as usize * 8 * 32;
        let expected = &numbers[at..at + 8 * 32];
        let mut copy = Copy::new();
        for key in variant["drop"].as_array().into_iter().flatten() {
            copy = copy.drop(key.as_str().unwrap());
        }
        for (key, value) in variant["set"].as_object().into_iter().flatten() {
            copy = copy.set(key, value.clone());
        }
        copy = match variant["lm_head"].as_str() {
            Some("same") => {
                let embeddings = copy.get("model.embed_tokens.weight").clone();
                copy.tensor("lm_head.weight", embeddings)
            }
            Some(_) => copy.tensor("lm_head.weight", other_classifier()),
            None => copy,
        };
        let source = copy.open().unwrap_or_else(|error| panic!("{name}: {error}"));
        let found = max_abs_diff(&logits(&source), expected) / std_dev(expected);
        assert!(found < TOLERANCE, "{name}: {found:e}");
    }
}

#[test]
fn contexts_that_no_file_says_are_transformers_own() {
    let source = Copy::new().drop("max_position_embeddings").open().unwrap();
    assert_eq!(source.config().max_seq_len, 2048);
    assert!(notes_have(&source, "doesn't say max_position_embeddings: 2048"), "{:?}", source.notes());
    let mistral = Copy::new().set("model_type", json!("mistral")).set("sliding_window", Value::Null);
    assert_eq!(mistral.drop("max_position_embeddings").open().unwrap().config().max_seq_len, 131_072);
}

#[test]
fn contexts_end_with_the_sliding_window() {
    let mistral = || Copy::new().set("model_type", json!("mistral"));
    let cases = [
        (mistral().set("sliding_window", json!(32)), Some(32), 32, "sliding window of 32"),
        (mistral().set("sliding_window", json!(128)), Some(128), 64, ""),
        (mistral().set("sliding_window", Value::Null), None, 64, ""),
        // transformers' default
        (mistral().set("max_position_embeddings", json!(32768)), Some(4096), 4096, "window of 4096"),
        (
            mistral().set("sliding_window", json!(32)).set("use_sliding_window", json!(false)),
            Some(32),
            32,
            "sliding window of 32",
        ),
        // transformers doesn't read it
        (Copy::new().set("sliding_window", json!(32)), None, 64, "doesn't apply to a Llama"),
        (
            Copy::new()
                .set("sliding_window", json!(32))
                .set("layer_types", json!(["sliding_attention", "sliding_attention"])),
            None,
            64,
            "doesn't apply to a Llama",
        ),
        (
            mistral()
                .set("sliding_window", json!(32))
                .set("layer_types", json!(["sliding_attention", "full_attention"])),
            Some(32),
            32,
            "sliding window of 32",
        ),
        (
            mistral()
                .set("sliding_window", json!(32))
                .set("layer_types", json!(["full_attention", "full_attention"])),
            None,
            64,
            "",
        ),
    ];
    for (copy, window, context, note) in cases {
        let source = copy.open().unwrap();
        let config = source.config();
        assert_eq!((config.sliding_window, config.max_seq_len), (window, context));
        let is_said = if note.is_empty() { source.notes().is_empty() } else { notes_have(&source, note) };
        assert!(is_said, "{:?}", source.notes());
        // The written file says the same.
        let model = Model::from_bytes(gguf(&source)).unwrap();
        assert_eq!((model.config().sliding_window, model.config().max_seq_len), (window, context));
    }
}

#[test]
fn nothing_reads_beyond_the_sliding_window() {
    let source =
        Copy::new().set("model_type", json!("mistral")).set("sliding_window", json!(8)).open().unwrap();
    let file = gguf(&source);
    let longer = ModelOptions::new().max_seq_len(9);
    let error = Model::from_bytes_with(file.clone(), &longer).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Config { field: "max_seq_len", .. }), "{error}");
    let model = Model::from_bytes(file).unwrap();
    let mut session = model.session_with(SessionOptions::new().context_length(9));
    let error = session.forward(&[1]).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InvalidOption { name: "context_length", .. }), "{error}");
    assert!(error.to_string().contains("sliding window"), "{error}");
    let mut session = model.session_with(SessionOptions::new().context_length(8));
    session.forward(&[1; 8]).unwrap();
    assert!(matches!(session.forward(&[1]).unwrap_err().kind(), ErrorKind::ContextFull { .. }));
}

// --- What is stored

/// The frequencies of the base 5e5 for heads of 4, and other numbers.
fn f32s(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

#[test]
fn tables_that_are_computed_anew_are_left_out() {
    let frequencies = [1.0, 5e5_f32.powf(-0.5)];
    let plain = gguf(&Copy::new().open().unwrap());
    let angles = |of: fn(f32) -> f32| -> Vec<f32> {
        (0..64).flat_map(|p| [0, 1, 0, 1].map(|i| of(p as f32 * frequencies[i]))).collect()
    };
    let cases = [
        ("model.rotary_emb.inv_freq", vec![2], frequencies.to_vec(), false),
        ("model.layers.1.self_attn.rotary_emb.inv_freq", vec![2], frequencies.to_vec(), false),
        ("model.layers.1.self_attn.rotary_emb.inv_freq", vec![2], vec![1.0, 1.0], true),
        ("model.layers.0.self_attn.rotary_emb.cos_cached", vec![1, 1, 64, 4], angles(f32::cos), false),
        ("model.layers.0.self_attn.rotary_emb.sin_cached", vec![1, 1, 64, 4], angles(f32::sin), false),
        ("model.layers.0.self_attn.rotary_emb.sin_cached", vec![1, 1, 64, 4], angles(f32::cos), true),
        ("model.layers.0.self_attn.bias", vec![1, 1, 8, 8], vec![1.0; 64], false),
    ];
    for (name, shape, numbers, is_other) in cases {
        let table = Stored("F32".into(), shape, f32s(&numbers));
        let source = Copy::new().tensor(name, table).open().unwrap();
        assert!(gguf(&source) == plain, "{name}");
        assert_eq!(notes_have(&source, "holds other values"), is_other, "{name}: {:?}", source.notes());
    }
    let bias = Stored("F32".into(), vec![16], f32s(&[1.0; 16]));
    let refusal = Copy::new().tensor("model.layers.0.self_attn.q_proj.bias", bias).refusal();
    assert!(refusal.contains("tensor model.layers.0.self_attn.q_proj.bias is not supported"), "{refusal}");
}

#[test]
fn names_that_wrappers_changed_are_the_same_tensors() {
    let plain = gguf(&Copy::new().open().unwrap());
    for prefix in ["_orig_mod.", "module.", "base_model.model.", "module._orig_mod."] {
        let mut copy = Copy::new();
        copy.tensors.iter_mut().for_each(|(name, _)| *name = format!("{prefix}{name}"));
        assert!(gguf(&copy.open().unwrap()) == plain, "{prefix}");
    }
    let mut copy = Copy::new();
    copy.tensors.iter_mut().for_each(|(name, _)| *name = name.trim_start_matches("model.").into());
    assert!(gguf(&copy.open().unwrap()) == plain);
}

#[test]
fn doubles_are_rounded() {
    let plain = gguf(&Copy::new().open().unwrap());
    let mut copy = Copy::new();
    for (_, Stored(dtype, _, bytes)) in &mut copy.tensors {
        let double = |bytes: &[u8; 2]| {
            let number = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
            f64::from(number).to_le_bytes()
        };
        *bytes = bytes.as_chunks::<2>().0.iter().flat_map(double).collect();
        *dtype = "F64".into();
    }
    let source = copy.open().unwrap();
    assert!(gguf(&source) == plain);
    assert!(notes_have(&source, "float64"), "{:?}", source.notes());
}

#[test]
fn the_index_decides_where_a_tensor_is() {
    let copy = Copy::new();
    let plain = gguf(&copy.open().unwrap());
    let zeros = |(name, Stored(dtype, shape, bytes)): &(String, Stored)| {
        (name.clone(), Stored(dtype.clone(), shape.clone(), vec![0; bytes.len()]))
    };
    // Both files have all tensors, the second as zeros.
    copy.write("a.safetensors", safetensors(&copy.tensors));
    copy.write("b.safetensors", safetensors(&copy.tensors.iter().map(zeros).collect::<Vec<_>>()));
    let mut map: Map<String, Value> =
        copy.tensors.iter().map(|(name, _)| (name.clone(), json!("a.safetensors"))).collect();
    map.insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), json!("b.safetensors"));
    copy.write("model.safetensors.index.json", json!({"weight_map": map}).to_string());
    fs::remove_file(copy.folder().join("model.safetensors")).unwrap();
    let source = Source::open(copy.folder(), &ModelOptions::new()).unwrap();
    assert!(gguf(&source) == plain);
    assert!(notes_have(&source, "the index names 1 tensors that no file has"), "{:?}", source.notes());
}

// --- Words

#[test]
fn refusals_say_what_it_is_and_what_to_do() {
    let gptq = json!({"quant_method": "gptq", "bits": 4});
    let bitsandbytes = json!({"load_in_4bit": true, "quant_method": "bitsandbytes"});
    let packed = || Stored("I32".into(), vec![2, 16], vec![0; 128]);
    let empty = Stored("BF16".into(), vec![0], Vec::new());
    let mut zero = Copy::new();
    zero.tensors.iter_mut().for_each(|(_, tensor)| *tensor = empty.clone());
    let add = |name: &str| Copy::new().tensor(&format!("model.layers.0.mlp.up_proj.{name}"), packed());
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "beta_fast": 1.0, "beta_slow": 32.0});
    let mlx = json!({"group_size": 64, "bits": 4});
    let mut eight_bits = Copy::new();
    let weights = eight_bits.tensors.iter_mut().find(|(name, _)| name.ends_with("up_proj.weight")).unwrap();
    let n = weights.1.1.iter().product();
    (weights.1.0, weights.1.2) = ("F8_E4M3".into(), vec![0; n]);
    let cases: [(Copy, &[&str]); 22] = [
        (Copy::new().set("quantization", mlx.clone()), &["MLX", "--dtype"]),
        (Copy::new().set("quantization_config", mlx), &["MLX", "--dtype"]),
        (Copy::new().set("quantization_config", json!({})), &["by a method that isn't named"]),
        (Copy::new().set("rope_scaling", yarn), &["beta_fast is 1", "beta_slow is 32"]),
        (Copy::new().set("_unknown_window", json!(4)).set("num_hidden_layers", json!(2.5)), &["integer"]),
        (Copy::new().set("architectures", json!(["LlamaForCausalLM", "Bird"])), &["Bird"]),
        (add("g_idx"), &["GPTQ"]),
        (add("scales"), &["quantized: convert the model"]),
        (add("W_q"), &["quantized: convert the model"]),
        (add("weight_scale_inv"), &["quantized: convert the model"]),
        (add("weight.quant_state.bitsandbytes__nf4"), &["bitsandbytes"]),
        (eight_bits, &["F8_E4M3", "quantized: convert the model"]),
        (add("lora_magnitude_vector.default"), &["LoRA adapter", "merge it first"]),
        (add("base_layer.weight"), &["LoRA adapter", "merge it first"]),
        (Copy::new().set("quantization_config", gptq), &["GPTQ", "--dtype"]),
        (Copy::new().set("quantization_config", json!({"quant_method": "awq"})), &["AWQ", "--dtype"]),
        (Copy::new().set("quantization_config", bitsandbytes), &["bitsandbytes", "--dtype"]),
        (Copy::new().tensor("model.layers.0.mlp.up_proj.qweight", packed()), &["GPTQ or AWQ"]),
        (
            Copy::new().tensor("model.layers.0.mlp.up_proj.lora_A.weight", packed()),
            &["LoRA adapter", "merge it first"],
        ),
        (zero, &["is empty", "ZeRO-3", "zero_to_fp32.py"]),
        (
            Copy::new().set("tie_word_embeddings", json!(false)),
            &["tie_word_embeddings is false", "lm_head.weight is missing", "aren't whole"],
        ),
        (Copy::new().drop("tie_word_embeddings"), &["tie_word_embeddings is not there, which means false"]),
    ];
    for (copy, parts) in cases {
        let refusal = copy.refusal();
        assert!(parts.iter().all(|part| refusal.contains(part)), "{refusal}");
    }
}

#[test]
fn what_transformers_leaves_out_is_left_out_and_said() {
    let plain = gguf(&Copy::new().open().unwrap());
    let tensor = |dtype: &str, shape: Vec<usize>, bytes: usize| Stored(dtype.into(), shape, vec![0; bytes]);
    let cases = [
        ("model.causal_mask", tensor("BOOL", vec![2, 2], 4), "model.causal_mask"),
        ("model.embed_tokens.position_ids", tensor("I64", vec![2], 16), "position_ids"),
        ("model.layers.0.self_attn._extra_state", tensor("U8", vec![0], 0), "_extra_state"),
        ("model.layers.0.self_attn.k_scale", tensor("F32", vec![], 4), "k_scale"),
        ("step", tensor("I64", vec![], 8), "step"),
        ("v_head.summary.weight", tensor("F32", vec![1, 2], 8), "v_head.summary.weight"),
        ("score.weight", tensor("F32", vec![1, 2], 8), "score.weight"),
        (
            "model.layers.2.mlp.up_proj.weight",
            tensor("F32", vec![1, 2], 8),
            "has 2 layers, and the files have more",
        ),
    ];
    for (name, tensor, note) in cases {
        let source = Copy::new().tensor(name, tensor).open().unwrap();
        assert!(notes_have(&source, note) && notes_have(&source, "left out"), "{name}: {:?}", source.notes());
        assert!(gguf(&source) == plain, "{name}");
    }
    let unknown = tensor("F32", vec![2, 2], 16);
    let refusal = Copy::new().tensor("model.layers.0.bird", unknown).refusal();
    assert!(refusal.contains("it can't tell whether"), "{refusal}");
}

#[test]
fn whole_numbers_may_be_written_as_floats() {
    let plain = Copy::new();
    let written = gguf(&plain.open().unwrap());
    let mut copy = Copy::new();
    let keys =
        ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "max_position_embeddings"];
    for key in keys {
        let number = plain.config[key].as_f64().unwrap();
        copy = copy.set(key, json!(number));
    }
    assert!(gguf(&copy.open().unwrap()) == written);
    let copy = Copy::new().set("architectures", json!([]));
    assert!(gguf(&copy.open().unwrap()) == written);
    let copy = Copy::new().set("architectures", json!(["LlamaForCausalLM", "MistralForCausalLM"]));
    assert!(gguf(&copy.open().unwrap()) == written);
    // Python's own are named, as are others that nobody knows.
    let source = Copy::new().set("_name_or_path", json!("x")).set("_window", json!(3)).open().unwrap();
    assert!(notes_have(&source, "doesn't know, which was passed over: _window"), "{:?}", source.notes());
}

#[test]
fn the_file_that_is_named_is_converted() {
    let copy = Copy::new();
    let plain = gguf(&copy.open().unwrap());
    let mut other = Copy::new();
    other.tensors.iter_mut().for_each(|(_, Stored(_, _, bytes))| bytes.fill(0));
    copy.write("model.other.safetensors", safetensors(&other.tensors));
    let open = |name: &str| Source::open(copy.folder().join(name), &ModelOptions::new()).unwrap();
    assert!(gguf(&open("model.safetensors")) == plain && gguf(&open("config.json")) == plain);
    let zeros = gguf(&other.open().unwrap());
    assert!(zeros != plain && gguf(&open("model.other.safetensors")) == zeros);
}

#[test]
fn what_is_missing_is_said() {
    let refusal = |path: &Path| Source::open(path, &ModelOptions::new()).unwrap_err().to_string();
    let copy = Copy::new();
    copy.open().unwrap();
    let at = |name: &str| copy.folder().join(name);
    fs::rename(at("model.safetensors"), at("model-00001-of-00002.safetensors")).unwrap();
    assert!(
        refusal(copy.folder()).contains("but not model.safetensors.index.json"),
        "{}",
        refusal(copy.folder())
    );
    fs::remove_file(at("config.json")).unwrap();
    assert!(
        refusal(copy.folder()).contains("it has weights, but not config.json"),
        "{}",
        refusal(copy.folder())
    );
    copy.write("config.json", "Entry not found");
    assert!(refusal(copy.folder()).contains("it is text"), "{}", refusal(copy.folder()));
    let file = TempFile::new("x.gguf", b"GGUF");
    let folder = file.path().parent().unwrap();
    assert!(refusal(folder).contains("name one, such as x.gguf"), "{}", refusal(folder));
    let snapshot = folder.join("snapshots").join("0a1b");
    fs::create_dir_all(&snapshot).unwrap();
    assert!(refusal(folder).contains(&format!("convert {}", snapshot.display())), "{}", refusal(folder));
    for path in ["https://huggingface.co/a/b", "meta-llama/Llama-3.2-1B"] {
        assert!(refusal(Path::new(path)).contains("babyllama doesn't download"), "{path}");
    }
}

#[test]
fn files_of_something_else_are_named() {
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4976698672\n";
    let page = b"<!DOCTYPE html><html><head><title>Sign in</title></head></html>";
    let answer = br#"{"error": "Repository not found"}"#;
    for (bytes, expected) in [(&pointer[..], "Git LFS pointer"), (&page[..], "HTML"), (&answer[..], "error")]
    {
        for file in ["model.safetensors", "config.json"] {
            let copy = Copy::new();
            copy.open().unwrap();
            copy.write(file, bytes);
            let error = Source::open(copy.folder(), &ModelOptions::new()).unwrap_err().to_string();
            assert!(error.contains(file) && error.contains(expected), "{file}: {error}");
        }
        let copy = Copy::new();
        copy.open().unwrap();
        fs::remove_file(copy.folder().join("model.safetensors")).unwrap();
        for file in ["pytorch_model.bin", "model.safetensors.index.json"] {
            copy.write(file, bytes);
            let error = Source::open(copy.folder(), &ModelOptions::new()).unwrap_err().to_string();
            assert!(error.contains(file) && error.contains(expected), "{file}: {error}");
            fs::remove_file(copy.folder().join(file)).unwrap();
        }
    }
}

#[test]
fn adapters_and_weights_alone_are_named() {
    let adapter = r#"{"peft_type": "LORA", "base_model_name_or_path": "meta-llama/Llama-2-7b-hf"}"#;
    let copy = Copy::new();
    copy.open().unwrap();
    copy.write("adapter_config.json", adapter);
    let source = Source::open(copy.folder(), &ModelOptions::new()).unwrap();
    assert!(notes_have(&source, "LoRA adapter beside the model"), "{:?}", source.notes());
    let open = |path: &Path| Source::open(path, &ModelOptions::new()).unwrap_err().to_string();

    fs::remove_file(copy.folder().join("config.json")).unwrap();
    let weights = copy.folder().join("model.safetensors");
    for path in [copy.folder(), &*weights] {
        let error = open(path);
        assert!(
            error.contains("a LoRA adapter of meta-llama/Llama-2-7b-hf") && error.contains("merge"),
            "{error}"
        );
    }
    fs::remove_file(copy.folder().join("adapter_config.json")).unwrap();
    let error = open(&weights);
    assert!(error.contains("config.json") && error.contains("is missing beside it"), "{error}");
}

#[test]
fn settings_that_are_not_known_are_named() {
    let source = Copy::new().set("hyper_scale", json!(3)).set("_private", json!(1)).open().unwrap();
    assert!(notes_have(&source, "passed over: _private, hyper_scale"), "{:?}", source.notes());
    let none = Copy::new().open().unwrap();
    assert!(none.notes().is_empty(), "{:?}", none.notes());
}

#[test]
fn not_a_number_is_refused_only_where_it_counts() {
    let plain = gguf(&Copy::new().open().unwrap());
    for number in ["NaN", "Infinity", "-Infinity"] {
        let with = |key: &str| {
            let copy = Copy::new().set(key, json!("HERE"));
            let text = Value::Object(copy.config.clone()).to_string().replace("\"HERE\"", number);
            assert!(text.contains(number));
            copy.write("config.json", text);
            copy.write("model.safetensors", safetensors(&copy.tensors));
            Source::open(copy.folder(), &ModelOptions::new())
        };
        assert!(gguf(&with("initializer_range").unwrap()) == plain);
        let used = with("rms_norm_eps").unwrap_err().to_string();
        assert!(used.contains("rms_norm_eps: expected a number, found") && used.contains(number), "{used}");
    }
}

// --- Other publishers

#[test]
fn what_llama2c_saves_while_it_trains_is_a_model() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/ckpt.pt");
    let source = Source::open(path, &ModelOptions::new()).unwrap();
    let meta = Source::open(published("meta_1"), &ModelOptions::new().max_seq_len(64)).unwrap();
    let model = |source: &Source| Model::from_bytes(gguf(source)).unwrap();
    let (found, expected) = (model(&source), model(&meta));
    assert_eq!(found.config(), expected.config());
    assert_eq!(
        found.session().forward_all(&TOKENS).unwrap(),
        expected.session().forward_all(&TOKENS).unwrap()
    );
    let passed_over = ["optimizer", "iter_num", "best_val_loss", "config"];
    assert!(notes_have(&source, &format!("passed over: {}", passed_over.join(", "))), "{:?}", source.notes());
}

/// `published/meta_1` with other params.json.
fn meta(change: impl FnOnce(&mut Map<String, Value>)) -> (TempFile, babyllama::Result<Source>) {
    let marker = TempFile::new("marker", b"");
    for entry in fs::read_dir(published("meta_1")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, marker.path().with_file_name(path.file_name().unwrap())).unwrap();
    }
    let params = marker.path().with_file_name("params.json");
    let mut map: Map<String, Value> = serde_json::from_slice(&fs::read(&params).unwrap()).unwrap();
    change(&mut map);
    fs::write(params, Value::Object(map).to_string()).unwrap();
    let source = Source::open(marker.path().parent().unwrap(), &ModelOptions::new());
    (marker, source)
}

#[test]
fn mistrals_own_directories_are_as_its_program_takes_them() {
    let cases = [
        (json!({"head_dim": 4}), 1e6, None, 32_768),
        (json!({"head_dim": 4, "hidden_dim": 40, "vocab_size": 352}), 1e6, None, 32_768),
        (json!({"sliding_window": 4096}), 1e4, Some(4096), 4096),
        (json!({"sliding_window": [4096, null, 128]}), 1e4, Some(128), 128),
        (json!({"head_dim": 4, "rope_theta": 5e5, "max_seq_len": 77}), 5e5, None, 77),
        (json!({"sliding_window": null}), 1e4, None, 4096), // Meta's
    ];
    for (changes, theta, window, context) in cases {
        let (_marker, source) = meta(|map| map.extend(changes.as_object().unwrap().clone()));
        let source = source.unwrap();
        let config = source.config();
        let found = (config.rope_theta, config.sliding_window, config.max_seq_len);
        assert_eq!(found, (theta, window, context), "{changes}");
        assert_eq!(window.is_some(), notes_have(&source, "sliding window"), "{changes}");
        gguf(&source); // and its settings are checked
    }
    let (_marker, source) = meta(|map| drop(map.insert("hidden_dim".into(), json!(41))));
    assert!(source.unwrap_err().to_string().contains("hidden_dim is 41: feed_forward.w1 has 40 rows"));
}

#[test]
fn llama_3s_factor_is_said_or_known() {
    for (changes, said) in [
        (json!({"use_scaled_rope": true}), true),
        (json!({"use_scaled_rope": true, "rope_scaling_factor": 32}), false),
    ] {
        let (_marker, source) = meta(|map| map.extend(changes.as_object().unwrap().clone()));
        let source = source.unwrap();
        assert_eq!(notes_have(&source, "rope_scaling_factor: 8, Llama 3.1's"), said, "{:?}", source.notes());
        assert_eq!(source.config().max_seq_len, 131_072);
        gguf(&source); // and its settings are checked
    }
}
