"""What is wrong with the bytes that an answer's kernels read and write."""

import torch
from torch import Tensor

from autograder.checking.compare import Difference
from autograder.checking.exercise import Exercise
from autograder.checking.naming import parameter
from autograder.inside.case import Case
from autograder.inside.outcome import Outcome


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
