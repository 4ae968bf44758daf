"""Settings for all tests: one thread each (they run side by side), nothing written to the user's folders."""

import os
import tempfile

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, here and in the kernels that tests start
os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported: kernels run in its interpreter
os.environ["SPARSITY_EDU_PROGRESS"] = tempfile.mkdtemp(prefix="sparsity_edu_progress_")

import torch._dynamo  # noqa: F401  torch.func loads it on first use, which on a busy machine takes longer than a case may


@pytest.fixture(scope="session")
def sandbox():
    """A sandbox is there. Where none can be had, tests that need one are skipped loudly; in CI they fail."""
    from autograder.judge.sandbox import SandboxError, require

    try:
        require()
    except SandboxError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(f"NOT TESTED, and this is the part that protects a class: {error}")


def pytest_collection_modifyitems(items):
    """The class of attackers first: it is the longest file by far, and would otherwise be graded last, by one worker alone."""
    items.sort(key=lambda item: "grading" not in item.path.parts)
