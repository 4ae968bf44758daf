"""Verdicts are kept under exactly what they depend on, whole or not at all."""

import importlib.util
import json
import os
import shutil
import signal
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import autograder
from autograder.exercises import exercises_of, find
from autograder.judge import store as store_module
from autograder.judge.judge import Job, Judgement
from autograder.judge.store import Store, exercise_key, fingerprint, job_key, notebook_key, version, write_whole
from autograder.lessons.layout import grade_id
from autograder.sandbox.bubblewrap import Limits

UNIT = "02_magnitude"
EXERCISES = exercises_of(UNIT)
IDS = tuple(exercise.id for exercise in EXERCISES)
PROJECT = Path(autograder.__file__).parents[1]


def cells() -> list:
    """An import, then for each exercise its answer, a cell of the student's own, and the check; last a plot."""
    made = [new_code_cell("import torch", id="imports")]
    for exercise in EXERCISES:
        name = grade_id(exercise)
        made += [new_code_cell(f"def {exercise.defines}(): ...", id=name), new_code_cell("1 + 1", id=f"extra-{name}")]
        made += [new_markdown_cell("Now check it.", id=f"text-{name}"), new_code_cell("check()", id=f"{name}-check")]
    return [*made, new_code_cell("plot()", id="plot")]


def job(made: list | None = None, **changes) -> Job:
    notebook = nbformat.writes(new_notebook(cells=cells() if made is None else made))
    return replace(Job(UNIT, notebook, {"data.csv": b"1"}, "seed", IDS), **changes)


def keys() -> list[str]:
    """Of the notebook, then of each exercise."""
    return [notebook_key(job()), *(exercise_key(job(), id) for id in IDS)]


def with_cell(id: str, **changes) -> Job:
    made = cells()
    next(cell for cell in made if cell.id == id).update(changes)
    return job(made)


def changed(a: Job, b: Job) -> list[str]:
    """Exercises whose keys differ."""
    return [id for id in IDS if exercise_key(a, id) != exercise_key(b, id)]


def name(i: int) -> str:
    return grade_id(EXERCISES[i])


def test_keys_are_stable_and_all_different():
    keys = [exercise_key(job(), id) for id in IDS] + [notebook_key(job()), job_key(job())]
    assert len(set(keys)) == len(keys)
    assert keys[0] == exercise_key(job(), IDS[0])
    assert all(len(key) == 64 and set(key) <= set("0123456789abcdef") for key in keys)


@pytest.mark.parametrize("i", range(len(IDS)))
@pytest.mark.parametrize("kind", ["{}", "extra-{}"])
def test_code_counts_for_its_check_and_those_after_it(i, kind):
    other = with_cell(kind.format(name(i)), source="something_else()")
    assert changed(job(), other) == list(IDS[i:])
    assert notebook_key(job()) != notebook_key(other)


def test_code_after_the_last_check_counts_for_the_notebook_only():
    other = with_cell("plot", source="plot(2)")
    assert changed(job(), other) == []
    assert notebook_key(job()) != notebook_key(other)
    assert job_key(job()) != job_key(other)


def test_a_check_cell_counts_for_later_ones_only():
    assert changed(job(), with_cell(f"{name(2)}-check", source="check(2)")) == list(IDS[3:])


def test_where_code_stands_counts():
    made = cells()
    made[1], made[2] = made[2], made[1]
    assert changed(job(), job(made)) == list(IDS)
    made = cells()
    made[0].source, made[1].source = made[0].source + "\n" + made[1].source, ""
    assert changed(job(), job(made)) == list(IDS)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": "another"},
        {"files": {"data.csv": b"2"}},
        {"files": {"other.csv": b"1"}},
        {"files": {}},
        {"sandboxed": False},
    ],
    ids=str,
)
def test_what_counts_for_every_exercise(changes):
    other = job(**changes)
    assert changed(job(), other) == list(IDS)
    assert (notebook_key(job()) == notebook_key(other)) == ("seed" in changes)  # cells see no hidden case


def test_what_counts_for_nothing():
    made = cells()
    for cell in made:
        cell.metadata["collapsed"] = True
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [nbformat.v4.new_output("stream", text="x")], 7
        else:
            cell.source = "other words"
    others = [job(made), job(limits=Limits(memory=1)), job(hide=("/a",)), job(files=dict([("data.csv", b"1")]))]
    for other in others:
        assert job_key(other) == job_key(job())
    two = {"a": b"1", "b": b"2"}
    assert job_key(job(files=two)) == job_key(job(files=dict(reversed(two.items()))))


@pytest.mark.parametrize("attribute", ["python_version", "torch"])
def test_another_python_or_torch_counts(attribute, monkeypatch):
    before = keys()
    if attribute == "torch":
        monkeypatch.setattr(store_module.torch, "__version__", "99.0")
    else:
        monkeypatch.setattr(store_module.platform, "python_version", lambda: "9.9")
    assert not set(keys()) & set(before)


def test_the_version_of_a_module_counts_for_what_it_judges(monkeypatch):
    def keys_with(changed):
        monkeypatch.setattr(store_module, "version", lambda module: f"of {module}, {module == changed}")
        return keys()

    modules = ["autograder.judge.judge", *(exercise.stages[0].cases.__module__ for exercise in EXERCISES)]
    before = keys_with("none")
    for changed in modules:
        different = [a != b for a, b in zip(keys_with(changed), before, strict=True)]
        assert different == [module == changed for module in modules]


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A copy of the project's source, which is what versions are computed from."""
    for package in ("autograder", "sparsity_edu"):
        shutil.copytree(PROJECT / package, tmp_path / package, ignore=lambda d, names: [n for n in names if n == "__pycache__"])
    real = importlib.util.find_spec

    def in_the_copy(name, *args):
        spec = real(name, *args)
        if spec and spec.origin and Path(spec.origin).is_relative_to(PROJECT):
            return ModuleSpec(name, None, origin=str(tmp_path / Path(spec.origin).relative_to(PROJECT)))
        return spec

    monkeypatch.setattr(importlib.util, "find_spec", in_the_copy)
    version.cache_clear()
    yield tmp_path
    version.cache_clear()


def edit(path: Path) -> None:
    path.write_text(path.read_text(encoding="utf-8") + "\n# changed\n", encoding="utf-8")
    version.cache_clear()


def touched_by(source: Path, file: str) -> set[str]:
    """Exercises of the course with another key after a change to a file."""
    modules = {id: find(id).stages[0].cases.__module__ for id in (*IDS, "patterns.n_m", "patterns.bitmap")}
    before = {id: version(module) for id, module in modules.items()}
    edit(source / file)
    return {id for id, module in modules.items() if version(module) != before[id]}


@pytest.mark.parametrize("id", [*IDS, "patterns.n_m"])
def test_an_exercises_source_counts_for_itself(source, id):
    file = find(id).stages[0].cases.__module__.replace(".", "/") + ".py"
    assert touched_by(source, file) == {id}


def test_mistakes_in_a_second_file_count_for_their_exercise(source):
    module = find("wanda.model").stages[0].cases.__module__
    before = version(module)
    edit(source / f"{module.replace('.', '/')}_mistakes.py")
    assert version(module) != before


@pytest.mark.parametrize(
    "file",
    [
        *(f"inside/{name}" for name in ("runner", "use", "outcome", "observe", "recipes", "case", "wire")),
        *(
            f"checking/{name}"
            for name in ("verdict", "score", "known", "outcomes", "recognise", "traffic", "naming", "compare", "exercise")
        ),
        "learner/report",
        "judge/flags",
    ],
)
def test_the_judges_own_source_counts_for_all(source, file):
    assert touched_by(source, f"autograder/{file}.py") == {*IDS, "patterns.n_m", "patterns.bitmap"}


def test_a_module_counts_for_those_that_import_it(source):
    assert touched_by(source, "autograder/exercises/magnitude/fixtures.py") < {*IDS}
    assert "magnitude.iterative" in touched_by(source, "autograder/exercises/magnitude/fixtures.py")
    assert {"magnitude.prune", "patterns.n_m"} <= touched_by(source, "sparsity_edu/patterns.py")  # one of them indirectly
    assert touched_by(source, "sparsity_edu/weights/magnitude.py") <= {*IDS}


@pytest.mark.parametrize("file", ["autograder/cli.py", "sparsity_edu/cli/prune.py", "autograder/classroom/export.py"])
def test_what_no_exercise_imports_counts_for_none(source, file):
    assert touched_by(source, file) == set()


def judgement(ids=IDS, cut_short=(), incidents=(), points=1.0) -> Judgement:
    verdicts = {id: {"id": id, "points": points, "flags": ["é"], "cut_short": id in cut_short} for id in ids}
    outputs = {"imports": [{"output_type": "stream", "name": "stdout", "text": "hé\n"}], "plot": []}
    score = {"output_type": "execute_result", "data": {"text/plain": f"{points:g}"}, "metadata": {}, "execution_count": None}
    shown = {"output_type": "display_data", "data": {"text/plain": "shown"}}
    outputs |= {f"{grade_id(find(id))}-check": [shown, score] for id in ids}
    return Judgement(verdicts, outputs, list(incidents), 2.5)


def test_a_fingerprint_is_of_what_was_judged_what_was_found_and_what_was_told():
    prints = [fingerprint(job(), judgement(), []), fingerprint(with_cell("plot", source="plot(2)"), judgement(), [])]
    prints += [fingerprint(job(), judgement(points=2.0), []), fingerprint(job(), judgement(), ["a file was left out"])]
    assert len(set(prints)) == 4
    assert fingerprint(job(), judgement(), []) == prints[0]


def test_there_and_back(tmp_path):
    store = Store(tmp_path / "verdicts")
    assert store.get(job()) is None
    assert store.open_questions(job()) == job()
    store.put(job(), judgement())
    assert Store(tmp_path / "verdicts").get(job()) == judgement()
    assert store.open_questions(job()) is None


def test_only_what_has_changed_is_asked_again(tmp_path):
    store = Store(tmp_path)
    store.put(job(), judgement())
    other = with_cell(name(3), source="better()")
    questions = store.open_questions(other)
    assert questions == replace(other, exercises=IDS[3:])
    store.put(questions, judgement(IDS[3:], points=2.0))
    points = {id: verdict["points"] for id, verdict in store.get(other).verdicts.items()}
    assert points == {id: 1.0 if id in IDS[:3] else 2.0 for id in IDS}
    assert store.get(other).outputs.keys() == judgement().outputs.keys()
    assert store.get(job()) == judgement()  # the earlier submission is still known


def test_only_the_cells_run_again_after_a_change_behind_the_checks(tmp_path):
    store = Store(tmp_path)
    store.put(job(), judgement())
    other = with_cell("plot", source="plot(2)")
    assert store.get(other) is None
    assert store.open_questions(other) == replace(other, exercises=())


def test_nothing_of_another_student_is_taken(tmp_path):
    store = Store(tmp_path)
    store.put(job(), judgement())
    assert store.open_questions(job(seed="bob's")).exercises == IDS


def test_what_was_cut_short_counts_for_this_very_notebook_only(tmp_path):
    store = Store(tmp_path)
    cut = judgement(cut_short=IDS[:2], incidents=["The notebook was stopped."])
    store.put(job(), cut)
    assert store.get(job()) == cut
    assert store.open_questions(job()) is None
    repaired = with_cell("plot", source="pass")  # cells after a check may be what ended its snapshots
    assert store.open_questions(repaired).exercises == IDS[:2]
    store.put(store.open_questions(repaired), judgement(IDS[:2], points=3.0))
    assert [store.get(repaired).verdicts[id]["points"] for id in IDS[:3]] == [3.0, 3.0, 1.0]


def test_retry_asks_again_what_was_cut_short(tmp_path):
    Store(tmp_path).put(job(), judgement(cut_short=IDS[1:2], incidents=["The notebook was stopped."]))
    retrying = Store(tmp_path, retry=True)
    assert retrying.get(job()) is None
    assert retrying.open_questions(job()).exercises == IDS[1:2]
    retrying.put(retrying.open_questions(job()), judgement(IDS[1:2], points=3.0))
    assert retrying.open_questions(job()) is None
    assert retrying.get(job()) == Store(tmp_path).get(job())
    assert [verdict["points"] for verdict in retrying.get(job()).verdicts.values()][:3] == [1.0, 3.0, 1.0]
    assert retrying.get(job()).incidents == []


def test_retry_leaves_alone_what_was_not(tmp_path):
    Store(tmp_path).put(job(), judgement())
    assert Store(tmp_path, retry=True).open_questions(job()) is None


def test_any_file_may_go_or_be_cut(tmp_path):
    store = Store(tmp_path)
    store.put(job(), judgement())
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == len(IDS) + 1
    for path in files:
        whole = path.read_bytes()
        for damaged in (whole[: len(whole) // 2], whole[:-1], b"", b"\xff\xfe\x00"):
            path.write_bytes(damaged)
            assert store.get(job()) is None
            assert len(store.open_questions(job()).exercises) <= 1
        path.unlink()
        assert store.get(job()) is None
        path.write_bytes(whole)
    assert store.get(job()) == judgement()


SHOWN = {"output_type": "display_data", "data": {"text/plain": "1"}}


@pytest.mark.parametrize(
    "outputs",
    [
        [],
        None,
        [SHOWN],
        [{"output_type": "stream", "name": "stdout", "text": "1"}],
        *([SHOWN, {"output_type": "execute_result", "data": data}] for data in ({}, *({"text/plain": text} for text in
          ("", "nan", "-1", "ok", "2", "inf", None, 1)))),
        [{"output_type": "execute_result", "data": {"text/plain": "1"}}] * 2,
        [{"output_type": "error"}, {"output_type": "execute_result", "data": {"text/plain": "1"}}],
        ["text", {"output_type": "execute_result", "data": {"text/plain": "1"}}],
    ],
    ids=str,
)  # fmt: skip
def test_a_verdict_whose_outputs_are_not_its_points_is_refused(tmp_path, outputs):
    """nbgrader takes a check without outputs for full points."""
    store = Store(tmp_path)
    store.put(job(), judgement())
    key = exercise_key(job(), IDS[1])
    path = tmp_path / key[:2] / f"{key}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"outputs": outputs}))
    assert store.get(job()) is None
    assert store.open_questions(job()).exercises == IDS[1:2]


@pytest.mark.parametrize("points", [float("nan"), -1, None, "1"])
def test_a_verdict_without_points_is_refused(tmp_path, points):
    store = Store(tmp_path)
    store.put(job(), judgement(points=1.0))
    key = exercise_key(job(), IDS[1])
    path = tmp_path / key[:2] / f"{key}.json"
    entry = json.loads(path.read_text())
    path.write_text(json.dumps(entry | {"verdict": entry["verdict"] | {"points": points}}))
    assert store.open_questions(job()).exercises == IDS[1:2]


@pytest.mark.parametrize("before", [None, "old"])
@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_write_that_is_killed_leaves_what_was_there(tmp_path, before, moment):
    path = tmp_path / "entry.json"
    if before:
        write_whole(path, before)
    if (child := os.fork()) == 0:
        try:
            at = os if moment == "fsync" else Path
            setattr(at, moment, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            write_whole(path, "x" * 10**6)
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert (path.read_text() if path.exists() else None) == before
    write_whole(path, "é")
    assert path.read_text(encoding="utf-8") == "é"


def test_entries_are_plain_json(tmp_path):
    store = Store(tmp_path)
    store.put(job(), judgement())
    key = exercise_key(job(), IDS[0])
    entry = json.loads((tmp_path / key[:2] / f"{key}.json").read_text())
    assert entry["verdict"] == judgement().verdicts[IDS[0]]
