"""Random models of every family with attention that is not flat, and batches that are padded on the left."""

from types import SimpleNamespace

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from sparsity_edu.kv_cache import ATTENTION
from sparsity_edu.kv_cache.policy import attend

FAMILIES = {
    "llama": (LlamaConfig, {}),
    "smollm2": (
        LlamaConfig,
        {"tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0}},
    ),
    "llama3": (
        LlamaConfig,
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        },
    ),
    "mistral": (MistralConfig, {"sliding_window": None}),
    "mistral, sliding": (MistralConfig, {"sliding_window": 21}),
    "qwen2": (Qwen2Config, {}),
    "qwen2, hybrid": (
        Qwen2Config,
        {
            "use_sliding_window": True,
            "sliding_window": 17,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        },
    ),
    "qwen3": (Qwen3Config, {}),
}
VOCABULARY, LENGTH = 101, 24


def small_model(family="llama", attention=ATTENTION, seed=0):
    """Three layers, six query heads and two of keys."""
    config, more = FAMILIES[family]
    sizes = dict(
        vocab_size=VOCABULARY,
        hidden_size=42,
        intermediate_size=56,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config(**sizes | more), attn_implementation=attention).eval()
    with torch.no_grad():
        model.get_input_embeddings().weight[0].normal_(std=0.02)  # not zero, or all scores of a query tie
        for name, weight in model.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                weight.mul_(14)
            elif weight.ndim == 2:
                weight.mul_(4)
            elif name.endswith("bias"):
                weight.normal_()
    return model


def batch(padded=True, length=LENGTH, seed=1):
    """input_ids and, if wanted, a mask: rows of full, 5/8 and 1/4 length."""
    ids = torch.randint(1, VOCABULARY, (3, length), generator=torch.Generator().manual_seed(seed))
    if not padded:
        return {"input_ids": ids}
    mask = torch.arange(length) >= torch.tensor([[0], [3 * length // 8], [3 * length // 4]])
    return {"input_ids": ids * mask, "attention_mask": mask.long()}


def unpadded(given, row):
    """A row by itself."""
    keep = given["attention_mask"][row].bool()
    return {"input_ids": given["input_ids"][row : row + 1, keep]}


def written(model, given, cache, count=20, **options):
    """New tokens (batch, count) and their logits."""
    torch.manual_seed(3)
    out = model.generate(
        **given,
        past_key_values=cache,
        max_new_tokens=count,
        return_dict_in_generate=True,
        output_logits=True,
        **{"do_sample": False} | options,
    )
    return out.sequences[:, given["input_ids"].shape[1] :], torch.stack(out.logits, 1)


def module(heads, kv_heads, layer=5, **config):
    """What an attention function needs to know of a layer."""
    return SimpleNamespace(
        num_key_value_groups=heads // kv_heads, is_causal=True, layer_idx=layer, config=SimpleNamespace(**config)
    )


def step(cache, q, k, v, mask=None, layer=0, **config):
    """Attention of new tokens through a cache, (batch, heads, q, head_dim)."""
    keys, values = cache.update(k, v, layer)
    of = module(q.shape[1], k.shape[1], layer + 5, **config)
    seen = cache.layers[layer].seen
    ids = torch.arange(seen - q.shape[2], seen)[None]
    return attend(of, q, keys, values, mask, scaling=q.shape[3] ** -0.5, dropout=0.0, position_ids=ids)[0].transpose(1, 2)


def allocated(cache):
    """Bytes of all memory that the layers' tensors keep alive, whatever part of it they use."""
    tensors = [x for layer in cache.layers for x in vars(layer).values() if isinstance(x, torch.Tensor)]
    return sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}.values())
