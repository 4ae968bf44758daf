"""`make demo`: a class through the real nbgrader, and nbgrader's own commands after it."""

import csv
import subprocess

import nbformat
import pytest
from conftest import POINTS

from autograder.classroom import demo
from autograder.lessons.layout import notebook_path
from tests.courses import EXPERIMENT, UNIT, make_course


def test_everybody_gets_what_they_earned(graded):
    _, results = graded
    assert {student: result.points for student, result in results.items()} == POINTS
    assert {result.max_points for result in results.values()} == {20}


def test_everybody_gets_the_sentence_that_helps(graded):
    _, results = graded
    assert results["perfect"].advice == results["another-route"].advice == []
    assert [id for id, _ in results["signed-weights"].advice] == ["magnitude.prune"]
    assert "not |W|" in results["signed-weights"].advice[0][1]
    assert "masked the gradients only" in dict(results["mask-lost"].advice)["magnitude.masked_step"]
    assert {sentence for _, sentence in results["blank"].advice} == {"not started"}
    assert dict(results["crashes"].advice)["magnitude.global"].startswith(
        "its cell ended with SyntaxError: '(' was never closed"
    )


def test_feedback_tells_the_repairs_and_the_mistake(graded):
    root, _ = graded
    page = root / "grading" / "feedback" / "deleted-and-duplicated" / "02_magnitude" / "magnitude.html"
    assert "Repaired before grading" in page.read_text(encoding="utf-8")
    page = root / "grading" / "feedback" / "mask-lost" / "02_magnitude" / "magnitude.html"
    assert "masked the gradients only" in page.read_text(encoding="utf-8")


def test_experiments_are_not_run_while_grading(graded):
    root, _ = graded
    notebook = nbformat.read(notebook_path(root / "grading" / "autograded" / "perfect", "02_magnitude"), as_version=4)
    experiments = [cell for cell in notebook.cells if "experiment" in cell.metadata.get("tags", [])]
    assert [cell.source.endswith(EXPERIMENT) for cell in experiments] == [True]
    assert not any(cell.outputs for cell in experiments)


def nbgrader(root, *arguments):
    return subprocess.run(["nbgrader", *arguments], cwd=root, capture_output=True, text=True, timeout=300)


def test_nbgrader_exports_the_same_points(graded):
    root, results = graded
    assert nbgrader(root, "export", "--to", "grades.csv").returncode == 0
    with open(root / "grades.csv", newline="") as file:
        assert {row["student_id"]: float(row["score"]) for row in csv.DictReader(file)} == {
            student: result.points for student, result in results.items()
        }


def test_nbgrader_validate_finds_the_wrong_answer_and_only_that(graded):
    root, _ = graded
    right = notebook_path(root / "solutions", UNIT).relative_to(root)
    wrong = notebook_path(root / "grading" / "submitted" / "signed-weights", UNIT).relative_to(root)
    report = nbgrader(root, "validate", str(right), str(wrong)).stdout
    assert report.count("passes all the tests") == 1
    assert "magnitude.prune" in report
    assert "magnitude.schedule" not in report


def test_a_real_class_is_not_mixed_with_the_demo(tmp_path):
    root = make_course(tmp_path / "course")
    (root / "grading" / "submitted" / "ada").mkdir(parents=True)
    with pytest.raises(RuntimeError, match="already holds ada"):
        demo.demo(root)
