"""From outcomes to points: which stages an answer passes, the first thing that is wrong with it, and the mistake it resembles.

The answer itself never comes here, only `outcome_of(case)`: in a notebook that runs the learner's object in the same process,
a judge may ask another process. References and comparisons stay on this side.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from autograder.case import HELD, Case
from autograder.compare import Difference, difference
from autograder.exercise import Exercise, Misconception, Stage
from autograder.runner import FAULT, SECONDS_PER_CASE, Outcome, Raised, TimeUp, equal, of_method, run

PUBLIC_SEED = "public"
# what a reference raises where kernels cannot run at all, or where the machine is far too busy
NOT_HERE = ("InterpreterOff", "ModuleNotFoundError", TimeUp.__name__)
NOT_RUN = Outcome(error=Raised(("NotRun",), "an earlier case took too long", ours=True))


@dataclass(frozen=True)
class Problem:
    """Why a stage fails: the first case that does, and how."""

    case: str  # the call, as far as it can be printed
    difference: str
    printed: str = ""  # what the student's code printed in that case


@dataclass(frozen=True)
class StageVerdict:
    """One stage of one answer."""

    name: str
    points: float
    max_points: float
    passed: bool
    exposes: str
    problem: Problem | None = None


@dataclass(frozen=True)
class Verdict:
    """What an exercise's check says of an answer."""

    id: str
    title: str
    points: float
    max_points: float
    stages: tuple[StageVerdict, ...]
    started: bool = True
    misconception: str = ""  # name of the declared mistake that gives the same results
    says: str = ""  # what a teacher says to it
    progress: dict = field(default_factory=dict, compare=False)  # the unit, filled in by `check`

    @property
    def passed(self) -> bool:
        """Whether every stage passed."""
        return all(stage.passed for stage in self.stages)

    @property
    def first_failure(self) -> StageVerdict | None:
        """The most basic stage that failed."""
        return next((stage for stage in self.stages if not stage.passed), None)

    def to_dict(self) -> dict:
        """Plain data, for JSON."""
        return {**asdict(self), "passed": self.passed}

    def _repr_html_(self) -> str:
        from autograder.report import to_html

        return to_html(self)

    def __repr__(self) -> str:
        from autograder.report import to_text

        return to_text(self)


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
    cases = {stage.name: exercise.cases(stage, seed) for stage in exercise.stages}
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


def traffic_difference(exercise: Exercise, case: Case, got: Outcome) -> Difference | None:
    """What is wrong with the bytes that an answer's kernels read and write, or None.

    Of each watched argument the rows that are needed must be read, every byte of them once, and no others. What an answer made
    of them beforehand, a dense matrix or wider numbers, may not take their place: at most as many bytes as they have may be
    read elsewhere, for partial sums (none where the exercise allows no `scratch`), and twice the other arguments, for inputs in
    another layout. A result must have been written, and be the same where only kernels see the weights; and kernels may not
    hand copies of these back to torch. Where the exercise says so, programs of a launch must meet in the result, or must not.

    Args:
        exercise: for the names of its parameters, and which rows are needed.
        case: the case.
        got: the answer's outcome.

    Returns:
        The first difference, each sentence with the numbers that show it.
    """

    def found(where: str, vague: str, sentence: str) -> Difference:
        return Difference(where, "", "", vague=vague, sentence=sentence)

    own, _ = got.traffic.get("elsewhere", (0, 0))
    of_own = f"; they read {own} bytes of tensors that your own code made" if own else ""
    needed = exercise.reads(*case.args) if exercise.reads and case.watched else {}
    for i in case.watched or ():
        name, tensor = parameter(exercise, i), case.args[i]
        none = torch.zeros(len(tensor), dtype=torch.int64)
        different, everything = got.traffic.get(i, (none, none))
        rows = needed.get(i, torch.ones(len(tensor), dtype=torch.bool))
        size = int(rows.sum()) * tensor[0].nbytes
        needs = f"{size} bytes of `{name}`" + ("" if rows.all() else " that are needed")
        if different.shape != none.shape or not different.any():
            if not size:
                continue
            vague = "no kernel reads them" + (", but another tensor in their place" if own else "")
            return found(f"bytes of {name}", vague, f"your kernels read none of the {needs}{of_own}")
        if different[~rows].any():
            many = int((different[~rows] > 0).sum())
            sentence = f"your kernels read {many} of the {int((~rows).sum())} rows of `{name}` that need not be read"
            return found(f"bytes of {name}", "kernels read rows that need not be read", sentence)
        if different.sum() < size:
            sentence = f"your kernels read only {int(different.sum())} of the {needs}{of_own}"
            return found(f"bytes of {name}", "kernels do not read all of them", sentence)
        if everything.sum() > size:
            times = f"{int(everything.sum()) / size:.3g} times"
            sentence = (
                f"your kernels read {int(everything.sum())} bytes of `{name}`; {size} suffice: each was read {times} on average"
            )
            return found(f"bytes of {name}", "kernels read some of them more than once", sentence)
    stored = sum(case.args[i].nbytes for i in case.watched or ())
    given = sum(argument.nbytes for argument in case.args if isinstance(argument, Tensor))
    allowed = 2 * (given - stored) + (stored if exercise.scratch else 0)
    if case.watched and own > allowed:
        sentence = f"beside the {stored} bytes of the weights, your kernels read {own} bytes of tensors of your own"
        most = "of the weights" if exercise.scratch else "copies of the inputs would take"
        vague = f"kernels read more of them than {most}"
        return found("bytes of other tensors", vague, sentence)
    if not got.traffic.get("again", (1, 1))[0]:
        names = " and ".join(f"`{parameter(exercise, i)}`" for i in case.watched)
        sentence = f"the result follows the numbers that torch sees of {names}: it was not kernels that worked it out"
        return found("source of the result", "no kernel has worked it out", sentence)
    if case.watched and isinstance(got.value, Tensor):
        written, _ = got.traffic.get("written", (0, 0))
        size = int((got.value != 0).sum()) * got.value.element_size()  # zeros may have been there from the beginning
        if written < size:
            sentence = f"your kernels write {written} bytes, but the result has {size}: it was not they that worked it out"
            return found("bytes of the result", "no kernel has written it", sentence)
        rows = len(case.args[case.watched[0]])
        results = got.value.numel() / rows  # for each row of weights
        if written > got.value.nbytes + stored / 2 * max(1, results):
            sentence = f"your kernels read {stored} bytes of weights and write {written}: they copy, or add too little up"
            return found("bytes of the result", "kernels copy the weights, or add too little up", sentence)
        met, _ = got.traffic.get("met", (0, 0))
        if 0 < exercise.meets <= rows and size and not met:
            sentence = f"your kernels write {written} bytes, and no two programs of a launch add to the same"
            return found("bytes of the result", "no two programs add to one place", sentence)
        if exercise.ordered and met:
            sentence = (
                f"programs of a launch add to the same {met} bytes: they end in any order, and two runs need not give the same"
            )
            return found("bytes of the result", "programs add to one place in any order", sentence)
    return None


def _results(exercise: Exercise, case: Case, got, want) -> list[tuple]:
    """(name, observed, wanted) of each result of a case, named as a learner thinks of it."""
    names = [HELD if name == HELD else f"{_callee(exercise, name)}()" for name, *_ in case.calls] or [
        f"result of call {i + 1}" for i in range(case.times)
    ]
    if (len(names) == 1 and not case.calls) or not (isinstance(got, list) and len(got) == len(names)):
        return [("result", got, want)]
    return list(zip(names, got, want, strict=True))


def known_outcome(exercise: Exercise, function: Callable, case: Case, which: tuple[str, str, int]) -> Outcome:
    """What the reference or a misconception makes of a case: worked out once, for it is the same for every answer.

    Args:
        exercise: it keeps the outcomes of the public seed, and of one other.
        function: its reference, or the wrong answer of a misconception.
        case: the case.
        which: seed, stage and number of the case.

    Returns:
        The outcome.
    """
    seed, *place = which
    if seed not in exercise.known:
        exercise.known = {kept: outcomes for kept, outcomes in exercise.known.items() if kept == PUBLIC_SEED} | {seed: {}}
    outcomes, key = exercise.known[seed], (function, *place)
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
    for name, *args in case.calls:
        if name == HELD:
            continue
        dot = ", " if isinstance(name, int) else "."
        text += f"{dot}{_callee(exercise, name)}({', '.join(map(_brief, args))})"
    return text


def _callee(exercise: Exercise, name: str | int) -> str:
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
