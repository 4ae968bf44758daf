"""Says what is right: exercises, checks, notebooks and grading for the course.

A learner needs one name from here: `from autograder import check`.
"""

import os

# before anything imports triton, which torch's optimisers do: checks watch kernels in Triton's interpreter
os.environ.setdefault("TRITON_INTERPRET", "1")

__all__ = ["check"]


def __getattr__(name: str):
    if name == "check":  # imported when used: the command line stays quick
        from autograder.notebook import check

        return check
    raise AttributeError(f"module 'autograder' has no attribute {name!r}")
