"""The wall itself: what can be seen behind it, and what happens where there is no wall to be had."""

import ast
import os
from pathlib import Path

import pytest

from autograder.lessons.layout import course_root
from autograder.sandbox import bubblewrap

ROOT = course_root(Path(__file__).parent)


def test_the_student_edition_is_closed_and_holds_no_answers():
    files = [
        path for name in bubblewrap.EDITION for path in ([ROOT / name] if name.endswith(".py") else (ROOT / name).rglob("*.py"))
    ]
    modules = {str(path.relative_to(ROOT).with_suffix("")).replace(os.sep, ".").removesuffix(".__init__") for path in files}
    modules.add("autograder.learner.check")  # check_inside.py stands for it
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            ours = [name for name in names if name.split(".")[0] in ("sparsity_edu", "autograder")]
            assert set(ours) <= modules, f"{path.name} imports {ours}"
    assert not any(
        part in module.split(".")
        for module in modules
        for part in ("weights", "patterns", "storage", "kernels", "experts", "exercises", "checking")
    )


def test_installed_copies_and_the_course_are_hidden_where_they_lie_in_what_is_shown(tmp_path, monkeypatch):
    environment, course = tmp_path / "environment", tmp_path / "environment" / "course"
    copies = [environment / "lib" / "python3.12" / "site-packages" / name for name in ("sparsity_edu", "autograder")]
    for folder in (course, *copies):
        folder.mkdir(parents=True)
    monkeypatch.setattr(bubblewrap, "_shown", lambda: {environment})
    options, _ = bubblewrap._bubblewrap({}, None, [course, tmp_path / "elsewhere"], ["true"], bubblewrap.Limits())
    covered = {path: i for i, path in enumerate(options) if options[i - 1] == "--tmpfs" and str(tmp_path) in path}
    assert set(covered) == {str(folder) for folder in (course, *copies)}
    bound = options.index("--ro-bind")
    assert options[bound + 1] == str(environment)
    assert min(covered.values()) > bound  # or the environment would lie over them


def test_no_bubblewrap_is_refused_with_the_way_to_get_it(monkeypatch):
    bubblewrap.require.cache_clear()
    monkeypatch.setattr(bubblewrap.shutil, "which", lambda name: None)
    with pytest.raises(bubblewrap.SandboxError, match="apt install bubblewrap"):
        bubblewrap.require()
    assert not bubblewrap.available()
    bubblewrap.require.cache_clear()


def test_forbidden_namespaces_are_told(tmp_path, monkeypatch):
    bubblewrap.require.cache_clear()
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2; exit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(bubblewrap.SandboxError, match=r"uid map: Permission denied.*AppArmor"):
        bubblewrap.require()
    bubblewrap.require.cache_clear()
