#!/usr/bin/env python3
"""Makes quantized.bin and every_type.gguf again, with PyPI's gguf 0.19.0 and numpy 2.4.6.

quantized.bin: 64 blocks of 32 weights as f32, and then what gguf.quants makes of each of them: 64 bytes of F16, 64 of BF16,
34 of Q8_0, 18 of Q4_0, 20 of Q4_1, 22 of Q5_0, 24 of Q5_1. After them, what it makes of all these weights as MXFP4, TQ1_0 and TQ2_0. every_type.gguf: a value of every type that GGUF has, and tensors of odd sizes.
"""
import os

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

here = os.path.dirname(os.path.abspath(__file__))


def blocks():
    rng = np.random.default_rng(5)
    rows = [rng.standard_normal(32) * 10.0**e for e in np.linspace(-9, 4, 40)]
    rows += [rng.uniform(-1, 1, 32) for _ in range(12)]
    rows.append(np.zeros(32))
    rows.append(np.full(32, -0.0))
    rows.append(np.where(np.arange(32) == 17, 3.0, 0.0))
    rows.append(np.full(32, -2.54))
    # Halves between two steps, up to the largest of 127 and of 63.5 steps.
    rows.append(np.append(np.arange(31) - 15.5, 127.0))
    rows.append(np.append(np.arange(31) - 15.5, -127.0))
    rows.append(np.append((np.arange(31) - 15.0) / 2, 63.5))
    rows.append(np.append(np.arange(31) * 4.0 + 0.5, 127.0))
    rows.append(np.linspace(-65504, 65504, 32))
    # Halves between two f16 and between two bf16.
    rows.append(1 + (2 * np.arange(32) + 1) / 2.0**11)
    rows.append(1 + (2 * np.arange(32) + 1) / 2.0**8)
    rows.append(np.float32(2.0) ** -np.arange(10, 42))
    return np.array(rows, dtype=np.float32)


FORMATS = (Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1)

w = blocks()
assert w.shape == (64, 32)
with open(os.path.join(here, "quantized.bin"), "wb") as out:
    quantized = [gguf.quants.quantize(w, t) for t in FORMATS]
    for i in range(len(w)):
        out.write(w[i].tobytes())
        for q in quantized:
            out.write(q[i].tobytes())
    for t in (Type.MXFP4, Type.TQ1_0, Type.TQ2_0):
        out.write(gguf.quants.quantize(w.reshape(-1), t).tobytes())

f = gguf.GGUFWriter(os.path.join(here, "every_type.gguf"), "example")
f.add_uint8("a.u8", 200)
f.add_int8("a.i8", -100)
f.add_uint16("a.u16", 60000)
f.add_int16("a.i16", -30000)
f.add_uint32("a.u32", 4000000000)
f.add_int32("a.i32", -2000000000)
f.add_uint64("a.u64", 2**64 - 1)
f.add_int64("a.i64", -(2**63))
f.add_float32("a.f32", 0.1)
f.add_float64("a.f64", 0.1)
f.add_bool("a.bool", True)
f.add_string("a.string", "llama \u00e9\U0001f999")
f.add_array("b.strings", ["a", "", "\u2581b"])
f.add_array("b.i32", [1, -2, 3])
f.add_array("b.f32", [0.5, -0.25])
f.add_array("b.bool", [True, False])
f.add_array("b.arrays", [[1, 2], [3]])
f.add_tensor("one", np.arange(1, dtype=np.float32))
f.add_tensor("three.f16", np.arange(3, dtype=np.float16))
f.add_tensor("cube", np.arange(24, dtype=np.float32).reshape(2, 3, 4))
f.add_tensor("q8", gguf.quants.quantize(w[:2].reshape(1, 64), Type.Q8_0), raw_dtype=Type.Q8_0)
f.write_header_to_file()
f.write_kv_data_to_file()
f.write_tensors_to_file()
f.close()
