"""Alike submissions side by side, as one HTML page that runs nothing."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from html import escape

from autograder.classroom.similarity import OTHER, Pair
from autograder.exercises import find, number_of
from autograder.inside.wire import printable
from autograder.judge.trees import own_names, parsed

MOST = 50  # pairs on a page
LINES = 400  # of one answer
WIDTH = 300  # characters of one line

HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; max-width: 110rem; margin: 2rem auto; padding: 0 1.5rem; color: #222 }}
table {{ border-collapse: collapse }} th, td {{ text-align: left; padding: .2rem 1rem .2rem 0 }}
.sides {{ display: grid; grid-template-columns: 1fr 1fr; gap: 1rem }}
pre {{ background: #f6f6f6; padding: .6rem; margin: .2rem 0; overflow-x: auto; font-size: 13px }}
mark {{ background: #ffe9a8 }} summary {{ cursor: pointer; font-weight: 600; margin-top: .8rem }} h2 {{ margin-top: 2.5rem }}
p {{ color: #555; max-width: 60rem }}
</style></head><body>
"""
ABOUT = (
    "At 100 %, two submissions have the same syntax tree: names, numbers, comments and layout aside, and without what was "
    "released. What few submissions have counts most. Marked lines are the same in both, names aside. Two people may arrive at "
    "the same code: look before you judge."
)


def page(unit: str, pairs: Iterable[Pair], class_: Mapping[str, Mapping[str, str]], released: Mapping[str, str]) -> str:
    """Pairs of submissions, their code side by side.

    Args:
        unit: the unit.
        pairs: the most alike first; no more than `MOST` are shown.
        class_: code by student and exercise.
        released: the stub of each exercise, whose lines are not marked.

    Returns:
        HTML; all that students wrote is escaped, their ids too.
    """
    pairs = list(pairs)
    shown = pairs[:MOST]
    parts = [HEAD.format(title=f"{unit}: alike submissions"), f"<h1>{unit}: alike submissions</h1><p>{ABOUT}</p>"]
    parts.append("<table><tr><th></th><th></th><th>alike</th><th>closest exercise</th></tr>")
    for i, pair in enumerate(shown):
        names = "".join(f'<td><a href="#pair-{i}">{_text(student)}</a></td>' for student in pair.students)
        parts.append(f"<tr>{names}<td>{pair.alike:.0%}</td><td>{_closest(pair)}</td></tr>")
    parts.append("</table>")
    if len(pairs) > MOST:
        parts.append(f"<p>{len(pairs) - MOST} more pairs are not shown; a larger --from leaves out the less alike.</p>")
    for i, pair in enumerate(shown):
        parts.append(f'<h2 id="pair-{i}">{" · ".join(map(_text, pair.students))}: {pair.alike:.0%}</h2>')
        one, other = (class_[student] for student in pair.students)
        parts += [
            _part(id, (one.get(id, ""), other.get(id, "")), released.get(id, ""), pair.parts.get(id)) for id in one | other
        ]
    return "\n".join([*parts, "</body></html>\n"])


def _closest(pair: Pair) -> str:
    id, alike = pair.closest
    return f"{number_of(id)} {escape(find(id).title)}: {alike:.0%}" if id else ""


def _part(id: str, sides: tuple[str, str], given: str, alike: float | None) -> str:
    """An exercise of two submissions; it is unfolded where they are alike."""
    name = "cells of their own" if id == OTHER else f"{number_of(id)} {escape(find(id).title)}"
    number = f": {alike:.0%}" if alike is not None else ""
    shown = "".join(f"<pre>{_side(*two, given)}</pre>" for two in (sides, sides[::-1]))
    is_open = " open" if (alike or 0) >= 0.5 else ""
    return f'<details{is_open}><summary>{name}{number}</summary><div class="sides">{shown}</div></details>'


def _side(mine: str, theirs: str, given: str) -> str:
    """Code with the lines marked that the other has too, but for those that were released."""
    lines, there = mine.splitlines(), {key for _, key in _keys(theirs)} - {key for _, key in _keys(given)}
    marked = [f"<mark>{_text(line)}</mark>" if len(key) > 3 and key in there else _text(line) for line, key in _keys(mine)]
    return "\n".join(marked) + (f"\n({len(lines) - LINES} more lines)" if len(lines) > LINES else "")


@lru_cache(1000)  # a submission may be in many pairs
def _keys(source: str) -> list[tuple[str, str]]:
    """Each line, and what it is without its author's names, numbers and blanks."""
    own = {name.removeprefix("self.") for name in own_names(parsed(source))}
    lines = [line[:WIDTH] for line in source.splitlines()[:LINES]]
    named = [re.sub(r"\w+", lambda word: "own" if word[0] in own or word[0].isdigit() else word[0], line) for line in lines]
    return [(line, re.sub(r"\s+|#.*", "", name)) for line, name in zip(lines, named, strict=True)]


def _text(text: str) -> str:
    return escape(printable(text, len(text)))
