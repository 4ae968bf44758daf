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
from sparsity_edu.models.positions import check_length
from sparsity_edu.weights.decoder_layout import (
    NORMS,
    PER_LAYER,
    cut_config,
    family_of,
    head_dim,
    place_of,
)

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
        hidden   the inputs of attention and of the feed-forward layer in every block (in a Llama the outputs of the two
                 norms); the sum of the scores of all of these
        block    1 - cos(what enters it, what leaves it), the mean over tokens, the sum over batches ("block importance")

    Args:
        model: a Hugging Face decoder of one of `decoder_layout.FAMILIES`; it is run in eval mode.
        calibration: token ids (windows, tokens), or batches of such; read one batch, or one window, at a time.
        aggregation: over the tokens of a sequence, and over sequences: "mean", "l2" or "variance" each.
        progress: show a progress bar over the batches.

    Returns:
        The importance.

    Raises:
        ValueError: the model is of another family, an aggregation is unknown, there is no text, or it is longer than the
            model's positions.

    Source: Muralidharan et al. 2024, sec. 2.2; block importance is Men et al. 2024, "ShortGPT", eq. 1.
    """
    family_of(model)  # or a ValueError
    blocks = decoder_blocks(model)
    batches = calibration.split(1) if isinstance(calibration, Tensor) else list(calibration)
    if not len(batches):
        raise ValueError("calibration must hold at least one batch, got none")
    check_length(model, max(ids.shape[1] for ids in batches))
    ffn, heads, read = ([Aggregate(*aggregation) for _ in range(len(blocks) * k)] for k in (1, 1, 2))
    change = torch.zeros(len(blocks))

    def measure_change(i: int, args: tuple, kwargs: dict, out: Tensor) -> None:  # what a hook returns would replace the output
        change[i] += _change(args, kwargs, out)

    hooks = []
    for i, block in enumerate(blocks):
        hooks += [
            block.mlp.down_proj.register_forward_pre_hook(lambda _, args, i=i: ffn[i].add(args[0])),
            block.self_attn.o_proj.register_forward_pre_hook(lambda _, args, i=i: heads[i].add(args[0])),
            block.self_attn.q_proj.register_forward_pre_hook(lambda _, args, i=i: read[2 * i].add(args[0])),
            block.mlp.gate_proj.register_forward_pre_hook(lambda _, args, i=i: read[2 * i + 1].add(args[0])),
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
    hidden = torch.stack([scores.score() for scores in read]).sum(dim=0)
    return Importance(change, hidden.cpu(), torch.stack(per_head).cpu(), torch.stack([scores.score() for scores in ffn]).cpu())


def _change(args: tuple, kwargs: dict, out) -> Tensor:
    before = args[0] if args else kwargs["hidden_states"]
    after = out[0] if isinstance(out, tuple) else out
    return (1 - F.cosine_similarity(before.float(), after.float(), dim=-1)).mean().cpu()


def shape_of(model: nn.Module) -> Shape:
    """The shape of a decoder, which must be of one of `decoder_layout.FAMILIES`."""
    family_of(model)
    config = model.config
    return Shape(config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.intermediate_size)


@torch.no_grad()
def trim(model: nn.Module, shape: Shape, importance: Importance, keep_scale: bool = True) -> nn.Module:
    """A smaller model, made of the most important parts of a larger one.

    What stays keeps its order. Query heads are chosen within each group that shares a key-value head, as many from each; the
    key-value heads and the width of a head stay. The hidden channels are the same ones everywhere: embedding, norms, all
    projections, output head.

    Args:
        model: a Hugging Face decoder of one of `decoder_layout.FAMILIES`; not changed.
        shape: of the new model.
        importance: of the model, see `importance`; random numbers make a control.
        keep_scale: divide by the root of the share of hidden channels that stay, in every norm, and its epsilon by that share.
            RMSNorm divides by the root of the *mean* square (plus epsilon), and the mean is over fewer channels then: with
            it, cutting channels that are zero changes nothing. The authors' code does without.

    Returns:
        A new model of the same class, with a config that describes it: it can be saved, loaded and trained as any other.

    Raises:
        ValueError: the shape is no smaller one of this model, or the model is of another family.

    Source: Muralidharan et al. 2024, sec. 2.3.
    """
    check_shape(model, shape)
    family, config = family_of(model), model.config
    layers = _best(importance.layers, shape.layers)
    hidden = _best(importance.hidden, shape.hidden)
    widen = (config.hidden_size / shape.hidden) ** 0.5  # the inverse root of the share of channels that stay

    def kept(axis: str, block: int | None) -> Tensor:
        """The indices that stay along an axis."""
        if axis == "hidden":
            return hidden
        if axis == "ffn":
            return _best(importance.ffn[block], shape.ffn)
        return _channels(_best_heads(importance.heads[block], shape.heads, config.num_key_value_heads), head_dim(config))

    small_config = _config(config, shape, layers)
    if keep_scale:
        small_config.rms_norm_eps *= widen**2  # it is added to a mean that is larger by this
    small = type(model)(small_config).to(next(model.parameters()))  # its device and dtype
    factors = _factors(model, widen, keep_scale)
    new_index = {None: None} | {old: new for new, old in enumerate(layers.tolist())}
    state = {}
    for name, tensor in model.state_dict().items():
        place = place_of(name)
        if place.block in new_index:
            for dim, axis in enumerate(place.axes):
                if axis is not None:
                    tensor = tensor.index_select(dim, kept(axis, place.block).to(tensor.device))
            factor, offset = factors.get(place.part, 1.0), int(family.unit_offset and place.part in NORMS)
            if factor != 1:
                tensor = (tensor.float() + offset) * factor - offset
            state[place.moved(new_index[place.block])] = tensor
    small.load_state_dict(state)  # raises unless every parameter is there, and has the shape that the config asks for
    for name in PER_LAYER:
        if getattr(config, name, None) and getattr(small.config, name) != [getattr(config, name)[i] for i in layers.tolist()]:
            raise RuntimeError(f"{name} of the config was not cut by the blocks that stay: {getattr(small.config, name)}")
    small.generation_config = copy.deepcopy(model.generation_config)
    return small.train(model.training)


def _factors(model: nn.Module, widen: float, keep_scale: bool) -> dict[str, float]:
    """What parts of a model are multiplied by, to make up for what it derives from the number of its channels."""
    factors = {}
    if keep_scale:
        factors = dict.fromkeys(NORMS, widen)
        if hasattr(decoder_blocks(model)[0].self_attn, "q_norm"):  # not over hidden channels, but with the same epsilon:
            factors |= {"self_attn.q_proj": widen, "self_attn.k_proj": widen}  # what it reads grows by as much
    if family_of(model).scaled_embedding:  # by sqrt(hidden), which is smaller now
        factors["embed_tokens"] = widen
        if model.config.tie_word_embeddings:  # the output head grows with it, and the norm before it takes that back
            factors["lm_head"], factors["norm"] = widen, factors.get("norm", 1.0) / widen
    return factors


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
    return cut_config(config, layers, shape.hidden, shape.heads, shape.ffn)


def check_shape(model: nn.Module, shape: Shape) -> None:
    """Raise a ValueError that says why `trim` cannot cut a model to a shape, if it cannot."""
    full, family, groups = shape_of(model), family_of(model), model.config.num_key_value_heads
    for name, most in vars(full).items():
        if not 1 <= getattr(shape, name) <= most:
            raise ValueError(f"{name} must be from 1 to the model's {most}, got {getattr(shape, name)}")
    if shape.heads % groups:
        raise ValueError(f"heads must be a multiple of the model's {groups} key-value heads, got {shape.heads}")
    kind = type(model).__name__.removesuffix("ForCausalLM")
    if family.joint_heads and shape.heads != full.heads:
        raise ValueError(f"heads must be all {full.heads} in a {kind}, which normalises them together, got {shape.heads}")
    try:
        _config(model.config, shape, torch.arange(shape.layers)).validate_architecture()
    except ValueError:
        needed = f"hidden must be a multiple of the {shape.heads} heads, as transformers wants it of a {kind}"
        raise ValueError(f"{needed}, got {shape.hidden}") from None


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
    of_block = sum(p.numel() for p in decoder_blocks(one_block)[0].parameters())
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
