"""Judges one submission: runs it behind the wall, asks its answers hidden questions, and compares on this side."""

import hashlib
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import nbformat

from autograder.checking.exercise import Exercise
from autograder.checking.known import PUBLIC_SEED
from autograder.checking.score import score
from autograder.checking.verdict import StageVerdict, Verdict
from autograder.exercises import exercises_of, find
from autograder.inside.case import Case
from autograder.inside.outcome import UNDEFINED, Outcome
from autograder.intake.code import seems_to_define
from autograder.judge.feedback import clean
from autograder.judge.flags import flags
from autograder.judge.seeds import seed_of_answer
from autograder.judge.session import Session
from autograder.learner.report import to_html
from autograder.lessons.layout import grade_id
from autograder.sandbox.bubblewrap import Limits


@dataclass(frozen=True)
class Job:
    """A submission and what is to be found out about it: all that a worker needs, in plain values."""

    unit: str
    notebook: str  # the rebuilt notebook, as JSON
    files: Mapping[str, bytes]  # the submission's other files
    seed: str  # of the student's hidden cases
    exercises: tuple[str, ...]  # ids of those that are to be judged
    solutions: Mapping[str, str] = field(default_factory=dict)  # the course's own cell by exercise id, to see copies
    limits: Limits = field(default_factory=Limits)
    sandboxed: bool = True
    hide: tuple[str, ...] = ()  # folders that student code must not see

    def answer(self, id: str) -> tuple[list[tuple[str, str]], dict[str, str]]:
        """What an exercise's verdict judges: ids and sources of the cells before its check, and hashes of the other files."""
        code = code_of(self.notebook)
        upto = [cell for cell, _ in code].index(f"{grade_id(find(id))}-check")
        return code[:upto], hashes_of(self.files)


def hashes_of(files: Mapping[str, bytes]) -> dict[str, str]:
    """A hash of each file's content, by its name."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}


@lru_cache(8)
def code_of(notebook: str) -> list[tuple[str, str]]:
    """Ids and sources of a notebook's code cells."""
    return [(cell.id, cell.source) for cell in nbformat.reads(notebook, as_version=4).cells if cell.cell_type == "code"]


@dataclass(frozen=True)
class Judgement:
    """What was found out."""

    verdicts: dict[str, dict]  # by exercise id: Verdict.to_dict(), and "flags", "cut_short"
    outputs: dict[str, list[dict]]  # by cell id, the check cells' among them
    incidents: list[str]  # sentences on what went wrong with the notebook as a whole
    seconds: float


def judge(job: Job) -> Judgement:
    """Judge a submission.

    Args:
        job: the submission.

    Returns:
        The judgement. Nothing that student code does raises an exception here.

    Raises:
        SandboxError: there is no sandbox.
    """
    # in a thread of its own, which lives as long as the sandbox: a sandbox ends with the thread that made it, and a caller
    # such as a Jupyter server may have an event loop of its own
    with ThreadPoolExecutor(1, "judge") as thread:
        return thread.submit(_judge, job).result()


def _judge(job: Job) -> Judgement:
    start = time.monotonic()
    public: dict[str, Verdict] = {}
    judgement, lost = _ask(job, public)
    if lost:  # without public cases, what stands before the answer that ended the others is judged before it
        again, _ = _ask(replace(job, exercises=lost), public)
        judgement.verdicts.update(again.verdicts)
        judgement.outputs.update({f"{grade_id(find(id))}-check": again.outputs[f"{grade_id(find(id))}-check"] for id in lost})
    return replace(judgement, seconds=time.monotonic() - start)


def _ask(job: Job, public: dict[str, Verdict], upto: int | None = None) -> tuple[Judgement, tuple[str, ...]]:
    """A judgement by one sandbox, and which exercises did not answer all hidden cases after they were asked public ones.

    Args:
        job: the submission.
        public: verdicts on public cases, which are asked for if there are none yet.
        upto: how many cells are run; None: all.
    """
    notebook = nbformat.reads(job.notebook, as_version=4)
    notebook.cells = notebook.cells[:upto]
    checks = {f"{grade_id(exercise)}-check": exercise for exercise in exercises_of(job.unit)}
    verdicts, outputs, lost = {}, {}, []
    with Session(job.files, job.limits, map(Path, job.hide), job.sandboxed) as session:
        session.run(notebook, checks)
        if session.is_lost and upto is None:  # one cell has ended everything: what stands before it, in another sandbox
            judgement, lost = _ask(job, public, session.reached)
            return replace(judgement, incidents=[*session.incidents, *judgement.incidents]), lost
        asked = [exercise for exercise in checks.values() if exercise.id in job.exercises]
        explain = not public
        # all public cases come first: a process that has seen a hidden one could tell those whose results are shown in full
        public |= {exercise.id: _score(exercise, session, PUBLIC_SEED)[0] for exercise in asked if explain}
        for exercise in asked:
            seed = seed_of_answer(job.seed, *job.answer(exercise.id))
            verdict, seen = _score(exercise, session, seed, hidden=True)
            verdict = _explained(verdict, public[exercise.id])
            lost += [exercise.id] if seen.cut_short and explain else []
            if seen.undefined:
                verdict = replace(verdict, says=_why_undefined(exercise, notebook))
            about = {"flags": _flags(exercise, notebook, job.solutions), "cut_short": seen.cut_short}
            verdicts[exercise.id] = verdict.to_dict() | about
            outputs[f"{grade_id(exercise)}-check"] = check_outputs(verdict)
        outputs |= {cell.id: clean(cell.get("outputs", [])) for cell in notebook.cells if cell.id not in checks}
    return Judgement(verdicts, outputs, session.incidents, 0), tuple(lost)


@dataclass
class _Seen:
    """What was noticed about a snapshot while it was asked."""

    cut_short: bool = False  # not all was answered
    undefined: bool = False  # the exercise's name stands for nothing in it


def _score(exercise: Exercise, session: Session, seed: str, hidden: bool = False) -> tuple[Verdict, _Seen]:
    seen = _Seen()

    def outcome_of(case: Case) -> Outcome:
        outcome = ask(case)
        seen.cut_short |= bool(outcome.error and outcome.error.ours)
        seen.undefined |= bool(outcome.error and outcome.error.types == UNDEFINED)
        return outcome

    ask = session.outcome_of(exercise, hidden)
    return score(exercise, outcome_of, seed, hidden), seen


def _explained(verdict: Verdict, public: Verdict) -> Verdict:
    """A verdict on hidden cases, explained on public ones where these fail too."""
    if verdict.passed or not verdict.started:
        return verdict
    stages = tuple(map(_explained_stage, verdict.stages, public.stages))
    if verdict.says:
        return replace(verdict, stages=stages)
    return replace(verdict, stages=stages, misconception=public.misconception, says=public.says)


def _explained_stage(hidden: StageVerdict, public: StageVerdict) -> StageVerdict:
    if hidden.passed:
        return hidden
    if public.problem:
        return replace(hidden, problem=public.problem)
    told = f"{hidden.problem.difference} - on other inputs than the notebook's, with which it passes"
    return replace(hidden, problem=replace(hidden.problem, difference=told))


def _why_undefined(exercise: Exercise, notebook: nbformat.NotebookNode) -> str:
    """Why nothing has the exercise's name, as far as its cell tells."""
    cell = _answer_in(notebook, exercise)
    ends = [output for output in clean(cell.get("outputs", [])) if output["output_type"] == "error"]
    if ends:
        return f"its cell ended with {ends[-1]['ename']}: {ends[-1]['evalue']}"
    names = ", ".join(sorted(seems_to_define(cell.source)))
    return f"its cell defines {names or 'nothing'}, and no {exercise.defines}"


def _flags(exercise: Exercise, notebook: nbformat.NotebookNode, solutions: Mapping[str, str]) -> list[str]:
    code = {cell.id: cell.source for cell in notebook.cells if cell.cell_type == "code"}
    own = [source for id, source in code.items() if id.startswith("extra-")]
    models = [solutions[exercise.id]] if exercise.id in solutions else []
    return flags(exercise, _answer_in(notebook, exercise).source, own, models)


def _answer_in(notebook: nbformat.NotebookNode, exercise: Exercise) -> nbformat.NotebookNode:
    """The cell with the answer: the exercise's own, or where that does not define it, the last before the check that does."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    names = [cell.id for cell in code]
    upto = code[: names.index(f"{grade_id(exercise)}-check")] if f"{grade_id(exercise)}-check" in names else code
    own = next((cell for cell in code if cell.id == grade_id(exercise)), nbformat.v4.new_code_cell())
    return [own, *(cell for cell in (*upto, own) if exercise.defines in seems_to_define(cell.source))][-1]


def check_outputs(verdict: Verdict) -> list[dict]:
    """A check cell's outputs: what people read, and the number that nbgrader takes for the score."""
    shown = {"text/plain": repr(verdict), "text/html": to_html(verdict)}
    points = {"text/plain": f"{verdict.points:g}"}
    return [
        {"output_type": "display_data", "data": shown, "metadata": {"verdict": verdict.to_dict()}},
        {"output_type": "execute_result", "data": points, "metadata": {}, "execution_count": None},
    ]
