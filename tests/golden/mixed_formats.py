"""Writes mixed_formats.gguf and mixed_formats.f64 beside this file: a random Llama with a matrix or two in each of GGUF's
weight formats, and its logits by Hugging Face transformers in float64, from the weights that PyPI `gguf` decodes; and
low_bit_formats.gguf and .f64, which are the same for formats that came later.

    pip install numpy torch transformers gguf && python tests/golden/mixed_formats.py

Blocks are random bytes, with scales that keep the size of what is multiplied with them. The file holds little-endian
f64 logits (n_tokens, vocab_size).
"""
import pathlib

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter

from ggml_blocks import FORMATS, dequantize, put_half
from hugging_face import Shape, hugging_face_logits


class NarrowHeads(Shape):
    head_dim = 32  # less than dim / n_heads, so that most matrices are small


SHAPE = NarrowHeads(dim=256, hidden_dim=64, n_layers=2, n_heads=2, n_kv_heads=1, vocab_size=72, max_seq_len=32, tied=False)
# `TOKENS` in tests/logits/formats.rs must be equal to this.
TOKENS = [1, 71, 30, 2, 30, 0, 55, 64, 13, 7]

# Of each file, GGUF's names of the matrices: (format, rows, columns)
FILES = {
    "mixed_formats": {
        "token_embd": ("IQ4_NL", 72, 256),
        "blk.0.attn_q": ("Q2_K", 64, 256),
        "blk.0.attn_k": ("F16", 32, 256),
        "blk.0.attn_v": ("Q8_0", 32, 256),
        "blk.0.attn_output": ("Q4_0", 256, 64),
        "blk.0.ffn_gate": ("Q3_K", 64, 256),
        "blk.0.ffn_down": ("Q4_1", 256, 64),
        "blk.0.ffn_up": ("Q4_K", 64, 256),
        "blk.1.attn_q": ("Q5_K", 64, 256),
        "blk.1.attn_k": ("BF16", 32, 256),
        "blk.1.attn_v": ("F32", 32, 256),
        "blk.1.attn_output": ("Q5_0", 256, 64),
        "blk.1.ffn_gate": ("Q6_K", 64, 256),
        "blk.1.ffn_down": ("Q5_1", 256, 64),
        "blk.1.ffn_up": ("IQ4_XS", 64, 256),
        "output": ("Q6_K", 72, 256),
    },
    "low_bit_formats": {
        "token_embd": ("IQ1_M", 72, 256),
        "blk.0.attn_q": ("IQ2_XXS", 64, 256),
        "blk.0.attn_k": ("IQ2_XS", 32, 256),
        "blk.0.attn_v": ("IQ1_S", 32, 256),
        "blk.0.attn_output": ("MXFP4", 256, 64),
        "blk.0.ffn_gate": ("IQ2_S", 64, 256),
        "blk.0.ffn_down": ("MXFP4", 256, 64),
        "blk.0.ffn_up": ("IQ3_XXS", 64, 256),
        "blk.1.attn_q": ("IQ3_S", 64, 256),
        "blk.1.attn_k": ("TQ1_0", 32, 256),
        "blk.1.attn_v": ("TQ2_0", 32, 256),
        "blk.1.attn_output": ("MXFP4", 256, 64),
        "blk.1.ffn_gate": ("IQ1_M", 64, 256),
        "blk.1.ffn_down": ("MXFP4", 256, 64),
        "blk.1.ffn_up": ("IQ2_XS", 64, 256),
        "output": ("IQ3_S", 72, 256),
    },
}
NORMS = ["blk.0.attn_norm", "blk.0.ffn_norm", "blk.1.attn_norm", "blk.1.ffn_norm", "output_norm"]
METAS_NAMES = {
    "token_embd": "tok_embeddings", "output_norm": "norm", "output": "output", "attn_norm": "attention_norm",
    "attn_q": "wq", "attn_k": "wk", "attn_v": "wv", "attn_output": "wo", "ffn_norm": "ffn_norm",
    "ffn_gate": "w1", "ffn_down": "w2", "ffn_up": "w3",
}  # fmt: skip


def random_matrix(rng, name, rows, n):
    """(rows, bytes of a row): weights of mean 0 and about variance 1/n."""
    floats = rng.normal(0, n**-0.5, (rows, n)).astype("<f4")
    match name:
        case "F32":
            return floats.view(np.uint8)
        case "F16":
            return floats.astype("<f2").view(np.uint8)
        case "BF16":
            return np.ascontiguousarray(floats.view("<u2")[:, 1::2]).view(np.uint8)
    weights, size = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    _, halves = FORMATS[name]
    blocks = rng.integers(0, 256, (rows * n // weights, size), np.uint8)
    if name == "MXFP4":  # Integers are about 6, and scales 2 ** (e - 128).
        blocks[:, 0] = rng.integers(125, 127, len(blocks)) - round(np.log2(n) / 2)
        return blocks.reshape(rows, -1)

    def scaled(*scales):
        for at, scale in zip(halves, scales):
            put_half(blocks, at, scale)
        return dequantize(blocks, name)

    scales = [1.0]
    if len(halves) == 2:  # the minimum that takes the mean off
        positive, offset = scaled(1.0, 0.0).mean(), scaled(0.0, 1.0).mean()
        scales = [1.0, -positive / offset]
    size = rng.uniform(0.5, 1.5, len(blocks)) * rng.choice([-1, 1], len(blocks))
    size /= scaled(*scales).std() * n**0.5
    scaled(*(scale * size for scale in scales))
    return blocks.reshape(rows, -1)


def metas_name(name):
    *layer, name = name.removeprefix("blk.").split(".")
    return ".".join([*layer, METAS_NAMES[name]])


def write(path, matrices):
    rng = np.random.default_rng(3)
    file, model = GGUFWriter(path.with_suffix(".gguf"), "llama"), {}
    file.add_context_length(SHAPE.max_seq_len)
    file.add_embedding_length(SHAPE.dim)
    file.add_feed_forward_length(SHAPE.hidden_dim)
    file.add_block_count(SHAPE.n_layers)
    file.add_head_count(SHAPE.n_heads)
    file.add_head_count_kv(SHAPE.n_kv_heads)
    file.add_key_length(SHAPE.head_dim)
    file.add_value_length(SHAPE.head_dim)
    file.add_rope_dimension_count(SHAPE.head_dim)
    file.add_layer_norm_rms_eps(1e-5)
    file.add_vocab_size(SHAPE.vocab_size)
    file.add_tokenizer_model("none")
    for name, (kind, rows, n) in matrices.items():
        data = random_matrix(rng, kind, rows, n)
        weights, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
        decoded = dequantize(data.reshape(-1, size), kind).reshape(rows, n)
        print(f"{name}: {kind}, mean {decoded.mean() * n**0.5:.3f}, deviation {decoded.std() * n**0.5:.3f}")
        file.add_tensor(f"{name}.weight", data, raw_dtype=GGMLQuantizationType[kind])
        model[metas_name(name)] = decoded
    for name in NORMS:
        norm = rng.uniform(0.75, 1.25, SHAPE.dim).astype("<f4")
        file.add_tensor(f"{name}.weight", norm)
        model[metas_name(name)] = norm
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    logits = hugging_face_logits(SHAPE, model, TOKENS, 1e-5, 1e4)
    logits.astype("<f8").tofile(path.with_suffix(".f64"))
    print(f"{logits.shape}, standard deviation {logits.std():.3f}")


if __name__ == "__main__":
    for name, matrices in FILES.items():
        write(pathlib.Path(__file__).with_name(name), matrices)
