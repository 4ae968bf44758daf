"""The worked example of docs/contributing.md, followed in a copy of the project."""

import os
import re
import shutil
import subprocess
import sys

from autograder.lessons.layout import course_root

ROOT = course_root()
FOLLOW = """
from pathlib import Path
from autograder.exercises import exercises_of
from autograder.learner.attempt import mutation_report
from autograder.lessons import build
from autograder.site import library, units
from autograder.site.course_map import read_course
from autograder.site.glossary import Glossary
from autograder.site.papers import read_papers

root, unit = Path.cwd(), "18_key_norm"
written = [str(path.relative_to(root)) for path in build.build(root, unit)]
assert written == ["solutions/18_key_norm/key_norm.ipynb", "notebooks/18_key_norm/key_norm.ipynb"], written
assert build.stale(root, unit) == []
report = mutation_report(root, [unit])
assert report["rejected"] == report["recognised"] == report["total"] == 2, report
assert [row["stub_points"] for row in report["exercises"]] == [0]

course, papers = read_course(root, library.techniques(root)), read_papers(root)
page = units.make_page(root, course, course[unit], Glossary(root / "docs" / "glossary.md"), papers)
text = "\\n".join(cell.source for cell in page.cells)
assert "# 18 · Key norms" in text and "The tokens that stay, by the norm of their keys." in text
lines = units.solution_lines(root, unit)
assert lines and not any(line in "".join(text.split()) for line in lines)
assert course[unit].needs == ("10_h2o",)
assert "s_j = -|k_j|" in library.module_markdown(root, "sparsity_edu.kv_cache.key_norm", {}, course, papers)

import torch
from sparsity_edu import kv_cache
from sparsity_edu.kv_cache.key_norm import KeyNormCache
from sparsity_edu.models import load

model, _ = load("tiny")
with kv_cache.attending(model):
    model.generate(torch.arange(1, 60)[None], past_key_values=(cache := KeyNormCache(16)), max_new_tokens=4, do_sample=False)
assert all(layer.keys.shape[2] == 16 for layer in cache.layers)
print("followed")
"""


def test_the_worked_example_works(tmp_path):
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in ("autograder", "sparsity_edu", "docs", "solutions", "notebooks"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    for file in ("nbgrader_config.py", "pyproject.toml"):
        shutil.copy(ROOT / file, tmp_path)
    shutil.copytree(ROOT / "docs" / "example", tmp_path, dirs_exist_ok=True)
    shutil.copy(ROOT / "course" / "syllabus.md", tmp_path / "course")
    units = tmp_path / "autograder" / "exercises" / "__init__.py"
    text, count = re.subn(r'(UNITS = \((?:\n    "\w+",)+)', r'\1\n    "18_key_norm",', units.read_text())
    assert count == 1
    units.write_text(text)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", FOLLOW], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.strip().endswith("followed"), done.stderr
