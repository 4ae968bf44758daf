"""The Gradescope zip: unpacked anywhere, it judges as the class here is judged."""

import json
import os
import subprocess
import sys
import zipfile

import pytest
from conftest import UNIT

from autograder.classroom.gradescope import write_zip
from autograder.lessons.layout import notebook_path
from tests.courses import ROOT, make_course

pytestmark = pytest.mark.usefixtures("sandbox")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A zip, unpacked as Gradescope does."""
    root = make_course(tmp_path / "course", ["signed-weights"])
    for name in ("sparsity_edu", "autograder", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        (root / name).symlink_to(ROOT / name)
    assert write_zip(root, UNIT, tmp_path / "zip.zip") > 50
    with zipfile.ZipFile(tmp_path / "zip.zip") as archive:
        archive.extractall(tmp_path / "source")
        modes = {info.filename: info.external_attr >> 16 for info in archive.infolist()}
    (tmp_path / "source/project/grading/secret").chmod(modes["project/grading/secret"])  # as unzip does
    assert modes["run_autograder"] == modes["setup.sh"] == 0o755
    (tmp_path / "submission").mkdir()
    handed_in = notebook_path(root / "grading/submitted/signed-weights", UNIT)
    handed_in.rename(tmp_path / "submission" / "magnitude (2).ipynb")
    (tmp_path / "submission_metadata.json").write_text('{"users": [{"id": 7, "email": "a@b.c"}]}')
    return tmp_path


def test_results_json_has_the_judges_points(project):
    run = (project / "source/run_autograder").read_text()
    assert f"{UNIT} /autograder/submission" in run
    command = [
        sys.executable,
        "-m",
        "autograder.classroom.gradescope",
        UNIT,
        project / "submission",
        project / "results/results.json",
    ]
    inside = project / "source/project"
    done = subprocess.run(
        command, cwd=inside, env=os.environ | {"PYTHONPATH": str(inside)}, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((project / "results/results.json").read_text())
    assert {test["name"].split(":")[0]: test["score"] for test in results["tests"]} == {
        "magnitude.sparsity": 2,
        "magnitude.prune": 1,  # what it refuses
        "magnitude.global": 3,
        "magnitude.masked_step": 4,
        "magnitude.schedule": 3,
        "magnitude.iterative": 4,
    }
    assert "not |W|" in results["tests"][1]["output"]
    assert "magnitude (2).ipynb" in results["output"]  # the report says which file counts
    assert not (inside / "grading/submitted").exists()
