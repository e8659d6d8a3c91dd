#!/usr/bin/env python3
"""Makes samplers.txt again: what llama.cpp's samplers (PyPI llama-cpp-python 0.3.36) leave of random logits.

    pip install llama-cpp-python==0.3.36 && python tests/golden/samplers.py

A line is one case, its fields separated by tabs. "filters": options by our names, logits, and `token:probability` of what is left
by a chain in llama.cpp's default order. "dry": options, sequence breakers, the text's tokens in models/babyllama.gguf, and
`token:penalty`.
"""
import ctypes
import math
import os
import random

import llama_cpp as lc

here = os.path.dirname(os.path.abspath(__file__))
quiet = lc.llama_log_callback(lambda *_: None)
lc.llama_log_set(quiet, ctypes.c_void_p(0))
lc.llama_backend_init()
params = lc.llama_model_default_params()
params.vocab_only = True
model = lc.llama_model_load_from_file(os.path.join(here, "../../models/babyllama.gguf").encode(), params)
vocab = lc.llama_model_get_vocab(model)
rng = random.Random(26)


def applied(sampler, logits):
    """The tokens that a sampler leaves, with their logits."""
    data = (lc.llama_token_data * len(logits))(*[(i, x, 0.0) for i, x in enumerate(logits)])
    array = lc.llama_token_data_array(data, len(logits), -1, False)
    lc.llama_sampler_apply(sampler, ctypes.byref(array))
    left = [array.data[i] for i in range(array.size)]
    return sorted((t.id, t.logit) for t in left if t.logit > -math.inf)


STAGES = {
    "top_n_sigma": lambda x: lc.llama_sampler_init_top_n_sigma(x),
    "top_k": lambda x: lc.llama_sampler_init_top_k(x),
    "typical_p": lambda x: lc.llama_sampler_init_typical(x, 0),
    "top_p": lambda x: lc.llama_sampler_init_top_p(x, 0),
    "min_p": lambda x: lc.llama_sampler_init_min_p(x, 0),
    "xtc_threshold": lambda x: lc.llama_sampler_init_xtc(1.0, x, 0, 1),
    "temperature": lambda x: lc.llama_sampler_init_temp(x),
}


def filters(out, n, scale, **options):
    logits = [round(rng.gauss(0, scale) * 64) / 64 for _ in range(n)]
    chain = lc.llama_sampler_chain_init(lc.llama_sampler_chain_default_params())
    for name, stage in STAGES.items():
        if name in options:
            lc.llama_sampler_chain_add(chain, stage(options[name]))
    left = applied(chain, logits)
    lc.llama_sampler_free(chain)
    greatest = max(x for _, x in left)
    total = sum(math.exp(x - greatest) for _, x in left)
    named = " ".join(f"{name}={value}" for name, value in options.items())
    kept = " ".join(f"{i}:{math.exp(x - greatest) / total:.7g}" for i, x in left)
    out.write(f"filters\t{named}\t{' '.join(map(str, logits))}\t{kept}\n")


def repetitive(length, alphabet, window):
    """A text that repeats itself, at its end too."""
    text = []
    while len(text) < length:
        if len(text) > 10 and rng.random() < 0.3:
            start = rng.randrange(len(text) - 8)
            text += text[start : start + rng.randrange(2, 8)]
        else:
            text.append(rng.choice(alphabet))
    start = rng.randrange(max(0, len(text) - window), len(text) - 8)
    return text + text[start : start + 6]


def penalties(text, settings, breakers):
    texts = (ctypes.c_char_p * len(breakers))(*[breaker.encode() for breaker in breakers])
    sampler = lc.llama_sampler_init_dry(vocab, *settings, texts, len(breakers))
    for token in text:
        lc.llama_sampler_accept(sampler, token)
    found = [(i, -x) for i, x in applied(sampler, [0.0] * 1024) if x != 0]
    lc.llama_sampler_free(sampler)
    return found


def dry(out, alphabet, *settings, breakers=()):
    multiplier, base, allowed, window = settings
    while True:
        text = repetitive(50, alphabet, window)
        found = penalties(text, settings, breakers)
        if found and (not breakers or found != penalties(text, settings, ())):
            break  # something is penalized, and the breakers matter
    named = f"dry_multiplier={multiplier} dry_base={base} dry_allowed_length={allowed} dry_window={window}"
    escaped = " ".join(breakers).replace("\n", "\\n")
    kept = " ".join(f"{i}:{x:.7g}" for i, x in found)
    out.write(f"dry\t{named}\t{escaped}\t{' '.join(map(str, text))}\t{kept}\n")


with open(os.path.join(here, "samplers.txt"), "w") as out:
    for scale in [1, 3]:
        for n in [0.25, 1.0, 2.5]:
            filters(out, 40, scale, top_n_sigma=n)
        for p in [0.05, 0.3, 0.7, 0.95]:
            filters(out, 40, scale, typical_p=p)
        for t in [0.02, 0.1, 0.3, 0.5]:
            filters(out, 40, scale, xtc_threshold=t)
        # Top-k leaves fewer than top-n-sigma: of a logit of minus infinity, llama.cpp's typical sampling makes an entropy of NaN.
        for t in [0.3, 1.7]:
            filters(out, 40, scale, top_k=12, temperature=t)
            filters(out, 40, scale, top_k=30, min_p=0.03, temperature=t)
            filters(out, 60, scale, typical_p=0.8, top_p=0.9, temperature=t)
            filters(out, 60, scale, top_n_sigma=2.0, top_k=8, typical_p=0.9, top_p=0.95, xtc_threshold=0.05, temperature=t)
    words = [429, 444, 261, 398, 964, 307]
    with_breakers = words[:3] * 5 + [13, 61, 415]
    for multiplier, base, allowed in [(0.8, 1.75, 2), (1.0, 1.0, 1), (2.5, 3.0, 4)]:
        for window in [20, 64]:
            dry(out, words, multiplier, base, allowed, window)
            dry(out, words[:3], multiplier, base, allowed, window)
            for _ in range(2):
                dry(out, with_breakers, multiplier, base, allowed, window, breakers=["\n", ":", '"', "*"])
