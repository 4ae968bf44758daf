"""How a case is named to a learner: its call, its arguments, its results."""

import inspect

import torch
from torch import Tensor

from autograder.checking.exercise import Exercise
from autograder.inside.case import HELD, Case


def parameter(exercise: Exercise, key: int | str) -> str:
    """The name of an argument given by position or keyword."""
    names = list(inspect.signature(exercise.reference).parameters)
    if isinstance(key, int):
        return names[key] if 0 <= key < len(names) else f"number {key}"
    return key if key in names else "of another name"


def describe(exercise: Exercise, case: Case) -> str:
    """The call that a case makes, small tensors in full.

    Args:
        exercise: for the names.
        case: the case.

    Returns:
        Text such as `magnitude_prune(W=[[0.5, -1.0]], sparsity=0.5)`.
    """
    arguments = {parameter(exercise, i): value for i, value in enumerate(case.args)} | case.kwargs
    text = f"{exercise.defines}({', '.join(f'{name}={_brief(value)}' for name, value in arguments.items())})"
    if case.times > 1:
        text += f", {case.times} times in a row"
    shown: list[dict] = []  # a dict of weights is long: it stands there once
    for name, *args in case.calls:
        if name == HELD:
            continue
        dot = ", " if isinstance(name, int) else "."
        texts = ["<the same>" if any(arg is other for other in shown) else _brief(arg) for arg in args]
        shown += [arg for arg in args if isinstance(arg, dict)]
        text += f"{dot}{callee(exercise, name)}({', '.join(texts)})"
    return text


def callee(exercise: Exercise, name: str | int) -> str:
    """What a step of a class case calls: a method, or an argument by its name."""
    return parameter(exercise, name) if isinstance(name, int) else name


def _brief(value) -> str:
    match value:
        case Tensor() if value.dtype == torch.bool and value.all():
            return f"<all True {' x '.join(map(str, value.shape))}>"
        case Tensor() if value.numel() <= 24:
            rounded = value.double().mul(1e4).round().div(1e4) if value.is_floating_point() else value
            return str(rounded.tolist())
        case Tensor():
            return f"<{str(value.dtype).removeprefix('torch.')} {' x '.join(map(str, value.shape))}>"
        case tuple():
            return f"({', '.join(map(_brief, value))})"
        case list():
            return f"[{', '.join(map(_brief, value))}]"
        case dict() if len(value) > 6:
            return f"<{len(value)} entries, {', '.join(map(repr, list(value)[:3]))}, ...>"
        case dict():
            return "{" + ", ".join(f"{key!r}: {_brief(entry)}" for key, entry in value.items()) + "}"
        case torch.dtype() | None | bool() | int() | float() | str():
            return repr(value)
    return str(value)  # a recipe says what it makes
