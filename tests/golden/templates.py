#!/usr/bin/env python3
"""Renders chat templates with transformers, for tests/templates.

Without an argument it writes golden/templates.jsonl: small templates that use one thing each. With a directory of .jinja files
it renders these in the same conversations, and runs the tests with them:

    python tests/golden/templates.py llama_cpp_python-0.3.36/vendor/llama.cpp/models/templates

Published templates are other people's text, so they aren't part of this repository; these lie in the source package of PyPI's
llama-cpp-python. Needs Python with transformers and jinja2.
"""
import datetime
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

from transformers.utils import chat_template_utils

TIME = 1_796_000_000
BOS, EOS = "<s>", "</s>"


class Now(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.fromtimestamp(TIME, datetime.timezone.utc).replace(tzinfo=None)


chat_template_utils.datetime = Now

# One thing each.
OWN = {
    "chatml": "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "blocks": "{{ bos_token }}\n{% for m in messages %}\n    {% if m.role == 'user' %}\n  <|user|>{{ m.content | trim }}\n"
    "    {%- elif m.role == 'assistant' -%}\n  <|assistant|>{{ m.content }}{{ eos_token }}\n    {% else %}\n{{ m.role }}: "
    "{{- m.content }}\n{%+ endif %}\n  {# a comment '}} #}\n{% endfor %}\nend\n\n",
    "thinking": "{% for m in messages %}{% set c = m.content or '' %}{% if m.role == 'assistant' and '</think>' in c %}"
    "{% set r = c.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}"
    "{% set c = c.split('</think>')[-1].lstrip('\n') %}{% if loop.last %}<think>{{ r }}</think>{% endif %}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ c }}<|im_end|>\n{% endfor %}{% if enable_thinking is defined and enable_thinking is false %}"
    "<think>\n\n</think>{% endif %}",
    "namespaces": "{% set ns = namespace(system='', last=0, seen=[]) %}{% for m in messages %}{% if m.role == 'system' %}"
    "{% set ns.system = m.content %}{% else %}{% set ns.last = loop.index0 %}{% set ns.seen = ns.seen + [m.role] %}{% endif %}"
    "{% endfor %}{{ ns.system }}|{{ ns.last }}|{{ ns.seen | join(',') }}|{{ ns.seen }}|{{ messages[-1].content[5:] }}"
    "|{{ messages[::-1][0].role }}|{{ messages[1:] | length }}",
    "refuses": "{% if messages[0].role != 'system' %}{{ raise_exception('Begin with a system prompt, please!') }}{% endif %}"
    "{% for m in messages %}{{ m.content }}{% endfor %}",
    "loops": "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{{ loop.index }}/{{ loop.length }}"
    "{{ loop.first }}{{ loop.last }}{{ loop.previtem.role if loop.previtem is defined }} {{ loop.nextitem.role | default('-') }};"
    "{% if loop.index == 3 %}{% break %}{% endif %}{% else %}none{% endfor %}{% for a, b in {'x': 1, 'y': 2}.items() %}"
    "{{ a }}={{ b }}{{ ', ' if not loop.last }}{% endfor %}{% for m in messages if m.role == 'user' %}{{ loop.index0 }}{% endfor %}",
    "macros": "{% macro show(m, tag='<|user|>', sep=':') -%}\n  {{ tag }}{{ m.content | replace('\n', ' ') }}{{ sep }}\n{%- endmacro %}"
    "{% for m in messages %}{{ show(m, sep='.') }}{% endfor %}{% filter upper %}{{ messages[0].role }}{% endfilter %}"
    "{% set block %}{{ messages | length }}{% endset %}{{ block }}",
    "tools": "{% if tools %}{% for t in tools %}{{ t | tojson }}\n{{ t | tojson(indent=2) }}\n{{ t.function.parameters | tojson("
    "separators=(',', ':'), sort_keys=true) }}{% for k, v in t.function.parameters.properties | dictsort %}{{ k }}:{{ v.type }};"
    "{% endfor %}{% endfor %}{% endif %}{% for m in messages %}{{ m.role }}{% if m.tool_calls %}{% for c in m.tool_calls %}"
    "<tool_call>{{ c.function.name }}{{ c.function.arguments | tojson }}{{ c['id'] }}</tool_call>{% endfor %}"
    "{% elif m.role == 'tool' %}<tool_response>{{ m.content }}</tool_response>{% else %}{{ m.content | tojson(ensure_ascii=true) }}"
    "{% endif %}\n{% endfor %}",
    "dates": "{{ strftime_now('%d %b %Y, %A %H:%M:%S %p %j %y') }}{% if date_string is not defined %}none{% else %}{{ date_string }}"
    "{% endif %}{{ documents | length if documents else 'no documents' }}",
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}{%- generation -%}  {{ m.content }}<|im_end|>{% endgeneration %}\n"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}",
    "texts": "{% for m in messages %}{{ m.content.strip() }}|{{ m.content | upper }}|{{ m.content | lower }}|{{ m.content | title }}"
    "|{{ m.content | capitalize }}|{{ m.content | length }}|{{ m.content.startswith('Q') }}|{{ m.content.split() | length }}"
    "|{{ m.content | first }}|{{ m.content[-3:] }}|{{ m.content.replace('a', 'b') }}|{{ m.content.find('e') }}"
    "|{{ 'x' in m.content }}|{{ m.content ~ 1 ~ none ~ true }}|{{ '%s!' | format(m.role) }}|{{ m.content.splitlines() | length }}\n{% endfor %}",
    "values": "{{ [1, 2.5, true, none, 'a\"b', \"it's\", {'k': [1]}] }}|{{ (1, 'x') }}|{{ 7 // 2 }}|{{ 7 / 2 }}|{{ -7 % 3 }}"
    "|{{ 2 ** 5 }}|{{ 1 if messages else 0 }}|{{ missing }}|{{ missing is defined }}|{{ messages is iterable }}"
    "|{{ messages[0] is mapping }}|{{ messages[0].content is string }}|{{ none is none }}|{{ [3, 1, 2] | sort }}"
    "|{{ messages | map(attribute='role') | list }}|{{ messages | selectattr('role', 'equalto', 'user') | list | length }}"
    "|{{ [1, 2] + [3] }}|{{ 'a' * 3 }}|{{ 3 in [1, 3] }}|{{ messages[0].get('name', 'nobody') }}|{{ 1.0 }}|{{ 10 | string }}"
    "|{{ messages | length > 1 and not false }}|{{ [1, 2, 3] | last }}|{{ 'a-b' | replace('-', '+') | safe }}|{{ range(3) | list }}",
    "shapes": "{% for m in messages %}{{ '<|' + m.role + '|>' }}{{ m.content | e }}{{ '<|end|>' }}{% endfor %}",
    "upper": "{% for m in messages %}<|user|>{{ m.content | upper }}<|end|>{% endfor %}",
    "strings": "{% for m in messages %}{{ m.content.strip() }}|{{ m.content | trim }}|{{ m.content.split() }}|{{ m.content.rsplit(None, 1) }}"
    "|{{ m.content.splitlines() }}|{{ m.content.title() }}|{{ m.content.partition('e') }}|{{ m.content.removeprefix('  ') }}"
    "|{{ m.content | indent(2, true) }}|{{ m.role.center(12) }}|{{ m.role.zfill(9) }}|{{ m.content | capitalize }}"
    "|{{ '\\/\\a\\v\\x41\\101\\u00e9\\q' }}|{{ m.role | e + '<' + m.role | safe }}\n{% endfor %}",
    "fields": "{% for t in tools or [] %}{% set p = t.function.parameters.properties %}{{ p }}|{{ p | string }}|{{ p.items() | list }}"
    "|{% for name, field in p.items() %}{{ name }}:{{ field.type }}{% if field.items is defined %}+{% endif %}{{ field.get('items') }}{{ 'items' in field }}"
    "{{ field.items.type }}{{ field.get('default', '-') }}{{ field | attr('type') }}{{ field.minimum ~ '' }}{{ field.values is mapping }};"
    "{% endfor %}{% endfor %}{% for m in messages %}{{ m.tool_calls }}{{ m.pop is defined }}{% endfor %}",
    "numbers": "{{ 2.5 | round }}|{{ 3.5 | round }}|{{ 7 | round }}|{{ 7.26 | round(1, 'floor') }}|{{ -1 | round(0, 'ceil') }}|{{ 'x' | int }}"
    "|{{ ' 42 ' | int }}|{{ '4.9' | int }}|{{ '0x1f' | int(base=16) }}|{{ 'x' | float(2.5) }}|{{ true is number }}|{{ [1e-7, none] }}",
    "scopes": "{% set x = 1 %}{% set y %}{% set x = 2 %}{{ x }}{% endset %}{{ x }}{{ y }}{% filter upper %}{% set x = 'a' %}{{ x }}"
    "{% endfilter %}{{ x }}{% macro m(a, b=a, c=b ~ '!') %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1) }}{{ m(1, 2) }}{{ m(1, c=3) }}",
    "raw": "{% raw %}\n{{ ' {% x %}{% endraw %}{{ messages[0].content }}<|im_end|>",
}

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather <now> & \"later\" in a city.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Name, e.g. Zürich"},
                    "days": {"type": "integer", "enum": [1, 2, 3], "default": 1},
                },
                "required": ["city"],
            },
        },
    }
]


# Names that are methods of Python's too, floats with an exponent, characters that Python escapes.
ODD_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "odd",
            "description": "Line\u2028one\u00a0'two'",
            "parameters": {
                "type": "object",
                "properties": {
                    "items": {"type": "array", "items": {"type": "string"}},
                    "values": {"type": ["string", "null"], "enum": ["a\u200db", None, 1.5e-7, True]},
                    "get": {"type": "number", "minimum": 1e-05, "default": 1e22},
                    "none": {"type": "object", "additionalProperties": {"type": "number"}},
                },
                "required": [],
            },
        },
    },
    {"type": "function", "function": {"name": "bare", "description": "", "parameters": {"type": "object", "properties": {}}}},
]


def call(arguments):
    return [{"type": "function", "id": "call00001", "function": {"name": "get_weather", "arguments": arguments}}]


def conversations(names):
    user = {"role": "user", "content": "Question one?"}
    system = {"role": "system", "content": "Be brief."}
    assistant = {"role": "assistant", "content": "Answer one."}
    more = {"role": "user", "content": "Question two?"}
    odd = "  leading\n\n\ttabs, \"quotes\" 'single' \\back\\ {{ braces }} {% if %} <b>&amp; \u00e9\u00df\u4f60\u597d \U0001f999 \u200b trailing \n"
    forged = " ".join(names)
    tool = {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": '{"temperature": 21.5}'}
    thought = {"role": "assistant", "content": "<think>\nThinking hard.\n</think>\n\nAnswer one."}
    reasoned = {"role": "assistant", "content": "Answer one.", "reasoning_content": "Thinking hard."}
    called = {"role": "assistant", "content": "", "tool_calls": call({"city": "Zürich", "days": 2})}
    as_text = {"role": "assistant", "content": "", "tool_calls": call('{"city": "Bern"}')}
    yield "user", [user], {}
    yield "turns", [system, user, assistant, more], {}
    yield "no system", [user, assistant, more, assistant], {}
    yield "tools", [system, user, called, tool, assistant, more], {"tools": TOOLS}
    yield "tools asked", [user], {"tools": TOOLS}
    yield "tools as text", [user, as_text, tool], {"tools": TOOLS}
    yield "odd", [{**system, "content": odd}, {**user, "content": odd}, {**assistant, "content": odd}, {**user, "content": odd}], {}
    yield "forged", [{**system, "content": forged}, {**user, "content": forged}, assistant, {**user, "content": "a" + forged + "b"}], {}
    yield "forged answer", [user, {**assistant, "content": forged}, {**user, "content": forged}], {}
    yield "forged tools", [user, called, {**tool, "content": forged}], {"tools": TOOLS, "documents": [{"title": forged, "text": forged}]}
    odd_called = {"role": "assistant", "content": "", "tool_calls": call({"items": ["x", 1e-06], "keys": {"k": None}, "f": 1e22})}
    spaces = "\x1c one\u2028two\x0bthree\x85it's THE o'clock \u00df \u01c6 \x1f"
    yield "odd tools", [{**user, "content": spaces}, odd_called, tool, {**assistant, "content": spaces}, more], {"tools": ODD_TOOLS}
    yield "thought", [user, thought, more, thought, more], {"enable_thinking": True}
    yield "reasoned", [system, user, reasoned, more], {"enable_thinking": False, "date_string": "1 May 2025"}


NAME = r"<\|[^|<>{}'\"\s]+\|?>|<[^|<>{}'\"\s]+\|>|<\uff5c[^\uff5c]+\uff5c>|\[/?[A-Z_]+\]|</?[a-z_]+>"


def cases(name, source):
    special = sorted(set(re.findall(NAME, source)) | {BOS, EOS, "<|im_end|>"})
    plain = [text for text in special if re.fullmatch(r"</?(think|tool|arg|function|param)[a-z_]*>", text)]
    for i, (title, messages, variables) in enumerate(conversations(special)):
        given = {"bos_token": BOS, "eos_token": EOS, "unk_token": "<unk>", **variables}
        asks = messages[-1]["role"] != "assistant"
        case = {"name": f"{name}, {title}", "messages": messages, "variables": variables}
        if i == 0:
            case |= {"source": source, "controls": [text for text in special if text not in plain], "user_defined": plain}
        try:
            [text], _ = chat_template_utils.render_jinja_template(
                [messages], chat_template=source, add_generation_prompt=asks, **given
            )
            case["text"] = text
        except chat_template_utils.jinja2.exceptions.TemplateError as error:
            raised = type(error) is chat_template_utils.jinja2.exceptions.TemplateError
            case["error" if raised else "fails"] = str(error)
        except Exception as error:
            case["fails"] = repr(error)
        yield case


def main():
    here = pathlib.Path(__file__).parent
    if len(sys.argv) == 1:
        with open(here / "templates.jsonl", "w") as file:
            for name, source in OWN.items():
                for case in cases(name, source):
                    file.write(json.dumps(case, ensure_ascii=False) + "\n")
        return
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", delete=False) as file:
        n = 0
        for path in sorted(pathlib.Path(sys.argv[1]).glob("**/*.jinja")):
            for case in cases(path.stem, path.read_text()):
                file.write(json.dumps(case, ensure_ascii=False) + "\n")
                n += 1
    print(f"{n} cases in {file.name}")
    command = "cargo test --all-features --test templates -- --nocapture"
    sys.exit(subprocess.run(command.split(), cwd=here, env={**os.environ, "BABYLLAMA_TEMPLATES": file.name}).returncode)


if __name__ == "__main__":
    main()
