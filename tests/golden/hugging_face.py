"""Writes the golden logits beside this file: random Llama models run by Hugging Face transformers, in float64.

    pip install numpy torch transformers && python tests/golden/hugging_face.py

The models come from the same generator as `RandomModel::new` in tests/common/mod.rs: the order of the tensors,
their scales and every rounding must be equal there. NAME.f64 holds little-endian f64 logits (n_tokens, vocab_size).
"""
import contextlib
import math
import pathlib
from dataclasses import dataclass
from unittest import mock

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama import modeling_llama


@dataclass
class Shape:
    dim: int
    hidden_dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    vocab_size: int
    max_seq_len: int
    tied: bool

    @property
    def head_dim(self):
        return self.dim // self.n_heads

    @property
    def kv_dim(self):
        return self.head_dim * self.n_kv_heads


# `GOLDEN` in tests/common/golden.rs must be equal to this table.
# name: (shape, seed, norm_eps, rope_theta, tokens)
CASES = {
    "tied_3_heads": (Shape(36, 100, 3, 3, 3, 333, 32, True), 1, 1e-5, 1e4, [1, 332, 7, 0, 150, 7]),
    "untied_8_heads_1_kv_theta_1e6": (
        Shape(64, 172, 2, 8, 1, 515, 32, False), 2, 1e-2, 1e6, [1, 514, 300, 2, 300, 0]
    ),
    "untied_16_heads_2_kv": (Shape(128, 344, 3, 16, 2, 333, 32, False), 3, 1e-5, 1e4, [1, 5, 332, 64, 0, 5]),
    "tied_4_heads_2_kv_12_tokens": (
        Shape(96, 172, 2, 4, 2, 512, 32, True), 4, 1e-5, 1e4, [1, 400, 17, 17, 511, 256, 0, 3, 99, 400, 2, 128]
    ),
}


class SplitMix64:
    """The generator of tests/common/mod.rs, a stretch at a time."""

    def __init__(self, seed):
        self.state = np.array([seed], np.uint64)

    def uniform(self, shape):
        """float32 in [-1, 1), on a grid of 2^-23."""
        gamma = np.uint64(0x9E3779B97F4A7C15)
        n = math.prod(shape)
        z = self.state + np.arange(1, n + 1, dtype=np.uint64) * gamma
        self.state = z[-1:]
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
        k = (z >> np.uint64(40)).astype(np.int32) - 2**23
        return (k.astype(np.float32) / np.float32(2**23)).reshape(shape)


def random_model(shape, seed):
    """Tensors by Meta's names, in Meta's layout; "output" only where the classifier isn't tied."""
    rng = SplitMix64(seed)
    d, h, kv, v = shape.dim, shape.hidden_dim, shape.kv_dim, shape.vocab_size

    def matrix(rows, n):
        return rng.uniform((rows, n)) * np.float32(math.sqrt(3.0 / n))

    def norm():
        return np.float32(1) + rng.uniform((d,)) * np.float32(0.25)

    model = {"tok_embeddings": rng.uniform((v, d))}
    for l in range(shape.n_layers):
        model[f"{l}.attention_norm"] = norm()
        model[f"{l}.wq"] = matrix(d, d)
        model[f"{l}.wk"] = matrix(kv, d)
        model[f"{l}.wv"] = matrix(kv, d)
        model[f"{l}.wo"] = matrix(d, d)
        model[f"{l}.ffn_norm"] = norm()
        model[f"{l}.w1"] = matrix(h, d)
        model[f"{l}.w2"] = matrix(d, h)
        model[f"{l}.w3"] = matrix(h, d)
    model["norm"] = norm()
    if not shape.tied:
        model["output"] = matrix(v, d)
    return model


def half_split(w, n_heads):
    """Meta rotates rows 2i and 2i + 1 of each head, Hugging Face rows i and head_dim / 2 + i."""
    rows, n = w.shape
    return w.reshape(n_heads, rows // n_heads // 2, 2, n).swapaxes(1, 2).reshape(rows, n)


class Float64Torch:
    """torch, but whoever asks it for float32 gets float64."""

    float32 = float = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


@contextlib.contextmanager
def float64_throughout():
    """Hugging Face computes norms, softmax and angles in float32, even in a float64 model: widens those too."""
    with (
        mock.patch.object(modeling_llama, "torch", Float64Torch()),
        mock.patch.object(torch.Tensor, "float", torch.Tensor.double),
    ):
        yield


def hugging_face_logits(shape, model, tokens, norm_eps, rope_theta, throughout=float64_throughout):
    """float64 (n_tokens, vocab_size)"""
    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.dim,
        intermediate_size=shape.hidden_dim,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.n_kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=max(shape.max_seq_len, len(tokens)),
        rms_norm_eps=norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": rope_theta},
        tie_word_embeddings=shape.tied,
        attn_implementation="eager",
        dtype="float64",
    )
    state = {"model.embed_tokens.weight": model["tok_embeddings"], "model.norm.weight": model["norm"]}
    for l in range(shape.n_layers):
        for theirs, ours in {
            "input_layernorm": model[f"{l}.attention_norm"],
            "self_attn.q_proj": half_split(model[f"{l}.wq"], shape.n_heads),
            "self_attn.k_proj": half_split(model[f"{l}.wk"], shape.n_kv_heads),
            "self_attn.v_proj": model[f"{l}.wv"],
            "self_attn.o_proj": model[f"{l}.wo"],
            "post_attention_layernorm": model[f"{l}.ffn_norm"],
            "mlp.gate_proj": model[f"{l}.w1"],
            "mlp.down_proj": model[f"{l}.w2"],
            "mlp.up_proj": model[f"{l}.w3"],
        }.items():
            state[f"model.layers.{l}.{theirs}.weight"] = ours
    state["lm_head.weight"] = model["tok_embeddings"] if shape.tied else model["output"]
    with throughout(), torch.no_grad():
        llama = LlamaForCausalLM(config).to(torch.float64).eval()
        llama.load_state_dict({k: torch.from_numpy(v.astype(np.float64)) for k, v in state.items()}, strict=True)
        logits = llama(torch.tensor([tokens]), use_cache=False).logits[0]
    assert logits.dtype == torch.float64
    return logits.numpy()


if __name__ == "__main__":
    for name, (shape, seed, norm_eps, rope_theta, tokens) in CASES.items():
        logits = hugging_face_logits(shape, random_model(shape, seed), tokens, norm_eps, rope_theta)
        logits.astype("<f8").tofile(pathlib.Path(__file__).with_name(f"{name}.f64"))
        print(f"{name}: {logits.shape}, standard deviation {logits.std():.3f}")
