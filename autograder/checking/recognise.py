"""Which declared mistake an answer resembles."""

import re

from torch import Tensor

from autograder.checking.compare import difference
from autograder.checking.exercise import Exercise, Misconception
from autograder.checking.known import known_outcome
from autograder.checking.outcomes import Asked, outcome_difference, probe_difference
from autograder.checking.traffic import traffic_difference
from autograder.inside.case import Case
from autograder.inside.outcome import FAULT, Outcome, Raised, equal

CHANCE = 12  # bits of an answer that do not agree by chance


def recognise(exercise: Exercise, seed: str, asked: list[Asked]) -> Misconception | None:
    """The misconception that explains what is wrong: the one that gives what the answer gave in most of the wrong cases.

    It must explain all of the first failing stage, unless so little could agree by chance, or else half of all wrong cases; and
    of those that are right, it may spoil a quarter. Of several, the one that agrees with the answer most often everywhere. If
    there is none, the answer may have two mistakes: then one counts that explains those of several results that it spoils.
    """
    failed = next(stage for stage in exercise.stages if any(entry.stage is stage and entry.wrong for entry in asked))
    wanted = {id(entry): known_outcome(exercise, exercise.reference, entry.case, seed) for entry in asked}
    free = {want.error.types[0] for want in wanted.values() if want.error}  # errors that are asked for, in any words

    def explains(mistake: Misconception, entry: Asked) -> bool:
        known = known_outcome(exercise, mistake.wrong, entry.case, seed)
        return _same(exercise, entry.case, entry.got, known, entry.stage.pure, free)

    def explains_part(mistake: Misconception, entry: Asked) -> bool:
        known = known_outcome(exercise, mistake.wrong, entry.case, seed)
        return _same_in_part(exercise, entry.got, known, wanted[id(entry)])

    def spares(mistake: Misconception, entry: Asked) -> bool:
        known = known_outcome(exercise, mistake.wrong, entry.case, seed)
        compare = probe_difference if entry.case.probe else outcome_difference
        return compare(exercise, entry.case, known, wanted[id(entry)], entry.stage.pure) is None

    wrong, right = [e for e in asked if e.wrong], [e for e in asked if not e.wrong]
    decisive = [entry for entry in wrong if entry.stage is failed]
    much = sum(_bits(entry.got.value) for entry in decisive) >= CHANCE
    for agrees in (explains, explains_part):
        best, most = None, (0.0, 0.0)
        for mistake in exercise.misconceptions:
            if not agrees(mistake, decisive[0]):
                continue
            share = sum(agrees(mistake, entry) for entry in wrong) / len(wrong)
            all_of_failed = much and all(agrees(mistake, entry) for entry in decisive)
            agreed = sum(spares(mistake, entry) for entry in right) / len(right) if right else 1.0
            if (all_of_failed or share >= 0.5) and agreed >= 0.75 and (share, agreed) > most:
                best, most = mistake, (share, agreed)
        if best:
            return best
    return None


def _same(exercise: Exercise, case: Case, got: Outcome, mistake: Outcome, pure: bool, free: set[str]) -> bool:
    if got.error or mistake.error:
        return bool(got.error and mistake.error) and _said(got.error, free) == _said(mistake.error, free)

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
    return untouched and unlike(got) == unlike(mistake) and all(_alike(exercise, a, b) for a, b in pairs)


def _same_in_part(exercise: Exercise, got: Outcome, mistake: Outcome, want: Outcome) -> bool:
    """Whether all results that the mistake spoils are as it makes them, and the first wrong one is among them."""
    values = got.value, mistake.value, want.value
    if not all(isinstance(value, list) for value in values) or len(set(map(len, values))) > 1:  # an error has no value
        return False
    parts = list(zip(*values, strict=True))
    spoilt = [part for part in parts if difference(part[1], part[2], exercise.rules)]
    first = next((part for part in parts if difference(part[0], part[2], exercise.rules)), None)
    known = any(part is first for part in spoilt) and _bits(first[0]) >= CHANCE
    return known and all(_alike(exercise, part[0], part[1]) for part in spoilt)


def _alike(exercise: Exercise, a, b) -> bool:  # NaN never passes, but a mistake may well consist of NaNs
    return equal(a, b) or difference(a, b, exercise.rules) is None


def _bits(value) -> int:
    """About how much an answer says."""
    match value:
        case Tensor():
            return value.numel() * (CHANCE if value.is_floating_point() else 1)
        case list():
            return sum(map(_bits, value))
        case dict():
            return sum(map(_bits, value.values()))
        case float() | int() if not isinstance(value, bool):
            return 3 * len(repr(value))
    return 1


def _said(error: Raised, free: set[str]) -> tuple:
    """What an error says; of a watched kernel's, without counts, which depend on the size of its blocks."""
    if error.types[0] in free:
        return error.types, ""
    return error.types, re.sub(r"\d+ elements?", "elements", error.message) if error.types[0] == FAULT else error.message
