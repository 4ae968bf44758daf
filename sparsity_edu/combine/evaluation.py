"""What a recipe costs and what it saves: quality, bytes and time, in a row of a table that is kept as soon as it is known.

loss        of each text's last half, read token by token, with all that the recipe does really done
found       lines of a long text that are copied when they are asked for (kv_cache/needle.py)
right       sentences that are known to come next (choices.py); read as a prompt, so caches do not matter here
bytes       on disk, allocated, and read for a token: counted while the model runs, not computed from the recipe
seconds     of a token behind a long text, and the least that a machine of this bandwidth and peak needs
"""

from __future__ import annotations

import csv
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparsity_edu.combine import packed
from sparsity_edu.combine.choices import Item, answers, items
from sparsity_edu.combine.execution import Running, running
from sparsity_edu.combine.making import Made
from sparsity_edu.kernels.roofline import Machine, Work
from sparsity_edu.kv_cache.needle import Needle, ask, needles
from sparsity_edu.kv_cache.reading import losses
from sparsity_edu.models import tokens
from sparsity_edu.models.layers import prunable_layers, weight_matrix
from sparsity_edu.models.positions import check_length

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sparsity_edu.combine.recipe import Recipe

# of the course's recipes, as `sparsity-edu evaluate smollm2 --recipes sparsity_edu/combine --trials 8 --out RECORD` writes it
RECORD = Path(__file__).parent / "smollm2.csv"


@dataclass(frozen=True)
class Questions:
    """What each recipe is tried on: the same for all."""

    texts: Tensor  # token ids (texts, tokens): the first half is a prompt
    needles: list[Needle]
    items: list[Item]
    prompt: Tensor  # token ids (tokens,) to write behind, where time is measured
    count: int  # tokens to write
    about: str  # which text, and how much of it

    @classmethod
    def of(
        cls, tokenizer, text: str, windows: int = 8, window: int = 512, length: int = 1024, trials: int = 10, choices: int = 40,
        count: int = 32, seed: int = 0, name: str = "",
    ) -> Questions:  # fmt: skip
        """Questions from a text.

        Args:
            tokenizer: of the model.
            text: that the model and its calibration have not seen.
            windows: texts that are read token by token.
            window: their tokens.
            length: tokens of the text in which a line is hidden, and of the prompt to write behind.
            trials: hidden lines; 0: none.
            choices: multiple-choice items; 0: none.
            count: tokens to write.
            seed: of lines and items.
            name: of the text.

        Raises:
            ValueError: the text is too short.
        """
        ids = tokens(tokenizer, text)
        if len(ids) < max(windows * window, length):
            raise ValueError(f"text must have {max(windows * window, length):,} tokens, got {len(ids):,}")
        return cls(
            ids[: windows * window].view(windows, window),
            needles(tokenizer, text, length, trials, seed=seed) if trials else [],
            items(text, choices, seed=seed) if choices else [],
            ids[:length],
            count,
            f"{name}, {sha256(text.encode()).hexdigest()[:8]}: {windows} x {window} tokens, {trials} lines in {length}, "
            f"{choices} items, {count} tokens written, seed {seed}",
        )


@dataclass(frozen=True)
class Row:
    """A recipe's results; bytes of weights and cache, of one sequence."""

    recipe: str
    digest: str  # of what is done
    questions: str  # what it was asked
    perplexity: float
    found: int
    trials: int
    right: int
    items: int
    disk: int  # bytes of the weights, packed
    weights_held: int  # bytes allocated
    weights_read: int  # of a token
    cache_held: int  # behind the prompt
    cache_read: int
    tokens_per_s: float
    predicted_per_s: float  # at most, by the roofline
    seconds: float  # to apply the recipe and to measure
    losses: tuple[float, ...]  # of each text
    score: float = math.nan  # of a task of lm-eval (harness.py), if one was asked for

    @property
    def loss(self) -> float:
        """The mean over texts, in nats per token."""
        return statistics.fmean(self.losses)

    @property
    def read(self) -> int:
        """Bytes of a token."""
        return self.weights_read + self.cache_read


def evaluate(made: Made, questions: Questions, machine: Machine, began: float | None = None, progress: bool = True) -> Row:
    """Measure a model that runs as its recipe says.

    Args:
        made: the model and its recipe.
        questions: what it is tried on.
        machine: for the prediction; from `this_machine`.
        began: `time.perf_counter()` when the recipe was begun to be applied. Default: now.
        progress: show progress bars.

    Returns:
        The results.

    Raises:
        ValueError: a text is longer than the model's positions.
    """
    began = time.perf_counter() if began is None else began
    n = questions.texts.shape[1]
    check_length(made.model, max(n, len(questions.prompt) + questions.count), "window")
    disk = stored_bytes(made)
    with running(made) as run:
        each = losses(made.model, questions.texts, [run.new_cache()], n // 2, progress)[0].mean(dim=-1).tolist()
        found = [right for needle in questions.needles for right in next(ask(made.model, [needle], [run.new_cache()]))]
        right = answers(made.model, made.tokenizer, questions.items, progress=progress)
        weights_read, cache, step = _written(made, run, questions)
        held = run.bytes_held
    read = weights_read + cache.bytes_read
    work = Work(made.recipe.name, read, 2 * read // made.model.dtype.itemsize)  # a number is multiplied and added once
    return Row(
        made.recipe.name,
        made.recipe.digest(),
        questions.about,
        _exp(statistics.fmean(each)),
        sum(found),
        len(found),
        sum(right),
        len(right),
        disk,
        held,
        weights_read,
        cache.bytes_held,
        cache.bytes_read,
        1 / step,
        1 / work.seconds(machine),
        time.perf_counter() - began,
        tuple(each),
    )


def stored_bytes(made: Made) -> int:
    """Bytes of the weights as `Made.save` packs them."""
    matrices = {id(layer.weight): layer for layer in prunable_layers(made.model).values()}
    parameters = made.model.parameters()
    return sum(packed.packed_size(weight_matrix(matrices[id(p)]))[1] if id(p) in matrices else p.nbytes for p in parameters)


@torch.no_grad()
def _written(made: Made, run: Running, questions: Questions) -> tuple[int, object, float]:
    """Bytes of weights of a token, the cache behind the text, and the median time of a token."""
    model, cache, times = made.model, run.new_cache(), []
    token = model(questions.prompt[None].to(model.device), past_key_values=cache, use_cache=True, logits_to_keep=1)
    token = token.logits.argmax(dim=-1)
    run.traffic.start()
    for _ in range(questions.count):
        start = time.perf_counter()
        token = model(token, past_key_values=cache, use_cache=True).logits.argmax(dim=-1)
        token.item()
        times.append(time.perf_counter() - start)
    return round(run.traffic.per_step), cache, statistics.median(times)


# Rows in a file


def append(path: Path, row: Row) -> None:
    """Write a row behind those that are in a file of CSV; made if there is none."""
    new = not path.exists() or not path.stat().st_size
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(one.name for one in fields(Row))
        writer.writerow(json.dumps(value) if isinstance(value, tuple) else value for value in asdict(row).values())


def read(path: Path) -> list[Row]:
    """The rows of a file; none if there is no file. A last row that was cut off is left out.

    Raises:
        ValueError: the file is none that `append` wrote.
    """
    if not path.exists():
        return []
    kinds = {one.name: {"str": str, "int": int, "float": float}.get(one.type, _numbers) for one in fields(Row)}
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    if lines and lines[0] != list(kinds):
        raise ValueError(f"{path} must be a table of this version of the command: give another name, or move it away")
    found = []
    for i, line in enumerate(lines[1:], 1):
        try:
            found.append(Row(*(kind(cell) for kind, cell in zip(kinds.values(), line, strict=True))))
        except ValueError as error:
            if i < len(lines) - 1:
                raise ValueError(f"{path} must be a table of recipes, got {line} in row {i}") from error
    return found


def _numbers(cell: str) -> tuple[float, ...]:
    return tuple(float(number) for number in json.loads(cell))


def once(
    measure: Callable[[Recipe], Row], known: Sequence[Row], about: str, keep: Callable[[Row], None]
) -> Callable[[Recipe], Row]:
    """What gives the row of a recipe: one that is known already, or a new one.

    Args:
        measure: makes the row of a recipe.
        known: rows of an earlier run.
        about: the questions; rows of others do not count.
        keep: is given each new row at once.

    Returns:
        A function of a recipe to its row, under the recipe's own name.
    """
    by_digest = {row.digest: row for row in known if row.questions == about}

    def row_of(recipe: Recipe) -> Row:
        digest = recipe.digest()
        if digest not in by_digest:
            by_digest[digest] = measure(recipe)
            keep(by_digest[digest])
        return replace(by_digest[digest], recipe=recipe.name)

    return row_of


def draw(rows: Sequence[Row], front: Sequence[int], title: str = "") -> Figure:
    """Quality against bytes of a token: a point per recipe, the Pareto front as a line.

    Args:
        rows: of the recipes.
        front: which of them are on it, in order of bytes.
        title: of the figure.

    Returns:
        The figure.
    """
    import matplotlib.pyplot as plt

    from sparsity_edu import plots

    figure, ax = plt.subplots(figsize=(8, 4.5), layout="constrained")
    on = [rows[i] for i in front]
    ax.step([row.read / 1e6 for row in on], [row.perplexity for row in on], where="post", color=plots.BLUE, lw=1.2, zorder=1)
    for row in rows:
        color = plots.BLUE if row in on else plots.GREY
        ax.plot(row.read / 1e6, row.perplexity, "o", color=color, ms=5)
    ax.set(xlabel="MB read for a token: weights and cache", ylabel="perplexity", yscale="log", title=title)
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(lambda value, _: f"{value:g}")
    points = {row.recipe: (row.read / 1e6, row.perplexity) for row in rows if math.isfinite(row.perplexity)}
    plots.names(ax, points)
    return figure


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf
