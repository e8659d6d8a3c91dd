"""Writes architectures.json and architectures.f64 beside this file: small models of each architecture, and their logits by
Hugging Face transformers in float64.

    pip install numpy torch transformers && python tests/golden/architectures.py

architectures.json has each model's config.json and the shapes of its tensors, whose numbers tests/convert/architectures.rs makes
from the same generator: in the order of their names, all of them. architectures.f64 has, for each, the logits of every 5th token
after each of TOKENS: little-endian f64 (24, 8).

MiniCPM, which transformers doesn't have, is computed as the Granite that it is equal to.
"""
import contextlib
import json
import math
import os
import pathlib
import sys
from unittest import mock

os.environ["HF_HUB_OFFLINE"] = "1"
import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, modeling_rope_utils

from hugging_face import Float64Torch, SplitMix64

HERE = pathlib.Path(__file__).parent
TOKENS = [1, 39, 7, 26, 15, 7, 28, 0, 3, 3, 11, 38, 2, 9, 17, 5, 30, 21, 8, 4, 33, 12, 6, 19]
SHAPE = dict(
    vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=64, rms_norm_eps=1e-5, pad_token_id=None, bos_token_id=1, eos_token_id=2,
)
ODD = dict(hidden_size=30, intermediate_size=37, num_attention_heads=5, num_key_value_heads=1)
LONG_ROPE = dict(rope_type="longrope", rope_theta=1e4)
THETA = dict(rope_parameters=dict(rope_type="default", rope_theta=1e3))

# `as`: the model_type that config.json gets, and its settings of other names.
CASES = {
    "llama with biases": dict(model_type="llama", attention_bias=True, mlp_bias=True, tie_word_embeddings=False),
    "llama with biases of attention": dict(model_type="llama", **ODD, attention_bias=True, tie_word_embeddings=True),
    "qwen2": dict(model_type="qwen2", tie_word_embeddings=True, **THETA),
    "qwen2 untied": dict(model_type="qwen2", **ODD, tie_word_embeddings=False),
    "qwen3": dict(model_type="qwen3", head_dim=6, tie_word_embeddings=True, **THETA),
    "qwen3 untied with biases": dict(
        model_type="qwen3", **ODD, head_dim=8, attention_bias=True, tie_word_embeddings=False
    ),
    "granite": dict(
        model_type="granite", tie_word_embeddings=True, embedding_multiplier=12.0, residual_multiplier=0.22,
        attention_multiplier=0.0625, logits_scaling=8.0, **THETA,
    ),
    "granite untied with biases": dict(
        model_type="granite", **ODD, tie_word_embeddings=False, attention_bias=True, mlp_bias=True,
        embedding_multiplier=3.0, residual_multiplier=0.5, attention_multiplier=0.3, logits_scaling=0.7,
    ),
    "minicpm": dict(
        model_type="minicpm", tie_word_embeddings=False, scale_emb=12, scale_depth=1.4, dim_model_base=4,
        computed_as=dict(
            model_type="granite", tie_word_embeddings=False, embedding_multiplier=12.0,
            residual_multiplier=1.4 / 2**0.5, attention_multiplier=0.5, logits_scaling=4.0,
        ),
    ),
    "smollm3": dict(
        model_type="smollm3", num_hidden_layers=5, tie_word_embeddings=True,
        rope_parameters=dict(rope_type="default", rope_theta=5e3),
    ),
    "smollm3 untied": dict(model_type="smollm3", **ODD, num_hidden_layers=8, tie_word_embeddings=False),
    "mistral with a window": dict(model_type="mistral", tie_word_embeddings=False, sliding_window=5, head_dim=4),
    "qwen2 with a window in its last layers": dict(
        model_type="qwen2", tie_word_embeddings=True, num_hidden_layers=3, use_sliding_window=True, sliding_window=7,
        max_window_layers=1,
    ),
    "olmo2": dict(model_type="olmo2", tie_word_embeddings=False, **THETA),
    "olmo2 with one head of keys": dict(model_type="olmo2", **ODD, tie_word_embeddings=False),
    "ministral3": dict(
        model_type="ministral3", head_dim=6, tie_word_embeddings=False,
        rope_parameters=dict(
            rope_type="yarn", rope_theta=1e3, factor=4.0, original_max_position_embeddings=8, beta_fast=32.0,
            beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0, llama_4_scaling_beta=0.5, max_position_embeddings=64,
        ),
    ),
    "ministral3 tied": dict(
        model_type="ministral3", **ODD, head_dim=6, tie_word_embeddings=True,
        rope_parameters=dict(
            rope_type="yarn", rope_theta=1e4, factor=2.0, original_max_position_embeddings=4, mscale=1.0,
            mscale_all_dim=0.0, llama_4_scaling_beta=0.1,
        ),
    ),
    "seed_oss": dict(model_type="seed_oss", head_dim=6, tie_word_embeddings=False, attention_out_bias=True),
    "phi3 with a window": dict(
        model_type="phi3", tie_word_embeddings=False, sliding_window=9, partial_rotary_factor=1.0,
        original_max_position_embeddings=64,
    ),
    # The 24 tokens are fewer than the original context, and more.
    "phi3 with short factors": dict(
        model_type="phi3", tie_word_embeddings=False, original_max_position_embeddings=32,
        rope_parameters=dict(LONG_ROPE, short_factor=[1.25, 2.5], long_factor=[3.0, 17.5]),
    ),
    "phi3 with long factors": dict(
        model_type="phi3", tie_word_embeddings=False, original_max_position_embeddings=16,
        rope_parameters=dict(LONG_ROPE, short_factor=[1.25, 2.5], long_factor=[3.0, 17.5]),
    ),
    "phi3 with long factors and an attention factor": dict(
        model_type="phi3", **ODD, tie_word_embeddings=True, original_max_position_embeddings=8,
        rope_parameters=dict(
            LONG_ROPE, short_factor=[1.0, 1.1, 0.9], long_factor=[1.3, 2.7, 8.1], attention_factor=1.19
        ),
    ),
}


def build(case, change=lambda model: model):
    """The config.json and the tensors of a model whose weights are random, and the logits of what it is changed to."""
    config = AutoConfig.for_model(**{**SHAPE, **case.get("computed_as", case)})
    config._attn_implementation = "eager"
    module = sys.modules[AutoModelForCausalLM._model_mapping[type(config)].__module__]
    with contextlib.ExitStack() as patches:
        for it in (module, modeling_rope_utils):
            patches.enter_context(mock.patch.object(it, "torch", Float64Torch()))
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval()
        state = model.state_dict()
        names = sorted(name for name in state if not (config.tie_word_embeddings and name == "lm_head.weight"))
        rng = SplitMix64(7)
        tensors = {}
        for name in names:
            shape = tuple(state[name].shape)
            uniform = rng.uniform(shape)
            if name.endswith("norm.weight"):
                uniform = np.float32(1) + uniform * np.float32(0.25)
            elif name.endswith(".bias"):
                uniform = uniform * np.float32(0.5)
            elif name != "model.embed_tokens.weight":
                uniform = uniform * np.float32(math.sqrt(3.0 / shape[-1]))
            tensors[name] = uniform
            state[name].copy_(torch.from_numpy(uniform).double())
        model = change(model)
        with torch.no_grad():
            logits = model(torch.tensor([TOKENS]), use_cache=False).logits[0].double().numpy()
    said = config.to_dict()
    said = {key: value for key, value in said.items() if value is not None and not key.startswith("_")}
    if "computed_as" in case:
        said = {key: value for key, value in {**SHAPE, **case}.items() if key != "computed_as"}
    return said, tensors, logits


if __name__ == "__main__":
    cases = {}
    with open(HERE / "architectures.f64", "wb") as out:
        for at, (name, case) in enumerate(CASES.items()):
            config, tensors, logits = build(case)
            shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
            cases[name] = dict(at=at, config=config, tensors=shapes)
            kept = logits[:, ::5].astype("<f8")
            assert kept.shape == (24, 8), kept.shape
            print(f"{name}: standard deviation {logits.std():.3f}")
            out.write(kept.tobytes())
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(case)}" for name, case in cases.items())
    (HERE / "architectures.json").write_text("{\n" + lines + "\n}\n")
