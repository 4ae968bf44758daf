"""A class at once: intake, judging side by side, then nbgrader's own autograde and feedback."""

import contextlib
import json
import logging
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import nbformat
from nbgrader.api import Gradebook, MissingEntry
from nbgrader.apps import NbGraderAPI
from nbgrader.coursedir import CourseDirectory
from sqlalchemy.exc import SAWarning
from traitlets.config import Config

from autograder.classroom.results import GradebookError, database_said, gradebook_at
from autograder.intake.desk import Intake, notes
from autograder.intake.rebuild import rebuild, released_notebook
from autograder.judge.course import Course
from autograder.judge.gate import admit, enter
from autograder.judge.judge import Job, Judgement, judge
from autograder.judge.preprocess import Judge, state_of
from autograder.judge.scratch import remove_leftovers, temporary_directory
from autograder.judge.store import Store, fingerprint
from autograder.judge.terms import Terms
from autograder.lessons.layout import notebook_path
from autograder.sandbox.bubblewrap import require

SETTINGS = {
    "distributed.worker.multiprocessing-method": "forkserver",
    "distributed.worker.memory.terminate": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.profile.enabled": False,  # it looks at a worker a hundred times a second
    "distributed.admin.large-graph-warning-threshold": "1TB",
    "distributed.scheduler.http.routes": [],  # no pages about the class, on any port
    "distributed.worker.http.routes": [],
}
# A scheduler runs what it is sent as whoever started it: with `security` only for who has the certificates of this run.
LOCAL = {
    "threads_per_worker": 1,
    "memory_limit": 0,
    "dashboard_address": None,
    "security": True,
    "silence_logs": logging.CRITICAL,
}


@contextlib.contextmanager
def hears_ctrl_c() -> Iterator[None]:
    """Raise KeyboardInterrupt at the end where Ctrl-C came in between: nbgrader's API catches whatever is raised in it."""
    pressed = []

    def press(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, press)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


class ClassRun:
    """One run over the submissions to a unit.

    Each step can be interrupted and called again: what was done before is found and not done twice.
    """

    def __init__(self, root: Path, unit: str, config: Config) -> None:
        self.unit, self.config = unit, config
        self.course = Course(CourseDirectory(config=config))
        self.judge = Judge(config=config)
        self.store = self.judge.store(self.course)
        written = Config(config)
        written.Judge.retry = False  # nbgrader writes down what was found; `judge_all` has judged again what it should
        self.api = NbGraderAPI(config=written)
        self.api.log.setLevel(logging.ERROR)
        warnings.simplefilter("ignore", SAWarning)  # nbgrader's own database layer warns of itself, for each submission
        (self.course.grading / "log").mkdir(parents=True, exist_ok=True)
        self.refused: dict[str, str] = {}  # submissions that cannot be taken in, and why
        self._log = self.course.grading / "log" / f"{unit}.jsonl"

    def log(self, event: str, **about) -> None:
        """Add a line to grading/log/UNIT.jsonl."""
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": event, **about}
        with open(self._log, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _gradebook(self) -> contextlib.AbstractContextManager[Gradebook]:
        return gradebook_at(self.config.CourseDirectory.db_url, self.config.CourseDirectory.course_id)

    def prepare(self) -> None:
        """See that there is a sandbox, and that the gradebook knows the unit; remove what a killed run has left.

        Raises:
            SandboxError: there is none.
            ValueError: the class has terms (grading/class.toml) that cannot be read.
            GradebookError: the gradebook cannot be used.
            RuntimeError: nbgrader could not register the unit.
        """
        Terms.read(self.course.grading)
        remove_leftovers()
        if self.judge.sandbox:
            require()
        if not self._is_registered():
            self._register()
        with self._gradebook() as gradebook:
            for student in self.refused:
                enter(gradebook, self.unit, student)

    def _register(self) -> None:
        config = Config(self.config)
        config.CourseDirectory.release_directory = str(Path(self.config.CourseDirectory.submitted_directory).parent / "release")
        made = NbGraderAPI(config=config).generate_assignment(self.unit, force=True, create=True)
        if not made["success"]:
            _error_of(made)
            raise RuntimeError(f"nbgrader could not register {self.unit}:\n{made['log']}")

    def _is_registered(self) -> bool:
        """Whether the gradebook knows all cells: nbgrader writes them one by one, and may have been killed in between."""
        source = notebook_path(self.course.source, self.unit)
        cells = nbformat.read(source, as_version=4).cells
        with contextlib.suppress(MissingEntry), self._gradebook() as gradebook:
            known = gradebook.find_notebook(source.stem, self.unit)
            graded = bool(known.submissions)  # then it was whole once, and nbgrader refuses to change it
            return graded or {cell.metadata.nbgrader.grade_id for cell in cells if "nbgrader" in cell.metadata} <= {
                cell.name for cell in known.source_cells
            }
        return False

    def take_in(self) -> list[Intake]:
        """Make the submissions safe to read; one record each, in the order of the students' ids.

        Those that cannot be made so are in `refused` instead, with the reason.
        """
        taken = sorted(admit(self.course, self.unit), key=lambda record: record.student)
        for record in taken:
            if record.notes:
                self.log("intake", student=record.student, notes=record.notes)
        self.refused = {record.student: "; ".join(record.notes) for record in taken if not record.ready}
        return [record for record in taken if record.ready]

    def job(self, student: str) -> Job:
        """What there is to judge of a student's submission."""
        submitted = nbformat.read(notebook_path(self.course.submitted / student, self.unit), as_version=4)
        released = released_notebook(notebook_path(self.course.source, self.unit))
        return self.judge.job(self.course, student, self.unit, rebuild(submitted, released)[0])

    def open_questions(self, students: list[str]) -> dict[str, Job]:
        """What has no stored verdict yet, by student."""
        questions = {student: self.store.open_questions(self.job(student)) for student in students}
        return {student: job for student, job in questions.items() if job is not None}

    def judge_all(self, questions: dict[str, Job], jobs: int, scheduler: str | None = None) -> Iterator[tuple[str, str]]:
        """Judge submissions on several workers at once, and keep the verdicts.

        Args:
            questions: from `open_questions`.
            jobs: local workers; ignored with a scheduler.
            scheduler: address of a dask.distributed scheduler whose workers have this project installed.

        Yields:
            (student, "" or what went wrong) as submissions are done.
        """
        if not questions:
            return
        import dask
        from distributed import Client, LocalCluster, as_completed

        from autograder.classroom.workers import OwnProcessors, prepare_workers

        with contextlib.ExitStack() as stack:
            stack.enter_context(temporary_directory())
            stack.enter_context(dask.config.set(SETTINGS))
            if scheduler is None:
                # a terminal sends Ctrl-C to all its processes; workers inherit that it is ignored and leave it to this one
                before = signal.signal(signal.SIGINT, signal.SIG_IGN)
                try:
                    prepare_workers()
                    jobs = min(jobs, len(questions))
                    scheduler = stack.enter_context(LocalCluster(n_workers=jobs, **LOCAL))
                finally:
                    signal.signal(signal.SIGINT, before)
                stack.enter_context(Client(scheduler)).register_plugin(OwnProcessors(jobs))
            client = stack.enter_context(Client(scheduler))
            futures = {client.submit(judge, job, pure=False, retries=1): student for student, job in questions.items()}
            try:
                for future in as_completed(futures):
                    student = futures[future]
                    error = "" if future.status == "finished" else str(future.exception())
                    if not error:
                        judgement: Judgement = future.result()
                        self.store.put(questions[student], judgement)
                        about = {"seconds": round(judgement.seconds, 2), "incidents": judgement.incidents}
                        self.log("judged", student=student, **about)
                    else:
                        self.log("failed", student=student, error=error)
                    future.release()
                    yield student, error
            except KeyboardInterrupt:
                print("Stopping ...", file=sys.stderr)
                raise

    def autograde(self, student: str) -> str:
        """Have nbgrader write a student's row, from stored verdicts; "" or what went wrong."""
        if self._is_up_to_date(student):
            return ""
        with hears_ctrl_c():
            outcome = self.api.autograde(self.unit, student, force=True, create=True)
        error = _error_of(outcome)
        self.log("autograded", student=student, error=error)
        return error

    def _is_up_to_date(self, student: str) -> bool:
        """Whether the gradebook has this very judgement: nbgrader writes the notebook last, after the database."""
        try:
            notebook = nbformat.read(notebook_path(self.course.autograded / student, self.unit), as_version=4)
            with self._gradebook() as gradebook:
                gradebook.find_submission(self.unit, student)
                state = state_of(gradebook, self.course, student, self.unit)
        except (OSError, ValueError, MissingEntry):
            return False
        job, told = self.job(student), [*notes(self.course.grading, self.unit, student)[0], *state]
        judgement = Store(self.store.folder).get(job)
        return judgement is not None and notebook.metadata.get("autograder", {}).get("key") == fingerprint(job, judgement, told)

    def feedback(self, student: str) -> str:
        """Have nbgrader write a student's feedback page, if it is not newer than the notebook; "" or what went wrong."""
        page = notebook_path(self.course.feedback / student, self.unit).with_suffix(".html")
        notebook = notebook_path(self.course.autograded / student, self.unit)
        if page.exists() and notebook.exists() and page.stat().st_mtime >= notebook.stat().st_mtime:
            return ""
        with hears_ctrl_c():
            outcome = self.api.generate_feedback(self.unit, student, force=True)
        return _error_of(outcome)


def _error_of(outcome: dict) -> str:
    """What went wrong in a call of nbgrader's API, in a line; "" if nothing did."""
    if outcome["success"]:
        return ""
    said = f"{outcome['log']}\n{outcome.get('error') or ''}"
    if reason := database_said(said):  # the next student would fail in the same way
        raise GradebookError(reason)
    return said.strip().split("\n")[-1]
