"""Deja Vu: a token needs few heads and few neurons, which ones depends on the text, and can be told before.

    labels       which heads and neurons each token of a text needs         labels.py
    predictors   a small one for the heads, and one for the neurons, of each block, trained on these       predictor.py
    lookahead    they read a hidden state that is there before the block begins, so that nobody waits for them
    execution    a block that uses the k best of each only                  execution.py

Of lookahead there are three conventions in the authors' one repository, see `LOOKAHEAD`. Liu et al. 2023, "Deja Vu: Contextual
sparsity for efficient LLMs at inference time".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from os import PathLike
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sparsity_edu.activations.dense import DenseBlock, dense_blocks
from sparsity_edu.activations.labels import active_heads, active_neurons, chosen
from sparsity_edu.activations.predictor import EPOCHS, EXTRA, RATES, Predictor, Quality, quality, train
from sparsity_edu.models.layers import decoder_blocks

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")  # `model_type` of what is built alike
RELU = ("relu", "relu2")
KINDS = ("heads", "neurons")


class Source(NamedTuple):
    """The hidden state that a predictor of block l reads. States are those of the residual stream, before a norm."""

    point: str  # "block", what reaches a block, or "mlp", what reaches its MLP, attention added
    back: int  # of block l - back


# What the predictors of block l read, by convention. A block for which there is no such state is dense.
LOOKAHEAD = {
    # the scripts that train predictors: neurons are predicted from what their own MLP reads, which is no lookahead
    "training": {"heads": Source("block", 1), "neurons": Source("mlp", 0)},
    # the code that measures accuracy: heads a block ahead, neurons while attention of their own block runs
    "accuracy": {"heads": Source("block", 1), "neurons": Source("block", 0)},
    # the code that measures latency: both a block ahead, at the time of attention, and of the MLP
    "latency": {"heads": Source("block", 1), "neurons": Source("mlp", 1)},
}

Selector = Callable[[Tensor], Tensor]  # hidden states (..., hidden) to a boolean mask (..., units), True = used
Selectors = Mapping[tuple[str, int], Selector]  # by kind and block


class Examples(NamedTuple):
    """What a predictor learns from."""

    kind: str  # "heads" or "neurons"
    layer: int
    states: Tensor  # (tokens, hidden)
    labels: Tensor  # boolean (tokens, units)


def sources(lookahead: str) -> dict[str, Source]:
    """What predictors read, by kind; refuses a convention that is unknown."""
    if lookahead not in LOOKAHEAD:
        raise ValueError(f"lookahead must be one of {', '.join(LOOKAHEAD)}, got {lookahead!r}")
    return LOOKAHEAD[lookahead]


def blocks_of(model: nn.Module) -> nn.ModuleList:
    """The blocks of a model of Llama's layout; refuses any other."""
    kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    if kind not in FAMILIES:
        raise ValueError(f"model must be of a family built as Llama is ({', '.join(FAMILIES)}), got {kind}")
    return decoder_blocks(model)


@torch.no_grad()
def examples(
    model: nn.Module,
    calibration: Tensor | list[Tensor],
    lookahead: str = "accuracy",
    *,
    heads: float = 0.7,
    neurons: float | None = None,
    progress: bool = True,
) -> Iterator[Examples]:
    """What the dense model's blocks need of a text, and the states to tell it from.

    Args:
        model: a Hugging Face decoder of the Llama, Mistral or Qwen family; not changed.
        calibration: token ids (windows, tokens), or a list of such.
        lookahead: "training", "accuracy" or "latency", see `LOOKAHEAD`.
        heads: the share that counts as needed, see `active_heads`.
        neurons: None, those that are not zero, of a model with ReLU; or the share that counts as needed.
        progress: show a progress bar.

    Yields:
        Examples of heads and of neurons, block by block; none where there is no state to tell from.

    Raises:
        ValueError: an argument is not allowed, or no neuron of the model is ever zero.
    """
    source = sources(lookahead)
    blocks_of(model)
    act = model.config.hidden_act
    if neurons is None and act not in RELU:
        raise ValueError(f"neurons must be a share where activations are none of ReLU's, so that no neuron is zero, got {act}")
    earlier: list[dict[str, Tensor]] = []
    for layer, step in enumerate(dense_blocks(model, calibration, progress=progress)):
        seen = _seen(step)
        labels = {
            "heads": active_heads(seen["heads"].unflatten(-1, (-1, step.block.self_attn.head_dim)), heads),
            "neurons": active_neurons(seen["gate" if neurons is None else "neurons"], neurons),
        }
        earlier = [seen, *earlier[:1]]
        for kind, (point, back) in source.items():
            if back < len(earlier):
                yield Examples(kind, layer, earlier[back][point], labels[kind])


def _seen(step: DenseBlock) -> dict[str, Tensor]:
    """States and activations of a block, (tokens, channels) each."""
    block = step.block
    parts: dict[str, list[Tensor]] = {name: [] for name in ("block", "mlp", "heads", "gate", "neurons")}

    def reads(name: str) -> Callable:
        return lambda _, args: parts[name].append(args[0].flatten(0, -2))

    handles = [
        block.post_attention_layernorm.register_forward_pre_hook(reads("mlp")),
        block.self_attn.o_proj.register_forward_pre_hook(reads("heads")),
        block.mlp.down_proj.register_forward_pre_hook(reads("neurons")),
        block.mlp.gate_proj.register_forward_hook(lambda _, args, out: parts["gate"].append(out.flatten(0, -2))),
    ]
    try:
        for states in step.hidden:
            parts["block"].append(states.flatten(0, -2))
            step.run_once(states)
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.cat(some) for name, some in parts.items()}


class Predictors(nn.Module):
    """The predictors of a model, and what they read.

    Args:
        lookahead: the convention that they were trained by.
    """

    def __init__(self, lookahead: str) -> None:
        super().__init__()
        sources(lookahead)
        self.lookahead, self.of = lookahead, nn.ModuleDict()

    def add(self, kind: str, layer: int, predictor: Predictor) -> None:
        """Add the predictor of a block's heads or neurons."""
        self.of[f"{kind}_{layer}"] = predictor

    def selectors(
        self, heads: int | Mapping[int, int] | None = None, neurons: int | Mapping[int, int] | None = None
    ) -> Selectors:
        """What chooses the k best for each token.

        Args:
            heads: k; or k by block, the others are dense; or None, all are. OPT-175B: none for the first 5 blocks, 24 of 96
                for 5-33 and 63-94, 48 for 34-62.
            neurons: likewise. OPT-175B: 5,000 of 49,152.

        Returns:
            Selector by kind and block.
        """
        made = {}
        for name, predictor in self.of.items():
            kind, layer = name.split("_")
            given = heads if kind == "heads" else neurons
            k = given.get(int(layer)) if isinstance(given, Mapping) else given
            if k is not None:
                made[kind, int(layer)] = partial(_best, predictor, k)
        return made

    def save(self, path: str | PathLike) -> None:
        """Write the predictors to a safetensors file."""
        from safetensors.torch import save_file

        save_file({name: W.contiguous() for name, W in self.state_dict().items()}, path, {"lookahead": self.lookahead})

    @classmethod
    def load(cls, path: str | PathLike) -> Predictors:
        """Read predictors that `save` wrote."""
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dict
            predictors = cls(file.metadata()["lookahead"])
        for name in {name.split(".")[1]: None for name in weights}:
            down, up = weights[f"of.{name}.down.weight"], weights[f"of.{name}.up.weight"]
            predictors.of[name] = Predictor(down.shape[1], down.shape[0], up.shape[0])
        predictors.load_state_dict(weights)
        return predictors


@torch.no_grad()
def _best(predictor: Predictor, k: int, states: Tensor) -> Tensor:
    return chosen(predictor(states.to(predictor.down.weight.dtype)), k)


def fit(
    model: nn.Module,
    calibration: Tensor | list[Tensor],
    lookahead: str = "accuracy",
    *,
    rank: int,
    heads: float = 0.7,
    neurons: float | None = None,
    kinds: tuple[str, ...] = KINDS,
    epochs: int = EPOCHS,
    seed: int = 0,
    progress: bool = True,
    **options,
) -> tuple[Predictors, dict[tuple[str, int], list[Quality]]]:
    """Train the predictors of a model, block by block.

    Args:
        model: a Hugging Face decoder of the Llama, Mistral or Qwen family; not changed.
        calibration: token ids (windows, tokens), or a list of such; the authors take 400,000 tokens of C4.
        lookahead: see `LOOKAHEAD`.
        rank: of the predictors.
        heads, neurons: what counts as needed, see `examples`.
        kinds: what to predict.
        epochs: the most.
        seed: of the predictors' first weights, the split and the order of examples.
        progress: show a progress bar.
        options: others of `predictor.train`; the learning rate and the extra weight are the authors' for each kind.

    Returns:
        The predictors, and by kind and block the quality on held-out tokens after each epoch.
    """
    predictors, curves = Predictors(lookahead), {}
    for kind, layer, states, labels in examples(model, calibration, lookahead, heads=heads, neurons=neurons, progress=progress):
        if kind not in kinds:
            continue
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            predictor = Predictor(states.shape[1], rank, labels.shape[1]).to(states.device)
        settings = {"extra": EXTRA[kind], "rate": RATES[kind], "epochs": epochs} | options
        curves[kind, layer] = train(predictor, states.float(), labels, generator, **settings)
        predictors.add(kind, layer, predictor.eval())
    return predictors, curves


def oracle(model: nn.Module) -> Selectors:
    """The neurons of a ReLU model that are not zero, by block: perfect choices, for lookahead "training", which is none."""

    def active(block: nn.Module, states: Tensor) -> Tensor:
        return active_neurons(block.mlp.gate_proj(block.post_attention_layernorm(states)))

    return {("neurons", layer): torch.no_grad()(partial(active, block)) for layer, block in enumerate(blocks_of(model))}


def static(masks: Mapping[tuple[str, int], Tensor]) -> Selectors:
    """The same choice for every token, from masks (units,) by kind and block: what contextual sparsity is compared with."""
    return {key: lambda states, mask=mask: mask.expand(*states.shape[:-1], -1) for key, mask in masks.items()}


@torch.no_grad()
def measure(
    model: nn.Module, selectors: Selectors, calibration: Tensor | list[Tensor], lookahead: str, **kinds
) -> dict[tuple[str, int], Quality]:
    """How many of the needed heads and neurons selectors choose, by kind and block; arguments as for `examples`."""
    return {
        (kind, layer): quality(selectors[kind, layer](states), labels)
        for kind, layer, states, labels in examples(model, calibration, lookahead, **kinds)
        if (kind, layer) in selectors
    }
