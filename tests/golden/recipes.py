"""Writes recipes.txt beside this file: which type llama.cpp gives each matrix, for models of several shapes and all file types.

    pip install numpy gguf llama-cpp-python==0.3.36 && python tests/golden/recipes.py

Two lines for each model and recipe, without an importance matrix and with one: the model's name, the recipe, which of the two,
`general.file_type`, the type of most matrices, and what the others are: `attn_v=Q6_K@0,1,4` is layers 0, 1 and 4. Takes some minutes: all models are quantised in earnest.
"""
import collections
import ctypes
import pathlib
import re
import tempfile

import gguf
import llama_cpp
import numpy as np

# `SHAPES` in src/convert/recipe/tests.rs must be equal to this table.
# name: (dim, hidden_dim, n_layers, n_heads, n_kv_heads, tied)
SHAPES = {
    "gqa_22": (256, 512, 22, 8, 2, False),
    "mha_32": (256, 256, 32, 4, 4, False),
    "gqa_80": (256, 256, 80, 8, 1, False),
    "mha_80": (256, 256, 80, 8, 8, False),
    "gqa_5": (256, 512, 5, 4, 2, False),
    "gqa8_24": (256, 512, 24, 16, 2, False),
    "tied_9": (256, 512, 9, 4, 2, True),
    "tied_576": (576, 1536, 30, 9, 3, True),
    "mha_288": (288, 768, 6, 6, 6, False),
    "gqa_64": (64, 96, 10, 4, 2, False),
    "mha_48": (48, 80, 3, 3, 3, False),
}
RECIPES = {
    "F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7, "Q4_0": 2, "Q4_1": 3, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K_S": 11,
    "Q3_K_M": 12, "Q3_K_L": 13, "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_S": 16, "Q5_K_M": 17, "Q6_K": 18, "TQ1_0": 36, "TQ2_0": 37,
}  # fmt: skip
VOCAB_SIZE = 64


def write(path, dim, hidden_dim, n_layers, n_heads, n_kv_heads, tied):
    """A model of F16 noise."""
    rng = np.random.default_rng(1)
    head_dim = dim // n_heads
    w = gguf.GGUFWriter(path, "llama")
    w.add_context_length(2048)
    w.add_embedding_length(dim)
    w.add_block_count(n_layers)
    w.add_feed_forward_length(hidden_dim)
    w.add_head_count(n_heads)
    w.add_head_count_kv(n_kv_heads)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_dimension_count(head_dim)
    w.add_vocab_size(VOCAB_SIZE)
    w.add_tokenizer_model("llama")
    w.add_token_list(["<unk>", "<s>", "</s>"] + [f"t{i}" for i in range(3, VOCAB_SIZE)])
    w.add_token_scores([0.0] * VOCAB_SIZE)
    w.add_token_types([2, 3, 3] + [1] * (VOCAB_SIZE - 3))

    def matrix(name, *shape):
        w.add_tensor(f"{name}.weight", (rng.standard_normal(shape, np.float32) * 0.02).astype(np.float16))

    def norm(name):
        w.add_tensor(f"{name}.weight", np.ones(dim, np.float32))

    matrix("token_embd", VOCAB_SIZE, dim)
    norm("output_norm")
    if not tied:
        matrix("output", VOCAB_SIZE, dim)
    for i in range(n_layers):
        norm(f"blk.{i}.attn_norm")
        norm(f"blk.{i}.ffn_norm")
        matrix(f"blk.{i}.attn_q", dim, dim)
        matrix(f"blk.{i}.attn_k", n_kv_heads * head_dim, dim)
        matrix(f"blk.{i}.attn_v", n_kv_heads * head_dim, dim)
        matrix(f"blk.{i}.attn_output", dim, dim)
        matrix(f"blk.{i}.ffn_gate", hidden_dim, dim)
        matrix(f"blk.{i}.ffn_up", hidden_dim, dim)
        matrix(f"blk.{i}.ffn_down", dim, hidden_dim)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def quantize(source, target, file_type, by_importance):
    """By importance: the matrix has a tensor that the model hasn't, as choices depend on whether there is a matrix at all."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = file_type
    one = (ctypes.c_float * 1)(1.0)
    matrix = (llama_cpp.llama_model_imatrix_data * 2)()
    matrix[0].name, matrix[0].data, matrix[0].size = b"other", ctypes.cast(one, ctypes.POINTER(ctypes.c_float)), 1
    if by_importance:
        params.imatrix = matrix
    assert llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params)) == 0


def describe(path):
    """The file's type, the type of most matrices, and which are of another."""
    reader = gguf.GGUFReader(path)
    types = {t.name.removesuffix(".weight"): t.tensor_type.name for t in reader.tensors if len(t.shape) > 1}
    most = collections.Counter(types.values()).most_common(1)[0][0]
    others = {}
    for name, kind in types.items():
        if kind != most:
            layer, matrix = re.fullmatch(r"(?:blk\.(\d+)\.)?(.*)", name).groups()
            others.setdefault((matrix, kind), []).append(layer)
    words = [str(int(reader.fields["general.file_type"].parts[-1][0])), most]
    for (matrix, kind), layers in sorted(others.items()):
        at = "" if layers == [None] else "@" + ",".join(str(i) for i in sorted(int(i) for i in layers))
        words.append(f"{matrix}={kind}{at}")
    return " ".join(words)


if __name__ == "__main__":
    quiet = llama_cpp.llama_log_callback(lambda level, text, user: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    out = pathlib.Path(__file__).with_name("recipes.txt")
    with tempfile.TemporaryDirectory() as folder, open(out, "w") as lines:
        source, target = f"{folder}/source.gguf", f"{folder}/target.gguf"
        for name, shape in SHAPES.items():
            write(source, *shape)
            for recipe, file_type in RECIPES.items():
                for column, by_importance in [("plain", False), ("by_importance", True)]:
                    quantize(source, target, file_type, by_importance)
                    lines.write(f"{name} {recipe} {column} {describe(target)}\n")
