"""Writes ggml_blocks.bin beside this file: blocks of every GGUF weight format, and what PyPI `gguf` decodes them to; and
ggml_blocks.hashes: of each format, a hash of what random bytes decode to.

    pip install numpy gguf && python tests/golden/ggml_blocks.py

For each format of FORMATS in turn: its blocks, then their weights as little-endian f32. The blocks are random bytes,
except for the half-precision numbers among them: those take every value of SCALES and then ordinary ones.
Each line of the hashes is a format's name and, of its blocks of RANDOM_BYTES bytes, the sum of `mixed` numbers of their weights.
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
    "IQ2_XXS": (24, [0]),
    "IQ2_XS": (24, [0]),
    "IQ2_S": (24, [0]),
    "IQ3_XXS": (24, [0]),
    "IQ3_S": (24, [0]),
    "IQ1_S": (24, [0]),
    "IQ1_M": (24, [48]),  # a nibble in each of four words: see `put_half`
    "TQ1_0": (24, [52]),
    "TQ2_0": (24, [64]),
    "MXFP4": (48, []),
}

# The bits of: zeros, the least and the greatest subnormal, the least normal number, the greatest, infinities, NaN.
SCALES = [0, 0x8000, 1, 0x8001, 0x3FF, 0x83FF, 0x400, 0x8400, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00]


# As many as every point of every grid needs, several times over.
RANDOM_BYTES = 1 << 17


def put_half(blocks, at, halves):
    """Writes half-precision numbers (n) into blocks (n, size). IQ1_M's, of 56 bytes, have a nibble in each of four words."""
    halves = np.broadcast_to(halves, len(blocks)).astype("<f2").view("<u2")
    if blocks.shape[1] != 56:
        blocks[:, at : at + 2] = halves[:, None].view(np.uint8)
        return
    for i in range(4):
        blocks[:, at + 2 * i + 1] = blocks[:, at + 2 * i + 1] & 15 | (halves >> 4 * i & 15) << 4


def blocks(rng, n, size, halves):
    """(n, size) bytes"""
    out = rng.integers(0, 256, (n, size), np.uint8)
    for place, at in enumerate(halves):
        ordinary = rng.normal(0, 0.01, n).astype("<f2").view("<u2")
        # A second number starts elsewhere, so that it isn't always the first's equal.
        ordinary[: len(SCALES)] = np.roll(SCALES, 5 * place)
        put_half(out, at, ordinary.view("<f2"))
    return out


def dequantize(data, name):
    """(n, weights of a block) float32, of (n, bytes of a block)"""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        return quants.dequantize(data, GGMLQuantizationType[name]).astype("<f4")


def mixed(x):
    """The finalizer of SplitMix64."""
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9
    x = (x ^ x >> 27) * 0x94D049BB133111EB
    return x ^ x >> 31


def random_hash(name):
    """Of what random bytes decode to. All NaN are the same."""
    weights, size = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    words = mixed((np.arange(RANDOM_BYTES // 8, dtype=np.uint64) + 1) * 0x9E3779B97F4A7C15)
    data = words.astype("<u8").view(np.uint8)[: RANDOM_BYTES // size * size].reshape(-1, size)
    decoded = dequantize(data.copy(), name).ravel()
    bits = np.where(np.isnan(decoded), np.uint32(0x7FC00000), decoded.view("<u4")).astype(np.uint64)
    with np.errstate(over="ignore"):
        return int(mixed(bits | np.arange(len(bits), dtype=np.uint64) << 32).sum(dtype=np.uint64))


if __name__ == "__main__":
    hashes = "".join(f"{name} {random_hash(name):016x}\n" for name in FORMATS)
    pathlib.Path(__file__).with_name("ggml_blocks.hashes").write_text(hashes)
    rng = np.random.default_rng(1)
    with open(pathlib.Path(__file__).with_name("ggml_blocks.bin"), "wb") as out:
        for name, (n, halves) in FORMATS.items():
            data = blocks(rng, n, GGML_QUANT_SIZES[GGMLQuantizationType[name]][1], halves)
            weights = dequantize(data, name)
            out.write(data.tobytes() + weights.tobytes())
            print(f"{name}: {n} blocks, {np.isnan(weights).mean():.0%} of the weights are NaN")
