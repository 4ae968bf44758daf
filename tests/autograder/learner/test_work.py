"""Learners work on copies: made once, never overwritten, and put on a corrected release without losing anything."""

import json
import os
import random
import re
import shutil
from copy import deepcopy
from datetime import date
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_raw_cell
from typer.testing import CliRunner

from autograder import cli
from autograder.intake.inspection import inspect
from autograder.intake.reading import Caps, read_notebook
from autograder.intake.rebuild import rebuild, released_notebook
from autograder.learner import commands, work
from autograder.learner.work import Origin, prepare
from autograder.lessons.layout import EXPERIMENT, course_root, notebook_path

ROOT = course_root(Path(__file__).parent)
UNIT = "02_magnitude"
TODAY = date(2026, 12, 1)
NAMES = [
    "magnitude-sparsity",
    "magnitude-prune",
    "magnitude-global",
    "magnitude-masked_step",
    "magnitude-schedule",
    "magnitude-iterative",
]
SOLVED = NAMES[:4]  # by the learner of most tests; the others are stubs
FIGURE = "keeping_zeros.svg"
KEPT = "magnitude.before-2026-12-01.ipynb"


class Course:
    """A course of one unit, and a learner in it."""

    def __init__(self, root):
        self.root = root
        self.release, self.copy, self.source = (notebook_path(root / f, UNIT) for f in ("notebooks", "work", "solutions"))
        self.kept = self.copy.with_name(KEPT)
        (root / "course").mkdir()
        (root / "nbgrader_config.py").touch()
        for folder in ("notebooks", "solutions"):
            shutil.copytree(ROOT / folder / UNIT, root / folder / UNIT, ignore=shutil.ignore_patterns(".*", "*.svg"))

    def prepare(self, today=TODAY):
        return prepare(self.root, UNIT, today)

    def learn(self, change=None, names=SOLVED):
        """Make the copy, and answer exercises in it."""
        self.prepare()
        with editing(self.copy) as notebook:
            for name in names:
                cell_of(notebook, name).source = answer(name)
                cell_of(notebook, name).execution_count = 1
            if change:
                change(notebook)
        return self.copy.read_bytes()

    def state(self):
        """Every file below work/, with its bytes and when it was written."""
        files = [path for path in (self.root / "work").rglob("*") if path.is_file()]
        return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.fixture
def course(tmp_path):
    return Course(tmp_path)


class editing:
    """A notebook's file as a notebook, which is saved as Jupyter does."""

    def __init__(self, path):
        self.path = path

    def __enter__(self):
        self.notebook = read(self.path)
        return self.notebook

    def __exit__(self, *error):
        nbformat.write(self.notebook, self.path)


def read(path):
    return nbformat.read(path, as_version=4)


def cell_of(notebook, id):
    return next(cell for cell in notebook.cells if cell.id == id)


def copy_of(cell, id, source):
    copy = deepcopy(cell)
    copy.id, copy.source = id, source
    return copy


def position(notebook, id):
    return [cell.id for cell in notebook.cells].index(id)


def sources(notebook):
    return [cell.source for cell in notebook.cells]


def answer(name):
    return f"def {name.split('-')[1]}_of_mine(*arguments):\n    return 'mine: {name}'"


def plain_code(notebook):
    """The first code cell, with the imports."""
    return next(cell for cell in notebook.cells if cell.cell_type == "code")


def experiments(notebook):
    return [cell for cell in notebook.cells if EXPERIMENT in cell.metadata.get("tags", [])]


# ways to change a release


def change_text(released):
    released.cells[1].source += "\n\nA correction."


def change_order(released):
    """The first exercise, with header and check, comes last."""
    at = position(released, NAMES[0]) - 1
    moved = released.cells[at : at + 3]
    released.cells[at : at + 3] = []
    released.cells += moved


def add_exercise(released):
    at = position(released, NAMES[1]) - 1
    added = deepcopy(released.cells[at : at + 3])
    for cell, id in zip(added, ("new-header", "magnitude-added", "magnitude-added-check"), strict=True):
        cell.id = id
        cell.source = cell.source.replace("magnitude_prune", "added").replace("magnitude.prune", "magnitude.added")
        if "nbgrader" in cell.metadata:
            cell.metadata.nbgrader.grade_id = id
    released.cells[at:at] = added


def change_stubs(released):
    for name in NAMES:
        cell = cell_of(released, name)
        cell.source = cell.source.replace('"""', '"""Corrected. ', 1)


def change_points(released):
    cell_of(released, f"{NAMES[0]}-check").metadata.nbgrader.points = 7


def change_imports(released):
    """The lessons' ids follow the text."""
    plain_code(released).source += "\nimport itertools"
    plain_code(released).id = "new-imports"


CHANGES = [change_text, change_order, add_exercise, change_stubs, change_points, change_imports]


def every_change(released):
    for change in CHANGES:
        change(released)


# there is no copy


def test_a_copy_is_made_of_the_release(course):
    assert course.prepare() == ["copied to work/02_magnitude/magnitude.ipynb"]
    copy, release = read(course.copy), read(course.release)
    assert copy.cells == release.cells
    assert copy.metadata.kernelspec == release.metadata.kernelspec


def test_the_release_is_not_written(course):
    course.learn()
    with editing(course.release) as released:
        every_change(released)
    before = course.release.read_bytes(), course.release.stat().st_mtime_ns
    course.prepare()
    assert (course.release.read_bytes(), course.release.stat().st_mtime_ns) == before


def test_a_unit_whose_folder_was_deleted_is_made_again(course):
    course.prepare()
    shutil.rmtree(course.copy.parent)
    assert course.prepare() == ["copied to work/02_magnitude/magnitude.ipynb"]
    assert read(course.copy).cells == read(course.release).cells


def test_a_run_that_is_killed_leaves_nothing_half_written(course):
    write_bytes = Path.write_bytes

    def be_killed(path, data):
        write_bytes(path, data[: len(data) // 2])
        os._exit(9)

    child = os.fork()
    if not child:
        Path.write_bytes = be_killed
        try:
            course.prepare()
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not course.copy.exists()
    assert course.prepare() == ["copied to work/02_magnitude/magnitude.ipynb"]


@pytest.mark.parametrize("writes", [1, 2])
def test_a_run_that_is_stopped_half_way_onto_a_release_is_made_up_for(course, monkeypatch, writes):
    mine = course.learn()
    with editing(course.release) as released:
        change_text(released)
    write, left = work._write, [None] * writes

    def stop(path, data):
        left.pop()
        if not left:
            raise KeyboardInterrupt
        write(path, data)

    monkeypatch.setattr(work, "_write", stop)
    with pytest.raises(KeyboardInterrupt):
        course.prepare()
    assert course.copy.read_bytes() == mine
    monkeypatch.undo()
    course.prepare()
    assert course.kept.read_bytes() == mine
    assert sorted(path.name for path in course.copy.parent.iterdir()) == [KEPT, "magnitude.ipynb"]


def test_a_failing_disk_leaves_no_draft(course, monkeypatch):
    def fail(path, target):
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        course.prepare()
    assert course.state() == {}


# the release is as it was


@pytest.mark.parametrize("is_changed", [False, True])
def test_running_it_twice_changes_nothing(course, is_changed):
    course.learn()
    if is_changed:
        with editing(course.release) as released:
            every_change(released)
        course.prepare()
    before = course.state()
    assert course.prepare() == []
    assert course.state() == before


def test_whatever_a_learner_does_to_a_copy_it_is_not_touched(course):
    def change(notebook):
        del notebook.cells[3:9]
        notebook.cells.reverse()
        notebook.cells.append(new_markdown_cell("mine"))

    mine = course.learn(change)
    assert course.prepare() == []
    assert course.copy.read_bytes() == mine


def test_a_release_that_was_only_saved_again_is_the_same(course):
    mine = course.learn()
    with editing(course.release) as released:
        released.metadata.language_info.version = "3.13.1"
        plain_code(released).metadata.collapsed = True
    assert course.prepare() == []
    assert course.copy.read_bytes() == mine


# the release has changed


@pytest.mark.parametrize("change", [*CHANGES, every_change])
def test_answers_survive_a_changed_release_and_stubs_are_new(course, change):
    course.learn()
    with editing(course.release) as released:
        change(released)
    said = course.prepare()
    copy, release = read(course.copy), read(course.release)
    assert [cell.id for cell in copy.cells] == [cell.id for cell in release.cells]
    for cell, as_released in zip(copy.cells, release.cells, strict=True):
        assert cell.source == (answer(cell.id) if cell.id in SOLVED else as_released.source)
        assert cell.metadata == as_released.metadata
    assert said[0] == (
        "work/02_magnitude/magnitude.ipynb is the corrected notebook now, with your 4 answers; "
        "the one before is kept as magnitude.before-2026-12-01.ipynb"
    )
    in_order = [cell.id for cell in release.cells if cell.id in SOLVED]
    names = ", ".join(name.replace("-", ".", 1) for name in in_order)
    reworded = [f"the course has changed {names}: compare your answer with notebooks/02_magnitude/magnitude.ipynb"]
    assert said[1:] == (reworded if change in (change_stubs, every_change) else [])


@pytest.mark.parametrize("change", CHANGES)
def test_a_copy_that_the_learner_has_not_changed_is_replaced(course, change):
    course.prepare()
    with editing(course.copy) as copy:
        plain_code(copy).execution_count = 1  # reading along is no change
    with editing(course.release) as released:
        change(released)
    assert course.prepare() == [
        "work/02_magnitude/magnitude.ipynb is the corrected notebook now; you had not changed the one before"
    ]
    assert read(course.copy).cells == read(course.release).cells
    assert len(course.state()) == 1


def test_the_old_notebook_is_kept_byte_for_byte(course):
    mine = course.learn()
    with editing(course.release) as released:
        change_text(released)
    course.prepare()
    assert course.kept.read_bytes() == mine


def test_a_kept_notebook_is_never_overwritten(course):
    kept = [course.learn()]
    for round in range(3):
        with editing(course.release) as released:
            released.cells[0].source += f"\n\nCorrection {round}."
        course.prepare()
        with editing(course.copy) as copy:
            cell_of(copy, NAMES[0]).source += f"\n# {round}"
        kept.append(course.copy.read_bytes())
    with editing(course.release) as released:
        change_text(released)
    course.prepare(date(2026, 12, 2))
    names = [KEPT, KEPT.replace("01.", "01-2."), KEPT.replace("01.", "01-3."), KEPT.replace("01.", "02.")]
    assert [course.copy.with_name(name).read_bytes() for name in names] == kept


def test_what_grading_adds_is_not_in_a_copy(course):
    course.learn(lambda notebook: notebook.cells.append(copy_of(cell_of(notebook, NAMES[0]), "second", "1 + 1")))
    with editing(course.release) as released:
        change_text(released)
    course.prepare()
    text = course.copy.read_text()
    assert "skip-execution" not in text
    assert "Repaired before grading" not in text
    assert "repairs" not in read(course.copy).metadata
    nbformat.validate(read(course.copy))


def test_code_cells_that_were_added_stay_in_their_place(course):
    def change(notebook):
        notebook.cells.insert(position(notebook, NAMES[1]), new_code_cell("helper = 1"))
        notebook.cells.insert(position(notebook, plain_code(notebook).id) + 1, new_code_cell("generator = torch.Generator()"))

    course.learn(change)
    with editing(course.release) as released:
        every_change(released)
    assert not any("not on the new one" in sentence for sentence in course.prepare())
    copy = read(course.copy)
    at = sources(copy).index("helper = 1")
    assert copy.cells[at + 1].id == NAMES[1]
    at = sources(copy).index("generator = torch.Generator()")
    assert copy.cells[at - 1].id == "new-imports"  # where the old imports were, which it needs


def test_an_import_added_to_a_released_cell_stays(course):
    course.learn(lambda notebook: plain_code(notebook).update(source=f"{plain_code(notebook).source}\nimport math"))
    with editing(course.release) as released:
        change_imports(released)
    course.prepare()
    assert sum("import math" in source for source in sources(read(course.copy))) == 1


def test_a_cell_that_the_learner_changed_and_the_course_did_not_stays_as_the_learner_has_it(course):
    mine = {}

    def change(notebook):
        plot = next(cell for cell in notebook.cells if "ax.hist" in cell.source)
        for cell in (plain_code(notebook), plot, experiments(notebook)[0], notebook.cells[0]):
            cell.source += "\n# mine"
            mine[cell.id] = cell.source

    course.learn(change)
    with editing(course.release) as released:
        change_text(released)
        add_exercise(released)
    assert len(course.prepare()) == 1
    copy, release = read(course.copy), read(course.release)
    assert [cell.id for cell in copy.cells] == [cell.id for cell in release.cells]
    changed = {
        cell.id: cell.source for cell, other in zip(copy.cells, release.cells, strict=True) if cell.source != other.source
    }
    assert {id: source for id, source in changed.items() if id not in SOLVED} == mine
    assert course.prepare() == []


def test_a_cell_that_both_have_changed_is_there_twice_and_told(course):
    course.learn(lambda notebook: plain_code(notebook).update(source=f"{plain_code(notebook).source}\nimport math"))
    with editing(course.release) as released:
        change_imports(released)
    assert course.prepare()[1:] == ["changed by you and by the course: 1 cell; yours stand above"]
    copy = read(course.copy)
    at = sources(copy).index(plain_code(read(course.release)).source)
    assert sources(copy)[at - 1].endswith("import math")


def test_old_cells_of_the_course_do_not_stay(course):
    old = plain_code(read(course.release)).source
    course.learn()
    with editing(course.release) as released:
        change_imports(released)
        del released.cells[-1]
    course.prepare()
    assert old not in sources(read(course.copy))
    assert sources(read(course.copy))[-1] == sources(read(course.release))[-1]


def test_notes_and_changed_experiments_are_in_the_kept_notebook_and_the_learner_is_told(course):
    def change(notebook):
        notebook.cells.insert(3, new_markdown_cell("What I learnt."))
        notebook.cells.insert(5, new_raw_cell("More of it."))
        experiments(notebook)[0].source = "mine = 'a changed experiment'"

    mine = course.learn(change)
    with editing(course.release) as released:
        change_text(released)
        experiments(released)[0].source += "\nplt.show()"
        experiments(released)[0].id = "another"  # as ids of lessons do, it follows the text
    said = course.prepare()
    assert said[1:] == ["not on the new one: 2 notes, 1 changed experiment"]
    assert course.kept.read_bytes() == mine
    assert sources(read(course.copy))[3:] == [
        answer(cell.id) if cell.id in SOLVED else cell.source for cell in read(course.release).cells[3:]
    ]


def test_what_cannot_be_placed_is_told_by_exercise(course):
    def change(notebook):
        notebook.cells.append(copy_of(cell_of(notebook, NAMES[0]), "second", "def another(): pass"))
        cell_of(notebook, f"{NAMES[1]}-check").source = "check('mine')"

    course.learn(change)
    with editing(course.release) as released:
        change_text(released)
        released.cells = [cell for cell in released.cells if not cell.id.startswith(NAMES[2])]
    said = course.prepare()
    assert said[1] == "not on the new one: what you changed in the check of magnitude.prune"
    assert "def another(): pass" in sources(read(course.copy))
    assert said[2:] == ["magnitude.global is gone from the unit, your answer is kept as code"]
    assert answer(NAMES[2]) in sources(read(course.copy))


def test_an_answer_in_a_second_cell_goes_before_the_stub(course):
    course.learn(lambda notebook: notebook.cells.append(copy_of(cell_of(notebook, NAMES[5]), "second", answer(NAMES[5]))))
    with editing(course.release) as released:
        change_stubs(released)
    assert not any("not on the new one" in sentence for sentence in course.prepare())
    assert cell_of(read(course.copy), NAMES[5]).source == answer(NAMES[5])


@pytest.mark.parametrize("source", ["", " \n"])
def test_an_emptied_answer_is_the_new_stub_again(course, source):
    course.learn(lambda notebook: cell_of(notebook, NAMES[0]).update(source=source))
    with editing(course.release) as released:
        change_stubs(released)
    course.prepare()
    assert cell_of(read(course.copy), NAMES[0]).source == cell_of(read(course.release), NAMES[0]).source


def scribble(notebook, chance):
    """A dozen things that a learner may do to cells."""
    for i in range(12):
        cell, text, at = chance.choice(notebook.cells), f"mine_{i} = {i}", chance.randrange(len(notebook.cells))
        match chance.choice(["change", "code", "note", "copy", "move", "delete"]):
            case "change":
                cell.source += f"\n# {text}"
            case "code":
                notebook.cells.insert(at, new_code_cell(text))
            case "note":
                notebook.cells.insert(at, new_markdown_cell(text))
            case "copy":
                notebook.cells.insert(at, copy_of(cell, f"copy-{i}", cell.source))
            case "move":
                notebook.cells.remove(cell)
                notebook.cells.insert(at, cell)
            case "delete":
                notebook.cells.remove(cell)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_a_learner_wrote_is_carried_over_or_kept_and_told(course, seed):
    chance = random.Random(seed)
    mine = course.learn(lambda notebook: scribble(notebook, chance))
    with editing(course.release) as released:
        theirs = set(sources(released))
        for change in chance.sample(CHANGES, 3):
            change(released)
    said = course.prepare()
    assert course.kept.read_bytes() == mine
    old, new = read(course.kept), read(course.copy)
    nbformat.validate(new)
    lost = {cell.source for cell in old.cells} - theirs - set(sources(new))
    assert ("not on the new one" in "; ".join(said)) == bool(lost)
    added = {cell.source for cell in old.cells if cell.cell_type == "code" and cell.source.startswith("mine_")}
    assert added <= set(sources(new))
    assert course.prepare() == []


# what is in the way


def put_a_link(copy):
    target = copy.with_name("elsewhere.ipynb")
    target.write_text("{}")
    copy.symlink_to(target)


@pytest.mark.parametrize(
    ("put", "sentence"),
    [
        (
            lambda copy: copy.write_text('{"cells": [{"cell_'),
            "(the notebook could not be read: it is not JSON); rename it and run this again",
        ),
        (lambda copy: copy.write_bytes(b""), "the notebook is an empty file"),
        (lambda copy: copy.write_text("[]"), "not a notebook"),
        (lambda copy: copy.mkdir(), "is no file; it is left as it is"),
        (put_a_link, "is a link; it is left as it is"),
        (lambda copy: copy.symlink_to("nowhere"), "is a link; it is left as it is"),
    ],
)
@pytest.mark.parametrize("is_changed", [False, True])
def test_what_cannot_be_read_is_left_and_told(course, put, sentence, is_changed):
    course.prepare()
    course.copy.unlink()
    put(course.copy)
    if is_changed:
        with editing(course.release) as released:
            change_text(released)
    before, kind = course.state(), course.copy.lstat().st_mode
    said = course.prepare()
    assert len(said) == 1
    assert said[0].startswith("work/02_magnitude/magnitude.ipynb ")
    assert sentence in said[0]
    assert (course.state(), course.copy.lstat().st_mode) == (before, kind)


@pytest.mark.parametrize(
    "content",
    [
        {"cells": [{"cell_type": "code", "source": "mine = 1"}], "nbformat": 4, "nbformat_minor": 5},
        {"cells": [], "metadata": [], "nbformat": 4, "nbformat_minor": 5},
        {"cells": [{"cell_type": "code", "source": "", "metadata": {"tags": 3, "nbgrader": {"grade_id": [3]}}}], "nbformat": 4},
    ],
)
def test_a_notebook_that_is_only_nearly_one_is_kept_too(course, content):
    course.prepare()
    course.copy.write_text(json.dumps(content))
    assert course.prepare()
    assert json.dumps(content) in {path.read_text() for path in course.copy.parent.iterdir()}


@pytest.mark.parametrize("place", ["work", "work/02_magnitude"])
def test_a_file_in_the_place_of_a_folder_is_left_and_told(course, place):
    (course.root / place).parent.mkdir(exist_ok=True)
    (course.root / place).write_text("mine")
    assert course.prepare() == [f"{place} is not a folder, so that no notebook can be put there"]
    assert (course.root / place).read_text() == "mine"


def test_work_may_be_a_link_to_a_folder(course, tmp_path_factory):
    (course.root / "work").symlink_to(tmp_path_factory.mktemp("synced"))
    course.prepare()
    assert read(course.copy).cells == read(course.release).cells


@pytest.mark.parametrize("has_copy", [False, True])
def test_a_release_that_cannot_be_read_is_told_and_no_copy_touched(course, has_copy):
    mine = course.learn() if has_copy else None
    text = course.release.read_text()
    course.release.write_text(text.replace(' "cells": [', '<<<<<<< HEAD\n "cells": [\n=======\n "cells": [\n>>>>>>> 1', 1))
    assert course.prepare()[0].startswith("notebooks/02_magnitude/magnitude.ipynb is damaged and left as it is (")
    course.release.unlink()
    assert course.prepare() == ["notebooks/02_magnitude/magnitude.ipynb is missing"]
    assert (course.copy.read_bytes() if has_copy else None) == mine


# what an editor has dropped


def forget(notebook):
    notebook.metadata.pop("sparsity_edu")


@pytest.mark.parametrize(
    "value", [None, 3, "text", {}, {"release": 1, "cells": [], "taken": None}, {"release": "a", "cells": "b"}]
)
def test_an_origin_of_another_form_is_not_known(value):
    assert Origin.read(nbformat.v4.new_notebook(metadata={"sparsity_edu": value})) == Origin()


def test_a_copy_that_has_lost_its_origin_is_not_touched_if_it_is_on_the_release(course):
    mine = course.learn(forget)
    assert course.prepare() == []
    assert course.copy.read_bytes() == mine


def test_a_copy_that_has_lost_its_origin_still_gets_onto_a_new_release(course):
    mine = course.learn(forget)
    with editing(course.release) as released:
        change_text(released)
    assert "with your 4 answers" in course.prepare()[0]
    copy = read(course.copy)
    assert [cell_of(copy, name).source for name in SOLVED] == list(map(answer, SOLVED))
    assert course.kept.read_bytes() == mine
    assert Origin.read(copy) == Origin.of(read(course.release))


def test_answers_that_have_lost_ids_and_metadata_are_put_on_a_new_release(course):
    def change(notebook):
        cell_of(notebook, NAMES[1]).source = "def magnitude_prune(W, sparsity): return 'mine'"
        for i, cell in enumerate(notebook.cells):
            cell.metadata, cell.id = {}, f"x{i}"

    course.learn(change, names=[])
    with editing(course.release) as released:
        change_stubs(released)
        change_text(released)
    course.prepare()
    copy, release = read(course.copy), read(course.release)
    assert [cell.id for cell in copy.cells] == [cell.id for cell in release.cells]
    assert "'mine'" in cell_of(copy, NAMES[1]).source
    assert cell_of(copy, NAMES[0]).source == cell_of(release, NAMES[0]).source


# work in notebooks/, as the README once said


def solve(course, is_run=True):
    with editing(course.release) as notebook:
        for name in SOLVED:
            cell_of(notebook, name).source = answer(name)
            cell_of(notebook, name).execution_count = 1 if is_run else None
        notebook.cells.append(new_markdown_cell("A note.", id="note"))


@pytest.mark.parametrize("is_run", [True, False])
def test_work_done_in_the_release_is_copied_and_told(course, is_run):
    solve(course, is_run)
    before = course.release.read_bytes(), course.release.stat().st_mtime_ns
    assert course.prepare() == [
        "somebody has worked in notebooks/02_magnitude/magnitude.ipynb: "
        "that is copied to work/02_magnitude/magnitude.ipynb, to go on there "
        "(git checkout notebooks/02_magnitude/magnitude.ipynb makes it the release again)"
    ]
    assert read(course.copy).cells == read(course.release).cells
    assert (course.release.read_bytes(), course.release.stat().st_mtime_ns) == before
    state = course.state()
    assert course.prepare() == []
    assert course.state() == state


@pytest.mark.parametrize("is_run", [True, False])
def test_a_copy_of_such_work_follows_the_release_once_that_is_clean_again(course, is_run):
    clean = course.release.read_bytes()
    solve(course, is_run)
    course.prepare()
    mine = course.copy.read_bytes()
    course.release.write_bytes(clean)
    assert course.prepare() == []  # it is on that release
    assert course.copy.read_bytes() == mine
    with editing(course.release) as released:
        every_change(released)
    assert course.prepare()[1] == "not on the new one: 1 note"
    copy, release = read(course.copy), read(course.release)
    assert sources(copy) == [answer(cell.id) if cell.id in SOLVED else cell.source for cell in release.cells]
    assert course.kept.read_bytes() == mine


def test_work_done_in_the_release_beside_a_copy_is_told_and_no_release(course):
    mine = course.learn()
    solve(course)
    for _ in range(2):
        assert course.prepare() == [
            "somebody has worked in notebooks/02_magnitude/magnitude.ipynb, which is not looked at; "
            "work/02_magnitude/magnitude.ipynb is yours"
        ]
    assert course.copy.read_bytes() == mine


def test_no_solutions_are_needed(course):
    shutil.rmtree(course.root / "solutions")
    course.learn()
    with editing(course.release) as released:
        every_change(released)
    assert "with your 4 answers" in course.prepare()[0]
    shutil.rmtree(course.copy.parent)
    solve(course)
    assert "somebody has worked in" in course.prepare()[0]
    assert course.prepare() == []


# files beside the notebook


def test_other_files_are_copied_where_they_are_missing(course):
    course.prepare()
    for name in ("data/table.csv", "picture.png", ".ipynb_checkpoints/magnitude.ipynb"):
        path = course.release.parent / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("of the course")
    (course.copy.parent / "picture.png").write_text("mine")
    assert course.prepare() == ["copied, too: data/table.csv"]
    assert (course.copy.parent / "data" / "table.csv").read_text() == "of the course"
    assert (course.copy.parent / "picture.png").read_text() == "mine"
    assert not (course.copy.parent / ".ipynb_checkpoints").exists()
    assert course.prepare() == []


# handing in


@pytest.mark.parametrize("is_changed", [False, True])
def test_a_copy_is_handed_in_byte_for_byte_and_needs_no_repair(course, is_changed):
    course.learn()
    if is_changed:
        with editing(course.release) as released:
            change_stubs(released)
        course.prepare()
        course.kept.unlink()
    data = course.copy.read_bytes()
    assert read_notebook(data).data == data
    shutil.copy(ROOT / "notebooks" / UNIT / FIGURE, course.copy.parent)  # as `prepare` does
    ours = {FIGURE: (ROOT / "solutions" / UNIT / FIGURE).read_bytes()}
    found = inspect(course.root / "work", (UNIT,), "magnitude.ipynb", course.release.read_bytes(), Caps(), ours=ours)
    assert (found.notebook, found.notes, found.is_fine, found.extras) == (data, [], True, [])
    rebuilt, repairs = rebuild(read(course.copy), released_notebook(course.source))
    assert repairs == []
    assert "sparsity_edu" not in rebuilt.metadata
    assert [cell_of(rebuilt, name).source for name in SOLVED] == list(map(answer, SOLVED))


def test_jupyter_keeps_the_origin(course):
    from jupyter_server.services.contents.filemanager import FileContentsManager

    course.prepare()
    origin = Origin.read(read(course.copy))
    contents = FileContentsManager(root_dir=str(course.root))
    model = contents.get("work/02_magnitude/magnitude.ipynb", content=True)
    model["content"] = json.loads(json.dumps(model["content"]))  # as it goes through the browser
    contents.save(model, "work/02_magnitude/magnitude.ipynb")
    assert Origin.read(read(course.copy)) == origin != Origin()


# the command


@pytest.fixture
def run(course, monkeypatch):
    monkeypatch.chdir(course.root)
    monkeypatch.setattr(commands, "UNITS", (UNIT,))
    return lambda *arguments: CliRunner().invoke(cli.app, ["work", *arguments])


@pytest.mark.parametrize("arguments", [(), (UNIT,)])
def test_the_command_prints_a_line_where_something_happened(run, arguments):
    line = "02_magnitude: copied to work/02_magnitude/magnitude.ipynb\n"
    assert run(*arguments).output == f"{line}Solve the notebooks in work/. Reload one that is open and has changed.\n"
    assert run(*arguments).output == "Solve the notebooks in work/. Reload one that is open and has changed.\n"


def test_all_that_happened_to_a_unit_is_one_line(run, course):
    course.learn(lambda notebook: notebook.cells.append(new_markdown_cell("A note.")))
    with editing(course.release) as released:
        change_text(released)
    lines = run().output.splitlines()
    assert len(lines) == 2
    assert re.fullmatch(
        r"02_magnitude: .* with your 4 answers; .*before-\d{4}-\d\d-\d\d.ipynb; not on the new one: 1 note", lines[0]
    )


def test_an_unknown_unit_is_refused(run, course):
    told = run("02_magnitud")
    assert isinstance(told.exception, ValueError)
    assert "unit must be one of" in str(told.exception)
    assert not (course.root / "work").exists()


def test_git_ignores_work_and_make_lab_opens_it():
    assert "/work/" in (ROOT / ".gitignore").read_text().splitlines()
    lab = re.search(r"^lab:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    assert re.search(r"autograder work\n.*JUPYTER_CONFIG_PATH=\"\$\(CURDIR\)/course/lab\" jupyter lab ", lab)
    settings = json.loads((ROOT / "course" / "lab" / "jupyter_lab_config.json").read_text())
    assert settings["LabApp"]["default_url"] == "/lab/tree/work/start.md"


def test_every_unit_is_copied(tmp_path):
    """Units of the course as they are, with what marks a worked-in release: none of them is taken for that."""
    for folder in ("course", "notebooks", "solutions"):
        os.symlink(ROOT / folder, tmp_path / folder)
    for unit in cli.UNITS:
        assert prepare(tmp_path, unit)[0].startswith("copied to")
        released = released_notebook(notebook_path(ROOT / "solutions", unit))
        assert Origin.of(released) == Origin.read(read(notebook_path(tmp_path / "work", unit)))
