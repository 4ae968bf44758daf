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
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import dask
import nbformat
from distributed import LocalCluster
from nbgrader.apps import NbGraderAPI
from rich import box
from rich.console import Console
from rich.table import Column, Table
from tqdm.auto import tqdm

from autograder.classroom.demo import course_config, submissions
from autograder.classroom.grade import LOCAL, SETTINGS, ClassRun
from autograder.classroom.results import results
from autograder.classroom.workers import prepare_workers
from autograder.lessons.layout import course_root, notebook_path

UNIT = "02_magnitude"
ROOT = course_root(Path(__file__).parent)
PART = 10  # students in a turn


def main(count: int) -> None:
    """Measure and print."""
    perfect = submissions(ROOT)["perfect"]
    students = [f"student-{i:02}" for i in range(count)]
    seconds: dict[str, float] = defaultdict(float)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stock, one, two = (course(scratch / name, perfect, students) for name in ("stock", "one", "two"))
        with timed(seconds, "start of workers"):
            stack.enter_context(dask.config.set(SETTINGS))
            prepare_workers()
            workers = {jobs: stack.enter_context(LocalCluster(n_workers=jobs, **LOCAL)).scheduler_address for jobs in (1, 2)}
        # in turns, because a machine that others use is not equally fast for minutes
        for part in tqdm([students[i : i + PART] for i in range(0, count, PART)], unit=f"{PART} students"):
            with timed(seconds, "stock nbgrader"):
                autograde_stock(stock, part)
            with timed(seconds, "ours, 1 worker"):
                grade(one, part, workers[1])
            with timed(seconds, "ours, 2 workers"):
                grade(two, part, workers[2])
            shutil.rmtree(one / "grading" / "autograded")
            with timed(seconds, "ours, stored verdicts"):
                grade(one, part, workers[1])
    start = seconds.pop("start of workers")
    right = [Column(name, justify="right") for name in ("seconds per submission", "against stock")]
    table = Table("", *right, box=box.SIMPLE_HEAD)
    for name, value in seconds.items():
        table.add_row(name, f"{value / count:.2f}", f"{value / seconds['stock nbgrader']:.2f}")
    console = Console()
    console.print(f"{count} honest submissions to {UNIT}, {os.cpu_count()} cores")
    console.print(table)
    console.print(f"2 workers against 1: {seconds['ours, 1 worker'] / seconds['ours, 2 workers']:.2f} times")
    console.print(f"stored against judged: {seconds['ours, 1 worker'] / seconds['ours, stored verdicts']:.1f} times")
    console.print(f"not counted: the start of 3 workers, which is once for a class: {start:.1f} seconds")


def course(root: Path, notebook: nbformat.NotebookNode, students: list[str]) -> Path:
    """A course with a class that has handed in the same right answers."""
    root.mkdir()
    for name in ("course", "solutions"):
        shutil.copytree(ROOT / name, root / name)
    shutil.copy(ROOT / "nbgrader_config.py", root)
    for student in students:
        path = notebook_path(root / "grading" / "submitted" / student, UNIT)
        path.parent.mkdir(parents=True)
        nbformat.write(notebook, path)
    run = ClassRun(root, UNIT, course_config(root))
    run.prepare()
    run.take_in()
    return root


def autograde_stock(root: Path, students: list[str]) -> None:
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
    for student in students:
        outcome = api.autograde(UNIT, student, force=True, create=True)
        assert outcome["success"], outcome["log"]
    _all_right(root, students)


def grade(root: Path, students: list[str], scheduler: str) -> None:
    """Grade as `autograder grade` does, but for the feedback pages."""
    run = ClassRun(root, UNIT, course_config(root))
    for _, error in run.judge_all(run.open_questions(students), 0, scheduler):
        assert not error, error
    for student in students:
        assert not (error := run.autograde(student)), error
    _all_right(root, students)


def _all_right(root: Path, students: list[str]) -> None:
    class_ = {result.student: result for result in results(root, UNIT, course_config(root).CourseDirectory.db_url)}
    assert all(class_[student].points == class_[student].max_points for student in students)


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add the seconds that it takes."""
    start = time.perf_counter()
    yield
    seconds[name] += time.perf_counter() - start


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", type=int, default=20, help="size of the class (default: %(default)s)")
    main(parser.parse_args().students)
