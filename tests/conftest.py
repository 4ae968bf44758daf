"""Settings for all tests: one thread each (they run side by side), nothing written to the user's folders."""

import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from xdist.scheduler import LoadFileScheduling

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, here and in the kernels that tests start
os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported: kernels run in its interpreter
os.environ["SPARSITY_EDU_PROGRESS"] = PROGRESS = tempfile.mkdtemp(prefix="sparsity_edu_progress_")

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


@pytest.fixture
def autograder(monkeypatch, capsys):
    """Runs the command line in this process; gives its exit code and what it printed."""
    from autograder import cli

    monkeypatch.setenv("PATH", os.environ["PATH"])  # main() changes it

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["autograder", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            cli.main()
        return exit.value.code or 0, *capsys.readouterr()

    return command


BY_EXERCISE = (
    "test_exercises.py",
    "test_explained.py",
    "test_hidden.py",
    "test_mutants.py",
)  # only tests of one exercise share anything
BY_UNIT = ("test_lessons.py", "test_needs.py")
# what `make quick` leaves out: classes of attackers and one that is killed again and again, generated notebooks, a third seed,
# a browser that looks at the site, and the worked example for contributors
SLOW = re.compile(
    r"^tests/grading/|/site/test_(?:axe|contributing|lab)"
    r"|::test_killed_at_any_moment|::test_notebook_runs|::test_a_solved_notebook|\[another secret"
)


ON_ONE_CLASS = ("test_demo.py", "test_grade.py")  # which takes longest of all that tests share
ON_ONE_SITE = ("test_site.py", "test_axe.py")


class ByFileOrExercise(LoadFileScheduling):
    """A worker takes a file at a time, so that what tests share is made once; of the longest files an exercise at a time.

    What the reference and the declared mistakes make of an exercise's cases is worked out once for all of these files.
    """

    def _split_scope(self, nodeid):
        file = super()._split_scope(nodeid)
        exercise = re.search(r"[a-z0-9_]+\.[a-z0-9_]+(?=[\]-])", nodeid.removeprefix(file))
        if file.endswith(BY_EXERCISE) and exercise:
            return exercise[0]
        unit = re.search(r"(?<=\[)\d\d_\w+(?=\])", nodeid.removeprefix(file))
        if file.endswith(BY_UNIT) and unit:
            return unit[0]
        if file.endswith(ON_ONE_SITE):
            return "the site"
        return "the class" if file.endswith(ON_ONE_CLASS) else file


def pytest_xdist_make_scheduler(config, log):
    """For the default of pyproject.toml; on the command line another may be chosen."""
    return ByFileOrExercise(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_addoption(parser):
    """What `make test UNIT=05` and `make quick` say."""
    parser.addoption("--unit", help="only what is about a unit, such as 05: its lesson, checks, grading, and library")
    parser.addoption("--seeds", type=int, help="run test_many_seeds.py too, on so many draws of the inputs, such as 200")
    parser.addoption("--quick", action="store_true", help="all but classes under attack, runs of notebooks, and a third seed")


def pytest_ignore_collect(collection_path, config):
    """What takes long runs only when asked for."""
    return True if collection_path.name == "test_many_seeds.py" and not config.getoption("--seeds") else None


def pytest_configure(config):
    """Refuse an unknown unit before workers start."""
    if config.getoption("--unit"):
        from autograder.exercises import unit_named

        try:
            config.option.unit = unit_named(config.getoption("--unit"))
        except ValueError as error:
            raise pytest.UsageError(f"--unit: {error}") from None


def pytest_unconfigure():
    """Leave nothing behind; every worker has a folder of its own."""
    shutil.rmtree(PROGRESS, ignore_errors=True)


def pytest_collection_modifyitems(config, items):
    """The class of attackers first, by far the longest; last what is cut finest, so that no worker ends long before another."""
    items.sort(key=lambda item: ("grading" not in item.path.parts) + (item.path.name in BY_EXERCISE))
    wanted = items
    if config.getoption("--quick"):
        wanted = [item for item in items if not SLOW.search(item.nodeid)]
    if unit := config.getoption("--unit"):
        wanted = _about(unit, items)
    kept = set(wanted)
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = wanted


def _about(unit: str, items: list) -> list:
    """The tests of a unit: with its name or one of its exercises in their own, and those of modules that it imports."""
    from autograder.exercises import exercises_of
    from autograder.lessons.sources import imports

    files = {Path(sys.modules[exercise.stages[0].cases.__module__].__file__) for exercise in exercises_of(unit)}
    names = {name for file in files for name in imports(file.read_text(encoding="utf-8")) if name.startswith("sparsity_edu.")}
    library = {Path("tests", *name.split(".")[:-1], f"test_{name.split('.')[-1]}.py") for name in names}
    name, root = unit.split("_", 1)[1], Path(__file__).parents[1]
    about = re.compile(rf"\b{unit}\b|\b{name}\.[a-z]|test_{name}\w*\.py")
    return [item for item in items if about.search(item.nodeid) or item.path.relative_to(root) in library]


def pytest_terminal_summary(terminalreporter):
    """Seconds per room of the tests, so that growth is seen: of all workers together, set-up included."""
    seconds, count = Counter(), Counter()
    for reports in terminalreporter.stats.values():
        for report in (report for report in reports if isinstance(report, pytest.TestReport)):
            room = str(Path(report.location[0]).parent).removeprefix("tests/")
            seconds[room] += report.duration
            count[room] += report.when == "call"
    if seconds:
        terminalreporter.section("seconds per room, of all workers together")
        for room, spent in seconds.most_common():
            terminalreporter.write_line(f"{spent:8.1f}  {count[room]:5}  {room}")
        terminalreporter.write_line(f"{seconds.total():8.1f}  {count.total():5}  all")
