"""Writes k_quants.bin beside this file: weights, and what ggml's reference quantizers make of them; and
k_quants_by_importance.bin: how much each column counts, and what they make of the same weights then.

    pip install numpy llama-cpp-python==0.3.36 && python tests/golden/k_quants.py

BLOCKS blocks of 256 weights as little-endian f32, or 256 importances, and then for each format of FORMATS in turn, and by importance of
SHORT_FORMATS too, the bytes of all blocks.
"""
import ctypes
import pathlib

import llama_cpp
import numpy as np

# name: (its number in ggml, bytes of a block). `K_QUANTS` in src/convert/quantize/tests.rs must be equal to this table.
FORMATS = {"Q2_K": (10, 84), "Q3_K": (11, 110), "Q4_K": (12, 144), "Q5_K": (13, 176), "Q6_K": (14, 210)}

# The same of formats with blocks of 32, eight of them together: `quantized.bin` has their bytes without importances. `SHORT` there.
SHORT_FORMATS = {"Q4_0": (2, 144), "Q4_1": (3, 160), "Q5_0": (6, 176), "Q5_1": (7, 192)}


def blocks():
    """(n, 256) float32: what weights are like, and what they seldom are"""
    rng = np.random.default_rng(3)
    rows = [rng.normal(0, 0.02, 256) for _ in range(6)]
    rows += [rng.standard_t(4, 256) * 0.02 for _ in range(6)]
    rows += [rng.laplace(0, 0.1, 256) for _ in range(2)]
    rows.append(rng.uniform(-1, 1, 256))
    rows.append(rng.uniform(0.5, 1, 256))  # no zero among them, nor between them
    rows.append(rng.uniform(-1, -0.5, 256))
    rows.append(rng.normal(0, 0.02, 256) * (rng.random(256) < 0.1))  # mostly zeros
    rows.append(rng.normal(0, 1, 256) * np.repeat(10.0 ** np.linspace(-3, 1, 16), 16))  # of many sizes
    rows.append(np.where(np.arange(256) == 100, 3.0, rng.normal(0, 0.02, 256)))  # one far away
    return np.array(rows, dtype="<f4")


if __name__ == "__main__":
    ggml = ctypes.CDLL(next((pathlib.Path(llama_cpp.__file__).parent / "lib").glob("libggml-base.*")))
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    weights = blocks()
    importances = np.random.default_rng(4).lognormal(0, 1.5, 256).astype("<f4")
    with_short = FORMATS | SHORT_FORMATS
    for name, first, columns, formats in [
        ("", weights, None, FORMATS),
        ("_by_importance", importances, importances.ctypes.data, with_short),
    ]:
        with open(pathlib.Path(__file__).with_name(f"k_quants{name}.bin"), "wb") as out:
            out.write(first.tobytes())
            for number, size in formats.values():
                data, n = np.zeros((len(weights), size), np.uint8), len(weights)
                n = ggml.ggml_quantize_chunk(number, weights.ctypes.data, data.ctypes.data, 0, n, 256, columns)
                assert n == data.size
                out.write(data.tobytes())
