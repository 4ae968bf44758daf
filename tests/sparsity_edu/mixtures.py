"""Small random mixtures of experts of every family, and the same models with each expert written out as linear layers.

All sizes differ, so that no matrix can be taken for another or for its transpose.
"""

import copy
from collections import namedtuple

import torch
import transformers as hf
from torch import Tensor, nn
from torch.nn import functional as F

HIDDEN, INNER, DENSE, SHARED, EXPERTS, VOCAB = 48, 40, 56, 24, 6, 97
COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "num_experts_per_tok": 2,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
LOCAL = COMMON | {"intermediate_size": INNER, "num_local_experts": EXPERTS}
QWEN = COMMON | {"intermediate_size": DENSE, "moe_intermediate_size": INNER, "num_experts": EXPERTS, "head_dim": 16}
LATENT = {"q_lora_rank": 20, "kv_lora_rank": 28, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 16}
DEEPSEEK = COMMON | LATENT | {"num_key_value_heads": 4, "intermediate_size": DENSE, "moe_intermediate_size": INNER}

Family = namedtuple("Family", "config path routers")
FAMILIES = {
    "mixtral": Family(lambda: hf.MixtralConfig(**LOCAL), "mlp.experts", {"mlp.gate": EXPERTS}),
    "qwen2_moe": Family(
        lambda: hf.Qwen2MoeConfig(**QWEN, shared_expert_intermediate_size=SHARED, mlp_only_layers=[1]),
        "mlp.experts",
        {"mlp.gate": EXPERTS, "mlp.shared_expert_gate": 1},
    ),
    "qwen3_moe": Family(lambda: hf.Qwen3MoeConfig(**QWEN, mlp_only_layers=[2]), "mlp.experts", {"mlp.gate": EXPERTS}),
    "olmoe": Family(
        lambda: hf.OlmoeConfig(**COMMON, intermediate_size=INNER, num_experts=EXPERTS), "mlp.experts", {"mlp.gate": EXPERTS}
    ),
    "gpt_oss": Family(lambda: hf.GptOssConfig(**LOCAL, head_dim=16, sliding_window=8), "mlp.experts", {"mlp.router": EXPERTS}),
    "granitemoe": Family(
        lambda: hf.GraniteMoeConfig(**LOCAL), "block_sparse_moe.experts", {"block_sparse_moe.router": EXPERTS}
    ),
    "phimoe": Family(lambda: hf.PhimoeConfig(**LOCAL), "mlp.experts", {"mlp.router": EXPERTS}),
    "deepseek_v3": Family(
        lambda: hf.DeepseekV3Config(
            **DEEPSEEK, n_routed_experts=EXPERTS, n_shared_experts=1, n_group=2, topk_group=1, first_k_dense_replace=1
        ),
        "mlp.experts",
        {"mlp.gate": EXPERTS},
    ),
}
CALIBRATION = [
    torch.randint(VOCAB, (3, 20), generator=torch.Generator().manual_seed(1)),
    torch.randint(VOCAB, (4, 31), generator=torch.Generator().manual_seed(2)),
]


def make(family: str, config=None) -> nn.Module:
    """A random model in float64, in which rounding decides nothing, with weights large enough to matter."""
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(config or FAMILIES[family].config()).double().eval()
    model.set_experts_implementation("eager")  # the others do without float64
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.7 if parameter.ndim == 1 else 0, 0.3 if parameter.ndim == 1 else 0.15)
    return model


class WrittenOut(nn.Module):
    """Experts as lists of linear layers, and a loop over them. What is stored how, and what is multiplied how, is written down
    here a second time, from the classes in transformers."""

    def __init__(self, experts: nn.Module) -> None:
        super().__init__()
        self.everything = False  # whether each expert reads all tokens
        self.gpt_oss = type(experts).__name__ == "GptOssExperts"
        self.gate, self.up, self.down = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for e in range(len(experts.down_proj)):
            if self.gpt_oss:  # x @ W + b, with gate and up in turns
                W, b = experts.gate_up_proj[e], experts.gate_up_proj_bias[e]  # (hidden, 2 inner)
                self.gate.append(linear(W[:, 0::2].T, b[0::2]))
                self.up.append(linear(W[:, 1::2].T, b[1::2]))
                self.down.append(linear(experts.down_proj[e].T, experts.down_proj_bias[e]))
            else:
                W = experts.gate_up_proj[e]  # (2 inner, hidden)
                self.gate.append(linear(W[: len(W) // 2]))
                self.up.append(linear(W[len(W) // 2 :]))
                self.down.append(linear(experts.down_proj[e]))

    def forward(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        out = torch.zeros_like(hidden)
        for e in range(len(self.gate)):
            token, place = (torch.ones_like(chosen[:, :1]) if self.everything else chosen == e).nonzero(as_tuple=True)
            if not len(token):
                continue
            gate, up = self.gate[e](hidden[token]), self.up[e](hidden[token])
            if self.gpt_oss:
                gate, up = gate.clamp(max=7.0), up.clamp(-7.0, 7.0)
                inner = (up + 1) * gate * torch.sigmoid(1.702 * gate)
            else:
                inner = F.silu(gate) * up
            out.index_add_(0, token, self.down[e](inner) * weights[token, place, None])
        return out


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer


def written_out(model: nn.Module, family: str) -> nn.Module:
    """A copy of a model with its experts written out."""
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if name.endswith("." + FAMILIES[family].path):
            model.set_submodule(name, WrittenOut(module))
    return model
