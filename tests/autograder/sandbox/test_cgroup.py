"""Control groups, with a systemd-run that is none: whether they are believed in, and how a sandbox is started in one."""

import sys

import pytest

from autograder.sandbox import cgroup
from autograder.sandbox.bubblewrap import Limits, launch

FAKE = """#!/bin/sh
echo "$@" >> {log}
while [ "$1" != "--" ]; do shift; done; shift
case "$1" in sh) echo {limit};; *) exec "$@";; esac
"""


@pytest.fixture
def systemd(tmp_path, monkeypatch):
    """Makes a systemd-run under which a limit reads as is said; gives what it was called with."""

    def make(limit: str):
        log, command = tmp_path / "log", tmp_path / "systemd-run"
        command.write_text(FAKE.format(log=log, limit=limit))
        command.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        return log

    cgroup.has_cgroup.cache_clear()
    yield make
    cgroup.has_cgroup.cache_clear()


@pytest.mark.parametrize("read", ["max", "", "123"])
def test_a_limit_that_does_not_hold_is_none(systemd, read):
    systemd(read)
    assert not cgroup.has_cgroup()
    assert cgroup.scope(2**30, 64) == []


def test_a_sandbox_is_started_in_a_group_with_limits(systemd, sandbox):
    log = systemd(str(2**26))
    assert cgroup.has_cgroup()
    process, _ = launch([sys.executable, "-I", "-c", "print('inside')"], {}, None, [], Limits(memory=2**30, processes=10))
    assert process.communicate(timeout=60)[0] == b"inside\n"
    told = log.read_text().splitlines()[-1]
    for limit in ("MemoryMax=1610612736", "MemorySwapMax=0", "TasksMax=104"):
        assert f"-p {limit}" in told


def test_no_systemd_no_group(monkeypatch):
    cgroup.has_cgroup.cache_clear()
    monkeypatch.setenv("PATH", "/nowhere")
    assert not cgroup.has_cgroup()
    cgroup.has_cgroup.cache_clear()
