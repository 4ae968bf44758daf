"""Lesson source -> solutions/ -> notebooks/."""

import dataclasses
import inspect
import os
import shutil
import sys
import warnings
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from nbgrader.apps import NbGraderAPI

from autograder.checking.score import score_object
from autograder.classroom.demo import course_config
from autograder.exercises import UNITS, exercises_of
from autograder.lessons import build as builder
from autograder.lessons.layout import EXPERIMENT, course_root, grade_id, notebook_path, without_outputs
from autograder.lessons.source import render
from tests.ran import solved, stubs

ROOT = course_root(Path(__file__).parent)


@pytest.fixture
def course(tmp_path):
    """A copy of the course with a cheap builder: nothing is executed, outputs are pretended."""
    for name in ("course", "solutions", "notebooks", "nbgrader_config.py"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def pretended(monkeypatch):
    executed = []

    def execute(notebook, root, fast=False, experiments=True):
        executed.append("all" if experiments else "no experiments")
        committed = nbformat.read(notebook_path(ROOT / "solutions", UNITS[0]), as_version=4).cells
        outputs = {cell.id: cell.get("outputs", []) for cell in committed}
        for cell in notebook.cells:
            if cell.cell_type == "code" and (experiments or "experiment" not in cell.metadata.get("tags", [])):
                cell.execution_count, cell.outputs = 1, outputs.get(cell.id, [])

    monkeypatch.setattr(builder, "execute", execute)
    return executed


@pytest.mark.parametrize("unit", UNITS)
def test_committed_notebooks_are_up_to_date(unit):
    assert builder.stale(ROOT, unit) == []


@pytest.mark.parametrize("unit", UNITS)
def test_lesson_solutions_get_full_marks_and_stubs_nothing(unit):
    assert "__errors__" not in solved(unit), solved(unit)["__errors__"]
    for exercise in exercises_of(unit):
        verdict = score_object(exercise, solved(unit)[exercise.defines])
        assert verdict.passed, f"{verdict}"
        verdict = score_object(exercise, stubs(unit)[exercise.defines])
        assert verdict.points == 0
        assert not verdict.started


@pytest.mark.parametrize("unit", UNITS)
def test_a_call_is_shown_with_the_names_of_the_statement(unit):
    for exercise in exercises_of(unit):
        if inspect.isfunction(stub := stubs(unit)[exercise.defines]):
            names = list(inspect.signature(stub).parameters)
            shown = list(inspect.signature(exercise.reference).parameters)  # and perhaps more, for mistakes
            assert shown[: len(names)] == names


@pytest.mark.parametrize("unit", UNITS)
def test_notebook_runs_from_top_to_bottom_in_its_fast_setting(unit):
    """Only if something that it runs has changed since its recorded run: `autograder verify` runs all."""
    notebook = render(ROOT, unit)
    if builder.recorded(nbformat.read(notebook_path(ROOT / "solutions", unit), as_version=4)) == builder.sources_of(
        unit, notebook
    ):
        return
    warnings.warn(f"{unit} is run, for no run with these sources is recorded: `autograder verify {unit}` does", stacklevel=1)
    builder.execute(notebook, ROOT, fast=True)  # raises at the first failing cell
    assert without_outputs(notebook) == render(ROOT, unit)  # or it would be stale as soon as it is built
    experiments = [cell for cell in notebook.cells if EXPERIMENT in cell.metadata.get("tags", [])]
    assert experiments
    assert any(output.output_type == "stream" for cell in experiments for output in cell.outputs), "experiments print numbers"
    pictures = [
        o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs if "image/png" in o.get("data", {})
    ]
    assert len(pictures) >= 2


@pytest.mark.parametrize("unit", UNITS)
def test_released_notebook_holds_stubs_locked_checks_and_no_solution(unit):
    released = nbformat.read(notebook_path(ROOT / "notebooks", unit), as_version=4)
    nbformat.validate(released)
    cells = {cell.id: cell for cell in released.cells}
    assert len(cells) == len(released.cells)
    for exercise in exercises_of(unit):
        answer, check = cells[grade_id(exercise)], cells[f"{grade_id(exercise)}-check"]
        assert "NotImplementedError" in answer.source
        assert '"""' in answer.source  # the contract stays
        assert check.source == f'check("{exercise.id}", {exercise.defines})'
        assert check.metadata.nbgrader.points == exercise.points
        assert check.metadata.nbgrader.locked
        assert check.metadata.nbgrader.grade
    text = notebook_path(ROOT / "notebooks", unit).read_text(encoding="utf-8")
    assert "SOLUTION" not in text
    assert all(not cell.outputs for cell in released.cells if cell.cell_type == "code")


@pytest.mark.parametrize("unit", UNITS)
def test_hints_lie_in_each_other_and_are_not_the_whole_solution(unit):
    cells = {cell.id: cell for cell in render(ROOT, unit).cells}
    headers = [cell.source for cell in cells.values() if cell.source.startswith("### Exercise")]
    for exercise, header in zip(exercises_of(unit), headers, strict=True):
        opened = [part.split("</summary>")[1] for part in header.split("<details>")[1:]]  # up to the next one to open
        assert [part.replace("</details>", "").strip() for part in opened] == list(exercise.hints)
        assert opened[-1].split()[-3:] == ["</details>"] * 3
        answer = cells[grade_id(exercise)].source
        solution = [part.split("### END SOLUTION")[0] for part in answer.split("### BEGIN SOLUTION")[1:]]
        lines = {line.split("  #")[0].strip() for line in "".join(solution).splitlines()} - {""}
        assert not all(line in exercise.hints[-1] for line in lines)


def test_rendering_is_deterministic():
    assert render(ROOT, UNITS[0]) == render(ROOT, UNITS[0])


def test_building_twice_changes_nothing(course, pretended):
    unit = UNITS[0]
    before = {path: path.stat().st_mtime_ns for path in course.rglob("*.ipynb")}
    assert builder.build(course, unit) == []
    assert pretended == []
    assert {path: path.stat().st_mtime_ns for path in course.rglob("*.ipynb")} == before


def test_a_changed_lesson_is_stale_until_it_is_built(course, pretended):
    unit = UNITS[0]
    lesson = course / "course" / unit / "lesson.py"
    lesson.write_text(lesson.read_text(encoding="utf-8").replace("## The question", "## A question"), encoding="utf-8")
    assert "solutions" in builder.stale(course, unit)[0]
    written = builder.build(course, unit)
    assert [path.parent.parent.name for path in written] == ["solutions", "notebooks"]
    lesson.write_text(lesson.read_text(encoding="utf-8").replace("plt.show()", "plt.show()  # now", 1), encoding="utf-8")
    builder.build(course, unit)
    assert pretended == []  # text and comments need no execution
    assert builder.stale(course, unit) == []
    lesson.write_text(lesson.read_text(encoding="utf-8").replace("plt.show()", "plt.show(block=False)", 1), encoding="utf-8")
    builder.build(course, unit)
    assert pretended == ["all"]
    assert builder.stale(course, unit) == []


def test_a_run_is_recorded_with_its_sources_and_no_release_shows_it(course, pretended):
    unit = UNITS[0]
    lesson, path = course / "course" / unit / "lesson.py", notebook_path(course / "solutions", unit)

    def solution():
        return nbformat.read(path, as_version=4)

    lesson.write_text(lesson.read_text(encoding="utf-8").replace("plt.show()", "plt.show(block=False)", 1), encoding="utf-8")
    before = builder.recorded(solution())
    builder.build(course, unit)
    now = builder.sources_of(unit, render(course, unit))
    assert builder.recorded(solution()) == now != before
    assert now not in notebook_path(course / "notebooks", unit).read_text(encoding="utf-8")
    written = path.stat().st_mtime_ns
    assert not builder.verify(course, unit)
    assert path.stat().st_mtime_ns == written
    path.write_text(path.read_text(encoding="utf-8").replace(now, "0" * 32), encoding="utf-8")
    assert builder.verify(course, unit)
    assert pretended == ["all", "all", "all"]
    assert builder.recorded(solution()) == now
    assert builder.stale(course, unit) == []


def test_what_a_notebook_runs_is_its_cells_and_its_checks(monkeypatch):
    unit = UNITS[0]
    notebook, seen = render(ROOT, unit), []
    monkeypatch.setattr(builder, "fingerprint", lambda code, modules: seen.extend([code, set(modules)]))
    builder.sources_of(unit, notebook)
    code, modules = seen
    assert code == [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert modules == {"autograder.learner.check", *(e.stages[0].cases.__module__ for e in exercises_of(unit))}


def test_a_changed_student_notebook_is_stale_and_rebuilt(course, pretended):
    unit = UNITS[0]
    student = notebook_path(course / "notebooks", unit)
    original = student.read_bytes()
    student.write_bytes(original.replace(b"question", b"riddle"))
    assert "notebooks" in builder.stale(course, unit)[0]
    builder.build(course, unit)
    assert student.read_bytes() == original


def test_somebodys_work_is_not_overwritten(course, pretended):
    unit = UNITS[0]
    student = notebook_path(course / "notebooks", unit)
    notebook = nbformat.read(student, as_version=4)
    next(cell for cell in notebook.cells if cell.cell_type == "code").execution_count = 1
    nbformat.write(notebook, student)
    work = student.read_bytes()
    with pytest.raises(RuntimeError, match="holds somebody's work"):
        builder.build(course, unit)
    assert student.read_bytes() == work


def test_a_changed_check_is_stale_though_no_cell_changes(course, pretended, monkeypatch):
    unit = UNITS[0]
    exercise = exercises_of(unit)[0]
    renamed = dataclasses.replace(exercise.stages[0], name="another property")
    monkeypatch.setattr(exercise, "stages", [renamed, *exercise.stages[1:]])
    monkeypatch.setattr(exercise, "known", {})
    assert [exercise.id in problem and "outdated checks" in problem for problem in builder.stale(course, unit)] == [True]
    before = nbformat.read(notebook_path(course / "solutions", unit), as_version=4)
    builder.build(course, unit)
    assert pretended == ["no experiments"]
    assert nbformat.read(notebook_path(course / "solutions", unit), as_version=4) == before  # here the check gave what it gave


def test_a_solution_with_a_cell_that_was_not_run_is_stale(course):
    path = notebook_path(course / "solutions", UNITS[0])
    notebook = nbformat.read(path, as_version=4)
    next(cell for cell in notebook.cells if cell.cell_type == "code").execution_count = None
    nbformat.write(notebook, path)
    [problem] = builder.stale(course, UNITS[0])
    assert "is not executed" in problem


def test_missing_files_are_stale(course):
    notebook_path(course / "notebooks", UNITS[0]).unlink()
    assert "is missing" in builder.stale(course, UNITS[0])[0]


def test_nbgrader_generate_assignment_makes_the_committed_notebook(tmp_path, monkeypatch):
    """Also with a gradebook, as the Formgrader does it."""
    unit = UNITS[0]
    monkeypatch.setenv(
        "PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    )  # nbgrader calls alembic
    config = course_config(ROOT)
    config.CourseDirectory.db_url = f"sqlite:///{tmp_path}/gradebook.db"
    config.CourseDirectory.release_directory = os.path.relpath(tmp_path / "release", ROOT)
    assert NbGraderAPI(config=config).generate_assignment(unit, create=True)["success"]
    assert notebook_path(tmp_path / "release", unit).read_bytes() == notebook_path(ROOT / "notebooks", unit).read_bytes()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('exercise="magnitude.prune"', 'exercise="magnitude.sparsity"', "each exercise once and in order"),
        ("### END SOLUTION", "# end", "must mark its solution"),
    ],
)
def test_a_broken_lesson_is_told_in_a_sentence(course, old, new, message):
    lesson = course / "course" / "02_magnitude" / "lesson.py"
    lesson.write_text(lesson.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        render(course, "02_magnitude")


def test_without_outputs_leaves_the_original():
    notebook = nbformat.read(notebook_path(ROOT / "solutions", UNITS[0]), as_version=4)
    outputs = sum(len(cell.get("outputs", [])) for cell in notebook.cells)
    assert outputs
    assert not any(cell.get("outputs") for cell in without_outputs(notebook).cells)
    assert sum(len(cell.get("outputs", [])) for cell in notebook.cells) == outputs


def test_outside_a_course_the_error_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no course"):
        course_root(tmp_path)


@pytest.mark.parametrize(
    ("code", "normal"),
    [
        ("a, b = (1, 2) if FAST else (3, 4)", "a, b = (3, 4)"),
        ("a = f(1 if not FAST else 2)", "a = f(1)"),
        ("if FAST:\n    a = 1\nelse:\n    a = 2", "a = 2"),
        ("if not FAST:\n    a = 1\nelse:\n    a = 2", "a = 1"),
        ("if FAST:\n    print('fast')\nb = 1", "b = 1"),
        ("print(f\"{'down' if FAST else 'up'}-projection of {name}\")", "print(f'up-projection of {name}')"),
        ("check.needs('magnitude.prune')\na = 1", "a = 1"),
        ("a = 1 if SLOW else 2", "a = 1 if SLOW else 2"),
        ("a = 1 if FAST or b else 2", "a = 1 if FAST or b else 2"),
    ],
)
def test_what_a_solution_did_does_not_depend_on_the_fast_setting(code, normal):
    assert builder._code(new_notebook(cells=[new_code_cell(code)])) == [normal]
