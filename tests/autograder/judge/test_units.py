"""Every unit's own solution, judged in the sandbox: full marks there, where the course's answers cannot be imported."""

from pathlib import Path

import nbformat
import pytest

from autograder.exercises import UNITS, exercises_of
from autograder.intake.rebuild import rebuild, released_notebook
from autograder.judge.judge import Job, judge
from autograder.lessons.layout import notebook_path

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("unit", UNITS)
def test_a_solved_notebook_gets_full_marks(unit, sandbox):
    solved = nbformat.read(notebook_path(ROOT / "solutions", unit), as_version=4)
    notebook, _ = rebuild(solved, released_notebook(notebook_path(ROOT / "solutions", unit)))
    ids = tuple(exercise.id for exercise in exercises_of(unit))
    judgement = judge(Job(unit, nbformat.writes(notebook), {}, "a secret", ids))
    lost = {id: verdict for id, verdict in judgement.verdicts.items() if not verdict["passed"] or verdict["flags"]}
    assert lost == {}
    assert judgement.incidents == []
    assert judgement.verdicts.keys() == set(ids)
