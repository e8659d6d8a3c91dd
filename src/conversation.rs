//! A conversation: user and assistant turns in one session, which reads only what is new.
//!
//! Invariant: when an assistant turn begins, the session has read exactly the conversation up to
//! there as the template renders it, whatever it had read before and however the conversation came
//! about. It keeps the longest prefix of that which it has read already, so the conversation needs
//! no record of what the session has read. A user turn changes nothing until all of it has been
//! read.

use std::mem;

use crate::chat::{Message, Role, Template, encode_whole};
use crate::error::{Error, ErrorKind, Result, TokenId};
use crate::generate::{FinishReason, Generate, Piece, Prompt};
use crate::sampler::Sampler;
use crate::session::Session;
use crate::tokenizer::Tokenizer;

/// A conversation over a [`Session`].
///
/// ```
/// use babyllama::chat::Template;
/// use babyllama::{Chat, Model, Sampler, SamplerOptions};
///
/// # fn main() -> Result<(), babyllama::Error> {
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf");
/// let model = Model::open(path)?;
/// let template = model.chat_template().and_then(Template::detect).unwrap_or(Template::Llama2);
/// let mut chat = Chat::new(model.session(), template)?;
/// let mut sampler = Sampler::new(SamplerOptions::new().temperature(0.0));
/// for user in ["Who is Lily?", "And Tom?"] {
///     for piece in chat.ask(user, &mut sampler)?.max_tokens(10) {
///         print!("{}", piece?);
///     }
/// }
/// assert_eq!(chat.messages().len(), 4);
/// # Ok(())
/// # }
/// ```
///
/// A conversation need not begin here: [`set_messages`](Self::set_messages) takes one that was
/// saved, or that another program keeps. The session reads only what it hasn't read yet. If the
/// text of an assistant turn encodes to other tokens than those it was generated as, which is rare,
/// it is read again from there.
#[derive(Debug)]
pub struct Chat {
    session: Session,
    template: Template,
    stops: Vec<String>,
    messages: Vec<Message>,
}

impl Chat {
    /// A new conversation. What the session has read is kept as far as the conversation begins with
    /// it.
    ///
    /// # Errors
    /// [`ErrorKind::NoTokenizer`] if the session's model has none.
    pub fn new(session: Session, template: Template) -> Result<Self> {
        session.model().tokenizer().ok_or(ErrorKind::NoTokenizer)?;
        Ok(Self { session, template, stops: Vec::new(), messages: Vec::new() })
    }

    /// Ends each assistant turn before this text would come up, as the template's own stops do. May
    /// be given several times.
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

    /// The session. It may lack the end of the last assistant turn, or have read what is no longer
    /// part of the conversation.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The session, to be used for something else.
    #[must_use]
    pub fn into_session(self) -> Session {
        self.session
    }

    /// The messages: the system prompt if there is one, then user and assistant turns.
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

    /// Sets the system prompt, or removes it with `None` or an empty text. Before the next
    /// assistant turn the session reads the conversation again from there.
    pub fn set_system(&mut self, system: Option<&str>) {
        if self.system().is_some() {
            self.messages.remove(0);
        }
        if let Some(system) = system.filter(|system| !system.is_empty()) {
            self.messages.insert(0, Message::system(system));
        }
    }

    /// Continues another conversation. Before the next assistant turn the session reads of it what
    /// it hasn't read.
    ///
    /// ```
    /// # use babyllama::{Model, Sampler, SamplerOptions};
    /// use babyllama::Chat;
    /// use babyllama::chat::{Message, Template};
    ///
    /// # fn main() -> babyllama::Result<()> {
    /// # let model = Model::open(concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf"))?;
    /// # let mut sampler = Sampler::new(SamplerOptions::default());
    /// let mut chat = Chat::new(model.session(), Template::ChatMl)?;
    /// chat.set_messages(vec![Message::user("Who is Lily?"), Message::assistant("A girl.")])?;
    /// let whole = chat.ask("And Tom?", &mut sampler)?.max_tokens(5).n_prompt();
    /// # chat.ask("And Tom?", &mut sampler)?.max_tokens(5).for_each(|piece| drop(piece.unwrap()));
    ///
    /// // Another conversation in the same session: what follows the same beginning is read.
    /// let mut other = Chat::new(chat.into_session(), Template::ChatMl)?;
    /// other.set_messages(vec![Message::user("Who is Lily?"), Message::assistant("A girl.")])?;
    /// assert!(other.ask("And Sue?", &mut sampler)?.n_prompt() < whole / 2);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::InvalidOption`], if the messages aren't a system prompt, which may be absent,
    /// and then user turns each followed by an assistant turn. Nothing has changed then.
    pub fn set_messages(&mut self, messages: Vec<Message>) -> Result<()> {
        let system = usize::from(messages.first().is_some_and(|message| message.role == Role::System));
        let alternates =
            |(i, message): (usize, &Message)| message.role == [Role::User, Role::Assistant][i % 2];
        let turns = &messages[system..];
        if !turns.len().is_multiple_of(2) || !turns.iter().enumerate().all(alternates) {
            let reason =
                "after a system message, if any, user and assistant must alternate, and the assistant \
                          must come last"
                    .into();
            let value = format!("{} messages", messages.len());
            return Err(ErrorKind::InvalidOption { name: "messages", value, reason }.into());
        }
        self.messages = messages;
        Ok(())
    }

    /// Removes all messages except the system prompt.
    pub fn reset(&mut self) {
        self.messages.truncate(usize::from(self.system().is_some()));
        self.session.truncate(0);
    }

    /// Removes the last user turn and its assistant turn, and returns them; `None` if there are
    /// none.
    ///
    /// ```
    /// # use babyllama::{Chat, Model, Sampler, SamplerOptions, chat::Template};
    /// # fn main() -> babyllama::Result<()> {
    /// # let model = Model::open(concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf"))?;
    /// # let mut sampler = Sampler::new(SamplerOptions::default());
    /// let mut chat = Chat::new(model.session(), Template::Llama2)?;
    /// chat.ask("Who is Lily?", &mut sampler)?.max_tokens(5).for_each(|text| drop(text.unwrap()));
    /// let [user, _assistant] = chat.undo().expect("two messages");
    /// assert_eq!(user.content, "Who is Lily?");
    /// assert!(chat.messages().is_empty());
    /// # Ok(())
    /// # }
    /// ```
    pub fn undo(&mut self) -> Option<[Message; 2]> {
        if self.messages.len() < 2 {
            return None;
        }
        let assistant = self.messages.pop()?;
        let user = self.messages.pop()?;
        let model = self.session.model();
        let (parts, jinja) = (self.template.render(&self.messages), model.chat_template());
        if let Ok(tokens) = encode_whole(parts, self.template, jinja, model.tokenizer()?) {
            self.session.keep_prefix(&tokens);
        }
        Some([user, assistant])
    }

    /// Adds a user turn. The assistant turn comes piece by piece: see [`Answer`]. The sampler's
    /// penalties count the tokens of this conversation, and no others.
    ///
    /// # Errors
    /// [`ErrorKind::ContextFull`] if the user turn doesn't fit the session,
    /// [`ErrorKind::Tokenizer`] if the tokenizer lacks a token that the template needs. The
    /// conversation is unchanged then.
    pub fn ask<'a>(&'a mut self, user: &str, sampler: &'a mut Sampler) -> Result<Answer<'a>> {
        let mut asked = self.messages.clone();
        asked.push(Message::user(user));
        Answer::new(self, asked, sampler)
    }

    /// Generates the last assistant turn again. The old one stays until the new one begins.
    ///
    /// With the same sampler it is another one, unless the temperature is 0.
    ///
    /// ```
    /// # use babyllama::{Chat, Model, Sampler, SamplerOptions, chat::Template};
    /// # fn main() -> babyllama::Result<()> {
    /// # let model = Model::open(concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf"))?;
    /// # let mut sampler = Sampler::new(SamplerOptions::default());
    /// let mut chat = Chat::new(model.session(), Template::Llama2)?;
    /// chat.ask("Who is Lily?", &mut sampler)?.max_tokens(5).for_each(|text| drop(text.unwrap()));
    /// let answer = chat.regenerate(&mut sampler)?;
    /// // The question has been read: only its last token is read again.
    /// assert_eq!(answer.n_prompt(), 1);
    /// answer.max_tokens(5).for_each(|piece| drop(piece.unwrap()));
    /// assert_eq!(chat.messages().len(), 2);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::InvalidOption`] if there is no assistant turn, and as [`ask`](Self::ask).
    /// Nothing has changed then.
    pub fn regenerate<'a>(&'a mut self, sampler: &'a mut Sampler) -> Result<Answer<'a>> {
        let Some((Message { role: Role::Assistant, .. }, asked)) = self.messages.split_last() else {
            let (value, reason) = ("none".into(), "there is no assistant turn to generate again".into());
            return Err(ErrorKind::InvalidOption { name: "messages", value, reason }.into());
        };
        let asked = asked.to_vec();
        Answer::new(self, asked, sampler)
    }
}

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
    template: Template,
    tokenizer: Tokenizer,
    stops: Vec<String>,
    max_tokens: usize,
    /// The conversation with the user turn as its last message.
    asked: Vec<Message>,
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
    fn new(chat: &'a mut Chat, asked: Vec<Message>, sampler: &'a mut Sampler) -> Result<Self> {
        let Chat { session, template, stops, messages } = chat;
        let tokenizer = session.model().tokenizer().ok_or(ErrorKind::NoTokenizer)?.clone();
        let jinja = session.model().chat_template();
        let tokens = encode_whole(template.render(&asked), *template, jinja, &tokenizer)?;
        let n_prompt = unread(session, &tokens)?;
        let own_stops = template.stops(&tokenizer).into_iter().map(str::to_string);
        Ok(Self {
            stops: own_stops.chain(stops.iter().cloned()).collect(),
            stage: Stage::Prefill(Prefill { session, sampler, tokens, kept: None }),
            messages,
            template: *template,
            tokenizer,
            max_tokens: usize::MAX,
            asked,
            beginning: String::new(),
            n_prompt,
            n_generated: 0,
            text: String::new(),
            space: String::new(),
            reason: None,
        })
    }
}

impl Answer<'_> {
    /// Ends after this many tokens.
    #[must_use]
    pub fn max_tokens(mut self, max_tokens: usize) -> Self {
        self.max_tokens = max_tokens;
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
        let Stage::Prefill(prefill @ Prefill { kept: None, .. }) = &mut self.stage else {
            let reason = "must be given before the first item".into();
            return Err(ErrorKind::InvalidOption { name: "begin_with", value: words.into(), reason }.into());
        };
        words.trim_start().clone_into(&mut self.beginning);
        let mut parts = self.template.render(&self.asked);
        parts.extend(self.template.assistant_start(&self.beginning));
        let jinja = prefill.session.model().chat_template();
        prefill.tokens = encode_whole(parts, self.template, jinja, &self.tokenizer)?;
        self.n_prompt = unread(prefill.session, &prefill.tokens)?;
        Ok(self)
    }

    /// The text so far.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
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
        match &mut self.stage {
            Stage::Prefill(prefill) => {
                let Prefill { session, tokens, kept, .. } = prefill;
                kept.get_or_insert_with(|| session.keep_prefix(tokens));
                let read = session.position();
                let mut feed = session.feed(&tokens[read..]);
                feed.step()?;
                if feed.remaining() > 0 {
                    return Ok(Some(Piece::new(None, "")));
                }
                self.begin()?;
                let beginning = Piece::new(None, &mem::take(&mut self.beginning));
                Ok(Some(self.trimmed(&beginning)))
            }
            Stage::Decode(generate) => {
                let mut piece = generate.next().transpose()?;
                self.reason = generate.finish_reason();
                if piece.is_none() && self.reason == Some(FinishReason::MaxTokens) {
                    piece = generate.take_held(); // no other generation continues this text
                }
                let Some(piece) = piece else { return Ok(None) };
                self.n_generated = generate.n_generated();
                Ok(Some(self.trimmed(&piece)))
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
        let mut generate = session.generate(Prompt::Tokens(&[]), sampler)?.max_tokens(self.max_tokens);
        for stop in &self.stops {
            generate = generate.stop(stop);
        }
        self.stage = Stage::Decode(Box::new(generate));
        Ok(())
    }

    /// The piece without white space at the start of the turn. What may be white space at its end
    /// is held back.
    fn trimmed(&mut self, piece: &Piece) -> Piece {
        let text = if self.text.is_empty() { piece.as_str().trim_start() } else { piece.as_str() };
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

/// How many of these tokens the session has yet to read, if all of them fit.
fn unread(session: &Session, tokens: &[TokenId]) -> Result<usize> {
    let (capacity, requested) = (session.capacity(), tokens.len());
    if requested > capacity {
        return Err(Error::from(ErrorKind::ContextFull { capacity, requested }));
    }
    Ok(requested - session.shared_prefix(tokens))
}
