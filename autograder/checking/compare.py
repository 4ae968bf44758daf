"""When an answer is right: the first difference between two observed values, or None.

Values are what `inside.observe` makes of an answer: plain tensors, numbers, strings, None, lists and dicts. NaN never passes,
dtype and shape are part of the answer, masks and indices are exact, floats are compared relative to the reference's largest
magnitude.
"""

import math
import re
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from autograder.inside.case import MODULE, Opaque


@dataclass(frozen=True)
class Rules:
    """How close is right."""

    tolerance: float = 1e-5  # of floats, relative to the largest magnitude in the reference; 0 means equal
    scale: float = 0.0  # what it is relative to at least: 1 for fractions, where 1 - 0.9 - 0.1 is as good as 0
    exact_zeros: bool = False  # where the reference is exactly zero, so must be the answer


INDEX = re.compile(r"\[(?:'.*?'|[^\]]*)\]")  # the indices in "result[0]['name'][2, 3].dtype"


@dataclass(frozen=True)
class Difference:
    """The first place where an answer differs."""

    where: str  # "result[0][2, 3]"
    got: str
    expected: str
    remark: str = ""  # "4 of 24 entries differ"
    vague: str = "another value than expected"  # what can be said without a value of the answer, which may hold its inputs
    sentence: str = ""  # all of it, where "expected ..., got ..." would not read well
    facts: tuple[str, ...] = ()  # of the whole result: "yours is lower triangular"

    def __str__(self) -> str:
        remarks = "; ".join(filter(None, (self.remark, *self.facts)))
        return self.sentence or f"{self.where}: expected {self.expected}, got {self.got}" + (f" ({remarks})" if remarks else "")

    def remarked(self, remark: str) -> "Difference":
        """The same with one more remark."""
        if self.sentence:
            return replace(self, sentence=f"{self.sentence} ({remark})")
        return replace(self, remark="; ".join(filter(None, (self.remark, remark))))

    def without_values(self) -> str:
        """The same for feedback on hidden inputs: no place, count or fact either, with which an answer could tell numbers."""
        remark = f" ({self.remark})" if self.remark and not re.search(r"\d", self.remark) else ""
        return f"{INDEX.sub('', self.where)}: {self.vague}{remark}"


def difference(got, want, rules: Rules, where: str = "result") -> Difference | None:
    """The first difference between an answer and the reference.

    Args:
        got: the observed answer.
        want: the observed reference.
        rules: how close is right.
        where: name of the value, for the message.

    Returns:
        The difference, or None if the answer is right.
    """
    if isinstance(want, Tensor):
        return _tensor_difference(got, want, rules, where)
    if isinstance(want, list):
        if not isinstance(got, list):
            return _other_kind(got, want, where)
        if len(got) != len(want):
            return Difference(where, _values(got), _values(want), vague=f"{_values(want)} expected")
        parts = ((g, w, f"{where}[{i}]") for i, (g, w) in enumerate(zip(got, want, strict=True)))
    elif isinstance(want, dict):
        if not isinstance(got, dict) or (MODULE in got) != (MODULE in want):
            return _other_kind(got, want, where)
        if got.keys() != want.keys():
            return Difference(f"{where}'s keys", _keys(got), _keys(want), vague="other keys than expected")
        parts = ((got[key], w, f"{where}[{key!r}]") for key, w in want.items())
    else:
        return _scalar_difference(got, want, rules, where)
    return next(filter(None, (difference(g, w, rules, name) for g, w, name in parts)), None)


def _tensor_difference(got, want: Tensor, rules: Rules, where: str) -> Difference | None:
    if not isinstance(got, Tensor):
        return _other_kind(got, want, where)
    if got.shape != want.shape:
        return Difference(f"{where}.shape", str(tuple(got.shape)), str(tuple(want.shape)), vague="another shape than expected")
    if got.dtype != want.dtype:
        return Difference(f"{where}.dtype", _dtype(got), _dtype(want), vague=f"another dtype than {_dtype(want)}")
    if torch.equal(got, want):  # most are; where anything is NaN, they are not
        return None
    if want.is_floating_point():
        g, w = got.double(), want.double()
        largest = torch.where(w.isfinite(), w.abs(), 0.0).max().item() if w.numel() else 0.0
        allowed = rules.tolerance * max(largest, rules.scale)
        wrong = ~((g == w) | ((g - w).abs() <= allowed))  # NaN compares false: always wrong
        if rules.exact_zeros:
            wrong |= (w == 0) & (g != 0)
    else:
        wrong = got != want
    if not wrong.any():
        return None
    index = tuple(wrong.nonzero()[0].tolist())
    place = f"{where}[{', '.join(map(str, index))}]" if index else where
    remark = f"{int(wrong.sum())} of {wrong.numel()} entries differ" if wrong.numel() > 1 else ""
    return Difference(place, *_numbers(got[index].item(), want[index].item()), remark, facts=tuple(facts(got, want, where)))


def facts(got: Tensor, want: Tensor, name: str = "result") -> Iterator[str]:
    """What can be said of a wrong tensor as a whole, without knowing how it was made.

    Args:
        got: the answer, of the same shape and type as
        want: the reference.
        name: what it is.

    Yields:
        Ends of sentences for the learner.
    """
    g, w = got.double(), want.double()

    def is_close(other: Tensor) -> bool:
        return torch.allclose(g, other, rtol=1e-4, atol=1e-6 * w.abs().max().item())

    if w.numel() < 2 or not (g.isfinite().all() and w.isfinite().all()) or not w.any():
        return
    yours = "yours" if name == "result" else "it"
    if want.dtype == torch.bool:
        if torch.equal(got, ~want):
            yield f"{yours} is the opposite everywhere"
        elif got.sum() != want.sum():
            yield f"{int(got.sum())} are True, expected {int(want.sum())}"
        return
    if w.ndim == 2 and w.shape[0] == w.shape[1] and not is_close(w) and is_close(w.T):
        yield f"{yours} is the transpose of what is expected"
    sides = {"lower": torch.tril, "upper": torch.triu} if w.ndim == 2 and min(w.shape) > 1 else {}
    of_got, of_want = ([side for side, part in sides.items() if torch.equal(matrix, part(matrix))] for matrix in (g, w))
    if len(of_got) == len(of_want) == 1 and of_got != of_want:
        yield f"{yours} is {of_got[0]} triangular"
    zeros, wanted = int((g == 0).sum()), int((w == 0).sum())
    if wanted and not zeros:
        yield f"{yours} has no exact zeros, expected {wanted}"
    elif zeros != wanted:
        yield f"{zeros} zeros, expected {wanted}"
    ratio = (g * w).sum() / (w * w).sum()
    if is_close(ratio * w) and ratio != 0 and f"{ratio.item():.3g}" != "1":
        yield f"{yours} is {'the negative of' if abs(ratio + 1) < 1e-3 else f'{ratio.item():.3g} times'} what is expected"


def _scalar_difference(got, want, rules: Rules, where: str) -> Difference | None:
    if isinstance(got, Tensor) and got.numel() == 1:  # a one-element tensor is as good as the number in it
        got = got.item()
    if isinstance(want, float | int) and not isinstance(want, bool):
        if not isinstance(got, float | int) or isinstance(got, bool):
            return _other_kind(got, want, where)
        same = got == want
        if isinstance(want, float) and math.isfinite(want):  # NaN compares false: never the same
            same = same or abs(got - want) <= rules.tolerance * max(abs(want), rules.scale)
    else:
        same = type(got) is type(want) and got == want
    return None if same else Difference(where, *_numbers(got, want))


def _other_kind(got, want, where: str) -> Difference:
    remark = "is there a return?" if got is None and where == "result" else ""
    return Difference(where, kind(got), kind(want), remark, vague=f"something else than {_word(want)}")


def kind(value) -> str:
    """What a value is, in a learner's words."""
    match value:
        case Tensor():
            return f"a {_dtype(value)} tensor of shape {tuple(value.shape)}"
        case np.ndarray():
            return f"a numpy array of shape {value.shape} (torch.from_numpy makes a tensor of it)"
        case list() if 0 < len(value) <= 4 and all(isinstance(part, bool | int | float | str) for part in value):
            return f"({', '.join(map(number, value))})"
        case list():
            return f"{_values(value)} (a tuple or list)"
        case dict() if MODULE in value:
            return MODULE
        case dict():
            return f"a dict with {len(value)} entries"
        case None | Opaque():
            return str(value)
        case bool() | str():
            return f"the {type(value).__name__} {number(value)}"
        case int() | float() | complex():
            return f"the number {number(value)}"
    return f"an object of type {type(value).__name__}"


def _word(value) -> str:
    """The kind of a value in one word of ours."""
    if isinstance(value, dict) and MODULE in value:
        return MODULE
    words = ((Tensor, "a tensor"), (np.ndarray, "a numpy array"), (list, "a tuple or list"), (dict, "a dict"), (bool, "a bool"))
    words += ((str, "a str"), ((int, float, complex), "a number"), (type(None), "None"))
    return next((word for kind, word in words if isinstance(value, kind)), "another object")


def _numbers(got, want) -> tuple[str, str]:
    """Two scalars that differ, short but never rounded to look equal."""
    short = number(got), number(want)
    return short if short[0] != short[1] else (_short.repr(got), _short.repr(want))


def number(value) -> str:
    """A scalar as a learner would write it."""
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.8g}"
    return _short.repr(value) if isinstance(value, str | bool | int | float | complex) else kind(value)


def _values(values: list) -> str:
    return "1 value" if len(values) == 1 else f"{len(values)} values"


def _keys(mapping: dict) -> str:
    names = sorted(map(_short.repr, mapping))
    return ", ".join(names[:20]) + (", ..." if len(names) > 20 else "") or "none"


_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
