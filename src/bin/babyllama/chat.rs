//! `babyllama chat`: a conversation.

use std::io::{self, BufRead, IsTerminal};

use babyllama::chat::{Template, encode};
use babyllama::{FinishReason, TokenId, Tokenizer};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::args::ChatArgs;
use crate::failure::Failure;
use crate::interrupt::Watch;
use crate::models;
use crate::output::{count, note, print, print_text};
use crate::speak::Speaker;

pub(crate) fn run(args: &ChatArgs) -> Result<(), Failure> {
    let sampler = args.sampling.sampler()?;
    let model =
        models::open(&args.model, args.tokenizer.path.as_deref().into(), args.engine.model_options())?;
    let tokenizer = models::tokenizer(&model, &args.model)?;
    let session = model.session_with(args.engine.session_options());
    let mut questions = Questions::new()?;
    if questions.are_typed() {
        let what = args.model.display();
        note(&format!("{what}: Ctrl-C stops an answer; Ctrl-D, or Ctrl-C at the prompt, ends the chat."));
    }

    let mut chat = Chat {
        speaker: Speaker::new(session, sampler, &args.sampling.stop),
        tokenizer,
        system: args.system.as_deref(),
        max_tokens: if args.max_tokens == 0 { usize::MAX } else { args.max_tokens },
        has_begun: false,
        unfed: None,
    };
    while let Some(question) = questions.next()? {
        if question.trim().is_empty() {
            continue;
        }
        match chat.turn(&question) {
            // One who types can ask something shorter; a script can't.
            Err(Failure::Error(reason)) if questions.are_typed() => note(&format!("error: {reason}")),
            result => result?,
        }
    }
    if chat.has_begun && !args.quiet {
        note(&chat.speaker.statistics());
    }
    Ok(())
}

/// A conversation, and what of it the session hasn't read.
#[derive(Debug)]
struct Chat<'a> {
    speaker: Speaker,
    tokenizer: &'a Tokenizer,
    system: Option<&'a str>,
    max_tokens: usize,
    has_begun: bool,
    /// The last token of an answer that was cut short. The token that ends an answer is the template's.
    unfed: Option<TokenId>,
}

impl Chat<'_> {
    /// Answers a question. After an error nothing of the question stays in the conversation.
    fn turn(&mut self, question: &str) -> Result<(), Failure> {
        let mut turn: Vec<TokenId> = self.unfed.into_iter().collect();
        let parts = Template::Llama2.turn(!self.has_begun, self.system, question);
        turn.extend(encode(&parts, self.tokenizer)?);
        let (position, capacity) = (self.speaker.session.position(), self.speaker.session.capacity());
        if position + turn.len() > capacity {
            return Err(Failure::Error(format!(
                "the context is full: it holds {capacity} tokens, {position} are used, and this question takes {}; \
                 --context-length makes it longer",
                turn.len()
            )));
        }

        let watch = Watch::new();
        match self.speaker.feed(&turn, &watch) {
            Err(Failure::Interrupted) => return print(b"\n"),
            result => result?,
        }
        self.has_begun = true;
        // The template leaves the space before an answer to the model.
        let mut at_start = true;
        let ending = self.speaker.speak(self.max_tokens, &watch, |text| {
            let text = if at_start { text.trim_start() } else { text };
            at_start &= text.is_empty();
            print_text(text)
        })?;
        self.unfed = ending.unfed;
        print(b"\n")?;
        if ending.reason == Some(FinishReason::ContextFull) {
            let capacity = count(capacity, "token");
            note(&format!("[the context is full, {capacity}: the answer had to stop here]"));
        }
        Ok(())
    }
}

/// Where the questions come from.
enum Questions {
    Typed(Box<DefaultEditor>),
    Lines(io::StdinLock<'static>),
}

impl Questions {
    fn new() -> Result<Self, Failure> {
        let is_terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
        Ok(if is_terminal {
            Self::Typed(Box::new(DefaultEditor::new().map_err(terminal)?))
        } else {
            Self::Lines(io::stdin().lock())
        })
    }

    fn are_typed(&self) -> bool {
        matches!(self, Self::Typed(_))
    }

    /// The next question; `None` when there are no more.
    fn next(&mut self) -> Result<Option<String>, Failure> {
        match self {
            Self::Typed(editor) => match editor.readline("> ") {
                Ok(line) => {
                    editor.add_history_entry(&line).map_err(terminal)?;
                    Ok(Some(line))
                }
                Err(ReadlineError::Eof | ReadlineError::Interrupted) => Ok(None),
                Err(error) => Err(terminal(error)),
            },
            Self::Lines(stdin) => {
                let mut line = Vec::new();
                let n = stdin.read_until(b'\n', &mut line).map_err(|e| Failure::of("standard input", e))?;
                let line = String::from_utf8(line)
                    .map_err(|_| Failure::of("standard input", "a line is not UTF-8"))?;
                Ok((n > 0).then_some(line))
            }
        }
    }
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn terminal(error: ReadlineError) -> Failure {
    Failure::of("terminal", error)
}
