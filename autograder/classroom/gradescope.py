"""A Gradescope autograder: a zip with this project in it, whose results.json comes from the same judge.

    python -m autograder.classroom.gradescope UNIT SUBMISSION RESULTS [--no-sandbox]

is what runs there, in a container of its own for each submission.
"""

import argparse
import json
import shutil
import tempfile
import zipfile
from pathlib import Path

import nbformat
from nbgrader.coursedir import CourseDirectory
from traitlets.config import PyFileConfigLoader

from autograder.exercises import exercises_of
from autograder.intake.desk import notes
from autograder.intake.rebuild import rebuild, released_notebook
from autograder.judge.course import Course
from autograder.judge.gate import admit
from autograder.judge.judge import Judgement, judge
from autograder.judge.preprocess import UNSANDBOXED, Judge
from autograder.judge.seeds import secret_of
from autograder.judge.terms import FILE, Terms
from autograder.judge.worth import verdict_of, worth
from autograder.lessons.layout import course_root, notebook_path
from autograder.sandbox.bubblewrap import require

PROJECT = ("pyproject.toml", "constraints.txt", "README.md", "LICENSE", "nbgrader_config.py")
FOLDERS = ("sparsity_edu", "autograder", "course")

SETUP = """#!/usr/bin/env bash
# Runs once, when Gradescope builds the container.
set -euo pipefail
apt-get update
apt-get install --yes bubblewrap software-properties-common
if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  add-apt-repository --yes ppa:deadsnakes/ppa
  apt-get install --yes python3.12 python3.12-venv
fi
"$(command -v python3.12 || command -v python3)" -m venv /opt/autograder
/opt/autograder/bin/pip install --constraint /autograder/source/project/constraints.txt --editable /autograder/source/project
"""

RUN = """#!/usr/bin/env bash
# Runs for each submission.
cd /autograder/source/project
export PATH="/opt/autograder/bin:$PATH"
exec python -m autograder.classroom.gradescope {unit} /autograder/submission /autograder/results/results.json{options}
"""


def write_zip(root: Path, unit: str, path: Path, sandboxed: bool = True) -> int:
    """Write the autograder's zip; it holds the course's secret and a unit's solutions, so it is for Gradescope alone.

    Args:
        root: the course folder.
        unit: the unit.
        path: the zip.
        sandboxed: whether student code needs a sandbox in Gradescope's container.

    Returns:
        The number of files in it.
    """
    solution = notebook_path(root / "solutions", unit)
    files = [root / name for name in PROJECT] + [path for path in solution.parent.rglob("*") if path.is_file()]
    files += [path for name in FOLDERS for path in sorted((root / name).rglob("*")) if path.is_file() and _is_source(path)]
    files += [terms for terms in [root / "grading" / FILE] if terms.is_file()]
    secret_of(root / "grading")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in {"setup.sh": SETUP, "run_autograder": RUN.format(unit=unit, options=_options(sandboxed))}.items():
            script = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
            script.external_attr = 0o755 << 16
            archive.writestr(script, text)
        secret = zipfile.ZipInfo("project/grading/secret", (2020, 1, 1, 0, 0, 0))
        secret.external_attr = 0o600 << 16
        archive.writestr(secret, (root / "grading" / "secret").read_text())
        for file in files:
            archive.write(file, f"project/{file.relative_to(root)}")
        return len(archive.namelist())


def _options(sandboxed: bool) -> str:
    return "" if sandboxed else " --no-sandbox"


def _is_source(path: Path) -> bool:
    return "__pycache__" not in path.parts


def grade_folder(root: Path, unit: str, folder: Path, student: str, sandboxed: bool = True) -> dict:
    """Judge the submission in a folder.

    Args:
        root: the course folder.
        unit: the unit.
        folder: what the student handed in.
        student: who; their hidden inputs depend on it.
        sandboxed: whether to insist on a sandbox.

    Returns:
        What Gradescope reads as results.json.

    Raises:
        SandboxError: there is no sandbox, and one is insisted on.
    """
    if sandboxed:
        require()
    config = PyFileConfigLoader("nbgrader_config.py", path=str(root)).load_config()
    config.Judge.sandbox = sandboxed
    secret_of(root / "grading")
    with tempfile.TemporaryDirectory() as scratch:
        grading = Path(scratch) / "grading"
        config.CourseDirectory.submitted_directory = str(grading / "submitted")
        shutil.copytree(folder, grading / "submitted" / "student" / unit, symlinks=True)
        shutil.copy2(root / "grading" / "secret", grading / "secret")
        course = Course(CourseDirectory(config=config))
        admit(course, unit)
        submitted = nbformat.read(notebook_path(course.submitted / "student", unit), as_version=4)
        rebuilt, repairs = rebuild(submitted, released_notebook(notebook_path(course.source, unit)))
        job = Judge(config=config).job(course, "student", unit, rebuilt, known_as=student)
        judgement = judge(job)
        told = [*([] if sandboxed else [UNSANDBOXED]), *notes(grading, unit, "student")[0], *repairs, *judgement.incidents]
    return _results(unit, judgement, told, Terms.read(root / "grading"))


def _results(unit: str, judgement: Judgement, told: list[str], terms: Terms) -> dict:
    tests = []
    for exercise in exercises_of(unit):
        verdict = worth(verdict_of(judgement.verdicts[exercise.id]), terms.points_of(exercise))
        tests.append(
            {
                "name": f"{exercise.id}: {exercise.title}",
                "score": verdict.points,
                "max_score": verdict.max_points,
                "status": "passed" if verdict.passed else "failed",
                "output": repr(verdict),
                "output_format": "text",
            }
        )
    return {
        "tests": tests,
        "output": "\n".join(told),
        "output_format": "text",
        "execution_time": round(judgement.seconds),
        "stdout_visibility": "hidden",
        "extra_data": {"flags": [flag for verdict in judgement.verdicts.values() for flag in verdict["flags"]]},
    }


def main() -> None:
    """What Gradescope's run_autograder calls."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("unit")
    parser.add_argument("submission", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--no-sandbox", action="store_true")
    given = parser.parse_args()
    about = given.submission.with_name("submission_metadata.json")  # Gradescope puts it beside the submission
    users = json.loads(about.read_text())["users"] if about.is_file() else []
    student = ",".join(sorted(str(user["id"]) for user in users)) or "unknown"
    results = grade_folder(course_root(), given.unit, given.submission, student, not given.no_sandbox)
    given.results.parent.mkdir(parents=True, exist_ok=True)
    given.results.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
