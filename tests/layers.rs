//! The source keeps to its layers: a module imports only from below, and what is dangerous stays in
//! its place.

use std::fs;
use std::path::{Path, PathBuf};

/// From the bottom up. Modules on one line may import each other, except `forward` and
/// `checkpoint`. `rng` is `tests/common/rng.rs`, for tests.
const LAYERS: &[&[&str]] = &[
    &["error", "bytes", "rng"],
    &["storage", "simd", "parallel"],
    &["quant"],
    &["tensor", "config", "settings", "compute"],
    &["arch", "weights", "ops", "gemm", "kv_cache", "logprobs"],
    &["matmul", "attention"],
    &["forward", "checkpoint"],
    &["model", "inspect", "constraint"],
    &["session"],
    &["generate", "perplexity"],
    &["conversation"],
    &["convert"],
    &["by_name"],
];

/// Beside the layers: what these may import. Layers from `model` up may import them, and
/// `checkpoint` the tokenizer and the sampler's options, since GGUF files bring both.
const SIDE: &[(&str, &[&str])] =
    &[("tokenizer", &["error", "bytes"]), ("sampler", &["error"]), ("chat", &["error", "tokenizer"])];

/// The library's files, without the binary: the path below `src`, with `/`, and the text.
fn library() -> Vec<(String, String)> {
    fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    walk(&src, &mut paths);
    let name = |path: &Path| path.strip_prefix(&src).unwrap().to_str().unwrap().replace('\\', "/");
    let files = paths.iter().map(|path| (name(path), fs::read_to_string(path).unwrap()));
    let mut files: Vec<_> = files.filter(|(name, _)| !name.starts_with("bin/")).collect();
    files.sort();
    assert!(files.len() > 25, "the library has more files than {}", files.len());
    files
}

/// The lines that are code, with their numbers.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines().map(|line| line.split("//").next().unwrap()))
}

/// The module that a file belongs to: `simd` for `simd/avx2.rs`.
fn module(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

/// The modules that some code names after `crate::`.
fn imports(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (at, path) in line.match_indices("crate::") {
        let rest = &line[at + path.len()..];
        let ident = |text: &str| text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        if let Some(group) = rest.strip_prefix('{') {
            found.extend(group.split(',').map(str::trim).map(|item| &item[..ident(item)]));
        } else {
            found.push(&rest[..ident(rest)]);
        }
    }
    found
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

fn may_import(from: &str, to: &str) -> bool {
    let side = |module| SIDE.iter().find(|(name, _)| *name == module);
    if from == to {
        return true;
    }
    match (side(from), side(to)) {
        (Some((_, allowed)), _) => allowed.contains(&to),
        (None, Some(_)) => {
            let is_brought = from == "checkpoint" && ["tokenizer", "sampler"].contains(&to);
            layer(from) >= layer("model") || is_brought
        }
        (None, None) => {
            let apart = ["forward", "checkpoint"];
            layer(to) <= layer(from) && !(apart.contains(&from) && apart.contains(&to))
        }
    }
}

#[test]
fn every_module_has_its_layer() {
    for (file, _) in library() {
        let module = module(&file);
        let known = layer(module).is_some() || SIDE.iter().any(|(name, _)| *name == module);
        assert!(known || file == "lib.rs", "src/{file}: say in tests/layers.rs where {module} belongs");
    }
}

#[test]
fn modules_import_only_from_below() {
    let mut checked = 0;
    let is_checked = |file: &str| file != "lib.rs" && !file.contains("/tests/");
    for (file, text) in library().iter().filter(|(file, _)| is_checked(file)) {
        for (line, code) in code(text) {
            for import in imports(code) {
                let known = layer(import).is_some() || SIDE.iter().any(|(name, _)| *name == import);
                assert!(known, "src/{file}:{line}: crate::{import} is not a module");
                let from = module(file);
                assert!(may_import(from, import), "src/{file}:{line}: {from} may not import {import}");
                checked += 1;
            }
        }
    }
    assert!(checked > 60, "{checked} imports were found");
}

#[test]
fn the_rule_would_notice_what_is_wrong() {
    for (from, to) in [
        ("error", "storage"),
        ("simd", "quant"),
        ("quant", "matmul"),
        ("forward", "checkpoint"),
        ("checkpoint", "forward"),
        ("model", "session"),
        ("session", "generate"),
        ("tokenizer", "sampler"),
        ("chat", "model"),
        ("forward", "tokenizer"),
    ] {
        assert!(!may_import(from, to), "{from} importing {to}");
    }
    assert_eq!(imports("use crate::{error::Error, quant};"), ["error", "quant"]);
    assert_eq!(imports("pub(crate) fn f(x: crate::simd::Isa) -> crate::Error"), ["simd", "Error"]);
}

#[test]
fn only_parallel_names_rayon() {
    let names = |text: &str| code(text).any(|(_, code)| code.contains("rayon::"));
    let files: Vec<_> = library().into_iter().filter(|(_, text)| names(text)).map(|(file, _)| file).collect();
    assert_eq!(files, ["parallel/tests.rs", "parallel/threads.rs"]);
}

/// The files of `simd/` that load and store through pointers, or call functions that are compiled
/// for an instruction set, by a macro or themselves.
const INTRINSICS: &[&str] = &[
    "avx2.rs",
    "avx2/panel.rs",
    "avx2/vnni.rs",
    "avx2/widening.rs",
    "avx512.rs",
    "features.rs",
    "neon.rs",
    "neon/blocks.rs",
    "neon/dotprod.rs",
    "neon/low_bits.rs",
    "neon/memory.rs",
    "neon/parts.rs",
    "neon/widening.rs",
    "x86.rs",
    "x86/low_bits.rs",
    "x86/memory.rs",
];

#[test]
fn unsafe_code_stays_where_it_is_allowed() {
    let has = |text: &str, word: &str| {
        code(text).any(|(_, code)| code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == word))
    };
    for (file, text) in library() {
        let intrinsics = INTRINSICS.iter().any(|name| file.strip_prefix("simd/") == Some(name));
        let threads = ["parallel/columns.rs", "parallel/crew.rs", "parallel/team.rs"].contains(&&*file);
        let allowed = file == "storage.rs" || threads || intrinsics;
        assert!(allowed || !has(&text, "unsafe"), "src/{file} is no place for unsafe code");
        assert!(allowed || !has(&text, "unsafe_code"), "src/{file} must not lift the lint");
        let needs = has(&text, "unsafe") || has(&text, "unsafe_code"); // or a macro's
        assert!(!allowed || needs, "src/{file}: take it off the list");
    }
}

#[test]
fn the_library_prints_nothing() {
    for (file, text) in library() {
        for (line, code) in code(&text) {
            for name in ["println!", "eprintln!", "print!", "eprint!", "dbg!", "stdout()", "stderr()"] {
                assert!(!code.contains(name), "src/{file}:{line}: {name}");
            }
        }
    }
}

#[test]
fn the_library_reads_no_environment_and_ends_no_process() {
    for (file, text) in library() {
        for (line, code) in code(&text) {
            for name in ["env::var", "process::exit", "process::abort", "build_global"] {
                assert!(!code.contains(name), "src/{file}:{line}: {name}");
            }
        }
    }
}

#[test]
fn forward_knows_no_format_no_instruction_set_and_no_thread() {
    let files = library();
    let (_, text) = files.iter().find(|(file, _)| file == "forward.rs").unwrap();
    for (line, code) in code(text) {
        for name in ["unsafe", "Isa", "Simd", "Int8", "F32Rows", "Dtype", "rayon", "parallel", "storage"] {
            assert!(!code.contains(name), "src/forward.rs:{line}: {name}");
        }
    }
}

/// The files that a section of a text names in backquotes, with the lines that it says.
fn reading_path<'a>(text: &'a str, section: &str, end: &str) -> Vec<(String, usize)> {
    let section = text.split(section).nth(1).unwrap().split(end).next().unwrap();
    let lines = |after: &str| -> Option<usize> {
        let after =
            after.strip_prefix("](").and_then(|link| link.split_once(')')).map_or(after, |(_, after)| after);
        after.strip_prefix(" (")?.split(')').next()?.parse().ok()
    };
    let path = |name: &'a str, after: &'a str| match after.strip_prefix("](") {
        Some(link) => link.split(')').next().unwrap_or(name).to_string(),
        None => name.to_string(),
    };
    let stops = section.split('`').skip(1).step_by(2).zip(section.split('`').skip(2).step_by(2));
    stops.filter_map(|(name, after)| Some((path(name, after), lines(after)?))).collect()
}

#[test]
fn the_reading_path_exists_and_takes_an_evening() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let [docs, readme] = ["src/lib.rs", "README.md"].map(|file| fs::read_to_string(root.join(file)).unwrap());
    let of_docs = reading_path(&docs, "//! # Reading the source", "//! # ");
    let of_readme = reading_path(&readme, "\n## Read the source", "\n## ");
    assert_eq!(of_docs, of_readme);
    assert!(of_docs.len() >= 7, "{of_docs:?}");
    for (file, said) in &of_docs {
        let text = fs::read_to_string(root.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert_eq!(text.lines().count(), *said, "lines of {file}");
    }
    let total: usize = of_docs.iter().map(|(_, lines)| lines).sum();
    assert!(total <= 2500, "the reading path has {total} lines");
}
