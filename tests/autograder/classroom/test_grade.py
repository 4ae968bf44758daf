"""A class graded at once: what is done once is not done twice, and an interruption loses nothing."""

import contextlib
import csv
import json
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import time

import dask
import nbformat
import psutil
import pytest
from conftest import POINTS, UNIT, grade, gradebook_rows
from distributed import LocalCluster
from nbgrader.api import Gradebook

from autograder.classroom import demo
from autograder.classroom import grade as module
from autograder.classroom.results import results, statistics
from autograder.classroom.workers import prepare_workers
from autograder.judge.judge import Judgement
from autograder.judge.store import Store
from autograder.lessons.layout import notebook_path
from autograder.sandbox.bubblewrap import require
from tests.courses import make_course

pytestmark = pytest.mark.usefixtures("sandbox")


def of_class(root):
    return results(root, UNIT, f"sqlite:///{root}/grading/gradebook.db")


def in_a_process(root, *arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "autograder", *arguments], cwd=root, capture_output=True, text=True, timeout=300, **options
    )


def test_the_log_has_a_line_per_event(graded):
    lines = (graded[0] / "grading" / "log" / f"{UNIT}.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    for event in ("judged", "autograded"):
        assert {line["student"] for line in events if line["event"] == event} == set(POINTS)


def test_statistics_name_the_most_common_mistake(graded):
    rows = {row.id: row for row in statistics(of_class(graded[0]))}
    assert rows["magnitude.prune"].passed == 5
    assert "not |W|" in rows["magnitude.prune"].misconception
    assert rows["magnitude.sparsity"].started == 6


def test_a_second_run_judges_and_writes_nothing(graded, monkeypatch):
    root, _ = graded
    monkeypatch.setattr(module, "judge", None)
    monkeypatch.setattr("distributed.LocalCluster", lambda *_, **__: pytest.fail("judged again"))
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.*") if path.suffix in (".ipynb", ".html")}
    grade(root)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_explain_says_what_was_lost_and_export_writes_it_down(graded, autograder, monkeypatch):
    root, _ = graded
    monkeypatch.chdir(root)
    _, told, _ = autograder("explain", "signed-weights", UNIT)
    assert "17 of 20 points" in told
    assert "not |W|" in told
    assert autograder("explain", "2", "signed-weights")[1] == told
    assert autograder("explain", "02")[1].count(" of 20 points") == len(POINTS)
    with Gradebook(f"sqlite:///{root}/grading/gradebook.db") as gradebook:
        assert gradebook.find_student("signed-weights").last_name == "signed-weights"  # the Formgrader shows no "None, None"
    code, _, error = autograder("explain", "nobody", UNIT)
    assert (code, "nobody" in error) == (1, True)
    assert autograder("export", UNIT, "--exercises", "--to", "grades.csv", "--force")[0] == 0
    with open(root / "grades.csv", newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 * len(POINTS)
    assert sum(float(row["points"]) for row in rows) == sum(POINTS.values())


def test_nbgrader_itself_gives_the_same_scores(graded, tmp_path):
    root = make_course(tmp_path / "course", ["signed-weights"])
    run = ["nbgrader", "generate_assignment", UNIT, "--create", "--CourseDirectory.release_directory=grading/release"]
    for command in (run, ["nbgrader", "autograde", UNIT, "--create"]):
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    assert gradebook_rows(root) == [row for row in gradebook_rows(graded[0]) if row[0] == "signed-weights"]


@pytest.mark.parametrize("left", [0, 2, -1])
def test_a_unit_that_was_registered_by_halves_is_registered_again(tmp_path, left):
    """nbgrader writes cell by cell: the notebook is there without any, with two, or with all but the last."""
    root = make_course(tmp_path / "course")
    run = module.ClassRun(root, UNIT, demo.course_config(root))

    def cells(gradebook):
        notebook = gradebook.find_notebook("magnitude", UNIT)
        return [*notebook.grade_cells, *notebook.solution_cells, *notebook.source_cells]  # in the order of writing

    def names():
        with Gradebook(f"sqlite:///{root}/grading/gradebook.db") as gradebook:
            return sorted((type(cell).__name__, cell.name) for cell in cells(gradebook))

    run.prepare()
    whole = names()
    with Gradebook(f"sqlite:///{root}/grading/gradebook.db") as gradebook:
        for cell in cells(gradebook)[left:]:
            gradebook.db.delete(cell)
        gradebook.db.commit()
    assert names() != whole
    run.prepare()
    assert names() == whole


@pytest.mark.parametrize("jobs", [1, 3])
def test_as_many_are_judged_at_once_as_one_asked_for(tmp_path, monkeypatch, jobs):
    root = make_course(tmp_path / "course", POINTS)
    run = module.ClassRun(root, UNIT, demo.course_config(root))
    run.prepare()
    students = [record.student for record in run.take_in()]

    def judge_nothing(_):
        time.sleep(0.5)  # so that no worker takes two at once
        return Judgement({}, {}, [], os.getpid())

    monkeypatch.setattr(module, "judge", judge_nothing)
    workers = set()
    monkeypatch.setattr(Store, "put", lambda _store, _job, judgement: workers.add(judgement.seconds))
    assert [error for _, error in run.judge_all(run.open_questions(students), jobs) if error] == []
    assert len(workers) == jobs


def is_closed(address):
    """Whether a service takes only clients with a certificate, or serves pages and has none."""
    anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    anybody.maximum_version = ssl.TLSVersion.TLSv1_2  # later ones refuse after the handshake
    with socket.create_connection(address, timeout=2) as plain:
        try:
            anybody.wrap_socket(plain).close()
        except OSError as error:  # a plain service may wait for more
            if "HANDSHAKE_FAILURE" in str(error):
                return True
    with contextlib.suppress(OSError), socket.create_connection(address, timeout=2) as browser:
        browser.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return b" 404 " in browser.recv(20)
    return False


def test_nobody_else_can_use_the_workers(tmp_path, monkeypatch):
    root = make_course(tmp_path / "course", ["perfect"])
    run = module.ClassRun(root, UNIT, demo.course_config(root))
    run.prepare()
    seen, entered = set(), []

    def look(*_):
        for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
            seen.update(c.laddr for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN)
        entered.extend(address for address in seen if not is_closed(address))

    monkeypatch.setattr(module, "judge", lambda _: Judgement({}, {}, [], 0.0))
    monkeypatch.setattr(Store, "put", look)
    students = [record.student for record in run.take_in()]
    assert [error for _, error in run.judge_all(run.open_questions(students), 1) if error] == []
    assert seen
    assert {host for host, _ in seen} == {"127.0.0.1"}
    assert entered == []


def test_a_scheduler_without_certificates_is_taken_only_where_one_says_so(tmp_path, autograder, monkeypatch):
    root = make_course(tmp_path / "course")
    monkeypatch.chdir(root)
    code, _, error = autograder("grade", UNIT, "--scheduler", "tcp://10.0.0.1:8786")
    assert code == 1
    assert "--scheduler must be tls://..., got tcp://10.0.0.1:8786" in error
    assert autograder("grade", UNIT, "--scheduler", "tcp://10.0.0.1:8786", "--trust-network")[2].count("no submissions") == 1


def test_a_cluster_that_is_there_judges_the_same(graded, tmp_path):
    prepare_workers()
    root = make_course(tmp_path / "course", ["mask-lost"])
    with dask.config.set(module.SETTINGS), LocalCluster(n_workers=1, **module.LOCAL | {"security": None}) as cluster:
        grade(root, scheduler=cluster.scheduler_address)
    assert gradebook_rows(root) == [row for row in gradebook_rows(graded[0]) if row[0] == "mask-lost"]


def test_what_was_cut_short_is_judged_again_on_request(tmp_path):
    root = make_course(tmp_path / "course", ["signed-weights"])
    path = notebook_path(root / "grading" / "submitted" / "signed-weights", UNIT)
    notebook = nbformat.read(path, as_version=4)
    first = next(cell for cell in notebook.cells if cell.metadata.get("nbgrader", {}).get("solution"))
    first.source = f"import time\n\ntime.sleep(6)\n{first.source}"
    nbformat.write(notebook, path)
    grade(root, submission_seconds=4)
    assert of_class(root)[0].points < 17
    grade(root, retry=True)
    assert of_class(root)[0].points == 17


def test_a_manual_score_survives_a_resubmission_and_is_flagged(tmp_path, autograder, monkeypatch):
    root = make_course(tmp_path / "course", ["blank"])
    run = grade(root)
    with Gradebook(f"sqlite:///{root}/grading/gradebook.db") as gradebook:
        gradebook.find_grade("magnitude-prune-check", "magnitude", UNIT, "blank").manual_score = 3
        gradebook.db.commit()
    path = notebook_path(root / "grading" / "submitted" / "blank", UNIT)
    path.write_text(path.read_text().replace("import copy", "import copy, math as handed_in_again"))  # a resubmission
    run = grade(root)
    page = notebook_path(root / "grading" / "feedback" / "blank", UNIT).with_suffix(".html")
    assert "handed_in_again" in page.read_text(encoding="utf-8")
    [result] = of_class(root)
    assert result.points == 3
    assert [(part.id, part.auto_points) for part in result.exercises if part.manual] == [("magnitude.prune", 0)]
    assert [row[1] for row in gradebook_rows(root) if row[-1]] == ["magnitude-prune-check"]
    monkeypatch.chdir(root)
    assert "a person gave 3 points" in autograder("explain", "blank", UNIT)[1]
    assert run.autograde("blank") == ""


def test_killed_at_any_moment_and_resumed_it_ends_in_the_same_gradebook(graded, tmp_path):
    root = make_course(tmp_path / "course", POINTS)
    moments = random.Random(3)
    for latest in (5, 7, 9, 11, 13):  # seconds: importing, taking in, judging, writing
        running = subprocess.Popen(
            [sys.executable, "-m", "autograder", "grade", UNIT, "--jobs", "2"],
            cwd=root,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            running.wait(moments.uniform(2, latest))
        except subprocess.TimeoutExpired:
            running.send_signal(signal.SIGKILL)
            running.wait()
    last = in_a_process(root, "grade", UNIT, "--json")
    assert last.returncode == 0, last.stderr
    told = {row["student"]: row["points"] for row in json.loads(last.stdout)["submissions"]}
    assert told == POINTS
    assert gradebook_rows(root) == gradebook_rows(graded[0])
    assert _left_behind(root) == []


def test_ctrl_c_says_how_to_go_on(tmp_path):
    root = make_course(tmp_path / "course", ["blank"])
    running = subprocess.Popen(
        [sys.executable, "-m", "autograder", "grade", UNIT],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where tests run in a shell's background
    )
    while not _judges(running):  # while its workers start, it ignores the signal so that they do
        assert running.poll() is None
        time.sleep(0.1)
    os.killpg(running.pid, signal.SIGINT)
    assert "goes on from here" in running.communicate(timeout=60)[0]
    assert running.returncode == 130
    assert _left_behind(root) == []


def test_ctrl_c_is_heard_where_nbgrader_catches_it():
    done, before = [], signal.getsignal(signal.SIGINT)

    def like_nbgrader():
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
            done.append("not interrupted")

    with pytest.raises(KeyboardInterrupt), module.hears_ctrl_c():
        like_nbgrader()
    assert done == []
    assert signal.getsignal(signal.SIGINT) is before


def test_no_submissions_is_told(tmp_path, autograder, monkeypatch):
    monkeypatch.chdir(make_course(tmp_path / "course"))
    code, _, error = autograder("grade", UNIT)
    assert code == 1
    assert "no submissions: put notebooks at" in error.replace("\n", " ")


def test_without_a_sandbox_grading_is_refused_unless_one_insists(tmp_path, autograder, monkeypatch):
    root = make_course(tmp_path / "course", ["signed-weights"])
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "bwrap").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "bin" / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.chdir(root)
    require.cache_clear()
    try:
        # the command itself puts its own programs first, and bubblewrap is not among them
        code, _, error = autograder("grade", UNIT)
        assert code == 1
        assert "student code runs only in a sandbox" in error
        assert gradebook_rows(root) == []
        code, told, error = autograder("grade", UNIT, "--no-sandbox")
        assert code == 0, error
    finally:
        require.cache_clear()
    assert "WITHOUT a sandbox" in told
    assert demo.course_config(root).CourseDirectory.course_id
    [result] = of_class(root)
    assert (result.points, result.sandboxed) == (17, False)
    page = root / "grading" / "feedback" / "signed-weights" / UNIT / "magnitude.html"
    assert "WITHOUT a sandbox" in page.read_text(encoding="utf-8")


def _judges(running):
    """Whether a worker has started a sandbox: one that the command itself starts only tries whether it works."""
    with contextlib.suppress(psutil.NoSuchProcess):
        command = psutil.Process(running.pid)
        own = command.children()
        return any(process.name() == "bwrap" for process in command.children(recursive=True) if process not in own)
    return False


def _left_behind(root):
    """Sandboxes and workers that still run for a course."""
    found = []
    for process in psutil.process_iter(["name", "pid"]):
        try:
            if (
                process.info["name"] in ("bwrap", "python", "python3")
                and str(root) == process.cwd()
                and process.pid != os.getpid()
            ):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found if len(found) > 1 else []
