"""What a fresh clone relies on."""

import re
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
