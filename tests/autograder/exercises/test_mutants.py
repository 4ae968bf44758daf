"""Whole kinds of wrong answers: the reference with one fault each, which every check must notice, whatever the exercise."""

import builtins
import contextlib
import sys
from collections.abc import Callable, Iterator
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from worked import first_difference

from autograder.checking.exercise import Exercise
from autograder.exercises import all_exercises
from autograder.inside.recipes import RECIPES
from tests.drawn import public_cases

UNWATCHED = [exercise for exercise in all_exercises() if all(case.watched is None for case in public_cases(exercise.id))]
FUNCTIONS = [exercise for exercise in UNWATCHED if not exercise.is_class]
CLASSES = [exercise for exercise in UNWATCHED if exercise.is_class]
EACH_FUNCTION = pytest.mark.parametrize("exercise", FUNCTIONS, ids=lambda exercise: exercise.id)
EACH_CLASS = pytest.mark.parametrize("exercise", CLASSES, ids=lambda exercise: exercise.id)


def mapped(value, change: Callable):
    """A value with its tensors, modules and floats changed."""
    if isinstance(value, dict):
        return {key: mapped(entry, change) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(mapped(entry, change) for entry in value)
    return change(value) if isinstance(value, Tensor | nn.Module | float) else value


def leaves(value) -> list:
    found: list = []
    mapped(value, found.append)
    return found


class Mutant:
    """A reference with a fault before or after the call; `hit` says whether the fault was there to be seen."""

    @staticmethod
    def can_hit(argument) -> bool:
        """Whether it could be, with such an argument."""
        return True

    def __init__(self, reference: Callable) -> None:
        self.reference, self.hit = reference, False
        self.buffers: dict = {}

    def __call__(self, *args, **kwargs):
        return self.after(self.reference(*args, **kwargs), [*args, *kwargs.values()])

    def after(self, result, args: list):
        return result

    def noting(self, before, after):
        """What comes after, and whether it is another value."""
        self.hit |= not torch.equal(*map(torch.as_tensor, (before, after)))
        return after


class Half(Mutant):
    """Rounds its results to half precision."""

    def after(self, result, args):
        def rounded(leaf):
            if isinstance(leaf, float):
                return self.noting(leaf, torch.tensor(leaf, dtype=torch.float64).half().double().item())
            is_float = isinstance(leaf, Tensor) and leaf.is_floating_point()
            return self.noting(leaf, leaf.half().to(leaf.dtype)) if is_float else leaf

        return mapped(result, rounded)


class SingleInside(Mutant):
    """Works in float32 where it is given float64."""

    @staticmethod
    def can_hit(argument):
        return isinstance(argument, Tensor) and argument.dtype == torch.float64

    def __call__(self, *args, **kwargs):
        wide = [leaf for leaf in leaves([args, kwargs]) if isinstance(leaf, Tensor) and leaf.dtype == torch.float64]
        if not wide:
            return super().__call__(*args, **kwargs)
        right = self.reference(*mapped(args, lambda leaf: leaf), **kwargs)
        narrow = self.reference(*mapped(args, self.narrowed), **mapped(kwargs, self.narrowed))
        both = zip(leaves(right), leaves(narrow), strict=True)
        chosen = [(a, b) for a, b in both if isinstance(a, Tensor)]  # rounding is allowed where it changes no choice
        like = iter([b.to(a.dtype) if a.is_floating_point() else self.noting(a, b) for a, b in chosen])
        return mapped(narrow, lambda leaf: next(like) if isinstance(leaf, Tensor) else leaf)

    @staticmethod
    def narrowed(leaf):
        return leaf.float() if isinstance(leaf, Tensor) and leaf.dtype == torch.float64 else leaf


class TheArgument(Mutant):
    """Returns an argument where its result is equal to it."""

    def after(self, result, args):
        def found(leaf):
            given = [part for part in leaves(args) if isinstance(part, Tensor) and isinstance(leaf, Tensor)]
            same = [part for part in given if part.dtype == leaf.dtype and torch.equal(part, leaf)]
            self.hit |= bool(same)
            return same[0] if same else leaf

        return mapped(result, found)


class OneBuffer(Mutant):
    """Returns the same memory in each call."""

    def after(self, result, args):
        places = iter(range(10**6))

        def kept(leaf):
            if not isinstance(leaf, Tensor):
                return leaf
            self.hit = True
            buffer = self.buffers.setdefault((next(places), leaf.shape, leaf.dtype), torch.empty_like(leaf).detach())
            return buffer.copy_(leaf.detach())

        return mapped(result, kept)


class ContiguousOnly(Mutant):
    """Takes `view` for `reshape`."""

    def __call__(self, *args, **kwargs):
        for tensor in (leaf for leaf in leaves([args, kwargs]) if isinstance(leaf, Tensor)):
            try:
                tensor.view(-1)
            except RuntimeError:
                self.hit = True
                raise
        return super().__call__(*args, **kwargs)


class NoGradient(Mutant):
    """Works under `no_grad`."""

    def __call__(self, *args, **kwargs):
        self.hit |= any(leaf.requires_grad for leaf in leaves([args, kwargs]) if isinstance(leaf, Tensor))
        with torch.no_grad():
            return super().__call__(*args, **kwargs)


class OnModels(Mutant):
    """Leaves something behind on the models that it is given."""

    setting = ""

    @staticmethod
    def can_hit(argument):
        return isinstance(argument, RECIPES)  # of models and what calls them

    def after(self, result, args):
        for module in (argument for argument in args if isinstance(argument, nn.Module)):
            self.hit = True
            self.leave(module)
        return result


class EvaluationMode(OnModels):
    setting = "modules in evaluation mode"

    def leave(self, module):
        module.train(not module.training)


class Frozen(OnModels):
    setting = "frozen parameters"

    def leave(self, module):
        module.requires_grad_(False)


class Hooked(OnModels):
    setting = "hooks"

    def leave(self, module):
        module.register_forward_hook(lambda *_: None)


class GradientsWiped(OnModels):
    setting = "gradients"

    def leave(self, module):
        module.zero_grad(set_to_none=True)


class NewParameters(OnModels):
    setting = "parameters that were replaced"

    def leave(self, module):
        for part in module.modules():
            for name, parameter in list(part.named_parameters(recurse=False)):
                setattr(part, name, nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad))


MUTANTS = [Half, SingleInside, TheArgument, OneBuffer, ContiguousOnly, NoGradient]
MUTANTS += [EvaluationMode, Frozen, Hooked, GradientsWiped, NewParameters]
BY_DOCSTRING = {  # what a contract allows, which the declaration does not say otherwise
    GradientsWiped: {"magnitude.masked_step", "minitron.distil_step"},  # a training step leaves others anyway
}


def allowed(exercise: Exercise, mutant: type[Mutant]) -> bool:
    """Whether the contract allows the fault."""
    if mutant is TheArgument:
        return exercise.shares
    if mutant is ContiguousOnly:
        return exercise.contiguous
    if issubclass(mutant, OnModels) and any(setting == mutant.setting for _, setting in exercise.leaves_open):
        return True
    return exercise.id in BY_DOCSTRING.get(mutant, ())


def could_cost(exercise: Exercise, kind: type[Mutant]) -> bool:
    """Whether the fault is one, and could be there to be seen."""
    given = [leaf for case in public_cases(exercise.id) for leaf in all_leaves([case.args, case.kwargs])]
    return not allowed(exercise, kind) and any(kind.can_hit(leaf) for leaf in given or [None])


def all_leaves(value) -> list:
    """Those inside lists, tuples and dicts."""
    if isinstance(value, dict):
        value = list(value.values())
    return [leaf for entry in value for leaf in all_leaves(entry)] if isinstance(value, list | tuple) else [value]


@pytest.mark.parametrize(
    ("kind", "exercise"),
    [pytest.param(k, e, id=f"{k.__name__}-{e.id}") for e in FUNCTIONS for k in MUTANTS if could_cost(e, k)],
)
def test_a_fault_of_a_kind_costs_points(kind, exercise):
    mutant = kind(exercise.reference)
    assert first_difference(exercise, mutant) or not mutant.hit


@EACH_CLASS
def test_objects_that_share_their_state_cost_points(exercise):
    class Shared(exercise.reference):
        def __init__(self, *args, **kwargs):
            self.__dict__ = everything
            super().__init__(*args, **kwargs)

    everything: dict = {}
    assert first_difference(exercise, Shared)


class Counting(type):
    """Counts fractions of a size as `int` does, but for what is lost on the way: the class stands for `int` in a module."""

    def __instancecheck__(cls, value) -> bool:
        return isinstance(value, builtins.int)


def counting(lose: Callable[[float], float]) -> tuple[type, list[bool]]:
    """What stands for `int`, and for each fraction that it was given, whether another count came of it."""
    seen: list[bool] = []

    class Count(builtins.int, metaclass=Counting):
        def __new__(cls, value=0, *rest):
            if not isinstance(value, float):
                return builtins.int(value, *rest)
            seen.append(builtins.int(lose(value)) != builtins.int(value))
            return builtins.int(lose(value))

    return Count, seen


@contextlib.contextmanager
def in_place_of_int(count: type) -> Iterator[None]:
    """In the modules of the library, whose functions are the references."""
    with contextlib.ExitStack() as stack:
        for name, module in list(sys.modules.items()):
            if name.startswith(("sparsity_edu.weights", "sparsity_edu.patterns", "sparsity_edu.storage")):
                stack.enter_context(patch.object(module, "int", count, create=True))
        yield


LOSSES = {"float32": lambda x: torch.tensor(x).item(), "epsilon": lambda x: x + 1e-6}


@EACH_FUNCTION
def test_counts_that_are_off_by_rounding_cost_points(exercise):
    """And where the reference counts, there is a case in which the count differs."""
    for loss, lose in LOSSES.items():
        count, seen = counting(lose)

        def answer(*args, count=count, **kwargs):
            with in_place_of_int(count):
                return exercise.reference(*args, **kwargs)

        wrong = first_difference(exercise, answer)
        if not seen:
            return  # the reference counts nothing
        assert any(seen), f"no case in which the count differs: {loss}"
        assert wrong, loss
