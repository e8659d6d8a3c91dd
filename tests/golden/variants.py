"""Variants of config.json and of what is stored, and the logits that transformers computes with them.

Each is the model in published/llama3 with other settings, with a classifier of its own, or both. variants.json says which;
variants.f64 holds, for each, the logits of every 11th token after each of the tokens: little-endian f64 (8, 32).

ckpt.pt is a model that llama2.c saved while it trained.
"""
import json, os, pathlib, shutil, sys, tempfile
os.environ['HF_HUB_OFFLINE'] = '1'
import numpy as np, torch, transformers
from safetensors.torch import load_file, save_file

HERE = pathlib.Path(__file__).resolve().parent
BASE = HERE / 'published' / 'llama3'
TOKENS = [1, 351, 7, 260, 150, 7, 288, 0]
LLAMA3 = dict(rope_type='llama3', factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
YARN = dict(rope_type='yarn', factor=4.0, original_max_position_embeddings=16)
MISTRAL = dict(model_type='mistral', architectures=['MistralForCausalLM'])

def rope(**scaling):
    return dict(drop=['rope_parameters', 'rope_theta'], set=dict(rope_scaling=scaling))

VARIANTS = {
    'as it is': {},
    'a classifier that is not tied': dict(set=dict(tie_word_embeddings=False), lm_head='other'),
    'a classifier that differs though it is said to be tied': dict(set=dict(tie_word_embeddings=True), lm_head='other'),
    'a classifier that is stored twice': dict(set=dict(tie_word_embeddings=True), lm_head='same'),
    'theta in rope_scaling': rope(**LLAMA3, rope_theta=5e5, original_max_position_embeddings=16),
    'theta in rope_scaling of no kind': rope(rope_type='default', rope_theta=5e5),
    'theta inside and outside': dict(drop=['rope_parameters'], set=dict(rope_theta=77.0, rope_scaling=dict(rope_type='linear', factor=2.0, rope_theta=5e5))),
    'theta outside': dict(drop=['rope_parameters'], set=dict(rope_theta=77.0, rope_scaling=dict(type='linear', factor=2.0))),
    'theta nowhere': dict(drop=['rope_parameters', 'rope_scaling', 'rope_theta']),
    'rope_scaling before rope_parameters': dict(set=dict(rope_scaling=dict(rope_type='linear', factor=2.0, rope_theta=300.0), rope_parameters=dict(rope_type='linear', factor=8.0, rope_theta=5e5))),
    'rope_parameters beside an empty rope_scaling': dict(set=dict(rope_scaling={}, rope_parameters=dict(rope_type='linear', factor=8.0, rope_theta=5e5))),
    'the original context outside': dict(drop=['rope_parameters'], set=dict(rope_theta=5e5, original_max_position_embeddings=16, rope_scaling=LLAMA3)),
    'the original context outside and inside': dict(drop=['rope_parameters'], set=dict(rope_theta=5e5, original_max_position_embeddings=16, rope_scaling=dict(**LLAMA3, original_max_position_embeddings=4))),
    'the original context nowhere': dict(drop=['rope_parameters'], set=dict(rope_theta=5e5, rope_scaling=LLAMA3)),
    'no context': dict(drop=['max_position_embeddings', 'rope_parameters'], set=dict(rope_theta=5e5, rope_scaling=dict(rope_type='yarn', factor=4.0))),
    'yarn': rope(**YARN),
    'yarn with mscale alone': rope(**YARN, mscale=0.7),
    'yarn with equal mscales': rope(**YARN, mscale=0.7, mscale_all_dim=0.7),
    'yarn with other mscales': rope(**YARN, mscale=1.0, mscale_all_dim=0.4),
    'yarn with an mscale of 0': rope(**YARN, mscale=0.0, mscale_all_dim=0.7),
    'yarn with an attention factor': rope(**YARN, attention_factor=1.5, mscale=1.0, mscale_all_dim=0.4),
    'yarn with betas': rope(**YARN, beta_fast=4.0, beta_slow=1e-4),
    'yarn with betas of 0': rope(**YARN, beta_fast=0, beta_slow=0),
    'yarn whose factor is null': rope(rope_type='yarn', factor=None, original_max_position_embeddings=16, attention_factor=1.25),
    'dynamic': rope(rope_type='dynamic', factor=4.0),
    'settings that are not read': dict(set=dict(initializer_range=0.5, attention_dropout=0.5, pretraining_tp=2)),
    'no eps': dict(drop=['rms_norm_eps']),
    'Mistral with a window': dict(set=dict(**MISTRAL, sliding_window=8)),
    'Mistral with a window in no layer': dict(set=dict(**MISTRAL, sliding_window=4, layer_types=['full_attention'] * 2)),
    'Mistral without a window': dict(set=dict(**MISTRAL, sliding_window=None)),
    'a window that a Llama does not have': dict(set=dict(sliding_window=4)),
}

def classifier(kind, embeddings):
    if kind == 'same':
        return embeddings.clone()
    i = torch.arange(embeddings.numel(), dtype=torch.int64)
    return ((i * 37 % 101 - 50).double() / 256).to(torch.bfloat16).reshape(embeddings.shape)

def logits(variant):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder) / 'model'
        shutil.copytree(BASE, folder)
        config = json.loads((folder / 'config.json').read_text())
        for key in variant.get('drop', []): config.pop(key, None)
        config.update(variant.get('set', {}))
        (folder / 'config.json').write_text(json.dumps(config))
        tensors = {}
        for file in sorted(folder.glob('*.safetensors')):
            tensors.update(load_file(file)); file.unlink()
        (folder / 'model.safetensors.index.json').unlink()
        if 'lm_head' in variant:
            tensors['lm_head.weight'] = classifier(variant['lm_head'], tensors['model.embed_tokens.weight'])
        save_file(tensors, folder / 'model.safetensors', {'format': 'pt'})
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation='eager').eval()
        with torch.no_grad():
            return model(torch.tensor([TOKENS]), use_cache=False).logits[0].double().numpy()[:, ::11]

def training():
    """What llama2.c's train.py saves, with the weights of published/meta_1: names that torch.compile changed, and an
    optimizer's state beside them."""
    weights = torch.load(HERE / 'published' / 'meta_1' / 'consolidated.00.pth')
    params = json.loads((HERE / 'published' / 'meta_1' / 'params.json').read_text())
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([parameter], lr=5e-4, betas=(0.9, 0.95))
    parameter.sum().backward()
    optimizer.step()
    arguments = dict(dim=params['dim'], n_layers=params['n_layers'], n_heads=params['n_heads'], n_kv_heads=params['n_kv_heads'],
                     vocab_size=352, multiple_of=params['multiple_of'], max_seq_len=64, dropout=0.0)
    torch.save({
        'model': {'_orig_mod.' + name: tensor for name, tensor in weights.items()},
        'optimizer': optimizer.state_dict(),
        'model_args': arguments,
        'iter_num': 1000,
        'best_val_loss': torch.tensor(1.25),
        'config': dict(out_dir='out', eval_only=False, learning_rate=5e-4),
    }, HERE / 'ckpt.pt')


if __name__ == '__main__':
    # Readers may sort the names, so each variant says its place.
    placed = {name: dict(at=at, **variant) for at, (name, variant) in enumerate(VARIANTS.items())}
    (HERE / 'variants.json').write_text(json.dumps(placed, indent=1) + '\n')
    with open(HERE / 'variants.f64', 'wb') as out:
        for name, variant in VARIANTS.items():
            found = logits(variant).astype('<f8')
            assert found.shape == (8, 32), found.shape
            print(name, found.std())
            out.write(found.tobytes())
    training()
