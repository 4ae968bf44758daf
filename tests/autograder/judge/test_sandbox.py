"""The wall itself: `autograder doctor`'s attempts, and what happens where there is no wall to be had."""

import ast
import os
from pathlib import Path

import pytest

from autograder.judge import sandbox
from autograder.judge.doctor import COUNT, attempts
from autograder.lessons.source import course_root

ROOT = course_root(Path(__file__).parent)


@pytest.mark.usefixtures("sandbox")
def test_every_attempt_to_break_out_is_held():
    tried = list(attempts(ROOT))
    assert len(tried) == COUNT
    assert [f"{attempt.what} {attempt.told}" for attempt in tried if not attempt.held] == []


@pytest.mark.usefixtures("sandbox")
def test_the_attempts_succeed_where_there_is_no_wall(tmp_path, monkeypatch):
    """An attempt that cannot succeed would prove nothing."""
    from autograder.judge import escapes

    (tmp_path / "autograder" / "exercises").mkdir(parents=True)
    monkeypatch.setenv("AUTOGRADER_CANARY", "canary")
    assert not escapes.answers([str(tmp_path)])[0]
    assert not escapes.environment("canary")[0]
    assert not escapes.writing([str(tmp_path)])[0]


def test_the_student_edition_is_closed_and_holds_no_answers():
    files = [
        path for name in sandbox.EDITION for path in ([ROOT / name] if name.endswith(".py") else (ROOT / name).rglob("*.py"))
    ]
    modules = {str(path.relative_to(ROOT).with_suffix("")).replace(os.sep, ".").removesuffix(".__init__") for path in files}
    modules.add("autograder.notebook")  # check_inside.py stands for it
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            ours = [name for name in names if name.split(".")[0] in ("sparsity_edu", "autograder")]
            assert set(ours) <= modules, f"{path.name} imports {ours}"
    assert not any(
        part in module for module in modules for part in ("weights", "patterns", "storage", "exercises", "verdict", "compare")
    )


def test_no_bubblewrap_is_refused_with_the_way_to_get_it(monkeypatch):
    sandbox.require.cache_clear()
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    with pytest.raises(sandbox.SandboxError, match="apt install bubblewrap"):
        sandbox.require()
    assert not sandbox.available()
    sandbox.require.cache_clear()


def test_forbidden_namespaces_are_told(tmp_path, monkeypatch):
    sandbox.require.cache_clear()
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2; exit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(sandbox.SandboxError, match=r"uid map: Permission denied.*AppArmor"):
        sandbox.require()
    sandbox.require.cache_clear()
