"""Flags for a person: copies are told from honest answers, uses are found however written, hostile code does no harm."""

import ast
import inspect
import time
from pathlib import Path
from textwrap import dedent

import jupytext
import pytest

from autograder.exercises import UNITS, all_exercises, find
from autograder.judge.flags import ALIKE, flags, function_source
from autograder.judge.trees import LONGEST, SMALLEST, _statements, definitions, grams, library, similarity
from autograder.lessons.layout import grade_id
from autograder.lessons.source import render

ROOT = Path(__file__).parents[3]
CELLS = {cell.id: cell.source for unit in UNITS for cell in render(ROOT, unit).cells if cell.cell_type == "code"}
each = pytest.mark.parametrize("exercise", all_exercises(), ids=lambda exercise: exercise.id)

# what a student writes who follows the task and its hint to the letter, where that comes closest to the solution
BY_THE_HINT = {
    "patterns.two_four": """
def two_four_encode(W):
    rows, cols = W.shape
    if cols % 4 != 0:
        raise ValueError("cols must be a multiple of 4")
    groups = W.reshape(-1, 4)
    zero = groups == 0
    if (zero.sum(dim=1) < 2).any():
        raise ValueError("more than 2 non-zeros")
    order = zero.int().argsort(dim=1, stable=True)
    indices = order[:, :2].sort(dim=1).values
    values = groups.gather(1, indices)
    return values.reshape(rows, cols // 2), indices.to(torch.uint8).reshape(rows, cols // 2)
""",
    "patterns.break_even": """
def break_even(encoding, shape, value_bits, index_bits=32, tile=(1, 1)):
    rows, cols = shape
    height, width = tile
    if encoding == "bitmap":
        per_kept = value_bits
        fixed = 1
    else:
        per_kept = value_bits + index_bits / (height * width)
        fixed = 32 * (rows / height + 1) / (rows * cols)
    d = (value_bits - fixed) / per_kept
    return 1 - d
""",
    "magnitude.masked_step": """
def masked_step_(model, masks, optimizer, x, y):
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for name, mask in masks.items():
            layer = model.get_submodule(name)
            layer.weight.masked_fill_(~mask, 0)
    return loss.item()
""",
}


class Disguise(ast.NodeTransformer):
    """What somebody does to a copy so that it looks like their own work."""

    def __init__(self, tree, names=False, comments=False, extra=False):
        stored = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        arguments = {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)} - {"self"}
        self.own = (stored | arguments) if names else set()
        self.comments, self.extra = comments, extra

    def visit_Name(self, node):
        return ast.Name(f"my_{node.id}" if node.id in self.own else node.id, node.ctx)

    def visit_arg(self, node):
        return ast.arg(f"my_{node.arg}" if node.arg in self.own else node.arg)

    def visit_Call(self, node):
        self.generic_visit(node)
        return ast.Call(node.func, node.args, node.keywords[::-1] if self.comments else node.keywords)

    def visit_FunctionDef(self, node):
        self.generic_visit(node)
        if self.comments:
            noise = ast.parse("'My own words.'\nprint('here', 1)\nassert 1 + 1 == 2, 'odd'\npass").body
            body = node.body[1:] if ast.get_docstring(node) else node.body
            node.returns, node.decorator_list, node.body = None, [], [*noise, *body[:-1], *noise[1:], body[-1]]
        if self.extra:
            node.body.insert(0, ast.parse("count = 0").body[0])
        return node

    def visit_Return(self, node):
        self.generic_visit(node)
        return ast.parse(f"result = {ast.unparse(node.value)}\nreturn result").body if self.extra else node


DISGUISES = {
    "as it is": {},
    "renamed": {"names": True},
    "other comments and prints": {"comments": True},
    "another line and a result": {"extra": True},
    "all of it": {"names": True, "comments": True, "extra": True},
}


VERBATIM = ("as it is", "other comments and prints")  # names are the same


def disguised(source, **how):
    tree = ast.parse(source.strip())
    return ast.unparse(ast.fix_missing_locations(Disguise(tree, **how).visit(tree)))


def solution(exercise):
    return CELLS[grade_id(exercise)]


def nodes(source):
    return max((grams(part).total() + 1) // 2 for part in definitions(ast.parse(source)))


def demo_answers(exercise):
    for path in sorted((ROOT / "course").glob("*/class/*.py")):
        for cell in jupytext.reads(path.read_text(encoding="utf-8"), fmt="py:percent").cells:
            if cell.metadata.get("exercise") == exercise.id and path.stem != "crashes":
                yield path.stem, cell.source


def source_of(answer):
    """Of a class that was made of functions, those of the functions."""
    try:
        return dedent(inspect.getsource(answer))
    except OSError:
        return "\n".join(dedent(inspect.getsource(part)) for part in vars(answer).values() if inspect.isfunction(part))


def honest(exercise):
    """Answers that nobody copied."""
    accepted = {name: source_of(answer) for name, answer in exercise.accepted.items()}
    mistakes = {mistake.name: source_of(mistake.wrong) for mistake in exercise.misconceptions}
    hint = {"by the hint": BY_THE_HINT[exercise.id]} if exercise.id in BY_THE_HINT else {}
    return accepted | mistakes | hint | dict(demo_answers(exercise))


def closeness(exercise, answers):
    models = (solution(exercise), *library(exercise.reference))
    return {name: similarity(ast.parse(source.strip()), models, smallest=20) for name, source in answers.items()}


def calibration():
    """A row per exercise: nodes of the solution, its closest honest answer, its copy that is hardest to tell; sizes aside."""
    for exercise in all_exercises():
        copies = {name: disguised(solution(exercise), **how) for name, how in DISGUISES.items()}
        near, far = closeness(exercise, honest(exercise)), closeness(exercise, copies)
        closest, hardest = max(near, key=near.get), min(far, key=far.get)
        yield exercise.id, nodes(solution(exercise)), (closest, near[closest]), (hardest, far[hardest])


def test_the_threshold_lies_between_honest_answers_and_copies():
    rows = list(calibration())
    print(f"\n{'exercise':<24}nodes  {'closest honest answer':<32}hardest copy   threshold {ALIKE}, {SMALLEST} nodes")
    for id, size, (near, alike), (far, unlike) in rows:
        print(f"{id:<24}{size:>5}  {alike:.2f} {near:<26.26} {unlike:.2f} {far}{'' if size >= SMALLEST else ' (too small)'}")
    large = [row for row in rows if row[1] >= SMALLEST]
    assert len(large) > len(rows) / 2
    assert max(alike for *_, (_, alike), _ in large) + 0.03 < ALIKE < min(unlike for *_, (_, unlike) in large)


def copies_in(found):
    return [flag for flag in found if "syntax tree" in flag or "same names" in flag]


def lines(source):
    """Statements of a definition."""
    return max(map(_statements, definitions(ast.parse(source))))


@each
def test_honest_answers_are_not_flagged(exercise):
    for name, source in {**honest(exercise), "a stub": "def f(W):\n    raise NotImplementedError()"}.items():
        assert flags(exercise, source.strip(), models=[solution(exercise)]) == [], name


@each
@pytest.mark.parametrize("disguise", DISGUISES)
def test_copies_of_the_solution_are_flagged_if_they_are_large_enough(exercise, disguise):
    found = flags(exercise, disguised(solution(exercise), **DISGUISES[disguise]), models=[solution(exercise)])
    is_verbatim = disguise in VERBATIM and lines(solution(exercise)) > 2
    assert bool(copies_in(found)) == (is_verbatim or nodes(solution(exercise)) >= SMALLEST)
    assert all("100 %" in flag or "same names" in flag for flag in found) or "extra" in DISGUISES[disguise]


@each
@pytest.mark.parametrize("disguise", list(DISGUISES)[:3])
def test_copies_of_the_library_are_flagged_if_they_are_large_enough(exercise, disguise):
    for code in library(exercise.reference):
        copied = copies_in(flags(exercise, disguised(code, **DISGUISES[disguise])))
        assert bool(copied) == (nodes(code) >= SMALLEST or (disguise in VERBATIM and lines(code) > 2)), code


def test_the_sentence():
    exercise = find("magnitude.global")
    expected = "magnitude.global: 100 % of the answer's syntax tree equals the course's own solution"
    assert flags(exercise, solution(exercise), models=[solution(exercise)]) == [expected]
    assert flags(exercise, solution(exercise)) == []  # the library does it in another way


def test_a_copied_helper_counts_where_the_answer_uses_it():
    exercise = find("patterns.drop_smallest")
    helper = disguised(library(exercise.reference)[1].replace("def drop_smallest", "def mine"), names=True)
    assert copies_in(flags(exercise, "def drop_smallest(score, count):\n    return mine(score, count)", [helper]))
    assert flags(exercise, "def drop_smallest(score, count):\n    return score > count", [helper]) == []
    assert "def tiles" in "".join(library(find("patterns.block").reference))  # so does what the course's own wrapper calls


PRUNE = [
    "import torch.nn.utils.prune as p\np.l1_unstructured(m, 'weight', 1)",
    "import torch.nn.utils.prune\ntorch.nn.utils.prune.l1_unstructured(m, 'weight', 1)",
    "from torch.nn.utils import prune as q\nq.l1_unstructured(m, 'weight', 1)",
    "from torch.nn.utils.prune import *\nl1_unstructured(m, 'weight', 1)",
    "from torch.nn.utils import *\nprune.l1_unstructured(m, 'weight', 1)",
    "nn.utils.prune.l1_unstructured(m, 'weight', 1)",
    "def f():\n    return u.prune.identity(m, 'weight')\nu = torch.nn.utils",
    "getattr(torch.nn.utils, 'prune').identity(m, 'weight')",
    "g = getattr\nname = 'pru' + 'ne'\ng(nn.utils, name).identity(m, 'weight')",
    "import importlib\nimportlib.import_module('torch.nn.utils.prune')",
    "from importlib import import_module as get\nget('.prune', 'torch.nn.utils')",
    "__import__('torch.nn.utils.' + 'prune', fromlist=['x'])",
    "exec('import torch.nn.utils.prune as p')",
    "eval('torch.nn.utils.' + 'prune').identity(m, 'weight')",
    "import builtins\nbuiltins.exec(compile('from torch.nn.utils import prune', '', 'exec'))",
    "exec(\"exec('import torch.nn.utils.prune')\")",
    "torch.nn.utils.__dict__['prune'].identity(m, 'weight')",
    "vars(torch.nn.utils)['prune'].identity(m, 'weight')",
    "globals()['torch'].nn.utils.prune.identity(m, 'weight')",
    "eval('.'.join(['torch', 'nn', 'utils', 'prune']))",
    "%matplotlib inline\nx?\nnn.utils.prune.identity(m, 'weight')",
    "(u := nn.utils).prune.identity(m, 'weight')",
]


@pytest.mark.parametrize("code", PRUNE)
def test_forbidden_functions_are_found_however_they_are_called(code):
    exercise = find("magnitude.prune")
    assert "magnitude.prune: uses torch.nn.utils.prune, which this exercise forbids" in flags(exercise, code)
    elsewhere = "in another cell: uses torch.nn.utils.prune, which magnitude.prune forbids"
    assert elsewhere in flags(exercise, "", [code]) or "exec(" in code or "eval(" in code
    assert not any("forbids" in flag for flag in flags(find("magnitude.sparsity"), code))  # it would not help there


def test_a_name_may_come_from_another_cell():
    assert len(flags(find("magnitude.prune"), "def f(W, s):\n    u.prune.identity(W, s)", ["u = torch.nn.utils"])) == 1


WATCHED = {
    "import sys\nsys.modules['x'] = 1": "sys.modules",
    "import gc\ngc.get_objects()": "gc.get_objects",
    "from inspect import getsource as g\ng(check)": "inspect.getsource",
    "import ctypes": "ctypes",
    "import sqlite3": "sqlite3",
    "__import__('so' + 'cket').socket()": "socket",
    "import os\nprint(os.environ)": "os.environ",
    "from os import environ as e\ne['SECRET']": "os.environ",
    "os.getenv(name)": "os.getenv",
    "open('/proc/self/environ').read()": "/proc",
    "!cat /proc/1/environ": "/proc",
    "open('../../solutions/02_magnitude/magnitude.ipynb')": "solutions",
    "import os\nos.listdir(os.path.join('..', 'solutions'))": "solutions",
    "from pathlib import Path\nlist((Path('..') / 'solutions').glob('*'))": "solutions",
    "%%bash\ncat ../solutions/x": "solutions",
    "folder = 'solu' + 'tions'\nopen(f'../{folder}/x')": "solutions",
    "get_ipython().input_transformers_post.append(f)": "input_transformers_post",
    "ip = get_ipython()\nip.ast_transformers.append(f)": "ast_transformers",
    "from sparsity_edu import patterns as p\np.unstructured(W, 0.5)": "sparsity_edu.patterns",
    "import sparsity_edu\nsparsity_edu.storage.Bitmap": "sparsity_edu.storage",
    "import autograder.exercises": "autograder",
    "from autograder import check\ncheck.__globals__": "autograder",
    "exec(open('x.py').read())": "exec",
    "import subprocess": "subprocess",
    "from triton.runtime import interpreter as i\ni.interpreter_builder": "triton.runtime.interpreter",
    "from unittest import mock\nmock.patch('torch.equal')": "unittest.mock",
    "import sys\nsys._getframe(1)": "sys._getframe",
    "import inspect\ninspect.currentframe()": "inspect.currentframe",
    "check.__closure__": "__closure__",
    "f.tb_frame.f_back": "f_back",
    "import sys\nsys.setprofile(f)": "sys.setprofile",
    "import threading as t\nt.settrace(f)": "threading.settrace",
    "def f(frame, *_):\n    frame.f_globals['equal'] = f": "f_globals",
    "import importlib\nimportlib.import_module(name[::-1])": "import_module",
    "__import__(bytes([111, 115]).decode())": "__import__",
}


@pytest.mark.parametrize("code", WATCHED)
def test_what_a_person_should_look_at_is_named(code):
    assert f"patterns.block: uses {WATCHED[code]}" in flags(find("patterns.block"), code)
    elsewhere = flags(find("patterns.block"), "", [code])  # what a cell runs as text counts as its own
    assert {f"in another cell: uses {WATCHED[code]}", f"patterns.block: uses {WATCHED[code]}"} & set(elsewhere)


ORDINARY = """%matplotlib inline
import os, sys, inspect, gc, torch, autograder, numpy as np, matplotlib.pyplot as plt
os.environ["OMP_NUM_THREADS"] = "1"; os.environ.setdefault("MKL_NUM_THREADS", "1")
from autograder import check
from sparsity_edu import plots
from sparsity_edu.models import load
'''The solutions/ folder and /proc and sys.modules are not touched; torch.nn.utils.prune neither.'''
model = load("tiny")[0].eval(); torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0); torch.compile(model)
print("sys.modules, solutions, torch.nn.utils.prune", sys.version, socket, file=sys.stderr)
for name, p in model.named_parameters():
    print(name, getattr(p, "shape"), getattr(p, name), f"{p.numel() / 8:g} bytes", p.numpy().ctypes)
plt.plot([1, 2]); plt.title("two solutions"); plt.savefig(os.path.join("plots", "a.png")); gc.collect()
verdict = autograder.check("magnitude.prune", f); check("magnitude.prune", f).points; f = open("notes.txt").read()
print(__import__("math").pi, eval("1 + 1"), inspect.signature(f))
!pip list
"""


@each
def test_ordinary_cells_are_not_flagged(exercise):
    released = [source for source in CELLS.values() if "from autograder import check" in source]
    assert len(released) == len(UNITS)
    assert flags(exercise, "def f(W):\n    return W", [ORDINARY, *released]) == []


def fill(before, again, after):
    """As much as is looked at."""
    return before + again * ((LONGEST - len(before + after)) // len(again)) + after


HOSTILE = {
    "empty": "",
    "10 MB of words": "word " * 2_000_000,
    "10 MB of code": "x = 1\n" * 1_700_000,
    "100,000 parentheses": "(" * 100_000,
    "NUL": "x = 1\0",
    "half a character": "x = '\ud800'\n%\udfff",
    "parentheses": fill("", "(", ""),
    "sum": "x = " + "1 + " * 900 + "1\nimport sys\nsys.modules",
    "sums": fill("", "x = " + "1+" * 300 + "1\n", ""),
    "chains": fill("", "x" + ".a" * 300 + "\n", ""),
    "doubling at once": fill("a = 'aaaaaaaaaa'\n", "a + a + a + a\n", ""),
    "many meanings": fill("", "a = a.b\nc = 'x' + c\na = a.d\nc = 'y'\n", ""),
    "many stars": "".join(f"from a{i} import *\n" for i in range(900)) + "x, y, z\n" * 3_000,
    "getattrs": fill("x = getattr(x, x)\ng = getattr\n", "g(g(x, 'a'), 'b' + 'c')\n", ""),
    "different execs": "".join(f"exec('x = {i}')\n" for i in range(2_500)),
    "nested functions": "".join(" " * i + f"def f{i}(x):\n" for i in range(90)) + " " * 90 + "return 1",
    "many functions": fill("", "def f(x):\n    return [" + "x + 1, " * 32 + "]\n", ""),
    "spaces and commas": fill("", "a ,a ", "?"),
    "f-strings": "x = " + "f'{" * 50 + "1" + "}'" * 50,
    "one long line": fill("x = [", "1,", "]"),
    "markup": "getattr(sys.modules, '<script>\u202e')",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_code_gives_plain_sentences_within_seconds(kind):
    source, exercise = HOSTILE[kind], find("patterns.two_four")
    start = time.process_time()
    found = flags(exercise, source, models=[solution(exercise)])
    assert time.process_time() - start < 4  # about one where nothing else runs
    assert all(flag.isprintable() and flag.encode() and "<" not in flag and "\u202e" not in flag for flag in found)
    assert not copies_in(found)
    assert function_source(source, "f1") is None or kind == "nested functions"
    assert not any("characters" in flag for flag in found) or len(source) > LONGEST


def test_code_beyond_the_limit_is_said_not_to_be_looked_at():
    said, uses = flags(find("patterns.block"), "import ctypes", ["#" * LONGEST])
    assert (f"{LONGEST + 13:,} characters" in said, uses) == (True, "patterns.block: uses ctypes")


def test_function_source_is_the_last_definition():
    cell = "%time\ndef f(x):\n    return 1\n@cache\ndef f(x):\n    # ö\n    return 'ö'\nclass C:\n    x = 1\ng = lambda x: 2\n"
    assert function_source(cell, "f") == "def f(x):\n    # ö\n    return 'ö'"
    assert function_source(cell, "C") == "class C:\n    x = 1"
    assert function_source(cell, "g") == "g = lambda x: 2"
    assert function_source(cell, "h") is function_source("def f(:", "f") is None
