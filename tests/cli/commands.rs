//! `tokenize`, `perplexity`, `score`, `embed`, `logits`, `bench` and `inspect`.

use std::fs;

use babyllama::{CacheDtype, Model, ModelOptions, Pooling, SessionOptions, Tokenizer};

use crate::common::gguf::Value;
use crate::common::{BUNDLED, TempFile, assert_says};
use crate::{babyllama, fails, published, rambler, stderr, stdout, succeeds, text, with_input, with_keys};

#[test]
fn tokenize_prints_what_a_prompt_is_fed_as() {
    let tokenizer = Tokenizer::open(BUNDLED).unwrap();
    let line = |ids: &[u32]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ") + "\n";
    for text in ["Once upon a time", "", " ", "- a dash", "--no-bos", "a\nb\n", "\u{1f999} caf\u{e9} <s>"] {
        let (with, without) = (line(&tokenizer.encode_prompt(text)), line(&tokenizer.encode(text)));
        assert_eq!(stdout(&babyllama(&["tokenize", BUNDLED, "--", text])), with);
        assert_eq!(stdout(&babyllama(&["tokenize", "bundled", "--", text])), with);
        assert_eq!(stdout(&babyllama(&["tokenize", "-z", BUNDLED, "--", text])), with);
        assert_eq!(stdout(&babyllama(&["tokenize", "--no-bos", BUNDLED, "--", text])), without);
        assert_eq!(stdout(&with_input(&["tokenize", BUNDLED, "-"], text.as_bytes())), with);
        assert_eq!(stdout(&with_input(&["tokenize", "-z", BUNDLED, "-"], text.as_bytes())), with);
    }
}

#[test]
fn tokenize_rejects_input_that_is_not_utf_8() {
    let output = with_input(&["tokenize", "-z", BUNDLED, "-"], b"abc\xf0\x9f");
    fails(&output, 1, &["error: standard input: is not UTF-8 from byte 3 on"]);
}

#[test]
fn perplexity_is_the_last_line() {
    let story = stdout(&babyllama(&["-s", "7"])).repeat(3);
    let model = Model::open(BUNDLED).unwrap();
    let tokens = model.tokenizer().unwrap().encode_prompt(&story);
    let options = babyllama::PerplexityOptions::new().context_length(64).max_windows(3);
    let go_on = |_: &babyllama::Perplexity| std::ops::ControlFlow::Continue(());
    let expected = model.perplexity(&tokens, options, go_on).unwrap();
    let args = ["perplexity", BUNDLED, "-", "--ctx", "64", "--chunks", "3"];
    let output = with_input(&args, story.as_bytes());
    let shown = stdout(&output);
    assert_eq!(shown.lines().count(), 4, "{shown}");
    assert_eq!(shown.lines().last(), Some(format!("{:.4}", expected.value()).as_str()));
    assert_says(&stderr(&output), &["of 93 tokens"]);
    fails(&with_input(&["perplexity", BUNDLED, "-"], b"short"), 1, &["it has 3 tokens, and --ctx needs 512"]);
}

#[test]
fn score_prints_a_line_for_each_token() {
    let text = "Lily\thad a\nllama \u{1f999}\\ caf.";
    let model = Model::open(BUNDLED).unwrap();
    let tokens = model.tokenizer().unwrap().encode_prompt(text);
    let scores = model.session().score(&tokens).unwrap();
    let output = with_input(&["score", BUNDLED, "-"], text);
    let shown = stdout(&output);
    let rows: Vec<Vec<&str>> = shown.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(rows.len(), tokens.len(), "{shown}");
    for ((row, token), score) in rows.iter().zip(&tokens).zip(&scores) {
        assert_eq!(row[..], [token.to_string().as_str(), row[1], &format!("{:.6}", score.logprob)]);
    }
    let texts: String = rows.iter().map(|row| row[1]).collect();
    assert_eq!(texts, r"<s> Lily\thad a\nllama \xf0\x9f\xa6\x99\\ caf.");
    let (total, n) = (scores.iter().map(|score| score.logprob).sum::<f64>(), tokens.len() - 1);
    let summary = format!("{n} tokens predicted: total {total:.4}, mean {:.4}\n", total / n as f64);
    assert_eq!(stderr(&output), summary);

    let output = with_input(&["score", BUNDLED, "-", "--json", "-q"], text);
    let objects: Vec<serde_json::Value> =
        stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((objects.len(), stderr(&output).as_str()), (tokens.len(), ""));
    for ((object, token), score) in objects.iter().zip(&tokens).zip(&scores) {
        assert_eq!((&object["id"], &object["is_greatest"]), (&(*token).into(), &score.is_greatest.into()));
        assert!((object["logprob"].as_f64().unwrap() - score.logprob).abs() < 1e-12, "{object}");
    }
    assert_eq!((&objects[0]["text"], &objects[1]["text"]), (&"<s>".into(), &" Lily".into()));
}

#[test]
fn score_takes_any_number_of_tokens_that_fits() {
    assert_eq!(stderr(&with_input(&["score", "bundled", "-"], "")), "0 tokens predicted: total 0.0000\n");
    let long = "One day, Tom. ".repeat(60); // more than are scored at once
    let output = with_input(&["score", "bundled", "-", "--f16-cache"], &long);
    let n = stdout(&output).lines().count();
    assert!(n > 256, "{n} tokens");
    assert_says(&stderr(&output), &[&format!("{} tokens predicted: ", n - 1)]);
    let short = with_input(&["score", "bundled", "-", "--context-length", "9"], &long);
    fails(&short, 1, &[&format!("the context holds 9 tokens, and there are {n}; --context-length")]);
    fails(&babyllama(&["score", rambler().text(), BUNDLED]), 1, &["no tokenizer beside it"]);
}

#[test]
fn embed_prints_a_vector_of_length_1_for_each_line() {
    let model = Model::open(BUNDLED).unwrap();
    let tokenizer = model.tokenizer().unwrap();
    let numbers = |line: &str| line.split(' ').map(|x| x.parse().unwrap()).collect::<Vec<f32>>();
    for (options, pooling) in [
        (&[][..], model.pooling().unwrap()),
        (&["--pooling", "last"], Pooling::Last),
        (&["--pooling", "mean", "--context-length", "9"], Pooling::Mean),
    ] {
        let shown = stdout(&with_input(&[&["embed", BUNDLED, "-"], options].concat(), "a cat\n\nTom\n"));
        let vectors: Vec<_> = shown.lines().map(numbers).collect();
        assert_eq!(vectors.len(), 3);
        for (vector, text) in vectors.iter().zip(["a cat", "", "Tom"]) {
            assert_eq!(*vector, model.session().embed(&tokenizer.encode_prompt(text), pooling).unwrap());
            let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
            assert!((length - 1.0).abs() < 1e-5 && vector.len() == model.config().dim, "{length}");
        }
    }
    let (line, _) = succeeds(&["embed", "bundled", "a cat"]);
    assert_eq!(numbers(line.trim_end()), model.embed("a cat").unwrap());
    let object: serde_json::Value =
        serde_json::from_str(&succeeds(&["embed", "bundled", "a cat", "--json"]).0).unwrap();
    assert_eq!(object["text"], "a cat");
    let embedding = object["embedding"].as_array().unwrap().iter();
    let embedding: Vec<f32> = embedding.map(|number| number.as_f64().unwrap() as f32).collect();
    assert_eq!(embedding, numbers(line.trim_end()));
    assert_eq!(succeeds(&["embed", "bundled", ""]).0.lines().count(), 1);
    assert_eq!(stdout(&with_input(&["embed", "bundled", "-"], "")), "");
    let short = babyllama(&["embed", "bundled", "One day, Tom", "--context-length", "2"]);
    fails(&short, 1, &["the context holds 2 tokens, and there are "]);
    fails(&babyllama(&["embed", "bundled", "a", "--pooling", "cls"]), 2, &["[possible values: last, mean]"]);
}

#[test]
fn logits_file_holds_what_forward_all_gives() {
    let model = rambler();
    let folder = model.folder();
    // A tokenizer that doesn't fit the model must not matter.
    fs::write(folder.join("tokenizer.bin"), b"nonsense").unwrap();
    let out = folder.join("logits.f32");
    let options = ModelOptions::new().no_tokenizer().norm_eps(1e-3).rope_theta(1e6);
    let opened = Model::open_with(model.path(), &options).unwrap();
    // More than are fed at once.
    let tokens: Vec<u32> = (0..300).map(|i| i * 7 % 1024).collect();
    let list = tokens.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let args = ["logits", model.text(), "--tokens", &list, "--out", text(&out)];
    fails(&babyllama(&args), 1, &["the context holds 64 tokens, and there are 300"]);
    assert!(!out.exists());

    let more = ["--context-length", "300", "--norm-eps", "1e-3", "--rope-theta", "1e6", "--threads", "2"];
    let args = [&args[..], &more].concat();
    assert_eq!(stdout(&babyllama(&args)), "");
    let mut session = opened.session_with(SessionOptions::new().context_length(300));
    let expected = session.forward_all(&tokens).unwrap();
    let expected: Vec<u8> = expected.iter().flat_map(|logit| logit.to_le_bytes()).collect();
    assert_eq!(expected.len(), 300 * 1024 * 4);
    assert!(fs::read(&out).unwrap() == expected, "the file differs");
    let args: Vec<_> = args.iter().map(|&arg| if arg == text(&out) { "-" } else { arg }).collect();
    assert!(babyllama(&args).stdout == expected, "standard output differs");
}

#[test]
fn failed_logits_leave_the_file_as_it_was() {
    let model = rambler();
    let folder = model.folder();
    let out = folder.join("logits.f32");
    fs::write(&out, b"before").unwrap();
    let args = ["logits", model.text(), "--tokens", "1 1024", "-f", "--out", text(&out)];
    fails(&babyllama(&args), 1, &["token 1024 is not below the vocabulary's size, 1024"]);
    assert_eq!(fs::read(&out).unwrap(), b"before");
    assert_eq!(fs::read_dir(folder).unwrap().count(), 2, "something was left behind");
    let out = folder.join("no/such/folder/logits.f32");
    let args = ["logits", model.text(), "--tokens", "1", "--out", text(&out)];
    fails(&babyllama(&args), 1, &["no/such/folder/logits.f32: "]);
}

#[test]
fn bench_measures_files_and_synthetic_models() {
    let args = ["bench", "--prompt", "5", "--gen", "2", "--repetitions", "1", "--threads", "1,2", "--json"];
    for (model, name) in
        [(&[BUNDLED][..], BUNDLED), (&["--shape", "stories15m", "--dtype", "q6_k"], "stories15m Q6_K")]
    {
        // A row of 288 is not a multiple of 256.
        let output = babyllama(&[&args[..], model].concat());
        if name.ends_with("Q6_K") {
            fails(&output, 1, &["can't be stored as Q6_K"]);
            continue;
        }
        let json: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
        assert_eq!(json["model"], name);
        assert_eq!(json["runs"].as_array().unwrap().len(), 2);
        for part in ["prefill", "decode"] {
            assert!(json[part]["tokens_per_second"].as_f64().unwrap() > 0.0, "{json}");
        }
        assert!(json["decode"]["gb_per_second"].as_f64().unwrap() > 0.0, "{json}");
    }
    let synthetic = ["bench", "--shape", "stories15m", "--dtype", "q4_1", "--prompt", "3", "--gen", "1"];
    let shown = stdout(&babyllama(
        &[&synthetic[..], &["--repetitions", "1", "--depth", "3", "--batch", "3", "--busy"]].concat(),
    ));
    assert!(shown.contains("synthetic weights, 3 sessions, beside busy threads\n"), "{shown}");
    assert!(shown.starts_with("stories15m Q4_1, ") && shown.lines().count() == 3, "{shown}");
    fails(&babyllama(&["bench", BUNDLED, "--shape", "stories15m"]), 2, &["cannot be used with"]);
    fails(&babyllama(&["bench", "--prompt", "0"]), 2, &["0 is not in 1.."]);
}

#[test]
fn inspect_shows_what_is_in_a_model() {
    let shown = stdout(&babyllama(&["inspect", "--threads", "2", "--isa", "scalar"]));
    assert_says(
        &shown,
        &[
            "GGUF v3",
            "1.3 MiB (1,347,040 bytes)",
            "parameters    1,238,656",
            "n_kv_heads    2",
            "rope_dim      32",
            "rope_scaling  none",
            "chat template none",
            "max_seq_len   512",
            "1,024 pieces, 256 of them bytes; BOS 1, EOS 2",
            "instructions  scalar",
            "threads       2",
            "3.1 KiB (3,136 bytes) a position used",
            "6 x layers.*.attention.wk     (64, 128)    Q8_0",
            "56 tensors",
        ],
    );
    assert!(!shown.contains("layers.5."));
    let shown = stdout(&babyllama(&["inspect", BUNDLED, "--tensors"]));
    assert_says(&shown, &["layers.5.feed_forward.w3"]);
    assert!(!shown.contains("general."), "{shown}");
    let shown = stdout(&babyllama(&["inspect", "--metadata"]));
    assert_says(
        &shown,
        &[
            "28 keys\ngeneral.architecture                    string \"llama\"\n",
            "\ngeneral.name                            string \"Baby Llama\"\n",
            "\nllama.attention.head_count_kv           u32 2\n",
            "\ntokenizer.ggml.tokens                   array of 1024 string\n",
        ],
    );
    let model = Model::open(BUNDLED).unwrap();
    let int8 = (CacheDtype::Q8_0, &["--cache-dtype", "q8_0"][..]);
    for (dtype, option) in [(CacheDtype::F32, &[][..]), (CacheDtype::F16, &["--f16-cache"][..]), int8] {
        let options = SessionOptions::new().context_length(2000).cache_dtype(dtype);
        let memory = options.memory_bytes(model.config());
        let args = [&["inspect", "--context-length", "2000"][..], option].concat();
        let shown = stdout(&babyllama(&args)).replace(',', "");
        assert!(shown.contains(&format!("({memory} bytes) when all 2000 positions")), "{shown}");
    }
}

#[test]
fn inspect_shows_a_model_whose_tokenizer_is_bad() {
    let model = rambler();
    assert!(stdout(&babyllama(&["inspect", model.text()])).contains("tokenizer     none"));
    fs::write(model.beside("tokenizer.bin"), b"nonsense").unwrap();
    let shown = stdout(&babyllama(&["inspect", model.text()]));
    assert_says(&shown, &["tokenizer     unusable: ", "tokenizer.bin: "]);
}

#[test]
fn inspect_shows_how_a_model_was_stretched() {
    let file = with_keys(&[
        ("llama.rope.scaling.type", Value::str("yarn")),
        ("llama.rope.scaling.factor", Value::F32(4.0)),
        ("llama.rope.scaling.original_context_length", Value::U32(16)),
        ("llama.rope.dimension_count", Value::U32(8)),
        ("tokenizer.chat_template", Value::str("{{ messages }} \u{e9}")),
    ]);
    let file = TempFile::new("stretched.gguf", &file.to_bytes());
    let shown = stdout(&babyllama(&["inspect", file.text()]));
    assert_says(
        &shown,
        &[
            "rope_dim      8\n",
            "rope_scaling  yarn, factor 4, from 16 positions\n",
            "chat template in the file, 16 characters\n",
        ],
    );
}

#[test]
fn inspect_shows_published_models() {
    for (name, format, scaling) in [
        ("llama3", "Hugging Face", "none"),
        ("llama2", "Hugging Face", "none"),
        ("meta_2", "Meta's PyTorch checkpoint", "none"),
    ] {
        let (shown, _) = succeeds(&["inspect", &published(name)]);
        for part in [format!("format        {format}\n"), format!("rope_scaling  {scaling}\n")] {
            assert!(shown.contains(&part), "{part:?} is not in\n{shown}");
        }
        assert_says(&shown, &["2 x layers.*.attention.wk     (8, 16)"]);
        let (json, _) = succeeds(&["inspect", &published(name), "--json", "--tensors", "--metadata"]);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["config"]["n_kv_heads"], 2);
        assert_eq!(json["tied"], name == "llama3");
        let n_tensors = 2 + 2 * 9 + usize::from(name != "llama3");
        assert_eq!(json["tensors"].as_array().unwrap().len(), n_tensors);
        assert_eq!(json["tensors"][0]["shape"], serde_json::json!([352, 16]));
        let key = if name == "meta_2" { "multiple_of" } else { "hidden_act" };
        assert!(json["metadata"][key].is_string(), "{json}");
    }
    let (json, _) = succeeds(&["inspect", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["config"]["dim"], &json["parameters"]), (&128.into(), &1_238_656.into()));
    assert!(json.get("tensors").is_none() && json["threads"].is_number());
}
