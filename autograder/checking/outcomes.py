"""How the outcomes of a case differ: what was returned, what was left of the arguments, and what two uses do to each other."""

from dataclasses import dataclass

from autograder.checking.compare import Difference, difference
from autograder.checking.exercise import Exercise, Stage
from autograder.checking.naming import callee, parameter
from autograder.checking.traffic import traffic_difference
from autograder.inside.case import HELD, Case
from autograder.inside.outcome import Outcome, equal


@dataclass
class Asked:
    """A case, what the answer and the reference make of it, and how they differ."""

    stage: Stage  # that is charged
    case: Case
    which: tuple[str, int, str]  # its own stage, its number there, and the probe
    got: Outcome
    wrong: Difference | None


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
    wrong = wrong or (None if case.probe else traffic_difference(exercise, case, got))
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
    for found, left, got in zip(wanted["found"], wanted["settings"], _pair(given), strict=True):
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


def _pair(given) -> list:
    """What comes from student code as a list of two, whatever it is."""
    return given if isinstance(given, list) and len(given) == 2 else [{}, None]


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
    names, made = [], 0
    for name, *_ in case.calls:
        if name == HELD:
            names.append(f"{HELD} after call {made}" if made else HELD)
        else:
            made += 1
            names.append(f"{callee(exercise, name)}()")
    names = names or [f"result of call {i + 1}" for i in range(case.times)]
    if (len(names) == 1 and not case.calls) or not (isinstance(got, list) and len(got) == len(names)):
        return [("result", got, want)]
    return list(zip(names, got, want, strict=True))
