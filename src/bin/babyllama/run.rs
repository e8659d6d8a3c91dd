//! `babyllama run`, and `babyllama` alone: generates text from a prompt.

use std::path::Path;

use babyllama::{TokenId, Tokenizer};

use crate::commands::RunArgs;
use crate::error::CliError;
use crate::generator::Generator;
use crate::interrupt::Watch;
use crate::models;
use crate::output::{count, note, print, print_text, read_text};

pub(crate) fn run(args: &RunArgs) -> Result<(), CliError> {
    let sampling = args.sampling.options()?;
    let options = args.engine.model_options(args.tokenizer.path.as_deref());
    let model = models::open(&args.model, &options)?;
    models::notes(&model);
    let tokenizer = models::tokenizer(&model, &args.model)?;
    let prompt = tokenizer.encode_prompt(&read_prompt(&args.prompt)?);
    if prompt.is_empty() {
        let reason = "there is no token to feed: the model has no BOS token, so give it a prompt with -i";
        return Err(CliError::of(args.model.display(), reason));
    }
    let constraint = args.constraint.constraint(&model)?;
    let sampler = args.sampling.sampler(sampling, tokenizer);
    let session = model.session_with(args.engine.session_options());

    // llama2.c counts printed tokens: the prompt's too, except BOS.
    let steps = if args.steps == 0 { session.capacity() } else { args.steps.min(session.capacity()) };
    let unprinted = usize::from(prompt.first().copied() == tokenizer.bos()); // the prompt is not empty
    let prompt_steps = prompt.len() - unprinted;
    print_tokens(&prompt[..prompt.len().min(unprinted + steps)], tokenizer)?;
    let max_tokens = steps.saturating_sub(prompt_steps);
    if max_tokens == 0 {
        print(b"\n")?;
    }
    if prompt_steps > steps {
        let limit = if steps == session.capacity() { "the context holds" } else { "-n allows" };
        let prompt_tokens = count(prompt_steps, "token");
        note(&format!("note: {limit} {steps} of the prompt's {prompt_tokens}: the rest is left out"));
    }

    let mut generator = Generator::new(session, sampler, &args.sampling.stop);
    generator.constrain(constraint);
    if max_tokens == 0 {
        return Ok(());
    }
    let result = go_on(&mut generator, &prompt, max_tokens);
    if let Ok(()) | Err(CliError::Interrupted) = result {
        print(b"\n")?;
        note(&generator.statistics());
    }
    result
}

/// Feeds the prompt and prints what follows it.
fn go_on(generator: &mut Generator, prompt: &[TokenId], max_tokens: usize) -> Result<(), CliError> {
    let watch = Watch::new();
    generator.feed(prompt, &watch)?;
    let reason = generator.generate(max_tokens, &watch, print_text)?;
    reason.map(|_| ()).ok_or(CliError::Interrupted)
}

/// Prints the text of a prompt's tokens. If the prompt was cut inside a character, the text ends
/// before that character.
fn print_tokens(tokens: &[TokenId], tokenizer: &Tokenizer) -> Result<(), CliError> {
    let mut decoder = tokenizer.decoder();
    let mut text = String::new();
    for &token in tokens {
        text.push_str(decoder.push(tokenizer, token));
    }
    print_text(&text)
}

fn read_prompt(prompt: &str) -> Result<String, CliError> {
    if prompt != "-" {
        return Ok(prompt.into());
    }
    let mut text = read_text(Path::new("-"))?;
    // As a shell's $(...) does: `echo` appends it, and it would begin a new paragraph.
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
}
