"""Writes lora.json and lora.f64 beside this file: adapters for models of architectures.json, and the logits of what PEFT's
merge_and_unload makes of both, in float64.

    pip install numpy torch transformers peft && python tests/golden/lora.py

lora.json has each adapter's adapter_config.json and the shapes of its tensors, under the names that PEFT saves. Their numbers
tests/convert/lora.rs makes from the same generator, in the order of their names. lora.f64 has, for each case, the logits of every
5th token after each of TOKENS: little-endian f64 (24, 8). lora_adapter.bin is the adapter of the case BIN as PEFT saves it without
safetensors.
"""
import copy
import json
import math
import pathlib
import tempfile

import numpy as np
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

from architectures import CASES as BASES, build
from hugging_face import SplitMix64

HERE = pathlib.Path(__file__).parent
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
LINEAR = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]

# The base, and the adapters that are merged into it in turn.
CASES = {
    "all linear layers": ("llama with biases", [dict(r=4, lora_alpha=8, target_modules=LINEAR)]),
    "odd heads, a regular expression": (
        "llama with biases of attention", [dict(r=3, lora_alpha=5, target_modules=r".*\.(q|k|v)_proj", use_rslora=True)]
    ),
    "biases": ("llama with biases", [dict(r=2, target_modules=ATTENTION, bias="all")]),
    "a bias of B": ("llama with biases", [dict(r=2, target_modules=ATTENTION, lora_bias=True)]),
    "patterns": (
        "qwen2",
        [
            dict(
                r=4, lora_alpha=16, target_modules=["q_proj", "down_proj", "k_proj"], rank_pattern={"down_proj": 7},
                alpha_pattern={r"layers\.1\.self_attn\.q_proj": 3, "model.layers.0.mlp.down_proj": 40},
            )
        ],
    ),
    "embeddings and classifier": (
        "qwen2 untied", [dict(r=5, lora_alpha=2, target_modules=["embed_tokens", "lm_head", "v_proj"])]
    ),
    "modules to save": (
        "mistral with a window",
        [dict(r=2, target_modules=["q_proj", "o_proj"], modules_to_save=["lm_head", "embed_tokens", "norm"])],
    ),
    "dora": ("qwen3 untied with biases", [dict(r=4, lora_alpha=8, target_modules=LINEAR, use_dora=True)]),
    "dora in pairs": (
        "granite", [dict(r=2, target_modules=LINEAR, use_dora=True), dict(r=3, target_modules=ATTENTION, use_dora=True)]
    ),
    "fused layers": (
        "phi3 with a window", [dict(r=4, lora_alpha=7, target_modules=["qkv_proj", "gate_up_proj", "down_proj"])]
    ),
    "fused layers with dora": ("phi3 with a window", [dict(r=1, target_modules=["qkv_proj"], use_dora=True)]),
    "several": (
        "smollm3", [dict(r=2, target_modules=LINEAR), dict(r=6, lora_alpha=3, target_modules=["q_proj", "k_proj"])]
    ),
}
BIN = "fused layers with dora"


def numbers(name, shape, rng):
    uniform = rng.uniform(shape)
    if "magnitude" in name or name.endswith("norm.weight"):
        return np.float32(1) + uniform * np.float32(0.25)
    # Products that are smaller than the base's weights, as those of adapters are.
    factor = 0.25 if ".lora_" in name else 1.0
    return uniform * np.float32(factor * math.sqrt(3.0 / shape[-1]))


def merge(model, adapters, saved, bin_path=None):
    for i, adapter in enumerate(adapters):
        config = LoraConfig(task_type="CAUSAL_LM", init_lora_weights=True, **adapter)
        name = f"adapter{i}"
        if i == 0:
            model = get_peft_model(model, config, adapter_name=name)
        else:
            model.add_adapter(name, config)
        model.double()
        state = get_peft_model_state_dict(model, adapter_name=name)
        rng = SplitMix64(11 + i)
        state = {key: torch.from_numpy(numbers(key, tuple(state[key].shape), rng)) for key in sorted(state)}
        set_peft_model_state_dict(model, {key: value.double() for key, value in state.items()}, adapter_name=name)
        said = {key: list(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
        shapes = {key: list(value.shape) for key, value in state.items()}
        saved.append(dict(config=json.loads(json.dumps(said, default=str)), tensors=shapes))
        if bin_path:
            with tempfile.TemporaryDirectory() as folder:
                copy.deepcopy(model).float().save_pretrained(folder, safe_serialization=False, selected_adapters=[name])
                bin_path.write_bytes((pathlib.Path(folder) / name / "adapter_model.bin").read_bytes())
    merged = model.merge_and_unload(adapter_names=[f"adapter{i}" for i in range(len(adapters))])
    return merged.eval()


if __name__ == "__main__":
    cases = {}
    with open(HERE / "lora.f64", "wb") as out:
        for at, (name, (base, adapters)) in enumerate(CASES.items()):
            saved = []
            bin_path = HERE / "lora_adapter.bin" if name == BIN else None
            _, _, logits = build(BASES[base], lambda model: merge(model, adapters, saved, bin_path))
            _, _, before = build(BASES[base])
            cases[name] = dict(at=at, base=base, adapters=saved)
            print(f"{name}: standard deviation {logits.std():.3f}, of the change {(logits - before).std():.3f}")
            out.write(logits[:, ::5].astype("<f8").tobytes())
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(case)}" for name, case in cases.items())
    (HERE / "lora.json").write_text("{\n" + lines + "\n}\n")
