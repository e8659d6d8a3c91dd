//! Files of the shapes of published models, with holes for weights.

use babyllama::Model;

use crate::common::gguf::{Gguf, Value};
use crate::common::{Shape, TempFile, one_thread};
use crate::counting::{calls_here, peak};

const TRUE_SHAPES: [(&str, Shape); 8] = [
    ("LLaMA 7B", Shape::new(4096, 11008).layers(32).heads(32, 32).vocab(32000)),
    ("LLaMA 13B", Shape::new(5120, 13824).layers(40).heads(40, 40).vocab(32000)),
    ("LLaMA 33B", Shape::new(6656, 17920).layers(60).heads(52, 52).vocab(32000)),
    ("LLaMA 65B", Shape::new(8192, 22016).layers(80).heads(64, 64).vocab(32000)),
    ("Llama 2 70B", Shape::new(8192, 28672).layers(80).heads(64, 8).vocab(32000)),
    ("Mistral 7B", Shape::new(4096, 14336).layers(32).heads(32, 8).vocab(32000)),
    ("Llama 3 8B", Shape::new(4096, 14336).layers(32).heads(32, 8).vocab(128_256)),
    ("Llama 3 70B", Shape::new(8192, 28672).layers(80).heads(64, 8).vocab(128_256)),
];

/// A file with a tokenizer and with holes for weights: a type's number, and weights and bytes of
/// its blocks.
fn sparse(shape: Shape, block: (u32, u64, u64)) -> Gguf {
    let mut file = shape.to_sparse_gguf(block);
    let vocab = shape.vocab_size;
    let pieces = (0..vocab).map(|i| Value::str(&format!("\u{2581}piece{i}"))).collect();
    file.set("tokenizer.ggml.model", Value::str("llama"))
        .set("tokenizer.ggml.tokens", Value::Array(8, pieces))
        .set("tokenizer.ggml.scores", Value::Array(6, vec![Value::F32(0.5); vocab]))
        .set("tokenizer.ggml.token_type", Value::Array(5, vec![Value::I32(1); vocab]));
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
    let formats = [("F32", (0, 1, 4)), ("F16", (1, 1, 2)), ("Q4_0", (2, 32, 18))];
    for ((name, shape), (format, block)) in TRUE_SHAPES.into_iter().zip(formats.into_iter().cycle()) {
        let shape = shape.context(4096);
        let name = format!("{name} {format}");
        let path = TempFile::new("m.gguf", b"");
        let file = sparse(shape, block);
        let (len, header) = file.write_sparse(path.path());
        let (calls, pages) = (calls_here(), page_faults());
        let (model, taken) = peak(|| Model::open_with(&path, &one_thread()).unwrap());
        let session = model.session();
        let (calls, pages) = (calls_here() - calls, page_faults() - pages);
        println!("{name}: {len} bytes, {header} of header, {pages} pages, {calls} calls, {taken} bytes");
        // Each page of the header and of the heap once or twice; of weights it would be 100,000
        // for the smallest.
        assert!(pages > 0 || cfg!(not(target_os = "linux")));
        assert!(4096 * pages < 16 * header + (4 << 20), "{name}: {pages} pages were touched");
        let entries = file.keys.len() + file.tensors.len();
        assert!(calls < 20 * entries + 1000, "{name}: {calls} allocations for {entries} entries");
        assert_eq!(session.capacity(), 4096);
        assert_eq!(model.file_bytes(), len);
        assert_eq!(model.tokenizer().unwrap().vocab_size(), shape.vocab_size);
        let sizes = [shape.dim, shape.kv_dim(), shape.hidden_dim, shape.vocab_size, shape.n_layers];
        let [dim, kv_dim, hidden, vocab, n_layers] = sizes.map(|n| n as u64);
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
