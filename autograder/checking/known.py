"""What is the same for every answer: the cases of a seed, and what the reference and declared mistakes make of them."""

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from autograder.checking.exercise import Exercise, Known
from autograder.inside.case import AGAIN, Case
from autograder.inside.outcome import Outcome, TimeUp
from autograder.inside.runner import SECONDS_PER_CASE, run

PUBLIC_SEED = "public"
# what a reference raises where kernels cannot run at all, or where the machine is far too busy
NOT_HERE = ("InterpreterOff", "ModuleNotFoundError", TimeUp.__name__)


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
        watched: list[Case] = []
        for of_stage in made.cases.values():
            wanted = [known_outcome(exercise, exercise.reference, case, seed) for case in of_stage]
            for error in (want.error for want in wanted if want.error and want.error.types[0] in NOT_HERE):
                del exercise.known[seed]
                raise RuntimeError(f"{exercise.id} cannot be checked here: {error.message}")
            fine = [case for case, want in zip(of_stage, wanted, strict=True) if not want.error]
            made.probes |= {id(case): probe for case in fine if (probe := exercise.probe(case, fine))}
            watched += [case for case in fine if case.watched is not None]
        if watched:  # kernels take long: only the smallest case is probed
            smallest = min(watched, key=lambda case: sum(a.numel() for a in case.args if isinstance(a, Tensor)))
            made.probes[id(smallest)] = replace(smallest, probe=AGAIN, watched=(), veiled=False, gradients=())
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
        outcomes[key] = case, outcome  # with the case, so that no other gets its id
    return outcomes[key][1]
