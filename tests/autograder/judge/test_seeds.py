"""The course's secret, and the seeds that are made of it."""

import os
import stat
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autograder.exercises import all_exercises
from autograder.judge import seeds
from autograder.judge.seeds import secret_of, seed_for, seed_of_answer

SECRET = bytes(range(32))


def test_a_secret_is_made_once_for_its_owner_only(tmp_path):
    previous = os.umask(0)
    try:
        secret = secret_of(tmp_path / "grading")
    finally:
        os.umask(previous)
    path = tmp_path / "grading" / "secret"
    assert len(secret) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    written = path.read_bytes()
    assert secret_of(tmp_path / "grading") == secret
    assert path.read_bytes() == written
    assert os.listdir(tmp_path / "grading") == ["secret"]


def test_two_courses_have_two_secrets(tmp_path):
    assert secret_of(tmp_path / "a") != secret_of(tmp_path / "b")


def test_a_secret_that_is_there_is_never_overwritten(tmp_path):
    path = tmp_path / "secret"
    path.write_text("ab" * 32)
    path.chmod(0o600)
    assert secret_of(tmp_path) == b"\xab" * 32
    path.chmod(0o400)
    assert secret_of(tmp_path) == b"\xab" * 32


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o644, 0o777])
def test_a_secret_that_others_can_read_is_refused(tmp_path, mode):
    path = tmp_path / "secret"
    path.write_text("ab" * 32)
    path.chmod(mode)
    with pytest.raises(PermissionError, match="chmod 600"):
        secret_of(tmp_path)


@pytest.mark.parametrize("content", ["", "ab", "no hexadecimal digits"])
def test_a_secret_that_is_none_is_refused(tmp_path, content):
    path = tmp_path / "secret"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(ValueError):  # noqa: PT011 - any, rather than seeds that everybody can compute
        secret_of(tmp_path)
    assert path.read_text() == content


def test_a_process_that_was_killed_while_it_wrote_leaves_no_secret(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(seeds.os, "link", killed)
        with pytest.raises(KeyboardInterrupt):
            secret_of(tmp_path)
    assert not (tmp_path / "secret").exists()
    assert len(secret_of(tmp_path)) == 32


def test_who_comes_second_takes_the_firsts_secret(tmp_path, monkeypatch):
    link = os.link

    def too_late(draft, path):
        path.write_text("cd" * 32)
        path.chmod(0o600)
        link(draft, path)

    monkeypatch.setattr(seeds.os, "link", too_late)
    assert secret_of(tmp_path) == b"\xcd" * 32
    assert os.listdir(tmp_path) == ["secret"]


def test_processes_at_once_agree(tmp_path):
    program = """if True:
        import importlib.util, pathlib, sys, time
        spec = importlib.util.spec_from_file_location("seeds", sys.argv[1])
        seeds = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(seeds)
        folder = pathlib.Path(sys.argv[2])
        print("ready", flush=True)
        sys.stdin.readline()
        print(*[seeds.secret_of(folder / str(i)).hex() for i in range(40)])
    """
    command = [sys.executable, "-c", program, seeds.__file__, str(tmp_path)]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(3)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[0].split() for process in processes]
    assert said[0] == said[1] == said[2]
    assert len(set(said[0])) == 40


def test_a_seed_stays_as_it_is():
    # hmac-sha256 of "02_magnitude/ann" by openssl: a change here changes every student's hidden cases in mid-course
    key = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
    assert bytes.fromhex(key) == SECRET
    assert seed_for("ann", "02_magnitude", SECRET) == "4c2d0e16079bb2154bbf09f8b5d53c0f13c3b48b5e7f16864b6bd53e69d2d12e"


def test_every_hand_in_is_asked_something_else_and_the_same_one_the_same():
    code, files = [("prune", "def prune(W): return W")], {"data.csv": "5ec2"}
    seed = seed_of_answer("ann's", code, files)
    assert seed == seed_of_answer("ann's", list(code), dict(files))
    changed = [("prune", "def prune(W): return W  # again")]
    others = [seed_of_answer("bob's", code, files), seed_of_answer("ann's", changed, files), seed_of_answer("ann's", code, {})]
    assert len({seed, *others}) == 4


ids = st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), min_size=1, max_size=9)


@given(ids, ids, ids, ids, st.binary(min_size=32, max_size=32))
def test_each_student_unit_and_secret_has_its_own(student, other, unit, other_unit, secret):
    seed = seed_for(student, unit, secret)
    assert seed == seed_for(student, unit, secret)
    assert len(seed) == 64
    assert (seed == seed_for(other, unit, secret)) == (student == other)
    assert (seed == seed_for(student, other_unit, secret)) == (unit == other_unit)
    assert (seed == seed_for(student, unit, SECRET)) == (secret == SECRET)
    assert secret.hex() not in seed


def test_a_name_of_bytes_that_are_no_utf8_has_a_seed():
    assert seed_for(os.fsdecode(b"ren\xe9"), "u", SECRET) != seed_for(os.fsdecode(b"ren\xe8"), "u", SECRET)


@pytest.mark.parametrize("exercise", all_exercises(), ids=lambda exercise: exercise.id)
def test_every_exercise_draws_other_cases_for_another_student(exercise):
    def cases(student):
        return [str(vars(c)) for s in exercise.stages for c in exercise.cases(s, seed_for(student, "u", SECRET))]

    assert cases("ann") == cases("ann")
    assert cases("ann") != cases("bob")
