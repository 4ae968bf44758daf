"""The picture of the start page, as SVG in the page's colours: where a token's work is, and which units save it."""

import html
from dataclasses import dataclass

from autograder.site.course_map import Course
from autograder.site.links import unit_page

WIDTH, ROW, GAP = 420, 74, 18


@dataclass(frozen=True)
class Place:
    """A place where work can be left out."""

    name: str
    saves: str
    units: range


PLACES = (
    Place("Weights", "leave out those that matter least", range(1, 8)),
    Place("Experts", "ask few of many, token by token", range(8, 10)),
    Place("KV cache", "forget, or look only where it matters", range(10, 13)),
    Place("Activations", "skip the weights of small inputs", range(13, 15)),
    Place("Kernels", "turn what is left out into time", range(15, 17)),
    Place("All together", "one model, every technique", range(17, 18)),
)


def picture(course: Course) -> str:
    """A token's way through a model, from place to place; each names the units that are about it.

    Args:
        course: the units; a place none of whose units is there is left out.

    Returns:
        An `<svg>` element. Its parts have classes that site.css colours, so that it fits both themes.
    """
    by_number = {int(name.split("_")[0]): unit for name, unit in course.items()}
    places = [place for place in PLACES if any(number in by_number for number in place.units)]
    height = len(places) * (ROW + GAP) + GAP + 40
    parts = [f'<text class="small" x="{WIDTH / 2}" y="16" text-anchor="middle">a token goes in</text>']
    for i, place in enumerate(places):
        y = 40 + i * (ROW + GAP)
        parts.append(f'<path class="arrow" d="M{WIDTH / 2} {y - GAP} V{y - 3}"/>')
        parts.append(f'<rect class="place" x="1" y="{y}" width="{WIDTH - 2}" height="{ROW}" rx="10"/>')
        parts.append(f'<text class="name" x="18" y="{y + 29}">{html.escape(place.name)}</text>')
        parts.append(f'<text class="small" x="18" y="{y + 54}">{html.escape(place.saves)}</text>')
        units = [by_number[number] for number in place.units if number in by_number]
        for j, unit in enumerate(reversed(units)):
            number, address = unit.name.split("_")[0], unit_page(unit.name).replace(".ipynb", ".html")
            x = WIDTH - 44 - 34 * j
            parts += [
                f'<a href="{address}" aria-label="unit {html.escape(unit.title)}">',
                f'<rect class="unit" x="{x}" y="{y + 9}" width="30" height="26" rx="6"/>',
                f'<text class="unit" x="{x + 15}" y="{y + 27}" text-anchor="middle">{number}</text></a>',
            ]
    end = 40 + len(places) * (ROW + GAP) - GAP
    parts.append(f'<path class="arrow" d="M{WIDTH / 2} {end} V{end + GAP - 3}"/>')
    parts.append(f'<text class="small" x="{WIDTH / 2}" y="{end + GAP + 14}" text-anchor="middle">the next one comes out</text>')
    title = "A token's way through a model: weights, experts, KV cache, activations, kernels; numbers are units"
    return (
        f'<svg class="picture" viewBox="0 0 {WIDTH} {height}" role="group" aria-labelledby="picture-title">'
        f'<title id="picture-title">{title}</title>{"".join(parts)}</svg>'
    )
