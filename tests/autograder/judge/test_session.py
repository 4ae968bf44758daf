"""A notebook in its sandbox: what its answers say, and what is lost when it misbehaves."""

import contextlib
import os
import socket
import time
from dataclasses import replace

import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook

from autograder.checking.exercise import Exercise
from autograder.inside.case import call, script
from autograder.judge.session import Session
from autograder.sandbox.bubblewrap import Limits

LIMITS = Limits(cell=6, patience=5, exercise=5, submission=120)
ROOMY = Limits(submission=120)  # where nothing is to run into a limit
pytestmark = pytest.mark.usefixtures("sandbox")


def exercise(name):
    return Exercise(f"unit.{name}", name, name, 1, 1, "", reference=lambda: None)


def notebook(*cells):
    """Code cells; a text without spaces is the check of the exercise of that name."""
    checks = {f"{name}-check": exercise(name) for name in cells if " " not in name}
    sources = [
        new_code_cell(source, id=f"{source}-check" if " " not in source else f"cell-{i}") for i, source in enumerate(cells)
    ]
    return new_notebook(cells=sources), checks


def ask(session, name, *args):
    return session.outcome_of(exercise(name))(call(*args))


def test_answers_come_from_the_program_as_it_was_at_the_check():
    nb, checks = notebook(
        "import torch\nfactor = 2\ndef double(x): return helper(x)\ndef helper(x): return x * factor",
        "double",
        "def helper(x): return x * 0\nfactor = 0",
        "class Counter:\n    def __init__(self): self.n = 0\n    def add(self, k): self.n += k; return self.n",
        "Counter",
        "print('after', flush=True)",
    )
    with Session({}, LIMITS) as session:
        session.run(nb, checks)
        assert session.incidents == []
        assert torch.equal(ask(session, "double", torch.arange(3)).value, torch.tensor([0, 2, 4]))
        outcome = session.outcome_of(exercise("Counter"))(script(calls=[("add", 1), ("add", 2)]))
        assert outcome.value == [1, 3]
    assert "after" in str(nb.cells[-1].outputs)


def test_what_an_answer_is_asked_stays_in_its_snapshot():
    nb, checks = notebook(
        "seen = []\ndef spy(x):\n    seen.append(x)\n    return list(seen)",
        "spy",
        "def other(x): return list(seen)",
        "other",
        "print(seen, open('/submission/note.txt').read())",
    )
    with Session({"note.txt": b"a file of the submission"}, LIMITS) as session:
        session.run(nb, checks)
        asked = session.outcome_of(exercise("spy"))
        assert asked(call(17)).value == [17]
        assert asked(call(4)).value == [17, 4]
        assert ask(session, "other", 0).value == []
    assert "[] a file of the submission" in str(nb.cells[-1].outputs)


@pytest.mark.parametrize(
    ("ending", "sentence"),
    [
        ("import os; os._exit(0)", "died"),
        ("import ctypes; ctypes.string_at(0)", "died"),
        ("import os, signal; os.kill(0, signal.SIGKILL)", "died"),
        ("import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass", "could not be interrupted"),
    ],
)
def test_a_dead_kernel_costs_what_comes_after_it(ending, sentence):
    nb, checks = notebook("def first(x): return x + 1", "first", ending, "def second(x): return x", "second")
    with Session({}, LIMITS) as session:
        session.run(nb, checks)
        assert sentence in " ".join(session.incidents)
        assert ask(session, "first", 1).value == 2
        error = ask(session, "second", 1).error
        assert error.types == ("NotRun",)
        assert error.ours


def test_an_endless_cell_is_interrupted_and_the_rest_goes_on():
    nb, checks = notebook("while True: pass", "def first(x): return x + 1", "first")
    with Session({}, LIMITS) as session:
        session.run(nb, checks)
        assert ask(session, "first", 1).value == 2
    assert nb.cells[0].outputs[-1].ename == "KeyboardInterrupt"


def test_an_answer_that_hangs_or_dies_costs_what_was_not_answered():
    nb, checks = notebook(
        "import os, time, signal\ndef dies(x):\n    if x == 2: os._exit(0)\n    return x",
        "dies",
        "def hangs(x):\n    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))\n    while x == 2: pass\n    return x",
        "hangs",
    )
    with Session({}, LIMITS) as session:
        session.run(nb, checks)
        asked = session.outcome_of(exercise("dies"))
        assert [asked(call(x)).value for x in (1, 2, 3)] == [1, None, None]
        assert asked(call(3)).error.types == ("Died",)
        start = time.monotonic()
        asked = session.outcome_of(exercise("hangs"))
        assert [asked(call(x)).value for x in (1, 2, 3)] == [1, None, None]
        assert asked(call(3)).error.types == ("TimeUp",)
        assert LIMITS.exercise - 1 < time.monotonic() - start < LIMITS.exercise + 3


def test_answers_that_are_none_say_so():
    nb, checks = notebook("x = 3\n1 / 0", "x", "missing", "del globals()['__builtins__']", "def broken(x): return x", "broken")
    with Session({}, LIMITS) as session:
        session.run(nb, checks)
        assert "no function" in ask(session, "x", 1).error.message
        assert "not defined" in ask(session, "missing", 1).error.message
    assert nb.cells[0].outputs[0].ename == "ZeroDivisionError"


def test_without_a_sandbox_the_answers_are_the_same():
    nb, checks = notebook("def first(x): return x + 1, open('data/a.txt').read()", "first")
    with Session({"data/a.txt": b"text"}, LIMITS, sandboxed=False) as session:
        session.run(nb, checks)
        assert ask(session, "first", 1).value == [2, "text"]


def test_files_of_the_submission_shadow_nothing():
    files = {f"{name}.py": b"raise SystemExit" for name in ("torch", "random", "numpy", "colorsys", "sitecustomize")}
    files["sparsity_edu/__init__.py"] = b"raise SystemExit"
    nb, checks = notebook(
        "import torch, random, numpy, colorsys, helper\nfrom sparsity_edu import plots\nfrom autograder import check",
        "check('unit.first', print)",
        "def first(x): return helper.HELP + torch.ones(1).item()",
        "first",
    )
    with Session({**files, "helper.py": b"HELP = 41"}, LIMITS) as session:
        session.run(nb, checks)
        assert ask(session, "first", 0).value == 42
    assert "judged outside" in str(nb.cells[1].outputs)


def test_student_code_finds_its_own_module_before_one_of_the_standard_library():
    """JupyterLab puts the notebook's folder first on the path."""
    files = {"test.py": b"HELP = 40\nfrom statistics import mean", "statistics.py": b"def mean(x): return 1"}
    files |= {
        "colorsys.py": b"raise ValueError",
        "helper.py": b"import test\nfrom test import HELP",
        "wave/__init__.py": b"ONE = 1",
    }
    nb, checks = notebook(
        "import colorsys, wave, helper, importlib\nfrom test import HELP, mean\ncolorsys.rgb_to_hsv(0, 0, 0);",
        "def first(x): return helper.HELP + mean([5]) + wave.ONE + importlib.import_module('test').HELP",
        "first",
    )
    with Session(files, ROOMY) as session:
        session.run(nb, checks)
        assert session.outcome_of(exercise("first"), 0)(call(0)).value == 82
    assert nb.cells[0].outputs == []


NAMES = "__import__ answer autograder fromlist get_ipython offer os print run send socket torch".split()  # noqa: SIM905


def test_no_name_that_a_student_gives_is_in_the_judges_way():
    nb, checks = notebook(*(f"def {name}(*args): return 'mine'" for name in NAMES), "def first(x): return x + 1", "first")
    with Session({}, ROOMY) as session:
        session.run(nb, checks)
        assert ask(session, "first", 1).value == 2


def test_pictures_that_nobody_would_see_end_nothing():
    limits = replace(ROOMY, output=8 * 2**20)
    nb, checks = notebook(
        "import os\nfrom IPython.display import Image, display\nbig = b'\\x89PNG' + os.urandom(2**22)",
        "for _ in range(4): display(Image(big, format='png'))\nfor _ in range(40): display(Image(big[:2**18], format='png'))",
        "def first(x): return x + 1",
        "first",
    )
    with Session({}, limits) as session:
        session.run(nb, checks)
        assert session.incidents == []
        assert ask(session, "first", 1).value == 2
    assert sum("image/png" in output.data for output in nb.cells[1].outputs) >= 8
    assert "(too large to be shown)" in str(nb.cells[1].outputs)


def test_pictures_without_end_are_a_flood():
    limits = Limits(cell=20, exercise=5, submission=120, output=2**18)
    nb, checks = notebook(
        "from IPython.display import Image, display\nwhile True: display(Image(bytes(2**14), format='png'))",
        "def first(x): return x + 1",
        "first",
    )
    with Session({}, limits) as session:
        session.run(nb, checks)
        assert "printed more than" in " ".join(session.incidents)


def test_a_compiled_function_is_the_function_itself():
    nb, checks = notebook(
        "import torch\n@torch.compile\ndef first(x):\n    return x.abs().sum() + 1",
        "first",
        "second = torch.compile(lambda x: x + 2, fullgraph=True, mode='max-autotune')",
        "second",
    )
    with Session({}, ROOMY) as session:
        session.run(nb, checks)
        assert ask(session, "first", torch.ones(3)).value == 4
        assert ask(session, "second", torch.ones(1)).value == 3


def enters(path, user):
    """Whether a user of this machine can connect to a socket."""
    if (child := os.fork()) == 0:
        with contextlib.suppress(BaseException):
            os.setuid(user)
            socket.socket(socket.AF_UNIX).connect(path)
            os._exit(0)
        os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_other_users_of_the_machine_cannot_answer_for_a_student():
    with Session({}, LIMITS) as session:
        path = session._listener.getsockname()
        private = os.stat(os.path.dirname(os.path.dirname(path)))
        assert (private.st_uid, private.st_mode & 0o077) == (os.geteuid(), 0)
        assert enters(path, os.geteuid())
        if os.geteuid() == 0:  # only root can be somebody else
            assert not enters(path, 65534)
