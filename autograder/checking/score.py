"""From outcomes to points: which stages an answer passes, the first thing that is wrong with it, and the mistake it resembles.

The answer itself never comes here, only `outcome_of(case)`: in a notebook that runs the learner's object in the same process,
a judge may ask another process. References and comparisons stay on this side.
"""

import re
from collections.abc import Callable, Iterator

from autograder.checking.compare import Difference, difference
from autograder.checking.exercise import Exercise, Known, Misconception, Stage
from autograder.checking.naming import callee, describe, parameter
from autograder.checking.traffic import traffic_difference
from autograder.checking.verdict import Problem, StageVerdict, Verdict
from autograder.inside.case import HELD, Case
from autograder.inside.runner import FAULT, SECONDS_PER_CASE, Outcome, Raised, TimeUp, equal, of_method, run

PUBLIC_SEED = "public"
# what a reference raises where kernels cannot run at all, or where the machine is far too busy
NOT_HERE = ("InterpreterOff", "ModuleNotFoundError", TimeUp.__name__)
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
    outcomes = (
        known_outcome(exercise, function, case, (seed, stage.name, i))
        for stage in exercise.stages
        for i, case in enumerate(worked_out(exercise, seed).cases[stage.name])
    )
    return score(exercise, lambda _: arrives(next(outcomes)), seed, hidden)


def score(exercise: Exercise, outcome_of: Callable[[Case], Outcome], seed: str = PUBLIC_SEED, hidden: bool = False) -> Verdict:
    """Score whatever answers cases.

    A stage counts only if the first one passes: a function that does nothing but raise would otherwise earn the stage on bad
    arguments. An answer that takes too long is not run again: nobody waits for every case of an endless loop.

    Args:
        exercise: the exercise.
        outcome_of: gives the outcome of a case.
        seed: which cases to use.
        hidden: tell no input and no value, nor anything that may hold one: what the answer returned, printed, or raised.

    Returns:
        The verdict.
    """
    cases = worked_out(exercise, seed).cases
    # first of all, so that nothing which the answer does to this process reaches the reference
    wanted = {
        name: [known_outcome(exercise, exercise.reference, case, (seed, name, i)) for i, case in enumerate(of_stage)]
        for name, of_stage in cases.items()
    }
    for want in (want for of_stage in wanted.values() for want in of_stage):
        if want.error and want.error.types[0] in NOT_HERE:
            raise RuntimeError(f"{exercise.id} cannot be checked here: {want.error.message}")
    outcomes = {stage.name: [] for stage in exercise.stages}
    verdicts: list[StageVerdict] = []
    in_time = True
    for stage in exercise.stages:
        problem = None
        for case, want in zip(cases[stage.name], wanted[stage.name], strict=True):
            outcome = outcome_of(case) if in_time else NOT_RUN
            in_time = in_time and not (outcome.error and outcome.error.types[0] == TimeUp.__name__)
            outcomes[stage.name].append(outcome)
            wrong = outcome_difference(exercise, case, outcome, want, stage.pure)
            if wrong and problem is None:
                shown = Problem("", wrong.without_values()) if hidden else None
                problem = shown or Problem(describe(exercise, case), str(wrong), outcome.printed)
        counts = problem is None and (not verdicts or verdicts[0].passed)
        verdicts.append(
            StageVerdict(stage.name, stage.points if counts else 0, stage.points, problem is None, stage.exposes, problem)
        )
    failed = next((stage for stage, verdict in zip(exercise.stages, verdicts, strict=True) if not verdict.passed), None)
    first = outcomes[exercise.stages[0].name][0]
    # a stub raises itself; what it calls, or another method of a class, may not be written yet
    started = not (first.error and first.error.types[0] == "NotImplementedError" and not first.error.inside)
    mistake = _recognise(exercise, seed, cases, outcomes, failed) if failed and started else None
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


def outcome_difference(exercise: Exercise, case: Case, got: Outcome, want: Outcome, pure: bool = False) -> Difference | None:
    """The first difference between two outcomes of a case.

    Args:
        exercise: for its rules and the names of its parameters.
        case: the case.
        got: the answer's outcome.
        want: the reference's outcome.
        pure: whether arguments must be as they were.

    Returns:
        The difference, or None.
    """
    if want.error:
        expected = f"{want.error.types[0]} (as in: {want.error.message})"
        kind = want.error.types[0]
        if got.error is None:
            return Difference("the call", "no error", expected, vague=f"no error where {kind} is expected")
        vague = f"{got.error.without_values()} where {kind} is expected"
        return None if kind in got.error.types else Difference("the call", str(got.error), expected, vague=vague)
    if got.error:
        return Difference("the call", str(got.error), "no error", vague=got.error.without_values())
    wrong = None
    for name, g, w in _results(exercise, case, got.value, want.value):
        wrong = wrong or difference(g, w, exercise.rules, name)
    for i in case.changes:
        label = getattr(case.args[i], "label", "{} after the call").format(parameter(exercise, i))
        wrong = wrong or difference(got.after.get(i), want.after[i], exercise.rules, label)
    wrong = wrong or traffic_difference(exercise, case, got)
    if wrong is None and pure and got.touched:
        key = got.touched[0]
        known = {i: parameter(exercise, i) for i in (*range(len(case.args)), *case.kwargs)}
        known |= {of_method(method): of_method(method) for method, *_ in case.calls}
        name = known.get(key, "of another name")
        wanted, vague = "left as it was (work on a copy: .clone())", "changed by your code (work on a copy: .clone())"
        return Difference(f"the argument {name}", "changed by your code", wanted, vague=vague)
    return wrong


def _results(exercise: Exercise, case: Case, got, want) -> list[tuple]:
    """(name, observed, wanted) of each result of a case, named as a learner thinks of it."""
    names = [HELD if name == HELD else f"{callee(exercise, name)}()" for name, *_ in case.calls] or [
        f"result of call {i + 1}" for i in range(case.times)
    ]
    if (len(names) == 1 and not case.calls) or not (isinstance(got, list) and len(got) == len(names)):
        return [("result", got, want)]
    return list(zip(names, got, want, strict=True))


def worked_out(exercise: Exercise, seed: str) -> Known:
    """An exercise's cases for a seed, and room for what the reference and declared mistakes make of them.

    Args:
        exercise: it keeps them for the public seed, and for one other.
        seed: which cases.

    Returns:
        What is known; answers are given copies of the cases' arguments, so that no answer changes it.
    """
    if seed not in exercise.known:
        made = Known({stage.name: exercise.cases(stage, seed) for stage in exercise.stages})
        exercise.known = {kept: of_seed for kept, of_seed in exercise.known.items() if kept == PUBLIC_SEED} | {seed: made}
    return exercise.known[seed]


def known_outcome(exercise: Exercise, function: Callable, case: Case, which: tuple[str, str, int]) -> Outcome:
    """What the reference or a misconception makes of a case: worked out once, for it is the same for every answer.

    Args:
        exercise: the exercise.
        function: its reference, or the wrong answer of a misconception.
        case: the case.
        which: seed, stage and number of the case.

    Returns:
        The outcome.
    """
    seed, *place = which
    outcomes, key = worked_out(exercise, seed).outcomes, (function, *place)
    if key not in outcomes:
        # it is not the reference that may be an endless loop; its first case may import triton
        outcome = run(case, function, 6 * SECONDS_PER_CASE if function is exercise.reference else SECONDS_PER_CASE)
        if outcome.error and outcome.error.types[0] == TimeUp.__name__:  # perhaps the machine was busy
            return outcome
        outcomes[key] = outcome
    return outcomes[key]


def _recognise(exercise: Exercise, seed: str, cases: dict, outcomes: dict, failed: Stage) -> Misconception | None:
    """The misconception that answers as the learner does in all cases up to and including the first failing stage; of several,
    the one that agrees with the learner most often everywhere."""

    def agreements(mistake: Misconception, stage: Stage) -> Iterator[bool]:
        for i, (case, outcome) in enumerate(zip(cases[stage.name], outcomes[stage.name], strict=True)):
            known = known_outcome(exercise, mistake.wrong, case, (seed, stage.name, i))
            yield _same(exercise, case, outcome, known, stage.pure)

    decisive = reversed(exercise.stages[: exercise.stages.index(failed) + 1])  # the failing one first: it rules out most
    candidates = exercise.misconceptions
    for stage in decisive:
        candidates = [mistake for mistake in candidates if all(agreements(mistake, stage))]
    if len(candidates) <= 1:
        return candidates[0] if candidates else None
    return max(candidates, key=lambda mistake: sum(sum(agreements(mistake, stage)) for stage in exercise.stages))


def _same(exercise: Exercise, case: Case, got: Outcome, mistake: Outcome, pure: bool) -> bool:
    if got.error or mistake.error:
        return bool(got.error and mistake.error) and _said(got.error) == _said(mistake.error)
    # NaN never passes, but a mistake may well consist of NaNs
    same_values = equal(got.value, mistake.value) or difference(got.value, mistake.value, exercise.rules) is None
    traffic = [traffic_difference(exercise, case, outcome) for outcome in (got, mistake)]
    same_traffic = len({(wrong.where, wrong.vague) if wrong else None for wrong in traffic}) == 1
    same_after = all(difference(got.after.get(i), mistake.after[i], exercise.rules) is None for i in case.changes)
    return same_values and same_after and same_traffic and (not pure or got.touched == mistake.touched)


def _said(error: Raised) -> tuple:
    """What an error says; of a watched kernel's, without counts, which depend on the size of its blocks."""
    return error.types, re.sub(r"\d+ elements?", "elements", error.message) if error.types[0] == FAULT else error.message
