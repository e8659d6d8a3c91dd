//! An assistant turn: the user turn before it is read, then it is generated.

use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex};

use super::Chat;
use super::context::{ContextPolicy, n_system};
use crate::chat::{ChatTemplate, Message};
use crate::constraint::Constraint;
use crate::error::{ErrorKind, Result, TokenId};
use crate::generate::{Draft, FinishReason, Generate, Piece, Prompt};
use crate::sampler::Sampler;
use crate::session::Session;
use crate::tokenizer::Tokenizer;

/// An assistant turn that is being generated: each item is the text that one more token makes,
/// without white space around the whole.
///
/// First the user turn is read, and items are empty: each is a [step](Session::feed) of up to 128
/// tokens, so that the caller may stop in between. Dropping it then removes the user turn again.
/// Later, dropping it ends the assistant turn where it is, and the conversation can go on, as it
/// does after [`max_tokens`](Self::max_tokens) or an error. The text so far is then the last of
/// [`Chat::messages`].
#[derive(Debug)]
pub struct Answer<'a> {
    stage: Stage<'a>,
    messages: &'a mut Vec<Message>,
    template: ChatTemplate,
    /// Tokens that end the turn, beside those that end any text.
    ends: Vec<TokenId>,
    policy: ContextPolicy,
    tokenizer: Tokenizer,
    options: Options,
    /// The conversation with the user turn as its last message, without what was dropped.
    asked: Vec<Message>,
    /// The oldest exchanges, which had to make room.
    dropped: Vec<Message>,
    /// What the assistant turn is to begin with.
    beginning: String,
    n_prompt: usize,
    n_generated: usize,
    /// The text so far, without white space around it.
    text: String,
    /// White space that belongs to the text if more comes.
    space: String,
    reason: Option<FinishReason>,
}

/// What the generation is asked for.
#[derive(Default)]
struct Options {
    max_tokens: Option<usize>,
    stops: Vec<String>,
    logprobs: Option<usize>,
    constraint: Option<Arc<Mutex<dyn Constraint>>>,
    draft: Option<Arc<Mutex<dyn Draft>>>,
}

/// Without the constraint and the draft.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("max_tokens", &self.max_tokens)
            .field("stops", &self.stops)
            .field("logprobs", &self.logprobs)
            .finish_non_exhaustive()
    }
}

impl Options {
    /// The generation with these options.
    fn of(self, mut generate: Generate<'_>) -> Generate<'_> {
        generate = generate.max_tokens(self.max_tokens.unwrap_or(usize::MAX));
        for stop in self.stops {
            generate = generate.stop(stop);
        }
        if let Some(n) = self.logprobs {
            generate = generate.logprobs(n);
        }
        if let Some(constraint) = self.constraint {
            generate = generate.constrain(constraint);
        }
        match self.draft {
            Some(draft) => generate.draft(draft),
            None => generate,
        }
    }
}

#[derive(Debug)]
enum Stage<'a> {
    Prefill(Prefill<'a>),
    Decode(Box<Generate<'a>>),
    Done,
}

/// A user turn that is being read, and whatever else the session lacks of the conversation.
#[derive(Debug)]
struct Prefill<'a> {
    session: &'a mut Session,
    sampler: &'a mut Sampler,
    /// The whole conversation.
    tokens: Vec<TokenId>,
    /// How many of them the session had read already; `None` before the first item.
    kept: Option<usize>,
}

impl<'a> Answer<'a> {
    pub(super) fn new(chat: &'a mut Chat, asked: Vec<Message>, sampler: &'a mut Sampler) -> Result<Self> {
        let Chat { session, template, stops, policy, messages } = chat;
        let tokenizer = session.model().tokenizer().ok_or(ErrorKind::NoTokenizer)?.clone();
        let (own_stops, ends) = template.ends(&tokenizer);
        let stops = own_stops.into_iter().chain(stops.iter().cloned()).collect();
        let mut answer = Self {
            stage: Stage::Prefill(Prefill { session, sampler, tokens: Vec::new(), kept: None }),
            messages,
            template: template.clone(),
            ends,
            policy: *policy,
            tokenizer,
            options: Options { stops, ..Options::default() },
            asked,
            dropped: Vec::new(),
            beginning: String::new(),
            n_prompt: 0,
            n_generated: 0,
            text: String::new(),
            space: String::new(),
            reason: None,
        };
        answer.plan("")?;
        Ok(answer)
    }
}

impl Answer<'_> {
    /// Ends after this many tokens.
    #[must_use]
    pub fn max_tokens(mut self, max_tokens: usize) -> Self {
        self.options.max_tokens = Some(max_tokens);
        self
    }

    /// Has each piece tell the log-probability of its token, and the `n` likeliest tokens in its
    /// place, as [`Generate::logprobs`] does.
    ///
    /// ```
    /// # use babyllama::{Chat, Model, Sampler, SamplerOptions, chat::Template};
    /// # fn main() -> babyllama::Result<()> {
    /// # let model = Model::open(concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf"))?;
    /// # let mut sampler = Sampler::new(SamplerOptions::default());
    /// # let mut chat = Chat::new(model.session(), Template::Llama2)?;
    /// for piece in chat.ask("Who is Lily?", &mut sampler)?.logprobs(3).max_tokens(9) {
    ///     let piece = piece?;
    ///     // No token while the user turn is read.
    ///     if let Some(logprob) = piece.logprob() {
    ///         assert!(logprob <= piece.top_logprobs()[0].logprob);
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn logprobs(mut self, n: usize) -> Self {
        self.options.logprobs = Some(n);
        self
    }

    /// Lets only what `constraint` allows come next, as [`Generate::constrain`] does. Words that
    /// the turn [begins with](Self::begin_with) aren't told to it.
    ///
    /// The turn ends only where the constraint allows a token that ends it, or before a stop string
    /// of the template's or yours.
    ///
    /// ```
    /// # use babyllama::{Chat, Constraint, Model, Result, TokenId, TokenMask, chat::Template};
    /// # use babyllama::{Sampler, SamplerOptions};
    /// /// Only this token.
    /// struct Only(TokenId);
    ///
    /// impl Constraint for Only {
    ///     fn allow(&mut self, next: &mut TokenMask) -> Result<()> {
    ///         next.allow(self.0);
    ///         Ok(())
    ///     }
    ///
    ///     fn accept(&mut self, _: TokenId) -> Result<()> {
    ///         Ok(())
    ///     }
    /// }
    ///
    /// # fn main() -> Result<()> {
    /// # let model = Model::open(concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf"))?;
    /// # let mut sampler = Sampler::new(SamplerOptions::default());
    /// # let mut chat = Chat::new(model.session(), Template::Llama2)?;
    /// let ha = model.tokenizer().unwrap().encode_continuation("ha")[0];
    /// let answer = chat.ask("Are you glad?", &mut sampler)?.constrain(Only(ha)).max_tokens(3);
    /// let tokens: Vec<_> = answer.filter_map(|piece| piece.unwrap().token()).collect();
    /// assert_eq!(tokens, [ha; 3]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn constrain(mut self, constraint: impl Constraint + 'static) -> Self {
        self.options.constraint = Some(Arc::new(Mutex::new(constraint)));
        self
    }

    /// Reads ahead what the draft proposes, as [`Generate::draft`] does: the same text, sooner.
    ///
    /// A draft that lives for the whole conversation, as a [`DraftModel`](crate::DraftModel) that
    /// shouldn't read it again each time, is given to each turn as an `Arc<Mutex<_>>`.
    ///
    /// ```
    /// # use babyllama::{Chat, DraftModel, Model, Sampler, SamplerOptions, chat::Template};
    /// use std::sync::{Arc, Mutex};
    ///
    /// # fn main() -> babyllama::Result<()> {
    /// # let model = Model::open(concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf"))?;
    /// # let small = model.clone();
    /// # let mut sampler = Sampler::new(SamplerOptions::new().temperature(0.0));
    /// # let mut chat = Chat::new(model.session(), Template::Llama2)?;
    /// # let mut plain = Chat::new(model.session(), Template::Llama2)?;
    /// let draft = Arc::new(Mutex::new(DraftModel::new(&small, &model)?));
    /// for user in ["Who is Lily?", "And Tom?"] {
    ///     let answer = chat.ask(user, &mut sampler)?.draft(Arc::clone(&draft)).max_tokens(9);
    ///     let text = answer.collect::<babyllama::Result<String>>()?;
    /// #   let expected = plain.ask(user, &mut sampler)?.max_tokens(9);
    /// #   assert_eq!(text, expected.collect::<babyllama::Result<String>>()?);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn draft(mut self, draft: impl Draft + 'static) -> Self {
        self.options.draft = Some(Arc::new(Mutex::new(draft)));
        self
    }

    /// Has the assistant turn begin with these words, and the model continue them. They are its
    /// first text, and none of their tokens is counted. White space before them is left out; a stop
    /// string in them doesn't count.
    ///
    /// ```
    /// # use babyllama::{Chat, Model, Sampler, SamplerOptions, chat::Template};
    /// # fn main() -> babyllama::Result<()> {
    /// # let model = Model::open(concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf"))?;
    /// # let mut sampler = Sampler::new(SamplerOptions::default());
    /// let mut chat = Chat::new(model.session(), Template::Llama2)?;
    /// let answer = chat.ask("Who is Lily?", &mut sampler)?.begin_with("Once upon a time")?;
    /// answer.max_tokens(5).for_each(|piece| drop(piece.unwrap()));
    /// assert!(chat.messages()[1].content.starts_with("Once upon a time"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Chat::ask`]; and [`ErrorKind::InvalidOption`] if the user turn is read already.
    pub fn begin_with(mut self, words: &str) -> Result<Self> {
        self.plan(words)?;
        Ok(self)
    }

    /// Finds what the session has to read before an assistant turn that begins with these words,
    /// and what of the conversation is dropped for it.
    fn plan(&mut self, words: &str) -> Result<()> {
        let Stage::Prefill(Prefill { session, tokens, kept: None, .. }) = &mut self.stage else {
            let reason = "must be given before the first item".into();
            return Err(ErrorKind::InvalidOption { name: "begin_with", value: words.into(), reason }.into());
        };
        words.trim_start().clone_into(&mut self.beginning);
        let start = n_system(&self.asked);
        self.asked.splice(start..start, self.dropped.drain(..));
        let (model, beginning) = (session.model().clone(), &self.beginning);
        let encode = |messages: &[Message]| {
            self.template.tokens(messages, beginning, model.chat_template(), &self.tokenizer)
        };
        (self.dropped, *tokens) = self.policy.fit(&mut self.asked, session.capacity(), encode)?;
        self.n_prompt = tokens.len() - session.shared_prefix(tokens);
        Ok(())
    }

    /// The text so far.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The messages that the [context policy](Chat::context_policy) drops for this turn, none of
    /// which the model sees. They are gone from [`Chat::messages`] when the turn
    /// [has begun](Self::has_begun).
    ///
    /// ```
    /// # use babyllama::chat::{Message, Template};
    /// # use babyllama::{Chat, ContextPolicy, Model, Sampler, SamplerOptions, SessionOptions};
    /// # fn main() -> babyllama::Result<()> {
    /// # let model = Model::open(concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf"))?;
    /// # let mut sampler = Sampler::new(SamplerOptions::default());
    /// # let session = model.session_with(SessionOptions::new().context_length(64));
    /// # let policy = ContextPolicy::DropOldest { reserve: 9 };
    /// # let mut chat = Chat::new(session, Template::Vicuna)?.context_policy(policy);
    /// let long = "She is a girl. ".repeat(9);
    /// chat.set_messages(vec![Message::user("Who is Lily?"), Message::assistant(long)])?;
    /// let mut answer = chat.ask("And Tom?", &mut sampler)?.max_tokens(9);
    /// assert_eq!(answer.dropped()[0].content, "Who is Lily?");
    /// answer.by_ref().for_each(|piece| drop(piece.unwrap()));
    /// drop(answer);
    /// assert_eq!(chat.messages()[0].content, "And Tom?");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn dropped(&self) -> &[Message] {
        &self.dropped
    }

    /// Why it ended; `None` while it goes on, and after an error.
    #[must_use]
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.reason
    }

    /// The number of tokens that are read before the first one is generated: those of the
    /// conversation that the session hasn't read.
    #[must_use]
    pub fn n_prompt(&self) -> usize {
        self.n_prompt
    }

    /// Whether the user turn has been read, so that the next item has generated text.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        !matches!(self.stage, Stage::Prefill(_))
    }

    /// The number of tokens generated, not counting one that ended the turn.
    #[must_use]
    pub fn n_generated(&self) -> usize {
        self.n_generated
    }

    fn step(&mut self) -> Result<Option<Piece>> {
        // A token that ends no other text has ended this one.
        let is_over = matches!(self.reason, Some(FinishReason::EndOfText(end)) if self.ends.contains(&end));
        match &mut self.stage {
            Stage::Prefill(prefill) => {
                let Prefill { session, tokens, kept, .. } = prefill;
                kept.get_or_insert_with(|| session.keep_prefix(tokens));
                let read = session.position();
                let mut feed = session.feed(&tokens[read..]);
                feed.step()?;
                if feed.remaining() > 0 {
                    return Ok(Some(Piece::new("")));
                }
                self.begin()?;
                let beginning = Piece::new(&mem::take(&mut self.beginning));
                Ok(Some(self.trimmed(beginning)))
            }
            Stage::Decode(_) if is_over => Ok(None),
            Stage::Decode(generate) => {
                let mut piece = generate.next().transpose()?;
                self.reason = generate.finish_reason();
                if piece.is_none() && self.reason == Some(FinishReason::MaxTokens) {
                    piece = generate.take_held(); // no other generation continues this text
                }
                let end = piece.as_ref().and_then(Piece::token).filter(|token| self.ends.contains(token));
                if let Some(end) = end {
                    self.reason = Some(FinishReason::EndOfText(end));
                    piece = generate.take_held();
                } else {
                    self.n_generated = generate.n_generated();
                }
                let Some(piece) = piece else { return Ok(None) };
                Ok(Some(self.trimmed(piece)))
            }
            Stage::Done => Ok(None),
        }
    }

    /// From prefill to decode: the user turn is now part of the conversation.
    fn begin(&mut self) -> Result<()> {
        let Stage::Prefill(prefill) = mem::replace(&mut self.stage, Stage::Done) else {
            return Ok(());
        };
        let Prefill { session, sampler, tokens, .. } = prefill;
        sampler.accept_only(&tokens);
        *self.messages = mem::take(&mut self.asked);
        self.messages.push(Message::assistant(""));
        let generate = session.generate(Prompt::Tokens(&[]), sampler)?;
        self.stage = Stage::Decode(Box::new(mem::take(&mut self.options).of(generate)));
        Ok(())
    }

    /// The piece without white space at the start of the turn. What may be white space at its end
    /// is held back.
    fn trimmed(&mut self, piece: Piece) -> Piece {
        let text = if self.text.is_empty() { piece.as_str().trim_start() } else { piece.as_str() };
        let visible = text.trim_end();
        if visible.is_empty() {
            self.space.push_str(text);
            return piece.with_text("");
        }
        let mut shown = mem::take(&mut self.space);
        shown.push_str(visible);
        self.text.push_str(&shown);
        self.space.push_str(&text[visible.len()..]);
        piece.with_text(&shown)
    }

    /// Ends the turn, if it hasn't ended: in prefill the session forgets the user turn again, in
    /// decode the text so far becomes the message.
    fn end(&mut self) {
        match mem::replace(&mut self.stage, Stage::Done) {
            Stage::Prefill(Prefill { session, kept: Some(kept), .. }) => session.truncate(kept),
            Stage::Decode(_) => {
                if let Some(message) = self.messages.last_mut() {
                    message.content.clone_from(&self.text);
                }
            }
            _ => {} // it had ended, or not begun
        }
    }
}

impl Iterator for Answer<'_> {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step();
        if !matches!(step, Ok(Some(_))) {
            self.end();
        }
        step.transpose()
    }
}

impl std::iter::FusedIterator for Answer<'_> {}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        self.end();
    }
}
