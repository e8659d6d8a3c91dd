"""Makes model_cards.jsonl: what llama.cpp's converter (PyPI's gguf) makes of a base model's name.

    pip install gguf && python model_cards.py
"""

import json
import pathlib

from gguf.metadata import Metadata

IDS = """mistralai/Mistral-7B-v0.1 meta-llama/Llama-2-7b-hf meta-llama/Meta-Llama-3.1-8B-Instruct
Qwen/Qwen2.5-0.5B Qwen/Qwen3-0.6B-Base HuggingFaceTB/SmolLM2-135M-Instruct TinyLlama/TinyLlama-1.1B-Chat-v1.0
TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T mistralai/Mixtral-8x7B-Instruct-v0.1 01-ai/Yi-1.5-9B-Chat-16K
ibm-granite/granite-3.1-2b-instruct openbmb/MiniCPM-2B-sft-bf16 microsoft/Phi-3-mini-4k-instruct
microsoft/phi-2 deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B allenai/OLMo-2-1124-7B Qwen/Qwen3-30B-A3B
nvidia/Llama-3_1-Nemotron-51B-Instruct bigscience/bloom-7b1 gpt2 gpt2-xl ./local ../up/model a/b/c /abs/path
roneneldan/TinyStories-33M lmsys/vicuna-7b-v1.5-16k stabilityai/stablelm-2-1_6b some-org/my-model-v2
org/model-iter3-small org/v1.2-model org/model-small-7b-v2 x/Q4_K_M-model-Q8_0 x/y-iq2_x-fp16-v3 a- -b/c--d
https://huggingface.co/mistralai/Mistral-7B-v0.1 https://huggingface.co/a/b/tree/main http://huggingface.co/a/b
https://example.com/model ssh://git@x/y Model\tby\tme openlm-research/open_llama_3b_v2""".split()
IDS += ["A model of mine"]

with open(pathlib.Path(__file__).with_suffix(".jsonl"), "w") as out:
    for id in IDS:
        found = Metadata.apply_metadata_heuristic(Metadata(), {"base_model": id}, None, None, 0)
        print(json.dumps({"id": id, **found.base_models[0]}), file=out)
