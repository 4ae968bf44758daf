"""Lottery tickets: in a network that learns there is a small one that could have learned alone.

    theta_0 --- k steps ---> theta_k --- train ---> theta_T --- drop 20 % of what is left ---> mask
                                ^                                                               |
                                +------------- rewind what is left, and all else <--------------+

Iterative magnitude pruning repeats this, level by level. The ticket is theta_k under the mask: trained alone it should do what
the dense network did. k = 0 is the original; a small k > 0 (late rewinding) is what works on larger networks.

Whether a ticket wins is a comparison, and every comparison here is a state and masks: `train_from_` trains both ticket and
controls in the same steps on the same batches.

Frankle and Carbin 2019, "The lottery ticket hypothesis"; Frankle et al. 2020, "Linear mode connectivity and the lottery ticket
hypothesis" (rewinding to step k). The two count conventions of others are those of their authors' code.
"""

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm.auto import tqdm

from sparsity_edu.models.layers import prunable_matrices
from sparsity_edu.weights.magnitude import apply_, hold_

Masks = dict[str, Tensor]  # by layer name, boolean in the shape of its weight, True = kept
COUNTS = ("floor", "open_lth", "google")


@dataclass
class Training:
    """A training that can be interrupted, copied and rewound: the network and all that decides how it goes on.

    Rewinding the weights alone is not enough: momentum, learning rate and the order of the data would be those of the end.
    """

    model: nn.Module
    optimizer: Optimizer
    batch: Callable[[torch.Generator], tuple[Tensor, Tensor]]  # draws the next (inputs, labels)
    loss: Callable[[Tensor, Tensor], Tensor]  # of (outputs, labels)
    scheduler: LRScheduler | None = None
    seed: int = 0  # of the order of the data
    step: int = 0

    def __post_init__(self) -> None:
        self.order = torch.Generator().manual_seed(self.seed)

    def run_(self, steps: int, masks: Masks | None = None, after: Callable[["Training"], None] | None = None) -> None:
        """Train on.

        Args:
            steps: how many.
            masks: pruned weights stay exactly zero.
            after: called with this training after each step, to measure something.
        """
        handle = hold_(self.optimizer, self.model, masks or {})
        try:
            for _ in range(steps):
                inputs, labels = self.batch(self.order)
                self.model.train()
                self.optimizer.zero_grad()
                self.loss(self.model(inputs), labels).backward()
                self.optimizer.step()
                if self.scheduler is not None:
                    self.scheduler.step()
                self.step += 1
                if after is not None:
                    after(self)
        finally:
            handle.remove()

    def state(self) -> dict:
        """A copy of everything that decides how the training goes on; training on does not change it."""
        state = {
            "model": self.model.state_dict(),  # parameters and buffers: running means are part of a network's start
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "order": self.order.get_state(),
            "dropout": torch.get_rng_state(),
            "step": self.step,
        }
        return copy.deepcopy(state)

    def load_(self, state: Mapping) -> None:
        """Go back, or on, to a state; the state is copied, and so can be loaded again."""
        state = copy.deepcopy(dict(state))
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.order.set_state(state["order"])
        torch.set_rng_state(state["dropout"])
        self.step = state["step"]


class Level(NamedTuple):
    """One round of iterative magnitude pruning."""

    masks: Masks  # of this level's ticket; all True at level 0
    density: float  # share of the prunable weights that the masks keep
    end: dict  # the training's state after it: the trained ticket


def find_tickets(
    training: Training,
    steps: int,
    levels: int,
    rate: float | Mapping[str, float] = 0.2,
    rewind: int = 0,
    scope: str = "global",
    count: str = "floor",
    skip: Iterable[str] = (),
    progress: bool = True,
) -> tuple[dict, list[Level]]:
    """Iterative magnitude pruning with rewinding.

    Args:
        training: at its beginning; it ends as the last level's.
        steps: T, of one whole training; a level trains from `rewind` to `steps`.
        levels: how often to prune. Level 0 is the dense network.
        rate: fraction of the *remaining* weights to drop per level, in [0, 1); or one for each layer, with scope "layer".
        rewind: k, the step to which everything is rewound; 0 for the initialisation.
        scope: "global" lets the weights of all layers compete, "layer" those of each.
        count: how the number is rounded, see `drop_remaining`.
        skip: names of layers that are not pruned, such as the output layer.
        progress: show a progress bar over the levels.

    Returns:
        The state at step k, and levels + 1 results. Ticket number i is that state with masks `levels[i].masks`.

    Raises:
        ValueError: steps, rewind or levels are out of order, or as in `drop_remaining`.

    Source: Frankle and Carbin 2019, sec. 1 and appendix B ("resetting"); Frankle et al. 2020, sec. 4, for rewind > 0.
    """
    if not 0 <= rewind < steps:
        raise ValueError(f"rewind must be in [0, steps), got rewind {rewind} and steps {steps}")
    if levels < 0:
        raise ValueError(f"levels must not be negative, got {levels}")
    layers = prunable_matrices(training.model)
    masks = {name: torch.ones_like(layer.weight, dtype=torch.bool) for name, layer in layers.items()}
    training.run_(rewind)
    start, found = training.state(), []
    for level in tqdm(range(levels + 1), desc="levels", disable=not progress):
        if level:
            weights = {name: layer.weight.detach() for name, layer in layers.items()}
            masks = drop_remaining(weights, masks, rate, scope, count, skip)
        train_from_(training, start, masks, steps - rewind)
        found.append(Level(masks, density(masks), training.state()))
    return start, found


def train_from_(
    training: Training, state: Mapping, masks: Masks, steps: int, after: Callable[[Training], None] | None = None
) -> None:
    """Rewind a training to a state, prune, and train: what is done with a ticket and with every control.

    Args:
        training: rewound and trained, in place.
        state: where to begin: weights, optimiser, schedule, order of the data.
        masks: what is left.
        steps: how many.
        after: see `Training.run_`.
    """
    training.load_(state)
    apply_(training.model, masks)
    training.run_(steps, masks, after)


def drop_remaining(
    weights: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    rate: float | Mapping[str, float] = 0.2,
    scope: str = "global",
    count: str = "floor",
    skip: Iterable[str] = (),
) -> Masks:
    """Drop the smallest of the weights that are left. What is gone stays gone, whatever value it has.

    Args:
        weights: trained weights by layer name.
        masks: what is left of them, by layer name.
        rate: fraction p of the n remaining weights, in [0, 1); with scope "layer" it may differ between layers.
        scope: "global" or "layer": among whom the smallest are sought, and n is counted.
        count: "floor" drops exactly int(p n), of equal weights the first ones. "open_lth" drops all up to the one at index
            ceil(p n) in ascending order, where n counts the skipped layers too; "google" those up to index round(p n). Both
            indices begin at 0, so both drop one more than they name.
        skip: names of layers that are not pruned.

    Returns:
        New masks; those of skipped layers are as before.

    Raises:
        ValueError: scope or count is unknown, a rate is outside [0, 1), or a name in `skip` is no layer.

    Source: count "open_lth" is `sparse_global` of the authors' later code, with scope "global"; "google" is
        `prune_by_percent_once` of their first, with scope "layer".
    """
    skip = set(skip)
    if scope not in ("global", "layer") or count not in COUNTS:
        raise ValueError(f'scope must be "global" or "layer" and count one of {", ".join(COUNTS)}, got {scope!r} and {count!r}')
    if unknown := skip - set(weights):
        raise ValueError(f"skip must name layers, got {', '.join(sorted(unknown))}; there are {', '.join(weights)}")
    if isinstance(rate, Mapping) and scope == "global":
        raise ValueError('rate must be one number with scope "global", got one for each layer')
    rates = {name: rate[name] if isinstance(rate, Mapping) else rate for name in weights if name not in skip}
    if not all(0 <= p < 1 for p in rates.values()):
        raise ValueError(f"rate must be in [0, 1), got {rate}")

    names = [name for name in weights if name not in skip]
    groups = [names] if scope == "global" else [[name] for name in names]
    new = {name: mask.clone() for name, mask in masks.items()}
    for group in groups:
        counted = [*group, *skip] if scope == "global" and count == "open_lth" else group
        n = sum(int(masks[name].sum()) for name in counted)
        size = torch.cat([weights[name].detach().abs()[masks[name]] for name in group])  # (remaining,)
        gone = torch.zeros_like(size, dtype=torch.bool)
        gone[size.argsort(stable=True)[: _number(rates[group[0]], n, count)]] = True
        if count != "floor" and gone.any():
            gone = size <= size[gone].max()  # a threshold: ties go together
        left = (~gone).split([int(masks[name].sum()) for name in group])
        for name, kept in zip(group, left, strict=True):
            new[name][masks[name]] = kept
    return new


def _number(p: float, n: int, count: str) -> int:
    if count == "floor":
        return int(p * n)
    return (math.ceil(p * n) if count == "open_lth" else round(p * n)) + 1


def density(masks: Mapping[str, Tensor]) -> float:
    """Share of the weights that masks keep."""
    return sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())


def with_weights(state: Mapping, model: nn.Module | Mapping[str, Tensor]) -> dict:
    """A state with other weights and buffers, and everything else as it was: the start of a control.

    A network that was initialised anew makes the control "same mask, other initialisation"; the end of a level makes
    "fine-tuning": trained weights, but the ticket's schedule and data.

    Args:
        state: of a training.
        model: the other weights: a module, or its state dict.

    Returns:
        A new state.
    """
    weights = model.state_dict() if isinstance(model, nn.Module) else model
    return copy.deepcopy(dict(state) | {"model": weights})


def shuffled(masks: Mapping[str, Tensor], generator: torch.Generator, scope: str = "layer") -> Masks:
    """Random masks that keep as many weights: the control "same start, other connections".

    Args:
        masks: of a ticket.
        generator: source of randomness.
        scope: "layer" keeps the number in each layer, "global" only that in all.

    Returns:
        New masks.

    Raises:
        ValueError: the scope is unknown.

    Source: Frankle and Carbin 2019, fig. 1 and appendix; Frankle et al. 2021, "Pruning neural networks at initialization",
        sec. 5, for shuffling within layers.
    """
    if scope == "layer":
        return {name: _permuted(mask.flatten(), generator).view_as(mask) for name, mask in masks.items()}
    if scope == "global":
        entries = _permuted(torch.cat([mask.flatten() for mask in masks.values()]), generator)
        parts = entries.split([mask.numel() for mask in masks.values()])
        return {name: part.view_as(mask) for (name, mask), part in zip(masks.items(), parts, strict=True)}
    raise ValueError(f'scope must be "layer" or "global", got {scope!r}')


def _permuted(entries: Tensor, generator: torch.Generator) -> Tensor:
    return entries[torch.randperm(len(entries), generator=generator, device=generator.device).to(entries.device)]
