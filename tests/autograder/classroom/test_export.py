"""Grades as a spreadsheet gets them, and what a class has reached."""

import csv
import io
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autograder.classroom.export import EXERCISES, SUBMISSIONS, exercise_rows, safe, submission_rows, write_csv
from autograder.classroom.results import ExerciseResult, Result, Statistics, statistics


def part(id="u.a", points=1.0, says="", mistake="", passed=False, started=True, **more) -> ExerciseResult:
    stages = [
        {"passed": True, "exposes": "never", "problem": None},
        {"passed": passed, "exposes": "keep the largest", "problem": None if passed else {"difference": "result: another"}},
    ]
    verdict = {"passed": passed, "started": started, "says": says, "misconception": mistake, "stages": stages}
    return ExerciseResult(id, points, 2.0, points, **{"verdict": verdict, **more})


def result(student="ann", exercises=(), **more) -> Result:
    return Result(student, 3.5, 4.0, 0.5, datetime(2026, 3, 1, 12, 30), list(exercises), **more)


def written(tmp_path, columns, rows) -> list[list[str]]:
    path = tmp_path / "grades.csv"
    rows = list(rows)
    assert write_csv(path, columns, rows) == len(rows)
    return list(csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")))


FORMULAS = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\tx",
    "\rx",
    "\nx",
    " =1",
    "  \n =1",
    "|calc",
    "%0A",
    "\xa0=1",
    "\u2003-1",
    "\x00=1",
]
FORMULAS += [
    '=HYPERLINK("http://x","y")',
    "=cmd|' /C calc'!A0",
    "＝1+1",
    "＋1",
    "－1",
    "＠x",
    "\u202e=1",
    "\ufeff=1",
    "\u200b+1",
    "\x0b@x",
]


@pytest.mark.parametrize("text", FORMULAS, ids=ascii)
def test_no_text_is_a_formula(text):
    assert safe(text) == "'" + text


@pytest.mark.parametrize(
    "text", ["", "ann", "a=b", "x@y.org", "1-2", "magnitude.prune", "'=1", "é😀", " a", "50 %", "was not judged"]
)
def test_other_text_is_as_it_was(text):
    assert safe(text) == text


@pytest.mark.parametrize("number", [0, -1, 2.5, -0.25, 1e-9])
def test_numbers_stay_numbers(number):
    assert safe(number) is number


def test_what_is_neither_text_nor_number():
    assert [safe(True), safe(False), safe(None)] == ["yes", "no", ""]


@given(st.text())
def test_text_is_kept_whole(text):
    assert safe(text).removeprefix("'") == text.removeprefix("'")
    assert not safe(text).lstrip().startswith(("=", "+", "-", "@", "|"))


def test_the_file_is_marked_as_utf8_and_quotes_all_text_but_no_number(tmp_path):
    path = tmp_path / "x.csv"
    write_csv(path, ["student", "points"], [{"student": "José", "points": -2.5}])
    assert path.read_bytes() == b'\xef\xbb\xbf"student","points"\r\n"Jos\xc3\xa9",-2.5\r\n'


NAMES = [
    "../../etc",
    "a,b",
    'say "hi"',
    "two\nlines",
    "two\r\nlines",
    "a;b\tc",
    "\u202egnp.exe",
    "ann\u2066",
    "\x1b[31m",
    "名前",
    "x" * 9000,
]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:20])
def test_any_name_stays_in_its_cell(tmp_path, name):
    rows = written(tmp_path, SUBMISSIONS, submission_rows("u", [result(name), result("next")]))
    assert [row[0] for row in rows] == ["student", name, "next"]
    assert {len(row) for row in rows} == {len(SUBMISSIONS)}


texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(texts, texts, st.floats(allow_nan=False, allow_infinity=False))
def test_what_is_written_is_read(tmp_path_factory, a, b, number):
    folder = tmp_path_factory.getbasetemp()
    [_, row] = written(folder, ["a", "b", "c"], [{"a": a, "b": b, "c": number}])
    assert row == [safe(a), safe(b), str(number)]
    assert float(row[2]) == number


def test_a_row_per_submission(tmp_path):
    class_ = [
        result(
            "ann",
            [part("u.a", manual=True), part("u.b"), part("u.c", manual=True)],
            notes=["=late", "renamed"],
            flags=["a copy?"],
            name="Ann Onym",
        ),
        Result("bob", 0.0, 4.0, 0.0, None, [], sandboxed=False),
    ]
    rows = written(tmp_path, SUBMISSIONS, submission_rows("01_u", class_))
    assert rows[0] == list(SUBMISSIONS)
    assert rows[1] == [
        "ann",
        "Ann Onym",
        "01_u",
        "3.5",
        "4.0",
        "0.5",
        "2026-03-01T12:30:00",
        "u.a u.c",
        "yes",
        "'=late; renamed",
        "a copy?",
    ]
    assert rows[2] == ["bob", "", "01_u", "0.0", "4.0", "0.0", "", "", "no", "", ""]


def test_a_row_per_exercise(tmp_path):
    exercises = [
        part("u.a", 2.0, passed=True),
        part("u.b", 1.5, says="You keep the smallest.", mistake="inverted", manual=True),
        part("u.c", 0.0, started=False),
        ExerciseResult("u.d", 0.0, 2.0, None),
        part("u.e"),
    ]
    rows = written(tmp_path, EXERCISES, exercise_rows("01_u", [result("ann", exercises), result("bob")]))
    assert rows == [
        list(EXERCISES),
        ["ann", "01_u", "u.a", "2.0", "2.0", "2.0", "no", "yes", "", ""],
        ["ann", "01_u", "u.b", "1.5", "2.0", "1.5", "yes", "no", "inverted", "You keep the smallest."],
        ["ann", "01_u", "u.c", "0.0", "2.0", "0.0", "no", "no", "", "not started"],
        ["ann", "01_u", "u.d", "0.0", "2.0", "", "no", "no", "", "was not judged"],
        ["ann", "01_u", "u.e", "1.0", "2.0", "1.0", "no", "no", "", "keep the largest"],
    ]


def test_no_submissions_give_a_header_only(tmp_path):
    assert written(tmp_path, EXERCISES, exercise_rows("u", [])) == [list(EXERCISES)]


def test_the_sentence_that_would_help():
    raised = part()
    raised.verdict["stages"][1]["problem"]["difference"] = "the call: expected no error, got KeyError: 'x'"
    assert raised.sentence == "the call: expected no error, got KeyError: 'x'"
    assert result(exercises=[part("u.a", passed=True), part("u.b")]).advice == [("u.b", "keep the largest")]


def test_statistics_of_a_class():
    class_ = [
        result("a", [part("u.a", 2.0, passed=True), part("u.b", 0.0, says="You invert.", mistake="declared")]),
        result("b", [part("u.a", 1.0, says="You add.", mistake="declared"), part("u.b", 1.0, says="You square.")]),
        result("c", [part("u.a", 0.0, started=False), part("u.b", 0.5, says="You invert.", mistake="declared")]),
        result("d", [ExerciseResult("u.a", 0.0, 2.0, None), ExerciseResult("u.b", 2.0, 2.0, None, manual=True)]),
    ]
    assert statistics(class_) == [
        Statistics("u.a", 4, 1, 2, 0.75, 2.0, "You add.", 1),
        Statistics("u.b", 4, 0, 3, 0.875, 2.0, "You invert.", 2),
    ]


def test_statistics_of_hardly_anything():
    assert statistics([]) == []
    assert statistics([result()]) == []
    assert statistics([result(exercises=[part(passed=True)])]) == [Statistics("u.a", 1, 1, 1, 1.0, 2.0, "", 0)]
    nobody = [result(exercises=[ExerciseResult("u.a", 0.0, 2.0, None)])] * 2
    assert statistics(nobody) == [Statistics("u.a", 2, 0, 0, 0.0, 2.0, "", 0)]


def test_statistics_refuse_submissions_to_different_units():
    with pytest.raises(ValueError, match="shorter"):
        statistics([result(exercises=[part("u.a"), part("u.b")]), result(exercises=[part("u.a")])])
