"""Running a model on the heads and neurons that were chosen for each token.

    masked      all is computed, and what was not chosen is zeroed: any batch and any prompt, to measure what it costs
    gathered    only rows and columns of what was chosen are read: a token at a time, to measure what it saves

Both give the same. Masks are applied where the authors' code for accuracy applies them: to the neurons before ReLU (which a
gated MLP multiplies with: zero either way), and to the output of each head before the output projection. Nothing is rescaled,
and biases stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.cache_utils import Cache, CacheLayerMixin

from sparsity_edu.activations.deferred import DeferredLayer
from sparsity_edu.activations.dejavu import KINDS, Selectors, blocks_of, sources
from sparsity_edu.activations.dense import replaced_forward
from sparsity_edu.kernels.sparse_gemv import FEW_TOKENS, cpu, gemv_columns, gemv_rows


def sparse_mlp(
    x: Tensor,
    idx: Tensor,
    down: Tensor,
    up: Tensor,
    gate: Tensor | None = None,
    act: Callable[[Tensor], Tensor] = torch.relu,
    biases: tuple[Tensor | None, Tensor | None, Tensor | None] = (None, None, None),
) -> Tensor:
    """An MLP on chosen neurons.

    Args:
        x: (..., hidden), of at most 8 tokens.
        idx: (n,) int64: the neurons, for all tokens alike.
        down: (neurons, hidden), input-major: the transpose of a linear layer's weight, contiguous.
        up: (neurons, hidden), as in a linear layer.
        gate: likewise: act(gate x) * (up x) (Llama); None: act(up x) (OPT).
        act: of one number.
        biases: of gate, up and down.

    Returns:
        (..., hidden). Where all neurons left out are zero, it is the dense result.

    Source: Liu et al. 2023, Deja Vu, eq. 2.
    """
    h = _with(_rows(up, idx, x), biases[1], idx)
    h = act(h) if gate is None else act(_with(_rows(gate, idx, x), biases[0], idx)) * h
    return _with(_columns(down, idx, h), biases[2])


def _rows(W: Tensor, idx: Tensor, x: Tensor, group: int = 1) -> Tensor:
    """`gemv_rows`; on a CPU never in Triton's interpreter, where a model would take minutes for a word."""
    if x.is_cuda:
        return gemv_rows(W, idx, x.contiguous(), group=group)
    return cpu.rows(W, idx, x.reshape(-1, x.shape[-1]), None, group).view(*x.shape[:-1], -1 if len(idx) else 0)


def _columns(W: Tensor, idx: Tensor, x: Tensor, group: int = 1) -> Tensor:
    """`gemv_columns`, likewise."""
    if x.is_cuda:
        return gemv_columns(W, idx, x.contiguous(), group=group)
    return cpu.columns(W, idx, x.reshape(x.shape[:-1].numel(), -1 if len(idx) else 0), None, group).view(*x.shape[:-1], -1)


def _with(y: Tensor, bias: Tensor | None, idx: Tensor | None = None) -> Tensor:
    return y if bias is None else y + (bias if idx is None else bias[idx])


class Chosen:
    """What selectors chose for the tokens that are being read.

    Args:
        model: the model, of Llama's layout.
        selectors: by kind and block; a block without is dense.
        lookahead: the convention that says which hidden state a selector gets.
        prompt: whether they choose for several tokens at once too; if not, a prompt is read densely.
    """

    def __init__(self, model: nn.Module, selectors: Selectors, lookahead: str, prompt: bool) -> None:
        self.blocks, self.selectors, self.sources, self.prompt = blocks_of(model), selectors, sources(lookahead), prompt
        for kind, layer in selectors:
            if kind not in KINDS or not 0 <= layer < len(self.blocks):
                raise ValueError(f"selectors must be of heads and neurons of {len(self.blocks)} blocks, got {kind!r}, {layer}")
        self.states: dict[tuple[str, int], Tensor] = {}  # by point and block: what this forward pass has come to
        self.used = dict.fromkeys(KINDS, 0)  # units, summed over tokens and blocks
        self.possible = dict.fromkeys(KINDS, 0)

    def share(self, kind: str) -> float:
        """Of all heads or neurons, in all blocks and for all tokens until now, the share that was used."""
        return self.used[kind] / self.possible[kind] if self.possible[kind] else 1.0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note the hidden states that selectors read."""
        handles = []
        for layer, block in enumerate(self.blocks):
            handles.append(block.register_forward_pre_hook(partial(self._note_block, layer), with_kwargs=True))
            handles.append(block.post_attention_layernorm.register_forward_pre_hook(partial(self._note_mlp, layer)))
        try:
            yield
        finally:
            self.states.clear()
            for handle in handles:
                handle.remove()

    def _note_block(self, layer: int, block: nn.Module, args: tuple, kwargs: dict) -> None:
        if layer == 0:
            self.states.clear()
        self.states["block", layer] = args[0] if args else kwargs["hidden_states"]

    def _note_mlp(self, layer: int, norm: nn.Module, args: tuple) -> None:
        self.states["mlp", layer] = args[0]

    def mask(self, kind: str, layer: int, shape: torch.Size, units: int) -> Tensor | None:
        """(batch, tokens, units), True = used; None where all are. The shape is that of the tokens."""
        point, back = self.sources[kind]
        selector = self.selectors.get((kind, layer))
        state = self.states.get((point, layer - back))
        mask = None
        if selector is not None and state is not None and (self.prompt or shape[1] == 1):
            mask = selector(state)
            if mask.dtype != torch.bool or mask.shape != (*shape, units):
                raise ValueError(f"a selector must give a mask {(*shape, units)}, got {tuple(mask.shape)} in {mask.dtype}")
        count = shape.numel() * units
        self.used[kind] += count if mask is None else int(mask.sum())
        self.possible[kind] += count
        return mask


@contextmanager
def masked(model: nn.Module, selectors: Selectors, lookahead: str = "accuracy", *, prompt: bool = True) -> Iterator[Chosen]:
    """A model in which heads and neurons that are not chosen count as zeros, for a while.

    Args:
        model: a Hugging Face decoder of the Llama, Mistral or Qwen family.
        selectors: by ("heads" or "neurons", block); from `Predictors.selectors`, or any functions of hidden states.
        lookahead: "training", "accuracy" or "latency", see `dejavu.LOOKAHEAD`.
        prompt: whether tokens of a prompt are masked, or only those that are read one by one.

    Yields:
        What was chosen: `share("heads")` and `share("neurons")` say how much was used.

    Raises:
        ValueError: the model is of another family, or a selector of no block.
    """
    chosen = Chosen(model, selectors, lookahead, prompt)

    def keep(kind: str, layer: int, module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        x = args[0]  # (batch, tokens, units * width)
        width = chosen.blocks[layer].self_attn.head_dim if kind == "heads" else 1
        mask = chosen.mask(kind, layer, x.shape[:-1], x.shape[-1] // width)
        return args if mask is None else (x.masked_fill(~mask.repeat_interleave(width, dim=-1), 0),)

    handles = []
    with chosen.watching():
        for layer, block in enumerate(chosen.blocks):
            handles.append(block.self_attn.o_proj.register_forward_pre_hook(partial(keep, "heads", layer)))
            handles.append(block.mlp.down_proj.register_forward_pre_hook(partial(keep, "neurons", layer)))
        try:
            yield chosen
        finally:
            for handle in handles:
                handle.remove()


@contextmanager
def gathered(model: nn.Module, selectors: Selectors, lookahead: str = "accuracy") -> Iterator[Chosen]:
    """A model that reads only the weights of chosen heads and neurons when it reads a token, for a while.

    A token by itself, of one sequence, is read so; several at once are read densely. Where heads are chosen, the cache must be
    a `DeferredCache`: keys and values of skipped heads are worked out when these are next needed. Of query heads that share
    keys all must be skipped for these to be.

    Args:
        model: a Hugging Face decoder of the Llama, Mistral or Qwen family.
        selectors: as for `masked`.
        lookahead: likewise.

    Yields:
        What was chosen.

    Raises:
        ValueError: the model is of another family, or a selector of no block.
    """
    chosen = Chosen(model, selectors, lookahead, prompt=False)
    with ExitStack() as stack:
        stack.enter_context(chosen.watching())
        for layer, block in enumerate(chosen.blocks):
            if ("neurons", layer) in selectors:
                stack.enter_context(_input_major(block.mlp.down_proj))
                step = partial(_mlp_step, block.mlp, chosen, layer, dense=block.mlp.forward)
                stack.enter_context(replaced_forward(block.mlp, step))
            if any(kind == "heads" for kind, _ in selectors):  # dense blocks too: one cache for all
                stack.enter_context(_input_major(block.self_attn.o_proj))
                step = partial(_attention_step, block.self_attn, chosen, layer, dense=block.self_attn.forward)
                stack.enter_context(replaced_forward(block.self_attn, step))
        yield chosen


@contextmanager
def _input_major(layer: nn.Linear) -> Iterator[None]:
    """A layer whose weight lies transposed in memory: its columns can be read by themselves, and nothing is stored twice."""
    layer.weight.data = layer.weight.data.T.contiguous().T
    try:
        yield
    finally:
        layer.weight.data = layer.weight.data.contiguous()


@torch.no_grad()
def _mlp_step(mlp: nn.Module, chosen: Chosen, layer: int, x: Tensor, *, dense: Callable) -> Tensor:
    """One token's MLP, of the chosen neurons alone; `dense` is the module's own forward."""
    mask = chosen.mask("neurons", layer, x.shape[:-1], mlp.up_proj.out_features)
    if mask is None or len(x) > 1:
        return dense(x)
    layers = (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    idx, biases = mask.view(-1).nonzero().view(-1), tuple(layer.bias for layer in layers)
    return sparse_mlp(x, idx, layers[2].weight.T, layers[1].weight, layers[0].weight, mlp.act_fn, biases)


@torch.no_grad()
def _attention_step(
    attention: nn.Module,
    chosen: Chosen,
    layer: int,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    attention_mask: Tensor | None = None,
    past_key_values: Cache | None = None,
    *,
    dense: Callable,
    **kwargs,
) -> tuple[Tensor, None]:
    """One token's attention, of the chosen heads alone."""
    dim, group = attention.head_dim, attention.num_key_value_groups
    mask = chosen.mask("heads", layer, hidden_states.shape[:-1], attention.q_proj.out_features // dim)
    held = _held(past_key_values, layer)
    is_deferred = isinstance(held, DeferredLayer)
    project = partial(_keys_and_values, attention)
    if mask is None or len(hidden_states) > 1 or held is None:
        if is_deferred:
            held.fill(None, project)
        return dense(hidden_states, position_embeddings, attention_mask, past_key_values, **kwargs)
    if not is_deferred:
        raise ValueError(
            f"past_key_values must be a DeferredCache where heads are chosen, got {type(past_key_values).__name__}"
        )
    x, (cos, sin) = hidden_states[0], (table[0] for table in position_embeddings)  # (1, channels) each
    heads = mask.view(-1).nonzero().view(-1)
    held.defer(x, cos, sin)
    held.fill(sorted({head // group for head in heads.tolist()}), project)
    q = _project(attention.q_proj, heads, x, dim, getattr(attention, "q_norm", None))  # (n, 1, head_dim)
    k, v = (table[:, heads // group] for table in (held.keys, held.values))  # (1, n, tokens, head_dim)
    out = F.scaled_dot_product_attention(rotated(q, cos, sin)[None], k, v, attention_mask, scale=attention.scaling)
    y = _columns(attention.o_proj.weight.T, heads, out.flatten()[None], group=dim)
    return _with(y, attention.o_proj.bias)[None], None


def _held(cache: Cache | None, layer: int) -> CacheLayerMixin | None:
    """What is held of a layer; None before there is anything."""
    held = None if cache is None or layer >= len(cache.layers) else cache.layers[layer]
    return held if held is not None and held.get_seq_length() else None


def _keys_and_values(attention: nn.Module, heads: Tensor, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Keys, rotated, and values of some heads and tokens, (n, tokens, head_dim) each."""
    k = _project(attention.k_proj, heads, x, attention.head_dim, getattr(attention, "k_norm", None))
    return rotated(k, cos, sin), _project(attention.v_proj, heads, x, attention.head_dim)


def _project(layer: nn.Linear, heads: Tensor, x: Tensor, dim: int, norm: nn.Module | None = None) -> Tensor:
    """A projection of tokens (tokens, hidden) for some heads, (n, tokens, head_dim)."""
    parts = [_rows(layer.weight, heads, some, group=dim) for some in x.split(FEW_TOKENS)]
    y = torch.cat(parts).unflatten(-1, (-1, dim))  # (tokens, n, head_dim)
    if layer.bias is not None:
        y = y + layer.bias.view(-1, dim)[heads]
    return (y if norm is None else norm(y)).transpose(0, 1)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE as Llama has it: x (..., tokens, head_dim), the halves of a head turned together; cos and sin (tokens, head_dim)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
