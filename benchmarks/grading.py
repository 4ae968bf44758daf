"""What isolation costs: stock nbgrader against ours, on the same honest submissions, in one run.

    python benchmarks/grading.py [--students 20]

All of them run the same rebuilt notebooks (solutions of unit 02, experiments skipped). Stock is nbgrader's own `Execute`, in
which student code and checks share a process. Ours runs it in the sandbox and judges outside; `stored` writes the gradebook
again from stored verdicts.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
from nbgrader.apps import NbGraderAPI
from rich import box
from rich.console import Console
from rich.table import Column, Table
from tqdm.auto import tqdm

from autograder.classroom.demo import course_config, submissions
from autograder.classroom.grade import ClassRun
from autograder.lessons.source import course_root, notebook_path

UNIT = "02_magnitude"
ROOT = course_root(Path(__file__).parent)


def main(count: int) -> None:
    """Measure and print."""
    perfect = submissions(ROOT)["perfect"]
    with tempfile.TemporaryDirectory() as scratch:
        stock = course(Path(scratch) / "stock", perfect, count)
        one, two = (course(Path(scratch) / name, perfect, count) for name in ("one", "two"))
        rows = [("stock nbgrader", timed(lambda: autograde_stock(stock, count)))]
        rows += [("ours, 1 worker", timed(lambda: grade(one, 1))), ("ours, 2 workers", timed(lambda: grade(two, 2)))]
        shutil.rmtree(one / "grading" / "autograded")
        (one / "grading" / "gradebook.db").unlink()
        rows.append(("ours, stored verdicts", timed(lambda: grade(one, 1))))
    seconds = dict(rows)
    table = Table(
        "", Column("seconds per submission", justify="right"), Column("against stock", justify="right"), box=box.SIMPLE_HEAD
    )
    for name, value in rows:
        table.add_row(name, f"{value / count:.2f}", f"{value / rows[0][1]:.2f}")
    console = Console()
    console.print(f"{count} honest submissions to {UNIT}, {os.cpu_count()} cores")
    console.print(table)
    console.print(f"2 workers against 1: {seconds['ours, 1 worker'] / seconds['ours, 2 workers']:.2f} times")
    console.print(f"stored against judged: {seconds['ours, 1 worker'] / seconds['ours, stored verdicts']:.1f} times")


def course(root: Path, notebook: nbformat.NotebookNode, count: int) -> Path:
    """A course with a class that has handed in the same right answers."""
    root.mkdir()
    for name in ("course", "solutions"):
        shutil.copytree(ROOT / name, root / name)
    shutil.copy(ROOT / "nbgrader_config.py", root)
    for i in range(count):
        path = notebook_path(root / "grading" / "submitted" / f"student-{i:02}", UNIT)
        path.parent.mkdir(parents=True)
        nbformat.write(notebook, path)
    ClassRun(root, UNIT, course_config(root)).prepare()
    return root


def autograde_stock(root: Path, count: int) -> None:
    """Grade as nbgrader does by itself."""
    config = course_config(root)
    config.Autograde.autograde_preprocessors = [
        "nbgrader.preprocessors.Execute",
        "nbgrader.preprocessors.LimitOutput",
        "nbgrader.preprocessors.SaveAutoGrades",
        "nbgrader.preprocessors.AssignLatePenalties",
        "nbgrader.preprocessors.CheckCellMetadata",
    ]
    api = NbGraderAPI(config=config)
    for i in tqdm(range(count), desc="stock", unit="student"):
        outcome = api.autograde(UNIT, f"student-{i:02}", force=True, create=True)
        assert outcome["success"], outcome["log"]
    _all_right(root, count)


def grade(root: Path, jobs: int) -> None:
    """Grade as `autograder grade` does, but for the feedback pages."""
    run = ClassRun(root, UNIT, course_config(root))
    run.prepare()
    students = [record.student for record in run.take_in()]
    for _, error in tqdm(run.judge_all(students, jobs), desc=f"{jobs} worker(s)", total=len(students), unit="student"):
        assert not error, error
    for student in students:
        assert not (error := run.autograde(student)), error
    _all_right(root, len(students))


def _all_right(root: Path, count: int) -> None:
    from autograder.classroom.results import results

    class_ = results(root, UNIT, course_config(root).CourseDirectory.db_url)
    assert len(class_) == count
    assert all(result.points == result.max_points for result in class_)


def timed(work: Callable[[], None]) -> float:
    """Seconds that it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", type=int, default=20, help="size of the class (default: %(default)s)")
    main(parser.parse_args().students)
