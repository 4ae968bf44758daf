"""What a mixture layer costs beside dense layers that compute as much: k dense layers of one expert's size each.

    python benchmarks/experts.py [--tokens 512] [--experts 8] [--k 2] [--rounds 15]

Both sides take turns, each ratio is that of one turn, and the median counts: of the forward pass alone, and with gradients.
Beside it the same for transformers' own layer, and the time of router, dispatch and combine alone.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from rich import box
from rich.console import Console
from rich.table import Column, Table
from torch import Tensor
from torch.nn import functional as F
from transformers import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

from sparsity_edu.experts.layer import MixtureLayer
from sparsity_edu.experts.routing import combine, dispatch, router_logits, top_k

SHAPES = {"tiny-moe": (128, 176), "between": (256, 512), "SmolLM2": (576, 1536)}  # d, f of an expert


def turns(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way, turn by turn; the first two turns are rehearsals."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 2):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if turn > 1:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def dense(x: Tensor, weights: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The sum of dense SwiGLU layers."""
    y = torch.zeros_like(x)
    for up, down in weights:
        gate, value = F.linear(x, up).chunk(2, dim=-1)
        y = y + F.linear(F.silu(gate) * value, down)
    return y


def transformers_layer(layer: MixtureLayer, k: int, implementation: str) -> MixtralSparseMoeBlock:
    """The same layer in transformers."""
    E, d, f = layer.down.shape
    config = MixtralConfig(hidden_size=d, intermediate_size=f, num_local_experts=E, num_experts_per_tok=k)
    config._experts_implementation = implementation
    block = MixtralSparseMoeBlock(config)
    state = {"gate.weight": layer.router, "experts.gate_up_proj": layer.up, "experts.down_proj": layer.down}
    block.load_state_dict(state, assign=True)
    return block


def routing_alone(x: Tensor, layer: MixtureLayer) -> Tensor:
    """Router, dispatch and combine, with experts that give back what they read."""
    routing = layer.route(router_logits(x, layer.router))
    to = dispatch(routing.experts, len(layer.router))
    return combine(x.index_select(0, to.tokens), to, routing.weights)


def measure(shape: tuple[int, int], tokens: int, E: int, k: int, rounds: int, backward: bool) -> dict[str, list[float]]:
    """Seconds of each way on one shape."""
    d, f = shape
    layer = MixtureLayer(d, f, E, partial(top_k, k=k, renormalise=True), generator=torch.Generator().manual_seed(0))
    experts = [(layer.up[e].detach().clone(), layer.down[e].detach().clone()) for e in range(k)]
    x = torch.randn(tokens, d, generator=torch.Generator().manual_seed(1))
    for tensor in (x, *(W for pair in experts for W in pair)):
        tensor.requires_grad_(backward)
    blocks = {name: transformers_layer(layer, k, name) for name in ("eager", "grouped_mm")}

    def run(way: Callable[[], Tensor]) -> None:
        with torch.set_grad_enabled(backward):
            y = way()
        if backward:
            torch.autograd.grad(y.sum(), [x, *parameters[way]])

    ways: dict[str, Callable[[], Tensor]] = {
        "dense": lambda: dense(x, experts),
        "mixture": lambda: layer(x)[0],
        "eager": lambda: blocks["eager"](x[None]),
        "grouped_mm": lambda: blocks["grouped_mm"](x[None]),
    }
    parameters = {way: [] for way in ways.values()}
    parameters[ways["dense"]] = [W for pair in experts for W in pair]
    parameters[ways["mixture"]] = list(layer.parameters())
    for name, block in blocks.items():
        parameters[ways[name]] = list(block.parameters())
    if not backward:
        ways["routing"] = lambda: routing_alone(x, layer)
    return turns({name: partial(run, way) for name, way in ways.items()}, rounds)


def main(tokens: int, E: int, k: int, rounds: int) -> None:
    """Print the tables."""
    console = Console(width=110, soft_wrap=True)
    console.print(f"{tokens} tokens, {E} experts, top {k}; {torch.get_num_threads()} threads, torch {torch.__version__}")
    for backward in (False, True):
        columns = ("dense ms", "mixture", "mixture / dense", "transformers, eager", "grouped_mm", "routing / dense")
        title = "forward and backward" if backward else "forward"
        table = Table("d x f", *(Column(name, justify="right") for name in columns), box=box.SIMPLE_HEAD, title=title)
        for name, shape in SHAPES.items():
            seconds = measure(shape, tokens, E, k, rounds, backward)
            ratios = {
                way: statistics.median(mine / base for mine, base in zip(times, seconds["dense"], strict=True))
                for way, times in seconds.items()
            }
            table.add_row(
                f"{name}, {shape[0]} x {shape[1]}",
                *(f"{1e3 * statistics.median(seconds[way]):.2f}" for way in ("dense", "mixture")),
                f"{ratios['mixture']:.2f}",
                *(f"{ratios[way]:.2f}" for way in ("eager", "grouped_mm")),
                f"{ratios['routing']:.2f}" if "routing" in ratios else "",
            )
        console.print(table)
    console.print(f"dense: {k} layers of one expert's size, their sum; medians of {rounds} turns")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=512, help="(default: %(default)s)")
    parser.add_argument("--experts", type=int, default=8, help="(default: %(default)s)")
    parser.add_argument("--k", type=int, default=2, help="experts of a token (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="turns (default: %(default)s)")
    given = parser.parse_args()
    main(given.tokens, given.experts, given.k, given.rounds)
