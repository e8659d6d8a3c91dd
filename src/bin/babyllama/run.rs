//! `babyllama run`, and `babyllama` alone: generates text from a prompt.

use std::path::Path;

use babyllama::{PieceKind, SamplerOptions, Session, TokenId, Tokenizer};

use crate::commands::RunArgs;
use crate::error::CliError;
use crate::generator::Generator;
use crate::interrupt::Watch;
use crate::models;
use crate::output::{count, note, print, print_text, read_text};
use crate::session_file::SessionFile;
use crate::tokenize::special_prompt;

pub(crate) fn run(args: &RunArgs) -> Result<(), CliError> {
    let sampling = args.sampling.options(SamplerOptions::new())?;
    let tokenizer_file = args.tokenizer.path.as_deref();
    let model = models::open(&args.model, &args.engine.model_options(tokenizer_file))?;
    models::notes(&model);
    let tokenizer = models::tokenizer(&model, &args.model)?;
    let text = read_prompt(&args.prompt)?;
    let constraint = args.constraint.constraint(&model)?;
    let sampler = args.sampling.sampler(sampling, tokenizer);
    let draft = args.draft.draft(&model, &args.engine.draft_options(tokenizer_file))?;
    let sources = [Some(&*args.model), tokenizer_file, args.draft.draft.as_deref()];
    let sources: Vec<&Path> = sources.into_iter().flatten().collect();
    let options = args.engine.session_options();
    let (file, session, messages) = SessionFile::open(args.session.as_deref(), &model, options, &sources)?;
    if let (Some(path), false) = (&args.session, messages.is_empty()) {
        return Err(CliError::of(
            path.display(),
            "it holds a conversation, which `chat --session` continues",
        ));
    }
    let mut generator = Generator::new(session, sampler, &args.sampling.stop);
    generator.constrain(constraint);
    generator.guess(draft);
    if file.is_some() {
        let held = generator.resume();
        // A prompt ends the text before it; otherwise it is generated first.
        print_text(if text.is_empty() { "" } else { &held })?;
    }
    let prompt = Prompt::new(args, &generator.session, tokenizer, &text)?;
    write(args, generator, file, prompt)
}

/// Prints the prompt, and what follows it.
fn write(
    args: &RunArgs,
    mut generator: Generator,
    mut file: Option<SessionFile>,
    prompt: Prompt,
) -> Result<(), CliError> {
    // llama2.c counts printed tokens: the prompt's too, except BOS.
    let Prompt { mut tokens, n_unprinted, n_left } = prompt;
    let steps = if args.steps == 0 { n_left } else { args.steps.min(n_left) };
    let prompt_steps = tokens.len() - n_unprinted;
    tokens.truncate(n_unprinted + steps);
    print_tokens(&tokens, &generator.session)?;
    let max_tokens = steps.saturating_sub(prompt_steps);
    if max_tokens == 0 {
        print(b"\n")?;
    }
    if prompt_steps > steps {
        let limit = if steps == n_left { "the context holds" } else { "-n allows" };
        let prompt_tokens = count(prompt_steps, "token");
        note(&format!("note: {limit} {steps} of the prompt's {prompt_tokens}: the rest is left out"));
    }
    if max_tokens == 0 && file.is_none() {
        return complete(&generator);
    }
    let result = go_on(&mut generator, &tokens, max_tokens, &mut file);
    let has_ended = matches!(result, Ok(()) | Err(CliError::Interrupted));
    if has_ended && max_tokens > 0 {
        print(b"\n")?;
        note(&generator.statistics());
    }
    let is_whole = has_ended || matches!(result, Err(CliError::ReaderGone));
    match file.filter(|_| is_whole) {
        Some(file) => file.save(&generator.session, "").and(result),
        None => result,
    }?;
    complete(&generator)
}

/// Refuses text that ended before it was what its constraint asks for: a program that reads it must
/// not take it for that.
fn complete(generator: &Generator) -> Result<(), CliError> {
    if generator.is_incomplete() {
        let reason = "the text ended before it was all that its constraint asks for";
        return Err(CliError::Error(format!("{reason}: -n allows more tokens; {}", models::LONGER)));
    }
    Ok(())
}

/// Feeds the prompt and prints what follows it. A prompt that isn't read whole isn't saved.
fn go_on(
    generator: &mut Generator,
    prompt: &[TokenId],
    max_tokens: usize,
    file: &mut Option<SessionFile>,
) -> Result<(), CliError> {
    let watch = Watch::new();
    generator.feed(prompt, &watch).inspect_err(|_| *file = None)?;
    let reason = generator.generate(max_tokens, &watch, print_text)?;
    reason.map(|_| ()).ok_or(CliError::Interrupted)
}

/// What a text begins with, or goes on with.
struct Prompt {
    tokens: Vec<TokenId>,
    /// Tokens of it that aren't printed: BOS.
    n_unprinted: usize,
    /// How many tokens can be printed before the context is full.
    n_left: usize,
}

impl Prompt {
    fn new(args: &RunArgs, session: &Session, tokenizer: &Tokenizer, text: &str) -> Result<Self, CliError> {
        let capacity = session.capacity();
        let n_used = session.position() + usize::from(session.pending().is_some());
        let prompt = match last(session) {
            Some(last) => {
                // After a control token a text begins; otherwise it goes on.
                let begins = tokenizer.kind(last) == Some(PieceKind::Control);
                let tokens = match (args.special, begins) {
                    (true, _) => tokenizer.encode_with_control(text),
                    (false, true) => tokenizer.encode(text),
                    (false, false) => tokenizer.encode_continuation(text),
                };
                // The last one is printed, and needn't be read.
                Self { tokens, n_unprinted: 0, n_left: (capacity + 1).saturating_sub(n_used) }
            }
            None => {
                let tokens = match args.special {
                    true => special_prompt(tokenizer, text),
                    false => tokenizer.encode_prompt(text),
                };
                let Some(&first) = tokens.first() else {
                    let reason =
                        "there is no token to feed: the model has no BOS token, so give it a prompt with -i";
                    return Err(CliError::of(args.model.display(), reason));
                };
                Self { tokens, n_unprinted: usize::from(tokenizer.bos() == Some(first)), n_left: capacity }
            }
        };
        let needed = n_used + prompt.tokens.len();
        if let Some(path) = args.session.as_deref().filter(|_| needed > capacity) {
            let with = if prompt.tokens.is_empty() { "" } else { " with the prompt" };
            let longer = models::LONGER;
            let reason = format!("it holds {capacity} tokens, and the text has {needed}{with}; {longer}");
            return Err(CliError::of(path.display(), format!("the context is full: {reason}")));
        }
        Ok(prompt)
    }
}

/// The last token of a session's text.
fn last(session: &Session) -> Option<TokenId> {
    session.pending().or(session.tokens().last().copied())
}

/// Prints the text of a prompt's tokens, before the session reads them. If the prompt was cut
/// inside a character, the text ends before that character.
fn print_tokens(tokens: &[TokenId], session: &Session) -> Result<(), CliError> {
    let Some(tokenizer) = session.model().tokenizer() else { return Ok(()) };
    let mut decoder = last(session).map_or_else(|| tokenizer.decoder(), |last| tokenizer.decoder_after(last));
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
