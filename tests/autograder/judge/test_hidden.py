"""What is told of hidden cases: which stage fails and how, in words of ours; never an input, nor a value that may hold one."""

import builtins
import math
import re
from dataclasses import asdict, replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from autograder.checking.known import PUBLIC_SEED
from autograder.checking.score import score, score_declared
from autograder.exercises import all_exercises, find
from autograder.inside.case import Opaque
from autograder.inside.outcome import Outcome, Raised
from autograder.inside.runner import run
from autograder.inside.wire import decode_case, decode_outcome, encode
from tests.drawn import public_cases

EXERCISES = all_exercises()
EACH = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.id)
# one for each form of result: a mask, a tuple, numbers, a dict, and a model that is changed with a callback that is called
FORMS = ("patterns.n_m", "patterns.bitmap", "patterns.break_even", "magnitude.global", "magnitude.iterative")
WITH_TWO_MISTAKES = [replace(find(id), misconceptions=find(id).misconceptions[:2]) for id in FORMS]  # more take longer
EACH_FORM = pytest.mark.parametrize("exercise", WITH_TWO_MISTAKES, ids=FORMS)
SEED = PUBLIC_SEED  # what mistakes make of its cases is worked out already, by the tests of exercises in the same process
HER_SEED = "ann's"

ERRORS = [name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, BaseException)]
KIND = f"(?:{'|'.join(ERRORS)})"  # that is expected; which one was raised is not told
ERROR = "(?:an exception|it took too long|an earlier case took too long)"
WORD = "(?:a tensor|a numpy array|a tuple or list|a dict|a module|a bool|a str|a number|None|another object)"
DTYPE = "(?:bool|u?int(?:8|16|32|64)|b?float(?:16|32|64)|float8_e(?:4m3fn|5m2))"
SETTING = "frozen parameters|hooks|modules in evaluation mode|parameters that were replaced|gradients"
PLACE = (
    r"(?:(?:result(?: of call \d)?|bytes held(?: after call \d+)?|\w+\(\)"
    r"|calls of \w+|\w+ after the call|gradient with respect to \w+)"
    rf"(?:, of a second (?:call|object)|, its (?:{SETTING}))?)"  # no indices
)
TRAFFIC = (
    "(?:no kernel reads them(?:, but another tensor in their place)?|kernels read rows that need not be read"
    "|kernels do not read all of them|kernels read some of them more than once"
    "|kernels read more of them than (?:of the weights|copies of the inputs would take)"
    "|no kernel has (?:written it|worked it out)|kernels copy the weights, or add too little up"
    "|no two programs add to one place|programs add to one place in any order)"
)
FAULT = f"a kernel reads or writes where it must not(?: where {KIND} is expected)?"
ALLOWED = re.compile(
    rf"(?:the call: {ERROR}(?: where {KIND} is expected)?|the call: no error where {KIND} is expected"
    rf"|the argument (?:\w+|of \w+\(\)): changed by your code \(work on a copy: \.clone\(\)\)"
    rf"|the argument (?:\w+|of \w+\(\)): shares memory with the result \(return a copy: \.clone\(\)\)"
    rf"|(?:the first|an earlier) result: changed by a later call|gradient with respect to \w+: none where one is expected"
    rf"|{PLACE}: another value than expected"
    rf"|{PLACE}\.shape: another shape than expected"
    rf"|{PLACE}\.dtype: another dtype than {DTYPE}"
    rf"|{PLACE}'s keys: other keys than expected"
    rf"|{PLACE}: \d+ values? expected"
    rf"|(?:bytes|source) of [\w ]+: {TRAFFIC}|the call: {FAULT}"
    rf"|{PLACE}: something else than {WORD}(?: \(is there a return\?\))?"
    r")(?: \(with tensors that are not contiguous in memory, and models in evaluation mode\))?"
)


def over_the_wire(outcome):
    """An outcome as it arrives from behind the wall."""
    return decode_outcome(encode(outcome))


def judged(exercise, answer, seed, hidden=True):
    """A verdict on an answer behind the wall."""
    return score(exercise, lambda case: over_the_wire(run(decode_case(encode(case)), answer)), seed, hidden)


def assert_nothing_is_told(verdict) -> None:
    for stage in verdict.stages:
        if stage.problem:
            assert stage.problem.case == stage.problem.printed == ""
            assert ALLOWED.fullmatch(stage.problem.difference), stage.problem.difference
    declared = next(exercise for exercise in EXERCISES if exercise.id == verdict.id)
    assert verdict.says in ("", *(mistake.says for mistake in declared.misconceptions))


@EACH
def test_mistakes_are_told_without_values(exercise):
    for mistake in exercise.misconceptions:
        verdict = score_declared(exercise, mistake.wrong, SEED, hidden=True, arrives=over_the_wire)
        assert not verdict.passed, mistake.name
        assert_nothing_is_told(verdict)


@EACH
def test_hiding_changes_nothing_but_what_is_told(exercise):
    for wrong in (exercise.reference, *(mistake.wrong for mistake in exercise.misconceptions[:2])):
        hidden, shown = (score_declared(exercise, wrong, SEED, hide, arrives=over_the_wire).to_dict() for hide in (True, False))
        for a, b in zip(hidden.pop("stages"), shown.pop("stages"), strict=True):
            told, problem = a.pop("problem"), b.pop("problem")
            assert a == b
            assert (told is None) == (problem is None)
            if problem:
                assert problem["case"].startswith(f"{exercise.defines}(")
                assert re.search(
                    r": expected .+, got |your kernels |it was not kernels|shares memory with", problem["difference"]
                )
        assert hidden == shown


def number_of(text: str) -> int:
    return 1 + sum(text.encode()) % 900


def raises(make):
    def leak(*args):
        raise make(*args)

    return leak


def prints(text):
    print(text)
    return Opaque


LEAKS = {
    "message": raises(ValueError),
    "key of a KeyError": raises(KeyError),
    "message of an error of its own": raises(type("Own", (Exception,), {})),
    "name of an error": raises(lambda text: type(text, (Exception,), {})()),
    "name of a ValueError": raises(lambda text: type(text, (ValueError,), {})("no")),
    "exit": raises(SystemExit),
    "exit code": raises(lambda text: SystemExit(number_of(text))),
    "printed": prints,
    "str": lambda text: text,
    "key": lambda text: {text: 1},
    "key in a key": lambda text: {("a", (text,)): 1},
    "int": lambda text: number_of(text),
    "huge int": lambda text: int.from_bytes(text.encode()[:120], "big"),
    "larger int": lambda text: int.from_bytes(text.encode()[:200] * 9, "big"),
    "float": lambda text: number_of(text) / 7,
    "complex": lambda text: complex(number_of(text), 1),
    "list": lambda text: [text, [text]],
    "length": lambda text: [0] * (1000 + number_of(text)),
    "shape": lambda text: torch.zeros(30 + number_of(text), 2),
    "dimensions": lambda text: torch.zeros([1] * (5 + number_of(text) % 50)),
    "array": lambda text: np.full((2, number_of(text)), 1.5),
    "type": lambda text: type(text, (), {})(),
    "type of a key": lambda text: {type(text, (), {})(): 1},
    "function": lambda text: lambda: text,
    "bytes": lambda text: text.encode(),
}


@pytest.mark.parametrize("leak", LEAKS.values(), ids=LEAKS)
@EACH_FORM
def test_what_an_answer_makes_of_its_inputs_is_not_told(exercise, leak):
    def told(salt):
        return judged(exercise, lambda *args, **kwargs: leak(salt + str((args, kwargs))), SEED)

    one, other = told("0.1234 "), told("98765 ")
    assert one == other
    assert not one.passed
    assert_nothing_is_told(one)


@EACH
def test_values_in_a_result_of_the_right_form_are_not_told(exercise):
    def told(factor):
        def answer(*args, **kwargs):
            value = run_reference(*args, **kwargs)
            return with_leaves(value, lambda leaf: leaf * factor + factor if type(leaf) is not str else leaf)

        return judged(exercise, answer, SEED)

    run_reference = exercise.reference
    assert_nothing_is_told(told(3.25))
    where = [[stage.problem and stage.problem.difference for stage in told(factor).stages] for factor in (3.25, 1234.5)]
    assert where[0] == where[1]


def with_leaves(value, change):
    """A value with its leaves changed."""
    if isinstance(value, dict):
        return {key: with_leaves(entry, change) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [with_leaves(entry, change) for entry in value]
    return change(value)


DEEP: list = []
for _ in range(200):
    DEEP = [DEEP]
LEAVES = [
    None,
    True,
    2**1023 - 1,
    -(2**1023) + 1,
    math.nan,
    math.inf,
    complex(math.nan, math.inf),
    "\ud83d\u202e12345",
    (),
    (1, (2,)),
    DEEP,
    {},
    {math.nan: 1, True: 2, None: 3, (1, Opaque("x")): 4},
    Opaque("12345"),
    Raised(("ValueError",), "12345"),
    Outcome(1),
    torch.zeros(0),
    torch.tensor(math.nan),
    torch.full((2, 3), math.nan),
    torch.zeros([1] * 64),
    torch.zeros(1, dtype=torch.float8_e4m3fn),
    torch.zeros(1, dtype=torch.uint64),
    np.zeros(()),
    np.zeros((1, 2)),
]


def with_value(change):
    return lambda o: replace(o, value=change(o.value), after={key: change(value) for key, value in o.after.items()})


FORGED = {f"everything is {str(leaf)[:30]!a}": with_value(lambda _, leaf=leaf: leaf) for leaf in LEAVES}
FORGED |= {
    f"each part is {str(leaf)[:30]!a}": with_value(lambda value, leaf=leaf: with_leaves(value, lambda _: leaf))
    for leaf in LEAVES
}
FORGED |= {
    "no results": with_value(lambda _: []),
    "too few results": with_value(lambda value: value[:-1] if isinstance(value, list) else [value]),
    "too many results": with_value(lambda value: [value] * 1000),
    "an error and the right value": lambda o: Outcome(o.value, o.after, error=Raised(("E",), "12345", "line 12345", "f12345")),
    "an error of the judge's name": lambda o: Outcome(o.value, o.after, error=Raised(("TimeUp",), "12345")),
    "not run": lambda o: Outcome(o.value, o.after, error=Raised(("NotRun", "x" * 2000), "12345")),
    "a stub's error, and more": lambda o: Outcome(o.value, o.after, error=Raised(("NotImplementedError",), "", "", "12345")),
}
assert len(FORGED) == 2 * len(LEAVES) + 7


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
@EACH_FORM
def test_forged_outcomes_give_no_points(exercise, forge):
    for hidden in (True, False):
        verdict = score_declared(exercise, exercise.reference, SEED, hidden, arrives=forge)
        assert verdict.points == 0
        if hidden:
            assert_nothing_is_told(verdict)
        assert all(len(s.problem.difference) < 5000 for s in verdict.stages if s.problem)


CHANGING = [exercise for exercise in EXERCISES if any(case.changes for case in public_cases(exercise.id))]


@pytest.mark.parametrize("exercise", CHANGING, ids=lambda exercise: exercise.id)
@pytest.mark.parametrize("after", [{}, {"0": 1}, {-1: 1, 7: 2}, {True: 1}], ids=str)
def test_arguments_after_the_call_that_are_not_there(exercise, after):
    changed = partial(replace, after=after)
    verdict = score_declared(exercise, exercise.reference, SEED, hidden=True, arrives=changed)
    assert not verdict.passed
    assert_nothing_is_told(verdict)


PURE = [find(id) for id in ("patterns.n_m", "magnitude.prune", "sparsegpt.prune", "wanda.norm")]  # the last is a class
assert all(any(stage.pure for stage in exercise.stages) for exercise in PURE)


@pytest.mark.parametrize("exercise", PURE, ids=lambda exercise: exercise.id)
@pytest.mark.parametrize("key", [12345, -12345, 10**300, True, "secret 12345", "", "\u202e\x1b"], ids=ascii)
def test_arguments_of_odd_names_change_nothing(exercise, key):
    """Those that were given are looked for by their own names."""

    def told(after, hidden=True):
        def arrives(outcome):
            return replace(outcome, after=after(outcome.after))

        return score_declared(exercise, exercise.reference, SEED, hidden, arrives)

    assert told(lambda given: {key: 12345} | given).passed
    verdict = told(lambda _: {key: 12345})
    assert [stage.passed for stage in verdict.stages] == [not stage.pure for stage in exercise.stages]
    assert_nothing_is_told(verdict)
    assert "12345" not in str(verdict.to_dict())
    told(lambda _: {key: 12345}, hidden=False)


@pytest.mark.parametrize(
    "again", [{}, {"second": None}, {"kept": 12345}, {"settings": {"12345": 12345}}, {12345: "12345"}], ids=str
)
@EACH_FORM
def test_probes_that_are_not_what_they_should_be(exercise, again):
    changed = partial(replace, again=again)
    verdict = score_declared(exercise, exercise.reference, SEED, hidden=True, arrives=changed)
    assert [stage.passed for stage in verdict.stages] == [stage is not exercise.careful for stage in exercise.stages]
    assert_nothing_is_told(verdict)
    assert "12345" not in str(verdict.to_dict())


# a judgement asks snapshots, which are processes of one sandbox


@pytest.fixture
def sandbox(monkeypatch):
    """In the place of sessions: `answers` by exercise id, else right ones; `deadly` ends every snapshot when it is asked."""
    from autograder.judge import judge

    made = SimpleNamespace(asked=[], sessions=0, deadly="", answers={})

    class Fake:
        is_lost = False

        def __init__(self, *_):
            made.sessions += 1
            self.incidents, self.dead = [], False

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def run(self, notebook, checks):
            return None

        def outcome_of(self, exercise, hidden):
            def outcome_of(case):
                made.asked.append((exercise.id, hidden))
                self.dead |= exercise.id == made.deadly
                died = Outcome(error=Raised(("Died",), "the process ended", ours=True))
                return died if self.dead else run(case, made.answers.get(exercise.id, exercise.reference))

            return outcome_of

    monkeypatch.setattr(judge, "Session", Fake)
    return made


def unit_job(**answers):
    """A unit's checks, and before them answers by the name that an exercise defines."""
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook

    from autograder.exercises import exercises_of
    from autograder.judge.judge import Job
    from autograder.lessons.layout import grade_id

    exercises = exercises_of("01_patterns")
    cells = [new_code_cell(answers[e.defines], id=grade_id(e)) for e in exercises if e.defines in answers]
    cells += [new_code_cell("check()", id=f"{grade_id(exercise)}-check") for exercise in exercises]
    notebook = nbformat.writes(new_notebook(cells=cells))
    return Job("01_patterns", notebook, {}, HER_SEED, tuple(exercise.id for exercise in exercises))


def test_what_is_shown_in_full_is_asked_before_any_hidden_case(sandbox):
    from autograder.judge.judge import judge

    verdicts = judge(unit_job()).verdicts
    hidden = [hidden for _, hidden in sandbox.asked]
    assert hidden == sorted(hidden)
    assert set(hidden) == {False, True}
    assert sandbox.sessions == 1
    assert all(verdict["passed"] and not verdict["cut_short"] for verdict in verdicts.values())


def of_the_notebook(exercise, then, otherwise):
    """An answer that does one thing with the notebook's own inputs, and another with all others."""
    public = {str((c.args, c.kwargs)) for stage in exercise.stages for c in exercise.cases(stage, PUBLIC_SEED)}
    return lambda *args, **kwargs: (then if str((args, kwargs)) in public else otherwise)(*args, **kwargs)


def test_an_answer_that_knows_the_notebooks_inputs_gets_nothing_and_is_told_no_other(sandbox):
    from autograder.judge.judge import judge

    exercise = find("patterns.n_m")
    sandbox.answers[exercise.id] = of_the_notebook(exercise, exercise.reference, raises(lambda *_: ValueError("12345")))
    verdict = judge(unit_job()).verdicts[exercise.id]
    assert (verdict["points"], verdict["cut_short"]) == (0, False)
    problem = verdict["stages"][0]["problem"]
    assert problem["difference"] == "the call: an exception - on other inputs than the notebook's, with which it passes"
    assert problem["case"] == problem["printed"] == ""
    assert "12345" not in str(verdict)


def test_what_fails_on_the_notebooks_inputs_too_is_explained_with_them(sandbox):
    from autograder.judge.judge import judge

    exercise = find("patterns.n_m")
    mistake = exercise.misconceptions[0]
    sandbox.answers[exercise.id] = of_the_notebook(exercise, mistake.wrong, lambda *_, **__: None)
    verdict, shown = judge(unit_job()).verdicts[exercise.id], score_declared(exercise, mistake.wrong)
    assert verdict["points"] == 0
    assert (verdict["misconception"], verdict["says"]) == (mistake.name, mistake.says)
    told = {stage["name"]: stage["problem"] for stage in verdict["stages"]}
    assert told[shown.first_failure.name] == asdict(shown.first_failure.problem)


def test_what_a_person_should_look_at_is_in_the_verdict_of_its_exercise(sandbox):
    from autograder.judge.judge import judge

    exercise = find("patterns.n_m")
    verdicts = judge(unit_job(**{exercise.defines: "import ctypes"})).verdicts
    flags = {id: verdict["flags"] for id, verdict in verdicts.items() if verdict["flags"]}
    assert flags == {exercise.id: [f"{exercise.id}: uses ctypes"]}


def test_an_answer_that_ends_the_others_costs_nothing_that_stands_before_it(sandbox):
    from autograder.judge.judge import judge

    job = unit_job()
    sandbox.deadly = job.exercises[3]
    judgement = judge(job)
    assert [verdict["passed"] for verdict in judgement.verdicts.values()] == [True] * 3 + [False] * 3
    assert [verdict["cut_short"] for verdict in judgement.verdicts.values()] == [False] * 3 + [True] * 3
    assert list(judgement.outputs) == list(judge(job).outputs)
    assert sandbox.sessions == 4
