"""Keys and values of a model without MLA as a latent: what a rank costs, without any training.

    [K; V] = [W_K; W_V] x  ~  U (U^T [W_K; W_V]) x        U: the r directions in which keys and values are largest

A token leaves c = U^T [W_K; W_V] x, r numbers instead of 2 n_g d_h. Keys are unpacked and rotated at every step: with the
rotation in between nothing can be absorbed into the query, which is why MLA has a rotated key of its own.
"""

import copy

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from sparsity_edu.kv_cache.attention import check_rotation, rotary_frequencies, rotate
from sparsity_edu.models.layers import decoder_blocks


def low_rank(
    W: Tensor, rank: int, mean: Tensor | None = None, covariance: Tensor | None = None, scale: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The best map of a rank: W x ~ up (down x) + shift, with the least squared error over the inputs.

    Args:
        W: (outputs, inputs).
        rank: from 1 to outputs.
        mean: (inputs,), of the inputs. Default: 0.
        covariance: (inputs, inputs), of the inputs. Default: 1, by which this is the truncated SVD of W.
        scale: (outputs,): an error of this size counts as 1. Default: 1.

    Returns:
        up (outputs, rank), down (rank, inputs) and shift (outputs,), float32.

    Raises:
        ValueError: there is no such rank.

    Source: Eckart and Young 1936; with data it is PCA of the outputs.
    """
    if not 1 <= rank <= len(W):
        raise ValueError(f"rank must be from 1 to {len(W)}, got {rank}")
    W = W.detach().double()
    scale = torch.ones(len(W), device=W.device) if scale is None else scale
    weighed = W / scale.double()[:, None]
    energy = weighed @ (weighed.T if covariance is None else covariance.double() @ weighed.T)
    U = torch.linalg.eigh(energy).eigenvectors[:, -rank:].flip(1)  # (outputs, rank), the largest first
    up, down = scale.double()[:, None] * U, U.T @ weighed
    shift = torch.zeros(len(W)).to(W) if mean is None else (W - up @ down) @ mean.double()
    return up.float(), down.float(), shift.float()


class LatentAttention(nn.Module):
    """Attention of a Llama, Mistral or Qwen model that caches a latent. Any cache of `transformers` holds it, as keys."""

    def __init__(self, attention: nn.Module, up: Tensor, down: Tensor, shift: Tensor) -> None:
        """Take over an attention layer.

        Args:
            attention: of a `transformers` model, with `k_proj` and `v_proj`.
            up: (2 kv_heads head_dim, rank), keys above values.
            down: (rank, hidden).
            shift: (2 kv_heads head_dim,), biases included.
        """
        super().__init__()
        for name in ("config", "layer_idx", "head_dim", "num_key_value_groups", "scaling", "attention_dropout", "is_causal"):
            setattr(self, name, getattr(attention, name))
        self.q_proj, self.o_proj = attention.q_proj, attention.o_proj
        self.q_norm, self.k_norm = (getattr(attention, name, nn.Identity()) for name in ("q_norm", "k_norm"))
        weight = attention.k_proj.weight
        self.up, self.down, self.shift = (nn.Parameter(x.to(weight)) for x in (up, down, shift))
        frequencies, self.rope_factor = rotary_frequencies(self.config, self.head_dim, weight.device)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings=None,
        attention_mask: Tensor | None = None,
        past_key_values=None,
        **kwargs,
    ) -> tuple[Tensor, Tensor | None]:
        """As the layer that it replaces."""
        batch, q = hidden_states.shape[:2]
        positions = kwargs["position_ids"]  # (batch or 1, q)
        query = self.rotated(self.q_norm(self.q_proj(hidden_states).unflatten(-1, (-1, self.head_dim))), positions)
        c = nn.functional.linear(hidden_states, self.down)[:, None]  # (batch, 1, q, rank)
        if past_key_values is not None:
            c, _ = past_key_values.update(c, c.new_empty(batch, 1, q, 0), self.layer_idx)
        tokens = c.shape[2]
        unpacked = nn.functional.linear(c[:, 0], self.up, self.shift).unflatten(-1, (2, -1, self.head_dim))
        k, v = unpacked.unbind(dim=2)  # (batch, tokens, kv_heads, head_dim)
        columns = positions[:, -1:] - torch.arange(tokens - 1, -1, -1, device=c.device)  # negative: padding
        k = self.rotated(self.k_norm(k), columns)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, None)
        dropout = self.attention_dropout if self.training else 0.0
        out, weights = attend(
            self, query, k, v.transpose(1, 2), attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
        )
        return self.o_proj(out.reshape(batch, q, -1)), weights

    def rotated(self, x: Tensor, positions: Tensor) -> Tensor:
        """(batch, tokens, heads, head_dim) as (batch, heads, tokens, head_dim), rotated at positions (batch or 1, tokens)."""
        return (rotate(x, (positions[..., None] * self.frequencies)[:, :, None]) * self.rope_factor).to(x.dtype).transpose(1, 2)


@torch.no_grad()
def input_statistics(model: nn.Module, calibration: Tensor) -> list[tuple[Tensor, Tensor]]:
    """What each attention layer of a model is given, for `from_gqa` with more than one rank.

    Args:
        model: a `transformers` decoder of the Llama layout.
        calibration: token ids (texts, tokens).

    Returns:
        Of each layer the mean (hidden,) and the covariance (hidden, hidden), float32.
    """
    layers = [block.self_attn.k_proj for block in decoder_blocks(model)]
    sums = [(torch.zeros(layer.in_features), torch.zeros(layer.in_features, layer.in_features)) for layer in layers]

    def add(i: int, x: Tensor) -> None:
        x = x.flatten(0, -2).float().cpu()
        sums[i][0].add_(x.sum(dim=0))
        sums[i][1].add_(x.T @ x)

    hooks = [layer.register_forward_pre_hook(lambda _, args, i=i: add(i, args[0])) for i, layer in enumerate(layers)]
    try:
        for ids in calibration:
            model(input_ids=ids[None].to(model.device), use_cache=False, logits_to_keep=1)
    finally:
        for hook in hooks:
            hook.remove()
    n, found = calibration.numel(), []
    for layer, (total, squares) in zip(layers, sums, strict=True):
        mean = total / n
        found.append((mean.to(layer.weight.device), (squares / n - torch.outer(mean, mean)).to(layer.weight.device)))
    return found


@torch.no_grad()
def from_gqa(
    model: nn.Module, rank: int, calibration: Tensor | list[tuple[Tensor, Tensor]] | None = None, balance: bool = True
) -> nn.Module:
    """A model whose layers cache a latent of keys and values, otherwise the same.

    Args:
        model: a `transformers` decoder of the Llama layout; not changed.
        rank: numbers that a token leaves in each layer; 2 kv_heads head_dim of them lose nothing.
        calibration: token ids (texts, tokens), or what `input_statistics` makes of them: the error on these is the least, else
            that of the weights is.
        balance: keys and values are measured by their own size first; otherwise the larger of them gets the rank.

    Returns:
        A copy. Its attention implementation may not be "eager", and it cannot be saved as a `transformers` model.

    Raises:
        ValueError: the model has another layout, or rotates keys otherwise, or there is no such rank.
    """
    model = copy.deepcopy(model)
    blocks = decoder_blocks(model)
    if blocks is None or not all(hasattr(block.self_attn, "k_proj") for block in blocks if hasattr(block, "self_attn")):
        raise ValueError(f"model must be a transformers decoder of the Llama layout, got {type(model).__name__}")
    check_rotation(model.config)
    inputs = input_statistics(model, calibration) if isinstance(calibration, Tensor) else calibration or [None] * len(blocks)
    for block, known in zip(blocks, inputs, strict=True):
        k, v = block.self_attn.k_proj, block.self_attn.v_proj
        W = torch.cat([k.weight, v.weight])
        mean, covariance = known or (None, None)
        size = torch.ones(2, device=W.device)
        if balance:
            parts = W.float().view(2, -1, W.shape[1])
            energy = parts @ parts.mT if covariance is None else parts @ covariance @ parts.mT
            size = energy.diagonal(dim1=1, dim2=2).mean(dim=1).sqrt()
        up, down, shift = low_rank(W, rank, mean, covariance, size.repeat_interleave(len(W) // 2))
        if k.bias is not None:
            shift += torch.cat([k.bias, v.bias])
        block.self_attn = LatentAttention(block.self_attn, up, down, shift)
    return model
