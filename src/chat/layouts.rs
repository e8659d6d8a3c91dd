//! The templates as data.
//!
//! Source: what each model's own code or Jinja text renders, named beside it. `tests/golden`
//! holds those that have a Jinja text to what jinja2 renders.

use Item::{Bos, Content, Eos, Mark, Text};

/// A piece of a template.
#[derive(Clone, Copy, Debug)]
pub(super) enum Item {
    /// Where a conversation begins.
    Begin,
    /// The token that begins a text.
    Bos,
    /// The token that ends a text.
    Eos,
    /// A control token, or its text.
    Mark(&'static str),
    /// Text.
    Text(&'static str),
    /// The system prompt.
    Content,
}

/// Where the system prompt stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SystemAt {
    /// Before the first user turn.
    Start,
    /// In the first user turn, after `before_user`.
    FirstTurn,
    /// In the last user turn, if it is what the assistant is to answer. So it moves as a
    /// conversation grows.
    LastTurn,
}

/// What loses white space at its start and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trims {
    Nothing,
    /// What the assistant says.
    Assistant,
    /// What anyone says, and a system prompt that stands at the start.
    All,
}

/// A template. A round is: `between` or the beginning, the system prompt, `before_user`, the
/// user turn, `after_user`, `before_assistant`, the assistant turn, `end`.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) name: &'static str,
    /// The system prompt with what stands around it. Nothing if it is refused.
    pub(super) system: &'static [Item],
    pub(super) system_at: SystemAt,
    /// The system prompt of a conversation without one, which may be empty.
    pub(super) default_system: Option<&'static str>,
    /// Whether an empty system prompt is one like any other. If not, it is none.
    pub(super) writes_empty_system: bool,
    /// What comes before each user turn except the first.
    pub(super) between: &'static [Item],
    pub(super) before_user: &'static [Item],
    pub(super) after_user: &'static [Item],
    /// The space before an assistant turn, which the model says itself.
    pub(super) before_assistant: &'static str,
    pub(super) end: &'static [Item],
    pub(super) trims: Trims,
    /// The texts that end an assistant turn.
    pub(super) stops: &'static [&'static str],
    /// The marks that end an assistant turn if the vocabulary lacks them, so that the model can
    /// only say them as text.
    pub(super) marks: &'static [&'static str],
}

/// Control tokens that templates have, which some files call user-defined.
pub(super) const MARKS: [&str; 20] = [
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "[INST]",
    "[/INST]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "<s>",
    "</s>",
    "<|endoftext|>",
    "<|end|>",
    "<|start_of_role|>",
    "<|end_of_role|>",
];

/// What most layouts have.
const PLAIN: Layout = Layout {
    name: "",
    system: &[],
    system_at: SystemAt::Start,
    default_system: None,
    writes_empty_system: true,
    between: &[],
    before_user: &[],
    after_user: &[],
    before_assistant: "",
    end: &[],
    trims: Trims::Nothing,
    stops: &[],
    marks: &[],
};

/// `generation.py` in Meta's llama repository, and the Jinja text of Llama 2 and Code Llama.
pub(super) const LLAMA2: Layout = Layout {
    name: "llama2",
    system: &[Text("<<SYS>>\n"), Content, Text("\n<</SYS>>\n\n")],
    system_at: SystemAt::FirstTurn,
    between: &[Bos],
    before_user: &[Text("[INST] ")],
    after_user: &[Text(" [/INST]")],
    before_assistant: " ",
    end: &[Text(" "), Eos],
    trims: Trims::All,
    ..PLAIN
};

/// `chat_format.py` in Meta's llama3 repository, the Jinja text of Llama 3, and llama.cpp's
/// `llama3`.
pub(super) const LLAMA3: Layout = Layout {
    name: "llama3",
    system: &[
        Mark("<|start_header_id|>"),
        Text("system"),
        Mark("<|end_header_id|>"),
        Text("\n\n"),
        Content,
        Mark("<|eot_id|>"),
    ],
    before_user: &[Mark("<|start_header_id|>"), Text("user"), Mark("<|end_header_id|>"), Text("\n\n")],
    after_user: &[
        Mark("<|eot_id|>"),
        Mark("<|start_header_id|>"),
        Text("assistant"),
        Mark("<|end_header_id|>"),
        Text("\n\n"),
    ],
    end: &[Mark("<|eot_id|>")],
    trims: Trims::All,
    marks: &["<|eot_id|>", "<|start_header_id|>"],
    ..PLAIN
};

/// The Jinja text of Llama 3.1 and 3.3. That of 3.2 has today's date in place of this one, which it
/// has too for programs without a clock.
pub(super) const LLAMA3_1: Layout = Layout {
    name: "llama3.1",
    system: &[
        Mark("<|start_header_id|>"),
        Text("system"),
        Mark("<|end_header_id|>"),
        Text("\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"),
        Content,
        Mark("<|eot_id|>"),
    ],
    default_system: Some(""),
    ..LLAMA3
};

/// `ChatML`, as in the Jinja text of `OpenHermes` 2.5 and Yi, and llama.cpp's `chatml`.
pub(super) const CHATML: Layout = Layout {
    name: "chatml",
    system: &[Mark("<|im_start|>"), Text("system\n"), Content, Mark("<|im_end|>"), Text("\n")],
    before_user: &[Mark("<|im_start|>"), Text("user\n")],
    after_user: &[Mark("<|im_end|>"), Text("\n"), Mark("<|im_start|>"), Text("assistant\n")],
    end: &[Mark("<|im_end|>"), Text("\n")],
    marks: &["<|im_end|>", "<|im_start|>"],
    ..PLAIN
};

/// The Jinja text of `SmolLM2`.
pub(super) const SMOLLM2: Layout = Layout {
    name: "smollm2",
    default_system: Some("You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
    ..CHATML
};

/// The Jinja text of Qwen2.
pub(super) const QWEN2: Layout =
    Layout { name: "qwen2", default_system: Some("You are a helpful assistant."), ..CHATML };

/// The Jinja text of Qwen2.5.
pub(super) const QWEN2_5: Layout = Layout {
    name: "qwen2.5",
    default_system: Some("You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
    ..CHATML
};

/// The Jinja text of Yi 1.5, whose system prompt has no marks around it.
pub(super) const YI1_5: Layout = Layout { name: "yi-1.5", system: &[Content], ..CHATML };

/// mistral-common, version 1 of its tokenizer, and llama.cpp's `mistral-v1`.
pub(super) const MISTRAL: Layout = Layout {
    name: "mistral",
    system: &[Content, Text("\n\n")],
    system_at: SystemAt::FirstTurn,
    before_user: &[Text("[INST] ")],
    after_user: &[Text(" [/INST]")],
    before_assistant: " ",
    end: &[Eos],
    ..PLAIN
};

/// The Jinja text of Mistral 7B Instruct 0.2.
pub(super) const MISTRAL0_2: Layout = Layout {
    name: "mistral-0.2",
    before_user: &[Text(" "), Mark("[INST]"), Text(" ")],
    after_user: &[Text(" "), Mark("[/INST]")],
    ..MISTRAL
};

/// The Jinja text of Mixtral 8x7B Instruct, and the first of Mistral 7B Instruct 0.2.
pub(super) const MIXTRAL: Layout = Layout {
    name: "mixtral",
    system: &[],
    before_user: &[Mark("[INST]"), Text(" ")],
    after_user: &[Text(" "), Mark("[/INST]")],
    before_assistant: "",
    ..MISTRAL
};

/// The Jinja text of Mistral 7B Instruct 0.1.
pub(super) const MISTRAL0_1: Layout = Layout { name: "mistral-0.1", end: &[Eos, Text(" ")], ..MIXTRAL };

/// llama.cpp's `mistral-v3`: mistral-common, version 3 of its tokenizer, except that there the
/// system prompt stands as in [`MISTRAL_NEMO`]. The space before a text is SentencePiece's.
pub(super) const MISTRAL_V3: Layout = Layout {
    name: "mistral-v3",
    before_user: &[Mark("[INST]")],
    after_user: &[Mark("[/INST]")],
    before_assistant: "",
    trims: Trims::Assistant,
    ..MISTRAL
};

/// llama.cpp's `mistral-v3-tekken`.
pub(super) const MISTRAL_V3_TEKKEN: Layout =
    Layout { name: "mistral-v3-tekken", trims: Trims::Nothing, ..MISTRAL_V3 };

/// The Jinja text of Mistral Nemo 2407: the system prompt goes with the question.
pub(super) const MISTRAL_NEMO: Layout =
    Layout { name: "mistral-nemo", system_at: SystemAt::LastTurn, ..MISTRAL_V3_TEKKEN };

/// The Jinja text of Mistral Large 2407: as Nemo's, with spaces.
pub(super) const MISTRAL_LARGE_2407: Layout = Layout {
    name: "mistral-large-2407",
    before_user: &[Mark("[INST]"), Text(" ")],
    before_assistant: " ",
    trims: Trims::Assistant,
    ..MISTRAL_NEMO
};

/// mistral-common, version 7 of its tokenizer, and llama.cpp's `mistral-v7` and
/// `mistral-v7-tekken`: spaces as in version 3.
pub(super) const MISTRAL_V7: Layout = Layout {
    name: "mistral-v7",
    system: &[Mark("[SYSTEM_PROMPT]"), Content, Mark("[/SYSTEM_PROMPT]")],
    system_at: SystemAt::Start,
    ..MISTRAL_V3_TEKKEN
};

/// The Jinja text of Mistral Large 2411: version 7, with spaces.
pub(super) const MISTRAL_LARGE_2411: Layout = Layout {
    name: "mistral-large-2411",
    system: &[Mark("[SYSTEM_PROMPT]"), Text(" "), Content, Mark("[/SYSTEM_PROMPT]")],
    before_user: &[Mark("[INST]"), Text(" ")],
    before_assistant: " ",
    ..MISTRAL_V7
};

/// The Jinja text of Zephyr 7B beta and `TinyLlama` 1.1B Chat.
pub(super) const ZEPHYR: Layout = Layout {
    name: "zephyr",
    system: &[Mark("<|system|>"), Text("\n"), Content, Eos, Text("\n")],
    before_user: &[Mark("<|user|>"), Text("\n")],
    after_user: &[Eos, Text("\n"), Mark("<|assistant|>"), Text("\n")],
    end: &[Eos, Text("\n")],
    marks: &["<|user|>"],
    ..PLAIN
};

/// The Jinja text of Phi 3.5 mini.
pub(super) const PHI3_5: Layout = Layout {
    name: "phi3.5",
    system: &[Mark("<|system|>"), Text("\n"), Content, Mark("<|end|>"), Text("\n")],
    writes_empty_system: false,
    before_user: &[Mark("<|user|>"), Text("\n")],
    after_user: &[Mark("<|end|>"), Text("\n"), Mark("<|assistant|>"), Text("\n")],
    end: &[Mark("<|end|>"), Text("\n")],
    marks: &["<|end|>", "<|user|>"],
    ..PLAIN
};

/// The Jinja text of Granite 3.0, and llama.cpp's `granite`.
pub(super) const GRANITE: Layout = Layout {
    name: "granite",
    system: &[
        Mark("<|start_of_role|>"),
        Text("system"),
        Mark("<|end_of_role|>"),
        Content,
        Mark("<|end_of_text|>"),
        Text("\n"),
    ],
    before_user: &[Mark("<|start_of_role|>"), Text("user"), Mark("<|end_of_role|>")],
    after_user: &[
        Mark("<|end_of_text|>"),
        Text("\n"),
        Mark("<|start_of_role|>"),
        Text("assistant"),
        Mark("<|end_of_role|>"),
    ],
    end: &[Mark("<|end_of_text|>"), Text("\n")],
    marks: &["<|end_of_text|>", "<|start_of_role|>"],
    ..PLAIN
};

/// The Jinja text of Granite 4.0.
pub(super) const GRANITE4_0: Layout = Layout {
    name: "granite-4.0",
    default_system: Some(
        "You are a helpful assistant. Please ensure responses are professional, accurate, and safe.",
    ),
    writes_empty_system: false,
    ..GRANITE
};

/// The Jinja text of Granite 4.1.
pub(super) const GRANITE4_1: Layout = Layout { name: "granite-4.1", writes_empty_system: false, ..GRANITE };

/// `FastChat`'s `vicuna_v1.1`.
pub(super) const VICUNA: Layout = Layout {
    name: "vicuna",
    system: &[Content, Text(" ")],
    writes_empty_system: false,
    before_user: &[Text("USER: ")],
    after_user: &[Text(" ASSISTANT:")],
    before_assistant: " ",
    end: &[Eos],
    stops: &["USER:"],
    ..PLAIN
};

/// `FastChat`'s `one_shot`.
pub(super) const VICUNA_V0: Layout = Layout {
    name: "vicuna-v0",
    system: &[Content, Text("\n")],
    writes_empty_system: false,
    before_user: &[Text("### Human: ")],
    after_user: &[Text("\n### Assistant:")],
    before_assistant: " ",
    end: &[Text("\n")],
    stops: &["### Human:"],
    ..PLAIN
};

/// The model card of Stable Beluga 2.
pub(super) const STABLE_BELUGA: Layout = Layout {
    name: "stable-beluga",
    system: &[Text("### System:\n"), Content, Text("\n\n")],
    writes_empty_system: false,
    before_user: &[Text("### User:\n")],
    after_user: &[Text("\n\n### Assistant:\n")],
    end: &[Text("\n\n")],
    stops: &["### User:"],
    ..PLAIN
};

/// The Jinja text of SOLAR 10.7B Instruct: nothing ends an assistant turn.
pub(super) const SOLAR: Layout = Layout { name: "solar", end: &[], ..STABLE_BELUGA };

/// Stanford Alpaca's prompt without its introduction, which is the system prompt.
pub(super) const ALPACA: Layout = Layout {
    name: "alpaca",
    system: &[Content, Text("\n\n")],
    writes_empty_system: false,
    before_user: &[Text("### Instruction:\n")],
    after_user: &[Text("\n\n### Response:\n")],
    end: &[Eos, Text("\n\n")],
    stops: &["### Instruction:"],
    ..PLAIN
};
