"""Watched cases: how many bytes an answer's kernels read is a part of the verdict, and reads well."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from autograder.checking.exercise import Exercise
from autograder.checking.score import score, score_object
from autograder.inside.case import call
from autograder.inside.outcome import Outcome
from autograder.inside.runner import run
from autograder.inside.wire import Refused, decode_case, decode_outcome, encode
from autograder.judge.session import Session
from autograder.sandbox.bubblewrap import Limits
from tests.autograder.checking import watched

CASE = call(torch.arange(37.0), watched=(0,))


def exercise() -> Exercise:
    double = Exercise("unit.double", "double", "double", 1, 1, "", reference=lambda w: watched.right(w))

    @double.stage("doubles", points=1, exposes="It doubles.")
    def _(g):
        yield CASE

    @double.misconception("on the host", "Torch has worked it out, not your kernel.")
    def _(w):
        return 2 * w

    return double


def test_what_kernels_read_is_counted():
    assert counted(run(CASE, watched.right)) == {0: (148, 148), "elsewhere": (0, 0), "written": (148, 148), "met": (0, 148)}
    assert counted(run(CASE, watched.reads_again))[0] == (148, 296)
    assert counted(run(CASE, watched.reads_a_copy)) == {
        0: (0, 0),
        "elsewhere": (148, 148),
        "written": (148, 148),
        "met": (0, 148),
    }
    assert run(call(torch.arange(37.0)), watched.right).traffic == {}
    assert counted(run(call(torch.arange(37.0), watched=()), watched.right)) == {
        "elsewhere": (0, 0),
        "written": (148, 148),
        "met": (0, 148),
    }


def test_a_buffer_that_is_used_again_is_told():
    assert score_object(exercise(), watched.right).passed
    told = score_object(exercise(), watched.one_buffer_for_all).first_failure.problem.difference
    assert told == "the first result: expected left as it was (return a copy: .clone()), got changed by a later call"


def counted(outcome):
    """All rows together."""
    return {key: tuple(int(torch.as_tensor(count).sum()) for count in counts) for key, counts in outcome.traffic.items()}


def rows_of(outcome):
    return [counts.tolist() for counts in outcome.traffic[0]]


def test_what_kernels_read_is_counted_by_row():
    first = [4] * 16 + [0] * 21
    assert rows_of(run(CASE, watched.reads_a_part)) == [first, first]
    assert rows_of(run(CASE, watched.reads_again)) == [[4] * 37, [8] * 37]
    pairs = call(torch.arange(36.0).view(9, 4), watched=(0,))
    assert rows_of(run(pairs, lambda w: watched.right(w.view(-1)[:22]))) == [[16] * 5 + [8] + [0] * 3] * 2


SENTENCES = {
    watched.reads_again: "your kernels read 296 bytes of `w`; 148 suffice: each was read 2 times on average",
    watched.reads_a_part: "your kernels read only 64 of the 148 bytes of `w`",
    watched.reads_a_copy: "your kernels read none of the 148 bytes of `w`; "
    "they read 148 bytes of tensors that your own code made",
    watched.on_the_host: "your kernels read none of the 148 bytes of `w`",
    watched.decoy: "your kernels read only 4 of the 148 bytes of `w`",
}


@pytest.mark.parametrize("answer", SENTENCES, ids=lambda answer: answer.__name__)
def test_the_learner_reads_a_sentence(answer):
    verdict = score_object(exercise(), answer)
    assert verdict.points == 0
    assert verdict.first_failure.problem.difference == SENTENCES[answer]
    assert (verdict.misconception == "on the host") == (answer is watched.on_the_host)
    hidden = score(exercise(), lambda case: run(case, answer), hidden=True).first_failure.problem.difference
    assert hidden.startswith("bytes of w: ")
    assert not any(digit.isdigit() for digit in hidden)


def veiled() -> Exercise:
    double = exercise()
    double.stages.clear()

    @double.stage("doubles", points=1, exposes="It doubles.")
    def _(g):
        yield call(torch.arange(37.0), watched=(0,), veiled=True)

    return double


def test_a_kernel_for_show_gives_another_result_where_only_kernels_see_the_weights():
    assert score_object(veiled(), watched.right).passed
    assert score_object(exercise(), watched.for_show).passed
    problem = score_object(veiled(), watched.for_show).first_failure.problem
    assert problem.difference == "the result follows the numbers that torch sees of `w`: it was not kernels that worked it out"


def test_kernels_that_read_all_and_write_nothing_of_the_result_have_not_worked_it_out():
    problem = score_object(exercise(), watched.reads_for_show).first_failure.problem
    assert problem.difference == "your kernels write 4 bytes, but the result has 144: it was not they that worked it out"


def test_kernels_may_not_hand_copies_of_the_weights_to_torch():
    problem = score_object(veiled(), watched.hands_back).first_failure.problem
    assert problem.difference == "your kernels read 148 bytes of weights and write 296: they copy, or add too little up"


def some_rows() -> Exercise:
    """Twice the rows of w that are marked, 0 for the others."""
    double = Exercise(
        "unit.some",
        "some",
        "some",
        1,
        1,
        "",
        reference=lambda w, marked: 2 * w * marked[:, None],
        reads=lambda w, marked: {0: marked},
    )

    @double.stage("doubles", points=1, exposes="It doubles.")
    def _(g):
        yield call(torch.arange(1.0, 28).view(9, 3), torch.tensor([1, 0, 0, 1, 1, 0, 0, 0, 1]).bool(), watched=(0,))

    return double


ROWS = {
    watched.some_rows: "",
    watched.all_rows: "your kernels read 5 of the 5 rows of `w` that need not be read",
    watched.three_rows: "your kernels read only 36 of the 48 bytes of `w` that are needed; "
    "they read 8 bytes of tensors that your own code made",
    watched.rows_twice: "your kernels read 96 bytes of `w`; 48 suffice: each was read 2 times on average",
    watched.rows_on_the_host: "your kernels read none of the 48 bytes of `w` that are needed; "
    "they read 52 bytes of tensors that your own code made",
}


@pytest.mark.parametrize("answer", ROWS, ids=lambda answer: answer.__name__)
def test_rows_that_are_not_needed_must_not_be_read(answer):
    verdict = score_object(some_rows(), answer)
    assert verdict.passed == (answer is watched.some_rows)
    if not verdict.passed:
        assert verdict.first_failure.problem.difference == ROWS[answer]


def test_what_nobody_has_filled_is_not_zero_by_chance():
    outcome = run(CASE, watched.into_what_was_there)
    assert outcome.value.isnan().all()
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_right_answer_passes():
    assert score_object(exercise(), watched.right).passed


def test_a_fault_is_its_own_sentence():
    error = run(CASE, watched.faulty).error
    assert error.types[0] == "Fault"
    assert (
        error.message == "the kernel reads 11 elements outside all of its arguments: a mask is missing, or an address is wrong"
    )
    assert error.line.endswith("tl.store(y + at, 2 * tl.load(w + at), mask=at < n)")
    assert error.without_values() == "a kernel reads or writes where it must not"
    assert run(call(torch.arange(37.0), watched=()), watched.faulty).error == error
    assert run(call(torch.arange(37.0)), watched.faulty).error is None  # what the interpreter alone sees


def test_both_sides_of_the_wall_say_the_same():
    assert decode_case(encode(CASE)).watched == (0,)
    outcome = run(CASE, watched.right)
    told = decode_outcome(encode(outcome))
    assert counted(told) == counted(outcome)
    assert rows_of(told) == rows_of(outcome)
    counts = torch.ones(2, dtype=torch.int64)
    wrong = [{0: parts} for parts in ((counts, 1), (counts, counts.float()), (counts[None], counts[None]), (1, 2, 3))]
    wrong += [{"written": (counts, counts)}, {0: (1, 2)}]
    for nonsense in (*wrong, {0: 3}, {0: ("1", 2)}, {0: (True, 1)}, {0: (0.5, 1)}, [1]):
        with pytest.raises(Refused):
            decode_outcome(encode(Outcome(traffic=nonsense)))


@pytest.mark.usefixtures("sandbox")
def test_in_the_sandbox_kernels_are_watched_too():
    from nbformat.v4 import new_code_cell, new_notebook

    source = Path(watched.__file__).read_text(encoding="utf-8")
    cells = [new_code_cell(source, id="kernels")]
    names = ("right", "reads_again", "faulty", "on_the_host")
    cells += [new_code_cell(name, id=f"{name}-check") for name in names]
    of = {name: Exercise(f"unit.{name}", name, name, 1, 1, "", reference=watched.right) for name in names}
    for each in of.values():
        each.stage("doubles", points=1, exposes="It doubles.")(lambda g: [CASE])
    with Session({}, Limits(cell=30, exercise=20, submission=120)) as session:
        session.run(new_notebook(cells=cells), {f"{name}-check": each for name, each in of.items()})
        outcomes = {name: session.outcome_of(each)(CASE) for name, each in of.items()}
    assert torch.equal(outcomes["right"].value, 2 * CASE.args[0])
    assert counted(outcomes["right"]) == {0: (148, 148), "elsewhere": (0, 0), "written": (148, 148), "met": (0, 148)}
    assert counted(outcomes["reads_again"])[0] == (148, 296)
    assert counted(outcomes["on_the_host"])[0] == (0, 0)
    assert outcomes["faulty"].error.message.startswith("the kernel reads 11 elements outside")


def test_the_interpreter_is_on_before_triton_is_there_and_triton_is_not_imported_for_nothing():
    look = "import os, sys, autograder.exercises as e; e.all_exercises(); "
    look += "print(os.environ['TRITON_INTERPRET'], 'triton' in sys.modules)"
    clean = {"PATH": "", "PYTHONPATH": str(Path(__file__).parents[2])}
    shown = subprocess.run([sys.executable, "-c", look], env=clean, capture_output=True, text=True, check=True, timeout=120)
    assert shown.stdout.split() == ["1", "False"]


def test_without_the_interpreter_nothing_passes(monkeypatch):
    import triton.language as tl

    monkeypatch.setattr(tl, "sum", print)
    with pytest.raises(
        RuntimeError, match=r"unit.double cannot be checked here: Triton's interpreter is off: set TRITON_INTERPRET=1"
    ):
        score_object(exercise(), watched.right)


@pytest.mark.parametrize("rows", [[], [148], [4] * 36, [-4] * 37, [2**62] * 37], ids=str)
def test_counts_that_student_code_has_made_up_end_in_a_verdict(rows):
    forged = torch.tensor(rows, dtype=torch.int64)
    outcome = Outcome(2 * CASE.args[0], traffic={0: (forged, forged), "elsewhere": (-1, 10**300), "written": (10**300, 0)})
    for hidden in (True, False):
        verdict = score(exercise(), lambda case: decode_outcome(encode(outcome)), hidden=hidden)
        assert not verdict.passed
