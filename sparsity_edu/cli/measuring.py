"""What `evaluate` and `search` ask of each recipe, and the table and figure that they keep."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from sparsity_edu.cli.caches import need_attention
from sparsity_edu.cli.compare import ENDINGS
from sparsity_edu.cli.errors import Refused, at_least, named, need_file, writing
from sparsity_edu.cli.show import fact, line, sentence, where_from

if TYPE_CHECKING:
    from sparsity_edu.combine import Recipe
    from sparsity_edu.combine.evaluation import Row
    from sparsity_edu.kernels.roofline import Machine

ENDINGS_OF_RECIPES = (".toml", ".json")
COLUMNS = {"perplexity": 10, "found": 5, "right": 5, "disk": 6, "held": 6, "read": 6, "tokens_s": 8, "at_most": 7}

Text = Annotated[Path | None, typer.Option(help="A text file to measure on. Default: the Python docs.")]
Out = Annotated[Path, typer.Option(help="The table, row by row; what is there is not measured again.")]
FigureFile = Annotated[Path | None, typer.Option(help="The figure. Default: beside the table, as PNG.")]
Texts = Annotated[int, typer.Option(help="Texts that are read token by token, behind a prompt of half a window.")]
Window = Annotated[int, typer.Option(help="Tokens of such a text.")]
Length = Annotated[int, typer.Option(help="Tokens of a text with a hidden line, and of the one to write behind.")]
Trials = Annotated[int, typer.Option(help="Hidden lines; 0: none.")]
Choices = Annotated[int, typer.Option(help="Multiple-choice items; 0: none.")]
Count = Annotated[int, typer.Option(help="Tokens to write, for time and bytes.")]
Seed = Annotated[int, typer.Option(help="Of lines and items.")]


class Asked(NamedTuple):
    """What all recipes are asked."""

    windows: int
    window: int
    length: int
    trials: int
    choices: int
    count: int
    seed: int

    def need(self) -> None:
        """Refuse numbers that cannot be."""
        at_least(1, windows=self.windows, count=self.count)
        at_least(4, window=self.window)
        at_least(64, length=self.length)
        at_least(0, trials=self.trials, choices=self.choices, seed=self.seed)


def need_files(out: Path, figure: Path | None) -> Path:
    """Refuse files that cannot be written. The figure's name."""
    need_file(out, ("csv",))
    figure = figure or out.with_suffix(".png")
    need_file(figure, ENDINGS, "--figure")
    return figure


def recipes_in(folder: Path) -> list[Path]:
    """The files of a folder that may hold recipes, in order, or a sentence."""
    if not folder.is_dir():
        raise Refused(f"--recipes must be a folder, got {folder}")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS_OF_RECIPES and path.is_file())
    if not found:
        raise Refused(f"--recipes must be a folder with recipes, whose files end in .toml or .json, got {folder}")
    return found


def load_recipe(path: Path) -> Recipe:
    """A recipe from a file that the user named, or a sentence."""
    from sparsity_edu.combine.recipe import Recipe

    try:
        with named("--recipe", "path"):
            return Recipe.load(path)
    except OSError as error:
        raise Refused(f"--recipe cannot be read, {error.strerror or error}: {path}") from error


def load_all(folder: Path) -> tuple[dict[str, Recipe], list[str]]:
    """Recipes of a folder, which others may have written, by file, and a sentence for each file that holds none.

    They may name no file of this machine, and no two have the same name: those that would are called like their files.
    """
    from sparsity_edu.combine.recipe import Recipe

    found, refused = {}, []
    for path in recipes_in(folder):
        name = path.relative_to(folder).with_suffix("").as_posix()
        try:
            recipe = Recipe.load(path)
            if recipe.calibration.text != "python_docs":
                raise ValueError(
                    f"calibration.text must be python_docs in a folder of recipes, got {recipe.calibration.text!r}"
                )
        except (OSError, ValueError) as error:
            refused.append(f"{name}: {error}")
        else:
            found[name] = recipe
    names = Counter(["dense", *(recipe.name for recipe in found.values())])
    own = {name: recipe if names[recipe.name] == 1 else replace(recipe, name=name[-80:]) for name, recipe in found.items()}
    return own, refused


@contextmanager
def at_most(minutes: float | None):
    """Raise a TimeoutError in a block that takes longer; where the system has no such timer, there is no limit."""
    if minutes is None or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_) -> None:
        raise TimeoutError(f"took more than {minutes:g} minutes")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 60 * minutes)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def text_of(path: Path | None) -> str:
    """What is measured on, or a sentence."""
    from sparsity_edu.data import python_docs

    if path is None:
        return python_docs("validation")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"--text must be a text file in UTF-8, got {path}") from error


class Measuring(NamedTuple):
    """What gives the rows, and what they are of."""

    row_of: Callable[[Recipe], Row]
    about: str
    machine: Machine


def measuring(
    model: str, dtype: str, asked: Asked, text: Path | None, out: Path, task: str | None = None, limit: int | None = None
) -> Measuring:
    """Load a model and ask it; rows are kept in `out` as they come, and those that are there are taken from it."""
    written = text_of(text)
    import torch

    from sparsity_edu import combine, models
    from sparsity_edu.combine import evaluation, harness
    from sparsity_edu.kernels.roofline import this_machine

    if task is not None:
        harness.need_package()
    known = evaluation.read(out)
    with named("MODEL", "name"):
        language_model = models.load(model, dtype=getattr(torch, dtype))
    need_attention(language_model.model)
    name = ", ".join(filter(None, (model, dtype, task, text.name if text else "python_docs('validation')")))
    with named("--text", "text"), named("--length", "length"):
        questions = evaluation.Questions.of(language_model.tokenizer, written, **asked._asdict(), name=name)
    machine = this_machine(language_model.model.device)
    fresh = [language_model]  # for the first recipe; each changes its model

    def measure(recipe: Recipe) -> Row:
        began = time.perf_counter()
        made = combine.make(fresh.pop() if fresh else models.load(model, dtype=getattr(torch, dtype)), recipe)
        row = evaluation.evaluate(made, questions, machine, began)
        return row if task is None else replace(row, score=harness.score(made, task, limit))

    def keep(row: Row) -> None:
        with writing(out):
            evaluation.append(out, row)

    return Measuring(evaluation.once(measure, known, questions.about, keep), questions.about, machine)


def cells(row: Row) -> tuple[str, ...]:
    """A row's results, as in `COLUMNS`."""
    sizes = (row.disk, row.weights_held + row.cache_held, row.read)
    speeds = f"{row.tokens_per_s:.1f}", f"{row.predicted_per_s:.1f}"
    return f"{row.perplexity:.2f}", f"{row.found}", f"{row.right}", *(f"{size / 1e6:.1f}" for size in sizes), *speeds


def what_columns_are(model: str, asked: Asked, measured: Measuring) -> None:
    """Which numbers those of the table are."""
    line()
    fact("perplexity", f"of the second halves of {asked.windows} x {asked.window} tokens, read token by token")
    fact(
        "found", f"of {asked.trials} lines hidden in {asked.length} tokens; right: of {asked.choices} sentences that come next"
    )
    fact("MB", "of weights on disk; of weights and cache in memory; read for a token")
    gigabytes = measured.machine.bandwidth / 1e9
    fact("tokens/s", f"behind {asked.length} tokens, here; at most: what {gigabytes:.1f} GB/s allow")
    fact("measured", measured.about)
    where_from(model)


def on_the_front(rows: Sequence[Row]) -> list[int]:
    """The rows that no other beats in both bytes and perplexity, in order of bytes; they are named."""
    import torch

    from sparsity_edu.combine.front import front

    on = front(torch.tensor([row.read for row in rows]), torch.tensor([row.perplexity for row in rows])).tolist()
    line()
    sentence(f"On the front of perplexity and bytes, from few bytes to many: {'; '.join(rows[i].recipe for i in on)}.")
    return on


def save_figure(model: str, rows: Sequence[Row], on: Sequence[int], out: Path, figure: Path) -> None:
    """Draw the front beside the table."""
    from sparsity_edu.combine import evaluation
    from sparsity_edu.plots import style

    style()
    with writing(figure, "--figure"):
        evaluation.draw(rows, on, f"{model}: recipes").savefig(figure, dpi=150)
    fact("table", str(out))
    fact("figure", str(figure))
