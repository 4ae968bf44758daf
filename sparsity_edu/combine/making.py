"""A recipe applied to a model, in an order that matters, and saved beside it.

    1. weights        pruned, or the model cut, on what the dense model reads
    2. thresholds     calibrated on the model of step 1
    3. cache          made when the model runs: nothing is calibrated

Thresholds come after pruning. They are quantiles of what layers read, and a layer reads what the layers before it write: those
of the dense model would skip another share than was asked for. Pruning does not come after thresholds, since its statistics
(norms, Hessians) are those of a prompt, of whose tokens half or all skip nothing. Unit 17 measures both orders.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from sparsity_edu import data, models
from sparsity_edu.activations import allocation, teal
from sparsity_edu.activations.plan import FILE as THRESHOLDS
from sparsity_edu.activations.plan import Plan
from sparsity_edu.combine import packed
from sparsity_edu.combine.packed import Size
from sparsity_edu.combine.recipe import FILE as RECIPE
from sparsity_edu.combine.recipe import SHRINK, Calibration, Recipe
from sparsity_edu.models import LanguageModel, tokens
from sparsity_edu.models.positions import check_length
from sparsity_edu.weights import driver, minitron
from sparsity_edu.weights.distillation import distil_


@dataclass(frozen=True)
class Made:
    """A model to which a recipe was applied. `execution.running` lets it run so."""

    model: nn.Module  # its weights pruned, or cut; its layers still dense
    tokenizer: object
    recipe: Recipe
    plan: Plan | None = None  # thresholds

    def save(self, folder: str | PathLike, pack: bool = True) -> dict[str, Size]:
        """Write model, tokenizer, recipe and thresholds to a folder.

        Args:
            folder: made if needed.
            pack: store pruned matrices without their zeros; else a checkpoint as transformers has it.

        Returns:
            Sizes on disk by encoding, of a packed one; else empty.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        sizes = packed.save(self.model, folder) if pack else {}
        if not pack:
            self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.recipe.save(folder)
        if self.plan is not None:
            self.plan.save(folder)
        return sizes


def make(language_model: LanguageModel, recipe: Recipe, *, progress: bool = True) -> Made:
    """Apply a recipe.

    Args:
        language_model: a decoder of the Llama, Mistral or Qwen family, and its tokenizer. Pruning changes the model in place.
        recipe: what is done.
        progress: show progress bars.

    Returns:
        The model, or the smaller one that was cut out of it, with its thresholds.

    Raises:
        ValueError: the recipe does not fit the model, or its text is too short; the message names what.
        OSError: the calibration text cannot be read.
    """
    model, tokenizer = language_model
    weights, activations = recipe.weights, recipe.activations
    if weights is None and activations is None:
        return Made(model, tokenizer, recipe)
    windows = _windows(language_model, recipe.calibration)
    if weights is not None and weights.method == SHRINK:
        model = _cut(language_model, weights.params, weights.distill, windows, progress)
    elif weights is not None:
        driver.prune_(model, weights.method, weights.sparsity, weights.pattern, windows, progress=progress)
    plan = None if activations is None else _thresholds(model, recipe, windows, progress)
    return Made(model, tokenizer, recipe, plan)


def load(source: str | PathLike, dtype: torch.dtype = torch.float32) -> Made:
    """A model by name, or what `Made.save` wrote.

    Args:
        source: as `models.load` takes it, or a folder with a packed checkpoint, a recipe or thresholds.
        dtype: of the weights in memory.

    Returns:
        The model; one without a recipe has the recipe "dense".

    Raises:
        ValueError: a file is damaged.
        ModelError: there is no such model.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        return Made(*models.load(source, dtype=dtype), Recipe())
    if packed.is_packed(folder):
        from transformers import AutoTokenizer

        model, tokenizer = packed.load(folder, dtype), AutoTokenizer.from_pretrained(folder, local_files_only=True)
    else:
        model, tokenizer = models.load(folder, dtype=dtype)
    recipe = Recipe.load(folder) if (folder / RECIPE).is_file() else Recipe()
    plan = Plan.load(folder) if (folder / THRESHOLDS).is_file() else None
    if recipe.activations is not None and plan is None:
        raise ValueError(f"{folder} must hold {THRESHOLDS}, for its recipe skips inputs")
    return Made(model, tokenizer, recipe, plan)


def _thresholds(model: nn.Module, recipe: Recipe, windows: Tensor, progress: bool) -> Plan:
    wanted = recipe.activations
    distributions = teal.calibrate(model, windows, progress=progress)
    levels = dict.fromkeys(distributions, wanted.sparsity)
    if wanted.allocation == "greedy":
        prefill = "all" if wanted.prefill == "all" else "last_half"
        found = allocation.allocate(
            model, windows[:1], distributions, wanted.sparsity, step=wanted.step, prefill=prefill, progress=progress
        )
        levels = {name: level for block in found for name, level in block.levels.items()}
    return Plan(teal.thresholds(distributions, levels), levels, wanted.prefill, {"recipe": recipe.name})


def _cut(language_model: LanguageModel, params: int, steps: int, windows: Tensor, progress: bool) -> nn.Module:
    """The dense model of so many parameters, as `sparsity-edu shrink` makes it."""
    large, tokenizer = language_model
    full = minitron.parameters(large, minitron.shape_of(large))
    if params >= full:
        raise ValueError(f"weights.params must be less than the model's {full:,}, got {params:,}")
    found = minitron.importance(large, windows, progress=progress)
    shape = minitron.search(large, found, minitron.shapes_for(large, params), windows[:4], progress=progress)[0][0]
    small = minitron.trim(large, shape, found)
    if steps:
        length = windows.shape[1]
        text = tokens(tokenizer, data.python_docs("train"))
        distil_(small, large, text[: len(text) // length * length].view(-1, length), steps, lr=5e-4, progress=progress)
    return small


def _windows(language_model: LanguageModel, calibration: Calibration) -> Tensor:
    """The calibration text, (windows, window)."""
    name = calibration.text
    try:
        text = data.python_docs("calibration") if name == "python_docs" else Path(name).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"calibration.text must be a text file in UTF-8, got {name!r}") from error
    check_length(language_model.model, calibration.window, "calibration.window")
    ids = tokens(language_model.tokenizer, text)
    start, end = (windows * calibration.window for windows in (calibration.first, calibration.first + calibration.windows))
    if len(ids) < end:
        raise ValueError(f"calibration must end within the {len(ids):,} tokens of its text, got {end:,}")
    return ids[start:end].view(calibration.windows, calibration.window)
