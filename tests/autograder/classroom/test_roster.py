"""Rosters as Canvas and Moodle write them, and grades in their form."""

import csv

import pytest

from autograder.classroom.roster import Roster, Student, missing, write

CANVAS = """\ufeffStudent,ID,SIS User ID,SIS Login ID,Section,Unit 01 (5),Unit 02: magnitude (771),Current Score
    Points Possible,,,,,10,20,(read only)
"Lovelace, Ada",101,S1,ada,A,9,,
"O'Neil, 名",102,S2,bob,A,,,
"Student, Test",103,,x9,,,,
"""
PARTICIPANTS = """First name,Surname,ID number,Email address
Ada,Lovelace,S1,ada@x.org
Bob,,S2,bob@x.org
"""
WORKSHEET = """Identifier,Full name,Email address,Status,Grade,Maximum Grade,Feedback comments
Participant 71,Ada King Lovelace,ada@x.org,Submitted,,20.00,
Participant 72,Bob,bob@x.org,,-,20.00,
"""
OWN = "id;first_name;last_name;email\nada;Ada;Lovelace;a@x.org\n"


@pytest.fixture
def read(tmp_path):
    """Reads a roster from text."""

    def read(text, key=None):
        path = tmp_path / "roster.csv"
        path.write_text(text, encoding="utf-8")
        return Roster.read(path, key)

    return read


def people(roster):
    return [student for _, student in roster.students()]


def test_each_form_is_understood(read):
    assert people(read(CANVAS)) == [Student("ada", "Ada", "Lovelace", ""), Student("bob", "名", "O'Neil", "")]
    assert people(read(CANVAS, "ID"))[0].id == "101"
    assert people(read(PARTICIPANTS)) == [Student("S1", "Ada", "Lovelace", "ada@x.org"), Student("S2", "Bob", "", "bob@x.org")]
    assert people(read(WORKSHEET, "Identifier")) == [
        Student("71", "Ada King", "Lovelace", "ada@x.org"),
        Student("72", "", "Bob", "bob@x.org"),
    ]
    assert people(read(OWN)) == [Student("ada", "Ada", "Lovelace", "a@x.org")]
    assert people(read("Student,ID,SIS Login ID\nAda,101,\n"))[0].id == "101"  # a column that is empty is none


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        ("", None, "must have one of the columns"),
        ("a,b\n1,2\n", None, "with a, b"),
        (CANVAS, "Matricule", "a column Matricule"),
        ("id\nada\nada\n", None, "got ada again"),
    ],
)
def test_what_is_no_roster_is_said(read, text, key, says):
    with pytest.raises(ValueError, match=says):
        read(text, key)


def table(tmp_path, roster, **options):
    """What is written for a unit, as a platform reads it."""
    write(tmp_path / "out.csv", *roster.graded("02_magnitude", {"ada": 15.5, "71": 15.5, "S1": 15.5}, 20.0, **options))
    with open(tmp_path / "out.csv", encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_canvas_gets_its_columns_and_the_units_points(read, tmp_path):
    head, *rows = table(tmp_path, read(CANVAS))
    assert head == ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", "Unit 02: magnitude (771)"]
    assert [row[-1] for row in rows] == ["20.0", "15.5", "", ""]
    assert rows[1][:3] == ["Lovelace, Ada", "101", "S1"]
    assert table(tmp_path, read(CANVAS), column="Other (9)")[0][-1] == "Other (9)"


def test_moodle_gets_its_worksheet_and_others_a_new_column(read, tmp_path):
    rows = table(tmp_path, read(WORKSHEET, "Identifier"))
    assert [row[4:6] for row in rows] == [["Grade", "Maximum Grade"], ["15.5", "20.0"], ["", "20.0"]]
    assert [row[-1] for row in table(tmp_path, read(PARTICIPANTS))] == ["02_magnitude", "15.5", ""]


def test_a_name_that_is_a_formula_is_text(read, tmp_path):
    rows = table(tmp_path, read("id,name\n=1+1,=cmd|x\n-5,-\n"))
    assert rows[1:] == [["'=1+1", "'=cmd|x", ""], ["-5", "-", ""]]


def test_a_roster_is_kept_as_it_came(read, tmp_path):
    roster = read(CANVAS, "ID")
    roster.keep(tmp_path / "kept.json")
    assert Roster.kept(tmp_path / "kept.json") == roster


def test_who_is_not_in_the_roster(read):
    assert missing(read(OWN), ["eve", "ada"]) == ["eve"]
