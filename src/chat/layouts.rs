//! The templates as data.
//!
//! Source: what each model's own code or Jinja text renders, and llama.cpp for how a Jinja text is
//! detected.

use super::Template;

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

/// A template. A round is: `between` or the beginning, the system prompt, `before_user`, the
/// user turn, `after_user`, `before_assistant`, the assistant turn, `end`.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) name: &'static str,
    /// The system prompt with what stands around it.
    pub(super) system: &'static [Item],
    /// The system prompt comes after `before_user`.
    pub(super) system_is_inside: bool,
    /// What comes before each user turn except the first.
    pub(super) between: &'static [Item],
    pub(super) before_user: &'static [Item],
    pub(super) after_user: &'static [Item],
    /// The space before an assistant turn, which the model says itself.
    pub(super) before_assistant: &'static str,
    pub(super) end: &'static [Item],
    /// Whether what people and the model say loses white space at its start and its end.
    pub(super) trims: bool,
    /// The texts that end an assistant turn.
    pub(super) stops: &'static [&'static str],
    /// The marks that end an assistant turn if the vocabulary lacks them, so that the model can
    /// only say them as text.
    pub(super) marks: &'static [&'static str],
}

/// Control tokens that templates have, which some files call user-defined.
pub(super) const MARKS: [&str; 17] = [
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
];

/// llama.cpp's names, which files may have in place of a Jinja text: those whose layouts are ours
/// byte for byte. Its `llama2`, `vicuna` and `zephyr` are near to ours of these names, and no more.
/// A layout of its that has a space after a mark is SentencePiece's, which puts that space there
/// itself: so `-tekken`, for tokenizers that don't, is no other.
pub(super) const NAMES: [(&str, Template); 7] = [
    ("chatml", Template::ChatMl),
    ("llama3", Template::Llama3),
    ("mistral-v1", Template::Mistral),
    ("mistral-v3", Template::MistralV3),
    ("mistral-v3-tekken", Template::MistralV3),
    ("mistral-v7", Template::MistralV7),
    ("mistral-v7-tekken", Template::MistralV7),
];

use Item::{Bos, Content, Eos, Mark, Text};

/// `generation.py` in Meta's llama repository.
pub(super) static LLAMA2: Layout = Layout {
    name: "llama2",
    system: &[Text("<<SYS>>\n"), Content, Text("\n<</SYS>>\n\n")],
    system_is_inside: true,
    between: &[Bos],
    before_user: &[Text("[INST] ")],
    after_user: &[Text(" [/INST]")],
    before_assistant: " ",
    end: &[Text(" "), Eos],
    trims: true,
    stops: &[],
    marks: &[],
};

/// `chat_format.py` in Meta's llama3 repository.
pub(super) static LLAMA3: Layout = Layout {
    name: "llama3",
    system: &[
        Mark("<|start_header_id|>"),
        Text("system"),
        Mark("<|end_header_id|>"),
        Text("\n\n"),
        Content,
        Mark("<|eot_id|>"),
    ],
    system_is_inside: false,
    between: &[],
    before_user: &[Mark("<|start_header_id|>"), Text("user"), Mark("<|end_header_id|>"), Text("\n\n")],
    after_user: &[
        Mark("<|eot_id|>"),
        Mark("<|start_header_id|>"),
        Text("assistant"),
        Mark("<|end_header_id|>"),
        Text("\n\n"),
    ],
    before_assistant: "",
    end: &[Mark("<|eot_id|>")],
    trims: true,
    stops: &[],
    marks: &["<|eot_id|>", "<|start_header_id|>"],
};

/// `ChatML`, as in the Jinja text of `OpenHermes` 2.5 and `SmolLM2`.
pub(super) static CHATML: Layout = Layout {
    name: "chatml",
    system: &[Mark("<|im_start|>"), Text("system\n"), Content, Mark("<|im_end|>"), Text("\n")],
    system_is_inside: false,
    between: &[],
    before_user: &[Mark("<|im_start|>"), Text("user\n")],
    after_user: &[Mark("<|im_end|>"), Text("\n"), Mark("<|im_start|>"), Text("assistant\n")],
    before_assistant: "",
    end: &[Mark("<|im_end|>"), Text("\n")],
    trims: false,
    stops: &[],
    marks: &["<|im_end|>", "<|im_start|>"],
};

/// mistral-common, version 1 of its tokenizer.
pub(super) static MISTRAL: Layout = Layout {
    name: "mistral",
    system: &[Content, Text("\n\n")],
    system_is_inside: true,
    between: &[],
    before_user: &[Text("[INST] ")],
    after_user: &[Text(" [/INST]")],
    before_assistant: " ",
    end: &[Eos],
    trims: false,
    stops: &[],
    marks: &[],
};

/// mistral-common, version 3 of its tokenizer: the space before a text is SentencePiece's.
pub(super) static MISTRAL_V3: Layout = Layout {
    name: "mistral-v3",
    system: &[Content, Text("\n\n")],
    system_is_inside: true,
    between: &[],
    before_user: &[Mark("[INST]")],
    after_user: &[Mark("[/INST]")],
    before_assistant: "",
    end: &[Eos],
    trims: false,
    stops: &[],
    marks: &[],
};

/// mistral-common, version 7 of its tokenizer: spaces as in version 3.
pub(super) static MISTRAL_V7: Layout = Layout {
    name: "mistral-v7",
    system: &[Mark("[SYSTEM_PROMPT]"), Content, Mark("[/SYSTEM_PROMPT]")],
    system_is_inside: false,
    between: &[],
    before_user: &[Mark("[INST]")],
    after_user: &[Mark("[/INST]")],
    before_assistant: "",
    end: &[Eos],
    trims: false,
    stops: &[],
    marks: &[],
};

/// The Jinja text of Zephyr 7B and `TinyLlama` 1.1B Chat.
pub(super) static ZEPHYR: Layout = Layout {
    name: "zephyr",
    system: &[Mark("<|system|>"), Text("\n"), Content, Eos, Text("\n")],
    system_is_inside: false,
    between: &[],
    before_user: &[Mark("<|user|>"), Text("\n")],
    after_user: &[Eos, Text("\n"), Mark("<|assistant|>"), Text("\n")],
    before_assistant: "",
    end: &[Eos, Text("\n")],
    trims: false,
    stops: &[],
    marks: &["<|user|>"],
};

/// `FastChat`'s `vicuna_v1.1`.
pub(super) static VICUNA: Layout = Layout {
    name: "vicuna",
    system: &[Content, Text(" ")],
    system_is_inside: false,
    between: &[],
    before_user: &[Text("USER: ")],
    after_user: &[Text(" ASSISTANT:")],
    before_assistant: " ",
    end: &[Eos],
    trims: false,
    stops: &["USER:"],
    marks: &[],
};

/// `FastChat`'s `one_shot`.
pub(super) static VICUNA_V0: Layout = Layout {
    name: "vicuna-v0",
    system: &[Content, Text("\n")],
    system_is_inside: false,
    between: &[],
    before_user: &[Text("### Human: ")],
    after_user: &[Text("\n### Assistant:")],
    before_assistant: " ",
    end: &[Text("\n")],
    trims: false,
    stops: &["### Human:"],
    marks: &[],
};

/// The model card of Stable Beluga 2.
pub(super) static STABLE_BELUGA: Layout = Layout {
    name: "stable-beluga",
    system: &[Text("### System:\n"), Content, Text("\n\n")],
    system_is_inside: false,
    between: &[],
    before_user: &[Text("### User:\n")],
    after_user: &[Text("\n\n### Assistant:\n")],
    before_assistant: "",
    end: &[Text("\n\n")],
    trims: false,
    stops: &["### User:"],
    marks: &[],
};

/// Stanford Alpaca's prompt without its introduction, which is the system prompt.
pub(super) static ALPACA: Layout = Layout {
    name: "alpaca",
    system: &[Content, Text("\n\n")],
    system_is_inside: false,
    between: &[],
    before_user: &[Text("### Instruction:\n")],
    after_user: &[Text("\n\n### Response:\n")],
    before_assistant: "",
    end: &[Eos, Text("\n\n")],
    trims: false,
    stops: &["### Instruction:"],
    marks: &[],
};

/// Marks, each of one family of templates.
const FAMILIES: [&str; 11] = [
    "<|im_start|>",
    "[INST]",
    "<|start_header_id|>",
    "<|header_start|>",
    "<|user|>",
    "<|start_of_role|>",
    "<start_of_turn>",
    "<|START_OF_TURN_TOKEN|>",
    "<\u{ff5c}User\u{ff5c}>",
    "GPT4 Correct User:",
    "[|user|]",
];

/// Which template a Jinja text is, by the marks in it. The first that fits is it.
pub(super) fn detect(jinja: &str) -> Option<Template> {
    let has = |mark: &str| jinja.contains(mark);
    if let Some((_, template)) = NAMES.iter().find(|(name, _)| *name == jinja.trim()) {
        return Some(*template);
    }
    // A text with the marks of two families is neither's.
    if FAMILIES.iter().filter(|mark| has(mark)).count() > 1 {
        return None;
    }
    // Phi 4 and SmolVLM use the same marks in another way.
    let is_other = |marks: &[&str]| marks.iter().any(|mark| has(mark));
    if has("<|im_start|>") {
        (!is_other(&["<|im_sep|>", "<end_of_utterance>"])).then_some(Template::ChatMl)
    } else if has("[INST]") {
        if has("[SYSTEM_PROMPT]") {
            None
        } else if has("<<SYS>>") {
            Some(Template::Llama2)
        } else if has(" [/INST]") {
            Some(Template::Mistral)
        } else {
            Some(Template::MistralV3)
        }
    } else if has("<|start_header_id|>") && has("<|end_header_id|>") {
        Some(Template::Llama3)
    } else if has("<|user|>") {
        // Zephyr ends a user turn with EOS. Falcon 3 has nothing there, and others another token.
        let user_turns =
            jinja.split("<|user|>").skip(1).map(|rest| rest.split("<|").next().unwrap_or_default());
        let mut ends = user_turns.filter(|rest| rest.contains("eos_token") || rest.contains("</s>"));
        (has("<|assistant|>") && ends.next().is_some()).then_some(Template::Zephyr)
    } else if has("USER:") && has("ASSISTANT:") {
        (!has("SYSTEM:")).then_some(Template::Vicuna)
    } else if has("### Instruction:") && has("### Response:") {
        (!has("<|EOT|>")).then_some(Template::Alpaca)
    } else if has("### Human:") && has("### Assistant:") {
        has_texts_of(&VICUNA_V0, jinja).then_some(Template::VicunaV0)
    } else if has("### User:") && has("### Assistant:") {
        has_texts_of(&STABLE_BELUGA, jinja).then_some(Template::StableBeluga)
    } else {
        None
    }
}

/// Hashes of the Jinja texts that the layout which is detected renders to the byte, in
/// conversations of a system prompt, which may be absent, and user and assistant turns.
const EXACT: [u64; 4] = [
    0xa41d_6bae_9b91_41bc, // OpenHermes 2.5
    0x88bf_4138_d5c8_26f0, // ChatML, as many models have it
    0x7489_1e39_0e61_4ae2, // Llama 3
    0x0e60_067a_5537_498e, // Llama 3, as its makers changed it
];

/// Whether the layout that is detected is known to render what a Jinja text does.
pub(super) fn is_rendered_exactly(jinja: &str) -> bool {
    // FNV-1a, of the text without white space around it.
    let hash = jinja
        .trim()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    EXACT.contains(&hash)
}

/// Whether a Jinja text begins a conversation with BOS.
pub(super) fn writes_bos(jinja: &str) -> bool {
    ["bos_token", "<|begin_of_text|>"].iter().any(|bos| jinja.contains(bos))
}

/// Whether a Jinja text has what the layout writes before and after a user turn: these families
/// have many dialects.
fn has_texts_of(layout: &Layout, jinja: &str) -> bool {
    let jinja = jinja.replace("\\n", "\n");
    let stands = |items: &[Item], is_last: bool| {
        items.iter().all(|item| {
            let Text(text) = item else { return true };
            let after = text.trim_start_matches('\n');
            let between = &text[..text.len() - after.len()];
            // What ends without a line's end isn't that with one.
            let is_line = |rest: &str| is_last && !text.ends_with('\n') && rest.starts_with('\n');
            jinja.contains(between) && jinja.split(after).skip(1).any(|rest| !is_line(rest))
        })
    };
    stands(layout.before_user, false) && stands(layout.after_user, true)
}
