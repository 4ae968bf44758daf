"""What a learner reads."""

import re
from html.parser import HTMLParser

import pytest
import torch

from autograder.checking.exercise import Exercise
from autograder.checking.score import score_object
from autograder.inside.case import call
from autograder.learner.report import Report, to_html

EVIL = "<script>alert('x')</script><img src=x onerror=y>&amp;"


def make_exercise() -> Exercise:
    exercise = Exercise(
        "toy.ones", "ones", "Ones & only", minutes=1, difficulty=1, hints=(), reference=lambda W: {"a": W * 0 + 1}
    )

    @exercise.stage("gives ones (W < 2)", points=1.5, exposes="Every entry is 1.")
    def _(g):
        yield call(torch.tensor([[0.5, 0.25]]))

    @exercise.stage("of any shape", points=1, exposes="Also a vector.")
    def _(g):
        yield call(torch.tensor([0.5]))

    @exercise.misconception("twos", "You give twos; give <b>ones</b>.")
    def _(W):
        return {"a": W * 0 + 2}

    return exercise


TOY = make_exercise()


def prints(W):
    print(EVIL)
    return {"a": W * 0 + 2}


def raises(W):
    raise ValueError(EVIL)


def evil_type(W):
    return type(EVIL, (), {})()


class Balance(HTMLParser):
    """Counts what is open, and collects the tags."""

    def __init__(self):
        super().__init__()
        self.open, self.tags = [], set()

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize(
    "answer",
    [prints, raises, evil_type, lambda W: EVIL, lambda W: {EVIL: 1}, lambda W: {"a": EVIL}, lambda W: [W, EVIL], lambda W: 1],
)
def test_nothing_of_a_student_becomes_html(answer):
    html = to_html(score_object(TOY, answer))
    parser = Balance()
    parser.feed(html)
    assert parser.tags <= {"div", "span", "b", "code"}
    assert parser.open == []
    assert EVIL not in html


def test_what_a_student_printed_is_shown_as_text():
    html = to_html(score_object(TOY, prints))
    assert "&lt;script&gt;alert" in html
    assert "You give twos; give &lt;b&gt;ones&lt;/b&gt;." in html


def with_code() -> Exercise:
    exercise = make_exercise()
    exercise.misconceptions.clear()

    @exercise.misconception("twos", "Ask for `W > 2`, not `<b>`; a `single one is a backtick.")
    def _(W):
        return {"a": W * 0 + 2}

    return exercise


def test_what_stands_between_backticks_is_code():
    html = to_html(score_object(with_code(), lambda W: {"a": W * 0 + 2}))
    assert re.findall(r"<code[^>]*>(.*?)</code>", html) == ["W &gt; 2", "&lt;b&gt;"]
    assert "a `single one is a backtick." in html


def test_what_a_student_printed_keeps_its_backticks():
    def answer(W):
        print("`W`")
        return {"`a`": W * 0 + 3}

    html = to_html(score_object(TOY, answer))
    assert "<code" not in html
    assert html.count("`W`") == 1
    assert "`a`" in html


def test_no_formula_of_a_student_is_typeset():
    """MathJax makes links of formulas; it leaves this class alone."""
    html = to_html(score_object(TOY, lambda W: "$$\\href{https://pwned.example/}{4}$$"))
    assert html.startswith('<div class="tex2jax_ignore"')


def test_html_follows_the_theme():
    html = to_html(score_object(with_code(), prints))
    without_variables = re.sub(r"var\(--jp-[\w-]+, [#\w]+\)", "", html)
    assert "var(--jp-error-color1" in html
    assert "<code" in html
    assert not re.search(r"(color|background):\s*[#\w]", without_variables)  # no colour that a dark theme cannot replace


def test_text_of_a_wrong_answer():
    assert repr(score_object(TOY, prints)) == (
        "✗ toy.ones - Ones & only: 0 of 2.5 points\n"
        "  ✗ gives ones (W < 2) (0/1.5)\n"
        "  ✗ of any shape (0/1)\n"
        "  call:       ones(W=[[0.5, 0.25]])\n"
        "  difference: result['a'][0, 0]: expected 1, got 2 (2 of 2 entries differ; it is 2 times what is expected)\n"
        "  why:        You give twos; give <b>ones</b>.\n"
        f"  printed:    {EVIL}"
    )


def test_text_without_a_known_mistake_gives_the_stages_sentence():
    def answer(W):
        print("two\nlines")
        return {"a": torch.ones(1, 2)}

    text = repr(score_object(TOY, answer))
    assert "  ✓ gives ones (W < 2) (1.5/1.5)\n" in text
    assert "  hint:       Also a vector.\n" in text
    assert text.endswith("  printed:    two\n              lines")


def test_text_of_a_right_answer_is_short():
    verdict = score_object(TOY, lambda W: {"a": torch.ones_like(W)})
    assert repr(verdict).splitlines() == [
        "✓ toy.ones - Ones & only: 2.5 of 2.5 points",
        "  ✓ gives ones (W < 2) (1.5/1.5)",
        "  ✓ of any shape (1/1)",
    ]


def test_a_stub_is_told_to_start_and_nothing_else():
    def stub(W):
        raise NotImplementedError

    verdict = score_object(TOY, stub)
    assert repr(verdict).splitlines()[1:] == ["  not started: the function still raises NotImplementedError"]
    assert "Not started yet" in to_html(verdict)
    assert "✗" not in to_html(verdict)


def test_the_unit_is_shown():
    progress = {"unit": "00_toy", "done": 1, "exercises": 4, "points": 2.5, "max_points": 10}
    verdict = score_object(TOY, lambda W: {"a": torch.ones_like(W)})
    report = Report.of(verdict, progress)
    assert report == Report.of(verdict)
    assert repr(report) == f"{verdict!r}\n  best so far in 00_toy: 1 of 4 exercises done, 2.5 of 10 points"
    assert "width:25%" in report._repr_html_()
    assert report._repr_html_() != Report.of(verdict)._repr_html_() == to_html(verdict)
