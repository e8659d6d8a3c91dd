"""Writes the models in published/ beside this file: small random Llamas in the files that models are published in, and
their logits by Hugging Face transformers in float64.

    pip install numpy torch transformers sentencepiece tokenizers && python tests/golden/published.py

llama3/       safetensors in three shards, BF16, tied, rotary scaling of Llama 3's kind; a byte-level tokenizer.json
llama2/       pytorch_model.bin in two shards, F16, untied, grouped queries; a tokenizer.model and added tokens
meta_1/ meta_2/   the weights of llama2/ as Meta publishes them, in one and in two shards
*.f64         logits of TOKENS, little-endian (n_tokens, vocab_size)
*.tokens      a text, a tab and its tokens by tokenizers or sentencepiece, on each line, the text in JSON
"""
import io
import json
import pathlib
import shutil
from unittest import mock

import numpy as np
import sentencepiece
import torch
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, modeling_rope_utils

from hugging_face import Float64Torch, float64_throughout

HERE = pathlib.Path(__file__).parent / "published"
TOKENS = [1, 351, 7, 260, 150, 7, 288, 0]
SHAPE = dict(
    vocab_size=352,
    hidden_size=16,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    rms_norm_eps=1e-5,
    initializer_range=0.25,
)
CORPUS = """Once upon a time, there was a little llama named Lily. She liked to play in the park with her friends.
One day, Tom the cat saw a big red ball. He wanted to play with it, but the ball was too big. "Can you help me?" he asked.
Lily said yes. They pushed and pushed, and the ball rolled down the hill. 12 llamas and 345 cats laughed. They weren't sad.
The sun was warm, the grass was green, and everyone was happy. Then they all went home and slept until the next day came.
"""
TEXTS = [
    "Once upon a time", " Lily and Tom", "the  ball", "weren't 12345 llamas?", "R\u00edo \U0001f999 \u6c34", "a", " ",
    "<|eot_id|>", "</s>", "<pad> x", "They'LL PLAY!", "tab\there",
]
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def random_llama(seed, dtype, **config):
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, **config))
    for name, weights in model.named_parameters():
        if "norm" in name:
            weights.data = 1 + 0.25 * torch.randn_like(weights)
    return model.to(dtype)


def write_logits(folder, name):
    with float64_throughout(), mock.patch.object(modeling_rope_utils, "torch", Float64Torch()), torch.no_grad():
        model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
        logits = model(torch.tensor([TOKENS]), use_cache=False).logits[0]
    logits.numpy().astype("<f8").tofile(HERE / f"{name}.f64")
    print(f"{name}: {tuple(logits.shape)}, standard deviation {logits.std():.3f}")


def write_tokens(name, encode, without=()):
    texts = [text for text in TEXTS if text not in without]
    lines = [f"{json.dumps(text)}\t{' '.join(map(str, encode(text)))}\n" for text in texts]
    (HERE / f"{name}.tokens").write_text("".join(lines))


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1) + "\n")


def byte_level_tokenizer():
    """Llama 3's kind: BOS in front, whole words that are pieces need no merges."""
    tokenizer = tokenizers.Tokenizer(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(tokenizers.Regex(LLAMA_3), "isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator([CORPUS], trainers.BpeTrainer(vocab_size=348, initial_alphabet=alphabet))
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    tokenizer.add_tokens([AddedToken("<pad>", special=False, normalized=False)])
    begin = tokenizer.token_to_id(names[0])
    template = processors.TemplateProcessing(single=f"{names[0]} $A", special_tokens=[(names[0], begin)])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return tokenizer, names


def write_llama3():
    folder = HERE / "llama3"
    scaling = {
        "rope_type": "llama3",
        "rope_theta": 5e5,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }
    model = random_llama(1, torch.bfloat16, tie_word_embeddings=True, rope_parameters=scaling)
    model.save_pretrained(folder, max_shard_size="8KB")
    tokenizer, names = byte_level_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    begin, end, turn = (tokenizer.token_to_id(name) for name in names)
    write_json(folder / "generation_config.json", {"bos_token_id": begin, "eos_token_id": [end, turn]})
    template = "{% for message in messages %}{{ message['content'] }}<|eot_id|>{% endfor %}"
    special = {"bos_token": names[0], "eos_token": names[1], "chat_template": template}
    write_json(folder / "tokenizer_config.json", special)
    write_logits(folder, "llama3")
    # No text becomes a control token here.
    write_tokens("llama3", lambda text: tokenizer.encode(text).ids, without=names)


def write_llama2():
    folder = HERE / "llama2"
    model = random_llama(2, torch.float16, tie_word_embeddings=False)
    model.save_pretrained(folder)
    write_logits(folder, "llama2")
    (folder / "model.safetensors").unlink()
    state = model.state_dict()
    names, where = list(state), {}
    for i in range(2):
        file = f"pytorch_model-{i + 1:05}-of-00002.bin"
        torch.save({name: state[name].clone() for name in names[i::2]}, folder / file)
        where.update({name: file for name in names[i::2]})
    write_json(folder / "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": where})
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS.splitlines()),
        model_writer=trained,
        model_type="bpe",
        vocab_size=351,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        character_coverage=0.98,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(trained.getvalue())
    write_json(folder / "added_tokens.json", {"<pad>": 351})
    write_json(folder / "tokenizer_config.json", {"add_bos_token": True, "bos_token": {"content": "<s>"}})
    processor = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    assert processor.vocab_size() == 351, processor.vocab_size()
    write_tokens("llama2", lambda text: [1, *processor.encode(text)])
    return model


def adjacent(w, n_heads):
    """Hugging Face rotates rows i and head_dim / 2 + i of each head, Meta rows 2i and 2i + 1."""
    rows, n = w.shape
    return w.reshape(n_heads, 2, rows // n_heads // 2, n).transpose(1, 2).reshape(rows, n)


def write_meta(model, n_shards):
    folder = HERE / f"meta_{n_shards}"
    folder.mkdir()
    state = model.state_dict()
    theirs = {"tok_embeddings": ("model.embed_tokens", 1), "norm": ("model.norm", None), "output": ("lm_head", 0)}
    for l in range(SHAPE["num_hidden_layers"]):
        for meta, (name, axis) in {
            "attention_norm": ("input_layernorm", None),
            "attention.wq": ("self_attn.q_proj", 0),
            "attention.wk": ("self_attn.k_proj", 0),
            "attention.wv": ("self_attn.v_proj", 0),
            "attention.wo": ("self_attn.o_proj", 1),
            "ffn_norm": ("post_attention_layernorm", None),
            "feed_forward.w1": ("mlp.gate_proj", 0),
            "feed_forward.w2": ("mlp.down_proj", 1),
            "feed_forward.w3": ("mlp.up_proj", 0),
        }.items():
            theirs[f"layers.{l}.{meta}"] = (f"model.layers.{l}.{name}", axis)
    for shard in range(n_shards):
        tensors = {"rope.freqs": torch.ones(2)}
        for meta, (name, axis) in theirs.items():
            weights = state[f"{name}.weight"]
            heads = {"wq": SHAPE["num_attention_heads"], "wk": SHAPE["num_key_value_heads"]}.get(meta.split(".")[-1])
            weights = adjacent(weights, heads) if heads else weights
            weights = weights if axis is None else weights.chunk(n_shards, axis)[shard]
            tensors[f"{meta}.weight"] = weights.clone().contiguous()
        torch.save(tensors, folder / f"consolidated.{shard:02}.pth")
    params = {"dim": 16, "multiple_of": 8, "n_heads": 4, "n_kv_heads": 2, "n_layers": 2, "norm_eps": 1e-5, "vocab_size": -1}
    write_json(folder / "params.json", params)
    shutil.copy(HERE / "llama2" / "tokenizer.model", folder)


if __name__ == "__main__":
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()
    write_llama3()
    llama2 = write_llama2()
    write_meta(llama2, 1)
    write_meta(llama2, 2)
