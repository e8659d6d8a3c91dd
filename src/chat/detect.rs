//! Which layout a model file's template is: llama.cpp's name of one, or a Jinja text.
//!
//! Source: llama.cpp, for its names and the marks by which a text is detected.

use super::Template;
use super::layouts::{self, Item, Layout};

/// llama.cpp's names, which files may have in place of a Jinja text: those whose layouts are ours
/// byte for byte. Its `llama2`, `vicuna` and `zephyr` are near to ours of these names, and no more.
/// A space that its layouts have after a mark is SentencePiece's, which puts it there itself.
pub(super) const NAMES: [(&str, Template); 8] = [
    ("chatml", Template::ChatMl),
    ("granite", Template::Granite),
    ("llama3", Template::Llama3),
    ("mistral-v1", Template::Mistral),
    ("mistral-v3", Template::MistralV3),
    ("mistral-v3-tekken", Template::MistralV3Tekken),
    ("mistral-v7", Template::MistralV7),
    ("mistral-v7-tekken", Template::MistralV7),
];

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

/// Which template a Jinja text is, or is nearest to: if it isn't a published one, by the marks in
/// it. The first that fits is it.
pub(super) fn detect(jinja: &str) -> Option<Template> {
    let has = |mark: &str| jinja.contains(mark);
    if let Some(template) = published(jinja) {
        return Some(template);
    }
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
        Some(if has("Cutting Knowledge Date") { Template::Llama3_1 } else { Template::Llama3 })
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
        has_texts_of(&layouts::VICUNA_V0, jinja).then_some(Template::VicunaV0)
    } else if has("### User:") && has("### Assistant:") {
        has_texts_of(&layouts::STABLE_BELUGA, jinja).then_some(Template::StableBeluga)
    } else {
        None
    }
}

/// Published Jinja texts that a layout renders to the byte, by their [hashes](hash): in
/// conversations of a system prompt, which may be absent, and user and assistant turns, of which
/// the last is the user's. `tests/golden/layouts.py` makes what they are held to.
pub(super) const PUBLISHED: [(u64, Template); 31] = [
    (0xf344_eecf_1bd3_a427, Template::Llama2),           // Llama 2 Chat
    (0x54f7_4c2d_b3c2_b5b9, Template::Llama2),           // Code Llama Instruct
    (0x7489_1e39_0e61_4ae2, Template::Llama3),           // Llama 3
    (0x0e60_067a_5537_498e, Template::Llama3),           // Llama 3, as its makers changed it
    (0xcc03_68e1_ffb6_b958, Template::Llama3_1),         // Llama 3.1 and 3.3
    (0xa41d_6bae_9b91_41bc, Template::ChatMl),           // OpenHermes 2.5
    (0x88bf_4138_d5c8_26f0, Template::ChatMl),           // ChatML, as many models have it
    (0x773d_13e1_88af_c917, Template::ChatMl),           // Yi 34B Chat, Dolphin 2.5
    (0x17fd_e6ec_da9c_7c01, Template::ChatMl),           // the same with escapes
    (0x21dc_9ed0_6590_09cb, Template::ChatMl),           // Qwen3 Coder
    (0x45ec_583d_4d25_bc3a, Template::SmolLm2),          // SmolLM2
    (0x09b5_156a_5cf6_abfc, Template::SmolLm2),          // the same with escapes
    (0x8a87_094e_0e1e_24c5, Template::Qwen2),            // Qwen2
    (0x75e8_8977_b278_7cd7, Template::Qwen2),            // the same with escapes
    (0xe642_ce24_6d7f_2e3d, Template::Qwen2_5),          // Qwen2.5
    (0xb2a3_28a6_a8e4_d738, Template::Yi1_5),            // Yi 1.5
    (0x420f_cc29_f31a_339e, Template::Yi1_5),            // the same with escapes
    (0x46ea_c0bf_5c76_5c47, Template::Mistral0_2),       // Mistral 7B Instruct 0.2
    (0x8c73_4b90_b4f8_d84d, Template::Mixtral),          // Mixtral 8x7B, Mistral 7B 0.2
    (0xc730_acc0_29ce_6ee0, Template::Mistral0_1),       // Mistral 7B Instruct 0.1
    (0x2078_3e9d_9416_8233, Template::MistralNemo),      // Mistral Nemo 2407
    (0x2487_e6e7_9d63_45cf, Template::MistralLarge2407), // Mistral Large 2407
    (0xe4a9_cc59_4604_808a, Template::MistralLarge2411), // Mistral Large 2411
    (0xcd8b_4900_0db0_2c2c, Template::Zephyr),           // Zephyr 7B beta, TinyLlama 1.1B Chat
    (0x0af6_ea9c_f989_6e56, Template::Zephyr),           // the same with escapes
    (0xcf27_8cde_387a_54c8, Template::Phi3_5),           // Phi 3.5 mini
    (0x0f0e_2205_1160_bcb0, Template::Granite),          // Granite 3.0
    (0x8b59_b8db_8da0_61d0, Template::Granite4_0),       // Granite 4.0
    (0x0cab_cc19_a9f8_0029, Template::Granite4_1),       // Granite 4.1
    (0xc0bb_5de6_9aea_a2a7, Template::Solar),            // SOLAR 10.7B Instruct
    (0x6ec6_55e2_046b_33b1, Template::Solar),            // the same with escapes
];

/// The template that is known to render what a Jinja text does.
pub(super) fn published(jinja: &str) -> Option<Template> {
    let hash = hash(jinja);
    PUBLISHED.iter().find(|(known, _)| *known == hash).map(|&(_, template)| template)
}

/// FNV-1a of a Jinja text, without an end of line that isn't rendered: the text's last, and the
/// one after a block's tag.
fn hash(jinja: &str) -> u64 {
    let text = jinja.strip_suffix('\n').unwrap_or(jinja);
    let is_block = |text: &&str| text.ends_with("%}") && !text.ends_with("+%}");
    let text = text.strip_suffix('\n').filter(is_block).unwrap_or(text);
    let add = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, add)
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
            let Item::Text(text) = item else { return true };
            let after = text.trim_start_matches('\n');
            let between = &text[..text.len() - after.len()];
            // What ends without a line's end isn't that with one.
            let is_line = |rest: &str| is_last && !text.ends_with('\n') && rest.starts_with('\n');
            jinja.contains(between) && jinja.split(after).skip(1).any(|rest| !is_line(rest))
        })
    };
    stands(layout.before_user, false) && stands(layout.after_user, true)
}
