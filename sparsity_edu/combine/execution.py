"""A model that runs as its recipe says: packed weights, skipped inputs and a small cache at once, and what each saves.

Not everything combines. A 2:4 matrix is packed for products that go through it output by output, or through all inputs of a
group at once; skipped inputs save whole rows of a matrix that lies input by input. So each projection has one product:

    skip     inputs below its threshold are not multiplied, and their weights not read; zeros of pruned weights are
    2:4      two weights of every four inputs are read, whatever the inputs; small ones are still taken for zeros
    dense    all weights are read; small inputs are taken for zeros

Of those that this machine has, the one that reads the least. So a recipe's numbers are the same on every machine, and its speed
is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from sparsity_edu import kv_cache
from sparsity_edu.activations import teal
from sparsity_edu.combine.making import Made
from sparsity_edu.combine.recipe import Cache
from sparsity_edu.kernels.devices import without_interpreter
from sparsity_edu.kernels.sparse_gemv import ThresholdLinear, dense_tokens, threshold_linear_, unthreshold_linear_
from sparsity_edu.kernels.two_four import TwoFourLinear, is_fast
from sparsity_edu.models.layers import prunable_layers


@dataclass(frozen=True)
class Use:
    """The product of a projection, and why it has this one."""

    product: str  # "skip", "2:4" or "dense"
    why: str
    read: float  # bytes of a token, as a share of the dense ones: expected


def empty_cache(cache: Cache | None) -> kv_cache.PolicyCache:
    """An empty cache as a recipe has it; a full one without."""
    if cache is None:
        return kv_cache.FullCache()
    made = {
        "window": lambda: kv_cache.WindowCache(cache.budget, sinks=0),
        "sinks": lambda: kv_cache.WindowCache(cache.budget, sinks=4),
        "h2o": lambda: kv_cache.H2OCache(cache.budget),
        "quest": lambda: kv_cache.QuestCache(cache.budget),
    }
    return made[cache.policy]()


def uses(made: Made) -> dict[str, Use]:
    """Which product each projection has here.

    Args:
        made: a model and its recipe.

    Returns:
        By name of the layer.
    """
    thresholds, levels = (made.plan.thresholds, made.plan.levels) if made.plan else ({}, {})
    found = {}
    for name, layer in prunable_layers(made.model).items():
        skips = thresholds.get(name, 0) > 0
        if made.recipe.kernels == "dense":
            found[name] = Use("dense", "the recipe asks for dense products", 1.0)
            continue
        ways = {"dense": (1.0, "nothing to skip")}
        if skips:
            ways["skip"] = (1 - levels.get(name, 0.0), "inputs below its threshold")
        is_packed = isinstance(layer, nn.Linear) and is_two_four(layer.weight)
        if is_packed and is_fast(layer.weight):
            ways["2:4"] = (0.5 + 1 / (8 * layer.weight.itemsize), "two of every four weights")
        product = min(ways, key=lambda way: ways[way][0])
        read, why = ways[product]
        if skips and "2:4" in ways:
            other = "2:4" if product == "skip" else "skip"
            why += f"; reads less than {other}: {read:.2f} against {ways[other][0]:.2f}"
        elif is_packed and "2:4" not in ways:
            why += "; 2:4, but no product here is faster with it packed"
        found[name] = Use(product, why, read)
    return found


def is_two_four(W: Tensor) -> bool:
    """Whether no four neighbours in a row hold more than two non-zeros, and half of the matrix is zero."""
    return W.shape[1] % 4 == 0 and bool(((W.detach() != 0).view(-1, 4).sum(dim=1) <= 2).all())


@dataclass
class Traffic:
    """The bytes of weights that tokens read one by one have read."""

    constant: int  # at every step, whatever the inputs
    steps: int = 0
    chosen: int = 0  # by inputs above a threshold, over all steps
    dense: int = 0  # what a dense model of these shapes reads in a step

    def start(self) -> None:
        """Count from here."""
        self.steps = self.chosen = 0

    @property
    def per_step(self) -> float:
        """Of one step, the mean; NaN before the first."""
        return self.constant + self.chosen / self.steps if self.steps else float("nan")


@dataclass
class Running:
    """A model that runs as its recipe says."""

    model: nn.Module
    uses: dict[str, Use]
    traffic: Traffic
    cache: Cache | None

    @property
    def bytes_held(self) -> int:
        """All weights, as they are allocated."""
        return sum(memory(self.model).values())

    def new_cache(self) -> kv_cache.PolicyCache:
        """An empty cache for one text, or for several of the same length."""
        return empty_cache(self.cache)


@contextmanager
def running(made: Made) -> Iterator[Running]:
    """Let a model run as its recipe says, for a while. Its layers are new ones afterwards, with the weights that they had.

    Args:
        made: the model and its recipe.

    Yields:
        The model with its products, which are counted, and what makes its caches.

    Raises:
        ValueError: thresholds name no layer of the model.
    """
    model, found = made.model, uses(made)
    handles, prefill = [], made.plan.prefill if made.plan else "none"
    thresholds = made.plan.thresholds if made.plan else {}
    if unknown := [name for name in thresholds if name not in found]:
        raise ValueError(f"thresholds must be of the model's layers, got {unknown[0]!r}")
    dense = _read_always(model)
    try:
        threshold_linear_(model, {name: thresholds[name] for name, use in found.items() if use.product == "skip"}, prefill)
        for name, use in found.items():
            layer = model.get_submodule(name)
            if use.product == "2:4":
                model.set_submodule(name, TwoFourLinear.of(layer))
            if use.product != "skip" and thresholds.get(name, 0) > 0:
                layer = model.get_submodule(name)
                handles.append(layer.register_forward_pre_hook(partial(_zero_small, thresholds[name], prefill)))
        traffic = Traffic(_read_always(model), dense=dense)
        for layer in model.modules():
            if isinstance(layer, ThresholdLinear):
                handles.append(layer.register_forward_pre_hook(partial(_count, traffic)))
        first = model.get_input_embeddings()
        handles.append(first.register_forward_pre_hook(partial(_count_step, traffic)))
        with without_interpreter(), kv_cache.attending(model):
            yield Running(model, found, traffic, made.recipe.cache)
    finally:
        for handle in handles:
            handle.remove()
        unthreshold_linear_(model)
        for name in found:
            if isinstance(layer := model.get_submodule(name), TwoFourLinear):
                model.set_submodule(name, layer.dense())


def memory(model: nn.Module) -> dict[int, int]:
    """Bytes of parameters and buffers by the address of their memory, each once."""
    tensors = [*model.parameters(), *model.buffers()]
    return {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}


def _read_always(model: nn.Module) -> int:
    """Bytes of weights that every step reads: not those of layers that skip, nor a table of which one row is looked up."""
    skipping = {id(layer.product.W) for layer in model.modules() if isinstance(layer, ThresholdLinear)}
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    looked_up = {id(table)} if table is not head else set()
    tensors = {id(x): x for x in [*model.parameters(), *model.buffers()]}
    return sum(x.nbytes for key, x in tensors.items() if key not in skipping | looked_up) + bool(looked_up) * table[0].nbytes


def _zero_small(threshold: float, prefill: str, layer: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    x = args[0]
    return (teal.sparsify(x, threshold, prefill),) if dense_tokens(x.shape[-2], prefill) < x.shape[-2] else args


def _count_step(traffic: Traffic, table: nn.Module, args: tuple[Tensor]) -> None:
    traffic.steps += args[0].shape[-1] == 1


def _count(traffic: Traffic, layer: ThresholdLinear, args: tuple[Tensor]) -> None:
    x = args[0]  # (batch, tokens, inputs)
    if x.shape[-2] == 1:  # what any sequence needs is read
        wanted = (x.abs().float() > layer.threshold).flatten(0, -2).any(dim=0).sum()
        traffic.chosen += int(wanted) * layer.product.sizes[layer.place] * x.itemsize
