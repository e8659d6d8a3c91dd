//! A conversation: user and assistant turns in one session, which reads only what is new.
//!
//! Invariant: when an assistant turn begins, the session has read exactly the conversation up to
//! there as the template renders it, whatever it had read before and however the conversation came
//! about. It keeps the longest prefix of that which it has read already, so the conversation needs
//! no record of what the session has read. A user turn changes nothing until all of it has been
//! read.
//!
//! - here: the conversation
//! - `answer`: an assistant turn, piece by piece
//! - `context`: what becomes of a conversation that no longer fits its context

mod answer;
mod context;

pub use answer::Answer;
pub use context::ContextPolicy;
use context::n_system;

use crate::chat::{ChatTemplate, Message, Role};
use crate::error::{ErrorKind, Result};
use crate::sampler::Sampler;
use crate::session::Session;

/// A conversation over a [`Session`].
///
/// ```
/// use babyllama::chat::Template;
/// use babyllama::{Chat, Model, Sampler, SamplerOptions};
///
/// # fn main() -> Result<(), babyllama::Error> {
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf");
/// let model = Model::open(path)?;
/// let mut chat = match model.chat_template() {
///     Some(_) => Chat::with_own_template(model.session())?,
///     None => Chat::new(model.session(), Template::Llama2)?,
/// };
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
    template: ChatTemplate,
    stops: Vec<String>,
    policy: ContextPolicy,
    messages: Vec<Message>,
}

impl Chat {
    /// A new conversation. What the session has read is kept as far as the conversation begins with
    /// it.
    ///
    /// # Errors
    /// [`ErrorKind::NoTokenizer`] if the session's model has none.
    pub fn new(session: Session, template: impl Into<ChatTemplate>) -> Result<Self> {
        session.model().tokenizer().ok_or(ErrorKind::NoTokenizer)?;
        let (template, policy) = (template.into(), ContextPolicy::default());
        Ok(Self { session, template, stops: Vec::new(), policy, messages: Vec::new() })
    }

    /// A new conversation with the template that the model file brings: see
    /// [`ChatTemplate::of_model`].
    ///
    /// # Errors
    /// [`ErrorKind::NoTokenizer`] if the session's model has none; [`ErrorKind::ChatTemplate`] if
    /// its file has no template, or one that can't be run.
    pub fn with_own_template(session: Session) -> Result<Self> {
        let template = ChatTemplate::of_model(session.model())?;
        Self::new(session, template)
    }

    /// Ends each assistant turn before this text would come up, as the template's own stops do. May
    /// be given several times.
    #[must_use]
    pub fn stop(mut self, text: impl Into<String>) -> Self {
        self.stops.push(text.into());
        self
    }

    /// What to do when the conversation no longer fits the context. The default is to refuse the
    /// user turn.
    ///
    /// What is dropped is gone from [`messages`](Self::messages) when the assistant turn begins:
    /// these are always what the model sees, so what is saved, taken back or regenerated later is
    /// that. [`Answer::dropped`] has the others.
    ///
    /// ```
    /// # use babyllama::{Chat, Model, Sampler, SamplerOptions, SessionOptions, chat::Template};
    /// use babyllama::ContextPolicy;
    ///
    /// # fn main() -> babyllama::Result<()> {
    /// # let model = Model::open(concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf"))?;
    /// # let mut sampler = Sampler::new(SamplerOptions::default());
    /// let session = model.session_with(SessionOptions::new().context_length(128));
    /// let policy = ContextPolicy::DropOldest { reserve: 20 };
    /// let mut chat = Chat::new(session, Template::Llama2)?.context_policy(policy);
    /// let mut history = Vec::new();
    /// for _ in 0..9 {
    ///     let mut answer = chat.ask("Who is Lily?", &mut sampler)?.max_tokens(20);
    ///     answer.by_ref().for_each(|piece| drop(piece.unwrap()));
    ///     history.extend_from_slice(answer.dropped());
    /// }
    /// assert!(!history.is_empty());
    /// assert_eq!(history.len() + chat.messages().len(), 18);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn context_policy(mut self, policy: ContextPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// The template.
    #[must_use]
    pub fn template(&self) -> &ChatTemplate {
        &self.template
    }

    /// The template, to be changed: before the next assistant turn the session reads the
    /// conversation again from where it differs.
    pub fn template_mut(&mut self) -> &mut ChatTemplate {
        &mut self.template
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

    /// The messages: the system prompt if there is one, then user and assistant turns. Those that
    /// the [context policy](Self::context_policy) dropped aren't among them.
    #[must_use]
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// The system prompt.
    #[must_use]
    pub fn system(&self) -> Option<&str> {
        let system = self.messages[..n_system(&self.messages)].first();
        system.map(|message| message.content.as_str())
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
    /// it hasn't read. It may be longer than the context, if the
    /// [context policy](Self::context_policy) drops messages.
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
        let alternates =
            |(i, message): (usize, &Message)| message.role == [Role::User, Role::Assistant][i % 2];
        let turns = &messages[n_system(&messages)..];
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
        self.messages.truncate(n_system(&self.messages));
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
        let file = model.chat_template();
        if let Ok(tokens) = self.template.tokens(&self.messages, "", file, model.tokenizer()?) {
            self.session.keep_prefix(&tokens);
        }
        Some([user, assistant])
    }

    /// Adds a user turn. The assistant turn comes piece by piece: see [`Answer`]. The sampler's
    /// penalties count the tokens of this conversation, and no others.
    ///
    /// # Errors
    /// [`ErrorKind::ContextFull`] if the user turn doesn't fit the session, even after what the
    /// [context policy](Self::context_policy) drops;
    /// [`ErrorKind::Tokenizer`] if the tokenizer lacks a token that the template needs;
    /// [`ErrorKind::ConversationRefused`] and [`ErrorKind::ChatTemplate`] from a model file's own
    /// template. The conversation is unchanged then.
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
