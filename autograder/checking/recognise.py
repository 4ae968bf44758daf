"""Which declared mistake an answer resembles."""

import re

from autograder.checking.compare import difference
from autograder.checking.exercise import Exercise, Misconception
from autograder.checking.known import known_outcome
from autograder.checking.outcomes import Asked, outcome_difference, probe_difference
from autograder.checking.traffic import traffic_difference
from autograder.inside.case import Case
from autograder.inside.outcome import FAULT, Outcome, Raised, equal


def recognise(exercise: Exercise, seed: str, asked: list[Asked]) -> Misconception | None:
    """The misconception that explains what is wrong: the one that gives what the answer gave in most of the wrong cases.

    It must explain all of the first failing stage, or else half of all wrong cases; and of those that are right, it may spoil
    a quarter. Of several, the one that agrees with the answer most often everywhere.
    """
    failed = next(stage for stage in exercise.stages if any(entry.stage is stage and entry.wrong for entry in asked))

    def agrees(mistake: Misconception, entry: Asked) -> bool:
        known = known_outcome(exercise, mistake.wrong, entry.case, seed)
        return _same(exercise, entry.case, entry.got, known, entry.stage.pure)

    def spares(mistake: Misconception, entry: Asked) -> bool:
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
