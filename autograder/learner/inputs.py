"""What a check called an answer with: to print it, to step through the call, and to make it again."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

from autograder.checking.exercise import Exercise
from autograder.checking.naming import callee, describe, parameter
from autograder.checking.score import PUBLIC_SEED, known_outcome, outcome_difference
from autograder.checking.verdict import StageVerdict, Verdict
from autograder.exercises import find
from autograder.inside.case import HELD, Case
from autograder.inside.runner import run

_failed: dict[str, tuple[Callable, StageVerdict]] = {}  # by exercise: the answer of the last check, and where it failed


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
    case = _failing(exercise)
    args, kwargs = _built(case)
    calls = [(callee(exercise, name), *_built(Case(tuple(given)))[0]) for name, *given in case.calls if name != HELD]
    return Inputs(describe(exercise, case), args, kwargs, tuple(calls), case)


def remember(exercise: Exercise, answer: Callable, verdict: Verdict) -> str:
    """Keep which call failed.

    Args:
        exercise: the exercise.
        answer: the learner's function or class.
        verdict: what its check says.

    Returns:
        The statement that gives the call's arguments by their names, empty if all is right or nothing was called.
    """
    stage = verdict.first_failure
    if stage is None or stage.problem is None or not verdict.started:
        _failed.pop(exercise.id, None)
        return ""
    _failed[exercise.id] = answer, stage
    case = next(case for _, case in _alike(exercise, stage))
    names = [parameter(exercise, key) for key in (*range(len(case.args)), *case.kwargs)]
    plain = names and all(name.isidentifier() for name in names) and not exercise.is_class and len(names) <= 4
    return f'{", ".join(names) if plain and len(names) > 1 else "inputs"} = check.inputs("{exercise.id}")'


def _alike(exercise: Exercise, stage: StageVerdict) -> list[tuple[int, Case]]:
    """The cases of a stage, with their numbers, that the report may mean: those that are described as it says."""
    declared = next(declared for declared in exercise.stages if declared.name == stage.name)
    cases = list(enumerate(exercise.cases(declared, PUBLIC_SEED)))
    return [(i, case) for i, case in cases if describe(exercise, case) == stage.problem.case] or cases


def _failing(exercise: Exercise) -> Case:
    """The case that failed last, or the first one."""
    if exercise.id not in _failed:
        return exercise.cases(exercise.stages[0], PUBLIC_SEED)[0]
    answer, stage = _failed[exercise.id]
    candidates = _alike(exercise, stage)
    if len(candidates) > 1:  # large tensors are described by their sizes
        pure = next(declared.pure for declared in exercise.stages if declared.name == stage.name)
        for i, case in candidates:
            want = known_outcome(exercise, exercise.reference, case, (PUBLIC_SEED, stage.name, i))
            if outcome_difference(exercise, case, run(case, answer), want, pure):
                return case
    return candidates[0][1]


def _built(case: Case) -> tuple[tuple, dict]:
    """The arguments as the runner builds them for an answer."""
    taken: list[tuple[tuple, dict]] = []
    run(replace(Case(), args=case.args, kwargs=case.kwargs), lambda *args, **kwargs: taken.append((args, kwargs)))
    return taken[0]
