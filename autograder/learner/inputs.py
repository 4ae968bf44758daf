"""What a check called an answer with: to print it, to step through the call, and to make it again."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

from autograder.checking.exercise import Exercise
from autograder.checking.known import PUBLIC_SEED, worked_out
from autograder.checking.naming import callee, describe, parameter
from autograder.checking.verdict import Verdict
from autograder.exercises import find
from autograder.inside.case import HELD, Case
from autograder.inside.runner import run

_failed: dict[str, Case] = {}  # by exercise: the call with which its last check failed


@dataclass(frozen=True, repr=False)
class Inputs:
    """The arguments of a call, built as the learner's function gets them. They unpack: `W, sparsity = inputs`."""

    call: str  # as the report shows it
    args: tuple
    kwargs: dict
    calls: tuple[tuple, ...] = ()  # of a class: ("method", *arguments) each, made in order on the object
    case: Case = field(default_factory=Case)

    def __iter__(self) -> Iterator:
        return iter((*self.args, *self.kwargs.values()))

    def __len__(self) -> int:
        return len(self.args) + len(self.kwargs)

    def __repr__(self) -> str:
        return f"the arguments of {self.call}"

    def run(self, answer: Callable) -> object:
        """Make the call once more, with arguments built anew; what goes wrong is raised here, and `%debug` can look at it.

        Args:
            answer: your function or class.

        Returns:
            What the function returns, a list of that if the case makes several calls, or what the methods return.
        """
        with self._watched():
            args, kwargs = _built(self.case)
            if not self.case.calls:
                results = [answer(*args, **kwargs) for _ in range(self.case.times)]
                return results if self.case.times > 1 else results[0]
            thing = answer(*args, **kwargs)
            steps = [(name, _built(Case(tuple(given)))[0]) for name, *given in self.case.calls if name != HELD]
            return [(args[name] if isinstance(name, int) else getattr(thing, name))(*given) for name, given in steps]

    def _watched(self) -> AbstractContextManager:
        """Where the check watches kernels, what no GPU forgives is an error here too."""
        if self.case.watched is None:
            return nullcontext()
        from autograder.inside.sanitizer import watch  # imports triton, which takes a second

        return watch()


def inputs(id: str) -> Inputs:
    """The arguments of the call with which the last check of an exercise failed, built anew each time.

    Args:
        id: the exercise, such as "magnitude.prune".

    Returns:
        `W, sparsity = check.inputs("magnitude.prune")` unpacks them; `.args`, `.kwargs` and, for a class, `.calls` are the
        same by kind; `.run(answer)` makes the call. Without a check that failed, those of the first case.

    Raises:
        ValueError: the exercise is unknown.
    """
    exercise = find(id)
    case = _failed.get(id) or exercise.cases(exercise.stages[0], PUBLIC_SEED)[0]
    args, kwargs = _built(case)
    calls = [
        (callee(exercise, name), *_built(Case(tuple(given), probe=case.probe))[0])
        for name, *given in case.calls
        if name != HELD
    ]
    return Inputs(describe(exercise, case), args, kwargs, tuple(calls), case)


def remember(exercise: Exercise, verdict: Verdict) -> str:
    """Keep which call failed.

    Args:
        exercise: the exercise.
        verdict: what its check says of an answer.

    Returns:
        The statement that gives the call's arguments by their names, empty if all is right or nothing was called.
    """
    stage = verdict.first_failure
    if stage is None or stage.problem is None or not verdict.started:
        _failed.pop(exercise.id, None)
        return ""
    name, number, probe = stage.problem.which
    case = worked_out(exercise, PUBLIC_SEED).cases[name][number]
    _failed[exercise.id] = replace(case, probe=probe)
    names = [parameter(exercise, key) for key in (*range(len(case.args)), *case.kwargs)]
    plain = names and all(name.isidentifier() for name in names) and not exercise.is_class and len(names) <= 4
    return f'{", ".join(names) if plain and len(names) > 1 else "inputs"} = check.inputs("{exercise.id}")'


def _built(case: Case) -> tuple[tuple, dict]:
    """The arguments as the runner builds them for an answer."""
    taken: list[tuple[tuple, dict]] = []
    run(Case(case.args, case.kwargs, probe=case.probe), lambda *args, **kwargs: taken.append((args, kwargs)))
    return taken[0]
