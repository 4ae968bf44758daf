"""The start page: the path, progress, and where to go on; links that JupyterLab can follow."""

import os
import re
import shutil
from pathlib import Path

import pytest

from autograder.checking.score import score_object
from autograder.exercises import UNITS, exercises_of, find, number_of
from autograder.learner import progress, start
from autograder.lessons.layout import course_root, notebook_path
from autograder.lessons.opening import opening

ROOT = course_root(Path(__file__).parent)


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSITY_EDU_PROGRESS", str(tmp_path / "kept"))
    return tmp_path / "kept"


@pytest.fixture
def course(tmp_path):
    """A course with copies of two units."""
    root = tmp_path / "course"
    for unit in UNITS[:2]:
        for folder in ("notebooks", "work"):
            (root / folder / unit).mkdir(parents=True)
            shutil.copy(notebook_path(ROOT / "notebooks", unit), root / folder / unit)
    return root


def solve(*ids):
    for id in ids:
        progress.record(score_object(find(id), find(id).reference))


def going_on(units=UNITS):
    exercise = start.open_exercise(list(units))
    return exercise and exercise.id


def test_a_row_for_each_unit_with_what_it_needs_and_how_far_it_is_done():
    solve("magnitude.schedule")
    rows = re.findall(r"^\| \[(.*?)\]\((.*?)\) \| (\d+) \| (.*?) \| (.*?) \| (.*?) \|$", start.page(ROOT, list(UNITS)), re.M)
    assert [row[1] for row in rows] == [f"{unit}/{unit.split('_', 1)[1]}.ipynb" for unit in UNITS]
    title, _, minutes, needs, solved, points = rows[1]
    assert title == opening(notebook_path(ROOT / "notebooks", UNITS[1]), UNITS[1]).title
    assert int(minutes) == sum(exercise.minutes for exercise in exercises_of(UNITS[1]))
    assert needs == "[01](01_patterns/patterns.ipynb)"
    assert solved == f"1/{len(exercises_of(UNITS[1]))}"
    assert points == f"{find('magnitude.schedule').points:g}/{sum(e.points for e in exercises_of(UNITS[1])):g}"


def test_a_solved_unit_is_marked():
    solve(*(exercise.id for exercise in exercises_of("02_magnitude")))
    assert start.page(ROOT, list(UNITS)).count("✓") == 1


def test_one_goes_on_where_one_was(kept):
    assert going_on() == exercises_of(UNITS[0])[0].id
    solve("magnitude.sparsity")
    assert going_on() == "magnitude.prune"  # the unit of the last check, though an earlier one is not solved
    solve("wanda.norm")
    os.utime(kept / "magnitude.sparsity.json", (2e9, 2e9))  # checked again, later
    assert going_on() == "magnitude.prune"
    solve(*(exercise.id for exercise in exercises_of("02_magnitude")))
    assert going_on() == "optimal_brain.curvature"  # the next unit
    assert going_on(UNITS[:2]) == exercises_of(UNITS[0])[0].id  # nothing is left behind it: from the beginning


def test_all_solved(monkeypatch):
    monkeypatch.setattr(progress, "best", lambda id: find(id).points)
    assert going_on() is None
    assert "You have solved every exercise." in start.page(ROOT, list(UNITS))


def test_the_link_leads_to_the_headings_of_the_exercise():
    """JupyterLab makes a heading's anchor of its text, with dashes for blanks."""
    first = exercises_of(UNITS[0])[0]
    text = start.page(ROOT, list(UNITS))
    [(title, target)] = re.findall(r"\*\*Begin here: \[(.*)\]\(<(.*)>\)\*\*", text)
    assert title == f"Exercise {number_of(first.id)}: {first.title}"
    notebook, anchor = target.split("#")
    assert f'"### {title}' in (ROOT / "notebooks" / notebook).read_text(encoding="utf-8")
    assert anchor == title.replace(" ", "-")
    solve(first.id)
    assert "**Go on where you were: [" in start.page(ROOT, list(UNITS))


def test_titles_of_exercises_need_no_escape_in_links():
    assert [e.id for unit in UNITS for e in exercises_of(unit) if set(e.title) & set("`<>|$[]#")] == []


def test_the_page_is_written_anew_but_nobodys_own_file(course):
    path = course / "work" / "start.md"
    start.write_start(course)
    before = path.read_text(encoding="utf-8")
    assert set(re.findall(r"\]\((\d\d_\w+)/", before)) == set(UNITS[:2])  # only what there are copies of
    solve("magnitude.sparsity")
    start.write_start(course)
    assert path.read_text(encoding="utf-8") != before
    path.write_text("My notes.")
    start.write_start(course)
    assert path.read_text() == "My notes."


def test_the_site_is_linked_where_it_was_built(course):
    assert "site" not in start.page(course, list(UNITS[:2]))
    (course / "site").mkdir()
    (course / "site" / "index.html").touch()
    assert "(/static/index.html)" in start.page(course, list(UNITS[:2]))


@pytest.mark.parametrize("text", ["{", "[]", '{"cells": []}', '{"cells": [{"source": 1}]}'])
def test_a_damaged_release_still_has_a_row(course, text):
    notebook_path(course / "notebooks", UNITS[0]).write_text(text)
    start.write_start(course)
    assert f"| [{UNITS[0]}](" in (course / "work" / "start.md").read_text(encoding="utf-8")


def test_without_copies_nothing_is_written(tmp_path):
    start.write_start(tmp_path)
    assert list(tmp_path.iterdir()) == []
