"""Writes ggml_blocks.bin beside this file: blocks of every GGUF weight format, and what PyPI `gguf` decodes them to.

    pip install numpy gguf && python tests/golden/ggml_blocks.py

For each format of FORMATS in turn: its blocks, then their weights as little-endian f32. The blocks are random bytes,
except for the half-precision numbers among them: those take every value of SCALES and then ordinary ones.
"""
import pathlib
import warnings

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

# `FORMATS` in src/tensor/tests.rs must be equal to this table.
# name: (blocks, where a block has half-precision numbers)
FORMATS = {
    "F32": (64, []),
    "F16": (1024, [0]),
    "BF16": (1024, []),
    "Q8_0": (48, [0]),
    "Q4_0": (48, [0]),
    "Q4_1": (48, [0, 2]),
    "Q5_0": (48, [0]),
    "Q5_1": (48, [0, 2]),
    "Q2_K": (24, [80, 82]),
    "Q3_K": (24, [108]),
    "Q4_K": (24, [0, 2]),
    "Q5_K": (24, [0, 2]),
    "Q6_K": (24, [208]),
    "IQ4_NL": (48, [0]),
    "IQ4_XS": (24, [0]),
}

# The bits of: zeros, the least and the greatest subnormal, the least normal number, the greatest, infinities, NaN.
SCALES = [0, 0x8000, 1, 0x8001, 0x3FF, 0x83FF, 0x400, 0x8400, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00]


def blocks(rng, n, size, halves):
    """(n, size) bytes"""
    out = rng.integers(0, 256, (n, size), np.uint8)
    for place, at in enumerate(halves):
        ordinary = rng.normal(0, 0.01, n).astype("<f2").view("<u2")
        # A second number starts elsewhere, so that it isn't always the first's equal.
        ordinary[: len(SCALES)] = np.roll(SCALES, 5 * place)
        out[:, at : at + 2] = ordinary[:, None].view(np.uint8)
    return out


def dequantize(data, name):
    """(n, weights of a block) float32, of (n, bytes of a block)"""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        return quants.dequantize(data, GGMLQuantizationType[name]).astype("<f4")


if __name__ == "__main__":
    rng = np.random.default_rng(1)
    with open(pathlib.Path(__file__).with_name("ggml_blocks.bin"), "wb") as out:
        for name, (n, halves) in FORMATS.items():
            data = blocks(rng, n, GGML_QUANT_SIZES[GGMLQuantizationType[name]][1], halves)
            weights = dequantize(data, name)
            out.write(data.tobytes() + weights.tobytes())
            print(f"{name}: {n} blocks, {np.isnan(weights).mean():.0%} of the weights are NaN")
