#!/usr/bin/env python3
"""Runs the scripts of $BABYLLAMA_SHARED/cases with $BABYLLAMA (default target/release/babyllama), and counts.

Each makes a file or a directory that people have, lets the program read it, and prints what came out beside what is right.
Those of `gguf/` judge themselves. Those of `convert/` print an error against the reference, which is judged here: right, or
refused in words that name what is wrong. Needs Python with numpy, torch, transformers, tokenizers and sentencepiece.
"""
import os
import pathlib
import re
import subprocess
import sys

shared = pathlib.Path(os.environ.get("BABYLLAMA_SHARED", "../shared"))
# Logits apart from transformers' in f64, in standard deviations: what f32 gives is below 1e-5.
RIGHT = 1e-5
# Cases that write their logits a second time under one name, which is refused: after what is judged.
WRITES_TWICE = {"mistral_sliding_window"}
# What a refusal or a message must say, in any case of letters.
WORDS = {
    "mistral_sliding_window": ["window"],
    "msg_git_lfs": ["git lfs"],
    "msg_lora": ["lora", "meta-llama/llama-2-7b-hf", "merge"],
    "msg_safetensors_alone": ["config.json"],
    "added_token_flags": ["<a>"],
    "json_fields_passed_over": ["replacement|end_of_word_suffix|post_processor|roberta"],
    "metaspace_split": ["split"],
    "sp_whitespace_settings": ["treat_whitespace_as_suffix|remove_extra_whitespaces"],
}


def is_right(name, line):
    """Whether a line of a case of `convert/` is right; None if it doesn't tell."""
    said = all(re.search(words, line.lower()) for words in WORDS.get(name, []))
    if errors := re.findall(r"err=([0-9.e+-]+|nan)", line):
        return all(float(error) < RIGHT for error in errors)
    if agree := re.search(r"(\d+)/(\d+) agree", line):
        return agree[1] == agree[2] or (bool(WORDS.get(name)) and said and "[note" in line)
    if re.search(r"^(\(1, )|rc=[1-9]", line):
        return bool(WORDS.get(name)) and said
    return None


def run(script):
    out = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=600)
    lines = out.stdout.splitlines()
    if script.parent.name == "gguf":
        verdicts = [bool(re.search(r"\bPASS\b", line)) for line in lines if re.search(r"\b(PASS|FAIL)\b", line)]
    else:
        verdicts = [verdict for line in lines if (verdict := is_right(script.parent.name, line)) is not None]
    # A script that is refused what it asks for may not expect it.
    failed = out.returncode != 0 and "rc=1" not in out.stdout and script.parent.name not in WRITES_TWICE
    if failed or not verdicts:
        print(out.stdout, out.stderr[-2000:])
        verdicts.append(False)
    return verdicts, out.stdout


passed = failed = 0
scripts = sorted(shared.glob("cases/gguf/F*.py")) + sorted(shared.glob("cases/convert/*/gen.py"))
for script in scripts:
    name = script.stem if script.parent.name == "gguf" else script.parent.name
    verdicts, text = run(script.resolve())
    good = sum(verdicts)
    passed, failed = passed + good, failed + len(verdicts) - good
    print(f"{name:40} {good} of {len(verdicts)}")
    if good < len(verdicts):
        print(text)
print(f"{passed} passed, {failed} failed")
sys.exit(failed > 0)
