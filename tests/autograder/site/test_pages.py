"""What pages are made of: stubs, links, prose, papers, terms, results, badges."""

import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell

from autograder.exercises import UNITS, exercises_of
from autograder.lessons.beyond import explanations
from autograder.lessons.layout import ELSEWHERE, course_root, notebook_path
from autograder.lessons.opening import builds_on
from autograder.site import library, results, units
from autograder.site.alternatives import in_words
from autograder.site.course_map import listing, read_course
from autograder.site.glossary import Glossary
from autograder.site.links import rewrite
from autograder.site.mathml import formula
from autograder.site.papers import read_papers
from autograder.site.prose import docstring_markdown, rows

ROOT = course_root(Path(__file__).parent)
PAPERS = read_papers(ROOT)


@pytest.fixture(scope="module")
def course():
    return read_course(ROOT, library.techniques(ROOT))


def test_a_stub_keeps_signature_and_docstring():
    code = 'def f(x):\n    """What."""\n    ### BEGIN SOLUTION\n    y = x\n    return y\n    ### END SOLUTION\n\n\nf(1)'
    assert units.stub(code) == 'def f(x):\n    """What."""\n    ...\n\n\nf(1)'


def test_solution_lines_are_what_learners_do_not_get():
    lines = units.solution_lines(ROOT, "05_wanda")
    assert "returnW.float().abs()*norm" in lines
    assert not any(line.startswith("def") or "SOLUTION" in line for line in lines)


def test_instructors_see_solutions_and_what_is_said_of_them(course, tmp_path):
    unit = "05_wanda"
    for folder in ("solutions", "course"):
        shutil.copytree(ROOT / folder / unit, tmp_path / folder / unit)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "course" / unit / "explained.md").write_text(
        "## wanda.score\n\nBecause of **this**.\n\n## wanda.norm\n\nThat.\n"
    )
    assert explanations(tmp_path, unit) == {"wanda.score": "Because of **this**.", "wanda.norm": "That."}
    glossary = Glossary(ROOT / "docs" / "glossary.md")
    public, solved = (
        "\n".join(cell.source for cell in units.make_page(tmp_path, course, course[unit], glossary, PAPERS, shown).cells)
        for shown in (False, True)
    )
    assert "return W.float().abs() * norm" in solved
    assert "Because of **this**." in solved
    assert solved.count("Solution of ") == len(exercises_of(unit))
    assert "return W.float().abs() * norm" not in public
    assert "Because of" not in public


def test_checks_are_described_and_experiments_keep_their_outputs(course):
    page = units.make_page(ROOT, course, course["05_wanda"], Glossary(ROOT / "docs" / "glossary.md"), PAPERS)
    text = "\n".join(cell.source for cell in page.cells)
    assert all(stage.name in text for exercise in exercises_of("05_wanda") for stage in exercise.stages[:1])
    code = [cell for cell in page.cells if cell.cell_type == "code"]
    assert not any(cell.source.startswith('check("') for cell in code)
    outputs = [output for cell in code for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any(output.get("name") == "stderr" for output in outputs)
    nbformat.validate(page)


@pytest.mark.parametrize(
    ("link", "leads_to"),
    [
        ("[a](../06_lottery_tickets/lottery_tickets.ipynb)", "[a](../06_lottery_tickets/lottery_tickets.ipynb)"),
        ("[a](../07_minitron/minitron.ipynb#the-end)", "[a](../07_minitron/minitron.ipynb#the-end)"),
        ("[a](../../sparsity_edu/weights/wanda.py)", "[a](../../library/weights.wanda.md)"),
        ("[a](../../README.md) b", "a b"),  # without a repository it leads nowhere
        ("![words](figure.svg)", "![words](figure.svg)"),
        ("[a](https://arxiv.org/abs/2306.11695)", "[a](https://arxiv.org/abs/2306.11695)"),
        ("[a](#here)", "[a](#here)"),
    ],
)  # fmt: skip
def test_links_of_a_lesson_lead_to_pages(link, leads_to):
    assert rewrite(link, ROOT, "solutions/05_wanda", "units/05_wanda/wanda.ipynb") == leads_to


def test_a_page_says_where_a_unit_can_be_opened(course, tmp_path, monkeypatch):
    monkeypatch.setattr(units, "badges", lambda root, unit: f"[Open](https://example.org/{unit})")
    monkeypatch.setattr(units.nbformat, "read", _with_cells_for_colab(nbformat.read))
    page = units.make_page(ROOT, course, course["05_wanda"], Glossary(ROOT / "docs" / "glossary.md"), PAPERS)
    assert ":::{container} badges\n[Open](https://example.org/05_wanda)\n:::" in page.cells[0].source
    assert "google.colab" not in "".join(cell.source for cell in page.cells)


def _with_cells_for_colab(read):
    def with_cells(*args, **kwargs):
        notebook = read(*args, **kwargs)
        notebook.cells.insert(1, new_code_cell('"google.colab"', metadata={"tags": [ELSEWHERE]}))
        return notebook

    return with_cells


def test_a_unit_that_nobody_described_has_its_place_too(course):
    assert list(course) == list(UNITS)
    assert sum(len(units) for units in course.parts.values()) == len(UNITS)
    assert course["05_wanda"].minutes == sum(exercise.minutes for exercise in exercises_of("05_wanda"))
    order = {name: i for i, name in enumerate(UNITS)}
    assert all(order[need] < order[name] for name, unit in course.items() for need in unit.needs)


def test_needs_are_what_a_unit_says_that_it_builds_on(course):
    text = "# T\n\n**Builds on** [a](../04_sparsegpt/s.ipynb) (x)\nand [b](../02_magnitude/m.ipynb). [c](../01_x/p.ipynb)"
    assert builds_on("05_wanda", text) == ("02_magnitude", "04_sparsegpt")
    assert builds_on("02_magnitude", text) == ()
    assert builds_on("05_wanda", "# T") == ()
    assert "needs nothing" in listing(course, "path.md")


def test_a_figure_is_described_by_its_titles_and_axes():
    code = 'ax.set(title="A", xlabel=f"step {n}")\nax.plot(x, label="mine")\nax.set_ylabel("loss")'
    assert in_words(code, "Here") == "Figure of the section “Here”. Title: A. X axis: step …. Y axis: loss. Drawn: mine."
    assert in_words("plt.show()", "Here") == "Figure of the section “Here”."


def test_terms_are_linked_once_and_only_in_running_text(tmp_path):
    path = tmp_path / "glossary.md"
    path.write_text(":::{glossary}\nmask\n  What stays.\n\nn:m\n  A pattern.\n:::\n")
    link = Glossary(path).linker()
    assert link("# A mask\n\n`mask` $mask$ [mask](x) masked Masks, mask") == (
        "# A mask\n\n`mask` $mask$ [mask](x) masked {term}`Masks <mask>`, mask"
    )
    assert link("another mask, n:m") == "another mask, {term}`n:m <n:m>`"


def test_citations_are_told_apart_by_the_unit():
    text = "Liu et al. 2024; Sun et al. (2024)"
    assert PAPERS.linker({"14_teal"})(text) == ("[Liu et al. 2024](#paper-liu-2024-teal); [Sun et al. (2024)](#paper-sun-2024)")
    assert "#paper-liu-2024-grin" in PAPERS.linker({"09_training_the_router"})(text)
    assert PAPERS.linker(set())("Liu et al. 2024") == "Liu et al. 2024"


def test_every_paper_that_is_cited_is_listed():
    cited = r"[A-Z][\w-]+(?:(?:, [A-Z]\w+)* and [A-Z]\w+| et al\.),? \(?(?:1[89]|20)\d\d\)?"
    files = [ROOT / "course" / "syllabus.md", *(ROOT / "course").glob("*/lesson.py"), *(ROOT / "sparsity_edu").rglob("*.py")]
    for file in files:
        for citation in re.findall(cited, " ".join(file.read_text(encoding="utf-8").split())):
            found = [paper for paper in PAPERS if str(paper.year) in citation and citation.startswith(paper.names)]
            assert found, f"{citation} in {file.name} is not in docs/papers.toml"


def test_papers_are_whole():
    assert len({paper.key for paper in PAPERS}) == len(PAPERS)
    for paper in PAPERS:
        assert paper.link.startswith("https://")
        assert paper.units
        assert paper.read.endswith(".")


def test_the_library_names_modules_units_and_functions_that_exist():
    known = {name for names in library.modules(ROOT).values() for name in names}
    for technique in library.techniques(ROOT):
        assert technique["module"] in known
        assert technique["unit"] in UNITS
        source = (ROOT / Path(*technique["module"].split("."))).with_suffix(".py").read_text(encoding="utf-8")
        assert set(technique.get("formulas", {})) <= {row.name for row in rows(source)[1]}, technique["module"]
    assert set(UNITS) - {"17_combination"} <= {technique["unit"] for technique in library.techniques(ROOT)}


def test_prose_stands_beside_the_code_that_it_is_about():
    function = 'def f(x: int):\n    """Double it.\n\n    Args:\n        x: what.\n    """\n    # twice\n    return 2 * x\n'
    source = f'"""Module."""\n\nimport os\n\n\n{function}'
    docstring, [first, function, comment] = rows(source)
    assert docstring == "Module."
    assert first.code == "import os"
    assert function.name == "f"
    assert function.prose == "Double it.\n\n*Arguments*\n\n- `x`: what."
    assert function.code == "def f(x: int):"
    assert (comment.prose, comment.code) == ("twice", "    return 2 * x")


def test_nothing_of_a_module_is_lost():
    for path in (ROOT / "sparsity_edu" / "weights").glob("*.py"):
        source = path.read_text(encoding="utf-8")
        docstring, pieces = rows(source)
        shown, said = ("\n".join(getattr(row, what) for row in pieces) for what in ("code", "prose"))
        code = [line for line in source.splitlines() if re.match(r"\s*(def|class|return|for|if)\b", line)]
        assert [line for line in code if line not in shown and line.strip() not in said + docstring] == []


def test_a_docstring_keeps_its_formulas_as_they_are_typed():
    text = "One line.\n\n    a = b\n\nReturns:\n    c, which\n    is d.\n\nSource: Sun et al. 2024, eq. 1."
    assert (
        docstring_markdown(text) == "One line.\n\n    a = b\n\n*Returns* c, which\nis d.\n\n*Source:* Sun et al. 2024, eq. 1."
    )


def test_results_are_read_where_they_were_printed(tmp_path):
    table = results.results_markdown(ROOT)
    assert table.count("\n") > 10
    printed = results.printed(ROOT, "05_wanda")
    dense = re.search(r"^dense .* ([\d.]+)$", printed, re.MULTILINE)[1]
    assert f"SmolLM2-135M: {dense} |" in table
    assert not re.search(r"here = \"[^{]*\d+\.\d+", (ROOT / "docs" / "results.toml").read_text())  # numbers are not typed in
    entry = {"unit": "05_wanda", "what": "x", "patterns": ["no such line"], "here": "", "published": ""}
    with pytest.raises(ValueError, match="must find one value in unit 05_wanda"):
        results.read(ROOT, entry)


def test_a_formula_says_what_it_is():
    made = formula(r"\lVert X_j \rVert_2")
    assert made.startswith("<math ")
    assert r'alttext="\lVert X_j \rVert_2"' in made
    assert "<msub" in made


def test_units_have_solutions_to_show():
    for unit in UNITS:
        assert notebook_path(ROOT / "solutions", unit).is_file()
