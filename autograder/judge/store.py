"""Every verdict is computed once: kept under a hash of all that it depends on, written whole or not at all.

So a killed run goes on where it was, and after a change to one exercise only that exercise is judged again.
"""

import hashlib
import json
import os
import platform
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import torch

from autograder.exercises import find
from autograder.judge.judge import Job, Judgement, code_of, hashes_of
from autograder.lessons.layout import grade_id
from autograder.lessons.sources import closure

# what every verdict depends on, beside the exercise's own module
JUDGING = ("autograder.checking.score", "autograder.inside.wire", "autograder.judge.flags", "autograder.learner.report")


@dataclass(frozen=True)
class Store:
    """Verdicts in a folder, one small file each; anybody may delete any of them."""

    folder: Path
    retry: bool = False  # judge again what was cut short by a limit

    def open_questions(self, job: Job) -> Job | None:
        """What of a job is not known yet.

        Args:
            job: a submission.

        Returns:
            The job with the exercises that have no verdict yet, or None if everything is known.
        """
        missing = tuple(id for id in job.exercises if self._part(job, id) is None)
        if missing or self._get(notebook_key(job)) is None:
            return replace(job, exercises=missing)
        return None

    def put(self, job: Job, judgement: Judgement) -> None:
        """Keep what a judgement found out."""
        for id, verdict in judgement.verdicts.items():
            key = cut_short_key(job, id) if verdict["cut_short"] else exercise_key(job, id)
            self._put(key, {"verdict": verdict, "outputs": judgement.outputs[f"{grade_id(find(id))}-check"]})
        checks = {f"{grade_id(find(id))}-check" for id in judgement.verdicts}
        outputs = {cell: kept for cell, kept in judgement.outputs.items() if cell not in checks}
        self._put(notebook_key(job), {"outputs": outputs, "incidents": judgement.incidents, "seconds": judgement.seconds})

    def get(self, job: Job) -> Judgement | None:
        """The whole judgement of a job, or None if something of it is not known."""
        whole = self._get(notebook_key(job))
        parts = {id: self._part(job, id) for id in job.exercises}
        if whole is None or None in parts.values():
            return None
        outputs = whole["outputs"] | {f"{grade_id(find(id))}-check": part["outputs"] for id, part in parts.items()}
        verdicts = {id: part["verdict"] for id, part in parts.items()}
        return Judgement(verdicts, outputs, whole["incidents"], whole["seconds"])

    def _part(self, job: Job, id: str) -> dict | None:
        return self._get(exercise_key(job, id)) or self._get(cut_short_key(job, id))

    def _get(self, key: str) -> dict | None:
        try:
            entry = json.loads((self.folder / key[:2] / f"{key}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        match entry:
            case {"verdict": {"points": points, "flags": _, "cut_short": is_cut_short}, "outputs": list(outputs)}:
                if not isinstance(points, int | float) or not points >= 0 or _score_in(outputs) != f"{points:g}":
                    return None
            case {"outputs": dict(), "incidents": list(incidents), "seconds": _}:
                is_cut_short = bool(incidents)
            case _:  # not written by this program
                return None
        return None if self.retry and is_cut_short else entry

    def _put(self, key: str, entry: dict) -> None:
        path = self.folder / key[:2] / f"{key}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(entry))


def _score_in(outputs: list) -> str | None:
    """The number in a check's outputs; None where nbgrader might find another score.

    It takes no output, a text, nan and a negative number for full points, and the first of several numbers.
    """
    match [output for output in outputs if not (isinstance(output, dict) and output.get("output_type") == "display_data")]:
        case [{"output_type": "execute_result", "data": {"text/plain": str(text)}}]:
            return text
    return None


def write_whole(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file so that it is there whole or not at all, also when the machine goes down."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)  # where the disk is full


def exercise_key(job: Job, id: str) -> str:
    """What a verdict depends on: the code up to its check, the other files, the exercise's version, the seed, the wall."""
    return _hash(*job.answer(id), version(find(id).stages[0].cases.__module__), job.seed, job.sandboxed, _machine())


def cut_short_key(job: Job, id: str) -> str:
    """The same where not all was answered: cells after the check may be why, for they run before its answer is asked."""
    return _hash(exercise_key(job, id), notebook_key(job))


def notebook_key(job: Job) -> str:
    """What the cells' outputs depend on."""
    return _hash(code_of(job.notebook), hashes_of(job.files), version("autograder.judge.judge"), job.sandboxed, _machine())


def job_key(job: Job) -> str:
    """One hash for all that a job's judgement depends on."""
    return _hash(notebook_key(job), [exercise_key(job, id) for id in job.exercises])


def fingerprint(job: Job, judgement: Judgement, told: list[str]) -> str:
    """One hash of what was judged, what was found (judged again, it may be something else), and what the intake told."""
    return _hash(job_key(job), asdict(judgement), told)


@cache
def version(module: str) -> str:
    """A hash of the source of a module, and of every module of this project that it imports, directly or not."""
    return _hash(
        {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in sorted(closure(module, *JUDGING).items())}
    )


def _machine() -> list[str]:
    return [platform.python_version(), torch.__version__]


def _hash(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
