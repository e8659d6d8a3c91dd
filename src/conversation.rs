//! A conversation: questions and answers in one session, which reads only what is new.
//!
//! Invariant: between two questions the session has read a beginning of the conversation, and [`Chat`] knows what of it
//! is missing: what ends the last answer, or everything. A question changes nothing until it has been read whole.

use std::mem;

use crate::chat::{Message, Part, Role, Template, encode_after};
use crate::error::{ErrorKind, Result, TokenId};
use crate::generate::{FinishReason, Generate, Piece, Prompt};
use crate::sampler::Sampler;
use crate::session::Session;
use crate::tokenizer::Tokenizer;

/// Tokens of a question that are read between two items: few enough to stop soon, and enough to be read fast.
const CHUNK: usize = 128;

/// A conversation over a [`Session`].
///
/// ```
/// use babyllama::chat::Template;
/// use babyllama::{Chat, Model, Sampler, SamplerOptions};
///
/// # fn main() -> Result<(), babyllama::Error> {
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf");
/// let model = Model::open(path)?;
/// let template = model.chat_template().and_then(Template::recognise).unwrap_or(Template::Llama2);
/// let mut chat = Chat::new(model.session(), template)?;
/// let mut sampler = Sampler::new(SamplerOptions { temperature: 0.0, ..Default::default() });
/// for question in ["Who is Lily?", "And Tom?"] {
///     for piece in chat.ask(question, &mut sampler)?.max_tokens(10) {
///         print!("{}", piece?);
///     }
/// }
/// assert_eq!(chat.messages().len(), 4);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Chat {
    session: Session,
    template: Template,
    stops: Vec<String>,
    messages: Vec<Message>,
    last: Last,
}

/// What of the conversation so far the session has read.
#[derive(Debug)]
enum Last {
    /// Nothing; what it holds is to be forgotten.
    Unread,
    /// All but what ends the last answer.
    Answer(Answered),
}

/// Where an answer has ended.
#[derive(Debug, Default)]
struct Answered {
    /// Tokens that the session keeps. Behind them it may have read some of what ended the answer.
    keep: usize,
    /// The last token of the answer, if it is unread.
    unfed: Option<TokenId>,
    /// The end of the answer, if a text stopped it in the middle of a token.
    tail: String,
    /// The token by which the model ended the answer.
    end: Option<TokenId>,
    /// Whether white space is the last of it.
    ends_with_space: bool,
}

impl Chat {
    /// A conversation that begins. What the session has read is forgotten.
    ///
    /// # Errors
    /// [`ErrorKind::NoTokenizer`] if the session's model has none.
    pub fn new(session: Session, template: Template) -> Result<Self> {
        session.model().tokenizer().ok_or(ErrorKind::NoTokenizer)?;
        Ok(Self { session, template, stops: Vec::new(), messages: Vec::new(), last: Last::Unread })
    }

    /// Ends each answer before this text would come up, as the template's own stops do. May be given several times.
    #[must_use]
    pub fn stop(mut self, text: impl Into<String>) -> Self {
        self.stops.push(text.into());
        self
    }

    /// The template.
    #[must_use]
    pub fn template(&self) -> Template {
        self.template
    }

    /// The session. It may lack the end of the last answer.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The session, to be used for something else.
    #[must_use]
    pub fn into_session(self) -> Session {
        self.session
    }

    /// What was said: the system prompt if there is one, then questions and answers.
    #[must_use]
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// The system prompt.
    #[must_use]
    pub fn system(&self) -> Option<&str> {
        let first = self.messages.first().filter(|message| message.role == Role::System);
        first.map(|message| message.content.as_str())
    }

    /// Says how the assistant should behave; `None` or an empty text says nothing. With the next question the session
    /// reads the whole conversation anew.
    pub fn set_system(&mut self, system: Option<&str>) {
        if self.system().is_some() {
            self.messages.remove(0);
        }
        if let Some(system) = system.filter(|system| !system.is_empty()) {
            self.messages.insert(0, Message::system(system));
        }
        self.last = Last::Unread;
    }

    /// Goes on from another conversation, which the session reads with the next question.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidOption`], if the messages aren't a system prompt, which may be absent, and then questions each
    /// followed by an answer. Nothing has changed then.
    pub fn set_messages(&mut self, messages: Vec<Message>) -> Result<()> {
        let system = usize::from(messages.first().is_some_and(|message| message.role == Role::System));
        let by_turns = |(i, message): (usize, &Message)| message.role == [Role::User, Role::Assistant][i % 2];
        let turns = &messages[system..];
        if !turns.len().is_multiple_of(2) || !turns.iter().enumerate().all(by_turns) {
            let reason =
                "after a system message, if any, there must be a question and an answer by turns".into();
            let value = format!("{} messages", messages.len());
            return Err(ErrorKind::InvalidOption { name: "messages", value, reason }.into());
        }
        self.messages = messages;
        self.last = Last::Unread;
        Ok(())
    }

    /// Forgets all but the system prompt.
    pub fn reset(&mut self) {
        self.messages.truncate(usize::from(self.system().is_some()));
        self.session.truncate(0);
        self.last = Last::Unread;
    }

    /// Asks something. The answer comes piece by piece: see [`Answer`].
    ///
    /// # Errors
    /// [`ErrorKind::ContextFull`] if the session has no room for the question, [`ErrorKind::Tokenizer`] if the tokenizer
    /// lacks a token that the template needs. The conversation is then as it was before.
    pub fn ask<'a>(&'a mut self, question: &str, sampler: &'a mut Sampler) -> Result<Answer<'a>> {
        let (keep, unread) = self.unread(question)?;
        let (capacity, requested) = (self.session.capacity(), keep.saturating_add(unread.len()));
        if requested > capacity {
            return Err(ErrorKind::ContextFull { capacity, requested }.into());
        }
        let tokenizer = self.session.model().tokenizer().ok_or(ErrorKind::NoTokenizer)?.clone();
        let stops = self.template.stops(&tokenizer).into_iter().map(str::to_string);
        let stops = stops.chain(self.stops.iter().cloned()).collect();
        self.session.truncate(keep);
        Ok(Answer {
            stage: Stage::Reading { session: &mut self.session, sampler, unread, read: 0 },
            question: question.into(),
            messages: &mut self.messages,
            last: &mut self.last,
            tokenizer,
            stops,
            max_tokens: usize::MAX,
            start: keep,
            n_prompt: requested - keep,
            tokens: Vec::new(),
            text: String::new(),
            space: String::new(),
            reason: None,
        })
    }

    /// How many tokens of the session stay, and those to be read then: the end of the last answer and the question, or the
    /// whole conversation.
    fn unread(&self, question: &str) -> Result<(usize, Vec<TokenId>)> {
        let tokenizer = self.session.model().tokenizer().ok_or(ErrorKind::NoTokenizer)?;
        let mut tokens = Vec::new();
        let answered = match &self.last {
            Last::Answer(answered) => answered,
            Last::Unread => {
                let mut messages = self.messages.clone();
                messages.push(Message::user(question));
                encode_after(&self.template.render(&messages), tokenizer, false, &mut tokens)?;
                return Ok((0, tokens));
            }
        };
        tokens.extend(answered.unfed);
        let mut parts = vec![Part::Text(answered.tail.clone())];
        let mut end = self.template.end();
        if answered.ends_with_space && matches!(end.first(), Some(Part::Text(text)) if text == " ") {
            end.remove(0); // the model has said the space itself
        }
        // The template may end answers by text where this model has a token for it.
        let own_end = answered.end.filter(|_| !end.iter().any(|part| is_token(part, tokenizer)));
        tokens.extend(own_end);
        parts.extend(end);
        parts.extend(self.template.question(false, None, question));
        encode_after(&parts, tokenizer, own_end.is_none(), &mut tokens)?;
        Ok((answered.keep, tokens))
    }
}

/// Whether a part becomes a control token.
fn is_token(part: &Part, tokenizer: &Tokenizer) -> bool {
    match part {
        Part::Bos | Part::Eos => true,
        Part::Control(name) => tokenizer.control(name).is_some(),
        _ => false,
    }
}

/// An answer: each item is the text that one more token makes, without white space around the whole.
///
/// First the question is read, and items are empty: 128 tokens each, so that one may stop in between. Dropping it then
/// takes the question back. Later, dropping it ends the answer where it is, and the conversation can go on, as it does
/// after an answer of [`max_tokens`](Self::max_tokens) or an error. The answer so far is then the last of
/// [`Chat::messages`].
#[derive(Debug)]
pub struct Answer<'a> {
    stage: Stage<'a>,
    question: String,
    messages: &'a mut Vec<Message>,
    last: &'a mut Last,
    tokenizer: Tokenizer,
    stops: Vec<String>,
    max_tokens: usize,
    /// Where the session was.
    start: usize,
    n_prompt: usize,
    /// The tokens of the answer.
    tokens: Vec<TokenId>,
    /// The answer so far, without white space around it.
    text: String,
    /// White space that belongs to it if more comes.
    space: String,
    reason: Option<FinishReason>,
}

#[derive(Debug)]
enum Stage<'a> {
    Reading { session: &'a mut Session, sampler: &'a mut Sampler, unread: Vec<TokenId>, read: usize },
    Speaking(Generate<'a>),
    Over,
}

impl Answer<'_> {
    /// Ends after this many tokens.
    #[must_use]
    pub fn max_tokens(mut self, max_tokens: usize) -> Self {
        self.max_tokens = max_tokens;
        self
    }

    /// The answer so far.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Why it ended; `None` while it goes on, and after an error.
    #[must_use]
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.reason
    }

    /// How many tokens are read before the answer begins.
    #[must_use]
    pub fn n_prompt(&self) -> usize {
        self.n_prompt
    }

    /// Whether the question has been read, so that the next item is of the answer.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        !matches!(self.stage, Stage::Reading { .. })
    }

    /// How many tokens were generated, not counting one that ended the answer.
    #[must_use]
    pub fn n_generated(&self) -> usize {
        self.tokens.len()
    }

    fn step(&mut self) -> Result<Option<Piece>> {
        match &mut self.stage {
            Stage::Reading { session, sampler, unread, read } => {
                let chunk = &unread[*read..unread.len().min(*read + CHUNK)];
                session.forward(chunk)?;
                *read += chunk.len();
                if *read == unread.len() {
                    unread.iter().for_each(|&token| sampler.accept(token));
                    self.begin()?;
                }
                Ok(Some(Piece::new(None, "")))
            }
            Stage::Speaking(generate) => {
                let piece = generate.next().transpose()?;
                self.reason = generate.finish_reason();
                let Some(piece) = piece else { return Ok(None) };
                self.tokens.extend(piece.token());
                Ok(Some(self.trimmed(&piece)))
            }
            Stage::Over => Ok(None),
        }
    }

    /// Goes over from the question, which is now said, to the answer.
    fn begin(&mut self) -> Result<()> {
        let Stage::Reading { session, sampler, .. } = mem::replace(&mut self.stage, Stage::Over) else {
            return Ok(());
        };
        self.messages.push(Message::user(mem::take(&mut self.question)));
        self.messages.push(Message::assistant(""));
        *self.last = Last::Answer(Answered { keep: session.position(), ..Answered::default() });
        let mut generate = session.generate(Prompt::Tokens(&[]), sampler)?.max_tokens(self.max_tokens);
        for stop in &self.stops {
            generate = generate.stop(stop);
        }
        self.stage = Stage::Speaking(generate);
        Ok(())
    }

    /// The piece without white space at the answer's start. What may be white space at its end is held back.
    fn trimmed(&mut self, piece: &Piece) -> Piece {
        let text = if self.text.is_empty() { piece.text().trim_start() } else { piece.text() };
        let visible = text.trim_end();
        if visible.is_empty() {
            self.space.push_str(text);
            return Piece::new(piece.token(), "");
        }
        let mut shown = mem::take(&mut self.space);
        shown.push_str(visible);
        self.text.push_str(&shown);
        self.space.push_str(&text[visible.len()..]);
        Piece::new(piece.token(), &shown)
    }

    /// Notes how far the answer got, so that the next question can end it.
    fn settle(&mut self) {
        let (begin, n) = (self.start + self.n_prompt, self.tokens.len());
        let mut answered = Answered {
            keep: begin + n.saturating_sub(1),
            unfed: self.tokens.last().copied(),
            ends_with_space: !self.space.is_empty(),
            ..Answered::default()
        };
        match self.reason {
            Some(FinishReason::EndOfText(token)) => {
                // The last token was read before the end was chosen.
                answered.keep = begin + n;
                answered.unfed = None;
                answered.end = Some(token);
            }
            Some(FinishReason::StopString(_)) => {
                let (kept, tail) = self.before_stop();
                answered.keep = begin + kept;
                answered.unfed = None;
                answered.tail = tail;
                answered.ends_with_space = false;
            }
            _ => {} // the last token is unread, or was read when an error came: it is read again
        }
        if let Some(message) = self.messages.last_mut() {
            message.content.clone_from(&self.text);
        }
        *self.last = Last::Answer(answered);
    }

    /// How many tokens lie wholly in the answer's text, and the text behind them: the last token may have said a part of
    /// the text that stopped it too.
    fn before_stop(&self) -> (usize, String) {
        // What is before the answer is never BOS, behind which the decoder would strip a space.
        let mut decoder = self.tokenizer.decoder_after(TokenId::MAX);
        let mut said = String::new();
        let ends = self.tokens.iter().map(|&token| {
            said.push_str(decoder.push(&self.tokenizer, token));
            (said.len(), decoder.clone().finish().is_empty())
        });
        let ends: Vec<(usize, bool)> = ends.collect();
        // What was said begins with white space that isn't in the text.
        let before = said.len() - said.trim_start().len();
        let end = if self.text.is_empty() { 0 } else { before + self.text.len() };
        let kept =
            ends.iter().rposition(|&(length, is_whole)| length <= end && is_whole).map_or(0, |i| i + 1);
        let length = kept.checked_sub(1).map_or(0, |i| ends[i].0);
        (kept, said.get(length..end).unwrap_or_default().to_string())
    }

    /// Ends it, if it hasn't ended.
    fn end(&mut self) {
        match mem::replace(&mut self.stage, Stage::Over) {
            Stage::Reading { session, .. } => session.truncate(self.start),
            Stage::Speaking(_) => self.settle(),
            Stage::Over => {}
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
