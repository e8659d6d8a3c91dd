#!/usr/bin/env python3
"""Renders templates that have names with transformers, for tests/convert/named_templates.rs.

It writes golden/named_templates.jsonl. A line is a set of templates, or a conversation with the set before it: the template's name
that was asked for, or none; the tools; and the text, or what transformers says instead. Each is rendered by tokenizers that
transformers loads from a directory with the set as a list in tokenizer_config.json, and as files: both say the same.
Needs Python with transformers and tokenizers.
"""
import json
import pathlib
import tempfile

import tokenizers
import transformers

DEFAULT = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}\n"
TOOL_USE = (
    "{% if tools is none %}no tools\n{% else %}{% for t in tools %}Tool: {{ t | tojson }}\n{% endfor %}{% endif %}"
    "{% for m in messages %}{{ m.role }} ‒ {{ m.content }}\n{% endfor %}"
)
RAG = "{% for d in documents or [] %}[{{ d.title }}] {{ d.text }}\n{% endfor %}{{ messages[-1].content | trim }} →\n\n"
SETS = [
    {"default": DEFAULT, "rag": RAG, "tool_use": TOOL_USE},
    {"default": DEFAULT, "rag": RAG},
    {"rag": RAG, "tool_use": TOOL_USE},
]
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Wie heißt 東京?"},
    {"role": "assistant", "content": "So."},
    {"role": "user", "content": " And then? "},
]
TOOL = {"type": "function", "function": {"name": "time", "description": "Tells the time", "parameters": {"type": "object", "properties": {}}}}
DOCUMENTS = [{"title": "One", "text": "first"}]


def folders(templates):
    """The spellings of a set."""
    for as_files in [False, True]:
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a")).save(str(folder / "tokenizer.json"))
            config = {"tokenizer_class": "PreTrainedTokenizerFast"}
            if as_files:
                (folder / "additional_chat_templates").mkdir()
                for name, text in templates.items():
                    file = "chat_template.jinja" if name == "default" else f"additional_chat_templates/{name}.jinja"
                    (folder / file).write_text(text, encoding="utf-8")
                config["chat_template"] = "not this one"
            else:
                config["chat_template"] = [{"name": name, "template": text} for name, text in templates.items()]
            (folder / "tokenizer_config.json").write_text(json.dumps(config))
            yield transformers.AutoTokenizer.from_pretrained(folder)


def render(tokenizer, name, tools):
    try:
        text = tokenizer.apply_chat_template(
            MESSAGES, chat_template=name, tools=tools, documents=DOCUMENTS, tokenize=False, add_generation_prompt=True
        )
    except ValueError as error:
        return {"error": str(error)}
    return {"text": text}


lines = []
for templates in SETS:
    lines.append({"templates": templates})
    loaded = list(folders(templates))
    for name in [None, *templates]:
        for tools in [None, [], [TOOL]]:
            rendered = [render(tokenizer, name, tools) for tokenizer in loaded]
            assert rendered[0] == rendered[1]
            case = {"name": name, "variables": {"tools": tools, "documents": DOCUMENTS}}
            lines.append(case | {"messages": MESSAGES} | rendered[0])
out = pathlib.Path(__file__).with_name("named_templates.jsonl")
out.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
print(f"{len(lines)} lines, transformers {transformers.__version__}")
