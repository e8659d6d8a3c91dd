"""Writes tokenizer_settings.jsonl beside this file: settings of tokenizers that GGUF has no words for, and the tokens that some texts have
with them by tokenizers and by sentencepiece.

    pip install sentencepiece tokenizers && python tests/golden/tokenizer_settings.py

The first line has a tokenizer.json of SentencePiece's kind, and the texts. Each other line is a case: what is changed in that
file (null removes a key), or which bytes are put after published/llama2/tokenizer.model; and the tokens of each text.
"""
import json
import pathlib

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer

HERE = pathlib.Path(__file__).parent
MODEL = (HERE / "published/llama2/tokenizer.model").read_bytes()
MARK = "\u2581"
N_PIECES = 347  # so many of the model's pieces are in tokenizer.json, and added tokens after them
TEXTS = [
    "Once upon a time", " Lily and Tom", "the  ball", "a", "", " ", "  ", " a ", "  a  b  ", "\u2581", "x\u2581y", "\u2581 \u2581",
    "\ta", "a\nb", "caf\u00e9 \u6c34\U0001f999", "<a>x", "x<a>y", "x <a> y", " <a>", "<a> ", "<a><a> <a>", "x<a>\t\n y", "<a>The <b> ball",
    "<ab>", "<a><b>", "a><b", "xa><by", "e\u0301<a>", "<a>\u0301", "1<a>", "<a>_", "-<a>-", "the<b>the", " the the", "aa a",
]


def base():
    pieces = sentencepiece.SentencePieceProcessor(model_proto=MODEL)
    vocab = {pieces.id_to_piece(i): i for i in range(N_PIECES)}
    normal = [p for p, i in vocab.items() if not (pieces.is_byte(i) or pieces.is_control(i) or pieces.is_unknown(i))]
    merges = []
    for piece in sorted(normal, key=lambda p: -pieces.get_score(vocab[p])):
        cuts = [(piece[:i], piece[i:]) for i in range(1, len(piece)) if piece[:i] in vocab and piece[i:] in vocab]
        merges += sorted(cuts, key=lambda cut: (vocab[cut[0]], vocab[cut[1]]))
    special = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    return {
        "version": "1.0",
        "added_tokens": [dict(id=i, content=pieces.id_to_piece(i), **special) for i in range(3)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": MARK}, {"type": "Replace", "pattern": {"String": " "}, "content": MARK}]},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, "vocab": vocab, "merges": [list(m) for m in merges]},
    }


def patched(value, patch):
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    value = dict(value) if isinstance(value, dict) else {}
    for key, change in patch.items():
        value.pop(key, None) if change is None else value.update({key: patched(value.get(key), change)})
    return value


def metaspace(scheme, split):
    stage = {"type": "Metaspace", "replacement": MARK, "prepend_scheme": scheme, "split": split}
    return {"normalizer": None, "pre_tokenizer": stage}


def added(*tokens):
    plain = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=False)
    found = base()["added_tokens"]
    found += [dict(plain, id=N_PIECES + n, content=content, **flags) for n, (content, flags) in enumerate(tokens)]
    return {"added_tokens": found}


def cases():
    yield "nothing", {}, False
    for scheme in ("first", "always", "never"):
        for split in (False, True):
            yield f"metaspace {scheme} {split}", metaspace(scheme, split), scheme != "never" or split
    yield "old metaspace", {"normalizer": None, "pre_tokenizer": {"type": "Metaspace", "replacement": MARK, "str_rep": MARK}}, True
    yield "added", added(("<a>", {}), ("<b>", {})), False
    for flags in ({"lstrip": True}, {"rstrip": True}, {"single_word": True}, {"normalized": True},
                  {"normalized": True, "lstrip": True, "rstrip": True, "single_word": True}):
        for stages in ({}, metaspace("first", False), metaspace("always", True)):
            # With Metaspace the text that is normalized is the text.
            noted = bool(stages) or flags != {}
            yield " ".join(["added", *flags, *stages.get("pre_tokenizer", {}).get("prepend_scheme", "").split()]), \
                stages | added(("<a>", flags), ("<b>", {})), noted
    yield "overlapping", added(("<a>", {}), ("a><b", {}), ("<ab>", {})), True
    yield "rounds", metaspace("never", False) | added(("<ab>", {"normalized": True}), ("ab", {})), True
    yield "bert", {"post_processor": {"type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1], "single": None,
                                      "pair": None, "special_tokens": None}}, False


def spec_cases():
    def spec(change):
        proto = sentencepiece_model_pb2.ModelProto()
        change(proto)
        return proto.SerializePartialToString()

    def symbol(text):
        return lambda p: p.pieces.add(piece=text, score=0, type=4)

    yield "model", b"", False
    for collapse in (False, True):
        for suffix in (False, True):
            for prefix in (False, True):
                def change(p):
                    p.normalizer_spec.remove_extra_whitespaces = collapse
                    p.normalizer_spec.add_dummy_prefix = prefix
                    p.trainer_spec.treat_whitespace_as_suffix = suffix
                yield f"collapse {collapse} suffix {suffix} prefix {prefix}", spec(change), collapse or suffix
    for text in ("<a>", "\u2581\u2581", "\u2581<b>", "  "):
        yield f"symbol {text}", spec(symbol(text)), True


def main():
    lines = [{"base": base(), "texts": TEXTS}]
    for name, patch, noted in cases():
        tokenizer = Tokenizer.from_str(json.dumps(patched(base(), patch)))
        tokens = [tokenizer.encode(text).ids for text in TEXTS]
        lines.append({"name": name, "patch": patch, "noted": noted, "tokens": tokens})
    for name, extra, noted in spec_cases():
        processor = sentencepiece.SentencePieceProcessor(model_proto=MODEL + extra)
        tokens = [[1] + processor.encode(text) for text in TEXTS]
        lines.append({"name": name, "added": list(extra), "noted": noted, "tokens": tokens})
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    (HERE / "tokenizer_settings.jsonl").write_text(text)


if __name__ == "__main__":
    main()
