"""The gradebook in a PostgreSQL database, tried on a real server where one is installed."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from conftest import UNIT, grade, gradebook_rows

from autograder.classroom.results import results
from tests.courses import make_course


def program(name):
    places = [shutil.which(name), *map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))]
    return next((place for place in places if place), None)


@pytest.fixture
def server():
    """A server of our own, on a UNIX socket."""
    if not (program("initdb") and program("pg_ctl")):
        pytest.skip("PostgreSQL is not installed")
    folder = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))  # a socket's path must be short
    command = []
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "nobody")
        command = ["setpriv", "--reuid=nobody", "--clear-groups"]
    environment = os.environ | {"HOME": str(folder), "LC_ALL": "C"}

    def run(*arguments):
        done = subprocess.run([*command, *arguments], env=environment, cwd=folder, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr

    run(program("initdb"), "-D", folder / "data", "-U", "grader", "--auth=trust", "--no-sync")
    options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
    run(program("pg_ctl"), "-D", folder / "data", "-l", folder / "log", "-o", options, "-w", "start")
    try:
        yield f"postgresql+psycopg2://grader@/postgres?host={folder}"
    finally:
        run(program("pg_ctl"), "-D", folder / "data", "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.usefixtures("sandbox")
def test_the_same_rows_as_in_sqlite(server, tmp_path, monkeypatch):
    root = make_course(tmp_path / "course", ["signed-weights", "blank"])
    grade(root)
    shutil.rmtree(root / "grading" / "autograded")
    monkeypatch.setenv("GRADEBOOK_URL", server)
    grade(root)
    assert gradebook_rows(root, server) == gradebook_rows(root) != []
    assert {result.student: result.points for result in results(root, UNIT, server)} == {"blank": 0, "signed-weights": 17}
