//! `chat` in a pipe.

use babyllama::chat::Template;
use babyllama::{Chat, ContextPolicy, Model, ModelOptions, Sampler, SamplerOptions};

use crate::common::gguf::Value;
use crate::common::{BUNDLED, TempFile, assert_says};
use crate::{babyllama, fails, rambler, stderr, stdout, text, with_input, with_keys};

/// What the library makes of a conversation: each answer on a line.
fn conversation(
    model: &Model,
    system: Option<&str>,
    questions: &[&str],
    max_tokens: usize,
    options: SamplerOptions,
) -> String {
    let mut sampler = Sampler::new(options);
    let mut chat = Chat::new(model.session(), Template::Llama2).unwrap();
    chat.set_system(system);
    let mut answers = String::new();
    for question in questions {
        let answer = chat.ask(question, &mut sampler).unwrap().max_tokens(max_tokens);
        answer.for_each(|piece| answers += piece.unwrap().as_str());
        answers.push('\n');
    }
    answers
}

#[test]
fn chat_answers_as_the_library_does() {
    let model = Model::open(BUNDLED).unwrap();
    let questions = ["Who is Lily?", "And  Tom?", "Why?"];
    let input = b"Who is Lily?\n\n  And  Tom?\r\nWhy?"; // an empty line is no question
    let drawn = (211, 1.0, None, 120);
    for (seed, temperature, system, max_tokens) in [(1, 0.0, None, 5), (1, 0.0, Some("Be brief."), 5), drawn]
    {
        let (t, s, n) = (temperature.to_string(), seed.to_string(), max_tokens.to_string());
        let mut args = vec!["chat", BUNDLED, "--template", "llama2", "-t", &t, "-s", &s, "-n", &n];
        args.extend(system.into_iter().flat_map(|system| ["-y", system]));
        let output = with_input(&args, input);
        let options = SamplerOptions::new().temperature(temperature).top_p(1.0).min_p(0.05).seed(seed);
        assert_eq!(stdout(&output), conversation(&model, system, &questions, max_tokens, options));
        assert!(stderr(&output).starts_with("prompt: "), "no prompts in a pipe: {}", stderr(&output));
    }
}

/// How `chat` samples: as the command line says, or else as the file does, or else in its own way.
#[test]
fn chat_honors_the_defaults_of_the_file_unless_others_are_given() {
    let mut file = with_keys(&[]);
    let chat = |file: &TempFile, options: &[&str]| {
        let args = ["chat", file.text(), "-z", BUNDLED, "--template", "llama2", "-s", "7", "-n", "30"];
        let output = with_input(&[&args[..], options].concat(), b"Hello\n");
        (stdout(&output), stderr(&output))
    };
    let plain = TempFile::new("plain.gguf", &file.to_bytes());
    file.set("general.sampling.temp", Value::F32(2.0)).set("general.sampling.top_k", Value::I32(5));
    let said = TempFile::new("said.gguf", &file.to_bytes());
    let by_file = chat(&said, &[]).0;
    assert_eq!(by_file, chat(&plain, &["-t", "2", "-k", "5"]).0);
    assert_ne!(by_file, chat(&plain, &[]).0);
    assert_eq!(chat(&said, &["-t", "0.3"]).0, chat(&plain, &["-t", "0.3", "-k", "5"]).0);
    assert_eq!(chat(&plain, &[]).0, chat(&plain, &["-t", "0.7", "--min-p", "0.05", "-p", "1"]).0);
    // `run` keeps its own.
    let run = |file: &TempFile| babyllama(&["run", file.text(), "-z", BUNDLED, "-s", "7", "-n", "30"]);
    assert_eq!(stdout(&run(&said)), stdout(&run(&plain)));
    // What can't be honored is said, and doesn't count.
    file.set("general.sampling.temp", Value::F32(f32::NAN)).set("general.sampling.top_k", Value::I32(0));
    let senseless = TempFile::new("senseless.gguf", &file.to_bytes());
    let (text, note) = chat(&senseless, &[]);
    assert_eq!(text, chat(&plain, &[]).0);
    assert_says(&note, &["general.sampling.temp", "NaN"]);
}

#[test]
fn chat_says_that_the_context_is_full() {
    let model = rambler();
    let args = ["chat", model.text(), "-z", BUNDLED, "-t", "0", "--template", "llama2"];
    let output = with_input(&args, b"Hello\n");
    assert!(!stdout(&output).trim().is_empty());
    assert_says(&stderr(&output), &["[the context is full, 64 tokens"]);
    let refusing = [&args[..], &["--context-policy", "refuse"]].concat();
    let output = with_input(&refusing, b"Hello\nAre you there?\n");
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert_says(&message, &["error: the context is full: it holds 64 tokens, 64 are used"]);
    let long = "Hello ".repeat(100);
    fails(&with_input(&refusing, &long), 1, &["it holds 64 tokens, 0 are used"]);
    fails(
        &with_input(&args, &long),
        1,
        &["the context holds 64 tokens, and this message takes 316 even without"],
    );
}

#[test]
fn chat_forgets_the_oldest_messages_and_says_so() {
    let model = rambler();
    let folder = TempFile::new("x", b"");
    let saved = folder.beside("saved");
    let args = ["chat", model.text(), "-z", BUNDLED, "-t", "0", "--template", "vicuna", "-n", "9"];
    let questions = ["Hello", "Are you there?", "Why?", "Lily", "And Tom?", "Who?", "Hello"];
    let output = with_input(&args, questions.join("\n"));
    let (replies, notes) = (stdout(&output), stderr(&output));

    let model = Model::open_with(model.path(), &ModelOptions::new().tokenizer_path(BUNDLED)).unwrap();
    let mut chat = Chat::new(model.session(), Template::Vicuna).unwrap();
    chat = chat.context_policy(ContextPolicy::DropOldest { reserve: 9 });
    let mut sampler = Sampler::new(SamplerOptions::new().temperature(0.0));
    let (mut expected, mut expected_notes) = (String::new(), Vec::new());
    for question in questions {
        let mut answer = chat.ask(question, &mut sampler).unwrap().max_tokens(9);
        answer.by_ref().for_each(|piece| drop(piece.unwrap()));
        let hidden = |c: char| c.is_control() && !matches!(c, '\t'..='\r');
        expected += &format!("{}\n", answer.text().replace(hidden, ""));
        if let n @ 1.. = answer.dropped().len() {
            expected_notes
                .push(format!("[the context is full: the model has forgotten the oldest {n} messages]"));
        }
    }
    assert_eq!(replies, expected);
    assert!(expected_notes.len() > 1);
    let notes: Vec<_> = notes.lines().filter(|line| line.starts_with("[the context is full: ")).collect();
    assert_eq!(notes, expected_notes);

    // A message a day.
    let resumed = [&args[..], &["--session", text(&saved)]].concat();
    assert_eq!(questions.map(|question| stdout(&with_input(&resumed, question))).concat(), replies);
}

#[test]
fn guesses_change_no_reply_and_are_counted() {
    let input = "Lily had a cat. Lily had a dog.\nLily had a cat. Lily had a dog. Lily had\n";
    for options in [["-t", "0"], ["-s", "5"]] {
        let args = [&["chat", "-n", "40", "--template", "vicuna"], &options[..]].concat();
        let plain = stdout(&with_input(&args, input));
        for draft in [&["--lookup"][..], &["--draft", "bundled"]] {
            let output = with_input(&[&args[..], draft].concat(), input);
            assert_eq!(stdout(&output), plain, "{draft:?}");
            let message = stderr(&output);
            let (_, counts) = message.split_once("guesses: ").unwrap_or_else(|| panic!("{message}"));
            let counts: Vec<usize> = counts.split(' ').filter_map(|word| word.parse().ok()).collect();
            assert!(counts.len() == 2 && counts[0] <= counts[1], "{message}");
            assert!(draft.len() == 1 || options[1] != "0" || counts[0] > 0, "{message}");
        }
    }
    fails(&babyllama(&["chat", "--draft", "no/such.bin"]), 1, &["no/such.bin"]);
}

#[test]
fn chat_without_a_question_ends_well() {
    assert_eq!(stdout(&babyllama(&["chat"])), "");
    fails(&with_input(&["chat", "-q"], b"\xff\n"), 1, &["standard input: a line is not UTF-8"]);
}

/// A line ends a question, whatever is in it.
#[test]
fn a_piped_line_is_a_question_as_it_stands() {
    let output = with_input(
        &["chat", "-n", "1", "-q", "-t", "0", "--template", "vicuna"],
        "C:\\\nfoo \\\n\"\"\"one\ntwo\"\"\"\n\"\"\"\nlast\\",
    );
    assert_eq!(stdout(&output).lines().count(), 6);
    assert_eq!(stderr(&output), "");
}

#[test]
fn a_piped_question_may_begin_with_a_slash() {
    let output =
        with_input(&["chat", "-n", "1", "-q", "-t", "0"], "/no_think hello\n/quit\n/save /x\nsecond\n");
    assert_eq!(stdout(&output).lines().count(), 4);
    assert_eq!(stderr(&output), "");
}

/// A chat template that isn't known isn't replaced by another, and one that can't be read doesn't
/// matter to those who don't chat.
#[test]
fn chat_takes_only_a_template_that_is_known() {
    let with = |template: &[u8]| {
        let file = with_keys(&[("tokenizer.chat_template", Value::Str(template.to_vec()))]);
        TempFile::new("m.gguf", &file.to_bytes())
    };
    for (template, part) in [
        (&b"{{ messages"[..], "the chat template, line 1: syntax error"),
        (b"\n{% include 'x' %}", "the chat template, line 2: {% include %} isn't run"),
        (b"phi3", "its chat template, \"phi3\", isn't known here"),
        (b"llama2", "its chat template, \"llama2\", is llama.cpp's, which differs"),
        (b"zephyr", "its chat template, \"zephyr\", is llama.cpp's, which differs"),
        (b"vicuna", "its chat template, \"vicuna\", is llama.cpp's, which differs"),
        (b"llama2-sys-strip", "its chat template, \"llama2-sys-strip\", isn't known here"),
    ] {
        let file = with(template);
        let args = ["chat", file.text(), "-z", BUNDLED, "-n", "1", "-q"];
        fails(&with_input(&args, "Hi\n"), 1, &[part, "--template", "llama2, llama3, chatml"]);
        stdout(&with_input(&[&args[..], &["--template", "vicuna"]].concat(), "Hi\n"));
        stdout(&babyllama(&["run", file.text(), "-z", BUNDLED, "-n", "2"]));
        stdout(&babyllama(&["inspect", file.text()]));
    }
    let prompt = |template: &[u8]| {
        let file = with(template);
        let output = with_input(&["chat", file.text(), "-z", BUNDLED, "-n", "1", "-t", "0"], "Hi\n");
        stdout(&output);
        stderr(&output)
    };
    let named = prompt(b"mistral-v7-tekken");
    let note = "note: the file names its chat template: mistral-v7-tekken\nprompt: ";
    assert!(named.starts_with(note), "{named}");
    let jinja = b"{% for m in messages %}{{ m['role'] + '\xff' + m['content'] }}{% endfor %}";
    let notes = "note: the file's chat template is not valid UTF-8\n\
                 note: the chat template is the file's own; --template selects another\nprompt: ";
    assert!(prompt(jinja).starts_with(notes));
    // The names are options too.
    for name in ["mistral-v1", "mistral-v3-tekken", "mistral-v7-tekken"] {
        stdout(&with_input(&["chat", "--template", name, "-n", "1", "-q"], "Hi\n"));
    }
    for empty in [&b""[..], b" \n"] {
        assert!(prompt(empty).starts_with("note: the file has no chat template: taking Llama 2's"));
    }
    let number = with_keys(&[("tokenizer.chat_template", Value::U32(1))]);
    let number = TempFile::new("m.gguf", &number.to_bytes());
    let output = babyllama(&["run", number.text(), "-z", BUNDLED, "-n", "2"]);
    stdout(&output);
    assert_says(&stderr(&output), &["key tokenizer.chat_template: expected a string"]);
    // A file that says nothing, as llama2.c's: said in a pipe too.
    let output = with_input(&["chat", "-n", "1"], "Hi\n");
    assert_says(&stderr(&output), &["taking Llama 2's; --template selects another"]);
}

/// The file's own template is run, with variables, and may refuse a conversation.
#[test]
fn chat_runs_the_template_of_the_file() {
    let template = "{% if mood is not defined %}{{ raise_exception('Set a mood') }}{% endif %}\
                    {{ bos_token }}{% for m in messages %}{{ mood.of }} {{ m.content }}{% endfor %}";
    let file = with_keys(&[("tokenizer.chat_template", Value::str(template))]);
    let file = TempFile::new("m.gguf", &file.to_bytes());
    let args = ["chat", file.text(), "-z", BUNDLED, "-n", "9", "-q", "-t", "0"];
    fails(&with_input(&args, "Lily\n"), 1, &["the chat template refuses the conversation: Set a mood"]);
    let reply =
        stdout(&with_input(&[&args[..], &["--set", "mood={\"of\": \"Once upon\"}"]].concat(), "Lily\n"));
    let run = ["run", file.text(), "-z", BUNDLED, "-n", "0", "-t", "0", "-q", "-i", "Once upon Lily"];
    let story = stdout(&babyllama(&run));
    let story = story.strip_prefix("Once upon Lily").unwrap().trim_start();
    assert!(story.starts_with(reply.trim()), "{reply:?} {story:?}");
    let text = stdout(&with_input(&[&args[..], &["--set", "mood=x"]].concat(), "Lily\n"));
    assert!(!text.is_empty());
    let wrong = [&args[..], &["--template", "vicuna", "--set", "mood=x"]].concat();
    fails(&with_input(&wrong, "Lily\n"), 1, &["only a model file's own chat template has variables"]);
    fails(&with_input(&["chat", "--set", "mood"], ""), 2, &["must be NAME=VALUE"]);
}

/// Templates for special uses are chosen by name, and the one for tools when there are some.
#[test]
fn chat_runs_a_named_template_of_the_file() {
    let say = |text: &str| Value::str(&format!("{{{{ bos_token }}}}{text} {{{{ messages[0].content }}}}"));
    let mut file = with_keys(&[
        ("tokenizer.chat_template", say("Once")),
        ("tokenizer.chat_templates", Value::strings(&["rag", "tool_use"])),
        ("tokenizer.chat_template.rag", say("One day")),
        ("tokenizer.chat_template.tool_use", say("Tom and")),
    ]);
    let path = TempFile::new("m.gguf", &file.to_bytes());
    let args = ["chat", path.text(), "-z", BUNDLED, "-n", "9", "-t", "0", "--template"];
    let said = |beginning: &str| {
        let run =
            ["run", path.text(), "-z", BUNDLED, "-n", "0", "-t", "0", "-q", "--top-p", "1", "-i", beginning];
        stdout(&babyllama(&run)).strip_prefix(beginning).unwrap().trim_start().to_owned()
    };
    let tools = ["--set", "tools=[]"];
    for (options, beginning) in [
        (vec!["rag"], "One day Lily"),
        (vec!["tool_use"], "Tom and Lily"),
        (vec!["default"], "Once Lily"),
        (vec!["rag", tools[0], tools[1]], "One day Lily"),
    ] {
        let reply = stdout(&with_input(&[&args[..], &options].concat(), "Lily\n"));
        assert!(said(beginning).starts_with(reply.trim()), "{options:?} {reply:?}");
    }
    for (options, beginning) in [(&[][..], "Once Lily"), (&tools[..], "Tom and Lily")] {
        let output = with_input(&[&args[..args.len() - 1], options].concat(), "Lily\n");
        assert!(said(beginning).starts_with(stdout(&output).trim()), "{options:?}");
        assert_says(&stderr(&output), &["the file's default; --template selects another", "rag, tool_use"]);
    }
    let wrong = [&args[..], &["tools"]].concat();
    fails(
        &with_input(&wrong, ""),
        2,
        &["m.gguf has default, rag, tool_use", "the layouts are llama2, llama3"],
    );
    fails(&with_input(&["chat", "--template", "x"], ""), 2, &["has no templates, and the layouts are"]);
    let shown = stdout(&babyllama(&["inspect", path.text()]));
    assert_says(&shown, &["in the file, 45 characters; rag, 48 characters; tool_use, 48 characters\n"]);
    let shown = stdout(&babyllama(&["inspect", "--json", path.text()]));
    assert_says(&shown, &["\"named_chat_templates\"", "One day {{ messages"]);
    // Without a default nothing is guessed.
    file.remove("tokenizer.chat_template");
    let path = TempFile::new("m.gguf", &file.to_bytes());
    fails(
        &with_input(&["chat", path.text(), "-z", BUNDLED], "Lily\n"),
        1,
        &["it has no default chat template: select one with --template: rag, tool_use"],
    );
}
