"""Of a student's outputs people see text and pictures, and nothing that a browser or a terminal would obey."""

import base64
import json
import re
import time
from html.parser import HTMLParser

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_notebook

from autograder.judge import feedback
from autograder.judge.feedback import clean, stream

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(40)).decode()
SVG = "<svg onload=alert(1)></svg>"
EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>"
EVIL += " \x1b[31mred\x1b[0m \x1b]0;title\x07 \u202egnp.exe\u2066 \x9b1m \x00\x08"


def display(data, kind="display_data", **more) -> dict:
    return {"output_type": kind, "data": data, "metadata": {}, **more}


def error(name="E", value="v", traceback=()) -> dict:
    return {"output_type": "error", "ename": name, "evalue": value, "traceback": list(traceback)}


def test_text_and_pictures_are_kept():
    outputs = [
        stream("a\tb\n"),
        display({"text/plain": "<Figure>", "image/png": PNG}),
        error("ValueError", "no", ["line 1", "line 2"]),
    ]
    assert clean(outputs) == outputs


def test_lines_of_a_picture_are_joined():
    wrapped = "\n".join(re.findall(".{1,20}", PNG)) + "\n"
    assert clean([display({"image/png": wrapped})]) == [display({"image/png": PNG})]


def test_errors_and_results_of_a_forger_become_what_nobody_takes_for_a_score():
    forged = display({"text/plain": "1e9"}, "execute_result", execution_count=3)
    forged["metadata"] = {"verdict": {"points": 100, "passed": True}}
    assert clean([forged]) == [display({"text/plain": "1e9"})]
    assert clean([{**stream("x"), "metadata": {"verdict": 1}, "name": "stderr"}]) == [stream("x")]


LIVE = ["text/html", "image/svg+xml", "application/javascript", "text/latex", "text/markdown", "application/pdf", "image/jpeg"]
LIVE += ["application/vnd.jupyter.widget-view+json", "application/vnd.plotly.v1+json", "image/gif", "text/x-anything"]


@pytest.mark.parametrize("mime", LIVE)
def test_nothing_else_is_kept(mime):
    assert clean([display({mime: SVG})]) == []
    assert clean([display({mime: SVG, "text/plain": "fine"})]) == [display({"text/plain": "fine"})]


@pytest.mark.parametrize(
    "picture",
    [
        SVG,
        base64.b64encode(SVG.encode()).decode(),
        base64.b64encode(b"GIF89a").decode(),
        'x" onerror="alert(1)',
        PNG + '" onerror="alert(1)',
        PNG[:-1],
        "é" + PNG,
        "\ud83d",
        None,
        7,
        {"a": PNG},
        [PNG],
        "",
    ],
)
def test_a_picture_that_is_none_is_dropped(picture):
    assert clean([display({"image/png": picture})]) == []


def test_a_picture_that_is_too_large_is_dropped():
    large = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(feedback.MAX_PICTURE)).decode()
    assert clean([display({"image/png": large, "text/plain": "large"})]) == [display({"text/plain": "large"})]


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


ODD = [None, True, 7, 2.5, "text", b"bytes", [], {}, ["a", None, 3, ["b"]], {"a": 1}, float("nan"), 10**5000, nested(50_000)]


@pytest.mark.parametrize("kind", ["stream", "display_data", "execute_result", "error", "update_display_data", "clear_output"])
def test_any_type_anywhere(kind):
    for odd in ODD:
        parts = {key: odd for key in ("text", "name", "data", "metadata", "ename", "evalue", "traceback", "transient")}
        made = clean([{"output_type": kind, **parts}, {"output_type": kind}, display({"text/plain": odd, "image/png": odd})])
        nbformat.validate(notebook(made))
        json.dumps(made)


def test_outputs_of_any_type():
    assert clean([*ODD, {}, {"output_type": None}, {"output_type": ["stream"]}, {"output_type": {}}, {1: 2}]) == []


def test_text_in_parts_is_joined():
    assert clean([{"output_type": "stream", "text": ["a\n", 3, "b\n", None]}]) == [stream("a\nb\n")]


def test_streams_that_follow_each_other_are_one():
    made = clean([stream("a"), stream("b\n"), display({"text/plain": "1"}), stream("c")])
    assert made == [stream("ab\n"), display({"text/plain": "1"}), stream("c")]


def test_a_progress_bar_is_its_last_state():
    assert clean([stream("start\r\n  0%"), stream("\r 50%\r"), stream("\r100%\r\nend\r")]) == [stream("start\n100%\nend")]


def test_a_line_as_long_as_may_come_takes_no_time():
    start = time.monotonic()
    clean([stream("x" * 2**20)] * 32)
    clean([stream("x\r" * 2**24)])
    assert time.monotonic() - start < 20  # it was hours


def test_text_has_a_cap():
    [kept] = clean([stream("x" * 10**6)])
    assert len(kept["text"]) <= feedback.MAX_CHARACTERS + 4
    [kept] = clean([error("e" * 10**6, "v" * 10**6, ["t" * 10**6] * 10**3)])
    assert len(json.dumps(kept)) < 200_000


@pytest.mark.parametrize(
    "output",
    [
        display({"text/plain": "x"}),
        display({"text/plain": "x" * 20_000}),
        display({"image/png": base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(10**6)).decode()}),
        error(traceback=["t" * 4000] * 40),
    ],
    ids=["many", "results", "pictures", "errors"],
)
def test_a_cell_has_a_cap_and_says_so(output):
    made = clean([output] * 100)
    assert len(made) <= feedback.MAX_OUTPUTS + 1
    assert sum(len(json.dumps(part)) for part in made) < feedback.MAX_CELL + 1000
    assert made[-1] == stream(f"({100 - len(made) + 1} more outputs are not shown)\n")


def notebook(outputs: list[dict]) -> nbformat.NotebookNode:
    made = [nbformat.from_dict({"execution_count": None, **o} if o["output_type"] == "execute_result" else o) for o in outputs]
    return new_notebook(cells=[new_code_cell("pass", outputs=made, id="cell")])


class Parts(HTMLParser):
    """Elements of a page with the names of their attributes, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple] = []
        self.links: list[str] = []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, *sorted(name for name, _ in attributes)))
        self.links += [value or "" for name, value in attributes if name in ("src", "href", "style", "srcset", "action")]


EXPORTER = HTMLExporter(template_name="basic")  # the cells without the frame of a page, which has scripts of its own


def page(outputs: list[dict]) -> tuple[str, Parts]:
    html = EXPORTER.from_notebook_node(notebook(outputs))[0]
    parts = Parts()
    parts.feed(html)
    return html, parts


HOSTILE_OUTPUTS = [
    stream(EVIL),
    display({"text/plain": EVIL, "text/html": EVIL, "image/svg+xml": SVG, "application/javascript": "alert(1)"}),
    display({"text/markdown": "[x](javascript:alert(1))", "text/latex": r"$\href{javascript:alert(1)}{x}$"}),
    display({"image/png": PNG, "text/html": EVIL}),
    display({"image/png": '"><script>alert(1)</script>'}),
    {
        **display({"image/png": PNG}),
        "metadata": {"image/png": {"width": '1" onload="alert(1)', "height": 1}, "needs_background": "x"},
    },
    error(EVIL, EVIL, [EVIL, "\x1b[0;31mred"]),
]


def test_a_page_of_feedback_is_dead():
    assert "<script>alert(1)</script>" in page([display({"text/html": EVIL})])[0]  # nbconvert does not do the work
    assert "ansi-red" in page([stream(EVIL)])[0]
    html, parts = page(clean(HOSTILE_OUTPUTS))
    assert {tag for tag, *_ in parts.elements} <= {"div", "pre", "img", "span"}
    assert {name for _, *names in parts.elements for name in names} <= {"class", "id", "src", "alt", "tabindex"}
    assert parts.links == [f"data:image/png;base64,{PNG}"] * 2
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]", html)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html  # it is there to be read
    assert "ansi-red" not in html


texts = st.text(st.sampled_from("<>\"'&/=ab \n\x1b[31m\x9b\u202e\ud83d$\\{}`();:") | st.characters(), max_size=40)
pieces = texts | st.lists(texts, max_size=3) | st.none() | st.integers()


@settings(max_examples=60, deadline=None)
@given(pieces, pieces, st.sampled_from([PNG, "<x>", None]))
def test_any_text_is_only_text(a, b, picture):
    outputs = [
        {"output_type": "stream", "text": a},
        display({"text/plain": b, "image/png": picture, "text/html": a}),
        {"output_type": "error", "ename": a, "evalue": b, "traceback": [a, b]},
    ]
    html, parts = page(clean(outputs))
    assert {tag for tag, *_ in parts.elements} <= {"div", "pre", "img", "span"}
    assert {name for _, *names in parts.elements for name in names} <= {"class", "id", "src", "alt", "tabindex"}
    assert "\x1b" not in html
    assert "\u202e" not in html
    html.encode()
