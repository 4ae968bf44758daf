"""All submissions of the suite in one class, graded through the real nbgrader: each gets what it earned, nobody else notices.

They are declared in honest.py, accidents.py, slips.py, dishonest.py, measures.py, reaching.py and hostile.py; what is about
Triton kernels is in test_forged_kernels.py. Left out is F.scaled_dot_product_attention where an exercise forbids it.
"""

import csv
import html
import os
import re
import shutil
import socket
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from html.parser import HTMLParser
from itertools import chain
from pathlib import Path

import psutil
import pytest
import torch
from nbgrader.api import Gradebook

from autograder.classroom import export
from autograder.classroom.demo import course_config
from autograder.classroom.grade import ClassRun
from autograder.classroom.results import Result, results
from autograder.exercises import exercises_of
from autograder.judge.judge import Job, code_of, hashes_of
from autograder.judge.seeds import seed_of_answer
from autograder.lessons.layout import notebook_path
from autograder.sandbox.bubblewrap import GB, Limits
from tests.courses import make_course

from . import (  # noqa: F401 - they declare what is in the registry
    accidents,
    dishonest,
    honest,
    hostile,
    measures,
    reaching,
    slips,
)
from .papers import REGISTRY, UNIT, Paper, Submission

AGAIN = "handed-in-again-after-manual-grading"
HONEST = [submission for submission in REGISTRY if submission.name.startswith("honest")]
HANGS = {submission.student for submission in REGISTRY if submission.hangs}
# so that nobody waits long for what never ends
HANGING = Limits(memory=2 * GB, cell=6, patience=3, exercise=12, submission=60)
SECRET, CANARY = "5ec2e7" * 10 + "5ec2", "canary-in-the-environment"
TURNING = re.compile(r"[\x1b\x9b\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")  # terminals and directions of text


@dataclass(frozen=True)
class Class:
    """A graded class, and what is needed to see what it left behind."""

    run: ClassRun
    results: dict[str, Result]
    errors: list[str]
    before: dict[Path, bytes]
    visitors: list[str]  # who came to the services of this machine
    token: str

    def page(self, student: str) -> str:
        """A student's feedback."""
        return notebook_path(self.run.course.feedback / student, UNIT).with_suffix(".html").read_text(encoding="utf-8")

    def report(self, student: str) -> str:
        """All that is told of a submission."""
        result = self.results[student]
        return "\n".join([*result.notes, *result.flags, *(exercise.text for exercise in result.exercises)])


@pytest.fixture(scope="session")
def class_(sandbox, tmp_path_factory) -> Iterator[Class]:
    """The class, graded; one student hands in again after a person has graded by hand."""
    root, token = tmp_path_factory.mktemp("attacks") / "course", f"attack-suite-{os.getpid()}"
    with pytest.MonkeyPatch.context() as patch, _services(root.parent / "socket", token) as (port, visitors):
        patch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))  # nbgrader calls alembic
        patch.setenv("AUTOGRADER_CANARY", CANARY)
        run = _course(root)
        words = {"ROOT": str(root), "PORT": str(port), "TOKEN": token}
        for submission in REGISTRY:
            _write(root, submission, words)
        before = _contents(root)
        errors = _grade(run)
        _grade_by_hand(run, AGAIN, "magnitude-global-check", 1)
        _hand_in_again(root, words)
        errors += _grade(run)
        class_ = results(root, UNIT, run.config.CourseDirectory.db_url)
        yield Class(run, {result.student: result for result in class_}, errors, before, visitors, token)


@pytest.fixture(scope="session")
def alone(class_, tmp_path_factory) -> Class:
    """The honest students again, in a class of their own, with the same secret: whatever differs, the others have caused."""
    root = tmp_path_factory.mktemp("alone") / "course"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
        run = _course(root)
        for submission in HONEST:
            _write(root, submission, {})
        errors = _grade(run)
        graded = results(root, UNIT, run.config.CourseDirectory.db_url)
        return Class(run, {result.student: result for result in graded}, errors, {}, [], "")


def _course(root: Path) -> ClassRun:
    """A course whose submissions get the usual time, and less memory."""
    make_course(root)
    (root / "grading" / "secret").touch(mode=0o600)
    (root / "grading" / "secret").write_text(SECRET)
    config = course_config(root)
    config.Judge.memory = 2.0
    return ClassRun(root, UNIT, config)


def _write(root: Path, submission: Submission, words: dict[str, str]) -> None:
    paper = Paper(root, submission.folder, words)
    submission.write(paper)
    paper.save()


def _grade(run: ClassRun) -> list[str]:
    run.prepare()
    students = [record.student for record in run.take_in()]
    questions = run.open_questions(students)
    questions |= {student: replace(job, limits=HANGING) for student, job in questions.items() if student in HANGS}
    known = [(student, "") for student in students if student not in questions]
    same = _of_the_same_program(questions)
    errors = []
    for student, error in chain(known, run.judge_all({first: questions[first] for first in same}, jobs=2)):
        for twin in same.get(student, [])[1:]:
            run.store.put(questions[twin], run.store.get(questions[student]))
        for graded in same.get(student, [student]):  # while others are judged
            outcomes = error, run.autograde(graded), run.feedback(graded)
            errors += [f"{graded}: {outcome}" for outcome in outcomes if outcome]
    return errors


def _of_the_same_program(questions: dict[str, Job]) -> dict[str, list[str]]:
    """Students whose notebooks are mended into the same program: it is judged once, for the first of them."""
    students = defaultdict(list)
    for student, job in questions.items():
        students[str((code_of(job.notebook), hashes_of(job.files), job.limits))].append(student)
    return {same[0]: same for same in students.values()}


def _grade_by_hand(run: ClassRun, student: str, cell: str, points: float) -> None:
    """What the Formgrader does when a person enters a score."""
    with Gradebook(run.config.CourseDirectory.db_url) as gradebook:
        grade = gradebook.find_grade(cell, notebook_path(Path(), UNIT).stem, UNIT, student)
        grade.manual_score, grade.needs_manual_grade = points, False
        gradebook.db.commit()


def _hand_in_again(root: Path, words: dict[str, str]) -> None:
    paper = Paper(root, AGAIN, words)
    shutil.rmtree(paper.folder)
    paper.file("note.txt", "the second version")
    paper.save()


def _contents(root: Path) -> dict[Path, bytes]:
    """What no submission may change: the course, its secret, and what honest students have handed in."""
    folders = [root / "course", root / "solutions", root / "notebooks", *(root / "grading" / "submitted").glob("honest*")]
    files = [root / "nbgrader_config.py", root / "grading" / "secret"]
    files += [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in files}


class _services:
    """Three services of this machine, which write down who comes."""

    def __init__(self, path: Path, token: str) -> None:
        self.path, self.token = path, token

    def __enter__(self) -> tuple[int, list[str]]:
        self.sockets, visitors = [socket.create_server(("127.0.0.1", 0))], []
        for name in (str(self.path), f"\0{self.token}"):
            self.sockets.append(socket.socket(socket.AF_UNIX))
            self.sockets[-1].bind(name)
            self.sockets[-1].listen()
        for server in self.sockets:
            threading.Thread(target=self._listen, args=(server, visitors), daemon=True).start()
        return self.sockets[0].getsockname()[1], visitors

    def __exit__(self, *_) -> None:
        for server in self.sockets:
            server.close()

    def _listen(self, server: socket.socket, visitors: list[str]) -> None:
        try:
            visitors.append(str(server.accept()))
        except OSError:  # closed
            return


each = pytest.mark.parametrize("submission", REGISTRY, ids=lambda submission: submission.name)


@each
def test_points(class_, submission):
    with Gradebook(class_.run.config.CourseDirectory.db_url) as gradebook:
        row = gradebook.find_submission(UNIT, submission.student)
        assert row.score == submission.points, class_.report(submission.student)
        assert (row.max_score, row.late_submission_penalty or 0) == (20, 0)
    assert class_.results[submission.student].points == submission.points


@each
def test_people_are_told(class_, submission):
    told = class_.report(submission.student) + html.unescape(class_.page(submission.student))
    assert [text for text in submission.says if text not in told] == []


@each
def test_feedback_is_only_read(class_, submission):
    page = _Page()
    page.feed(class_.page(submission.student))
    assert [part for part in page.alive if "pwned" in part] == []
    assert TURNING.findall(class_.page(submission.student)) == []


@each
def test_feedback_holds_nothing_hidden(class_, submission):
    seen = class_.page(submission.student) + class_.report(submission.student)
    job = class_.run.job(submission.student)
    seeds = {exercise.id: seed_of_answer(job.seed, *job.answer(exercise.id)) for exercise in exercises_of(UNIT)}
    hidden = {text for exercise in exercises_of(UNIT) for stage in exercise.stages
              for case in exercise.cases(stage, seeds[exercise.id]) for text in _numbers(case)}  # fmt: skip
    assert len(hidden) > 1000
    assert hidden & {number[:9] for number in re.findall(r"\d+\.\d+", seen)} == set()
    assert [text for text in (SECRET, CANARY, job.seed, *seeds.values()) if text in seen] == []


class _Page(HTMLParser):
    """Collects the parts of a page that a browser obeys: tags with their attributes, scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: list[str] = []
        self.open = ""

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.alive.append(f"{tag} {attrs}")
        self.open = tag

    def handle_endtag(self, tag: str) -> None:
        self.open = ""

    def handle_data(self, data: str) -> None:
        if self.open in ("script", "style"):
            self.alive.append(data)

    def handle_comment(self, data: str) -> None:
        self.alive.append(data)


def _numbers(value) -> Iterator[str]:
    """The first digits of each uneven number in a case, as any way of printing it with all digits would begin."""
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        for number in value.double().abs().flatten().tolist():
            if number > 1e-3 and len(repr(number)) > 12:
                yield repr(number)[:9]
    elif is_dataclass(value):
        yield from _numbers([getattr(value, field.name) for field in fields(value)])
    elif isinstance(value, list | tuple | dict):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _numbers(entry)


def test_everybody_has_a_row_and_nobody_else(class_):
    assert class_.errors == []
    assert set(class_.results) == {submission.student for submission in REGISTRY}
    shown = class_.run.api.get_submissions(UNIT)  # the Formgrader's page
    assert {row["student"] for row in shown} == set(class_.results)


def test_nobody_pays_for_the_others(class_, alone):
    assert len(class_.results) > 40
    assert alone.errors == []
    assert len(alone.results) == len(HONEST) >= 8
    for student, result in alone.results.items():
        assert class_.results[student] == result


def test_nothing_outside_was_changed(class_):
    assert [path for path, content in class_.before.items() if path.read_bytes() != content] == []
    root = class_.run.course.root
    assert {path.name for path in root.iterdir()} == {"course", "solutions", "notebooks", "grading", "nbgrader_config.py"}
    assert {path.name for path in root.parent.iterdir()} == {"course", "socket"}


def test_nothing_outside_was_reached(class_):
    assert class_.visitors == []


def test_no_process_stays(class_):
    running = {process.pid: " ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])}
    assert [line for line in running.values() if class_.token in line] == []
    assert [child for child in psutil.Process().children(recursive=True) if child.name() == "bwrap"] == []


def test_a_manual_score_is_kept_and_flagged(class_):
    by_hand = {exercise.id: exercise for exercise in class_.results[AGAIN].exercises}["magnitude.global"]
    assert (by_hand.points, by_hand.auto_points, by_hand.manual) == (1, 3, True)
    rows = {row["student"]: row for row in export.submission_rows(UNIT, class_.results.values())}
    assert {student for student, row in rows.items() if row["manual"]} == {AGAIN}


def test_a_spreadsheet_calculates_nothing(class_, tmp_path):
    for rows, columns in ((export.submission_rows, export.SUBMISSIONS), (export.exercise_rows, export.EXERCISES)):
        export.write_csv(tmp_path / "grades.csv", columns, rows(UNIT, class_.results.values()))
        with open(tmp_path / "grades.csv", newline="", encoding="utf-8-sig") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))] == []
