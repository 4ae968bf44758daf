"""Answers whose results no kernel has worked out, in an exercise that counts what kernels read: each gets nothing.

The exercise is small: y = 2 w, every byte of w read once by kernels. What an answer has changed in its own process, and what it
says that it launches, is its own affair.
"""

import pytest
import torch

pytest.importorskip("triton")

from nbformat.v4 import new_code_cell, new_notebook

from autograder.checking.exercise import Exercise
from autograder.checking.score import score
from autograder.inside.case import call
from autograder.judge.session import Session
from autograder.sandbox.bubblewrap import Limits
from tests.autograder.checking import watched

FIRST = """
import sys, torch, triton, triton.language as tl
module = lambda name: __import__("autograder.inside." + name, fromlist=["x"])
kept = {name: dict(vars(module(name))) for name in ("runner", "answer")}

@triton.jit
def twice(w, y, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + at, 2 * tl.load(w + at, mask=at < n, other=0.0), mask=at < n)

@triton.jit
def show(w, done, y, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.load(w + at, mask=at < n, other=0.0)
    tl.store(y + at, tl.load(done + at, mask=at < n, other=0.0), mask=at < n)

def launched(kernel, w, *more):
    y = torch.empty_like(w)
    kernel[(triton.cdiv(len(w), 16),)](w, *more, y, len(w), BLOCK=16)
    return y

def right(w):
    return launched(twice, w)

def host(w):
    return 2 * w

def for_show(w):
    return launched(show, w, 2 * w)
"""
UNDO = """
sys.setprofile(None)
for name, space in kept.items():
    vars(module(name)).update(space)
"""
# what a program does to the grader's code in its own process, before its answer is kept
COUNTS = """
full = torch.full((37,), 4)
counts = {0: (full, full), "elsewhere": (0, 0), "written": (148, 148), "met": (0, 148), "again": (1, 1)}
def forged(use, *_):
    return {"value": 2 * use.args[0], "after": use.after(), "gradients": {}, "traffic": counts}
"""
THROUGH_A_FRAME = """
def trace(frame, event, _):
    if frame.f_globals.get("__name__") == "autograder.inside.runner" and "away" in frame.f_globals:
        frame.f_globals.update(away=forged, watched=forged)
sys.setprofile(trace)
"""
THROUGH_GC = """
import gc
for space in gc.get_objects():
    if type(space) is dict and space.get("__name__") == "autograder.inside.runner":
        space.update(away=forged, watched=forged)
"""
# launches that it makes up
SAYS = """
def ask(launch):
    global original
    launch["functions"] = [{"source": SOURCE, "names": NAMES}]
    return launch
original = module("answer").encode
module("answer").encode = lambda value: original(ask(value) if isinstance(value, dict) and "functions" in value else value)
"""
IMPORTS = "def k(w, y, n, BLOCK):\\n    __import__('os').system('true')"
DEFAULTS = "def k(w, y, n, BLOCK, f=open):\\n    open = f('/tmp/x', 'w')"
REACHES = "def k(w, y, n, BLOCK):\\n    tl.load.__globals__['os'].system('true')"
ARGUMENT = """
original = module("answer").encode
def lied(value):
    if isinstance(value, dict) and "memories" in value:
        value["memories"][0] = torch.zeros(148, dtype=torch.uint8)
    return original(value)
module("answer").encode = lied
"""
ATTACKS = {
    "right": ("right", ""),
    "on the host": ("host", ""),
    "a kernel for show": ("for_show", ""),
    "counts that are made up": ("host", COUNTS + "module('runner').away = module('runner').watched = forged"),
    "through the frame of a profiler": ("host", COUNTS + THROUGH_A_FRAME),
    "a kernel that imports": ("right", f'SOURCE, NAMES = "{IMPORTS}", {{}}' + SAYS),
    "a kernel with more in its defaults": ("right", f'SOURCE, NAMES = "{DEFAULTS}", {{}}' + SAYS),
    "a kernel that reaches through Triton": ("right", f'SOURCE, NAMES = "{REACHES}", {{}}' + SAYS),
    "a module that is no part of Triton": (
        "right",
        'SOURCE, NAMES = "def k(w, y, n, BLOCK):\\n    os.system(1)", {"os": {"module": "os"}}' + SAYS,
    ),
    "weights of its own": ("right", ARGUMENT),
    "through the garbage collector": ("host", COUNTS + THROUGH_GC),  # last: it finds what is kept, too
}


def exercise(name: str) -> Exercise:
    made = Exercise(f"unit.{name}", name, name, 1, 1, "", reference=watched.right)
    case = call(torch.arange(1.0, 38.0), watched=(0,))
    made.stage("doubles", points=1, exposes="It doubles.")(lambda g: [case])
    return made


@pytest.mark.usefixtures("sandbox")
def test_only_kernels_earn_what_is_for_kernels():
    exercises, cells = {}, [new_code_cell(FIRST)]
    for number, (answer, change) in enumerate(ATTACKS.values()):
        name = f"answer_{number}"
        cells += [new_code_cell(f"{UNDO}\n{change}\n{name} = {answer}"), new_code_cell(name, id=f"{name}-check")]
        exercises[f"{name}-check"] = exercise(name)
    with Session({}, Limits(cell=60, exercise=60, submission=300)) as session:
        session.run(new_notebook(cells=cells), exercises)
        verdicts = [score(each, session.outcome_of(each, hidden=True), hidden=True) for each in exercises.values()]
    told = {attack: verdict.stages[0].problem for attack, verdict in zip(ATTACKS, verdicts, strict=True)}
    assert [attack for attack, problem in told.items() if not problem] == ["right"]
    assert "no kernel has worked it out" in told["a kernel for show"].difference
