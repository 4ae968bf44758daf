"""Small random decoders of every family."""

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

FAMILIES = {
    "llama": (LlamaConfig, {}),
    "llama, biases": (LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
    "mistral": (MistralConfig, {"sliding_window": None}),
    "mistral, sliding": (MistralConfig, {"sliding_window": 9}),
    "qwen2": (Qwen2Config, {}),
    "qwen3": (Qwen3Config, {}),
}
VOCABULARY = 101


def small_model(family="llama", seed=0, act="silu", attention="sdpa", **sizes):
    """Three layers, six query heads and two of keys; attention that is not flat."""
    config, more = FAMILIES[family]
    given = dict(
        vocab_size=VOCABULARY,
        hidden_size=42,
        intermediate_size=56,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=256,
        hidden_act=act,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config(**given | more | sizes), attn_implementation=attention).eval()
    with torch.no_grad():
        model.get_input_embeddings().weight[0].normal_(std=0.02)
        for name, weight in model.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                weight.mul_(14)
            elif weight.ndim == 2:
                weight.mul_(5)
            elif name.endswith("bias"):
                weight.normal_(std=0.3)
    return model


def text(windows=4, length=32, seed=1):
    """Token ids (windows, length)."""
    return torch.randint(1, VOCABULARY, (windows, length), generator=torch.Generator().manual_seed(seed))


def read(model, layers, ids):
    """What layers read in a plain forward pass, by name: (windows, tokens, channels)."""
    seen, handles = {}, []
    for name in layers:

        def hook(_, args, name=name):
            seen[name] = args[0].detach().clone()

        handles.append(model.get_submodule(name).register_forward_pre_hook(hook))
    with torch.no_grad():
        model(input_ids=ids)
    for handle in handles:
        handle.remove()
    return seen
