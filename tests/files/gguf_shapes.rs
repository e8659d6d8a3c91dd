//! Files of the shapes of published models, with holes for weights.

use babyllama::Model;

use crate::common::gguf::{Gguf, Value};
use crate::common::{TempFile, one_thread};
use crate::counting::{calls_here, peak};

/// A name, dim, `hidden_dim`, layers, heads, heads of keys and values, and pieces.
const TRUE_SHAPES: [(&str, u64, u64, u64, u64, u64, u64); 8] = [
    ("LLaMA 7B", 4096, 11008, 32, 32, 32, 32000),
    ("LLaMA 13B", 5120, 13824, 40, 40, 40, 32000),
    ("LLaMA 33B", 6656, 17920, 60, 52, 52, 32000),
    ("LLaMA 65B", 8192, 22016, 80, 64, 64, 32000),
    ("Llama 2 70B", 8192, 28672, 80, 64, 8, 32000),
    ("Mistral 7B", 4096, 14336, 32, 32, 8, 32000),
    ("Llama 3 8B", 4096, 14336, 32, 32, 8, 128_256),
    ("Llama 3 70B", 8192, 28672, 80, 64, 8, 128_256),
];

/// A file of a true shape with holes for weights: a type's number, and weights and bytes of its
/// blocks.
fn true_shape(index: usize, (kind, weights, bytes): (u32, u64, u64)) -> Gguf {
    let (_, dim, hidden, n_layers, n_heads, n_kv_heads, vocab) = TRUE_SHAPES[index];
    let kv_dim = dim / n_heads * n_kv_heads;
    let mut file = Gguf::default();
    file.set("general.architecture", Value::str("llama"))
        .set("llama.context_length", Value::U32(4096))
        .set("llama.embedding_length", Value::U32(dim as u32))
        .set("llama.block_count", Value::U32(n_layers as u32))
        .set("llama.feed_forward_length", Value::U32(hidden as u32))
        .set("llama.attention.head_count", Value::U32(n_heads as u32))
        .set("llama.attention.head_count_kv", Value::U32(n_kv_heads as u32))
        .set("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5));
    let pieces = (0..vocab).map(|i| Value::str(&format!("\u{2581}piece{i}"))).collect();
    file.set("tokenizer.ggml.model", Value::str("llama"))
        .set("tokenizer.ggml.tokens", Value::Array(8, pieces))
        .set("tokenizer.ggml.scores", Value::Array(6, vec![Value::F32(0.5); vocab as usize]))
        .set("tokenizer.ggml.token_type", Value::Array(5, vec![Value::I32(1); vocab as usize]));
    let mut matrix = |name: &str, columns: u64, rows: u64| {
        file.hole(name, &[columns, rows], kind, columns / weights * bytes * rows);
    };
    matrix("token_embd.weight", dim, vocab);
    matrix("output.weight", dim, vocab);
    for l in 0..n_layers {
        matrix(&format!("blk.{l}.attn_q.weight"), dim, dim);
        matrix(&format!("blk.{l}.attn_k.weight"), dim, kv_dim);
        matrix(&format!("blk.{l}.attn_v.weight"), dim, kv_dim);
        matrix(&format!("blk.{l}.attn_output.weight"), dim, dim);
        matrix(&format!("blk.{l}.ffn_gate.weight"), dim, hidden);
        matrix(&format!("blk.{l}.ffn_down.weight"), hidden, dim);
        matrix(&format!("blk.{l}.ffn_up.weight"), dim, hidden);
    }
    for l in 0..n_layers {
        file.hole(&format!("blk.{l}.attn_norm.weight"), &[dim], 0, 4 * dim);
        file.hole(&format!("blk.{l}.ffn_norm.weight"), &[dim], 0, 4 * dim);
    }
    file.hole("output_norm.weight", &[dim], 0, 4 * dim);
    file
}

/// The pages that this thread touched for the first time so far, on Linux.
fn page_faults() -> usize {
    let Ok(stat) = std::fs::read_to_string("/proc/thread-self/stat") else { return 0 };
    // After the name, which may have spaces: the state is field 3, minor and major faults are
    // fields 10 and 12.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    [10, 12].iter().map(|field| fields[field - 3].parse::<usize>().unwrap()).sum()
}

#[test]
#[cfg(all(unix, target_pointer_width = "64"))]
fn files_of_true_shapes_open_without_touching_their_weights() {
    for (format, block) in [("F32", (0, 1, 4)), ("F16", (1, 1, 2)), ("Q4_0", (2, 32, 18))] {
        for index in 0..TRUE_SHAPES.len() {
            let (name, dim, hidden, n_layers, n_heads, n_kv_heads, vocab) = TRUE_SHAPES[index];
            let name = format!("{name} {format}");
            let path = TempFile::new("m.gguf", b"");
            let file = true_shape(index, block);
            let (len, header) = (file.write_sparse(path.path()), file.header().0.len());
            let (calls, pages) = (calls_here(), page_faults());
            let (model, taken) = peak(|| Model::open_with(&path, &one_thread()).unwrap());
            let session = model.session();
            let (calls, pages) = (calls_here() - calls, page_faults() - pages);
            println!("{name}: {len} bytes, {header} of header, {pages} pages, {calls} calls, {taken} bytes");
            // Each page of the header and of the heap once or twice: of weights it would be millions.
            assert!(4096 * pages < 16 * header + (4 << 20), "{name}: {pages} pages were touched");
            let entries = file.keys.len() + file.tensors.len();
            assert!(calls < 20 * entries + 1000, "{name}: {calls} allocations for {entries} entries");
            assert_eq!(session.capacity(), 4096);
            assert_eq!(model.file_bytes(), len);
            assert_eq!(model.tokenizer().unwrap().vocab_size() as u64, vocab);
            let kv_dim = dim / n_heads * n_kv_heads;
            let matrices = n_layers * (2 * dim * dim + 2 * kv_dim * dim + 3 * hidden * dim) + 2 * vocab * dim;
            let norms = (2 * n_layers + 1) * dim;
            let tensors = model.tensors();
            let found: u64 = tensors.iter().map(|t| t.shape.iter().map(|&n| n as u64).product::<u64>()).sum();
            assert_eq!(found, matrices + norms, "{name}: weights");
            let bytes: u64 = tensors.iter().map(|t| t.bytes as u64).sum();
            assert_eq!(bytes, matrices / block.1 * block.2 + 4 * norms, "{name}: bytes");
            assert!(taken < 100 << 20, "{name}: {taken} bytes of memory");
        }
    }
}
