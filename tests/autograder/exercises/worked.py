"""What tests of exercises share: cases worked out by the references, and the first difference of an answer."""

from collections.abc import Callable, Iterator

from autograder.checking.compare import Difference
from autograder.checking.exercise import Exercise
from autograder.checking.known import PUBLIC_SEED, known_outcome, worked_out
from autograder.checking.outcomes import outcome_difference, probe_difference
from autograder.exercises import find
from autograder.inside.case import Case
from autograder.inside.runner import run
from autograder.inside.use import Use, used


def cases(id: str, seed: str = "public") -> Iterator[tuple[Case, object]]:
    """(case, what the reference gives) of every case of an exercise that gives a result."""
    exercise = find(id)
    for stage in exercise.stages:
        for case in exercise.cases(stage, seed):
            try:
                yield case, used(Use(case, exercise.reference))["value"]
            except ValueError:
                continue


def first_difference(exercise: Exercise, answer: Callable, seed: str = PUBLIC_SEED) -> Difference | None:
    """The first thing that is wrong with an answer, for which it loses points: a verdict would go on, and look for its name."""
    known = worked_out(exercise, seed)
    plain = [(stage, case) for stage in exercise.stages for case in known.cases[stage.name]]
    for stage, case in plain + [(exercise.careful, probe) for probe in known.probes.values()]:
        compare = probe_difference if case.probe else outcome_difference
        want = known_outcome(exercise, exercise.reference, case, seed)
        if wrong := compare(exercise, case, run(case, answer), want, stage.pure):
            return wrong
    return None
