//! The chat templates that a model's file brings.

use super::Model;
use crate::chat::{ChatTemplate, DEFAULT_TEMPLATE};
use crate::error::{ErrorKind, Result};

/// The name of the one for conversations with tools.
#[cfg(feature = "jinja")]
const TOOL_USE: &str = "tool_use";

impl Model {
    /// The template that the file brings for chats, in Jinja.
    #[must_use]
    pub fn chat_template(&self) -> Option<&str> {
        self.inner.chat_template.as_deref()
    }

    /// The templates that the file brings for special uses, such as tools: name and Jinja.
    #[must_use]
    pub fn named_chat_templates(&self) -> &[(String, String)] {
        &self.inner.named_templates
    }

    /// The names of all templates that the file brings; the one for chats, if it is there, is the
    /// first, `default`.
    #[must_use]
    pub fn chat_template_names(&self) -> Vec<&str> {
        let own = self.chat_template().map(|_| DEFAULT_TEMPLATE);
        let named = self.named_chat_templates().iter().map(|(name, _)| name.as_str());
        own.into_iter().chain(named.filter(|&name| own != Some(name))).collect()
    }

    /// The template of this name that the file brings, in Jinja.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidOption`] if there is none, with the names that there are.
    pub fn chat_template_named(&self, name: &str) -> Result<&str> {
        let own = self.chat_template().filter(|_| name == DEFAULT_TEMPLATE);
        let named = || self.named_chat_templates().iter().find(|(other, _)| other == name);
        own.or_else(|| named().map(|(_, text)| text.as_str())).ok_or_else(|| {
            let reason = match &self.chat_template_names()[..] {
                [] => "the model file has no templates".into(),
                names => format!("must be one of the model file's: {}", names.join(", ")),
            };
            ErrorKind::InvalidOption { name: "chat_template", value: name.into(), reason }.into()
        })
    }
}

impl ChatTemplate {
    /// The template that a model's file brings for chats. If it brings one named `tool_use` too,
    /// that is run whenever the variable `tools` is set, as `transformers` has it.
    ///
    /// # Errors
    /// [`ErrorKind::NoTokenizer`] if the model has none; [`ErrorKind::ChatTemplate`] if there is no
    /// template, or as [`of_file`](Self::of_file).
    pub fn of_model(model: &Model) -> Result<Self> {
        let tokenizer = model.tokenizer().ok_or(ErrorKind::NoTokenizer)?;
        let Ok(default) = model.chat_template_named(DEFAULT_TEMPLATE) else {
            let reason = match &model.chat_template_names()[..] {
                [] => "the model file has none".into(),
                names => format!("the model file has none that is the default, only {}", names.join(", ")),
            };
            return Err(ErrorKind::ChatTemplate { line: 1, reason }.into());
        };
        let template = Self::of_file(default, tokenizer)?;
        #[cfg(feature = "jinja")]
        if let (Self::Jinja(template), Ok(tool_use)) = (&template, model.chat_template_named(TOOL_USE)) {
            return Ok(template.clone().tool_use(tool_use).into());
        }
        Ok(template)
    }

    /// One of the templates that a model's file brings, by its name: see
    /// [`Model::chat_template_names`](crate::Model::chat_template_names).
    ///
    /// # Errors
    /// [`ErrorKind::NoTokenizer`] if the model has none; [`ErrorKind::InvalidOption`] if its file
    /// has no template of this name, with the names that it has; and as
    /// [`of_file`](Self::of_file).
    pub fn named(model: &Model, name: &str) -> Result<Self> {
        let tokenizer = model.tokenizer().ok_or(ErrorKind::NoTokenizer)?;
        Self::of_file(model.chat_template_named(name)?, tokenizer)
    }
}
