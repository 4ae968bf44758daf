"""From outcomes to points: which stages an answer passes, the first thing that is wrong with it, and the mistake it resembles.

The answer itself never comes here, only `outcome_of(case)`: in a notebook that runs the learner's object in the same process,
a judge may ask another process. References and comparisons stay on this side.
"""

import re
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from autograder.checking.compare import Difference
from autograder.checking.exercise import Exercise, Stage
from autograder.checking.known import PUBLIC_SEED, known_outcome, worked_out
from autograder.checking.naming import describe
from autograder.checking.outcomes import Asked, outcome_difference, probe_difference
from autograder.checking.recognise import recognise
from autograder.checking.verdict import Problem, StageVerdict, Verdict
from autograder.inside.case import AGAIN, STRIDED, Case
from autograder.inside.outcome import Outcome, Raised, TimeUp
from autograder.inside.runner import SECONDS_PER_CASE, run

NOT_RUN = Outcome(error=Raised(("NotRun",), "an earlier case took too long", ours=True))


def score_object(exercise: Exercise, answer: Callable, seed: str = PUBLIC_SEED) -> Verdict:
    """Score a function or class in this process.

    Args:
        exercise: the exercise.
        answer: the learner's function or class.
        seed: which cases to use.

    Returns:
        The verdict.
    """
    return score(exercise, lambda case: run(case, answer), seed)


def score_declared(
    exercise: Exercise,
    function: Callable,
    seed: str = PUBLIC_SEED,
    hidden: bool = False,
    arrives: Callable[[Outcome], Outcome] = lambda outcome: outcome,
) -> Verdict:
    """Score the reference or a declared mistake; what it makes of a case is worked out once, for answer and comparison.

    Args:
        exercise: the exercise.
        function: its reference, or the wrong answer of a misconception.
        seed: which cases to use.
        hidden: as for `score`.
        arrives: what becomes of an outcome on its way to the judge.

    Returns:
        The verdict, as `score` gives it of an answer that does the same.
    """
    return score(exercise, lambda case: arrives(known_outcome(exercise, function, case, seed)), seed, hidden)


def score(exercise: Exercise, outcome_of: Callable[[Case], Outcome], seed: str = PUBLIC_SEED, hidden: bool = False) -> Verdict:
    """Score whatever answers cases.

    What must hold of every use of an answer is probed with the cases that it gets right, and charged to one stage. A stage
    whose cases all want an error counts only beside one that gives results: a function that only raises would earn it. An
    answer that takes too long is not run again: nobody waits for every case of an endless loop.

    Args:
        exercise: the exercise.
        outcome_of: gives the outcome of a case.
        seed: which cases to use.
        hidden: tell no input and no value, nor anything that may hold one: what the answer returned, printed, or raised.

    Returns:
        The verdict.
    """
    known = worked_out(exercise, seed)  # first of all, so that nothing which the answer does to this process reaches it
    asked: list[Asked] = []
    in_time = True

    def ask(stage: Stage, case: Case, which: tuple[str, int, str]) -> None:
        nonlocal in_time
        got = outcome_of(case) if in_time else NOT_RUN
        in_time = in_time and not (got.error and got.error.types[0] == TimeUp.__name__)
        want = known_outcome(exercise, exercise.reference, case, seed)
        wrong = (probe_difference if case.probe else outcome_difference)(exercise, case, got, want, stage.pure)
        asked.append(Asked(stage, case, which, got, wrong))

    for stage in exercise.stages:
        for i, case in enumerate(known.cases[stage.name]):
            ask(stage, case, (stage.name, i, ""))
    for right in [entry for entry in asked if entry.wrong is None]:
        if probe := known.probes.get(id(right.case)):
            ask(exercise.careful, probe, (*right.which[:2], probe.probe))

    def first_wrong(stage: Stage) -> Asked | None:
        return next((entry for entry in asked if entry.stage is stage and entry.wrong), None)

    def gives_results(stage: Stage) -> bool:
        return not all(known_outcome(exercise, exercise.reference, case, seed).error for case in known.cases[stage.name])

    passed = {stage.name: first_wrong(stage) is None for stage in exercise.stages}
    has_result = any(passed[stage.name] and gives_results(stage) for stage in exercise.stages)
    verdicts = []
    for stage in exercise.stages:
        entry, problem = first_wrong(stage), None
        if entry:
            wrong = _narrowed(exercise, entry, outcome_of, seed) if in_time else entry.wrong
            if hidden and entry.case.watched and _is_of_the_host(exercise, entry, outcome_of, seed):
                wrong = Difference("source of the result", "", "", vague="no kernel has worked it out")
            if not entry.case.probe and (pattern := _pattern(asked)):
                wrong = replace(wrong, facts=(*wrong.facts, pattern))
            shown = Problem(describe(exercise, entry.case), str(wrong), entry.got.printed, entry.which)
            problem = Problem("", wrong.without_values()) if hidden else shown
        counts = entry is None and (has_result or gives_results(stage))
        verdicts.append(
            StageVerdict(stage.name, stage.points if counts else 0, stage.points, entry is None, stage.exposes, problem)
        )
    first = asked[0].got
    # a stub raises itself; what it calls, or another method of a class, may not be written yet
    started = not (first.error and first.error.types[0] == "NotImplementedError" and not first.error.inside)
    mistake = recognise(exercise, seed, asked) if started and not all(passed.values()) else None
    return Verdict(
        exercise.id,
        exercise.title,
        sum(verdict.points for verdict in verdicts),
        exercise.points,
        tuple(verdicts),
        started,
        mistake.name if mistake else "",
        mistake.says if mistake else "",
    )


def _narrowed(exercise: Exercise, entry: Asked, outcome_of: Callable[[Case], Outcome], seed: str) -> Difference:
    """What is wrong, and if it is only so with tensors that are not contiguous, that too."""
    if entry.case.probe != STRIDED:
        return entry.wrong
    plain = replace(entry.case, probe=AGAIN)
    want = run(plain, exercise.reference, 6 * SECONDS_PER_CASE)
    wrong = probe_difference(exercise, plain, outcome_of(plain), want, entry.stage.pure)
    remark = "with tensors that are not contiguous in memory, and models in evaluation mode"
    return wrong or entry.wrong.remarked(remark)


def _is_of_the_host(exercise: Exercise, entry: Asked, outcome_of: Callable[[Case], Outcome], seed: str) -> bool:
    """Whether a result is wrong where only kernels see the weights, and right where the program sees them too."""
    if not entry.wrong.where.startswith("result"):
        return False
    plain = replace(entry.case, watched=(), veiled=False)
    want = known_outcome(exercise, exercise.reference, entry.case, seed)
    return outcome_difference(exercise, plain, outcome_of(plain), want) is None


def _pattern(asked: list[Asked]) -> str:
    """What wrong cases have in common, and right ones have not."""

    def is_square(entry: Asked) -> bool | None:
        matrices = [a for a in (*entry.case.args, *entry.case.kwargs.values()) if isinstance(a, Tensor) and a.ndim == 2]
        return matrices[0].shape[0] == matrices[0].shape[1] if matrices else None

    plain = [entry for entry in asked if not entry.case.probe]
    squares = [{is_square(entry) for entry in plain if bool(entry.wrong) == wrong} for wrong in (False, True)]
    if squares == [{True}, {False}]:
        return "right for square matrices only"
    first_wrong = next((entry.wrong for entry in plain if entry.wrong), None)
    later = first_wrong and re.match(r"result of call ([2-9])", first_wrong.where)
    return f"right in the first call, wrong in call {later[1]}" if later else ""
