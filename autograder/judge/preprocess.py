"""The judge as nbgrader sees it: a preprocessor in the place of `Execute`.

`nbgrader autograde`, its Python API and the Formgrader's button all come through here, and so give the same scores.
"""

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell
from nbgrader.api import Gradebook
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import NbGraderPreprocessor
from traitlets import Bool, Float, Integer

from autograder.exercises import exercises_of
from autograder.inside.wire import printable
from autograder.intake.desk import notes
from autograder.judge.course import Course
from autograder.judge.gate import timestamp
from autograder.judge.judge import Job, Judgement, check_outputs, judge
from autograder.judge.seeds import secret_of, seed_for
from autograder.judge.store import Store, fingerprint
from autograder.judge.terms import Terms
from autograder.judge.worth import verdict_of, worth
from autograder.sandbox.bubblewrap import GB, Limits

UNSANDBOXED = "Graded WITHOUT a sandbox: student code could read the answers and change its own verdict."


class Judge(NbGraderPreprocessor):
    """Writes the judgement of a submission into its notebook; judges it now if no verdict is stored."""

    sandbox = Bool(True, help="Whether student code runs in a sandbox; without one, grade only code that you trust.").tag(
        config=True
    )
    retry = Bool(False, help="Judge again what was cut short by a limit.").tag(config=True)
    memory = Float(Limits.memory / GB, help="GB of memory of all processes of a submission together.").tag(config=True)
    processes = Integer(Limits.processes, help="Processes of a submission at once.").tag(config=True)
    cell_seconds = Float(Limits.cell, help="Seconds that one cell may take.").tag(config=True)
    exercise_seconds = Float(Limits.exercise, help="Seconds that all cases of one exercise may take.").tag(config=True)
    submission_seconds = Float(Limits.submission, help="Seconds that a submission may take in all.").tag(config=True)

    def preprocess(self, nb: NotebookNode, resources: dict) -> tuple[NotebookNode, dict]:
        """Judge a rebuilt submission; nbgrader calls this with its notebook."""
        names = resources["nbgrader"]
        course = Course(CourseDirectory(parent=self))
        job = self.job(course, names["student"], names["assignment"], nb)
        store = self.store(course)
        if (judgement := store.get(job)) is None:
            questions = store.open_questions(job)
            store.put(questions, judge(questions))
            judgement = Store(store.folder).get(job)
        told, graded = notes(course.grading, names["assignment"], names["student"])
        with Gradebook(names["db_url"]) as gradebook:
            state = state_of(gradebook, course, names["student"], names["assignment"])
        return write(nb, job, judgement, told, graded, state), resources

    @property
    def limits(self) -> Limits:
        """What a submission may use."""
        return Limits(
            memory=int(self.memory * GB),
            processes=self.processes,
            cell=self.cell_seconds,
            exercise=self.exercise_seconds,
            submission=self.submission_seconds,
        )

    def store(self, course: Course) -> Store:
        """Where verdicts are kept."""
        return Store(course.grading / "verdicts", self.retry)

    def job(self, course: Course, student: str, unit: str, notebook: NotebookNode, known_as: str = "") -> Job:
        """What there is to judge of a submission.

        Args:
            course: the course.
            student: the student's id.
            unit: the unit.
            notebook: the submission, rebuilt on the release.
            known_as: who the hidden inputs are for, if not the student's id.

        Returns:
            The job.
        """
        return Job(
            unit=unit,
            notebook=nbformat.writes(bare(notebook)),
            files=course.files(student, unit),
            seed=seed_for(known_as or student, unit, secret_of(course.grading)),
            exercises=tuple(exercise.id for exercise in exercises_of(unit)),
            solutions=course.solutions(unit),
            limits=self.limits,
            sandboxed=self.sandbox,
            hide=(str(course.root),),
        )


def state_of(gradebook: Gradebook, course: Course, student: str, unit: str) -> list[str]:
    """What else a row of the gradebook depends on: the terms of the class, when it was handed in, late days used before."""
    terms = Terms.read(course.grading)
    points = {exercise.id: terms.points_of(exercise) for exercise in exercises_of(unit)}
    late = (terms.due.get(unit), terms.extensions.get(unit, {}).get(student), terms.free_days, terms.lost_per_day)
    handed_in = timestamp(course.submitted / student / unit / "timestamp.txt")
    return [str(part) for part in (points, *late, handed_in, terms.late_days(gradebook, student, unit))]


def bare(notebook: NotebookNode) -> NotebookNode:
    """The cells of a notebook that run, as code, id and tags."""
    cells = [
        nbformat.v4.new_code_cell(cell.source, id=cell.id, metadata={"tags": cell.metadata.get("tags", [])})
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]
    return nbformat.v4.new_notebook(cells=cells)


def write(
    notebook: NotebookNode, job: Job, judgement: Judgement, told: list[str], graded: bool = True, state: list[str] | None = None
) -> NotebookNode:
    """Put a judgement into a submission's notebook, in place.

    Args:
        notebook: the rebuilt submission.
        job: what was judged.
        judgement: what was found.
        told: sentences of the intake.
        graded: False if the released notebook stands in for a submission that could not be read.
        state: from `state_of`.

    Returns:
        The notebook: outputs, verdicts, a note at the top, and in its metadata what reports read.
    """
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = printable(cell.source, len(cell.source))  # letters that turn text around would show other code
            outputs = judgement.outputs.get(cell.id, [])
            if cell.metadata.get("nbgrader", {}).get("grade") and outputs:
                outputs = _weighed(outputs, float(cell.metadata.nbgrader.points))
            cell.outputs = [nbformat.from_dict(output) for output in outputs]
            cell.execution_count = None
    sentences = [*([] if job.sandboxed else [UNSANDBOXED]), *told, *judgement.incidents]
    if sentences:
        listed = "\n".join(f"- {sentence.replace('`', chr(39))}" for sentence in sentences)
        note = f"**Noted while grading:**\n\n```text\n{listed}\n```"  # as code: names of files may look like markup
        notebook.cells.insert(0, new_markdown_cell(note, id="noted"))
    notebook.metadata["autograder"] = {
        "key": fingerprint(job, judgement, [*told, *(state or [])]),
        "sandboxed": job.sandboxed,
        "graded": graded,
        "notes": [*sentences, *notebook.metadata.get("repairs", [])],
        "flags": {id: verdict["flags"] for id, verdict in judgement.verdicts.items() if verdict["flags"]},
        "cut_short": [id for id, verdict in judgement.verdicts.items() if verdict["cut_short"]],
    }
    return notebook


def _weighed(outputs: list[dict], points: float) -> list[dict]:
    """A check's outputs where the class gives the exercise other points than its own."""
    verdict = verdict_of(outputs[0]["metadata"]["verdict"])
    return outputs if verdict.max_points == points else check_outputs(worth(verdict, points))
