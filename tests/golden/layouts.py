#!/usr/bin/env python3
"""Writes golden/layouts.jsonl: what published chat templates render, for the layouts that are known to render the same.

    python tests/golden/layouts.py llama_cpp_python-0.3.36 [FOLDER]

The texts themselves are other people's, so they aren't part of this repository: `PUBLISHED` in src/chat/detect.rs has their hashes.
Most lie in the source package of PyPI's llama-cpp-python: vendor/llama.cpp/models/templates, and strings in
vendor/llama.cpp/tests/test-chat-template.cpp and llama_cpp/llama_chat_format.py. The others are in the tokenizer_config.json of the
models that the table names; FOLDER has them as .jinja files.

transformers renders each text in each conversation; texts of one layout must agree. llama.cpp renders the layouts that it has names for.
Needs Python with transformers, jinja2 and llama_cpp.
"""
import ctypes
import json
import pathlib
import re
import sys

from llama_cpp import llama_cpp
from transformers.utils import chat_template_utils

HERE = pathlib.Path(__file__).parent
DETECT = (HERE / "../../src/chat/detect.rs").read_text()
BOS, EOS = "<s>", "</s>"

SPACES = " \n\tpad \u3000mid \r\n"
UNUSUAL = "\u3000\x1c\x85pad\u200b\xa0\x1f"
CONVERSATIONS = {
    "question": ["u:Q1"],
    "system": ["s:S s", "u:Q1"],
    "turns": ["u:Q1", "a:A1", "u:Q2", "a:A2", "u:Q3"],
    "system and turns": ["s:S s", "u:Q1", "a:A1", "u:Q2", "a:A2", "u:Q3"],
    "spaces": [f"s:{SPACES}", f"u:{SPACES}", f"a:{SPACES}", f"u:{SPACES}"],
    "unusual spaces": [f"s:{UNUSUAL}", f"u:{UNUSUAL}", f"a:{UNUSUAL}", f"u:{UNUSUAL}"],
    "empty system": ["s:", "u:Q1", "a:A1", "u:Q2"],
    "nothing": ["s: ", "u:", "a:", "u: ", "a:\n", "u:"],
    "marks": [
        "s:<<SYS>>\n<s></think> {{ x }}",
        "u:<think>a</think>b [INST]",
        "a:<think>\nx\n</think>\n\nb<|eot_id|>",
        'u:<|im_end|> \\n "q"',
        "a:x </think>",
        "u:/no_think",
    ],
    "answered": ["s:S s", "u:Q1", "a:A1"],
}
# Texts that write more after an assistant turn that is the last: the beginning of another, or EOS.
NOT_ANSWERED = ["Llama 3", "Phi 3.5 mini"]
ROLES = {"s": "system", "u": "user", "a": "assistant"}


def messages(conversation):
    return [{"role": ROLES[text[0]], "content": text[2:]} for text in conversation]


def rendered(source, conversation):
    said = messages(conversation)
    asks = said[-1]["role"] != "assistant"
    given = {"bos_token": BOS, "eos_token": EOS, "unk_token": "<unk>"}
    [text], _ = chat_template_utils.render_jinja_template([said], chat_template=source, add_generation_prompt=asks, **given)
    return text


def of_llama_cpp(name, conversation):
    said = [(m["role"].encode(), m["content"].encode()) for m in messages(conversation)]
    array = (llama_cpp.llama_chat_message * len(said))(*[llama_cpp.llama_chat_message(role=r, content=c) for r, c in said])
    text = ctypes.create_string_buffer(1 << 16)
    asks = said[-1][0] != b"assistant"
    n = llama_cpp.llama_chat_apply_template(name.encode(), array, len(said), asks, text, len(text))
    return text.raw[:n].decode()


def hash_of(text):
    """FNV-1a without an end of line that isn't rendered: see src/chat/detect.rs."""
    text = text.removesuffix("\n")
    shorter = text.removesuffix("\n")
    if shorter.endswith("%}") and not shorter.endswith("+%}"):
        text = shorter
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def texts(package, folder):
    yield from (path.read_text() for path in (package / "vendor/llama.cpp/models/templates").glob("*.jinja"))
    if folder:
        yield from (path.read_text() for path in pathlib.Path(folder).glob("*.jinja"))
    cpp = (package / "vendor/llama.cpp/tests/test-chat-template.cpp").read_text()
    escapes = {"n": "\n", "t": "\t"}
    for literal in re.findall(r'/\* \.template_str=? ?\*/ "((?:[^"\\]|\\.)*)"', cpp):
        yield re.sub(r"\\(.)", lambda found: escapes.get(found[1], found[1]), literal)
    for literal in re.findall(r'^[A-Z0-9_]+_CHAT_TEMPLATE = (".*")', (package / "llama_cpp/llama_chat_format.py").read_text(), re.M):
        yield json.loads(literal)


def main():
    table = re.findall(r"\(0x([0-9a-f_]+), Template::(\w+)\),\s+// (.*)", DETECT)
    published = {int(value, 16): (template, name) for value, template, name in table}
    found = {}
    for text in texts(pathlib.Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None):
        if hash_of(text) in published:
            found[hash_of(text)] = text
    layouts = {}
    for value, (template, name) in published.items():
        if value not in found:
            sys.exit(f"{name} is missing: give a folder that has it")
        source = found[value]
        layout = layouts.setdefault(template, {"template": template, "hashes": [], "texts": {}})
        layout["hashes"].append(f"{value:016x}")
        for title, conversation in CONVERSATIONS.items():
            if title == "answered" and name in NOT_ANSWERED:
                continue
            try:
                text = rendered(source, conversation)
            except chat_template_utils.jinja2.exceptions.TemplateError:
                assert conversation[0].startswith("s:"), (name, title)
                text = None  # it refuses system prompts
                assert layout["texts"].setdefault(title, text) is None, (name, title)
                continue
            # Layouts leave BOS at the beginning to the tokenizer, unless the text has it.
            assert text.startswith(BOS) == ("bos_token" in source), name
            text = text.removeprefix(BOS)
            assert layout["texts"].setdefault(title, text) == text, (name, title)
    names = re.findall(r'\("([a-z0-9-]+)", Template::', DETECT)
    for name in names:
        # It knows no other white space than ASCII's.
        titles = [title for title in CONVERSATIONS if title != "unusual spaces"]
        layouts[name] = {"name": name, "texts": {title: of_llama_cpp(name, CONVERSATIONS[title]) for title in titles}}
    with open(HERE / "layouts.jsonl", "w") as file:
        for line in [{title: messages(said) for title, said in CONVERSATIONS.items()}, *layouts.values()]:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    print(f"{len(published)} texts of {len(layouts) - len(names)} layouts, {len(names)} names")


if __name__ == "__main__":
    main()
