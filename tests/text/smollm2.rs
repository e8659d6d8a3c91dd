//! The tokenizer of `SmolLM2` against llama.cpp, which made the tokens in
//! `tests/golden/smollm2.tokens`, in the version of its Python bindings' 0.3.36.
//!
//! It has a byte-level vocabulary in which some bytes have no piece: text loses them, there as
//! here. The file isn't in the repository:
//!
//! ```text
//! BABYLLAMA_SMOLLM2=/folder/SmolLM2-135M-Instruct.Q4_1.gguf cargo test --test text -- --ignored
//! ```

use babyllama::{ErrorKind, Model};

use crate::common::golden_tokens;

#[test]
#[ignore = "needs the file that BABYLLAMA_SMOLLM2 names"]
fn smollm2_encodes_as_llama_cpp_does() {
    let Some(path) = std::env::var_os("BABYLLAMA_SMOLLM2") else {
        eprintln!("skipped: BABYLLAMA_SMOLLM2 is not set");
        return;
    };
    let model = match Model::open(&path) {
        Err(error) if matches!(error.kind(), ErrorKind::UnknownFormat { .. }) => {
            eprintln!("skipped: {error}");
            return;
        }
        model => model.unwrap(),
    };
    let tokenizer = model.tokenizer().unwrap();
    assert_eq!(tokenizer.vocab_size(), 49_152);
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(1), Some(2)));
    assert_eq!([0, 1, 2, 4].map(|id| tokenizer.is_end(id)), [true, false, true, true]);
    assert_eq!(tokenizer.control("<|im_start|>"), Some(1));
    for (text, ids) in golden_tokens("smollm2.tokens") {
        assert_eq!(tokenizer.encode(&text), ids, "encoding {text:?}");
        assert_eq!(tokenizer.encode_prompt(&text), ids, "encoding {text:?} as a prompt");
    }
}
