//! Chat templates: how a conversation is laid out for a model that was tuned on it.
//!
//! Invariant: a rendering keeps the tokens that steer the model apart from text, so that what a
//! user types can't become one of them: text is encoded as text, whatever it says.
//!
//! - here: a rendering by a layout
//! - `choice`: which template lays out a conversation
//! - `message`: what is said
//! - `layouts`: the layouts, as a table
//! - `detect`: which of them a file's template is
//! - `jinja`: a rendering by a file's Jinja text
//! - `literals`, `tags`: what such a text says literally, without running it
//! - `encode`: the tokens of a rendering
//!
//! Source: each template's is named beside it.

mod choice;
mod detect;
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
pub(crate) use choice::DEFAULT as DEFAULT_TEMPLATE;
pub use encode::encode;
#[cfg(feature = "jinja")]
pub use jinja::{JinjaTemplate, Variables};
pub use message::{Message, Role};

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result, by_name};
use crate::tokenizer::Tokenizer;
use layouts::{Item, Layout, SystemAt, Trims};

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
    /// Llama 3: `<|start_header_id|>user<|end_header_id|>`.
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
    /// Llama 3.1 and 3.3: as Llama 3, after the dates that their makers put before a system prompt.
    /// Llama 3.2 tells the model today's date, and this 26 Jul 2024: that is what 3.2 says too in
    /// a program without a clock.
    Llama3_1 = LLAMA3_1,
    /// `SmolLM2`: `ChatML` with its makers' system prompt, if there is no other.
    SmolLm2 = SMOLLM2,
    /// Qwen2: `ChatML` with its makers' system prompt, if there is no other.
    Qwen2 = QWEN2,
    /// Qwen2.5: `ChatML` with its makers' system prompt, if there is no other.
    Qwen2_5 = QWEN2_5,
    /// Yi 1.5: `ChatML`, with a system prompt that has no marks around it.
    Yi1_5 = YI1_5,
    /// Mistral 7B Instruct 0.2: as [`Mistral`](Self::Mistral), with the spaces of its Jinja text.
    Mistral0_2 = MISTRAL0_2,
    /// Mixtral 8x7B Instruct: as [`Mistral`](Self::Mistral), with the spaces of its Jinja text, and
    /// without a system prompt.
    Mixtral = MIXTRAL,
    /// Mistral 7B Instruct 0.1: as [`Mixtral`](Self::Mixtral), with a space after each round.
    Mistral0_1 = MISTRAL0_1,
    /// As [`MistralV3`](Self::MistralV3), but an assistant turn keeps white space around it.
    MistralV3Tekken = MISTRAL_V3_TEKKEN,
    /// Mistral Nemo 2407: as [`MistralV3Tekken`](Self::MistralV3Tekken), but the system prompt
    /// stands in the last user turn.
    MistralNemo = MISTRAL_NEMO,
    /// Mistral Large 2407: as [`MistralNemo`](Self::MistralNemo), with the spaces of its Jinja
    /// text.
    MistralLarge2407 = MISTRAL_LARGE_2407,
    /// Mistral Large 2411: as [`MistralV7`](Self::MistralV7), with the spaces of its Jinja text.
    MistralLarge2411 = MISTRAL_LARGE_2411,
    /// Phi 3.5 mini: `<|user|>` and `<|end|>`.
    Phi3_5 = PHI3_5,
    /// Granite 3.0: `<|start_of_role|>user<|end_of_role|>`.
    Granite = GRANITE,
    /// Granite 4.0: as [`Granite`](Self::Granite), with its makers' system prompt if there is no
    /// other.
    Granite4_0 = GRANITE4_0,
    /// Granite 4.1: as [`Granite`](Self::Granite), with an empty system prompt left out.
    Granite4_1 = GRANITE4_1,
    /// SOLAR 10.7B Instruct: as [`StableBeluga`](Self::StableBeluga), with nothing after an
    /// assistant turn.
    Solar = SOLAR,
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

    /// The template of a Jinja text, which a GGUF file brings
    /// ([`Model::chat_template`](crate::Model::chat_template)): the one that renders the same if it
    /// is a [published](Self::published) text, or else the one that has the same marks, and may
    /// differ.
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
    /// assert_eq!(Template::detect("mistral-v7-tekken"), Some(Template::MistralV7));
    /// assert_eq!(Template::detect("{{ messages }}"), None);
    /// ```
    #[must_use]
    pub fn detect(jinja: &str) -> Option<Self> {
        detect::detect(jinja)
    }

    /// The template that renders what a Jinja text does, to the byte: for some published texts, of
    /// which no character may be another. `None` says only that none is known to.
    ///
    /// That is in conversations without tools: a system prompt, which may be absent, and user and
    /// assistant turns, of which the last is the user's.
    ///
    /// ```
    /// use babyllama::chat::Template;
    ///
    /// let jinja = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + \
    ///              message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if \
    ///              add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
    /// assert_eq!(Template::published(jinja), Some(Template::ChatMl));
    /// let spaced = jinja.replace("}}{%", "}} {%");
    /// assert_eq!(Template::published(&spaced), None);
    /// assert_eq!(Template::detect(&spaced), Some(Template::ChatMl));
    /// ```
    #[must_use]
    pub fn published(jinja: &str) -> Option<Self> {
        detect::published(jinja)
    }

    /// The system prompt that a Jinja text has for a conversation without one, as `SmolLM2` does;
    /// `None` if it has none, or none that stands there as a literal. Some templates here have one
    /// of their own, which [`render`](Self::render) writes.
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
        let of_layout = layout.default_system.filter(|system| !system.is_empty());
        let own = written.into_iter().flatten().filter_map(|item| match item {
            Item::Mark(text) | Item::Text(text) => Some(text.trim()),
            _ => None,
        });
        let system = self.default_system(jinja);
        let written: Vec<&str> = system.as_deref().into_iter().chain(of_layout).chain(own).collect();
        literals::prose(jinja, &written)
    }

    /// Whether a conversation may have a system prompt. If not, [`render`](Self::render) leaves it
    /// out, and a [`Chat`](crate::Chat) refuses it, as the model's own text does.
    #[must_use]
    pub fn takes_system(self) -> bool {
        !self.layout().system.is_empty()
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
        let layout = self.layout();
        let n_user_turns = messages.iter().filter(|message| message.role == Role::User).count();
        let is_asked = messages.last().is_some_and(|message| message.role == Role::User);
        let mut parts = Vec::new();
        let mut system = layout.default_system;
        let mut i = 0; // of a user turn
        for Message { role, content } in messages {
            match role {
                Role::System if i == 0 => {
                    let is_written = layout.writes_empty_system || !content.is_empty();
                    system = if is_written { Some(content) } else { layout.default_system };
                }
                Role::System => {}
                Role::User => {
                    let is_its = match layout.system_at {
                        SystemAt::Start | SystemAt::FirstTurn => i == 0,
                        SystemAt::LastTurn => is_asked && i + 1 == n_user_turns,
                    };
                    parts.extend(self.user_turn(i == 0, system.filter(|_| is_its), content));
                    i += 1;
                }
                Role::Assistant => {
                    let content = if layout.trims == Trims::Nothing { content } else { trimmed(content) };
                    parts.push(Part::Text(format!("{}{content}", layout.before_assistant)));
                    parts.extend(self.turn_end());
                }
            }
        }
        joined(parts)
    }

    /// Lays out a user turn, up to where the assistant's begins, with the system prompt that goes
    /// with it.
    fn user_turn(self, is_first: bool, system: Option<&str>, user: &str) -> Vec<Part> {
        let layout = self.layout();
        let mut parts = Vec::new();
        push(&mut parts, if is_first { &[Item::Begin] } else { layout.between }, "");
        let is_before = layout.system_at == SystemAt::Start;
        if let Some(system) = system.filter(|_| is_before) {
            push(
                &mut parts,
                layout.system,
                if layout.trims == Trims::All { trimmed(system) } else { system },
            );
        }
        push(&mut parts, layout.before_user, "");
        // A system prompt inside and what the user says are one text.
        let mut said = Vec::new();
        if let Some(system) = system.filter(|_| !is_before) {
            push(&mut said, layout.system, system);
        }
        said.push(Part::Text(user.into()));
        let mut said = joined(said);
        if let ([Part::Text(text)], Trims::All) = (&mut said[..], layout.trims) {
            *text = trimmed(text).to_owned();
        }
        parts.extend(said);
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
        match detect::NAMES.iter().find(|(known, _)| *known == name) {
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

/// The text without white space around it, as Python sees it.
fn trimmed(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c))
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
