use super::*;
use crate::error::TokenId;

mod golden;

/// A rendering as Jinja gives it: control tokens by their names.
fn text(template: Template, system: bool, turns: usize) -> String {
    let mut messages: Vec<_> = system.then(|| Message::system("S s")).into_iter().collect();
    for (question, answer) in [("Q1", "A1"), ("Q2", "A2"), ("Q3", "A3")].into_iter().take(turns) {
        messages.extend([Message::user(question), Message::assistant(answer)]);
    }
    messages.pop();
    template.render(&messages).into_iter().map(say).collect()
}

fn say(part: Part) -> String {
    match part {
        Part::Begin => "^".to_string(),
        Part::Bos => "<s>".into(),
        Part::Eos => "</s>".into(),
        Part::Control(name) => name.into_owned(),
        Part::Text(text) => text,
        Part::Cut => String::new(),
    }
}

#[test]
fn renderings_are_those_of_the_models_own_templates() {
    use Template::*;
    let cases: [(Template, &str, &str); 11] = [
        (
            Llama2,
            "^[INST] Q1 [/INST] A1 </s><s>[INST] Q2 [/INST] A2 </s><s>[INST] Q3 [/INST]",
            "^[INST] <<SYS>>\nS s\n<</SYS>>\n\nQ1 [/INST]",
        ),
        (
            Llama3,
            "^<|start_header_id|>user<|end_header_id|>\n\nQ1<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nA1<|eot_id|>\
             <|start_header_id|>user<|end_header_id|>\n\nQ2<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nA2<|eot_id|>\
             <|start_header_id|>user<|end_header_id|>\n\nQ3<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
            "^<|start_header_id|>system<|end_header_id|>\n\nS s<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nQ1<|eot_id|>\
             <|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        (
            ChatMl,
            "^<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n\
             <|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\nA2<|im_end|>\n\
             <|im_start|>user\nQ3<|im_end|>\n<|im_start|>assistant\n",
            "^<|im_start|>system\nS s<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            Mistral,
            "^[INST] Q1 [/INST] A1</s>[INST] Q2 [/INST] A2</s>[INST] Q3 [/INST]",
            "^[INST] S s\n\nQ1 [/INST]",
        ),
        (MistralV3, "^[INST]Q1[/INST]A1</s>[INST]Q2[/INST]A2</s>[INST]Q3[/INST]", "^[INST]S s\n\nQ1[/INST]"),
        (
            MistralV7,
            "^[INST]Q1[/INST]A1</s>[INST]Q2[/INST]A2</s>[INST]Q3[/INST]",
            "^[SYSTEM_PROMPT]S s[/SYSTEM_PROMPT][INST]Q1[/INST]",
        ),
        (
            Zephyr,
            "^<|user|>\nQ1</s>\n<|assistant|>\nA1</s>\n<|user|>\nQ2</s>\n<|assistant|>\nA2</s>\n<|user|>\nQ3</s>\n<|assistant|>\n",
            "^<|system|>\nS s</s>\n<|user|>\nQ1</s>\n<|assistant|>\n",
        ),
        (
            Vicuna,
            "^USER: Q1 ASSISTANT: A1</s>USER: Q2 ASSISTANT: A2</s>USER: Q3 ASSISTANT:",
            "^S s USER: Q1 ASSISTANT:",
        ),
        (
            VicunaV0,
            "^### Human: Q1\n### Assistant: A1\n### Human: Q2\n### Assistant: A2\n### Human: Q3\n### Assistant:",
            "^S s\n### Human: Q1\n### Assistant:",
        ),
        (
            StableBeluga,
            "^### User:\nQ1\n\n### Assistant:\nA1\n\n### User:\nQ2\n\n### Assistant:\nA2\n\n### User:\nQ3\n\n### Assistant:\n",
            "^### System:\nS s\n\n### User:\nQ1\n\n### Assistant:\n",
        ),
        (
            Alpaca,
            "^### Instruction:\nQ1\n\n### Response:\nA1</s>\n\n### Instruction:\nQ2\n\n### Response:\nA2</s>\n\n### Instruction:\nQ3\n\n### Response:\n",
            "^S s\n\n### Instruction:\nQ1\n\n### Response:\n",
        ),
    ];
    assert_eq!(cases.map(|case| case.0), Template::ALL[..11], "`golden` has the others");
    for (template, three, with_system) in cases {
        assert_eq!(text(template, false, 3), three, "{template}");
        assert_eq!(text(template, true, 1), with_system, "{template}");
        // Turns only grow a conversation.
        for turns in 1..3 {
            assert!(three.starts_with(&text(template, false, turns)), "{template}");
        }
        let rest = three.strip_prefix(&text(template, false, 1)).unwrap();
        assert_eq!(text(template, true, 3), with_system.to_string() + rest, "{template}");
        assert_eq!(template.name().parse::<Template>().unwrap(), template);
    }
}

#[test]
fn templates_are_detected_by_their_marks() {
    use Template::*;
    let cases = [
        (
            "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}",
            Some(ChatMl),
        ),
        ("'<|im_start|>user<|im_sep|>' + message['content'] + '<|im_end|>'", None),
        ("{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }} '<<SYS>>\\n'", Some(Llama2)),
        (
            "{{ '[INST] ' + message['content'] + ' [/INST]' }}{{ message['content'] + eos_token}}",
            Some(Mistral),
        ),
        ("{{- ' [INST] ' + system_message + '\\n\\n' + message['content'] + ' [/INST]' }}", Some(Mistral)),
        (
            "{{- \"[AVAILABLE_TOOLS] [\" }} {{- \"[INST] \" + message[\"content\"] + \"[/INST]\" }}",
            Some(MistralV3),
        ),
        ("'[SYSTEM_PROMPT] ' + message['content'] + '[/SYSTEM_PROMPT]' '[INST] '", None),
        ("'<|start_header_id|>' '<|end_header_id|>\\n\\nCutting Knowledge Date: ' + date", Some(Llama3_1)),
        (
            "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>'",
            Some(Llama3),
        ),
        ("{{ '<|user|>\\n' + message['content'] + eos_token }} {{ '<|assistant|>' }}", Some(Zephyr)),
        ("{{'<|user|>' + '\\n' + message['content'] + '<|end|>' + '\\n' + '<|assistant|>' + '\\n'}}", None),
        (
            "'<|user|>\\n' + message['content'] + '\\n' '<|assistant|>\\n' + message['content'] + eos_token",
            None,
        ),
        (
            "{{-'USER: ' + message['content'] + '\\n'-}} {{-'ASSISTANT: ' + message['content'] + '</s>\\n' -}}",
            Some(Vicuna),
        ),
        (
            "{{'### Instruction:\\n' + message['content'] + '\\n'}} {{'### Response:\\n' + '\\n<|EOT|>\\n'}}",
            None,
        ),
        ("{{ '### Instruction:\\n' + m + '\\n\\n' }} {{ '### Response:\\n' }}", Some(Alpaca)),
        ("'### Human: ' + m + '\\n' '### Assistant: '", Some(VicunaV0)),
        ("'### User:\\n' + m + '\\n\\n' '### Assistant:\\n'", Some(StableBeluga)),
        // Their dialects.
        ("{{ '### Human:\\n' + m + '\\n\\n' }}{{ '### Assistant:\\n' }}", None),
        ("{{ '### Human: ' + m + '\\n' }}{{ '### Assistant:\\n' }}", None),
        ("{{ '### User: ' + m + '\\n' }}{{ '### Assistant: ' }}", None),
        ("{{ '### User:\\n' + m + '\\n' }}{{ '### Assistant:\\n' }}", None),
        ("", None),
        // Marks of two families.
        ("'<|im_start|>' + m['role'] + '<|im_end|>' {# as '<|user|>' of others #}", None),
        ("'<|start_header_id|>' + m + '<|end_header_id|>' '<start_of_turn>'", None),
        // llama.cpp's names in place of Jinja.
        ("chatml", Some(ChatMl)),
        ("llama2", None),
        ("llama2-sys", None),
        ("llama2-sys-bos", None),
        ("llama2-sys-strip", None),
        ("llama3", Some(Llama3)),
        ("mistral-v1", Some(Mistral)),
        ("mistral-v3", Some(MistralV3)),
        ("mistral-v3-tekken", Some(MistralV3Tekken)),
        ("mistral-v7", Some(MistralV7)),
        ("mistral-v7-tekken\n", Some(MistralV7)),
        ("vicuna", None),
        ("zephyr", None),
        ("vicuna-orca", None),
        ("phi3", None),
    ];
    for (jinja, template) in cases {
        assert_eq!(Template::detect(jinja), template, "{jinja}");
    }
}

#[test]
fn default_system_prompt_is_a_literal_of_the_jinja_text() {
    let cases = [
        (
            "{{ '<|im_start|>system\nYou are SmolLM<|im_end|>\n' }}{{'<|im_start|>' + message['role']",
            Some("You are SmolLM"),
        ),
        (
            r"{{- '<|im_start|>system\n' }}{{- m + '<|im_end|>\n' }}{{- '<|im_start|>system\nYou help.<|im_end|>\n' }}",
            Some("You help."),
        ),
        (r"{{ '<|im_start|>system\n' + system + '<|im_end|>\n' }}", None),
        (r"{{ '<|im_start|>system\nYou\'re kind.<|im_end|>\n' }}", Some("You're kind.")),
        (r"{{ '<|im_start|>system\nYou\x27re kind.<|im_end|>\n' }}", None),
        (
            r"{% if x %}{% set s = m %}{% else %}{% set s = 'Be kind.' %}{% endif %}{{ '<|im_start|>system\n' + s + '<|im_end|>'}}",
            Some("Be kind."),
        ),
        (r"{% set s = 'A' %}{% set s = 'B' %}{{ '<|im_start|>system\n' + s + '<|im_end|>\n' }}", None),
        (r"{% set s = 'A' + b %}{{ '<|im_start|>system\n' + s + '<|im_end|>\n' }}", None),
        ("{{'<|im_start|>' + message['role']", None),
    ];
    for (jinja, system) in cases {
        assert_eq!(Template::ChatMl.default_system(jinja).as_deref(), system, "{jinja}");
        assert_eq!(Template::Llama2.default_system(jinja), None);
    }
}

mod tokens {
    use super::*;
    use crate::chat::encode::{cut, encode_whole};
    use crate::tokenizer::PieceKind;
    use crate::tokenizer::{PieceSpec, TokenizerSpec};

    /// Bytes as pieces, and the marks as pieces of this kind.
    pub(super) fn tokenizer(kind: PieceKind) -> Tokenizer {
        tokenizer_with(kind, true)
    }

    fn tokenizer_with(kind: PieceKind, add_bos: bool) -> Tokenizer {
        let bytes: Vec<String> = (0..256).map(|byte| format!("<0x{byte:02X}>")).collect();
        let mut names =
            vec![("<unk>", PieceKind::Unknown), ("<s>", PieceKind::Control), ("</s>", PieceKind::Control)];
        names.extend(bytes.iter().map(|byte| (byte.as_str(), PieceKind::Byte)));
        names.extend(layouts::MARKS.iter().filter(|mark| !mark.ends_with("s>")).map(|&mark| (mark, kind)));
        let piece =
            |(text, kind): (&'static str, _)| PieceSpec { text: text.as_bytes().into(), score: 0.0, kind };
        let leak = |text: &str| -> &'static str { Box::leak(text.to_string().into_boxed_str()) };
        let pieces = names.into_iter().map(|(text, kind)| piece((leak(text), kind))).collect();
        Tokenizer::from_spec(&TokenizerSpec {
            pieces,
            bos: Some(1),
            eos: Some(2),
            unk: Some(0),
            add_bos: Some(add_bos),
            ..TokenizerSpec::default()
        })
        .unwrap()
    }

    #[test]
    fn bos_is_there_once_if_the_tokenizer_or_the_template_puts_it_there() {
        let (with, without) = (
            "{{ bos_token }}{{ '<|start_header_id|>' }}{{ '<|end_header_id|>' }}",
            "{{ '<|start_header_id|>' }}{{ '<|end_header_id|>' }}",
        );
        for (add_bos, template, jinja, expected) in [
            (true, Template::Llama3, Some(with), 1),
            (true, Template::Llama3, Some(without), 1),
            (true, Template::Llama3, None, 1),
            (false, Template::Llama3, Some(with), 1),
            (false, Template::Llama3, Some(without), 0),
            (false, Template::Llama3, Some("llama3"), 0),
            (false, Template::Llama3, None, 0),
            // Another template was chosen than the file's.
            (false, Template::ChatMl, Some(with), 0),
        ] {
            let tokenizer = tokenizer_with(PieceKind::Control, add_bos);
            let parts = template.render(&[Message::user("<s>q")]);
            let tokens = encode_whole(parts, template, jinja, &tokenizer).unwrap();
            assert_eq!(tokens.iter().filter(|&&token| token == 1).count(), expected, "{add_bos} {jinja:?}");
            assert_eq!(tokens.starts_with(&[1]), expected == 1);
        }
    }

    #[test]
    fn a_text_is_cut_in_each_mark_and_nowhere_else() {
        let marks = ["<|user|>", "<s>", "[INST]"];
        assert_eq!(cut("", &marks), Vec::<&str>::new());
        assert_eq!(cut("a<s>b", &marks), ["a<", "s>b"]);
        assert_eq!(cut("<<s>[INST]<|user|", &marks), ["<<", "s>[", "INST]<|user|"]);
        assert_eq!(cut("<s><s><s>", &marks), ["<", "s><", "s><", "s>"]);
        assert_eq!(cut("<s>", &[]), ["<s>"]);
        for mark in layouts::MARKS {
            assert_eq!(cut(&format!("\u{e9}{mark}"), &layouts::MARKS)[1..], [&mark[1..]], "{mark}");
        }
    }

    #[test]
    fn text_of_a_user_never_becomes_a_control_token() {
        for kind in [PieceKind::Control, PieceKind::UserDefined] {
            let tokenizer = tokenizer(kind);
            let steers =
                |tokens: &[TokenId]| tokens.iter().filter(|&&t| t == 1 || t == 2 || t >= 259).count();
            for &template in Template::ALL {
                let honest = encode(&template.user_turn(true, Some("s"), "q"), &tokenizer).unwrap();
                for mark in layouts::MARKS {
                    let forged = format!("a{mark}b{mark}{mark}<<{mark}");
                    let parts = template.user_turn(true, Some(&forged), &forged);
                    let tokens = encode(&parts, &tokenizer).unwrap();
                    assert_eq!(steers(&tokens), steers(&honest), "{template} {mark} {kind:?}");
                }
            }
        }
    }

    #[test]
    fn mark_that_is_no_token_is_text_and_stops_an_answer() {
        let tokenizer = tokenizer(PieceKind::Normal);
        let tokens = encode(&Template::Llama3.user_turn(true, None, "q"), &tokenizer).unwrap();
        assert!(tokens.iter().skip(1).all(|&token| token > 2));
        assert!(Template::Llama3.stops(&tokenizer).contains(&"<|start_header_id|>"));
        assert_eq!(Template::Vicuna.stops(&tokenizer), ["USER:"]);
    }
}
