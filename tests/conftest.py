"""Settings for all tests: one thread each (they run side by side), nothing written to the user's folders."""

import os
import re
import tempfile

import pytest
from xdist.scheduler import LoadFileScheduling

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, here and in the kernels that tests start
os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported: kernels run in its interpreter
os.environ["SPARSITY_EDU_PROGRESS"] = tempfile.mkdtemp(prefix="sparsity_edu_progress_")

import torch._dynamo  # noqa: F401  torch.func loads it on first use, which on a busy machine takes longer than a case may


@pytest.fixture(scope="session")
def sandbox():
    """A sandbox is there. Where none can be had, tests that need one are skipped loudly; in CI they fail."""
    from autograder.sandbox.bubblewrap import SandboxError, require

    try:
        require()
    except SandboxError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(f"NOT TESTED, and this is the part that protects a class: {error}")


BY_EXERCISE = (
    "test_exercises.py",
    "test_hidden.py",
)  # hundreds of tests each, of which only those of one exercise share anything


class ByFileOrExercise(LoadFileScheduling):
    """A worker takes a file at a time, so that what tests share is made once; of the longest files an exercise at a time."""

    def _split_scope(self, nodeid):
        file = super()._split_scope(nodeid)
        exercise = re.search(r"[a-z_]+\.[a-z0-9_]+(?=[\]-])", nodeid.removeprefix(file))
        return f"{file} {exercise[0]}" if file.endswith(BY_EXERCISE) and exercise else file


def pytest_xdist_make_scheduler(config, log):
    """For the default of pyproject.toml; on the command line another may be chosen."""
    return ByFileOrExercise(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_collection_modifyitems(items):
    """The class of attackers first, by far the longest; last what is cut finest, so that no worker ends long before another."""
    items.sort(key=lambda item: ("grading" not in item.path.parts) + (item.path.name in BY_EXERCISE))
