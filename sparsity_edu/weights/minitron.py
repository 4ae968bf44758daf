"""Minitron: a small dense model, cut out of a large one and taught by it.

    importance   what activations say of every neuron, head, hidden channel and block, on a little text, forward passes only
    trim         keep the most important ones: a smaller model of the same kind, which needs no mask and no special kernel
    distil       let the large model teach it (distillation.py)

Muralidharan et al. 2024, "Compact language models via pruning and knowledge distillation". Where paper and code leave a choice,
the defaults are those of the authors' code: the mean over a sequence, the l2 norm over sequences.
"""

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from sparsity_edu.models.layers import decoder_blocks
from sparsity_edu.models.perplexity import perplexity

AGGREGATIONS = ("mean", "l2", "variance")


@dataclass(frozen=True)
class Shape:
    """What can be chosen of a decoder."""

    layers: int
    hidden: int  # width of the residual stream
    heads: int  # query heads of a block
    ffn: int  # neurons of a block


@dataclass(frozen=True)
class Importance:
    """How much every part of a model does, on some text; the larger the more. All float32."""

    layers: Tensor  # (layers,)
    hidden: Tensor  # (hidden,), one order for the whole model
    heads: Tensor  # (layers, heads)
    ffn: Tensor  # (layers, ffn)


class Aggregate:
    """Activations over all tokens, brought down to a number for each of their channels, in two steps.

    Over the tokens of a sequence and then over sequences, each by "mean" (of absolute values), "l2" or "variance".
    """

    def __init__(self, over_sequence: str = "mean", over_batch: str = "l2") -> None:
        if not {over_sequence, over_batch} <= set(AGGREGATIONS):
            raise ValueError(f"aggregation must be two of {', '.join(AGGREGATIONS)}, got {(over_sequence, over_batch)}")
        self.over_sequence, self.over_batch = over_sequence, over_batch
        self.sequences: list[Tensor] = []

    def add(self, X: Tensor) -> None:
        """Take in activations (sequences, tokens, channels)."""
        self.sequences.append(_reduced(X.float(), self.over_sequence, dim=1))  # (sequences, channels)

    def score(self) -> Tensor:
        """(channels,). The l2 norm over sequences is a root of a sum, not of a mean, as in the authors' code."""
        return _reduced(torch.cat(self.sequences), self.over_batch, dim=0)


def _reduced(X: Tensor, how: str, dim: int) -> Tensor:
    if how == "mean":
        return X.abs().mean(dim)
    return X.norm(dim=dim) if how == "l2" else X.var(dim, correction=0)


@torch.no_grad()
def importance(
    model: nn.Module,
    calibration: Tensor | Iterable[Tensor],
    aggregation: tuple[str, str] = ("mean", "l2"),
    progress: bool = True,
) -> Importance:
    """Importance of every part of a decoder, from what flows through it.

        neuron   the input of the down projection
        head     the input of the output projection; the l2 norm of the scores of the head's channels
        hidden   the outputs of the two norms of every block; the sum of the scores of all these norms
        block    1 - cos(what enters it, what leaves it), the mean over tokens, the sum over batches ("block importance")

    Args:
        model: a Hugging Face decoder of the Llama layout (Llama, Mistral, Qwen); it is run in eval mode.
        calibration: token ids (windows, tokens), or batches of such; read one batch, or one window, at a time.
        aggregation: over the tokens of a sequence, and over sequences: "mean", "l2" or "variance" each.
        progress: show a progress bar over the batches.

    Returns:
        The importance.

    Raises:
        ValueError: the model has another layout, an aggregation is unknown, or there is no text.

    Source: Muralidharan et al. 2024, sec. 2.2; block importance is Men et al. 2024, "ShortGPT", eq. 1.
    """
    blocks = _blocks(model)
    batches = calibration.split(1) if isinstance(calibration, Tensor) else list(calibration)
    if not len(batches):
        raise ValueError("calibration must hold at least one batch, got none")
    ffn, heads, norms = ([Aggregate(*aggregation) for _ in range(len(blocks) * k)] for k in (1, 1, 2))
    change = torch.zeros(len(blocks))

    def measure_change(i: int, args: tuple, kwargs: dict, out: Tensor) -> None:  # what a hook returns would replace the output
        change[i] += _change(args, kwargs, out)

    hooks = []
    for i, block in enumerate(blocks):
        hooks += [
            block.mlp.down_proj.register_forward_pre_hook(lambda _, args, i=i: ffn[i].add(args[0])),
            block.self_attn.o_proj.register_forward_pre_hook(lambda _, args, i=i: heads[i].add(args[0])),
            block.input_layernorm.register_forward_hook(lambda *args, i=i: norms[2 * i].add(args[-1])),
            block.post_attention_layernorm.register_forward_hook(lambda *args, i=i: norms[2 * i + 1].add(args[-1])),
            block.register_forward_hook(lambda _, *passed, i=i: measure_change(i, *passed), with_kwargs=True),
        ]
    was_training = model.training
    model.eval()
    try:
        for ids in tqdm(batches, desc="importance", unit="batch", disable=not progress):
            model(input_ids=ids.to(next(model.parameters()).device), use_cache=False)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    per_head = [scores.score().unflatten(0, (model.config.num_attention_heads, -1)).norm(dim=1) for scores in heads]
    hidden = torch.stack([scores.score() for scores in norms]).sum(dim=0)
    return Importance(change, hidden.cpu(), torch.stack(per_head).cpu(), torch.stack([scores.score() for scores in ffn]).cpu())


def _change(args: tuple, kwargs: dict, out) -> Tensor:
    before = args[0] if args else kwargs["hidden_states"]
    after = out[0] if isinstance(out, tuple) else out
    return (1 - F.cosine_similarity(before.float(), after.float(), dim=-1)).mean().cpu()


def shape_of(model: nn.Module) -> Shape:
    """The shape of a decoder."""
    config = model.config
    return Shape(config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.intermediate_size)


@torch.no_grad()
def trim(model: nn.Module, shape: Shape, importance: Importance, keep_scale: bool = True) -> nn.Module:
    """A smaller model, made of the most important parts of a larger one.

    What stays keeps its order. Query heads are chosen within each group that shares a key-value head, as many from each; the
    key-value heads and the width of a head stay. The hidden channels are the same ones everywhere: embedding, norms, all
    projections, output head.

    Args:
        model: a Hugging Face decoder of the Llama layout; not changed.
        shape: of the new model.
        importance: of the model, see `importance`; random numbers make a control.
        keep_scale: divide by the root of the share of hidden channels that stay, in every norm. RMSNorm divides by the root
            of the *mean* square, and the mean is over fewer channels then: with it, cutting channels that are zero changes
            nothing. The authors' code does without.

    Returns:
        A new model of the same class, with a config that describes it: it can be saved, loaded and trained as any other.

    Raises:
        ValueError: the shape is no smaller one of this model, or the model has another layout.

    Source: Muralidharan et al. 2024, sec. 2.3.
    """
    check_shape(model, shape)
    full, config = shape_of(model), model.config
    layers = _best(importance.layers, shape.layers)
    hidden = _best(importance.hidden, shape.hidden)
    small = type(model)(_config(config, shape, layers)).to(next(model.parameters()))  # its device and dtype

    def copy_(new: nn.Module, old: nn.Module, rows: Tensor | None, cols: Tensor | None) -> None:
        """A linear layer or embedding: the rows and columns that stay."""
        weight = old.weight if rows is None else old.weight[rows]
        new.weight.copy_(weight if cols is None else weight[:, cols])
        if getattr(old, "bias", None) is not None:
            new.bias.copy_(old.bias if rows is None else old.bias[rows])

    def copy_norm_(new: nn.Module, old: nn.Module) -> None:
        new.weight.copy_(old.weight[hidden] * ((full.hidden / shape.hidden) ** 0.5 if keep_scale else 1))

    inner, new_inner = model.get_decoder(), small.get_decoder()
    copy_(new_inner.embed_tokens, inner.embed_tokens, None, hidden)
    copy_norm_(new_inner.norm, inner.norm)
    if not config.tie_word_embeddings:
        copy_(small.lm_head, model.lm_head, None, hidden)
    for new, i in zip(_blocks(small), layers.tolist(), strict=True):
        old = _blocks(model)[i]
        neurons = _best(importance.ffn[i], shape.ffn)
        channels = _channels(_best_heads(importance.heads[i], shape.heads, config.num_key_value_heads), _head_dim(config))
        copy_norm_(new.input_layernorm, old.input_layernorm)
        copy_norm_(new.post_attention_layernorm, old.post_attention_layernorm)
        copy_(new.self_attn.q_proj, old.self_attn.q_proj, channels, hidden)
        copy_(new.self_attn.k_proj, old.self_attn.k_proj, None, hidden)
        copy_(new.self_attn.v_proj, old.self_attn.v_proj, None, hidden)
        copy_(new.self_attn.o_proj, old.self_attn.o_proj, hidden, channels)
        copy_(new.mlp.gate_proj, old.mlp.gate_proj, neurons, hidden)
        copy_(new.mlp.up_proj, old.mlp.up_proj, neurons, hidden)
        copy_(new.mlp.down_proj, old.mlp.down_proj, hidden, neurons)
        for name in ("q_norm", "k_norm"):  # Qwen 3: over the channels of a head, which stay
            if hasattr(old.self_attn, name):
                getattr(new.self_attn, name).load_state_dict(getattr(old.self_attn, name).state_dict())
    small.generation_config = copy.deepcopy(model.generation_config)
    return small.train(model.training)


def _best(scores: Tensor, count: int) -> Tensor:
    """The indices of the largest scores, in ascending order; of equal ones the first."""
    return scores.argsort(descending=True, stable=True)[:count].sort().values


def _best_heads(scores: Tensor, count: int, groups: int) -> Tensor:
    """As many of the best heads from each group of heads that share a key-value head."""
    grouped = scores.view(groups, -1)  # (groups, heads of a group)
    chosen = torch.stack([_best(group, count // groups) for group in grouped])
    return (chosen + torch.arange(groups)[:, None] * grouped.shape[1]).flatten()


def _channels(heads: Tensor, head_dim: int) -> Tensor:
    """The channels of heads: head h has h * head_dim to (h + 1) * head_dim - 1."""
    return (heads[:, None] * head_dim + torch.arange(head_dim)).flatten()


def _config(config, shape: Shape, layers: Tensor):
    new = copy.deepcopy(config)
    new.head_dim = _head_dim(config)  # or it would follow from hidden size and heads
    new.num_hidden_layers, new.hidden_size = shape.layers, shape.hidden
    new.num_attention_heads, new.intermediate_size = shape.heads, shape.ffn
    if getattr(config, "layer_types", None):
        new.layer_types = [config.layer_types[i] for i in layers.tolist()]
    return new


def _head_dim(config) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _blocks(model: nn.Module) -> nn.ModuleList:
    blocks = decoder_blocks(model)
    parts = ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj", "post_attention_layernorm")
    try:
        for part in parts:
            blocks[0].get_submodule(part)
    except (TypeError, AttributeError):
        raise ValueError(f"model must be a transformers decoder of the Llama layout, got {type(model).__name__}") from None
    return blocks


def check_shape(model: nn.Module, shape: Shape) -> None:
    """Raise a ValueError that says why `trim` cannot cut a model to a shape, if it cannot."""
    _blocks(model)
    full, groups = shape_of(model), model.config.num_key_value_heads
    for name, most in vars(full).items():
        if not 1 <= getattr(shape, name) <= most:
            raise ValueError(f"{name} must be from 1 to the model's {most}, got {getattr(shape, name)}")
    if shape.heads % groups:
        raise ValueError(f"heads must be a multiple of the model's {groups} key-value heads, got {shape.heads}")
    if model.config.model_type == "llama" and shape.hidden % shape.heads:
        needed = f"hidden must be a multiple of the {shape.heads} heads, as transformers wants it of a Llama"
        raise ValueError(f"{needed}, got {shape.hidden}")


# Parameter budgets


def parameters(model: nn.Module, shape: Shape) -> int:
    """How many parameters `trim` would leave, counted on one block and without memory.

    Args:
        model: the large model.
        shape: of the small one.

    Returns:
        The number, a shared embedding counted once.
    """
    config = _config(model.config, replace(shape, layers=1), torch.arange(1))
    with torch.device("meta"):  # shapes without memory
        one_block = type(model)(config)
    of_block = sum(p.numel() for p in _blocks(one_block)[0].parameters())
    return sum(p.numel() for p in one_block.parameters()) + (shape.layers - 1) * of_block


def shapes_for(
    model: nn.Module,
    budget: int,
    *,
    layers: Iterable[int] | None = None,
    hidden: Iterable[int] | None = None,
    heads: int | None = None,
    divisor: int = 32,
) -> list[Shape]:
    """Shapes within a budget of parameters: for each depth and width, the widest feed-forward layer that fits.

    Args:
        model: the large model.
        budget: the most parameters that the small one may have.
        layers: depths to try; all from half of the model's if left out.
        hidden: widths to try; if left out, from half of the model's those that are multiples of the heads and of 8.
        heads: query heads; the model's if left out (the paper finds that they are rarely worth cutting).
        divisor: of the feed-forward width.

    Returns:
        Shapes whose feed-forward layer is at least half as wide as the model's.

    Raises:
        ValueError: nothing fits, or a depth, width or number of heads is none of a smaller model.
    """
    full = shape_of(model)
    heads = heads or full.heads
    layers = range(full.layers, full.layers // 2 - 1, -1) if layers is None else layers
    step = math.lcm(heads, 8)
    hidden = range(full.hidden // step * step, full.hidden // 2 - 1, -step) if hidden is None else hidden
    found = []
    for depth in layers:
        for width in hidden:
            shape = Shape(depth, width, heads, divisor)
            check_shape(model, shape)
            least = parameters(model, shape)
            per_neuron = (parameters(model, replace(shape, ffn=2 * divisor)) - least) // divisor
            fits = min(full.ffn, divisor + (budget - least) // per_neuron) // divisor * divisor
            if fits >= full.ffn / 2:
                found.append(replace(shape, ffn=fits))
    if not found:
        raise ValueError(f"no shape of at most {budget:,} parameters keeps half of every part; give the shape itself")
    return found


def search(
    model: nn.Module, importance: Importance, shapes: Iterable[Shape], windows: Tensor, tries: int = 8, progress: bool = True
) -> list[tuple[Shape, float]]:
    """Cut a model into some shapes and measure each, untrained: which way to spend a budget?

    Of each depth the most even cut is tried, of the depths some at equal distances. How good a shape is after training may be
    another matter: unit 07 measures it.

    Args:
        model: the large model.
        importance: of its parts.
        shapes: from `shapes_for`.
        windows: token ids (windows, tokens) to measure on.
        tries: at most so many shapes.
        progress: show a progress bar.

    Returns:
        (shape, perplexity), the lowest perplexity first.

    Source: Muralidharan et al. 2024, sec. 4.3, "lightweight neural architecture search", without its short training.
    """
    full = shape_of(model)
    by_depth: dict[int, Shape] = {}
    for shape in shapes:
        best = by_depth.setdefault(shape.layers, shape)
        by_depth[shape.layers] = min(best, shape, key=lambda s: abs(s.hidden / full.hidden - s.ffn / full.ffn))
    depths = sorted(by_depth, reverse=True)
    chosen = [depths[round(i)] for i in torch.linspace(0, len(depths) - 1, min(tries, len(depths))).tolist()]
    found = []
    for depth in tqdm(chosen, desc="shapes", unit="shape", disable=not progress):
        small = trim(model, by_depth[depth], importance)
        found.append((by_depth[depth], perplexity(small, windows.flatten(), windows.shape[1], progress=False)))
    return sorted(found, key=lambda pair: pair[1])
