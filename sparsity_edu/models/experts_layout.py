"""How transformers lays out the experts of a block, read as one matrix (outputs, inputs) per projection of each expert.

The experts of a block are one module with 3-D parameters, an expert after the other, and whatever computes them goes by that
module's flags. So what is read here is the layout that is multiplied, for every family:

    gate_up_proj     (experts, 2 inner, hidden), x W^T       is_transposed: (experts, hidden, 2 inner), x W
                     gate above up                           not is_concatenated: gate, up, gate, up, ...
    up_proj          (experts, inner, hidden)                in place of gate_up_proj, where not has_gate
    down_proj        (experts, hidden, inner), x W^T         is_transposed: (experts, inner, hidden), x W

Gate and up are two matrices here, as in the checkpoints of Mixtral, Qwen and DeepSeek, and in a dense block.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from torch import Tensor, nn

FLAGS = ("has_gate", "has_bias", "is_transposed", "is_concatenated")


@dataclass(frozen=True, eq=False)
class Projection:
    """One matrix of one expert. Its `weight` is used like that of a linear layer."""

    experts: nn.Module
    expert: int
    name: str  # "gate_proj", "up_proj" or "down_proj"

    @property
    def weight(self) -> Tensor:
        """(outputs, inputs), a view without gradient: writing to it changes the model."""
        matrix = _oriented(self.experts, self.parameter_name)[self.expert]
        if self.name == "down_proj" or not self.experts.has_gate:
            return matrix
        second = self.name == "up_proj"
        return matrix.chunk(2)[second] if self.experts.is_concatenated else matrix[second::2]

    @property
    def parameter_name(self) -> str:
        """The parameter of `experts` that holds the weight."""
        return self.name if self.name == "down_proj" or not self.experts.has_gate else "gate_up_proj"

    @property
    def step(self) -> tuple[nn.Module, bool]:
        """Projections of the same step can be computed at once: all that read hidden states, then all that follow."""
        return self.experts, self.name == "down_proj"


def is_experts(module: nn.Module) -> bool:
    """Whether a module holds experts in the layout above."""
    if not all(hasattr(module, flag) for flag in FLAGS):
        return False
    first = getattr(module, _first(module), None)
    down = getattr(module, "down_proj", None)
    if not all(isinstance(p, nn.Parameter) and p.ndim == 3 for p in (first, down)) or len(first) != len(down):
        return False
    inner = _oriented(module, _first(module)).shape[1] // (2 if module.has_gate else 1)
    return _oriented(module, "down_proj").shape[2] == inner


def projections(experts: nn.Module) -> dict[str, Projection]:
    """All matrices of a block's experts.

    Args:
        experts: see `is_experts`.

    Returns:
        Projection by name within the module, such as "3.up_proj", expert after expert.
    """
    names = ("gate_proj", "up_proj", "down_proj") if experts.has_gate else ("up_proj", "down_proj")
    return {f"{e}.{name}": Projection(experts, e, name) for e in range(len(experts.down_proj)) for name in names}


def inputs(
    wanted: list[Projection], hidden: Tensor, chosen: Tensor, everything: bool = False
) -> Iterator[tuple[Projection, Tensor]]:
    """What projections read in one call of their experts.

    Args:
        wanted: of the same module, expert after expert.
        hidden: (..., cols), what the experts are called with.
        chosen: (tokens, k), the experts of each token.
        everything: let each expert read all tokens, not only those that are routed to it.

    Yields:
        A projection and its inputs (tokens, cols); gate and up of an expert get the same tensor, and an expert without a token
        gets none.
    """
    hidden = hidden.flatten(0, -2)
    chosen = chosen.reshape(len(hidden), -1)
    for expert, mine in groupby(wanted, key=lambda projection: projection.expert):
        X = hidden if everything else hidden[(chosen == expert).any(dim=1)]
        if not len(X):
            continue
        for projection in mine:
            yield projection, X if projection.name != "down_proj" else _inner(projection.experts, expert, X)


def _inner(experts: nn.Module, expert: int, X: Tensor) -> Tensor:
    """What an expert's down projection reads: f(gate) * up, by the family's own f; or f(up)."""
    name = _first(experts)
    out = X @ _oriented(experts, name)[expert].T
    if experts.has_bias:
        out = out + getattr(experts, f"{name}_bias")[expert]
    return experts._apply_gate(out) if experts.has_gate else experts.act_fn(out)


def _first(experts: nn.Module) -> str:
    return "gate_up_proj" if experts.has_gate else "up_proj"


def _oriented(experts: nn.Module, name: str) -> Tensor:
    """(experts, outputs, inputs)."""
    stored = getattr(experts, name).detach()
    return stored.mT if experts.is_transposed else stored
