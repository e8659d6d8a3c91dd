//! Opening, running and refusing models. Of all helpers only these use the crate.

use babyllama::{Error, Isa, Model, ModelBytes, ModelOptions, Sampler, SamplerOptions};

use super::gguf::Gguf;

/// The bundled model. Its tokenizer serves other models too.
pub const BUNDLED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf");

impl From<&Gguf> for ModelBytes {
    fn from(file: &Gguf) -> Self {
        file.to_bytes().into()
    }
}

pub fn one_thread() -> ModelOptions {
    ModelOptions::new().threads(1)
}

pub fn try_open(file: impl Into<ModelBytes>) -> Result<Model, Error> {
    Model::from_bytes_with(file, &one_thread())
}

/// A model on one thread, with the best instruction set.
#[track_caller]
pub fn open(file: impl Into<ModelBytes>) -> Model {
    try_open(file).unwrap()
}

#[track_caller]
pub fn open_on(file: impl Into<ModelBytes>, isa: Isa, threads: usize) -> Model {
    Model::from_bytes_with(file, &ModelOptions::new().isa(isa).threads(threads)).unwrap()
}

/// All logits, after a prefill of everything at once.
#[track_caller]
pub fn all_logits(model: &Model, tokens: &[u32]) -> Vec<f32> {
    model.session().forward_all(tokens).unwrap().to_vec()
}

/// The logits of every token, fed one by one.
#[track_caller]
pub fn step_by_step(model: &Model, tokens: &[u32]) -> Vec<f32> {
    let mut session = model.session();
    let mut all = Vec::new();
    for (i, &token) in tokens.iter().enumerate() {
        assert_eq!(session.position(), i);
        all.extend_from_slice(session.forward(&[token]).unwrap());
    }
    all
}

pub fn greedy() -> Sampler {
    Sampler::new(SamplerOptions::new().temperature(0.0))
}

/// Fails unless a text has all these parts.
#[track_caller]
pub fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

/// Fails unless a result is an error of this kind, with a message that has these parts. Gives the
/// error.
#[allow(unused_macros, reason = "as in common/mod.rs")]
macro_rules! refuses {
    ($result:expr, $kind:pat $(if $guard:expr)? $(, $part:expr)* $(,)?) => {{
        let error = $result.map(|_| ()).unwrap_err();
        assert!(matches!(error.kind(), $kind $(if $guard)?), "{error:?}");
        $crate::common::assert_says(&error.to_string(), &[$(&$part[..]),*]);
        error
    }};
}
pub(crate) use refuses;
