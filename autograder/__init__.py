"""Says what is right: exercises, checks, notebooks and grading for the course.

A learner needs one name from here: `from autograder import check`. Experiments with kernels also use `watch`, and
`progress()` says how far one is.

    inside/       all of this package that runs beside student code: its student edition; the map of the wall is there
    checking/     what an exercise is; when an answer is right; the verdict
    exercises/    the declarations, a package per unit, a file or two per exercise
    lessons/      lesson source -> solutions -> notebooks
    intake/       a submission -> one readable notebook on the release
    sandbox/      bubblewrap, limits, the guard
    learner/      check, report, inputs, progress, attempt, work, start
    judge/        sessions, verdicts, store, seeds, flags, feedback, nbgrader's preprocessors
    classroom/    a whole class, exports, doctor
    site/         executed solutions and docs/ -> a static site

Imports run one way: a room knows those above it and none below. import-linter holds that (pyproject.toml). Beside the rooms lie
the command line, and `sanitizer` under its former name, for notebooks that were released with it.
"""

import os

# before anything imports triton, which torch's optimisers do: checks watch kernels in Triton's interpreter
os.environ.setdefault("TRITON_INTERPRET", "1")

__all__ = ["check", "progress", "watch"]


def __getattr__(name: str):  # imported when used: the command line stays quick
    if name == "check":
        from autograder.learner.check import check

        return check
    if name == "progress":
        from autograder.learner.standing import progress

        return progress
    if name == "watch":
        from autograder.inside.sanitizer import watch

        return watch
    raise AttributeError(f"module 'autograder' has no attribute {name!r}")
