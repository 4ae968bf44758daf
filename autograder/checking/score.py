"""From outcomes to points: which stages an answer passes, the first thing that is wrong with it, and the mistake it resembles.

The answer itself never comes here, only `outcome_of(case)`: in a notebook that runs the learner's object in the same process,
a judge may ask another process. References and comparisons stay on this side.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from autograder.checking.compare import Difference, difference
from autograder.checking.exercise import Exercise, Known, Misconception, Stage
from autograder.checking.naming import callee, describe, parameter
from autograder.checking.traffic import traffic_difference
from autograder.checking.verdict import Problem, StageVerdict, Verdict
from autograder.inside.case import AGAIN, HELD, STRIDED, Case
from autograder.inside.runner import FAULT, SECONDS_PER_CASE, Outcome, Raised, TimeUp, equal, run

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
    return score(exercise, lambda case: arrives(known_outcome(exercise, function, case, seed)), seed, hidden)


@dataclass
class _Asked:
    """A case, what the answer and the reference make of it, and how they differ."""

    stage: Stage  # that is charged
    case: Case
    which: tuple[str, int, str]  # its own stage, its number there, and the probe
    got: Outcome
    wrong: Difference | None


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
    asked: list[_Asked] = []
    in_time = True

    def ask(stage: Stage, case: Case, which: tuple[str, int, str]) -> None:
        nonlocal in_time
        got = outcome_of(case) if in_time else NOT_RUN
        in_time = in_time and not (got.error and got.error.types[0] == TimeUp.__name__)
        want = known_outcome(exercise, exercise.reference, case, seed)
        wrong = (probe_difference if case.probe else outcome_difference)(exercise, case, got, want, stage.pure)
        asked.append(_Asked(stage, case, which, got, wrong))

    for stage in exercise.stages:
        for i, case in enumerate(known.cases[stage.name]):
            ask(stage, case, (stage.name, i, ""))
    for right in [entry for entry in asked if entry.wrong is None]:
        if probe := known.probes.get(id(right.case)):
            ask(exercise.careful, probe, (*right.which[:2], probe.probe))

    def first_wrong(stage: Stage) -> _Asked | None:
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
    mistake = _recognise(exercise, seed, asked) if started and not all(passed.values()) else None
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
    for key in case.gradients:
        wrong = wrong or _gradient_difference(exercise, parameter(exercise, key), got.gradients.get(key), want.gradients[key])
    wrong = wrong or traffic_difference(exercise, case, got)
    if wrong is None and pure:
        for key in want.after:
            if key not in case.changes and not equal(got.after.get(key), want.after[key]):
                wanted, vague = "left as it was (work on a copy: .clone())", "changed by your code (work on a copy: .clone())"
                return Difference(_argument(exercise, key), "changed by your code", wanted, vague=vague)
    return wrong


def probe_difference(exercise: Exercise, case: Case, got: Outcome, want: Outcome, pure: bool = False) -> Difference | None:
    """The first difference between two outcomes of a probe: of the first use, of the second, and of what they do to each other.

    Args:
        exercise: for its rules and the names of its parameters.
        case: the probe.
        got: the answer's outcome.
        want: the reference's outcome. What it does to its arguments, and what it shares with them, the answer may do too.
        pure: whether arguments must be as they were.

    Returns:
        The difference, or None.
    """
    if wrong := outcome_difference(exercise, case, got, want, pure):
        return wrong
    found, wanted = got.again, want.again
    other = "a second object" if case.calls else "a second call"
    for name, g, w in _results(exercise, case.beside or case, found.get("second"), wanted["second"]):
        if wrong := difference(g, w, exercise.rules, f"{name}, of {other}"):
            return wrong
    if wrong := _settings_difference(exercise, found.get("settings"), wanted):
        return wrong
    if equal(wanted["kept"], want.value) and not equal(found.get("kept"), got.value):
        which = "an earlier result" if case.calls or case.times > 1 else "the first result"
        return Difference(
            which, "changed by a later call", "left as it was (return a copy: .clone())", vague="changed by a later call"
        )
    for key, before in wanted["arguments"].items() if not exercise.shares else ():
        shares = not equal(found.get("overwritten", {}).get(key), found.get("arguments", {}).get(key))
        if shares and equal(wanted["overwritten"][key], before):
            where, vague = _argument(exercise, key), "shares memory with the result (return a copy: .clone())"
            sentence = f"{where} shares memory with what you return: who writes to one changes both. Return a copy: .clone()."
            return Difference(where, "", "", vague=vague, sentence=sentence)
    return None


def _settings_difference(exercise: Exercise, given, wanted: dict) -> Difference | None:
    """What was left on models: where the reference leaves them as it found them, so must the answer."""
    given = given if isinstance(given, list) and len(given) == 2 else [{}, {}]
    for found, left, got in zip(wanted["found"], wanted["settings"], given, strict=True):
        for key, models in left.items():
            name = f"{parameter(exercise, key)} after the call" if key in found else "result"
            theirs = got.get(key) if isinstance(got, dict) else None
            theirs = theirs if isinstance(theirs, list) and len(theirs) == len(models) else [{}] * len(models)
            for was, settings, of_model in zip(found.get(key, models), models, theirs, strict=True):
                for setting in (setting for setting in settings if (key, setting) not in exercise.leaves_open):
                    left_so = of_model.get(setting) if isinstance(of_model, dict) else None
                    wrong = difference(left_so, settings[setting], exercise.rules, f"{name}, its {setting}")
                    if wrong and equal(was[setting], settings[setting]):
                        return wrong
    return None


def _narrowed(exercise: Exercise, entry: _Asked, outcome_of: Callable[[Case], Outcome], seed: str) -> Difference:
    """What is wrong, and if it is only so with tensors that are not contiguous, that too."""
    if entry.case.probe != STRIDED:
        return entry.wrong
    plain = replace(entry.case, probe=AGAIN)
    want = run(plain, exercise.reference, 6 * SECONDS_PER_CASE)
    wrong = probe_difference(exercise, plain, outcome_of(plain), want, entry.stage.pure)
    remark = "with tensors that are not contiguous in memory, and models in evaluation mode"
    return wrong or entry.wrong.remarked(remark)


def _pattern(asked: list[_Asked]) -> str:
    """What wrong cases have in common, and right ones have not."""

    def is_square(entry: _Asked) -> bool | None:
        matrices = [a for a in (*entry.case.args, *entry.case.kwargs.values()) if isinstance(a, Tensor) and a.ndim == 2]
        return matrices[0].shape[0] == matrices[0].shape[1] if matrices else None

    plain = [entry for entry in asked if not entry.case.probe]
    squares = [{is_square(entry) for entry in plain if bool(entry.wrong) == wrong} for wrong in (False, True)]
    if squares == [{True}, {False}]:
        return "right for square matrices only"
    first_wrong = next((entry.wrong for entry in plain if entry.wrong), None)
    later = first_wrong and re.match(r"result of call ([2-9])", first_wrong.where)
    return f"right in the first call, wrong in call {later[1]}" if later else ""


def _argument(exercise: Exercise, key: int | str) -> str:
    return f"the argument {key if isinstance(key, str) and key.startswith('of ') else parameter(exercise, key)}"


def _gradient_difference(exercise: Exercise, name: str, got, want) -> Difference | None:
    where = f"gradient with respect to {name}"
    if got is None and want is not None:
        vague = "none where one is expected"
        sentence = f"{where}: there is none. A detach(), no_grad(), numpy() or item() on the way cuts it off."
        return Difference(where, "none", "a gradient", vague=vague, sentence=sentence)
    return difference(got, want, exercise.rules, where)


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
        for of_stage in made.cases.values():
            wanted = [known_outcome(exercise, exercise.reference, case, seed) for case in of_stage]
            for error in (want.error for want in wanted if want.error and want.error.types[0] in NOT_HERE):
                del exercise.known[seed]
                raise RuntimeError(f"{exercise.id} cannot be checked here: {error.message}")
            fine = [case for case, want in zip(of_stage, wanted, strict=True) if not want.error]
            made.probes |= {id(case): probe for case in fine if (probe := exercise.probe(case, fine))}
    return exercise.known[seed]


def known_outcome(exercise: Exercise, function: Callable, case: Case, seed: str) -> Outcome:
    """What the reference or a misconception makes of a case: worked out once, for it is the same for every answer.

    Args:
        exercise: the exercise.
        function: its reference, or the wrong answer of a misconception.
        case: a case or a probe as `worked_out` gives it.
        seed: of the case.

    Returns:
        The outcome.
    """
    outcomes, key = worked_out(exercise, seed).outcomes, (function, id(case))
    if key not in outcomes:
        # it is not the reference that may be an endless loop; its first case may import triton
        outcome = run(case, function, 6 * SECONDS_PER_CASE if function is exercise.reference else SECONDS_PER_CASE)
        if outcome.error and outcome.error.types[0] == TimeUp.__name__:  # perhaps the machine was busy
            return outcome
        outcomes[key] = outcome
    return outcomes[key]


def _recognise(exercise: Exercise, seed: str, asked: list[_Asked]) -> Misconception | None:
    """The misconception that explains what is wrong: the one that gives what the answer gave in most of the wrong cases.

    It must explain all of the first failing stage, or else half of all wrong cases; and of those that are right, it may spoil
    a quarter. Of several, the one that agrees with the answer most often everywhere.
    """
    failed = next(stage for stage in exercise.stages if any(entry.stage is stage and entry.wrong for entry in asked))

    def agrees(mistake: Misconception, entry: _Asked) -> bool:
        known = known_outcome(exercise, mistake.wrong, entry.case, seed)
        return _same(exercise, entry.case, entry.got, known, entry.stage.pure)

    def spares(mistake: Misconception, entry: _Asked) -> bool:
        known, want = (known_outcome(exercise, f, entry.case, seed) for f in (mistake.wrong, exercise.reference))
        compare = probe_difference if entry.case.probe else outcome_difference
        return compare(exercise, entry.case, known, want, entry.stage.pure) is None

    wrong, right = [e for e in asked if e.wrong], [e for e in asked if not e.wrong]
    decisive = [entry for entry in wrong if entry.stage is failed]
    best, most = None, (0.0, 0.0)
    for mistake in exercise.misconceptions:
        if not agrees(mistake, decisive[0]):
            continue
        explained = [agrees(mistake, entry) for entry in wrong]
        all_of_failed = all(agrees(mistake, entry) for entry in decisive)
        agreed = sum(spares(mistake, entry) for entry in right) / len(right) if right else 1.0
        share = sum(explained) / len(wrong)
        if (all_of_failed or share >= 0.5) and agreed >= 0.75 and (share, agreed) > most:
            best, most = mistake, (share, agreed)
    return best


def _same(exercise: Exercise, case: Case, got: Outcome, mistake: Outcome, pure: bool) -> bool:
    if got.error or mistake.error:
        return bool(got.error and mistake.error) and _said(got.error) == _said(mistake.error)

    def alike(a, b) -> bool:  # NaN never passes, but a mistake may well consist of NaNs
        return equal(a, b) or difference(a, b, exercise.rules) is None

    def unlike(outcome: Outcome) -> tuple:
        traffic = traffic_difference(exercise, case, outcome)
        again = outcome.again
        kept, unshared = equal(again.get("kept"), outcome.value), equal(again.get("overwritten"), again.get("arguments"))
        return traffic and (traffic.where, traffic.vague), kept, unshared

    pairs = [(got.value, mistake.value), (got.gradients, mistake.gradients)]
    pairs += [(got.again.get(part), mistake.again.get(part)) for part in ("second", "settings")]
    pairs += [(got.after.get(i), mistake.after.get(i)) for i in case.changes]
    others = [key for key in mistake.after if key not in case.changes] if pure else []
    untouched = all(equal(got.after.get(key), mistake.after[key]) for key in others)
    return untouched and unlike(got) == unlike(mistake) and all(alike(a, b) for a, b in pairs)


def _said(error: Raised) -> tuple:
    """What an error says; of a watched kernel's, without counts, which depend on the size of its blocks."""
    return error.types, re.sub(r"\d+ elements?", "elements", error.message) if error.types[0] == FAULT else error.message
