//! Chat templates: how a conversation is laid out for a model that was tuned on it.
//!
//! Invariant: a rendering keeps the tokens that steer the model apart from text, so that what a
//! user types can't become one of them: text is encoded as text, whatever it says.
//!
//! - here: a rendering by a layout
//! - `choice`: which template lays out a conversation
//! - `message`: what is said
//! - `layouts`: the layouts, as a table, and by what marks a file's Jinja text is detected
//! - `jinja`: a rendering by a file's Jinja text
//! - `literals`, `tags`: what such a text says literally, without running it
//! - `encode`: the tokens of a rendering
//!
//! Source: each template's is named beside it.

mod choice;
mod encode;
#[cfg(feature = "jinja")]
mod jinja;
mod layouts;
mod literals;
mod message;
mod tags;
#[cfg(test)]
mod tests;

pub use choice::ChatTemplate;
pub use encode::encode;
#[cfg(feature = "jinja")]
pub use jinja::{JinjaTemplate, Variables};
pub use message::{Message, Role};

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result, by_name};
use crate::tokenizer::Tokenizer;
use layouts::{Item, Layout};

/// Makes the templates of a list. A row is a template's documentation, its name and its layout.
macro_rules! templates {
    ($($(#[$doc:meta])* $name:ident = $layout:ident,)*) => {
        /// How a conversation is laid out.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Template {
            $($(#[$doc])* $name,)*
        }

        impl Template {
            /// All templates.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            fn layout(self) -> &'static Layout {
                match self {
                    $(Self::$name => &layouts::$layout,)*
                }
            }
        }
    };
}

templates! {
    /// Llama 2 Chat (arXiv 2307.09288, appendix A.3.3): `[INST] <<SYS>>...<</SYS>> user [/INST]
    /// assistant`.
    Llama2 = LLAMA2,
    /// Llama 3 and later: `<|start_header_id|>user<|end_header_id|>`.
    Llama3 = LLAMA3,
    /// `ChatML`: `<|im_start|>user`, of many models.
    ChatMl = CHATML,
    /// Mistral 7B Instruct 0.1 and 0.2: `[INST] user [/INST]` as text.
    Mistral = MISTRAL,
    /// Mistral 7B Instruct 0.3 and what shares its vocabulary: `[INST]` and `[/INST]` are tokens,
    /// without spaces around.
    MistralV3 = MISTRAL_V3,
    /// Mistral Large 2411 and Mistral Small 3: the system prompt stands between `[SYSTEM_PROMPT]`
    /// and `[/SYSTEM_PROMPT]`, and all four are tokens.
    MistralV7 = MISTRAL_V7,
    /// Zephyr and `TinyLlama` Chat: `<|user|>`.
    Zephyr = ZEPHYR,
    /// Vicuna 1.1 to 1.5: `USER: user ASSISTANT:`.
    Vicuna = VICUNA,
    /// Vicuna 1.0: `### Human: user` and `### Assistant:`.
    VicunaV0 = VICUNA_V0,
    /// Stable Beluga 1 and 2: `### User:` and `### Assistant:`, each on a line of its own.
    StableBeluga = STABLE_BELUGA,
    /// Alpaca: `### Instruction:` and `### Response:`.
    Alpaca = ALPACA,
}

/// A part of a rendered conversation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Part {
    /// Where the conversation begins: the token that begins a text, if the tokenizer puts it before
    /// prompts.
    Begin,
    /// The token that begins a text, between two rounds of user and assistant turns.
    Bos,
    /// The token that ends a text.
    Eos,
    /// The control token of this name, such as `<|im_start|>`; its text, if the vocabulary has no
    /// such token.
    Control(Cow<'static, str>),
    /// Text, never a control token.
    Text(String),
    /// Between two texts that aren't one: no piece of the vocabulary spans it.
    Cut,
}

impl Part {
    /// The control token of this name, which may come from a configuration.
    ///
    /// ```
    /// use babyllama::chat::Part;
    ///
    /// let name = format!("<|{}|>", "user");
    /// assert_eq!(Part::control(name), Part::control("<|user|>"));
    /// ```
    pub fn control(name: impl Into<Cow<'static, str>>) -> Self {
        Self::Control(name.into())
    }
}

impl Template {
    /// Its name at a command line, such as `llama2`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.layout().name
    }

    /// Detects a template by the marks in its Jinja text, which a GGUF file brings
    /// ([`Model::chat_template`](crate::Model::chat_template)).
    ///
    /// A file may have one of llama.cpp's names in place of a Jinja text: then it is the template
    /// of that name, if the layout here is llama.cpp's. Its `llama2`, `vicuna` and `zephyr` aren't.
    ///
    /// The Jinja text isn't run: what a file adds beside the layout, such as tools or today's date,
    /// is left out. For a system prompt when none is given see
    /// [`default_system`](Self::default_system).
    ///
    /// ```
    /// use babyllama::chat::Template;
    ///
    /// let jinja = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + ...";
    /// assert_eq!(Template::detect(jinja), Some(Template::ChatMl));
    /// assert_eq!(Template::detect("mistral-v3-tekken"), Some(Template::MistralV3));
    /// assert_eq!(Template::detect("{{ messages }}"), None);
    /// ```
    #[must_use]
    pub fn detect(jinja: &str) -> Option<Self> {
        layouts::detect(jinja)
    }

    /// The system prompt that a Jinja text has for a conversation without one, as `SmolLM2` does;
    /// `None` if it has none, or none that stands there as a literal.
    ///
    /// ```
    /// use babyllama::chat::Template;
    ///
    /// let jinja = r"{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}
    ///               {{ '<|im_start|>' + message['role'] ...";
    /// assert_eq!(Template::ChatMl.default_system(jinja).as_deref(), Some("Be kind."));
    /// ```
    #[must_use]
    pub fn default_system(self, jinja: &str) -> Option<String> {
        (self == Self::ChatMl).then(|| literals::chatml_system(jinja)).flatten()
    }

    /// The first words of a Jinja text that neither this template writes nor
    /// [`default_system`](Self::default_system) is: a system prompt of the file's own, or today's
    /// date. Errors and what only tools need don't count.
    ///
    /// ```
    /// use babyllama::chat::Template;
    ///
    /// let jinja = r"{{ 'A chat with a kind assistant. ' }}
    ///               {{ 'USER: ' + message['content'] + ' ASSISTANT:' }}";
    /// let left_out = Template::Vicuna.left_out(jinja);
    /// assert_eq!(left_out.as_deref(), Some("A chat with a kind assistant."));
    /// ```
    #[must_use]
    pub fn left_out(self, jinja: &str) -> Option<String> {
        let layout = self.layout();
        let written = [layout.system, layout.before_user, layout.after_user, layout.end];
        let own = written.into_iter().flatten().filter_map(|item| match item {
            Item::Mark(text) | Item::Text(text) => Some(text.trim()),
            _ => None,
        });
        let system = self.default_system(jinja);
        let written: Vec<&str> = system.as_deref().into_iter().chain(own).collect();
        literals::prose(jinja, &written)
    }

    /// Lays out a conversation. If its last message is the user's, up to where the assistant's turn
    /// begins.
    ///
    /// A system message belongs before the first user turn; a later one is ignored. The messages
    /// after it should be the user's and the assistant's by turns; what is missing is left out.
    ///
    /// ```
    /// use babyllama::chat::{Message, Part, Template};
    ///
    /// let messages = [Message::system("Be brief."), Message::user("Hello")];
    /// let parts = Template::Llama2.render(&messages);
    /// let text = "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHello [/INST]".to_string();
    /// assert_eq!(parts, [Part::Begin, Part::Text(text)]);
    /// ```
    #[must_use]
    pub fn render(self, messages: &[Message]) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut system = None;
        let mut n_user_turns = 0;
        for Message { role, content } in messages {
            match role {
                Role::System if n_user_turns == 0 => system = Some(content.as_str()),
                Role::System => {}
                Role::User => {
                    parts.extend(self.user_turn(n_user_turns == 0, system, content));
                    n_user_turns += 1;
                }
                Role::Assistant => {
                    let layout = self.layout();
                    let content = if layout.trims { content.trim() } else { content };
                    parts.push(Part::Text(format!("{}{content}", layout.before_assistant)));
                    parts.extend(self.turn_end());
                }
            }
        }
        joined(parts)
    }

    /// Lays out a user turn, up to where the assistant's begins. The system prompt goes with the
    /// first.
    fn user_turn(self, first: bool, system: Option<&str>, user: &str) -> Vec<Part> {
        let layout = self.layout();
        let system = system.filter(|system| first && !system.is_empty());
        let mut parts = Vec::new();
        let before = if first { &[Item::Begin] } else { layout.between };
        push(&mut parts, before, "");
        let (around, inside) = if layout.system_is_inside { (None, system) } else { (system, None) };
        if let Some(system) = around {
            push(&mut parts, layout.system, if layout.trims { system.trim() } else { system });
        }
        push(&mut parts, layout.before_user, "");
        if let Some(system) = inside {
            push(&mut parts, layout.system, system);
        }
        // As the templates trim them: a system prompt inside and what the user says are one text.
        let user = match (layout.trims, inside) {
            (true, None) => user.trim(),
            (true, Some(_)) => user.trim_end(),
            (false, _) => user,
        };
        parts.push(Part::Text(user.into()));
        push(&mut parts, layout.after_user, "");
        joined(parts)
    }

    /// Lays out the beginning of an assistant turn that the model is to go on from, to follow a
    /// user turn. Nothing for no words.
    ///
    /// ```
    /// use babyllama::chat::{Part, Template};
    ///
    /// assert_eq!(Template::Llama2.assistant_start("Once"), [Part::Text(" Once".into())]);
    /// ```
    #[must_use]
    pub fn assistant_start(self, words: &str) -> Vec<Part> {
        let text = if words.is_empty() {
            String::new()
        } else {
            format!("{}{words}", self.layout().before_assistant)
        };
        joined(vec![Part::Text(text)])
    }

    /// What ends an assistant turn.
    fn turn_end(self) -> Vec<Part> {
        let mut parts = Vec::new();
        push(&mut parts, self.layout().end, "");
        joined(parts)
    }

    /// The texts before which an assistant turn ends, for it to be generated with this tokenizer:
    /// where a template tells the turns apart by text alone, the end of one has no token of its
    /// own.
    #[must_use]
    pub fn stops(self, tokenizer: &Tokenizer) -> Vec<&'static str> {
        let Layout { stops, marks, .. } = self.layout();
        let missing = marks.iter().filter(|mark| tokenizer.control(mark).is_none());
        stops.iter().chain(missing).copied().collect()
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The template of this name, or of the name that llama.cpp has for it, such as
/// `mistral-v7-tekken`.
impl FromStr for Template {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match layouts::NAMES.iter().find(|(known, _)| *known == name) {
            Some(&(_, template)) => Ok(template),
            None => by_name("template", name, Self::ALL, Self::name),
        }
    }
}

/// Appends what a template says.
fn push(parts: &mut Vec<Part>, items: &[Item], content: &str) {
    parts.extend(items.iter().map(|item| match *item {
        Item::Begin => Part::Begin,
        Item::Bos => Part::Bos,
        Item::Eos => Part::Eos,
        Item::Mark(name) => Part::control(name),
        Item::Text(text) => Part::Text(text.into()),
        Item::Content => Part::Text(content.into()),
    }));
}

/// The same with adjacent texts joined and empty ones left out: a text's tokens depend on what
/// is beside it.
fn joined(parts: Vec<Part>) -> Vec<Part> {
    let mut joined: Vec<Part> = Vec::with_capacity(parts.len());
    for part in parts {
        match (joined.last_mut(), part) {
            (Some(Part::Text(before)), Part::Text(text)) => before.push_str(&text),
            (_, Part::Text(text)) if text.is_empty() => {}
            (_, part) => joined.push(part),
        }
    }
    joined
}
