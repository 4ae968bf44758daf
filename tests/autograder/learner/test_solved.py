"""What a learner is shown once an exercise is solved, and not a moment earlier."""

import json
import os
from pathlib import Path

import pytest

from autograder import check
from autograder.checking.score import score_object
from autograder.exercises import all_exercises, exercises_of, find
from autograder.learner import solved
from autograder.learner.report import Report, to_html
from autograder.lessons.beyond import compared, explanations, module_for
from autograder.lessons.layout import course_root

ROOT = course_root(Path(__file__).parent)
ID = "wanda.score"
RIGHT = find(ID).reference
FILE = "sparsity_edu/weights/wanda.py"
WHY = "Why the solution is as it is"


@pytest.fixture(autouse=True)
def in_a_learners_clone(tmp_path, monkeypatch):
    """Works in work/05_wanda of a clone."""
    monkeypatch.setenv("SPARSITY_EDU_PROGRESS", str(tmp_path / "kept"))
    monkeypatch.delenv("NBGRADER_EXECUTION", raising=False)
    clone = tmp_path / "clone"
    (clone / "work" / "05_wanda").mkdir(parents=True)
    for name in ("course", "docs", "sparsity_edu", "nbgrader_config.py"):
        os.symlink(ROOT / name, clone / name)
    monkeypatch.chdir(clone / "work" / "05_wanda")
    return clone


def wrong(W, norm):
    return W.abs()


def solution(W, norm):
    ### BEGIN SOLUTION
    return RIGHT(W, norm)
    ### END SOLUTION


def test_a_solved_exercise_leads_to_the_library_and_to_the_explanation():
    report = check(ID, RIGHT)
    html = report._repr_html_()
    assert f'<a href="../../{FILE}">' in html
    assert f"<summary>{WHY}</summary>" in html
    assert "Column $j$ of $W$ meets input $j$" in html  # formulas are for MathJax
    assert "<code>torch.einsum(" in html  # Markdown is not
    assert repr(report).endswith(f"\n  compare with {FILE}; why it is so: course/05_wanda/explained.md")


def test_of_other_exercises_nothing_is_told():
    html = check(ID, RIGHT)._repr_html_()
    others = {id: text for id, text in explanations(ROOT, "05_wanda").items() if id != ID}
    assert len(others) == len(exercises_of("05_wanda")) - 1
    assert not any(text.split(".")[0] in html for text in others.values())


@pytest.mark.parametrize("answer", [wrong, solution])
def test_before_it_is_solved_and_in_the_solutions_nothing_is_told(answer):
    report = check(ID, answer)
    assert report.passed == (answer is solution)
    for text in (repr(report), report._repr_html_()):
        assert FILE not in text
        assert "explained" not in text
        assert WHY not in text


def test_no_judge_tells_it(monkeypatch):
    shown = []
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    monkeypatch.setattr("IPython.display.display", lambda value, metadata: shown.append((value, metadata)))
    assert check(ID, RIGHT) == find(ID).points
    [(report, metadata)] = shown
    told = repr(report) + report._repr_html_() + json.dumps(metadata) + to_html(score_object(find(ID), RIGHT))
    assert FILE not in told
    assert WHY not in told
    assert "Column $j$" not in told


def test_where_the_explanation_was_not_handed_out_its_line_is_left_out(in_a_learners_clone):
    (in_a_learners_clone / "course").unlink()
    (in_a_learners_clone / "course").mkdir()
    report = check(ID, RIGHT)
    assert repr(report).endswith(f"\n  compare with {FILE}")
    assert WHY not in report._repr_html_()
    (in_a_learners_clone / "docs").unlink()  # as in a handout
    assert solved.Solved.of(ID).to_html() == str(solved.Solved.of(ID)) == ""


def test_outside_of_a_course_nothing_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert solved.Solved.of(ID) == solved.Solved()
    verdict = score_object(find(ID), RIGHT)
    assert Report.of(verdict, solved=solved.Solved.of(ID))._repr_html_() == to_html(verdict)


def test_a_terminal_gets_one_line(autograder, tmp_path):
    file = tmp_path / "answer.py"
    file.write_text("def wanda_score(W, norm):\n    return W.float().abs() * norm.float()\n")
    code, out, _ = autograder("try", ID, file)
    assert code == 0
    assert out.splitlines()[-1] == f"  compare with {FILE}; why it is so: course/05_wanda/explained.md"
    assert FILE not in autograder("try", ID, file, "--json")[1]
    file.write_text("def wanda_score(W, norm):\n    return W\n")
    code, out, _ = autograder("try", ID, file)
    assert code == 2
    assert FILE not in out


def test_every_exercise_has_a_file_to_compare_with():
    ids = [exercise.id for exercise in all_exercises()]
    assert [id for id in ids if not (ROOT / (module_for(ROOT, id).replace(".", "/") + ".py")).is_file()] == []
    named = [id for names in compared(ROOT).values() for id in names]
    assert set(named) <= set(ids)
    assert len(named) == len(set(named))
