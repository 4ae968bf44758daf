"""What a fresh clone relies on."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


DEV = PROJECT["optional-dependencies"]["dev"] + PROJECT["optional-dependencies"]["site"]
DEV.remove("sparsity-edu[site]")  # which is the second list


def names(requirements):
    return {re.split(r"[<>=!~;\[ ]", requirement)[0].lower() for requirement in requirements}


def test_environment_yml_is_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in environment if isinstance(entry, dict))
    wanted = PROJECT["dependencies"] + DEV
    assert sorted(entry for entry in pip if not entry.startswith("--")) == sorted(wanted)
    assert f"python{PROJECT['requires-python']}" in environment


def test_every_dependency_has_a_tested_version():
    pinned = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in pinned)
    wanted = names(PROJECT["dependencies"] + DEV)
    assert wanted - names(pinned) == {"pip"}


def test_the_frame_is_there():
    frame = {"course", "docs", "notebooks", "solutions", "sparsity_edu", "autograder", "tests", "environment.yml", "README.md"}
    assert frame <= {path.name for path in ROOT.iterdir()}


def test_readme_names_only_make_targets_and_files_that_exist():
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"\bmake (\w+)\b", readme)) - {"it"}
    assert {"demo", "test", "lab"} <= targets
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    for link in re.findall(r"\]\((?!http)([^)#]+)", readme):
        assert (ROOT / link).exists(), link


def test_the_path_without_make_does_what_make_lab_does():
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    windows, others = re.findall(r"```\n((?:py|python3) -m venv .*?)```", readme, re.DOTALL)
    install = re.search(r"(-m pip install).*?(--constraint constraints.txt --editable )", makefile)
    for commands in (windows, others):
        assert f"{install[1]} {install[2]}." in commands
        assert re.search(r"^\.venv\S+autograder work\b", commands, re.MULTILINE)
        assert re.search(r'JUPYTER_CONFIG_PATH ?= ?"?course/lab\b', commands)
        assert re.search(r"\.venv\S+jupyter lab\n$", commands)
    assert (ROOT / "course" / "lab" / "labconfig").is_dir()


def test_what_learners_run_needs_nothing_that_windows_lacks():
    """Triton and modules of Unix cannot be imported here: checks and the commands of a learner do not mind."""
    code = """
import os, signal, sys
import torch, IPython, ipykernel, jupyter_client, numpy, psutil, rich, tqdm, typer  # they have their own ways on Windows
missing = ("fcntl", "grp", "pwd", "resource", "termios", "triton")
sys.modules.update({name: None for name in sys.modules if name.split(".")[0] in missing} | dict.fromkeys(missing))
del os.fork, os.sched_getaffinity, signal.SIGALRM, signal.setitimer
from autograder import check, progress
from autograder.exercises import find
from autograder.cli import app
from autograder.learner import start, work
assert check("wanda.score", find("wanda.score").reference).passed
print(progress())
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    assert "05_wanda" in run.stdout
