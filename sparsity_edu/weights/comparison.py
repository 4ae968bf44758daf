"""Methods side by side on one language model: perplexity, sparsity per kind of layer, seconds."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn

from sparsity_edu import plots
from sparsity_edu.models.layers import block_weights, left_alone
from sparsity_edu.models.perplexity import perplexity
from sparsity_edu.patterns import parse_n_m
from sparsity_edu.weights.driver import LayerResult, prune_

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = {"magnitude": plots.GREY, "wanda": plots.VERMILLION, "sparsegpt": plots.BLUE}


class Coverage(NamedTuple):
    """How much of a model's blocks was pruned, counted in weights: all parameters there but norms and biases."""

    covered: int
    total: int
    left: dict[str, int]  # what was left dense, by kind: routers, convolutions, experts that saw too few tokens

    @property
    def share(self) -> str:
        """In percent; 100% only if nothing was left."""
        return "100%" if self.covered == self.total else f"{min(self.covered / self.total, 0.9999):.2%}"


@dataclass(frozen=True)
class Run:
    """One way to prune a model, and what became of it."""

    method: str
    setting: float | str  # a sparsity, or a pattern such as "2:4"
    perplexity: float
    seconds: float  # to prune, without measuring
    layers: list[LayerResult] = field(repr=False)
    coverage: Coverage | None = field(default=None, repr=False)

    @property
    def pruned(self) -> list[LayerResult]:
        """All but what was left dense."""
        return pruned(self.layers)

    @property
    def sparsity(self) -> float:
        """Of all pruned layers together, measured."""
        return sum(layer.sparsity * layer.size for layer in self.pruned) / sum(layer.size for layer in self.pruned)

    @property
    def asked(self) -> float:
        """The sparsity that the setting asks for."""
        return asked_sparsity(self.setting)


def asked_sparsity(setting: float | str) -> float:
    """The sparsity that a setting asks for: its own, or that of a pattern "n:m", 1 - n / m."""
    if not isinstance(setting, str):
        return setting
    n, m = parse_n_m(setting)
    return 1 - n / m


def in_order(settings: Iterable[float | str]) -> list[float | str]:
    """Settings in the order in which a table shows them: sparsities, then patterns, each from few zeros to many."""
    return sorted(settings, key=lambda setting: (isinstance(setting, str), asked_sparsity(setting), str(setting)))


WHOLE = {  # why a method does not remove just the share that it is asked for
    "magnitude": "magnitude removes a whole number of each layer's weights, rounded down",
    "wanda": "wanda removes a whole number of each row's weights, rounded down",
    "sparsegpt": "sparsegpt removes one weight more from each block of 128 columns, as its authors' code does",
}


def explain(runs: Iterable[Run]) -> list[str]:
    """A sentence for each method whose sparsity is, at two decimals, not what was asked for.

    Args:
        runs: of methods in `driver.METHODS`.

    Returns:
        The sentences.
    """
    off: dict[str, list[str]] = {}
    for run in runs:
        got, asked = f"{run.sparsity:.2%}", f"{run.asked:.2%}"
        if run.sparsity > run.asked + 0.005:
            off.setdefault("weights that were zero before, or whose input always is, count too", []).append(
                f"{got} for {asked}"
            )
        elif got != asked:
            off.setdefault(WHOLE[run.method], []).append(f"{got} for {asked}")
    return [f"{', '.join(dict.fromkeys(pairs))}: {reason}" for reason, pairs in off.items()]


def compare(
    model: nn.Module,
    methods: Iterable[str],
    settings: Iterable[float | str],
    calibration: Tensor,
    validation: Tensor,
    *,
    progress: bool = True,
    **options,
) -> Iterator[Run]:
    """Prune a model at each setting by each method, always from the same dense weights, and measure it.

    Args:
        model: a Hugging Face causal language model; in the end its weights are the dense ones again.
        methods: see `driver.prune_`.
        settings: a sparsity or a pattern each.
        calibration: token ids (windows, tokens).
        validation: token ids (windows, tokens), read window by window.
        progress: show progress bars.
        **options: for `driver.prune_`.

    Yields:
        A run after the other: the first setting by all methods, the next one by all methods, and so on.
    """
    methods = list(methods)
    dense = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        for setting in settings:
            for method in methods:
                run = measure(model, method, setting, calibration, validation, progress=progress, **options)
                model.load_state_dict(dense)
                yield run
    finally:
        model.load_state_dict(dense)


def measure(
    model: nn.Module,
    method: str,
    setting: float | str,
    calibration: Tensor,
    validation: Tensor,
    *,
    progress: bool = True,
    **options,
) -> Run:
    """Prune a model in place and measure it; see `compare`."""
    target = {"pattern": setting} if isinstance(setting, str) else {"sparsity": setting}
    began = time.perf_counter()
    layers = prune_(model, method, calibration=calibration, progress=progress, **target, **options)
    seconds = time.perf_counter() - began
    covered = coverage(model, layers)
    value = perplexity(model, validation.flatten(), validation.shape[1], progress=progress)
    return Run(method, setting, value, seconds, layers, covered)


def pruned(layers: Iterable[LayerResult]) -> list[LayerResult]:
    """The results of what was pruned: all but those that saw too few tokens and were left dense."""
    return [layer for layer in layers if layer.few != "dense"]


def coverage(model: nn.Module, layers: list[LayerResult]) -> Coverage:
    """How much of a model's blocks was pruned.

    Args:
        model: the model.
        layers: what `driver.prune_` returned for it.

    Returns:
        Counts of weights: covered and left make up the total.
    """
    weights, alone = block_weights(model), left_alone(model)
    left: Counter[str] = Counter()
    for name, weight in weights.items():
        if name in alone:
            left[kind_of(name).removesuffix(".weight")] += weight.numel()
    for layer in layers:
        if layer.few == "dense":
            left[f"{kind_of(layer.name)} with few tokens"] += layer.size
    covered = sum(layer.size for layer in pruned(layers))
    return Coverage(covered, sum(weight.numel() for weight in weights.values()), dict(left))


def few_tokens(layers: Iterable[LayerResult]) -> list[str]:
    """The experts that saw too few tokens, by name; and layers that no token reached.

    Args:
        layers: of any runs.

    Returns:
        A line for the experts of each block, with the tokens that each one saw, such as
        "model.layers.0.mlp.experts: 3 (0), 5 (2 to 9)".
    """
    found: dict[str, dict[str, list[int]]] = {}
    for layer in layers:
        if layer.few:
            expert = re.fullmatch(r"(.*\.\d+\..*)\.(\d+)\.\w+", layer.name) or re.fullmatch(r"(.*)\.(\w+)", layer.name)
            found.setdefault(expert[1], {}).setdefault(expert[2], []).append(layer.tokens)
    return [f"{experts}: {', '.join(f'{e} ({_range(n)})' for e, n in found[experts].items())}" for experts in found]


def _range(counts: list[int]) -> str:
    return " to ".join(map(str, sorted({min(counts), max(counts)})))


def kind_of(name: str) -> str:
    """A layer's name without the numbers of its block and expert: "model.layers.3.mlp.experts.5.up_proj" is of the kind
    "mlp.experts.up_proj"."""
    return re.sub(r"(?<=\.)\d+\.", "", re.sub(r"^.*?\.\d+\.", "", name))


class Kind(NamedTuple):
    """All layers of a kind together."""

    name: str
    size: int  # weights
    sparsity: float  # of all
    error: float | None  # mean


def by_kind(layers: list[LayerResult]) -> dict[str, Kind]:
    """Results of all layers of a kind together, such as all `self_attn.q_proj`.

    Args:
        layers: of the whole model.

    Returns:
        By kind: the sum of sizes, the sparsity of all, the mean error.
    """
    kinds: dict[str, list[LayerResult]] = {}
    for layer in layers:
        kinds.setdefault(kind_of(layer.name), []).append(layer)
    return {kind: _together(kind, members) for kind, members in kinds.items()}


def _together(kind: str, layers: list[LayerResult]) -> Kind:
    size = sum(layer.size for layer in layers)
    zeros = sum(layer.sparsity * layer.size for layer in layers)
    errors = [layer.error for layer in layers if layer.error is not None]
    return Kind(kind, size, zeros / size, sum(errors) / len(errors) if errors else None)


def draw(runs: list[Run], dense: float, title: str = "") -> Figure:
    """Perplexity against sparsity, a line per method; patterns as bars beside it.

    Args:
        runs: of any methods and settings.
        dense: perplexity of the dense model.
        title: of the figure.

    Returns:
        The figure.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    methods = list(dict.fromkeys(run.method for run in runs))
    patterns = list(dict.fromkeys(run.setting for run in runs if isinstance(run.setting, str)))
    curves = any(not isinstance(run.setting, str) for run in runs)
    widths = [3] * curves + [0.5 + 0.5 * len(patterns)] * bool(patterns)
    figure, axes = plt.subplots(
        1, len(widths), figsize=(2.4 * sum(widths), 4), sharey=True, squeeze=False, width_ratios=widths, layout="constrained"
    )
    for ax in axes.flat:
        ax.axhline(dense, color="0.4", lw=1, ls=":")
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
    axes[0, 0].set_ylabel("perplexity (log scale)")
    for index, method in enumerate(methods):
        color = COLORS.get(method, plots.COLORS[index % len(plots.COLORS)])
        mine = {run.setting: run.perplexity for run in runs if run.method == method}
        points = sorted((100 * s, value) for s, value in mine.items() if not isinstance(s, str))
        if curves:
            axes[0, 0].plot(*zip(*[(0, dense), *points], strict=True), marker="o", ms=4, color=color, label=method)
        if patterns:
            at = [i + (index - (len(methods) - 1) / 2) * 0.8 / len(methods) for i in range(len(patterns))]
            heights = [mine.get(pattern, float("nan")) for pattern in patterns]
            axes[0, -1].bar(at, heights, width=0.8 / len(methods), color=color, label=method)
    if curves:
        axes[0, 0].set(xlabel="sparsity (%)", title=title)
        axes[0, 0].text(0, 0.99 * dense, f"dense {dense:.1f}", va="top", color="0.4")
    if patterns:
        axes[0, -1].set_xticks(range(len(patterns)), patterns)
        axes[0, -1].set(xlabel="pattern", title="" if curves else title)
    axes[0, 0].legend(loc="upper left")
    return figure
