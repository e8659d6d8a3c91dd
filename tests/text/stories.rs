//! Whole stories: the texts that llama2.c's `run` and `runq` print, byte for byte, for the same
//! options and seed.
//!
//! They need real model files: set `BABYLLAMA_SHARED` to their folder. A test whose files are
//! absent says so and passes. The stories of the bundled model, which is GGUF, lie in the
//! repository: llama.cpp told them.

use std::fs;
use std::path::{Path, PathBuf};

use babyllama::{FinishReason, Isa, Model, ModelOptions, Sampler, SamplerOptions};

use crate::common::{BUNDLED, golden, shared};

/// What run.c is told on its command line.
#[derive(Clone, Copy)]
struct Story<'a> {
    prompt: &'a str,
    temperature: f32,
    top_p: f32,
    seed: u64,
    steps: usize,
}

const GREEDY: Story<'_> = Story { prompt: "", temperature: 0.0, top_p: 0.9, seed: 42, steps: 256 };

struct Teller {
    model: PathBuf,
    /// `None`: the model's own.
    tokenizer: Option<PathBuf>,
}

impl Teller {
    fn bundled() -> Self {
        Self { model: BUNDLED.into(), tokenizer: None }
    }

    fn new(folder: &Path, model: &str, tokenizer: &str) -> Self {
        Self { model: folder.join(model), tokenizer: Some(folder.join(tokenizer)) }
    }

    /// What run.c prints for a story, with this crate.
    ///
    /// It feeds BOS and the prompt, and prints `steps` pieces in all, those of the prompt included,
    /// or fewer if BOS comes.
    fn tell(&self, story: Story<'_>, isa: Isa, threads: usize) -> String {
        let mut options = ModelOptions::new().isa(isa).threads(threads);
        if let Some(tokenizer) = &self.tokenizer {
            options = options.tokenizer_path(tokenizer);
        }
        let model = Model::open_with(&self.model, &options).unwrap();
        let tokenizer = model.tokenizer().unwrap();
        let prompt = tokenizer.encode(story.prompt);
        let mut text = tokenizer.decode(&prompt);
        let Story { temperature, top_p, seed, .. } = story;
        let mut sampler =
            Sampler::new(SamplerOptions::new().temperature(temperature).top_p(top_p).seed(seed));
        let mut session = model.session();
        let generate = session.generate(story.prompt, &mut sampler).unwrap();
        let mut generate = generate.max_tokens(story.steps - prompt.len());
        for piece in &mut generate {
            text += piece.unwrap().as_str();
        }
        let reason = generate.finish_reason();
        let ended = matches!(reason, Some(FinishReason::MaxTokens | FinishReason::EndOfText(_)));
        assert!(ended, "{reason:?}");
        text
    }

    /// That a story is told as a file has it, with 1 and 2 threads. Models this small stay on one
    /// thread whatever they are told; tests/session holds that threads change no bit.
    #[track_caller]
    fn assert_tells(&self, path: &Path, story: Story<'_>) {
        let expected = fs::read_to_string(path).unwrap();
        let expected = expected.strip_suffix('\n').expect("a newline is added to each story");
        assert!(expected.len() > 200 && expected.starts_with(story.prompt), "{}", path.display());
        let isas = Isa::available();
        // Without optimization a story takes seconds: the fastest alone tells it then.
        for &isa in if cfg!(debug_assertions) { &isas[isas.len() - 1..] } else { &isas[..] } {
            for threads in if cfg!(debug_assertions) { &[2][..] } else { &[1, 2] } {
                let name = format!("{} {} {threads} threads", path.display(), isa.name());
                assert_eq!(self.tell(story, isa, *threads), expected, "{name}");
            }
        }
    }
}

#[test]
fn the_bundled_model_tells_llama_cpps_stories() {
    for (text, prompt) in [("bird", "One day, a bird"), ("small_fish", "A small fish")] {
        let path = golden(&format!("bundled_{text}.txt"));
        Teller::bundled().assert_tells(&path, Story { prompt, steps: 512, ..GREEDY });
    }
}

#[test]
fn the_int8_form_of_the_bundled_model_tells_runqs_stories() {
    let Some(shared) = shared("the int8 form of the bundled model") else { return };
    let folder = shared.join("models/512");
    let teller = Teller::new(&folder, "babyllama.v2.bin", "babyllama.tokenizer.bin");
    teller.assert_tells(&folder.join("v2.greedy.txt"), GREEDY);
    let story = Story { temperature: 0.8, seed: 1, ..GREEDY };
    teller.assert_tells(&folder.join("v2.t0.8-p0.9-s1.txt"), story);
}

#[test]
fn the_f32_form_of_the_bundled_model_tells_runs_stories() {
    let Some(shared) = shared("the f32 form of the bundled model") else { return };
    let folder = shared.join("models/512");
    let teller = Teller::new(&folder, "babyllama.v0.bin", "babyllama.tokenizer.bin");
    teller.assert_tells(&folder.join("v0.greedy.txt"), GREEDY);
    let story = Story { temperature: 0.8, seed: 1, ..GREEDY };
    teller.assert_tells(&folder.join("v0.t0.8-p0.9-s1.txt"), story);
    let story = Story { prompt: "Lily found a llama", temperature: 1.0, seed: 7, steps: 300, ..GREEDY };
    teller.assert_tells(&folder.join("v0.t1.0-p0.9-s7-n300-LilyFoundALlama.txt"), story);
}

#[test]
fn stories_260k_tells_runs_stories() {
    let Some(shared) = shared("stories260K") else { return };
    let folder = shared.join("real");
    let teller = Teller::new(&folder, "stories260K.bin", "tok512.bin");
    teller.assert_tells(&folder.join("stories260K.greedy.txt"), GREEDY);
    let story = Story { temperature: 1.0, seed: 133_742, ..GREEDY };
    teller.assert_tells(&folder.join("stories260K.t1.0-p0.9-s133742.txt"), story);
    let story = Story { prompt: "One day, Tom", temperature: 0.8, top_p: 0.0, steps: 200, ..GREEDY };
    teller.assert_tells(&folder.join("stories260K.t0.8-p0-s42-n200-OneDayTom.txt"), story);
}

#[test]
fn another_seed_tells_another_story() {
    // The sampled stories would agree with anything if the sampler took no notice of its options.
    let tell = |temperature, seed| {
        let story = Story { prompt: "Once", temperature, seed, steps: 40, ..GREEDY };
        Teller::bundled().tell(story, Isa::best(), 1)
    };
    let told = [tell(0.0, 1), tell(1.0, 1), tell(1.0, 2), tell(1.0, 3)];
    for (i, text) in told.iter().enumerate() {
        assert!(text.starts_with("Once"), "{text}");
        assert!(told[..i].iter().all(|other| other != text), "{text}");
    }
    assert_eq!(told[0], tell(0.0, 9), "greedy takes no seed");
}
