"""A task of lm-eval by its name, such as arc_easy, where that package and a network for its data are there."""

from __future__ import annotations

from importlib.util import find_spec

from sparsity_edu.combine.execution import running
from sparsity_edu.combine.making import Made

METRICS = ("acc_norm,none", "acc,none", "exact_match,strict-match", "exact_match,none")  # the first that a task has


def need_package() -> None:
    """Refuse a task where lm-eval is missing.

    Raises:
        ImportError: it is not installed.
    """
    if find_spec("lm_eval") is None:
        raise ImportError("--task needs the package lm-eval: pip install lm-eval")


def score(made: Made, task: str, limit: int | None = None) -> float:
    """The share of a task's items that a model gets right, running as its recipe says.

    Args:
        made: the model and its recipe. Items are read as prompts, so its cache does not matter.
        task: a name that lm-eval knows.
        limit: the first so many items. Default: all.

    Returns:
        Normalised accuracy where the task has it, else accuracy, else exact matches.

    Raises:
        ValueError: lm-eval knows no such task, or it has another measure.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    with running(made):
        evaluated = HFLM(pretrained=made.model, tokenizer=made.tokenizer, batch_size=8)
        try:
            measured = simple_evaluate(evaluated, tasks=[task], limit=limit)["results"][task]
        except KeyError as error:
            raise ValueError(f"--task must be a task that lm-eval knows, got {task!r}") from error
    metric = next((name for name in METRICS if name in measured), None)
    if metric is None:
        raise ValueError(f"--task must be measured by accuracy or exact matches, got {task!r} with {', '.join(measured)}")
    return float(measured[metric])
