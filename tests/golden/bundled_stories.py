#!/usr/bin/env python3
"""Makes bundled_*.txt again: the greedy stories that llama.cpp (PyPI llama-cpp-python 0.3.36) tells with models/babyllama.gguf.

Only prompts are taken that it follows to the end of the story, with logits that leave no doubt: the likeliest token is always at
least 0.03 ahead, which is more than rounding activations to 8 bits moves them here.
"""
import ctypes
import os

import llama_cpp as lc
import numpy as np

here = os.path.dirname(os.path.abspath(__file__))
quiet = lc.llama_log_callback(lambda *_: None)
lc.llama_log_set(quiet, ctypes.c_void_p(0))
lc.llama_backend_init()
path = os.path.join(here, "../../models/babyllama.gguf")
model = lc.llama_model_load_from_file(path.encode(), lc.llama_model_default_params())
vocab = lc.llama_model_get_vocab(model)
size = lc.llama_vocab_n_tokens(vocab)
params = lc.llama_context_default_params()
params.n_ctx, params.n_threads = 512, 1
context = lc.llama_init_from_model(model, params)


def logits(token):
    one = (lc.llama_token * 1)(token)
    assert lc.llama_decode(context, lc.llama_batch_get_one(one, 1)) == 0
    return np.ctypeslib.as_array(lc.llama_get_logits(context), (size,))


def piece(token):
    text = ctypes.create_string_buffer(64)
    length = lc.llama_token_to_piece(vocab, token, text, 64, 0, False)
    return text.raw[:length]


def story(prompt):
    lc.llama_memory_clear(lc.llama_get_memory(context), True)
    tokens = (lc.llama_token * 512)()
    n = lc.llama_tokenize(vocab, prompt.encode(), len(prompt.encode()), tokens, 512, True, False)
    tokens = list(tokens[:n])
    for token in tokens[:-1]:
        logits(token)
    while True:
        row = logits(tokens[-1])
        second, best = np.sort(row)[-2:]
        assert best - second > 0.03, f"{prompt}: {best - second}"
        token = int(row.argmax())
        if lc.llama_vocab_is_eog(vocab, token):
            return b"".join(map(piece, tokens[1:])).removeprefix(b" ")
        tokens.append(token)


for name, prompt in [("bird", "One day, a bird"), ("small_fish", "A small fish")]:
    with open(os.path.join(here, f"bundled_{name}.txt"), "wb") as out:
        out.write(story(prompt) + b"\n")
